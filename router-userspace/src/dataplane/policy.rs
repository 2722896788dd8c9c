//! Lists of rules in the programs' tables.
//!
//! A list is written beside the others, and complete before anything is judged by it: its entry in `LISTS` tells
//! how many others it has, and says 0 until they are all there. What a daemon left half written is written again.

use std::collections::HashMap as StdHashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData};
use ipnet::IpNet;
use router_common::net::{Be16, Ipv4, Ipv6};
use router_common::policy::{Gate, GateKey, List, Net, NetKey};
use router_common::port::LocalKey;

use super::maps::{Tables, absent_is_fine, local_key};
use crate::compile::TableSet;
use crate::compile::policy::{CompiledList, GatePlace, ListEntry, Side, key_bits};

/// How long a packet may still be on its way through a list that nothing is judged by any more: far longer than
/// a program runs.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// The tables.
pub(super) struct PolicyTables {
    firewalls: HashMap<MapData, LocalKey<Ipv4>, u32>,
    lists: HashMap<MapData, u32, List>,
    nets4: LpmTrie<MapData, NetKey<Ipv4>, Net>,
    nets6: LpmTrie<MapData, NetKey<Ipv6>, Net>,
    gates: LpmTrie<MapData, GateKey, Gate>,
    /// What this process has written, so that it need not be looked for when it goes.
    written: StdHashMap<u32, Arc<CompiledList>>,
}

impl PolicyTables {
    pub(super) fn take(map: &mut impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            firewalls: HashMap::try_from(map("FIREWALLS")?)?,
            lists: HashMap::try_from(map("LISTS")?)?,
            nets4: LpmTrie::try_from(map("NETS4")?)?,
            nets6: LpmTrie::try_from(map("NETS6")?)?,
            gates: LpmTrie::try_from(map("GATES")?)?,
            written: StdHashMap::new(),
        })
    }

    pub(super) fn observe(&self, tables: &mut TableSet) -> Result<()> {
        for entry in self.firewalls.iter() {
            let (key, list) = entry.context("read FIREWALLS")?;
            tables.firewalls.insert(key.address.into(), list);
        }
        for entry in self.lists.iter() {
            let (number, list) = entry.context("read LISTS")?;
            tables.lists.insert(number, ListEntry { entries: list.entries, compiled: None });
        }
        Ok(())
    }

    fn add(&mut self, number: u32, compiled: &CompiledList) -> Result<()> {
        self.lists.insert(number, List { entries: 0, ..compiled.list }, 0)?;
        for ((side, network), net) in &compiled.nets {
            match net_key(number, *side, network) {
                EitherKey::V4(key) => self.nets4.insert(&key, net, 0)?,
                EitherKey::V6(key) => self.nets6.insert(&key, net, 0)?,
            }
        }
        for (place, gate) in &compiled.gates {
            self.gates.insert(&gate_key(number, place), gate, 0)?;
        }
        self.lists.insert(number, compiled.list, 0)?;
        Ok(())
    }

    fn remove(&mut self, number: u32) -> Result<()> {
        absent_is_fine(self.lists.remove(&number))?;
        if let Some(compiled) = self.written.remove(&number) {
            for (side, network) in compiled.nets.keys() {
                absent_is_fine(match net_key(number, *side, network) {
                    EitherKey::V4(key) => self.nets4.remove(&key),
                    EitherKey::V6(key) => self.nets6.remove(&key),
                })?;
            }
            for place in compiled.gates.keys() {
                absent_is_fine(self.gates.remove(&gate_key(number, place)))?;
            }
            return Ok(());
        }
        // An earlier daemon's.
        let list = number.to_be_bytes();
        for key in keys(&self.nets4)?.into_iter().filter(|key| key.data().list == list) {
            absent_is_fine(self.nets4.remove(&key))?;
        }
        for key in keys(&self.nets6)?.into_iter().filter(|key| key.data().list == list) {
            absent_is_fine(self.nets6.remove(&key))?;
        }
        for key in keys(&self.gates)?.into_iter().filter(|key| key.data().list == number) {
            absent_is_fine(self.gates.remove(&key))?;
        }
        Ok(())
    }
}

fn keys<K: aya::Pod, V: aya::Pod>(trie: &LpmTrie<MapData, K, V>) -> Result<Vec<Key<K>>> {
    Ok(trie.keys().collect::<Result<_, _>>()?)
}

enum EitherKey {
    V4(Key<NetKey<Ipv4>>),
    V6(Key<NetKey<Ipv6>>),
}

fn net_key(number: u32, side: Side, network: &IpNet) -> EitherKey {
    let list = number.to_be_bytes();
    let side = match side {
        Side::Source => NetKey::<Ipv4>::SOURCE,
        Side::Destination => NetKey::<Ipv4>::DESTINATION,
    };
    let bits = key_bits(network);
    match network {
        IpNet::V4(network) => {
            EitherKey::V4(Key::new(bits, NetKey { list, side, address: network.network().into() }))
        }
        IpNet::V6(network) => {
            EitherKey::V6(Key::new(bits, NetKey { list, side, address: network.network().into() }))
        }
    }
}

fn gate_key(list: u32, place: &GatePlace) -> Key<GateKey> {
    let GatePlace { source, destination, protocol, port, bits } = *place;
    let data = GateKey { list, source, destination, protocol, pad: 0, port: Be16::new(port) };
    Key::new(GateKey::BEFORE_PORT + u32::from(bits), data)
}

impl Tables {
    /// Writes a list of rules.
    ///
    /// # Errors
    /// A table is full or cannot be written.
    pub fn add_list(&mut self, number: u32, list: &ListEntry) -> Result<()> {
        let compiled = list.compiled.as_ref().context("a list that was found cannot be written")?;
        self.policy
            .add(number, compiled)
            .with_context(|| format!("write policy list {number:08x}, {list:?}"))?;
        self.policy.written.insert(number, Arc::clone(compiled));
        Ok(())
    }

    /// Removes a list of rules that nothing is judged by any more.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn remove_list(&mut self, number: u32) -> Result<()> {
        std::thread::sleep(LAST_LOOK);
        self.policy.remove(number).with_context(|| format!("remove policy list {number:08x}"))
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
