//! What a client of the router's SSH server asks for: the forced command of every session.
//!
//! CloudStack's "live patch" copies a script here and runs it, which would put CloudStack's own router in our
//! place: it is answered by [`patch`](super::patch) instead. All else is done as it is asked for. A root other
//! than `/` is shown to the session in the places where CloudStack expects a router's files.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use anyhow::anyhow;

use super::patch;
use crate::root::Root;

/// Folders of a router that CloudStack and its scripts know by their full names.
const FOLDERS: [&str; 4] = ["opt", "root", "var/cache", "var/log"];

/// Does not return unless it fails.
pub fn run(root: &Root) -> anyhow::Error {
    let asked = env::var("SSH_ORIGINAL_COMMAND").ok();
    if asked.as_deref().is_some_and(patch::is_meant) {
        exit(i32::from(patch::run(root)));
    }
    let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = if root.path() == std::path::Path::new("/") {
        Command::new(&shell)
    } else {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &in_its_places(), "sh"]);
        command.arg(root.path()).arg(&shell);
        command
    };
    match asked {
        Some(asked) => command.args(["-c", &asked]),
        None => command.arg("-l"),
    };
    anyhow!(command.exec()).context("run what the client asks for")
}

/// A shell's script that mounts the folders of its first argument in their places and becomes the others.
fn in_its_places() -> String {
    let mounts =
        FOLDERS.map(|folder| format!("mkdir -p \"$1/{folder}\" && mount --bind \"$1/{folder}\" /{folder}"));
    format!("{} && shift && exec \"$@\"", mounts.join(" && "))
}
