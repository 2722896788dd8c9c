//! ICMP errors that carry a translated packet (RFC 5508 §4, RFC 4443 §2.4).
//!
//! An error travels against the packet it is about, so it belongs to the flow of that packet's
//! replies, and takes their way and their rewrite: outer destination and the packet inside are
//! translated as the flow says.

use router_common::flow::{Direction, FlowEntry, FlowKey};
use router_common::net::{Be16, Ipv4};

use crate::checksum;
use crate::family::{Family, IcmpKind, Scope, protocol};
use crate::limit::Limit;
use crate::packet::{ChecksumPatch, Packet};
use crate::parse::Header;

/// The router's own errors, type and code in one (RFC 792, RFC 1812 §5.2.7.1).
pub mod error {
    /// Time to live exceeded in transit.
    pub const TIME_EXCEEDED: u32 = 11 << 8;
    /// Fragmentation needed and DF set.
    pub const TOO_BIG: u32 = 3 << 8 | 4;
    /// Communication administratively prohibited: no resources for a new flow (RFC 5508 REQ-8).
    pub const PROHIBITED: u32 = 3 << 8 | 13;
}

/// How many errors of its own a CPU of the router sends (RFC 1812 §4.3.2.8).
pub const OWN_ERRORS: Limit = Limit { times: 100, within: 1_000_000_000 };

/// How much of a packet an error of ours carries, a multiple of four bytes that has the header and eight bytes
/// more; `None` for a packet that no error may be about (RFC 1812 §4.3.2.7): a later fragment, an error,
/// from or to no single host, and for "too big" one that may be fragmented. `header` are the first five
/// words, `icmp_type` is what an ICMP message begins with.
#[inline(always)]
pub fn quote(header: &[u32; 5], icmp_type: u8, kind: u32) -> Option<u32> {
    const DONT_FRAGMENT: u16 = 0x4000;
    const OFFSET: u16 = 0x1fff;
    let [first, second, third, src, dst] = *header;
    let [version_length, _, length_high, length_low] = first.to_ne_bytes();
    let [_, _, fragment_high, fragment_low] = second.to_ne_bytes();
    let [_, protocol, _, _] = third.to_ne_bytes();
    let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
    let ends = (Ipv4([src]).source_scope(), Ipv4([dst]).destination_scope());
    let is_error = protocol == protocol::ICMP && Ipv4::icmp_kind(icmp_type) == IcmpKind::Error;
    if fragment & OFFSET != 0 || is_error || ends != (Scope::Unicast, Scope::Unicast) {
        return None;
    }
    if kind == error::TOO_BIG && fragment & DONT_FRAGMENT == 0 {
        return None;
    }
    let least = u32::from(version_length & 0xf) * 4 + 8;
    let quote = match u16::from_be_bytes([length_high, length_low]) {
        128.. => 128,
        68.. => 68,
        48.. => 48,
        28.. => 28,
        _ => return None,
    };
    (quote >= least).then_some(quote)
}

/// IP and ICMP header of an error of ours; `sum` is that over what it carries, `length` bytes.
#[inline(always)]
pub fn error_headers(ends: (Ipv4, Ipv4), kind: u32, mtu: u16, (sum, length): (u32, u32)) -> [u32; 7] {
    let (Ipv4([src]), Ipv4([dst])) = ends;
    let [length_high, length_low] = ((28 + length) as u16).to_be_bytes();
    // Precedence "internetwork control" (RFC 1812 §4.3.2.5), never fragmented.
    let first = u32::from_ne_bytes([0x45, 0xc0, length_high, length_low]);
    let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
    let third = u32::from_ne_bytes([64, protocol::ICMP, 0, 0]);
    let [high, low] = (!checksum::sum_words(&[first, second, third, src, dst])).to_ne_bytes();
    let third = u32::from_ne_bytes([64, protocol::ICMP, high, low]);
    let (icmp_type, code) = ((kind >> 8) as u8, kind as u8);
    let [mtu_high, mtu_low] = mtu.to_be_bytes();
    let rest = u32::from_ne_bytes([0, 0, mtu_high, mtu_low]);
    let head = u32::from_ne_bytes([icmp_type, code, 0, 0]);
    let sum = checksum::add(checksum::fold(sum), checksum::sum_words(&[head, rest]));
    let [high, low] = (!sum).to_ne_bytes();
    [first, second, third, src, dst, u32::from_ne_bytes([icmp_type, code, high, low]), rest]
}

/// Where the packet inside an error begins, from the ICMP header on.
const INNER: usize = 8;

/// Where the packet inside an error has what.
#[derive(Clone, Copy)]
struct Inner {
    /// Where its IP header begins.
    l3: usize,
    /// Where its transport header begins.
    l4: usize,
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
    Some(Inner { l3, l4, ports, checksum, protocol, kind })
}

/// The flow of the packet that an error is about, as that packet was sent. What is behind `end`, where the
/// error ends, is padding, whatever it looks like.
#[inline(always)]
pub fn about<A: Header, P: Packet>(packet: &P, icmp: usize, end: usize, router: u16) -> Option<FlowKey<A>> {
    let inner = inner::<A, P>(packet, icmp)?;
    let least = if inner.kind == Kind::Addresses { 0 } else { 8 };
    if inner.l4 + least > end {
        return None;
    }
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
        && inner.checksum + 2 <= A::end(packet, l3)?
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

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// The first five words of an IPv4 header.
    fn header(length: u16, fragment: u16, protocol: u8, dst: [u8; 4]) -> [u32; 5] {
        let ([lh, ll], [fh, fl]) = (length.to_be_bytes(), fragment.to_be_bytes());
        let source = [192, 0, 2, 9];
        [[0x45, 0, lh, ll], [0, 1, fh, fl], [64, protocol, 0, 0], source, dst].map(u32::from_ne_bytes)
    }

    #[test]
    fn no_error_is_about_an_error_a_later_fragment_or_a_group() {
        const UNICAST: [u8; 4] = [10, 1, 1, 50];
        let ask = |header: [u32; 5], icmp_type, kind| quote(&header, icmp_type, kind);
        assert_eq!(ask(header(1500, 0, 17, UNICAST), 0, error::TIME_EXCEEDED), Some(128));
        assert_eq!(ask(header(28, 0, 17, UNICAST), 0, error::TIME_EXCEEDED), Some(28));
        assert_eq!(ask(header(60, 0, protocol::ICMP, UNICAST), 8, error::TIME_EXCEEDED), Some(48));
        for (refused, icmp_type) in [
            (header(60, 0, protocol::ICMP, UNICAST), 3),
            (header(60, 0, protocol::ICMP, UNICAST), 11),
            (header(1500, 5, 17, UNICAST), 0),
            (header(1500, 0, 17, [224, 0, 0, 5]), 0),
            (header(1500, 0, 17, [255, 255, 255, 255]), 0),
            (header(27, 0, 17, UNICAST), 0),
        ] {
            assert_eq!(ask(refused, icmp_type, error::TIME_EXCEEDED), None, "{refused:x?}");
        }
        assert_eq!(ask(header(1500, 0, 17, UNICAST), 0, error::TOO_BIG), None);
        assert_eq!(ask(header(1500, 0x4000, 17, UNICAST), 0, error::TOO_BIG), Some(128));
    }

    #[test]
    fn an_error_has_right_checksums() {
        let quote: std::vec::Vec<u32> = (0..32).map(|word| word * 0x0107_0301).collect();
        let sum = u32::from(checksum::sum_words(&quote));
        let ends = (Ipv4([0x0101_010a]), Ipv4([0x0902_00c0]));
        let words = error_headers(ends, error::TOO_BIG, 1400, (sum, 128));
        assert_eq!(checksum::sum_words(&words[..5]), 0xffff);
        let message = checksum::add(checksum::sum_words(&words[5..]), checksum::sum_words(&quote));
        assert_eq!(message, 0xffff);
    }
}
