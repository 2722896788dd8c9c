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
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, COUNTER_BYTES, COUNTER_PACKETS,
    DELETE_TABLE, GET_CHAIN, GET_TABLE, HOOK_NUMBER, HOOK_PRIORITY, NEW_CHAIN, NEW_TABLE, TABLE_NAME, ask,
    family, kind, transaction,
};
use super::raw_netlink::{ACK, CREATE, Message, be32, find};

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
    let table = Message::new(kind(GET_TABLE), ACK, &INET).with_text(TABLE_NAME, NAME);
    let Some(table) = ask(table).context("look for the guard's table")?.pop() else { return Ok(None) };
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
    let chain = Message::new(kind(NEW_CHAIN), CREATE | ACK, &INET)
        .with_text(CHAIN_TABLE, NAME)
        .with_text(CHAIN_NAME, CHAIN)
        .with_text(CHAIN_TYPE, "filter")
        .with_nest(
            CHAIN_HOOK,
            &[(HOOK_NUMBER, &FORWARD.to_be_bytes()), (HOOK_PRIORITY, &0_u32.to_be_bytes())],
        )
        .with(CHAIN_POLICY, &DROP.to_be_bytes())
        .with_nest(CHAIN_COUNTERS, &[(COUNTER_BYTES, &[0; 8]), (COUNTER_PACKETS, &[0; 8])]);
    transaction(vec![new_table(), delete_table(), new_table(), chain]).context("set the guard")
}

/// Takes the guard away. Forwarding should be switched off before.
pub fn remove() -> Result<()> {
    transaction(vec![new_table(), delete_table()]).context("remove the guard")
}

fn new_table() -> Message {
    Message::new(kind(NEW_TABLE), CREATE | ACK, &INET).with_text(TABLE_NAME, NAME)
}

fn delete_table() -> Message {
    Message::new(kind(DELETE_TABLE), ACK, &INET).with_text(TABLE_NAME, NAME)
}

fn refused(chain: &[u8]) -> Refused {
    let number = |kind| {
        let value = find(find(chain, CHAIN_COUNTERS)?, kind)?;
        value.try_into().ok().map(u64::from_be_bytes)
    };
    Refused {
        packets: number(COUNTER_PACKETS).unwrap_or_default(),
        bytes: number(COUNTER_BYTES).unwrap_or_default(),
    }
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
