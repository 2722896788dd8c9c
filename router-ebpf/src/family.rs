//! What differs between IPv4 and IPv6: where the header keeps things. All else is generic.

use router_common::net::{Address, Be16, Ipv4, Ipv6};
use router_common::policy::{List, Pointer};

use crate::checksum;
use crate::packet::{Packet, Plain};

/// Protocol numbers (IANA).
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// What an address is good for as the end of a flow through a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// An ordinary unicast address.
    Unicast,
    /// Never leaves a link: multicast, broadcast, link-local.
    Link,
    /// No packet on a wire has it at this place (RFC 1812 §5.3.7, RFC 4291 §2.5).
    Martian,
}

/// What an ICMP message is to a flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpKind {
    /// A query with an identifier: echo, timestamp.
    Query,
    /// The answer to one.
    Reply,
    /// An error that carries the packet it is about (RFC 792, RFC 4443 §2.1).
    Error,
    /// Anything else.
    Other,
}

/// An address family, as the walk needs it.
pub trait Family: Address + Plain {
    /// Ethertype of its packets.
    const ETHERTYPE: u16;
    /// Its ICMP's protocol number.
    const ICMP: u8;
    /// Length of the header without options or extension headers.
    const HEADER: usize;
    /// Where the source address is; the destination follows it.
    const ADDRESSES: usize;
    /// Whether its ICMP checksum covers a pseudo header.
    const ICMP_PSEUDO_HEADER: bool;
    /// Whether its addresses are ever translated: IPv6 is only routed.
    const TRANSLATED: bool;

    /// An IPv4 address as one of this family, if it is IPv4.
    fn from_ipv4(address: Ipv4) -> Option<Self>;
    /// The address as IPv4, if it is.
    fn to_ipv4(self) -> Option<Ipv4>;
    /// Where a list's rules about it begin.
    fn root(list: &List) -> Pointer;
    /// The address as 128 bits, its own in front, host byte order.
    fn bits(self) -> [u64; 2];
    /// What the address is good for as a destination.
    fn destination_scope(&self) -> Scope;
    /// What the address is good for as a source.
    fn source_scope(&self) -> Scope;
    /// What an ICMP type of this family is.
    fn icmp_kind(icmp_type: u8) -> IcmpKind;

    /// Writes both addresses at the header's offset and mends the header's own checksum, if it
    /// has one, by their delta.
    fn store_addresses<P: Packet>(packet: &mut P, l3: usize, ends: (Self, Self), delta: u16) -> Option<()>;
    /// Writes another identification into a fragment's header, where a family ever does.
    fn store_id<P: Packet>(packet: &mut P, l3: usize, id: Be16) -> Option<()>;
    /// One off the TTL or hop limit, header checksum included.
    fn decrement_hop_limit<P: Packet>(packet: &mut P, l3: usize) -> Option<()>;
}

impl Family for Ipv4 {
    const ETHERTYPE: u16 = ETHERTYPE_IPV4;
    const ICMP: u8 = protocol::ICMP;
    const HEADER: usize = 20;
    const ADDRESSES: usize = 12;
    const ICMP_PSEUDO_HEADER: bool = false;
    const TRANSLATED: bool = true;

    #[inline(always)]
    fn from_ipv4(address: Ipv4) -> Option<Self> {
        Some(address)
    }

    #[inline(always)]
    fn to_ipv4(self) -> Option<Ipv4> {
        Some(self)
    }

    #[inline(always)]
    fn root(list: &List) -> Pointer {
        Pointer(list.roots[0])
    }

    #[inline(always)]
    fn bits(self) -> [u64; 2] {
        [u64::from(self.to_host()) << 32, 0]
    }

    #[inline(always)]
    fn destination_scope(&self) -> Scope {
        let address = self.to_host();
        match address >> 24 {
            0 | 127 => Scope::Martian,
            169 if address >> 16 == 0xa9fe => Scope::Link,
            224..=239 => Scope::Link,
            240..=255 if address == u32::MAX => Scope::Link,
            240..=255 => Scope::Martian,
            _ => Scope::Unicast,
        }
    }

    #[inline(always)]
    fn source_scope(&self) -> Scope {
        let address = self.to_host();
        match address >> 24 {
            // 0.0.0.0 is what a host without an address sends from (DHCP), and stays on the link.
            0 if address == 0 => Scope::Link,
            169 if address >> 16 == 0xa9fe => Scope::Link,
            0 | 127 | 224..=255 => Scope::Martian,
            _ => Scope::Unicast,
        }
    }

    #[inline(always)]
    fn icmp_kind(icmp_type: u8) -> IcmpKind {
        match icmp_type {
            8 | 13 | 15 | 17 => IcmpKind::Query,
            0 | 14 | 16 | 18 => IcmpKind::Reply,
            3 | 11 | 12 => IcmpKind::Error,
            _ => IcmpKind::Other,
        }
    }

    #[inline(always)]
    fn store_addresses<P: Packet>(packet: &mut P, l3: usize, ends: (Self, Self), delta: u16) -> Option<()> {
        packet.store(l3 + 12, [ends.0, ends.1])?;
        let old: Be16 = packet.load(l3 + 10)?;
        packet.store(l3 + 10, checksum::apply(old, delta))
    }

    #[inline(always)]
    fn store_id<P: Packet>(packet: &mut P, l3: usize, id: Be16) -> Option<()> {
        let old: Be16 = packet.load(l3 + 4)?;
        packet.store(l3 + 4, id)?;
        let sum: Be16 = packet.load(l3 + 10)?;
        packet.store(l3 + 10, checksum::apply(sum, checksum::delta(old.raw(), id.raw())))
    }

    #[inline(always)]
    fn decrement_hop_limit<P: Packet>(packet: &mut P, l3: usize) -> Option<()> {
        let [ttl, protocol, high, low] = packet.load::<u32>(l3 + 8)?.to_ne_bytes();
        let sum =
            checksum::apply(Be16::from_raw(u16::from_ne_bytes([high, low])), checksum::FIRST_BYTE_ONE_LESS);
        let [high, low] = sum.raw().to_ne_bytes();
        packet.store(l3 + 8, u32::from_ne_bytes([ttl.wrapping_sub(1), protocol, high, low]))
    }
}

impl Family for Ipv6 {
    const ETHERTYPE: u16 = ETHERTYPE_IPV6;
    const ICMP: u8 = protocol::ICMPV6;
    const HEADER: usize = 40;
    const ADDRESSES: usize = 8;
    const ICMP_PSEUDO_HEADER: bool = true;
    const TRANSLATED: bool = false;

    #[inline(always)]
    fn from_ipv4(_address: Ipv4) -> Option<Self> {
        None
    }

    #[inline(always)]
    fn to_ipv4(self) -> Option<Ipv4> {
        None
    }

    #[inline(always)]
    fn root(list: &List) -> Pointer {
        Pointer(list.roots[1])
    }

    #[inline(always)]
    fn bits(self) -> [u64; 2] {
        let [first, second, third, fourth] = self.0.map(|word| u64::from(u32::from_be(word)));
        [first << 32 | second, third << 32 | fourth]
    }

    #[inline(always)]
    fn destination_scope(&self) -> Scope {
        let prefix = u32::from_be(self.0[0]);
        if prefix >> 24 == 0xff || prefix >> 22 == 0x3fa {
            Scope::Link
        } else if is_reserved(self) {
            Scope::Martian
        } else {
            Scope::Unicast
        }
    }

    #[inline(always)]
    fn source_scope(&self) -> Scope {
        let [first, second, third, fourth] = self.0;
        let prefix = u32::from_be(first);
        if prefix >> 24 == 0xff {
            Scope::Martian
        } else if prefix >> 22 == 0x3fa || (first | second | third | fourth) == 0 {
            Scope::Link
        } else if is_reserved(self) {
            Scope::Martian
        } else {
            Scope::Unicast
        }
    }

    #[inline(always)]
    fn icmp_kind(icmp_type: u8) -> IcmpKind {
        match icmp_type {
            128 => IcmpKind::Query,
            129 => IcmpKind::Reply,
            1..=4 => IcmpKind::Error,
            _ => IcmpKind::Other,
        }
    }

    #[inline(always)]
    fn store_addresses<P: Packet>(packet: &mut P, l3: usize, ends: (Self, Self), _delta: u16) -> Option<()> {
        packet.store(l3 + 8, [ends.0, ends.1])
    }

    #[inline(always)]
    fn store_id<P: Packet>(_packet: &mut P, _l3: usize, _id: Be16) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn decrement_hop_limit<P: Packet>(packet: &mut P, l3: usize) -> Option<()> {
        let [next_header, hop_limit]: [u8; 2] = packet.load(l3 + 6)?;
        let old = u16::from_ne_bytes([next_header, hop_limit]);
        let new = u16::from_ne_bytes([next_header, hop_limit.wrapping_sub(1)]);
        packet.store(l3 + 6, new)?;
        packet.sum_changed(checksum::delta(old, new));
        Some(())
    }
}

/// Whether an IPv6 address is the unspecified or the loopback address, compatible with or mapped to IPv4, or of
/// the deprecated site scope: none is on a wire (RFC 4291 §2.5, RFC 3879, RFC 6092 REC-3).
#[inline(always)]
fn is_reserved(address: &Ipv6) -> bool {
    let [first, second, third, _] = address.0;
    let is_ipv4 = (first | second) == 0 && matches!(u32::from_be(third), 0 | 0xffff);
    is_ipv4 || u32::from_be(first) >> 22 == 0x3fb
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn martians_and_link_addresses_of_ipv4_are_told_apart() {
        for (address, destination, source) in [
            ("10.1.1.1", Scope::Unicast, Scope::Unicast),
            ("0.0.0.0", Scope::Martian, Scope::Link),
            ("0.1.2.3", Scope::Martian, Scope::Martian),
            ("127.0.0.1", Scope::Martian, Scope::Martian),
            ("169.254.0.1", Scope::Link, Scope::Link),
            ("169.253.0.1", Scope::Unicast, Scope::Unicast),
            ("224.0.0.18", Scope::Link, Scope::Martian),
            ("239.255.255.255", Scope::Link, Scope::Martian),
            ("240.0.0.1", Scope::Martian, Scope::Martian),
            ("255.255.255.255", Scope::Link, Scope::Martian),
        ] {
            let ip = Ipv4::from(address.parse::<Ipv4Addr>().unwrap());
            assert_eq!((ip.destination_scope(), ip.source_scope()), (destination, source), "{address}");
        }
    }

    #[test]
    fn martians_and_link_addresses_of_ipv6_are_told_apart() {
        for (address, destination, source) in [
            ("2001:db8::1", Scope::Unicast, Scope::Unicast),
            ("fd17::1", Scope::Unicast, Scope::Unicast),
            ("::", Scope::Martian, Scope::Link),
            ("::1", Scope::Martian, Scope::Martian),
            ("fe80::1", Scope::Link, Scope::Link),
            ("febf::1", Scope::Link, Scope::Link),
            ("fec0::1", Scope::Martian, Scope::Martian),
            ("::ffff:10.1.1.1", Scope::Martian, Scope::Martian),
            ("::10.1.1.1", Scope::Martian, Scope::Martian),
            ("::1:0:1:1", Scope::Unicast, Scope::Unicast),
            ("ff02::1", Scope::Link, Scope::Martian),
        ] {
            let ip = Ipv6::from(address.parse::<Ipv6Addr>().unwrap());
            assert_eq!((ip.destination_scope(), ip.source_scope()), (destination, source), "{address}");
        }
    }
}
