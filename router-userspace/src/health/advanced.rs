//! Advanced checks: what CloudStack has configured. Those of services that this router does not have are not there.

use std::collections::HashSet;
use std::fs;

use super::{Check, Finding, ForwardState, Outcome, Surroundings};

/// All of them, in the order in which they run.
pub(super) const CHECKS: &[Check] =
    &[("dhcp_check.py", addresses), ("dns_check.py", names), ("iptables_check.py", port_forwardings)];

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
    let runs = surroundings.view.services.get("dnsmasq").copied();
    if expected.is_empty() {
        return None;
    }
    if runs == Some(false) {
        let message = "dnsmasq does not run, xvr status says why".to_owned();
        return Some(Finding { outcome: Outcome::Failed, message });
    }
    // Without a network nothing is written.
    let text = runs.and_then(|_| fs::read_to_string(surroundings.root.path().join(file)).ok());
    let lines: HashSet<String> = text.iter().flat_map(|text| text.lines()).filter_map(held).collect();
    let missing: Vec<String> = expected
        .iter()
        .filter(|(line, _)| !lines.contains(line))
        .map(|(line, name)| format!("{name} ({})", line.replace('\t', " ")))
        .collect();
    let (outcome, message) = match missing.is_empty() {
        true => (Outcome::Success, format!("All {} {what} are there", expected.len())),
        false => (Outcome::Failed, format!("Missing {what}: {}", missing.join(", "))),
    };
    Some(Finding { outcome, message })
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
