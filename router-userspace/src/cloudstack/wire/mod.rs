//! The messages, one file for each JSON type, named as CloudStack names it.
//!
//! Each type reads itself from a JSON object and is valid once it exists. The databags hold the
//! objects as they were written, so the same readers serve messages and databags.

pub mod cmdline;
pub mod forwardrules;
pub mod guestnetwork;
pub mod ips;
pub mod staticnatrules;
pub mod staticroutes;

use std::net::{IpAddr, Ipv4Addr};

use super::object::Object;
use crate::error::ConfigError;

/// Keys that every message has.
pub(super) const ENVELOPE: [&str; 2] = ["type", "delete_from_processed_cache"];

/// An IPv4 address that a host can have.
fn host_address(object: &Object, key: &str) -> Result<Option<Ipv4Addr>, ConfigError> {
    let Some(address) = object.parsed::<Ipv4Addr>(key, "IPv4 address")? else { return Ok(None) };
    if is_host(address.into()) { Ok(Some(address)) } else { Err(not_a_host(object, key, address.into())) }
}

/// Whether an address can be a host's.
fn is_host(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast)
}

fn not_a_host(object: &Object, key: &str, address: IpAddr) -> ConfigError {
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
