//! Remote access: the server that people call, the port that their computers are behind, and what may pass there.
//!
//! ```text
//! from a client  to guests of an isolated network, to other clients      passes
//!                to a VPC's tier                                         as the tier's list says of what comes to it
//!                to the router                                           names, pings
//!                anywhere else                                           nothing
//! to a client    from guests                                             passes; of a tier as its list says
//!                from anywhere else                                      nothing
//! ```
//!
//! Nothing of it is translated. Addresses of clients that are not there lead to nobody.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};

use super::Reading;
use super::policy::PlacedPolicy;
use super::ports::PlacedPort;
use crate::cloudstack::databag::Databags;
use crate::cloudstack::object::Object;
use crate::cloudstack::wire::cmdline::RouterKind;
use crate::cloudstack::wire::remoteaccessvpn::{Access, RemoteAccessVpn};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::policy::{Action, Opening, Rule, Scope, Side, Traffic};
use crate::model::port::Role;
use crate::model::vpn::{PEOPLE, RemoteAccess, Secret};
use crate::model::{Port, PortRange, PortSelector, Route, RouteTarget, SourceNat};

const ESP: u8 = 50;

/// The server, and where clients are.
pub(super) struct Remote {
    server: RemoteAccess,
    /// The clients' addresses, and the router's own towards them.
    networks: Vec<Ipv4Net>,
    /// Whom they may talk to, besides each other.
    inside: Ipv4Net,
    kind: RouterKind,
}

impl Remote {
    /// The first server that can be had. The others go to `notices`.
    pub(super) fn of(
        bags: &Databags,
        reading: &Reading,
        ports: &[PlacedPort],
        notices: &mut Vec<ConfigError>,
    ) -> Result<Option<Self>, ConfigError> {
        let bag = Place::document("remoteaccessvpn.json");
        let mut found: Option<Self> = None;
        for (address, entry) in bags.remoteaccessvpn.iter() {
            let message = RemoteAccessVpn::read(&Object::new(bag.at(address), entry))?;
            // CloudStack's own router may have stored a removal.
            let Some(access) = message.access else { continue };
            let read = match &found {
                Some(other) => {
                    Err(("vpn_server_ip", format!("there is one at {} already", other.server.server)))
                }
                None => Self::read(message.server, access, reading, ports),
            };
            match read {
                Ok(remote) => found = Some(remote),
                Err((key, why)) => {
                    notices.push(message.place.at(key).error(format_args!("not in force: {why}")));
                }
            }
        }
        Ok(found)
    }

    fn read(
        server: Ipv4Addr,
        access: Access,
        reading: &Reading,
        ports: &[PlacedPort],
    ) -> Result<Self, (&'static str, String)> {
        let kind = reading.boot.kind;
        if kind == RouterKind::Shared {
            return Err(("vpn_server_ip", "the router of a shared network forwards nothing".to_owned()));
        }
        let owner = ports.iter().find(|port| port.port.role == Role::Public && port.owns(server.into()));
        if owner.is_none() {
            return Err(("vpn_server_ip", format!("no public port has {server}")));
        }
        let (first, last) = access.clients;
        if (first..=last).contains(&access.local) {
            return Err(("local_ip", format!("clients would have {} too", access.local)));
        }
        let own = Ipv4Net::from(access.local);
        let networks: Vec<Ipv4Net> = Ipv4Subnets::new(first, last, 0).chain([own]).collect();
        for network in ports.iter().flat_map(|port| port.port.ipv4()) {
            let overlaps = |net: &&Ipv4Net| net.contains(&network.trunc()) || network.trunc().contains(*net);
            if let Some(net) = networks.iter().find(overlaps) {
                return Err(("ip_range", format!("{net} is in the network of a port, {}", network.trunc())));
            }
        }
        let server = RemoteAccess {
            server,
            psk: Secret(access.psk),
            local: access.local,
            clients: access.clients,
            openings: openings(server, access.local, &networks),
        };
        Ok(Self { server, networks, inside: access.network, kind })
    }

    /// The devices that clients are behind.
    pub(super) fn port(&self) -> Port {
        Port {
            name: PEOPLE.to_owned(),
            selector: selector(),
            role: Role::Tunnel,
            addresses: vec![IpNet::from(IpAddr::from(self.server.local))],
            // What both ends have agreed upon.
            mtu: None,
            source_nat: SourceNat::Off,
        }
    }

    /// To nobody, where nobody is: a client that is there has a route of its own.
    pub(super) fn routes(&self) -> Vec<Route> {
        let to_nobody = |network: &Ipv4Net| Route {
            destination: (*network).into(),
            target: RouteTarget::Blackhole,
            metric: u32::MAX,
        };
        self.networks.iter().map(to_nobody).collect()
    }

    /// What may pass.
    pub(super) fn admit(&self, ports: &[PlacedPort], placed: &mut PlacedPolicy) {
        let clients: Vec<IpNet> = self.networks.iter().copied().map(IpNet::from).collect();
        let rule = |from: &[IpNet], to: &[IpNet]| {
            Rule::new(0, Action::Allow, Traffic::Any, from.to_vec(), to.to_vec())
        };
        let mut inside = clients.clone();
        inside.push(self.inside.into());
        placed.add(Scope::To(selector()), vec![rule(&inside, &[])]);
        if self.kind != RouterKind::Isolated {
            return;
        }
        let guests: Vec<&PortSelector> = ports
            .iter()
            .filter(|port| port.port.role == Role::Guest)
            .map(|port| &port.port.selector)
            .collect();
        placed.put_first(|scope| match scope {
            // Whose firewall has no rules about it.
            Scope::PublicAddress(address) if *address == self.server.server => {
                vec![Rule::new(0, Action::Allow, Traffic::Protocol(ESP), Vec::new(), vec![net(*address)])]
            }
            Scope::Outside(port) if guests.contains(&port) => vec![rule(&[], &clients)],
            Scope::To(port) if guests.contains(&port) => vec![rule(&clients, &[])],
            _ => Vec::new(),
        });
        for port in guests {
            // What comes to guests by IPv4 was judged by its public address.
            if !placed.has(&Scope::To(port.clone())) {
                placed.add(Scope::To(port.clone()), vec![rule(&[Ipv4Net::default().into()], &[])]);
            }
        }
    }

    /// The server alone.
    pub(super) fn into_server(self) -> RemoteAccess {
        self.server
    }
}

fn selector() -> PortSelector {
    PortSelector::Numbered(PEOPLE.to_owned())
}

fn net(address: Ipv4Addr) -> IpNet {
    IpAddr::from(address).into()
}

/// The router answers whoever calls by IKE and ESP, and its clients' questions for names. L2TP it answers within ESP
/// alone, which is not asked about here.
fn openings(server: Ipv4Addr, local: Ipv4Addr, clients: &[Ipv4Net]) -> Vec<Opening> {
    const IKE: u16 = 500;
    const NAT_TRAVERSAL: u16 = 4500;
    const DNS: u16 = 53;
    let port = |port| PortRange::new(port, port).ok();
    let opening = |side, traffic, from: &[IpNet], to| Opening {
        side,
        rule: Arc::new(Rule::new(0, Action::Allow, traffic, from.to_vec(), vec![net(to)])),
    };
    let outside = [Traffic::Udp(port(IKE)), Traffic::Udp(port(NAT_TRAVERSAL)), Traffic::Protocol(ESP)];
    let clients: Vec<IpNet> = clients.iter().copied().map(IpNet::from).collect();
    let names = [Traffic::Udp(port(DNS)), Traffic::Tcp(port(DNS))];
    let outside = outside.into_iter().map(|traffic| opening(Side::Outside, traffic, &[], server));
    outside.chain(names.map(|traffic| opening(Side::Tunnels, traffic, &clients, local))).collect()
}
