//! Fragments of datagrams, in any order, without reassembly.
//!
//! ```text
//! first fragment   the flow's first packet like any other; leaves its ports in the table of datagrams
//! later fragment   finds the ports there, and so its flow; only its addresses are translated
//! one too early    is kept; when the first comes, it and all that waited come in again
//! ```
//! XDP leaves fragments to TC, where a frame can be kept.
//! A fragment that covers what another has covered is refused (RFC 1858, RFC 3128, RFC 5722): every eight
//! bytes have a bit. Fragments that wait are bounded per source; the tables evict the oldest, so
//! that a flood of lone fragments costs neither whole packets nor fragments in order (RFC 4787 REQ-14a).

use router_common::fragment::{Datagram, DatagramKey};
use router_common::net::Be16;
use router_common::verdict::DropReason;

use crate::family::Family;
use crate::limit::Limit;
use crate::parse::Parsed;

/// How long a fragment waits for the first one, and a datagram for its rest, in nanoseconds.
pub const HOLD_TIME: u64 = 2_000_000_000;
/// How many fragments of a source may be held.
pub const HELD_PER_SOURCE: Limit = Limit { times: 256, within: HOLD_TIME };

/// Where a fragment lies in its datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// The identification as it lies in the header.
    pub id: u32,
    /// Where it begins, in units of eight bytes.
    pub start: u16,
    /// How many units it has; 0 for a packet that is no fragment.
    pub units: u16,
    /// No more follow it.
    pub is_last: bool,
}

impl Fragment {
    /// Whether it is one at all.
    #[inline(always)]
    pub const fn is_any(&self) -> bool {
        self.units != 0
    }

    /// Whether it is one without ports.
    #[inline(always)]
    pub const fn is_later(&self) -> bool {
        self.start != 0
    }

    /// From a header's fields: `offset` in units, `length` of the payload in bytes.
    ///
    /// # Errors
    /// It goes beyond what a datagram can have, or ends amid eight bytes though more follow.
    #[inline(always)]
    pub fn new(id: u32, offset: u16, length: usize, more: bool) -> Result<Self, DropReason> {
        let units = length.div_ceil(8);
        if length == 0
            || (more && !length.is_multiple_of(8))
            || usize::from(offset) + units > usize::from(UNITS)
        {
            return Err(DropReason::BadFragment);
        }
        Ok(Self { id, start: offset, units: units as u16, is_last: !more })
    }
}

/// Units of the longest datagram.
const UNITS: u16 = 8192;

/// A fragment, as the slow path is asked about it.
#[derive(Clone, Copy, Debug)]
pub struct Piece<A> {
    /// Its datagram.
    pub key: DatagramKey<A>,
    /// Now, nanoseconds.
    pub now: u64,
    /// Where it lies.
    pub fragment: Fragment,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// The identification that it leaves with, once it is noted in its datagram.
    pub id: Be16,
}

/// The datagram that a packet is a fragment of.
#[inline(always)]
pub fn key<A: Family>(parsed: &Parsed<A>) -> DatagramKey<A> {
    DatagramKey {
        src: parsed.key.src,
        dst: parsed.key.dst,
        id: parsed.fragment.id,
        router: parsed.key.router,
        protocol: parsed.key.protocol,
        pad: 0,
    }
}

/// What came of marking one word's part of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// Nothing there had come before.
    New,
    /// Something had.
    Before,
    /// The fragment has no part in this word, nor in later ones.
    End,
}

/// Marks the part that a fragment has in the `index`th of its words. `set` sets bits of a datagram's word
/// and returns what was there.
#[inline(always)]
pub fn mark(fragment: &Fragment, index: u32, set: impl FnOnce(u32, u64) -> u64) -> Marked {
    let (start, end) = (u32::from(fragment.start), u32::from(fragment.start) + u32::from(fragment.units));
    let word = start / 64 + index;
    if word * 64 >= end {
        return Marked::End;
    }
    let from = if index == 0 { start & 63 } else { 0 };
    let left = end - word * 64;
    let below = if left >= 64 { u64::MAX } else { (1 << (left & 63)) - 1 };
    let bits = below & (u64::MAX << from);
    if set(word, bits) & bits == 0 { Marked::New } else { Marked::Before }
}

/// Marks a whole fragment; whether nothing of it had come before.
#[inline(always)]
pub fn cover(mut mark: impl FnMut(u32) -> Marked) -> bool {
    let mut is_new = true;
    for index in 0..=Datagram::WORDS {
        match mark(index) {
            Marked::New => {}
            Marked::Before => is_new = false,
            Marked::End => break,
        }
    }
    is_new
}

/// A first fragment leaves its ports, unless one has before; a later one takes them. Whether they are known.
#[inline(always)]
pub const fn exchange_ports<A>(datagram: &mut Datagram, piece: &mut Piece<A>) -> bool {
    if piece.fragment.is_later() {
        (piece.src_port, piece.dst_port) = (datagram.src_port, datagram.dst_port);
    } else if datagram.known == 0 {
        (datagram.src_port, datagram.dst_port) = (piece.src_port, piece.dst_port);
        datagram.known = 1;
    }
    piece.id = datagram.new_id;
    datagram.known != 0
}

/// Counts a fragment that has come; whether its datagram is complete, and its identification free for
/// another.
#[inline(always)]
pub const fn completes(datagram: &mut Datagram, fragment: &Fragment, now: u64) -> bool {
    datagram.seen = now;
    datagram.have += fragment.units;
    if fragment.is_last {
        datagram.total = fragment.start + fragment.units;
    }
    datagram.have == datagram.total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(words: &mut [u64; 128], start: u32, units: u32) -> bool {
        let fragment = Fragment { id: 0, start: start as u16, units: units as u16, is_last: false };
        cover(|index| {
            mark(&fragment, index, |word, bits| {
                let before = words[word as usize];
                words[word as usize] |= bits;
                before
            })
        })
    }

    #[test]
    fn fragments_that_fit_together_cover_a_datagram_and_overlaps_are_seen() {
        for size in [1, 3, 64, 100, 185, 1125] {
            let mut words = [0; 128];
            let mut start = 0;
            while start < 8192 {
                let units = size.min(8192 - start);
                assert!(marks(&mut words, start, units), "{start} {units}");
                start += units;
            }
            assert_eq!(words, [u64::MAX; 128]);
            assert!(!marks(&mut words, 8191, 1));
        }
        let mut words = [0; 128];
        assert!(marks(&mut words, 10, 100));
        for (start, units) in [(109, 1), (10, 1), (0, 11), (50, 200), (63, 2)] {
            assert!(!marks(&mut words.clone(), start, units), "{start} {units}");
        }
        assert!(marks(&mut words, 110, 1) && marks(&mut words, 0, 10));
    }

    #[test]
    fn fragments_that_cannot_be_are_refused() {
        assert!(Fragment::new(1, 0, 1480, true).is_ok());
        assert!(Fragment::new(1, 185, 7, false).is_ok());
        for (offset, length, more) in [(0, 0, true), (0, 1479, true), (8191, 16, false), (8100, 1480, false)]
        {
            assert_eq!(Fragment::new(1, offset, length, more), Err(DropReason::BadFragment));
        }
    }
}
