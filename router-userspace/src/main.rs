//! One binary: the daemon, the command line, and, by the name it is called with, CloudStack's
//! scripts.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use router_userspace::cli::Cli;
use router_userspace::scripts;

fn main() -> ExitCode {
    let mut arguments = env::args_os();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called).file_name().and_then(OsStr::to_str).unwrap_or_default();
    if let Some(status) = scripts::run(name, &arguments.collect::<Vec<_>>()) {
        return ExitCode::from(status);
    }
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xvr: {error:#}");
            ExitCode::FAILURE
        }
    }
}
