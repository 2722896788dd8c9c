//! What the command line and CloudStack's scripts say to the daemon, and what it answers: one JSON
//! document per line, over a Unix socket below the root.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::show::{CounterView, FlowView, ListView, NatView, PortView, RouteView, StatusView, UsageView};

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
    /// Apply a file from CloudStack's folder, as `update_config.py` does.
    UpdateConfig {
        /// Name of the file in `var/cache/cloud`.
        name: String,
        /// What becomes of the file.
        afterwards: Afterwards,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its file's name, for messages.
    pub name: String,
    /// Its text.
    pub text: String,
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
        /// Why the next document is not; those behind it were not looked at.
        refused: Option<String>,
    },
    /// To [`Request::Remove`].
    Removed,
    /// No.
    Refused(String),
}

/// A document that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its name.
    pub name: String,
    /// A sentence per change that was made.
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
    let mut stream = connect(socket, patience)?;
    let mut line = serde_json::to_vec(request).context("write the request")?;
    line.push(b'\n');
    stream.write_all(&line).context("ask the daemon")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("wait for the daemon's answer")?;
    if answer.is_empty() {
        bail!("the daemon ended without an answer; its log says why");
    }
    serde_json::from_str(&answer).context("the daemon's answer makes no sense: is it another version?")
}

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
        let request = Request::UpdateConfig { name: "ips.json".to_owned(), afterwards: Afterwards::Archive };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"update_config":{"name":"ips.json","afterwards":"archive"}}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        assert_eq!(serde_json::to_string(&Request::Status).unwrap(), r#""status""#);
    }

    #[test]
    fn nobody_at_the_socket_is_said_so() {
        let error = call(Path::new("/nonexistent/xvr.sock"), &Request::Status, Duration::ZERO).unwrap_err();
        assert_eq!(error.to_string(), "the daemon is not running: nobody answers at /nonexistent/xvr.sock");
    }
}
