//! How many flows there is room for.
//!
//! The tables of flows and bindings have their memory from the start: the kernel looks for none while a packet waits,
//! and no flood of flows takes it from anybody else later. So how much that is is a question of how much there is.

use std::mem::size_of;

use anyhow::{Context, Result};
use nix::sys::sysinfo::sysinfo;
use router_common::flow::{FlowEntry, FlowKey};
use router_common::net::{Ipv4, Ipv6};

/// Room in the tables of flows and bindings, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Flow entries per address family; a session takes two.
    pub flows: u32,
    /// Guests' sockets that have an external port.
    pub bindings: u32,
}

/// Of this machine's memory the tables of flows take at most one part in so many.
const SHARE: u64 = 8;
const LEAST_FLOWS: u32 = 1 << 14;
const MOST_FLOWS: u32 = 1 << 20;
/// All ports of one address, by TCP and UDP: a binding outlives its flows, so that few flows may have many.
const LEAST_BINDINGS: u32 = 1 << 17;
/// All ports of four addresses.
pub const MAX_BINDINGS: u32 = 1 << 18;

impl Room {
    /// As much as is asked for, or what this machine's memory allows.
    ///
    /// # Errors
    /// The kernel does not say how much that is.
    pub fn of(max_flows: Option<u32>) -> Result<Self> {
        match max_flows {
            Some(flows) => Ok(Self::for_flows(flows)),
            None => {
                let memory = sysinfo().context("ask how much memory there is")?;
                Ok(Self::within(memory.ram_total()))
            }
        }
    }

    /// What so many bytes of memory allow.
    fn within(memory: u64) -> Self {
        let entries = u32::try_from(memory / SHARE / flow_bytes()).unwrap_or(u32::MAX);
        // There are as many buckets as the next power of two: between two of them they would be paid for and idle.
        let flows = 1 << entries.max(1).ilog2();
        Self::for_flows(flows.clamp(LEAST_FLOWS, MOST_FLOWS))
    }

    fn for_flows(flows: u32) -> Self {
        Self { flows, bindings: flows.clamp(LEAST_BINDINGS, MAX_BINDINGS) }
    }
}

/// What an entry of each family takes, its bucket with it.
const fn flow_bytes() -> u64 {
    /// `struct htab_elem` and `struct bucket` (kernel/bpf/hashtab.c).
    const KERNEL: usize = 48 + 16;
    let v4 = size_of::<FlowKey<Ipv4>>() + size_of::<FlowEntry<Ipv4>>();
    let v6 = size_of::<FlowKey<Ipv6>>() + size_of::<FlowEntry<Ipv6>>();
    (2 * KERNEL + v4 + v6) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_an_eighth_of_the_memory_at_most_and_a_power_of_two() {
        for (mebibytes, flows, bindings) in [
            (16, 1 << 14, 1 << 17),
            (240, 1 << 16, 1 << 17),
            (1000, 1 << 18, 1 << 18),
            (2000, 1 << 19, 1 << 18),
            (4000, 1 << 20, 1 << 18),
            (100_000, 1 << 20, 1 << 18),
        ] {
            assert_eq!(Room::within(mebibytes << 20), Room { flows, bindings }, "{mebibytes} MiB");
        }
    }

    #[test]
    fn what_is_asked_for_is_given() -> Result<()> {
        assert_eq!(Room::of(Some(3_000_000))?, Room { flows: 3_000_000, bindings: MAX_BINDINGS });
        Ok(())
    }
}
