//! The walk: a packet's whole journey, top to bottom.
//!
//! ```text
//! tags → parse → classify → conntrack → (nat, forward: what the first packet of a flow decides)
//!                         → checks → rewrite → forward → account → tags
//! ```
//!
//! A known flow's packet costs one flow lookup and no decision. The first packet of a flow goes
//! through the steps twice: up to the flow table, where it leaves an
//! [`Arrival`] for the slow path ([`conntrack::decide`]), and then, its flow known, to the end. There are three ways out,
//! [`Verdict`], and every frame takes one of them and is counted there, once.
//!
//! In XDP [`express`](crate::express) stands in for the steps where nothing about a packet is odd: faster, with the same
//! end.
//!
//! The same walk is in the XDP and in the TC program. XDP is in front; what it cannot finish it
//! leaves, unchanged, to the TC walk behind it ([`DeferReason`]).

use core::ops::Deref;

use router_common::account::Hook;
use router_common::flow::{Direction, FlowEntry, NextHop};
use router_common::net::{Address, Ipv4, Ipv6};
use router_common::port::{Lane, Port};
use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};

use crate::conntrack::{self, Arrival, Decision};
use crate::family::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family};
use crate::packet::Packet;
use crate::parse::{self, ETHERNET, Header, Parsed, Transport, tcp_flags};
use crate::passage::{Decided, End, Passage, Question};
use crate::tables::{Activity, Flows, World};
use crate::tags;
use crate::tunnel::{self, Leaving, Opened};
use crate::{checksum, forward, nat, tcp_state};

/// What becomes of a frame.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Rewritten; to be sent out by an interface.
    Forward {
        /// Which one.
        ifindex: u32,
        /// Whether the Ethernet addresses are written, or the kernel has to find the neighbour.
        neighbour: Neighbour,
    },
    /// Rewritten; to be cut into pieces that its way out takes ([`crate::split`]), and those to be sent.
    Split {
        /// By which interface.
        ifindex: u32,
        /// As in `Forward`.
        neighbour: Neighbour,
    },
    /// Sent, in copies: nothing is left to do.
    Sent,
    /// Unchanged, to the kernel.
    Punt(PuntReason),
    /// Refused.
    Drop(DropReason),
    /// Refused, since it is larger than its way out takes and must not be cut: [`DropReason::TooBig`].
    TooBig {
        /// What that takes, in bytes of an IP packet.
        mtu: u16,
    },
    /// Unchanged, from XDP to TC.
    Defer(DeferReason),
}

/// Whether the next hop's Ethernet address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// And written into the frame.
    Resolved,
    /// So it is, and the frame is to get the tags of the port that it leaves by.
    Tagged,
    /// Not yet: the kernel resolves it and keeps the packet meanwhile (`bpf_redirect_neigh`).
    Unresolved,
}

impl Verdict {
    /// The outcome's place in a counter row.
    #[inline(always)]
    pub const fn outcome(self) -> u32 {
        match self {
            Self::Forward { .. } | Self::Split { .. } | Self::Sent => FORWARDED,
            Self::Punt(reason) => reason.outcome(),
            Self::Drop(reason) => reason.outcome(),
            Self::TooBig { .. } => DropReason::TooBig.outcome(),
            Self::Defer(reason) => reason.outcome(),
        }
    }

    /// To the kernel, by way of TC: XDP has no other way up.
    #[inline(always)]
    pub fn punt<P: Packet>(packet: &P, reason: PuntReason) -> Self {
        match packet.hook() {
            Hook::Xdp => Self::Defer(DeferReason::Punted),
            Hook::Tc => Self::Punt(reason),
        }
    }
}

/// What has become of a frame, and how it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Where its last passage has ended. What is left unchanged has its tags again where the hook is XDP; in TC it has
    /// none, and is the business of its port's own interface.
    pub passage: Passage,
    /// The own interface of the port that it came in by, or that which it came in by where it was no port's.
    pub port: u32,
}

/// A frame that came in by an interface: one passage through the steps, and another one each time that
/// the slow path had to decide something in between.
#[inline(always)]
pub fn walk<P: Packet, T: World>(packet: &mut P, tables: &T, ifindex: u32) -> Walked {
    let length = packet.length();
    // Tags, and with them what a frame is inside of. One for both: the programs have no room for two.
    let mut is_carried = tags::are_on(packet);
    let mut ifindex = if is_carried { tables.take_tags(packet, ifindex) } else { ifindex };
    let mut passage = begin(packet, tables, ifindex);
    // What nearly all of XDP's are: nothing of what follows is about them.
    if packet.hook() == Hook::Xdp && passage.is_sent() {
        tables.count(passage.slot(), packet.hook(), FORWARDED, length);
        return Walked { passage, port: ifindex };
    }
    if passage.asks(Question::Tunnel).is_some() {
        passage = match tables.take_out(packet, ifindex, is_carried) {
            Ok(Opened::Inside(port)) => {
                (ifindex, is_carried) = (port, true);
                begin(packet, tables, port)
            }
            Ok(Opened::Again(port)) => {
                ifindex = port;
                passage.ending(DeferReason::Tunnelled.outcome())
            }
            Ok(Opened::Elsewhere) => tables.pass(packet, ifindex, Decided::Found),
            Err(reason) => passage.ending(reason.outcome()),
        };
    }
    if passage.asks(Question::Bridge).is_some() {
        passage = tables.bridge(packet, ifindex);
    }
    if let Some(version) = passage.asks(Question::Datagram) {
        passage = match tables.decide(version, Question::Datagram, ifindex) {
            Ok(Decision::Held) => passage.ending(DeferReason::Held.outcome()),
            Ok(_) => tables.pass(packet, ifindex, Decided::Found),
            Err(reason) => passage.ending(reason.outcome()),
        };
    }
    if let Some(version) = passage.asks(Question::Flow) {
        let decision = match tables.decide(version, Question::Flow, ifindex) {
            Ok(Decision::Help) if packet.hook() == Hook::Tc => tables.help(packet).map(|()| Decision::Flow),
            decision => decision,
        };
        passage = match decision {
            // Only there can the packet change its length.
            Ok(Decision::Help) => passage.ending(DeferReason::Helper.outcome()),
            Ok(Decision::Punt(reason)) => passage.ending(Verdict::punt(packet, reason).outcome()),
            // Whoever expires flows may be faster: then the flow's next packet opens it.
            Ok(_) => match tables.express(packet, ifindex) {
                Some(passage) if passage.asks(Question::Flow).is_none() => passage,
                _ => tables.pass(packet, ifindex, Decided::Yes),
            },
            Err(reason) => passage.ending(reason.outcome()),
        };
    }
    let hook = packet.hook();
    // Only there can be answered.
    if hook == Hook::Xdp && passage.outcome() == DropReason::TtlExceeded.outcome() {
        passage = passage.ending(DeferReason::Punted.outcome());
    }
    if passage.is_to_be_cut() && !tables.can_be_cut(packet, ifindex, passage.ifindex()) {
        passage = passage.ending(DropReason::TooBig.outcome());
    }
    if passage.begins() && passage.outcome() == FORWARDED {
        tables.limit_segments(packet, ifindex, passage.ifindex());
    }
    if passage.needs_tags() {
        passage = match tables.give_tags(packet, passage.ifindex(), is_carried) {
            Ok(Leaving::By(trunk)) => passage.leaving_by(trunk),
            Ok(Leaving::Gone) => passage.gone(),
            Err(reason) => passage.ending(reason.outcome()),
        };
    } else if is_carried && hook == Hook::Xdp && passage.is_deferred() && !tables.give_back(packet) {
        passage = passage.ending(DropReason::RewriteFailed.outcome());
    }
    tables.count(passage.slot(), hook, passage.outcome(), length);
    Walked { passage, port: ifindex }
}

/// The first passage of a frame, or of what was inside of one.
#[inline(always)]
fn begin<P: Packet, T: World>(packet: &mut P, tables: &T, ifindex: u32) -> Passage {
    match tables.express(packet, ifindex) {
        Some(passage) => passage,
        None => tables.pass(packet, ifindex, Decided::No),
    }
}

/// One passage through the steps.
#[inline(always)]
pub fn pass<P: Packet, T: World>(packet: &mut P, tables: &T, ifindex: u32, decided: Decided) -> Passage {
    let mut noted = Noted::default();
    let end = match steps(packet, tables, ifindex, decided, &mut noted) {
        Ok(end) => end,
        Err(reason) => Verdict::Drop(reason).into(),
    };
    Passage::new(noted.slot, end).with_syn(noted.syn)
}

#[inline(always)]
fn steps<P: Packet, T: World>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    decided: Decided,
    noted: &mut Noted,
) -> Result<End, DropReason> {
    let lane = tables.entrance(ifindex);
    if !packet.has_headers() {
        noted.slot = lane.map_or(0, |lane| lane.slot);
        return Ok(Verdict::Defer(DeferReason::MultiBuffer).into());
    }
    let ethertype = parse::ethertype(packet)?;
    let Some(lane) = lane else {
        if decided == Decided::No {
            return Ok(End::Undecided(0, Question::Tunnel));
        }
        return Ok(Verdict::punt(packet, PuntReason::NotAPort).into());
    };
    noted.slot = lane.slot;
    if decided == Decided::No && tunnel::may_be_one(packet, &lane) {
        return Ok(End::Undecided(0, Question::Tunnel));
    }
    if let Some(reason) = not_to_be_routed(packet, &lane)? {
        return Ok(match lane.flags & Lane::ON_BRIDGE {
            0 => Verdict::punt(packet, reason).into(),
            _ => End::Undecided(0, Question::Bridge),
        });
    }
    let ingress = Ingress { lane, ifindex };
    match ethertype {
        ETHERTYPE_IPV4 => family_steps::<Ipv4, P, T>(packet, tables, &ingress, decided, noted),
        ETHERTYPE_IPV6 => family_steps::<Ipv6, P, T>(packet, tables, &ingress, decided, noted),
        _ => Ok(Verdict::punt(packet, PuntReason::NotIp).into()),
    }
}

/// What is known of a frame wherever its passage ends.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    /// The port's row of counters.
    slot: u32,
    /// The TCP header's SYN.
    syn: u8,
}

/// Where the frame came in.
#[derive(Clone, Copy, Debug)]
pub struct Ingress<L> {
    /// What is needed of the port.
    pub lane: L,
    /// Its interface.
    pub ifindex: u32,
}

#[inline(always)]
fn family_steps<A, P, T>(
    packet: &mut P,
    tables: &T,
    ingress: &Ingress<T::Lane>,
    decided: Decided,
    noted: &mut Noted,
) -> Result<End, DropReason>
where
    A: Header,
    P: Packet,
    T: Flows<A>,
{
    let l3 = ETHERNET;
    let Some(mut parsed): Option<Parsed<A>> = parse::ip(packet, l3, ingress.lane.router)? else {
        let has_options = A::VERSION == Ipv4::VERSION && packet.load(l3) != Some(0x45u8);
        let reason = if has_options { DeferReason::Options } else { DeferReason::Fragment };
        return Ok(Verdict::Defer(reason).into());
    };
    noted.syn = parsed.tcp_flags & tcp_flags::SYN;
    if packet.hook() == Hook::Xdp && may_be_partial(packet, &ingress.lane, &parsed) {
        return Ok(Verdict::Defer(DeferReason::PartialChecksum).into());
    }
    if parsed.has_options && decided == Decided::No {
        tables.judge_options(packet, l3, parsed.l4 - l3 - A::HEADER)?;
    }
    let (now, config) = (tables.now(), tables.config());
    if parsed.fragment.is_any() {
        if decided == Decided::No {
            tables.leave(&parsed, now);
            return Ok(End::Undecided(A::VERSION, Question::Datagram));
        }
        (parsed.key.src_port, parsed.key.dst_port, _) = tables.left();
    }
    let known = tables.flow(&parsed.key);
    let known = known.and_then(|flow| tables.next_hop(flow.next_hop).map(|next_hop| (flow, next_hop)));
    let (flow, next_hop) = match known {
        Some((flow, next_hop))
            if decided == Decided::Yes
                || conntrack::is_fresh(&*flow, &next_hop, ingress.ifindex, now, &config) =>
        {
            (flow, next_hop)
        }
        _ => {
            tables.arrive(&arrival(packet, ingress, &parsed, now, config.generation));
            return Ok(End::Undecided(A::VERSION, Question::Flow));
        }
    };
    if let Some(verdict) = obstacle(packet, &parsed, &*flow, &next_hop)? {
        return Ok(verdict.into());
    }
    if parsed.fragment.is_any() && flow.translation & FlowEntry::<A>::SOURCE != 0 {
        let (_, _, id) = tables.left();
        A::store_id(packet, l3, id).ok_or(DropReason::RewriteFailed)?;
    }
    nat::rewrite(packet, &parsed, &*flow).ok_or(DropReason::RewriteFailed)?;
    // An error neither refreshes nor ends a flow (RFC 5508 REQ-6).
    if parsed.transport != Transport::IcmpError {
        let is_turn = parsed.tcp_flags & (tcp_flags::SYN | tcp_flags::RST) != 0;
        let tcp_flags = match is_turn {
            true => tcp_state::observe(packet, tables, &parsed, &flow),
            false => parsed.tcp_flags,
        };
        let tcp_ack = acknowledged(packet, &parsed);
        // The reset that closes a flow does, those that answer whatever comes later do not.
        let refreshes =
            parsed.tcp_flags & tcp_flags::RST == 0 || tcp_flags & !flow.tcp_flags & tcp_flags::RST != 0;
        tables.account(&flow, Activity { now, bytes: parsed.length, tcp_flags, refreshes, tcp_ack });
    }
    let neighbour = forward::send::<A, P>(packet, l3, &next_hop).ok_or(DropReason::RewriteFailed)?;
    tables.charge(flow.account, parsed.length);
    let ifindex = next_hop.ifindex;
    // What may not be cut, and what cannot be, was refused above.
    if packet.hook() == Hook::Tc
        && parsed.length > usize::from(next_hop.mtu)
        && packet.segment_payload().is_none()
    {
        return Ok(Verdict::Split { ifindex, neighbour }.into());
    }
    let verdict = Verdict::Forward { ifindex, neighbour };
    Ok(verdict.into())
}

/// The acknowledgment number of a TCP segment, host byte order.
#[inline(always)]
fn acknowledged<A, P: Packet>(packet: &P, parsed: &Parsed<A>) -> u32 {
    if parsed.tcp_flags & tcp_flags::ACK == 0 {
        return 0;
    }
    packet.load(parsed.l4 + 8).map_or(0, u32::from_be)
}

#[inline(always)]
fn arrival<A: Family, L: Deref<Target = Lane>, P: Packet>(
    packet: &P,
    ingress: &Ingress<L>,
    parsed: &Parsed<A>,
    now: u64,
    generation: u32,
) -> Arrival<A> {
    Arrival {
        key: parsed.key,
        now,
        ifindex: ingress.ifindex,
        generation,
        slot: ingress.lane.slot,
        role: ingress.lane.role,
        flags: ingress.lane.flags,
        transport: parsed.transport,
        // Whatever it is, for the verifier has enough ways to follow: it counts for ICMP alone.
        icmp: packet.load(parsed.l4).unwrap_or_default(),
        hop_limit: parsed.hop_limit,
        tcp_flags: parsed.tcp_flags,
        is_early: packet.hook() == Hook::Xdp,
        bytes: parsed.length as u32,
    }
}

/// What keeps a packet from being sent by the way out of its flow, if anything does.
#[inline(always)]
fn obstacle<A: Family, P: Packet>(
    packet: &P,
    parsed: &Parsed<A>,
    flow: &FlowEntry<A>,
    next_hop: &NextHop,
) -> Result<Option<Verdict>, DropReason> {
    // With 0 for an identifier the two directions of a flow of pings are told apart by their ends alone.
    let is_reply = flow.direction == Direction::Reply as u8;
    match parsed.transport {
        Transport::IcmpQuery if is_reply => return Err(DropReason::InvalidState),
        Transport::IcmpReply if !is_reply => return Err(DropReason::InvalidState),
        _ => {}
    }
    // The kernel can answer for a packet that it sees as it came. A translated destination is
    // the router's own address to it: it would take the packet for its own.
    let kernel_can_answer = flow.translation & FlowEntry::<A>::DESTINATION == 0;
    if parsed.hop_limit <= 1 {
        return match kernel_can_answer {
            true => Ok(Some(Verdict::punt(packet, PuntReason::TtlExceeded))),
            false => Err(DropReason::TtlExceeded),
        };
    }
    let size = match packet.segment_payload() {
        Some(payload) => segment_size(packet, parsed, payload)?,
        None => parsed.length,
    };
    if packet.hook() == Hook::Xdp {
        if next_hop.flags & NextHop::RESOLVED == 0 {
            return Ok(Some(Verdict::Defer(DeferReason::NoNeighbour)));
        }
        if next_hop.flags & NextHop::XDP_TARGET == 0 {
            return Ok(Some(Verdict::Defer(DeferReason::EgressWithoutXdp)));
        }
        if packet.beyond() > 0 && next_hop.flags & NextHop::MULTI_BUFFER == 0 {
            return Ok(Some(Verdict::Defer(DeferReason::MultiBuffer)));
        }
        if size > usize::from(next_hop.mtu) {
            return Ok(Some(Verdict::Defer(DeferReason::Oversize)));
        }
    } else if size > usize::from(next_hop.mtu) {
        return match (parsed.dont_fragment, kernel_can_answer) {
            (true, true) => Ok(Some(Verdict::punt(packet, PuntReason::TooBig))),
            (true, false) => Ok(Some(Verdict::TooBig { mtu: next_hop.mtu })),
            // Not by `has_options`: the verifier would follow both from there on.
            (false, _) if packet.segment_payload().is_some() || parsed.l4 - parsed.l3 != A::HEADER => {
                Err(DropReason::TooBig)
            }
            // Cut once it is translated.
            (false, _) => Ok(None),
        };
    }
    Ok(None)
}

/// Length of the IP packets that a GSO frame will be cut into.
#[inline(always)]
fn segment_size<A: Family, P: Packet>(
    packet: &P,
    parsed: &Parsed<A>,
    payload: usize,
) -> Result<usize, DropReason> {
    let is_tcp = parsed.transport == Transport::Tcp;
    let header = parse::transport_header(packet, parsed.l4, is_tcp).ok_or(DropReason::Truncated)?;
    Ok(parsed.l4 - parsed.l3 + header + payload)
}

/// Whether a frame is none that a router may forward: it forwards what is sent to its own
/// Ethernet address and nothing else, no IP packets in broadcast frames (RFC 1812 §5.3.4), none
/// for other stations; nothing of the control network, and nothing that is on a bridge. By a port without link layer all is for it:
/// what the kernel has decrypted is behind the addresses that it was carried by.
#[inline(always)]
fn not_to_be_routed<P: Packet>(packet: &P, lane: &Lane) -> Result<Option<PuntReason>, DropReason> {
    // In words: by bytes it would be as many loads.
    let destination: [u16; 3] = packet.load(0).ok_or(DropReason::Truncated)?;
    let [a, b, c, d] = lane.mac.to_ne_bytes();
    let own = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), lane.mac_end];
    if destination != own && lane.flags & Port::WITHOUT_LINK == 0 {
        let [first, _] = destination[0].to_ne_bytes();
        let group = first & 1 != 0;
        return Ok(Some(if group { PuntReason::LinkScope } else { PuntReason::OtherHost }));
    }
    Ok((lane.flags & Lane::NOT_ROUTED != 0).then_some(PuntReason::ToRouter))
}

/// Whether the transport checksum may be one that the sender left to the hardware (`CHECKSUM_PARTIAL`). XDP is not told:
/// finished ones that look like it ([`checksum::may_be_partial`]) take the way by TC like the unfinished ones. So do the protocols whose unfinished sums look like nothing:
/// tunnels in UDP without checksum, SCTP, GRE.
#[inline(always)]
fn may_be_partial<A: Family, P: Packet>(packet: &P, lane: &Lane, parsed: &Parsed<A>) -> bool {
    if lane.flags & Port::PARTIAL_CHECKSUMS == 0 {
        return false;
    }
    let offset = match parsed.transport {
        Transport::Tcp => parsed.l4 + 16,
        Transport::Udp => parsed.l4 + 6,
        Transport::Other => return true,
        _ => return false,
    };
    let Some(field) = packet.load(offset) else { return true };
    checksum::may_be_partial(&parsed.key, (parsed.length - (parsed.l4 - parsed.l3)) as u16, field)
}
