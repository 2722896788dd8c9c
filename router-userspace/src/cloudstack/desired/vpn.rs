//! Site-to-site tunnels: what is built, the port they are behind, the routes to the peers' networks, and what the
//! router is open for because of them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::Reading;
use super::policy::PlacedPolicy;
use super::ports::PlacedPort;
use crate::cloudstack::databag::Databags;
use crate::cloudstack::object::Object;
use crate::cloudstack::wire::cmdline::RouterKind;
use crate::cloudstack::wire::site2sitevpn::{self as wire, Site2SiteVpn};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::policy::{Action, Opening, Rule, Scope, Side, Traffic};
use crate::model::port::Role;
use crate::model::vpn::{DEVICE, IkeVersion, Peer, Secret, Tunnel};
use crate::model::{Port, PortRange, PortSelector, Route, RouteTarget, SourceNat};

/// What IPsec adds to a packet, in bytes, at most: an IP and a UDP header, ESP's with AES and SHA-512.
const OVERHEAD: u16 = 104;

/// Tunnels with the port that each ends at, in the order of their peers' text.
pub(super) struct Tunnels<'a>(Vec<(Tunnel, &'a PlacedPort)>);

impl<'a> Tunnels<'a> {
    /// Those that can be built. The others go to `notices`.
    pub(super) fn of(
        bags: &Databags,
        reading: &Reading,
        ports: &'a [PlacedPort],
        notices: &mut Vec<ConfigError>,
    ) -> Result<Self, ConfigError> {
        let bag = Place::document("site2sitevpn.json");
        let mut tunnels = Vec::new();
        for (peer, entry) in bags.site2sitevpn.iter() {
            let message = Site2SiteVpn::read(&Object::new(bag.at(peer), entry))?;
            // CloudStack's own router may have stored a removal.
            let Some(tunnel) = message.tunnel else { continue };
            match port_of(&tunnel, reading, ports)
                .and_then(|port| Ok((typed(message.peer, tunnel, port)?, port)))
            {
                Ok(tunnel) => tunnels.push(tunnel),
                Err((key, why)) => {
                    notices.push(message.place.at(key).error(format_args!("not in force: {why}")));
                }
            }
        }
        Ok(Self(tunnels))
    }

    /// The port that they are behind, if there are any.
    pub(super) fn port(&self) -> Option<Port> {
        const ETHERNET: u16 = 1500;
        let mtu = self.0.iter().map(|(_, port)| port.port.mtu.unwrap_or(ETHERNET)).min()?;
        Some(Port {
            name: DEVICE.to_owned(),
            selector: selector(),
            role: Role::Tunnel,
            addresses: Vec::new(),
            mtu: Some(mtu.saturating_sub(OVERHEAD)),
            source_nat: SourceNat::Off,
        })
    }

    /// To the peers' networks: by the tunnels' device, or to nobody. Never outside.
    pub(super) fn routes(&self) -> Vec<Route> {
        let mut networks: Vec<Ipv4Net> =
            self.0.iter().flat_map(|(tunnel, _)| &tunnel.peer_networks).copied().collect();
        networks.sort_unstable();
        networks.dedup();
        let to = |network: Ipv4Net, target, metric| Route { destination: network.into(), target, metric };
        let both = |network| {
            let by_tunnel = to(network, RouteTarget::Port(DEVICE.to_owned()), 0);
            [by_tunnel, to(network, RouteTarget::Blackhole, u32::MAX)]
        };
        networks.into_iter().flat_map(both).collect()
    }

    /// Opens the router for each peer: IKE, ESP, and ESP in UDP.
    pub(super) fn openings(&self) -> Vec<Opening> {
        const IKE: u16 = 500;
        const NAT_TRAVERSAL: u16 = 4500;
        const ESP: u8 = 50;
        let udp = |port| Traffic::Udp(PortRange::new(port, port).ok());
        let mut openings = Vec::new();
        for (tunnel, _) in &self.0 {
            let from = match tunnel.peer {
                Peer::Address(address) => vec![IpNet::from(IpAddr::from(address))],
                // Nobody here knows the address behind a name, which may change: the peer has to prove itself.
                Peer::Name(_) => Vec::new(),
            };
            let to = vec![IpNet::from(IpAddr::from(tunnel.local))];
            for traffic in [udp(IKE), udp(NAT_TRAVERSAL), Traffic::Protocol(ESP)] {
                let rule = Arc::new(Rule::new(0, Action::Allow, traffic, from.clone(), to.clone()));
                openings.push(Opening { side: Side::Any, rule });
            }
        }
        openings
    }

    /// What comes out of a tunnel is of its networks. The kernel, where ESP is its own, asks about that only when it
    /// forwards a packet itself.
    pub(super) fn admit(&self, placed: &mut PlacedPolicy) {
        let rule = |(tunnel, _): &(Tunnel, _)| {
            let peers = tunnel.peer_networks.iter().copied().map(IpNet::from).collect();
            Rule::new(0, Action::Allow, Traffic::Any, peers, vec![tunnel.local_network.into()])
        };
        if !self.0.is_empty() {
            placed.add(Scope::From(selector()), self.0.iter().map(rule).collect());
        }
    }

    /// The tunnels alone.
    pub(super) fn into_tunnels(self) -> Vec<Tunnel> {
        self.0.into_iter().map(|(tunnel, _)| tunnel).collect()
    }
}

fn selector() -> PortSelector {
    PortSelector::Name(DEVICE.to_owned())
}

/// Where in an entry, and what is wrong.
type Obstacle = (&'static str, String);

/// The port that has the router's end; in a VPC without public network the one that leads outside.
fn port_of<'a>(
    tunnel: &wire::Tunnel,
    reading: &Reading,
    ports: &'a [PlacedPort],
) -> Result<&'a PlacedPort, Obstacle> {
    const KEY: &str = "local_public_ip";
    let (boot, local) = (&reading.boot, tunnel.local);
    if boot.kind != RouterKind::Vpc {
        return Err((KEY, "only a VPC has tunnels".to_owned()));
    }
    let owner = ports.iter().find(|port| port.port.role != Role::Control && port.owns(local.into()));
    let outward = || {
        let tiers = reading.tiers.iter().filter(|(_, tier)| tier.network_id.is_some());
        let first = tiers.min_by_key(|(_, tier)| tier.network_id).or(reading.tiers.first())?;
        ports.iter().find(|port| port.port.name == first.0)
    };
    let port = if boot.has_public_network { owner } else { owner.or_else(outward) };
    port.ok_or_else(|| (KEY, format!("no port has {local}")))
}

fn typed(peer: Peer, tunnel: wire::Tunnel, port: &PlacedPort) -> Result<Tunnel, Obstacle> {
    if let Peer::Address(address) = peer
        && let Some(network) = tunnel.peer_networks.iter().find(|network| network.contains(&address))
    {
        let why = format!("{network} holds {address}, so the tunnel itself would go through the tunnel");
        return Err(("peer_guest_cidr_list", why));
    }
    let own = if port.owns(tunnel.local.into()) {
        Some(tunnel.local)
    } else {
        port.port.ipv4().next().map(|own| own.addr())
    };
    let local = own.ok_or_else(|| ("local_public_ip", format!("{} has no IPv4 address", port.port.name)))?;
    Ok(Tunnel {
        peer,
        local,
        identity: tunnel.local,
        local_network: tunnel.local_network,
        peer_networks: tunnel.peer_networks,
        ike: words(&tunnel.ike),
        esp: words(&tunnel.esp),
        psk: Secret(tunnel.psk),
        version: tunnel.version,
        ike_lifetime: tunnel.ike_lifetime,
        esp_lifetime: tunnel.esp_lifetime,
        dpd: tunnel.dpd,
        passive: tunnel.passive,
        encap: tunnel.encap,
        // A connection of IKEv1 has one network at each end (RFC 2409 §5.5).
        split: tunnel.split || tunnel.version == IkeVersion::V1,
    })
}

fn words(proposals: &[wire::Proposal]) -> Vec<String> {
    let word = |wire::Proposal { cipher, hash, group }: &wire::Proposal| {
        let group = group.map(|group| format!("-{group}")).unwrap_or_default();
        format!("{cipher}-{hash}{group}")
    };
    proposals.iter().map(word).collect()
}
