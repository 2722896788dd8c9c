//! One command for everything: `cargo xtask` lists them.

mod bench;
mod build;
mod cpio;
mod demo;
mod fuzz;
mod guest;
mod insn;
mod lint;
mod setup;
mod soak;
mod test;
mod vm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

/// Builds, tests and shows XVR.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing need (Debian 12); does nothing where nothing is missing.
    Setup {
        /// Only say what is missing.
        #[arg(long)]
        check: bool,
    },
    /// A router in a lab of network namespaces, real clients through it, and a report.
    Demo(demo::Demo),
    /// Every test that this machine can run.
    Test {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Millions of random packets through the walk and the programs, compared with the model.
    Soak(soak::Soak),
    /// Damaged frames through the walk and the programs: what has to hold whatever a frame is.
    Fuzz(fuzz::Fuzz),
    /// What packets and changes cost, beside Linux' own means: `cargo xtask bench all`.
    Bench(bench::Bench),
    /// The kernel tests on Debian's 6.1 kernel, in qemu.
    VmTest {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Formatting, clippy, the tables' version.
    Lint {
        /// Accept the tables as they are now, after raising `ABI_VERSION`.
        #[arg(long)]
        accept_abi: bool,
    },
    /// Exactly what CI runs: lint, test, every suite of the bench once, vm-test, bench insn.
    Ci,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Setup { check: true } => setup::check(),
        Task::Setup { check: false } => setup::everything(),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test { filter } => test::run(filter.as_deref()),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::VmTest { filter } => vm::run(filter.as_deref()),
        Task::Lint { accept_abi: true } => lint::accept_abi(),
        Task::Lint { accept_abi: false } => lint::run(),
        Task::Ci => ci(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ci() -> Result<()> {
    step("lint", lint::run)?;
    step("test", || test::run(None))?;
    step("bench", bench::smoke)?;
    step("vm-test", || vm::run(None))?;
    step("bench insn", insn::check)
}

/// One part of a longer task, with the time it took.
fn step(name: &str, part: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    println!("== {name}");
    part().with_context(|| format!("{name} failed"))?;
    println!("== {name}: passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The workspace's folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// Where things are built.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command with its output shown; its failure is an error that names it.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    succeeded(command, status)
}

/// An error unless a command has ended well.
fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}
