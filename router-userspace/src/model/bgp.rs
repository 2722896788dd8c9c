//! To whom the router announces its guests' networks, and from whom it hears of others (RFC 4271).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// A speaker of BGP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bgp {
    /// The autonomous system that it speaks for.
    pub own_as: u32,
    /// What others know it by.
    pub router_id: Ipv4Addr,
    /// With whom it speaks, each by its own family.
    pub peers: Vec<BgpPeer>,
    /// What it announces.
    pub networks: Vec<IpNet>,
}

/// A peer.
#[derive(Clone, PartialEq, Eq)]
pub struct BgpPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its autonomous system.
    pub peer_as: u32,
    /// What both know (RFC 2385).
    pub password: Option<String>,
    /// How many hops away it may be; `None`: it is a neighbour.
    pub hops: Option<u8>,
}

impl fmt::Debug for BgpPeer {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, peer_as, hops, .. } = self;
        f.debug_struct("BgpPeer")
            .field("address", address)
            .field("peer_as", peer_as)
            .field("hops", hops)
            .finish_non_exhaustive()
    }
}
