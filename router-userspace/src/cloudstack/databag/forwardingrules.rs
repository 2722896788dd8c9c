//! `forwardingrules`: static NAT and port forwarding, by public address.
//!
//! A forward replaces the one that it is the same as ([`Identity::is_same`]), where that stands, or
//! comes last. A static NAT takes the address for itself: whatever was there goes. Withdrawing what
//! is not there does nothing; of an address without rules nothing is left. Where CloudStack's own
//! router drops all rules of an address with its static NAT, forwards that came after it stay here.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use super::{Databags, ips};
use crate::cloudstack::object::{Entry, Object};
use crate::cloudstack::wire::forwardrules::{self, ForwardRule, ForwardRules, Identity};
use crate::cloudstack::wire::staticnatrules::StaticNatRules;
use crate::json::Place;
use crate::model::{ForwardProtocol, PortForward, PortRange};

impl Databags {
    /// All port forwardings that were sent, in force or not.
    pub fn forwards(&self) -> impl Iterator<Item = PortForward> {
        let entries = self.forwardingrules.values().flatten();
        let forwards = entries.filter(|entry| ips::text(entry, "type") == "forward");
        forwards.filter_map(|entry| forwardrules::stored(&Object::new(Place::default(), entry)).ok())
    }

    pub(super) fn merge_forwardrules(&mut self, message: &ForwardRules) {
        let mut by_address: BTreeMap<Ipv4Addr, Vec<&ForwardRule>> = BTreeMap::new();
        for rule in &message.rules {
            by_address.entry(rule.identity.public).or_default().push(rule);
        }
        for (public, rules) in by_address {
            self.change_rules(public, |list| {
                let mut forwards = Forwards::of(std::mem::take(list));
                rules.into_iter().for_each(|rule| forwards.take(rule));
                *list = forwards.list.into_iter().flatten().map(|(_, entry)| entry).collect();
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

/// The entries of one address, each read once however many rules a message has, and found by what all rules that are
/// the same share.
struct Forwards {
    /// In their order; nothing where one was withdrawn.
    list: Vec<Option<(Option<Identity>, Entry)>>,
    places: HashMap<Key, Vec<usize>>,
}

type Key = (ForwardProtocol, Option<PortRange>);

impl Forwards {
    fn of(entries: Vec<Entry>) -> Self {
        let mut forwards = Self { list: Vec::with_capacity(entries.len()), places: HashMap::new() };
        entries.into_iter().for_each(|entry| forwards.push(identity(&entry), entry));
        forwards
    }

    fn push(&mut self, identity: Option<Identity>, entry: Entry) {
        if let Some(identity) = &identity {
            self.places.entry(key(identity)).or_default().push(self.list.len());
        }
        self.list.push(Some((identity, entry)));
    }

    fn take(&mut self, rule: &ForwardRule) {
        let mut first = None;
        for place in self.places.get(&key(&rule.identity)).into_iter().flatten() {
            let there = &mut self.list[*place];
            let identity = there.as_ref().and_then(|(identity, _)| identity.as_ref());
            if identity.is_some_and(|identity| identity.is_same(&rule.identity)) {
                first.get_or_insert(*place);
                *there = None;
            }
        }
        match (&rule.entry, first) {
            (None, _) => {}
            (Some(entry), Some(place)) => {
                self.list[place] = Some((Some(rule.identity.clone()), entry.clone()))
            }
            (Some(entry), None) => self.push(Some(rule.identity.clone()), entry.clone()),
        }
    }
}

const fn key(identity: &Identity) -> Key {
    (identity.protocol, identity.public_ports)
}

/// Which forward an entry is. One that cannot be read is none.
fn identity(stored: &Entry) -> Option<Identity> {
    let is_forward = ips::text(stored, "type") == "forward";
    is_forward.then(|| Identity::of_stored(&Object::new(Place::default(), stored)).ok())?
}
