//! A rule as the classifier has it: where it belongs in the tries, and its block.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use router_common::policy::{ANY_PROTOCOL, Block, NO_RULE, Pointer};

use crate::compile::nat::prefixes;
use crate::model::PortRange;
use crate::model::policy::{Action, Rule, Traffic};

/// One of the three tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    /// By destination.
    Destination = Pointer::BY_DESTINATION as isize,
    /// By source.
    Source = Pointer::BY_SOURCE as isize,
    /// By protocol and port.
    Port = Pointer::BY_PORT as isize,
}

impl Dimension {
    /// [`Pointer::kind`] of its nodes.
    pub const fn kind(self) -> u32 {
        self as u32
    }

    /// The one inside it.
    ///
    /// # Panics
    /// There is none inside the last.
    pub fn next(self) -> Self {
        match self {
            Self::Destination => Self::Source,
            Self::Source => Self::Port,
            Self::Port => unreachable!("nothing is inside the last trie"),
        }
    }
}

/// A prefix of up to 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The bits, in front; the others are 0.
    pub bits: u128,
    /// How many there are.
    pub length: u32,
}

impl Key {
    /// All there is.
    pub const ALL: Self = Self { bits: 0, length: 0 };

    /// Its first bits.
    pub fn cut(self, length: u32) -> Self {
        let behind = u128::MAX.checked_shr(length).unwrap_or(0);
        Self { bits: self.bits & !behind, length }
    }

    /// How many bits two keys have in common in front.
    pub fn common(self, other: Self) -> u32 {
        (self.bits ^ other.bits).leading_zeros().min(self.length).min(other.length)
    }

    /// The slot of a node of a level that the key belongs to, see [`router_common::policy`].
    pub fn slot(self, level: u32) -> usize {
        let bits = (self.length - 3 * level).min(3);
        1 << bits | self.three(level) >> (3 - bits)
    }

    /// The slots of a node of a level that are on the way to a whole key, from the shortest prefix.
    pub fn slots(self, level: u32) -> [usize; 4] {
        let three = self.three(level);
        [0, 1, 2, 3].map(|bits| 1 << bits | three >> (3 - bits))
    }

    /// What all have in common that belong to a slot, of a node that this one is below.
    pub fn below(self, level: u32, slot: usize) -> Self {
        let bits = slot.max(1).ilog2();
        let within = (slot as u128 ^ 1 << bits).checked_shl(128 - bits).unwrap_or(0);
        Self { bits: self.cut(3 * level).bits | within >> (3 * level), length: 3 * level + bits }
    }

    fn three(self, level: u32) -> usize {
        ((self.bits << (3 * level)) >> 125) as usize
    }
}

/// A rule for a family, a network of the source, one of the destination, and a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// [`Pointer::kind`] of its block.
    pub kind: u32,
    /// [`Block::RANK`].
    pub rank: u32,
    /// Its counter.
    pub counter: u32,
    source: Key,
    destination: Key,
    protocol: u8,
    /// First and last; with a mask of `0xff` an ICMP code of all types.
    ports: (u16, u16),
    mask: u16,
}

impl Record {
    /// Shows its keys in a trie that are below a path.
    pub fn each_key(&self, dimension: Dimension, path: Key, mut see: impl FnMut(Key)) {
        match dimension {
            Dimension::Destination => see(self.destination),
            Dimension::Source => see(self.source),
            Dimension::Port => self.each_place(|key| {
                if key.common(path) == path.length {
                    see(key);
                }
            }),
        }
    }

    /// One of them.
    pub fn key(&self, dimension: Dimension, path: Key) -> Option<Key> {
        let mut first = None;
        self.each_key(dimension, path, |key| first = first.or(Some(key)));
        first
    }

    /// Its keys in the last trie.
    fn each_place(&self, mut see: impl FnMut(Key)) {
        let mut place = |port: u16, bits: u32| {
            let bits_in_front = u128::from(self.protocol) << 16 | u128::from(port);
            see(Key { bits: bits_in_front << 104, length: 8 + bits });
        };
        match (self.mask, PortRange::new(self.ports.0, self.ports.1)) {
            _ if self.protocol == ANY_PROTOCOL => see(Key::ALL),
            (0xff, _) => (0..=0xff).for_each(|kind| place(kind << 8 | self.ports.0, 16)),
            (_, Ok(range)) if range != PortRange::ALL => {
                prefixes(range).into_iter().for_each(|(port, bits)| place(port, u32::from(bits)));
            }
            _ => place(0, 0),
        }
    }

    /// Blocks' rules that say so: as many as there are in one, or fewer.
    pub fn block(records: &[Self], is_one_place: bool, next: Pointer) -> Block {
        let mut block = Block::EMPTY;
        block.words[Block::NEXT] = next.0;
        for at in Block::RULES {
            block.words[at + Block::RANK] = NO_RULE;
        }
        for (record, at) in records.iter().zip(Block::RULES) {
            record.write(&mut block.words[at..]);
            if is_one_place {
                block.words[at + Block::MATCH] |= Block::IS_ONE_PLACE;
            }
        }
        block
    }

    /// How many of a kind are in a block.
    pub const fn in_block(kind: u32) -> usize {
        if kind == Pointer::RULES4 { Block::RULES.len() } else { 1 }
    }

    fn write(&self, words: &mut [u32]) {
        words[Block::RANK] = self.rank;
        words[Block::PORTS] = u32::from(self.ports.0) << 16 | u32::from(self.ports.1);
        words[Block::MATCH] = u32::from(self.protocol) << 24 | self.counter;
        if self.mask == 0xff {
            words[Block::MATCH] |= Block::IS_CODE;
        }
        if self.kind == Pointer::RULES4 {
            let ends = [(self.source, Block::SOURCE), (self.destination, Block::DESTINATION)];
            for ((key, at), whole) in ends.into_iter().zip(Block::WHOLE) {
                let network = (key.bits >> 96) as u32;
                words[at] = network | 1 << 31_u32.saturating_sub(key.length);
                if key.length == 32 {
                    words[Block::MATCH] |= whole | ((network & 1) * whole * Block::BEHIND_WHOLE);
                }
            }
            return;
        }
        let halves = |key: Key| key.length.min(64) | key.length.saturating_sub(64) << 8;
        words[Block::LENGTHS] = halves(self.source) | halves(self.destination) << 16;
        for (at, key) in [(Block::SOURCE6, self.source), (Block::DESTINATION6, self.destination)] {
            for (word, shift) in (at..at + 4).zip([96, 64, 32, 0]) {
                words[word] = (key.bits >> shift) as u32;
            }
        }
    }

    /// The rules of a block of a kind.
    pub fn of(block: &Block, kind: u32) -> impl Iterator<Item = Self> + use<> {
        let block = *block;
        let rules = Block::RULES.into_iter().take(Self::in_block(kind));
        let rules = rules.filter(move |at| block.words[at + Block::RANK] != NO_RULE);
        rules.map(move |at| Self::read(&block.words[at..], kind))
    }

    fn read(words: &[u32], kind: u32) -> Self {
        let details = words[Block::MATCH];
        let (source, destination) = if kind == Pointer::RULES4 {
            let key = |network: u32, whole: u32| {
                if details & whole == 0 {
                    let length = 31 - network.trailing_zeros().min(31);
                    return Key { bits: u128::from(network) << 96, length }.cut(length);
                }
                let is_last = details & (whole * Block::BEHIND_WHOLE) != 0;
                Key { bits: u128::from(network & !1 | u32::from(is_last)) << 96, length: 32 }
            };
            let [of_source, of_destination] = Block::WHOLE;
            (key(words[Block::SOURCE], of_source), key(words[Block::DESTINATION], of_destination))
        } else {
            let bits =
                |at: usize| words[at..at + 4].iter().fold(0, |bits, word| bits << 32 | u128::from(*word));
            let [source, source_rest, destination, destination_rest] =
                words[Block::LENGTHS].to_le_bytes().map(u32::from);
            let source = Key { bits: bits(Block::SOURCE6), length: source + source_rest };
            (source, Key { bits: bits(Block::DESTINATION6), length: destination + destination_rest })
        };
        Self {
            kind,
            rank: words[Block::RANK],
            counter: details & Block::COUNTER,
            source,
            destination,
            protocol: (details >> 24) as u8,
            ports: ((words[Block::PORTS] >> 16) as u16, words[Block::PORTS] as u16),
            mask: if details & Block::IS_CODE == 0 { u16::MAX } else { 0xff },
        }
    }

    /// Whether it is about a packet of these whole keys.
    pub fn is_about(&self, source: Key, destination: Key, protocol: u8, port: u16) -> bool {
        (protocol == self.protocol || self.protocol == ANY_PROTOCOL)
            && (self.ports.0..=self.ports.1).contains(&(port & self.mask))
            && self.source.common(source) == self.source.length
            && self.destination.common(destination) == self.destination.length
    }
}

/// A rule's records, by the family's place in [`List::roots`](router_common::policy::List::roots). None for a
/// rule that no packet matches.
pub fn records(rule: &Rule, rank: u32, counter: u32) -> Vec<(usize, Record)> {
    let mut records = Vec::new();
    for root in [0, 1] {
        let (sources, destinations) = (networks(&rule.sources, root), networks(&rule.destinations, root));
        for source in &sources {
            for destination in &destinations {
                for (protocol, ports, mask) in matches(rule.traffic, root) {
                    records.push((
                        root,
                        Record {
                            kind: [Pointer::RULES4, Pointer::RULE6][root],
                            rank: rank | u32::from(rule.action == Action::Allow),
                            counter,
                            source: *source,
                            destination: *destination,
                            protocol,
                            ports: (*ports.start(), *ports.end()),
                            mask,
                        },
                    ));
                }
            }
        }
    }
    records
}

/// The networks of a family, each once; all of it where none is named.
fn networks(networks: &[IpNet], root: usize) -> Vec<Key> {
    if networks.is_empty() {
        return vec![Key::ALL];
    }
    let of_family = networks.iter().filter_map(|network| match (network.trunc(), root) {
        (IpNet::V4(network), 0) => {
            Some((u128::from(network.network().to_bits()) << 96, network.prefix_len()))
        }
        (IpNet::V6(network), 1) => Some((network.network().to_bits(), network.prefix_len())),
        _ => None,
    });
    let mut keys: Vec<_> = of_family.collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().map(|(bits, length)| Key { bits, length: u32::from(length) }).collect()
}

/// Protocol, ports, and which bits of a port count.
fn matches(traffic: Traffic, root: usize) -> Vec<(u8, RangeInclusive<u16>, u16)> {
    const ALL: RangeInclusive<u16> = 0..=u16::MAX;
    let ports = |range: Option<PortRange>| range.map_or(ALL, |range| range.first()..=range.last());
    let (protocol, ports, mask) = match traffic {
        Traffic::Any => (ANY_PROTOCOL, ALL, u16::MAX),
        Traffic::Tcp(range) => (6, ports(range), u16::MAX),
        Traffic::Udp(range) => (17, ports(range), u16::MAX),
        // The programs have that number for "any".
        Traffic::Protocol(ANY_PROTOCOL) => return vec![],
        Traffic::Protocol(protocol) => (protocol, ALL, u16::MAX),
        Traffic::Icmp { kind, code } => {
            let protocol = [1, 58][root];
            let (ports, mask) = match (kind, code) {
                (None, None) => (ALL, u16::MAX),
                (Some(kind), None) => {
                    (u16::from_be_bytes([kind, 0])..=u16::from_be_bytes([kind, u8::MAX]), u16::MAX)
                }
                (Some(kind), Some(code)) => {
                    let exact = u16::from_be_bytes([kind, code]);
                    (exact..=exact, u16::MAX)
                }
                (None, Some(code)) => (u16::from(code)..=u16::from(code), 0xff),
            };
            (protocol, ports, mask)
        }
    };
    vec![(protocol, ports, mask)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_slot_that_its_last_bits_name() {
        let key = |bits: u128, length| Key { bits: bits << 120, length };
        for (bits, length, level, slot) in [
            (0, 0, 0, 1),
            (0b1000_0000, 1, 0, 3),
            (0b1000_0000, 2, 0, 6),
            (0b1010_0000, 3, 0, 8 | 0b101),
            (0b1011_0000, 8, 0, 8 | 0b101),
            (0b1011_0000, 3, 1, 1),
            (0b1011_0000, 5, 1, 4 | 0b10),
            (0b1011_0100, 8, 1, 8 | 0b101),
            (0b1011_0110, 8, 2, 4 | 0b10),
        ] {
            assert_eq!(key(bits, length).slot(level), slot, "{bits:b}/{length} at level {level}");
        }
    }
}
