//! `forwardingrules`: static NAT and port forwarding, by public address.
//!
//! A forward replaces the one that it is the same as ([`Identity::is_same`]), where that stands, or
//! comes last. A static NAT takes the address for itself: whatever was there goes. Withdrawing what
//! is not there does nothing; of an address without rules nothing is left. Where CloudStack's own
//! router drops all rules of an address with its static NAT, forwards that came after it stay here.

use std::net::Ipv4Addr;

use super::{Databags, ips};
use crate::cloudstack::object::{Entry, Object};
use crate::cloudstack::wire::forwardrules::{self, ForwardRules, Identity};
use crate::cloudstack::wire::staticnatrules::StaticNatRules;
use crate::json::Place;
use crate::model::PortForward;

impl Databags {
    /// All port forwardings that were sent, in force or not.
    pub fn forwards(&self) -> impl Iterator<Item = PortForward> {
        let entries = self.forwardingrules.values().flatten();
        let forwards = entries.filter(|entry| ips::text(entry, "type") == "forward");
        forwards.filter_map(|entry| forwardrules::stored(&Object::new(Place::default(), entry)).ok())
    }

    pub(super) fn merge_forwardrules(&mut self, message: &ForwardRules) {
        for rule in &message.rules {
            self.change_rules(rule.identity.public, |list| {
                let place = list.iter().position(|stored| is_same(stored, &rule.identity));
                list.retain(|stored| !is_same(stored, &rule.identity));
                if let Some(entry) = &rule.entry {
                    list.insert(place.unwrap_or(list.len()), entry.clone());
                }
            });
        }
    }

    pub(super) fn merge_staticnatrules(&mut self, message: &StaticNatRules) {
        for rule in &message.rules {
            self.change_rules(rule.public, |list| match &rule.entry {
                Some(entry) => *list = vec![entry.clone()],
                None => list.retain(|stored| ips::text(stored, "type") != "staticnat"),
            });
        }
    }

    fn change_rules(&mut self, public: Ipv4Addr, change: impl FnOnce(&mut Vec<Entry>)) {
        let key = public.to_string();
        let mut list = self.forwardingrules.remove(&key).unwrap_or_default();
        change(&mut list);
        if !list.is_empty() {
            self.forwardingrules.insert(key, list);
        }
    }
}

/// Whether an entry is the forward that a message means. One that cannot be read is none.
fn is_same(stored: &Entry, wanted: &Identity) -> bool {
    let identity = || Identity::of_stored(&Object::new(Place::default(), stored)).ok();
    ips::text(stored, "type") == "forward" && identity().is_some_and(|identity| identity.is_same(wanted))
}
