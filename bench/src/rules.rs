//! Rule sets like those that ClassBench makes (Taylor and Turner, "ClassBench: A Packet Classification
//! Benchmark", INFOCOM 2005), and packets that meet their rules.
//!
//! ClassBench's three kinds of seeds differ in which lengths of source and destination prefixes come together,
//! in classes of ports (any WC, above 1023 HI, below LO, a range AR, one EM) and in protocols; prefixes are shared by many
//! rules and lie in each other a few deep; there are few distinct ranges. [`Shape`] has these as tables of
//! weights. A fourth shape is a tier's network ACL as people write it for CloudStack: one side, and ports.
//! What a list of CloudStack cannot say is left out: source ports.
//!
//! The same shape, size and family is the same set everywhere. Sources are in one half of the address space and
//! destinations in the other, so that a router between them needs two routes.
//!
//! One rule in eight denies, and what no rule matches is denied. The packets are, in this order: such that a
//! rule drawn at random matches and the list allows, then [`MISSES`] that no rule matches.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bench_programs::{TUPLES, Tuple};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use router_common::net::{Be16, Ipv4, Ipv6};
use router_userspace::model::nat::PortRange;
use router_userspace::model::policy::{AccessList, Action, Rule, Traffic};

/// One in so many of the tuples is one of the few.
const FEW_OF: usize = 16;

/// How many of the packets no rule matches.
pub const MISSES: usize = TUPLES as usize / 16;
/// How many a list allows.
pub const HITS: usize = TUPLES as usize - MISSES;

/// What a set is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// ClassBench's access control lists: to hosts, one port mostly.
    Acl,
    /// Its firewalls: many rules about one side alone.
    Firewall,
    /// Its IP chains: both sides, any port as often as one.
    IpChain,
    /// A network ACL of CloudStack's: destinations and port ranges.
    CloudStack,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 4] = [Self::Acl, Self::Firewall, Self::IpChain, Self::CloudStack];
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Acl => "acl",
            Self::Firewall => "fw",
            Self::IpChain => "ipc",
            Self::CloudStack => "cloudstack",
        })
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A list and packets for it.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// What it is like.
    pub shape: Shape,
    /// Of which family its networks are.
    pub family: Family,
    /// The rules.
    pub list: Arc<AccessList>,
    /// The packets, [`HITS`] and then [`MISSES`].
    pub tuples: Vec<Tuple>,
}

impl RuleSet {
    /// The set of so many rules.
    ///
    /// # Panics
    /// The set allows next to nothing, so that no packets are found: a mistake in the tables below.
    pub fn new(shape: Shape, family: Family, rules: usize) -> Self {
        let mut random = Random::new(shape as u64 * 2 + family as u64);
        let mut maker = Maker { family, profile: shape.profile(), sides: [Pool::default(), Pool::default()] };
        let mut drawn = maker.rules(&mut random, rules);
        // Narrow rules before wide ones, roughly, as people and ClassBench order them.
        drawn.sort_by_cached_key(|rule| 256 - rule.specificity() + random.below(24) as u32);
        let tuples = tuples(&mut random, family, &drawn);
        let rules = (1..).zip(&drawn).map(|(id, rule)| Arc::new(rule.to_model(id, family))).collect();
        Self { shape, family, list: Arc::new(AccessList::new(rules, Action::Deny)), tuples }
    }

    /// Of these so many, over and over: as many packets of as many flows, between fewer hosts.
    pub fn few_tuples(&self) -> Vec<Tuple> {
        let hits = HITS / FEW_OF;
        let few = self.tuples[..hits].iter().chain(&self.tuples[HITS..HITS + MISSES / FEW_OF]);
        few.copied().cycle().take(self.tuples.len()).collect()
    }

    /// The same with one more rule that denies, at a place in the list.
    pub fn with_one_more(&self, place: usize) -> Arc<AccessList> {
        let mut rules = self.list.rules.clone();
        let destination = match self.family {
            Family::V4 => IpNet::V4(Ipv4Net::from(Ipv4Addr::new(190, 7, 7, 7))),
            Family::V6 => IpNet::V6(Ipv6Net::from(Ipv6Addr::new(0x2c0f, 0xffff, 7, 7, 7, 7, 7, 7))),
        };
        let traffic = Traffic::Tcp(PortRange::new(4242, 4242).ok());
        let id = rules.len() as u64 + 1;
        rules.insert(place, Arc::new(Rule::new(id, Action::Deny, traffic, vec![], vec![destination])));
        Arc::new(AccessList::new(rules, self.list.default))
    }
}

/// How long a prefix is, roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Length {
    /// All addresses.
    Any,
    /// An organisation's.
    Wide,
    /// A site's.
    Middle,
    /// A subnet.
    Narrow,
    /// One address.
    Host,
}

impl Length {
    /// The bits that it has at least and at most.
    const fn bits(self, family: Family) -> (u8, u8) {
        match (self, family) {
            (Self::Any, _) => (0, 0),
            (Self::Wide, Family::V4) => (8, 15),
            (Self::Middle, Family::V4) => (16, 23),
            (Self::Narrow, Family::V4) => (24, 30),
            (Self::Host, Family::V4) => (32, 32),
            (Self::Wide, Family::V6) => (24, 32),
            (Self::Middle, Family::V6) => (36, 48),
            (Self::Narrow, Family::V6) => (52, 64),
            (Self::Host, Family::V6) => (128, 128),
        }
    }
}

/// ClassBench's classes of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    Any,
    High,
    Low,
    Range,
    Exact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
    Any,
    Other(u8),
}

/// What a shape is made of, with weights.
struct Profile {
    /// Lengths of source and destination that come together.
    lengths: &'static [(u32, Length, Length)],
    protocols: &'static [(u32, Protocol)],
    ports: &'static [(u32, Ports)],
    /// People choose ranges of their own, unlike ClassBench's few.
    own_ranges: bool,
}

impl Shape {
    const fn profile(self) -> Profile {
        use Length::{Any, Host, Middle, Narrow, Wide};
        match self {
            Self::Acl => Profile {
                lengths: &[
                    (34, Any, Host),
                    (20, Narrow, Host),
                    (15, Host, Host),
                    (12, Middle, Narrow),
                    (8, Host, Narrow),
                    (6, Any, Narrow),
                    (4, Wide, Middle),
                    (1, Any, Middle),
                ],
                protocols: &[
                    (82, Protocol::Tcp),
                    (11, Protocol::Udp),
                    (4, Protocol::Icmp),
                    (3, Protocol::Any),
                ],
                ports: &[(13, Ports::Any), (3, Ports::High), (14, Ports::Range), (70, Ports::Exact)],
                own_ranges: false,
            },
            Self::Firewall => Profile {
                lengths: &[
                    (30, Any, Host),
                    (16, Host, Any),
                    (14, Narrow, Any),
                    (12, Any, Narrow),
                    (10, Narrow, Narrow),
                    (10, Host, Host),
                    (4, Wide, Narrow),
                    (4, Any, Any),
                ],
                protocols: &[
                    (58, Protocol::Tcp),
                    (28, Protocol::Udp),
                    (6, Protocol::Icmp),
                    (5, Protocol::Any),
                    (2, Protocol::Other(50)),
                    (1, Protocol::Other(47)),
                ],
                ports: &[
                    (38, Ports::Any),
                    (8, Ports::High),
                    (2, Ports::Low),
                    (10, Ports::Range),
                    (42, Ports::Exact),
                ],
                own_ranges: false,
            },
            Self::IpChain => Profile {
                lengths: &[
                    (25, Host, Host),
                    (15, Narrow, Host),
                    (15, Host, Narrow),
                    (14, Any, Host),
                    (10, Host, Any),
                    (12, Middle, Middle),
                    (6, Narrow, Any),
                    (2, Wide, Wide),
                    (1, Any, Any),
                ],
                protocols: &[
                    (55, Protocol::Tcp),
                    (28, Protocol::Udp),
                    (5, Protocol::Icmp),
                    (10, Protocol::Any),
                    (2, Protocol::Other(50)),
                ],
                ports: &[(45, Ports::Any), (7, Ports::High), (8, Ports::Range), (40, Ports::Exact)],
                own_ranges: false,
            },
            Self::CloudStack => Profile {
                lengths: &[
                    (4, Any, Any),
                    (50, Any, Host),
                    (32, Any, Narrow),
                    (10, Any, Middle),
                    (4, Any, Wide),
                ],
                protocols: &[
                    (70, Protocol::Tcp),
                    (20, Protocol::Udp),
                    (5, Protocol::Icmp),
                    (5, Protocol::Any),
                ],
                ports: &[(15, Ports::Any), (35, Ports::Range), (50, Ports::Exact)],
                own_ranges: true,
            },
        }
    }
}

/// ClassBench's sets have few distinct ranges.
const RANGES: [(u16, u16); 14] = [
    (20, 21),
    (67, 68),
    (135, 139),
    (137, 138),
    (161, 162),
    (1645, 1646),
    (1812, 1813),
    (2300, 2400),
    (5060, 5061),
    (6000, 6063),
    (6789, 7050),
    (8000, 8080),
    (27000, 27009),
    (33434, 33600),
];

/// Services, as sets name them over and over.
const SERVICES: [u16; 56] = [
    20, 21, 22, 23, 25, 53, 69, 79, 80, 88, 110, 111, 113, 119, 123, 135, 139, 143, 161, 162, 179, 389, 443,
    445, 465, 500, 514, 515, 543, 554, 587, 623, 636, 873, 993, 995, 1080, 1352, 1433, 1494, 1521, 1701,
    1723, 2049, 3128, 3268, 3306, 3389, 5060, 5432, 5900, 6379, 8080, 8443, 9200, 11211,
];
/// A port that no rule about everybody names.
const NOBODYS_PORT: u16 = 2;

/// A prefix; IPv4 is in the upper 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Net {
    address: u128,
    bits: u8,
}

impl Net {
    fn new(address: u128, bits: u8) -> Self {
        Self { address: address & mask(bits), bits }
    }

    const fn contains(self, address: u128) -> bool {
        (self.address ^ address) & mask(self.bits) == 0
    }

    fn to_ip(self, family: Family) -> IpNet {
        match family {
            Family::V4 => Ipv4Net::new(Ipv4Addr::from((self.address >> 96) as u32), self.bits).map(IpNet::V4),
            Family::V6 => Ipv6Net::new(Ipv6Addr::from(self.address), self.bits).map(IpNet::V6),
        }
        .expect("a length of that family")
    }
}

const fn mask(bits: u8) -> u128 {
    match bits {
        0 => 0,
        bits => u128::MAX << (128 - bits as u32),
    }
}

/// A rule as it is drawn: quick to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Drawn {
    source: Option<Net>,
    destination: Option<Net>,
    traffic: Traffic,
    action: Action,
}

impl Drawn {
    fn specificity(&self) -> u32 {
        [self.source, self.destination].into_iter().flatten().map(|net| u32::from(net.bits)).sum()
    }

    fn to_model(self, id: u64, family: Family) -> Rule {
        let networks = |net: Option<Net>| net.map(|net| net.to_ip(family)).into_iter().collect();
        Rule::new(id, self.action, self.traffic, networks(self.source), networks(self.destination))
    }

    fn matches(&self, packet: &Packet) -> bool {
        let within = |net: Option<Net>, address| net.is_none_or(|net| net.contains(address));
        let ports = |range: Option<PortRange>| {
            range.is_none_or(|range| (range.first()..=range.last()).contains(&packet.port))
        };
        within(self.destination, packet.destination)
            && within(self.source, packet.source)
            && match self.traffic {
                Traffic::Any => true,
                Traffic::Tcp(range) => packet.protocol == 6 && ports(range),
                Traffic::Udp(range) => packet.protocol == 17 && ports(range),
                // Those drawn are about echo requests or any, and echo requests are all that is made.
                Traffic::Icmp { .. } => matches!(packet.protocol, 1 | 58),
                Traffic::Protocol(number) => packet.protocol == number,
            }
    }
}

/// A flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    source: u128,
    destination: u128,
    protocol: u8,
    port: u16,
}

impl Packet {
    fn to_tuple(self, family: Family) -> Tuple {
        let words = |address: u128| match family {
            Family::V4 => {
                let [word] = Ipv4::from(Ipv4Addr::from((address >> 96) as u32)).0;
                [word, 0, 0, 0]
            }
            Family::V6 => Ipv6::from(Ipv6Addr::from(address)).0,
        };
        Tuple {
            source: words(self.source),
            destination: words(self.destination),
            protocol: self.protocol,
            pad: 0,
            port: Be16::new(self.port),
        }
    }
}

/// Prefixes of one side that were drawn already, by length, each with how many others it lies in.
#[derive(Default)]
struct Pool {
    nets: HashMap<Length, Vec<(Net, u8)>>,
}

/// Prefixes lie in each other so deep at most, as in ClassBench's seeds.
const DEEPEST: u8 = 4;

struct Maker {
    family: Family,
    profile: Profile,
    sides: [Pool; 2],
}

impl Maker {
    fn rules(&mut self, random: &mut Random, count: usize) -> Vec<Drawn> {
        let mut rules = Vec::with_capacity(count);
        let mut known = HashSet::new();
        while rules.len() < count {
            let (_, source, destination) = *random.choose(self.profile.lengths, |(weight, ..)| *weight);
            let traffic = self.traffic(random);
            let names_a_port = matches!(traffic, Traffic::Tcp(Some(_)) | Traffic::Udp(Some(_)));
            let is_about_all = source == Length::Any && destination == Length::Any;
            // A rule that would make most others idle.
            if is_about_all && (!names_a_port || !self.is_narrow(traffic)) {
                continue;
            }
            let source = self.net(random, 0, source);
            let destination = self.net(random, 1, destination);
            if known.insert((source, destination, traffic)) {
                let action = if random.below(8) == 0 { Action::Deny } else { Action::Allow };
                rules.push(Drawn { source, destination, traffic, action });
            }
        }
        rules
    }

    fn is_narrow(&self, traffic: Traffic) -> bool {
        match traffic {
            Traffic::Tcp(Some(range)) | Traffic::Udp(Some(range)) => {
                range.last() - range.first() < 512 && !(range.first()..=range.last()).contains(&NOBODYS_PORT)
            }
            _ => false,
        }
    }

    fn net(&mut self, random: &mut Random, side: usize, length: Length) -> Option<Net> {
        if length == Length::Any {
            return None;
        }
        let pool = &mut self.sides[side].nets;
        if let Some(known) = pool.get(&length)
            && random.below(10) < 7
        {
            // Some are far more popular than others.
            let skewed = random.below(known.len() as u64) * random.below(known.len() as u64);
            return Some(known[skewed as usize / known.len()].0);
        }
        let (least, most) = length.bits(self.family);
        let bits = least + random.below(u64::from(most - least) + 1) as u8;
        let wider: Vec<Length> = [Length::Wide, Length::Middle, Length::Narrow]
            .into_iter()
            .filter(|wider| wider.bits(self.family).1 < least && pool.contains_key(wider))
            .collect();
        let parent = match wider.len() as u64 {
            0 => None,
            choices if random.below(10) < 7 => {
                let nets = &pool[&wider[random.below(choices) as usize]];
                Some(nets[random.below(nets.len() as u64) as usize]).filter(|(_, depth)| *depth < DEEPEST)
            }
            _ => None,
        };
        let space = half(self.family, side, random);
        let (inside, depth) = parent.map_or((space, 0), |(net, depth)| (net, depth + 1));
        let net = Net::new(inside.address | random.bits128() & !mask(inside.bits), bits);
        pool.entry(length).or_default().push((net, depth));
        Some(net)
    }

    fn traffic(&self, random: &mut Random) -> Traffic {
        match random.choose(self.profile.protocols, |(weight, _)| *weight).1 {
            Protocol::Tcp => Traffic::Tcp(self.ports(random)),
            Protocol::Udp => Traffic::Udp(self.ports(random)),
            Protocol::Icmp if random.below(2) == 0 => {
                Traffic::Icmp { kind: Some(echo(self.family)), code: Some(0) }
            }
            Protocol::Icmp => Traffic::Icmp { kind: None, code: None },
            Protocol::Any => Traffic::Any,
            Protocol::Other(number) => Traffic::Protocol(number),
        }
    }

    fn ports(&self, random: &mut Random) -> Option<PortRange> {
        let (first, last) = match random.choose(self.profile.ports, |(weight, _)| *weight).1 {
            Ports::Any => return None,
            Ports::High => (1024, u16::MAX),
            Ports::Low => (1, 1023),
            Ports::Range if self.profile.own_ranges => {
                let first = 1024 + random.below(60_000) as u16;
                (first, first + random.below(500) as u16)
            }
            Ports::Range => RANGES[random.below(RANGES.len() as u64) as usize],
            Ports::Exact => {
                let port = match random.below(4) {
                    0 => 1024 + random.below(60_000) as u16,
                    _ => SERVICES[random.below(SERVICES.len() as u64) as usize],
                };
                (port, port)
            }
        };
        PortRange::new(first, last).ok()
    }
}

/// The type of an echo request.
const fn echo(family: Family) -> u8 {
    match family {
        Family::V4 => 8,
        Family::V6 => 128,
    }
}

/// The part of the address space that a side's addresses are in: 16 to 95 and 128 to 167, 2a00::/12 and
/// 2c00::/12. Bits behind those that count are 0.
fn half(family: Family, side: usize, random: &mut Random) -> Net {
    match (family, side) {
        (Family::V4, 0) => Net::new(u128::from(16 + random.below(80)) << 120, 8),
        (Family::V4, _) => Net::new(u128::from(128 + random.below(40)) << 120, 8),
        (Family::V6, 0) => Net::new(0x2a0 << 116, 12),
        (Family::V6, _) => Net::new(0x2c0 << 116, 12),
    }
}

/// Packets for a list.
fn tuples(random: &mut Random, family: Family, rules: &[Drawn]) -> Vec<Tuple> {
    let index = Index::new(family, rules);
    let mut tuples = Vec::with_capacity(HITS + MISSES);
    let mut attempts = 0;
    while tuples.len() < HITS {
        attempts += 1;
        assert!(attempts < HITS * 100, "a list of {} rules allows next to nothing", rules.len());
        let rule = &rules[random.below(rules.len() as u64) as usize];
        let Some(packet) = inside(random, family, rule) else { continue };
        let judged = index.first(&packet).map(|rule| rule.action);
        if judged == Some(Action::Allow) {
            tuples.push(packet.to_tuple(family));
        }
    }
    while tuples.len() < HITS + MISSES {
        let (source, destination, bits) = match family {
            Family::V4 => (120 << 120, 190 << 120, 8),
            Family::V6 => (0x2a0f_ffff << 96, 0x2c0f_ffff << 96, 32),
        };
        let mut address = |base| base | random.bits128() & !mask(bits);
        let (source, destination) = (address(source), address(destination));
        let packet = Packet { source, destination, protocol: 6, port: NOBODYS_PORT };
        if index.first(&packet).is_none() {
            tuples.push(packet.to_tuple(family));
        }
    }
    tuples
}

/// A packet that a rule matches; `None` for a rule of a protocol without ports, of which two hosts have one
/// flow only.
fn inside(random: &mut Random, family: Family, rule: &Drawn) -> Option<Packet> {
    let mut address = |net: Option<Net>, side| {
        let net = net.unwrap_or_else(|| half(family, side, random));
        net.address | random.bits128() & !mask(net.bits)
    };
    let (source, destination) = (address(rule.source, 0), address(rule.destination, 1));
    let mut port = |range: Option<PortRange>| {
        let range = range.unwrap_or(PortRange::ALL);
        range.first() + random.below(u64::from(range.last() - range.first()) + 1) as u16
    };
    let (protocol, port) = match rule.traffic {
        Traffic::Tcp(range) => (6, port(range)),
        Traffic::Udp(range) => (17, port(range)),
        Traffic::Any => (if port(None) % 2 == 0 { 6 } else { 17 }, port(None)),
        Traffic::Icmp { .. } => match family {
            Family::V4 => (1, u16::from(echo(family)) << 8),
            Family::V6 => (58, u16::from(echo(family)) << 8),
        },
        Traffic::Protocol(_) => return None,
    };
    Some(Packet { source, destination, protocol, port })
}

/// Finds the rule that decides without looking at all of them.
struct Index<'a> {
    rules: &'a [Drawn],
    /// How many bits of an address name a bucket.
    bits: u8,
    /// Rules by where to, if that is long enough, else by where from, else all others; in order.
    by_destination: HashMap<u128, Vec<usize>>,
    by_source: HashMap<u128, Vec<usize>>,
    others: Vec<usize>,
}

impl<'a> Index<'a> {
    fn new(family: Family, rules: &'a [Drawn]) -> Self {
        let bits = match family {
            Family::V4 => 16,
            Family::V6 => 32,
        };
        let (by_destination, by_source) = (HashMap::new(), HashMap::new());
        let mut index = Self { rules, bits, by_destination, by_source, others: vec![] };
        for (place, rule) in rules.iter().enumerate() {
            let key =
                |net: Option<Net>| net.filter(|net| net.bits >= bits).map(|net| net.address & mask(bits));
            match (key(rule.destination), key(rule.source)) {
                (Some(key), _) => index.by_destination.entry(key).or_default().push(place),
                (None, Some(key)) => index.by_source.entry(key).or_default().push(place),
                (None, None) => index.others.push(place),
            }
        }
        index
    }

    fn first(&self, packet: &Packet) -> Option<&'a Drawn> {
        let first =
            |places: &[usize]| places.iter().copied().find(|place| self.rules[*place].matches(packet));
        let of = |buckets: &HashMap<u128, Vec<usize>>, address| {
            buckets.get(&(address & mask(self.bits))).and_then(|places| first(places))
        };
        let places = [
            of(&self.by_destination, packet.destination),
            of(&self.by_source, packet.source),
            first(&self.others),
        ];
        places.into_iter().flatten().min().map(|place| &self.rules[place])
    }
}

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Less than `limit`.
    const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    const fn bits128(&mut self) -> u128 {
        (self.next() as u128) << 64 | self.next() as u128
    }

    /// One of several, each as often as its weight says.
    fn choose<'a, T>(&mut self, choices: &'a [T], weight: impl Fn(&T) -> u32) -> &'a T {
        let total: u32 = choices.iter().map(&weight).sum();
        let mut left = self.below(u64::from(total)) as u32;
        for choice in choices {
            match left.checked_sub(weight(choice)) {
                Some(rest) => left = rest,
                None => return choice,
            }
        }
        &choices[choices.len() - 1]
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use router_userspace::model::policy::Question;

    use super::*;

    fn address(words: [u32; 4], family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4([words[0]]).into()),
            Family::V6 => IpAddr::V6(Ipv6(words).into()),
        }
    }

    #[test]
    fn lists_have_the_size_asked_for_and_say_of_every_packet_what_is_expected() {
        for family in [Family::V4, Family::V6] {
            for shape in Shape::ALL {
                for size in [10, 300] {
                    let set = RuleSet::new(shape, family, size);
                    assert_eq!((set.list.rules.len(), set.tuples.len()), (size, TUPLES as usize));
                    for (place, tuple) in set.tuples.iter().enumerate().step_by(97) {
                        let question = Question {
                            source: address(tuple.source, family),
                            destination: address(tuple.destination, family),
                            protocol: tuple.protocol,
                            port: tuple.port.get(),
                        };
                        let (rule, action) = set.list.judge(&question);
                        let is_hit = place < HITS;
                        assert_eq!(action == Action::Allow, is_hit, "{shape} {family} {question:?}");
                        assert_eq!(rule.is_some(), is_hit, "{shape} {family} {question:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_set_is_made_every_time() {
        let [first, second] = [0, 1].map(|_| RuleSet::new(Shape::Firewall, Family::V4, 100));
        assert_eq!((first.list, first.tuples), (second.list, second.tuples));
    }

    #[test]
    fn one_more_rule_is_one_more() {
        let set = RuleSet::new(Shape::Acl, Family::V6, 20);
        assert_eq!(set.with_one_more(7).rules.len(), 21);
    }
}
