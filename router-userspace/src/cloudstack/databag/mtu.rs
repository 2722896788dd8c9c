//! The MTU of a NIC, which CloudStack changes by a script and not by a message.

use ipnet::IpNet;
use serde_json::json;

use super::{Databags, ips};
use crate::cloudstack::object::Entry;

impl Databags {
    /// The databags with another MTU, in bytes, for the NIC that has this address, and what the NIC is called in them.
    /// `None`: no NIC has it.
    pub fn with_mtu(&self, address: IpNet, mtu: u16) -> Option<(Self, String)> {
        let cidr = address.to_string();
        let is_held = |entry: &Entry| ips::text(entry, "cidr") == cidr && ips::is_true(entry, "add");
        let (device, _) = self.ips.iter().find(|(_, entries)| entries.iter().any(is_held))?;
        let mut bags = self.clone();
        bags.ips.change(device, |list| {
            for entry in list {
                entry.insert("mtu".to_owned(), json!(mtu.to_string()));
            }
        });
        for tier in bags.guestnetwork.get_mut(device).into_iter().flatten() {
            tier.insert("mtu".to_owned(), json!(mtu));
        }
        Some((bags, device.clone()))
    }
}
