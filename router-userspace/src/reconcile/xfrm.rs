//! XFRM interfaces: devices that the kernel's IPsec is behind. What is sent by one is encrypted, what was decrypted
//! comes in by it. And what else IPsec has in this network namespace.

use std::io;

use anyhow::{Context, Result};
use rtnetlink::sys::protocols::{NETLINK_ROUTE, NETLINK_XFRM};

use super::links;
use crate::raw_netlink::{ACK, CREATE, EXCLUSIVE, Message, NESTED, exchange, nest};

/// Whether the kernel has such interfaces. It is asked for one that cannot be: with an MTU that no IPv4 device may have.
pub fn is_known() -> bool {
    const TOO_SMALL: u32 = 1;
    let asked = new_link("xvr-none", u32::MAX).with(links::MTU, &TOO_SMALL.to_ne_bytes());
    exchange(NETLINK_ROUTE, vec![asked], 1).is_err_and(|refusal| is(&refusal, libc::EINVAL))
}

/// Makes one for associations with a number, if there is none.
///
/// # Errors
/// The kernel does not make it.
pub fn make(name: &str, number: u32) -> Result<()> {
    match exchange(NETLINK_ROUTE, vec![new_link(name, number)], 1) {
        Err(refusal) if !is(&refusal, libc::EEXIST) => {
            Err(refusal).with_context(|| format!("make {name}, an XFRM interface"))
        }
        _ => Ok(()),
    }
}

/// Takes a device away, if it is there.
///
/// # Errors
/// The kernel keeps it.
pub fn remove(name: &str) -> Result<()> {
    let remove = Message::new(links::DELETE_LINK, ACK, &links::header(0, 0, 0)).with_text(links::NAME, name);
    match exchange(NETLINK_ROUTE, vec![remove], 1) {
        Err(refusal) if !is(&refusal, libc::ENODEV) => Err(refusal).with_context(|| format!("remove {name}")),
        _ => Ok(()),
    }
}

/// Takes every association and policy away.
///
/// # Errors
/// The kernel keeps them. One without IPsec has none.
pub fn flush() -> Result<()> {
    let associations = Message::new(FLUSH_ASSOCIATIONS, ACK, &[ANY_PROTOCOL, 0, 0, 0]);
    let policies = Message::new(FLUSH_POLICIES, ACK, &[]);
    match exchange(NETLINK_XFRM, vec![associations, policies], 2) {
        Err(refusal) if !is(&refusal, libc::EPROTONOSUPPORT) => Err(refusal).context("flush what IPsec has"),
        _ => Ok(()),
    }
}

fn new_link(name: &str, number: u32) -> Message {
    let kind = nest(&[(INTERFACE_NUMBER, &number.to_ne_bytes())]);
    Message::new(links::NEW_LINK, ACK | CREATE | EXCLUSIVE, &links::header(0, 0, 0))
        .with_text(links::NAME, name)
        .with_nest(links::INFO, &[(links::INFO_KIND, b"xfrm\0"), (links::INFO_DATA | NESTED, &kind)])
}

fn is(refusal: &anyhow::Error, code: i32) -> bool {
    refusal.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) == Some(code)
}

// linux/rtnetlink.h, linux/if_link.h, linux/xfrm.h, linux/in.h
const INTERFACE_NUMBER: u16 = 2;
const FLUSH_ASSOCIATIONS: u16 = 0x1c;
const FLUSH_POLICIES: u16 = 0x1d;
const ANY_PROTOCOL: u8 = 255;
