//! What XVR's packets and changes cost, beside Linux' own means: one suite per question.
//!
//! Everything is measured in one run on one machine, in turns, and as ratios: absolute numbers of a shared or
//! throttled machine say little. See `bench/README.md`.

mod daemon;
mod generator;
mod insn;
mod lab;
mod message;
mod policy;
mod references;
mod report;
mod rules;
mod xvr;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::report::Report;

/// Measures XVR.
#[derive(Debug, Parser)]
#[command(name = "xvr-bench")]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
    /// Write everything that was measured to this file as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Instructions per packet, in the guest of `cargo xtask bench insn`.
    Insn(insn::Insn),
    /// One change from end to end: a port forwarding, by CloudStack's script and by all that its agent does.
    Message(message::Message),
    /// Lists of rules: 10 to 100,000 of them.
    Policy(policy::Policy),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    // SAFETY: cannot fail and touches nothing.
    let root = unsafe { libc::geteuid() } == 0;
    ensure!(root, "the bench makes network namespaces and loads BPF programs: run it as root");
    let mut report = Report::new();
    match &arguments.suite {
        Suite::Insn(insn) => insn::run(insn)?,
        Suite::Message(message) => message::run(message, &mut report)?,
        Suite::Policy(policy) => policy::run(policy, &mut report)?,
    }
    report.finish(arguments.json.as_deref())
}
