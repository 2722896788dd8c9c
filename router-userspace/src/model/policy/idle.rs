//! Rules that never decide.
//!
//! A rule is a set of boxes: a network to come from, one to go to, a protocol, ports. It never decides
//! when each of its boxes lies within one of an earlier rule. Boxes that only several earlier ones cover
//! together are not found: what is reported is true, and not everything that is true is reported.
//!
//! Boxes are kept by their two networks, so a box asks once for each pair of prefix lengths that the
//! list has above its own, of which there are few, and never looks at other rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{AccessList, Rule, Traffic};

/// A rule that never decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleRule {
    /// Its place in the list.
    pub rule: usize,
    /// The place of an earlier rule that covers all of it, or of the last of several that together do.
    /// `None`: it matches nothing, since it is from one family and to the other.
    pub covered_by: Option<usize>,
}

impl AccessList {
    /// The rules that never decide, because earlier ones match all that they match. Whether such a
    /// rule was meant otherwise, its action and that of the covering rule tell.
    pub fn idle_rules(&self) -> Vec<IdleRule> {
        let mut seen = Seen::default();
        let mut idle = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let boxes: Vec<Flows> = Flows::of(rule).collect();
            let covers: Option<Vec<usize>> = boxes.iter().map(|flows| seen.cover(flows)).collect();
            match covers {
                Some(covers) => idle.push(IdleRule { rule: index, covered_by: covers.into_iter().max() }),
                None => boxes.into_iter().for_each(|flows| seen.insert(flows, index)),
            }
        }
        idle
    }
}

/// A box: flows of one family.
#[derive(Clone, Copy)]
struct Flows {
    source: Prefix,
    destination: Prefix,
    protocol: Protocol,
}

/// A network of either family, its address in the upper bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Prefix {
    bits: u128,
    len: u8,
    is_ipv4: bool,
}

/// Protocol and ports, as [`Question`](super::Question) has them.
#[derive(Clone, Copy)]
enum Protocol {
    Any,
    Ports {
        protocol: u8,
        first: u16,
        last: u16,
    },
    /// Every ICMP type with one code.
    Code {
        protocol: u8,
        code: u8,
    },
}

impl Prefix {
    fn of(network: IpNet) -> Self {
        let bits = match network.network() {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        Self { bits, len: network.prefix_len(), is_ipv4: network.addr().is_ipv4() }
    }

    /// The network of this length that it lies in.
    fn within(self, len: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        Self { bits: self.bits & mask, len, ..self }
    }
}

impl Flows {
    fn of(rule: &Rule) -> impl Iterator<Item = Self> {
        [true, false].into_iter().flat_map(move |is_ipv4| {
            let networks = move |networks: &[IpNet]| -> Vec<Prefix> {
                let all = Prefix { bits: 0, len: 0, is_ipv4 };
                let own = networks.iter().map(|network| Prefix::of(*network));
                let own = own.filter(|prefix| prefix.is_ipv4 == is_ipv4);
                if networks.is_empty() { vec![all] } else { own.collect() }
            };
            let destinations = networks(&rule.destinations);
            let protocol = Protocol::of(rule.traffic, is_ipv4);
            networks(&rule.sources).into_iter().flat_map(move |source| {
                let destinations = destinations.clone().into_iter();
                destinations.map(move |destination| Self { source, destination, protocol })
            })
        })
    }
}

impl Protocol {
    fn of(traffic: Traffic, is_ipv4: bool) -> Self {
        let ports = |protocol, range: Option<crate::model::PortRange>| {
            let (first, last) = range.map_or((0, u16::MAX), |range| (range.first(), range.last()));
            Self::Ports { protocol, first, last }
        };
        match traffic {
            Traffic::Any => Self::Any,
            Traffic::Tcp(range) => ports(6, range),
            Traffic::Udp(range) => ports(17, range),
            Traffic::Protocol(protocol) => ports(protocol, None),
            Traffic::Icmp { kind, code } => {
                let protocol = if is_ipv4 { 1 } else { 58 };
                match (kind, code) {
                    (None, None) => ports(protocol, None),
                    (None, Some(code)) => Self::Code { protocol, code },
                    (Some(kind), code) => {
                        let first = u16::from_be_bytes([kind, code.unwrap_or(0)]);
                        let last = u16::from_be_bytes([kind, code.unwrap_or(u8::MAX)]);
                        Self::Ports { protocol, first, last }
                    }
                }
            }
        }
    }
}

/// The boxes of earlier rules.
#[derive(Default)]
struct Seen {
    /// Pairs of prefix lengths that there are: of IPv4 or not, of the source, of the destination.
    lengths: BTreeSet<(bool, u8, u8)>,
    boxes: HashMap<(Prefix, Prefix), Cell>,
}

/// Boxes with the same two networks; each with its rule.
#[derive(Default)]
struct Cell {
    any: Option<usize>,
    protocols: BTreeMap<u8, Ports>,
}

/// Of one protocol.
#[derive(Default)]
struct Ports {
    /// First port → last port. No range lies within another, so both ends ascend together.
    ranges: BTreeMap<u16, (u16, usize)>,
    codes: BTreeMap<u8, usize>,
}

impl Seen {
    /// The rule of a box that this one lies in.
    fn cover(&self, flows: &Flows) -> Option<usize> {
        let family = flows.source.is_ipv4;
        let lengths = self.lengths.range((family, 0, 0)..=(family, flows.source.len, u8::MAX));
        lengths.filter(|(_, _, len)| *len <= flows.destination.len).find_map(|(_, source, destination)| {
            let key = (flows.source.within(*source), flows.destination.within(*destination));
            self.boxes.get(&key)?.cover(flows.protocol)
        })
    }

    fn insert(&mut self, flows: Flows, rule: usize) {
        let Flows { source, destination, protocol } = flows;
        self.lengths.insert((source.is_ipv4, source.len, destination.len));
        self.boxes.entry((source, destination)).or_default().insert(protocol, rule);
    }
}

impl Cell {
    fn cover(&self, wanted: Protocol) -> Option<usize> {
        let ports = |protocol| self.protocols.get(&protocol);
        let specific = match wanted {
            Protocol::Any => None,
            Protocol::Ports { protocol, first, last } => ports(protocol).and_then(|ports| {
                // A range within one type has one code.
                let code = (first == last).then(|| first.to_be_bytes()[1]);
                ports.range(first, last).or_else(|| ports.codes.get(&code?).copied())
            }),
            Protocol::Code { protocol, code } => ports(protocol)
                .and_then(|ports| ports.codes.get(&code).copied().or_else(|| ports.range(0, u16::MAX))),
        };
        specific.or(self.any)
    }

    fn insert(&mut self, protocol: Protocol, rule: usize) {
        match protocol {
            Protocol::Any => self.any = self.any.or(Some(rule)),
            Protocol::Ports { protocol, first, last } => {
                self.protocols.entry(protocol).or_default().insert(first, last, rule);
            }
            Protocol::Code { protocol, code } => {
                self.protocols.entry(protocol).or_default().codes.entry(code).or_insert(rule);
            }
        }
    }
}

impl Ports {
    /// The rule of a range that holds another: of those that begin early enough, the last one ends
    /// last.
    fn range(&self, first: u16, last: u16) -> Option<usize> {
        let (_, (end, rule)) = self.ranges.range(..=first).next_back()?;
        (*end >= last).then_some(*rule)
    }

    fn insert(&mut self, first: u16, last: u16, rule: usize) {
        if self.range(first, last).is_some() {
            return;
        }
        let within = self.ranges.range(first..).take_while(|(_, (end, _))| *end <= last);
        let within: Vec<u16> = within.map(|(first, _)| *first).collect();
        for first in within {
            self.ranges.remove(&first);
        }
        self.ranges.insert(first, (last, rule));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Action, Question};
    use super::*;
    use crate::model::PortRange;

    /// xorshift: repeatable.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u32) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            u32::try_from(self.0 % u64::from(limit)).expect("below a u32")
        }

        fn one<T: Copy>(&mut self, of: &[T]) -> T {
            of[self.below(u32::try_from(of.len()).expect("few")) as usize]
        }

        /// From few networks and ports, so that rules meet.
        fn networks(&mut self) -> Vec<IpNet> {
            const SOME: [&str; 9] = [
                "0.0.0.0/0",
                "10.0.0.0/8",
                "10.1.0.0/16",
                "10.1.1.0/24",
                "10.1.1.7/32",
                "10.1.1.6/31",
                "::/0",
                "fd00::/8",
                "fd00::1/128",
            ];
            (0..self.below(3)).map(|_| self.one(&SOME).parse().expect("a network")).collect()
        }

        fn range(&mut self) -> Option<PortRange> {
            let ports = [1, 2, 3, 80, 65534, 65535];
            let (a, b) = (self.one(&ports), self.one(&ports));
            (self.below(4) > 0).then(|| PortRange::new(a.min(b), a.max(b)).expect("a range"))
        }

        fn rule(&mut self) -> Rule {
            let some = |random: &mut Self| random.one(&[None, Some(0), Some(8), Some(128)]);
            let traffic = match self.below(8) {
                0 => Traffic::Any,
                1..4 => Traffic::Tcp(self.range()),
                4 => Traffic::Udp(self.range()),
                5 | 6 => Traffic::Icmp { kind: some(self), code: some(self) },
                _ => Traffic::Protocol(self.one(&[1, 6, 17, 47, 58])),
            };
            let action = self.one(&[Action::Allow, Action::Deny]);
            Rule::new(0, action, traffic, self.networks(), self.networks())
        }

        fn rules(&mut self, count: usize) -> Vec<Arc<Rule>> {
            (0..count).map(|_| Arc::new(self.rule())).collect()
        }
    }

    /// Every box of a rule, written out, and whether one lies in another, by definition.
    fn is_covered(rule: &Rule, earlier: &[Arc<Rule>]) -> bool {
        let all: [IpNet; 2] = ["0.0.0.0/0", "::/0"].map(|all| all.parse().expect("a network"));
        let boxes = |rule: &Rule| {
            let or_all =
                |networks: &[IpNet]| if networks.is_empty() { all.to_vec() } else { networks.to_vec() };
            let (sources, destinations) = (or_all(&rule.sources), or_all(&rule.destinations));
            let pairs = sources.into_iter().flat_map(|source| {
                destinations.clone().into_iter().map(move |destination| (source, destination))
            });
            pairs
                .filter(|(source, destination)| source.addr().is_ipv4() == destination.addr().is_ipv4())
                .collect::<Vec<_>>()
        };
        boxes(rule).iter().all(|(source, destination)| {
            earlier.iter().any(|other| {
                let is_within = |(wide_source, wide_destination): &(IpNet, IpNet)| {
                    wide_source.contains(source) && wide_destination.contains(destination)
                };
                boxes(other).iter().any(is_within)
                    && holds(other.traffic, rule.traffic, source.addr().is_ipv4())
            })
        })
    }

    /// Whether traffic holds other traffic: asked about every packet that could tell them apart.
    fn holds(wide: Traffic, narrow: Traffic, is_ipv4: bool) -> bool {
        let address: IpAddr = if is_ipv4 { "10.0.0.1" } else { "fd00::1" }.parse().expect("an address");
        let mut ports: Vec<u16> = vec![0, 1, 2, 3, 4, 79, 80, 81, 65533, 65534, 65535];
        ports.extend(
            [0, 7, 8, 128, 200]
                .iter()
                .flat_map(|kind| [0, 7, 8, 128, 200].map(|code| u16::from_be_bytes([*kind, code]))),
        );
        [1, 6, 17, 47, 58, 200].into_iter().all(|protocol| {
            ports.iter().all(|port| {
                let question = Question { source: address, destination: address, protocol, port: *port };
                !narrow.matches(&question) || wide.matches(&question)
            })
        })
    }

    #[test]
    fn what_is_idle_is_what_a_look_at_every_pair_of_rules_finds() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut found, mut rules) = (0, 0);
        for _ in 0..400 {
            let list = AccessList::new(random.rules(12), Action::Deny);
            let idle = list.idle_rules();
            let expected: Vec<usize> = (0..list.rules.len())
                .filter(|index| is_covered(&list.rules[*index], &list.rules[..*index]))
                .collect();
            assert_eq!(idle.iter().map(|idle| idle.rule).collect::<Vec<_>>(), expected, "{list:#?}");
            for idle in &idle {
                assert!(idle.covered_by.is_none_or(|by| by < idle.rule));
            }
            found += idle.len();
            rules += list.rules.len();
        }
        assert!(found > rules / 20 && found < rules * 9 / 10, "{found} of {rules}");
    }

    #[test]
    fn an_idle_rule_can_go() {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        for _ in 0..400 {
            let list = AccessList::new(random.rules(10), random.one(&[Action::Allow, Action::Deny]));
            let idle: Vec<usize> = list.idle_rules().iter().map(|idle| idle.rule).collect();
            let others = list.rules.iter().enumerate().filter(|(index, _)| !idle.contains(index));
            let less = AccessList::new(others.map(|(_, rule)| Arc::clone(rule)).collect(), list.default);
            for _ in 0..200 {
                let hosts = if random.below(2) == 0 {
                    ["10.1.1.7", "10.1.1.6", "10.2.0.1", "192.0.2.1"]
                } else {
                    ["fd00::1", "fd00::2", "2001:db8::1", "::1"]
                };
                let question = Question {
                    source: random.one(&hosts).parse().expect("an address"),
                    destination: random.one(&hosts).parse().expect("an address"),
                    protocol: random.one(&[1, 6, 17, 47, 58]),
                    port: random.one(&[0, 1, 2, 80, 100, 2048, 2056, 32768, 65535]),
                };
                assert_eq!(list.judge(&question).1, less.judge(&question).1, "{question:?} {list:#?}");
            }
        }
    }
}
