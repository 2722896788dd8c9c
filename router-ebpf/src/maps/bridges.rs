//! Bridges, in their maps.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap};
use router_common::account::COUNTER_SLOTS;
use router_common::bridge::{FdbEntry, FdbKey, MemberKey};
use router_ebpf::bridge::Bridges;
use router_ebpf::packet::Packet;

use super::{Context, Maps};
use crate::apart;

/// The ports of bridges, one after the other.
#[map]
static MEMBERS: HashMap<MemberKey, u32> = HashMap::with_max_entries(COUNTER_SLOTS, 0);
/// Stations that have been heard of.
#[map]
static FDB: LruHashMap<FdbKey, FdbEntry> = LruHashMap::with_max_entries(1 << 14, 0);

/// A port of a bridge, by its place.
#[inline(always)]
pub fn member(bridge: u32, index: u32) -> Option<u32> {
    // SAFETY: one integer.
    unsafe { MEMBERS.get(&MemberKey { bridge, index }) }.copied()
}

impl Bridges for Maps {
    #[inline(always)]
    fn heard(&self, key: &FdbKey) -> Option<FdbEntry> {
        // SAFETY: entries are replaced whole.
        unsafe { FDB.get(key) }.copied()
    }

    #[inline(always)]
    fn hear(&self, key: &FdbKey, entry: &FdbEntry) {
        // Full it cannot be.
        let _ = FDB.insert(key, entry, 0);
    }

    /// The frame is the context's.
    #[inline(always)]
    fn flood<P: Packet>(&self, _packet: &mut P, bridge: u32, but: u32, length: usize) {
        if let Context::Tc(skb) = self.ctx {
            apart::xvr_tc_flood(skb, bridge, but, length as u32);
        }
    }
}
