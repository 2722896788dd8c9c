//! Flows: one direction each, complete, so that a known flow's packet costs one lookup.

use crate::abi;
use crate::net::{Be16, MacPair};

abi! {
    /// One direction of a flow, as its packets arrive.
    ///
    /// An ICMP query has its identifier as source port and 0 as destination port, its answer the
    /// reverse, so that the reply key is the key with both ends exchanged, as for TCP and UDP.
    /// A protocol without ports has 0 in both.
    pub struct FlowKey<A>[Ipv4: 16, Ipv6: 40] {
        /// Source address.
        pub src: A,
        /// Destination address.
        pub dst: A,
        /// Source port.
        pub src_port: Be16,
        /// Destination port.
        pub dst_port: Be16,
        /// `RouterId`, host byte order.
        pub router: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
    }
}

impl<A: Copy> FlowKey<A> {
    /// The key of packets that go the other way.
    #[inline(always)]
    pub fn reverse(&self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..*self }
    }
}

abi! {
    /// What a packet of the flow becomes: both ends, and what that does to checksums.
    ///
    /// The deltas are one's complement sums over raw 16-bit words of `~old + new` (RFC 1624),
    /// folded: the addresses' alone, which IPv4 headers and pseudo headers need, and the ports'.
    pub struct Rewrite<A>[Ipv4: 16, Ipv6: 40] {
        /// New source address.
        pub src: A,
        /// New destination address.
        pub dst: A,
        /// New source port.
        pub src_port: Be16,
        /// New destination port.
        pub dst_port: Be16,
        /// What the addresses' change adds to a checksum.
        pub address_delta: u16,
        /// What the ports' change adds to a checksum.
        pub port_delta: u16,
    }
}

abi! {
    /// The way out of a flow.
    pub struct NextHop[20] {
        /// Egress interface; 0 while nothing was ever resolved.
        pub ifindex: u32,
        /// Ethernet addresses to write.
        pub macs: MacPair,
        /// Largest IP packet for this way, in bytes.
        pub mtu: u16,
        /// Bits, see the associated constants.
        pub flags: u16,
    }
}

impl NextHop {
    /// The MAC addresses are known.
    pub const RESOLVED: u16 = 1;
    /// The egress port takes XDP frames.
    pub const XDP_TARGET: u16 = 2;
    /// The egress port's frames have tags.
    pub const TAGGED: u16 = 4;
    /// Nothing known yet.
    pub const UNKNOWN: Self = Self { ifindex: 0, macs: MacPair([0; 3]), mtu: 0, flags: 0 };
}

abi! {
    /// One direction of a flow: everything its packets need.
    ///
    /// Never exists without its reverse, whose key is that of the rewritten packet, reversed.
    pub struct FlowEntry<A>[Ipv4: 96, Ipv6: 120] {
        /// When a packet was last seen, nanoseconds of the monotonic clock.
        pub last_seen: u64,
        /// When the way out was last looked up, nanoseconds of the monotonic clock.
        pub resolved: u64,
        /// When the flow was opened, see [`opened_at`](FlowEntry::opened_at).
        pub opened: u32,
        /// The counter that its packets are added to ([`crate::usage::counter`]).
        pub account: u32,
        /// Packets forwarded in this direction.
        pub packets: u64,
        /// Bytes of IP packets forwarded in this direction.
        pub bytes: u64,
        /// What a packet becomes.
        pub rewrite: Rewrite<A>,
        /// Where it goes.
        pub next_hop: NextHop,
        /// `RouterConfig::generation` that the way out was decided under.
        pub generation: u32,
        /// Interface the flow's packets come in by; in the reply direction the one they are
        /// expected on.
        pub ingress: u32,
        /// The interface that the flow's packets leave by, whatever the routes say; 0 for any.
        pub pinned: u32,
        /// The last acknowledgment number that was seen in this direction, host byte order.
        pub tcp_ack: u32,
        /// TCP flags seen in this direction, as they are in the header (FIN 1, SYN 2, RST 4,
        /// ACK 16).
        pub tcp_flags: u8,
        /// A [`Direction`] as a number.
        pub direction: u8,
        /// [`Role`](crate::port::Role) of the port the packets come in by, as a number.
        pub ingress_role: u8,
        /// Which ends the rewrite changes: [`SOURCE`](Self::SOURCE), [`DESTINATION`](Self::DESTINATION);
        /// whose the external port is: [`BOUND`](Self::BOUND); who else looks at the packets:
        /// [`HELPED`](Self::HELPED).
        pub translation: u8,
    }
}

abi! {
    /// A flow being written down: room of the programs' own, one per CPU, since it does not fit
    /// on their stack.
    pub struct Draft<A>[Ipv4: 112, Ipv6: 160] {
        /// The entry.
        pub entry: FlowEntry<A>,
        /// The reply's key.
        pub reply_key: FlowKey<A>,
    }
}

impl<A: Copy> FlowEntry<A> {
    /// One about nothing yet, with an address where it has some.
    pub const fn blank(address: A) -> Self {
        let port = Be16::from_raw(0);
        let (src, dst, src_port, dst_port) = (address, address, port, port);
        Self {
            last_seen: 0,
            resolved: 0,
            opened: 0,
            account: 0,
            packets: 0,
            bytes: 0,
            rewrite: Rewrite { src, dst, src_port, dst_port, address_delta: 0, port_delta: 0 },
            next_hop: NextHop::UNKNOWN,
            generation: 0,
            ingress: 0,
            pinned: 0,
            tcp_ack: 0,
            tcp_flags: 0,
            direction: 0,
            ingress_role: 0,
            translation: 0,
        }
    }
}

impl<A> FlowEntry<A> {
    /// The rewrite changes the source.
    pub const SOURCE: u8 = 1;
    /// The rewrite changes the destination.
    pub const DESTINATION: u8 = 2;
    /// The external port is a binding's.
    pub const BOUND: u8 = 4;
    /// A helper reads along: the protocol opens other connections.
    pub const HELPED: u8 = 8;

    /// [`opened`](Self::opened) of one that is opened now: nanoseconds of the monotonic clock by 2^24, which comes
    /// round after 2.3 years.
    #[inline(always)]
    pub const fn opening_at(now: u64) -> u32 {
        (now >> OPENED_UNIT) as u32
    }

    /// When the flow was opened, to 17 ms, nanoseconds of the monotonic clock, which says `now`.
    pub const fn opened_at(&self, now: u64) -> u64 {
        let age = Self::opening_at(now).wrapping_sub(self.opened) as u64;
        ((now >> OPENED_UNIT).saturating_sub(age)) << OPENED_UNIT
    }
}

/// Bits that [`FlowEntry::opened`] leaves out.
const OPENED_UNIT: u32 = 24;

/// Which way a flow entry's packets go.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As the packet that opened the flow.
    Original = 0,
    /// The other way.
    Reply = 1,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Ipv4;

    #[test]
    fn when_a_flow_was_opened_is_known_to_17_ms_even_when_the_clock_comes_round() {
        let second = 1_000_000_000;
        for opened in [0, 5 * second, (1 << 56) - second, (1 << 56) + second] {
            let flow = FlowEntry {
                opened: FlowEntry::<Ipv4>::opening_at(opened),
                ..FlowEntry::blank(Ipv4::UNSPECIFIED)
            };
            let said = flow.opened_at(opened + 3 * second);
            assert!(said <= opened && opened - said < 17_000_000, "{said} of {opened}");
        }
    }
}
