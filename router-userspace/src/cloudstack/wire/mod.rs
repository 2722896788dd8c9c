//! The messages, one file for each JSON type, named as CloudStack names it.
//!
//! Each type reads itself from a JSON object and is valid once it exists. The databags hold the
//! objects as they were written, so the same readers serve messages and databags.

pub mod bgppeers;
pub mod cmdline;
pub mod dhcpentry;
pub mod firewallrules;
pub mod forwardrules;
pub mod guestnetwork;
pub mod ipaliases;
pub mod ips;
pub mod loadbalancer;
pub mod monitorservice;
pub mod networkacl;
pub mod pair;
pub mod remoteaccessvpn;
pub mod site2sitevpn;
pub mod staticnatrules;
pub mod staticroutes;
pub mod vmdata;
pub mod vmpassword;
pub mod vpnuserlist;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::object::{Entry, Items, Keys, Object};
use crate::error::ConfigError;
use crate::json::Shape;
use crate::model::policy::Traffic;

/// Keys that every message has.
pub(super) const ENVELOPE: [&str; 2] = ["type", "delete_from_processed_cache"];

/// A message, or an item of one, that goes into a databag as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written<T> {
    /// What it says.
    pub says: T,
    pub(in crate::cloudstack) entry: Entry,
}

impl<T> Written<T> {
    fn read(object: &Object, read: impl Fn(&Object) -> Result<T, ConfigError>) -> Result<Self, ConfigError> {
        Ok(Self { says: read(object)?, entry: object.to_entry() })
    }
}

/// Which addresses a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// A network with its prefix length, host bits clear.
fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|network| network.trunc())
}

/// A number, with quotes or without.
fn number<T: FromStr + TryFrom<u64>>(value: &impl Items) -> Option<T> {
    match value.shape() {
        Shape::Text(text) => text.parse().ok(),
        Shape::Number(number) => number.as_u64().and_then(|number| number.try_into().ok()),
        _ => None,
    }
}

/// `icmp_type` and `icmp_code`; missing and -1 are any, and any type has any code.
fn icmp(object: &Object<impl Keys>) -> Result<Traffic, ConfigError> {
    let read = |key: &str, what: &str| match object.parsed::<i64>(key, what)? {
        None | Some(-1) => Ok(None),
        Some(number) => match u8::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(object.error(key, format_args!("{number} is no {what}"))),
        },
    };
    let (kind, code) = (read("icmp_type", "ICMP type")?, read("icmp_code", "ICMP code")?);
    Ok(Traffic::Icmp { kind, code: code.filter(|_| kind.is_some()) })
}

/// An IPv4 address that a host can have.
pub(super) fn host_address(object: &Object<impl Keys>, key: &str) -> Result<Option<Ipv4Addr>, ConfigError> {
    let Some(address) = object.parsed::<Ipv4Addr>(key, "IPv4 address")? else { return Ok(None) };
    if is_host(address.into()) { Ok(Some(address)) } else { Err(not_a_host(object, key, address.into())) }
}

/// An IPv6 address that a host can have.
fn host_address6(object: &Object<impl Keys>, key: &str) -> Result<Option<Ipv6Addr>, ConfigError> {
    let Some(address) = object.parsed::<Ipv6Addr>(key, "IPv6 address")? else { return Ok(None) };
    if is_host(address.into()) { Ok(Some(address)) } else { Err(not_a_host(object, key, address.into())) }
}

/// Whether an address can be a host's.
pub(super) fn is_host(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast)
}

pub(super) fn not_a_host(object: &Object<impl Keys>, key: &str, address: IpAddr) -> ConfigError {
    object.error(key, format_args!("{address} is no host's address"))
}

/// A netmask, dotted or as a prefix length.
fn netmask(object: &Object, key: &str) -> Result<Option<u8>, ConfigError> {
    let Some(text) = object.text(key)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let length = match text.parse::<Ipv4Addr>() {
        Ok(mask) => ipnet::ipv4_mask_to_prefix(mask).ok(),
        Err(_) => text.parse().ok().filter(|length| *length <= 32),
    };
    length.map(Some).ok_or_else(|| object.error(key, format_args!("{text:?} is no netmask")))
}

/// The name of a NIC, as CloudStack counts. `id` is none: that is where a databag has its own name.
fn device(object: &Object) -> Result<Option<String>, ConfigError> {
    match object.text("device")?.filter(|device| !device.is_empty()) {
        Some(device) if device == "id" => Err(object.error("device", format_args!("{device:?} is no NIC"))),
        other => Ok(other),
    }
}

/// An IPv6 prefix length.
fn prefix_length(object: &Object, key: &str) -> Result<Option<u8>, ConfigError> {
    match object.parsed::<u8>(key, "IPv6 prefix length")? {
        Some(length) if length > 128 => {
            Err(object.error(key, format_args!("prefix length {length} exceeds 128")))
        }
        other => Ok(other),
    }
}

/// An MTU in bytes. Zero stands for none.
fn mtu(object: &Object, key: &str) -> Result<Option<u16>, ConfigError> {
    match object.parsed::<u16>(key, "MTU")? {
        Some(0) | None => Ok(None),
        // RFC 791: every link takes datagrams of 68 bytes; Linux refuses less.
        Some(mtu) if mtu < 68 => Err(object.error(key, format_args!("an MTU of {mtu} is below 68"))),
        some => Ok(some),
    }
}

/// An IPv4 network with its prefix length, or one address; host bits cleared.
fn network4(text: &str) -> Option<Ipv4Net> {
    let address = || text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
    text.parse::<Ipv4Net>().ok().or_else(address).map(|network| network.trunc())
}

/// IPv4 networks with commas between them; missing and empty are none.
fn networks4(object: &Object, key: &str) -> Result<Vec<Ipv4Net>, ConfigError> {
    let Some(text) = object.text(key)?.filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    let read = |word: &str| {
        let network = network4(word.trim());
        network.ok_or_else(|| object.error(key, format_args!("{word:?} is no IPv4 network")))
    };
    text.split(',').map(read).collect()
}

/// A name of a host, with or without domain (RFC 1123, and the underscores that people use).
pub(super) fn host_name(object: &Object, key: &str) -> Result<Option<String>, ConfigError> {
    let Some(name) = object.text(key)?.filter(|name| !name.is_empty()) else { return Ok(None) };
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_letter);
    if name.len() <= 253 && !name.starts_with('-') && name.split('.').all(is_label) {
        Ok(Some(name))
    } else {
        Err(object.error(key, format_args!("{name:?} is no name of a host")))
    }
}

/// A password or a key that is shared; empty is none. Its text is in no error.
fn secret(object: &Object, key: &str) -> Result<Option<String>, ConfigError> {
    let secret = object.text(key)?.filter(|secret| !secret.is_empty());
    match secret {
        Some(secret) if secret.contains(char::is_control) => {
            Err(object.error(key, "a control character in a secret"))
        }
        other => Ok(other),
    }
}
