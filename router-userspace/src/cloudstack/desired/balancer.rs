//! What the load balancer's listeners and pages of statistics are open for.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::{IpNet, Ipv4Net};

use super::ports::PlacedPort;
use crate::cloudstack::databag::Databags;
use crate::error::ConfigError;
use crate::model::policy::{Action, Opening, Rule, Side, Traffic};
use crate::model::port::Role;
use crate::model::{ForwardProtocol, Nat, PortRange};

/// What is opened. An address of a public port is open to guests, too; others to guests alone. What is not in force
/// goes to `notices`.
pub(super) fn openings(
    bags: &Databags,
    ports: &[PlacedPort],
    nat: &Nat,
    notices: &mut Vec<ConfigError>,
) -> Result<Vec<Opening>, ConfigError> {
    let Some(balancer) = bags.balancer()? else { return Ok(Vec::new()) };
    let mut openings = Vec::new();
    for (index, listener) in balancer.listeners.iter().enumerate() {
        let place = || balancer.place.at("add_rules").at(index);
        let Some(side) = side(ports, *listener.ip()) else {
            notices.push(place().error(format_args!("waits: no port has {}", listener.ip())));
            continue;
        };
        if let Some(who) = taken(nat, *listener) {
            notices.push(place().error(format_args!("not in force: {listener} is that of a {who}")));
            continue;
        }
        openings.extend(opening(side, &[], Some(*listener.ip()), listener.port()));
    }
    for page in &balancer.statistics {
        let side = match page.address {
            None => Some(Side::Any),
            Some(address) => side(ports, address),
        };
        openings.extend(side.and_then(|side| opening(side, &page.sources, page.address, page.port)));
    }
    Ok(openings)
}

fn side(ports: &[PlacedPort], address: Ipv4Addr) -> Option<Side> {
    let has_it = |port: &&PlacedPort| port.port.addresses.iter().any(|own| own.addr() == address);
    let port = ports.iter().find(has_it)?;
    Some(if port.port.role == Role::Public { Side::Any } else { Side::Inside })
}

/// Who gets a listener's connections instead of it: what is translated never reaches the router itself.
fn taken(nat: &Nat, listener: SocketAddrV4) -> Option<&'static str> {
    if nat.static_nats.iter().any(|rule| rule.public == *listener.ip()) {
        return Some("static NAT");
    }
    let is_it = nat.forwards.iter().any(|rule| {
        rule.public == *listener.ip()
            && rule.protocol != ForwardProtocol::Udp
            && rule.sources.is_empty()
            && rule.public_ports.is_none_or(|ports| (ports.first()..=ports.last()).contains(&listener.port()))
    });
    is_it.then_some("port forwarding")
}

fn opening(side: Side, sources: &[Ipv4Net], to: Option<Ipv4Addr>, port: u16) -> Option<Opening> {
    let traffic = Traffic::Tcp(Some(PortRange::new(port, port).ok()?));
    let sources = sources.iter().copied().map(IpNet::from).collect();
    let to = to.map(|address| IpNet::from(Ipv4Net::from(address)));
    let rule = Rule::new(0, Action::Allow, traffic, sources, to.into_iter().collect());
    Some(Opening { side, rule: rule.into() })
}
