//! Ports → NICs with addresses, rows of the programs' tables, and how programs are attached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use router_common::account::COUNTER_SLOTS;
use router_common::net::Ipv4;
use router_common::policy::NO_LIST;
use router_common::port::{Port as PortEntry, Role};

use super::{AttachMode, Attachment, Compiled, Inventory, Nic, Problem, Subject, settings};
use crate::model::{Port, PortSelector, Settings, SourceNat};

/// `RouterId` of the one router that a network namespace has.
pub const ROUTER: u16 = 0;

/// A port whose NIC was found.
pub(super) struct Placed<'a> {
    pub port: &'a Port,
    pub nic: &'a Nic,
    /// The port's row in the counters.
    pub slot: u32,
}

impl Placed<'_> {
    /// What to call it: of several NICs that one port has each by its own name.
    pub fn name(&self) -> &str {
        match self.port.selector {
            PortSelector::Numbered(_) => &self.nic.name,
            _ => &self.port.name,
        }
    }

    /// Largest IP packet in bytes.
    fn mtu(&self) -> u32 {
        self.port.mtu.map_or(self.nic.mtu, u32::from)
    }
}

/// Finds each port's NIC: those with a MAC address first, so that a port known by name alone
/// never takes the NIC of another.
pub(super) fn place<'a>(
    ports: &'a [Port],
    inventory: &'a Inventory,
    problems: &mut Vec<Problem>,
) -> Vec<Placed<'a>> {
    let slots = slots(ports);
    let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
    let mut placed = Vec::new();
    let by_mac = |port: &&Port| matches!(port.selector, PortSelector::Mac(_));
    for port in ports.iter().filter(by_mac).chain(ports.iter().filter(|port| !by_mac(port))) {
        if let PortSelector::Numbered(_) = port.selector {
            let nics = inventory.nics.iter().filter(|nic| port.selector.numbers(&nic.name));
            // They share the port's row.
            let slot = slots.get(port.name.as_str()).copied().unwrap_or_default();
            placed.extend(nics.map(|nic| Placed { port, nic, slot }));
            continue;
        }
        match find(port, inventory, &owners, &slots) {
            Ok((nic, slot)) => {
                owners.insert(nic.ifindex, &port.name);
                placed.push(Placed { port, nic, slot });
            }
            // It comes and goes with the daemon that builds tunnels, which says what is wrong with it.
            Err(_) if port.role == Role::Tunnel => {}
            Err(message) => {
                problems.push(Problem { subject: Subject::Port(port.name.clone()), message });
            }
        }
    }
    placed.sort_by(|a, b| a.port.name.cmp(&b.port.name));
    placed
}

fn find<'a>(
    port: &Port,
    inventory: &'a Inventory,
    owners: &BTreeMap<u32, &str>,
    slots: &BTreeMap<&str, u32>,
) -> Result<(&'a Nic, u32), String> {
    let nic = match &port.selector {
        PortSelector::Mac(mac) => {
            inventory.by_mac(*mac).ok_or_else(|| format!("there is no NIC with the MAC address {mac}"))?
        }
        PortSelector::Name(name) | PortSelector::Numbered(name) => {
            inventory.by_name(name).ok_or_else(|| format!("there is no NIC named {name}"))?
        }
    };
    if let Some(owner) = owners.get(&nic.ifindex) {
        return Err(format!("its NIC {} is already port {owner}", nic.name));
    }
    let slot =
        slots.get(port.name.as_str()).ok_or_else(|| format!("more than {} ports", COUNTER_SLOTS - 1))?;
    Ok((nic, *slot))
}

/// Each port's row in the counters. `ethN` has row N + 1 whatever other ports there are, so that
/// counters stay with their port; other names share the rows at the end.
fn slots(ports: &[Port]) -> BTreeMap<&str, u32> {
    let by_number = |name: &str| {
        let number: u32 = name.strip_prefix("eth")?.parse().ok()?;
        (number < COUNTER_SLOTS - 1).then_some(number + 1)
    };
    let names: BTreeSet<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    let mut slots: BTreeMap<&str, u32> =
        names.iter().filter_map(|name| Some((*name, by_number(name)?))).collect();
    let taken: BTreeSet<u32> = slots.values().copied().collect();
    let free = (1..COUNTER_SLOTS).rev().filter(|slot| !taken.contains(slot));
    let others: Vec<&str> = names.into_iter().filter(|name| !slots.contains_key(name)).collect();
    slots.extend(others.into_iter().zip(free));
    slots
}

/// Fills in what the programs read and how they are attached.
pub(super) fn tables(placed: &[Placed<'_>], chosen: &Settings, mode: AttachMode, compiled: &mut Compiled) {
    for placed in placed {
        let Placed { port, nic, slot } = placed;
        let attachment = Attachment::choose(mode, port.role, &nic.driver);
        let source_nat = match port.source_nat {
            SourceNat::Off => Ipv4::UNSPECIFIED,
            SourceNat::To(address) => address.into(),
        };
        let entry = PortEntry {
            slot: *slot,
            mtu: placed.mtu(),
            source_nat,
            address: first_address(port),
            from_list: NO_LIST,
            to_list: NO_LIST,
            outside_list: NO_LIST,
            own_list: NO_LIST,
            router: ROUTER,
            role: port.role as u8,
            flags: attachment.port_flags(&nic.driver, nic.takes_xdp_frames)
                | settings::port_flags(port, chosen)
                | if port.role == Role::Tunnel { PortEntry::WITHOUT_LINK } else { 0 },
            mac: nic.mac.0,
            pad: [0; 2],
        };
        compiled.tables.ports.insert((nic.ifindex, 0, 0), entry);
        compiled.attachments.insert(nic.ifindex, attachment);
        locals(placed, compiled);
    }
}

fn locals(placed: &Placed<'_>, compiled: &mut Compiled) {
    let ifindex = placed.nic.ifindex;
    for address in placed.port.addresses.iter().map(ipnet::IpNet::addr) {
        let other = match address {
            IpAddr::V4(address) => compiled.tables.local4.insert(address, ifindex),
            IpAddr::V6(address) => compiled.tables.local6.insert(address, ifindex),
        };
        // Several NICs of one port have one address.
        let is_one_of_many = matches!(placed.port.selector, PortSelector::Numbered(_));
        if let Some(other) = other.filter(|other| *other != ifindex && !is_one_of_many) {
            let owner = compiled.names.get(&other).cloned().unwrap_or_default();
            compiled.problems.push(Problem {
                subject: Subject::Port(placed.port.name.clone()),
                message: format!("{address} is also an address of port {owner}"),
            });
        }
    }
    if let SourceNat::To(address) = placed.port.source_nat
        && !holds(placed.port, address)
    {
        compiled.problems.push(Problem {
            subject: Subject::Port(placed.port.name.clone()),
            message: format!("source NAT to {address}, which is none of its addresses"),
        });
    }
}

/// The port's first IPv4 address.
fn first_address(port: &Port) -> Ipv4 {
    let of = |net: &ipnet::IpNet| match net.addr() {
        IpAddr::V4(address) => Some(address.into()),
        IpAddr::V6(_) => None,
    };
    port.addresses.iter().find_map(of).unwrap_or(Ipv4::UNSPECIFIED)
}

fn holds(port: &Port, address: Ipv4Addr) -> bool {
    port.addresses.iter().any(|own| own.addr() == IpAddr::V4(address))
}
