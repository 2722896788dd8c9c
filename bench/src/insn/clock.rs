//! The clock that counts instructions: the guest's time stamp counter, where qemu runs with `-icount shift=0`.

use core::arch::asm;
use core::arch::x86_64::_rdtsc;

use anyhow::{Result, ensure};

/// Instructions since the guest's start.
pub fn instructions() -> u64 {
    // SAFETY: reads a counter, which user programs may.
    unsafe { _rdtsc() }
}

/// Counts a loop of known length.
///
/// # Errors
/// The clock says something else.
pub fn check() -> Result<()> {
    const TURNS: u64 = 1_000_000;
    const INSTRUCTIONS: u64 = 2 * TURNS;
    let begin = instructions();
    // SAFETY: one register alone.
    unsafe {
        asm!("2:", "dec {turns}", "jnz 2b", turns = inout(reg) TURNS => _, options(nomem, nostack));
    }
    let counted = instructions() - begin;
    // What interrupts it counts too.
    ensure!(
        (INSTRUCTIONS..INSTRUCTIONS + INSTRUCTIONS / 50).contains(&counted),
        "a loop of {INSTRUCTIONS} instructions took {counted}: the clock does not count them. This suite runs in a \
         guest: `cargo xtask bench insn`"
    );
    Ok(())
}
