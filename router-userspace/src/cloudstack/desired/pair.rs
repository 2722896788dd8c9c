//! What a pair of routers shares: the gateways of its guest networks, and what keeps others out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;
use md5::{Digest, Md5};

use super::Reading;
use super::ports::PlacedPort;
use crate::cloudstack::wire::cmdline::{CmdLine, RouterKind};
use crate::cloudstack::wire::guestnetwork::GuestNetwork;
use crate::cloudstack::wire::ips::NetworkType;
use crate::cloudstack::wire::pair::{PASSWORD_LENGTH, PairKeys};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::port::Role;
use crate::model::{Pair, SharedAddress};

/// What the router shares with its twin; nothing where it is alone. Gateways that cannot be shared go to `notices`.
pub(super) fn pair(reading: &Reading, ports: &[PlacedPort], notices: &mut Vec<ConfigError>) -> Option<Pair> {
    let keys = reading.boot.pair.as_ref()?;
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for port in ports {
        owners.extend(port.port.addresses.iter().map(|own| (own.addr(), port.port.name.as_str())));
    }
    let mut shared: Vec<SharedAddress> = Vec::new();
    let mut known = BTreeSet::new();
    for Gateway { port, address, length, place } in gateways(reading, keys, ports) {
        // A router whose own address is the gateway is no twin's.
        if port.owns(address) || known.contains(&address) {
            continue;
        }
        let name = &port.port.name;
        if let Some(owner) = owners.get(&address) {
            notices.push(place.error(format_args!("not shared: {address} is an address of {owner}")));
            continue;
        }
        let Some(network) = port.network_of(address) else {
            notices.push(place.error(format_args!("not shared: {address} is in no network of {name}")));
            continue;
        };
        let length = length.unwrap_or(network.prefix_len());
        if let Ok(address) = IpNet::new(address, length) {
            known.insert(address.addr());
            shared.push(SharedAddress { port: name.clone(), address });
        }
    }
    if shared.is_empty() && ports.iter().any(|port| port.port.role == Role::Guest) {
        let place = reading.boot.place.at("redundant_router");
        notices.push(
            place.error("no guest network has a gateway that the routers share: neither of them serves"),
        );
    }
    Some(Pair { shared, password: password(&reading.boot, keys), interval: keys.interval })
}

/// A gateway as it is written.
struct Gateway<'a> {
    port: &'a PlacedPort,
    address: IpAddr,
    length: Option<u8>,
    place: Place,
}

/// The gateways of guest networks, by port and, of a port, IPv4 first.
fn gateways<'a>(reading: &Reading, keys: &PairKeys, ports: &'a [PlacedPort]) -> Vec<Gateway<'a>> {
    let boot = &reading.boot;
    let tiers: BTreeMap<&String, &GuestNetwork> =
        reading.tiers.iter().map(|(device, tier)| (device, tier)).collect();
    let mut found = Vec::new();
    for port in ports.iter().filter(|port| port.port.role == Role::Guest) {
        let name = &port.port.name;
        if boot.kind == RouterKind::Vpc {
            if let Some(tier) = tiers.get(name).filter(|tier| tier.may_own_gateway) {
                let mut add = |address: Option<IpAddr>, key: &str| {
                    let place = tier.place.at(key);
                    found.extend(address.map(|address| Gateway { port, address, length: None, place }));
                };
                add(tier.gateway.map(IpAddr::V4), "router_guest_gateway");
                add(
                    tier.gateway6.filter(|_| tier.address6.is_some()).map(IpAddr::V6),
                    "router_guest_ip6_gateway",
                );
            }
            continue;
        }
        let nic = boot.nics.iter().find(|nic| nic.network_type == NetworkType::Guest);
        let Some(nic) = nic.filter(|nic| port.owns(nic.address.addr().into())) else { continue };
        if let Some((address, length)) = keys.gateway {
            found.push(Gateway { port, address: address.into(), length, place: boot.place.at("guestgw") });
        }
        if let Some((address, length)) = keys.gateway6.filter(|_| nic.address6.is_some()) {
            found.push(Gateway { port, address: address.into(), length, place: boot.place.at("guestgw6") });
        }
    }
    found
}

/// The boot line's, or what CloudStack's own router makes of what both routers know: the MD5 sum, in hexadecimal,
/// of the first public address or the VPC's range, and the number of the VPC.
fn password(boot: &CmdLine, keys: &PairKeys) -> String {
    if let Some(password) = &keys.password {
        return password.clone();
    }
    let id = keys.router_id.as_deref().unwrap_or("1");
    let text = |key: &str| boot.config.get(key).and_then(|value| value.as_str()).unwrap_or_default();
    let common = if boot.kind == RouterKind::Vpc { text("vpccidr") } else { text("eth2ip") };
    let mut hexadecimal = String::new();
    for byte in Md5::digest(format!("{common}-{id}")) {
        // Writing to a string does not fail.
        let _ = write!(hexadecimal, "{byte:02x}");
    }
    hexadecimal.truncate(PASSWORD_LENGTH);
    hexadecimal
}
