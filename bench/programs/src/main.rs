//! The measuring programs. Built only for the BPF target.
//!
//! `bench_make` writes a whole frame, since the pages of live frames come back with what their last reader
//! left in them, and sends it by the interface that the test run names. `bench_sink` counts and drops, or answers.
//! `bench_forth` and `bench_back` are the two ports of a router that does nothing else: the least that it can cost.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "aya's macros make modules without any")]

mod exact;

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, DevMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use bench_programs::{COVER, Grid, Hop, Making, TEMPLATE, TUPLES, Tuple};

const ETHERNET: usize = 14;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
/// A prime by which flows are spread over destination ports: few flows are not all to the first few.
const SPREAD: u32 = 7919;
/// Bytes of a frame behind its IP header.
const SEGMENT: u16 = 20;

#[map]
static MAKING: Array<Making> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TABLE: Array<Tuple> = Array::with_max_entries(TUPLES, 0);
#[map]
static COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// The end of the MAC address of the sink that answers, as on the wire; 0 for none.
#[map]
static ANSWERING: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static HOPS: Array<Hop> = Array::with_max_entries(2, 0);
#[map]
static WAYS: DevMap = DevMap::with_max_entries(2, 0);

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
    if !is_ours {
        return XDP_DROP;
    }
    if let Some(count) = COUNT.get_ptr_mut(0) {
        // SAFETY: this CPU's own value.
        unsafe { *count += 1 };
    }
    match ANSWERING.get(0) {
        Some(0) | None => XDP_DROP,
        Some(whose) => answer(&ctx, *whose).unwrap_or(XDP_DROP),
    }
}

/// Sends a datagram back to where it came from, if it came to this address.
#[inline(always)]
fn answer(ctx: &XdpContext, whose: u32) -> Option<u32> {
    let data = ctx.data();
    if data + ETHERNET + 20 + 8 > ctx.data_end() {
        return None;
    }
    let frame = Frame(data);
    if u32::from(frame.get::<u16>(4)) != whose {
        return None;
    }
    let (head, tail, source, source_end) =
        (frame.get::<u32>(0), frame.get::<u16>(4), frame.get::<u32>(6), frame.get::<u16>(10));
    frame.put(0, source);
    frame.put(4, source_end);
    frame.put(6, head);
    frame.put(10, tail);
    let (from, to) = (frame.get::<u32>(ETHERNET + 12), frame.get::<u32>(ETHERNET + 16));
    frame.put(ETHERNET + 12, to);
    frame.put(ETHERNET + 16, from);
    let (from, to) = (frame.get::<u16>(ETHERNET + 20), frame.get::<u16>(ETHERNET + 22));
    frame.put(ETHERNET + 20, to);
    frame.put(ETHERNET + 22, from);
    // Not by XDP_TX, which nobody takes at a peer that has GRO and no program.
    // SAFETY: a helper that reads no memory.
    Some(unsafe { bpf_redirect(ctx.ingress_ifindex() as u32, 0) } as u32)
}

/// Sends on what comes from the generator.
#[xdp]
pub fn bench_forth(ctx: XdpContext) -> u32 {
    send_on(&ctx, 0).unwrap_or(XDP_ABORTED)
}

/// Sends on what comes from the sink.
#[xdp]
pub fn bench_back(ctx: XdpContext) -> u32 {
    send_on(&ctx, 1).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn send_on(ctx: &XdpContext, way: u32) -> Option<u32> {
    let data = ctx.data();
    if data + ETHERNET > ctx.data_end() {
        return None;
    }
    let hop = HOPS.get(way)?;
    for (index, word) in hop.macs[..3].iter().enumerate() {
        // SAFETY: the bytes were looked at. Drivers put frames at multiples of four, and the kernel does not mind
        // where they do not; unaligned, it would be byte by byte, and not the least that it can cost.
        unsafe { ((data + index * 4) as *mut u32).write(*word) };
    }
    WAYS.redirect(way, 0).ok()
}

#[inline(always)]
fn make(ctx: &XdpContext) -> Option<()> {
    let making = MAKING.get_ptr_mut(0)?;
    // SAFETY: a value of the map.
    match unsafe { (*making).front } {
        0 => make_at::<0>(ctx),
        4 => make_at::<4>(ctx),
        8 => make_at::<8>(ctx),
        50 => make_at::<50>(ctx),
        _ => None,
    }
}

/// Makes the next frame so many bytes behind the beginning, and what is in front.
#[inline(always)]
fn make_at<const FRONT: usize>(ctx: &XdpContext) -> Option<()> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + FRONT + TEMPLATE > end {
        return None;
    }
    let data = start + FRONT;
    let making = MAKING.get_ptr_mut(0)?;
    // SAFETY: a value of the map; frames are made by one thread at a time.
    let (making, count) = unsafe { (&*making, (*making).made) };
    // SAFETY: as above.
    unsafe { (*MAKING.get_ptr_mut(0)?).made = count.wrapping_add(1) };
    let flow = count.wrapping_mul(making.stride) & making.mask;
    if making.is_grid != 0 {
        make_of_grid(data, making, flow);
        let words = match FRONT {
            0 => 0,
            50 => COVER / 4,
            tags => (12 + tags) / 4,
        };
        for (index, word) in making.cover.iter().take(words).enumerate() {
            Frame(start).put(index * 4, *word);
        }
        if FRONT == 4
            && let Some(tier) =
                (flow & ((1 << (making.grid.source_bits & 31)) - 1)).checked_rem(making.vlans.into())
        {
            Frame(start).put(ETHERNET, (tier as u16 + 1).to_be());
        }
        return Some(());
    }
    let tuple = TABLE.get(flow & (TUPLES - 1))?;
    let own_port = making.first_port.wrapping_add(flow as u16).to_be();

    let frame = Frame(data);
    frame.put_template(making);
    let (from, to) = if making.is_reply == 0 {
        (&tuple.source, &tuple.destination)
    } else {
        (&tuple.destination, &tuple.source)
    };
    let l4 = if making.is_v6 == 0 {
        let (source, destination) = (from[0], to[0]);
        frame.put_header4(making, tuple.protocol, source, destination);
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

/// The datagram of a flow that is counted up.
#[inline(always)]
fn make_of_grid(data: usize, making: &Making, flow: u32) {
    let Grid { source, destination, source_bits, port_bits, port, ports } = making.grid;
    let of = |shift: u32, bits: u32| (flow >> (shift & 31)) & ((1 << (bits & 31)) - 1);
    let source = source + of(0, source_bits);
    let own_port = making.first_port.wrapping_add(of(source_bits, port_bits) as u16);
    let destination = destination + (flow >> ((source_bits + port_bits) & 31));
    let port = (port + flow.wrapping_mul(SPREAD).checked_rem(ports).unwrap_or(0)) as u16;
    let frame = Frame(data);
    frame.put_template(making);
    frame.put_header4(making, UDP, source.to_be(), destination.to_be());
    frame.put(ETHERNET + 20, own_port.to_be());
    frame.put(ETHERNET + 22, port.to_be());
    frame.put(ETHERNET + 24, u32::from(SEGMENT.to_be()) | 0xffff_0000);
}

/// A frame of at least [`TEMPLATE`] bytes.
struct Frame(usize);

impl Frame {
    #[inline(always)]
    fn put_template(&self, making: &Making) {
        for (index, word) in making.template.iter().enumerate() {
            self.put(index * 4, *word);
        }
    }

    /// What differs from flow to flow in an IPv4 header, addresses as on the wire.
    #[inline(always)]
    fn put_header4(&self, making: &Making, protocol: u8, source: u32, destination: u32) {
        self.put(ETHERNET + 9, protocol);
        self.put(ETHERNET + 12, source);
        self.put(ETHERNET + 16, destination);
        let mut sum = making.header_sum + (u32::from(protocol) << 8);
        sum += (source & 0xffff) + (source >> 16) + (destination & 0xffff) + (destination >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        self.put(ETHERNET + 10, !(sum as u16));
    }

    #[inline(always)]
    fn get<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: as below.
        unsafe { ((self.0 + offset) as *const T).read_unaligned() }
    }

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
