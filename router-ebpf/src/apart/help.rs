//! What helpers do with a packet, as functions of their own.

use aya_ebpf::bindings::__sk_buff;
use router_common::verdict::DropReason;
use router_ebpf::helper;

use crate::frame::TcFrame;
use crate::maps::{Context, Maps};

const DONE: u32 = 0;

/// [`helper::help`] for the packet that was handed over last; not 0 where it could not be written.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_help4(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps) = unsafe { (TcFrame::new(skb), Maps::new(Context::Absent)) };
    match helper::help(&mut frame, &maps) {
        Ok(()) => DONE,
        Err(_) => DropReason::RewriteFailed.outcome(),
    }
}
