//! `bgppeers`: to whom routed guest networks are announced (`bgp_peers.json`).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{ENVELOPE, host_address, host_address6, secret};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;

const KEYS: [&str; 10] = [
    "peer_id",
    "peer_as_number",
    "ip4_address",
    "ip6_address",
    "peer_password",
    "network_id",
    "network_as_number",
    "guest_ip4_cidr",
    "guest_ip6_cidr",
    "details",
];
const MULTI_HOP: &str = "EBGP_MultiHop";

/// A message of type `bgppeers`: all there are.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpPeers {
    /// A peer for each of its networks, in the message's order. Elements without a peer are left out:
    /// CloudStack sends one to say that there is none.
    pub peers: Vec<BgpPeer>,
}

/// A peer of one guest network. It is spoken to by each family in which both have something.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpPeer {
    /// Where it stands.
    pub place: Place,
    /// CloudStack's number for the peer.
    pub peer: u64,
    /// CloudStack's number for the network.
    pub network: u64,
    /// The peer's autonomous system.
    pub peer_as: u32,
    /// The network's, which the router speaks for.
    pub network_as: u32,
    /// The peer's IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// The peer's IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// What both know (RFC 2385).
    pub password: Option<String>,
    /// The network's IPv4 addresses.
    pub guests: Option<Ipv4Net>,
    /// The network's IPv6 addresses.
    pub guests6: Option<Ipv6Net>,
    /// How many hops away the peer may be; `None`: it is a neighbour.
    pub hops: Option<u8>,
    /// The peer as it was written.
    pub(in crate::cloudstack) entry: Entry,
}

impl BgpPeers {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<Self, ConfigError> {
        let objects = message.required("peers", message.objects("peers")?)?;
        let mut peers = Vec::new();
        for object in &objects {
            network_id(object)?;
            if object.text("peer_id")?.is_some() {
                peers.push(BgpPeer::read(object)?);
            }
        }
        Ok(Self { peers })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Result<Vec<ConfigError>, ConfigError> {
        let mut warnings = message.unknown_keys(|key| key == "peers" || ENVELOPE.contains(&key));
        for peer in message.objects("peers")?.unwrap_or_default() {
            warnings.extend(peer.unknown_keys(|key| KEYS.contains(&key)));
            if let Some(details) = peer.object("details")? {
                warnings.extend(details.unknown_keys(|key| key == MULTI_HOP));
            }
        }
        Ok(warnings)
    }
}

impl BgpPeer {
    /// Reads an entry of a message or of the `bgppeers` databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let hops = object.object("details")?.map(|details| {
            match details.parsed::<u8>(MULTI_HOP, "number of hops up to 255")? {
                Some(0) => Err(details.error(MULTI_HOP, "0 hops lead nowhere")),
                other => Ok(other),
            }
        });
        Ok(Self {
            place: object.place().into_owned(),
            peer: object.required("peer_id", object.parsed("peer_id", "number of a peer")?)?,
            network: network_id(object)?,
            peer_as: as_number(object, "peer_as_number")?,
            network_as: as_number(object, "network_as_number")?,
            address: host_address(object, "ip4_address")?,
            address6: host_address6(object, "ip6_address")?,
            password: secret(object, "peer_password")?,
            guests: object.parsed("guest_ip4_cidr", "IPv4 network")?,
            guests6: object.parsed("guest_ip6_cidr", "IPv6 network")?,
            hops: hops.transpose()?.flatten(),
            entry: object.to_entry(),
        })
    }

    /// What the databag knows it by.
    pub(in crate::cloudstack) fn key(&self) -> String {
        format!("{}-{}", self.peer, self.network)
    }
}

fn network_id(object: &Object) -> Result<u64, ConfigError> {
    object.required("network_id", object.parsed("network_id", "number of a network")?)
}

/// RFC 6793; 0 is nobody's (RFC 7607).
fn as_number(object: &Object, key: &str) -> Result<u32, ConfigError> {
    let number: Option<u32> = object.parsed(key, "AS number")?;
    match object.required(key, number)? {
        0 => Err(object.error(key, "0 is no AS number")),
        number => Ok(number),
    }
}
