//! The operator's tagged ports: `etc/xvr/ports.json` below the root ([docs/ports.md](../../docs/ports.md)). A file that
//! is not there says that there are none; one with anything odd in it says nothing at all.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::error::ConfigError;
use crate::json::{self, Place, choice, entries, kind, members, text};
use crate::model::Mac;
use crate::model::trunk::{Tag, TagProtocol, TaggedPort, Trunk};

/// What the file is called, in messages too.
pub const NAME: &str = "ports.json";

/// The ports in a file.
///
/// # Errors
/// The file cannot be read, or something in it is wrong or unknown.
pub fn load(path: &Path) -> Result<Vec<TaggedPort>, ConfigError> {
    match fs::read(path) {
        Ok(bytes) => read(&bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(ConfigError::new(NAME, "", format_args!("cannot be read: {error}"))),
    }
}

fn read(bytes: &[u8]) -> Result<Vec<TaggedPort>, ConfigError> {
    let document = json::document_without_repeats(NAME, bytes)?;
    let mut ports = Vec::new();
    for (key, value, place) in entries(&Place::document(NAME), &document)? {
        match key {
            "ports" => {
                for (value, place) in members(&place, value)? {
                    ports.push((port(&place, value)?, place));
                }
            }
            _ => return Err(place.error("unknown key")),
        }
    }
    tell_apart(&ports)?;
    Ok(ports.into_iter().map(|(port, _)| port).collect())
}

const PROTOCOLS: &[(&str, TagProtocol)] =
    &[("802.1Q", TagProtocol::Customer), ("802.1ad", TagProtocol::Provider)];

fn port(place: &Place, value: &Value) -> Result<TaggedPort, ConfigError> {
    let (mut name, mut mac, mut trunk, mut vlan, mut inner) = (None, None, None, None, None);
    let (mut protocol, mut priority, mut mtu) = (None, None, None);
    for (key, value, place) in entries(place, value)? {
        match key {
            "name" => name = Some(interface_name(&place, value)?),
            "mac" => mac = Some(address(&place, value)?),
            "trunk" => trunk = Some(selector(&place, value)?),
            "vlan" => vlan = Some(number(&place, value, 1, 4094)?),
            "inner_vlan" => inner = Some(number(&place, value, 1, 4094)?),
            "protocol" => protocol = Some(choice(&place, value, PROTOCOLS)?),
            "priority" => priority = self::priority(&place, value)?,
            "mtu" => mtu = Some(number(&place, value, 68, u16::MAX)?),
            _ => return Err(place.error("unknown key")),
        }
    }
    let missing = |key: &str| place.error(format_args!("{key:?} is missing"));
    let default = if inner.is_some() { TagProtocol::Provider } else { TagProtocol::Customer };
    let outer = Tag { protocol: protocol.unwrap_or(default), id: vlan.ok_or_else(|| missing("vlan"))? };
    Ok(TaggedPort {
        name: name.ok_or_else(|| missing("name"))?,
        mac: mac.ok_or_else(|| missing("mac"))?,
        trunk: trunk.ok_or_else(|| missing("trunk"))?,
        outer,
        inner: inner.map(|id| Tag { protocol: TagProtocol::Customer, id }),
        priority,
        mtu,
    })
}

/// What the kernel takes for an interface's name (`dev_valid_name`).
fn interface_name(place: &Place, value: &Value) -> Result<String, ConfigError> {
    let name = text(place, value)?;
    let is_one = (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|letter: char| letter == '/' || letter == ':' || letter.is_whitespace());
    if is_one { Ok(name.to_owned()) } else { Err(place.error(format_args!("{name:?} is no interface name"))) }
}

fn address(place: &Place, value: &Value) -> Result<Mac, ConfigError> {
    let mac: Mac = text(place, value)?.parse().map_err(|error| place.error(error))?;
    let Mac([first, ..]) = mac;
    if first & 1 != 0 || mac == Mac::default() {
        return Err(place.error(format_args!("{mac} is no single interface's address")));
    }
    Ok(mac)
}

fn selector(place: &Place, value: &Value) -> Result<Trunk, ConfigError> {
    if let Some(Ok(mac)) = value.as_str().map(str::parse) {
        return Ok(Trunk::Mac(mac));
    }
    interface_name(place, value).map(Trunk::Name)
}

fn priority(place: &Place, value: &Value) -> Result<Option<u8>, ConfigError> {
    if value == "keep" {
        return Ok(None);
    }
    if value.is_string() {
        return Err(place.error("expected \"keep\" or a number from 0 to 7"));
    }
    number(place, value, 0, 7).map(|priority| Some(priority as u8))
}

fn number(place: &Place, value: &Value, least: u16, most: u16) -> Result<u16, ConfigError> {
    let Value::Number(number) = value else {
        return Err(place.error(format_args!("expected a number, found {}", kind(value))));
    };
    let number = number.as_u64().and_then(|number| u16::try_from(number).ok());
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| place.error(format_args!("{value} is not a whole number from {least} to {most}")))
}

/// No two ports have a name, an address, or tags in common.
fn tell_apart(ports: &[(TaggedPort, Place)]) -> Result<(), ConfigError> {
    let (mut names, mut macs, mut tags) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (port, place) in ports {
        let ids = (port.outer.id, port.inner.map(|tag| tag.id));
        if !names.insert(&port.name) {
            return Err(place.at("name").error(format_args!("{} is another port's as well", port.name)));
        }
        if !macs.insert(port.mac) {
            return Err(place.at("mac").error(format_args!("{} is another port's as well", port.mac)));
        }
        if !tags.insert((&port.trunk, ids)) {
            return Err(place.at("vlan").error("another port of this trunk has the same tags"));
        }
    }
    let is_port = |selector: &Trunk| match selector {
        Trunk::Name(name) => names.contains(name),
        Trunk::Mac(mac) => macs.contains(mac),
    };
    match ports.iter().find(|(port, _)| is_port(&port.trunk)) {
        Some((port, place)) => {
            Err(place.at("trunk").error(format_args!("{} is a tagged port itself", port.trunk)))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    const PORT: &str = r#"{"name": "eth3", "mac": "02:00:00:00:00:03", "trunk": "eth2", "vlan": 100}"#;

    #[test]
    fn a_port_is_a_vlan_or_one_inside_another() {
        let text = r#"{"ports": [
            {"name": "eth3", "mac": "02:00:00:00:00:03", "trunk": "eth2", "vlan": 100},
            {"name": "eth4", "mac": "02:00:00:00:00:04", "trunk": "02:00:00:00:00:02", "vlan": 100,
             "inner_vlan": 7, "priority": 5, "mtu": 1400},
            {"name": "eth5", "mac": "02:00:00:00:00:05", "trunk": "eth2", "vlan": 100, "inner_vlan": 8,
             "protocol": "802.1Q", "priority": "keep"}
        ]}"#;
        let ports = read(text.as_bytes()).unwrap();
        let (customer, provider) = (TagProtocol::Customer, TagProtocol::Provider);
        let tags =
            ports.iter().map(|port| (port.outer.protocol, port.outer.id, port.inner.map(|tag| tag.id)));
        let expected = [(customer, 100, None), (provider, 100, Some(7)), (customer, 100, Some(8))];
        assert_eq!(tags.collect::<Vec<_>>(), expected);
        assert_eq!(ports[1].trunk, Trunk::Mac(Mac([2, 0, 0, 0, 0, 2])));
        assert_eq!(
            ports.iter().map(|port| (port.priority, port.mtu)).collect::<Vec<_>>(),
            [(None, None), (Some(5), Some(1400)), (None, None)]
        );
        assert_eq!(load(Path::new("/nowhere/ports.json")), Ok(Vec::new()));
    }

    #[test]
    fn what_is_odd_is_named_with_its_place() {
        let with = |from: &str, to: &str| error(&format!("{{\"ports\": [{}]}}", PORT.replace(from, to)));
        assert_eq!(with(", \"vlan\": 100", ""), "ports.json#/ports/0: \"vlan\" is missing");
        assert_eq!(
            with("100", "4095"),
            "ports.json#/ports/0/vlan: 4095 is not a whole number from 1 to 4094"
        );
        assert_eq!(with("100", "0"), "ports.json#/ports/0/vlan: 0 is not a whole number from 1 to 4094");
        assert_eq!(with("100", "\"a\""), "ports.json#/ports/0/vlan: expected a number, found text");
        assert_eq!(with("eth3", "eth/3"), "ports.json#/ports/0/name: \"eth/3\" is no interface name");
        assert_eq!(
            with("02:00:00", "03:00:00"),
            "ports.json#/ports/0/mac: 03:00:00:00:00:03 is no single interface's address"
        );
        assert_eq!(with("vlan", "vxlan"), "ports.json#/ports/0/vxlan: unknown key");
        assert_eq!(with("eth2", "eth3"), "ports.json#/ports/0/trunk: eth3 is a tagged port itself");
        let two = |other: &str| error(&format!("{{\"ports\": [{PORT}, {other}]}}"));
        assert_eq!(two(PORT), "ports.json#/ports/1/name: eth3 is another port's as well");
        let other = PORT.replace("eth3", "eth4");
        assert_eq!(two(&other), "ports.json#/ports/1/mac: 02:00:00:00:00:03 is another port's as well");
        let other = other.replace("00:03", "00:04");
        assert_eq!(two(&other), "ports.json#/ports/1/vlan: another port of this trunk has the same tags");
    }
}
