//! ICMP errors that carry a translated packet (RFC 5508 §4, RFC 4443 §2.4).
//!
//! An error travels against the packet it is about, so it takes the way, and the rewrite, of
//! that packet's replies: outer destination and the packet inside are translated as the flow
//! says. An error neither refreshes nor ends a flow (RFC 5508 REQ-6).

use router_common::flow::{FlowEntry, FlowKey};
use router_common::net::Be16;
use router_common::port::LocalKey;
use router_common::verdict::{DropReason, PuntReason};

use crate::checksum;
use crate::conntrack::{self, Arrival, Decision};
use crate::family::{IcmpKind, protocol};
use crate::forward;
use crate::packet::{ChecksumPatch, Packet};
use crate::parse::{Header, Parsed};
use crate::tables::Flows;
use crate::walk::{Ingress, Verdict, obstacle};

/// Where the packet inside an error begins, from the ICMP header on.
const INNER: usize = 8;

/// What the packet inside an error is.
#[derive(Clone, Copy)]
struct Inner<A> {
    /// Its flow, as it was sent.
    key: FlowKey<A>,
    /// Where its IP header begins.
    l3: usize,
    /// Where its ports or its identifier are.
    ports: usize,
    /// Where its transport checksum is.
    checksum: usize,
    kind: InnerKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InnerKind {
    /// TCP or UDP: two ports, a pseudo header in the checksum.
    Ports,
    /// ICMP: one identifier.
    Identifier,
}

/// An ICMP error, from either side.
#[inline(never)]
pub fn error<A, P, T>(
    packet: &mut P,
    tables: &T,
    ingress: &Ingress,
    parsed: &Parsed<A>,
) -> Result<Verdict, DropReason>
where
    A: Header,
    P: Packet,
    T: Flows<A>,
{
    let Some(inner) = inner::<A, P>(packet, parsed) else { return unrelated(packet, tables, parsed) };
    let about = Parsed { key: inner.key.reverse(), ..*parsed };
    let arrival =
        Arrival { ingress, parsed: &about, now: tables.now(), generation: tables.config().generation };
    let flow = match tables.flow(&about.key) {
        None => return unrelated(packet, tables, parsed),
        Some(flow) if conntrack::is_fresh(&*flow, &arrival) => flow,
        Some(_) => match conntrack::decide(tables, &arrival)? {
            Decision::Flow => tables.flow(&about.key).ok_or(DropReason::UnrelatedIcmpError)?,
            Decision::Punt(reason) => return Ok(Verdict::punt(packet, reason)),
        },
    };
    if parsed.key.dst != about.key.dst {
        return Err(DropReason::UnrelatedIcmpError);
    }
    if let Some(verdict) = obstacle(packet, parsed, &*flow)? {
        return Ok(verdict);
    }
    if flow.translation != 0 {
        translate(packet, parsed, &inner, &*flow).ok_or(DropReason::RewriteFailed)?;
    }
    forward::send::<A, P>(packet, parsed.l3, &flow.next_hop).ok_or(DropReason::RewriteFailed)
}

/// An error about no flow: the router's own business if it is addressed to it, else refused.
fn unrelated<A: Header, P: Packet, T: Flows<A>>(
    packet: &P,
    tables: &T,
    parsed: &Parsed<A>,
) -> Result<Verdict, DropReason> {
    let key = &parsed.key;
    match tables.local(&LocalKey { address: key.dst, router: key.router, pad: [0; 2] }) {
        Some(_) => Ok(Verdict::punt(packet, PuntReason::ToRouter)),
        None => Err(DropReason::UnrelatedIcmpError),
    }
}

/// Reads as much of the packet inside as an error has to carry: its header and eight bytes.
#[inline(always)]
fn inner<A: Header, P: Packet>(packet: &P, parsed: &Parsed<A>) -> Option<Inner<A>> {
    let l3 = parsed.l4 + INNER;
    let (l4, protocol) = A::inner_header(packet, l3)?;
    let [src, dst]: [A; 2] = packet.load(l3 + A::ADDRESSES)?;
    let mut key = FlowKey { src, dst, protocol, ..parsed.key };
    let (ports, sum, kind) = match protocol {
        protocol::TCP => (l4, l4 + 16, InnerKind::Ports),
        protocol::UDP => (l4, l4 + 6, InnerKind::Ports),
        _ if protocol == A::ICMP => (l4 + 4, l4 + 2, InnerKind::Identifier),
        _ => return None,
    };
    if kind == InnerKind::Ports {
        let [src_port, dst_port]: [Be16; 2] = packet.load(ports)?;
        (key.src_port, key.dst_port) = (src_port, dst_port);
    } else {
        let identifier: Be16 = packet.load(ports)?;
        (key.src_port, key.dst_port) = match A::icmp_kind(packet.load(l4)?) {
            IcmpKind::Query => (identifier, Be16::default()),
            IcmpKind::Reply => (Be16::default(), identifier),
            // RFC 1122 §3.2.2: no errors about errors.
            IcmpKind::Error | IcmpKind::Other => return None,
        };
    }
    Some(Inner { key, l3, ports, checksum: sum, kind })
}

/// Rewrites the packet inside, the ICMP checksum over it, and the outer addresses.
#[inline(always)]
fn translate<A: Header, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    inner: &Inner<A>,
    flow: &FlowEntry<A>,
) -> Option<()> {
    let rewrite = &flow.rewrite;
    // The packet inside goes the other way than its error: its ends are the rewrite's, exchanged.
    // Its header's checksum makes up for its addresses, so only the ports, and the addresses'
    // part in the transport checksum, change the sum over the ICMP message.
    A::store_addresses(packet, inner.l3, (rewrite.dst, rewrite.src), rewrite.address_delta)?;
    let mut message = if A::ICMP_PSEUDO_HEADER { rewrite.address_delta } else { 0 };
    match inner.kind {
        InnerKind::Ports => packet.store(inner.ports, [rewrite.dst_port, rewrite.src_port])?,
        InnerKind::Identifier => {
            let identifier =
                if inner.key.src_port == Be16::default() { rewrite.src_port } else { rewrite.dst_port };
            packet.store(inner.ports, identifier)?;
        }
    }
    message = checksum::add(message, rewrite.port_delta);
    let pseudo = inner.kind == InnerKind::Ports || A::ICMP_PSEUDO_HEADER;
    // An error need not carry the inner transport checksum (TCP's is behind the eight bytes).
    if let Some(old) = packet.load::<Be16>(inner.checksum)
        && !(inner.key.protocol == protocol::UDP && old.raw() == 0)
    {
        let addresses = if pseudo { rewrite.address_delta } else { 0 };
        let new = checksum::apply(old, checksum::add(addresses, rewrite.port_delta));
        packet.store(inner.checksum, new)?;
        message = checksum::add(message, checksum::delta(old.raw(), new.raw()));
    }
    // Outside: the destination is the flow's; the source only where the flow's own is translated,
    // so that no inside address, not even a hop's, is shown (RFC 5508 REQ-5c).
    let src = match flow.translation & FlowEntry::<A>::SOURCE {
        0 => parsed.key.src,
        _ => rewrite.src,
    };
    let (old_src, old_dst) = (parsed.key.src, parsed.key.dst);
    let outer = checksum::add(
        checksum::delta_words(old_src.words(), src.words()),
        checksum::delta_words(old_dst.words(), rewrite.dst.words()),
    );
    A::store_addresses(packet, parsed.l3, (src, rewrite.dst), outer)?;
    if A::ICMP_PSEUDO_HEADER {
        message = checksum::add(message, outer);
    }
    let patch = ChecksumPatch { offset: parsed.l4 + 2, addresses: 0, ports: message, zero_is_none: false };
    checksum::patch_in_place(packet, patch)
}
