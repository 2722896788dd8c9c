//! A passage through the steps and the slow path, as functions of their own.
//!
//! A global function is verified once, by its arguments' types alone. Inlined or static, the slow
//! path would be verified anew for every way through the parser that leads to it, which is more
//! than the verifier's million instructions. And called one after the other from the programs'
//! small frames, the two share the 512 bytes of stack, where one would not fit above the other.
//! What the slow path needs of the packet lies in a per-CPU map.

pub mod bridge;
pub mod help;
pub mod tunnel;
mod unsolicited;

use core::ptr::NonNull;

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, xdp_md};
use aya_ebpf::helpers::{
    bpf_clone_redirect, bpf_csum_diff, bpf_redirect, bpf_skb_change_head, bpf_skb_change_tail,
    bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use router_common::fragment::{HeldKey, MAX_HELD};
use router_common::limit::Tally;
use router_common::net::{Be16, Ipv4, Ipv6, MacPair};
use router_common::port::{Carrier, Lane, LocalKey, Port};
use router_common::verdict::{DropReason, PuntReason};
use router_ebpf::conntrack::{self, Claim, Decision};
use router_ebpf::family::{ETHERTYPE_IPV4, Family};
use router_ebpf::fragment::{Marked, Piece};
use router_ebpf::packet::Packet;
use router_ebpf::passage::{Decided, Passage};
use router_ebpf::tables::Tables;
use router_ebpf::tags::{self, Tags};
use router_ebpf::tunnel::{Leaving, leaving_number};
use router_ebpf::{express, fragment, icmp, mss, nat, next_hops, options, policy, ports, split, usage, walk};

pub use bridge::{xvr_tc_bridge, xvr_tc_flood, xvr_xdp_bridge};
pub use help::xvr_tc_help4;
pub use tunnel::{xvr_tc_take_out, xvr_xdp_take_out};

use crate::frame::{self, TcFrame, XdpFrame};
use crate::maps::{
    Context, FamilyMaps, Maps, arrival, came, case, count_other, datagram, held_room, kept_next_hop, lane,
    opening, own_errors, payload_room, piece, pool_in_place, set_covered, whole,
};

/// Bytes that are written change the sum that hardware has made over the frame.
const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;

const FLOW: u32 = 0;
const FOUND: u32 = u32::MAX;
const HELD: u32 = u32::MAX - 1;
const HELP: u32 = u32::MAX - 2;
const GRANTED: u32 = 0;
const TAKEN: u32 = u32::MAX;
/// Where a map of one entry has none, which cannot be.
pub const NO_ROOM: u32 = DropReason::FlowTableFull.outcome();

const NOT_PERMITTED: u32 = DropReason::NotPermitted.outcome();

/// Drop and punt reasons have numbers of their own; 0 is neither.
#[inline(always)]
fn encoded(result: Result<Decision, DropReason>) -> u32 {
    match result {
        Ok(Decision::Flow) => FLOW,
        Ok(Decision::Found) => FOUND,
        Ok(Decision::Held) => HELD,
        Ok(Decision::Help) => HELP,
        Ok(Decision::Punt(reason)) => reason.outcome(),
        Err(reason) => reason.outcome(),
    }
}

/// The reverse of [`encoded`].
#[inline(always)]
pub fn decoded(number: u32) -> Result<Decision, DropReason> {
    match number {
        FLOW => return Ok(Decision::Flow),
        FOUND => return Ok(Decision::Found),
        HELD => return Ok(Decision::Held),
        HELP => return Ok(Decision::Help),
        _ => {}
    }
    match PuntReason::from_outcome(number) {
        Some(reason) => Ok(Decision::Punt(reason)),
        None => Err(DropReason::from_outcome(number).unwrap_or(DropReason::FlowTableFull)),
    }
}

#[inline(always)]
const fn decided(flag: u32) -> Decided {
    match flag {
        0 => Decided::No,
        1 => Decided::Found,
        _ => Decided::Yes,
    }
}

/// Counts a packet that was not forwarded: the programs' own stack has no room for another table's key.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_count(slot: u32, counter: u32, bytes: u32) -> u32 {
    count_other(slot, counter, bytes);
    0
}

/// What is needed of the port that a frame came in by, into this CPU's room for it; whether there is such a port. Most have
/// a lane, which is less memory than a port's entry; to go both ways at once would be too many for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_entrance(ifindex: u32) -> u32 {
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    let Some(mut room) = lane() else { return 0 };
    let lane = match maps.lane(ifindex) {
        None => maps.port(ifindex).map(Lane::of),
        lane => lane,
    };
    // Field by field: the whole would be moved by a function of its own.
    let Some(Lane { slot, mac, mac_end, router, flags, role, vxlan }) = lane else { return 0 };
    (room.slot, room.mac, room.mac_end, room.router) = (slot, mac, mac_end, router);
    (room.flags, room.role, room.vxlan) = (flags, role, vxlan);
    1
}

/// Takes the tags of a port off; its own interface.
#[inline(always)]
fn take_tags<P: Packet>(mut frame: P, ifindex: u32) -> u32 {
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    let Some(mut came) = came() else { return ifindex };
    let (port, tags) = tags::take_off(&mut frame, &maps, ifindex);
    (came.count, came.outer, came.inner, came.is_packet) = (tags.count, tags.outer, tags.inner, false);
    port
}

/// [`tags::take_off`] in the XDP program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_take_tags(ctx: *mut xdp_md, ifindex: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    take_tags(unsafe { XdpFrame::new(ctx) }, ifindex)
}

/// [`tags::take_off`] in the TC program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_take_tags(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    take_tags(unsafe { TcFrame::new(skb) }, ifindex)
}

/// Gives a frame the tags of the port that it leaves by: a [`Leaving`] as a number.
#[inline(always)]
fn give_tags<P: Packet>(mut frame: P, carrier: &Carrier, was_carried: u32) -> u32 {
    let none = Tags::default();
    let trunk = came()
        .and_then(|came| tags::put_on(&mut frame, carrier, if was_carried == 0 { &none } else { &*came }));
    leaving_number(trunk.map(Leaving::By).ok_or(DropReason::RewriteFailed))
}

/// How a port's frames are carried.
#[inline(always)]
fn carrier(ifindex: u32) -> Option<Carrier> {
    // SAFETY: there is no context, and nothing here needs one.
    unsafe { Maps::new(Context::Absent) }.carrier(ifindex)
}

const NO_CARRIER: u32 = leaving_number(Err(DropReason::RewriteFailed));

/// [`tags::put_on`] in the XDP program, or [`tunnel::xvr_xdp_put_in`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_give_tags(ctx: *mut xdp_md, ifindex: u32, was_carried: u32, beyond: u32) -> u32 {
    match carrier(ifindex) {
        Some(carrier) if carrier.is_tunnel() => tunnel::xvr_xdp_put_in(ctx, ifindex, beyond),
        // SAFETY: the program's own context, handed on by it.
        Some(carrier) => give_tags(unsafe { XdpFrame::new(ctx) }, &carrier, was_carried),
        None => NO_CARRIER,
    }
}

/// [`tags::put_on`] in the TC program, or [`tunnel::xvr_tc_put_in`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_give_tags(skb: *mut __sk_buff, ifindex: u32, was_carried: u32) -> u32 {
    match carrier(ifindex) {
        Some(carrier) if carrier.is_tunnel() => tunnel::xvr_tc_put_in(skb, ifindex),
        // SAFETY: the program's own context, handed on by it.
        Some(carrier) => give_tags(unsafe { TcFrame::new(skb) }, &carrier, was_carried),
        None => NO_CARRIER,
    }
}

/// Gives a frame again what was taken off: first what it was inside of, then tags. Whether that could be done.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_give_back(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let mut frame = unsafe { XdpFrame::new(ctx) };
    let Some(came) = came() else { return 0 };
    let is_back = !came.is_packet || frame.put_back().is_some();
    u32::from(is_back && (came.count == 0 || frame.tag(&came).is_some()))
}

/// [`express::take`]: a [`Passage`] as a number, 0 for what it leaves.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_express(ctx: *mut xdp_md, ifindex: u32) -> u64 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps) = unsafe { (XdpFrame::new(ctx), Maps::new(Context::Xdp(ctx))) };
    express::take(&mut frame, &maps, ifindex).map_or(0, Passage::number)
}

/// A passage in the XDP programs: a [`Passage`] as a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_pass(ctx: *mut xdp_md, ifindex: u32, flag: u32, beyond: u32) -> u64 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps) = unsafe { (XdpFrame::with_beyond(ctx, beyond), Maps::new(Context::Xdp(ctx))) };
    walk::pass(&mut frame, &maps, ifindex, decided(flag)).number()
}

/// A passage in the TC program: a [`Passage`] as a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_pass(skb: *mut __sk_buff, ifindex: u32, flag: u32) -> u64 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps) = unsafe { (TcFrame::new(skb), Maps::new(Context::Tc(skb))) };
    walk::pass(&mut frame, &maps, ifindex, decided(flag)).number()
}

#[inline(always)]
fn decide<A: FamilyMaps>(ctx: Context) -> u32 {
    let Some(arrival) = arrival::<A>() else { return NO_ROOM };
    // SAFETY: the program's own context, handed on by it.
    let maps = unsafe { Maps::new(ctx) };
    encoded(conntrack::decide(&maps, &*arrival))
}

/// The interface of the port that the IPv6 packet came in by that arrived last.
#[inline(always)]
fn arrived_by() -> u32 {
    arrival::<Ipv6>().map_or(0, |arrival| arrival.ifindex)
}

/// For the XDP program, IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_decide4(ctx: *mut xdp_md) -> u32 {
    decide::<Ipv4>(Context::Xdp(ctx))
}

/// For the XDP program, IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_decide6(ctx: *mut xdp_md) -> u32 {
    let decision = decide::<Ipv6>(Context::Xdp(ctx));
    if decision == NOT_PERMITTED {
        unsolicited::xvr_xdp_note_syn(ctx, arrived_by());
    }
    decision
}

/// For the TC program, IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_decide4(skb: *mut __sk_buff) -> u32 {
    decide::<Ipv4>(Context::Tc(skb))
}

/// For the TC program, IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_decide6(skb: *mut __sk_buff) -> u32 {
    let decision = decide::<Ipv6>(Context::Tc(skb));
    if decision == NOT_PERMITTED {
        unsolicited::xvr_tc_note_syn(skb, arrived_by());
    }
    decision
}

/// Where a packet that opens a flow is really for: a
/// [`Destination`](router_ebpf::nat::Destination) as a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_destination4() -> u64 {
    let Some(arrival) = arrival::<Ipv4>() else { return 0 };
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    nat::destination(&maps, &*arrival).to_number()
}

/// One look for a free port, see [`ports::attempt`]; 0 where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_port(pool: u32, round: u32, wanted: u32, random: u32) -> u32 {
    let Some(pool) = pool_in_place(pool) else { return 0 };
    ports::attempt(&pool, round, wanted as u16, random).map_or(0, u32::from)
}

/// Finds or makes the binding of the flow that is being opened: 0, or the outcome of the reason to drop the packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_bind4() -> u32 {
    let (Some(arrival), Some(mut opening)) = (arrival::<Ipv4>(), opening::<Ipv4>()) else { return NO_ROOM };
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    match nat::bind(&maps, &*arrival, &mut opening) {
        Ok(()) => GRANTED,
        Err(reason) => reason.outcome(),
    }
}

#[inline(always)]
fn permits<A: FamilyMaps>(list: u32, to: Option<(A, Be16)>, comes_again: u32) -> u32 {
    let (Some(arrival), Some(mut case)) = (arrival::<A>(), case()) else { return 0 };
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    let (dst, dst_port) = to.unwrap_or((arrival.key.dst, arrival.key.dst_port));
    case.ask_about(&*arrival, dst, dst_port);
    u32::from(policy::permits::<A, _>(&maps, list, &mut case, arrival.bytes, comes_again != 0))
}

/// Whether a list lets a flow pass to an address and a port, both in host byte order, IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_permits4(list: u32, dst: u32, dst_port: u32, comes_again: u32) -> u32 {
    permits(list, Some((Ipv4([dst.to_be()]), Be16::new(dst_port as u16))), comes_again)
}

/// Whether a list lets a flow pass, IPv6, whose destination is never translated.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_permits6(list: u32, comes_again: u32) -> u32 {
    permits::<Ipv6>(list, None, comes_again)
}

/// [`policy::search`] in the case that is asked about: 1 when it is done.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_search() -> u32 {
    let Some(mut case) = case() else { return 1 };
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    u32::from(policy::search(&maps, &mut case))
}

#[inline(always)]
fn enter<A: FamilyMaps>() -> u32 {
    let (Some(arrival), Some(mut opening)) = (arrival::<A>(), opening::<A>()) else { return NO_ROOM };
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    opening.account = usage::of_opening(&maps, &*arrival, &*opening);
    opening.account
}

/// Finds the account of the flow that is being opened, IPv4; the counter of its packets.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_enter4() -> u32 {
    enter::<Ipv4>()
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_enter6() -> u32 {
    enter::<Ipv6>()
}

#[inline(always)]
fn number<A: FamilyMaps>() -> u32 {
    let Some(mut opening) = opening::<A>() else { return 0 };
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    let number = next_hops::keep(kept_next_hop, &opening.next_hop, maps.config().seed, maps.now());
    opening.number = number.unwrap_or(0);
    u32::from(opening.number)
}

/// [`next_hops::keep`] of the way out of the flow that is being opened, IPv4; 0 where there is no room.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_number4() -> u32 {
    number::<Ipv4>()
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_number6() -> u32 {
    number::<Ipv6>()
}

#[inline(always)]
fn claim<A: FamilyMaps>(attempt: u32) -> u32 {
    let (Some(arrival), Some(opening)) = (arrival::<A>(), opening::<A>()) else { return NO_ROOM };
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    match conntrack::claim(&maps, &*arrival, &*opening, attempt) {
        Ok(Claim::Granted) => GRANTED,
        Ok(Claim::Taken) => TAKEN,
        Err(reason) => reason.outcome(),
    }
}

/// What a number from [`xvr_claim4`] or [`xvr_claim6`] says.
#[inline(always)]
pub fn claimed(number: u32) -> Result<Claim, DropReason> {
    match number {
        GRANTED => Ok(Claim::Granted),
        TAKEN => Ok(Claim::Taken),
        number => Err(DropReason::from_outcome(number).unwrap_or(DropReason::FlowTableFull)),
    }
}

/// An attempt to open a flow, IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_claim4(attempt: u32) -> u32 {
    claim::<Ipv4>(attempt)
}

/// An attempt to open a flow, IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_claim6(attempt: u32) -> u32 {
    claim::<Ipv6>(attempt)
}

/// Judges the options, `length` bytes, of the IPv4 header at `l3`: 0, or the outcome of the reason to drop the packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_options(skb: *mut __sk_buff, l3: u32, length: u32) -> u32 {
    let judged = options::judge(length as usize, |at| {
        let mut byte = 0u8;
        let offset = l3.wrapping_add((Ipv4::HEADER + at) as u32);
        // SAFETY: the program's own context; one byte on the stack.
        let read = unsafe { bpf_skb_load_bytes(skb.cast(), offset, (&raw mut byte).cast(), 1) };
        (read == 0).then_some(byte)
    });
    judged.map_or_else(DropReason::outcome, |()| 0)
}

#[inline(always)]
fn limit_segments<P: Packet>(mut frame: P, ingress: u32, egress: u32) -> u32 {
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    u32::from(mss::limit(&mut frame, &maps, ingress, egress))
}

/// Limits the size of segments that a SYN on its way from one port to another speaks of; whether it had to be.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_segments(ctx: *mut xdp_md, ingress: u32, egress: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let frame = unsafe { XdpFrame::new(ctx) };
    limit_segments(frame, ingress, egress)
}

/// The same in the TC program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_segments(skb: *mut __sk_buff, ingress: u32, egress: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let frame = unsafe { TcFrame::new(skb) };
    limit_segments(frame, ingress, egress)
}

const FAILED: u32 = DropReason::FragmentNotHeld.outcome();

const NEW: u32 = 0;
const BEFORE: u32 = 1;
const END: u32 = 2;

#[inline(always)]
fn mark_word<A: FamilyMaps>(index: u32) -> u32 {
    let Some(piece) = piece::<A>() else { return END };
    let Some(entry) = A::datagrams().get_ptr_mut(&piece.key).and_then(NonNull::new) else { return END };
    match fragment::mark(&piece.fragment, index, |word, bits| set_covered(entry, word, bits)) {
        Marked::New => NEW,
        Marked::Before => BEFORE,
        Marked::End => END,
    }
}

/// Marks the part that a fragment has in one of its words, IPv4: 0 new, 1 not new, 2 no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_mark4(index: u32) -> u32 {
    mark_word::<Ipv4>(index)
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_mark6(index: u32) -> u32 {
    mark_word::<Ipv6>(index)
}

/// Whether a source may have one more fragment held.
#[inline(always)]
fn may_hold<A: FamilyMaps>(piece: &Piece<A>) -> bool {
    let source = LocalKey { address: piece.key.src, router: piece.key.router, pad: [0; 2] };
    if let Some(holder) = A::holders().get_ptr_mut(&source) {
        // SAFETY: from a lookup of this run; CPUs that count at once may let a few more in.
        return fragment::HELD_PER_SOURCE.allows(unsafe { &mut *holder }, piece.now);
    }
    let holder = Tally { since: piece.now, count: 1, pad: 0 };
    A::holders().insert(&source, &holder, 0).is_ok()
}

#[inline(always)]
fn hold<A: FamilyMaps>(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    let (Some(piece), Some(mut room)) = (piece::<A>(), held_room()) else { return FAILED };
    // SAFETY: the program's own context.
    let length = unsafe { (*skb).len };
    if length == 0 || length >= HELD_LENGTH || !may_hold(&piece) {
        return FAILED;
    }
    (room.since, room.length, room.ifindex) = (piece.now, length, ifindex);
    let bounded = bounded::<HELD_LENGTH>(length);
    // SAFETY: the room is longer than the bounded length.
    if unsafe { bpf_skb_load_bytes(skb.cast(), 0, (&raw mut room.frame).cast(), bounded) } != 0 {
        return FAILED;
    }
    let Some(entry) = datagram(&piece) else { return FAILED };
    // SAFETY: from a lookup of this run; two CPUs with fragments of one datagram at the same moment may
    // overwrite one of them.
    let index = unsafe {
        let index = (*entry.as_ptr()).held;
        (*entry.as_ptr()).held = index + 1;
        index
    };
    if index >= MAX_HELD {
        return FAILED;
    }
    let key = HeldKey { datagram: piece.key, index };
    if A::held().insert(&key, &*room, 0).is_ok() { HELD } else { FAILED }
}

/// Room for a held frame, in bytes.
const HELD_LENGTH: u32 = 2048;

/// A length of 1 to `MOST`, a power of two, and the verifier sees both bounds.
#[inline(always)]
fn bounded<const MOST: u32>(length: u32) -> u32 {
    let mut length = length;
    // SAFETY: a register alone, no memory, no flags.
    unsafe {
        core::arch::asm!("{0} += -1", "{0} &= {max}", "{0} += 1",
                         inout(reg) length, max = const MOST - 1,
                         options(pure, nomem, nostack, preserves_flags));
    }
    length
}

/// The first fragment comes in again, by a clone, and then all that waited, in its buffer.
#[inline(always)]
fn release<A: FamilyMaps>(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    let Some(piece) = piece::<A>() else { return FAILED };
    let Some(entry) = datagram(&piece) else { return FAILED };
    // SAFETY: from a lookup of this run; the program's own context.
    let held = unsafe { core::mem::replace(&mut (*entry.as_ptr()).held, 0) };
    // SAFETY: the program's own context.
    unsafe { bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS)) };
    for index in 0..MAX_HELD {
        if index >= held {
            break;
        }
        let key = HeldKey { datagram: piece.key, index };
        let Some(held) = A::held().get_ptr(&key) else { continue };
        // SAFETY: from a lookup of this run; the frame is longer than the bounded length.
        unsafe {
            let length = bounded::<HELD_LENGTH>((*held).length);
            if length == 0 || piece.now.wrapping_sub((*held).since) > fragment::HOLD_TIME {
                continue;
            }
            if bpf_skb_change_tail(skb, length, 0) != 0
                || bpf_skb_store_bytes(skb, 0, (&raw const (*held).frame).cast(), length, RECOMPUTE) != 0
            {
                continue;
            }
            bpf_clone_redirect(skb, (*held).ifindex, u64::from(BPF_F_INGRESS));
        }
        let _ = A::held().remove(&key);
    }
    HELD
}

/// Finds a fragment's datagram: ports are exchanged, and what it covers is noted. What comes too early
/// is kept; what is waited for comes in again with those that wait.
#[inline(always)]
fn find_datagram<A: FamilyMaps>(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    let Some(mut piece) = piece::<A>() else { return FAILED };
    let Some(entry) = datagram(&piece) else { return FAILED };
    // SAFETY: from a lookup of this run. Two first fragments at the same moment leave the ports of
    // either, and one of them is refused as overlapping.
    let entry = unsafe { &mut *entry.as_ptr() };
    if !fragment::exchange_ports(entry, &mut piece) {
        return hold::<A>(skb, ifindex);
    }
    if entry.held != 0 && !piece.fragment.is_later() {
        return release::<A>(skb, ifindex);
    }
    let is_new = fragment::cover(|index| match A::mark(index) {
        NEW => Marked::New,
        BEFORE => Marked::Before,
        _ => Marked::End,
    });
    if !is_new {
        return DropReason::OverlappingFragment.outcome();
    }
    // CPUs that count at once may miss that a datagram is complete: then its entry stays for a while.
    if fragment::completes(entry, &piece.fragment, piece.now) {
        let _ = A::datagrams().remove(&piece.key);
    }
    FOUND
}

/// For the TC program, IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_datagram4(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    find_datagram::<Ipv4>(skb, ifindex)
}

/// For the TC program, IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_datagram6(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    find_datagram::<Ipv6>(skb, ifindex)
}

/// Whether a packet that is ready to leave by an interface can be cut for it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_can_be_cut(skb: *mut __sk_buff, ingress: u32, egress: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let (frame, maps) = unsafe { (TcFrame::new(skb), Maps::new(Context::Absent)) };
    let (Some(mtu), Some(mut whole)) = (split::can_be_cut(&frame, &maps, ingress, egress), whole()) else {
        return 0;
    };
    whole.mtu = mtu;
    1
}

/// Puts an Ethernet header in front of an IPv4 packet that has come in by a port without link layer, to that port's
/// address, which is all zeroes. The kernel takes it off where it is handed such a packet, or sends it out by another
/// such port. What it has decrypted itself has one already: that of the frame that it came in. 0 if it could not be put
/// there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_header(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let (maps, ifindex) = unsafe { (Maps::new(Context::Absent), (*skb).ifindex) };
    let port = maps.port(ifindex);
    if port.is_none_or(|port| port.flags & Port::WITHOUT_LINK == 0) || frame::has_header(skb) {
        return 1;
    }
    let ethertype = ETHERTYPE_IPV4.to_be_bytes();
    // SAFETY: the program's own context, and two bytes that are there; no pointer into the packet is held.
    let is_there = unsafe {
        bpf_skb_change_head(skb, ETHERNET, 0) == 0
            && bpf_skb_store_bytes(skb.cast(), ETHERNET - 2, ethertype.as_ptr().cast(), 2, 0) == 0
    };
    u32::from(is_there)
}

/// Cuts a packet, after [`xvr_tc_can_be_cut`], and sends the pieces out by an interface; with 0 for one the first
/// piece alone is made, and stays in the buffer. Whether it was cut.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_split(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    u32::from(split(skb, ifindex).is_some())
}

const ETHERNET: u32 = 14;
const PAYLOAD: u32 = ETHERNET + Ipv4::HEADER as u32;

#[inline(always)]
fn split(skb: *mut __sk_buff, ifindex: u32) -> Option<()> {
    let (mut whole, mut room) = (whole()?, payload_room()?);
    let header = (&raw mut whole.header).cast();
    // SAFETY: the program's own context, and a whole header.
    if unsafe { bpf_skb_load_bytes(skb.cast(), ETHERNET, header, Ipv4::HEADER as u32) } != 0 {
        return None;
    }
    let length = bounded::<{ split::LONGEST }>(whole.payload());
    // SAFETY: the program's own context; the room is longer than the bounded length.
    if unsafe { bpf_skb_load_bytes(skb.cast(), PAYLOAD, (&raw mut *room).cast(), length) } != 0 {
        return None;
    }
    let mut start = 0;
    for _ in 0..split::PIECES {
        start = xvr_tc_piece(skb, start, ifindex);
        if start == 0 || ifindex == 0 {
            break;
        }
    }
    Some(())
}

/// Makes the piece whose payload begins at `start`, and sends it. Where the next one begins; 0 after the last.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_piece(skb: *mut __sk_buff, start: u32, ifindex: u32) -> u32 {
    let (Some(whole), Some(room)) = (whole(), payload_room()) else { return 0 };
    let Some(piece) = whole.piece(start) else { return 0 };
    let length = bounded::<{ split::LONGEST }>(piece.length);
    // SAFETY: the program's own context; beginning and length are within the room's halves.
    unsafe {
        let header = (&raw const piece.header).cast();
        let payload = (&raw const *room).cast::<u8>().add((start & (split::LONGEST - 1)) as usize);
        if bpf_skb_change_tail(skb, PAYLOAD + length, 0) != 0
            || bpf_skb_store_bytes(skb, PAYLOAD, payload.cast(), length, RECOMPUTE) != 0
            || bpf_skb_store_bytes(skb, ETHERNET, header, Ipv4::HEADER as u32, RECOMPUTE) != 0
        {
            return 0;
        }
        if ifindex != 0 {
            bpf_clone_redirect(skb, ifindex, 0);
        }
    }
    if piece.is_last { 0 } else { start + piece.length }
}

/// Answers a packet that is refused with an ICMP error from the address of the port that it came in by, in its
/// buffer: an action for TC. IPv4: IPv6 is not translated, so its errors are the kernel's.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_answer4(skb: *mut __sk_buff, ifindex: u32, kind: u32, mtu: u32) -> u32 {
    answer(skb, ifindex, kind, mtu as u16).unwrap_or(TC_ACT_SHOT as u32)
}

/// Ethernet, IP and ICMP header of an error.
const ERROR_HEADERS: usize = 14 + 28;

#[inline(always)]
fn answer(skb: *mut __sk_buff, ifindex: u32, kind: u32, mtu: u16) -> Option<u32> {
    // SAFETY: the program's own context.
    let (frame, maps) = unsafe { (TcFrame::new(skb), Maps::new(Context::Absent)) };
    if frame.load::<Be16>(12)?.get() != ETHERTYPE_IPV4 {
        return None;
    }
    let header: [u32; 5] = frame.load(ETHERNET as usize)?;
    let [version_length, ..] = header[0].to_ne_bytes();
    let l4 = ETHERNET as usize + usize::from(version_length & 0xf) * 4;
    let quote = bounded::<HELD_LENGTH>(icmp::quote(&header, frame.load(l4)?, kind)?);
    let [_, _, _, source, _] = header;
    let requester: [u8; 6] = frame.load(6)?;
    let port = maps.port(ifindex)?;
    if port.address == Ipv4::UNSPECIFIED || !icmp::OWN_ERRORS.allows(&mut *own_errors()?, maps.now()) {
        return None;
    }
    let mut room = held_room()?;
    let bytes = (&raw mut room.frame).cast::<u8>();
    // SAFETY: the program's own context; the room is longer than the bounded length, and than the headers,
    // which are written after the sum over what it held is made.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), ETHERNET, bytes.cast(), quote) != 0 {
            return None;
        }
        let sum = bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast(), quote & !3, 0);
        let ends = (port.address, Ipv4([source]));
        let words = icmp::error_headers(ends, kind, mtu, (sum as u32, quote & !3));
        let MacPair(macs) = MacPair::new(requester, port.mac);
        // At offsets of two: the machine does not mind.
        bytes.cast::<[u32; 3]>().write_volatile(macs);
        bytes.add(12).cast::<u16>().write_volatile(ETHERTYPE_IPV4.to_be());
        bytes.add(ETHERNET as usize).cast::<[u32; 7]>().write_volatile(words);
        // What is quoted stays where it is: the new headers grow in front of it over the old Ethernet header.
        if bpf_skb_change_tail(skb, ETHERNET + (quote & !3), 0) != 0
            || bpf_skb_change_head(skb, 28, 0) != 0
            || bpf_skb_store_bytes(skb, 0, bytes.cast(), ERROR_HEADERS as u32, RECOMPUTE) != 0
        {
            return None;
        }
        Some(bpf_redirect(ifindex, 0) as u32)
    }
}
