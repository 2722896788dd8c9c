//! A rule as the classifier has it: where it belongs in the tries, and its block.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use router_common::policy::{ANY_PROTOCOL, Block, Pointer};

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

    fn three(self, level: u32) -> usize {
        ((self.bits << (3 * level)) >> 125) as usize
    }
}

/// A rule for a family, a network of the source, one of the destination, and a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    block: Block,
}

impl Record {
    /// One that is there, or was.
    pub fn of(block: &Block) -> Self {
        let mut block = *block;
        (block.words[Block::NEXT], block.words[Block::PLACE]) = (0, 0);
        Self { block }
    }

    /// Its rank.
    pub const fn rank(&self) -> u32 {
        self.block.words[Block::RANK]
    }

    /// Its block for a place of the last trie, or for one of the others.
    pub fn block(&self, place: u32) -> Block {
        let mut block = self.block;
        block.words[Block::PLACE] = place;
        block
    }

    /// Its places in the last trie, as [`Block::PLACE`] has them.
    pub fn places(&self) -> Vec<u32> {
        let words = &self.block.words;
        let protocol = words[Block::MATCH] >> 8 & 0xff;
        let (first, last) = (words[Block::PORTS] >> 16, words[Block::PORTS] & 0xffff);
        let place = |port: u32, bits: u32| protocol << 24 | port << 8 | Block::IS_PLACE | (8 + bits);
        match words[Block::PORT_MASK] {
            _ if protocol == u32::from(ANY_PROTOCOL) => vec![Block::IS_PLACE],
            // A code of all types.
            0xff => (0..=0xff).map(|kind| place(kind << 8 | first, 16)).collect(),
            _ => match PortRange::new(first as u16, last as u16) {
                Ok(range) if range.first() != 0 || range.last() != u16::MAX => {
                    let places = prefixes(range).into_iter();
                    places.map(|(port, bits)| place(u32::from(port), u32::from(bits))).collect()
                }
                _ => vec![place(0, 0)],
            },
        }
    }
}

/// What a block is found by in a trie.
pub fn key(block: &Block, dimension: Dimension) -> Key {
    let words = &block.words;
    let address = |at: usize| words[at..at + 4].iter().fold(0, |bits, word| bits << 32 | u128::from(*word));
    let [source, source_rest, destination, destination_rest] =
        words[Block::LENGTHS].to_le_bytes().map(u32::from);
    match dimension {
        Dimension::Source => Key { bits: address(Block::SOURCE), length: source + source_rest },
        Dimension::Destination => {
            Key { bits: address(Block::DESTINATION), length: destination + destination_rest }
        }
        Dimension::Port => {
            let place = words[Block::PLACE];
            Key { bits: u128::from(place >> 8) << 104, length: place & (Block::IS_PLACE - 1) }
        }
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
                    let mut words = [0; 16];
                    words[Block::RANK] = rank;
                    words[Block::COUNTER] = counter;
                    words[Block::MATCH] = u32::from(rule.action == Action::Allow) | u32::from(protocol) << 8;
                    let halves = |key: &Key| key.length.min(64) | key.length.saturating_sub(64) << 8;
                    words[Block::LENGTHS] = halves(source) | halves(destination) << 16;
                    words[Block::PORTS] = u32::from(*ports.start()) << 16 | u32::from(*ports.end());
                    words[Block::PORT_MASK] = u32::from(mask);
                    for (at, key) in [(Block::SOURCE, source), (Block::DESTINATION, destination)] {
                        for (word, shift) in (at..at + 4).zip([96, 64, 32, 0]) {
                            words[word] = (key.bits >> shift) as u32;
                        }
                    }
                    records.push((root, Record { block: Block { words } }));
                }
            }
        }
    }
    records
}

/// The networks of a family, each once; all of it where none is named.
fn networks(networks: &[IpNet], root: usize) -> Vec<Key> {
    if networks.is_empty() {
        return vec![Key { bits: 0, length: 0 }];
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
