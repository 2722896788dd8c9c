//! `vpnuserlist`: users by their names.
//!
//! A user that goes stays as a mark (`add: false`) until the next message, so that who serves the VPN
//! knows whose sessions to end. A known user stays as it is: a new password comes as a removal and a new
//! user. CloudStack's own router loses such a user if both are in one message; here the last word counts.

use std::sync::Arc;

use super::{Databags, ips};
use crate::cloudstack::wire::vpnuserlist::VpnUserList;

impl Databags {
    pub(super) fn merge_vpnuserlist(&mut self, message: &VpnUserList) {
        let bag = Arc::make_mut(&mut self.vpnuserlist);
        bag.retain(|_, stored| ips::is_true(stored, "add"));
        for user in &message.users {
            let is_known = bag.get(&user.name).is_some_and(|stored| ips::is_true(stored, "add"));
            if user.password.is_none() || !is_known {
                bag.insert(user.name.clone(), user.entry.clone());
            }
        }
    }
}
