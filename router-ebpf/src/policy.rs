//! Policy: whether a list lets a flow's first packet pass. Known flows are not asked about.
//!
//! The meaning is that of the list, rule after rule: the first that matches decides. The way there is
//! another one, whose length does not depend on how many rules there are: down the trie by destination, from each
//! place on the way down the trie by source that is there, and from each place on that way down the trie by
//! protocol and port ([`router_common::policy`]). What is met on the way waits until what lies further has been
//! looked at: it is for those that come before the others that there are rules about narrow networks, and what
//! comes behind the best rule so far is left out.
//!
//! Both families are one here: an address is 128 bits, an IPv4 address the first 32 of them.

use router_common::net::Be16;
use router_common::policy::{ANY_PROTOCOL, Block, List, NO_RULE, Pointer};

use crate::conntrack::Arrival;
use crate::family::Family;
use crate::parse::Transport;
use crate::tables::Tables;

/// More than ever wait: a place for each bit of both addresses, of protocol and port, and for none of each.
const WAITING: usize = 512;
/// So many blocks are looked at in a round,
const ROUND: u32 = 64;
/// of which there are so many at most; no list that anybody writes takes a second one. Where they do not do,
/// the packet is denied.
const ROUNDS: u32 = 64;

/// A flow's first packet, and what is found out about it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What the tries are gone down by, by [`Pointer::kind`]: bits in host byte order, and some behind them that
    /// are none.
    pub keys: [[u64; 4]; 4],
    /// Destination port, host byte order; of ICMP type and code.
    pub port: u32,
    /// IP protocol number.
    pub protocol: u32,
    /// Rank of the first rule that was found to match.
    pub rank: u32,
    /// Its counter.
    pub counter: u32,
    /// Whether it lets the packet pass.
    pub allows: u32,
    /// What is to be looked at next.
    pub next: Pointer,
    /// How many wait.
    pub count: u32,
    /// Zero.
    pub pad: u32,
    /// What waits; the last comes first.
    pub waiting: [Pointer; WAITING],
}

impl Case {
    /// Nothing.
    pub const EMPTY: Self = Self {
        keys: [[0; 4]; 4],
        port: 0,
        protocol: 0,
        rank: NO_RULE,
        counter: 0,
        allows: 0,
        next: Pointer::NONE,
        count: 0,
        pad: 0,
        waiting: [Pointer::NONE; WAITING],
    };

    /// A packet from and to, as a list sees it.
    #[inline(always)]
    pub fn ask<A: Family>(&mut self, (src, dst): (A, A), protocol: u8, port: Be16) {
        let (protocol, port) = (u32::from(protocol), u32::from(port.get()));
        let ([src, src_rest], [dst, dst_rest]) = (src.bits(), dst.bits());
        let place = u64::from(protocol) << 56 | u64::from(port) << 40;
        let [by_destination, by_source, by_port, _] = &mut self.keys;
        (by_source[0], by_source[1]) = (src, src_rest);
        (by_destination[0], by_destination[1]) = (dst, dst_rest);
        by_port[0] = place;
        (self.port, self.protocol) = (port, protocol);
    }

    /// The packet that arrived last, to where it is going as a list sees it.
    #[inline(always)]
    pub fn ask_about<A: Family>(&mut self, arrival: &Arrival<A>, dst: A, dst_port: Be16) {
        let port = match arrival.transport {
            Transport::IcmpQuery => arrival.icmp,
            _ => dst_port,
        };
        self.ask((arrival.key.src, dst), arrival.key.protocol, port);
    }

    #[inline(always)]
    fn wait(&mut self, at: Pointer) {
        if at.is_none() {
            return;
        }
        if let Some(place) = self.waiting.get_mut(self.count as usize & (WAITING - 1)) {
            *place = at;
            self.count += 1;
        }
    }

    /// The last that waits; none, if nothing does.
    #[inline(always)]
    fn come(&mut self) -> Pointer {
        let Some(last) = self.count.checked_sub(1) else { return Pointer::NONE };
        self.count = last;
        self.waiting.get(last as usize & (WAITING - 1)).copied().unwrap_or(Pointer::NONE)
    }
}

/// Whether the list lets it pass. The rule that has decided, or the list, counts it, unless it passes now and is
/// asked about again.
#[inline(always)]
pub fn permits<A: Family, T: Tables>(
    tables: &T,
    list: &List,
    case: &mut Case,
    bytes: u32,
    comes_again: bool,
) -> bool {
    (case.rank, case.allows, case.counter) = (NO_RULE, u32::from(list.default_allows), list.counter);
    (case.next, case.count) = (A::root(list), 0);
    for _ in 0..ROUNDS {
        if tables.search(case) {
            if case.allows == 0 || !comes_again {
                tables.count_rule(case.counter, bytes);
            }
            return case.allows != 0;
        }
    }
    false
}

/// Looks at some blocks; whether none is left.
#[inline(always)]
pub fn search<T: Tables>(tables: &T, case: &mut Case) -> bool {
    let mut at = case.next;
    for _ in 0..ROUND {
        if at.is_none() {
            return true;
        }
        // How many wait is nothing that the verifier knows, who would follow each number that it may be.
        tables.read_again(case);
        let Some(block) = tables.block(at.index()) else { return true };
        let mut next = Pointer::NONE;
        if block.words[Block::RANK] < case.rank {
            next = if at.kind() == Pointer::RULE { judge(case, &block) } else { descend(case, &block, at) };
        }
        at = if next.is_none() { case.come() } else { next };
    }
    case.next = at;
    false
}

/// One node further, while what ends here waits.
#[inline(always)]
fn descend(case: &mut Case, node: &Block, at: Pointer) -> Pointer {
    let word = |word: u32| {
        let key = case.keys.get(at.kind() as usize & 3);
        key.and_then(|key| key.get(word as usize & 3)).copied().unwrap_or_default()
    };
    // Three bits, without a branch, which the verifier would follow.
    let from = 3 * at.level();
    let (from, within) = (from >> 6, from & 63);
    let bits = word(from).wrapping_shl(within) | word(from + 1).wrapping_shr(1).wrapping_shr(63 - within);
    let three = (bits >> 61) as u32;
    for bits in 0..3 {
        case.wait(slot(node, 1 << bits | three >> (3 - bits)));
    }
    slot(node, 8 | three)
}

#[inline(always)]
fn slot(node: &Block, slot: u32) -> Pointer {
    Pointer(node.words.get(slot as usize & 15).copied().unwrap_or_default())
}

/// Keeps a rule that matches; the one behind it, if it does not and that one may.
#[inline(always)]
fn judge(case: &mut Case, rule: &Block) -> Pointer {
    if !matches(rule, case) {
        let is_alone = rule.words[Block::PLACE] != 0;
        return if is_alone { Pointer::NONE } else { Pointer(rule.words[Block::NEXT]) };
    }
    case.rank = rule.words[Block::RANK];
    case.counter = rule.words[Block::COUNTER];
    case.allows = rule.words[Block::MATCH] & 1;
    Pointer::NONE
}

#[inline(always)]
fn matches(rule: &Block, case: &Case) -> bool {
    let (protocol, ports) = (rule.words[Block::MATCH] >> 8 & 0xff, rule.words[Block::PORTS]);
    if protocol != case.protocol && protocol != u32::from(ANY_PROTOCOL) {
        return false;
    }
    let port = case.port & rule.words[Block::PORT_MASK];
    if port < ports >> 16 || port > ports & 0xffff {
        return false;
    }
    let lengths = rule.words[Block::LENGTHS];
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = rule.words;
    differs([s0, s1], case.keys[1][0], lengths) == 0
        && differs([s2, s3], case.keys[1][1], lengths >> 8) == 0
        && differs([d0, d1], case.keys[0][0], lengths >> 16) == 0
        && differs([d2, d3], case.keys[0][1], lengths >> 24) == 0
}

/// The bits of half an address that are not as those of a network, of which as many count as the lowest byte of
/// `length` says.
#[inline(always)]
fn differs([first, second]: [u32; 2], of: u64, length: u32) -> u64 {
    ((u64::from(first) << 32 | u64::from(second)) ^ of) & first_bits(length)
}

/// A mask of up to 64 bits: as many as the lowest byte says. Without a branch, which the verifier would follow.
#[inline(always)]
fn first_bits(count: u32) -> u64 {
    let count = count & 0xff;
    let half = count >> 1;
    !(u64::MAX.wrapping_shr(half).wrapping_shr(count - half))
}
