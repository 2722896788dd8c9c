//! The guard: Linux forwards nothing by itself.
//!
//! Forwarding has to be switched on for `bpf_fib_lookup`, so a packet that the programs did not
//! take could leave untranslated by the kernel's own path: while programs are replaced, after
//! they were removed by force, or when the daemon is gone. An nftables chain on the forward hook
//! whose policy is drop stands in its way. It is set before forwarding is, and outlives us.
//!
//! ```text
//! table inet xvr { chain forward { type filter hook forward priority 0; policy drop; } }
//! ```
//!
//! Set in one transaction.

use anyhow::{Context, Result};

use super::nftables::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, COUNTER_BYTES, COUNTER_PACKETS, DELETE_TABLE,
    GET_CHAIN, GET_TABLE, HOOK_NUMBER, NEW_TABLE, ask, base_chain, counted, family, forget_table, kind,
    table, transaction,
};
use crate::raw_netlink::{ACK, CREATE, Message, be32, find};

/// What the guard's chain has refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Whether the guard stands, as set by [`set`] and not weakened since; and what it refused.
pub fn observe() -> Result<Option<Refused>> {
    let Some(table) = ask(table(GET_TABLE, 0, &INET, NAME)).context("look for the guard's table")?.pop()
    else {
        return Ok(None);
    };
    let dormant = find(&table, TABLE_FLAGS).and_then(be32).is_some_and(|flags| flags & DORMANT != 0);
    let chain =
        Message::new(kind(GET_CHAIN), ACK, &INET).with_text(CHAIN_TABLE, NAME).with_text(CHAIN_NAME, CHAIN);
    let Some(chain) = ask(chain).context("look for the guard's chain")?.pop() else { return Ok(None) };
    let hook = find(&chain, CHAIN_HOOK).and_then(|hook| find(hook, HOOK_NUMBER)).and_then(be32);
    let policy = find(&chain, CHAIN_POLICY).and_then(be32);
    let rules = find(&chain, CHAIN_USE).and_then(be32);
    let stands = !dormant && hook == Some(FORWARD) && policy == Some(DROP) && rules == Some(0);
    Ok(stands.then(|| refused(&chain)))
}

/// Sets the guard, in the place of whatever has its name.
pub fn set() -> Result<()> {
    let chain = base_chain(&INET, NAME, CHAIN, FORWARD, DROP)
        .with_nest(CHAIN_COUNTERS, &[(COUNTER_BYTES, &[0; 8]), (COUNTER_PACKETS, &[0; 8])]);
    let new = || table(NEW_TABLE, CREATE, &INET, NAME);
    transaction(vec![new(), table(DELETE_TABLE, 0, &INET, NAME), new(), chain]).context("set the guard")
}

/// Takes the guard away. Forwarding should be switched off before.
pub fn remove() -> Result<()> {
    forget_table(&INET, NAME).context("remove the guard")
}

fn refused(chain: &[u8]) -> Refused {
    let (packets, bytes) = find(chain, CHAIN_COUNTERS).and_then(counted).unwrap_or_default();
    Refused { packets, bytes }
}

const NAME: &str = "xvr";
const CHAIN: &str = "forward";

/// Of the `inet` family.
const INET: [u8; 4] = family(1);

// linux/netfilter/nf_tables.h
const TABLE_FLAGS: u16 = 2;
const DORMANT: u32 = 1;
const CHAIN_USE: u16 = 6;
const CHAIN_COUNTERS: u16 = 8;
const FORWARD: u32 = 2;
const DROP: u32 = 0;
