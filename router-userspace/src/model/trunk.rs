//! Ports that are tags on a NIC or VXLAN networks, as the operator declares them.

use std::fmt;
use std::net::Ipv4Addr;

use super::port::Mac;

/// A port that has no NIC to itself: it has an interface of its own, which CloudStack's words name as they name a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedPort {
    /// What its interface is called.
    pub name: String,
    /// The Ethernet address of its interface.
    pub mac: Mac,
    /// The NIC that carries it.
    pub trunk: Trunk,
    /// What its frames are told by.
    pub kind: Kind,
    /// Largest IP packet in bytes; `None` for what its trunk takes, less the inner tag, or what is in front of frames.
    pub mtu: Option<u16>,
    /// The bridge that it is on, if its frames are not routed.
    pub bridge: Option<String>,
}

/// What a port's frames are told by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tags.
    Tags {
        /// The outer tag, or the only one.
        outer: Tag,
        /// The inner tag.
        inner: Option<Tag>,
        /// The priority of its tags; `None` for that of the frames that are forwarded.
        priority: Option<u8>,
    },
    /// Being in packets of a VXLAN network.
    Vni(Vni),
}

/// A VXLAN network (RFC 7348).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vni {
    /// Its number, 1 to 2^24 - 1.
    pub id: u32,
    /// The router's address on the NIC that carries it.
    pub local: Ipv4Addr,
    /// Where its other stations are.
    pub remotes: Remotes,
    /// UDP port.
    pub udp_port: u16,
}

/// Where the other stations of a VXLAN network are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remotes {
    /// At these remote ends.
    Listed(Vec<Ipv4Addr>),
    /// At those that the forwarding database of the kernel's VXLAN device of this name has.
    Fdb(String),
}

/// Whether an address may be a VTEP's: it is a single host's.
pub const fn is_vtep(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast() && !address.is_loopback()
}

/// How the NIC is found that carries tagged ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trunk {
    /// The NIC with this address.
    Mac(Mac),
    /// The NIC with this name.
    Name(String),
}

impl fmt::Display for Trunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// Whose tags they are.
    pub protocol: TagProtocol,
    /// VLAN id, 1 to 4094.
    pub id: u16,
}

/// Whose tags a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TagProtocol {
    /// Customers' tags (IEEE 802.1Q).
    Customer,
    /// Providers' tags (IEEE 802.1ad).
    Provider,
}

impl TagProtocol {
    /// Whose tags have an ethertype.
    pub const fn of_ethertype(ethertype: u16) -> Option<Self> {
        match ethertype {
            0x8100 => Some(Self::Customer),
            0x88a8 => Some(Self::Provider),
            _ => None,
        }
    }

    /// The ethertype of such tags.
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::Customer => 0x8100,
            Self::Provider => 0x88a8,
        }
    }
}
