//! The way to the remote ends of VXLAN networks.
//!
//! Programs ask the kernel for it, and drop what it does not know a way for: it is not one packet that waits, but those
//! of a network. So the kernel is asked to keep the next hops known (`NTF_EXT_MANAGED`), whether or not anybody sends,
//! and whether or not the daemon lives.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use tracing::debug;

use crate::compile::{Inventory, ROUTE_PROTOCOL};
use crate::raw_netlink::{ACK, CREATE, DUMP, Message, exchange, find};

/// Next hops that are kept known: interface index and address.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    kept: BTreeSet<(u32, Ipv4Addr)>,
}

impl Ways {
    /// Has the kernel keep those of these tunnels, and no others. Where there is no way yet, there may be one at the
    /// next look.
    pub fn keep(&mut self, inventory: &Inventory) {
        let ends: BTreeSet<(u32, Ipv4Addr)> = inventory
            .tunnels
            .values()
            .flat_map(|vxlan| vxlan.remotes.iter().map(|remote| (vxlan.tunnel.underlay, *remote)))
            .collect();
        let mut wanted = BTreeSet::new();
        for (ifindex, remote) in ends {
            match next_hop(ifindex, remote) {
                Ok(next_hop) => _ = wanted.insert((ifindex, next_hop)),
                Err(error) => debug!("no way to {remote}: {error:#}"),
            }
        }
        for (ifindex, address) in wanted.difference(&self.kept) {
            if let Err(error) = manage(*ifindex, *address) {
                debug!("the kernel does not look for {address}: {error:#}");
            }
        }
        for (ifindex, address) in self.kept.difference(&wanted) {
            if let Err(error) = leave(*ifindex, *address) {
                debug!("the kernel goes on to look for {address}: {error:#}");
            }
        }
        self.kept = wanted;
    }
}

/// Has the kernel look for none any more, whoever asked it to.
///
/// # Errors
/// The kernel does not say which there are.
pub fn forget() -> Result<()> {
    let query = Message::new(GET_NEIGHBOUR, DUMP, &neighbour(0, 0));
    for (_, body) in exchange(NETLINK_ROUTE, vec![query], 1).context("list neighbours")? {
        let (Some(header), Some(rest)) = (body.get(..NEIGHBOUR_HEADER), body.get(NEIGHBOUR_HEADER..)) else {
            continue;
        };
        let ifindex = header.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let address = find(rest, NEIGHBOUR_ADDRESS).and_then(|value| <[u8; 4]>::try_from(value).ok());
        let is_ours = find(rest, NEIGHBOUR_PROTOCOL) == Some(&[ROUTE_PROTOCOL]);
        if let (Some(ifindex), Some(address), true) = (ifindex, address, is_ours) {
            leave(ifindex, address.into())?;
        }
    }
    Ok(())
}

/// The neighbour that leads to an address by an interface: a gateway, or itself.
fn next_hop(ifindex: u32, remote: Ipv4Addr) -> Result<Ipv4Addr> {
    // struct rtmsg: family, length of the destination.
    let header = [INET, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let query = Message::new(GET_ROUTE, ACK, &header)
        .with(ROUTE_DESTINATION, &remote.octets())
        .with(ROUTE_OUTPUT, &ifindex.to_ne_bytes());
    let answers = exchange(NETLINK_ROUTE, vec![query], 1)?;
    let gateway = answers.first().and_then(|(_, body)| {
        let octets: [u8; 4] = find(body.get(header.len()..)?, ROUTE_GATEWAY)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    });
    Ok(gateway.unwrap_or(remote))
}

fn manage(ifindex: u32, address: Ipv4Addr) -> Result<()> {
    let message = Message::new(NEW_NEIGHBOUR, CREATE | REPLACE | ACK, &neighbour(ifindex, EXTERN_LEARNED))
        .with(NEIGHBOUR_ADDRESS, &address.octets())
        .with(NEIGHBOUR_PROTOCOL, &[ROUTE_PROTOCOL])
        .with(NEIGHBOUR_FLAGS, &MANAGED.to_ne_bytes());
    exchange(NETLINK_ROUTE, vec![message], 1).map(drop)
}

fn leave(ifindex: u32, address: Ipv4Addr) -> Result<()> {
    let message = Message::new(DELETE_NEIGHBOUR, ACK, &neighbour(ifindex, 0))
        .with(NEIGHBOUR_ADDRESS, &address.octets());
    exchange(NETLINK_ROUTE, vec![message], 1).map(drop)
}

/// `struct ndmsg`.
fn neighbour(ifindex: u32, flags: u8) -> [u8; NEIGHBOUR_HEADER] {
    let mut header = [0; NEIGHBOUR_HEADER];
    header[0] = INET;
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header[10] = flags;
    header
}

// linux/rtnetlink.h, linux/neighbour.h
const INET: u8 = 2;
const REPLACE: u16 = 0x100;
const GET_ROUTE: u16 = 26;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUTPUT: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const GET_NEIGHBOUR: u16 = 30;
const NEIGHBOUR_HEADER: usize = 12;
const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_PROTOCOL: u16 = 12;
const NEIGHBOUR_FLAGS: u16 = 15;
const EXTERN_LEARNED: u8 = 0x10;
const MANAGED: u32 = 1;
