//! `vpnuserlist`: who may use the remote access VPN (`vpn_user_list.json`).

use super::{ENVELOPE, secret};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;

const KEYS: [&str; 3] = ["user", "password", "add"];

/// A message of type `vpnuserlist`.
#[derive(Clone, Debug, PartialEq)]
pub struct VpnUserList {
    /// The users that change, in the message's order.
    pub users: Vec<VpnUser>,
}

/// One user.
#[derive(Clone, Debug, PartialEq)]
pub struct VpnUser {
    /// Where it stands.
    pub place: Place,
    /// The name: neither blank nor quote nor control character is in it.
    pub name: String,
    /// The password; `None` (`add: false`) ends the user and what it does.
    pub password: Option<String>,
    /// The user as it was written.
    pub(in crate::cloudstack) entry: Entry,
}

impl VpnUserList {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<Self, ConfigError> {
        let users = message.required("vpn_users", message.objects("vpn_users")?)?;
        Ok(Self { users: users.iter().map(VpnUser::read).collect::<Result<_, _>>()? })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Result<Vec<ConfigError>, ConfigError> {
        let mut warnings = message.unknown_keys(|key| key == "vpn_users" || ENVELOPE.contains(&key));
        for user in message.objects("vpn_users")?.unwrap_or_default() {
            warnings.extend(user.unknown_keys(|key| KEYS.contains(&key)));
        }
        Ok(warnings)
    }
}

impl VpnUser {
    /// Reads an entry of a message or of the `vpnuserlist` databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let name = object.required("user", object.text("user")?)?;
        let is_odd =
            |letter: char| letter.is_whitespace() || letter.is_control() || "\"'\\#*".contains(letter);
        // `id` is where the databag has its own name.
        if name.is_empty() || name == "id" || name.contains(is_odd) {
            return Err(object.error("user", format_args!("{name:?} is no user's name")));
        }
        let add = object.required("add", object.boolean("add")?)?;
        let password = add.then(|| object.required("password", secret(object, "password")?)).transpose()?;
        Ok(Self { place: object.place().into_owned(), name, password, entry: object.to_entry() })
    }
}
