//! Every test that this machine can run.

use anyhow::Result;

use crate::{build, setup};

/// Runs the tests; `filter` as for `cargo test`.
pub fn run(filter: Option<&str>) -> Result<()> {
    setup::everything()?;
    build::bins()?;
    let mut command = build::cargo("test");
    command.args(["--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        command.arg(filter);
    }
    // Tests with namespaces, clients and timing share two cores badly with each other.
    command.args(["--", "--test-threads=2"]);
    crate::run(&mut command)
}

/// Tests that need neither root nor a BPF object: the walk's scenarios on the host, and the
/// control walk from CloudStack's messages to the desired state.
pub fn on_the_host() -> Result<()> {
    let mut command = build::cargo("test");
    command.env("ROUTER_BPF_SKIP", "1");
    command.args(["--package", "router-tests", "--test", "walk", "--test", "control_walk"]);
    crate::run(&mut command)
}
