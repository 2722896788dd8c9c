//! The operator's ports that are tags or VXLAN networks: `etc/xvr/ports.json` below the root ([docs/ports.md](../../docs/ports.md)). A file that
//! is not there says that there are none; one with anything odd in it says nothing at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;

use router_common::bridge::MAX_MEMBERS;
use router_common::tunnel::MAX_REMOTES;
use serde_json::Value;

use crate::error::ConfigError;
use crate::json::{self, Place, choice, entries, kind, members, text};
use crate::model::Mac;
use crate::model::trunk::{Kind, Remotes, Tag, TagProtocol, TaggedPort, Trunk, Vni, is_vtep};

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
    bridges_have_several(&ports)?;
    Ok(ports.into_iter().map(|(port, _)| port).collect())
}

const PROTOCOLS: &[(&str, TagProtocol)] =
    &[("802.1Q", TagProtocol::Customer), ("802.1ad", TagProtocol::Provider)];

fn port(place: &Place, value: &Value) -> Result<TaggedPort, ConfigError> {
    let has = |key: &str| value.get(key).is_some();
    if has("vni") && has("vlan") {
        return Err(place.at("vni").error("a port with a vlan is no VXLAN network"));
    }
    let (mut name, mut mac, mut trunk, mut mtu, mut bridge) = (None, None, None, None, None);
    let (mut vlan, mut inner, mut protocol, mut priority) = (None, None, None, None);
    let (mut vni, mut local, mut remotes, mut fdb, mut udp_port) = (None, None, None, None, None);
    let is_vni = has("vni");
    for (key, value, place) in entries(place, value)? {
        match key {
            "name" => name = Some(interface_name(&place, value)?),
            "mac" => mac = Some(address(&place, value)?),
            "mtu" => mtu = Some(number(&place, value, 68, u16::MAX)?),
            "bridge" => bridge = Some(bridge_name(&place, value)?),
            "trunk" if !is_vni => trunk = Some(selector(&place, value)?),
            "vlan" => vlan = Some(number(&place, value, 1, 4094)?),
            "inner_vlan" if !is_vni => inner = Some(number(&place, value, 1, 4094)?),
            "protocol" if !is_vni => protocol = Some(choice(&place, value, PROTOCOLS)?),
            "priority" if !is_vni => priority = self::priority(&place, value)?,
            "vni" => vni = Some(number(&place, value, 1, MAX_VNI)?),
            "underlay" if is_vni => trunk = Some(selector(&place, value)?),
            "local" if is_vni => local = Some(vtep(&place, value)?),
            "remotes" if is_vni => remotes = Some(self::remotes(&place, value)?),
            "fdb" if is_vni => fdb = Some(interface_name(&place, value)?),
            "udp_port" if is_vni => udp_port = Some(number(&place, value, 1, u16::MAX)?),
            "trunk" | "inner_vlan" | "protocol" | "priority" => {
                return Err(place.error("a VXLAN network has none"));
            }
            "underlay" | "local" | "remotes" | "fdb" | "udp_port" => {
                return Err(place.error("only a port with a vni has one"));
            }
            _ => return Err(place.error("unknown key")),
        }
    }
    let missing = |key: &str| place.error(format_args!("{key:?} is missing"));
    let kind = match vni {
        Some(id) => {
            let local = local.ok_or_else(|| missing("local"))?;
            let remotes = match (remotes, fdb) {
                (Some(remotes), None) => Remotes::Listed(remotes),
                (None, Some(device)) => Remotes::Fdb(device),
                (Some(_), Some(_)) => return Err(place.at("fdb").error("a port with remotes has none")),
                (None, None) => return Err(place.error("\"remotes\" or \"fdb\" is missing")),
            };
            is_elsewhere(place, local, &remotes)?;
            Kind::Vni(Vni { id, local, remotes, udp_port: udp_port.unwrap_or(UDP_PORT) })
        }
        None => {
            let default = if inner.is_some() { TagProtocol::Provider } else { TagProtocol::Customer };
            let id = vlan.ok_or_else(|| missing("vlan"))?;
            let outer = Tag { protocol: protocol.unwrap_or(default), id };
            let inner = inner.map(|id| Tag { protocol: TagProtocol::Customer, id });
            Kind::Tags { outer, inner, priority }
        }
    };
    Ok(TaggedPort {
        name: name.ok_or_else(|| missing("name"))?,
        mac: mac.ok_or_else(|| missing("mac"))?,
        trunk: trunk.ok_or_else(|| missing(carrier_key(&kind)))?,
        kind,
        mtu,
        bridge,
    })
}

/// No remote end is the router itself.
fn is_elsewhere(place: &Place, local: Ipv4Addr, remotes: &Remotes) -> Result<(), ConfigError> {
    let Remotes::Listed(remotes) = remotes else { return Ok(()) };
    match remotes.iter().position(|remote| *remote == local) {
        Some(index) => Err(place.at("remotes").at(index).error("is the router's own address")),
        None => Ok(()),
    }
}

/// The largest number of a VXLAN network.
const MAX_VNI: u32 = (1 << 24) - 1;
/// VXLAN's own (RFC 7348 §8).
const UDP_PORT: u16 = 4789;

/// What the file calls the NIC that carries a port.
const fn carrier_key(kind: &Kind) -> &'static str {
    match kind {
        Kind::Tags { .. } => "trunk",
        Kind::Vni(_) => "underlay",
    }
}

/// An address that packets of a VXLAN network go to, or come from.
fn vtep(place: &Place, value: &Value) -> Result<Ipv4Addr, ConfigError> {
    let text = text(place, value)?;
    let address: Ipv4Addr =
        text.parse().map_err(|_| place.error(format_args!("{text:?} is no IPv4 address")))?;
    if is_vtep(address) {
        Ok(address)
    } else {
        Err(place.error(format_args!("{address} is no single host's address")))
    }
}

fn remotes(place: &Place, value: &Value) -> Result<Vec<Ipv4Addr>, ConfigError> {
    let mut remotes = Vec::new();
    for (value, place) in members(place, value)? {
        let remote = vtep(&place, value)?;
        if remotes.contains(&remote) {
            return Err(place.error(format_args!("{remote} is there before")));
        }
        remotes.push(remote);
    }
    match remotes.len() {
        0 => Err(place.error("is empty")),
        many if many > MAX_REMOTES as usize => {
            Err(place.error(format_args!("{many} are more than {MAX_REMOTES}")))
        }
        _ => Ok(remotes),
    }
}

/// What the kernel takes for an interface's name (`dev_valid_name`).
fn interface_name(place: &Place, value: &Value) -> Result<String, ConfigError> {
    let name = text(place, value)?;
    let is_one = (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|letter: char| letter == '/' || letter == ':' || letter.is_whitespace());
    if is_one { Ok(name.to_owned()) } else { Err(place.error(format_args!("{name:?} is no interface name"))) }
}

fn bridge_name(place: &Place, value: &Value) -> Result<String, ConfigError> {
    match text(place, value)? {
        "" => Err(place.error("is empty")),
        name => Ok(name.to_owned()),
    }
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
    number(place, value, 0, 7).map(Some)
}

fn number<T>(place: &Place, value: &Value, least: T, most: T) -> Result<T, ConfigError>
where
    T: TryFrom<u64> + PartialOrd + Copy + Display,
{
    let Value::Number(number) = value else {
        return Err(place.error(format_args!("expected a number, found {}", kind(value))));
    };
    let number = number.as_u64().and_then(|number| T::try_from(number).ok());
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| place.error(format_args!("{value} is not a whole number from {least} to {most}")))
}

/// No two ports have a name, an address, or tags in common.
fn tell_apart(ports: &[(TaggedPort, Place)]) -> Result<(), ConfigError> {
    let (mut names, mut macs, mut tags) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut networks, mut udp_ports) = (BTreeSet::new(), BTreeMap::new());
    for (port, place) in ports {
        if !names.insert(&port.name) {
            return Err(place.at("name").error(format_args!("{} is another port's as well", port.name)));
        }
        if !macs.insert(port.mac) {
            return Err(place.at("mac").error(format_args!("{} is another port's as well", port.mac)));
        }
        match &port.kind {
            Kind::Tags { outer, inner, .. } => {
                if !tags.insert((&port.trunk, outer.id, inner.map(|tag| tag.id))) {
                    return Err(place.at("vlan").error("another port of this trunk has the same tags"));
                }
            }
            Kind::Vni(vni) => {
                if !networks.insert((&port.trunk, vni.local, vni.id)) {
                    return Err(place.at("vni").error("another port of this underlay is the same network"));
                }
                let other = *udp_ports.entry(&port.trunk).or_insert(vni.udp_port);
                if other != vni.udp_port {
                    let message = format_args!("other ports of this underlay have {other}");
                    return Err(place.at("udp_port").error(message));
                }
            }
        }
    }
    let is_port = |selector: &Trunk| match selector {
        Trunk::Name(name) => names.contains(name),
        Trunk::Mac(mac) => macs.contains(mac),
    };
    match ports.iter().find(|(port, _)| is_port(&port.trunk)) {
        Some((port, place)) => {
            let place = place.at(carrier_key(&port.kind));
            Err(place.error(format_args!("{} is a tagged port itself", port.trunk)))
        }
        None => Ok(()),
    }
}

/// A bridge has two ports at least, or a name is misspelt, and no more than there is room for.
fn bridges_have_several(ports: &[(TaggedPort, Place)]) -> Result<(), ConfigError> {
    let mut bridges: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
    for (port, place) in ports {
        if let Some(bridge) = &port.bridge {
            bridges.entry(bridge).or_default().push(place);
        }
    }
    for (bridge, places) in bridges {
        match places.as_slice() {
            [only] => {
                return Err(only.at("bridge").error(format_args!("{bridge:?} has no other port")));
            }
            many => {
                if let Some(place) = many.get(MAX_MEMBERS as usize) {
                    let message = format_args!("{bridge:?} has more than {MAX_MEMBERS} ports");
                    return Err(place.at("bridge").error(message));
                }
            }
        }
    }
    Ok(())
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
        let tags = ports.iter().map(|port| match &port.kind {
            Kind::Tags { outer, inner, priority } => {
                (outer.protocol, outer.id, inner.map(|tag| tag.id), *priority, port.mtu)
            }
            Kind::Vni(vni) => panic!("{vni:?}"),
        });
        let expected = [
            (customer, 100, None, None, None),
            (provider, 100, Some(7), Some(5), Some(1400)),
            (customer, 100, Some(8), None, None),
        ];
        assert_eq!(tags.collect::<Vec<_>>(), expected);
        assert_eq!(ports[1].trunk, Trunk::Mac(Mac([2, 0, 0, 0, 0, 2])));
        assert_eq!(load(Path::new("/nowhere/ports.json")), Ok(Vec::new()));
    }

    const VNI: &str = r#"{"name": "eth6", "mac": "02:00:00:00:00:06", "underlay": "eth1", "vni": 4096,
        "local": "192.0.2.1", "remotes": ["192.0.2.2", "198.51.100.7"]}"#;
    const REMOTES: &str = r#""remotes": ["192.0.2.2", "198.51.100.7"]"#;

    #[test]
    fn a_port_is_a_vxlan_network() {
        let ports = read(format!("{{\"ports\": [{PORT}, {VNI}]}}").as_bytes()).unwrap();
        let vni = Vni {
            id: 4096,
            local: Ipv4Addr::new(192, 0, 2, 1),
            remotes: Remotes::Listed(vec![Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(198, 51, 100, 7)]),
            udp_port: 4789,
        };
        let trunk = Trunk::Name("eth1".to_owned());
        assert_eq!((&ports[1].trunk, &ports[1].kind), (&trunk, &Kind::Vni(vni.clone())));

        let text = VNI.replace(REMOTES, "\"fdb\": \"vx4096\"");
        let ports = read(format!("{{\"ports\": [{text}]}}").as_bytes()).unwrap();
        let followed = Vni { remotes: Remotes::Fdb("vx4096".to_owned()), ..vni };
        assert_eq!(ports[0].kind, Kind::Vni(followed));
    }

    #[test]
    fn what_is_odd_of_a_vxlan_network_is_named_with_its_place() {
        let with = |from: &str, to: &str| error(&format!("{{\"ports\": [{}]}}", VNI.replace(from, to)));
        for (from, to, expected) in [
            ("4096", "16777216", "/vni: 16777216 is not a whole number from 1 to 16777215"),
            ("4096", "0", "/vni: 0 is not a whole number from 1 to 16777215"),
            ("192.0.2.1", "2001:db8::1", "/local: \"2001:db8::1\" is no IPv4 address"),
            ("198.51.100.7", "2001:db8::1", "/remotes/1: \"2001:db8::1\" is no IPv4 address"),
            ("198.51.100.7", "239.1.1.1", "/remotes/1: 239.1.1.1 is no single host's address"),
            ("198.51.100.7", "192.0.2.2", "/remotes/1: 192.0.2.2 is there before"),
            ("198.51.100.7", "192.0.2.1", "/remotes/1: is the router's own address"),
            ("\"192.0.2.2\", \"198.51.100.7\"", "", "/remotes: is empty"),
            (REMOTES, "\"fdb\": \"vx/7\"", "/fdb: \"vx/7\" is no interface name"),
            (REMOTES, "\"fdb\": [\"vx7\"]", "/fdb: expected text, found a list"),
            ("\"remotes\"", "\"fdb\": \"vx7\", \"remotes\"", "/fdb: a port with remotes has none"),
            (format!(", {REMOTES}").as_str(), "", ": \"remotes\" or \"fdb\" is missing"),
            ("\"underlay\"", "\"trunk\"", "/trunk: a VXLAN network has none"),
            ("\"local\"", "\"inner_vlan\"", "/inner_vlan: a VXLAN network has none"),
            ("\"underlay\": \"eth1\", ", "", ": \"underlay\" is missing"),
            ("\"local\": \"192.0.2.1\", ", "", ": \"local\" is missing"),
            ("\"vni\": 4096", "\"vni\": 4096, \"vlan\": 7", "/vni: a port with a vlan is no VXLAN network"),
            ("\"vni\": 4096", "\"vlan\": 7", "/local: only a port with a vni has one"),
            ("eth1", "eth6", "/underlay: eth6 is a tagged port itself"),
        ] {
            assert_eq!(with(from, to), format!("ports.json#/ports/0{expected}"), "{from} {to}");
        }
        let two = |other: &str| error(&format!("{{\"ports\": [{VNI}, {other}]}}"));
        let other = VNI.replace("eth6", "eth7").replace("00:06", "00:07");
        assert_eq!(two(&other), "ports.json#/ports/1/vni: another port of this underlay is the same network");
        let other = other.replace("4096", "4097, \"udp_port\": 8472");
        assert_eq!(two(&other), "ports.json#/ports/1/udp_port: other ports of this underlay have 4789");
    }

    #[test]
    fn a_bridge_has_several_ports() {
        let port = |number: usize, bridge: &str| {
            format!(
                r#"{{"name": "eth{number}", "mac": "02:00:00:00:00:{number:02x}", "trunk": "eth2",
                    "vlan": {number}, "bridge": {bridge}}}"#
            )
        };
        let file = |ports: &[String]| format!(r#"{{"ports": [{}]}}"#, ports.join(", "));
        let two = file(&[
            port(3, "\"blue\""),
            PORT.replace("eth3", "eth9").replace(":03", ":09"),
            port(4, "\"blue\""),
        ]);
        let bridges: Vec<_> = read(two.as_bytes()).unwrap().into_iter().map(|port| port.bridge).collect();
        assert_eq!(bridges, [Some("blue".to_owned()), None, Some("blue".to_owned())]);
        let alone = file(&[port(3, "\"blue\""), port(4, "\"bleu\"")]);
        assert_eq!(error(&alone), "ports.json#/ports/1/bridge: \"bleu\" has no other port");
        assert_eq!(error(&file(&[port(3, "\"\"")])), "ports.json#/ports/0/bridge: is empty");
        let many: Vec<_> = (3..68).map(|number| port(number, "\"blue\"")).collect();
        assert_eq!(error(&file(&many)), "ports.json#/ports/64/bridge: \"blue\" has more than 64 ports");
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
        let fdb = with("\"vlan\": 100", "\"vlan\": 100, \"fdb\": \"vx7\"");
        assert_eq!(fdb, "ports.json#/ports/0/fdb: only a port with a vni has one");
        assert_eq!(with("eth2", "eth3"), "ports.json#/ports/0/trunk: eth3 is a tagged port itself");
        let two = |other: &str| error(&format!("{{\"ports\": [{PORT}, {other}]}}"));
        assert_eq!(two(PORT), "ports.json#/ports/1/name: eth3 is another port's as well");
        let other = PORT.replace("eth3", "eth4");
        assert_eq!(two(&other), "ports.json#/ports/1/mac: 02:00:00:00:00:03 is another port's as well");
        let other = other.replace("00:03", "00:04");
        assert_eq!(two(&other), "ports.json#/ports/1/vlan: another port of this trunk has the same tags");
    }
}
