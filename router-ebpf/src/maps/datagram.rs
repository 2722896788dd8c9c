//! Datagrams that come in fragments, in their maps.

use core::ptr::NonNull;

use router_common::fragment::Datagram;
use router_common::net::Be16;
use router_ebpf::fragment::{self, Piece};
use router_ebpf::tables::Tables;

use super::pool::{fetch_or, masked};
use super::{Context, FamilyMaps, Maps, Own, datagram_room, own};

/// The fragment that a function has been called with.
#[inline(always)]
pub fn piece<A: FamilyMaps>() -> Option<Own<Piece<A>>> {
    own(A::pieces())
}

/// The entry of a piece's datagram, made anew if there is none or an old one.
#[inline(always)]
pub fn datagram<A: FamilyMaps>(piece: &Piece<A>) -> Option<NonNull<Datagram>> {
    if let Some(found) = A::datagrams().get_ptr_mut(&piece.key).and_then(NonNull::new) {
        // SAFETY: from a lookup of this run; integers, each value of which is valid.
        let seen = unsafe { (*found.as_ptr()).seen };
        if piece.now.wrapping_sub(seen) < fragment::HOLD_TIME {
            return Some(found);
        }
    }
    let mut room = datagram_room()?;
    // Nobody writes to the room but here: all else in it is zero.
    room.seen = piece.now;
    room.new_id = Be16::from_raw(Maps { ctx: Context::Absent }.random() as u16);
    A::datagrams().insert(&piece.key, &*room, 0).ok()?;
    A::datagrams().get_ptr_mut(&piece.key).and_then(NonNull::new)
}

/// Sets bits of a datagram's coverage; what was there before.
#[inline(always)]
pub fn set_covered(datagram: NonNull<Datagram>, word: u32, bits: u64) -> u64 {
    // SAFETY: the index is within the array.
    fetch_or(unsafe { (&raw mut (*datagram.as_ptr()).covered).cast::<u64>().add(masked::<127>(word)) }, bits)
}
