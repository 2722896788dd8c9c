//! What guests are told when they come up: addresses, names, and who answers for names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::Mac;

/// All that is served, in all networks. Texts are fit for lines of configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// The router's own name, without domain.
    pub router_name: Option<String>,
    /// Networks that are served, in the order of their ports.
    pub networks: Vec<Network>,
    /// Guests in these networks, in the order of their addresses.
    pub guests: Vec<Guest>,
    /// Whom the router asks what it does not know, in order of preference.
    pub upstream: Vec<IpAddr>,
    /// The router answers for names; if not, guests ask others.
    pub answers_names: bool,
}

/// A network that guests are in: one of several on a guest port, perhaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The port's name.
    pub port: String,
    /// The router's own address in it, host bits kept.
    pub router: Ipv4Net,
    /// Where guests send what is for others; `None`: they are told of nobody.
    pub gateway: Option<Ipv4Addr>,
    /// By which address guests find the router: its own, or that of the pair.
    pub service: Ipv4Addr,
    /// Whom guests ask for names, in order.
    pub dns: Vec<Ipv4Addr>,
    /// The domain of the guests' names.
    pub domain: String,
    /// Domains in which guests look for short names besides.
    pub search: Vec<String>,
    /// Its IPv6.
    pub ipv6: Option<Network6>,
}

/// IPv6 of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network6 {
    /// The router's own address in it, host bits kept. Its prefix is what guests make addresses of.
    pub router: Ipv6Net,
    /// Guests send the router what is for others; if not, somebody else tells them whom.
    pub is_gateway: bool,
    /// Whom guests ask for names, in order.
    pub dns: Vec<Ipv6Addr>,
}

/// A NIC of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Whose it is.
    pub mac: Mac,
    /// Its address, for good.
    pub address: Ipv4Addr,
    /// The guest's name.
    pub name: String,
    /// Its IPv6 address, in the prefix of its network.
    pub address6: Option<Ipv6Addr>,
    /// By what it may ask for that, besides its MAC address (RFC 8415, section 11).
    pub duid6: Option<Vec<u8>>,
    /// The guest's default NIC: it alone hears of gateway, name servers and domain.
    pub is_default: bool,
}

impl Network {
    /// Whether an address is one of the network's.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.router.contains(&address),
            IpAddr::V6(address) => self.ipv6.as_ref().is_some_and(|ipv6| ipv6.router.contains(&address)),
        }
    }
}
