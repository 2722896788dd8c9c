//! The pools of external ports in their map, and the atomic operations on them.

use core::arch::asm;
use core::ptr::NonNull;

use router_common::nat::Pool;
use router_ebpf::ports::PortPool;

use super::POOLS;
use crate::apart;

/// A pool of ports by its index.
#[inline(always)]
pub fn pool_in_place(index: u32) -> Option<PoolInPlace> {
    let pool = NonNull::new(POOLS.get_ptr_mut(index)?)?;
    Some(PoolInPlace { pool, index })
}

/// A pool of ports in its map, which other CPUs and userspace change too.
pub struct PoolInPlace {
    pool: NonNull<Pool>,
    index: u32,
}

impl PoolInPlace {
    #[inline(always)]
    fn word_pointer(&self, word: u32) -> *mut u64 {
        // SAFETY: the index is within the array.
        unsafe { (&raw mut (*self.pool.as_ptr()).words).cast::<u64>().add(masked::<1023>(word)) }
    }

    #[inline(always)]
    fn full_pointer(&self, group: u32) -> *mut u64 {
        // SAFETY: the index is within the array.
        unsafe { (&raw mut (*self.pool.as_ptr()).full).cast::<u64>().add(masked::<15>(group)) }
    }
}

/// An index that the verifier sees the bound of, on the register that is added.
#[inline(always)]
pub fn masked<const MAX: u32>(index: u32) -> usize {
    let mut index = index as usize;
    // SAFETY: a register alone, no memory, no flags.
    unsafe {
        asm!("{0} &= {max}", inout(reg) index, max = const MAX, options(pure, nomem, nostack, preserves_flags));
    }
    index
}

/// Atomic; what was there before. The operations that `core` has for this do not exist on BPF.
#[inline(always)]
pub fn fetch_or(pointer: *mut u64, bits: u64) -> u64 {
    let mut bits = bits;
    // SAFETY: the pointer is to an aligned word of a map's value.
    unsafe {
        asm!("{bits} = atomic_fetch_or((u64 *)({pointer} + 0), {bits})",
             pointer = in(reg) pointer, bits = inout(reg) bits, options(nostack));
    }
    bits
}

/// Atomic.
#[inline(always)]
fn fetch_and(pointer: *mut u64, bits: u64) {
    let mut bits = bits;
    // SAFETY: as in `fetch_or`.
    unsafe {
        asm!("{bits} = atomic_fetch_and((u64 *)({pointer} + 0), {bits})",
             pointer = in(reg) pointer, bits = inout(reg) bits, options(nostack));
    }
    let _ = bits;
}

/// Atomic, modulo 2^64; what was there before.
#[inline(always)]
pub fn fetch_add(pointer: *mut u64, more: u64) -> u64 {
    let mut more = more;
    // SAFETY: as in `fetch_or`.
    unsafe {
        asm!("{more} = atomic_fetch_add((u64 *)({pointer} + 0), {more})",
             pointer = in(reg) pointer, more = inout(reg) more, options(nostack));
    }
    more
}

impl PortPool for PoolInPlace {
    #[inline(always)]
    fn attempt(&self, round: u32, wanted: u16, random: u32) -> Option<u16> {
        match apart::xvr_port(self.index, round, u32::from(wanted), random) {
            0 => None,
            port => Some(port as u16),
        }
    }

    #[inline(always)]
    fn word(&self, word: u32) -> u64 {
        // SAFETY: a word of a map's value; others change it by atomic operations alone.
        unsafe { self.word_pointer(word).read_volatile() }
    }

    #[inline(always)]
    fn claim(&self, word: u32, bits: u64) -> u64 {
        fetch_or(self.word_pointer(word), bits)
    }

    #[inline(always)]
    fn release(&self, word: u32, bits: u64) {
        fetch_and(self.word_pointer(word), !bits);
    }

    #[inline(always)]
    fn full(&self, group: u32) -> u64 {
        // SAFETY: as in `word`.
        unsafe { self.full_pointer(group).read_volatile() }
    }

    #[inline(always)]
    fn set_full(&self, group: u32, bits: u64) {
        fetch_or(self.full_pointer(group), bits);
    }

    #[inline(always)]
    fn clear_full(&self, group: u32, bits: u64) {
        fetch_and(self.full_pointer(group), !bits);
    }

    #[inline(always)]
    fn count_shared(&self) {
        // SAFETY: an aligned word of a map's value.
        unsafe {
            let shared = &raw mut (*self.pool.as_ptr()).shared;
            asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) shared, in(reg) 1u64, options(nostack));
        }
    }
}
