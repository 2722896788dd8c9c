//! `site2sitevpn`: tunnels by their other ends.
//!
//! Taking down a tunnel that is not known does nothing; CloudStack's own router stores the message as if
//! it were a tunnel. Such an entry of its databag goes with the next message about that end.

use std::sync::Arc;

use super::Databags;
use crate::cloudstack::wire::site2sitevpn::Site2SiteVpn;

impl Databags {
    pub(super) fn merge_site2sitevpn(&mut self, message: &Site2SiteVpn) {
        let bag = Arc::make_mut(&mut self.site2sitevpn);
        let key = message.peer.to_string();
        match message.tunnel {
            Some(_) => bag.insert(key, message.entry.clone()),
            None => bag.remove(&key),
        };
    }
}
