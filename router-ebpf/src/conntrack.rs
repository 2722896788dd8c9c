//! Step 3: which flow a packet belongs to, and what the first one decides for all that follow.
//!
//! A flow is two `FlowEntry`s, one per direction, each complete: the fast path reads one entry
//! and nothing else. [`decide`] is the slow path: it opens a flow, or looks the way out of a
//! known one up again when what it rests on has moved. Ageing is the control side's
//! (`dataplane::expiry`).
//!
//! Invariant: an entry never exists without its reverse. The reply goes in first, and going in
//! is what claims its tuple, so a lost race leaves an unused reply, never half a flow and never
//! two guests behind one tuple.

use router_common::config::RouterConfig;
use router_common::flow::{Direction, Draft, FlowEntry, FlowKey, NextHop, tick};
use router_common::net::{Be16, Ipv4};
use router_common::policy::NO_LIST;
use router_common::port::{Local, LocalKey, Role};
use router_common::usage;
use router_common::verdict::{DropReason, PuntReason};

use crate::family::{Family, Scope};
use crate::forward;
use crate::helper;
use crate::nat::{self, Ends, PortChoice};
use crate::parse::{Transport, tcp_flags};
use crate::tables::{Flows, InsertError, Route, RouteQuery};

/// How long a way out is believed without asking the kernel again, in nanoseconds, where nobody tells of changes: no
/// daemon runs.
pub const BELIEVED: u64 = 1_000_000_000;

/// How long where somebody does ([`RouterConfig::attended`]): covers what the kernel tells nobody. Flows whose
/// packets are seconds apart would look their way out up with each of them otherwise.
pub const TOLD: u64 = 60_000_000_000;

/// A packet at the door of the flow table: all that the slow path needs of it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<A> {
    /// The flow it belongs to.
    pub key: FlowKey<A>,
    /// Now, nanoseconds.
    pub now: u64,
    /// Interface it came in by.
    pub ifindex: u32,
    /// The settings' generation.
    pub generation: u32,
    /// The counters' row of the port it came in by.
    pub slot: u32,
    /// [`Role`] of that port, as a number.
    pub role: u8,
    /// [`Port::flags`](router_common::port::Port::flags) of that port.
    pub flags: u8,
    /// What carries its ports.
    pub transport: Transport,
    /// Type and code of an ICMP query, else anything.
    pub icmp: Be16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// XDP's: what the kernel is to have comes again, in TC.
    pub is_early: bool,
    /// Length of the IP packet.
    pub bytes: u32,
}

/// What the slow path came to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The flow is in the table, its way out looked up.
    Flow,
    /// So it is, and its helper has to see the packet.
    Help,
    /// The fragment's datagram, and with it the ports.
    Found,
    /// The fragment waits, or it and others come in again.
    Held,
    /// The kernel's.
    Punt(PuntReason),
}

/// Whether a known flow needs no decision for a packet that comes in by an interface, and its way out may be believed.
/// One that a helper reads along with always does.
#[inline(always)]
pub fn is_fresh<A>(
    flow: &FlowEntry<A>,
    next_hop: &NextHop,
    ifindex: u32,
    now: u64,
    config: &RouterConfig,
) -> bool {
    let age = tick(now).wrapping_sub(flow.resolved);
    let is_attended = || config.attended.wrapping_sub(tick(now)).cast_signed() > 0;
    flow.generation == config.generation as u16
        && flow.translation & FlowEntry::<A>::HELPED == 0
        && next_hop.flags & NextHop::RESOLVED != 0
        && (age < tick(BELIEVED) || age < tick(TOLD) && is_attended())
        && flow.ingress == ifindex
}

/// The slow path.
#[inline(always)]
pub fn decide<A: Family, T: Flows<A>>(tables: &T, arrival: &Arrival<A>) -> Result<Decision, DropReason> {
    let key = &arrival.key;
    let Some(flow) = tables.flow(key) else { return open(tables, arrival) };
    if !comes_as_expected(&*flow, arrival) {
        return Err(DropReason::WrongPort);
    }
    if !address_is_ours(tables, key, &*flow) {
        return reopen(tables, arrival, &*flow);
    }
    let next_hop = match route(tables, arrival, flow.rewrite.dst, pinned(tables, key, &*flow)) {
        Route::Via(next_hop) => next_hop,
        Route::Refused => return Err(DropReason::RouteRefuses),
        Route::Nowhere if flow.translation & FlowEntry::<A>::DESTINATION != 0 => {
            return Err(DropReason::RouteRefuses);
        }
        Route::Nowhere => return Ok(Decision::Punt(PuntReason::NoRoute)),
    };
    // A flow that would now leave by another port was translated for the old one, or was not
    // translated because of it: nothing may leave untranslated, so it is opened anew.
    let moved = flow.egress != 0 && flow.egress != next_hop.ifindex;
    if moved && flow.direction == Direction::Original as u8 {
        return reopen(tables, arrival, &*flow);
    }
    let next_hop = forward::by_port(tables, next_hop)?;
    let number = tables.keep_next_hop(&next_hop).ok_or(DropReason::NextHopTableFull)?;
    tables.set_next_hop(&flow, next_hop.ifindex, number, arrival);
    Ok(helper::decision(flow.translation, arrival))
}

/// Forgets a flow and opens it as if it were new.
#[inline(always)]
fn reopen<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    flow: &FlowEntry<A>,
) -> Result<Decision, DropReason> {
    tables.remove(&reply_key(&arrival.key, flow));
    tables.remove(&arrival.key);
    open(tables, arrival)
}

/// Whether the address that a flow is translated to, or from, is still the router's: CloudStack
/// may have given it to somebody else.
#[inline(always)]
fn address_is_ours<A: Family, T: Flows<A>>(tables: &T, key: &FlowKey<A>, flow: &FlowEntry<A>) -> bool {
    let address = match flow.translation & (FlowEntry::<A>::SOURCE | FlowEntry::<A>::DESTINATION) {
        0 => return true,
        FlowEntry::<A>::DESTINATION => key.dst,
        _ => flow.rewrite.src,
    };
    tables.local(&LocalKey { address, router: key.router, pad: [0; 2] }).is_some()
}

/// The kernel's route for a packet, by a certain interface if it has one there.
#[inline(always)]
fn route<A: Family, T: Flows<A>>(tables: &T, arrival: &Arrival<A>, dst: A, egress: u32) -> Route {
    let key = &arrival.key;
    tables.route(&RouteQuery { ingress: arrival.ifindex, egress, src: key.src, dst, protocol: key.protocol })
}

/// The interface that a flow's packets leave by if it has a route there, 0 for any.
#[inline(always)]
fn pinned<A: Family, T: Flows<A>>(tables: &T, key: &FlowKey<A>, flow: &FlowEntry<A>) -> u32 {
    if flow.translation & FlowEntry::<A>::PINNED == 0 {
        return 0;
    }
    tables.flow(&reply_key(key, flow)).map_or(0, |other| other.ingress)
}

/// The key of the flow's other direction.
#[inline(always)]
pub fn reply_key<A: Copy>(key: &FlowKey<A>, flow: &FlowEntry<A>) -> FlowKey<A> {
    let rewrite = &flow.rewrite;
    FlowKey {
        src: rewrite.dst,
        dst: rewrite.src,
        src_port: rewrite.dst_port,
        dst_port: rewrite.src_port,
        ..*key
    }
}

/// Whether a flow's packets may come in here: by the very port on a guest's side, since tenants
/// do not take part in each other's flows; by any port of the same kind elsewhere, since the
/// Internet's ways back are its own.
#[inline(always)]
fn comes_as_expected<A>(flow: &FlowEntry<A>, arrival: &Arrival<A>) -> bool {
    flow.ingress == arrival.ifindex
        || (arrival.role == Role::Public as u8 && flow.ingress_role == Role::Public as u8)
}

/// The first packet of a flow.
#[inline(always)]
fn open<A: Family, T: Flows<A>>(tables: &T, arrival: &Arrival<A>) -> Result<Decision, DropReason> {
    let key = &arrival.key;
    // What is for none of the router's own addresses is translated by no rule, no binding, no firewall's business.
    let own = tables.local(&LocalKey { address: key.dst, router: key.router, pad: [0; 2] });
    let destination = match own {
        Some(_) => tables.destination(arrival),
        None => nat::Destination::itself(key),
    };
    if !destination.is_translated
        && let Some(own) = own
    {
        return to_router(tables, arrival, own);
    }
    // Errors open nothing.
    if arrival.transport == Transport::IcmpError {
        return Err(DropReason::UnrelatedIcmpError);
    }
    // Nobody sends to himself by way of a router; such a flow would be its own reply.
    if key.src == key.dst {
        return Err(DropReason::Martian);
    }
    match (key.src.source_scope(), key.dst.destination_scope()) {
        (Scope::Martian, _) | (_, Scope::Martian) => return Err(DropReason::Martian),
        (_, Scope::Link) => return Ok(Decision::Punt(PuntReason::LinkScope)),
        (Scope::Link, Scope::Unicast) => return Err(DropReason::Martian),
        (Scope::Unicast, Scope::Unicast) => {}
    }
    // Who is outside reaches what is translated for it here, and nothing else (SEMANTICS T11).
    let is_inside = arrival.role == Role::Guest as u8 || destination.is_translated;
    if A::TRANSLATED && arrival.role == Role::Public as u8 && !is_inside {
        return Err(DropReason::NotPermitted);
    }
    if !comes_by_its_way_back(tables, arrival) {
        return Err(DropReason::SpoofedSource);
    }
    may_begin(arrival)?;
    let port = tables.port(arrival.ifindex).ok_or(DropReason::NoEgressPort)?;
    // What the kernel answers because its time has run out is counted where it is handed over.
    let comes_again = arrival.is_early && arrival.hop_limit <= 1;
    if !destination.is_expected {
        as_sent(tables, arrival, port.from_list, comes_again)?;
        if own.is_some() {
            as_sent_to_public(tables, arrival, comes_again)?;
        }
    }
    let way_out = match way_out(tables, arrival, destination.address)? {
        Some(way_out) => way_out,
        None if destination.is_translated => return Err(DropReason::RouteRefuses),
        None if !is_inside => return Err(DropReason::NotPermitted),
        None => return Ok(Decision::Punt(PuntReason::NoRoute)),
    };
    let egress = forward::egress(tables, &way_out.next_hop)?;
    let next_hop = forward::for_port(way_out.next_hop, &egress);
    // Nor does anybody else without a list that says so.
    if !is_inside && egress.to_list == NO_LIST {
        return Err(DropReason::NotPermitted);
    }
    let to = (destination.address, destination.port);
    if !destination.is_expected {
        let judged = ask(tables, arrival, egress.to_list, to, comes_again);
        // Which is what it would be told of without a list, too.
        if judged.is_err() && !is_inside {
            return Err(DropReason::NotPermitted);
        }
        judged?;
        if egress.role != Role::Guest as u8 {
            ask(tables, arrival, port.outside_list, to, comes_again)?;
        }
    }
    // Who may not pass is not told that its time has run out.
    if arrival.hop_limit <= 1 {
        return match destination.is_translated {
            false => Ok(Decision::Punt(PuntReason::TtlExceeded)),
            true => Err(DropReason::TtlExceeded),
        };
    }
    let source = nat::source(tables, arrival, &egress, &way_out, &destination);
    let is_translated = source.is_translated() || destination.is_translated;
    let helped = if is_translated { helper::flag(tables, key, destination.port) } else { 0 };
    tables.begin(&Opening {
        next_hop,
        number: 0,
        source,
        dst: destination.address,
        dst_port: destination.port,
        pinned: way_out.pinned,
        egress_role: egress.role,
        destination_translated: u8::from(destination.is_translated),
        helped,
        account: 0,
    });
    if source.choice != PortChoice::Kept {
        tables.bind()?;
    }
    tables.enter();
    record(tables)?;
    Ok(helper::decision(helped, arrival))
}

/// Whether a list lets a packet pass, to where it is going as the list sees it. One that passes and comes again
/// is counted then.
#[inline(always)]
fn ask<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    list: u32,
    (dst, dst_port): (A, Be16),
    comes_again: bool,
) -> Result<(), DropReason> {
    if list == NO_LIST || tables.permits(arrival, list, (dst, dst_port), comes_again) {
        Ok(())
    } else {
        Err(DropReason::Policy)
    }
}

/// The list of the port that sees a packet as it is sent.
#[inline(always)]
fn as_sent<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    from_list: u32,
    comes_again: bool,
) -> Result<(), DropReason> {
    ask(tables, arrival, from_list, (arrival.key.dst, arrival.key.dst_port), comes_again)
}

/// That of the public address that a packet is for; guests are asked as well (SEMANTICS T8).
#[inline(always)]
fn as_sent_to_public<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    comes_again: bool,
) -> Result<(), DropReason> {
    let Some(address) = arrival.key.dst.to_ipv4() else { return Ok(()) };
    let public = LocalKey { address, router: arrival.key.router, pad: [0; 2] };
    as_sent(tables, arrival, tables.firewall(&public).unwrap_or(NO_LIST), comes_again)
}

/// Whether a packet begins a TCP connection.
#[inline(always)]
fn begins_connection<A>(arrival: &Arrival<A>) -> bool {
    use tcp_flags::{ACK, SYN};
    arrival.tcp_flags & (SYN | ACK) == SYN
}

/// Whether a packet for the router answers one of the router's own, or may belong to what the kernel knows.
#[inline(always)]
fn answers_router<A: Family, T: Flows<A>>(tables: &T, arrival: &Arrival<A>) -> bool {
    match arrival.transport {
        Transport::Tcp => !begins_connection(arrival),
        Transport::IcmpReply => true,
        Transport::Udp => is_own_socket(tables, arrival),
        _ => false,
    }
}

/// Whether a packet is for a port that the router keeps for its own sockets.
#[inline(always)]
fn is_own_socket<A: Family, T: Flows<A>>(tables: &T, arrival: &Arrival<A>) -> bool {
    let config = tables.config();
    (config.own_ports_first..=config.own_ports_last).contains(&arrival.key.dst_port.get())
}

/// What is for the router itself, by one of its own addresses.
#[inline(always)]
fn to_router<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    own: Local,
) -> Result<Decision, DropReason> {
    let is_stranger = arrival.role == Role::Public as u8 && begins_connection(arrival);
    // An error has the flow's key that it is about; the kernel knows which are its own.
    if arrival.transport != Transport::IcmpError
        && let Some(port) = tables.port(arrival.ifindex)
    {
        // Who is outside connects to what a list opens, and never to the router's own sockets, whose answers the list
        // lets in. The kernel's reset would end what a guest's SYN that is under way is about to begin (RFC 5382 REQ-4).
        if is_stranger && (port.own_list == NO_LIST || is_own_socket(tables, arrival)) {
            return Err(DropReason::NotPermitted);
        }
        if !answers_router(tables, arrival) {
            // The services that a network's own router has for it are open whatever its list says (SEMANTICS B.2.1).
            let from_list = if own.ifindex == arrival.ifindex { NO_LIST } else { port.from_list };
            as_sent(tables, arrival, from_list, arrival.is_early)?;
            as_sent_to_public(tables, arrival, arrival.is_early)?;
        }
        let to = (arrival.key.dst, arrival.key.dst_port);
        let judged = ask(tables, arrival, port.own_list, to, arrival.is_early);
        // Which is what it would be told of without a list, too.
        if judged.is_err() && is_stranger {
            return Err(DropReason::NotPermitted);
        }
        judged?;
    }
    Ok(Decision::Punt(PuntReason::ToRouter))
}

/// Whether an answer to the source would leave by the port that the packet came in by, strictly (RFC 3704
/// §2.2), but for public ports, which are one side: several providers' ways in need not be the ways out.
/// So no guest sends as another tier's or as the router, and nobody outside as a guest.
#[inline(always)]
fn comes_by_its_way_back<A: Family, T: Flows<A>>(tables: &T, arrival: &Arrival<A>) -> bool {
    let Route::Via(way_back) = route(tables, arrival, arrival.key.src, 0) else { return false };
    way_back.ifindex == arrival.ifindex
        || arrival.role == Role::Public as u8
            && tables.port(way_back.ifindex).is_some_and(|port| port.role == Role::Public as u8)
}

/// The way out of a new flow.
#[derive(Clone, Copy, Debug)]
pub struct WayOut {
    /// Where to.
    pub next_hop: NextHop,
    /// The interface that it has to be, 0 for any.
    pub pinned: u32,
    /// The guest's public address by static NAT, if it leaves with that.
    pub static_nat: Ipv4,
}

/// Where a flow's first packet leaves: by the routes, but a guest with static NAT that would leave by
/// a public port leaves by the one that has its address (SEMANTICS B.5). `None`: no route.
#[inline(always)]
fn way_out<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    dst: A,
) -> Result<Option<WayOut>, DropReason> {
    let mut way_out = WayOut { next_hop: NextHop::UNKNOWN, pinned: 0, static_nat: Ipv4::UNSPECIFIED };
    for _ in 0..2 {
        way_out.next_hop = match route(tables, arrival, dst, way_out.pinned) {
            Route::Via(next_hop) => next_hop,
            Route::Nowhere => return Ok(None),
            Route::Refused => return Err(DropReason::RouteRefuses),
        };
        if way_out.pinned != 0 || arrival.role != Role::Guest as u8 {
            break;
        }
        let Some(address) = arrival.key.src.to_ipv4() else { break };
        let guest = LocalKey { address, router: arrival.key.router, pad: [0; 2] };
        let Some(public) = tables.static_out(&guest) else { break };
        if forward::egress(tables, &way_out.next_hop)?.role != Role::Public as u8
            || nat::keeps_source(tables, arrival, dst)
        {
            break;
        }
        way_out.static_nat = public.address;
        if public.ifindex == way_out.next_hop.ifindex {
            break;
        }
        way_out.pinned = public.ifindex;
    }
    Ok(Some(way_out))
}

/// Whether a packet can be the first of a flow (SEMANTICS T17: what cannot be must not leave).
/// A bare acknowledgment can: after a restart that is how a long connection comes back.
#[inline(always)]
fn may_begin<A: Family>(arrival: &Arrival<A>) -> Result<(), DropReason> {
    use tcp_flags::{ACK, FIN, RST, SYN};
    match arrival.transport {
        Transport::Tcp => match arrival.tcp_flags & (SYN | ACK | FIN | RST) {
            SYN | ACK => Ok(()),
            _ => Err(DropReason::InvalidState),
        },
        Transport::IcmpReply | Transport::LaterFragment => Err(DropReason::InvalidState),
        Transport::Other if arrival.key.protocol == A::ICMP => Err(DropReason::IcmpUnsupported),
        _ => Ok(()),
    }
}

/// What is decided about a new flow.
#[derive(Clone, Copy, Debug)]
pub struct Opening<A> {
    /// Its way out.
    pub next_hop: NextHop,
    /// The number of its way out, once it has one; 0 before, and where there is no room.
    pub number: u16,
    /// What becomes of its source.
    pub source: nat::Source<A>,
    /// Its destination, translated if it is.
    pub dst: A,
    /// Its destination port, translated if it is.
    pub dst_port: Be16,
    /// The interface that it has to leave by, 0 for any.
    pub pinned: u32,
    /// [`Role`] of the port it leaves by, as a number.
    pub egress_role: u8,
    /// Whether its destination is translated.
    pub destination_translated: u8,
    /// [`FlowEntry::HELPED`] or 0.
    pub helped: u8,
    /// The counter of its packets, once there is one ([`usage::counter`]).
    pub account: u32,
}

/// Tries one source port after the other until one is free.
#[inline(always)]
fn record<A: Family, T: Flows<A>>(tables: &T) -> Result<(), DropReason> {
    for attempt in 0..nat::ATTEMPTS {
        match tables.claim(attempt)? {
            Claim::Granted => return Ok(()),
            Claim::Taken => {}
        }
    }
    Err(DropReason::NoFreePort)
}

/// What came of an attempt to open a flow.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is in the table.
    Granted,
    /// Another flow has the tuple.
    Taken,
}

/// One attempt to write both directions down.
#[inline(always)]
pub fn claim<A: Family, T: Flows<A>>(
    tables: &T,
    arrival: &Arrival<A>,
    opening: &Opening<A>,
    attempt: u32,
) -> Result<Claim, DropReason> {
    if opening.number == 0 {
        return Err(DropReason::NextHopTableFull);
    }
    let Opening { next_hop, source, dst, dst_port, .. } = opening;
    let key = &arrival.key;
    let (src_port, bound) = source.candidate(tables, key, attempt).ok_or(DropReason::NoFreePort)?;
    let src = source.address.unwrap_or(key.src);
    let (to_source, to_destination) = translations(arrival, opening, bound);
    let mut draft = tables.draft().ok_or(DropReason::FlowTableFull)?;
    let Draft { entry, reply_key } = &mut *draft;
    *reply_key = FlowKey { src: *dst, dst: src, src_port: *dst_port, dst_port: src_port, ..*key };
    // A flow cannot be its own reply, as that of a socket to its own binding would be.
    if *reply_key == *key {
        return Ok(Claim::Taken);
    }
    entry.last_seen = tick(arrival.now);
    entry.opened = tick(arrival.now);
    entry.account = usage::reverse(opening.account);
    entry.packets = 0;
    entry.bytes = 0;
    (entry.tcp_flags, entry.tcp_ack) = (0, 0);
    let back = Ends { src: key.dst, dst: key.src, src_port: key.dst_port, dst_port: key.src_port };
    entry.rewrite = nat::compile(reply_key, back);
    // Looked up when the first reply comes.
    (entry.egress, entry.next_hop) = (0, 0);
    entry.resolved = 0;
    entry.generation = arrival.generation as u16;
    entry.ingress = next_hop.ifindex;
    entry.ingress_role = opening.egress_role;
    entry.direction = Direction::Reply as u8;
    entry.translation = to_destination;
    match tables.insert(reply_key, entry) {
        Ok(()) => {}
        Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
        Err(InsertError::Exists) => {
            // Translated: the tuple is taken, the next one is to be tried. Untranslated: the
            // tuple is the flow's own, so what is there is left over from it, and makes room,
            // unless it answers another flow, of which the same ends call each other by NAT.
            if !source.is_translated()
                && opening.destination_translated == 0
                && tables.flow(reply_key).is_some_and(|flow| self::reply_key(reply_key, &*flow) == *key)
            {
                tables.remove(reply_key);
            }
            return Ok(Claim::Taken);
        }
    }
    entry.rewrite = nat::compile(key, Ends { src, dst: *dst, src_port, dst_port: *dst_port });
    entry.account = opening.account;
    (entry.egress, entry.next_hop) = (next_hop.ifindex, opening.number);
    entry.resolved = tick(arrival.now);
    entry.ingress = arrival.ifindex;
    entry.ingress_role = arrival.role;
    entry.direction = Direction::Original as u8;
    entry.translation = to_source;
    match tables.insert(key, entry) {
        Ok(()) => Ok(Claim::Granted),
        Err(InsertError::Exists) => {
            // Another CPU opened the same flow meanwhile: its entries stand, our claim goes, if it
            // is not theirs too.
            let theirs = tables.flow(key).is_some_and(|flow| self::reply_key(key, &*flow) == *reply_key);
            if !theirs {
                tables.remove(reply_key);
            }
            Ok(Claim::Granted)
        }
        Err(InsertError::Full) => {
            tables.remove(reply_key);
            Err(DropReason::FlowTableFull)
        }
    }
}

/// [`FlowEntry::translation`] of the original direction and of the reply.
#[inline(always)]
fn translations<A: Family>(arrival: &Arrival<A>, opening: &Opening<A>, bound: bool) -> (u8, u8) {
    let both = opening.helped | if bound { FlowEntry::<A>::BOUND } else { 0 };
    let (mut original, mut reply) = (both, both);
    if opening.pinned != 0 {
        original |= FlowEntry::<A>::PINNED;
    }
    // Answers leave by the public port that the question came in by (SEMANTICS A.3).
    if arrival.role == Role::Public as u8 {
        reply |= FlowEntry::<A>::PINNED;
    }
    if opening.source.is_translated() {
        original |= FlowEntry::<A>::SOURCE;
        reply |= FlowEntry::<A>::DESTINATION;
    }
    if opening.destination_translated != 0 {
        original |= FlowEntry::<A>::DESTINATION;
        reply |= FlowEntry::<A>::SOURCE;
    }
    (original, reply)
}
