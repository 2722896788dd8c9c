//! A daemon's process: started by us, or by an earlier daemon and found again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::Service;

/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to look whether a process that is not our child is still there.
const LOOK: Duration = Duration::from_millis(500);

/// A running process.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    /// `None`: an earlier daemon has started it.
    child: Option<Child>,
    note: PathBuf,
}

/// Numbers of processes are used again; with its start a process is told from all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    pid: i32,
    /// Clock ticks after the machine's boot.
    started: u64,
    /// Its command line: a service that is to run otherwise is another one.
    arguments: Vec<String>,
    /// What it has read when it started and never again.
    #[serde(default)]
    at_start: String,
    /// What it has read last.
    #[serde(default)]
    read: String,
}

impl Process {
    /// Starts it and notes it in a file.
    pub fn start(service: &Service, note: &Path) -> Result<Self> {
        let mut command = Command::new(service.program);
        let environment = service.environment.iter().map(|(name, value)| (name, value));
        command.args(&service.arguments).envs(environment).stdin(Stdio::null()).process_group(0);
        let child = command.spawn().with_context(|| format!("start {}", service.program))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("it ended at once")?;
        let started = started(pid).context("it ended at once")?;
        let (at_start, read) = (at_start(service), service.digest(|_| true));
        let identity = Identity { pid, started, arguments: service.arguments.clone(), at_start, read };
        let process = Self { identity, child: Some(child), note: note.to_owned() };
        process.take_note()?;
        Ok(process)
    }

    /// The one that is noted in a file, if it runs.
    pub fn find(note: &Path) -> Option<Self> {
        let identity: Identity = serde_json::from_slice(&fs::read(note).ok()?).ok()?;
        (started(identity.pid) == Some(identity.started)).then(|| Self {
            identity,
            child: None,
            note: note.to_owned(),
        })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// Whether it was started as the service says.
    pub fn runs_as(&self, service: &Service) -> bool {
        self.identity.arguments == service.arguments && self.identity.at_start == at_start(service)
    }

    /// Whether its files are those that it has read.
    pub fn has_read(&self, service: &Service) -> bool {
        self.identity.read == service.digest(|_| true)
    }

    /// It has read a service's files.
    pub fn note_read(&mut self, service: &Service) -> Result<()> {
        self.identity.read = service.digest(|_| true);
        self.take_note()
    }

    /// Returns when it has ended, and says how.
    pub async fn ended(&mut self) -> String {
        match &mut self.child {
            Some(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => format!("nobody knows how: {error}"),
            },
            None => {
                while started(self.identity.pid) == Some(self.identity.started) {
                    sleep(LOOK).await;
                }
                "unknown status".to_owned()
            }
        }
    }

    /// Ends it, by force if it has to be.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        if timeout(PATIENCE, self.ended()).await.is_err() {
            self.signal(Signal::SIGKILL)?;
            self.ended().await;
        }
        match fs::remove_file(&self.note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.note.display()))
            }
            _ => Ok(()),
        }
    }

    fn take_note(&self) -> Result<()> {
        let note = &self.note;
        fs::write(note, serde_json::to_vec(&self.identity)?)
            .with_context(|| format!("write {}", note.display()))
    }

    /// Sends it a signal; nothing, if it has ended by itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(self.identity.pid), signal) {
            // It has ended by itself.
            Err(nix::Error::ESRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal} to {}", self.identity.pid)),
        }
    }
}

fn at_start(service: &Service) -> String {
    service.digest(|path| service.read_at_start.iter().any(|file| file == path))
}

/// When a process was started, in clock ticks after boot; nothing where it has ended. `proc_pid_stat(5)`, field 22.
pub(super) fn started(pid: i32) -> Option<u64> {
    after_name(pid, 19)
}

/// The process that has started it, or that has it since that one has ended. Field 4.
pub(super) fn parent(pid: i32) -> Option<i32> {
    after_name(pid, 1)
}

/// A field of a process that runs, counted from the one behind its name on.
fn after_name<T: FromStr>(pid: i32, field: usize) -> Option<T> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.clone().next()?, "Z" | "X") {
        return None;
    }
    fields.nth(field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Rendered;
    use super::*;
    use crate::services::Reload;

    fn service(arguments: &[&str]) -> Service {
        Service {
            reload: Reload::Restart,
            ..Service::new("sleep", "sleep", arguments.iter().map(|&word| word.to_owned()).collect())
        }
    }

    #[test]
    fn a_process_is_found_again_until_it_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let note = std::env::temp_dir().join(format!("xvr-process-{}", std::process::id()));
            let mut process = Process::start(&service(&["600"]), &note).expect("started");
            let found = Process::find(&note).expect("found");
            assert_eq!(found.pid(), process.pid());
            assert!(found.runs_as(&service(&["600"])) && !found.runs_as(&service(&["601"])));
            // A file that it reads at its start only is another one.
            let path = std::path::PathBuf::from("/etc/file");
            let file = Rendered { path: path.clone(), content: String::new(), mode: 0o600 };
            let again = Service { files: vec![file], ..service(&["600"]) };
            assert!(found.runs_as(&again));
            assert!(!found.runs_as(&Service { read_at_start: vec![path], ..again }));
            process.signal(Signal::SIGKILL).expect("killed");
            assert!(process.ended().await.contains("signal: 9"));
            assert!(Process::find(&note).is_none());
            fs::remove_file(note).expect("removed");
        });
    }
}
