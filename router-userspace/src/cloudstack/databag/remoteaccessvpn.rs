//! `remoteaccessvpn`: servers by their public addresses.
//!
//! Ending one that is not known does nothing; CloudStack's own router stores the message as if it were a
//! server.

use std::sync::Arc;

use super::Databags;
use crate::cloudstack::wire::remoteaccessvpn::RemoteAccessVpn;

impl Databags {
    pub(super) fn merge_remoteaccessvpn(&mut self, message: &RemoteAccessVpn) {
        let bag = Arc::make_mut(&mut self.remoteaccessvpn);
        let key = message.server.to_string();
        match message.access {
            Some(_) => bag.insert(key, message.entry.clone()),
            None => bag.remove(&key),
        };
    }
}
