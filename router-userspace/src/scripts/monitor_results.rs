//! `getRouterMonitorResults.sh [true]`: what health checks have found; with `true`, after all have run.

use std::ffi::OsString;
use std::thread;

use super::{failed, words};
use crate::health::{self, IfRunning, Kind};
use crate::root::Root;

const NAME: &str = "getRouterMonitorResults.sh";

/// Prints names of failing checks, then everything that was found.
pub fn run(arguments: &[OsString]) -> u8 {
    let root = Root::find(None);
    match words(arguments).iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["false"] => {}
        ["true"] => run_all(&root),
        _ => return failed(NAME, "usage: getRouterMonitorResults.sh [true|false]"),
    }
    println!("FAILING CHECKS:");
    for kind in [Kind::Basic, Kind::Advanced] {
        let failing = health::failing(&root, kind);
        if !failing.is_empty() {
            println!("{failing}");
        }
    }
    println!("MONITOR RESULTS:");
    println!("{{\"basic\":\n{}", health::saved(&root, Kind::Basic));
    println!(",\"advanced\":\n{}\n}}", health::saved(&root, Kind::Advanced));
    0
}

/// What cannot run leaves the results before: when they were measured stands in them.
fn run_all(root: &Root) {
    let run = |kind| {
        if let Err(error) = health::run(root, kind, IfRunning::Wait) {
            failed(NAME, format_args!("{kind} checks do not run: {error:#}"));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| run(Kind::Advanced));
        run(Kind::Basic);
    });
}
