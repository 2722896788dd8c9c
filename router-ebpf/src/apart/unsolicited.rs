//! Noting SYNs that were refused, as functions of their own.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use router_common::config::RouterConfig;
use router_common::unsolicited::Syn;
use router_ebpf::packet::Packet;
use router_ebpf::tables::Tables;
use router_ebpf::unsolicited;

use crate::frame::{TcFrame, XdpFrame};
use crate::maps::{Context, Maps, note_syn};

/// Notes a frame that was refused, if its sender is to hear of it; in the XDP program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_note_syn(ctx: *mut xdp_md, ifindex: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    note(&unsafe { XdpFrame::new(ctx) }, ifindex)
}

/// The same in the TC program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_note_syn(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    note(&unsafe { TcFrame::new(skb) }, ifindex)
}

/// Whether it was.
#[inline(always)]
fn note<P: Packet>(frame: &P, ifindex: u32) -> u32 {
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    if maps.config().flags & RouterConfig::ANSWER_SYNS == 0 {
        return 0;
    }
    let Some(port) = maps.port(ifindex) else { return 0 };
    let Some((key, headers)) = unsolicited::syn(frame, port.router) else { return 0 };
    note_syn(&key, &Syn { at: maps.now(), ifindex, headers });
    1
}
