//! `dhcpentry`: the last word on each address, that its NIC is gone included.
//!
//! A NIC has one entry: a message takes the one away that its MAC address had. Where a late removal would
//! overwrite the guest that has the address by now, as with CloudStack's own router, it does nothing here.

use std::sync::Arc;

use super::{Databags, ips};
use crate::cloudstack::object::Entry;
use crate::cloudstack::wire::dhcpentry::DhcpEntry;
use crate::model::Mac;

impl Databags {
    pub(super) fn merge_dhcpentry(&mut self, message: &DhcpEntry) {
        let bag = Arc::make_mut(&mut self.dhcpentry);
        let key = message.address.to_string();
        let Some(guest) = &message.guest else {
            bag.remove(&key);
            return;
        };
        let mac_of = |stored: &Entry| ips::text(stored, "mac_address").parse::<Mac>().ok();
        let is_anothers = bag
            .get(&key)
            .is_some_and(|stored| mac_of(stored) != Some(guest.mac) && !ips::is_true(stored, "remove"));
        bag.retain(|_, stored| mac_of(stored) != Some(guest.mac));
        if !(guest.remove && is_anothers) {
            bag.insert(key, message.entry.clone());
        }
    }
}
