//! Step 4: what a flow's packets become, and making them so.
//!
//! The slow path compiles a [`Rewrite`]; the fast path has nothing left to decide.

use router_common::config::RouterConfig;
use router_common::flow::{FlowEntry, FlowKey, Rewrite};
use router_common::net::{Address, Be16, Ipv4};
use router_common::port::{Port, Role};
use router_common::verdict::DropReason;

use crate::checksum;
use crate::family::Family;
use crate::icmp;
use crate::packet::{ChecksumPatch, Packet};
use crate::parse::{Header, Parsed, Transport};
use crate::tables::Tables;

/// How many ports are tried before a flow is refused.
pub const ATTEMPTS: u32 = 24;

/// Both ends of a packet after translation.
#[derive(Clone, Copy, Debug)]
pub struct Ends<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
}

/// What source NAT does to a flow.
#[derive(Clone, Copy, Debug)]
pub struct Source<A> {
    /// The address it leaves with, if it is translated.
    address: Option<A>,
    own_ports: (u16, u16),
}

/// Whether and where to a new flow's source is translated: IPv4 flows from guests to a port
/// that has a source NAT address.
#[inline(always)]
pub fn source<A: Family, T: Tables>(
    tables: &T,
    transport: Transport,
    egress: &Port,
) -> Result<Source<A>, DropReason> {
    let config = tables.config();
    let own_ports = (config.own_ports_first, config.own_ports_last);
    if !A::TRANSLATED || egress.source_nat == Ipv4::UNSPECIFIED || egress.role == Role::Guest as u8 {
        return Ok(Source { address: None, own_ports });
    }
    if transport == Transport::Other {
        return Err(DropReason::Untranslatable);
    }
    Ok(Source { address: A::from_ipv4(egress.source_nat), own_ports })
}

impl<A: Family> Source<A> {
    /// Whether anything is translated.
    #[inline(always)]
    pub const fn is_translated(&self) -> bool {
        self.address.is_some()
    }

    /// [`FlowEntry::translation`] of the original direction.
    #[inline(always)]
    pub const fn translation(&self) -> u8 {
        if self.is_translated() { FlowEntry::<A>::SOURCE } else { 0 }
    }

    /// [`FlowEntry::translation`] of the reply direction.
    #[inline(always)]
    pub const fn reply_translation(&self) -> u8 {
        if self.is_translated() { FlowEntry::<A>::DESTINATION } else { 0 }
    }

    /// The source port to try: the guest's own first (port preservation), then unpredictable
    /// ones of the same range and parity (RFC 4787 REQ-3a and REQ-4, RFC 7857 §9).
    #[inline(always)]
    pub fn candidate<T: Tables>(&self, tables: &T, key: &FlowKey<A>, attempt: u32) -> Be16 {
        let own = key.src_port;
        if !self.is_translated() || (attempt == 0 && !self.is_the_routers(own.get())) {
            return own;
        }
        let random = tables.random();
        let (base, size) = if own.get() < 1024 { (512, 512) } else { (1024, u32::from(u16::MAX) + 1 - 1024) };
        let port = (base + random % size) as u16;
        let port = (port & !1) | (own.get() & 1);
        if self.is_the_routers(port) {
            // Below the router's own range, same parity.
            return Be16::new(port - (RouterConfig::OWN_PORTS.1 - RouterConfig::OWN_PORTS.0 + 1));
        }
        Be16::new(port)
    }

    #[inline(always)]
    const fn is_the_routers(&self, port: u16) -> bool {
        self.own_ports.0 <= port && port <= self.own_ports.1
    }

    /// The ends of the flow's packets when they leave.
    #[inline(always)]
    pub fn ends(&self, key: &FlowKey<A>, port: Be16) -> Ends<A> {
        let src = self.address.unwrap_or(key.src);
        Ends { src, dst: key.dst, src_port: port, dst_port: key.dst_port }
    }

    /// The ends of the replies when they reach the guest.
    #[inline(always)]
    pub fn reply_ends(&self, key: &FlowKey<A>) -> Ends<A> {
        Ends { src: key.dst, dst: key.src, src_port: key.dst_port, dst_port: key.src_port }
    }
}

/// Compiles "packets with this key leave with these ends" into what is stored with the flow.
#[inline(always)]
pub fn compile<A: Address>(key: &FlowKey<A>, ends: Ends<A>) -> Rewrite<A> {
    Rewrite {
        src: ends.src,
        dst: ends.dst,
        src_port: ends.src_port,
        dst_port: ends.dst_port,
        address_delta: checksum::add(
            checksum::delta_words(key.src.words(), ends.src.words()),
            checksum::delta_words(key.dst.words(), ends.dst.words()),
        ),
        port_delta: checksum::add(
            checksum::delta(key.src_port.raw(), ends.src_port.raw()),
            checksum::delta(key.dst_port.raw(), ends.dst_port.raw()),
        ),
    }
}

/// Makes a packet what its flow says it becomes.
#[inline(always)]
pub fn rewrite<A: Header, P: Packet>(packet: &mut P, parsed: &Parsed<A>, flow: &FlowEntry<A>) -> Option<()> {
    if !A::TRANSLATED || flow.translation == 0 {
        return Some(());
    }
    if parsed.transport == Transport::IcmpError {
        return icmp::translate(packet, parsed.l3, parsed.l4, flow);
    }
    let Rewrite { src, dst, src_port, dst_port, address_delta, port_delta } = flow.rewrite;
    A::store_addresses(packet, parsed.l3, (src, dst), address_delta)?;
    let l4 = parsed.l4;
    let patch =
        ChecksumPatch { offset: l4, addresses: address_delta, ports: port_delta, zero_is_none: false };
    match parsed.transport {
        Transport::Tcp => {
            packet.store(l4, [src_port, dst_port])?;
            packet.patch_checksum(ChecksumPatch { offset: l4 + 16, ..patch })
        }
        Transport::Udp => {
            packet.store(l4, [src_port, dst_port])?;
            packet.patch_checksum(ChecksumPatch { offset: l4 + 6, zero_is_none: true, ..patch })
        }
        Transport::IcmpQuery => identifier(packet, l4, src_port, patch),
        Transport::IcmpReply => identifier(packet, l4, dst_port, patch),
        Transport::IcmpError | Transport::Other => Some(()),
    }
}

/// The identifier of an ICMP query. No hardware finishes ICMP checksums, and IPv4's covers no
/// pseudo header.
#[inline(always)]
fn identifier<P: Packet>(packet: &mut P, l4: usize, identifier: Be16, patch: ChecksumPatch) -> Option<()> {
    packet.store(l4 + 4, identifier)?;
    checksum::patch_in_place(packet, ChecksumPatch { offset: l4 + 2, addresses: 0, ..patch })
}
