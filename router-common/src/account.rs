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

/// How many ports have a counter row of their own, row 0 included, unless the operator's ports ask for more.
pub const COUNTER_SLOTS: u32 = 256;

/// How many counters a row has: one for each hook and outcome. A row is one entry of the map: the kernel
/// makes an entry of a per-CPU array one by one, which took 50 ms for 65,536 of them.
pub const COUNTERS_PER_ROW: u32 = 2 * OUTCOMES;

/// Where the counter of a hook and an outcome is in its row.
#[inline(always)]
pub const fn counter_index(hook: Hook, outcome: u32) -> u32 {
    hook as u32 * OUTCOMES + outcome
}

abi! {
    /// What has passed.
    pub struct Traffic[16] {
        /// Packets.
        pub packets: u64,
        /// Bytes: of ports as received, Ethernet header included; of accounts ([`crate::usage`]) those of IP packets.
        pub bytes: u64,
    }
}

abi! {
    /// The counters of a port, see [`counter_index`].
    pub struct CounterRow[4096] {
        /// Each.
        pub counters: [Traffic; 256],
    }
}
