//! The programs: entry points and nothing else. Built only for the BPF target.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(missing_docs, reason = "aya's macros make modules without any")]

mod apart;
mod frame;
mod maps;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_md};
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use router_common::verdict::{DeferReason, DropReason};
use router_ebpf::icmp::error;
use router_ebpf::tunnel::{self, Leaving};
use router_ebpf::walk::{Neighbour, Verdict, Walked, walk};

use crate::frame::{TcFrame, XdpFrame};
use crate::maps::{Context, Maps};

/// In the driver or in the stack, in front of [`xvr_tc`]. What it cannot finish it passes on.
#[xdp]
pub fn xvr_xdp(ctx: XdpContext) -> u32 {
    // SAFETY: the program's own context.
    early(ctx.ctx, unsafe { XdpFrame::new(ctx.ctx) })
}

/// The same for drivers that give it frames in several buffers: only such a program is given any. In the stack the kernel
/// loses what it redirects, so it is for drivers alone.
#[xdp(frags)]
pub fn xvr_xdp_frags(ctx: XdpContext) -> u32 {
    // SAFETY: the program's own context.
    early(ctx.ctx, unsafe { XdpFrame::in_buffers(ctx.ctx) })
}

#[inline(always)]
fn early(ctx: *mut xdp_md, mut frame: XdpFrame) -> u32 {
    // SAFETY: the program's own context.
    let (maps, ifindex) = unsafe { (Maps::new(Context::Xdp(ctx)), (*ctx).ingress_ifindex) };
    match walk(&mut frame, &maps, ifindex).passage.verdict() {
        // SAFETY: no pointers.
        Verdict::Forward { ifindex, .. } => unsafe { bpf_redirect(ifindex, 0) as u32 },
        // XDP cuts nothing, and copies nothing.
        Verdict::Drop(_) | Verdict::TooBig { .. } | Verdict::Split { .. } | Verdict::Sent => XDP_DROP,
        Verdict::Defer(_) | Verdict::Punt(_) => XDP_PASS,
    }
}

/// What a port's program has left to the kernel by the port's own interface, which is not to be looked at again.
const LEFT: u32 = 0x7876_7221;

/// At TC ingress of every port.
#[classifier]
pub fn xvr_tc(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the program's own context.
    let (ifindex, mark) = unsafe { ((*skb).ifindex, (*skb).mark) };
    if mark == LEFT {
        // SAFETY: as above.
        unsafe { (*skb).mark = 0 };
        return TC_ACT_UNSPEC;
    }
    if mark == apart::tunnel::PUT_IN {
        return apart::tunnel::xvr_tc_detour(skb) as i32;
    }
    if frame::may_lack_header(skb) && apart::xvr_tc_header(skb) == 0 {
        return TC_ACT_SHOT;
    }
    // SAFETY: the program's own context.
    let (mut frame, maps) = unsafe { (TcFrame::new(skb), Maps::new(Context::Tc(skb))) };
    let Walked { passage, port } = walk(&mut frame, &maps, ifindex);
    match passage.verdict() {
        Verdict::Forward { ifindex, neighbour: Neighbour::Resolved | Neighbour::Tagged } => {
            // SAFETY: no pointers.
            unsafe { bpf_redirect(ifindex, 0) as i32 }
        }
        Verdict::Forward { ifindex, neighbour: Neighbour::Unresolved } => find_neighbour(ifindex),
        // Pieces get their tags where they leave by their port's own interface.
        Verdict::Split { ifindex, neighbour: Neighbour::Resolved | Neighbour::Tagged } => {
            apart::xvr_tc_split(skb, ifindex);
            TC_ACT_SHOT
        }
        // The kernel keeps one packet and asks for the neighbour: the others are lost.
        Verdict::Split { ifindex, neighbour: Neighbour::Unresolved } => match apart::xvr_tc_split(skb, 0) {
            0 => TC_ACT_SHOT,
            _ => find_neighbour(ifindex),
        },
        Verdict::Drop(DropReason::TtlExceeded) => answer(skb, port, error::TIME_EXCEEDED, 0),
        // RFC 5508 REQ-8.
        Verdict::Drop(
            DropReason::NoFreePort
            | DropReason::GuestLimit
            | DropReason::FlowTableFull
            | DropReason::NextHopTableFull,
        ) => answer(skb, port, error::PROHIBITED, 0),
        Verdict::TooBig { mtu } => answer(skb, port, error::TOO_BIG, mtu),
        Verdict::Drop(_) => TC_ACT_SHOT,
        // The frame lies in a table, or has come in again.
        Verdict::Defer(DeferReason::Held) | Verdict::Sent => TC_ACT_SHOT,
        // SAFETY: no pointers.
        Verdict::Defer(DeferReason::Tunnelled) => unsafe {
            bpf_redirect(port, u64::from(BPF_F_INGRESS)) as i32
        },
        // SAFETY: the program's own context, no pointers.
        Verdict::Defer(_) | Verdict::Punt(_) if port != ifindex => unsafe {
            (*skb).mark = LEFT;
            bpf_redirect(port, u64::from(BPF_F_INGRESS)) as i32
        },
        Verdict::Defer(_) | Verdict::Punt(_) => TC_ACT_UNSPEC,
    }
}

/// At TC egress of the own interfaces of ports that have tags: what the kernel sends there, or has found the
/// neighbour for, leaves by the trunk.
#[classifier]
pub fn xvr_tags(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the program's own context.
    let ifindex = unsafe { (*skb).ifindex };
    match tunnel::leaving(apart::xvr_tc_give_tags(skb, ifindex, 0)) {
        // SAFETY: no pointers.
        Ok(Leaving::By(trunk)) => unsafe { bpf_redirect(trunk, 0) as i32 },
        Ok(Leaving::Gone) | Err(_) => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn answer(skb: *mut __sk_buff, port: u32, kind: u32, mtu: u16) -> i32 {
    apart::xvr_tc_answer4(skb, port, kind, u32::from(mtu)) as i32
}

/// Without parameters the kernel looks the next hop up by the destination, resolves it, and keeps the packet
/// until it is.
#[inline(always)]
fn find_neighbour(ifindex: u32) -> i32 {
    // SAFETY: a null pointer of length 0 is what the helper takes for none.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Unreachable: the build refuses an object with a call to this (xtask/ebpf-build).
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
