//! Lists of rules → the programs' tables.
//!
//! A list is numbered by its content: what has the same rules is one list for all ports, and another content is
//! another list, which is written beside the old one before a port is switched to it. Networks lie in each
//! other, so those of a list that have an address are a chain from the narrowest outwards; for each pair of a
//! source's and a destination's network the first rule by protocol and port is a prefix over the port
//! (`router_ebpf::policy`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use router_common::net::{Ipv4, Ipv6};
use router_common::policy::{ANY_PROTOCOL, ANYWHERE, Gate, List, NO_LIST, NO_RULE, Net, NetKey};
use router_common::port::Port as PortEntry;

use super::nat::prefixes;
use super::{Compiled, port};
use crate::model::PortRange;
use crate::model::policy::{AccessList, Action, Content, Policy, Rule, Scope, Traffic};
use crate::model::port::{PortSelector, Role};

/// Which end of a flow a network is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// Where a gate is in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatePlace {
    /// Network of the source, by its number.
    pub source: u32,
    /// Network of the destination.
    pub destination: u32,
    /// Protocol, or [`ANY_PROTOCOL`].
    pub protocol: u8,
    /// First port, of ICMP type and code.
    pub port: u16,
    /// How many of its bits count.
    pub bits: u8,
}

/// A list as the programs have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledList {
    /// What it is besides.
    pub list: List,
    /// Its networks.
    pub nets: BTreeMap<(Side, IpNet), Net>,
    /// Its gates.
    pub gates: BTreeMap<GatePlace, Gate>,
}

/// A list that is to be there, or is there. By number and size it is known: the number is the content's.
#[derive(Clone)]
pub struct ListEntry {
    /// [`List::entries`].
    pub entries: u32,
    /// What is to be written; `None` for one that was found.
    pub compiled: Option<Arc<CompiledList>>,
}

impl PartialEq for ListEntry {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for ListEntry {}

impl fmt::Debug for ListEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.entries)
    }
}

/// A list for the programs.
pub fn compile(list: &AccessList) -> CompiledList {
    let mut numbers: HashMap<(Side, IpNet), u32> = HashMap::new();
    let mut first_rules: BTreeMap<(Side, IpNet), u32> = BTreeMap::new();
    let mut anywhere = [NO_RULE; 2];
    for (index, rule) in (0..).zip(&list.rules) {
        for side in [Side::Source, Side::Destination] {
            let networks = rule.networks(side);
            if networks.is_empty() {
                let first = &mut anywhere[side as usize];
                *first = index.min(*first);
            }
            for network in networks.iter().map(IpNet::trunc) {
                let next = numbers.len() as u32 + 1;
                numbers.entry((side, network)).or_insert(next);
                let first = first_rules.entry((side, network)).or_insert(index);
                *first = index.min(*first);
            }
        }
    }
    let nets = chains(&numbers, &first_rules, anywhere);
    let gates = gates(list, &numbers);
    let has = |side| u8::from(nets.keys().any(|(of, _)| *of == side));
    let list = List {
        entries: (nets.len() + gates.len()) as u32 + 1,
        default_allows: u8::from(list.default == Action::Allow),
        has_sources: has(Side::Source),
        has_destinations: has(Side::Destination),
        pad: 0,
    };
    CompiledList { list, nets, gates }
}

impl Rule {
    fn networks(&self, side: Side) -> &[IpNet] {
        match side {
            Side::Source => &self.sources,
            Side::Destination => &self.destinations,
        }
    }
}

/// Each network with the one that it lies in, and the first rule about it or any around it.
fn chains(
    numbers: &HashMap<(Side, IpNet), u32>,
    first_rules: &BTreeMap<(Side, IpNet), u32>,
    anywhere: [u32; 2],
) -> BTreeMap<(Side, IpNet), Net> {
    let mut nets = BTreeMap::new();
    // In this order a network comes after those that it lies in.
    let mut around: Vec<(Side, IpNet, u32)> = vec![];
    for ((side, network), own) in first_rules {
        while around.last().is_some_and(|(of, outer, _)| of != side || !outer.contains(network)) {
            around.pop();
        }
        let outer = around.last();
        let first_rule = *own.min(outer.map_or(&anywhere[*side as usize], |(_, _, first)| first));
        let outer_bits = outer.map_or(0, |(_, outer, _)| key_bits(outer));
        around.push((*side, *network, first_rule));
        let number = numbers[&(*side, *network)];
        nets.insert((*side, *network), Net { network: number, first_rule, outer_bits });
    }
    nets
}

/// Bits of a network's key.
pub fn key_bits(network: &IpNet) -> u32 {
    let before = match network {
        IpNet::V4(_) => NetKey::<Ipv4>::BEFORE_ADDRESS,
        IpNet::V6(_) => NetKey::<Ipv6>::BEFORE_ADDRESS,
    };
    before + u32::from(network.prefix_len())
}

/// The first rule of each prefix, without those that say what a shorter one says.
fn gates(list: &AccessList, numbers: &HashMap<(Side, IpNet), u32>) -> BTreeMap<GatePlace, Gate> {
    let mut first: BTreeMap<GatePlace, u32> = BTreeMap::new();
    for (index, rule) in (0..).zip(&list.rules) {
        let ends = |side| -> Vec<(Option<IpNet>, u32)> {
            match rule.networks(side) {
                [] => vec![(None, ANYWHERE)],
                networks => networks.iter().map(|net| (Some(*net), numbers[&(side, net.trunc())])).collect(),
            }
        };
        let destinations = ends(Side::Destination);
        for (from, source) in ends(Side::Source) {
            for (to, destination) in &destinations {
                let family = from.or(*to).map(|network| matches!(network, IpNet::V4(_)));
                for (protocol, port, bits) in rule.traffic.prefixes(family) {
                    let place = GatePlace { source, destination: *destination, protocol, port, bits };
                    first.entry(place).or_insert(index);
                }
            }
        }
    }
    let mut gates = BTreeMap::new();
    for (place, own) in &first {
        let shorter = (0..place.bits).rev().filter_map(|bits| {
            let port = (u32::from(place.port) >> (16 - bits) << (16 - bits)) as u16;
            first.get(&GatePlace { port, bits, ..*place })
        });
        // The longest prefix is what the programs find, so it has to know of the shorter ones.
        if let Some(earliest) = shorter.min()
            && earliest <= own
        {
            continue;
        }
        let allows = u8::from(list.rules[*own as usize].action == Action::Allow);
        gates.insert(*place, Gate { rule: *own, allows, pad: [0; 3] });
    }
    gates
}

impl Traffic {
    /// Protocol, port and how many of its bits count. `is_v4` where a rule is for one family alone.
    fn prefixes(self, is_v4: Option<bool>) -> Vec<(u8, u16, u8)> {
        let ports = |protocol: u8, range: Option<PortRange>| -> Vec<(u8, u16, u8)> {
            match range {
                None => vec![(protocol, 0, 0)],
                Some(range) => {
                    prefixes(range).into_iter().map(|(port, bits)| (protocol, port, bits)).collect()
                }
            }
        };
        match self {
            Self::Any => vec![(ANY_PROTOCOL, 0, 0)],
            Self::Tcp(range) => ports(6, range),
            Self::Udp(range) => ports(17, range),
            // The programs have that number for "any".
            Self::Protocol(ANY_PROTOCOL) => vec![],
            Self::Protocol(protocol) => vec![(protocol, 0, 0)],
            Self::Icmp { kind, code } => {
                let protocols: &[u8] = match is_v4 {
                    Some(true) => &[1],
                    Some(false) => &[58],
                    None => &[1, 58],
                };
                let types: Vec<(u16, u8)> = match (kind, code) {
                    (None, None) => vec![(0, 0)],
                    (Some(kind), None) => vec![(u16::from(kind) << 8, 8)],
                    (Some(kind), Some(code)) => vec![(u16::from_be_bytes([kind, code]), 16)],
                    (None, Some(code)) => {
                        (0..=255).map(|kind| (u16::from_be_bytes([kind, code]), 16)).collect()
                    }
                };
                let of = |protocol| types.iter().map(move |(port, bits)| (protocol, *port, *bits));
                protocols.iter().copied().flat_map(of).collect()
            }
        }
    }
}

/// Puts the lists into the tables and onto ports and addresses.
pub(super) fn tables(policy: &Policy, placed: &[port::Placed<'_>], compiled: &mut Compiled) {
    let mut known: HashMap<Content, u32> = HashMap::new();
    let own: Vec<(&PortSelector, AccessList)> = placed
        .iter()
        .filter(|placed| placed.port.role != Role::Control)
        .map(|placed| (&placed.port.selector, own_list(placed.port.role)))
        .collect();
    let mut of_ports: Vec<(&PortSelector, Field, &AccessList)> =
        own.iter().map(|(selector, list)| (*selector, (|port| &mut port.own_list) as Field, list)).collect();
    for (scope, list) in &policy.lists {
        let (selector, field): (_, Field) = match scope {
            Scope::PublicAddress(address) => {
                let number = *known.entry(list.content()).or_insert_with(|| add(list, compiled));
                compiled.tables.firewalls.insert(*address, number);
                continue;
            }
            Scope::Outside(selector) => (selector, |port| &mut port.outside_list),
            Scope::From(selector) => (selector, |port| &mut port.from_list),
            Scope::To(selector) => (selector, |port| &mut port.to_list),
        };
        of_ports.push((selector, field, list));
    }
    for (selector, field, list) in of_ports {
        // A port without a NIC is a problem that was told already.
        let Some(placed) = placed.iter().find(|placed| placed.port.selector == *selector) else { continue };
        let number = *known.entry(list.content()).or_insert_with(|| add(list, compiled));
        if let Some(port) = compiled.tables.ports.get_mut(&(placed.nic.ifindex, 0, 0)) {
            *field(port) = number;
        }
    }
}

/// Where a port's entry has one of its lists.
type Field = fn(&mut PortEntry) -> &mut u32;

/// Adds a list; its number.
fn add(list: &AccessList, compiled: &mut Compiled) -> u32 {
    let content = self::compile(list);
    let Content([a, b, c, d, ..]) = list.content();
    let mut number = u32::from_be_bytes([a, b, c, d]);
    let lists = &mut compiled.tables.lists;
    // Two contents with one number are told apart by whoever comes first.
    while number == NO_LIST || lists.contains_key(&number) {
        number = number.wrapping_add(1);
    }
    lists.insert(number, ListEntry { entries: content.list.entries, compiled: Some(Arc::new(content)) });
    number
}

/// What the router itself is open for on a port (SEMANTICS B.1.2, B.2.4): nothing but pings and answers outside,
/// and the tier's services inside. Answers to the router's own sockets come to the ports that it keeps for them.
fn own_list(role: Role) -> AccessList {
    let range = |first, last| PortRange::new(first, last).ok();
    let port = |port| range(port, port);
    let (first, last) = router_common::config::RouterConfig::OWN_PORTS;
    let mut allowed = vec![
        Traffic::Icmp { kind: None, code: None },
        Traffic::Tcp(range(first, last)),
        Traffic::Udp(range(first, last)),
    ];
    if role == Role::Guest {
        allowed.extend([67, 547, 53].map(|number| Traffic::Udp(port(number))));
        allowed.extend([53, 80, 443, 8080].map(|number| Traffic::Tcp(port(number))));
    }
    let rule = |traffic| Arc::new(Rule::new(0, Action::Allow, traffic, vec![], vec![]));
    AccessList::new(allowed.into_iter().map(rule).collect(), Action::Deny)
}
