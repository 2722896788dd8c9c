//! `firewallrules`, `ipv6firewallrules` by rule, and `networkacl` by NIC.
//!
//! A firewall rule never changes: CloudStack withdraws it and adds one with another number. So one
//! that is known stays as it is, as with CloudStack's own router, whatever is sent under its number.
//! An access list takes the place of the one before.
//!
//! Rules are shared by copies of the databags and kept as text, because there may be a hundred
//! thousand of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Databags;
use crate::cloudstack::raw::{Raw, Unfolded};
use crate::cloudstack::wire::Family;
use crate::cloudstack::wire::firewallrules::{FirewallChange, FirewallRule, FirewallRules};
use crate::cloudstack::wire::networkacl::NetworkAcl;
use crate::compile::Inventory;
use crate::error::ConfigError;

/// Rules by their numbers.
pub(in crate::cloudstack) type Firewall = BTreeMap<u64, Arc<FirewallRule>>;

/// Access lists by the names of their NICs.
pub(in crate::cloudstack) type Acls = BTreeMap<String, Arc<NetworkAcl>>;

/// A bag with rules, as its file holds it.
pub(super) enum PolicyBag<'a> {
    Firewall(&'a Firewall),
    Acls(&'a Acls),
}

impl Databags {
    pub(super) fn merge_firewallrules(&mut self, message: &FirewallRules) {
        let bag = Arc::make_mut(match message.family {
            Family::Ipv4 => &mut self.firewallrules,
            Family::Ipv6 => &mut self.ipv6firewallrules,
        });
        for change in &message.changes {
            match &change.rule {
                None => drop(bag.remove(&change.id)),
                Some(rule) => drop(bag.entry(change.id).or_insert_with(|| Arc::clone(rule))),
            }
        }
    }

    pub(super) fn merge_networkacl(
        &mut self,
        message: &NetworkAcl,
        inventory: &Inventory,
    ) -> Result<(), ConfigError> {
        let device = self.acl_device(message, inventory)?;
        if let Some(mac) = message.mac {
            self.networkacl.retain(|_, acl| acl.mac != Some(mac));
        }
        let acl = Arc::new(message.on(&device));
        self.networkacl.insert(device, acl);
        Ok(())
    }

    /// The NIC that a message means, by MAC address. One that is not plugged now gets its list
    /// under CloudStack's name, unless that would take the list of a NIC that is.
    fn acl_device(&self, message: &NetworkAcl, inventory: &Inventory) -> Result<String, ConfigError> {
        let name_of = |mac| inventory.by_mac(mac).map(|nic| nic.name.clone());
        if let Some(name) = message.mac.and_then(name_of) {
            return Ok(name);
        }
        let is_free = |device: &str| {
            let holder = self.networkacl.get(device).and_then(|acl| acl.mac);
            message.mac.is_none() || holder.is_none_or(|mac| name_of(mac).is_none())
        };
        let device = message.device.clone().filter(|device| is_free(device));
        device.ok_or_else(|| {
            let mac = message.mac.map(|mac| mac.to_string()).unwrap_or_default();
            message.place.at("mac_address").error(format_args!("no NIC has the address {mac}"))
        })
    }

    /// Moves lists whose NIC has another name now. A list of a NIC that is gone makes room.
    pub(super) fn move_acls(&mut self, inventory: &Inventory) {
        let name_of = |acl: &NetworkAcl| inventory.by_mac(acl.mac?).map(|nic| nic.name.clone());
        let is_moved =
            |(device, acl): (&String, &Arc<NetworkAcl>)| name_of(acl).is_some_and(|name| name != *device);
        if !self.networkacl.iter().any(is_moved) {
            return;
        }
        let (there, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.networkacl)
            .into_iter()
            .map(|(device, acl)| (name_of(&acl), device, acl))
            .partition(|(name, _, _)| name.is_some());
        for (name, device, acl) in there {
            let name = name.unwrap_or_else(|| device.clone());
            let acl = if name == device { acl } else { Arc::new(acl.on(&name)) };
            self.networkacl.insert(name, acl);
        }
        for (_, device, acl) in gone {
            self.networkacl.entry(device).or_insert(acl);
        }
    }
}

/// Reads a bag of firewall rules.
pub(super) fn read_firewall(bag: &Raw, family: Family) -> Result<Firewall, ConfigError> {
    let mut rules = Firewall::new();
    for (key, text) in bag.entries().filter(|(key, _)| *key != "id") {
        let place = bag.place.at(key);
        let change = FirewallChange::read(place.clone(), text, family, &mut Vec::new())?;
        if change.id.to_string() != *key {
            return Err(place.at("id").error(format_args!("{} in the place of {key}", change.id)));
        }
        rules.extend(change.rule.map(|rule| (change.id, rule)));
    }
    Ok(rules)
}

/// Reads the bag of access lists.
pub(super) fn read_acls(bag: &Raw) -> Result<Acls, ConfigError> {
    let entries = bag.entries().filter(|(key, _)| *key != "id");
    entries
        .map(|(device, text)| {
            let (acl, _) = NetworkAcl::read(&Raw::read(bag.place.at(device), text)?)?;
            Ok((device.clone(), Arc::new(acl)))
        })
        .collect()
}

impl PolicyBag<'_> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Firewall(rules) => rules.is_empty(),
            Self::Acls(acls) => acls.is_empty(),
        }
    }

    pub(super) fn name_is<'a>(&'a self, name: &'a str) -> Named<'a> {
        Named { name, bag: self }
    }
}

/// A bag with its name under `id`. Keys are sorted as text, as CloudStack's own router does.
pub(super) struct Named<'a> {
    name: &'a str,
    bag: &'a PolicyBag<'a>,
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        enum Part<'a> {
            Name(&'a str),
            Rule(&'a FirewallRule),
            Acl(&'a NetworkAcl),
        }
        impl Serialize for Part<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::Name(name) => serializer.serialize_str(name),
                    Self::Rule(rule) => Unfolded(&rule.text).serialize(serializer),
                    Self::Acl(acl) => acl.serialize(serializer),
                }
            }
        }
        let name = [("id".to_owned(), Part::Name(self.name))];
        let parts: BTreeMap<String, Part> = match self.bag {
            PolicyBag::Firewall(rules) => {
                let rules = rules.iter().map(|(id, rule)| (id.to_string(), Part::Rule(rule)));
                rules.chain(name).collect()
            }
            PolicyBag::Acls(acls) => {
                let acls = acls.iter().map(|(device, acl)| (device.clone(), Part::Acl(acl)));
                acls.chain(name).collect()
            }
        };
        serializer.collect_map(parts)
    }
}
