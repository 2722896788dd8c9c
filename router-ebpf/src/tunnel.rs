//! The first step and the last of ports that are VXLAN networks (RFC 7348).
//!
//! Such a port's frames come in UDP packets to an address of the router, and leave in such packets. As with tags
//! ([`crate::tags`]) nobody knows of that in between: a frame goes through the walk as one that has come in by the
//! port's own interface. Which remote end has a station is learnt from the packets that come.

use router_common::account::Hook;
use router_common::flow::NextHop;
use router_common::net::{Be16, Ipv4, MacPair};
use router_common::port::Lane;
use router_common::tunnel::{Remote, RemoteIndex, RemoteKey, StationKey, Tunnel, TunnelKey};
use router_common::verdict::DropReason;

use crate::checksum;
use crate::conntrack::BELIEVED;
use crate::family::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, protocol};
use crate::packet::Packet;
use crate::parse::{ETHERNET, is_group};
use crate::tables::{Flows, Route, RouteQuery};

/// Bytes in front of a frame: Ethernet, IPv4, UDP and VXLAN header.
pub const OUTER: usize = 14 + 20 + 8 + 8;

const IP: usize = ETHERNET;
const UDP: usize = IP + Ipv4::HEADER;
const VXLAN: usize = UDP + 8;
/// The inner frame's ethertype, and what is behind it.
const INNER_TYPE: usize = OUTER + 12;
const INNER_IP: usize = OUTER + ETHERNET;
/// The one flag that there is: the header has a VNI.
const HAS_VNI: u8 = 8;
/// May not be fragmented; the rest of the field.
const DONT_FRAGMENT: u16 = 0x4000;
const FRAGMENT: u16 = 0x3fff;
const TTL: u8 = 64;

/// What tunnels need beside the tables that there are: all of it is IPv4.
pub trait Tunnels: Flows<Ipv4> {
    /// The port whose packets are addressed so.
    fn tunnelled(&self, key: &TunnelKey) -> Option<u32>;
    /// How a port's frames are carried, by its own interface.
    fn tunnel(&self, ifindex: u32) -> Option<Tunnel>;
    /// A remote end.
    fn remote(&self, key: &RemoteKey) -> Option<Remote>;
    /// Notes the way to a remote end.
    fn set_way(&self, key: &RemoteKey, macs: MacPair, now: u64, generation: u32);
    /// One remote end after the other.
    fn remote_at(&self, key: &RemoteIndex) -> Option<Ipv4>;
    /// The remote end that has a station.
    fn station(&self, key: &StationKey) -> Option<Ipv4>;
    /// Notes it. The one that was used longest ago makes room.
    fn learn(&self, key: &StationKey, remote: Ipv4);
}

/// What is in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Nothing of ours: the packet goes its way.
    Elsewhere,
    /// A frame of the port with this interface. It has been taken out.
    Inside(u32),
    /// Likewise, but only the kernel can see what it is. In TC it has been taken out, in XDP not.
    Again(u32),
}

const AGAIN: u32 = 1 << 30;
const FAILED: u32 = 1 << 31;

/// A result as a number: interface indices have 30 bits.
#[inline(always)]
pub const fn opened_number(result: Result<Opened, DropReason>) -> u32 {
    match result {
        Ok(Opened::Elsewhere) => 0,
        Ok(Opened::Inside(port)) => port,
        Ok(Opened::Again(port)) => port | AGAIN,
        Err(reason) => reason.outcome() | FAILED,
    }
}

/// The reverse of [`opened_number`].
#[inline(always)]
pub fn opened(number: u32) -> Result<Opened, DropReason> {
    match number {
        0 => Ok(Opened::Elsewhere),
        number if number & FAILED != 0 => Err(failed(number)),
        number if number & AGAIN != 0 => Ok(Opened::Again(number & !AGAIN)),
        number => Ok(Opened::Inside(number)),
    }
}

/// How a frame leaves that has got what carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// By this interface.
    By(u32),
    /// It has left already.
    Gone,
}

/// A result as a number.
#[inline(always)]
pub const fn leaving_number(result: Result<Leaving, DropReason>) -> u32 {
    match result {
        Ok(Leaving::By(ifindex)) => ifindex,
        Ok(Leaving::Gone) => 0,
        Err(reason) => reason.outcome() | FAILED,
    }
}

/// The reverse of [`leaving_number`].
#[inline(always)]
pub fn leaving(number: u32) -> Result<Leaving, DropReason> {
    match number {
        0 => Ok(Leaving::Gone),
        number if number & FAILED != 0 => Err(failed(number)),
        number => Ok(Leaving::By(number)),
    }
}

#[inline(always)]
fn failed(number: u32) -> DropReason {
    DropReason::from_outcome(number & !FAILED).unwrap_or(DropReason::RewriteFailed)
}

/// Whether a frame that has come in by a port may be a VXLAN packet of other ports. What is in pieces or has options is
/// none: it has its own questions.
#[inline(always)]
pub fn may_be_one<P: Packet>(packet: &P, lane: &Lane) -> bool {
    lane.vxlan.raw() != 0 && packet.load(UDP + 2) == Some(lane.vxlan) && is_plain_udp(packet).is_some()
}

/// It is UDP over IPv4, whole and without options.
#[inline(always)]
fn is_plain_udp<P: Packet>(packet: &P) -> Option<()> {
    let ethertype: Be16 = packet.load(12)?;
    let fragment: Be16 = packet.load(IP + 6)?;
    let is_so = ethertype.get() == ETHERTYPE_IPV4
        && packet.load(IP) == Some(0x45u8)
        && packet.load(IP + 9) == Some(protocol::UDP)
        && fragment.get() & FRAGMENT == 0;
    is_so.then_some(())
}

/// Takes a frame out of a VXLAN packet to the router, and gives the own interface of its port.
///
/// # Errors
/// The packet is to the router, but no port's, or makes no sense.
#[inline(always)]
pub fn take_out<P: Packet, T: Tunnels>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
) -> Result<Opened, DropReason> {
    let Some(key) = addressed(packet, ifindex) else { return Ok(Opened::Elsewhere) };
    let port = match tables.tunnelled(&key) {
        Some(0) => return Err(DropReason::BadTunnel),
        Some(port) => port,
        None if tables.tunnelled(&TunnelKey { vni: TunnelKey::ANY, ..key }).is_none() => {
            return Ok(Opened::Elsewhere);
        }
        None => return Err(DropReason::UnknownVni),
    };
    if !is_sound(packet).unwrap_or(false) {
        return Err(DropReason::BadTunnel);
    }
    let address: Ipv4 = packet.load(IP + 12).ok_or(DropReason::BadTunnel)?;
    if tables.remote(&RemoteKey { ifindex: port, address }).is_none() {
        return Err(DropReason::UnknownVtep);
    }
    let mac: [u8; 6] = packet.load(OUTER + 6).ok_or(DropReason::BadTunnel)?;
    let station = StationKey { ifindex: port, mac, pad: [0; 2] };
    if !is_group(mac) && tables.station(&station) != Some(address) {
        tables.learn(&station, address);
    }
    let inner = ecn(packet, INNER_TYPE);
    let outer = packet.load::<u8>(IP + 1).unwrap_or(0) & CONGESTED;
    if let Some(mark) = decapsulated(outer, inner)? {
        // What is left to TC is not changed.
        if packet.hook() == Hook::Xdp {
            return Ok(Opened::Again(port));
        }
        set_ecn(packet, mark).ok_or(DropReason::RewriteFailed)?;
    }
    let is_v4 = packet.load::<Be16>(INNER_TYPE).is_some_and(|ethertype| ethertype.get() == ETHERTYPE_IPV4);
    packet.take_out().ok_or(DropReason::RewriteFailed)?;
    // The kernel believes what the outer header was.
    Ok(if is_v4 || packet.hook() == Hook::Xdp { Opened::Inside(port) } else { Opened::Again(port) })
}

/// Whom a packet is for. A VXLAN header that is cut off has no VNI.
#[inline(always)]
fn addressed<P: Packet>(packet: &P, ifindex: u32) -> Option<TunnelKey> {
    is_plain_udp(packet)?;
    let vni = packet.load::<u32>(VXLAN + 4).map_or(TunnelKey::ANY, |word| u32::from_be(word) >> 8);
    Some(TunnelKey {
        underlay: ifindex,
        local: packet.load(IP + 16)?,
        vni,
        udp_port: packet.load(UDP + 2)?,
        pad: [0; 2],
    })
}

/// Whether the headers say what is there. A checksum of UDP may be there, and need not be looked at (RFC 7348 §5).
#[inline(always)]
fn is_sound<P: Packet>(packet: &P) -> Option<bool> {
    let header: [u32; 5] = packet.load(IP)?;
    let [_, _, high, low] = header.first().copied()?.to_ne_bytes();
    let total = u16::from_be_bytes([high, low]);
    let length: Be16 = packet.load(UDP + 4)?;
    let flags: u8 = packet.load(VXLAN)?;
    // Of an inner frame its Ethernet header at least.
    packet.load::<Be16>(INNER_TYPE)?;
    let (total, length) = (usize::from(total), usize::from(length.get()));
    // A packet that will be cut says what it likes.
    let fits = packet.segment_payload().is_some()
        || (total == length + Ipv4::HEADER
            && length >= OUTER - UDP + ETHERNET
            && total + ETHERNET <= packet.length());
    Some(fits && flags & HAS_VNI != 0 && checksum::same(checksum::sum_words(&header), 0))
}

/// Explicit congestion notification (RFC 3168): it has met a queue.
const CONGESTED: u8 = 3;
/// Its ends do not speak of it.
const NOT_CAPABLE: u8 = 0;
/// They do, in the other of two ways.
const CAPABLE_1: u8 = 1;
const CAPABLE_0: u8 = 2;

/// The field of the IP packet behind an ethertype at an offset; that of others is none.
#[inline(always)]
fn ecn<P: Packet>(packet: &P, ethertype_at: usize) -> u8 {
    match packet.load::<Be16>(ethertype_at).map(Be16::get) {
        Some(ETHERTYPE_IPV4) => packet.load::<u8>(ethertype_at + 3).unwrap_or(0) & CONGESTED,
        Some(ETHERTYPE_IPV6) => {
            packet.load::<Be16>(ethertype_at + 2).map_or(0, |word| (word.get() >> 4) as u8 & CONGESTED)
        }
        _ => NOT_CAPABLE,
    }
}

/// What the inner field becomes, if it changes (RFC 6040 §4.2).
#[inline(always)]
const fn decapsulated(outer: u8, inner: u8) -> Result<Option<u8>, DropReason> {
    match (outer, inner) {
        (CONGESTED, NOT_CAPABLE) => Err(DropReason::Congested),
        (CONGESTED, CONGESTED) => Ok(None),
        (CONGESTED, _) => Ok(Some(CONGESTED)),
        (CAPABLE_1, CAPABLE_0) => Ok(Some(CAPABLE_1)),
        _ => Ok(None),
    }
}

/// Writes the inner field, while the frame is inside.
#[inline(always)]
fn set_ecn<P: Packet>(packet: &mut P, mark: u8) -> Option<()> {
    let old: Be16 = packet.load(INNER_IP)?;
    if packet.load::<Be16>(INNER_TYPE)?.get() == ETHERTYPE_IPV4 {
        let new = Be16::new(old.get() & !u16::from(CONGESTED) | u16::from(mark));
        let sum: Be16 = packet.load(INNER_IP + 10)?;
        packet.store(INNER_IP, new)?;
        packet.store(INNER_IP + 10, checksum::apply(sum, checksum::delta(old.raw(), new.raw())))
    } else {
        let new = Be16::new(old.get() & !(u16::from(CONGESTED) << 4) | u16::from(mark) << 4);
        packet.store(INNER_IP, new)?;
        packet.sum_changed(checksum::delta(old.raw(), new.raw()));
        Some(())
    }
}

/// What is to be in front of a frame, as it is on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outer {
    /// All but the last two bytes.
    pub words: [u32; 12],
    /// Those.
    pub last: u16,
    /// Zero.
    pub pad: u16,
}

/// What the headers in front of a frame take from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Its length in bytes.
    pub length: usize,
    /// The UDP source port, which is that of all packets of its flow, and of no others if chance will (RFC 7348 §5).
    pub source_port: u16,
    /// Its field of congestion notification (RFC 6040 §4.1).
    pub ecn: u8,
}

impl Inner {
    /// Those of a frame.
    #[inline(always)]
    pub fn of<P: Packet>(packet: &P) -> Self {
        const LEAST: u16 = 49_152;
        let hash = hash(packet).unwrap_or(0).wrapping_mul(0x9e37_79b1);
        Self {
            length: packet.length(),
            source_port: LEAST + (hash >> 18) as u16,
            ecn: ecn(packet, ETHERNET - 2),
        }
    }
}

/// A number that is the same for all frames of a flow.
#[inline(always)]
fn hash<P: Packet>(packet: &P) -> Option<u32> {
    let (addresses, protocol, l4) = match packet.load::<Be16>(ETHERNET - 2)?.get() {
        ETHERTYPE_IPV4 => {
            let [src, dst]: [u32; 2] = packet.load(ETHERNET + 12)?;
            let fragment: Be16 = packet.load(ETHERNET + 6)?;
            let is_whole = packet.load(ETHERNET) == Some(0x45u8) && fragment.get() & FRAGMENT == 0;
            let protocol: u8 = packet.load(ETHERNET + 9)?;
            (src ^ dst.rotate_left(7), if is_whole { protocol } else { 0 }, ETHERNET + Ipv4::HEADER)
        }
        ETHERTYPE_IPV6 => {
            let mut sum = 0u32;
            for word in packet.load::<[u32; 8]>(ETHERNET + 8)? {
                sum = sum.rotate_left(5) ^ word;
            }
            (sum, packet.load(ETHERNET + 6)?, ETHERNET + 40)
        }
        _ => {
            let [a, b, c]: [u32; 3] = packet.load(0)?;
            (a ^ b ^ c, 0, 0)
        }
    };
    let ports: u32 = match protocol {
        protocol::TCP | protocol::UDP => packet.load(l4)?,
        _ => 0,
    };
    let mixed = (addresses ^ u32::from(protocol)).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ mixed >> 15 ^ ports).wrapping_mul(0xc2b2_ae35);
    Some(mixed ^ mixed >> 16)
}

impl Outer {
    /// Writes the headers of a frame on its way to a remote end.
    #[inline(always)]
    pub fn write(&mut self, tunnel: &Tunnel, inner: &Inner, remote: Ipv4, macs: MacPair) {
        // What is longer will be cut, and said anew of each piece.
        let total = (inner.length + OUTER - IP).min(usize::from(u16::MAX)) as u16;
        let udp = total - Ipv4::HEADER as u16;
        let (Ipv4([src]), Ipv4([dst])) = (tunnel.local, remote);
        let MacPair([a, b, c]) = macs;
        let pair = |first: u16, second: u16| {
            let ([a, b], [c, d]) = (first.to_be_bytes(), second.to_be_bytes());
            u32::from_ne_bytes([a, b, c, d])
        };
        let first = pair(0x4500 | u16::from(inner.ecn), total);
        let second = pair(0, DONT_FRAGMENT);
        let third = pair(u16::from_be_bytes([TTL, protocol::UDP]), 0);
        let sum = checksum::sum_words(&[first, second, third, src, dst]);
        let sum = Be16::from_raw(!sum).get();
        let (src, dst) = (u32::from_be(src), u32::from_be(dst));
        let vni = tunnel.vni;
        self.words = [
            a,
            b,
            c,
            pair(ETHERTYPE_IPV4, 0x4500 | u16::from(inner.ecn)),
            pair(total, 0),
            pair(DONT_FRAGMENT, u16::from_be_bytes([TTL, protocol::UDP])),
            pair(sum, (src >> 16) as u16),
            pair(src as u16, (dst >> 16) as u16),
            pair(dst as u16, inner.source_port),
            pair(tunnel.udp_port.get(), udp),
            pair(0, u16::from_be_bytes([HAS_VNI, 0])),
            pair(0, (vni >> 8) as u16),
        ];
        self.last = ((vni as u16) << 8).to_be();
    }
}

/// The remote end that a frame is for, if it is known.
#[inline(always)]
pub fn remote_of<P: Packet, T: Tunnels>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    tunnel: &Tunnel,
) -> Option<Ipv4> {
    if tunnel.remotes == 1 {
        return tables.remote_at(&RemoteIndex { ifindex, index: 0 });
    }
    let mac: [u8; 6] = packet.load(0)?;
    if is_group(mac) {
        return None;
    }
    let remote = tables.station(&StationKey { ifindex, mac, pad: [0; 2] })?;
    // It may have been taken away since.
    tables.remote(&RemoteKey { ifindex, address: remote }).map(|_| remote)
}

/// The Ethernet addresses of packets to a remote end: those that were found last, or those that the kernel says.
#[inline(always)]
pub fn way_to<T: Tunnels>(tables: &T, ifindex: u32, tunnel: &Tunnel, remote: Ipv4) -> Option<MacPair> {
    let key = RemoteKey { ifindex, address: remote };
    let known = tables.remote(&key)?;
    let (now, generation) = (tables.now(), tables.config().generation);
    if known.resolved != 0 && known.generation == generation && now.wrapping_sub(known.resolved) < BELIEVED {
        return Some(known.macs);
    }
    let query = RouteQuery {
        ingress: tunnel.underlay,
        egress: tunnel.underlay,
        src: tunnel.local,
        dst: remote,
        protocol: protocol::UDP,
    };
    let Route::Via(next_hop) = tables.route(&query) else { return None };
    if next_hop.flags & NextHop::RESOLVED == 0 || next_hop.ifindex != tunnel.underlay {
        return None;
    }
    tables.set_way(&key, next_hop.macs, now, generation);
    Some(next_hop.macs)
}

/// Puts a frame that is to leave by a port's own interface into a packet to the remote end that it is for. Without
/// knowing which, only one that can copy frames can send it.
///
/// # Errors
/// The remote end or the way to it is not known.
#[inline(always)]
pub fn put_in<P: Packet, T: Tunnels>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    room: &mut Outer,
) -> Result<Leaving, DropReason> {
    let tunnel = tables.tunnel(ifindex).ok_or(DropReason::RewriteFailed)?;
    let remote = remote_of(packet, tables, ifindex, &tunnel).ok_or(DropReason::NoWayToVtep)?;
    let macs = way_to(tables, ifindex, &tunnel, remote).ok_or(DropReason::NoWayToVtep)?;
    room.write(&tunnel, &Inner::of(packet), remote, macs);
    packet.put_in(room).ok_or(DropReason::RewriteFailed)?;
    Ok(Leaving::By(tunnel.underlay))
}
