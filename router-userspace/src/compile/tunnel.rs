//! Ports that are VXLAN networks.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use router_common::net::Be16;
use router_common::tunnel::Tunnel;

use super::Inventory;

/// How the frames of a port are carried that is a VXLAN network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// What the programs read of it.
    pub tunnel: Tunnel,
    /// Its remote ends, in order.
    pub remotes: Vec<Ipv4Addr>,
}

/// By the interface of an underlay: the UDP port that its packets are sent to.
pub(super) fn underlays(inventory: &Inventory) -> BTreeMap<u32, Be16> {
    inventory.tunnels.values().map(|vxlan| (vxlan.tunnel.underlay, vxlan.tunnel.udp_port)).collect()
}
