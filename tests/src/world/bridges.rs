//! Bridges, in memory.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use router_common::bridge::{FdbEntry, FdbKey};
use router_ebpf::bridge::Bridges;
use router_ebpf::packet::Packet;
use router_ebpf::tables::Tables;

use super::World;

/// Their tables.
#[derive(Debug, Default)]
pub struct BridgeTables {
    /// Their ports.
    pub members: RefCell<BTreeMap<u32, Vec<u32>>>,
    /// Stations that have been heard of.
    pub fdb: RefCell<HashMap<FdbKey, FdbEntry>>,
    /// The ports that copies of the frame that came last went to.
    pub flooded: RefCell<Vec<u32>>,
}

impl Bridges for World {
    fn heard(&self, key: &FdbKey) -> Option<FdbEntry> {
        self.bridges.fdb.borrow().get(key).copied()
    }

    fn hear(&self, key: &FdbKey, entry: &FdbEntry) {
        self.bridges.fdb.borrow_mut().insert(*key, *entry);
    }

    fn flood<P: Packet>(&self, _packet: &mut P, bridge: u32, but: u32, length: usize) {
        let members = self.bridges.members.borrow();
        let members = members.get(&bridge).into_iter().flatten().copied();
        let takes = |ifindex: &u32| {
            *ifindex != but && self.port(*ifindex).is_some_and(|port| length <= port.mtu as usize)
        };
        *self.bridges.flooded.borrow_mut() = members.filter(takes).collect();
    }
}
