//! nftables, spoken to the kernel directly: no program to start, and transactions.

use std::io;

use anyhow::Result;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::raw_netlink::{ACK, DUMP, Message, exchange, find};

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

/// Removes a table with all that is in it.
pub fn remove_table(of: u8, name: &str) -> Result<()> {
    transaction(vec![Message::new(kind(DELETE_TABLE), ACK, &family(of)).with_text(TABLE_NAME, name)])
}

// linux/netfilter/nf_tables.h
const SUBSYSTEM: u8 = 10;
pub const NEW_TABLE: u16 = 0;
pub const GET_TABLE: u16 = 1;
pub const DELETE_TABLE: u16 = 2;
pub const NEW_CHAIN: u16 = 3;
pub const GET_CHAIN: u16 = 4;
pub const TABLE_NAME: u16 = 1;
pub const CHAIN_TABLE: u16 = 1;
pub const CHAIN_NAME: u16 = 3;
pub const CHAIN_HOOK: u16 = 4;
pub const CHAIN_POLICY: u16 = 5;
pub const CHAIN_TYPE: u16 = 7;
pub const HOOK_NUMBER: u16 = 1;
pub const HOOK_PRIORITY: u16 = 2;
pub const COUNTER_BYTES: u16 = 1;
pub const COUNTER_PACKETS: u16 = 2;
