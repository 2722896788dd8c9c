//! Counters.

use crate::abi;
use crate::verdict::OUTCOMES;

/// Which program counted.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// The XDP program.
    Xdp = 0,
    /// The TC program.
    Tc = 1,
}

impl Hook {
    /// The stable word for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// How many ports have a counter row of their own, row 0 included.
pub const COUNTER_SLOTS: u32 = 256;

/// Length of the counters' array.
pub const COUNTERS: u32 = COUNTER_SLOTS * 2 * OUTCOMES;

/// Where the counter of a port, a hook and an outcome is.
#[inline(always)]
pub const fn counter_index(slot: u32, hook: Hook, outcome: u32) -> u32 {
    (slot * 2 + hook as u32) * OUTCOMES + outcome
}

abi! {
    /// What has passed.
    pub struct Traffic[16] {
        /// Packets.
        pub packets: u64,
        /// Bytes as received, Ethernet header included.
        pub bytes: u64,
    }
}
