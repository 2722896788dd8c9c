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
//! Spoken to the kernel directly: no program to start, and one transaction.

use anyhow::{Context, Result};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::raw_netlink::{ACK, CREATE, DUMP, Message, be32, exchange, find};

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
    let Some(table) = ask(table).context("look for the guard's table")? else { return Ok(None) };
    let dormant = find(&table, TABLE_FLAGS).and_then(be32).is_some_and(|flags| flags & DORMANT != 0);
    let chain =
        Message::new(kind(GET_CHAIN), ACK, &INET).with_text(CHAIN_TABLE, NAME).with_text(CHAIN_NAME, CHAIN);
    let Some(chain) = ask(chain).context("look for the guard's chain")? else { return Ok(None) };
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

/// All tables of nftables: family and name.
pub fn tables() -> Result<Vec<(u8, String)>> {
    // Of every family.
    let all = Message::new(kind(GET_TABLE), DUMP, &[0; 4]);
    let bodies = exchange(NETLINK_NETFILTER, vec![all], 1)?;
    let table = |(_, body): &(u16, Vec<u8>)| {
        let name = find(body.get(INET.len()..)?, TABLE_NAME)?;
        Some((*body.first()?, String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()))
    };
    Ok(bodies.iter().filter_map(table).collect())
}

/// Removes a table of nftables with all that is in it.
pub fn remove_table(family: u8, name: &str) -> Result<()> {
    transaction(vec![Message::new(kind(DELETE_TABLE), ACK, &[family, 0, 0, 0]).with_text(TABLE_NAME, name)])
}

fn new_table() -> Message {
    Message::new(kind(NEW_TABLE), CREATE | ACK, &INET).with_text(TABLE_NAME, NAME)
}

fn delete_table() -> Message {
    Message::new(kind(DELETE_TABLE), ACK, &INET).with_text(TABLE_NAME, NAME)
}

/// All or nothing.
fn transaction(messages: Vec<Message>) -> Result<()> {
    const BEGIN: u16 = 16;
    const END: u16 = 17;
    let answers = messages.len();
    let subsystem = [0, 0, 0, SUBSYSTEM];
    let mut batch = vec![Message::new(BEGIN, 0, &subsystem)];
    batch.extend(messages);
    batch.push(Message::new(END, 0, &subsystem));
    exchange(NETLINK_NETFILTER, batch, answers).map(drop)
}

/// One object's attributes, or that there is none.
fn ask(message: Message) -> Result<Option<Vec<u8>>> {
    match exchange(NETLINK_NETFILTER, vec![message], 1) {
        Ok(bodies) => {
            Ok(bodies.into_iter().next().map(|(_, body)| body[INET.len().min(body.len())..].to_vec()))
        }
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(cause) if cause.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            _ => Err(error),
        },
    }
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

const fn kind(message: u16) -> u16 {
    (SUBSYSTEM as u16) << 8 | message
}

const NAME: &str = "xvr";
const CHAIN: &str = "forward";

// linux/netfilter/nf_tables.h
const SUBSYSTEM: u8 = 10;
/// `struct nfgenmsg`: family inet, version 0, resource 0.
const INET: [u8; 4] = [1, 0, 0, 0];
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const DORMANT: u32 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const CHAIN_TYPE: u16 = 7;
const CHAIN_COUNTERS: u16 = 8;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
const FORWARD: u32 = 2;
const DROP: u32 = 0;
