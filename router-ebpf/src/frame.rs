//! The kernel's two kinds of frame as [`Packet`]: XDP's bytes on the wire, and TC's socket
//! buffer, which may be cut into segments or checksummed later.
//!
//! One of the files that may write `unsafe` (with `packet.rs` and `maps.rs`). Bounds checks are
//! in [`Raw::load`] and [`Raw::store`], and nowhere else.

use core::arch::asm;

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode, xdp_md,
};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
    bpf_skb_load_bytes_relative, bpf_skb_pull_data, bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
    bpf_xdp_adjust_head, bpf_xdp_get_buff_len,
};
use router_common::account::Hook;
use router_common::net::Be16;
use router_ebpf::checksum;
use router_ebpf::packet::{ChecksumPatch, Head, Packet, Plain, ROOM};
use router_ebpf::tags::{Tag, Tags};
use router_ebpf::tunnel::{OUTER, Outer};

/// No header that the walk reads lies beyond this offset. The verifier wants a bound on every
/// variable offset.
const MAX_OFFSET: usize = 1023;

/// The linear part of a frame.
struct Raw {
    start: usize,
    end: usize,
}

impl Raw {
    /// # Safety
    /// `start` and `end` are a program context's `data` and `data_end`, read since the last
    /// helper call that may have moved them.
    #[inline(always)]
    const unsafe fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        let address = self.checked::<T>(offset)?;
        // SAFETY: in bounds, and any bytes are a valid `Plain`. The BPF machine has no
        // alignment: the kernel refuses unaligned packet access only where the CPU does.
        Some(unsafe { *(address as *const T) })
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: usize, value: T) -> Option<()> {
        let address = self.checked::<T>(offset)?;
        // SAFETY: as in `load`; `Plain` has no padding.
        unsafe { *(address as *mut T) = value };
        Some(())
    }

    #[inline(always)]
    fn store_words<const N: usize>(&mut self, offset: usize, words: [u32; N]) -> Option<()> {
        let address = self.checked::<[u32; N]>(offset)?;
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: as in `store`. Volatile, or LLVM would make one store of them again.
            unsafe { ((address + index * 4) as *mut u32).write_volatile(word) };
        }
        Some(())
    }

    #[inline(always)]
    fn head(&self, length: usize) -> Option<RawHead> {
        // As in `checked`.
        if opaque(self.start + length) > self.end { None } else { Some(RawHead { start: self.start }) }
    }

    #[inline(always)]
    fn checked<T>(&self, offset: usize) -> Option<usize> {
        if offset > MAX_OFFSET {
            return None;
        }
        let address = self.start + bounded(offset);
        // The kernel proves the access from this very comparison of packet pointers. LLVM must
        // not turn it into one with `end - size`: arithmetic on the end is refused.
        if opaque(address + size_of::<T>()) > self.end { None } else { Some(address) }
    }
}

/// The first bytes of a frame. Their number was compared with its end, and the verifier holds every access to it.
pub struct RawHead {
    start: usize,
}

impl Head for RawHead {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> T {
        // SAFETY: as in [`Raw::load`].
        unsafe { *((self.start + offset) as *const T) }
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: usize, value: T) {
        // SAFETY: as in [`Raw::store`].
        unsafe { *((self.start + offset) as *mut T) = value };
    }
}

/// Up to [`MAX_OFFSET`], and the verifier sees that on the very register that is added. A
/// comparison alone is of another one where LLVM runs out of registers: kernels before 6.8 forget
/// what connects the two on the stack.
#[inline(always)]
fn bounded(offset: usize) -> usize {
    let mut offset = offset;
    // SAFETY: a register alone, no memory, no flags.
    unsafe {
        asm!("{0} &= {max}", inout(reg) offset, max = const MAX_OFFSET,
             options(pure, nomem, nostack, preserves_flags));
    }
    offset
}

/// A length of 1 to [`ROOM`], and the verifier sees both bounds.
#[inline(always)]
fn bounded_length(length: usize) -> Option<u32> {
    if length == 0 || length > ROOM {
        return None;
    }
    let mut length = length as u32;
    // SAFETY: a register alone, no memory, no flags.
    unsafe {
        asm!("{0} += -1", "{0} &= {max}", "{0} += 1",
             inout(reg) length, max = const ROOM - 1, options(pure, nomem, nostack, preserves_flags));
    }
    Some(length)
}

/// Whether a buffer begins as an IPv4 packet does, without an Ethernet header. So do frames to some Ethernet
/// addresses: only the port tells.
#[inline(always)]
pub fn may_lack_header(skb: *mut __sk_buff) -> bool {
    // SAFETY: the program's own context, and nothing has moved its packet yet.
    let raw = unsafe { Raw::new((*skb).data as usize, (*skb).data_end as usize) };
    raw.load::<u8>(0).is_some_and(|first| first >> 4 == 4)
}

/// Whether there is something in front of a buffer's packet: then the last byte of its linear part is beyond the end
/// when it is counted from where the packet begins.
#[inline(always)]
pub fn has_header(skb: *mut __sk_buff) -> bool {
    let mut byte = 0u8;
    // SAFETY: the program's own context; one byte on the stack.
    unsafe {
        // LLVM must not make it a computation in 32 bits, which the kernel refuses with pointers.
        let length = opaque((*skb).data_end as usize - (*skb).data as usize);
        let last = (length as u32).wrapping_sub(1);
        bpf_skb_load_bytes_relative(skb.cast(), last, (&raw mut byte).cast(), 1, BPF_HDR_START_NET) != 0
    }
}

/// Keeps LLVM from computing with a value at compile time: the verifier must see a comparison of
/// the very pointer that is used.
#[inline(always)]
fn opaque(offset: usize) -> usize {
    let mut offset = offset;
    // SAFETY: one register move, no memory, no flags.
    unsafe { asm!("{0} = {0}", inout(reg) offset, options(pure, nomem, nostack, preserves_flags)) };
    offset
}

/// The same offset, known to the verifier as some number: it follows no number through two
/// exclusive ors with another that it does not know.
#[inline(always)]
fn blur(offset: usize, unknown: usize) -> usize {
    let unknown = opaque(unknown);
    opaque(opaque(offset ^ unknown) ^ unknown)
}

/// A frame in the XDP programs.
pub struct XdpFrame {
    ctx: *mut xdp_md,
    raw: Raw,
    beyond: Beyond,
}

/// How many bytes of a frame are in further buffers than the first.
enum Beyond {
    /// So many.
    Known(u32),
    /// The kernel is asked each time: the program for such frames has no room left on its stack to keep it.
    Asked,
}

impl XdpFrame {
    /// A frame in one buffer; or one whose length does not matter.
    ///
    /// # Safety
    /// `ctx` is the program's own context.
    #[inline(always)]
    pub unsafe fn new(ctx: *mut xdp_md) -> Self {
        // SAFETY: see above.
        unsafe { Self::with_beyond(ctx, 0) }
    }

    /// A frame with so many bytes in further buffers.
    ///
    /// # Safety
    /// `ctx` is the program's own context.
    #[inline(always)]
    pub unsafe fn with_beyond(ctx: *mut xdp_md, beyond: u32) -> Self {
        // SAFETY: the context is valid for the program's run, see above.
        let raw = unsafe { Raw::new((*ctx).data as usize, (*ctx).data_end as usize) };
        Self { ctx, raw, beyond: Beyond::Known(beyond) }
    }

    /// A frame in as many buffers as the kernel says.
    ///
    /// # Safety
    /// `ctx` is the program's own context.
    #[inline(always)]
    pub unsafe fn in_buffers(ctx: *mut xdp_md) -> Self {
        // SAFETY: see above.
        Self { beyond: Beyond::Asked, ..unsafe { Self::new(ctx) } }
    }

    /// How many bytes are in the first buffer. LLVM must not add to the end before it subtracts the start: the kernel
    /// refuses that.
    #[inline(always)]
    fn linear(&self) -> usize {
        // SAFETY: the context is valid for the program's run.
        unsafe { opaque((*self.ctx).data_end as usize - (*self.ctx).data as usize) }
    }

    /// How many bytes are in all of them.
    #[inline(always)]
    fn whole(&self) -> usize {
        // SAFETY: as above.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
    }

    /// The same after what may have moved it.
    #[inline(always)]
    fn refresh(&mut self) {
        // SAFETY: as in `new`.
        self.raw = unsafe { Raw::new((*self.ctx).data as usize, (*self.ctx).data_end as usize) };
    }

    /// Moves the frame's beginning so many bytes towards its end.
    #[inline(always)]
    fn move_start(&mut self, bytes: i32) -> Option<()> {
        // SAFETY: the program's own context.
        let failed = unsafe { bpf_xdp_adjust_head(self.ctx, bytes) != 0 };
        self.refresh();
        (!failed).then_some(())
    }

    /// Moves the frame's beginning so many bytes towards its end, and the addresses with it.
    #[inline(always)]
    fn move_addresses(&mut self, bytes: i32) -> Option<()> {
        // It was handed to functions that may have moved it.
        self.refresh();
        let addresses: [u32; 3] = self.load(0)?;
        self.move_start(bytes)?;
        self.store_words(0, addresses)
    }
}

impl Packet for XdpFrame {
    type Head<'a> = RawHead;

    #[inline(always)]
    fn hook(&self) -> Hook {
        Hook::Xdp
    }

    #[inline(always)]
    fn length(&self) -> usize {
        match self.beyond {
            Beyond::Known(beyond) => self.linear() + beyond as usize,
            Beyond::Asked => self.whole(),
        }
    }

    #[inline(always)]
    fn beyond(&self) -> usize {
        match self.beyond {
            Beyond::Known(beyond) => beyond as usize,
            Beyond::Asked => self.whole() - self.linear(),
        }
    }

    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        self.raw.load(offset)
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: usize, value: T) -> Option<()> {
        self.raw.store(offset, value)
    }

    #[inline(always)]
    fn store_words<const N: usize>(&mut self, offset: usize, words: [u32; N]) -> Option<()> {
        self.raw.store_words(offset, words)
    }

    #[inline(always)]
    fn head(&mut self, length: usize) -> Option<RawHead> {
        self.raw.head(length)
    }

    #[inline(always)]
    fn blur(&self, offset: usize) -> usize {
        blur(offset, self.raw.end - self.raw.start)
    }

    #[inline(always)]
    fn stripped_tag(&self) -> Tag {
        Tag::NONE
    }

    #[inline(always)]
    fn untag(&mut self, count: usize) -> Option<()> {
        self.move_addresses(if count == 2 { 8 } else { 4 })
    }

    #[inline(always)]
    fn tag(&mut self, tags: &Tags) -> Option<()> {
        let two = tags.count == 2;
        self.move_addresses(if two { -8 } else { -4 })?;
        self.store(12, Be16::new(tags.outer.protocol()))?;
        self.store(14, Be16::new(tags.outer.control()))?;
        if two {
            self.store(16, Be16::new(tags.inner.protocol()))?;
            self.store(18, Be16::new(tags.inner.control()))?;
        }
        Some(())
    }

    #[inline(always)]
    fn take_out(&mut self) -> Option<()> {
        self.move_start(OUTER as i32)
    }

    /// The kernel leaves alone what is in front of a frame.
    #[inline(always)]
    fn put_back(&mut self) -> Option<()> {
        self.move_start(-(OUTER as i32))
    }

    #[inline(always)]
    fn put_in(&mut self, outer: &Outer) -> Option<()> {
        self.put_back()?;
        self.store_words(0, outer.words)?;
        self.store(OUTER - 2, outer.last)
    }

    #[inline(always)]
    fn segment_payload(&self) -> Option<usize> {
        None
    }

    #[inline(always)]
    fn patch_checksum(&mut self, patch: ChecksumPatch) -> Option<()> {
        checksum::patch_in_place(self, patch)
    }

    #[inline(always)]
    fn sum_changed(&mut self, _delta: u16) {}
}

/// A frame in the TC program.
pub struct TcFrame {
    skb: *mut __sk_buff,
    raw: Raw,
}

/// Enough for every header the walk reads of TCP and UDP without options.
const TRANSPORT: usize = 20;
/// Enough for options, extension headers and the packet inside an ICMP error.
const EVERYTHING: u32 = 256;
const ROOM_MAC: u32 = bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
/// Segments stay as long as they are.
const FIXED_GSO: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64;

impl TcFrame {
    /// Makes sure that the headers lie in the linear part.
    ///
    /// # Safety
    /// `skb` is the program's own context.
    #[inline(always)]
    pub unsafe fn new(skb: *mut __sk_buff) -> Self {
        // SAFETY: the context is valid for the program's run.
        let mut frame =
            Self { skb, raw: unsafe { Raw::new((*skb).data as usize, (*skb).data_end as usize) } };
        // SAFETY: as above.
        let length = unsafe { (*skb).len };
        let linear = frame.raw.end - frame.raw.start;
        if linear < length as usize && linear < EVERYTHING as usize && linear < frame.headers() {
            let wanted = if length < EVERYTHING { length } else { EVERYTHING };
            // SAFETY: as above; on failure the frame stays as it is and reads as truncated.
            unsafe { bpf_skb_pull_data(skb, wanted) };
            frame.refresh();
        }
        frame
    }

    /// The same with all headers there, also those of a frame inside.
    ///
    /// # Safety
    /// `skb` is the program's own context.
    #[inline(always)]
    pub unsafe fn with_inner(skb: *mut __sk_buff) -> Self {
        // SAFETY: the context is valid for the program's run; on failure the frame reads as truncated.
        unsafe {
            let (length, linear) = ((*skb).len, (*skb).data_end - (*skb).data);
            if linear < length && linear < EVERYTHING {
                bpf_skb_pull_data(skb, if length < EVERYTHING { length } else { EVERYTHING });
            }
            Self::new(skb)
        }
    }

    /// How many bytes of headers the frame probably has.
    #[inline(always)]
    fn headers(&self) -> usize {
        const TCP_AND_UDP: [u8; 2] = [6, 17];
        let (header, protocol) = match self.raw.load::<u16>(12).map(u16::from_be) {
            Some(0x0800) => match self.raw.load::<u8>(14) {
                Some(0x45) => (20, self.raw.load::<u8>(23)),
                _ => return EVERYTHING as usize,
            },
            Some(0x86dd) => (40, self.raw.load::<u8>(20)),
            _ => return EVERYTHING as usize,
        };
        match protocol {
            Some(protocol) if TCP_AND_UDP.contains(&protocol) => 14 + header + TRANSPORT,
            _ => EVERYTHING as usize,
        }
    }

    #[inline(always)]
    fn refresh(&mut self) {
        // SAFETY: the context is valid for the program's run.
        self.raw = unsafe { Raw::new((*self.skb).data as usize, (*self.skb).data_end as usize) };
    }
}

impl Packet for TcFrame {
    type Head<'a> = RawHead;

    #[inline(always)]
    fn hook(&self) -> Hook {
        Hook::Tc
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        self.raw.load(offset)
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: usize, value: T) -> Option<()> {
        self.raw.store(offset, value)
    }

    #[inline(always)]
    fn store_words<const N: usize>(&mut self, offset: usize, words: [u32; N]) -> Option<()> {
        self.raw.store_words(offset, words)
    }

    #[inline(always)]
    fn head(&mut self, length: usize) -> Option<RawHead> {
        self.raw.head(length)
    }

    #[inline(always)]
    fn blur(&self, offset: usize) -> usize {
        blur(offset, self.raw.end - self.raw.start)
    }

    #[inline(always)]
    fn stripped_tag(&self) -> Tag {
        // SAFETY: the context is valid for the program's run.
        let (present, protocol, control) =
            unsafe { ((*self.skb).vlan_present, (*self.skb).vlan_proto, (*self.skb).vlan_tci) };
        if present == 0 { Tag::NONE } else { Tag::new(u16::from_be(protocol as u16), control as u16) }
    }

    #[inline(always)]
    fn untag(&mut self, count: usize) -> Option<()> {
        // SAFETY: the context is valid for the program's run. The kernel takes the next tag out of the frame where
        // there is one.
        let failed =
            unsafe { bpf_skb_vlan_pop(self.skb) != 0 || (count == 2 && bpf_skb_vlan_pop(self.skb) != 0) };
        // Headers that were behind the tags are looked for again.
        // SAFETY: as above.
        *self = unsafe { Self::new(self.skb) };
        if failed { None } else { Some(()) }
    }

    #[inline(always)]
    fn tag(&mut self, tags: &Tags) -> Option<()> {
        let skb = self.skb;
        // SAFETY: the context is valid for the program's run.
        let push = |tag: Tag| unsafe { bpf_skb_vlan_push(skb, tag.protocol().to_be(), tag.control()) == 0 };
        // The outer one stays beside the frame, for a device that can put it in.
        let tagged = (tags.count != 2 || push(tags.inner)) && push(tags.outer);
        self.refresh();
        tagged.then_some(())
    }

    /// The kernel takes bytes out behind the Ethernet header, so that the inner one is written over the outer one.
    #[inline(always)]
    fn take_out(&mut self) -> Option<()> {
        let addresses: [u32; 3] = self.load(OUTER)?;
        let ethertype: u16 = self.load(OUTER + 12)?;
        // SAFETY: the context is valid for the program's run.
        if unsafe { bpf_skb_adjust_room(self.skb, -(OUTER as i32), ROOM_MAC, FIXED_GSO) } != 0 {
            return None;
        }
        // SAFETY: as above.
        *self = unsafe { Self::new(self.skb) };
        self.store_words(0, addresses)?;
        self.store(12, ethertype)
    }

    /// TC leaves nothing to anybody as it came.
    #[inline(always)]
    fn put_back(&mut self) -> Option<()> {
        None
    }

    /// The programs do it themselves, since some frames leave by a detour (`apart/tunnel.rs`).
    #[inline(always)]
    fn put_in(&mut self, _outer: &Outer) -> Option<()> {
        None
    }

    #[inline(always)]
    fn segment_payload(&self) -> Option<usize> {
        // SAFETY: the context is valid for the program's run.
        let size = unsafe { (*self.skb).gso_size };
        (size != 0).then_some(size as usize)
    }

    #[inline(always)]
    fn patch_checksum(&mut self, patch: ChecksumPatch) -> Option<()> {
        let offset = patch.offset as u32;
        let mangled = if patch.zero_is_none { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | mangled;
        // The kernel knows whether the checksum is finished: an unfinished one gets the new
        // pseudo header alone, and the ports are summed with the rest of the segment later.
        // SAFETY: the context is valid for the program's run; the helpers check the offset.
        let failed = unsafe {
            bpf_l4_csum_replace(self.skb, offset, 0, u64::from(patch.addresses), pseudo) != 0
                || bpf_l4_csum_replace(self.skb, offset, 0, u64::from(patch.ports), mangled) != 0
        };
        self.refresh();
        if failed { None } else { Some(()) }
    }

    #[inline(always)]
    fn read(&self, offset: usize, room: &mut [u8; ROOM], length: usize) -> Option<()> {
        let length = bounded_length(length)?;
        // SAFETY: the program's own context; the room is as long as the bound.
        let failed = unsafe {
            bpf_skb_load_bytes(self.skb.cast(), offset as u32, room.as_mut_ptr().cast(), length) != 0
        };
        if failed { None } else { Some(()) }
    }

    #[inline(always)]
    fn write(&mut self, offset: usize, bytes: &[u8; ROOM], length: usize) -> Option<()> {
        let length = bounded_length(length)?;
        // SAFETY: as above.
        let failed =
            unsafe { bpf_skb_store_bytes(self.skb, offset as u32, bytes.as_ptr().cast(), length, 0) != 0 };
        self.refresh();
        if failed { None } else { Some(()) }
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        // SAFETY: the program's own context; the kernel checks the length. A sum that the hardware has
        // given over the frame is forgotten.
        let failed = unsafe { bpf_skb_change_tail(self.skb, length as u32, 0) != 0 };
        self.refresh();
        if failed { None } else { Some(()) }
    }

    #[inline(always)]
    fn sum_changed(&mut self, delta: u16) {
        // SAFETY: the context is valid for the program's run. Fails, rightly, where the hardware
        // has given no sum over the frame.
        unsafe { bpf_csum_update(self.skb, u32::from(delta)) };
    }
}
