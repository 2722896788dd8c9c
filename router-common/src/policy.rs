//! Policy: lists of rules, of which the first that matches a flow's first packet decides.
//!
//! ```text
//! FIREWALLS    public address → the list that flows to it are judged by, before it is translated
//! LISTS        number of a list → its roots in BLOCKS, one per family, and what decides where no rule does
//! BLOCKS        nodes and rules, 64 bytes each
//! RULE_COUNTS  what a rule has decided
//! ```
//!
//! A list is three tries inside each other: by destination, by source, by protocol and port. Destinations come first
//! because lists tell most of them apart. A node is for three
//! bits of its key; each of its slots has the prefixes that end there:
//!
//! ```text
//! word   0      1          2   3          4  5  6  7         8 … 15
//!        first  no bit     bit 1: 0, 1    bits 1-2: 0 … 3    bits 1-3: 0 … 7, and all that goes further
//! ```
//!
//! A slot points to a rule, to a node of the next trie, or, the last eight, to a node for later bits of the same.
//! Bits in between are not compared, since each rule says in full what it is about.
//!
//! A block that may be read never changes. Another content is another list, which shares with the one before what
//! is the same, and a port is switched from one to the other.

use crate::abi;

/// No list: everything passes.
pub const NO_LIST: u32 = 0;
/// Protocol of the rules that are about all of them. IANA has it reserved.
pub const ANY_PROTOCOL: u8 = 255;
/// No rule: behind all of them.
pub const NO_RULE: u32 = u32::MAX;
/// How many blocks there are; the first is none.
pub const BLOCKS: u32 = 1 << 19;
/// How many counters there are.
pub const RULE_COUNTS: u32 = 1 << 18;
/// So many rules at most are behind each other at one place of the first two tries; more make a trie.
pub const MOST_CHAINED: usize = 16;

abi! {
    /// What a list is besides its rules.
    pub struct List[36] {
        /// The name of its content.
        pub content: [u8; 16],
        /// Where its rules begin, a [`Pointer`] per family: IPv4, IPv6.
        pub roots: [u32; 2],
        /// How many rules it has.
        pub rules: u32,
        /// The counter of what no rule matches.
        pub counter: u32,
        /// Whether a flow passes that no rule matches.
        pub default_allows: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

abi! {
    /// A node or a rule.
    pub struct Block[64] {
        /// Of a node: the lowest [rank](Self::RANK) below it, then its slots. Of a rule: see the constants.
        pub words: [u32; 16],
    }
}

impl Block {
    /// Nothing.
    pub const EMPTY: Self = Self { words: [0; 16] };
    /// Of a rule: its place among the others of its list. Ranks ascend, with gaps.
    pub const RANK: usize = 0;
    /// Of a rule: the [`Pointer`] to the one behind it at the same place.
    pub const NEXT: usize = 1;
    /// Of a rule: its counter.
    pub const COUNTER: usize = 2;
    /// Of a rule: whether it allows in the lowest bit, protocol in the second byte.
    pub const MATCH: usize = 3;
    /// Of a rule: first and last port in the upper and the lower half; of ICMP type and code.
    pub const PORTS: usize = 4;
    /// Of a rule: which bits of a port are compared with those.
    pub const PORT_MASK: usize = 5;
    /// Of a rule in the third trie: the prefix it is there for, protocol and port in the upper 24 bits, and in the
    /// lowest how many of those count, with [`IS_PLACE`](Self::IS_PLACE). 0 elsewhere.
    pub const PLACE: usize = 6;
    /// See above. Where there is a place, the rules behind one that does not match do not match either.
    pub const IS_PLACE: u32 = 0x80;
    /// Of a rule, from the lowest byte: how many of the first 64 bits of the source's network count, of the last
    /// 64, the same of the destination's.
    pub const LENGTHS: usize = 7;
    /// Of a rule: the source's network, most significant word first; IPv4 has the first.
    pub const SOURCE: usize = 8;
    /// Of a rule: the destination's.
    pub const DESTINATION: usize = 12;
}

/// Which block, and what is there. 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pointer(pub u32);

impl Pointer {
    /// None.
    pub const NONE: Self = Self(0);
    /// [`kind`](Self::kind) of a node of the trie by destination.
    pub const BY_DESTINATION: u32 = 0;
    /// Of the trie by source.
    pub const BY_SOURCE: u32 = 1;
    /// Of the trie by protocol and port.
    pub const BY_PORT: u32 = 2;
    /// Of a rule, and those behind it.
    pub const RULE: u32 = 3;
    /// To a block.
    #[inline(always)]
    pub const fn new(index: u32, kind: u32, level: u32) -> Self {
        Self(index << 8 | kind << 6 | level)
    }

    /// None.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Which block.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 >> 8
    }

    /// What is there.
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        self.0 >> 6 & 3
    }

    /// Of a node: which three bits of its key it is for, counted by threes: up to 42 of an IPv6 address.
    #[inline(always)]
    pub const fn level(self) -> u32 {
        self.0 & 0x3f
    }
}

abi! {
    /// What a rule has decided. Written by all CPUs, atomically.
    pub struct RuleCount[16] {
        /// Packets: each is a flow's first.
        pub packets: u64,
        /// Their bytes, IP header included.
        pub bytes: u64,
    }
}
