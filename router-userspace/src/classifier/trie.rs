//! The tries: how a rule goes in and out.
//!
//! What lies at one place of a trie is a group: up to [`MOST_CHAINED`] rules behind each other, by their ranks, or
//! the next trie. All rules of a group have the same prefix in the tries around it. Where only one group lies
//! beyond a slot there is no node for it.
//!
//! Functions take a reference to what they change, and hand back one to what came of it.

use router_common::policy::{Block, MOST_CHAINED, Pointer};

use super::record::{Dimension, Key, Record, key};
use super::store::{Full, Memory, Store, pointers};

/// So many rules are kept at one place of the last trie, where only the first is ever asked.
const MOST_WAITING: usize = 64;

impl<M: Memory> Store<M> {
    /// Puts a rule in. What is left out at a place because too many are before it there comes back as `true`: a
    /// list made from this one by taking rules out would miss it.
    ///
    /// # Errors
    /// There is no room; then the references are wrong, see [`Store::recount`].
    pub fn put(
        &mut self,
        at: Pointer,
        dimension: Dimension,
        record: &Record,
    ) -> Result<(Pointer, bool), Full> {
        let mut at = at;
        let mut is_short = false;
        let places = if dimension == Dimension::Port { record.places() } else { vec![0] };
        for place in places {
            let block = record.block(place);
            let key = key(&block, dimension);
            let common = self.representative(at, dimension, key).map_or(0, |other| other.common(key));
            let way = Way { dimension, key, common };
            let (put, short) = self.put_below(at, way, &block)?;
            (at, is_short) = (put, is_short | short);
        }
        Ok((at, is_short))
    }

    /// Takes a rule out, if it is there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn take_out(&mut self, at: Pointer, dimension: Dimension, record: &Record) -> Result<Pointer, Full> {
        let mut at = at;
        let places = if dimension == Dimension::Port { record.places() } else { vec![0] };
        for place in places {
            let key = key(&record.block(place), dimension);
            at = self.take_below(at, dimension, key, record)?;
        }
        Ok(at)
    }

    /// The rules that a pointer leads to, each as often as it is there.
    pub fn rules(&self, at: Pointer, mut see: impl FnMut(&Block)) {
        let mut waiting = vec![at];
        while let Some(at) = waiting.pop().filter(|at| !at.is_none()) {
            let block = self.memory.block(at.index());
            if at.kind() == Pointer::RULE {
                see(&block);
            }
            waiting.extend(pointers(&block, at.kind()));
        }
    }

    /// The key of some rule that has as much in common with `key` as any.
    fn representative(&self, at: Pointer, dimension: Dimension, key: Key) -> Option<Key> {
        if at.is_none() {
            return None;
        }
        let mut at = at;
        while at.kind() != Pointer::RULE {
            let towards = (at.kind() == dimension.kind() && key.length >= 3 * at.level())
                .then(|| Pointer(self.memory.word(at.index(), key.slot(at.level()))))
                .filter(|towards| !towards.is_none());
            // A node has something below it.
            at = towards.or_else(|| pointers(&self.memory.block(at.index()), at.kind()).next())?;
        }
        Some(super::record::key(&self.memory.block(at.index()), dimension))
    }

    fn put_below(&mut self, at: Pointer, way: Way, block: &Block) -> Result<(Pointer, bool), Full> {
        let Way { dimension, key, common } = way;
        if at.is_none() {
            // A group of the last trie is never mistaken for one of the others.
            return match dimension {
                Dimension::Port => self.node(way, key.length / 3, &[(key, at)], block),
                _ => self.put_into(at, way, block),
            };
        }
        let is_node = at.kind() == dimension.kind();
        if is_node && common >= 3 * at.level() {
            let node = self.own(at)?;
            let slot = key.slot(node.level());
            let below = Pointer(self.memory.word(node.index(), slot));
            let (below, is_short) = if slot < 8 || below.is_none() {
                self.put_into(below, way, block)?
            } else {
                self.put_below(below, way, block)?
            };
            self.memory.set_word(node.index(), slot, below.0);
            let first = self.first(node).min(block.words[Block::RANK]);
            self.memory.set_word(node.index(), Block::RANK, first);
            return Ok((node, is_short));
        }
        // Something below has it, and all that is below agrees up to where they part.
        let Some(other) = self.representative(at, dimension, key) else { return Ok((at, false)) };
        if !is_node && other == key {
            return self.put_into(at, way, block);
        }
        let length = if is_node { 3 * at.level() } else { other.length };
        self.node(way, common / 3, &[(Key { length, ..other }, at)], block)
    }

    /// A node over what is there and a group of a new rule.
    fn node(
        &mut self,
        way: Way,
        level: u32,
        there: &[(Key, Pointer)],
        block: &Block,
    ) -> Result<(Pointer, bool), Full> {
        let (group, is_short) = self.put_into(Pointer::NONE, way, block)?;
        let mut node = Block::EMPTY;
        node.words[Block::RANK] = block.words[Block::RANK];
        for (key, at) in there.iter().filter(|(_, at)| !at.is_none()) {
            node.words[key.slot(level)] = at.0;
            node.words[Block::RANK] = node.words[Block::RANK].min(self.first(*at));
        }
        node.words[way.key.slot(level)] = group.0;
        Ok((self.make(&node, way.dimension.kind(), level)?, is_short))
    }

    /// Puts a rule into a group.
    fn put_into(&mut self, group: Pointer, way: Way, block: &Block) -> Result<(Pointer, bool), Full> {
        if group.kind() != Pointer::RULE && !group.is_none() {
            return self.put(group, way.dimension.next(), &Record::of(block));
        }
        let mut rules = self.chained(group);
        let at = rules.partition_point(|(_, rule)| rule.words[Block::RANK] <= block.words[Block::RANK]);
        if way.dimension == Dimension::Port {
            let is_short = rules.len() >= MOST_WAITING;
            if is_short && at == rules.len() {
                return Ok((group, true));
            }
            rules.truncate(MOST_WAITING - 1);
            return Ok((self.chain(group, rules, at, block)?, is_short));
        }
        if rules.len() < MOST_CHAINED {
            return Ok((self.chain(group, rules, at, block)?, false));
        }
        let (mut root, mut is_short) = (Pointer::NONE, false);
        let records = rules.iter().map(|(_, rule)| Record::of(rule)).chain([Record::of(block)]);
        for record in records {
            let (put, short) = self.put(root, way.dimension.next(), &record)?;
            (root, is_short) = (put, is_short | short);
        }
        self.release(group);
        Ok((root, is_short))
    }

    /// The rules behind each other.
    fn chained(&self, group: Pointer) -> Vec<(Pointer, Block)> {
        let mut rules = Vec::new();
        let mut at = group;
        while !at.is_none() {
            let rule = self.memory.block(at.index());
            rules.push((at, rule));
            at = Pointer(rule.words[Block::NEXT]);
        }
        rules
    }

    /// The chain of `rules`, which were the first of `group`, with a new one before the so-manieth. Those behind
    /// it are shared.
    fn chain(
        &mut self,
        group: Pointer,
        rules: Vec<(Pointer, Block)>,
        at: usize,
        block: &Block,
    ) -> Result<Pointer, Full> {
        let behind = rules.get(at).map_or(Pointer::NONE, |(pointer, _)| *pointer);
        // Where the chain was cut off, what is kept has to be made anew, to end there.
        let is_cut = rules.last().is_some_and(|(_, last)| last.words[Block::NEXT] != 0);
        let mut rest = Pointer::NONE;
        if is_cut {
            for (_, rule) in rules[at..].iter().rev() {
                rest = self.link(rule, rest)?;
            }
        } else {
            self.hold(behind);
            rest = behind;
        }
        let mut chain = self.link(block, rest)?;
        for (_, rule) in rules[..at].iter().rev() {
            chain = self.link(rule, chain)?;
        }
        self.release(group);
        Ok(chain)
    }

    fn link(&mut self, rule: &Block, next: Pointer) -> Result<Pointer, Full> {
        let mut rule = *rule;
        rule.words[Block::NEXT] = next.0;
        self.make(&rule, Pointer::RULE, 0)
    }

    fn take_below(
        &mut self,
        at: Pointer,
        dimension: Dimension,
        key: Key,
        record: &Record,
    ) -> Result<Pointer, Full> {
        if at.is_none() {
            return Ok(at);
        }
        if at.kind() != dimension.kind() {
            return self.take_from(at, dimension, record);
        }
        if key.length < 3 * at.level() {
            return Ok(at);
        }
        let slot = key.slot(at.level());
        if self.memory.word(at.index(), slot) == 0 {
            return Ok(at);
        }
        let node = self.own(at)?;
        let below = Pointer(self.memory.word(node.index(), slot));
        let below = if slot < 8 {
            self.take_from(below, dimension, record)?
        } else {
            self.take_below(below, dimension, key, record)?
        };
        self.memory.set_word(node.index(), slot, below.0);
        let left: Vec<Pointer> = pointers(&self.memory.block(node.index()), node.kind()).collect();
        match left[..] {
            [] => {
                self.release(node);
                Ok(Pointer::NONE)
            }
            // As above: a group of the last trie keeps its node.
            [only] if dimension != Dimension::Port || only.kind() == dimension.kind() => {
                self.hold(only);
                self.release(node);
                Ok(only)
            }
            _ => {
                if self.first(node) == record.rank() {
                    let first = left.iter().map(|below| self.first(*below)).min().unwrap_or_default();
                    self.memory.set_word(node.index(), Block::RANK, first);
                }
                Ok(node)
            }
        }
    }

    /// Takes a rule out of a group.
    fn take_from(&mut self, group: Pointer, dimension: Dimension, record: &Record) -> Result<Pointer, Full> {
        if group.is_none() {
            return Ok(group);
        }
        if group.kind() != Pointer::RULE {
            return self.take_out(group, dimension.next(), record);
        }
        let rules = self.chained(group);
        let is_it = |(_, rule): &(Pointer, Block)| rule.words[Block::RANK] == record.rank();
        let Some(at) = rules.iter().position(is_it) else { return Ok(group) };
        let mut chain = Pointer(rules[at].1.words[Block::NEXT]);
        self.hold(chain);
        for (_, rule) in rules[..at].iter().rev() {
            chain = self.link(rule, chain)?;
        }
        self.release(group);
        Ok(chain)
    }

    /// The lowest rank that a pointer leads to.
    fn first(&self, at: Pointer) -> u32 {
        self.memory.word(at.index(), Block::RANK)
    }
}

/// Where a rule goes.
#[derive(Clone, Copy, Debug)]
struct Way {
    dimension: Dimension,
    key: Key,
    /// How many bits it has in common with what is there.
    common: u32,
}
