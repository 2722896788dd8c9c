//! `cargo xtask bench`: what packets and changes cost. The suites are a program of the package `router-bench`;
//! here it is built, with all optimisations, and run.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{build, insn, setup, target_dir};

/// What `cargo xtask bench` takes.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// The suite, and what it takes: `nat --full --compare FILE`; `help` lists them. Without one, `--compare FILE`
    /// and `--accept` look at the last run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    suite: Vec<String>,
}

/// Builds the suites and the router, and runs one; `insn` in a guest.
pub fn run(bench: &Bench) -> Result<()> {
    if bench.suite.first().is_some_and(|suite| suite == "insn") {
        return insn::run(&bench.suite);
    }
    // SAFETY: cannot fail and touches nothing.
    let root = unsafe { libc::geteuid() } == 0;
    ensure!(root, "the bench makes network namespaces and loads BPF programs: run it as root");
    setup::to_measure()?;
    crate::run(build::cargo("build").args([
        "--release",
        "-p",
        "router-bench",
        "-p",
        "router-userspace",
        "--bins",
    ]))?;
    crate::run(Command::new(target_dir().join("release/xvr-bench")).args(&bench.suite))
}

/// Runs every suite once, as small as it goes: whether they work.
pub fn smoke() -> Result<()> {
    setup::to_measure()?;
    crate::run(build::cargo("build").args(["-p", "router-bench", "-p", "router-userspace", "--bins"]))?;
    crate::run(Command::new(target_dir().join("debug/xvr-bench")).args(["all", "--smoke"]))
}
