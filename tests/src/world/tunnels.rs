//! Ports that are VXLAN networks, in memory.

use std::cell::RefCell;
use std::collections::HashMap;

use router_common::net::{Ipv4, MacPair};
use router_common::tunnel::{Remote, RemoteIndex, RemoteKey, StationKey, Tunnel, TunnelKey};
use router_ebpf::tunnel::Tunnels;

use super::World;

/// Their tables.
#[derive(Debug, Default)]
pub struct TunnelTables {
    /// How packets are addressed that are ports' frames.
    pub tunnelled: RefCell<HashMap<TunnelKey, u32>>,
    /// The ports, by their own interfaces.
    pub tunnels: RefCell<HashMap<u32, Tunnel>>,
    /// Remote ends.
    pub remotes: RefCell<HashMap<RemoteKey, Remote>>,
    /// The same one after the other.
    pub list: RefCell<HashMap<RemoteIndex, Ipv4>>,
    /// Stations that have been heard of.
    pub stations: RefCell<HashMap<StationKey, Ipv4>>,
}

impl TunnelTables {
    /// Adds a port, which comes with its remote ends.
    pub fn add(&self, ifindex: u32, tunnel: &Tunnel, remotes: &[Ipv4]) {
        let Tunnel { underlay, local, vni, udp_port, .. } = *tunnel;
        let key = TunnelKey { underlay, local, vni, udp_port, pad: [0; 2] };
        self.tunnelled.borrow_mut().insert(key, ifindex);
        self.tunnelled.borrow_mut().insert(TunnelKey { vni: TunnelKey::ANY, ..key }, 0);
        self.tunnels.borrow_mut().insert(ifindex, *tunnel);
        for (index, address) in (0..).zip(remotes) {
            let nowhere = Remote { resolved: 0, macs: MacPair([0; 3]), generation: 0, pad: 0 };
            self.remotes.borrow_mut().insert(RemoteKey { ifindex, address: *address }, nowhere);
            self.list.borrow_mut().insert(RemoteIndex { ifindex, index }, *address);
        }
    }
}

impl Tunnels for World {
    fn tunnelled(&self, key: &TunnelKey) -> Option<u32> {
        self.tunnels.tunnelled.borrow().get(key).copied()
    }

    fn tunnel(&self, ifindex: u32) -> Option<Tunnel> {
        self.tunnels.tunnels.borrow().get(&ifindex).copied()
    }

    fn remote(&self, key: &RemoteKey) -> Option<Remote> {
        self.tunnels.remotes.borrow().get(key).copied()
    }

    fn set_way(&self, key: &RemoteKey, macs: MacPair, now: u64, generation: u32) {
        if let Some(remote) = self.tunnels.remotes.borrow_mut().get_mut(key) {
            (remote.macs, remote.resolved, remote.generation) = (macs, now, generation);
        }
    }

    fn remote_at(&self, key: &RemoteIndex) -> Option<Ipv4> {
        self.tunnels.list.borrow().get(key).copied()
    }

    fn station(&self, key: &StationKey) -> Option<Ipv4> {
        self.tunnels.stations.borrow().get(key).copied()
    }

    fn learn(&self, key: &StationKey, remote: Ipv4) {
        self.tunnels.stations.borrow_mut().insert(*key, remote);
    }
}
