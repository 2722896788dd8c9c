//! Two routers for one network, as CloudStack has them, and what their guests notice when one fails.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_userspace::model::RouterRole;

use crate::lab::{Host, Lab};
use crate::netns::{Namespace, Process, wait_until};
use crate::router::{Router, fixture};

/// How long a test waits for what comes soon.
pub const SOON: Duration = Duration::from_secs(60);

/// The boot line of an isolated network's first router of two, a fixture.
pub const BOOT_LINE: &str = "cloudstack/cmd_line/router_isolated_redundant.json";

/// What the second one is told otherwise.
pub const TWIN: Differences<'static> = &[("10.1.1.92", "10.1.1.93"), ("169.254.100.14", "169.254.100.15")];

/// The routers of a pair.
#[derive(Debug)]
pub struct Pair<'lab> {
    /// Where they are.
    pub lab: &'lab Lab,
    /// Both; the first one is elected if both begin at once.
    pub routers: [Router<'lab>; 2],
    /// The test is through.
    pub is_well: bool,
}

impl Drop for Pair<'_> {
    /// A test that fails returns an error: what the routers have to say to it.
    fn drop(&mut self) {
        if !self.is_well {
            for router in &self.routers {
                eprintln!("--- the log of {} ---\n{}", router.namespace().name(), router.log());
            }
        }
    }
}

/// A text of the first router's messages, and what the second one's have there.
pub type Differences<'a> = &'a [(&'a str, &'a str)];

impl<'lab> Pair<'lab> {
    /// Installs both in a lab that has a twin, and starts their daemons.
    pub fn start(lab: &'lab Lab, attach: &str) -> Result<Self> {
        let mut routers = [Router::install(lab, attach)?, Router::install_twin(lab, attach)?];
        for router in &mut routers {
            router.start_daemon()?;
        }
        Ok(Self { lab, routers, is_well: false })
    }

    /// Sends a fixture to one of them, which has to take it.
    pub fn tell(&self, which: usize, name: &str, differences: Differences<'_>) -> Result<()> {
        let path = fixture(name);
        let mut text = fs::read_to_string(&path)?;
        if which == 1 {
            for (first, second) in differences {
                text = text.replace(first, second);
            }
        }
        let kind = path.parent().and_then(Path::file_name).context("a fixture has a folder")?;
        let output = self.routers[which].update_config_with(&kind.to_string_lossy(), text.as_bytes())?;
        output.ok().with_context(|| format!("{name} for router {which}")).map(drop)
    }

    /// The same to both.
    pub fn tell_both(&self, name: &str, differences: Differences<'_>) -> Result<()> {
        self.tell(0, name, differences)?;
        self.tell(1, name, differences)
    }

    /// Where their daemons listen.
    pub fn sockets(&self) -> [PathBuf; 2] {
        [0, 1].map(|which: usize| self.routers[which].root().join("run/xvr/xvr.sock"))
    }

    /// What `checkrouter.sh` says of one.
    pub fn role(&self, which: usize) -> Result<String> {
        let output = self.routers[which].script("checkrouter.sh", &[])?.ok()?;
        Ok(output.stdout.trim_end().trim_start_matches("Status: ").to_owned())
    }

    /// Waits until they have these roles.
    pub fn wait_for(&self, expected: [RouterRole; 2]) -> Result<()> {
        let words = expected.map(|role| role.to_string());
        let is_so =
            || [0, 1].into_iter().all(|which| self.role(which).is_ok_and(|role| role == words[which]));
        wait_until(&format!("the routers are {words:?}"), SOON, is_so)
            .with_context(|| format!("they are {:?} and {:?}", self.role(0), self.role(1)))
    }

    /// Which one serves, once one does and the other does not.
    pub fn elected(&self) -> Result<usize> {
        let mut found = None;
        wait_until("one of the routers serves", SOON, || {
            let roles = [self.role(0).unwrap_or_default(), self.role(1).unwrap_or_default()];
            found = match [roles[0].as_str(), roles[1].as_str()] {
                ["PRIMARY", "BACKUP"] => Some(0),
                ["BACKUP", "PRIMARY"] => Some(1),
                _ => None,
            };
            found.is_some()
        })?;
        found.context("one of them")
    }

    /// Where one of them is.
    pub fn namespace(&self, which: usize) -> &'lab Namespace {
        self.routers[which].namespace()
    }

    /// Its bridge port on a segment.
    pub fn port(&self, which: usize, segment: &str) -> String {
        let segment = self.lab.segment(segment);
        if which == 0 { segment.router_port() } else { segment.twin_port() }
    }

    /// The process of its keepalived.
    pub fn keepalived(&self, which: usize) -> Result<u64> {
        let status = self.routers[which].show("status")?;
        let services = status["services"].as_array().context("services")?;
        let found = services.iter().find(|service| service["name"] == "keepalived");
        found.and_then(|service| service["pid"].as_u64()).context("keepalived does not run")
    }

    /// Kills its keepalived, parent and child.
    pub fn kill_keepalived(&self, which: usize) -> Result<()> {
        let parent = self.keepalived(which)?.to_string();
        let child = fs::read_to_string(self.routers[which].root().join("run/keepalived/vrrp.pid"))?;
        ensure!(Command::new("kill").args(["-9", &parent, child.trim()]).status()?.success());
        Ok(())
    }

    /// Whether it runs again, parent and child. The first one may find a child that nobody has reaped yet, and end.
    pub fn is_another_keepalived(&self, which: usize, before: u64) -> bool {
        let Ok(parent) = self.keepalived(which) else { return false };
        let child = fs::read_to_string(self.routers[which].root().join("run/keepalived/vrrp.pid"));
        let status = child.and_then(|child| fs::read_to_string(format!("/proc/{}/status", child.trim())));
        parent != before && status.is_ok_and(|status| status.contains(&format!("PPid:\t{parent}\n")))
    }

    /// Its IPv4 addresses on a device, as `ip` shows them.
    pub fn addresses(&self, which: usize, device: &str) -> Result<String> {
        self.namespace(which).run("ip", &["-br", "-4", "address", "show", "dev", device])
    }

    /// Has `manage_service.sh` stop or start its keepalived.
    pub fn manage(&self, which: usize, action: &str) -> Result<()> {
        let output = self.routers[which].script("manage_service.sh", &[action, "keepalived"])?.ok()?;
        ensure!(output.stdout.is_empty(), "{output:?}");
        Ok(())
    }
}

/// Pings every 10 ms, and which were answered when, in seconds.
#[derive(Debug)]
pub struct Pings {
    ping: Process,
    answers: JoinHandle<Vec<(u64, f64)>>,
}

/// What became of pings.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// The longest time between two answers.
    pub longest: Duration,
    /// How many were not answered.
    pub lost: u64,
}

/// How often they are sent.
pub const EVERY: Duration = Duration::from_millis(10);

impl Pings {
    /// Begins to ping.
    pub fn start(from: &Host, to: &Host) -> Result<Self> {
        let mut command = from.namespace.command("ping");
        let seconds = EVERY.as_secs_f64().to_string();
        command
            .args(["-n", "-D", "-i", &seconds, &to.v4.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut ping = Process::spawn(&mut command)?;
        let stdout = ping.child().stdout.take().context("ping has an output")?;
        let answers = spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            // `[1700000000.123456] 64 bytes from 198.51.100.9: icmp_seq=1 ttl=63 time=0.1 ms`
            let answer = |line: String| {
                let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
                let number = rest.split_once("bytes from")?.1.split_once("icmp_seq=")?.1;
                Some((number.split(' ').next()?.parse().ok()?, time.parse().ok()?))
            };
            lines.filter_map(answer).collect()
        });
        Ok(Self { ping, answers })
    }

    /// Ends it; the longest time without an answer. `what` happened meanwhile, for errors.
    pub fn outage(self, what: &str) -> Result<Outage> {
        self.ping.signal(libc::SIGINT);
        let Self { mut ping, answers } = self;
        ping.wait(SOON)?;
        let answers = answers.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        ensure!(answers.len() > 50, "{what}: {} answers", answers.len());
        let longest = answers.windows(2).map(|two| two[1].1 - two[0].1).fold(0.0, f64::max);
        let lost = answers.windows(2).map(|two| two[1].0.saturating_sub(two[0].0 + 1)).sum();
        Ok(Outage { longest: Duration::from_secs_f64(longest), lost })
    }
}
