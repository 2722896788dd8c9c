//! Desired state and what NICs there are → what the system should hold. Pure: same input, same
//! output; no IO.

pub mod attach;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use router_common::port::{Port, PortKey};

use crate::model::Mac;

pub use attach::{AttachMode, Attachment, Driver};

/// A NIC as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Kernel interface index.
    pub ifindex: u32,
    /// Kernel name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Current MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// What drives it, which decides how programs are attached.
    pub driver: Driver,
    /// The device takes XDP frames now: `NETDEV_XDP_ACT_NDO_XMIT` of the netdev family
    /// (kernel 6.3 and later); `None` where the kernel cannot say.
    pub takes_xdp_frames: Option<bool>,
}

/// The NICs of the network namespace, loopback left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// In the order of their indices.
    pub nics: Vec<Nic>,
}

impl Inventory {
    /// The NIC with an address.
    pub fn by_mac(&self, mac: Mac) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.mac == mac)
    }

    /// The NIC with a name.
    pub fn by_name(&self, name: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.name == name)
    }
}

/// What one NIC should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// MTU in bytes; `None` leaves the NIC's own.
    pub mtu: Option<u16>,
    /// Addresses in order of assignment. The NIC holds these and no others (link-local IPv6
    /// ones excepted, which are the kernel's).
    pub addresses: Vec<IpNet>,
}

/// A route as the kernel holds it, in the main table, protocol [`ROUTE_PROTOCOL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelRoute {
    /// Destination.
    pub destination: IpNet,
    /// Next hop.
    pub gateway: IpAddr,
    /// Way out.
    pub ifindex: u32,
}

/// Marks the routes that are XVR's (`rtm_protocol`): others are not touched.
pub const ROUTE_PROTOCOL: u8 = 188;

/// The packet programs' tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSet {
    /// `PORTS`.
    pub ports: BTreeMap<(u32, u16, u16), Port>,
    /// `LOCAL4`: address → interface index.
    pub local4: BTreeMap<Ipv4Addr, u32>,
    /// `LOCAL6`: address → interface index.
    pub local6: BTreeMap<Ipv6Addr, u32>,
}

impl TableSet {
    /// The map key that an entry of `ports` stands for.
    pub fn port_key((ifindex, outer_vlan, inner_vlan): (u32, u16, u16)) -> PortKey {
        PortKey { ifindex, outer_vlan, inner_vlan }
    }
}

/// What the system should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Names of ports by interface index.
    pub names: BTreeMap<u32, String>,
    /// NICs by interface index.
    pub links: BTreeMap<u32, Link>,
    /// Routes.
    pub routes: BTreeSet<KernelRoute>,
    /// Kernel settings: path below `/proc/sys/` → value.
    pub sysctls: BTreeMap<String, String>,
    /// How the programs are attached, by interface index.
    pub attachments: BTreeMap<u32, Attachment>,
    /// What the programs read.
    pub tables: TableSet,
}
