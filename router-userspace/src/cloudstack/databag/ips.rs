//! `ips`: addresses by NIC.
//!
//! An address is on one NIC, so a message about it takes it from wherever it was. A released one
//! (`add: false`) stays in the bag as such. The order of a NIC's list is the order in which its
//! addresses arrived, source NAT first; an address that is sent again keeps its place, where
//! CloudStack's own router would move it to the end and make another address the primary one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::{ByKey, Databags, nic_name};
use crate::cloudstack::object::Entry;
use crate::cloudstack::wire::Written;
use crate::cloudstack::wire::ips::{IpAssociation, Ips, NetworkType};
use crate::compile::Index;
use crate::error::ConfigError;
use crate::json::Place;

/// Lists of addresses by NIC, with where each address is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::cloudstack) struct Addresses {
    by_nic: ByKey,
    /// By address, as it is written: the NICs in whose lists it is.
    holders: BTreeMap<String, BTreeSet<String>>,
}

impl From<ByKey> for Addresses {
    fn from(by_nic: ByKey) -> Self {
        let mut addresses = Self { by_nic, holders: BTreeMap::new() };
        for (device, list) in &addresses.by_nic {
            for entry in list {
                let holders = addresses.holders.entry(text(entry, "public_ip").to_owned()).or_default();
                holders.insert(device.clone());
            }
        }
        addresses
    }
}

impl From<Addresses> for ByKey {
    fn from(addresses: Addresses) -> Self {
        addresses.by_nic
    }
}

/// For who reads them.
impl Deref for Addresses {
    type Target = ByKey;

    fn deref(&self) -> &ByKey {
        &self.by_nic
    }
}

impl Addresses {
    /// The NICs in whose lists an address is, in their order.
    fn holders(&self, address: &str) -> impl Iterator<Item = &String> {
        self.holders.get(address).into_iter().flatten()
    }

    /// Changes the list of a NIC.
    pub(super) fn change(&mut self, device: &str, change: impl FnOnce(&mut Vec<Entry>)) {
        let list = self.by_nic.entry(device.to_owned()).or_default();
        for entry in list.iter() {
            let address = text(entry, "public_ip");
            if let Some(holders) = self.holders.get_mut(address) {
                holders.remove(device);
                if holders.is_empty() {
                    self.holders.remove(address);
                }
            }
        }
        change(list);
        for entry in list.iter() {
            let holders = self.holders.entry(text(entry, "public_ip").to_owned()).or_default();
            holders.insert(device.to_owned());
        }
    }

    /// Takes an address away, as far as entries about it are such ones.
    pub(super) fn drop_address(&mut self, address: &str, is_such: impl Fn(&Entry) -> bool) {
        for holder in self.holders(address).cloned().collect::<Vec<_>>() {
            self.change(&holder, |list| list.retain(|entry| !holds(entry, address) || !is_such(entry)));
        }
    }
}

impl Databags {
    pub(super) fn merge_ips(&mut self, ips: &Ips, nics: &Index<'_>) -> Result<(), ConfigError> {
        for Written { says: association, entry } in &ips.associations {
            let device = device(&self.ips, association, nics)?;
            let mut entry = entry.clone();
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
fn device(bag: &Addresses, association: &IpAssociation, nics: &Index<'_>) -> Result<String, ConfigError> {
    let numbered = association.nic_dev_id.map(|number| format!("eth{number}"));
    let holder = bag.holders(&association.address.addr().to_string()).next().cloned();
    let device = match association.mac {
        None => numbered.or(holder),
        Some(mac) => match nic_name(&association.place.at("vif_mac_address"), mac, nics) {
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
pub(super) fn upsert(bag: &mut Addresses, place: &Place, entry: Entry) -> Result<(), ConfigError> {
    let device = text(&entry, "device").to_owned();
    let address = text(&entry, "public_ip").to_owned();
    let elsewhere: Vec<String> = bag.holders(&address).filter(|holder| **holder != device).cloned().collect();
    refuse_theft(bag, place, &entry, &elsewhere)?;
    for holder in elsewhere {
        bag.change(&holder, |list| list.retain(|stored| !holds(stored, &address)));
    }
    bag.change(&device, |list| put(list, entry, &address));
    Ok(())
}

/// Puts an entry into the list of its NIC, in the place of others about its address.
fn put(list: &mut Vec<Entry>, entry: Entry, address: &str) {
    let is_same = |stored: &Entry| holds(stored, address) && is_true(stored, "add") == is_true(&entry, "add");
    let stored = list.iter().position(is_same);
    let kept = stored.filter(|index| *index == 0 || !is_true(&entry, "source_nat"));
    let mut index = 0;
    list.retain_mut(|stored| {
        let is_kept = kept == Some(index);
        index += 1;
        if is_kept {
            stored.clone_from(&entry);
        }
        is_kept || !holds(stored, address)
    });
    if text(&entry, "nw_type") == "control" {
        *list = vec![entry];
    } else if kept.is_none() && is_true(&entry, "source_nat") {
        list.insert(0, entry);
    } else if kept.is_none() {
        list.push(entry);
    }
}

/// An address moves between NICs of one kind only: a public address that is a tier's gateway as
/// well is a mistake, and obeying it would cut the tier off.
fn refuse_theft(
    bag: &Addresses,
    place: &Place,
    entry: &Entry,
    elsewhere: &[String],
) -> Result<(), ConfigError> {
    let address = text(entry, "public_ip");
    for holder in elsewhere {
        let list = bag.get(holder).into_iter().flatten();
        let held = list.into_iter().find(|stored| holds(stored, address) && is_true(stored, "add"));
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
