//! Bridges: what becomes of a frame that is not routed, but goes to the port of its station as it is (IEEE 802.1Q).
//!
//! Behind which port a station is, is learnt from the frames that it sends, and forgotten when it sends none. What is for
//! a station that nobody has heard of, or for several, goes to all other ports of the bridge.

use router_common::account::Hook;
use router_common::bridge::{FdbEntry, FdbKey};
use router_common::net::Be16;
use router_common::port::Port;
use router_common::verdict::{DeferReason, DropReason, PuntReason};

use crate::family::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, protocol};
use crate::packet::Packet;
use crate::parse::{ETHERNET, is_group, transport_header};
use crate::passage::Passage;
use crate::tables::Tables;
use crate::walk::{Neighbour, Verdict};

/// What bridges need beside ports.
pub trait Bridges: Tables {
    /// Behind which port a station was last heard of.
    fn heard(&self, key: &FdbKey) -> Option<FdbEntry>;
    /// Notes it. Whoever was not sent to for longest makes room.
    fn hear(&self, key: &FdbKey, entry: &FdbEntry);
    /// Sends copies of a frame to all ports of a bridge but one, where they take IP packets of this length.
    fn flood<P: Packet>(&self, packet: &mut P, bridge: u32, but: u32, length: usize);
}

/// Passes a frame on that came in by a port of a bridge.
#[inline(always)]
pub fn pass<P: Packet, T: Bridges>(packet: &mut P, tables: &T, ifindex: u32) -> Passage {
    let Some(port) = tables.port(ifindex) else {
        return Passage::new(0, Verdict::punt(packet, PuntReason::NotAPort).into());
    };
    let verdict = match verdict(packet, tables, ifindex, &port) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Drop(reason),
    };
    Passage::new(port.slot, verdict.into())
}

#[inline(always)]
fn verdict<P: Packet, T: Bridges>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    port: &Port,
) -> Result<Verdict, DropReason> {
    let to: [u8; 6] = packet.load(0).ok_or(DropReason::Truncated)?;
    let from: [u8; 6] = packet.load(6).ok_or(DropReason::Truncated)?;
    if is_group(from) {
        return Err(DropReason::GroupSource);
    }
    if is_of_this_link(to) {
        return Ok(Verdict::punt(packet, PuntReason::LinkScope));
    }
    let is_early = packet.hook() == Hook::Xdp;
    if is_early && port.flags & Port::PARTIAL_CHECKSUMS != 0 {
        return Ok(Verdict::Defer(DeferReason::PartialChecksum));
    }
    let (now, bridge) = (tables.now(), port.bridge);
    let heard_lately =
        |entry: FdbEntry| entry.ifindex == ifindex && now.saturating_sub(entry.heard) < FdbEntry::LATELY;
    let station = FdbKey { bridge, mac: from, pad: [0; 2] };
    if !tables.heard(&station).is_some_and(heard_lately) {
        tables.hear(&station, &FdbEntry { heard: now, ifindex, pad: 0 });
    }
    let length = length(packet);
    let Some((ifindex_out, out)) = port_of(tables, bridge, to, now) else {
        if is_early {
            return Ok(Verdict::Defer(DeferReason::Flooded));
        }
        tables.flood(packet, bridge, ifindex, length);
        return Ok(Verdict::Sent);
    };
    if ifindex_out == ifindex {
        return Err(DropReason::SamePort);
    }
    if is_early && out.flags & Port::XDP_TARGET == 0 {
        return Ok(Verdict::Defer(DeferReason::EgressWithoutXdp));
    }
    if packet.beyond() > 0 && out.flags & Port::MULTI_BUFFER == 0 {
        return Ok(Verdict::Defer(DeferReason::MultiBuffer));
    }
    match length > out.mtu as usize {
        false => Ok(Verdict::Forward { ifindex: ifindex_out, neighbour: Neighbour::Tagged }),
        true if is_early => Ok(Verdict::Defer(DeferReason::Oversize)),
        true => Err(DropReason::OversizeFrame),
    }
}

/// The port of a bridge behind which a single station is, if that is known.
#[inline(always)]
fn port_of<T: Bridges>(tables: &T, bridge: u32, mac: [u8; 6], now: u64) -> Option<(u32, T::Port)> {
    if is_group(mac) {
        return None;
    }
    let FdbEntry { heard, ifindex, .. } = tables.heard(&FdbKey { bridge, mac, pad: [0; 2] })?;
    if now.saturating_sub(heard) >= FdbEntry::AGEING {
        return None;
    }
    // It may have left the bridge since.
    let port = tables.port(ifindex).filter(|port| port.bridge == bridge)?;
    Some((ifindex, port))
}

/// What no bridge passes on: spanning tree, LACP, LLDP (IEEE 802.1Q, table 8-1).
#[inline(always)]
const fn is_of_this_link([a, b, c, d, e, f]: [u8; 6]) -> bool {
    matches!([a, b, c, d, e], [0x01, 0x80, 0xc2, 0, 0]) && f & 0xf0 == 0
}

/// Length in bytes of what is behind a frame's Ethernet header, or of the longest of the IP packets that it will be cut
/// into.
#[inline(always)]
fn length<P: Packet>(packet: &P) -> usize {
    match packet.segment_payload() {
        // What has other headers was cut to fit by whoever sent it.
        Some(payload) => payload + headers(packet).unwrap_or(0),
        None => packet.length().saturating_sub(ETHERNET),
    }
}

/// Length of an IP packet's headers, TCP's or UDP's included.
#[inline(always)]
fn headers<P: Packet>(packet: &P) -> Option<usize> {
    let ethertype: Be16 = packet.load(ETHERNET - 2)?;
    let (protocol, length): (u8, usize) = match ethertype.get() {
        ETHERTYPE_IPV4 => (packet.load(ETHERNET + 9)?, usize::from(packet.load::<u8>(ETHERNET)? & 15) * 4),
        ETHERTYPE_IPV6 => (packet.load(ETHERNET + 6)?, 40),
        _ => return None,
    };
    match protocol {
        protocol::TCP | protocol::UDP => {
            Some(length + transport_header(packet, ETHERNET + length, protocol == protocol::TCP)?)
        }
        _ => None,
    }
}
