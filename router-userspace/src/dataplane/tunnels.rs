//! Ports that are VXLAN networks, in their tables.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData, MapError};
use router_common::net::MacPair;
use router_common::tunnel::{Remote, RemoteIndex, RemoteKey, Tunnel, TunnelKey, Whereabouts};

use super::batch;
use super::maps::{Tables, absent_is_fine};
use crate::compile::Vxlan;

/// The tables.
pub(super) struct TunnelTables {
    tunnelled: HashMap<MapData, TunnelKey, u32>,
    tunnels: HashMap<MapData, u32, Tunnel>,
    remotes: HashMap<MapData, RemoteKey, Remote>,
    list: HashMap<MapData, RemoteIndex, Whereabouts>,
}

/// What packets are told by that are a port's.
const fn key(tunnel: &Tunnel) -> TunnelKey {
    let Tunnel { underlay, local, vni, udp_port, .. } = *tunnel;
    TunnelKey { underlay, local, vni, udp_port, pad: [0; 2] }
}

/// That packets to such an address are ports' at all.
const fn any(tunnel: &Tunnel) -> TunnelKey {
    TunnelKey { vni: TunnelKey::ANY, ..key(tunnel) }
}

impl TunnelTables {
    pub(super) fn take(map: &mut impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            tunnelled: HashMap::try_from(map("TUNNELLED")?)?,
            tunnels: HashMap::try_from(map("TUNNELS")?)?,
            remotes: HashMap::try_from(map("REMOTES")?)?,
            list: HashMap::try_from(map("REMOTE_LIST")?)?,
        })
    }

    /// By ports' own interfaces; without those that packets are not told by.
    pub(super) fn observe(&self) -> Result<BTreeMap<u32, Vxlan>> {
        let mut found = BTreeMap::new();
        for (ifindex, tunnel) in batch::entries(&self.tunnels).context("read TUNNELS")? {
            let owns = |key: &TunnelKey, owner| self.tunnelled.get(key, 0).is_ok_and(|it| it == owner);
            if owns(&key(&tunnel), ifindex) && owns(&any(&tunnel), 0) {
                let remotes = self.remotes_of(ifindex, &tunnel)?;
                found.insert(ifindex, Vxlan { tunnel, remotes });
            }
        }
        Ok(found)
    }

    /// Those of the list that are in the other table as well.
    fn remotes_of(&self, ifindex: u32, tunnel: &Tunnel) -> Result<Vec<Ipv4Addr>> {
        let mut remotes = Vec::new();
        for index in 0..tunnel.remotes {
            let address = match self.list.get(&RemoteIndex { ifindex, index }, 0) {
                Ok(Whereabouts { remote }) => remote,
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(error).context("read REMOTE_LIST"),
            };
            if self.remotes.get(&RemoteKey { ifindex, address }, 0).is_ok() {
                remotes.push(address.into());
            }
        }
        Ok(remotes)
    }

    /// Adds or replaces one. Remote ends that stay keep the way to them.
    pub(super) fn set(&mut self, ifindex: u32, vxlan: &Vxlan) -> Result<()> {
        let Vxlan { tunnel, remotes } = vxlan;
        let before = match self.tunnels.get(&ifindex, 0) {
            Ok(old) => self.remotes_of(ifindex, &old).map(|remotes| Some((old, remotes)))?,
            Err(_) => None,
        };
        for (index, address) in (0..).zip(remotes) {
            let key = RemoteKey { ifindex, address: (*address).into() };
            if self.remotes.get(&key, 0).is_err() {
                self.remotes.insert(key, NOWHERE, 0).with_context(|| format!("write remote {address}"))?;
            }
            let remote = Whereabouts { remote: (*address).into() };
            self.list
                .insert(RemoteIndex { ifindex, index }, remote, 0)
                .with_context(|| format!("list remote {address}"))?;
        }
        self.tunnels.insert(ifindex, tunnel, 0).with_context(|| format!("write tunnel {ifindex}"))?;
        for (key, owner) in [(any(tunnel), 0), (key(tunnel), ifindex)] {
            self.tunnelled.insert(key, owner, 0).with_context(|| format!("write VNI of {ifindex}"))?;
        }
        let Some((old, remotes_before)) = before else { return Ok(()) };
        if key(&old) != key(tunnel) {
            self.forget_key(ifindex, &old)?;
        }
        let gone = remotes_before.iter().filter(|address| !remotes.contains(address));
        self.forget_remotes(ifindex, gone, tunnel.remotes..old.remotes)
    }

    /// Removes one, if it is there.
    pub(super) fn remove(&mut self, ifindex: u32) -> Result<()> {
        let Ok(old) = self.tunnels.get(&ifindex, 0) else { return Ok(()) };
        let remotes = self.remotes_of(ifindex, &old)?;
        absent_is_fine(self.tunnels.remove(&ifindex)).with_context(|| format!("remove tunnel {ifindex}"))?;
        self.forget_key(ifindex, &old)?;
        self.forget_remotes(ifindex, remotes.iter(), 0..old.remotes)
    }

    /// Packets that are addressed so are that port's no more, unless they have become another one's.
    fn forget_key(&mut self, ifindex: u32, old: &Tunnel) -> Result<()> {
        let key = key(old);
        if self.tunnelled.get(&key, 0).is_ok_and(|owner| owner == ifindex) {
            absent_is_fine(self.tunnelled.remove(&key))
                .with_context(|| format!("remove VNI of {ifindex}"))?;
        }
        let others = self.tunnels.iter().filter_map(Result::ok);
        if !others.into_iter().any(|(other, tunnel)| other != ifindex && any(&tunnel) == any(old))
            && self.tunnels.get(&ifindex, 0).map_or(true, |now| any(&now) != any(old))
        {
            absent_is_fine(self.tunnelled.remove(&any(old))).context("remove the VTEP")?;
        }
        Ok(())
    }

    fn forget_remotes<'a>(
        &mut self,
        ifindex: u32,
        gone: impl Iterator<Item = &'a Ipv4Addr>,
        places: Range<u32>,
    ) -> Result<()> {
        for address in gone {
            let key = RemoteKey { ifindex, address: (*address).into() };
            absent_is_fine(self.remotes.remove(&key)).with_context(|| format!("remove remote {address}"))?;
        }
        for index in places {
            absent_is_fine(self.list.remove(&RemoteIndex { ifindex, index }))
                .context("shorten REMOTE_LIST")?;
        }
        Ok(())
    }
}

/// A remote end before anybody has looked for the way there.
const NOWHERE: Remote = Remote { resolved: 0, macs: MacPair([0; 3]), generation: 0, pad: 0 };

impl Tables {
    /// Adds or replaces how the frames of a port are carried that is a VXLAN network.
    ///
    /// # Errors
    /// A table is full or cannot be written.
    pub fn set_tunnel(&mut self, ifindex: u32, vxlan: &Vxlan) -> Result<()> {
        self.tunnels.set(ifindex, vxlan)
    }

    /// Removes it, if it is there.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn remove_tunnel(&mut self, ifindex: u32) -> Result<()> {
        self.tunnels.remove(ifindex)
    }
}
