//! Step 6: the way out: next hop, hop limit, Ethernet addresses.

use router_common::flow::NextHop;
use router_common::net::MacPair;
use router_common::port::{Port, Role};
use router_common::verdict::DropReason;

use crate::family::Family;
use crate::packet::Packet;
use crate::tables::Tables;
use crate::walk::Neighbour;

/// The port that a route leads out of. Nothing leaves by an interface that is no port, nor into
/// the control network.
#[inline(always)]
pub fn egress<T: Tables>(tables: &T, next_hop: &NextHop) -> Result<T::Port, DropReason> {
    match tables.port(next_hop.ifindex) {
        Some(port) if port.role != Role::Control as u8 => Ok(port),
        _ => Err(DropReason::NoEgressPort),
    }
}

/// The next hop with what the port adds to it.
#[inline(always)]
pub fn for_port(next_hop: NextHop, egress: &Port) -> NextHop {
    let mtu = if next_hop.mtu == 0 || u32::from(next_hop.mtu) > egress.mtu {
        egress.mtu.min(u32::from(u16::MAX)) as u16
    } else {
        next_hop.mtu
    };
    let xdp = if egress.flags & Port::XDP_TARGET != 0 { NextHop::XDP_TARGET } else { 0 };
    let buffers = if egress.flags & Port::MULTI_BUFFER != 0 { NextHop::MULTI_BUFFER } else { 0 };
    let tagged = if egress.flags & Port::TAGGED != 0 { NextHop::TAGGED } else { 0 };
    // Where there is no link layer there is nobody to be asked for.
    let resolved = if egress.flags & Port::WITHOUT_LINK != 0 { NextHop::RESOLVED } else { 0 };
    NextHop { mtu, flags: next_hop.flags | xdp | buffers | tagged | resolved, ..next_hop }
}

/// Both in one.
#[inline(always)]
pub fn by_port<T: Tables>(tables: &T, next_hop: NextHop) -> Result<NextHop, DropReason> {
    let egress = egress(tables, &next_hop)?;
    Ok(for_port(next_hop, &egress))
}

/// One hop less to live, and on its way. A next hop without a known neighbour leaves the
/// Ethernet addresses to the kernel.
#[inline(always)]
pub fn send<A: Family, P: Packet>(packet: &mut P, l3: usize, next_hop: &NextHop) -> Option<Neighbour> {
    A::decrement_hop_limit(packet, l3)?;
    if next_hop.flags & NextHop::RESOLVED != 0 {
        let MacPair(words) = next_hop.macs;
        packet.store_words(0, words)?;
    }
    Some(neighbour(next_hop))
}

/// What is known of the neighbour.
#[inline(always)]
pub const fn neighbour(next_hop: &NextHop) -> Neighbour {
    match next_hop.flags & (NextHop::RESOLVED | NextHop::TAGGED) {
        NextHop::RESOLVED => Neighbour::Resolved,
        flags if flags & NextHop::RESOLVED != 0 => Neighbour::Tagged,
        _ => Neighbour::Unresolved,
    }
}
