//! `loadbalancer`: the last configuration, which is always a whole one.

use std::sync::Arc;

use super::Databags;
use crate::cloudstack::wire::loadbalancer::LoadBalancer;

impl Databags {
    pub(super) fn merge_loadbalancer(&mut self, message: &LoadBalancer) {
        self.loadbalancer = Some(Arc::new(message.entry.clone()));
    }
}
