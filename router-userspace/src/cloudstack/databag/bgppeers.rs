//! `bgppeers`: the peers of the last message, which has all there are.
//!
//! The bag is the only one without its name under `id`: CloudStack's own router clears that away, too.

use std::sync::Arc;

use super::Databags;
use crate::cloudstack::object::Object;
use crate::cloudstack::wire::bgppeers::{BgpPeer, BgpPeers};
use crate::error::ConfigError;
use crate::json::Place;

impl Databags {
    /// The peers, with their places in the bag.
    pub(in crate::cloudstack) fn bgp_peers(&self) -> Result<Vec<BgpPeer>, ConfigError> {
        let place = Place::document("bgppeers.json");
        let peers = self.bgppeers.iter();
        peers.map(|(key, peer)| BgpPeer::read(&Object::new(place.at(key), peer))).collect()
    }

    pub(super) fn merge_bgppeers(&mut self, message: &BgpPeers) {
        let peers = message.peers.iter().map(|peer| (peer.key(), peer.entry.clone()));
        self.bgppeers = Arc::new(peers.collect());
    }
}
