//! `Packet`: the bytes of one frame, bounds-checked.
//!
//! One of the files that may write `unsafe` (with `frame.rs` and `maps.rs`).

use router_common::account::Hook;
use router_common::net::{Be16, Ipv4, Ipv6, MacPair};

use crate::tags::{self, Tag, Tags};
use crate::tunnel::{OUTER, Outer};

/// A type that any bytes of its size are a valid value of, and that has no padding.
///
/// # Safety
/// Implement it for integers and for `repr(C)` or `repr(transparent)` types made of them.
pub unsafe trait Plain: Copy {}

// SAFETY: integers and transparent wrappers of integers.
unsafe impl Plain for u8 {}
// SAFETY: see above.
unsafe impl Plain for u16 {}
// SAFETY: see above.
unsafe impl Plain for u32 {}
// SAFETY: see above.
unsafe impl Plain for Be16 {}
// SAFETY: see above.
unsafe impl Plain for Ipv4 {}
// SAFETY: see above.
unsafe impl Plain for Ipv6 {}
// SAFETY: see above.
unsafe impl Plain for MacPair {}
// SAFETY: see above.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Length of the two addresses that a frame begins with.
const ADDRESSES: usize = 12;

/// Bytes that [`Packet::read`] and [`Packet::write`] take; enough for options, extension headers and the packet inside an
/// ICMP error.
pub const ROOM: usize = 256;

/// The first bytes of a frame, as many as were asked for: within them nothing can fail.
pub trait Head {
    /// Reads a value at an offset.
    fn load<T: Plain>(&self, offset: usize) -> T;
    /// Writes a value at an offset.
    fn store<T: Plain>(&mut self, offset: usize, value: T);
}

/// The bytes of one frame, from the Ethernet header on, and what only the hook knows of it.
pub trait Packet {
    /// The first bytes in place.
    type Head<'a>: Head
    where
        Self: 'a;

    /// Which program has the frame.
    fn hook(&self) -> Hook;

    /// Length of the frame in bytes, Ethernet header included, in whatever buffers it is.
    fn length(&self) -> usize;

    /// How many of its bytes are in further buffers, where nothing is read or written in place, nor brought nearer.
    fn beyond(&self) -> usize {
        0
    }

    /// Whether every header that is looked at lies in the first buffer, as far as the frame has it.
    #[inline(always)]
    fn has_headers(&self) -> bool {
        self.beyond() == 0 || self.load::<u8>(ROOM - 1).is_some()
    }

    /// Reads a value at an offset; `None` beyond the frame's (linear) end.
    fn load<T: Plain>(&self, offset: usize) -> Option<T>;

    /// Writes a value at an offset; `None`, and nothing written, beyond the end.
    fn store<T: Plain>(&mut self, offset: usize, value: T) -> Option<()>;

    /// The first bytes, so many of them; `None` where the frame's (linear) end comes before.
    fn head(&mut self, length: usize) -> Option<Self::Head<'_>>;

    /// Writes words one after the other, all or none: as a whole they would be moved byte by byte.
    fn store_words<const N: usize>(&mut self, offset: usize, words: [u32; N]) -> Option<()> {
        self.store(offset, words)
    }

    /// An offset as it is, of which the kernel's verifier no longer knows how it came about: ways
    /// through the parser that differ in nothing else are then proven together.
    fn blur(&self, offset: usize) -> usize {
        offset
    }

    /// A tag that the hardware or the stack has taken out of the frame: it is in front of those that are there.
    fn stripped_tag(&self) -> Tag;

    /// The tag at an offset, if one is there and whole.
    #[inline(always)]
    fn tag_at(&self, offset: usize) -> Tag {
        match self.load::<[Be16; 2]>(offset) {
            Some([protocol, control]) if tags::is_tag(protocol.get()) => {
                Tag::new(protocol.get(), control.get())
            }
            _ => Tag::NONE,
        }
    }

    /// Takes the first tags off, as many as it has at least, one or two.
    fn untag(&mut self, count: usize) -> Option<()>;

    /// Puts tags in front of those that there are.
    fn tag(&mut self, tags: &Tags) -> Option<()>;

    /// Takes off what is in front of a frame in a VXLAN packet, [`OUTER`] bytes.
    fn take_out(&mut self) -> Option<()>;

    /// Puts it in front again as it was, where nothing was written since.
    fn put_back(&mut self) -> Option<()>;

    /// Puts such headers in front.
    fn put_in(&mut self, outer: &Outer) -> Option<()>;

    /// How much payload each packet carries that a GSO frame will be cut into; `None` for a
    /// frame that is one packet.
    fn segment_payload(&self) -> Option<usize>;

    /// Patches the checksum of TCP or UDP at an offset: `addresses` is what the pseudo header's
    /// change adds, `ports` what the segment's own change adds (see
    /// [`Rewrite`](router_common::flow::Rewrite)). A checksum that the sender has left for the
    /// hardware stays unfinished, with the new pseudo header in it.
    fn patch_checksum(&mut self, patch: ChecksumPatch) -> Option<()>;

    /// Reads so many bytes from an offset, wherever they lie; at least one and at most [`ROOM`].
    fn read(&self, offset: usize, room: &mut [u8; ROOM], length: usize) -> Option<()> {
        let _ = (offset, room, length);
        None
    }

    /// Writes so many bytes to an offset, likewise.
    fn write(&mut self, offset: usize, bytes: &[u8; ROOM], length: usize) -> Option<()> {
        let _ = (offset, bytes, length);
        None
    }

    /// Cuts the frame to another length, or adds bytes at its end that are to be written then. Not every hook can.
    fn resize(&mut self, length: usize) -> Option<()> {
        let _ = length;
        None
    }

    /// Tells the stack that bytes have changed which no checksum inside the frame makes up for
    /// (IPv6 headers have none): `delta` is what that adds to a sum over the frame.
    fn sum_changed(&mut self, delta: u16);
}

/// How the checksum of a TCP segment or UDP datagram is to change.
#[derive(Clone, Copy, Debug)]
pub struct ChecksumPatch {
    /// Where the checksum is in the frame.
    pub offset: usize,
    /// What the pseudo header's change adds.
    pub addresses: u16,
    /// What the segment's own change adds.
    pub ports: u16,
    /// A checksum of zero means none, and a computed zero is sent as all ones (RFC 768).
    pub zero_is_none: bool,
}

/// A frame in memory: what tests and fuzzers give the walk.
#[derive(Debug)]
pub struct SliceFrame<'a> {
    bytes: &'a mut [u8],
    length: usize,
    beyond: usize,
    hook: Hook,
    outer: [u8; OUTER],
}

impl<'a> SliceFrame<'a> {
    /// A frame as a hook would see it.
    pub fn new(bytes: &'a mut [u8], hook: Hook) -> Self {
        let length = bytes.len();
        Self::with_room(bytes, length, hook)
    }

    /// The same with room behind it to grow, of which so much is the frame.
    pub fn with_room(bytes: &'a mut [u8], length: usize, hook: Hook) -> Self {
        Self { bytes, length, beyond: 0, hook, outer: [0; OUTER] }
    }

    /// A frame's first buffer, with so many bytes of it in others.
    pub fn first_buffer(bytes: &'a mut [u8], beyond: usize, hook: Hook) -> Self {
        Self { beyond, ..Self::new(bytes, hook) }
    }

    fn frame(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    fn frame_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or(&mut [])
    }
}

/// The first bytes of a [`SliceFrame`]; panics outside of them.
#[derive(Debug)]
pub struct SliceHead<'a>(SliceFrame<'a>);

impl Head for SliceHead<'_> {
    fn load<T: Plain>(&self, offset: usize) -> T {
        #[expect(clippy::expect_used, reason = "for tests: the programs' own is proven by the verifier")]
        self.0.load(offset).expect("within the head")
    }

    fn store<T: Plain>(&mut self, offset: usize, value: T) {
        #[expect(clippy::expect_used, reason = "as above")]
        self.0.store(offset, value).expect("within the head");
    }
}

impl Packet for SliceFrame<'_> {
    type Head<'a>
        = SliceHead<'a>
    where
        Self: 'a;

    fn hook(&self) -> Hook {
        self.hook
    }

    fn length(&self) -> usize {
        self.length + self.beyond
    }

    fn beyond(&self) -> usize {
        self.beyond
    }

    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        let bytes = self.frame().get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: in bounds, read without alignment, any bytes are a valid `Plain`.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn store<T: Plain>(&mut self, offset: usize, value: T) -> Option<()> {
        let bytes = self.frame_mut().get_mut(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: in bounds, written without alignment, `Plain` has no padding.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        Some(())
    }

    fn head(&mut self, length: usize) -> Option<SliceHead<'_>> {
        let hook = self.hook;
        Some(SliceHead(SliceFrame::new(self.frame_mut().get_mut(..length)?, hook)))
    }

    fn stripped_tag(&self) -> Tag {
        Tag::NONE
    }

    fn untag(&mut self, count: usize) -> Option<()> {
        let behind = ADDRESSES + 4 * count;
        self.frame_mut().get(behind..)?;
        self.frame_mut().copy_within(behind.., ADDRESSES);
        self.length -= 4 * count;
        Some(())
    }

    fn tag(&mut self, tags: &Tags) -> Option<()> {
        let length = self.length;
        self.resize(length + 4 * tags.count)?;
        self.frame_mut().copy_within(ADDRESSES..length, ADDRESSES + 4 * tags.count);
        for (index, tag) in [tags.outer, tags.inner].into_iter().take(tags.count).enumerate() {
            self.store(ADDRESSES + 4 * index, [Be16::new(tag.protocol()), Be16::new(tag.control())])?;
        }
        Some(())
    }

    fn take_out(&mut self) -> Option<()> {
        self.outer = self.load(0)?;
        self.frame_mut().copy_within(OUTER.., 0);
        self.length -= OUTER;
        Some(())
    }

    fn put_back(&mut self) -> Option<()> {
        let length = self.length;
        self.resize(length + OUTER)?;
        self.frame_mut().copy_within(..length, OUTER);
        self.store(0, self.outer)
    }

    fn put_in(&mut self, outer: &Outer) -> Option<()> {
        self.put_back()?;
        self.store(0, outer.words)?;
        self.store(OUTER - 2, outer.last)
    }

    fn segment_payload(&self) -> Option<usize> {
        None
    }

    fn patch_checksum(&mut self, patch: ChecksumPatch) -> Option<()> {
        crate::checksum::patch_in_place(self, patch)
    }

    fn read(&self, offset: usize, room: &mut [u8; ROOM], length: usize) -> Option<()> {
        room.get_mut(..length)?.copy_from_slice(self.frame().get(offset..offset.checked_add(length)?)?);
        Some(())
    }

    fn write(&mut self, offset: usize, bytes: &[u8; ROOM], length: usize) -> Option<()> {
        let to = self.frame_mut().get_mut(offset..offset.checked_add(length)?)?;
        to.copy_from_slice(bytes.get(..length)?);
        Some(())
    }

    fn resize(&mut self, length: usize) -> Option<()> {
        (length <= self.bytes.len()).then(|| self.length = length)
    }

    fn sum_changed(&mut self, _delta: u16) {}
}
