//! `ipaliases`: further addresses of the guest NIC, in `ips`.
//!
//! The guest NIC is the first one that has an address of a guest network. Its own address, which the boot
//! line gave it, is no alias: neither is it made one nor taken away as one.

use serde_json::json;

use super::{Databags, ips};
use crate::cloudstack::object::Entry;
use crate::cloudstack::wire::ipaliases::{IpAlias, IpAliases};
use crate::error::ConfigError;

impl Databags {
    pub(super) fn merge_ipaliases(&mut self, message: &IpAliases) -> Result<(), ConfigError> {
        for alias in &message.aliases {
            let place = alias.place.at("ip_address");
            let address = alias.address.addr();
            match self.guest_nic() {
                Some(_) if self.is_boot_address(alias) => {
                    return Err(place.error(format_args!("{address} is the NIC's own address")));
                }
                Some(_) if self.is_vpc() => {
                    return Err(place.error("the tiers of a VPC have one address each"));
                }
                Some(device) => ips::upsert(&mut self.ips, &place, entry(alias, &device))?,
                None if alias.revoke => {}
                None => return Err(place.error("no NIC is a guest NIC")),
            }
        }
        Ok(())
    }

    fn guest_nic(&self) -> Option<String> {
        let is_guests = |entry: &Entry| ips::text(entry, "nw_type") == "guest";
        let mut nics = self.ips.iter().filter(|(_, entries)| entries.iter().any(is_guests));
        nics.next().map(|(device, _)| device.clone())
    }

    fn is_vpc(&self) -> bool {
        self.cmdline.as_ref().is_some_and(|boot| ips::text(boot, "type").eq_ignore_ascii_case("vpcrouter"))
    }

    fn is_boot_address(&self, alias: &IpAlias) -> bool {
        let address = alias.address.addr().to_string();
        let boot = self.cmdline.iter().flatten();
        let mut own = boot.filter(|(key, _)| key.starts_with("eth") && key.ends_with("ip"));
        own.any(|(_, value)| value.as_str() == Some(&address))
    }
}

/// What CloudStack's own router stores for an alias.
fn entry(alias: &IpAlias, device: &str) -> Entry {
    let mut entry = alias.unknown.clone();
    for (key, value) in [
        ("public_ip", json!(alias.address.addr().to_string())),
        ("netmask", json!(alias.address.netmask().to_string())),
        ("nic_dev_id", json!(device.strip_prefix("eth").unwrap_or_default())),
        ("nw_type", json!("guest")),
        ("add", json!(!alias.revoke)),
    ] {
        entry.insert(key.to_owned(), value);
    }
    ips::derive(&mut entry, device, alias.address);
    entry
}
