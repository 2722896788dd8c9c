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

/// How many counters a port has: one for each hook and outcome. They are a row, and a row is one entry of the map: the
/// kernel makes an entry of a per-CPU array one by one, which took 50 ms for 65,536 of them.
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
    /// The counters of a port, see [`counter_index`]. That of what was forwarded stays zero here: see [`ForwardedRow`].
    pub struct CounterRow[4096] {
        /// Each.
        pub counters: [Traffic; 256],
    }
}

/// How many ports have their counters of what was forwarded in one row.
pub const PORTS_PER_ROW: u32 = 256;

/// In which row a port has its counter of what a hook has forwarded, at its slot's place in the row (modulo
/// [`PORTS_PER_ROW`]).
#[inline(always)]
pub const fn forwarded_row(slot: u32, hook: Hook) -> u32 {
    slot / PORTS_PER_ROW * 2 + hook as u32
}

/// How many of these rows so many ports want.
pub const fn forwarded_rows(ports: u32) -> u32 {
    2 * ports.div_ceil(PORTS_PER_ROW)
}

abi! {
    /// What a hook has forwarded, of ports side by side. Every packet that goes on counts here, and nothing else does: four ports
    /// are a line of the processor's caches. Counters of rows of their own would be a page for each port, at the
    /// same place in each page, for which caches have few places.
    pub struct ForwardedRow[4096] {
        /// Of each port.
        pub ports: [Traffic; 256],
    }
}
