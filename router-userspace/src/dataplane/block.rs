//! Filters of blocks, which several interfaces share; aya attaches to interfaces alone.

use std::os::fd::RawFd;

use anyhow::Result;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use crate::raw_netlink::{ACK, CREATE, Message, TC_KIND, exchange, traffic_control};

/// Makes a program the filter of a block with a priority, or puts it in the place of that one. The kernel keeps the
/// program as long as an interface has the block.
pub fn attach(block: u32, priority: u16, program: RawFd, name: &str) -> Result<()> {
    const PROTOCOL_ALL: u16 = 3;
    let info = u32::from(priority) << 16 | u32::from(PROTOCOL_ALL.to_be());
    let header = traffic_control(ANY_OF_BLOCK, HANDLE, block, info);
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    let options: [(u16, &[u8]); 3] =
        [(FD, &program.to_ne_bytes()), (NAME, &text), (FLAGS, &DIRECT_ACTION.to_ne_bytes())];
    let message = Message::new(NEW_FILTER, CREATE | ACK, &header)
        .with_text(TC_KIND, "bpf")
        .with_nest(OPTIONS, &options);
    exchange(NETLINK_ROUTE, vec![message], 1).map(drop)
}

// linux/rtnetlink.h, linux/pkt_cls.h
const NEW_FILTER: u16 = 44;
/// In the place of an interface index: the parent is a block.
const ANY_OF_BLOCK: u32 = 0xffff_ffff;
const HANDLE: u32 = 1;
const OPTIONS: u16 = 2;
const FD: u16 = 6;
const NAME: u16 = 7;
const FLAGS: u16 = 8;
const DIRECT_ACTION: u32 = 1;
