//! XFRM interfaces: devices that the kernel's IPsec is behind. What is sent by one is encrypted, what was decrypted
//! comes in by it. And what else IPsec has in this network namespace.

use std::io;

use anyhow::{Context, Result};
use rtnetlink::sys::protocols::{NETLINK_ROUTE, NETLINK_XFRM};

use crate::raw_netlink::{ACK, CREATE, EXCLUSIVE, Message, NESTED, exchange, nest};

/// Whether the kernel has such interfaces. It is asked for one that cannot be: with an MTU that no IPv4 device may have.
pub fn is_known() -> bool {
    const TOO_SMALL: u32 = 1;
    let asked = new_link("xvr-none", u32::MAX).with(LINK_MTU, &TOO_SMALL.to_ne_bytes());
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
    let remove = Message::new(DELETE_LINK, ACK, &[0; LINK_HEADER]).with_text(LINK_NAME, name);
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
    Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &[0; LINK_HEADER])
        .with_text(LINK_NAME, name)
        .with_nest(LINK_INFO, &[(INFO_KIND, b"xfrm\0"), (INFO_DATA | NESTED, &kind)])
}

fn is(refusal: &anyhow::Error, code: i32) -> bool {
    refusal.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) == Some(code)
}

/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

// linux/rtnetlink.h, linux/if_link.h, linux/xfrm.h, linux/in.h
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INTERFACE_NUMBER: u16 = 2;
const FLUSH_ASSOCIATIONS: u16 = 0x1c;
const FLUSH_POLICIES: u16 = 0x1d;
const ANY_PROTOCOL: u8 = 255;
