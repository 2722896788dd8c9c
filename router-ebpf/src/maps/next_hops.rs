//! The ways out in their map.

use core::arch::asm;
use core::ptr::NonNull;

use router_common::flow::{KeptNextHop, NextHop};
use router_ebpf::next_hops::Place;

use super::NEXT_HOPS;
use super::pool::fetch_add;

/// A place by its number.
#[inline(always)]
pub fn kept_next_hop(number: u16) -> Option<InPlace> {
    NEXT_HOPS.get_ptr_mut(number.into()).and_then(NonNull::new).map(InPlace)
}

/// A place in its map.
pub struct InPlace(NonNull<KeptNextHop>);

impl Place for InPlace {
    #[inline(always)]
    fn used(&self) -> u64 {
        // A barrier, too.
        fetch_add(self.0.as_ptr().cast(), 0)
    }

    #[inline(always)]
    fn replace_used(&self, old: u64, new: u64) -> bool {
        let mut found = old;
        // SAFETY: the pointer is to an aligned word of a map's value.
        unsafe {
            asm!("r0 = cmpxchg_64({pointer} + 0, r0, {new})", pointer = in(reg) self.0.as_ptr(), new = in(reg) new,
                 inout("r0") found, options(nostack));
        }
        found == old
    }

    #[inline(always)]
    fn next_hop(&self) -> NextHop {
        // SAFETY: integers of a map's value: whoever reads one that is being written finds that out.
        unsafe { (&raw const (*self.0.as_ptr()).next_hop).read_volatile() }
    }

    #[inline(always)]
    fn set_next_hop(&self, next_hop: &NextHop) {
        // SAFETY: as above; nobody else writes what is taken.
        unsafe { (&raw mut (*self.0.as_ptr()).next_hop).write_volatile(*next_hop) };
    }
}
