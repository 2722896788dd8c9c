//! Step 4: what a flow's packets become, and making them so.
//!
//! The slow path finds the destination, then the source, and compiles both into a [`Rewrite`]; the
//! fast path has nothing left to decide.

use router_common::config::RouterConfig;
use router_common::flow::{FlowEntry, FlowKey, Rewrite};
use router_common::nat::{
    self, Binding, BindingKey, DestinationKey, ExternalKey, ForwardKey, GuestKey, Internal, SourceKey,
};
use router_common::net::{Address, Be16, Ipv4};
use router_common::port::{LocalKey, Port, Role};
use router_common::verdict::DropReason;

use crate::checksum;
use crate::conntrack::{Arrival, Opening, WayOut};
use crate::family::Family;
use crate::icmp;
use crate::packet::{ChecksumPatch, Packet};
use crate::parse::{Header, Parsed, Transport};
use crate::ports::{self, PortPool};
use crate::tables::{Flows, Tables};

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

/// Where a packet is really for. Always whole: of an optional one LLVM would move parts that were never
/// written, which the kernel's verifier refuses.
#[derive(Clone, Copy, Debug)]
pub struct Destination<A> {
    /// The guest, or the packet's own destination.
    pub address: A,
    /// Its port.
    pub port: Be16,
    /// Whether that is by translation.
    pub is_translated: bool,
    /// Whether another flow of the guest has announced it: it belongs to that, whatever a list says.
    pub is_expected: bool,
}

/// Destination NAT of a flow's first packet: what a helper expects, static NAT, port forwarding, then the bindings of
/// other guests (hairpin, RFC 4787 REQ-9) and, where that is asked for, of anybody.
#[inline(always)]
pub fn destination<A: Family, T: Flows<A>>(tables: &T, arrival: &Arrival<A>) -> Destination<A> {
    let key = &arrival.key;
    let mut destination = Destination::itself(key);
    let (Some(address), Some(source)) = (key.dst.to_ipv4(), key.src.to_ipv4()) else { return destination };
    let (router, protocol, port) = (key.router, key.protocol, key.dst_port);
    let external = ExternalKey { external: address, port, router, protocol, pad: [0; 3] };
    if has_ports(arrival.transport)
        && let Some(expected) = tables.expected(&external)
        && expected.peer == source
        && arrival.now < expected.until
    {
        destination.translate(expected.guest, expected.port);
        destination.is_expected = true;
        return destination;
    }
    if let Some(guest) = tables.static_in(&LocalKey { address, router, pad: [0; 2] }) {
        destination.translate(guest.address, key.dst_port);
        return destination;
    }
    if !has_ports(arrival.transport) {
        return destination;
    }
    if let Some(mut forward) = tables.forward(&ForwardKey { address, router, protocol, pad: 0, port, end: 0 })
    {
        if forward.group != 0 {
            let group = forward.group.to_be_bytes();
            if let Some(member) = tables.forward_by_source(&SourceKey { group, source }) {
                forward = member;
            }
        }
        if forward.address != Ipv4::UNSPECIFIED {
            let offset = if forward.to_one != 0 { 0 } else { port.get().wrapping_sub(forward.first_public) };
            destination.translate(forward.address, Be16::new(forward.first_internal.wrapping_add(offset)));
            return destination;
        }
    }
    let is_open = tables.config().flags & RouterConfig::OPEN_BINDINGS != 0;
    if (arrival.role == Role::Guest as u8 || is_open)
        && let Some(internal) = tables.external(&external)
    {
        destination.translate(internal.address, internal.port);
    }
    destination
}

impl Destination<Ipv4> {
    /// As one number, for the programs: bits 0 to 15 the port, bit 16 whether it is translated, bit 17
    /// whether it is expected, bits 32 to 63 the address.
    #[inline(always)]
    pub const fn to_number(self) -> u64 {
        (self.address.to_host() as u64) << 32
            | (self.is_expected as u64) << 17
            | (self.is_translated as u64) << 16
            | self.port.get() as u64
    }

    /// The reverse.
    #[inline(always)]
    pub const fn from_number(number: u64) -> Self {
        Self {
            address: Ipv4([((number >> 32) as u32).to_be()]),
            port: Be16::new(number as u16),
            is_translated: number & 0x1_0000 != 0,
            is_expected: number & 0x2_0000 != 0,
        }
    }
}

impl<A: Copy> Destination<A> {
    /// The packet's own.
    #[inline(always)]
    pub const fn itself(key: &FlowKey<A>) -> Self {
        Self { address: key.dst, port: key.dst_port, is_translated: false, is_expected: false }
    }
}

impl<A: Family> Destination<A> {
    #[inline(always)]
    fn translate(&mut self, address: Ipv4, port: Be16) {
        if let Some(address) = A::from_ipv4(address) {
            (self.address, self.port, self.is_translated) = (address, port, true);
        }
    }
}

#[inline(always)]
const fn has_ports(transport: Transport) -> bool {
    matches!(transport, Transport::Tcp | Transport::Udp)
}

/// How the source port of a translated flow is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// It stays as it is: static NAT, and protocols without ports or with checksums that we
    /// cannot mend.
    Kept,
    /// Any that leaves the flow's own tuple unique, the guest's own first. Also where no port is
    /// left for a binding: then flows to different destinations share one.
    PerFlow,
    /// The binding's, which is the same for every destination.
    Bound,
}

/// What source NAT does to a flow.
#[derive(Clone, Copy, Debug)]
pub struct Source<A> {
    /// The address it leaves with, if it is translated.
    pub address: Option<A>,
    /// How its port is found.
    pub choice: PortChoice,
    /// The binding's port, once there is one.
    pub port: Be16,
    /// The pool that its ports are of; 0 for none.
    pub pool: u32,
}

impl<A> Source<A> {
    /// The flow keeps its source.
    const NONE: Self = Self { address: None, choice: PortChoice::Kept, port: Be16::from_raw(0), pool: 0 };
}

/// What becomes of the source of a guest's new IPv4 flow that leaves by a port; Flows of anybody else keep their source.
#[inline(always)]
pub fn source<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    egress: &Port,
    way_out: &WayOut,
    destination: &Destination<A>,
) -> Source<A> {
    let Some(guest) = arrival.key.src.to_ipv4() else { return Source::NONE };
    if arrival.role != Role::Guest as u8 {
        return Source::NONE;
    }
    if egress.role == Role::Guest as u8 {
        return match destination.is_translated {
            true => hairpin(tables, arrival, egress, guest),
            false => Source::NONE,
        };
    }
    if way_out.static_nat != Ipv4::UNSPECIFIED {
        return Source { address: A::from_ipv4(way_out.static_nat), ..Source::NONE };
    }
    if keeps_source(tables, arrival, destination.address) {
        return Source::NONE;
    }
    dynamic(arrival, egress)
}

/// Whether a guest keeps its source towards a destination (RFC 6888 REQ-6), static NAT or not.
#[inline(always)]
pub fn keeps_source<A: Family, T: Flows<A>>(tables: &T, arrival: &Arrival<A>, destination: A) -> bool {
    if tables.config().flags & RouterConfig::UNTRANSLATED == 0 {
        return false;
    }
    let router = arrival.key.router;
    let is_it = |address| tables.is_untranslated(&DestinationKey { router, pad: 0, address });
    destination.to_ipv4().is_some_and(is_it)
}

/// A guest calls another by a public address. The answers have to come back through the router:
/// within a tier they would not without source NAT.
#[inline(always)]
fn hairpin<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    egress: &Port,
    guest: Ipv4,
) -> Source<A> {
    if tables.config().flags & RouterConfig::HAIRPIN_EXTERNAL == 0 {
        if egress.slot != arrival.slot || egress.address == Ipv4::UNSPECIFIED {
            return Source::NONE;
        }
        let choice = choice(arrival.transport, PortChoice::PerFlow);
        return Source { address: A::from_ipv4(egress.address), choice, ..Source::NONE };
    }
    let router = arrival.key.router;
    if let Some(public) = tables.static_out(&LocalKey { address: guest, router, pad: [0; 2] }) {
        return Source { address: A::from_ipv4(public.address), ..Source::NONE };
    }
    // As it would be seen on the public port that has the address it called.
    let called = LocalKey { address: arrival.key.dst, router, pad: [0; 2] };
    let public = tables.local(&called).and_then(|local| tables.port(local.ifindex));
    match public {
        Some(public) => dynamic(arrival, &public),
        None => Source::NONE,
    }
}

/// Source NAT to the address of a port.
#[inline(always)]
fn dynamic<A: Family>(arrival: &Arrival<A>, egress: &Port) -> Source<A> {
    if egress.source_nat == Ipv4::UNSPECIFIED {
        return Source::NONE;
    }
    let wanted = if arrival.flags & Port::SYMMETRIC != 0 { PortChoice::PerFlow } else { PortChoice::Bound };
    let pool = nat::pool_index(egress.slot, arrival.key.protocol);
    Source {
        address: A::from_ipv4(egress.source_nat),
        choice: if pool.is_none() { PortChoice::Kept } else { choice(arrival.transport, wanted) },
        port: Be16::from_raw(0),
        pool: pool.unwrap_or(0),
    }
}

#[inline(always)]
const fn choice(transport: Transport, wanted: PortChoice) -> PortChoice {
    match transport {
        Transport::Tcp | Transport::Udp | Transport::IcmpQuery => wanted,
        _ => PortChoice::Kept,
    }
}

/// Finds or makes the binding of a new flow, and leaves its port in the opening. Where no port is
/// left the flow shares one instead. A flow that has an external port without a binding is counted as one.
///
/// # Errors
/// The guest has as many external ports as it may have.
#[inline(always)]
pub fn bind<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    opening: &mut Opening<A>,
) -> Result<(), DropReason> {
    let key = &arrival.key;
    let source = &mut opening.source;
    let (Some(internal), Some(external)) = (key.src.to_ipv4(), source.address.and_then(A::to_ipv4)) else {
        return Ok(());
    };
    if source.choice != PortChoice::Bound {
        return if source.pool == 0 { Ok(()) } else { admit(tables, key, internal) };
    }
    source.choice = PortChoice::PerFlow;
    let binding_key = BindingKey {
        internal,
        external,
        port: key.src_port,
        router: key.router,
        protocol: key.protocol,
        pad: [0; 3],
    };
    if let Some(port) = tables.binding(&binding_key, arrival.now) {
        (source.port, source.choice) = (port, PortChoice::Bound);
        return Ok(());
    }
    let Some(pool) = tables.pool(source.pool) else { return Ok(()) };
    admit(tables, key, internal)?;
    let Some(port) = ports::take(&pool, key.src_port.get(), tables.random()) else {
        if tables.config().flags & RouterConfig::REFUSE_EXHAUSTED != 0 {
            return Err(DropReason::NoFreePort);
        }
        pool.count_shared();
        return Ok(());
    };
    let external_key = ExternalKey {
        external,
        port: Be16::new(port),
        router: key.router,
        protocol: key.protocol,
        pad: [0; 3],
    };
    // The external end first: a binding never exists without it.
    let whose = Internal { address: internal, port: key.src_port, pad: 0 };
    let binding = Binding { last_used: arrival.now, port: Be16::new(port), pad: [0; 6] };
    let written = tables
        .set_external(&external_key, &whose)
        .and_then(|()| tables.insert_binding(&binding_key, &binding));
    if written.is_ok() {
        (source.port, source.choice) = (Be16::new(port), PortChoice::Bound);
        return Ok(());
    }
    tables.remove_external(&external_key);
    ports::give_back(&pool, port);
    // Another CPU was faster with the same socket: its binding counts, and is counted. Or there is no room.
    if let Some(port) = tables.binding(&binding_key, arrival.now) {
        (source.port, source.choice) = (port, PortChoice::Bound);
        if tables.config().ports_per_guest != 0 {
            tables.discount_port(&guest(key, internal));
        }
    }
    Ok(())
}

/// Counts one more external port of a guest, where that is limited. What becomes of it is not followed
/// up here: the control side counts anew every few seconds (`dataplane::guests`).
#[inline(always)]
fn admit<A, T: Tables>(tables: &T, key: &FlowKey<A>, internal: Ipv4) -> Result<(), DropReason> {
    let limit = tables.config().ports_per_guest;
    if limit == 0 {
        return Ok(());
    }
    let guest = guest(key, internal);
    if tables.count_port(&guest) <= u64::from(limit) {
        return Ok(());
    }
    tables.discount_port(&guest);
    Err(DropReason::GuestLimit)
}

#[inline(always)]
const fn guest<A>(key: &FlowKey<A>, address: Ipv4) -> GuestKey {
    GuestKey { address, router: key.router, protocol: key.protocol, pad: 0 }
}

impl<A: Family> Source<A> {
    /// Whether anything is translated.
    #[inline(always)]
    pub const fn is_translated(&self) -> bool {
        self.address.is_some()
    }

    /// The source port of an attempt to open the flow, and whether it is a binding's; `None` when
    /// there is nothing more to try.
    #[inline(always)]
    pub fn candidate<T: Tables>(&self, tables: &T, key: &FlowKey<A>, attempt: u32) -> Option<(Be16, bool)> {
        let own = key.src_port;
        let config = tables.config();
        let is_the_routers = |port: u16| config.own_ports_first <= port && port <= config.own_ports_last;
        match self.choice {
            PortChoice::Kept => return (attempt == 0 || !self.is_translated()).then_some((own, false)),
            PortChoice::Bound if attempt == 0 => return Some((self.port, true)),
            PortChoice::PerFlow if attempt == 0 && !is_the_routers(own.get()) => return Some((own, false)),
            _ => {}
        }
        let random = tables.random();
        let (base, size) = if own.get() < 1024 { (512, 512) } else { (1024, u32::from(u16::MAX) + 1 - 1024) };
        let port = (base + random % size) as u16;
        let port = (port & !1) | (own.get() & 1);
        if is_the_routers(port) {
            // Below the router's own range, same parity.
            return Some((
                Be16::new(port - (RouterConfig::OWN_PORTS.1 - RouterConfig::OWN_PORTS.0 + 1)),
                false,
            ));
        }
        Some((Be16::new(port), false))
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
    if !A::TRANSLATED || !flow.is_translated() {
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
        Transport::IcmpError | Transport::Other | Transport::LaterFragment => Some(()),
    }
}

/// The identifier of an ICMP query. No hardware finishes ICMP checksums, and IPv4's covers no
/// pseudo header.
#[inline(always)]
fn identifier<P: Packet>(packet: &mut P, l4: usize, identifier: Be16, patch: ChecksumPatch) -> Option<()> {
    packet.store(l4 + 4, identifier)?;
    checksum::patch_in_place(packet, ChecksumPatch { offset: l4 + 2, addresses: 0, ..patch })
}
