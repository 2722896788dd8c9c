//! Static NAT and port forwardings → entries of the programs' tables.
//!
//! The rules of one public address and protocol are ordered, and the first that matches counts. Ports
//! are cut into intervals in which the same rules apply, and each interval into prefixes, which is
//! what the programs look up. An interval whose first rule is not for everybody has a group of
//! source networks, looked up by the longest prefix: all networks that hold an address hold the
//! longest one that does, so the first rule among those is the answer for the address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use router_common::nat::{Forward, StaticNat as StaticEntry};
use router_common::net::Ipv4;

use super::TableSet;
use crate::model::nat::{ForwardProtocol, Nat, PortForward, PortRange};

/// Names an entry of the NAT tables. In the order in which they are written: what an entry
/// points at is there before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NatKey {
    /// Of a group of source networks, see [`Forward::group`].
    Source {
        /// The group.
        group: u32,
        /// The network.
        network: Ipv4Net,
    },
    /// A prefix of public ports.
    Forward {
        /// Public address.
        address: Ipv4Addr,
        /// IP protocol number.
        protocol: u8,
        /// First port.
        port: u16,
        /// How many of the port's bits count.
        bits: u8,
    },
    /// A network towards which guests keep their source.
    Untranslated(Ipv4Net),
    /// The guest of a public address.
    StaticIn(Ipv4Addr),
    /// The public address of a guest.
    StaticOut(Ipv4Addr),
}

/// An entry of the NAT tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatEntry {
    /// A port forwarding.
    Forward(Forward),
    /// One end of a static NAT.
    Static(StaticEntry),
    /// Guests keep their source.
    Untranslated,
}

/// Fills in the NAT tables. Rules whose public address no port holds are left out: the stage before
/// says so.
pub fn tables(nat: &Nat, tables: &mut TableSet) {
    for rule in &nat.static_nats {
        let Some(ifindex) = tables.local4.get(&rule.public).copied() else { continue };
        let entry = |address: Ipv4Addr| NatEntry::Static(StaticEntry { address: address.into(), ifindex });
        tables.nat.insert(NatKey::StaticIn(rule.public), entry(rule.internal));
        tables.nat.insert(NatKey::StaticOut(rule.internal), entry(rule.public));
    }
    let mut by_address: BTreeMap<(Ipv4Addr, u8), Vec<&PortForward>> = BTreeMap::new();
    for rule in nat.forwards.iter().filter(|rule| tables.local4.contains_key(&rule.public)) {
        for protocol in protocols(rule.protocol) {
            by_address.entry((rule.public, *protocol)).or_default().push(rule);
        }
    }
    for ((address, protocol), rules) in by_address {
        for (ports, rules) in intervals(&rules) {
            let forward = target(address, protocol, ports, &rules, &mut tables.nat);
            for (port, bits) in prefixes(ports) {
                let key = NatKey::Forward { address, protocol, port, bits };
                tables.nat.insert(key, NatEntry::Forward(forward));
            }
        }
    }
}

const fn protocols(protocol: ForwardProtocol) -> &'static [u8] {
    match protocol {
        ForwardProtocol::Tcp => &[6],
        ForwardProtocol::Udp => &[17],
        ForwardProtocol::Any => &[6, 17],
    }
}

/// Intervals of ports with the rules that may apply there, in order, up to the first that is for
/// everybody.
fn intervals<'a>(rules: &[&'a PortForward]) -> Vec<(PortRange, Vec<&'a PortForward>)> {
    let mut edges: BTreeMap<u32, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        let ports = rule.public_ports.unwrap_or(PortRange::ALL);
        edges.entry(ports.first().into()).or_default().0.push(index);
        edges.entry(u32::from(ports.last()) + 1).or_default().1.push(index);
    }
    let ends: Vec<u32> = edges.keys().copied().skip(1).collect();
    let mut active = BTreeSet::new();
    let mut found = Vec::new();
    for ((first, (begin, end)), next) in edges.into_iter().zip(ends) {
        active.extend(begin);
        end.iter().for_each(|index| {
            active.remove(index);
        });
        let mut applying = Vec::new();
        for index in &active {
            applying.push(rules[*index]);
            if rules[*index].sources.is_empty() {
                break;
            }
        }
        let range = u16::try_from(first).ok().zip(u16::try_from(next - 1).ok());
        let range = range.and_then(|(first, last)| PortRange::new(first, last).ok());
        if let (Some(range), false) = (range, applying.is_empty()) {
            found.push((range, applying));
        }
    }
    found
}

/// Where an interval leads: to a guest, or to a group of source networks that is written along.
fn target(
    address: Ipv4Addr,
    protocol: u8,
    ports: PortRange,
    rules: &[&PortForward],
    nat: &mut BTreeMap<NatKey, NatEntry>,
) -> Forward {
    if let [rule] = rules
        && rule.sources.is_empty()
    {
        return forward(rule);
    }
    let everybody = Ipv4Net::default();
    let networks = |rule: &PortForward| match rule.sources.is_empty() {
        true => vec![everybody],
        false => rule.sources.clone(),
    };
    let mut members: BTreeMap<Ipv4Net, Forward> = BTreeMap::new();
    for network in rules.iter().flat_map(|rule| networks(rule)) {
        let first = rules.iter().find(|rule| networks(rule).iter().any(|own| own.contains(&network)));
        if let Some(rule) = first {
            members.insert(network, forward(rule));
        }
    }
    // Named after what is in it: a group that changes is another one, and nobody meets half of it.
    let mut group = fnv(format!("{address} {protocol} {ports:?} {members:?}").as_bytes());
    while group == 0
        || nat.keys().any(|key| matches!(key, NatKey::Source { group: taken, .. } if *taken == group))
    {
        group = group.wrapping_add(1);
    }
    for (network, member) in members {
        nat.insert(NatKey::Source { group, network }, NatEntry::Forward(member));
    }
    Forward { address: Ipv4::UNSPECIFIED, group, first_public: 0, first_internal: 0, to_one: 0, pad: 0 }
}

fn forward(rule: &PortForward) -> Forward {
    let public = rule.public_ports.unwrap_or(PortRange::ALL);
    let internal = rule.internal_ports.unwrap_or(public);
    Forward {
        address: rule.internal.into(),
        group: 0,
        first_public: public.first(),
        first_internal: internal.first(),
        to_one: u16::from(internal.len() == 1),
        pad: 0,
    }
}

/// A range as prefixes: first port and how many of its bits count.
pub(crate) fn prefixes(ports: PortRange) -> Vec<(u16, u8)> {
    let (mut first, last) = (u32::from(ports.first()), u32::from(ports.last()));
    let mut found = Vec::new();
    while first <= last {
        let mut size = 1 << first.trailing_zeros().min(16);
        while first + size - 1 > last {
            size /= 2;
        }
        found.push((first as u16, 16 - size.trailing_zeros() as u8));
        first += size;
    }
    found
}

/// FNV-1a.
pub(super) fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

impl fmt::Display for NatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source { group, network } => write!(f, "port forwarding group {group:x} from {network}"),
            Self::Forward { address, protocol, port, bits } => {
                let name = if *protocol == 6 { "tcp" } else { "udp" };
                let last = u32::from(*port) + (1 << (16 - bits)) - 1;
                write!(f, "port forwarding {name} {address}:{port}")?;
                if last == u32::from(*port) { Ok(()) } else { write!(f, "-{last}") }
            }
            Self::Untranslated(network) => write!(f, "the source of guests towards {network}"),
            Self::StaticIn(address) => write!(f, "static NAT {address}"),
            Self::StaticOut(address) => write!(f, "static NAT of {address}"),
        }
    }
}

impl fmt::Display for NatEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(entry) => write!(f, "{}", entry.address),
            Self::Untranslated => f.write_str("their own"),
            Self::Forward(Forward { group, .. }) if *group != 0 => write!(f, "group {group:x}"),
            Self::Forward(Forward { address, first_internal, .. }) => write!(f, "{address}:{first_internal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::nat::StaticNat;

    const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

    fn rule(ports: (u16, u16), internal: u8, to: (u16, u16), sources: &[&str]) -> PortForward {
        PortForward {
            public: PUBLIC,
            protocol: ForwardProtocol::Tcp,
            public_ports: Some(PortRange::new(ports.0, ports.1).unwrap()),
            internal: Ipv4Addr::new(10, 1, 1, internal),
            internal_ports: Some(PortRange::new(to.0, to.1).unwrap()),
            sources: sources.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn compiled(forwards: Vec<PortForward>) -> BTreeMap<NatKey, NatEntry> {
        let mut set = TableSet::default();
        set.local4.insert(PUBLIC, 3);
        tables(&Nat { static_nats: Vec::new(), forwards }, &mut set);
        set.nat
    }

    /// As the programs look it up.
    fn ask(nat: &BTreeMap<NatKey, NatEntry>, port: u16, source: Ipv4Addr) -> Option<(Ipv4Addr, u16)> {
        let longest = nat.iter().filter_map(|(key, entry)| match (key, entry) {
            (NatKey::Forward { port: first, bits, .. }, NatEntry::Forward(forward)) => {
                let shift = 16 - u32::from(*bits);
                (u32::from(port) >> shift == u32::from(*first) >> shift).then_some((*bits, *forward))
            }
            _ => None,
        });
        let (_, mut forward) = longest.max_by_key(|(bits, _)| *bits)?;
        if forward.group != 0 {
            let of_group = nat.iter().filter_map(|(key, entry)| match (key, entry) {
                (NatKey::Source { group, network }, NatEntry::Forward(member)) => (*group == forward.group
                    && network.contains(&source))
                .then_some((network.prefix_len(), *member)),
                _ => None,
            });
            forward = of_group.max_by_key(|(length, _)| *length)?.1;
        }
        let offset = if forward.to_one != 0 { 0 } else { port - forward.first_public };
        Some((forward.address.into(), forward.first_internal + offset))
    }

    /// The rules as they are written, first match.
    fn meant(rules: &[PortForward], port: u16, source: Ipv4Addr) -> Option<(Ipv4Addr, u16)> {
        let admits = |rule: &&PortForward| {
            rule.sources.is_empty() || rule.sources.iter().any(|network| network.contains(&source))
        };
        rules.iter().filter(admits).find_map(|rule| Some((rule.internal, rule.internal_port(port)?)))
    }

    #[test]
    fn tables_mean_what_the_rules_mean_first_match_ranges_and_sources() {
        let rules = vec![
            rule((8000, 8010), 1, (9000, 9010), &["192.0.2.0/24"]),
            rule((8005, 8005), 2, (80, 80), &["192.0.2.128/25", "198.51.100.0/24"]),
            rule((8004, 8200), 3, (8004, 8200), &[]),
            rule((1, 65_535), 4, (22, 22), &["198.51.100.7/32"]),
            rule((30_000, 30_099), 5, (40_000, 40_099), &[]),
        ];
        let nat = compiled(rules.clone());
        let sources = ["192.0.2.1", "192.0.2.200", "198.51.100.7", "198.51.100.8", "203.0.113.99"];
        for source in sources.map(|text| text.parse().unwrap()) {
            for port in (1..=200).chain(7990..8300).chain(29_990..30_200).chain([65_535]) {
                assert_eq!(ask(&nat, port, source), meant(&rules, port, source), "{source} to port {port}");
            }
        }
    }

    #[test]
    fn a_range_of_ports_is_a_few_prefixes() {
        assert_eq!(prefixes(PortRange::new(22, 22).unwrap()), [(22, 16)]);
        assert_eq!(prefixes(PortRange::new(8000, 8010).unwrap()), [(8000, 13), (8008, 15), (8010, 16)]);
        assert_eq!(prefixes(PortRange::ALL).len(), 16);
        assert_eq!(prefixes(PortRange::new(32_768, 65_535).unwrap()), [(32_768, 1)]);
    }

    #[test]
    fn rules_of_an_address_that_no_port_has_are_left_out() {
        let mut set = TableSet::default();
        let internal = Ipv4Addr::new(10, 1, 1, 30);
        let static_nats = vec![StaticNat { public: PUBLIC, internal }];
        tables(&Nat { static_nats, forwards: vec![rule((1, 9), 1, (1, 9), &[])] }, &mut set);
        assert!(set.nat.is_empty());
    }

    #[test]
    fn ten_thousand_forwards_compile_to_as_many_entries() {
        let forwards = (1..=10_000).map(|port| rule((port, port), 9, (port, port), &[])).collect();
        assert_eq!(compiled(forwards).len(), 10_000);
    }
}
