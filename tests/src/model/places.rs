//! Where addresses are: the scenarios' networks, their routes, and addresses that are nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use router_common::port::Role;

use crate::scenario::Nic;

/// What the routes say.
pub enum Route {
    /// By a NIC, to a neighbour that is known or not.
    By(Nic, bool),
    Nowhere,
    Refused,
}

/// The networks behind the NICs, each with the router's address there.
#[derive(Debug)]
pub struct Places(Vec<(IpNet, Nic)>);

impl Default for Places {
    fn default() -> Self {
        let of = |nic: Nic| nic.addresses().iter().map(move |text| (text.parse().expect("a network"), nic));
        Self(Nic::ALL.into_iter().flat_map(of).collect())
    }
}

impl Places {
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.0.iter().any(|(network, _)| network.addr() == address)
    }

    pub fn home(&self, address: IpAddr) -> Option<Nic> {
        self.0.iter().find(|(network, _)| network.addr() == address).map(|(_, nic)| *nic)
    }

    pub fn route(&self, dst: IpAddr, by: Option<Nic>) -> Route {
        if matches!(dst, IpAddr::V4(dst) if dst.octets()[0] == 198 && dst.octets()[1] & 0xfe == 18) {
            return Route::Refused;
        }
        let is_broadcast = |(network, _): &(IpNet, Nic)| dst.is_ipv4() && network.broadcast() == dst;
        if self.is_local(dst) || self.0.iter().any(is_broadcast) {
            return Route::Nowhere;
        }
        let is_here =
            |(network, nic): &&(IpNet, Nic)| network.contains(&dst) && by.is_none_or(|by| by == *nic);
        if let Some((_, nic)) = self.0.iter().find(is_here) {
            let is_unknown = match dst {
                IpAddr::V4(dst) => dst.octets()[3] == 99,
                IpAddr::V6(dst) => dst.segments()[7] == 0x99,
            };
            return Route::By(*nic, !is_unknown);
        }
        match (dst, by) {
            (IpAddr::V4(_), None) => Route::By(Nic::Public, true),
            (IpAddr::V4(_), Some(nic)) if nic.role() == Role::Public => Route::By(nic, true),
            _ => Route::Nowhere,
        }
    }
}

pub fn first_address(nic: Nic) -> IpAddr {
    nic.addresses()[0].parse::<IpNet>().expect("a network").addr()
}

pub fn is_martian_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.octets()[0] == 127 || address.octets()[0] >= 224 || is_this_network(address)
        }
        IpAddr::V6(address) => address.is_multicast() || is_reserved(address),
    }
}

/// Unspecified, loopback, what stands for an IPv4 address, and the site scope (RFC 6092 REC-3).
fn is_reserved(address: Ipv6Addr) -> bool {
    address.to_ipv4().is_some() || address.segments()[0] & 0xffc0 == 0xfec0
}

pub fn is_this_network(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
}

pub fn is_martian_destination(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first == 127 || is_this_network(address) || (first >= 240 && !address.is_broadcast())
        }
        IpAddr::V6(address) => is_reserved(address),
    }
}

pub fn is_link_scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
    }
}
