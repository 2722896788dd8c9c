//! What the command line and CloudStack's scripts say to the daemon, and what it answers: one JSON
//! document per line, over a Unix socket below the root.

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::health::HealthView;
use crate::model::redundancy::RouterRole;
use crate::show::{
    BridgeView, CounterView, FlowView, ListView, NatView, PortView, RouteView, StatusView, UsageView,
};

/// What the daemon is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How it is.
    Status,
    /// Its ports.
    Ports,
    /// The flows it knows.
    Flows,
    /// What it has not forwarded.
    Drops,
    /// Its routes.
    Routes,
    /// Its NAT rules, and how its external ports are used.
    Nat,
    /// The lists of rules in force, and what they have decided.
    Rules,
    /// Its bridges, and who was heard of on them.
    Bridges,
    /// What has passed between the outside and the tiers.
    Usage,
    /// Set that to zero.
    ZeroUsage {
        /// Of the port that has this address; without one, of all.
        address: Option<IpAddr>,
    },
    /// Apply documents in order, up to the first that is refused.
    Apply {
        /// The documents.
        documents: Vec<Document>,
    },
    /// What applying documents, or none, would change.
    Plan {
        /// The documents.
        documents: Vec<Document>,
    },
    /// Apply files from CloudStack's folder, all of them or none, as `update_config.py` and `vr_cfg.sh` do.
    UpdateConfig {
        /// The files, in order.
        files: Vec<InboxFile>,
    },
    /// What the router is to its network.
    Role,
    /// Take part in finding out which router of a pair serves, or do not, until a tier's message comes.
    TakePart(bool),
    /// What health checks compare with.
    Health,
    /// Give the NIC that has an address another MTU.
    SetMtu {
        /// The address, with its prefix length.
        address: IpNet,
        /// The MTU, in bytes.
        mtu: u16,
    },
    /// Make the system hold what it should, now.
    Converge,
    /// Take the place of CloudStack's own router.
    Import {
        /// Where its databags are.
        folder: PathBuf,
        /// Change nothing; the answer is a plan.
        only_say: bool,
    },
    /// Read the operator's settings again and put them in force.
    Reload,
    /// Take the programs off all ports, forget all flows, and end.
    Remove {
        /// Switch forwarding off and take the guard away too.
        guard: Guard,
    },
}

/// A JSON document and what to call it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its file's name, for messages.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl fmt::Debug for Document {
    /// Not its text, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({:?}, {} bytes)", self.name, self.text.len())
    }
}

/// A file in CloudStack's folder.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxFile {
    /// Its name in `var/cache/cloud`.
    pub name: String,
    /// What becomes of it.
    pub afterwards: Afterwards,
    /// Its text, where that came as a part of another file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl fmt::Debug for InboxFile {
    /// Not its text, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InboxFile({:?}, {:?})", self.name, self.afterwards)
    }
}

/// What becomes of a file that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Afterwards {
    /// It is kept, compressed, in `processed/`.
    Archive,
    /// It is deleted.
    Delete,
}

/// What becomes of the guard when the programs are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// It stays: Linux goes on forwarding nothing.
    Stays,
    /// It goes, and forwarding is switched off.
    Goes,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<StatusView>),
    /// To [`Request::Ports`].
    Ports(Vec<PortView>),
    /// To [`Request::Flows`].
    Flows(Vec<FlowView>),
    /// To [`Request::Drops`].
    Drops(Vec<CounterView>),
    /// To [`Request::Routes`].
    Routes(Vec<RouteView>),
    /// To [`Request::Nat`].
    Nat(NatView),
    /// To [`Request::Rules`].
    Rules(Vec<ListView>),
    /// To [`Request::Bridges`].
    Bridges(Vec<BridgeView>),
    /// To [`Request::Role`].
    Role(RouterRole),
    /// To [`Request::TakePart`]: it is to be so; `keepalived` in `xvr status` tells when it is.
    TakenPart,
    /// To [`Request::Health`].
    Health(Box<HealthView>),
    /// To [`Request::SetMtu`]: the NIC's name; nothing if none has the address.
    Mtu(Option<String>),
    /// To [`Request::Converge`].
    Converged,
    /// To [`Request::Usage`].
    Usage(Box<UsageView>),
    /// To [`Request::ZeroUsage`].
    Zeroed,
    /// To [`Request::Plan`].
    Plan {
        /// A sentence per change, in order.
        changes: Vec<String>,
        /// What is not in force, or never decides, a sentence each.
        notices: Vec<String>,
    },
    /// To [`Request::Apply`], [`Request::UpdateConfig`] and [`Request::Reload`].
    Applied {
        /// What is in force.
        applied: Vec<Applied>,
        /// Which document is not; those behind it were not looked at.
        refused: Option<Refusal>,
    },
    /// To [`Request::Remove`].
    Removed,
    /// No.
    Refused(String),
}

/// A document that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Its name.
    pub name: String,
    /// Why, with the place.
    pub reason: String,
}

/// A document that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its name.
    pub name: String,
    /// A sentence per change that was made; none for CloudStack's scripts, which have nobody to tell.
    pub changes: Vec<String>,
    /// What was odd about it.
    pub warnings: Vec<String>,
    /// Milliseconds from reading it to being in force.
    pub milliseconds: u64,
}

/// Longest line either side reads, in bytes.
pub const LONGEST_LINE: u64 = 256 << 20;

/// Asks the daemon at a socket, waiting up to `patience` for it to take connections.
///
/// # Errors
/// Nobody answers at the socket; the connection breaks; the answer cannot be read, as when the
/// daemon is another version.
pub fn call(socket: &Path, request: &Request, patience: Duration) -> Result<Answer> {
    let stream = connect(socket, patience)?;
    let mut line = serde_json::to_vec(request).context("write the request")?;
    line.push(b'\n');
    let mut answer = String::new();
    let read = (&stream).write_all(&line).and_then(|()| BufReader::new(&stream).read_line(&mut answer));
    match read {
        Ok(_) if answer.ends_with('\n') => {}
        // Ended in between, by a signal or an upgrade.
        Ok(_) => return Err(Ended.into()),
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            return Err(Ended.into());
        }
        Err(error) => return Err(error).context("ask the daemon"),
    }
    serde_json::from_str(&answer).context("the daemon's answer makes no sense: is it another version?")
}

/// [`call`]s until a daemon answers: the one that was asked may end before, and the next one is asked again. For
/// requests that may be carried out twice.
///
/// # Errors
/// As there, after `patience`.
pub fn call_again(socket: &Path, request: &Request, patience: Duration) -> Result<Answer> {
    let deadline = Instant::now() + patience;
    loop {
        match call(socket, request, deadline.saturating_duration_since(Instant::now())) {
            Err(error) if error.is::<Ended>() && Instant::now() < deadline => {}
            answer => return answer,
        }
    }
}

/// The daemon ended while it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the daemon ended without an answer; its log says why")
    }
}

impl std::error::Error for Ended {}

fn connect(socket: &Path, patience: Duration) -> Result<UnixStream> {
    const PAUSE: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + patience;
    loop {
        let error = match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let may_come = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        if !may_come {
            return Err(error).with_context(|| format!("connect to {}", socket.display()));
        }
        if Instant::now() >= deadline {
            bail!("the daemon is not running: nobody answers at {}", socket.display());
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_written_as_documented() {
        let file = InboxFile { name: "ips.json".to_owned(), afterwards: Afterwards::Archive, text: None };
        let request = Request::UpdateConfig { files: vec![file] };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"update_config":{"files":[{"name":"ips.json","afterwards":"archive"}]}}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        assert_eq!(serde_json::to_string(&Request::Status).unwrap(), r#""status""#);
    }

    #[test]
    fn nobody_at_the_socket_is_said_so() {
        let error = call(Path::new("/nonexistent/xvr.sock"), &Request::Status, Duration::ZERO).unwrap_err();
        assert_eq!(error.to_string(), "the daemon is not running: nobody answers at /nonexistent/xvr.sock");
    }
}
