//! Lists of rules in the programs' tables.
//!
//! The [`Classifier`] writes a list's blocks, which nobody reads before its entry in `LISTS` leads to them. What
//! an earlier daemon has left is found by that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use router_common::net::Ipv4;
use router_common::policy::{BLOCKS, Block, List, RULE_COUNTS, RuleCount};
use router_common::port::{LocalKey, Port};

use super::batch;
use super::expiry::monotonic_now;
use super::mapped::Mapped;
use super::maps::{Tables, absent_is_fine, local_key};
use crate::classifier::{Classifier, Former, ListCounts, Memory};
use crate::compile::TableSet;
use crate::compile::policy::ListEntry;
use crate::model::policy::{Action, Content, Question};

/// The tables.
pub(super) struct PolicyTables {
    firewalls: HashMap<MapData, LocalKey<Ipv4>, u32>,
    lists: HashMap<MapData, u32, List>,
    classifier: Classifier<Shared>,
    /// The version of the list that was written last.
    version: u64,
    succession: Option<Succession>,
}

/// Which lists take the place of which.
struct Succession {
    /// By list that is to be: those that the same flows are judged by so far.
    formers: BTreeMap<u32, BTreeSet<u32>>,
    /// Those that other flows still are judged by.
    staying: BTreeSet<u32>,
}

impl Succession {
    fn of(there: &TableSet, wanted: &TableSet) -> Self {
        let mut formers: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut follows = |new: u32, old: u32| {
            if new != old {
                formers.entry(new).or_default().insert(old);
            }
        };
        for (key, new) in &wanted.ports {
            let Some(old) = there.ports.get(key) else { continue };
            let lists = |port: &Port| [port.own_list, port.from_list, port.to_list, port.outside_list];
            lists(new).into_iter().zip(lists(old)).for_each(|(new, old)| follows(new, old));
        }
        for (address, new) in &wanted.firewalls {
            there.firewalls.get(address).into_iter().for_each(|old| follows(*new, *old));
        }
        Self { formers, staying: wanted.lists.keys().copied().collect() }
    }

    /// Those that a new one takes the place of, or shares.
    fn formers(&self, new: u32) -> Vec<(u32, Former)> {
        let formers = self.formers.get(&new).into_iter().flatten();
        let of = |number| if self.staying.contains(number) { Former::Stays } else { Former::Leaves };
        formers.map(|number| (*number, of(number))).collect()
    }

    /// One has taken the place of its formers: for others they are no more to be had.
    fn taken(&mut self, new: u32) {
        self.staying.extend(self.formers.get(&new).into_iter().flatten());
    }
}

/// How much of the policy's memory is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyUse {
    /// Blocks of 64 bytes in use.
    pub blocks: u32,
    /// Blocks there are.
    pub most_blocks: u32,
    /// Rules in use, defaults included.
    pub rules: u32,
    /// Rules that there are counters for.
    pub most_rules: u32,
}

impl PolicyUse {
    /// How full the fuller of the two is, in thousandths.
    pub fn permille(&self) -> u32 {
        let permille = |used: u32, most: u32| (u64::from(used) * 1000 / u64::from(most)) as u32;
        permille(self.blocks, self.most_blocks).max(permille(self.rules, self.most_rules))
    }
}

impl PolicyTables {
    pub(super) fn take(map: &mut impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let lists: HashMap<_, u32, List> = HashMap::try_from(map("LISTS")?)?;
        let memory = Shared {
            blocks: mapped(map, "BLOCKS", BLOCKS)?,
            counts: mapped(map, "RULE_COUNTS", RULE_COUNTS)?,
        };
        let there: Vec<_> = batch::entries(&lists).context("read LISTS")?.collect();
        Ok(Self {
            firewalls: HashMap::try_from(map("FIREWALLS")?)?,
            lists,
            classifier: Classifier::new(memory, there),
            version: 0,
            succession: None,
        })
    }

    /// The lists of public addresses.
    pub(super) fn firewalls(&self) -> Result<BTreeMap<Ipv4Addr, u32>> {
        let entries = batch::entries(&self.firewalls).context("read FIREWALLS")?;
        Ok(entries.map(|(key, list)| (key.address.into(), list)).collect())
    }

    /// What a list says; one that is not there lets nothing pass.
    pub(super) fn judge(&self, list: u32, question: &Question) -> Action {
        self.classifier.judge(list, question).unwrap_or(Action::Deny)
    }

    pub(super) fn observe(&self, tables: &mut TableSet) -> Result<()> {
        tables.firewalls = self.firewalls()?;
        let entry = |List { content, rules, .. }| ListEntry { content: Content(content), rules, list: None };
        let lists = batch::entries(&self.lists).context("read LISTS")?;
        tables.lists = lists.map(|(number, list)| (number, entry(list))).collect();
        Ok(())
    }
}

fn mapped<T: aya::Pod>(
    map: &mut impl FnMut(&str) -> Result<Map>,
    name: &str,
    length: u32,
) -> Result<Mapped<T>> {
    match map(name)? {
        Map::Array(data) => Mapped::new(data, length).with_context(|| format!("map {name} into memory")),
        other => bail!("{name} is {other:?}, not an array"),
    }
}

/// Blocks and counters in the programs' memory.
struct Shared {
    blocks: Mapped<Block>,
    counts: Mapped<RuleCount>,
}

impl Shared {
    fn at(&self, index: u32, word: usize) -> &AtomicU32 {
        assert!(word < 16, "word {word} of a block");
        // SAFETY: within the mapping; aligned to 4; everybody accesses it by words.
        unsafe { AtomicU32::from_ptr(self.blocks.pointer(index as usize).cast::<u32>().add(word)) }
    }

    fn counted(&self, counter: u32) -> [&AtomicU64; 2] {
        let packets = self.counts.pointer(counter as usize).cast::<u64>();
        // SAFETY: the two words of a value within the mapping; aligned to 8; everybody accesses them atomically.
        unsafe { [AtomicU64::from_ptr(packets), AtomicU64::from_ptr(packets.add(1))] }
    }
}

impl Memory for Shared {
    fn block(&self, index: u32) -> Block {
        Block { words: std::array::from_fn(|word| self.word(index, word)) }
    }

    fn word(&self, index: u32, word: usize) -> u32 {
        self.at(index, word).load(Ordering::Relaxed)
    }

    fn set_block(&mut self, index: u32, block: &Block) {
        for (word, value) in block.words.iter().enumerate() {
            self.set_word(index, word, *value);
        }
    }

    // The system call that lets programs find it comes later.
    fn set_word(&mut self, index: u32, word: usize, value: u32) {
        self.at(index, word).store(value, Ordering::Relaxed);
    }

    fn blocks(&self) -> u32 {
        BLOCKS
    }

    fn count(&self, counter: u32) -> RuleCount {
        let [packets, bytes] = self.counted(counter).map(|word| word.load(Ordering::Relaxed));
        RuleCount { packets, bytes }
    }

    fn set_count(&mut self, counter: u32, RuleCount { packets, bytes }: RuleCount) {
        for (word, value) in self.counted(counter).into_iter().zip([packets, bytes]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn counters(&self) -> u32 {
        RULE_COUNTS
    }
}

impl Tables {
    /// Writes a list of rules.
    ///
    /// # Errors
    /// There is no room for it, or a table cannot be written.
    pub fn add_list(&mut self, number: u32, entry: &ListEntry) -> Result<()> {
        let list = entry.list.as_ref().context("a list that was found cannot be written")?;
        let PolicyTables { lists, classifier, succession, version, .. } = &mut self.policy;
        // An earlier daemon's are all earlier.
        *version = monotonic_now().max(*version + 1);
        let value = match succession {
            Some(succession) => classifier.write_after(number, list, &succession.formers(number)),
            None => classifier.write(number, list),
        };
        let written = value.map_err(anyhow::Error::from).and_then(|value| {
            let inserted = lists.insert(number, List { version: *version, ..value }, 0);
            inserted.inspect_err(|_| classifier.forget(number)).context("write LISTS")
        });
        if let Some(succession) = succession {
            succession.taken(number);
        }
        written.with_context(|| format!("write policy list {number:08x}, {entry:?}"))
    }

    /// Removes a list of rules that nothing is judged by any more.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn remove_list(&mut self, number: u32) -> Result<()> {
        absent_is_fine(self.policy.lists.remove(&number))
            .with_context(|| format!("remove policy list {number:08x}"))?;
        self.policy.classifier.forget(number);
        Ok(())
    }

    /// Takes in which lists are to take the place of which, and what those that an earlier daemon has left say.
    pub fn recognise_lists(&mut self, there: &TableSet, wanted: &TableSet) {
        self.policy.succession = Some(Succession::of(there, wanted));
        let lists = wanted.lists.iter();
        self.policy
            .classifier
            .recognise(lists.filter_map(|(number, entry)| Some((*number, entry.list.as_ref()?))));
    }

    /// What a list has decided; `None` if there is none of that number, or nobody knows its rules.
    pub fn list_counts(&self, number: u32) -> Option<ListCounts> {
        self.policy.classifier.counts(number)
    }

    /// How much of the policy's memory is in use.
    pub fn policy_use(&self) -> PolicyUse {
        let ((blocks, most_blocks), (rules, most_rules)) =
            (self.policy.classifier.blocks(), self.policy.classifier.counters());
        PolicyUse { blocks, most_blocks, rules, most_rules }
    }

    /// Has flows to a public address judged by a list.
    ///
    /// # Errors
    /// The table is full or cannot be written.
    pub fn set_firewall(&mut self, address: Ipv4Addr, list: u32) -> Result<()> {
        let written = self.policy.firewalls.insert(local_key(Ipv4::from(address)), list, 0);
        written.with_context(|| format!("write the list of {address}"))
    }

    /// Has flows to a public address judged by no list.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn remove_firewall(&mut self, address: Ipv4Addr) -> Result<()> {
        absent_is_fine(self.policy.firewalls.remove(&local_key(Ipv4::from(address))))
            .with_context(|| format!("remove the list of {address}"))
    }
}
