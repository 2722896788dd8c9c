//! How xtask builds: once, static, for every use.
//!
//! The guest of `vm-test` has no libraries, so its tests have to be static. Building everything
//! that way, for an explicit target (so that procedural macros stay dynamic), lets lint, test,
//! vm-test and demo share one build.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{root, run, target_dir};

/// The machine's own target triple.
pub fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("run rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// `cargo SUBCOMMAND`, for the shared build.
pub fn cargo(subcommand: &str) -> Result<Command> {
    let host = host()?;
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", host.to_uppercase().replace('-', "_"));
    command.current_dir(root()).arg(subcommand).args(["--locked", "--target", &host]);
    command.env(flags, "-Ctarget-feature=+crt-static").env("XVR_TEST_ROOT", "1");
    Ok(command)
}

/// The folder that the shared build's programs are in.
pub fn programs() -> Result<PathBuf> {
    Ok(target_dir().join(host()?).join("debug"))
}

/// Builds every program.
pub fn bins() -> Result<()> {
    run(cargo("build")?.args(["--workspace", "--bins"]))
}
