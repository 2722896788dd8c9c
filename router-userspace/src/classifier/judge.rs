//! What a list says of a flow's first packet: as the programs find it (`router_ebpf::policy`), over the same
//! blocks, without counting it.
//!
//! Down the trie by destination, from each place on the way down that by source, and from each on that way down the
//! one by protocol and port; what lies behind the first rule so far is left out.

use std::net::IpAddr;

use router_common::policy::{ANY_PROTOCOL, Block, NO_RULE, Pointer};

use super::record::{Dimension, Key, key};
use super::{Classifier, Memory};
use crate::model::policy::{Action, Question};

impl<M: Memory> Classifier<M> {
    /// What a list says; `None` if there is none of that number.
    pub fn judge(&self, number: u32, question: &Question) -> Option<Action> {
        let list = self.lists.get(&number)?.value;
        let memory = &self.store.memory;
        let asked = Asked::from(question);
        let (mut rank, mut allows) = (NO_RULE, list.default_allows != 0);
        let mut waiting = vec![Pointer(list.roots[usize::from(question.source.is_ipv6())])];
        while let Some(at) = waiting.pop() {
            // A pointer to where there is nothing was not written by us.
            if at.is_none() || at.index() >= memory.blocks() {
                continue;
            }
            let block = memory.block(at.index());
            if block.words[Block::RANK] >= rank {
                continue;
            }
            match at.kind() {
                Pointer::RULE if asked.is_about(&block) => {
                    (rank, allows) = (block.words[Block::RANK], block.words[Block::MATCH] & 1 != 0);
                }
                Pointer::RULE => waiting.push(Pointer(block.words[Block::NEXT])),
                kind => {
                    let slots = asked.keys[kind as usize].slots(at.level());
                    waiting.extend(slots.map(|slot| Pointer(block.words[slot])));
                }
            }
        }
        Some(if allows { Action::Allow } else { Action::Deny })
    }
}

/// A question as the tries have it.
struct Asked {
    /// By [`Pointer::kind`], whole.
    keys: [Key; 3],
    protocol: u32,
    port: u32,
}

impl From<&Question> for Asked {
    fn from(question: &Question) -> Self {
        let whole = |bits| Key { bits, length: 128 };
        let address = |address: IpAddr| match address {
            IpAddr::V4(address) => whole(u128::from(address.to_bits()) << 96),
            IpAddr::V6(address) => whole(address.to_bits()),
        };
        let (protocol, port) = (u32::from(question.protocol), u32::from(question.port));
        let place = whole(u128::from(protocol << 16 | port) << 104);
        Self { keys: [address(question.destination), address(question.source), place], protocol, port }
    }
}

impl Asked {
    /// Whether a rule is about it: on the way to it not all bits were compared.
    fn is_about(&self, rule: &Block) -> bool {
        let (protocol, ports) = (rule.words[Block::MATCH] >> 8 & 0xff, rule.words[Block::PORTS]);
        let port = self.port & rule.words[Block::PORT_MASK];
        let is_within = |dimension: Dimension| {
            let network = key(rule, dimension);
            network.common(self.keys[dimension as usize]) == network.length
        };
        (protocol == self.protocol || protocol == u32::from(ANY_PROTOCOL))
            && (ports >> 16..=ports & 0xffff).contains(&port)
            && is_within(Dimension::Destination)
            && is_within(Dimension::Source)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::DefaultHasher;
    use std::hash::{Hash, Hasher};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::Arc;

    use ipnet::IpNet;

    use super::super::OwnMemory;
    use super::*;
    use crate::model::PortRange;
    use crate::model::policy::{AccessList, Rule, Traffic};

    /// The same numbers in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 += 1;
            let mut hasher = DefaultHasher::new();
            self.0.hash(&mut hasher);
            hasher.finish() as usize % end
        }

        fn pick<T: Copy>(&mut self, of: &[T]) -> T {
            of[self.below(of.len())]
        }

        /// Addresses that are alike, so that rules meet each other.
        fn address(&mut self, v6: bool) -> IpAddr {
            if v6 {
                let (site, host) = (self.pick(&[0, 1]), self.pick(&[1, 2, 0x50, 0x8000]));
                return Ipv6Addr::from([0x2001, 0xdb8, site, 0, 0, 0, 0, host]).into();
            }
            let octets = [10, self.pick(&[0, 1, 2]), self.pick(&[0, 1, 128]), self.pick(&[0, 1, 50, 255])];
            Ipv4Addr::from(octets).into()
        }

        fn networks(&mut self) -> Vec<IpNet> {
            (0..self.pick(&[0, 0, 1, 1, 2, 5]))
                .map(|_| {
                    let v6 = self.pick(&[false, false, true]);
                    let lengths: &[u8] =
                        if v6 { &[0, 47, 48, 64, 127, 128] } else { &[0, 8, 15, 17, 24, 31, 32] };
                    IpNet::new(self.address(v6), self.pick(lengths)).unwrap()
                })
                .collect()
        }

        fn traffic(&mut self) -> Traffic {
            let (a, b) = (self.pick(PORTS), self.pick(PORTS));
            let range =
                self.pick(&[None, PortRange::new(a, a).ok(), PortRange::new(a.min(b), a.max(b)).ok()]);
            let (kind, code) = (self.pick(&[None, Some(8), Some(13)]), self.pick(&[None, Some(0), Some(3)]));
            self.pick(&[
                Traffic::Any,
                Traffic::Tcp(range),
                Traffic::Tcp(range),
                Traffic::Udp(range),
                Traffic::Icmp { kind, code },
                Traffic::Protocol(47),
            ])
        }

        fn rule(&mut self) -> Arc<Rule> {
            let (action, traffic) = (self.pick(&[Action::Allow, Action::Deny]), self.traffic());
            let (sources, destinations) = (self.networks(), self.networks());
            Arc::new(Rule::new(0, action, traffic, sources, destinations))
        }

        fn list(&mut self) -> Arc<AccessList> {
            let rules = (0..self.pick(&[0, 1, 2, 10, 30, 100])).map(|_| self.rule()).collect();
            Arc::new(AccessList::new(rules, self.pick(&[Action::Allow, Action::Deny])))
        }

        fn question(&mut self) -> Question {
            let v6 = self.pick(&[false, false, true]);
            let protocol = self.pick(&[6, 6, 17, if v6 { 58 } else { 1 }, 47]);
            let port = match protocol {
                6 | 17 => self.pick(&[1, 22, 23, 80, 81, 1024, 65_535]),
                1 | 58 => u16::from_be_bytes([self.pick(&[0, 8, 13]), self.pick(&[0, 3])]),
                _ => 0,
            };
            Question { source: self.address(v6), destination: self.address(v6), protocol, port }
        }
    }

    const PORTS: &[u16] = &[1, 22, 80, 443, 1024, 65_535];

    #[test]
    fn the_tries_say_what_the_list_says() {
        let mut random = Random(0);
        let mut classifier = Classifier::new(OwnMemory::new(1 << 19, 1 << 18), []);
        let mut answers = [0; 2];
        for number in 1..=300 {
            let list = random.list();
            classifier.write(number, &list).unwrap();
            for _ in 0..100 {
                let question = random.question();
                let (rule, action) = list.judge(&question);
                answers[usize::from(action == Action::Allow)] += 1;
                let judged = classifier.judge(number, &question);
                assert_eq!(judged, Some(action), "{question:?}: {rule:?} of {list:#?}");
            }
            classifier.forget(number);
        }
        assert!(answers.iter().all(|answers| *answers > 5000), "{answers:?}");
        assert_eq!(classifier.judge(1, &random.question()), None, "a list that is not there");
    }

    /// Made from each other, they share blocks.
    #[test]
    fn lists_that_were_made_from_each_other_say_what_each_says() {
        let mut random = Random(1 << 32);
        let mut classifier = Classifier::new(OwnMemory::new(1 << 19, 1 << 18), []);
        let first = AccessList::new((0..100).map(|_| random.rule()).collect(), Action::Deny);
        let mut lists = vec![Arc::new(first)];
        for number in 1..=30 {
            let mut rules = lists[number - 1].rules.clone();
            rules.remove(random.below(rules.len()));
            rules.insert(random.below(rules.len()), random.rule());
            lists.push(Arc::new(AccessList::new(rules, Action::Deny)));
        }
        for (number, list) in (0..).zip(&lists) {
            classifier.write(number, list).unwrap();
        }
        for (number, list) in (0..).zip(&lists) {
            for _ in 0..200 {
                let question = random.question();
                assert_eq!(
                    classifier.judge(number, &question),
                    Some(list.judge(&question).1),
                    "{question:?}"
                );
            }
        }
    }
}
