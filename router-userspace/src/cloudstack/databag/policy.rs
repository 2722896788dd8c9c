//! `firewallrules`, `ipv6firewallrules` by rule, and `networkacl` by NIC.
//!
//! A firewall rule never changes: CloudStack withdraws it and adds one with another number. So one
//! that is known stays as it is, as with CloudStack's own router, whatever is sent under its number.
//! An access list takes the place of the one before.
//!
//! Rules are shared by copies of the databags and kept as the text that the files have, because there may
//! be a hundred thousand of them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use super::Databags;
use super::pieces::Pieces;
use super::vmdata::{self, VmDataBag};
use crate::cloudstack::raw::Raw;
use crate::cloudstack::wire::Family;
use crate::cloudstack::wire::firewallrules::{FirewallChange, FirewallRule, FirewallRules};
use crate::cloudstack::wire::networkacl::NetworkAcl;
use crate::compile::Index;
use crate::error::ConfigError;

/// Rules by their numbers.
pub(in crate::cloudstack) type Firewall = Pieces<FirewallRule>;

/// Access lists by the names of their NICs.
pub(in crate::cloudstack) type Acls = BTreeMap<String, Arc<NetworkAcl>>;

/// A bag that may be long.
#[derive(Debug, PartialEq)]
pub(super) enum PolicyBag {
    Firewall(Firewall),
    Acls(Acls),
    Guests(VmDataBag),
}

impl Databags {
    pub(super) fn merge_firewallrules(&mut self, message: &FirewallRules) {
        let bag = match message.family {
            Family::Ipv4 => &mut self.firewallrules,
            Family::Ipv6 => &mut self.ipv6firewallrules,
        };
        for change in &message.changes {
            match &change.rule {
                None => bag.remove(change.id),
                Some(rule) => bag.add(change.id, rule.clone()),
            }
        }
    }

    pub(super) fn merge_networkacl(
        &mut self,
        message: &NetworkAcl,
        nics: &Index<'_>,
    ) -> Result<(), ConfigError> {
        let device = self.acl_device(message, nics)?;
        let before = self.networkacl.get(&device).map(Arc::as_ref);
        let acl = before.map_or_else(|| message.clone(), |before| message.sharing(before));
        let acl = Arc::new(acl.on(&device));
        // Lists of NICs that are there are under their names.
        if let Some(mac) = message.mac.filter(|mac| nics.by_mac(*mac).is_none()) {
            self.networkacl.retain(|_, acl| acl.mac != Some(mac));
        }
        self.networkacl.insert(device, acl);
        Ok(())
    }

    /// The NIC that a message means, by MAC address. One that is not plugged now gets its list
    /// under CloudStack's name, unless that would take the list of a NIC that is.
    fn acl_device(&self, message: &NetworkAcl, nics: &Index<'_>) -> Result<String, ConfigError> {
        let name_of = |mac| nics.by_mac(mac).map(|nic| nic.name.clone());
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
    pub(super) fn move_acls(&mut self, nics: &Index<'_>) {
        let name_of = |acl: &NetworkAcl| nics.by_mac(acl.mac?).map(|nic| nic.name.clone());
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
    let mut rules = Vec::new();
    for (key, text) in bag.entries().filter(|(key, _)| *key != "id") {
        let change = FirewallChange::read(&bag.place, key, text, family, &mut Vec::new())?;
        if change.id.to_string() != *key {
            let place = bag.place.at(key).at("id");
            return Err(place.error(format_args!("{} in the place of {key}", change.id)));
        }
        rules.extend(change.rule.map(|rule| (change.id, rule)));
    }
    // The file has them in the order of their text.
    rules.sort_by_key(|(id, _)| *id);
    let mut bag = Firewall::default();
    rules.into_iter().for_each(|(id, rule)| bag.add(id, rule));
    Ok(bag)
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

impl PolicyBag {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Firewall(rules) => rules.is_empty(),
            Self::Acls(acls) => acls.is_empty(),
            Self::Guests(guests) => guests.is_empty(),
        }
    }

    /// Writes the bag's file, with its name under `id`: as CloudStack's own router writes it, keys sorted as text.
    pub(super) fn write(&self, name: &str, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Firewall(rules) => write_firewall(name, rules, out),
            Self::Acls(acls) => write_acls(name, acls, out),
            Self::Guests(guests) => vmdata::write(name, guests, out),
        }
    }
}

fn write_firewall(name: &str, rules: &Firewall, out: &mut impl Write) -> io::Result<()> {
    // Numbers as text, 20 digits at most: with noughts behind, then the shorter first.
    let as_text = |id: u64| {
        let digits = id.checked_ilog10().unwrap_or(0) + 1;
        (u128::from(id) * 10_u128.pow(20 - digits), digits)
    };
    let mut sorted: Vec<_> = rules.iter().map(|(id, rule)| (as_text(id), id, &*rule.text)).collect();
    // There are as many runs in order as there are lengths of numbers, which a stable sort merges.
    sorted.sort_by_key(|(text, _, _)| *text);
    out.write_all(b"{")?;
    for (_, id, text) in sorted {
        write!(out, "\n  \"{id}\": ")?;
        out.write_all(text.as_bytes())?;
        out.write_all(b",")?;
    }
    // Letters come after digits.
    write!(out, "\n  \"id\": \"{name}\"\n}}")
}

fn write_acls(name: &str, acls: &Acls, out: &mut impl Write) -> io::Result<()> {
    let mut before = "{";
    let devices = acls.iter().map(|(device, acl)| (device.as_str(), Some(acl)));
    for (key, acl) in devices.chain([("id", None)]).collect::<BTreeMap<_, _>>() {
        write!(out, "{before}\n  ")?;
        serde_json::to_writer(&mut *out, key)?;
        out.write_all(b": ")?;
        match acl {
            Some(acl) => acl.write(out)?,
            None => serde_json::to_writer(&mut *out, name)?,
        }
        before = ",";
    }
    out.write_all(b"\n}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Place;

    #[test]
    fn rules_stand_in_the_order_of_their_numbers_text() {
        let ids = [0, 1, 9, 10, 11, 19, 100, 101, 2, 20, 999, 1000, u64::MAX, u64::MAX / 10, 1 << 40];
        let mut rules = Firewall::default();
        for id in ids {
            let text = format!(r#"{{"id":{id},"protocol":"all","revoked":false,"traffic_type":"Egress"}}"#);
            let place = Place::document("f");
            let change = FirewallChange::read(&place, &0, &text, Family::Ipv4, &mut vec![]).expect("a rule");
            rules.add(id, change.rule.expect("wanted"));
        }
        let file = |name, rules: &Firewall| {
            let mut file = Vec::new();
            write_firewall(name, rules, &mut file).expect("to memory");
            String::from_utf8(file).expect("text")
        };
        let empty = file("x", &Firewall::default());
        assert_eq!(empty, serde_json::to_string_pretty(&serde_json::json!({"id": "x"})).expect("text"));
        let file = file("firewallrules", &rules);
        let value: serde_json::Value = serde_json::from_str(&file).expect("JSON");
        assert_eq!(value.as_object().map(|bag| bag.len()), Some(ids.len() + 1));
        assert_eq!(file, serde_json::to_string_pretty(&value).expect("text"));
    }
}
