//! `ips`: addresses by NIC.
//!
//! An address is on one NIC, so a message about it takes it from wherever it was. A released one
//! (`add: false`) stays in the bag as such. The order of a NIC's list is the order in which its
//! addresses arrived, source NAT first; an address that is sent again keeps its place, where
//! CloudStack's own router would move it to the end and make another address the primary one.

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::{ByKey, Databags, nic_name};
use crate::cloudstack::object::Entry;
use crate::cloudstack::wire::ips::{IpAssociation, Ips, NetworkType};
use crate::compile::Inventory;
use crate::error::ConfigError;
use crate::json::Place;

impl Databags {
    pub(super) fn merge_ips(&mut self, ips: &Ips, inventory: &Inventory) -> Result<(), ConfigError> {
        for association in &ips.associations {
            let device = device(&self.ips, association, inventory)?;
            let mut entry = association.entry.clone();
            entry.insert("nw_type".to_owned(), json!(word(association.network_type)));
            if let Some(mtu) = association.mtu {
                entry.insert("mtu".to_owned(), json!(mtu.to_string()));
            }
            derive(&mut entry, &device, association.address);
            upsert(&mut self.ips, &association.place.at("public_ip"), entry)?;
        }
        Ok(())
    }
}

/// The NIC that a message means: by MAC address, else by number, else where the address was. The
/// NIC of a released address may be unplugged already; then the number is only a last resort.
fn device(bag: &ByKey, association: &IpAssociation, inventory: &Inventory) -> Result<String, ConfigError> {
    let numbered = association.nic_dev_id.map(|number| format!("eth{number}"));
    let address = association.address.addr().to_string();
    let holder = bag.iter().find(|(_, entries)| entries.iter().any(|entry| holds(entry, &address)));
    let holder = holder.map(|(device, _)| device.clone());
    let device = match association.mac {
        None => numbered.or(holder),
        Some(mac) => match nic_name(&association.place.at("vif_mac_address"), mac, inventory) {
            Ok(name) => Some(name.to_owned()),
            Err(error) if association.add => return Err(error),
            Err(_) => holder.or(numbered),
        },
    };
    device.ok_or_else(|| {
        association.place.error("neither vif_mac_address nor nic_dev_id is there to say which NIC")
    })
}

/// Adds what CloudStack's own router derives.
pub(super) fn derive(entry: &mut Entry, device: &str, address: Ipv4Net) {
    for (key, value) in [
        ("device", device.to_owned()),
        ("broadcast", address.broadcast().to_string()),
        ("cidr", address.to_string()),
        ("size", address.prefix_len().to_string()),
        ("network", address.trunc().to_string()),
    ] {
        entry.insert(key.to_owned(), Value::String(value));
    }
}

/// Puts a derived entry into the list of its NIC. `place` is where its address stands.
pub(super) fn upsert(bag: &mut ByKey, place: &Place, entry: Entry) -> Result<(), ConfigError> {
    let device = text(&entry, "device").to_owned();
    let address = text(&entry, "public_ip").to_owned();
    refuse_theft(bag, place, &entry, &device)?;

    let list = bag.entry(device.clone()).or_default();
    let is_same =
        |stored: &Entry| holds(stored, &address) && is_true(stored, "add") == is_true(&entry, "add");
    let stored = list.iter().position(is_same);
    let kept = stored.filter(|index| *index == 0 || !is_true(&entry, "source_nat"));
    if let Some(index) = kept {
        list[index] = entry.clone();
    }
    for (name, list) in bag.iter_mut() {
        let mut index = 0;
        list.retain(|stored| {
            let is_kept = *name == device && kept == Some(index);
            index += 1;
            is_kept || !holds(stored, &address)
        });
    }

    let list = bag.entry(device).or_default();
    if text(&entry, "nw_type") == "control" {
        *list = vec![entry];
    } else if kept.is_none() && is_true(&entry, "source_nat") {
        list.insert(0, entry);
    } else if kept.is_none() {
        list.push(entry);
    }
    Ok(())
}

/// An address moves between NICs of one kind only: a public address that is a tier's gateway as
/// well is a mistake, and obeying it would cut the tier off.
fn refuse_theft(bag: &ByKey, place: &Place, entry: &Entry, device: &str) -> Result<(), ConfigError> {
    let address = text(entry, "public_ip");
    for (holder, list) in bag.iter().filter(|(holder, _)| *holder != device) {
        let held = list.iter().find(|stored| holds(stored, address) && is_true(stored, "add"));
        let kind = held.map(|stored| text(stored, "nw_type"));
        if let Some(kind) = kind.filter(|kind| *kind != text(entry, "nw_type")) {
            return Err(place.error(format_args!("{address} is the address of {holder}, a {kind} NIC")));
        }
    }
    Ok(())
}

/// Whether an entry is about an address.
pub(super) fn holds(entry: &Entry, address: &str) -> bool {
    text(entry, "public_ip") == address
}

/// A boolean of an entry, also where it was written as a word.
pub(super) fn is_true(entry: &Entry, key: &str) -> bool {
    match entry.get(key) {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(word)) => word.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

/// Text of an entry; empty where there is none.
pub(super) fn text<'a>(entry: &'a Entry, key: &str) -> &'a str {
    entry.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn word(network_type: NetworkType) -> &'static str {
    match network_type {
        NetworkType::Public => "public",
        NetworkType::Guest => "guest",
        NetworkType::Control => "control",
    }
}
