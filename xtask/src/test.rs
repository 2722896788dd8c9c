//! Every test that this machine can run.

use anyhow::Result;

use crate::{build, setup};

/// Runs the tests; `filter` as for `cargo test`.
pub fn run(filter: Option<&str>) -> Result<()> {
    setup::to_run_the_lab()?;
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
