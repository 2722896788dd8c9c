//! `cmdline`: the boot line replaces the one before, and brings the boot NICs' addresses.

use serde_json::json;

use super::{Databags, ips, nic_name};
use crate::cloudstack::object::Entry;
use crate::cloudstack::wire::cmdline::{BootNic, CmdLine};
use crate::cloudstack::wire::ips::NetworkType;
use crate::compile::Index;
use crate::error::ConfigError;

impl Databags {
    pub(super) fn merge_cmdline(&mut self, boot: &CmdLine, nics: &Index<'_>) -> Result<(), ConfigError> {
        let mut config = boot.config.clone();
        let is_redundant = config.contains_key("redundant_router");
        config.insert("redundant_router".to_owned(), json!(is_redundant.to_string()));
        let before = self.cmdline.replace(config);
        for nic in &boot.nics {
            let device = match nic.mac {
                Some(mac) => nic_name(&boot.place.at("nic_macs"), mac, nics)?.to_owned(),
                None => format!("eth{}", nic.number),
            };
            self.forget_boot_address(before.as_ref(), nic, &device);
            if self.knows_more(nic, &device) {
                continue;
            }
            let place = boot.place.at(format_args!("eth{}ip", nic.number));
            ips::upsert(&mut self.ips, &place, entry(boot, nic, &device))?;
        }
        Ok(())
    }

    /// Whether a later `ips` message said the same and more. The boot line is merged again by every
    /// command that finds it waiting, and must not make a NIC forget its MAC address.
    fn knows_more(&self, nic: &BootNic, device: &str) -> bool {
        let cidr = nic.address.to_string();
        let mut entries =
            self.ips.iter().flat_map(|(name, list)| list.iter().map(move |entry| (name, entry)));
        entries.any(|(name, entry)| {
            let is_placed = name == device || entry.contains_key("vif_mac_address");
            is_placed && ips::text(entry, "cidr") == cidr && ips::is_true(entry, "add")
        })
    }

    /// Takes the address away that an earlier boot line gave the NIC.
    fn forget_boot_address(&mut self, before: Option<&Entry>, nic: &BootNic, device: &str) {
        let key = format!("eth{}ip", nic.number);
        let old = before.and_then(|config| config.get(&key)).and_then(|value| value.as_str());
        let new = nic.address.addr().to_string();
        if let Some(old) = old
            && old != new
            && self.ips.contains_key(device)
        {
            self.ips.change(device, |entries| {
                entries.retain(|entry| entry.get("public_ip").is_none_or(|address| address != old));
            });
        }
    }
}

/// What CloudStack's own router stores for a NIC of the boot line.
fn entry(boot: &CmdLine, nic: &BootNic, device: &str) -> Entry {
    let (word, gateway) = match nic.network_type {
        NetworkType::Public => ("public", boot.gateway),
        NetworkType::Guest => ("guest", boot.control_gateway),
        NetworkType::Control => ("control", boot.control_gateway),
    };
    let mut entry = Entry::new();
    for (key, value) in [
        ("public_ip", json!(nic.address.addr().to_string())),
        ("netmask", json!(nic.address.netmask().to_string())),
        ("gateway", json!(gateway.map(|address| address.to_string()).unwrap_or_default())),
        ("nic_dev_id", json!(nic.number.to_string())),
        ("nw_type", json!(word)),
        ("source_nat", json!(false)),
        ("one_to_one_nat", json!(false)),
        ("add", json!(true)),
    ] {
        entry.insert(key.to_owned(), value);
    }
    ips::derive(&mut entry, device, nic.address);
    entry
}
