//! Which external ports are in use, and giving them back.
//!
//! The programs claim ports and make bindings; here bindings end and bits are cleared, by atomic
//! operations on the same memory. What a bit should be follows from the bindings and from the port
//! forwardings: a bit that neither explains is a claim under way, or one that was lost; if it is
//! still there some seconds later, it is given back.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{IterableMap, MapData};
use router_common::flow::{Direction, FlowEntry, FlowKey};
use router_common::nat::{Binding, BindingKey, ExternalKey, ForwardKey, POOLS, Pool, pool_index};
use router_common::net::{Be16, Ipv4};

use super::Dataplane;
use super::batch;
use super::guests::{self, Guests};
use super::mapped::Mapped;
use super::maps::absent_is_fine;

/// A pool with fewer free ports than this lets go of bindings that only wait for their hold-down.
const SHORT: usize = 2048;
/// Ports of 1024 and above.
const HIGH_PORTS: usize = 64_512;
const WORDS: usize = 1024;
/// How far the programs' clock may lag behind ours, nanoseconds: ticks of up to 10 ms.
const CLOCK: u64 = 20_000_000;

/// The pools' memory, shared with the programs.
pub(super) struct Pools {
    memory: Mapped<Pool>,
}

impl Pools {
    pub(super) fn map(data: MapData) -> io::Result<Self> {
        Ok(Self { memory: Mapped::new(data, POOLS)? })
    }

    fn pool(&self, index: u32) -> Option<MappedPool<'_>> {
        (index < POOLS).then_some(MappedPool { pools: self, index: index as usize })
    }
}

/// One pool.
struct MappedPool<'a> {
    pools: &'a Pools,
    index: usize,
}

impl MappedPool<'_> {
    fn word_at(&self, word: u32) -> &AtomicU64 {
        // SAFETY: within the mapping; aligned to 8; everybody accesses it atomically.
        unsafe {
            let pool = self.pools.memory.pointer(self.index);
            AtomicU64::from_ptr((&raw mut (*pool).words).cast::<u64>().add(word as usize % WORDS))
        }
    }

    fn full_at(&self, group: u32) -> &AtomicU64 {
        // SAFETY: as in `word_at`.
        unsafe {
            let pool = self.pools.memory.pointer(self.index);
            AtomicU64::from_ptr((&raw mut (*pool).full).cast::<u64>().add(group as usize % 16))
        }
    }

    fn word(&self, word: u32) -> u64 {
        self.word_at(word).load(Ordering::Acquire)
    }

    /// Clears bits; the summary after the word, as the programs rely on.
    fn release(&self, word: u32, bits: u64) {
        self.word_at(word).fetch_and(!bits, Ordering::AcqRel);
        self.full_at(word / 64).fetch_and(!(1 << (word & 63)), Ordering::AcqRel);
    }

    fn give_back(&self, port: u16) {
        self.release(Pool::word(port), 1 << Pool::bit(port));
    }

    /// Sets bits, and the word's in the summary if it is full now.
    fn claim(&self, word: u32, bits: u64) {
        let before = self.word_at(word).fetch_or(bits, Ordering::AcqRel);
        let in_summary = 1 << (word & 63);
        if before | bits == u64::MAX {
            self.full_at(word / 64).fetch_or(in_summary, Ordering::AcqRel);
        }
        if self.word(word) != u64::MAX {
            self.full_at(word / 64).fetch_and(!in_summary, Ordering::AcqRel);
        }
    }

    fn shared(&self) -> &AtomicU64 {
        // SAFETY: as in `word_at`.
        unsafe {
            let pool = self.pools.memory.pointer(self.index);
            AtomicU64::from_ptr(&raw mut (*pool).shared)
        }
    }
}

/// How long a bit that nothing explains is left alone, nanoseconds. A claim takes microseconds, but the
/// CPU that makes it may be a virtual one, and stand still.
const CLAIM: u64 = 4_000_000_000;

/// What is remembered from one time to another.
#[derive(Default)]
pub(super) struct Settling {
    /// Bits that nothing explained, by pool.
    unexplained: HashMap<u32, Vec<u64>>,
    /// When that was, nanoseconds of the monotonic clock.
    noted: u64,
}

/// What settling came to.
#[derive(Default)]
pub(super) struct Settled {
    /// How many bindings have ended.
    pub(super) ended: usize,
    /// How many are left, by whose they are.
    pub(super) left: Guests,
}

/// How a pool is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// The address.
    pub address: Ipv4,
    /// IP protocol number.
    pub protocol: u8,
    /// Ports or identifiers that are taken: bindings and port forwardings.
    pub taken: u32,
    /// How often one had to be shared by flows to different destinations.
    pub shared: u64,
    /// Bindings: a guest's address and port that have one.
    pub bindings: usize,
}

/// The external end of a flow that a binding translates.
pub(super) fn external_key(key: &FlowKey<Ipv4>, entry: &FlowEntry<Ipv4>) -> ExternalKey {
    let (external, port) = match entry.direction == Direction::Original as u8 {
        true => (entry.rewrite.src, entry.rewrite.src_port),
        false => (key.dst, key.dst_port),
    };
    ExternalKey { external, port, router: key.router, protocol: key.protocol, pad: [0; 3] }
}

fn external_of(key: &BindingKey, port: Be16) -> ExternalKey {
    ExternalKey { external: key.external, port, router: key.router, protocol: key.protocol, pad: [0; 3] }
}

impl Dataplane {
    /// How the pools of all ports with source NAT are used.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn pool_uses(&self) -> Result<Vec<PoolUse>> {
        let mut bindings: HashMap<(Ipv4, u8), usize> = HashMap::new();
        for (key, _) in self.bindings()? {
            *bindings.entry((key.external, key.protocol)).or_default() += 1;
        }
        let uses = self.pool_rows()?.into_iter().filter_map(|((address, protocol), index)| {
            let pool = self.tables.pools.pool(index)?;
            let taken = (0..WORDS as u32).map(|word| pool.word(word).count_ones()).sum();
            let shared = pool.shared().load(Ordering::Relaxed);
            let bindings = bindings.get(&(address, protocol)).copied().unwrap_or(0);
            Some(PoolUse { address, protocol, taken, shared, bindings })
        });
        Ok(uses.collect())
    }

    /// The pools in use: address and protocol → index.
    fn pool_rows(&self) -> Result<Vec<((Ipv4, u8), u32)>> {
        let mut rows = Vec::new();
        for port in self.tables.observe_ports()?.into_values() {
            if port.source_nat != Ipv4::UNSPECIFIED {
                let of = |protocol| Some(((port.source_nat, protocol), pool_index(port.slot, protocol)?));
                rows.extend([6, 17, 1].into_iter().filter_map(of));
            }
        }
        Ok(rows)
    }

    /// Every binding.
    pub(super) fn bindings(&self) -> Result<Vec<(BindingKey, Binding)>> {
        let (keys, values) =
            batch::read::<BindingKey, Binding>(self.tables.bindings.map(), 1, 0, usize::MAX)?;
        Ok(keys.into_iter().zip(values).collect())
    }

    /// Ends bindings that no flow has used for a while, or `surplus` of those that none uses, and makes
    /// the pools' bits what they should be. `is_bound`: a flow has this external end.
    pub(super) fn settle_pools(
        &mut self,
        bindings: Vec<(BindingKey, Binding)>,
        is_bound: impl Fn(&ExternalKey) -> bool,
        now: u64,
        hold_down: Duration,
        surplus: usize,
    ) -> Result<Settled> {
        let rows = self.pool_rows()?;
        let mut by_pool: BTreeMap<(u32, u8), Vec<(BindingKey, Binding)>> = BTreeMap::new();
        for (key, binding) in bindings {
            by_pool.entry((key.external.to_host(), key.protocol)).or_default().push((key, binding));
        }
        let Settled { mut ended, mut left } = Settled::default();
        let mut expected: HashMap<u32, Vec<u64>> = HashMap::new();
        for (place, mut of_pool) in by_pool {
            let index = rows.iter().find(|((address, protocol), _)| (address.to_host(), *protocol) == place);
            // The oldest first: they go first when ports are short.
            of_pool.sort_by_key(|(_, binding)| binding.last_used);
            let mut taken = of_pool.len();
            for (key, binding) in of_pool {
                // Flows were read after `now`: a binding used since then may have one that was not there.
                let is_recent = binding.last_used + CLOCK > now;
                let is_used = is_recent || is_bound(&external_of(&key, binding.port));
                let is_over = now.saturating_sub(binding.last_used) > hold_down.as_nanos() as u64;
                let is_short = taken + SHORT > HIGH_PORTS || ended < surplus;
                if !is_used && (is_over || is_short || index.is_none()) && self.end_binding(&key, &binding)? {
                    taken -= 1;
                    ended += 1;
                    if let Some((_, index)) = index
                        && let Some(pool) = self.tables.pools.pool(*index)
                    {
                        pool.give_back(binding.port.get());
                    }
                    continue;
                }
                *left.entry(guests::of_binding(&key)).or_default() += 1;
                if let Some((_, index)) = index {
                    expect(&mut expected, *index, binding.port.get());
                }
            }
        }
        self.expect_forwards(&rows, &mut expected)?;
        let is_later = now.saturating_sub(self.settling.noted) >= CLAIM;
        if is_later {
            self.settling.noted = now;
        }
        for (_, index) in rows {
            self.settle(index, is_later, expected.remove(&index).unwrap_or_else(|| vec![0; WORDS]));
        }
        Ok(Settled { ended, left })
    }

    /// Removes a binding, unless it was used meanwhile.
    fn end_binding(&mut self, key: &BindingKey, seen: &Binding) -> Result<bool> {
        if self.tables.bindings.get(key, 0).is_ok_and(|binding| binding.last_used != seen.last_used) {
            return Ok(false);
        }
        absent_is_fine(self.tables.bindings.remove(key)).context("remove a binding")?;
        absent_is_fine(self.tables.externals.remove(&external_of(key, seen.port)))
            .context("remove a binding's external end")?;
        Ok(true)
    }

    /// Ports that are forwarded are no bindings'.
    fn expect_forwards(
        &self,
        rows: &[((Ipv4, u8), u32)],
        expected: &mut HashMap<u32, Vec<u64>>,
    ) -> Result<()> {
        for entry in self.tables.forwards.iter() {
            let (key, _) = entry.context("read FORWARDS")?;
            let ForwardKey { address, protocol, port, .. } = key.data();
            let Some((_, index)) = rows.iter().find(|(place, _)| *place == (address, protocol)) else {
                continue;
            };
            let size = 1u32 << (ForwardKey::FULL - key.prefix_len());
            for port in (u32::from(port.get())..).take(size as usize) {
                expect(expected, *index, port as u16);
            }
        }
        Ok(())
    }

    /// Makes a pool's bits what they should be. `is_later`: long enough after bits were last noted as
    /// unexplained.
    fn settle(&mut self, index: u32, is_later: bool, expected: Vec<u64>) {
        let Some(pool) = self.tables.pools.pool(index) else { return };
        let before = if is_later { self.settling.unexplained.remove(&index) } else { None };
        let mut unexplained = vec![0; WORDS];
        for (word, wanted) in (0..).zip(expected) {
            let found = pool.word(word);
            pool.claim(word, wanted & !found);
            let extra = found & !wanted;
            let twice = extra & before.as_ref().map_or(0, |before| before[word as usize]);
            if twice != 0 {
                pool.release(word, twice);
            }
            unexplained[word as usize] = extra & !twice;
        }
        if is_later {
            self.settling.unexplained.insert(index, unexplained);
        }
    }
}

fn expect(expected: &mut HashMap<u32, Vec<u64>>, index: u32, port: u16) {
    let words = expected.entry(index).or_insert_with(|| vec![0; WORDS]);
    words[Pool::word(port) as usize] |= 1 << Pool::bit(port);
}
