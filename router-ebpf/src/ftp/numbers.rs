//! Sequence numbers: a line that has become longer or shorter moves those of all that follows, and back
//! those that the other side acknowledges.

use router_common::nat::Shift;

use crate::checksum;
use crate::packet::{ChecksumPatch, Packet};

/// Whether a sequence number is behind another.
#[inline(always)]
const fn is_behind(number: u32, other: u32) -> bool {
    number != other && number.wrapping_sub(other) < 1 << 31
}

/// A line that begins with a sequence number has grown. One that comes again has been counted.
#[inline(always)]
pub const fn moved(shift: &mut Shift, sequence: u32, grown: u32) {
    if grown != 0 && (shift.before == shift.after || is_behind(sequence, shift.position)) {
        shift.position = sequence;
        shift.before = shift.after;
        shift.after = shift.after.wrapping_add(grown);
    }
}

/// A sequence number of the direction as the other side knows it.
#[inline(always)]
pub const fn shifted(shift: &Shift, sequence: u32) -> u32 {
    let by = if is_behind(sequence, shift.position) { shift.after } else { shift.before };
    sequence.wrapping_add(by)
}

/// What the other side acknowledges, as the direction's own side knows it.
#[inline(always)]
pub const fn shifted_back(shift: &Shift, acknowledged: u32) -> u32 {
    let is_after = is_behind(acknowledged.wrapping_sub(shift.before), shift.position);
    let by = if is_after { shift.after } else { shift.before };
    acknowledged.wrapping_sub(by)
}

/// Sequence and acknowledgment number of a segment, network byte order.
#[inline(always)]
pub fn move_numbers<P: Packet>(
    packet: &mut P,
    l4: usize,
    [sequence, acknowledged]: [u32; 2],
    (own, others): (Option<Shift>, Option<Shift>),
) -> Option<()> {
    if own.is_none() && others.is_none() {
        return Some(());
    }
    let (own, others) = (own.unwrap_or(Shift::NONE), others.unwrap_or(Shift::NONE));
    let old = [sequence, acknowledged];
    let new = [
        shifted(&own, u32::from_be(sequence)).to_be(),
        shifted_back(&others, u32::from_be(acknowledged)).to_be(),
    ];
    let ports = checksum::delta_words(&old, &new);
    packet.store(l4 + 4, new)?;
    packet.patch_checksum(ChecksumPatch { offset: l4 + 16, addresses: 0, ports, zero_is_none: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_move_where_lines_have_grown_or_shrunk_and_back() {
        let mut shift = Shift::NONE;
        // Around the end of the numbers.
        let first = u32::MAX - 5;
        moved(&mut shift, first, 3);
        moved(&mut shift, first, 3);
        let second = first.wrapping_add(30);
        moved(&mut shift, second, 0u32.wrapping_sub(10));
        // Behind the whole line: a part of a line that is shorter now is nobody's to acknowledge.
        for (at, by) in [(first.wrapping_add(20), 3), (second, 3), (second.wrapping_add(20), -7)] {
            let there = at.wrapping_add_signed(by);
            assert_eq!(shifted(&shift, at), there, "{at}");
            assert_eq!(shifted_back(&shift, there), at, "{at}");
        }
    }
}
