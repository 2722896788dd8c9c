//! `vmdata` by guest, and `vmpassword`: the last message alone, as with CloudStack's own router.
//!
//! A guest's entry is replaced as a whole. CloudStack's own router keeps files that a message does not name, so
//! that a new guest inherits those of an old one whose address it has.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::json;

use super::Databags;
use crate::cloudstack::object::Object;
use crate::cloudstack::wire::vmdata::{GuestData, VmData};
use crate::cloudstack::wire::vmpassword::VmPassword;
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::metadata::Password;

/// Guests' data by address, shared by copies of the databags.
pub(in crate::cloudstack) type VmDataBag = BTreeMap<Ipv4Addr, Arc<GuestData>>;

/// A guest's password. Nothing reads it: passwords that wait for their guests are kept by `http::passwords`.
pub(super) type VmPasswordBag = BTreeMap<Ipv4Addr, Password>;

impl Databags {
    pub(super) fn merge_vmdata(&mut self, message: &VmData) {
        self.vmdata.insert(message.address, message.data.clone());
    }

    pub(super) fn merge_vmpassword(&mut self, message: &VmPassword) {
        self.vmpassword = BTreeMap::from([(message.address, message.password.clone())]);
    }
}

/// Reads the bag `vmdata`.
pub(super) fn read(bag: &Object) -> Result<VmDataBag, ConfigError> {
    let guests = bag.entries().filter(|(key, _)| *key != "id");
    guests
        .map(|(key, items)| {
            let place = bag.place().at(key);
            let data = GuestData::read(&place, items, &mut Vec::new())?;
            Ok((address(&place, key)?, Arc::new(data)))
        })
        .collect()
}

/// Reads the bag `vmpassword`.
pub(super) fn read_passwords(bag: &Object) -> Result<VmPasswordBag, ConfigError> {
    let passwords = bag.entries().filter(|(key, _)| *key != "id");
    passwords
        .map(|(key, _)| {
            let place = bag.place().at(key);
            let password = bag.text(key)?.and_then(Password::new);
            Ok((address(&place, key)?, password.ok_or_else(|| place.error("no password"))?))
        })
        .collect()
}

fn address(place: &Place, key: &str) -> Result<Ipv4Addr, ConfigError> {
    key.parse().map_err(|_| place.error(format_args!("{key:?} is no IPv4 address")))
}

/// Writes the bag `vmdata`, keys sorted as text.
pub(super) fn write(name: &str, guests: &VmDataBag, out: &mut impl Write) -> io::Result<()> {
    let guests = guests.iter().map(|(address, data)| (address.to_string(), &data.items));
    let id = json!(name);
    let document: BTreeMap<String, _> = guests.chain([("id".to_owned(), &id)]).collect();
    serde_json::to_writer_pretty(out, &document).map_err(Into::into)
}
