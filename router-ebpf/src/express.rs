//! The express lane: a packet of a known flow about which nothing is odd, from its port to its way out in one go.
//!
//! It decides nothing. What it takes, the steps ([`walk::pass`](crate::walk::pass)) would send as it does, with the same
//! bytes and the same counts, or leave to the slow path just so, where there is no such flow yet. Everything else it
//! leaves to them, untouched. In XDP alone: in TC a frame may be one of many
//! packets, or have its checksum finished later; and of frames in one buffer alone.

use router_common::account::Hook;
use router_common::flow::{FlowEntry, FlowKey, NextHop};
use router_common::net::{Ipv4, Ipv6, MacPair};
use router_common::port::{Lane, Port};

use crate::conntrack::Arrival;
use crate::family::{Family, protocol};
use crate::packet::{Head, Packet};
use crate::parse::{self, ETHERNET, Transport, tcp_flags};
use crate::passage::{End, Passage, Question};
use crate::tables::{Activity, Flows, World};
use crate::walk::Verdict;
use crate::{checksum, conntrack, forward};

/// Length of a TCP header, which is longer than UDP's.
const TRANSPORT: usize = 20;
/// What may be true of a way out or not: frames get their tags later, and these are in one buffer.
const ANYHOW: u16 = NextHop::TAGGED | NextHop::MULTI_BUFFER;

/// Sends a frame on its way, if it is such a one.
#[inline(always)]
pub fn take<P: Packet, T: World>(packet: &mut P, tables: &T, ifindex: u32) -> Option<Passage> {
    if packet.hook() != Hook::Xdp || packet.beyond() > 0 {
        return None;
    }
    let lane = tables.lane(ifindex).filter(|lane| lane.flags & Lane::NOT_ROUTED == 0)?;
    let length = packet.length();
    let is_for_us =
        |head: &P::Head<'_>| head.load::<u32>(0) == lane.mac && head.load::<u16>(4) == lane.mac_end;
    let ethertype = packet.head(Ipv4::HEAD).filter(is_for_us)?.load(12);
    match u16::from_be(ethertype) {
        Ipv4::ETHERTYPE => send::<Ipv4, _, T>(packet.head(Ipv4::HEAD)?, length, tables, &lane, ifindex),
        Ipv6::ETHERTYPE => send::<Ipv6, _, T>(packet.head(Ipv6::HEAD)?, length, tables, &lane, ifindex),
        _ => None,
    }
}

/// A family's header where it has no more than it must.
trait Bare: Family {
    /// How many bytes of a frame are looked at.
    const HEAD: usize = ETHERNET + Self::HEADER + TRANSPORT;
    /// Of a header that is sound and whose packet may go on: protocol, TTL or hop limit, length of the packet in bytes.
    fn read<H: Head>(head: &H) -> Option<(u8, u8, usize)>;
    /// One hop less to live, with other addresses.
    fn write<H: Head>(head: &mut H, flow: &FlowEntry<Self>);
}

#[inline(always)]
fn send<A: Bare, H: Head, T: Flows<A>>(
    mut head: H,
    frame: usize,
    tables: &T,
    lane: &Lane,
    ifindex: u32,
) -> Option<Passage> {
    let l4 = ETHERNET + A::HEADER;
    let (protocol, hop_limit, length) = A::read(&head)?;
    let (transport, tcp_flags, shortest, checksum) = match protocol {
        protocol::TCP => (Transport::Tcp, head.load(l4 + 13), TRANSPORT, l4 + 16),
        protocol::UDP => (Transport::Udp, 0, 8, l4 + 6),
        _ => return None,
    };
    if length < A::HEADER + shortest || frame < ETHERNET + length {
        return None;
    }
    let key = FlowKey {
        src: head.load(ETHERNET + A::ADDRESSES),
        dst: head.load(ETHERNET + A::ADDRESSES + size_of::<A>()),
        src_port: head.load(l4),
        dst_port: head.load(l4 + 2),
        router: lane.router,
        protocol,
        pad: 0,
    };
    // It may be one with another port's frame inside.
    if protocol == protocol::UDP && lane.vxlan.raw() != 0 && key.dst_port == lane.vxlan {
        return None;
    }
    let finished: u16 = head.load(checksum);
    if lane.flags & Port::PARTIAL_CHECKSUMS != 0
        && checksum::may_be_partial(&key, (length - A::HEADER) as u16, finished)
    {
        return None;
    }
    let (now, config) = (tables.now(), tables.config());
    let Some(flow) = tables.flow(&key) else {
        tables.arrive(&Arrival {
            key,
            now,
            ifindex,
            generation: config.generation,
            slot: lane.slot,
            role: lane.role,
            flags: lane.flags,
            transport,
            icmp: Default::default(),
            hop_limit,
            tcp_flags,
            is_early: true,
            bytes: length as u32,
        });
        return Some(Passage::new(lane.slot, End::Undecided(A::VERSION, Question::Flow)));
    };
    let next_hop = tables.next_hop(flow.next_hop)?;
    // A turn in a connection's life is for the steps to see.
    if tcp_flags & (tcp_flags::SYN | tcp_flags::RST) != 0
        || !conntrack::is_fresh(&*flow, &next_hop, ifindex, now, &config)
        || next_hop.flags & !ANYHOW != NextHop::RESOLVED | NextHop::XDP_TARGET
        || length > usize::from(next_hop.mtu)
    {
        return None;
    }
    A::write(&mut head, &flow);
    if A::TRANSLATED && flow.is_translated() {
        let ends = &flow.rewrite;
        head.store(l4, ends.src_port);
        head.store(l4 + 2, ends.dst_port);
        // What there is none of stays none (RFC 768).
        if finished != 0 || protocol == protocol::TCP {
            let sum = u32::from(!finished) + u32::from(ends.address_delta) + u32::from(ends.port_delta);
            let new = !checksum::fold(sum);
            head.store(checksum, if new == 0 && protocol == protocol::UDP { u16::MAX } else { new });
        }
    }
    let MacPair([a, b, c]) = next_hop.macs;
    head.store(0, a);
    head.store(4, b);
    head.store(8, c);
    let tcp_ack = if tcp_flags & tcp_flags::ACK == 0 { 0 } else { u32::from_be(head.load(l4 + 8)) };
    tables.account(&flow, Activity { now, bytes: length, tcp_flags, refreshes: true, tcp_ack });
    tables.charge(flow.account, length);
    let neighbour = forward::neighbour(&next_hop);
    Some(Passage::new(lane.slot, Verdict::Forward { ifindex: next_hop.ifindex, neighbour }.into()))
}

impl Bare for Ipv4 {
    #[inline(always)]
    fn read<H: Head>(head: &H) -> Option<(u8, u8, usize)> {
        let words: [u32; 5] = core::array::from_fn(|word| head.load(ETHERNET + 4 * word));
        let [first, second, third, _, _] = words;
        let [version_length, _, length_high, length_low] = first.to_ne_bytes();
        let [_, _, fragment_high, fragment_low] = second.to_ne_bytes();
        let [ttl, protocol, _, _] = third.to_ne_bytes();
        let is_fragment = u16::from_be_bytes([fragment_high, fragment_low]) & parse::FRAGMENT != 0;
        if version_length != 0x45 || is_fragment || ttl <= 1 || checksum::sum_words(&words) != 0xffff {
            return None;
        }
        Some((protocol, ttl, u16::from_be_bytes([length_high, length_low]).into()))
    }

    #[inline(always)]
    fn write<H: Head>(head: &mut H, flow: &FlowEntry<Self>) {
        let [ttl, protocol, high, low] = head.load::<u32>(ETHERNET + 8).to_ne_bytes();
        let mut sum = u32::from(!u16::from_ne_bytes([high, low])) + u32::from(checksum::FIRST_BYTE_ONE_LESS);
        if flow.is_translated() {
            head.store(ETHERNET + Self::ADDRESSES, flow.rewrite.src.0);
            head.store(ETHERNET + Self::ADDRESSES + 4, flow.rewrite.dst.0);
            sum += u32::from(flow.rewrite.address_delta);
        }
        let [high, low] = (!checksum::fold(sum)).to_ne_bytes();
        head.store(ETHERNET + 8, u32::from_ne_bytes([ttl.wrapping_sub(1), protocol, high, low]));
    }
}

impl Bare for Ipv6 {
    #[inline(always)]
    fn read<H: Head>(head: &H) -> Option<(u8, u8, usize)> {
        let [version, _, _, _] = head.load::<u32>(ETHERNET).to_ne_bytes();
        let [length_high, length_low, protocol, hop_limit] = head.load::<u32>(ETHERNET + 4).to_ne_bytes();
        if version >> 4 != 6 || hop_limit <= 1 {
            return None;
        }
        Some((protocol, hop_limit, Self::HEADER + usize::from(u16::from_be_bytes([length_high, length_low]))))
    }

    #[inline(always)]
    fn write<H: Head>(head: &mut H, _flow: &FlowEntry<Self>) {
        let hop_limit: u8 = head.load(ETHERNET + 7);
        head.store(ETHERNET + 7, hop_limit.wrapping_sub(1));
    }
}
