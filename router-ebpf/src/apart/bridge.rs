//! Bridges: frames that go on as they are.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::bpf_clone_redirect;
use router_common::bridge::MAX_MEMBERS;
use router_ebpf::bridge;
use router_ebpf::tables::Tables;

use crate::frame::{TcFrame, XdpFrame};
use crate::maps::{Context, Maps, member};

/// [`bridge::pass`] in the XDP program: a [`Passage`](router_ebpf::passage::Passage) as a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_bridge(ctx: *mut xdp_md, ifindex: u32, beyond: u32) -> u64 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps) = unsafe { (XdpFrame::with_beyond(ctx, beyond), Maps::new(Context::Xdp(ctx))) };
    bridge::pass(&mut frame, &maps, ifindex).number()
}

/// The same in the TC program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_bridge(skb: *mut __sk_buff, ifindex: u32) -> u64 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps) = unsafe { (TcFrame::new(skb), Maps::new(Context::Tc(skb))) };
    bridge::pass(&mut frame, &maps, ifindex).number()
}

/// Sends copies of a frame to all ports of a bridge but one that take packets of this length, by their own interfaces, where they get
/// their tags.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_flood(skb: *mut __sk_buff, bridge: u32, but: u32, length: u32) -> u32 {
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    for index in 0..MAX_MEMBERS {
        let Some(ifindex) = member(bridge, index) else { break };
        if ifindex != but && maps.port(ifindex).is_some_and(|port| length <= port.mtu) {
            // SAFETY: the program's own context.
            unsafe { bpf_clone_redirect(skb, ifindex, 0) };
        }
    }
    0
}
