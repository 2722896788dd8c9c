//! `loadbalancer`: the last configuration, which is always a whole one.

use std::sync::Arc;

use super::Databags;
use crate::cloudstack::object::Object;
use crate::cloudstack::wire::loadbalancer::LoadBalancer;
use crate::error::ConfigError;
use crate::json::Place;

impl Databags {
    /// The configuration, if there is one, with its place in the bag.
    pub(in crate::cloudstack) fn balancer(&self) -> Result<Option<LoadBalancer>, ConfigError> {
        let place = || Place::document("loadbalancer.json").at("config").at(0);
        let entry = self.loadbalancer.as_deref();
        entry.map(|entry| LoadBalancer::of(&Object::new(place(), entry))).transpose()
    }

    pub(super) fn merge_loadbalancer(&mut self, message: &LoadBalancer) {
        self.loadbalancer = Some(Arc::new(message.entry.clone()));
    }
}
