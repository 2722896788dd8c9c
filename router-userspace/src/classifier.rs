//! Classifier: lists of rules → the tries that the programs go down to find the first that matches
//! ([`router_common::policy`], `router_ebpf::policy`).
//!
//! A list that is much like the one whose place it takes is made from it: what has changed is taken out and put
//! in, on copies of the blocks on the way there, and all else is shared. So one changed rule costs as much among a
//! hundred thousand as among ten, and until a port is switched to the new list nothing has happened. Rules that
//! two such lists have in common keep their counters; lists that stay beside each other have none in common.
//!
//! Invariant: a block of a list that was handed out is not written again until the list is forgotten.

mod judge;
mod record;
mod store;
mod trie;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use router_common::policy::{Block, List, NO_RULE, Pointer, RuleCount};

pub use store::{Full, Memory, OwnMemory};

use self::record::{Dimension, Key, records};
use self::store::Store;
use crate::model::policy::{AccessList, Action, Rule};

/// Ranks of rules that come later are at most so far from each other.
const WIDEST_GAP: u32 = 1 << 16;

/// What becomes of a list that the same flows were judged by as are by a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// The new one takes its place.
    Leaves,
    /// Other flows still are judged by it.
    Stays,
}

/// What a list has decided so far.
#[derive(Clone, Debug)]
pub struct ListCounts {
    /// The list.
    pub list: Arc<AccessList>,
    /// By rule of the list.
    pub rules: Vec<RuleCount>,
    /// What no rule matches.
    pub rest: RuleCount,
}

/// Lists in blocks.
#[derive(Debug)]
pub struct Classifier<M> {
    store: Store<M>,
    lists: BTreeMap<u32, Written>,
    /// By counter: how many lists have it.
    counter_users: Vec<u32>,
    free_counters: Vec<u32>,
}

/// A list as it was handed out.
#[derive(Clone, Debug)]
struct Written {
    value: List,
    /// `None` as long as nobody has said what it is.
    content: Option<Content>,
}

#[derive(Clone, Debug)]
struct Content {
    list: Arc<AccessList>,
    /// By rule.
    ranks: Vec<u32>,
    /// By rule.
    counters: Vec<u32>,
    /// Rules that never decide were left out, which might when others are gone.
    is_short: bool,
}

/// A list that is like a new one.
struct Alike {
    written: Written,
    /// How many rules both have in front, and of the others at the end.
    ends: (usize, usize),
    /// How many the new one has.
    rules: usize,
}

impl Alike {
    /// Whether the new one is made from it: half of the longer one has to be the same.
    fn is_base(&self) -> bool {
        let (front, end) = self.ends;
        self.written.content.as_ref().filter(|old| !old.is_short).is_some_and(|old| {
            let longer = old.list.rules.len().max(self.rules);
            longer > 0 && (front + end) * 2 >= longer
        })
    }
}

impl<M: Memory> Classifier<M> {
    /// Over memory that holds these lists already, and nothing else.
    pub fn new(memory: M, lists: impl IntoIterator<Item = (u32, List)>) -> Self {
        let written = |value| Written { value, content: None };
        let mut classifier = Self {
            store: Store::new(memory),
            lists: lists.into_iter().map(|(number, value)| (number, written(value))).collect(),
            counter_users: Vec::new(),
            free_counters: Vec::new(),
        };
        classifier.recount();
        classifier
    }

    /// A list for the programs, beside those that are there, each of which it may take the place of.
    ///
    /// # Errors
    /// As [`Self::write_after`].
    pub fn write(&mut self, number: u32, list: &Arc<AccessList>) -> Result<List, Full> {
        let all: Vec<_> = self.lists.keys().map(|there| (*there, Former::Leaves)).collect();
        self.write_after(number, list, &all)
    }

    /// A list for the programs, beside those that are there, of which `formers` are those that the same flows
    /// were judged by. What rules have decided that are in one of these, and that list's default, is counted on:
    /// by the same counters where it leaves. Where it stays, or where the two have little in common, each has
    /// counters of its own from now on, and the new list is made anew, since a rule's block names its counter.
    ///
    /// # Errors
    /// There is no room for it; the others are as they were.
    pub fn write_after(
        &mut self,
        number: u32,
        list: &Arc<AccessList>,
        formers: &[(u32, Former)],
    ) -> Result<List, Full> {
        self.store.begin();
        let leaving = formers.iter().filter(|(_, former)| *former == Former::Leaves);
        let result = match self.like(list, leaving).filter(Alike::is_base) {
            Some(base) => self.derive(&base, list),
            None => {
                let old = self.like(list, formers);
                self.build(list, old.map(|old| old.written).as_ref())
            }
        };
        match result {
            Ok(written) => {
                let value = written.value;
                // One of this number but of another content is in force no longer than until this one is.
                let former = self.lists.insert(number, written);
                self.let_go(former);
                Ok(value)
            }
            Err(full) => {
                self.recount();
                Err(full)
            }
        }
    }

    /// Nothing is judged by a list any more.
    pub fn forget(&mut self, number: u32) {
        self.store.begin();
        let written = self.lists.remove(&number);
        self.let_go(written);
    }

    /// What lists that were found are.
    pub fn recognise<'a>(&mut self, lists: impl IntoIterator<Item = (u32, &'a Arc<AccessList>)>) {
        let mut is_any = false;
        for (number, list) in lists {
            let content = self.found(number, list);
            if let (Some(content), Some(written)) = (content, self.lists.get_mut(&number)) {
                written.content = Some(content);
                is_any = true;
            }
        }
        if is_any {
            self.recount();
        }
    }

    /// A list that was found, if that is what it is and nobody has said so before.
    fn found(&self, number: u32, list: &Arc<AccessList>) -> Option<Content> {
        let written = self.lists.get(&number).filter(|written| written.content.is_none())?;
        if written.value.content != list.content().0 {
            return None;
        }
        let mut counters_by_rank = BTreeMap::new();
        for root in written.value.roots {
            self.store.rules(Pointer(root), |record| {
                counters_by_rank.insert(record.rank & !Block::ALLOWS, record.counter);
            });
        }
        let mut found = counters_by_rank.into_iter();
        let (mut ranks, mut counters) = (Vec::new(), Vec::new());
        for rule in &list.rules {
            let (rank, counter) = match records(rule, 0, 0).is_empty() {
                true => (ranks.last().copied().unwrap_or_default(), 0),
                // Where rules were left out, nobody can say which.
                false => found.next()?,
            };
            ranks.push(rank);
            counters.push(counter);
        }
        let content = Content { list: Arc::clone(list), ranks, counters, is_short: false };
        found.next().is_none().then_some(content)
    }

    /// What a list has decided; `None` if there is none of that number, or nobody knows its rules.
    pub fn counts(&self, number: u32) -> Option<ListCounts> {
        let Written { value, content } = self.lists.get(&number)?;
        let content = content.as_ref()?;
        let count = |counter: &u32| self.store.memory.count(*counter);
        let rules = content.counters.iter().map(count).collect();
        Some(ListCounts { list: Arc::clone(&content.list), rules, rest: count(&value.counter) })
    }

    /// How many blocks are in use, and how many there are.
    pub fn blocks(&self) -> (u32, u32) {
        (self.store.used(), self.store.memory.blocks() - 1)
    }

    /// How many counters are in use, and how many there are.
    pub fn counters(&self) -> (u32, u32) {
        let used = self.counter_users.len().saturating_sub(1) - self.free_counters.len();
        (used as u32, self.store.memory.counters() - 1)
    }

    /// Where blocks lie.
    pub const fn memory(&self) -> &M {
        &self.store.memory
    }

    /// Of these, the list with the most rules in front and at the end that this one has there, too.
    fn like<'a>(
        &self,
        list: &AccessList,
        formers: impl IntoIterator<Item = &'a (u32, Former)>,
    ) -> Option<Alike> {
        let alike = formers.into_iter().filter_map(|(number, _)| {
            let written = self.lists.get(number)?;
            let content = written.content.as_ref()?;
            Some((ends(&content.list.rules, &list.rules), written))
        });
        let (ends, written) = alike.max_by_key(|((front, end), _)| front + end)?;
        Some(Alike { written: written.clone(), ends, rules: list.rules.len() })
    }

    /// A list that shares no block, and no counter; what rules have decided in an old one it goes on with.
    fn build(&mut self, list: &Arc<AccessList>, old: Option<&Written>) -> Result<Written, Full> {
        // Half of them is left for rules that come later; the other half is made full use of, for the sake of pointers,
        // which have ranks roughly.
        let gap = (u32::MAX / 2 / (list.rules.len() as u32 + 1)).max(2) & !Block::ALLOWS;
        let ranks: Vec<u32> = (1..=list.rules.len() as u32).map(|place| place * gap).collect();
        let mut counters = Vec::with_capacity(ranks.len());
        for _ in &list.rules {
            counters.push(self.new_counter()?);
        }
        let counter = self.new_counter()?;
        let mut draft = Store::new(OwnMemory::new(self.store.memory.blocks(), 0));
        let mut by_family = [Vec::new(), Vec::new()];
        for ((rule, rank), counter) in list.rules.iter().zip(&ranks).zip(&counters) {
            records(rule, *rank, *counter)
                .into_iter()
                .for_each(|(root, record)| by_family[root].push(record));
        }
        let mut roots = [Pointer::NONE; 2];
        let mut is_short = false;
        for (root, records) in roots.iter_mut().zip(&by_family) {
            let (arranged, short) = draft.arrange(Dimension::Destination, Key::ALL, records)?;
            *root = self.store.copy_in(&draft, arranged)?;
            is_short |= short;
        }
        let content = Content { list: Arc::clone(list), ranks, counters, is_short };
        let written = Written { value: value(list, roots, counter), content: Some(content) };
        if let Some(old) = old {
            self.go_on_counting(&written, old);
        }
        Ok(written)
    }

    /// What rules have decided that are in an old list, too, is counted on, beside that one.
    fn go_on_counting(&mut self, new: &Written, old: &Written) {
        let (Some(to), Some(from)) = (&new.content, &old.content) else { return };
        let mut counters: HashMap<_, VecDeque<u32>> = HashMap::new();
        for (rule, counter) in from.list.rules.iter().zip(&from.counters) {
            counters.entry(rule.content()).or_default().push_back(*counter);
        }
        let memory = &mut self.store.memory;
        let mut go_on = |counter: u32, after: u32| memory.set_count(counter, memory.count(after));
        for (rule, counter) in to.list.rules.iter().zip(&to.counters) {
            if let Some(after) = counters.get_mut(&rule.content()).and_then(VecDeque::pop_front) {
                go_on(*counter, after);
            }
        }
        if to.list.default == from.list.default {
            go_on(new.value.counter, old.value.counter);
        }
    }

    /// A list from one that is much like it and leaves.
    fn derive(&mut self, base: &Alike, list: &Arc<AccessList>) -> Result<Written, Full> {
        let Alike { written: base, ends, .. } = base;
        let content = base.content.as_ref();
        let Some((old, steps)) = content.and_then(|old| Some((old, steps(old, list, *ends)?))) else {
            return self.build(list, Some(base));
        };
        let mut roots = base.value.roots.map(Pointer);
        for root in roots {
            self.store.hold(root);
        }
        for gone in steps.gone {
            for (root, record) in records(&old.list.rules[gone], old.ranks[gone], old.counters[gone]) {
                roots[root] = self.store.take_out(roots[root], Dimension::Destination, Key::ALL, &record)?;
            }
        }
        let mut is_short = false;
        let (mut ranks, mut counters) =
            (Vec::with_capacity(list.rules.len()), Vec::with_capacity(list.rules.len()));
        for (rule, step) in list.rules.iter().zip(steps.rules) {
            let (rank, counter) = match step {
                Step::Kept(place) => {
                    self.use_counter(old.counters[place]);
                    (old.ranks[place], old.counters[place])
                }
                Step::New(rank) => {
                    let counter = self.new_counter()?;
                    is_short |= put(&mut self.store, &mut roots, rule, rank, counter)?;
                    (rank, counter)
                }
            };
            ranks.push(rank);
            counters.push(counter);
        }
        let counter = match old.list.default == list.default {
            true => {
                self.use_counter(base.value.counter);
                base.value.counter
            }
            false => self.new_counter()?,
        };
        let content = Content { list: Arc::clone(list), ranks, counters, is_short };
        Ok(Written { value: value(list, roots, counter), content: Some(content) })
    }

    fn let_go(&mut self, written: Option<Written>) {
        let Some(Written { value, content }) = written else { return };
        let Some(Content { mut counters, .. }) = content else {
            // Nobody knows which counters were its own.
            return self.recount();
        };
        counters.push(value.counter);
        for counter in counters.into_iter().filter(|counter| *counter != 0) {
            let users = &mut self.counter_users[counter as usize];
            *users -= 1;
            if *users == 0 {
                self.free_counters.push(counter);
            }
        }
        for root in value.roots {
            self.store.release(Pointer(root));
        }
    }

    fn use_counter(&mut self, counter: u32) {
        if counter != 0 {
            self.counter_users[counter as usize] += 1;
        }
    }

    fn new_counter(&mut self) -> Result<u32, Full> {
        let most = self.store.memory.counters() - 1;
        let counter = match self.free_counters.pop() {
            Some(counter) => counter,
            None if self.counter_users.len() as u32 <= most => {
                self.counter_users.resize(self.counter_users.len().max(1) + 1, 0);
                self.counter_users.len() as u32 - 1
            }
            None => return Err(Full { what: "rules", most }),
        };
        self.counter_users[counter as usize] = 1;
        self.store.memory.set_count(counter, RuleCount { packets: 0, bytes: 0 });
        Ok(counter)
    }

    /// Blocks and counters are in use as far as lists that were handed out have them.
    fn recount(&mut self) {
        let users = &mut self.counter_users;
        users.clear();
        users.push(1);
        let most = self.store.memory.counters();
        let mut count = |counter: u32| {
            if counter < most {
                if counter as usize >= users.len() {
                    users.resize(counter as usize + 1, 0);
                }
                users[counter as usize] += 1;
            }
        };
        for written in self.lists.values() {
            count(written.value.counter);
            for counter in written.content.iter().flat_map(|content| &content.counters) {
                count(*counter);
            }
        }
        let roots = self.lists.values().flat_map(|written| written.value.roots).map(Pointer);
        let mut seen = Vec::new();
        self.store.recount(roots, |record| seen.push(record.counter));
        // Lists that nobody has said what they are keep theirs.
        for counter in seen {
            if counter < most && users.get(counter as usize).is_none_or(|users| *users == 0) {
                users.resize(users.len().max(counter as usize + 1), 0);
                users[counter as usize] = 1;
            }
        }
        users[0] = 1;
        let unused = (0..).zip(users.iter()).filter(|(_, users)| **users == 0);
        self.free_counters = unused.map(|(counter, _)| counter).collect();
    }
}

/// Puts all that a rule says into the tries of both families; whether something was left out.
fn put<M: Memory>(
    store: &mut Store<M>,
    roots: &mut [Pointer; 2],
    rule: &Rule,
    rank: u32,
    counter: u32,
) -> Result<bool, Full> {
    let mut is_short = false;
    for (root, record) in records(rule, rank, counter) {
        let (put, short) = store.put(roots[root], Dimension::Destination, Key::ALL, &record)?;
        roots[root] = put;
        is_short |= short;
    }
    Ok(is_short)
}

/// What the programs have of a list besides its rules.
fn value(list: &AccessList, roots: [Pointer; 2], counter: u32) -> List {
    List {
        content: list.content().0,
        version: 0,
        roots: roots.map(|root| root.0),
        rules: list.rules.len() as u32,
        counter,
        default_allows: u8::from(list.default == Action::Allow),
        pad: [0; 7],
    }
}

fn is_same(a: &Arc<Rule>, b: &Arc<Rule>) -> bool {
    Arc::ptr_eq(a, b) || a.content() == b.content()
}

/// How many rules two lists have in common in front, and of the others at the end.
fn ends(old: &[Arc<Rule>], new: &[Arc<Rule>]) -> (usize, usize) {
    let front = old.iter().zip(new).take_while(|(old, new)| is_same(old, new)).count();
    let rest = old[front..].iter().rev().zip(new[front..].iter().rev());
    (front, rest.take_while(|(old, new)| is_same(old, new)).count())
}

/// How a list is made from another.
struct Steps {
    /// Places of rules of the old one that the new one lacks, or has in another order.
    gone: Vec<usize>,
    /// By rule of the new one.
    rules: Vec<Step>,
}

#[derive(Clone, Copy)]
enum Step {
    /// The old one has it at this place.
    Kept(usize),
    /// It is new, and gets this rank.
    New(u32),
}

/// `None` where there is no rank left between two rules.
fn steps(base: &Content, list: &AccessList, (front, end): (usize, usize)) -> Option<Steps> {
    let (old, new) = (&base.list.rules, &list.rules);
    let mut places: HashMap<_, VecDeque<usize>> = HashMap::new();
    for (place, rule) in (front..).zip(&old[front..old.len() - end]) {
        places.entry(rule.content()).or_default().push_back(place);
    }
    let mut kept: Vec<Option<usize>> = (0..front).map(Some).collect();
    let mut gone = Vec::new();
    let mut next = front;
    for rule in &new[front..new.len() - end] {
        let same = places.get_mut(&rule.content());
        let place = same.and_then(|places| {
            while places.pop_front_if(|place| *place < next).is_some() {}
            places.pop_front()
        });
        if let Some(place) = place {
            gone.extend(next..place);
            next = place + 1;
        }
        kept.push(place);
    }
    gone.extend(next..old.len() - end);
    kept.extend((old.len() - end..old.len()).map(Some));

    let mut rules = Vec::with_capacity(new.len());
    let mut before = 0;
    while rules.len() < new.len() {
        if let Some(place) = kept[rules.len()] {
            before = base.ranks[place];
            rules.push(Step::Kept(place));
            continue;
        }
        let run = kept[rules.len()..].iter().take_while(|place| place.is_none()).count();
        let behind =
            kept.get(rules.len() + run).copied().flatten().map_or(NO_RULE, |place| base.ranks[place]);
        let gap = ((behind - before) / (run as u32 + 1)).min(WIDEST_GAP) & !Block::ALLOWS;
        if gap == 0 {
            return None;
        }
        for _ in 0..run {
            before += gap;
            rules.push(Step::New(before));
        }
    }
    Some(Steps { gone, rules })
}
