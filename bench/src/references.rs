//! Linux' own means, between the same generator and sink: forwarding with conntrack, and in front of it the same
//! list as a chain of iptables' or as maps of nftables'.
//!
//! The chain is written as CloudStack's configure.py writes a tier's egress list: in mangle PREROUTING, for new
//! flows that come from the tier; rule after rule; established flows are accepted in filter FORWARD. That such a
//! list ends with a rule that denies is what CloudStack's default lists do.
//!
//! nftables' maps of concatenated intervals (`pipapo`) know no order and refuse what overlaps. So a rule is in the
//! first map that has none it overlaps and comes behind those of all earlier rules that it overlaps and that
//! say something else, and the maps are looked up one after the other: that decides as the list does, and is as
//! good as somebody can do who writes a program for it. Types of ICMP are left out of the key.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;
use router_userspace::model::nat::PortRange;
use router_userspace::model::policy::{AccessList, Action, Rule, Traffic};

use crate::lab::Lab;
use crate::linux::{Linux, Program};
use crate::rules::{Family, RuleSet};

const CHAIN: &str = "ACL_OUTBOUND_in";

/// How Linux is told of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Not at all.
    Nothing,
    /// iptables-legacy.
    Legacy,
    /// iptables over nf_tables.
    Nft,
    /// Maps of nftables'.
    Maps,
}

impl Means {
    /// Those that are told of a list.
    pub const LISTS: [Self; 3] = [Self::Legacy, Self::Nft, Self::Maps];

    /// What it is called in tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Nothing => "linux, no list",
            Self::Legacy => "iptables-legacy",
            Self::Nft => "iptables-nft",
            Self::Maps => "nft maps",
        }
    }
}

/// Linux with a list.
#[derive(Debug)]
pub struct Reference {
    /// Where.
    pub linux: Linux,
    /// How many maps it takes; 0 for chains.
    pub maps: usize,
    means: Means,
    family: Family,
    rules: usize,
}

impl Reference {
    /// A router that forwards, without any list yet.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(lab: &mut Lab, means: Means, family: Family) -> Result<Self> {
        let linux = Linux::new(lab)?;
        if means == Means::Nothing {
            linux.load(
                Program::Nft,
                "table inet bench { chain forward { type filter hook forward priority filter; policy accept\n\
                 ct state established,related accept\n}\n}\n",
            )?;
        }
        linux.trust_checksums()?;
        Ok(Self { linux, maps: 0, means, family, rules: 0 })
    }

    /// Puts a list in the place of the one before; how long that took.
    ///
    /// # Errors
    /// Linux refuses it.
    pub fn load(&mut self, set: &RuleSet) -> Result<Duration> {
        let text = match self.means {
            Means::Nothing => return Ok(Duration::ZERO),
            Means::Legacy | Means::Nft => chains(&set.list, self.family),
            Means::Maps => {
                let layers = layers(&set.list);
                self.maps = layers.iter().max().map_or(0, |most| most + 1);
                maps(&set.list, &layers, self.family)
            }
        };
        self.rules = set.list.rules.len();
        self.linux.load(self.program(), &text)
    }

    /// Adds one rule in the middle and removes it again; how long adding took.
    ///
    /// # Errors
    /// Linux refuses it.
    pub fn one_more(&self) -> Result<Duration> {
        let destination = match self.family {
            Family::V4 => "190.7.7.7",
            Family::V6 => "2c0f:ffff:7:7:7:7:7:7",
        };
        if self.means == Means::Maps {
            let everybody = everybody(self.family);
            let element = format!("{{ {everybody} . {destination} . 6 . 4242 : drop }}");
            let map = format!("map{}", self.maps - 1);
            let table = ["element", table(self.family), "bench", &map, &element];
            let took = self.linux.run("nft", &[&["add"], &table[..]].concat())?;
            self.linux.run("nft", &[&["delete"], &table[..]].concat())?;
            return Ok(took);
        }
        let program = self.program().name();
        let place = (self.rules / 2 + 2).to_string();
        let rule = ["-d", destination, "-p", "tcp", "-m", "tcp", "--dport", "4242", "-j", "DROP"];
        let took = self.linux.run(program, &[&["-t", "mangle", "-I", CHAIN, &place], &rule[..]].concat())?;
        self.linux.run(program, &["-t", "mangle", "-D", CHAIN, &place])?;
        Ok(took)
    }

    fn program(&self) -> Program {
        match (self.means, self.family) {
            (Means::Nothing | Means::Maps, _) => Program::Nft,
            (Means::Legacy, Family::V4) => Program::Legacy,
            (Means::Legacy, Family::V6) => Program::Legacy6,
            (Means::Nft, Family::V4) => Program::IptablesNft,
            (Means::Nft, Family::V6) => Program::IptablesNft6,
        }
    }
}

const fn table(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

const fn everybody(family: Family) -> &'static str {
    match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    }
}

/// The tier's network, and the router in it.
const fn tier(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("0.0.0.0/1", "10.99.0.1/32"),
        Family::V6 => ("2a00::/12", "fd99::1/128"),
    }
}

/// A list as iptables-restore takes it.
fn chains(list: &AccessList, family: Family) -> String {
    let (tier, gateway) = tier(family);
    let mut text = format!(
        "*mangle\n:PREROUTING ACCEPT [0:0]\n:{CHAIN} - [0:0]\n\
         -A PREROUTING -s {tier} ! -d {gateway} -i in -m state --state NEW -j {CHAIN}\n"
    );
    if family == Family::V4 {
        writeln!(text, "-A {CHAIN} -d 224.0.0.18/32 -j ACCEPT").ok();
    }
    for rule in &list.rules {
        write!(text, "-A {CHAIN}").ok();
        for (flag, networks) in [("-s", &rule.sources), ("-d", &rule.destinations)] {
            for network in networks {
                write!(text, " {flag} {network}").ok();
            }
        }
        let port = |range: Option<PortRange>| match range {
            None => String::new(),
            Some(range) if range.first() == range.last() => format!(" --dport {}", range.first()),
            Some(range) => format!(" --dport {}:{}", range.first(), range.last()),
        };
        match rule.traffic {
            Traffic::Any => {}
            Traffic::Tcp(range) => text += &format!(" -p tcp -m tcp{}", port(range)),
            Traffic::Udp(range) => text += &format!(" -p udp -m udp{}", port(range)),
            Traffic::Icmp { kind, code } => {
                let (name, matching, option) = match family {
                    Family::V4 => ("icmp", "icmp", "--icmp-type"),
                    Family::V6 => ("ipv6-icmp", "icmp6", "--icmpv6-type"),
                };
                write!(text, " -p {name}").ok();
                if let (Some(kind), Some(code)) = (kind, code) {
                    write!(text, " -m {matching} {option} {kind}/{code}").ok();
                }
            }
            Traffic::Protocol(number) => text += &format!(" -p {number}"),
        }
        writeln!(text, " -j {}", verdict(rule.action).to_uppercase()).ok();
    }
    if family == Family::V4 {
        writeln!(text, "-A {CHAIN} -d 225.0.0.50/32 -j ACCEPT").ok();
    }
    text + &format!(
        "-A {CHAIN} -j {}\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n\
         -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -s {tier} ! -d {tier} -j ACCEPT\nCOMMIT\n",
        verdict(list.default).to_uppercase()
    )
}

const fn verdict(action: Action) -> &'static str {
    match action {
        Action::Allow => "accept",
        Action::Deny => "drop",
    }
}

/// In which map a rule is: behind those of all earlier ones that it overlaps and that say something else, and in
/// none with one that it overlaps.
fn layers(list: &AccessList) -> Vec<usize> {
    let boxes: Vec<_> = list.rules.iter().map(|rule| Region::of(rule)).collect();
    let mut layers: Vec<usize> = Vec::with_capacity(boxes.len());
    for (place, rule) in boxes.iter().enumerate() {
        let (mut first, mut taken) = (0, BTreeSet::new());
        for (earlier, layer) in layers.iter().enumerate() {
            if rule.overlaps(&boxes[earlier]) {
                taken.insert(*layer);
                if list.rules[earlier].action != list.rules[place].action {
                    first = first.max(layer + 1);
                }
            }
        }
        layers.push((first..).find(|layer| !taken.contains(layer)).unwrap_or(first));
    }
    layers
}

/// A rule as what it matches in each field, from the first to the last.
struct Region {
    addresses: [(u128, u128); 2],
    protocols: (u8, u8),
    ports: (u16, u16),
}

impl Region {
    fn of(rule: &Rule) -> Self {
        let ends = |networks: &[IpNet]| match networks.first() {
            None => (0, u128::MAX),
            Some(IpNet::V4(net)) => (u32::from(net.network()).into(), u32::from(net.broadcast()).into()),
            Some(IpNet::V6(net)) => (net.network().into(), net.broadcast().into()),
        };
        let ports =
            |range: Option<PortRange>| range.map_or((0, u16::MAX), |range| (range.first(), range.last()));
        let (protocols, ports) = match rule.traffic {
            Traffic::Any => ((0, u8::MAX), ports(None)),
            Traffic::Tcp(range) => ((6, 6), ports(range)),
            Traffic::Udp(range) => ((17, 17), ports(range)),
            Traffic::Icmp { .. } => ((1, 1), ports(None)),
            Traffic::Protocol(number) => ((number, number), ports(None)),
        };
        Self { addresses: [ends(&rule.sources), ends(&rule.destinations)], protocols, ports }
    }

    fn overlaps(&self, other: &Self) -> bool {
        fn do_meet<T: PartialOrd>(one: &(T, T), other: &(T, T)) -> bool {
            one.0 <= other.1 && other.0 <= one.1
        }
        do_meet(&self.addresses[1], &other.addresses[1])
            && do_meet(&self.addresses[0], &other.addresses[0])
            && do_meet(&self.ports, &other.ports)
            && do_meet(&self.protocols, &other.protocols)
    }
}

/// A list as nft takes it.
fn maps(list: &AccessList, layers: &[usize], family: Family) -> String {
    let (table, (tier, gateway)) = (table(family), tier(family));
    let (address, everybody) = match family {
        Family::V4 => ("ipv4_addr", "0.0.0.0/0"),
        Family::V6 => ("ipv6_addr", "::/0"),
    };
    let count = layers.iter().max().map_or(0, |most| most + 1);
    let mut elements = vec![String::new(); count];
    for (rule, layer) in list.rules.iter().zip(layers) {
        let net = |networks: &[IpNet]| networks.first().map_or(everybody.to_owned(), IpNet::to_string);
        let port = |range: Option<PortRange>| match range {
            None => "0-65535".to_owned(),
            Some(range) => format!("{}-{}", range.first(), range.last()),
        };
        let (protocol, port) = match rule.traffic {
            Traffic::Any => ("0-255".to_owned(), port(None)),
            Traffic::Tcp(range) => ("6".to_owned(), port(range)),
            Traffic::Udp(range) => ("17".to_owned(), port(range)),
            Traffic::Icmp { .. } => (if family == Family::V4 { "1" } else { "58" }.to_owned(), port(None)),
            Traffic::Protocol(number) => (number.to_string(), port(None)),
        };
        let (source, destination) = (net(&rule.sources), net(&rule.destinations));
        let verdict = verdict(rule.action);
        writeln!(elements[*layer], "{source} . {destination} . {protocol} . {port} : {verdict},").ok();
    }
    let mut text = format!("table {table} bench\ndelete table {table} bench\ntable {table} bench {{\n");
    let mut lookups = String::new();
    for (layer, elements) in elements.iter().enumerate() {
        writeln!(
            text,
            "map map{layer} {{ type {address} . {address} . inet_proto . inet_service : verdict; flags interval;\n\
             elements = {{ {elements} }}\n}}"
        )
        .ok();
        writeln!(lookups, "{table} saddr . {table} daddr . meta l4proto . th dport vmap @map{layer}").ok();
    }
    text + &format!(
        "chain acl {{\n{lookups}{}\n}}\n\
         chain prerouting {{ type filter hook prerouting priority mangle;\n\
         iifname \"in\" {table} saddr {tier} {table} daddr != {gateway} ct state new goto acl\n}}\n\
         chain forward {{ type filter hook forward priority filter; policy drop;\n\
         ct state established,related accept\n\
         {table} saddr {tier} {table} daddr != {tier} accept\n}}\n}}\n",
        verdict(list.default)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Shape;

    #[test]
    fn rules_of_one_map_do_not_overlap_and_contradicted_ones_come_first() {
        let list = RuleSet::new(Shape::Firewall, Family::V4, 200).list;
        let layers = layers(&list);
        let boxes: Vec<_> = list.rules.iter().map(|rule| Region::of(rule)).collect();
        for later in 0..boxes.len() {
            for earlier in 0..later {
                if boxes[later].overlaps(&boxes[earlier]) {
                    assert_ne!(layers[earlier], layers[later], "{earlier} and {later}");
                    let do_agree = list.rules[earlier].action == list.rules[later].action;
                    assert!(do_agree || layers[earlier] < layers[later], "{earlier} and {later}");
                }
            }
        }
        assert!(layers.contains(&1), "nothing overlaps");
    }

    #[test]
    fn a_chain_has_a_line_for_each_rule() {
        let list = RuleSet::new(Shape::Acl, Family::V4, 50).list;
        let text = chains(&list, Family::V4);
        let lines = text.lines().filter(|line| line.starts_with("-A ACL_OUTBOUND_in"));
        assert_eq!(lines.count(), 50 + 3);
    }
}
