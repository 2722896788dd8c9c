//! `dhcpentry`: an address that a guest's NIC is given, and the guest's name (`vm_dhcp_entry.json`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ENVELOPE, host_address, host_address6, host_name, is_host, not_a_host};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::Mac;

const KEYS: [&str; 11] = [
    "host_name",
    "mac_address",
    "ipv4_address",
    "ipv6_address",
    "ipv6_duid",
    "dns_addresses",
    "default_gateway",
    "static_routes",
    "default_entry",
    "remove",
    "add",
];

/// A message of type `dhcpentry`.
#[derive(Clone, Debug, PartialEq)]
pub struct DhcpEntry {
    /// Where it stands.
    pub place: Place,
    /// The address, which is what the databag knows the entry by.
    pub address: Ipv4Addr,
    /// Whose it is; `None` takes the address back, whosever it was: `add: false`, an old form.
    pub guest: Option<Guest>,
    /// The message as it was written.
    pub(in crate::cloudstack) entry: Entry,
}

/// A NIC of a guest.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// The NIC's MAC address.
    pub mac: Mac,
    /// The guest's name, without domain; only one that is removed may have none.
    pub host_name: Option<String>,
    /// The NIC's IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// By what the guest asks for that (RFC 8415, section 11). CloudStack sends it without an address, too.
    pub duid6: Option<Vec<u8>>,
    /// Name servers, in order; none: those of the network.
    pub dns: Vec<IpAddr>,
    /// The router of this NIC's network.
    pub gateway: Option<Ipv4Addr>,
    /// The guest's default NIC: it alone hears of router, name servers and domain.
    pub is_default: bool,
    /// The NIC is gone: it gets no address any more.
    pub remove: bool,
}

impl DhcpEntry {
    /// Reads a message or an entry of the `dhcpentry` databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let is_taken_back = object.boolean("add")? == Some(false);
        Ok(Self {
            place: object.place().into_owned(),
            address: object.required("ipv4_address", host_address(object, "ipv4_address")?)?,
            guest: (!is_taken_back).then(|| Guest::read(object)).transpose()?,
            entry: object.to_entry(),
        })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Vec<ConfigError> {
        message.unknown_keys(|key| KEYS.contains(&key) || ENVELOPE.contains(&key))
    }
}

impl Guest {
    fn read(object: &Object) -> Result<Self, ConfigError> {
        let remove = object.boolean("remove")?.unwrap_or(false);
        let name = host_name(object, "host_name")?;
        if name.is_none() && !remove {
            return Err(object.error("host_name", "missing"));
        }
        Ok(Self {
            mac: object.required("mac_address", object.parsed("mac_address", "MAC address")?)?,
            host_name: name,
            address6: host_address6(object, "ipv6_address")?,
            duid6: duid(object)?,
            dns: name_servers(object)?,
            gateway: host_address(object, "default_gateway")?,
            is_default: object.required("default_entry", object.boolean("default_entry")?)?,
            remove,
        })
    }
}

fn name_servers(object: &Object) -> Result<Vec<IpAddr>, ConfigError> {
    const KEY: &str = "dns_addresses";
    let text = object.text(KEY)?.unwrap_or_default();
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words
        .map(|word| match word.parse() {
            Ok(address) if is_host(address) => Ok(address),
            Ok(address) => Err(not_a_host(object, KEY, address)),
            Err(_) => Err(object.error(KEY, format_args!("{word:?} is no IP address"))),
        })
        .collect()
}

/// Bytes in hexadecimal with colons between them.
fn duid(object: &Object) -> Result<Option<Vec<u8>>, ConfigError> {
    // RFC 8415, section 11.1: a type of two bytes, and 1 to 128 more.
    const LENGTHS: std::ops::RangeInclusive<usize> = 3..=130;
    const KEY: &str = "ipv6_duid";
    let Some(text) = object.text(KEY)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let byte = |word: &str| {
        let is_hex = (1..=2).contains(&word.len()) && word.bytes().all(|digit| digit.is_ascii_hexdigit());
        u8::from_str_radix(word, 16).ok().filter(|_| is_hex)
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    match bytes.filter(|bytes| LENGTHS.contains(&bytes.len())) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(object.error(KEY, format_args!("{text:?} is no DUID"))),
    }
}
