//! Advanced checks: what CloudStack has configured. Those of services that this router does not have are not there.

use std::collections::HashSet;
use std::fs;

use super::basic::NOT_RUNNING;
use super::{Check, Finding, ForwardState, Outcome, Surroundings};

/// All of them, in the order in which they run.
pub(super) const CHECKS: &[Check] = &[
    ("dhcp_check.py", addresses),
    ("dns_check.py", names),
    ("haproxy_check.py", super::balancer::rules),
    ("iptables_check.py", port_forwardings),
];

/// Addresses of guests: the line that dnsmasq has for each.
fn addresses(surroundings: &Surroundings) -> Option<Finding> {
    let expected = surroundings.view.monitoring.guests.iter().filter(|guest| guest.dhcp);
    let expected = expected.map(|guest| (format!("{},{}", guest.mac, guest.address), &guest.name));
    // MAC, address, and more.
    let held = |line: &str| {
        let mut words = line.split(',');
        Some(format!("{},{}", words.next()?, words.next()?))
    };
    served(surroundings, "etc/dhcphosts.txt", "dhcp entries", expected.collect(), held)
}

/// Names of guests: the line that dnsmasq has for each.
fn names(surroundings: &Surroundings) -> Option<Finding> {
    let expected = surroundings.view.monitoring.guests.iter().filter(|guest| guest.dns);
    let expected = expected.map(|guest| (format!("{}\t{}", guest.address, guest.name), &guest.name));
    served(surroundings, "etc/hosts", "dns entries", expected.collect(), |line| Some(line.to_owned()))
}

/// Whether dnsmasq runs and a file of its has all that is expected. `held` is what a line stands for.
fn served(
    surroundings: &Surroundings,
    file: &str,
    what: &str,
    expected: Vec<(String, &String)>,
    held: impl Fn(&str) -> Option<String>,
) -> Option<Finding> {
    if expected.is_empty() {
        return None;
    }
    let found = |outcome, message: String| Some(Finding { outcome, message });
    match surroundings.view.services.get("dnsmasq") {
        Some(true) => {}
        Some(false) => return found(Outcome::Failed, NOT_RUNNING.to_owned()),
        None => return found(Outcome::Unknown, "no guest network is served yet".to_owned()),
    }
    let path = surroundings.root.path().join(file);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return found(Outcome::Unknown, format!("{}: {error}", path.display())),
    };
    let lines: HashSet<String> = text.lines().filter_map(held).collect();
    let missing: Vec<String> = expected
        .iter()
        .filter(|(line, _)| !lines.contains(line))
        .map(|(line, name)| format!("{name} ({})", line.replace('\t', " ")))
        .collect();
    match missing.is_empty() {
        true => found(Outcome::Success, format!("All {} {what} are there", expected.len())),
        false => found(Outcome::Failed, format!("Missing {what}: {}", missing.join(", "))),
    }
}

/// Port forwardings, which CloudStack's own router has in iptables, and this one in its programs' tables.
fn port_forwardings(surroundings: &Surroundings) -> Option<Finding> {
    let forwards = &surroundings.view.forwards;
    let of = |states: &[ForwardState]| {
        let found = forwards.iter().filter(|forward| states.contains(&forward.state));
        found.map(|forward| forward.forward.as_str()).collect::<Vec<_>>().join(", ")
    };
    let missing = of(&[ForwardState::Missing, ForwardState::Unknown]);
    let waiting = of(&[ForwardState::Waiting]);
    let (outcome, message) = if !missing.is_empty() {
        (Outcome::Failed, format!("Missing port forwardings: {missing}"))
    } else if !waiting.is_empty() {
        (Outcome::Warning, format!("Not in force, xvr status says why: {waiting}"))
    } else {
        (Outcome::Success, format!("All {} port forwardings are in force", forwards.len()))
    };
    Some(Finding { outcome, message })
}
