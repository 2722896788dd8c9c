//! Whom the router tells of its guests' networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cloudstack::wire::bgppeers;
use crate::error::ConfigError;
use crate::model::bgp::BgpPeer;
use crate::model::port::Role;
use crate::model::{Bgp, Port};

/// The speaker of BGP, if there is somebody to speak with. Of several autonomous systems that the router is to speak for
/// the first counts, which is a notice: FRR has one.
pub fn bgp(said: &[bgppeers::BgpPeer], ports: &[Port], notices: &mut Vec<ConfigError>) -> Option<Bgp> {
    let own_as = said.first()?.network_as;
    let public = ports.iter().filter(|port| port.role == Role::Public);
    let Some(router_id) = public.flat_map(Port::ipv4).map(|address| address.addr()).next() else {
        let place = &said.first()?.place;
        notices.push(place.error("waits: no public port has an IPv4 address, which BGP is known by"));
        return None;
    };
    let (mut peers, mut networks) = (BTreeMap::new(), BTreeSet::new());
    for peer in said {
        if peer.network_as != own_as {
            let message =
                format_args!("not in force: the router speaks for AS {own_as}, and for no second one");
            notices.push(peer.place.at("network_as_number").error(message));
            continue;
        }
        for (address, network) in peer.sessions() {
            networks.insert(network);
            let password = peer.password.clone();
            peers.entry(address).or_insert(BgpPeer {
                address,
                peer_as: peer.peer_as,
                password,
                hops: peer.hops,
            });
        }
    }
    let (peers, networks) = (peers.into_values().collect::<Vec<_>>(), networks.into_iter().collect());
    (!peers.is_empty()).then_some(Bgp { own_as, router_id, peers, networks })
}

impl bgppeers::BgpPeer {
    /// By which addresses it is spoken to, and of which network: by each family in which both have something.
    pub(in crate::cloudstack) fn sessions(&self) -> impl Iterator<Item = (IpAddr, IpNet)> {
        let ipv4 =
            self.address.map(IpAddr::from).zip(self.guests.map(|network| IpNet::from(network).trunc()));
        let ipv6 =
            self.address6.map(IpAddr::from).zip(self.guests6.map(|network| IpNet::from(network).trunc()));
        ipv4.into_iter().chain(ipv6)
    }
}
