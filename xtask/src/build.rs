//! How xtask builds: one debug build for lint, test, vm-test and demo.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{root, run, target_dir};

/// `cargo SUBCOMMAND`, with the lock file as it is.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args([subcommand, "--locked"]).env("XVR_TEST_ROOT", "1");
    command
}

/// The folder that the programs are built into.
pub fn programs() -> PathBuf {
    target_dir().join("debug")
}

/// Builds every program.
pub fn bins() -> Result<()> {
    run(cargo("build").args(["--workspace", "--bins"]))
}
