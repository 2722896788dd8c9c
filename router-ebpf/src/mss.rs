//! The largest segment that a TCP connection's ends tell each other (RFC 9293 §3.7.1), limited to what
//! goes through here: between ports of different MTU neither end knows of the smaller one, and the ICMP
//! errors that would tell them are lost on many a way (RFC 2923 §2.1).

use router_common::net::{Be16, Ipv4, Ipv6};

use crate::checksum;
use crate::family::{ETHERTYPE_IPV4, Family, protocol};
use crate::packet::{ChecksumPatch, Packet};
use crate::parse::{ETHERNET, Header};
use crate::tables::Tables;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Length of the TCP header without options.
const HEADER: usize = 20;
/// The longest that options can be, in bytes.
const MOST: usize = 40;

/// Limits the option of a segment with SYN to what packets carry that both its ports take; whether it had to be.
/// Leaves alone what has none, or makes no sense, and what has IPv6 extension headers.
#[inline(always)]
pub fn limit<P: Packet, T: Tables>(packet: &mut P, tables: &T, ingress: u32, egress: u32) -> bool {
    let mtu = |ifindex| tables.port(ifindex).map_or(u32::MAX, |port| port.mtu);
    limited(packet, mtu(ingress).min(mtu(egress))).is_some()
}

#[inline(always)]
fn limited<P: Packet>(packet: &mut P, mtu: u32) -> Option<()> {
    let (header, l4, packet_end) = match packet.load::<Be16>(12)?.get() {
        ETHERTYPE_IPV4 => {
            let length = usize::from(packet.load::<u8>(ETHERNET)? & 0xf) * 4;
            (Ipv4::HEADER, ETHERNET + length, Ipv4::end(packet, ETHERNET)?)
        }
        _ if packet.load(ETHERNET + 6) == Some(protocol::TCP) => {
            (Ipv6::HEADER, ETHERNET + Ipv6::HEADER, Ipv6::end(packet, ETHERNET)?)
        }
        _ => return None,
    };
    let most = mtu.saturating_sub((header + HEADER) as u32).min(u32::from(u16::MAX)) as u16;
    let data_offset: u8 = packet.load(l4 + 12)?;
    let end = l4 + usize::from(data_offset >> 4) * 4;
    // What is behind the packet is padding.
    if end > packet_end {
        return None;
    }
    let mut at = l4 + HEADER;
    for _ in 0..MOST {
        at = packet.blur(at);
        if at >= end {
            return None;
        }
        let size: u8 = match packet.load(at)? {
            END => return None,
            NO_OPERATION => 1,
            MAXIMUM_SEGMENT_SIZE if at + 4 > end => return None,
            MAXIMUM_SEGMENT_SIZE => return lower(packet, at, most, l4 + 16),
            _ => packet.load(at + 1)?,
        };
        if size == 0 {
            return None;
        }
        at += usize::from(size);
    }
    None
}

/// Lowers the option at a place, and mends the checksum.
#[inline(always)]
fn lower<P: Packet>(packet: &mut P, at: usize, most: u16, checksum_at: usize) -> Option<()> {
    let [length, high, low]: [u8; 3] = packet.load(at + 1)?;
    if length != 4 || u16::from_be_bytes([high, low]) <= most {
        return None;
    }
    let [new_high, new_low] = most.to_be_bytes();
    packet.store(at + 2, Be16::new(most))?;
    // The option may begin anywhere: what is at an odd place is summed the other way round.
    let words = |high, low| match at % 2 {
        0 => u16::from_ne_bytes([high, low]),
        _ => u16::from_ne_bytes([low, high]),
    };
    let ports = checksum::delta(words(high, low), words(new_high, new_low));
    packet.patch_checksum(ChecksumPatch { offset: checksum_at, addresses: 0, ports, zero_is_none: false })
}
