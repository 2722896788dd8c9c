//! Ports that are VXLAN networks, in their maps.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray};
use router_common::account::COUNTER_SLOTS;
use router_common::net::{Ipv4, MacPair};
use router_common::tunnel::{Remote, RemoteIndex, RemoteKey, StationKey, Tunnel, TunnelKey, Whereabouts};
use router_ebpf::tunnel::{Outer, Tunnels};

use super::{Maps, Own, own};

/// How packets are addressed that are ports' frames.
#[map]
static TUNNELLED: HashMap<TunnelKey, u32> = HashMap::with_max_entries(2 * COUNTER_SLOTS, 0);
/// The ports, by their own interfaces.
#[map]
static TUNNELS: HashMap<u32, Tunnel> = HashMap::with_max_entries(COUNTER_SLOTS, 0);
/// Remote ends, with the way there.
#[map]
static REMOTES: HashMap<RemoteKey, Remote> = HashMap::with_max_entries(1 << 16, NO_PREALLOC);
/// The same one after the other.
#[map]
static REMOTE_LIST: HashMap<RemoteIndex, Whereabouts> = HashMap::with_max_entries(1 << 16, NO_PREALLOC);
/// Stations that have been heard of. Whoever sends with many addresses pushes out what nobody has sent to.
#[map]
static STATIONS: LruHashMap<StationKey, Whereabouts> = LruHashMap::with_max_entries(1 << 14, 0);
/// The headers that are being written.
#[map]
static OUTER: PerCpuArray<Outer> = PerCpuArray::with_max_entries(1, 0);

const NO_PREALLOC: u32 = aya_ebpf::bindings::BPF_F_NO_PREALLOC;

/// Where headers are written down.
#[inline(always)]
pub fn outer() -> Option<Own<Outer>> {
    own(&OUTER)
}

impl Tunnels for Maps {
    #[inline(always)]
    fn tunnelled(&self, key: &TunnelKey) -> Option<u32> {
        // SAFETY: one integer.
        unsafe { TUNNELLED.get(key) }.copied()
    }

    #[inline(always)]
    fn tunnel(&self, ifindex: u32) -> Option<Tunnel> {
        // SAFETY: userspace replaces entries whole.
        unsafe { TUNNELS.get(&ifindex) }.copied()
    }

    #[inline(always)]
    fn remote(&self, key: &RemoteKey) -> Option<Remote> {
        // SAFETY: another CPU may write the way there meanwhile: integers, and each of their values is valid.
        unsafe { REMOTES.get(key) }.copied()
    }

    #[inline(always)]
    fn set_way(&self, key: &RemoteKey, macs: MacPair, now: u64, generation: u32) {
        let Some(remote) = REMOTES.get_ptr_mut(key) else { return };
        // SAFETY: from a lookup of this run. Another CPU may read addresses half old, half new for one packet.
        unsafe {
            (*remote).macs = macs;
            (*remote).generation = generation;
            (*remote).resolved = now;
        }
    }

    #[inline(always)]
    fn remote_at(&self, key: &RemoteIndex) -> Option<Ipv4> {
        // SAFETY: one integer.
        unsafe { REMOTE_LIST.get(key) }.map(|found| found.remote)
    }

    #[inline(always)]
    fn station(&self, key: &StationKey) -> Option<Ipv4> {
        // SAFETY: one integer.
        unsafe { STATIONS.get(key) }.map(|found| found.remote)
    }

    #[inline(always)]
    fn learn(&self, key: &StationKey, remote: Ipv4) {
        // Full it cannot be.
        let _ = STATIONS.insert(key, &Whereabouts { remote }, 0);
    }
}
