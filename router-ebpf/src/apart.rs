//! A passage through the steps and the slow path, as functions of their own.
//!
//! A global function is verified once, by its arguments' types alone. Inlined or static, the slow
//! path would be verified anew for every way through the parser that leads to it, which is more
//! than the verifier's million instructions. And called one after the other from the programs'
//! small frames, the two share the 512 bytes of stack, where one would not fit above the other.
//! What the slow path needs of the packet lies in a per-CPU map.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use router_common::net::{Ipv4, Ipv6};
use router_common::verdict::{DropReason, PuntReason};
use router_ebpf::conntrack::{self, Claim, Decision};
use router_ebpf::passage::Decided;
use router_ebpf::{nat, ports, walk};

use crate::frame::{TcFrame, XdpFrame};
use crate::maps::{Context, FamilyMaps, Maps, arrival, opening, pool_in_place};

const FLOW: u32 = 0;
const GRANTED: u32 = 0;
const TAKEN: u32 = u32::MAX;
/// Where a map of one entry has none, which cannot be.
pub const NO_ROOM: u32 = DropReason::FlowTableFull.outcome();

/// Drop and punt reasons have numbers of their own; 0 is neither.
#[inline(always)]
fn encoded(result: Result<Decision, DropReason>) -> u32 {
    match result {
        Ok(Decision::Flow) => FLOW,
        Ok(Decision::Punt(reason)) => reason.outcome(),
        Err(reason) => reason.outcome(),
    }
}

/// The reverse of [`encoded`].
#[inline(always)]
pub fn decoded(number: u32) -> Result<Decision, DropReason> {
    if number == FLOW {
        return Ok(Decision::Flow);
    }
    match PuntReason::from_outcome(number) {
        Some(reason) => Ok(Decision::Punt(reason)),
        None => Err(DropReason::from_outcome(number).unwrap_or(DropReason::FlowTableFull)),
    }
}

#[inline(always)]
const fn decided(flag: u32) -> Decided {
    if flag == 0 { Decided::No } else { Decided::Yes }
}

/// A passage in the XDP program: a [`Passage`](router_ebpf::passage::Passage) as a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_pass(ctx: *mut xdp_md, flag: u32) -> u64 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps, ifindex) =
        unsafe { (XdpFrame::new(ctx), Maps::new(Context::Xdp(ctx)), (*ctx).ingress_ifindex) };
    walk::pass(&mut frame, &maps, ifindex, decided(flag)).to_number()
}

/// A passage in the TC program: a [`Passage`](router_ebpf::passage::Passage) as a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_pass(skb: *mut __sk_buff, flag: u32) -> u64 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps, ifindex) =
        unsafe { (TcFrame::new(skb), Maps::new(Context::Tc(skb)), (*skb).ifindex) };
    walk::pass(&mut frame, &maps, ifindex, decided(flag)).to_number()
}

#[inline(always)]
fn decide<A: FamilyMaps>(ctx: Context) -> u32 {
    let Some(arrival) = arrival::<A>() else { return NO_ROOM };
    // SAFETY: the program's own context, handed on by it.
    let maps = unsafe { Maps::new(ctx) };
    encoded(conntrack::decide(&maps, &*arrival))
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
    decide::<Ipv6>(Context::Xdp(ctx))
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
    decide::<Ipv6>(Context::Tc(skb))
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

/// Finds or makes the binding of the flow that is being opened.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_bind4() -> u32 {
    let (Some(arrival), Some(mut opening)) = (arrival::<Ipv4>(), opening::<Ipv4>()) else { return NO_ROOM };
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    nat::bind(&maps, &*arrival, &mut opening);
    GRANTED
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
