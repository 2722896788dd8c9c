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
//!
//! Checksums are not looked at (`nf_conntrack_checksum`), as where a NIC has done that. GRO is on, without which a
//! veth takes no frames from XDP.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use router_userspace::model::nat::PortRange;
use router_userspace::model::policy::{AccessList, Action, Rule, Traffic};

use crate::lab::{Lab, Router, inside, rules_dir};
use crate::rules::{Family, RuleSet};

/// Longer than so many seconds no list may take to be loaded.
const PATIENCE: &str = "300";
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
    pub router: Router,
    /// How many maps it takes; 0 for chains.
    pub maps: usize,
    means: Means,
    family: Family,
    rules: usize,
    file: PathBuf,
}

impl Reference {
    /// A router that forwards, without any list yet.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(lab: &mut Lab, means: Means, family: Family) -> Result<Self> {
        let router = lab.router()?;
        for device in ["in", "out"] {
            router.namespace.run("ethtool", &["-K", device, "gro", "on"])?;
        }
        let file = rules_dir().join(format!("{}.rules", router.forth.ifindex));
        let reference = Self { router, maps: 0, means, family, rules: 0, file };
        if means == Means::Nothing {
            let text = "table inet bench { chain forward { type filter hook forward priority filter; policy accept\n\
                        ct state established,related accept\n}\n}\n";
            fs::write(&reference.file, text)?;
            reference.command("nft", &["-f"]).map(drop)?;
        }
        // There from the first rule about states on.
        if reference.router.namespace.has_sysctl("net/netfilter/nf_conntrack_checksum")? {
            reference.router.namespace.sysctl("net/netfilter/nf_conntrack_checksum", "0")?;
        }
        Ok(reference)
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
        fs::write(&self.file, text).with_context(|| format!("write {}", self.file.display()))?;
        match self.means {
            Means::Maps => self.command("nft", &["-f"]),
            means => self.command(&self.program(means, "-restore"), &[]),
        }
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
            let took = self.run("nft", &[&["add"], &table[..]].concat())?;
            self.run("nft", &[&["delete"], &table[..]].concat())?;
            return Ok(took);
        }
        let program = self.program(self.means, "");
        let place = (self.rules / 2 + 2).to_string();
        let rule = ["-d", destination, "-p", "tcp", "-m", "tcp", "--dport", "4242", "-j", "DROP"];
        let took = self.run(&program, &[&["-t", "mangle", "-I", CHAIN, &place], &rule[..]].concat())?;
        self.run(&program, &["-t", "mangle", "-D", CHAIN, &place])?;
        Ok(took)
    }

    /// Forgets every flow.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_flows(&self) -> Result<()> {
        inside(&self.router.namespace, flush_conntrack)?
    }

    /// iptables by its name for a family.
    fn program(&self, means: Means, suffix: &str) -> String {
        let six = if self.family == Family::V6 { "6" } else { "" };
        let flavour = if means == Means::Legacy { "legacy" } else { "nft" };
        format!("ip{six}tables-{flavour}{suffix}")
    }

    /// Runs a program on the file.
    fn command(&self, program: &str, arguments: &[&str]) -> Result<Duration> {
        let file = self.file.to_string_lossy();
        self.run(program, &[arguments, &[&file]].concat())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<Duration> {
        let mut command = self.router.namespace.command("timeout");
        let begin = Instant::now();
        let output = command.arg(PATIENCE).arg(program).args(arguments).output()?;
        let took = begin.elapsed();
        let complaint = String::from_utf8_lossy(&output.stderr);
        let first: Vec<_> = complaint.lines().take(4).collect();
        ensure!(output.status.success(), "{program}: {}\n{}", output.status, first.join("\n"));
        Ok(took)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // Or it is done in the background, while something else is measured.
        self.forget_flows().ok();
        fs::remove_file(&self.file).ok();
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

/// Forgets every flow of the thread's network namespace: what `conntrack -F` does.
fn flush_conntrack() -> Result<()> {
    const NETLINK_NETFILTER: i32 = 12;
    /// NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE.
    const DELETE: u16 = 1 << 8 | 2;
    const FLAGS: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    // struct nlmsghdr: length, type, flags, sequence, port; struct nfgenmsg: any family, no attributes.
    let mut message = [0u8; 20];
    message[..4].copy_from_slice(&20u32.to_ne_bytes());
    message[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    message[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    let mut answer = [0u8; 256];
    // SAFETY: the buffers have the lengths that are given; the descriptor is closed here.
    let received = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_NETFILTER);
        ensure!(socket >= 0, "open a netlink socket: {}", io::Error::last_os_error());
        libc::send(socket, message.as_ptr().cast(), message.len(), 0);
        let received = libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0);
        libc::close(socket);
        received
    };
    ensure!(received >= 20, "the kernel does not answer about conntrack");
    // struct nlmsgerr begins with the error, negative.
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    ensure!(error == 0, "forget conntrack's flows: {}", io::Error::from_raw_os_error(-error));
    Ok(())
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
