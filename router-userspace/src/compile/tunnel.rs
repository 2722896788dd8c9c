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

/// What is in front of a frame in a VXLAN packet, and its Ethernet header, in bytes.
pub const OVERHEAD: u32 = 20 + 8 + 8 + 14;

/// Largest IP packet in bytes that an interface has room for, whoever asks for which: a VXLAN network's leaves room for
/// what is in front of it.
pub(super) fn room(inventory: &Inventory, ifindex: u32) -> u32 {
    let underlay = inventory.tunnels.get(&ifindex).map(|vxlan| vxlan.tunnel.underlay);
    let underlay = underlay.and_then(|underlay| inventory.by_index(underlay));
    underlay.map_or(u32::MAX, |underlay| underlay.mtu.saturating_sub(OVERHEAD))
}

/// By the interface of an underlay: the UDP port that its packets are sent to.
pub(super) fn underlays(inventory: &Inventory) -> BTreeMap<u32, Be16> {
    inventory.tunnels.values().map(|vxlan| (vxlan.tunnel.underlay, vxlan.tunnel.udp_port)).collect()
}
