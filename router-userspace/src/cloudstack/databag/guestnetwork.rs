//! `guestnetwork`: tiers of a VPC, one for each NIC, and their addresses in `ips`.
//!
//! A message about a known tier updates it (CloudStack's own router ignores such a message until
//! it restarts); the same message again changes nothing. A tier is known by its MAC address, and
//! by its NIC's name where either side has no MAC address. Removing an unknown tier does nothing,
//! where CloudStack's own router stores the removal as if it were a tier.

use serde_json::{Value, json};

use super::{Databags, ips, nic_name};
use crate::cloudstack::object::Entry;
use crate::cloudstack::wire::Written;
use crate::cloudstack::wire::guestnetwork::GuestNetwork;
use crate::compile::Index;
use crate::error::ConfigError;
use crate::model::Mac;

impl Databags {
    pub(super) fn merge_guestnetwork(
        &mut self,
        message: &Written<GuestNetwork>,
        nics: &Index<'_>,
    ) -> Result<(), ConfigError> {
        if message.says.add { self.put_tier(message, nics) } else { self.remove_tier(&message.says, nics) }
    }

    fn put_tier(&mut self, message: &Written<GuestNetwork>, nics: &Index<'_>) -> Result<(), ConfigError> {
        let tier = &message.says;
        let device = match (tier.mac, &tier.device) {
            (Some(mac), _) => nic_name(&tier.place.at("mac_address"), mac, nics)?.to_owned(),
            (None, device) => device.clone().unwrap_or_default(),
        };
        let address = tier.address.addr().to_string();
        let mut replaced = Vec::new();
        // Tiers whose NICs are there are under their names.
        for name in
            [Some(&device), tier.device.as_ref().filter(|name| **name != device)].into_iter().flatten()
        {
            let Some(list) = self.guestnetwork.get_mut(name) else { continue };
            let is_old = |stored: &mut Entry| *name == device || is_same_tier(stored, name, tier);
            replaced.extend(list.extract_if(.., is_old));
        }
        for old in replaced.iter().map(|stored| ips::text(stored, "router_guest_ip")) {
            if old != address {
                self.drop_guest_address(old);
            }
        }
        let mut entry = message.entry.clone();
        entry.insert("device".to_owned(), json!(device));
        self.guestnetwork.insert(device.clone(), vec![entry]);
        ips::upsert(&mut self.ips, &tier.place.at("router_guest_ip"), address_entry(tier, &device))
    }

    fn remove_tier(&mut self, tier: &GuestNetwork, nics: &Index<'_>) -> Result<(), ConfigError> {
        if let Some((device, index)) = self.find_tier(tier, nics) {
            let stored = self.guestnetwork.entry(device.clone()).or_default().remove(index);
            let address = ips::text(&stored, "router_guest_ip");
            if address != tier.address.addr().to_string() {
                self.drop_guest_address(address);
            }
            return ips::upsert(
                &mut self.ips,
                &tier.place.at("router_guest_ip"),
                address_entry(tier, &device),
            );
        }
        // As CloudStack's own router: the first removal leaves an empty list, the next takes it.
        if let Some(device) = &tier.device
            && self.guestnetwork.get(device).is_some_and(Vec::is_empty)
        {
            self.guestnetwork.remove(device);
        }
        Ok(())
    }

    /// Where a tier is: under the name of its NIC, or, of one whose NIC has gone, under the one that it had.
    fn find_tier(&self, tier: &GuestNetwork, nics: &Index<'_>) -> Option<(String, usize)> {
        let is_in = |(device, list): (&String, &Vec<Entry>)| {
            let index = list.iter().position(|stored| is_same_tier(stored, device, tier))?;
            Some((device.clone(), index))
        };
        let nic = tier.mac.and_then(|mac| nics.by_mac(mac)).map(|nic| &nic.name);
        let mut names = nic.into_iter().chain(&tier.device);
        names
            .find_map(|name| is_in(self.guestnetwork.get_key_value(name)?))
            .or_else(|| self.guestnetwork.iter().find_map(is_in))
    }

    /// Forgets the address that a tier had before it got another.
    fn drop_guest_address(&mut self, address: &str) {
        self.ips.drop_address(address, |entry| ips::text(entry, "nw_type") == "guest");
    }
}

fn is_same_tier(stored: &Entry, device: &str, tier: &GuestNetwork) -> bool {
    let mac = stored.get("mac_address").and_then(Value::as_str).and_then(|text| text.parse::<Mac>().ok());
    match (mac, tier.mac) {
        (Some(stored), Some(wanted)) => stored == wanted,
        _ => tier.device.as_deref() == Some(device),
    }
}

/// What CloudStack's own router stores in `ips` for a tier.
fn address_entry(tier: &GuestNetwork, device: &str) -> Entry {
    let gateway = tier.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    let number = number_of(device).or_else(|| number_of(tier.device.as_deref()?));
    let mut entry = Entry::new();
    for (key, value) in [
        ("public_ip", json!(tier.address.addr().to_string())),
        ("netmask", json!(tier.address.netmask().to_string())),
        ("gateway", json!(gateway)),
        ("nic_dev_id", json!(number.unwrap_or_default())),
        ("nw_type", json!("guest")),
        ("source_nat", json!(false)),
        ("one_to_one_nat", json!(false)),
        ("add", json!(tier.add)),
    ] {
        entry.insert(key.to_owned(), value);
    }
    if let Some(mtu) = tier.mtu {
        entry.insert("mtu".to_owned(), json!(mtu.to_string()));
    }
    ips::derive(&mut entry, device, tier.address);
    entry
}

/// N of `ethN`.
fn number_of(device: &str) -> Option<&str> {
    device.strip_prefix("eth").filter(|number| number.parse::<u32>().is_ok())
}
