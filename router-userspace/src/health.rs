//! Health checks: measures, whose results CloudStack fetches by `getRouterMonitorResults.sh`.
//!
//! ```text
//! the daemon, every few minutes ─┐
//! getRouterMonitorResults.sh true ┴─▶ run ──▶ checks, one after the other ──▶ results below the root, root/…
//! ```
//!
//! A check that is failing may make CloudStack replace the router, if its administrator wants that. So only what
//! was measured to be wrong fails: what cannot be measured, what this router does otherwise, and what CloudStack's own
//! router has and this one does not, never does. The checks have the names of those of CloudStack's own router.

mod advanced;
mod balancer;
mod basic;
mod results;

pub use results::{failing, saved};

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, TryLockError};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::generation::Generation;
use crate::model::health::Monitoring;
use crate::root::Root;
use crate::rpc::{self, Answer, Request};
use crate::scripts::PATIENCE;

/// Which checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Those of the machine and its surroundings.
    Basic,
    /// Those of what CloudStack has configured.
    Advanced,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic => "basic",
            Self::Advanced => "advanced",
        })
    }
}

/// What to do where the same checks are running already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfRunning {
    /// Nothing.
    LeaveItThere,
    /// Wait for their end, and run them again.
    Wait,
}

/// What checks compare with, from the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthView {
    /// What CloudStack wants to have watched.
    pub monitoring: Monitoring,
    /// In whose words results are said.
    pub generation: Generation,
    /// The port forwardings that CloudStack expects.
    pub forwards: Vec<ForwardView>,
    /// The daemons that should run, and whether they do.
    pub services: BTreeMap<String, bool>,
}

/// A port forwarding that CloudStack expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardView {
    /// Which.
    pub forward: String,
    /// What there is of it.
    pub state: ForwardState,
}

/// What there is of a port forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardState {
    /// The programs' tables hold it.
    InForce,
    /// It is known, and not in force for a reason that `xvr status` says.
    Waiting,
    /// The programs' tables lack it, or a part of it.
    Missing,
    /// No message has brought it.
    Unknown,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    outcome: Outcome,
    message: String,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Success,
    /// Not quite, and no reason to replace the router.
    Warning,
    /// Something is wrong.
    Failed,
    /// Nobody knows.
    Unknown,
}

impl Outcome {
    /// In the words of a generation; `None`: it has no word, and such a result is left out.
    fn word(self, generation: Generation) -> Option<&'static str> {
        match (generation, self) {
            (Generation::UpTo4_21, Self::Success | Self::Warning) => Some("true"),
            (Generation::UpTo4_21, Self::Failed) => Some("false"),
            (Generation::UpTo4_21, Self::Unknown) => None,
            (Generation::From4_22, Self::Success) => Some("SUCCESS"),
            (Generation::From4_22, Self::Warning) => Some("WARNING"),
            (Generation::From4_22, Self::Failed) => Some("FAILED"),
            (Generation::From4_22, Self::Unknown) => Some("UNKNOWN"),
        }
    }
}

/// A check: its name, and what it finds; `None`: nothing to say, and it is not reported.
type Check = (&'static str, fn(&Surroundings) -> Option<Finding>);

/// What a check may look at.
struct Surroundings<'a> {
    root: &'a Root,
    view: &'a HealthView,
}

/// Runs the checks of a kind, one after the other, and saves what they find. Takes half a minute at most.
///
/// # Errors
/// The daemon does not answer, so that nobody knows what to compare with; results cannot be saved.
pub fn run(root: &Root, kind: Kind, if_running: IfRunning) -> Result<()> {
    let Some(_lock) = lock(root, kind, if_running)? else { return Ok(()) };
    let view = match rpc::call(&root.socket(), &Request::Health, PATIENCE)? {
        Answer::Health(view) => *view,
        Answer::Refused(reason) => bail!(reason),
        _ => bail!("the daemon answered something else: is it another version?"),
    };
    let surroundings = Surroundings { root, view: &view };
    let checks: &[Check] = match kind {
        Kind::Basic => basic::CHECKS,
        Kind::Advanced => advanced::CHECKS,
    };
    let (start, begun) = (SystemTime::now(), Instant::now());
    let mut measured = Vec::new();
    for (name, check) in checks.iter().filter(|(name, _)| !view.monitoring.excluded.contains(*name)) {
        let begun = Instant::now();
        if let Some(finding) = check(&surroundings) {
            measured.push(results::Measured { name, finding, at: SystemTime::now(), took: begun.elapsed() });
        }
    }
    let run = results::Run { measured, start, end: SystemTime::now(), took: begun.elapsed() };
    results::save(root, kind, &run, view.generation)
}

/// Held by whoever runs the checks of a kind, and let go by its end.
fn lock(root: &Root, kind: Kind, if_running: IfRunning) -> Result<Option<File>> {
    let path = root.run().join(format!("health-checks-{kind}.lock"));
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let locked = match if_running {
        IfRunning::Wait => file.lock().map(|()| true),
        IfRunning::LeaveItThere => match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        },
    };
    Ok(locked.with_context(|| format!("lock {}", path.display()))?.then_some(file))
}
