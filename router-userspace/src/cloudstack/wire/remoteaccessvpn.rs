//! `remoteaccessvpn`: L2TP over IPsec, for people (`remote_access_vpn.json`).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{ENVELOPE, host_address, is_host, network4, secret};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;

const KEYS: [&str; 7] =
    ["create", "ip_range", "preshared_key", "vpn_server_ip", "local_ip", "local_cidr", "public_interface"];

/// A message of type `remoteaccessvpn`.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteAccessVpn {
    /// Where it stands.
    pub place: Place,
    /// The public address that clients call, which is what the databag knows the server by.
    pub server: Ipv4Addr,
    /// The server; `None` (`create: false`) ends it, whatever else the message says.
    pub access: Option<Access>,
    /// The message as it was written.
    pub(in crate::cloudstack) entry: Entry,
}

/// What a server offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// First and last address for clients.
    pub clients: (Ipv4Addr, Ipv4Addr),
    /// What all clients know; not empty.
    pub psk: String,
    /// The router's own address towards clients.
    pub local: Ipv4Addr,
    /// The guests' network, or the VPC's.
    pub network: Ipv4Net,
    /// The NIC with the public address, as CloudStack counts.
    pub public_nic: Option<String>,
}

impl RemoteAccessVpn {
    /// Reads a message or an entry of the `remoteaccessvpn` databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let create = object.required("create", object.boolean("create")?)?;
        Ok(Self {
            place: object.place().into_owned(),
            server: object.required("vpn_server_ip", host_address(object, "vpn_server_ip")?)?,
            access: create.then(|| Access::read(object)).transpose()?,
            entry: object.to_entry(),
        })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Vec<ConfigError> {
        message.unknown_keys(|key| KEYS.contains(&key) || ENVELOPE.contains(&key))
    }
}

impl Access {
    fn read(object: &Object) -> Result<Self, ConfigError> {
        let filled = |key: &str| Ok(object.text(key)?.filter(|text| !text.is_empty()));
        let network = object.required("local_cidr", filled("local_cidr")?)?;
        Ok(Self {
            clients: range(object)?,
            psk: object.required("preshared_key", secret(object, "preshared_key")?)?,
            local: object.required("local_ip", host_address(object, "local_ip")?)?,
            network: network4(&network)
                .ok_or_else(|| object.error("local_cidr", format_args!("{network:?} is no IPv4 network")))?,
            public_nic: filled("public_interface")?,
        })
    }
}

/// `first-last`
fn range(object: &Object) -> Result<(Ipv4Addr, Ipv4Addr), ConfigError> {
    const KEY: &str = "ip_range";
    let text = object.required(KEY, object.text(KEY)?.filter(|text| !text.is_empty()))?;
    let address = |word: &str| word.trim().parse().ok().filter(|own: &Ipv4Addr| is_host((*own).into()));
    let range = text.split_once('-').and_then(|(first, last)| Some((address(first)?, address(last)?)));
    range
        .filter(|(first, last)| first <= last)
        .ok_or_else(|| object.error(KEY, format_args!("{text:?} is no range of IPv4 addresses")))
}
