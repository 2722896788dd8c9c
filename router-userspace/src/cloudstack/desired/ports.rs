//! Ports: from the addresses of `ips`, the tiers of `guestnetwork` and the boot line.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Reading, by_number};
use crate::cloudstack::wire::cmdline::{BootNic, CmdLine, RouterKind};
use crate::cloudstack::wire::guestnetwork::GuestNetwork;
use crate::cloudstack::wire::ips::{IpAssociation, NetworkType};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::port::Role;
use crate::model::{Mac, Port, PortSelector, SourceNat};

/// A port with the places of what it has, for errors and routes.
pub(super) struct PlacedPort {
    pub(super) port: Port,
    /// Where the port stands.
    place: Place,
    /// Where each of the port's addresses stands, in the same order.
    places: Vec<Place>,
    /// The IPv4 gateway that its addresses name, and where.
    pub(super) gateway: Option<(Ipv4Addr, Place)>,
    /// The IPv6 gateway of a VPC's public port, and where.
    pub(super) gateway6: Option<(Ipv6Addr, Place)>,
}

impl PlacedPort {
    fn push(&mut self, address: IpNet, place: Place) {
        if !self.port.addresses.contains(&address) {
            self.port.addresses.push(address);
            self.places.push(place);
        }
    }

    /// The port's network that holds an address: the longest of several.
    pub(super) fn network_of(&self, address: IpAddr) -> Option<IpNet> {
        let networks = self.port.addresses.iter().filter(|net| net.contains(&address));
        networks.max_by_key(|net| net.prefix_len()).map(IpNet::trunc)
    }

    /// Whether an address is the port's own.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.port.addresses.iter().any(|own| own.addr() == address)
    }
}

/// All ports, in the order of their numbers.
pub(super) fn ports(reading: &Reading) -> Result<Vec<PlacedPort>, ConfigError> {
    let mut ports = Vec::new();
    for (device, associations) in &reading.associations {
        ports.extend(from_associations(&reading.boot, device, associations)?);
    }
    let others: BTreeMap<String, Role> =
        ports.iter().map(|port: &PlacedPort| (port.port.name.clone(), port.port.role)).collect();
    for (device, tier) in &reading.tiers {
        if reading.boot.kind != RouterKind::Vpc {
            return Err(tier.place.error("a tier, but the boot line's type is not vpcrouter"));
        }
        if let Some(role) = others.get(device) {
            let role = role.label();
            return Err(tier.place.error(format_args!("{device} is a {role} NIC, it cannot be a tier's")));
        }
        ports.push(from_tier(device, tier));
    }
    ports.sort_by(|a, b| by_number(&a.port.name, &b.port.name));
    add_boot_addresses6(&reading.boot, &mut ports);
    add_public_addresses6(reading, &mut ports);
    Ok(ports)
}

/// The port of a NIC in the `ips` bag, unless nothing wants it any more. Tiers are the business of
/// [`from_tier`]: the bag has no MAC address for them.
fn from_associations(
    boot: &CmdLine,
    device: &str,
    all: &[IpAssociation],
) -> Result<Option<PlacedPort>, ConfigError> {
    let is_tier =
        |entry: &&IpAssociation| boot.kind == RouterKind::Vpc && entry.network_type == NetworkType::Guest;
    let all: Vec<&IpAssociation> = all.iter().filter(|entry| !is_tier(entry)).collect();
    let held: Vec<&IpAssociation> = all.iter().copied().filter(|entry| entry.add).collect();
    // The hypervisor unplugs a NIC whose last address goes, but not one that was there at boot.
    let boot_nic = all.iter().find_map(|entry| boot_nic(boot, device, entry));
    let Some(first) = held.first().or_else(|| all.first().filter(|_| boot_nic.is_some())) else {
        return Ok(None);
    };
    let mac = mac(&held)?.or_else(|| all.iter().find_map(|entry| entry.mac));
    let mac = mac.or_else(|| boot_nic.and_then(|nic| nic.mac));
    let role = role(device, first, &held)?;
    let boot_mtu = match role {
        Role::Public => boot.public_mtu,
        Role::Guest => boot.private_mtu,
        Role::Control | Role::PrivateGateway | Role::Tunnel | Role::Bridged => None,
    };
    let mut port = PlacedPort {
        port: Port {
            name: device.to_owned(),
            selector: selector(mac, device),
            role,
            addresses: Vec::new(),
            mtu: held.iter().find_map(|entry| entry.mtu).or(boot_mtu),
            source_nat: source_nat(boot, role, &held),
        },
        place: first.place.clone(),
        places: Vec::new(),
        gateway: held.iter().find_map(|entry| Some((entry.gateway?, entry.place.at("gateway")))),
        gateway6: None,
    };
    for entry in held {
        port.push(entry.address.into(), entry.place.at("public_ip"));
    }
    Ok(Some(port))
}

fn from_tier(device: &str, tier: &GuestNetwork) -> PlacedPort {
    let mut port = PlacedPort {
        port: Port {
            name: device.to_owned(),
            selector: selector(tier.mac, device),
            role: Role::Guest,
            addresses: Vec::new(),
            mtu: tier.mtu,
            source_nat: SourceNat::Off,
        },
        place: tier.place.clone(),
        places: Vec::new(),
        gateway: tier.gateway.map(|gateway| (gateway, tier.place.at("router_guest_gateway"))),
        gateway6: None,
    };
    port.push(tier.address.into(), tier.place.at("router_guest_ip"));
    if let Some(address) = tier.address6 {
        port.push(address.into(), tier.place.at("router_guest_ip6"));
    }
    port
}

fn selector(mac: Option<Mac>, device: &str) -> PortSelector {
    mac.map_or_else(|| PortSelector::Name(device.to_owned()), PortSelector::Mac)
}

/// The NIC of the boot line that an entry is about: it is under its name, or has its address.
fn boot_nic<'a>(boot: &'a CmdLine, device: &str, entry: &IpAssociation) -> Option<&'a BootNic> {
    boot.nics.iter().find(|nic| {
        let is_named = device == format!("eth{}", nic.number) && entry.network_type == nic.network_type;
        is_named || entry.address == nic.address
    })
}

/// The one MAC address that entries of a NIC name.
fn mac(held: &[&IpAssociation]) -> Result<Option<Mac>, ConfigError> {
    let mut macs = held.iter().filter_map(|entry| Some((entry.mac?, &entry.place)));
    let Some((first, _)) = macs.next() else { return Ok(None) };
    match macs.find(|(mac, _)| *mac != first) {
        None => Ok(Some(first)),
        Some((other, place)) => Err(place
            .at("vif_mac_address")
            .error(format_args!("{other} differs from {first}, which the same NIC has by another entry"))),
    }
}

/// What a NIC is for, on which its entries have to agree.
fn role(device: &str, first: &IpAssociation, held: &[&IpAssociation]) -> Result<Role, ConfigError> {
    let of = |entry: &IpAssociation| match entry.network_type {
        NetworkType::Control => Role::Control,
        NetworkType::Guest => Role::Guest,
        NetworkType::Public if entry.is_private_gateway => Role::PrivateGateway,
        NetworkType::Public => Role::Public,
    };
    let role = of(first);
    match held.iter().find(|entry| of(entry) != role) {
        None => Ok(role),
        Some(other) => {
            let (is, says) = (role.label(), of(other).label());
            let message = format_args!("{device} is a {is} NIC, it cannot be a {says} one as well");
            Err(other.place.at("nw_type").error(message))
        }
    }
}

/// Which address flows from guests get when they leave by a port. `held` are its addresses.
///
/// Isolated networks: CloudStack marks the first address of every public NIC as source NAT, so on
/// the NIC of the boot line's address that address counts, and on others the mark. A VPC's marks
/// are real. Where nothing is marked, the port's own first address: never one of another NIC,
/// whose replies would come back another way.
fn source_nat(boot: &CmdLine, role: Role, held: &[&IpAssociation]) -> SourceNat {
    let has = |address: Ipv4Addr| held.iter().any(|entry| entry.address.addr() == address);
    let marked = held.iter().find(|entry| entry.source_nat).map(|entry| entry.address.addr());
    let first = held.first().map(|entry| entry.address.addr());
    let boot_address = match boot.kind {
        RouterKind::Isolated => {
            let nic = boot.nics.iter().find(|nic| nic.network_type == NetworkType::Public);
            nic.map(|nic| nic.address.addr()).filter(|address| has(*address))
        }
        RouterKind::Vpc | RouterKind::Shared => None,
    };
    let is_translated = !boot.is_routed && boot.has_public_network;
    let address = match role {
        _ if boot.is_routed => None,
        Role::PrivateGateway => marked,
        Role::Public if is_translated => {
            boot_address.or(marked).or(boot.source_nat_ip.filter(|address| has(*address))).or(first)
        }
        Role::Public | Role::Guest | Role::Control | Role::Tunnel | Role::Bridged => None,
    };
    address.map_or(SourceNat::Off, SourceNat::To)
}

/// IPv6 addresses of the boot line go to the port that has the NIC's IPv4 address.
fn add_boot_addresses6(boot: &CmdLine, ports: &mut [PlacedPort]) {
    for nic in &boot.nics {
        let Some(address) = nic.address6 else { continue };
        let name = format!("eth{}", nic.number);
        let holder = ports.iter().position(|port| port.port.addresses.contains(&nic.address.into()));
        let holder = holder.or_else(|| ports.iter().position(|port| port.port.name == name));
        if let Some(port) = holder.and_then(|index| ports.get_mut(index)) {
            port.push(address.into(), boot.place.at(format_args!("{name}ip6")));
        }
    }
}

/// A VPC's IPv6 addresses on the public side come with its tiers.
fn add_public_addresses6(reading: &Reading, ports: &mut [PlacedPort]) {
    let Some(public) = ports.iter_mut().find(|port| port.port.role == Role::Public) else { return };
    for (_, tier) in &reading.tiers {
        if let Some(address) = tier.public6 {
            public.push(address.into(), tier.place.at("router_ip6"));
        }
        if let (None, Some(gateway)) = (&public.gateway6, tier.public_gateway6) {
            public.gateway6 = Some((gateway, tier.place.at("router_ip6_gateway")));
        }
    }
}

/// No NIC twice, no address twice, no tiers that overlap. Public networks may: providers route several VLANs
/// within one network, and the longest prefix decides.
pub(super) fn check(ports: &[PlacedPort]) -> Result<(), ConfigError> {
    let mut nics: BTreeMap<&PortSelector, &str> = BTreeMap::new();
    for port in ports {
        if let Some(other) = nics.insert(&port.port.selector, &port.port.name) {
            let (name, selector) = (&port.port.name, &port.port.selector);
            return Err(port.place.error(format_args!("{name} and {other} are both the NIC {selector}")));
        }
    }
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for port in ports {
        for (address, place) in port.port.addresses.iter().zip(&port.places) {
            if let Some(owner) = owners.insert(address.addr(), &port.port.name) {
                return Err(place.error(format_args!("{} is an address of {owner} already", address.addr())));
            }
        }
    }
    let mut tiers = Networks::default();
    for port in ports.iter().filter(|port| port.port.role == Role::Guest) {
        for (net, place) in port.port.addresses.iter().zip(&port.places) {
            if let Some((held, name)) = tiers.overlapping(net) {
                let net = net.trunc();
                return Err(place.error(format_args!("the tier's {net} overlaps {held} of {name}")));
            }
        }
        tiers.add(port);
    }
    Ok(())
}

/// Networks of ports, none of which has an address in common with another. Any two networks are apart, or one holds the
/// other.
#[derive(Default)]
struct Networks<'a> {
    /// By first address: the networks, and whose they are.
    by_first: BTreeMap<IpAddr, (IpNet, &'a str)>,
}

impl<'a> Networks<'a> {
    /// One that overlaps with a network.
    fn overlapping(&self, net: &IpNet) -> Option<(IpNet, &'a str)> {
        let before = self.by_first.range(..=net.network()).next_back();
        let after = self.by_first.range(net.network()..).next();
        let holding = before.filter(|(_, (held, _))| held.contains(&net.network()));
        let held = after.filter(|(first, _)| net.contains(*first));
        holding.or(held).map(|(_, found)| *found)
    }

    /// Adds those of a port, which may hold each other: the wider ones then stand for them.
    fn add(&mut self, port: &'a PlacedPort) {
        let mut own: Vec<IpNet> = port.port.addresses.iter().map(IpNet::trunc).collect();
        own.sort_by_key(IpNet::prefix_len);
        for net in own {
            if self.overlapping(&net).is_none() {
                self.by_first.insert(net.network(), (net, &port.port.name));
            }
        }
    }
}
