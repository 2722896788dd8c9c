//! `vmpassword`: a password that a guest shall fetch (`vm_password.json`).

use std::net::Ipv4Addr;

use super::{ENVELOPE, host_address};
use crate::cloudstack::object::Object;
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::metadata::Password;

/// A message of type `vmpassword`.
#[derive(Clone, Debug, PartialEq)]
pub struct VmPassword {
    /// Where the guest's address stands.
    pub place: Place,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Its password. The word `saved_password`, which CloudStack sends for guests whose template has none,
    /// is the answer to who asks for a password that is not there.
    pub password: Password,
}

impl VmPassword {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<Self, ConfigError> {
        let address = message.required("ip_address", host_address(message, "ip_address")?)?;
        let text = message.required("password", message.text("password")?)?;
        // Errors are logged, so this one does not quote.
        let password = Password::new(text)
            .ok_or_else(|| message.error("password", "it is empty or has control characters"))?;
        Ok(Self { place: message.place().at("ip_address"), address, password })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Vec<ConfigError> {
        message.unknown_keys(|key| ["ip_address", "password"].contains(&key) || ENVELOPE.contains(&key))
    }
}
