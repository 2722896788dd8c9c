//! Bridges: ports of `ports.json` between which frames go by their Ethernet addresses.

use std::borrow::Cow;
use std::collections::BTreeMap;

use router_common::port::Role;

use super::TableSet;
use super::port::Placed;
use crate::model::{Port, PortSelector, Settings, SourceNat};

/// The router's ports, those on bridges first: whoever names one of their NICs comes too late.
pub(super) fn ports<'a>(routed: &'a [Port], settings: &Settings) -> Cow<'a, [Port]> {
    let bridged = settings.tagged_ports.iter().filter(|port| port.bridge.is_some()).map(|port| Port {
        name: port.name.clone(),
        selector: PortSelector::Mac(port.mac),
        role: Role::Bridged,
        addresses: Vec::new(),
        mtu: None,
        source_nat: SourceNat::Off,
    });
    let mut ports: Vec<Port> = bridged.collect();
    if ports.is_empty() {
        return Cow::Borrowed(routed);
    }
    ports.extend_from_slice(routed);
    Cow::Owned(ports)
}

/// Puts those that are here on their bridges.
pub(super) fn tables(settings: &Settings, placed: &[Placed<'_>], tables: &mut TableSet) {
    let bridge_of: BTreeMap<&str, &str> = settings
        .tagged_ports
        .iter()
        .filter_map(|port| Some((port.name.as_str(), port.bridge.as_deref()?)))
        .collect();
    let mut bridges: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for Placed { port, nic, .. } in placed.iter().filter(|placed| placed.port.role == Role::Bridged) {
        if let Some(bridge) = bridge_of.get(port.name.as_str())
            && tables.ports.contains_key(&nic.ifindex)
        {
            bridges.entry(bridge).or_default().push(nic.ifindex);
        }
    }
    for mut members in bridges.into_values() {
        members.sort_unstable();
        let Some(bridge) = members.first().copied() else { continue };
        for member in &members {
            if let Some(port) = tables.ports.get_mut(member) {
                port.bridge = bridge;
            }
        }
        tables.bridges.insert(bridge, members);
    }
}
