//! Policy: whether a list lets a flow's first packet pass. Known flows are not asked about.
//!
//! The meaning is that of the list, rule after rule: the first that matches decides. The way there is
//! another one, whose length does not depend on how many rules there are: down the trie by destination, from each
//! place on the way down the trie by source that is there, and from each place on that way down the trie by
//! protocol and port ([`router_common::policy`]). What is met on the way waits until what lies further has been
//! looked at: it is for those that come before the others that there are rules about narrow networks, and what
//! comes behind the best rule so far is left out, unread.
//!
//! Most flows are like one that was before: each CPU keeps what lists have said ([`Ruling`]), so that they are
//! asked the same once. What is kept names the list's version, so that no change has to be told of.
//!
//! Both families are one here: an address is 128 bits, an IPv4 address the first 32 of them.

use router_common::net::Be16;
use router_common::policy::{ANY_PROTOCOL, Block, List, NO_RULE, Pointer, RULINGS, Ruling};

use crate::conntrack::Arrival;
use crate::family::{ETHERTYPE_IPV6, Family};
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
    /// The list that is asked.
    pub list: List,
    /// What it says, and what it was asked: its version, both addresses' bits, and of which IP version, protocol and
    /// port.
    pub ruling: Ruling,
    /// What the tries are gone down by, by [`Pointer::kind`]: bits in host byte order, in words as [`Block::place`] has
    /// them, and once more the last 64.
    pub keys: [[u64; 4]; 4],
    /// Destination port, host byte order; of ICMP type and code.
    pub port: u32,
    /// IP protocol number.
    pub protocol: u32,
    /// [`Block::RANK`] of the first rule that was found to match.
    pub rank: u32,
    /// What is to be looked at next.
    pub next: Pointer,
    /// How many wait.
    pub count: u32,
    /// What waits; the last comes first.
    pub waiting: [Pointer; WAITING],
}

impl Case {
    /// Nothing.
    pub const EMPTY: Self = Self {
        list: List {
            content: [0; 16],
            version: 0,
            roots: [0; 2],
            rules: 0,
            counter: 0,
            default_allows: 0,
            pad: [0; 7],
        },
        ruling: Ruling::NONE,
        keys: [[0; 4]; 4],
        port: 0,
        protocol: 0,
        rank: NO_RULE,
        next: Pointer::NONE,
        count: 0,
        waiting: [Pointer::NONE; WAITING],
    };

    /// A packet from and to, as a list sees it.
    #[inline(always)]
    pub fn ask<A: Family>(&mut self, (src, dst): (A, A), protocol: u8, port: Be16) {
        let (protocol, port) = (u32::from(protocol), u32::from(port.get()));
        let [by_destination, by_source, by_port, _] = &mut self.keys;
        let [_, to_first, to_last, from_first, from_last, about] = &mut self.ruling.question;
        for (key, question, address) in
            [(by_destination, [to_first, to_last], dst), (by_source, [from_first, from_last], src)]
        {
            let [first, last] = address.bits();
            key[0] = first;
            [*question[0], *question[1]] = [first, last];
            // Nobody looks further where a rule is about IPv4.
            if A::ETHERTYPE == ETHERTYPE_IPV6 {
                [key[1], key[2], key[3]] = [first << 63 | last >> 1, last << 62, last];
            }
        }
        by_port[0] = u64::from(protocol) << 56 | u64::from(port) << 40;
        *about = by_port[0] | u64::from(A::VERSION);
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

    /// The last that waits; none, if nothing does.
    #[inline(always)]
    fn come(&mut self) -> Pointer {
        let Some(last) = self.count.checked_sub(1) else { return Pointer::NONE };
        self.count = last;
        self.waiting.get(last as usize & (WAITING - 1)).copied().unwrap_or(Pointer::NONE)
    }
}

/// Whether a list lets it pass; one that is not there lets nothing. The rule that has decided, or the list, counts it,
/// unless it passes now and is asked about again.
#[inline(always)]
pub fn permits<A: Family, T: Tables>(
    tables: &T,
    list: u32,
    case: &mut Case,
    bytes: u32,
    comes_again: bool,
) -> bool {
    let Some(found) = tables.list(list) else { return false };
    case.list = found;
    case.ruling.question[0] = found.version;
    let place = place(&case.ruling.question);
    if !is_kept(tables, place, &mut case.ruling) && !is_kept(tables, place ^ 1, &mut case.ruling) {
        if !rule::<A, T>(tables, case) {
            return false;
        }
        // What is wrong because the list was replaced while it was read must not last.
        if tables.list(list).is_some_and(|now| is_version(&now, &case.list)) {
            // Two that are asked in turns come to lie beside each other sooner or later, and stay.
            tables.keep_ruling(place ^ tables.random() & 1, &case.ruling);
        }
    }
    let allows = case.ruling.allows != 0;
    if !allows || !comes_again {
        tables.count_rule(case.ruling.counter, bytes);
    }
    allows
}

/// Looks for the first rule that matches; whether an end of the list was reached.
#[inline(always)]
fn rule<A: Family, T: Tables>(tables: &T, case: &mut Case) -> bool {
    (case.rank, case.ruling.counter) = (NO_RULE, case.list.counter);
    (case.next, case.count) = (A::root(&case.list), 0);
    for _ in 0..ROUNDS {
        if tables.search(case) {
            case.ruling.allows = match case.rank {
                NO_RULE => u32::from(case.list.default_allows),
                rank => rank & Block::ALLOWS,
            };
            return true;
        }
    }
    false
}

/// Whether a place has what was said to the question; then that is the ruling.
#[inline(always)]
fn is_kept<T: Tables>(tables: &T, place: u32, ruling: &mut Ruling) -> bool {
    let Some(kept) = tables.ruling(place) else { return false };
    let differ =
        kept.question.iter().zip(&ruling.question).fold(0, |differ, (one, other)| differ | (one ^ other));
    if differ == 0 {
        (ruling.counter, ruling.allows) = (kept.counter, kept.allows);
    }
    differ == 0
}

/// Where a CPU keeps what was said to a question: there or in the other one of a pair.
#[inline(always)]
fn place(question: &[u64; 6]) -> u32 {
    // FxHash, whose upper bits are its best.
    let mix = |mixed: u64, word: &u64| (mixed.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    (question.iter().fold(0, mix) >> (64 - RULINGS.ilog2())) as u32
}

/// Whether a list is in all that counts as it was when it was read.
#[inline(always)]
fn is_version(now: &List, list: &List) -> bool {
    let [v4, v6] = now.roots;
    (now.version, v4, v6, now.counter, now.default_allows)
        == (list.version, list.roots[0], list.roots[1], list.counter, list.default_allows)
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
        let mut next = Pointer::NONE;
        if at.leads_before(case.rank) {
            let Some(block) = tables.block(at.index()) else { return true };
            next = match at.kind() {
                Pointer::RULES4 => judge_three(case, &block),
                Pointer::RULE6 => judge_one(case, &block),
                _ => descend(case, &block, at),
            };
        }
        at = if next.is_none() { case.come() } else { next };
    }
    case.next = at;
    false
}

/// One node further, while what ends here waits.
#[inline(always)]
fn descend(case: &mut Case, node: &Block, at: Pointer) -> Pointer {
    let place = node.words[Block::PLACE];
    let key = case.keys.get(at.kind() as usize & 3).and_then(|key| key.get((place >> 6) as usize & 3));
    let three = (key.copied().unwrap_or_default() << (place & 63) >> 61) as u32;
    let mut count = case.count;
    for bits in 0..3 {
        let at = slot(node, 1 << bits | three >> (3 - bits));
        if at.leads_before(case.rank)
            && let Some(place) = case.waiting.get_mut(count as usize & (WAITING - 1))
        {
            *place = at;
            count += 1;
        }
    }
    case.count = count;
    slot(node, 8 | three)
}

#[inline(always)]
fn slot(node: &Block, slot: u32) -> Pointer {
    Pointer(node.words.get(slot as usize & 15).copied().unwrap_or_default())
}

/// Keeps the first of three rules of IPv4, if it matches; where to go on, if none does.
#[inline(always)]
fn judge_three(case: &mut Case, rules: &Block) -> Pointer {
    let [destination, source] = [case.keys[0][0], case.keys[1][0]].map(|key| (key >> 32) as u32);
    let last_bits = ((source & 1) * Block::SOURCE_BIT) | ((destination & 1) * Block::DESTINATION_BIT);
    for at in Block::RULES {
        let word = |word: usize| rules.words.get(at + word).copied().unwrap_or_default();
        // Those behind it come later still.
        if word(Block::RANK) >= case.rank {
            return Pointer::NONE;
        }
        if !is_within(destination, word(Block::DESTINATION)) || !is_within(source, word(Block::SOURCE)) {
            continue;
        }
        let details = word(Block::MATCH);
        let unlike = (details ^ last_bits) & ((details & Block::ARE_WHOLE) * Block::BEHIND_WHOLE);
        if unlike == 0 && is_about(case, word(Block::PORTS), details) {
            (case.rank, case.ruling.counter) = (word(Block::RANK), details & Block::COUNTER);
            return Pointer::NONE;
        }
    }
    behind(rules)
}

/// The same of a rule of IPv6.
#[inline(always)]
fn judge_one(case: &mut Case, rule: &Block) -> Pointer {
    let [rank, lengths, _, ports, details, s0, s1, s2, s3, d0, d1, d2, d3, ..] = rule.words;
    if rank >= case.rank {
        return Pointer::NONE;
    }
    if is_about(case, ports, details)
        && differs([s0, s1], case.keys[1][0], lengths) == 0
        && differs([s2, s3], case.keys[1][3], lengths >> 8) == 0
        && differs([d0, d1], case.keys[0][0], lengths >> 16) == 0
        && differs([d2, d3], case.keys[0][3], lengths >> 24) == 0
    {
        (case.rank, case.ruling.counter) = (rank, details & Block::COUNTER);
        return Pointer::NONE;
    }
    behind(rule)
}

/// Where to go on behind rules of which none matches.
#[inline(always)]
fn behind(rules: &Block) -> Pointer {
    let is_one_place = rules.words[Block::MATCH] & Block::IS_ONE_PLACE != 0;
    if is_one_place { Pointer::NONE } else { Pointer(rules.words[Block::NEXT]) }
}

/// Whether protocol and port are a rule's.
#[inline(always)]
fn is_about(case: &Case, ports: u32, details: u32) -> bool {
    let protocol = details >> 24;
    if protocol != case.protocol && protocol != u32::from(ANY_PROTOCOL) {
        return false;
    }
    let port = if details & Block::IS_CODE == 0 { case.port } else { case.port & 0xff };
    port >= ports >> 16 && port <= ports & 0xffff
}

/// Whether an address is in a network of IPv4 as a block has it, but for the last bit.
#[inline(always)]
const fn is_within(address: u32, network: u32) -> bool {
    // The lowest bit that is set is the one behind those that count.
    address ^ network <= network ^ network.wrapping_sub(1)
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
