//! Advanced checks: what CloudStack has configured. Those of services that this router does not have are not there.

use super::{Check, Finding, ForwardState, Outcome, Surroundings};

/// All of them, in the order in which they run.
pub(super) const CHECKS: &[Check] =
    &[("haproxy_check.py", super::balancer::rules), ("iptables_check.py", port_forwardings)];

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
