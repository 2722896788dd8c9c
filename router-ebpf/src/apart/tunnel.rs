//! Frames in VXLAN packets: what the kernel has to be told of them.
//!
//! XDP has the frame and nothing else. A socket buffer knows besides where its headers are, what protocol it is, and how
//! it is to be cut. `bpf_skb_adjust_room` says all that anew of an IP packet that was in none; whatever else gets
//! headers in front makes a detour by its port's own interface, where the kernel looks at a frame as at one that has
//! come, and leaves from there: ARP, and what came in a packet that the kernel has made, of which the buffer knows still.

use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_INGRESS, TC_ACT_SHOT, bpf_adj_room_mode,
    xdp_md,
};
use aya_ebpf::helpers::{
    bpf_clone_redirect, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_load_bytes,
    bpf_skb_store_bytes,
};
use router_common::net::Ipv4;
use router_common::tunnel::{MAX_REMOTES, RemoteIndex};
use router_common::verdict::DropReason;
use router_ebpf::tunnel::{
    self, Inner, Leaving, OUTER, Opened, Tunnels, leaving_number, opened_number, put_in, remote_of, take_out,
    way_to,
};

use crate::frame::{TcFrame, XdpFrame};
use crate::maps::{Context, Maps, came, outer};

/// What has its headers and makes the detour, for the program at the port's own interface.
pub const PUT_IN: u32 = 0x7876_7222;

const NO_WAY: u32 = leaving_number(Err(DropReason::NoWayToVtep));
const NO_ROOM: u32 = leaving_number(Err(DropReason::RewriteFailed));
const GONE: u32 = leaving_number(Ok(Leaving::Gone));

/// [`take_out`] in the XDP program: an [`Opened`](router_ebpf::tunnel::Opened) as a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_take_out(ctx: *mut xdp_md, ifindex: u32, had_tags: u32, beyond: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps) = unsafe { (XdpFrame::with_beyond(ctx, beyond), Maps::new(Context::Xdp(ctx))) };
    note(opened_number(take_out(&mut frame, &maps, ifindex)), had_tags)
}

/// The same in the TC program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_take_out(skb: *mut __sk_buff, ifindex: u32, had_tags: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps) = unsafe { (TcFrame::with_inner(skb), Maps::new(Context::Tc(skb))) };
    note(opened_number(take_out(&mut frame, &maps, ifindex)), had_tags)
}

/// Keeps that something was taken off, for a frame that was not told by tags as well.
#[inline(always)]
fn note(opened: u32, had_tags: u32) -> u32 {
    let Some(mut came) = came() else { return NO_ROOM };
    came.is_packet = matches!(tunnel::opened(opened), Ok(Opened::Inside(_)));
    if had_tags == 0 {
        came.count = 0;
    }
    opened
}

/// [`put_in`] in the XDP program: a [`Leaving`] as a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_xdp_put_in(ctx: *mut xdp_md, ifindex: u32, beyond: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let (mut frame, maps) = unsafe { (XdpFrame::with_beyond(ctx, beyond), Maps::new(Context::Xdp(ctx))) };
    let Some(mut room) = outer() else { return NO_ROOM };
    leaving_number(put_in(&mut frame, &maps, ifindex, &mut room))
}

/// The same in the TC program, which sends a frame to all remote ends where it does not know to which.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_put_in(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let (frame, maps) = unsafe { (TcFrame::new(skb), Maps::new(Context::Tc(skb))) };
    let Some(tunnel) = maps.tunnel(ifindex) else { return NO_ROOM };
    let inner = Inner::of(&frame);
    let remote = remote_of(&frame, &maps, ifindex, &tunnel);
    if let Some(Ipv4([remote])) = remote {
        let told = xvr_tc_address(skb, ifindex, remote, inner_number(&inner));
        if told != 0 {
            return told;
        }
    }
    let by_detour = xvr_tc_make_room(skb);
    if by_detour == FAILED {
        return NO_ROOM;
    }
    match remote {
        Some(_) if by_detour == 0 => match write(skb) {
            true => leaving_number(Ok(Leaving::By(tunnel.underlay))),
            false => NO_ROOM,
        },
        Some(_) => {
            send(skb, ifindex, tunnel.underlay, by_detour);
            GONE
        }
        None => {
            let number = inner_number(&inner);
            for index in 0..MAX_REMOTES {
                if index >= tunnel.remotes {
                    break;
                }
                xvr_tc_send_to(skb, ifindex, index | by_detour << 16, number);
            }
            GONE
        }
    }
}

/// What headers take from a frame, as one number.
#[inline(always)]
const fn inner_number(inner: &Inner) -> u64 {
    (inner.length as u64) << 32 | (inner.source_port as u64) << 8 | inner.ecn as u64
}

#[inline(always)]
const fn inner_of(number: u64) -> Inner {
    Inner { length: (number >> 32) as usize, source_port: (number >> 8) as u16, ecn: number as u8 }
}

/// Writes headers down to a remote end; 0, or a number that says why not.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_address(skb: *mut __sk_buff, ifindex: u32, remote: u32, inner: u64) -> u32 {
    // SAFETY: the program's own context, handed on by it.
    let maps = unsafe { Maps::new(Context::Tc(skb)) };
    let (Some(tunnel), Some(mut room)) = (maps.tunnel(ifindex), outer()) else { return NO_ROOM };
    let remote = Ipv4([remote]);
    let Some(macs) = way_to(&maps, ifindex, &tunnel, remote) else { return NO_WAY };
    room.write(&tunnel, &inner_of(inner), remote, macs);
    0
}

const FAILED: u32 = 2;

/// Makes room for headers in front of a frame: 0 where the kernel knows what they are, 1 where it has to look, by the
/// detour.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_make_room(skb: *mut __sk_buff) -> u32 {
    const ETHERNET: usize = 14;
    const KIND: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO
        | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
        | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
        | (ETHERNET as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
    let mut header = [0u32; 4];
    // SAFETY: the program's own context, and room for the bytes.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), 0, (&raw mut header).cast(), ETHERNET as u32) != 0 {
            return FAILED;
        }
        if bpf_skb_adjust_room(skb, OUTER as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, KIND) != 0 {
            return if bpf_skb_change_head(skb, OUTER as u32, 0) == 0 { 1 } else { FAILED };
        }
        match bpf_skb_store_bytes(skb, OUTER as u32, (&raw const header).cast(), ETHERNET as u32, 0) {
            0 => 0,
            _ => FAILED,
        }
    }
}

/// Writes the headers that were written down in front of a frame.
#[inline(always)]
fn write(skb: *mut __sk_buff) -> bool {
    let Some(room) = outer() else { return false };
    // SAFETY: the program's own context; the room is longer.
    unsafe { bpf_skb_store_bytes(skb, 0, (&raw const room.words).cast(), OUTER as u32, 0) == 0 }
}

/// Sends a copy of a frame with the headers that were written down.
#[inline(always)]
fn send(skb: *mut __sk_buff, ifindex: u32, underlay: u32, by_detour: u32) {
    if !write(skb) {
        return;
    }
    // SAFETY: the program's own context.
    unsafe {
        if by_detour == 0 {
            bpf_clone_redirect(skb, underlay, 0);
        } else {
            (*skb).mark = PUT_IN;
            bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS));
        }
    }
}

/// Sends a copy to a remote end by its index; bit 16 has it make the detour.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_send_to(skb: *mut __sk_buff, ifindex: u32, index: u32, inner: u64) -> u32 {
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    let (index, by_detour) = (index & 0xffff, index >> 16);
    let Some(tunnel) = maps.tunnel(ifindex) else { return 0 };
    let Some(Ipv4([remote])) = maps.remote_at(&RemoteIndex { ifindex, index }) else { return 0 };
    if xvr_tc_address(skb, ifindex, remote, inner) != 0 {
        return 0;
    }
    send(skb, ifindex, tunnel.underlay, by_detour);
    1
}

/// The end of the detour: an action for TC.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xvr_tc_detour(skb: *mut __sk_buff) -> u32 {
    // SAFETY: there is no context, and nothing here needs one.
    let maps = unsafe { Maps::new(Context::Absent) };
    // SAFETY: the program's own context.
    let ifindex = unsafe {
        (*skb).mark = 0;
        (*skb).ifindex
    };
    match maps.tunnel(ifindex) {
        // SAFETY: no pointers.
        Some(tunnel) => unsafe { bpf_redirect(tunnel.underlay, 0) as u32 },
        None => TC_ACT_SHOT as u32,
    }
}
