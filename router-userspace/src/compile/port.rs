//! Ports → NICs with addresses, rows of the programs' tables, and how programs are attached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use router_common::nat::POOL_SLOTS;
use router_common::net::Ipv4;
use router_common::policy::NO_LIST;
use router_common::port::{Port as PortEntry, Role};

use super::{AttachMode, Attachment, Compiled, Index, Inventory, Nic, Problem, Subject, settings, tunnel};
use crate::model::{Port, PortSelector, Settings, SourceNat};

/// `RouterId` of the one router that a network namespace has.
pub const ROUTER: u16 = 0;

/// A port whose NIC was found.
pub(super) struct Placed<'a> {
    pub port: &'a Port,
    pub nic: &'a Nic,
    /// The port's row in the counters.
    pub slot: u32,
    /// Largest IP packet that what carries it has room for, in bytes.
    most: u32,
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
        self.asked_mtu().map_or(self.nic.mtu, u32::from)
    }

    /// The one that somebody asks for, as far as there is room for it.
    pub fn asked_mtu(&self) -> Option<u16> {
        self.port.mtu.map(|mtu| u32::from(mtu).min(self.most) as u16)
    }
}

/// Finds each port's NIC: those with a MAC address first, so that a port known by name alone
/// never takes the NIC of another.
pub(super) fn place<'a>(
    ports: &'a [Port],
    inventory: &'a Inventory,
    problems: &mut Vec<Problem>,
) -> Vec<Placed<'a>> {
    let slots = slots(ports, inventory.port_rows);
    let index = inventory.index();
    let mut owners: BTreeMap<u32, &Port> = BTreeMap::new();
    let mut placed = Vec::new();
    let by_mac = |port: &&Port| matches!(port.selector, PortSelector::Mac(_));
    for port in ports.iter().filter(by_mac).chain(ports.iter().filter(|port| !by_mac(port))) {
        if let PortSelector::Numbered(_) = port.selector {
            let nics = inventory.nics.iter().filter(|nic| port.selector.numbers(&nic.name));
            // They share the port's row.
            let slot = slots.get(port.name.as_str()).copied().unwrap_or_default();
            placed.extend(nics.map(|nic| Placed { port, nic, slot, most: u32::MAX }));
            continue;
        }
        match find(port, &index, inventory.port_rows, &owners, &slots) {
            Ok((nic, slot)) => {
                owners.insert(nic.ifindex, port);
                let most = tunnel::room(inventory, nic.ifindex);
                placed.push(Placed { port, nic, slot, most });
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
    index: &Index<'a>,
    rows: u32,
    owners: &BTreeMap<u32, &Port>,
    slots: &BTreeMap<&str, u32>,
) -> Result<(&'a Nic, u32), String> {
    let nic = match &port.selector {
        PortSelector::Mac(mac) => {
            index.by_mac(*mac).ok_or_else(|| format!("there is no NIC with the MAC address {mac}"))?
        }
        PortSelector::Name(name) | PortSelector::Numbered(name) => {
            index.by_name(name).ok_or_else(|| format!("there is no NIC named {name}"))?
        }
    };
    if let Some(owner) = owners.get(&nic.ifindex) {
        return Err(match owner.role {
            Role::Bridged => format!("its NIC {} is on a bridge (ports.json)", nic.name),
            _ => format!("its NIC {} is already port {}", nic.name, owner.name),
        });
    }
    let slot = slots.get(port.name.as_str()).ok_or_else(|| no_row(port, rows))?;
    Ok((nic, *slot))
}

/// Each port's row in the counters. `ethN` has row N + 1 whatever other ports there are, so that
/// counters stay with their port; others share the rows at the end, of those that have pools of external ports where they
/// need one.
pub(super) fn slots(ports: &[Port], rows: u32) -> BTreeMap<&str, u32> {
    let most = |port: &Port| if port.source_nat == SourceNat::Off { rows } else { rows.min(POOL_SLOTS) };
    let by_number = |port: &Port| {
        let number: u32 = port.name.strip_prefix("eth")?.parse().ok()?;
        (number + 1 < most(port)).then_some(number + 1)
    };
    let mut slots: BTreeMap<&str, u32> =
        ports.iter().filter_map(|port| Some((port.name.as_str(), by_number(port)?))).collect();
    let mut taken: BTreeSet<u32> = slots.values().copied().collect();
    let mut others: Vec<&Port> =
        ports.iter().filter(|port| !slots.contains_key(port.name.as_str())).collect();
    others.sort_by_key(|port| (most(port), &port.name));
    // Whoever may have as many rows as the one before goes on where that has found one.
    let (mut limit, mut above) = (0, 0);
    for port in others {
        if limit != most(port) {
            (limit, above) = (most(port), most(port));
        }
        if let Some(free) = (1..above).rev().find(|slot| !taken.contains(slot)) {
            above = free;
            taken.insert(free);
            slots.insert(&port.name, free);
        }
    }
    slots
}

/// Why a port has no row.
fn no_row(port: &Port, rows: u32) -> String {
    match port.source_nat {
        SourceNat::To(_) if rows > POOL_SLOTS => {
            format!("more than {} ports with source NAT", POOL_SLOTS - 1)
        }
        _ => format!("more than {} ports; a new start makes room for those of ports.json", rows - 1),
    }
}

/// Fills in what the programs read and how they are attached.
pub(super) fn tables(
    placed: &[Placed<'_>],
    inventory: &Inventory,
    chosen: &Settings,
    mode: AttachMode,
    compiled: &mut Compiled,
) {
    let tags = inventory.nics.iter().filter_map(|nic| nic.carrier).filter(|carrier| !carrier.is_tunnel());
    let trunks: BTreeSet<u32> = tags.map(|carrier| carrier.trunk).collect();
    let vxlan = tunnel::underlays(inventory);
    let mtus: BTreeMap<u32, u32> = placed.iter().map(|placed| (placed.nic.ifindex, placed.mtu())).collect();
    for placed in placed {
        let Placed { port, nic, slot, .. } = placed;
        // The NIC that frames come by and leave by.
        let wire = nic.carrier.map_or(Some(*nic), |carrier| inventory.by_index(carrier.trunk));
        let Some(wire) = wire else { continue };
        let mtu = mtus.get(&wire.ifindex).copied().unwrap_or(wire.mtu);
        let attachment = match trunks.contains(&wire.ifindex) {
            true => Attachment::choose_for_trunk(mode, wire, mtu),
            false => Attachment::choose(mode, port.role, &wire.driver, mtu),
        };
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
            flags: attachment.port_flags(wire)
                | if nic.carrier.is_some() { PortEntry::TAGGED } else { 0 }
                | settings::port_flags(port, chosen)
                | if port.role == Role::Tunnel { PortEntry::WITHOUT_LINK } else { 0 },
            mac: nic.mac.0,
            vxlan: vxlan.get(&nic.ifindex).copied().unwrap_or_default(),
            bridge: 0,
        };
        compiled.tables.ports.insert(nic.ifindex, entry);
        compiled.tables.tags.extend(nic.carrier.map(|carrier| (nic.ifindex, carrier)));
        let vxlan = inventory.tunnels.get(&nic.ifindex);
        compiled.tables.tunnels.extend(vxlan.map(|vxlan| (nic.ifindex, vxlan.clone())));
        compiled.attachments.insert(wire.ifindex, attachment);
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
