//! The measuring programs. Built only for the BPF target.
//!
//! `bench_make` writes a whole frame, since the pages of live frames come back with what their last reader
//! left in them, and sends it by the interface that the test run names. `bench_sink` counts and drops.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "aya's macros make modules without any")]

mod exact;

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use bench_programs::{Making, TEMPLATE, TUPLES, Tuple};

const ETHERNET: usize = 14;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
/// Bytes of a frame behind its IP header.
const SEGMENT: u16 = 20;

#[map]
static MAKING: Array<Making> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TABLE: Array<Tuple> = Array::with_max_entries(TUPLES, 0);
#[map]
static COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Makes the next frame.
#[xdp]
pub fn bench_make(ctx: XdpContext) -> u32 {
    match make(&ctx) {
        Some(()) => XDP_TX,
        None => XDP_ABORTED,
    }
}

/// Counts what arrives, but for what a router says to everybody: listeners' reports and the like.
#[xdp]
pub fn bench_sink(ctx: XdpContext) -> u32 {
    let data = ctx.data();
    // SAFETY: the byte was looked at.
    let is_ours = data + ETHERNET <= ctx.data_end() && unsafe { *(data as *const u8) } & 1 == 0;
    if is_ours && let Some(count) = COUNT.get_ptr_mut(0) {
        // SAFETY: this CPU's own value.
        unsafe { *count += 1 };
    }
    XDP_DROP
}

#[inline(always)]
fn make(ctx: &XdpContext) -> Option<()> {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + TEMPLATE > end {
        return None;
    }
    let making = MAKING.get_ptr_mut(0)?;
    // SAFETY: a value of the map; frames are made by one thread at a time.
    let (making, count) = unsafe { (&*making, (*making).made) };
    // SAFETY: as above.
    unsafe { (*MAKING.get_ptr_mut(0)?).made = count.wrapping_add(1) };
    let flow = count.wrapping_mul(making.stride) & making.mask;
    let tuple = TABLE.get(flow & (TUPLES - 1))?;
    let own_port = making.first_port.wrapping_add(flow as u16).to_be();

    let frame = Frame(data);
    for (index, word) in making.template.iter().enumerate() {
        frame.put(index * 4, *word);
    }
    let (from, to) = if making.is_reply == 0 {
        (&tuple.source, &tuple.destination)
    } else {
        (&tuple.destination, &tuple.source)
    };
    let l4 = if making.is_v6 == 0 {
        let (source, destination) = (from[0], to[0]);
        frame.put(ETHERNET + 9, tuple.protocol);
        frame.put(ETHERNET + 12, source);
        frame.put(ETHERNET + 16, destination);
        let mut sum = making.header_sum + (u32::from(tuple.protocol) << 8);
        sum += (source & 0xffff) + (source >> 16) + (destination & 0xffff) + (destination >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        frame.put(ETHERNET + 10, !(sum as u16));
        ETHERNET + 20
    } else {
        frame.put(ETHERNET + 6, tuple.protocol);
        frame.put(ETHERNET + 8, *from);
        frame.put(ETHERNET + 24, *to);
        ETHERNET + 40
    };
    let (mut first, mut second) = match making.is_reply == 0 {
        true => (own_port, tuple.port.raw()),
        false => (tuple.port.raw(), own_port),
    };
    let mut words = [making.sequence, making.acknowledged];
    match tuple.protocol {
        UDP => words[0] = u32::from((SEGMENT).to_be()) | 0xffff_0000,
        ICMP | ICMP6 => {
            words[0] = u32::from(own_port);
            let answer = if tuple.protocol == ICMP { 0 } else { 129 };
            first = if making.is_reply == 0 { tuple.port.raw() } else { answer };
            second = 0;
        }
        _ => {}
    }
    frame.put(l4, first);
    frame.put(l4 + 2, second);
    frame.put(l4 + 4, words[0]);
    frame.put(l4 + 8, words[1]);
    if tuple.protocol == TCP {
        // Data offset, flags, window.
        frame.put(l4 + 12, u32::from_ne_bytes([0x50, making.tcp_flags, 0x20, 0]));
    }
    Some(())
}

/// A frame of at least [`TEMPLATE`] bytes.
struct Frame(usize);

impl Frame {
    #[inline(always)]
    fn put<T>(&self, offset: usize, value: T) {
        // SAFETY: every offset used lies in the bytes that were looked at.
        unsafe { ((self.0 + offset) as *mut T).write_unaligned(value) };
    }
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
