//! Flows: one direction each, complete, so that a known flow's packet costs one lookup.

use crate::abi;
use crate::account::Traffic;
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
    /// A way out.
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
    /// The egress port takes XDP frames in several buffers.
    pub const MULTI_BUFFER: u16 = 8;
    /// Nothing known yet.
    pub const UNKNOWN: Self = Self { ifindex: 0, macs: MacPair([0; 3]), mtu: 0, flags: 0 };
}

/// How many ways out are kept at once. Number 0 is none.
pub const NEXT_HOPS: u32 = 1 << 16;

abi! {
    /// A way out that flows know by its number.
    pub struct KeptNextHop[32] {
        /// When a flow was last given its number, nanoseconds of the monotonic clock; odd. [`FREE`](Self::FREE) or
        /// [`TAKEN`](Self::TAKEN) otherwise.
        pub used: u64,
        /// The way out. Does not change while a flow may believe its number.
        pub next_hop: NextHop,
        /// Zero.
        pub pad: u32,
    }
}

impl KeptNextHop {
    /// Was never used.
    pub const FREE: u64 = 0;
    /// Is being written.
    pub const TAKEN: u64 = 2;
}

abi! {
    /// One direction of a flow: everything its packets need.
    ///
    /// Never exists without its reverse, whose key is that of the rewritten packet, reversed.
    pub struct FlowEntry<A>[Ipv4: 64, Ipv6: 88] {
        /// When a packet was last seen, see [`tick`].
        pub last_seen: u32,
        /// When the way out was last looked up, see [`tick`].
        pub resolved: u32,
        /// When the flow was opened, see [`tick`].
        pub opened: u32,
        /// The counter that its packets are added to ([`crate::usage::counter`]).
        pub account: u32,
        /// What was forwarded in this direction, see [`traffic`](FlowEntry::traffic): bytes of IP packets below
        /// [`BYTES`](FlowEntry::BYTES), above them how often [`packets`](Self::packets) came round.
        pub bytes: u64,
        /// What a packet becomes.
        pub rewrite: Rewrite<A>,
        /// The interface that it goes out by; 0 while no way out was ever looked up.
        pub egress: u32,
        /// The number of its way out ([`KeptNextHop`]), 0 for none. Means something for as long as it may be believed
        /// (`conntrack::is_fresh`).
        pub next_hop: u16,
        /// The lower bits of the `RouterConfig::generation` that the way out was decided under: none is believed for so
        /// long that they come round.
        pub generation: u16,
        /// Interface the flow's packets come in by; in the reply direction the one they are
        /// expected on.
        pub ingress: u32,
        /// The lower bits of how many packets were forwarded in this direction, see [`traffic`](FlowEntry::traffic).
        pub packets: u32,
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
        /// [`HELPED`](Self::HELPED); where they leave: [`PINNED`](Self::PINNED).
        pub translation: u8,
    }
}

abi! {
    /// A flow being written down: room of the programs' own, one per CPU, since it does not fit
    /// on their stack.
    pub struct Draft<A>[Ipv4: 80, Ipv6: 128] {
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
            bytes: 0,
            rewrite: Rewrite { src, dst, src_port, dst_port, address_delta: 0, port_delta: 0 },
            egress: 0,
            next_hop: 0,
            generation: 0,
            ingress: 0,
            packets: 0,
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
    /// Packets leave by the interface that those of the other direction come in by, if it has a route, whatever the
    /// routes say.
    pub const PINNED: u8 = 16;

    /// The bits of [`bytes`](Self::bytes) that are bytes: 16 petabytes, and 2^42 packets, before they come round.
    const BYTES: u64 = (1 << 54) - 1;

    /// Whether the rewrite changes anything.
    #[inline(always)]
    pub const fn is_translated(&self) -> bool {
        self.translation & (Self::SOURCE | Self::DESTINATION) != 0
    }

    /// Counts one packet more, of so many bytes.
    #[inline(always)]
    pub const fn count(&mut self, bytes: u64) {
        self.packets = self.packets.wrapping_add(1);
        let comes_round = if self.packets == 0 { Self::BYTES + 1 } else { 0 };
        self.bytes = self.bytes.wrapping_add(bytes + comes_round);
    }

    /// What was forwarded in this direction: packets, and bytes of IP packets.
    pub const fn traffic(&self) -> Traffic {
        let rounds = self.bytes / (Self::BYTES + 1);
        Traffic { packets: rounds << 32 | self.packets as u64, bytes: self.bytes & Self::BYTES }
    }
}

/// Bits of the clock that a tick leaves out.
const TICK: u32 = 24;

/// The clock of entries: nanoseconds of the monotonic clock by 2^24, which is 17 ms, and comes round after 2.3 years.
#[inline(always)]
pub const fn tick(now: u64) -> u32 {
    (now >> TICK) as u32
}

/// When a [`tick`] of the last year was, to 17 ms, nanoseconds of the monotonic clock, which says `now`. What other CPUs
/// have seen since `now` was read was now.
pub const fn instant(tick: u32, now: u64) -> u64 {
    let age = self::tick(now).wrapping_sub(tick).cast_signed();
    let age = if age < 0 { 0 } else { age as u64 };
    ((now >> TICK).saturating_sub(age)) << TICK
}

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

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn when_something_was_is_known_to_17_ms_even_when_the_clock_comes_round() {
        for when in [0, 5 * SECOND, (1 << 56) - SECOND, (1 << 56) + SECOND] {
            for age in [3 * SECOND, 365 * 86_400 * SECOND] {
                let said = instant(tick(when), when + age);
                assert!(said <= when && when - said < 17_000_000, "{said} of {when}");
            }
        }
    }

    #[test]
    fn what_was_seen_after_the_clock_was_read_was_now() {
        let now = 7 * SECOND;
        assert_eq!(tick(instant(tick(now + SECOND), now)), tick(now));
    }

    #[test]
    fn packets_and_bytes_are_counted_beyond_32_bits() {
        let mut flow = FlowEntry { packets: u32::MAX, bytes: 1 << 53, ..FlowEntry::blank(Ipv4::UNSPECIFIED) };
        flow.count(60);
        flow.count(40);
        let Traffic { packets, bytes } = flow.traffic();
        assert_eq!((packets, bytes), ((1 << 32) + 1, (1 << 53) + 100));
    }
}
