//! The tries: how rules go in and out.
//!
//! What a pointer leads to is about a path: the bits of a trie's key that all of it has in common, and the whole keys of
//! the tries around. It is a few rules behind each other, a node that tells more of them apart by the next bits in
//! which they differ, or, where all have the same key, a node of the next trie. Where only one pointer would be
//! in a node there is none.
//!
//! A rule is in the trie by protocol and port as often as its ports are prefixes; of rules behind each other each is
//! there once for the path, whatever it has below it.
//!
//! Functions take a reference to what they change, and hand back one to what came of it.

use router_common::policy::{Block, Pointer};

use super::record::{Dimension, Key, Record};
use super::store::{Full, Memory, Store, is_rules, pointers};

/// So many blocks of rules at most are behind each other, where a node can tell them apart.
const MOST_CHAINED: usize = 3;
/// So many rules are kept at one place of the last trie, where only the first is ever asked.
const MOST_WAITING: usize = 64;

impl<M: Memory> Store<M> {
    /// All of these rules, in their order. What is left out at a place because too many are before it there comes back
    /// as `true`: a list made from this one by taking rules out would miss it.
    ///
    /// # Errors
    /// There is no room; then the references are wrong, see [`Store::recount`].
    pub fn arrange(
        &mut self,
        dimension: Dimension,
        path: Key,
        records: &[Record],
    ) -> Result<(Pointer, bool), Full> {
        let Some(first) = records.first() else { return Ok((Pointer::NONE, false)) };
        if records.len() <= MOST_CHAINED * Record::in_block(first.kind) {
            return Ok((self.chain(records, false)?, false));
        }
        let (key, common, is_same) = in_common(dimension, path, records);
        if is_same && dimension == Dimension::Port {
            let kept = records.len().min(MOST_WAITING);
            return Ok((self.chain(&records[..kept], true)?, kept < records.len()));
        }
        if is_same {
            return self.arrange(dimension.next(), Key::ALL, records);
        }
        let level = common / 3;
        let mut slots: [Vec<Record>; 16] = Default::default();
        for record in records {
            record.each_key(dimension, path, |key| {
                let slot = &mut slots[key.slot(level)];
                if slot.last() != Some(record) {
                    slot.push(*record);
                }
            });
        }
        let (mut node, mut is_short) = (Block::EMPTY, false);
        node.words[Block::PLACE] = Block::place(level);
        for (slot, records) in slots.iter().enumerate() {
            let (below, short) = self.arrange(dimension, key.below(level, slot), records)?;
            node.words[slot] |= below.0;
            is_short |= short;
        }
        Ok((self.make(&node, dimension.kind())?, is_short))
    }

    /// Puts a rule in.
    ///
    /// # Errors
    /// As [`arrange`](Self::arrange).
    pub fn put(
        &mut self,
        at: Pointer,
        dimension: Dimension,
        path: Key,
        record: &Record,
    ) -> Result<(Pointer, bool), Full> {
        if at.is_none() || is_rules(at.kind()) {
            let mut records = self.chained(at);
            let place = records.partition_point(|there| there.rank <= record.rank);
            records.insert(place, *record);
            let arranged = self.arrange(dimension, path, &records)?;
            self.release(at);
            return Ok(arranged);
        }
        let Some(there) = self.any_key(at, dimension, path) else { return Ok((at, false)) };
        let mut common = there.length;
        record.each_key(dimension, path, |key| common = common.min(key.common(there)));
        if at.kind() != dimension.kind() && record.key(dimension, path) == Some(there) {
            return self.put(at, dimension.next(), Key::ALL, record);
        }
        let is_below = at.kind() == dimension.kind() && common == there.length;
        let node = match is_below {
            true => self.own(at)?,
            // All that is there parts from the rule before.
            false => {
                let mut node = Block::EMPTY;
                node.words[Block::PLACE] = Block::place(common / 3);
                node.words[there.slot(common / 3)] = at.0;
                self.make(&node, dimension.kind())?
            }
        };
        let mut is_short = false;
        let mut block = self.memory.block(node.index());
        for (slot, path) in ways(dimension, path, &block, record) {
            let (below, short) = self.put(Pointer(block.words[slot]), dimension, path, record)?;
            block.words[slot] = below.0;
            is_short |= short;
        }
        Ok((self.write(node.index(), &block, node.kind()), is_short))
    }

    /// Takes a rule out, if it is there.
    ///
    /// # Errors
    /// As [`arrange`](Self::arrange).
    pub fn take_out(
        &mut self,
        at: Pointer,
        dimension: Dimension,
        path: Key,
        record: &Record,
    ) -> Result<Pointer, Full> {
        if at.is_none() {
            return Ok(at);
        }
        if is_rules(at.kind()) {
            let mut records = self.chained(at);
            let Some(place) = records.iter().position(|there| there == record) else { return Ok(at) };
            records.remove(place);
            let (rest, _) = self.arrange(dimension, path, &records)?;
            self.release(at);
            return Ok(rest);
        }
        if at.kind() != dimension.kind() {
            return self.take_out(at, dimension.next(), Key::ALL, record);
        }
        let node = self.own(at)?;
        let mut block = self.memory.block(node.index());
        for (slot, path) in ways(dimension, path, &block, record) {
            block.words[slot] = self.take_out(Pointer(block.words[slot]), dimension, path, record)?.0;
        }
        let node = self.write(node.index(), &block, node.kind());
        let left: Vec<Pointer> = pointers(&block, node.kind()).take(2).collect();
        match left[..] {
            [_, _] => Ok(node),
            _ => {
                let only = left.first().copied().unwrap_or(Pointer::NONE);
                self.hold(only);
                self.release(node);
                Ok(only)
            }
        }
    }

    /// The rules that a pointer leads to, each as often as it is there.
    pub fn rules(&self, at: Pointer, mut see: impl FnMut(Record)) {
        let mut waiting = vec![at];
        while let Some(at) = waiting.pop().filter(|at| !at.is_none()) {
            let block = self.memory.block(at.index());
            if is_rules(at.kind()) {
                Record::of(&block, at.kind()).for_each(&mut see);
            }
            waiting.extend(pointers(&block, at.kind()));
        }
    }

    /// The bits that all below a node of a trie has in common; of one of the next trie the whole key.
    fn any_key(&self, at: Pointer, dimension: Dimension, path: Key) -> Option<Key> {
        let is_own = at.kind() == dimension.kind();
        let level = Block::level(self.memory.word(at.index(), Block::PLACE));
        let mut at = at;
        while !is_rules(at.kind()) {
            // A node has something below it.
            at = pointers(&self.memory.block(at.index()), at.kind()).next()?;
        }
        let key = Record::of(&self.memory.block(at.index()), at.kind()).next()?.key(dimension, path)?;
        Some(if is_own { key.cut(3 * level) } else { key })
    }

    /// The rules behind each other.
    fn chained(&self, at: Pointer) -> Vec<Record> {
        let mut records = Vec::new();
        let mut at = at;
        while !at.is_none() {
            let block = self.memory.block(at.index());
            records.extend(Record::of(&block, at.kind()));
            at = Pointer(block.words[Block::NEXT]);
        }
        records
    }

    fn chain(&mut self, records: &[Record], is_one_place: bool) -> Result<Pointer, Full> {
        let Some(first) = records.first() else { return Ok(Pointer::NONE) };
        let mut next = Pointer::NONE;
        for records in records.chunks(Record::in_block(first.kind)).rev() {
            next = self.make(&Record::block(records, is_one_place, next), first.kind)?;
        }
        Ok(next)
    }
}

/// A key of the rules, how many bits all have in common, and whether all have that one alone.
fn in_common(dimension: Dimension, path: Key, records: &[Record]) -> (Key, u32, bool) {
    let first = records.first().and_then(|record| record.key(dimension, path)).unwrap_or(path);
    let (mut common, mut is_same) = (first.length, true);
    for record in records {
        record.each_key(dimension, path, |key| {
            common = common.min(key.common(first));
            is_same &= key == first;
        });
    }
    (first, common, is_same)
}

/// The slots of a node that a rule belongs to, and the path beyond each.
fn ways(dimension: Dimension, path: Key, node: &Block, record: &Record) -> Vec<(usize, Key)> {
    let level = Block::level(node.words[Block::PLACE]);
    let mut ways: Vec<(usize, Key)> = Vec::new();
    record.each_key(dimension, path, |key| {
        // What is shorter is not below this node.
        if key.length >= 3 * level {
            let slot = key.slot(level);
            if ways.iter().all(|(other, _)| *other != slot) {
                ways.push((slot, key.below(level, slot)));
            }
        }
    });
    ways
}
