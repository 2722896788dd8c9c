//! Addresses of links. A router with thousands of tiers has as many: they are listed and added together.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use crate::raw_netlink::{ACK, CREATE, DUMP, EXCLUSIVE, Message, attributes, exchange, exchange_each};

/// The addresses of each link in the kernel's order, IPv6 link-local ones left out.
///
/// # Errors
/// The kernel does not tell.
pub fn list() -> Result<BTreeMap<u32, Vec<IpNet>>> {
    let query = Message::new(GET_ADDRESS, DUMP, &[0; HEADER]);
    let mut addresses: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for (_, body) in exchange(NETLINK_ROUTE, vec![query], 1).context("list addresses")? {
        if let Some((index, address)) = read(&body) {
            addresses.entry(index).or_default().push(address);
        }
    }
    Ok(addresses)
}

/// Adds addresses, each behind those that its link has; IPv6 ones without asking the wire whether they are free,
/// since CloudStack says so. What came of each.
///
/// # Errors
/// The kernel cannot be asked.
pub fn add(addresses: &[(u32, IpNet)]) -> Result<Vec<io::Result<()>>> {
    let messages = addresses.iter().map(|(index, address)| message(*index, *address)).collect();
    exchange_each(NETLINK_ROUTE, messages)
}

fn message(index: u32, address: IpNet) -> Message {
    let family = if address.addr().is_ipv4() { INET } else { INET6 };
    let mut header = [family, address.prefix_len(), 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let message = Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE | ACK, &header);
    match address {
        IpNet::V4(net) => {
            let own = net.addr().octets();
            let message = message.with(ADDRESS, &own).with(LOCAL, &own);
            // RFC 3021: of two addresses none is for all.
            if net.prefix_len() < 31 { message.with(BROADCAST, &net.broadcast().octets()) } else { message }
        }
        IpNet::V6(net) => {
            let own = net.addr().octets();
            message.with(ADDRESS, &own).with(LOCAL, &own).with(FLAGS, &NO_DAD.to_ne_bytes())
        }
    }
}

fn read(body: &[u8]) -> Option<(u32, IpNet)> {
    let (header, rest) = body.split_at_checked(HEADER)?;
    let index = u32::from_ne_bytes(header[4..].try_into().ok()?);
    // Of a point-to-point link, `ADDRESS` is the far end.
    let (mut far, mut local) = (None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            ADDRESS => far = address(value),
            LOCAL => local = address(value),
            _ => {}
        }
    }
    match local.or(far)? {
        IpAddr::V6(address) if address.is_unicast_link_local() => None,
        address => Some((index, IpNet::new(address, header[1]).ok()?)),
    }
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(value).map(|octets| Ipv4Addr::from(octets).into());
    ipv4.ok().or_else(|| Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)))
}

/// `struct ifaddrmsg`.
const HEADER: usize = 8;

// linux/rtnetlink.h, linux/if_addr.h, linux/socket.h
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const FLAGS: u16 = 8;
const NO_DAD: u32 = 2;
const INET: u8 = 2;
const INET6: u8 = 10;
