//! What has passed on which account.
//!
//! The programs' counters only grow. Setting them to zero is remembering what they said
//! (`USAGE_ZERO`): a counter is a CPU's own, and a zero written from elsewhere could be lost.

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, IterableMap, Map, MapData};
use router_common::account::Traffic;
use router_common::usage::{ACCOUNTS, AccountKey, COUNTERS, Course, counter};

use super::maps::per_cpu;
use super::{Dataplane, batch};

/// The tables.
pub(super) struct UsageTables {
    accounts: HashMap<MapData, AccountKey, u32>,
    last: Array<MapData, u64>,
    usage: MapData,
    zero: Array<MapData, Traffic>,
}

/// What has passed on an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountRecord {
    /// Whose it is; `None` of all those that found no other left.
    pub key: Option<AccountKey>,
    /// From the inside to the outside, bytes of IP packets.
    pub sent: Traffic,
    /// The other way.
    pub received: Traffic,
    number: u32,
}

const NOTHING: Traffic = Traffic { packets: 0, bytes: 0 };

impl UsageTables {
    pub(super) fn take(map: &mut impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            accounts: HashMap::try_from(map("ACCOUNTS")?)?,
            last: Array::try_from(map("LAST_ACCOUNT")?)?,
            usage: per_cpu("USAGE", map("USAGE")?)?,
            zero: Array::try_from(map("USAGE_ZERO")?)?,
        })
    }

    /// Each account with what its counters say.
    fn counted(&self) -> Result<Vec<AccountRecord>> {
        let given = self.last.get(&0, 0).context("read LAST_ACCOUNT")?.min(u64::from(ACCOUNTS) - 1) as u32;
        let cpus = batch::cpus()?;
        let counters = (given as usize + 1) * 2;
        let (_, per_cpu) = batch::read::<u32, Traffic>(&self.usage, cpus, 0, counters)?;
        let sums: Vec<_> = per_cpu.chunks_exact(cpus).map(|cpus| cpus.iter().fold(NOTHING, add)).collect();
        let of = |number, course| sums.get(counter(number, course) as usize).copied().unwrap_or(NOTHING);
        let record = |key, number| {
            let (sent, received) = (of(number, Course::Sent), of(number, Course::Received));
            AccountRecord { key, sent, received, number }
        };
        let (keys, numbers) = batch::read::<AccountKey, u32>(self.accounts.map(), 1, 0, usize::MAX)?;
        let others = record(None, 0);
        let is_used = others.sent.packets + others.received.packets > 0;
        let known = keys.into_iter().zip(numbers).map(|(key, number)| record(Some(key), number));
        Ok(known.chain(is_used.then_some(others)).collect())
    }
}

impl Dataplane {
    /// What has passed on each account since its counters were last set to zero.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn usage(&self) -> Result<Vec<AccountRecord>> {
        let tables = &self.tables.usage;
        // Before the counters, which only grow: nothing is less than zero.
        let zero = batch::read::<u32, Traffic>(tables.zero.map(), 1, 0, COUNTERS as usize)?.1;
        let since = |now: Traffic, counter: u32| {
            let zero = zero.get(counter as usize).copied().unwrap_or(NOTHING);
            Traffic { packets: now.packets - zero.packets, bytes: now.bytes - zero.bytes }
        };
        let mut records = tables.counted()?;
        for record in &mut records {
            record.sent = since(record.sent, counter(record.number, Course::Sent));
            record.received = since(record.received, counter(record.number, Course::Received));
        }
        Ok(records)
    }

    /// Whether somebody has found no account left.
    pub fn usage_is_full(&self) -> bool {
        self.tables.usage.last.get(&0, 0).is_ok_and(|last| last >= u64::from(ACCOUNTS))
    }

    /// Sets the counters of some accounts to zero.
    ///
    /// # Errors
    /// A map cannot be read or written; then some may be zero and others not.
    pub fn zero_usage(&mut self, is_wanted: impl Fn(&AccountRecord) -> bool) -> Result<()> {
        let tables = &mut self.tables.usage;
        for record in tables.counted()?.iter().filter(|record| is_wanted(record)) {
            for (course, now) in [(Course::Sent, record.sent), (Course::Received, record.received)] {
                tables.zero.set(counter(record.number, course), now, 0).context("write USAGE_ZERO")?;
            }
        }
        Ok(())
    }
}

fn add(sum: Traffic, more: &Traffic) -> Traffic {
    Traffic { packets: sum.packets + more.packets, bytes: sum.bytes + more.bytes }
}
