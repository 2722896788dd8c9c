//! `staticroutes`: the last word on each network, revoked ones included.

use super::Databags;
use crate::cloudstack::wire::staticroutes::StaticRoutes;

impl Databags {
    pub(super) fn merge_staticroutes(&mut self, message: &StaticRoutes) {
        for route in &message.routes {
            self.staticroutes.insert(route.network.to_string(), route.entry.clone());
        }
    }
}
