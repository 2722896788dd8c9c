//! `bgppeers`: the peers of the last message, which has all there are.
//!
//! The bag is the only one without its name under `id`: CloudStack's own router clears that away, too.

use std::sync::Arc;

use super::Databags;
use crate::cloudstack::wire::bgppeers::BgpPeers;

impl Databags {
    pub(super) fn merge_bgppeers(&mut self, message: &BgpPeers) {
        let peers = message.peers.iter().map(|peer| (peer.key(), peer.entry.clone()));
        self.bgppeers = Arc::new(peers.collect());
    }
}
