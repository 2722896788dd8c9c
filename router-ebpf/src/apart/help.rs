//! What helpers do with a packet, as functions of their own.

use aya_ebpf::bindings::__sk_buff;
use router_common::verdict::DropReason;
use router_ebpf::ftp::{self, Desk, NO_OPTION};
use router_ebpf::helper;

use crate::frame::TcFrame;
use crate::maps::{Context, Maps};

const DONE: u32 = 0;

/// [`helper::help`] for the packet that was arrived last; not 0 where it could not be written.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_help4(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let mut frame = unsafe { TcFrame::new(skb) };
    let maps = maps();
    match helper::help(&mut frame, &maps) {
        Ok(()) => DONE,
        Err(_) => DropReason::RewriteFailed.outcome(),
    }
}

#[inline(always)]
fn maps() -> Maps {
    // SAFETY: there is no context, and nothing here needs one.
    unsafe { Maps::new(Context::Absent) }
}

/// [`ftp::Line::step`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_step(at: u32) -> u32 {
    maps().line().is_some_and(|mut line| line.step(at)).into()
}

/// [`ftp::find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_find() -> u32 {
    ftp::find(&maps()).into()
}

/// [`ftp::attempt`]; 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_attempt(attempt: u32) -> u32 {
    let maps = maps();
    let Some(line) = maps.line() else { return 0 };
    ftp::attempt(&maps, &line, attempt).map_or(0, |port| port.get().into())
}

/// [`ftp::external_port`]; 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_port() -> u32 {
    ftp::external_port(&maps()).map_or(0, |port| port.get().into())
}

/// [`ftp::Line::piece`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_piece(index: u32) -> u32 {
    if let Some(mut line) = maps().line() {
        line.piece(index);
    }
    DONE
}

/// [`ftp::Line::keep`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_keep(at: u32) -> u32 {
    if let Some(mut line) = maps().line() {
        line.keep(at);
    }
    DONE
}

/// [`ftp::compose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_compose() -> u32 {
    ftp::compose(&maps());
    DONE
}

/// [`ftp::Line::sum`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_sum() -> u32 {
    maps().line().map_or(0, |line| line.sum().into())
}

/// [`ftp::Line::option`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_option(at: u32) -> u32 {
    maps().line().map_or(NO_OPTION, |line| line.option(at))
}

/// [`ftp::sack_permitted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_ftp_sack() -> u32 {
    ftp::sack_permitted(&maps())
}
