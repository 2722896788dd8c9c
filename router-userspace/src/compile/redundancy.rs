//! What a router's role changes of what the system should hold.
//!
//! ```text
//!                       primary, or alone        else
//! NICs outside          on, with addresses       off, without (the first has the same MAC address on both routers)
//! shared addresses      held, and local          may come, are not local
//! routes                all                      those that guest ports lead to
//! guests                served                   not served
//! ```
//!
//! Everything else is the same: tables of a router that stands by are ready for it to serve.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use router_common::port::Role;

use super::port::{self, Placed};
use super::{Inventory, KernelRoute, Link, Nic, TableSet};
use crate::model::{DesiredState, Pair, Port, PortSelector, RouterRole, SharedAddress};

/// How the router stands to its twin.
pub(super) struct Stance<'a> {
    /// It is alone, or the primary one.
    pub serves: bool,
    /// By port, in the pair's order.
    shared: BTreeMap<&'a str, Vec<IpNet>>,
    role: RouterRole,
}

impl<'a> Stance<'a> {
    pub fn of(desired: &'a DesiredState, role: RouterRole) -> Self {
        let pair = desired.pair.as_ref();
        let mut shared: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
        for SharedAddress { port, address } in pair.into_iter().flat_map(|pair| &pair.shared) {
            shared.entry(port).or_default().push(*address);
        }
        Self { serves: pair.is_none() || role == RouterRole::Primary, shared, role }
    }

    fn shared(&self, port: &str) -> Vec<IpNet> {
        self.shared.get(port).cloned().unwrap_or_default()
    }

    /// The shared addresses that the port has now.
    pub fn held(&self, port: &str) -> Vec<IpNet> {
        if self.serves { self.shared(port) } else { Vec::new() }
    }

    /// What a port's NIC should hold.
    pub fn link(&self, placed: &Placed<'_>) -> Link {
        let port = placed.port;
        let is_outside = matches!(port.role, Role::Public | Role::PrivateGateway);
        let up = self.serves || !is_outside;
        // Nobody takes them away again from one that takes no part in the election.
        let may_share = matches!(self.role, RouterRole::Primary | RouterRole::Backup);
        let own = if up { port.addresses.clone() } else { Vec::new() };
        let shared = if may_share { self.shared(&port.name) } else { Vec::new() };
        let (addresses, shared) = match port.selector {
            // Given by whoever makes the device.
            PortSelector::Numbered(_) => (Vec::new(), own),
            _ => (own, shared),
        };
        Link { mtu: placed.asked_mtu(), up, addresses, shared }
    }

    /// Guests know the router by the shared address.
    pub fn tables(&self, placed: &[Placed<'_>], tables: &mut TableSet) {
        for placed in placed {
            let ifindex = placed.nic.ifindex;
            let shared = self.shared(&placed.port.name);
            let first = shared.iter().find_map(|net| match net.addr() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
            if let (Some(first), Some(port)) = (first, tables.ports.get_mut(&ifindex)) {
                port.address = first.into();
            }
            for address in self.held(&placed.port.name) {
                match address.addr() {
                    IpAddr::V4(address) => drop(tables.local4.insert(address, ifindex)),
                    IpAddr::V6(address) => drop(tables.local6.insert(address, ifindex)),
                }
            }
        }
    }

    /// Whether a route's way out is switched on.
    pub fn has_way(&self, route: &KernelRoute, links: &BTreeMap<u32, Link>) -> bool {
        let link = route.ifindex().and_then(|ifindex| links.get(&ifindex));
        link.is_none_or(|link| link.up)
    }
}

/// Which port each NIC is, by interface index.
pub fn names(ports: &[Port], inventory: &Inventory) -> BTreeMap<u32, String> {
    let placed = port::place(ports, inventory, &mut Vec::new());
    placed.iter().map(|placed| (placed.nic.ifindex, placed.name().to_owned())).collect()
}

/// The shared addresses whose ports are here, in order, each with its NIC: the first is where the routers hear of
/// each other. `names` are those of [`names`].
pub fn shared_nics<'a>(
    pair: &'a Pair,
    names: &BTreeMap<u32, String>,
    inventory: &'a Inventory,
) -> Vec<(&'a SharedAddress, &'a Nic)> {
    let nics = inventory.nics.iter().rev().filter_map(|nic| Some((names.get(&nic.ifindex)?, nic)));
    let nics: BTreeMap<&String, &Nic> = nics.collect();
    pair.shared.iter().filter_map(|shared| Some((shared, *nics.get(&shared.port)?))).collect()
}
