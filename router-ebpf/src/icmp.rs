//! ICMP errors that carry a translated packet (RFC 5508 §4, RFC 4443 §2.4).
//!
//! An error travels against the packet it is about, so it belongs to the flow of that packet's
//! replies, and takes their way and their rewrite: outer destination and the packet inside are
//! translated as the flow says.

use router_common::flow::{Direction, FlowEntry, FlowKey};
use router_common::net::Be16;

use crate::checksum;
use crate::family::{IcmpKind, protocol};
use crate::packet::{ChecksumPatch, Packet};
use crate::parse::Header;

/// Where the packet inside an error begins, from the ICMP header on.
const INNER: usize = 8;

/// Where the packet inside an error has what.
#[derive(Clone, Copy)]
struct Inner {
    /// Where its IP header begins.
    l3: usize,
    /// Where its ports or its identifier are.
    ports: usize,
    /// Where its transport checksum is.
    checksum: usize,
    protocol: u8,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// TCP or UDP.
    Ports,
    /// ICMP: one identifier, which stands for the source port.
    Query,
    /// ICMP: one identifier, which stands for the destination port.
    Reply,
    /// SCTP: ports that are not translated, for its checksum would have to be.
    KeptPorts,
    /// Another protocol: neither ports nor a checksum that we know.
    Addresses,
}

/// Reads as much of the packet inside as an error has to carry: its header and eight bytes.
#[inline(always)]
fn inner<A: Header, P: Packet>(packet: &P, icmp: usize) -> Option<Inner> {
    let l3 = icmp + INNER;
    let (l4, protocol) = A::inner_header(packet, l3)?;
    let (ports, checksum, kind) = match protocol {
        protocol::TCP => (l4, l4 + 16, Kind::Ports),
        protocol::UDP => (l4, l4 + 6, Kind::Ports),
        _ if protocol == A::ICMP => {
            let kind = match A::icmp_kind(packet.load(l4)?) {
                IcmpKind::Query => Kind::Query,
                IcmpKind::Reply => Kind::Reply,
                // RFC 1122 §3.2.2: no errors about errors.
                IcmpKind::Error | IcmpKind::Other => return None,
            };
            (l4 + 4, l4 + 2, kind)
        }
        protocol::SCTP => (l4, l4, Kind::KeptPorts),
        _ => (l4, l4, Kind::Addresses),
    };
    Some(Inner { l3, ports, checksum, protocol, kind })
}

/// The flow of the packet that an error is about, as that packet was sent.
#[inline(always)]
pub fn about<A: Header, P: Packet>(packet: &P, icmp: usize, router: u16) -> Option<FlowKey<A>> {
    let inner = inner::<A, P>(packet, icmp)?;
    let [src, dst]: [A; 2] = packet.load(inner.l3 + A::ADDRESSES)?;
    let none = Be16::default();
    let (src_port, dst_port) = match inner.kind {
        Kind::Ports | Kind::KeptPorts => {
            let [src_port, dst_port]: [Be16; 2] = packet.load(inner.ports)?;
            (src_port, dst_port)
        }
        Kind::Query => (packet.load(inner.ports)?, none),
        Kind::Reply => (none, packet.load(inner.ports)?),
        Kind::Addresses => (none, none),
    };
    Some(FlowKey { src, dst, src_port, dst_port, router, protocol: inner.protocol, pad: 0 })
}

/// Rewrites the packet inside an error at `l3`, whose ICMP header is at `icmp`, the ICMP checksum
/// over it, and the outer addresses.
#[inline(never)]
pub fn translate<A: Header, P: Packet>(
    packet: &mut P,
    l3: usize,
    icmp: usize,
    flow: &FlowEntry<A>,
) -> Option<()> {
    let inner = inner::<A, P>(packet, icmp)?;
    // With 0 for an identifier a ping and its answer have one key, but not one rewrite.
    let is_reply = flow.direction == Direction::Reply as u8;
    if inner.kind == Kind::Query && !is_reply || inner.kind == Kind::Reply && is_reply {
        return None;
    }
    let rewrite = &flow.rewrite;
    // The packet inside goes the other way than its error: its ends are the rewrite's, exchanged.
    // Its header's checksum makes up for its addresses, so only the ports, and the addresses'
    // part in the transport checksum, change the sum over the ICMP message.
    A::store_addresses(packet, inner.l3, (rewrite.dst, rewrite.src), rewrite.address_delta)?;
    let mut message = if A::ICMP_PSEUDO_HEADER { rewrite.address_delta } else { 0 };
    match inner.kind {
        Kind::Ports => packet.store(inner.ports, [rewrite.dst_port, rewrite.src_port])?,
        Kind::Query => packet.store(inner.ports, rewrite.dst_port)?,
        Kind::Reply => packet.store(inner.ports, rewrite.src_port)?,
        Kind::KeptPorts | Kind::Addresses => {}
    }
    message = checksum::add(message, rewrite.port_delta);
    // An error need not carry the inner transport checksum (TCP's is behind the eight bytes).
    let has_checksum = !matches!(inner.kind, Kind::KeptPorts | Kind::Addresses);
    if has_checksum
        && let Some(old) = packet.load::<Be16>(inner.checksum)
        && !(inner.protocol == protocol::UDP && old.raw() == 0)
    {
        let pseudo = inner.kind == Kind::Ports || A::ICMP_PSEUDO_HEADER;
        let addresses = if pseudo { rewrite.address_delta } else { 0 };
        let new = checksum::apply(old, checksum::add(addresses, rewrite.port_delta));
        packet.store(inner.checksum, new)?;
        message = checksum::add(message, checksum::delta(old.raw(), new.raw()));
    }
    // Outside: the destination is the flow's; the source only where the flow's own is translated,
    // so that no inside address, not even a hop's, is shown (RFC 5508 REQ-5c).
    let [old_src, old_dst]: [A; 2] = packet.load(l3 + A::ADDRESSES)?;
    let src = if flow.translation & FlowEntry::<A>::SOURCE == 0 { old_src } else { rewrite.src };
    let outer = checksum::add(
        checksum::delta_words(old_src.words(), src.words()),
        checksum::delta_words(old_dst.words(), rewrite.dst.words()),
    );
    A::store_addresses(packet, l3, (src, rewrite.dst), outer)?;
    if A::ICMP_PSEUDO_HEADER {
        message = checksum::add(message, outer);
    }
    checksum::patch_in_place(
        packet,
        ChecksumPatch { offset: icmp + 2, addresses: 0, ports: message, zero_is_none: false },
    )
}
