//! Static NAT and port forwarding.
//!
//! What cannot be in force now is a notice and no error: CloudStack sends rules before addresses
//! and releases addresses before rules.

use std::net::Ipv4Addr;

use super::ports::PlacedPort;
use super::{Reading, Rule};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::port::Role;
use crate::model::{Nat, StaticNat};

/// All rules that are in force. The others go to `notices`.
pub(super) fn nat(reading: &Reading, ports: &[PlacedPort], notices: &mut Vec<ConfigError>) -> Nat {
    let mut nat = Nat::default();
    for (place, rule) in &reading.rules {
        let (public, internal) = (rule.public(), rule.internal());
        let problem = if reading.boot.is_routed {
            Some(place.error("not in force: a routed network has no NAT"))
        } else if !ports.iter().any(|port| is_public(port, public)) {
            let place = address(place);
            Some(place.error(format_args!("not in force: no public port has {public}")))
        } else if ports.iter().any(|port| port.owns(internal.into())) {
            let place = place.at("internal_ip");
            Some(place.error(format_args!("not in force: {internal} is the router's own address")))
        } else {
            taken(&nat, rule, place)
        };
        match (problem, rule) {
            (Some(problem), _) => notices.push(problem),
            (None, Rule::StaticNat(rule)) => nat.static_nats.push(*rule),
            (None, Rule::Forward(rule)) => nat.forwards.push(rule.clone()),
        }
    }
    nat
}

/// Whether a port has an address that rules may be about. Those of other ports are the router's
/// own: a rule about them would cut it off from the management server or from its guests.
fn is_public(port: &PlacedPort, address: Ipv4Addr) -> bool {
    port.port.role == Role::Public && port.owns(address.into())
}

/// A rule that an earlier one leaves no room for.
fn taken(nat: &Nat, rule: &Rule, place: &Place) -> Option<ConfigError> {
    let public = rule.public();
    let holder = |found: &&StaticNat| found.public == public;
    if let Some(other) = nat.static_nats.iter().find(holder) {
        return Some(
            address(place).error(format_args!("not in force: {public} is {}'s alone", other.internal)),
        );
    }
    let Rule::StaticNat(rule) = rule else { return None };
    if nat.forwards.iter().any(|forward| forward.public == public) {
        return Some(address(place).error(format_args!("not in force: {public} has forwards")));
    }
    let other = nat.static_nats.iter().find(|other| other.internal == rule.internal)?;
    let message = format_args!("not in force: {} has {} already", rule.internal, other.public);
    Some(place.at("internal_ip").error(message))
}

fn address(place: &Place) -> Place {
    place.at("public_ip")
}
