//! Policy: whether a list lets a flow's first packet pass. Known flows are not asked about.
//!
//! The meaning is that of the list, rule after rule: the first that matches decides. The way there is
//! another one, whose length does not depend on how many rules there are: down the trie by source, from each
//! place on the way down the trie by destination that is there, and from each place on that way down the trie by
//! protocol and port ([`router_common::policy`]). What is behind the best rule so far is left out.
//!
//! Both families are one here: an address is 128 bits, an IPv4 address the first 32 of them.

use router_common::net::Be16;
use router_common::policy::{ANY_PROTOCOL, Block, List, MOST_CHAINED, NO_RULE, Pointer};

use crate::conntrack::Arrival;
use crate::family::Family;
use crate::parse::Transport;
use crate::tables::Tables;

/// What a trie is gone down by: bits, the first 64, the last 64 and none, host byte order.
pub type Key = [u64; 3];

/// A flow's first packet, and what is found out about it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// From.
    pub src: Key,
    /// To, as the list sees it.
    pub dst: Key,
    /// Protocol in the first 8 bits, and the port behind it.
    pub place: Key,
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
    /// Zero.
    pub pad: u32,
}

impl Case {
    /// Before anything is found out.
    #[inline(always)]
    pub fn new<A: Family>((src, dst): (A, A), protocol: u8, port: Be16) -> Self {
        let key = |[first, last]: [u64; 2]| [first, last, 0];
        let (protocol, port) = (u32::from(protocol), u32::from(port.get()));
        Self {
            src: key(src.bits()),
            dst: key(dst.bits()),
            place: [u64::from(protocol) << 56 | u64::from(port) << 40, 0, 0],
            port,
            protocol,
            rank: NO_RULE,
            counter: 0,
            allows: 0,
            pad: 0,
        }
    }

    /// The packet that arrived last, to where it is going as the list sees it.
    #[inline(always)]
    pub fn of<A: Family>(arrival: &Arrival<A>, dst: A, dst_port: Be16) -> Self {
        let port = match arrival.transport {
            Transport::IcmpQuery => arrival.icmp,
            _ => dst_port,
        };
        Self::new((arrival.key.src, dst), arrival.key.protocol, port)
    }

    #[inline(always)]
    fn key(&self, kind: u32) -> &Key {
        match kind {
            Pointer::BY_SOURCE => &self.src,
            Pointer::BY_DESTINATION => &self.dst,
            _ => &self.place,
        }
    }
}

/// Whether the list lets it pass. The rule that has decided, or the list, counts it.
#[inline(always)]
pub fn permits<A: Family, T: Tables>(tables: &T, list: &List, case: &mut Case, bytes: u32) -> bool {
    (case.allows, case.counter) = (u32::from(list.default_allows), list.counter);
    by_source::<A, T>(tables, case, A::root(list));
    tables.count_rule(case.counter, bytes);
    case.allows != 0
}

/// Down the trie by source.
#[inline(always)]
pub fn by_source<A: Family, T: Tables>(tables: &T, case: &mut Case, root: Pointer) {
    descend(tables, case, root, Pointer::BY_SOURCE, A::LIST_LEVELS);
}

/// Down the trie by destination that is at one place of the trie by source.
#[inline(always)]
pub fn by_destination<T: Tables>(tables: &T, case: &mut Case, root: Pointer) {
    descend(tables, case, root, Pointer::BY_DESTINATION, Pointer::LEVELS);
}

/// Down the trie by protocol and port that is at one place of one of those.
#[inline(always)]
pub fn by_port<T: Tables>(tables: &T, case: &mut Case, root: Pointer) {
    descend(tables, case, root, Pointer::BY_PORT, Pointer::PORT_LEVELS);
}

/// Visits what is at each place on the way down a trie.
#[inline(always)]
fn descend<T: Tables>(tables: &T, case: &mut Case, root: Pointer, kind: u32, levels: u32) {
    let mut at = root;
    for _ in 0..levels {
        if at.is_none() || at.kind() != kind {
            break;
        }
        let Some(node) = tables.block(at.index()) else { return };
        if node.words[Block::RANK] >= case.rank {
            return;
        }
        let next = three_bits(case.key(kind), 3 * at.level());
        for bits in 0..3 {
            let slot = slot(&node, 1 << bits | next >> (3 - bits));
            if !slot.is_none() {
                visit(tables, case, kind, slot);
            }
        }
        at = slot(&node, 8 | next);
    }
    if !at.is_none() {
        visit(tables, case, kind, at);
    }
}

#[inline(always)]
fn slot(node: &Block, slot: u32) -> Pointer {
    Pointer(node.words.get(slot as usize & 15).copied().unwrap_or_default())
}

/// What is at a place of a trie.
#[inline(always)]
fn visit<T: Tables>(tables: &T, case: &mut Case, outer: u32, at: Pointer) {
    match at.kind() {
        Pointer::BY_DESTINATION if outer < Pointer::BY_DESTINATION => tables.by_destination(case, at),
        Pointer::BY_PORT if outer < Pointer::BY_PORT => tables.by_port(case, at),
        _ => tables.chain(case, at),
    }
}

/// The rules at one place: the first that matches, if it is before what was found.
#[inline(always)]
pub fn chain<T: Tables>(tables: &T, case: &mut Case, first: Pointer) {
    let mut at = first;
    for _ in 0..MOST_CHAINED {
        match judge(tables, case, at) {
            Some(next) if !next.is_none() => at = next,
            _ => return,
        }
    }
}

/// Whether a rule matches; the one behind it, if it does not and those behind it may count.
#[inline(always)]
fn judge<T: Tables>(tables: &T, case: &mut Case, at: Pointer) -> Option<Pointer> {
    let rule = tables.block(at.index())?;
    tables.read_again(case);
    if rule.words[Block::RANK] >= case.rank {
        return None;
    }
    if !matches(&rule, case) {
        return Some(Pointer(rule.words[Block::NEXT]));
    }
    case.rank = rule.words[Block::RANK];
    case.counter = rule.words[Block::COUNTER];
    case.allows = rule.words[Block::MATCH] & 1;
    None
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
    differs([s0, s1], case.src[0], lengths) == 0
        && differs([s2, s3], case.src[1], lengths >> 8) == 0
        && differs([d0, d1], case.dst[0], lengths >> 16) == 0
        && differs([d2, d3], case.dst[1], lengths >> 24) == 0
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

/// Three bits of a key from the so-manieth, at most the 126th. Without a branch likewise.
#[inline(always)]
fn three_bits(key: &Key, from: u32) -> u32 {
    let word = |at: u32| key.get(at as usize).copied().unwrap_or_default();
    let (at, within) = (from >> 6 & 1, from & 63);
    let bits = word(at).wrapping_shl(within) | word(at + 1).wrapping_shr(1).wrapping_shr(63 - within);
    (bits >> 61) as u32
}
