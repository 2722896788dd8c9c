//! Desired state, settings and what NICs there are → what the system should hold. Pure: same input, same
//! output; no IO.
//!
//! Compiling never fails as a whole. What cannot be had on this machine (a port without a NIC, a
//! route whose gateway no port reaches) is left out and named in [`Compiled::problems`]; whether
//! that is a reason to refuse a command is told by [`Compiled::refusals`].

pub mod attach;
mod bridge;
pub mod nat;
pub mod policy;
mod port;
mod redundancy;
mod route;
mod settings;
mod sysctl;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::{IpNet, Ipv4Net};
use router_common::account::COUNTER_SLOTS;
use router_common::port::{Carrier, Port, Role};

use crate::model::{DesiredState, Mac, RouterRole, Settings};
use nat::{NatEntry, NatKey};
use policy::ListEntry;
use redundancy::Stance;

pub use attach::{AttachMode, Attachment, Driver, Front};
pub use redundancy::{names, shared_nics};
pub use sysctl::tier_settings;
pub use tunnel::{OVERHEAD as VXLAN_OVERHEAD, Vxlan};

/// What the system should hold for a desired state and the operator's settings on a machine with
/// these NICs. `role` counts where the router is one of a pair.
pub fn compile(
    desired: &DesiredState,
    settings: &Settings,
    inventory: &Inventory,
    mode: AttachMode,
    role: RouterRole,
) -> Compiled {
    let stance = Stance::of(desired, role);
    let mut compiled = Compiled { serves: stance.serves, ..Compiled::default() };
    let ports = bridge::ports(&desired.ports, settings);
    let placed = port::place(&ports, inventory, &mut compiled.problems);
    for port in &placed {
        compiled.names.insert(port.nic.ifindex, port.name().to_owned());
        compiled.links.insert(port.nic.ifindex, stance.link(port));
        if port.port.role == Role::Guest {
            let shared = stance.held(&port.port.name);
            let networks = port.port.addresses.iter().chain(&shared).filter_map(ipv4);
            compiled.guest_networks.insert(port.nic.ifindex, networks.collect());
        }
        if matches!(port.port.role, Role::Public | Role::PrivateGateway) {
            compiled.own_tcp.insert(port.nic.ifindex, port.nic.mac);
        }
    }
    compiled.tables.flags = settings::flags(settings);
    compiled.tables.ports_per_guest = settings.ports_per_guest.map_or(0, NonZeroU16::get);
    port::tables(&placed, inventory, settings, mode, &mut compiled);
    stance.tables(&placed, &mut compiled.tables);
    // Its twin passes frames on as well: with both they would go round.
    if stance.serves {
        bridge::tables(settings, &placed, &mut compiled.tables);
    }
    nat::tables(&desired.nat, &mut compiled.tables);
    let of_remote = desired.remote.as_ref().map(|remote| remote.openings.as_slice());
    policy::tables(&desired.policy, of_remote.unwrap_or_default(), &placed, &mut compiled);
    compiled.tables.nat.extend(settings::untranslated(settings));
    compiled.routes = route::compile(&desired.routes, &placed, &mut compiled.problems);
    compiled.routes.retain(|route| stance.has_way(route, &compiled.links));
    compiled.sysctls = sysctl::compile(&placed);
    compiled.problems.extend(settings::problems(settings, &desired.ports));
    compiled
}

fn ipv4(network: &IpNet) -> Option<Ipv4Net> {
    match network {
        IpNet::V4(network) => Some(*network),
        IpNet::V6(_) => None,
    }
}

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
    /// And also where they are in several buffers: `NETDEV_XDP_ACT_NDO_XMIT_SG`. Before 6.3 no device does.
    pub takes_multi_buffer: bool,
    /// The device takes VLAN tags out of frames that it receives (`rx-vlan-offload`).
    pub strips_tags: bool,
    /// How its frames are carried, if it stands for tags on another.
    pub carrier: Option<Carrier>,
}

/// The NICs of the network namespace, loopback left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// In the order of their indices.
    pub nics: Vec<Nic>,
    /// How many rows of counters there are, row 0 included: the ports that there is room for.
    pub port_rows: u32,
    /// NICs that stand for VXLAN networks, by interface index.
    pub tunnels: BTreeMap<u32, Vxlan>,
    /// VXLAN devices of the kernel's whose forwarding databases say where remote ends of those are, by interface index.
    pub followed: BTreeSet<u32>,
    /// A sentence for each tagged port that has no interface, or cannot be reached.
    pub problems: Vec<String>,
}

impl Default for Inventory {
    fn default() -> Self {
        Self {
            nics: Vec::new(),
            port_rows: COUNTER_SLOTS,
            tunnels: BTreeMap::new(),
            followed: BTreeSet::new(),
            problems: Vec::new(),
        }
    }
}

impl Inventory {
    /// Its NICs by what they are looked for by, for who looks for many.
    pub fn index(&self) -> Index<'_> {
        let (mut by_mac, mut by_name) = (HashMap::new(), HashMap::new());
        // Of several with one address the first counts.
        for nic in self.nics.iter().rev() {
            by_mac.insert(nic.mac, nic);
            by_name.insert(nic.name.as_str(), nic);
        }
        Index { by_mac, by_name }
    }

    /// The NIC with an interface index.
    pub fn by_index(&self, ifindex: u32) -> Option<&Nic> {
        let place = self.nics.binary_search_by_key(&ifindex, |nic| nic.ifindex).ok()?;
        self.nics.get(place)
    }
}

/// The NICs of an [`Inventory`]. There may be thousands, and as many messages and ports that each mean one.
#[derive(Clone, Debug)]
pub struct Index<'a> {
    by_mac: HashMap<Mac, &'a Nic>,
    by_name: HashMap<&'a str, &'a Nic>,
}

impl<'a> Index<'a> {
    /// The NIC with an address.
    pub fn by_mac(&self, mac: Mac) -> Option<&'a Nic> {
        self.by_mac.get(&mac).copied()
    }

    /// The NIC with a name.
    pub fn by_name(&self, name: &str) -> Option<&'a Nic> {
        self.by_name.get(name).copied()
    }
}

/// What one NIC should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// MTU in bytes; `None` leaves the NIC's own.
    pub mtu: Option<u16>,
    /// Switched on. Off is what leads outside while another router serves.
    pub up: bool,
    /// Addresses in order of assignment. The NIC holds these and no others (link-local IPv6
    /// ones excepted, which are the kernel's).
    pub addresses: Vec<IpNet>,
    /// Addresses that come and go with the router's role, which is none of our doing: they may be there.
    pub shared: Vec<IpNet>,
}

/// A route as the kernel holds it, in the main table, protocol [`ROUTE_PROTOCOL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelRoute {
    /// Destination.
    pub destination: IpNet,
    /// Where it leads.
    pub target: KernelTarget,
    /// Of several routes to a destination the one with the lowest metric counts, if nothing else
    /// says which interface it has to be. IPv4; 0 for IPv6, whose metric is the kernel's default.
    pub metric: u32,
}

/// Where a [`KernelRoute`] leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KernelTarget {
    /// To a next hop.
    Gateway {
        /// Its address.
        address: IpAddr,
        /// Way out.
        ifindex: u32,
    },
    /// Out by a device that has no next hops.
    Device {
        /// Way out.
        ifindex: u32,
    },
    /// To nobody: packets are dropped.
    Blackhole,
}

impl KernelRoute {
    /// The way out, if there is one.
    pub fn ifindex(&self) -> Option<u32> {
        match self.target {
            KernelTarget::Gateway { ifindex, .. } | KernelTarget::Device { ifindex } => Some(ifindex),
            KernelTarget::Blackhole => None,
        }
    }
}

/// Marks the routes that are XVR's (`rtm_protocol`): others are not touched. A number that
/// nobody has registered: routing daemons have 186 to 192.
pub const ROUTE_PROTOCOL: u8 = 120;

/// The packet programs' tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSet {
    /// `CONFIG`: what is chosen for all ports, [`RouterConfig::flags`](router_common::config::RouterConfig).
    pub flags: u32,
    /// `CONFIG`: how many external ports a guest may have per protocol, 0 for as many as there are.
    pub ports_per_guest: u16,
    /// `PORTS`, by interface index.
    pub ports: BTreeMap<u32, Port>,
    /// `CARRIERS` and, the other way round, `TAGGED`: how the frames of ports are carried that have tags, by the index
    /// of their own interfaces.
    pub tags: BTreeMap<u32, Carrier>,
    /// Ports that are VXLAN networks, by the index of their own interfaces.
    pub tunnels: BTreeMap<u32, Vxlan>,
    /// `MEMBERS`: the ports of bridges, in order, by [`Port::bridge`].
    pub bridges: BTreeMap<u32, Vec<u32>>,
    /// `LOCAL4`: address → interface index.
    pub local4: BTreeMap<Ipv4Addr, u32>,
    /// `LOCAL6`: address → interface index.
    pub local6: BTreeMap<Ipv6Addr, u32>,
    /// Static NAT, port forwardings, and towards whom guests are not translated.
    pub nat: BTreeMap<NatKey, NatEntry>,
    /// `FIREWALLS`: public address → the list of flows to it.
    pub firewalls: BTreeMap<Ipv4Addr, u32>,
    /// Lists of rules, by their number.
    pub lists: BTreeMap<u32, ListEntry>,
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
    /// Where guests are served: the router's IPv4 addresses on guest ports, shared ones where it has them, by
    /// interface index. Host bits are kept.
    pub guest_networks: BTreeMap<u32, Vec<Ipv4Net>>,
    /// NICs that lead outside, on which the router's own TCP is counted: MAC addresses by interface index.
    pub own_tcp: BTreeMap<u32, Mac>,
    /// Addresses that were shared until just now. Who holds them gives them back by himself, and would take it for a
    /// fault if somebody else did so.
    pub lingering: BTreeSet<IpNet>,
    /// The router serves: it is alone, or the primary one of a pair.
    pub serves: bool,
    /// What was left out, and why.
    pub problems: Vec<Problem>,
}

impl Compiled {
    /// The problems that a command has brought, by which it is refused: those of ports and routes
    /// that it added or changed. What earlier commands asked for and has become impossible since
    /// (a NIC was unplugged) does not stand in the way of others.
    pub fn refusals(&self, before: &DesiredState, after: &DesiredState) -> Vec<&Problem> {
        let [ports_before, ports_after] = [before, after].map(|state| {
            let ports = state.ports.iter().map(|port| (port.name.as_str(), port));
            ports.collect::<HashMap<_, _>>()
        });
        let is_new = |problem: &&Problem| match &problem.subject {
            Subject::Port(name) => ports_before.get(name.as_str()) != ports_after.get(name.as_str()),
            Subject::Route(destination) => {
                let routes = |state: &DesiredState| {
                    let to = state.routes.iter().filter(|route| &route.destination == destination);
                    to.cloned().collect::<BTreeSet<_>>()
                };
                routes(before) != routes(after)
            }
            // No command is about the operator's settings.
            Subject::Network(_) => false,
        };
        self.problems.iter().filter(is_new).collect()
    }
}

/// Something of the desired state that this machine cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is left out.
    pub subject: Subject,
    /// A sentence that says why.
    pub message: String,
}

/// What a [`Problem`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A port, by its name.
    Port(String),
    /// Routes to a destination.
    Route(IpNet),
    /// The operator's settings for a network.
    Network(Ipv4Net),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Port(name) => write!(f, "port {name}: {}", self.message),
            Subject::Route(destination) => write!(f, "route to {destination}: {}", self.message),
            Subject::Network(network) => write!(f, "network {network} of the settings: {}", self.message),
        }
    }
}

#[cfg(test)]
mod tests;
