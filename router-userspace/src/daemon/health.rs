//! Health checks, as far as the daemon has to do with them: it starts them, as processes of their own, since some
//! take long, and answers what they compare with.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::process::{Child, Command};
use tracing::{debug, warn};

use super::control::Control;
use super::memory::Memory;
use crate::compile::TableSet;
use crate::compile::nat::{NatEntry, NatKey};
use crate::generation::generation;
use crate::health::{ForwardState, ForwardView, HealthView, Kind};
use crate::model::health::{ExpectedForward, Monitoring};
use crate::root::Root;

/// What is to be watched, if anybody knows.
pub fn monitoring(control: &Control) -> Option<Monitoring> {
    control.memory.bags.monitoring().ok()
}

/// What health checks compare with.
pub fn view(control: &mut Control) -> Result<HealthView> {
    let monitoring = control.memory.bags.monitoring()?;
    let generation = generation(control.root(), control.settings.management_server);
    let held = control.reconciler.backend.programs.tables().observe()?.nat;
    let memory = &control.memory;
    let forwards = monitoring.forwards.iter().map(|forward| ForwardView {
        forward: forward.to_string(),
        state: state(memory, &control.compiled.tables, &held, forward),
    });
    let forwards = forwards.collect();
    Ok(HealthView { monitoring, generation, forwards, services: control.supervisor.wanted() })
}

/// What the programs hold of a port forwarding. `held` is what was read from their tables just now.
fn state(
    memory: &Memory,
    wanted: &TableSet,
    held: &BTreeMap<NatKey, NatEntry>,
    forward: &ExpectedForward,
) -> ForwardState {
    let is_in_force =
        memory.known().is_ok_and(|known| known.nat.forwards.iter().any(|rule| forward.is_done_by(rule)));
    if !is_in_force || !wanted.local4.contains_key(&forward.public) {
        let is_known = memory.bags.forwards().any(|rule| forward.is_done_by(&rule));
        return if is_known { ForwardState::Waiting } else { ForwardState::Unknown };
    }
    let is_of = |key: &NatKey| match key {
        NatKey::Forward { address, .. } => *address == forward.public,
        NatKey::Source { .. } => true,
        _ => false,
    };
    let mut wanted = wanted.nat.iter().filter(|(key, _)| is_of(key));
    let is_held = wanted.all(|(key, entry)| held.get(key) == Some(entry));
    if is_held { ForwardState::InForce } else { ForwardState::Missing }
}

/// When checks run by themselves.
pub struct Schedule {
    root: Root,
    basic: Turn,
    advanced: Turn,
}

struct Turn {
    kind: Kind,
    /// When the next is due; `None`: they do not run by themselves, or did not until now.
    due: Option<Instant>,
    running: Option<Child>,
}

impl Schedule {
    /// Nothing runs yet.
    pub fn new(root: &Root) -> Self {
        let turn = |kind| Turn { kind, due: None, running: None };
        Self { root: root.clone(), basic: turn(Kind::Basic), advanced: turn(Kind::Advanced) }
    }

    /// Starts what is due. The first run comes as soon as it is asked for.
    pub fn look(&mut self, monitoring: Option<&Monitoring>) {
        // While nobody knows, all stays as it was.
        let Some(monitoring) = monitoring else { return };
        let every = |every: Option<Duration>| every.filter(|every| monitoring.enabled && !every.is_zero());
        let now = Instant::now();
        self.basic.look(every(monitoring.basic_every), now, &self.root);
        self.advanced.look(every(monitoring.advanced_every), now, &self.root);
    }
}

impl Turn {
    fn look(&mut self, every: Option<Duration>, now: Instant, root: &Root) {
        if let Some(Ok(Some(status))) = self.running.as_mut().map(Child::try_wait) {
            debug!("{} health checks ended: {status}", self.kind);
            self.running = None;
        }
        let Some(every) = every else {
            self.due = None;
            return;
        };
        // An interval that was made shorter counts at once.
        let due = self.due.map_or(now, |due| due.min(now + every));
        if now < due || self.running.is_some() {
            self.due = Some(due);
            return;
        }
        self.due = Some(now + every);
        // Also where another binary has been installed in the meantime.
        let mut command = Command::new("/proc/self/exe");
        command.args(["health-checks", &self.kind.to_string(), "--root"]).arg(root.path());
        match command.stdin(Stdio::null()).kill_on_drop(true).spawn() {
            Ok(child) => self.running = Some(child),
            Err(error) => warn!("{} health checks do not run: {error}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::compile::nat::tables;
    use crate::model::{DesiredState, ForwardProtocol, PortForward, PortRange};

    #[test]
    fn a_port_forwarding_is_in_force_when_the_programs_hold_it() {
        let ports = |first, last| Some(PortRange::new(first, last).unwrap());
        let rule = PortForward {
            public: Ipv4Addr::new(203, 0, 113, 11),
            protocol: ForwardProtocol::Tcp,
            public_ports: ports(2222, 2231),
            internal: Ipv4Addr::new(10, 1, 1, 20),
            internal_ports: ports(22, 31),
            sources: Vec::new(),
        };
        let expected = ExpectedForward {
            public: rule.public,
            public_ports: ports(2222, 2231),
            internal: rule.internal,
            internal_ports: ports(22, 31),
        };
        let mut desired = DesiredState::default();
        desired.nat.forwards.push(rule);
        let memory = Memory { desired: Ok(desired), ..Memory::default() };
        let mut wanted = TableSet::default();
        assert_eq!(state(&memory, &wanted, &BTreeMap::new(), &expected), ForwardState::Unknown);
        wanted.local4.insert(expected.public, 3);
        tables(&memory.known().unwrap().nat, &mut wanted);
        let mut held = wanted.nat.clone();
        assert_eq!(state(&memory, &wanted, &held, &expected), ForwardState::InForce);
        held.pop_last();
        assert_eq!(state(&memory, &wanted, &held, &expected), ForwardState::Missing);
        for other in [
            ExpectedForward {
                public_ports: ports(2222, 2232),
                internal_ports: ports(22, 32),
                ..expected.clone()
            },
            ExpectedForward { internal: Ipv4Addr::new(10, 1, 1, 21), ..expected.clone() },
            ExpectedForward { internal_ports: ports(23, 32), ..expected.clone() },
            ExpectedForward { public_ports: None, internal_ports: None, ..expected },
        ] {
            assert_eq!(state(&memory, &wanted, &wanted.nat, &other), ForwardState::Unknown, "{other}");
        }
    }

    #[test]
    fn nothing_is_due_where_checks_are_off_or_never_run() {
        let every = Some(Duration::from_secs(180));
        let off =
            Monitoring { enabled: false, basic_every: every, advanced_every: every, ..Monitoring::default() };
        let never = Monitoring { enabled: true, basic_every: Some(Duration::ZERO), ..Monitoring::default() };
        let mut schedule = Schedule::new(&Root::new("/nonexistent"));
        for monitoring in [None, Some(&off), Some(&never)] {
            schedule.look(monitoring);
            for turn in [&schedule.basic, &schedule.advanced] {
                assert!(turn.due.is_none() && turn.running.is_none(), "{monitoring:?}");
            }
        }
    }
}
