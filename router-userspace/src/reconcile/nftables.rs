//! nftables, spoken to the kernel directly: no program to start, and transactions.

use std::io;

use anyhow::Result;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use crate::raw_netlink::{ACK, CREATE, DUMP, Message, exchange, find};

/// `struct nfgenmsg` of a family: version 0, resource 0.
pub const fn family(number: u8) -> [u8; 4] {
    [number, 0, 0, 0]
}

/// A message's type.
pub const fn kind(message: u16) -> u16 {
    (SUBSYSTEM as u16) << 8 | message
}

/// All or nothing.
pub fn transaction(messages: Vec<Message>) -> Result<()> {
    const BEGIN: u16 = 16;
    const END: u16 = 17;
    let answers = messages.len();
    let subsystem = [0, 0, 0, SUBSYSTEM];
    let mut batch = vec![Message::new(BEGIN, 0, &subsystem)];
    batch.extend(messages);
    batch.push(Message::new(END, 0, &subsystem));
    exchange(NETLINK_NETFILTER, batch, answers).map(drop)
}

/// The attributes of each object that answers; none where what is asked about is not there.
pub fn ask(message: Message) -> Result<Vec<Vec<u8>>> {
    const FAMILY: usize = 4;
    match exchange(NETLINK_NETFILTER, vec![message], 1) {
        Ok(bodies) => {
            Ok(bodies.into_iter().map(|(_, body)| body[FAMILY.min(body.len())..].to_vec()).collect())
        }
        Err(error) => match error.downcast_ref::<io::Error>() {
            Some(cause) if cause.raw_os_error() == Some(libc::ENOENT) => Ok(vec![]),
            _ => Err(error),
        },
    }
}

/// All tables: family and name.
pub fn tables() -> Result<Vec<(u8, String)>> {
    const HEADER: usize = 4;
    let all = Message::new(kind(GET_TABLE), DUMP, &family(0));
    let bodies = exchange(NETLINK_NETFILTER, vec![all], 1)?;
    let table = |(_, body): &(u16, Vec<u8>)| {
        let name = find(body.get(HEADER..)?, TABLE_NAME)?;
        Some((*body.first()?, String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()))
    };
    Ok(bodies.iter().filter_map(table).collect())
}

/// A message about a table: [`NEW_TABLE`], [`GET_TABLE`] or [`DELETE_TABLE`].
pub fn table(message: u16, flags: u16, of: &[u8; 4], name: &str) -> Message {
    Message::new(kind(message), flags | ACK, of).with_text(TABLE_NAME, name)
}

/// Removes a table with all that is in it.
pub fn remove_table(of: &[u8; 4], name: &str) -> Result<()> {
    transaction(vec![table(DELETE_TABLE, 0, of, name)])
}

/// Removes a table of ours, which may not be there.
pub fn forget_table(of: &[u8; 4], name: &str) -> Result<()> {
    transaction(vec![table(NEW_TABLE, CREATE, of, name), table(DELETE_TABLE, 0, of, name)])
}

/// A new chain of type filter on a hook, with priority 0 and a policy for what it says nothing about.
pub fn base_chain(of: &[u8; 4], table: &str, name: &str, hook: u32, policy: u32) -> Message {
    Message::new(kind(NEW_CHAIN), CREATE | ACK, of)
        .with_text(CHAIN_TABLE, table)
        .with_text(CHAIN_NAME, name)
        .with_text(CHAIN_TYPE, "filter")
        .with_nest(CHAIN_HOOK, &[(HOOK_NUMBER, &hook.to_be_bytes()), (HOOK_PRIORITY, &0_u32.to_be_bytes())])
        .with(CHAIN_POLICY, &policy.to_be_bytes())
}

/// What a counter holds, from its attributes: packets and bytes.
pub fn counted(counter: &[u8]) -> Option<(u64, u64)> {
    let number = |kind| find(counter, kind)?.try_into().ok().map(u64::from_be_bytes);
    Some((number(COUNTER_PACKETS)?, number(COUNTER_BYTES)?))
}

// linux/netfilter/nf_tables.h
const SUBSYSTEM: u8 = 10;
pub const NEW_TABLE: u16 = 0;
pub const GET_TABLE: u16 = 1;
pub const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
pub const GET_CHAIN: u16 = 4;
const TABLE_NAME: u16 = 1;
pub const CHAIN_TABLE: u16 = 1;
pub const CHAIN_NAME: u16 = 3;
pub const CHAIN_HOOK: u16 = 4;
pub const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
pub const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
pub const COUNTER_BYTES: u16 = 1;
pub const COUNTER_PACKETS: u16 = 2;
