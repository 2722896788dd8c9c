//! Policy: lists of rules, of which the first that matches a flow's first packet decides.
//!
//! ```text
//! FIREWALLS    public address → the list that flows to it are judged by, before it is translated
//! LISTS        number of a list → its roots in BLOCKS, one per family, and what decides where no rule does
//! BLOCKS       nodes and rules, 64 bytes each
//! RULE_COUNTS  what a rule has decided
//! RULINGS      what lists said to what they were asked lately, by CPU
//! ```
//!
//! A list is three tries inside each other: by destination, by source, by protocol and port. Destinations come first
//! because lists tell most of them apart. A node is for three
//! bits of its key; each of its slots has the prefixes that end there:
//!
//! ```text
//! word   0      1          2   3          4  5  6  7         8 … 15
//!        place  no bit     bit 1: 0, 1    bits 1-2: 0 … 3    bits 1-3: 0 … 7, and all that goes further
//! ```
//!
//! A slot points to rules, to a node of the next trie, or, the last eight, to a node for later bits of the same.
//! Bits in between are not compared, since each rule says in full what it is about. So a few rules are behind each
//! other, whatever they are about, and only where there are more does a node tell them apart. A pointer says
//! roughly how far in front the first rule is that it leads to: what it leads to need not be read to learn that
//! nothing there decides.
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
/// How many rulings each CPU keeps, a power of two.
pub const RULINGS: u32 = 1 << 14;
abi! {
    /// What a list is besides its rules.
    pub struct List[48] {
        /// The name of its content.
        pub content: [u8; 16],
        /// When it was written, nanoseconds of the monotonic clock: no two were at the same time, whatever their
        /// numbers and contents.
        pub version: u64,
        /// Where its rules begin, a [`Pointer`] per family: IPv4, IPv6.
        pub roots: [u32; 2],
        /// How many rules it has.
        pub rules: u32,
        /// The counter of what no rule matches.
        pub counter: u32,
        /// Whether a flow passes that no rule matches.
        pub default_allows: u8,
        /// Zero.
        pub pad: [u8; 7],
    }
}

abi! {
    /// A node, three rules of IPv4, or one of IPv6.
    pub struct Block[64] {
        /// Of a node: its place, then its slots. Of rules: see the constants.
        pub words: [u32; 16],
    }
}

impl Block {
    /// Nothing.
    pub const EMPTY: Self = Self { words: [0; 16] };
    /// Of a node: [which bits](Self::place) of its key it is for.
    pub const PLACE: usize = 0;
    /// Of rules: the [`Pointer`] to those behind them at the same place.
    pub const NEXT: usize = 15;
    /// Where the rules of IPv4 begin in a block, in their order; the others' words are counted from there. IPv6 has
    /// the first.
    pub const RULES: [usize; 3] = [0, 5, 10];
    /// Of a rule: its place among the others of its list, and in the lowest bit whether it [allows](Self::ALLOWS).
    /// Ranks are even, and ascend with gaps. [`NO_RULE`] where there is none.
    pub const RANK: usize = 0;
    /// See above.
    pub const ALLOWS: u32 = 1;
    /// Of a rule of IPv4: the source's network, with the bit behind those that count set; where all count, the last.
    pub const SOURCE: usize = 1;
    /// Of a rule of IPv4: the destination's likewise.
    pub const DESTINATION: usize = 2;
    /// Of a rule: first and last port in the upper and the lower half; of ICMP type and code.
    pub const PORTS: usize = 3;
    /// Of a rule: its counter, what is below, and the protocol in the upper byte.
    pub const MATCH: usize = 4;
    /// Which bits of those are the counter.
    pub const COUNTER: u32 = RULE_COUNTS - 1;
    /// Only the lower half of a port is compared.
    pub const IS_CODE: u32 = 1 << 18;
    /// Of IPv4: all bits of the source count, of the destination.
    pub const WHOLE: [u32; 2] = [1 << 19, 1 << 20];
    /// Either.
    pub const ARE_WHOLE: u32 = Self::WHOLE[0] | Self::WHOLE[1];
    /// What makes the last bits' flags of those.
    pub const BEHIND_WHOLE: u32 = 1 << 2;
    /// Of IPv4: the source's last bit, where all count.
    pub const SOURCE_BIT: u32 = Self::WHOLE[0] * Self::BEHIND_WHOLE;
    /// The destination's likewise.
    pub const DESTINATION_BIT: u32 = Self::WHOLE[1] * Self::BEHIND_WHOLE;
    /// The block's rules, and those behind them, are there for the same prefix of all three tries.
    pub const IS_ONE_PLACE: u32 = 1 << 23;
    /// Of a rule of IPv6, from the lowest byte: how many of the first 64 bits of the source's network count, of the
    /// last 64, the same of the destination's.
    pub const LENGTHS: usize = 1;
    /// Of a rule of IPv6: the source's network, most significant word first.
    pub const SOURCE6: usize = 5;
    /// Of a rule of IPv6: the destination's.
    pub const DESTINATION6: usize = 9;

    /// Where the three bits of a level are, levels being counted by threes: up to 42 of an IPv6 address. Keys are in words
    /// of 64 bits of which each begins 63 bits behind the one before, so that no three are in two words: which word,
    /// and in the lowest six bits how many of it are in front.
    pub const fn place(level: u32) -> u32 {
        (level / 21) << 6 | (level % 21 * 3)
    }

    /// The level of a place.
    pub const fn level(place: u32) -> u32 {
        (place >> 6) * 21 + (place & 63) / 3
    }
}

/// Which block, what is there, and how far in front. 0 is none.
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
    /// Of rules of IPv4, and those behind them.
    pub const RULES4: u32 = 3;
    /// Of a rule of IPv6, and those behind it.
    pub const RULE6: u32 = 4;
    /// Which bits of the lowest rank it has.
    const RANK: u32 = u32::MAX << 22;

    /// To a block, of which no rule that it leads to has a rank below that one.
    #[inline(always)]
    pub const fn new(index: u32, kind: u32, lowest: u32) -> Self {
        Self(lowest & Self::RANK | index << 3 | kind)
    }

    /// None.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Which block.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 >> 3 & (BLOCKS - 1)
    }

    /// What is there.
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        self.0 & 7
    }

    /// No rule that it leads to has a lower rank.
    #[inline(always)]
    pub const fn lowest(self) -> u32 {
        self.0 & Self::RANK
    }

    /// Whether it leads to something that may come before a rank.
    #[inline(always)]
    pub const fn leads_before(self, rank: u32) -> bool {
        self.0.wrapping_sub(1) < rank | !Self::RANK
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

abi! {
    /// What a list said to what it was asked by a CPU: an entry of its exact-match cache, which nobody else reads or
    /// writes.
    pub struct Ruling[64] {
        /// The question, of which the list's version is a part; zeroes for none.
        pub question: [u64; 6],
        /// The counter of the rule that has decided, or of the list.
        pub counter: u32,
        /// Whether the flow passes.
        pub allows: u32,
        /// Zero.
        pub pad: u64,
    }
}

impl Ruling {
    /// Nothing was asked.
    pub const NONE: Self = Self { question: [0; 6], counter: 0, allows: 0, pad: 0 };
}
