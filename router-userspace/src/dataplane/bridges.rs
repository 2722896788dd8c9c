//! Bridges, in their tables.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData, MapError};
use router_common::bridge::{FdbEntry, FdbKey, MemberKey};

use super::batch;
use super::maps::{Tables, absent_is_fine};
use crate::model::Mac;

/// The tables.
pub(super) struct BridgeTables {
    members: HashMap<MapData, MemberKey, u32>,
    fdb: HashMap<MapData, FdbKey, FdbEntry>,
}

/// A station of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Which bridge.
    pub bridge: u32,
    /// The station's Ethernet address.
    pub mac: Mac,
    /// The own interface of the port that it is behind.
    pub ifindex: u32,
    /// When it was last heard of, by the monotonic clock, nanoseconds, to within a second.
    pub heard: u64,
}

impl BridgeTables {
    pub(super) fn take(map: &mut impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self { members: HashMap::try_from(map("MEMBERS")?)?, fdb: HashMap::try_from(map("FDB")?)? })
    }

    /// The ports of each bridge, in order.
    pub(super) fn observe(&self) -> Result<BTreeMap<u32, Vec<u32>>> {
        let entries = batch::entries(&self.members).context("read MEMBERS")?;
        let entries: BTreeMap<(u32, u32), u32> =
            entries.map(|(key, ifindex)| ((key.bridge, key.index), ifindex)).collect();
        let mut bridges: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for ((bridge, _), ifindex) in entries {
            bridges.entry(bridge).or_default().push(ifindex);
        }
        Ok(bridges)
    }

    /// Writes the ports of a bridge: all that it has, none to remove it. What is longer than before is so once all are there.
    fn set(&mut self, bridge: u32, members: &[u32]) -> Result<()> {
        for (index, ifindex) in (0..).zip(members) {
            let key = MemberKey { bridge, index };
            self.members.insert(key, ifindex, 0).with_context(|| format!("write bridge {bridge}"))?;
        }
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        for index in count.. {
            let key = MemberKey { bridge, index };
            match self.members.get(&key, 0) {
                Ok(_) => {
                    absent_is_fine(self.members.remove(&key))
                        .with_context(|| format!("shorten bridge {bridge}"))?;
                }
                Err(MapError::KeyNotFound) => break,
                Err(error) => return Err(error).context("read MEMBERS"),
            }
        }
        Ok(())
    }
}

impl Tables {
    /// Replaces the ports of a bridge; with none there is no such bridge.
    ///
    /// # Errors
    /// The table is full or cannot be written.
    pub fn set_bridge(&mut self, bridge: u32, members: &[u32]) -> Result<()> {
        self.bridges.set(bridge, members)
    }

    /// The ports of each bridge, in order.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn bridges(&self) -> Result<BTreeMap<u32, Vec<u32>>> {
        self.bridges.observe()
    }

    /// The stations that bridges have heard of, those that nobody has heard of for long among them.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn stations(&self) -> Result<Vec<Station>> {
        let station = |(key, entry): (FdbKey, FdbEntry)| Station {
            bridge: key.bridge,
            mac: Mac(key.mac),
            ifindex: entry.ifindex,
            heard: entry.heard,
        };
        self.bridges.fdb.iter().map(|entry| entry.map(station).context("read FDB")).collect()
    }
}
