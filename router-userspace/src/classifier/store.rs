//! Blocks, and who refers to them.
//!
//! A block that may be read by the programs is never written. What changes is made anew, and with it the blocks
//! on the way to it; all others are shared by the old and the new. A block that nothing refers to any more is
//! used again when no program can be reading it.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use router_common::policy::{Block, Pointer, RuleCount};

use super::record::Record;

/// How long a packet may still be on its way through a list that nothing is judged by any more: far longer than
/// a program runs.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// Where blocks and counters lie.
pub trait Memory {
    /// A block.
    fn block(&self, index: u32) -> Block;
    /// A word of a block.
    fn word(&self, index: u32, word: usize) -> u32;
    /// Writes a block.
    fn set_block(&mut self, index: u32, block: &Block);
    /// Writes a word of a block.
    fn set_word(&mut self, index: u32, word: usize, value: u32);
    /// How many blocks there are, the first included, which is none.
    fn blocks(&self) -> u32;
    /// What a rule has decided.
    fn count(&self, counter: u32) -> RuleCount;
    /// It has decided so much.
    fn set_count(&mut self, counter: u32, decided: RuleCount);
    /// How many counters there are, the first included, which counts for none.
    fn counters(&self) -> u32;
}

/// Blocks and counters of this process's own, which take room as they are used.
#[derive(Clone, Debug)]
pub struct OwnMemory {
    blocks: Vec<Block>,
    counts: Vec<RuleCount>,
    most_blocks: u32,
    most_counts: u32,
}

impl OwnMemory {
    /// At most so many of each.
    pub const fn new(most_blocks: u32, most_counts: u32) -> Self {
        Self { blocks: Vec::new(), counts: Vec::new(), most_blocks, most_counts }
    }
}

impl Memory for OwnMemory {
    fn block(&self, index: u32) -> Block {
        self.blocks[index as usize]
    }

    fn word(&self, index: u32, word: usize) -> u32 {
        self.blocks[index as usize].words[word]
    }

    fn set_block(&mut self, index: u32, block: &Block) {
        let index = index as usize;
        if index >= self.blocks.len() {
            self.blocks.resize(index + 1, Block::EMPTY);
        }
        self.blocks[index] = *block;
    }

    fn set_word(&mut self, index: u32, word: usize, value: u32) {
        self.blocks[index as usize].words[word] = value;
    }

    fn blocks(&self) -> u32 {
        self.most_blocks
    }

    fn count(&self, counter: u32) -> RuleCount {
        self.counts.get(counter as usize).copied().unwrap_or(RuleCount { packets: 0, bytes: 0 })
    }

    fn set_count(&mut self, counter: u32, decided: RuleCount) {
        if let Some(count) = self.counts.get_mut(counter as usize) {
            *count = decided;
        }
    }

    fn counters(&self) -> u32 {
        self.most_counts
    }
}

/// There is no room for the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Of what.
    pub what: &'static str,
    /// How many there are.
    pub most: u32,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no room for so many rules: all {} {} are in use", self.most, self.what)
    }
}

impl std::error::Error for Full {}

/// The blocks.
#[derive(Debug)]
pub struct Store<M> {
    pub(super) memory: M,
    /// By block: how many blocks and lists point to it.
    references: Vec<u32>,
    /// By block: the edit that made it. What this one has made nobody has seen yet.
    made_by: Vec<u32>,
    edit: u32,
    free: Vec<u32>,
    retired: VecDeque<(Instant, u32)>,
}

impl<M: Memory> Store<M> {
    /// No block is in use.
    pub const fn new(memory: M) -> Self {
        Self {
            memory,
            references: Vec::new(),
            made_by: Vec::new(),
            edit: 0,
            free: Vec::new(),
            retired: VecDeque::new(),
        }
    }

    /// What was made so far may have been seen from now on.
    pub fn begin(&mut self) {
        self.edit += 1;
        self.reclaim();
    }

    /// How many blocks are in use.
    pub fn used(&self) -> u32 {
        (self.references.len().saturating_sub(1) - self.free.len() - self.retired.len()) as u32
    }

    /// Counts all references anew: only what the roots lead to is in use. `see` is shown each rule, also one that
    /// several lists share, once.
    pub fn recount(&mut self, roots: impl IntoIterator<Item = Pointer>, mut see: impl FnMut(Record)) {
        self.references.clear();
        self.references.push(1);
        let mut waiting: Vec<Pointer> = roots.into_iter().collect();
        while let Some(at) = waiting.pop() {
            let index = at.index() as usize;
            // A pointer to where there is nothing was not written by us.
            if at.is_none() || at.index() >= self.memory.blocks() {
                continue;
            }
            if index >= self.references.len() {
                self.references.resize(index + 1, 0);
            }
            self.references[index] += 1;
            if self.references[index] == 1 {
                let block = self.memory.block(at.index());
                if is_rules(at.kind()) {
                    Record::of(&block, at.kind()).for_each(&mut see);
                }
                waiting.extend(pointers(&block, at.kind()));
            }
        }
        // Some of those may have been in use a moment ago.
        let now = Instant::now();
        let unused = (0..).zip(&self.references).filter(|(_, references)| **references == 0);
        self.retired = unused.map(|(index, _)| (now, index)).collect();
        self.free.clear();
        self.made_by = vec![self.edit; self.references.len()];
        self.begin();
    }

    /// Somebody more refers to it.
    pub fn hold(&mut self, at: Pointer) {
        if !at.is_none() {
            self.references[at.index() as usize] += 1;
        }
    }

    /// Somebody less does.
    pub fn release(&mut self, at: Pointer) {
        let mut waiting = vec![at];
        while let Some(at) = waiting.pop() {
            if at.is_none() {
                continue;
            }
            let index = at.index() as usize;
            self.references[index] -= 1;
            if self.references[index] > 0 {
                continue;
            }
            waiting.extend(pointers(&self.memory.block(at.index()), at.kind()));
            if self.made_by[index] == self.edit {
                self.free.push(at.index());
            } else {
                self.retired.push_back((Instant::now(), at.index()));
            }
        }
    }

    /// A new block, which takes over the references in it.
    ///
    /// # Errors
    /// All are in use.
    pub fn make(&mut self, block: &Block, kind: u32) -> Result<Pointer, Full> {
        let index = self.take()?;
        self.references[index as usize] = 1;
        self.made_by[index as usize] = self.edit;
        Ok(self.write(index, block, kind))
    }

    /// The block itself, if nobody else can see it, or a copy; one reference for another.
    ///
    /// # Errors
    /// All are in use.
    pub fn own(&mut self, at: Pointer) -> Result<Pointer, Full> {
        let index = at.index() as usize;
        if self.references[index] == 1 && self.made_by[index] == self.edit {
            return Ok(at);
        }
        let block = self.memory.block(at.index());
        let copy = self.make(&block, at.kind())?;
        for pointer in pointers(&block, at.kind()) {
            self.hold(pointer);
        }
        self.release(at);
        Ok(copy)
    }

    /// Gives a block that nobody else can see another content.
    pub fn write(&mut self, index: u32, block: &Block, kind: u32) -> Pointer {
        self.memory.set_block(index, block);
        let lowest = match is_rules(kind) {
            true => Some(block.words[Block::RANK]),
            false => pointers(block, kind).map(Pointer::lowest).min(),
        };
        Pointer::new(index, kind, lowest.unwrap_or_default())
    }

    /// A copy of what lies in another store, block behind block in the order in which packets go through them, so
    /// that what is read one after the other lies together.
    ///
    /// # Errors
    /// There is no room.
    pub fn copy_in<N: Memory>(&mut self, from: &Store<N>, at: Pointer) -> Result<Pointer, Full> {
        // Taken from the end.
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        self.copy_below(from, at)
    }

    fn copy_below<N: Memory>(&mut self, from: &Store<N>, at: Pointer) -> Result<Pointer, Full> {
        if at.is_none() {
            return Ok(at);
        }
        let mut block = from.memory.block(at.index());
        let copy = self.make(&block, at.kind())?;
        for word in pointer_words(at.kind()) {
            block.words[word] = self.copy_below(from, Pointer(block.words[word]))?.0;
        }
        self.memory.set_block(copy.index(), &block);
        Ok(copy)
    }

    fn take(&mut self) -> Result<u32, Full> {
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        if self.references.len() < self.memory.blocks() as usize {
            self.references.resize(self.references.len().max(1) + 1, 0);
            self.made_by.resize(self.references.len(), 0);
            return Ok(self.references.len() as u32 - 1);
        }
        let full = Full { what: "blocks", most: self.memory.blocks() - 1 };
        let (retired, _) = self.retired.front().ok_or(full)?;
        std::thread::sleep(LAST_LOOK.saturating_sub(retired.elapsed()));
        self.reclaim();
        self.free.pop().ok_or(full)
    }

    fn reclaim(&mut self) {
        let now = Instant::now();
        let is_over = |(since, _): &mut (Instant, u32)| now.duration_since(*since) >= LAST_LOOK;
        while let Some((_, index)) = self.retired.pop_front_if(is_over) {
            self.free.push(index);
        }
    }
}

/// Where a block points to.
pub fn pointers(block: &Block, kind: u32) -> impl Iterator<Item = Pointer> + use<> {
    let block = *block;
    pointer_words(kind).map(move |word| Pointer(block.words[word])).filter(|pointer| !pointer.is_none())
}

fn pointer_words(kind: u32) -> RangeInclusive<usize> {
    if is_rules(kind) { Block::NEXT..=Block::NEXT } else { 1..=15 }
}

/// Whether blocks of a kind are rules.
pub const fn is_rules(kind: u32) -> bool {
    kind >= Pointer::RULES4
}
