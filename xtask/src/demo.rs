//! `cargo xtask demo`: a VPC in network namespaces, the router in the middle, real clients through
//! it. The lab and the report are a program of the package `router-tests`; here it is built and
//! run.

use anyhow::{Result, ensure};

use crate::{build, setup};

/// What `cargo xtask demo` takes.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Leave the lab standing, and say how to look around
    #[arg(long)]
    keep: bool,
    /// Remove a lab that was left standing
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
    /// How to attach: auto, xdp, xdp-generic or tc
    #[arg(long, default_value = "auto")]
    attach: String,
}

/// Builds the router and runs the demo.
pub fn run(demo: &Demo) -> Result<()> {
    // SAFETY: cannot fail and touches nothing.
    let root = unsafe { libc::geteuid() } == 0;
    ensure!(root, "the demo makes network namespaces and loads BPF programs: run it as root");
    setup::to_run_the_lab()?;
    // Not --release: the packet programs are optimised in every profile, and the daemon's share
    // of the time to the first packet is too small to wait minutes for.
    build::bins()?;
    let mut command = std::process::Command::new(build::programs().join("xvr-demo"));
    command.args(["--attach", &demo.attach]);
    command.args(demo.keep.then_some("--keep"));
    command.args(demo.clean.then_some("--clean"));
    crate::run(&mut command)
}
