//! The operator's settings: `etc/xvr/settings.json` below the root. A file that is not there says
//! that everything is as it is by default; one with anything odd in it says nothing at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::error::ConfigError;
use crate::json::{self, Place, choice, entries, kind, members, text};
use crate::model::settings::{
    DeniedFlows, ExhaustedPorts, Filtering, HairpinSource, Helpers, ManagementServer, Mapping,
    NetworkSettings, Settings, Timeouts, UnsolicitedSyn,
};
use crate::root::Root;
use crate::trunks;

/// What the file is called, in messages too.
pub const NAME: &str = "settings.json";

/// What the operator has chosen below a root: the settings, and the tagged ports.
///
/// # Errors
/// A file cannot be read, or something in it is wrong or unknown.
pub fn load(root: &Root) -> Result<Settings, ConfigError> {
    let settings = load_file(&root.settings())?;
    Ok(Settings { tagged_ports: trunks::load(&root.ports())?, ..settings })
}

fn load_file(path: &Path) -> Result<Settings, ConfigError> {
    match fs::read(path) {
        Ok(bytes) => read(&bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Settings::default()),
        Err(error) => Err(ConfigError::new(NAME, "", format_args!("cannot be read: {error}"))),
    }
}

fn read(bytes: &[u8]) -> Result<Settings, ConfigError> {
    let document = json::document_without_repeats(NAME, bytes)?;
    let mut settings = Settings::default();
    for (key, value, place) in entries(&Place::document(NAME), &document)? {
        match key {
            "timeouts" => settings.timeouts = timeouts(&place, value)?,
            "hairpin_source" => settings.hairpin_source = choice(&place, value, HAIRPIN_SOURCES)?,
            "filtering" => settings.filtering = choice(&place, value, FILTERINGS)?,
            "denied_flows" => settings.denied_flows = choice(&place, value, DENIED_FLOWS)?,
            "exhausted_ports" => settings.exhausted_ports = choice(&place, value, EXHAUSTED_PORTS)?,
            "unsolicited_syn" => settings.unsolicited_syn = choice(&place, value, UNSOLICITED_SYNS)?,
            "helpers" => settings.helpers = helpers(&place, value)?,
            "ports_per_guest" => settings.ports_per_guest = Some(ports(&place, value)?),
            "untranslated" => settings.untranslated = destinations(&place, value)?,
            "management_server" => settings.management_server = management_server(&place, value)?,
            "networks" => settings.networks = networks(&place, value)?,
            _ => return Err(place.error("unknown key")),
        }
    }
    Ok(settings)
}

const HAIRPIN_SOURCES: &[(&str, HairpinSource)] =
    &[("gateway", HairpinSource::Gateway), ("external", HairpinSource::External)];

const FILTERINGS: &[(&str, Filtering)] = &[
    ("address-and-port-dependent", Filtering::AddressAndPortDependent),
    ("endpoint-independent", Filtering::EndpointIndependent),
];

const DENIED_FLOWS: &[(&str, DeniedFlows)] = &[("kept", DeniedFlows::Kept), ("cut", DeniedFlows::Cut)];

const EXHAUSTED_PORTS: &[(&str, ExhaustedPorts)] =
    &[("shared", ExhaustedPorts::Shared), ("refused", ExhaustedPorts::Refused)];

const UNSOLICITED_SYNS: &[(&str, UnsolicitedSyn)] =
    &[("silent", UnsolicitedSyn::Silent), ("answered", UnsolicitedSyn::Answered)];

const MAPPINGS: &[(&str, Mapping)] =
    &[("endpoint-independent", Mapping::EndpointIndependent), ("symmetric", Mapping::Symmetric)];

/// What is not in the list is off.
fn helpers(place: &Place, value: &Value) -> Result<Helpers, ConfigError> {
    let mut helpers = Helpers::NONE;
    for (name, place) in members(place, value)? {
        let helper = match choice(&place, name, HELPERS)? {
            Helper::Ftp => &mut helpers.ftp,
            Helper::Tftp => &mut helpers.tftp,
        };
        *helper = true;
    }
    Ok(helpers)
}

#[derive(Clone, Copy)]
enum Helper {
    Ftp,
    Tftp,
}

const HELPERS: &[(&str, Helper)] = &[("ftp", Helper::Ftp), ("tftp", Helper::Tftp)];

fn timeouts(place: &Place, value: &Value) -> Result<Timeouts, ConfigError> {
    let mut timeouts = Timeouts::default();
    for (key, value, place) in entries(place, value)? {
        let timeout = match key {
            "tcp_opening" => &mut timeouts.tcp_opening,
            "tcp_established" => &mut timeouts.tcp_established,
            "tcp_closing" => &mut timeouts.tcp_closing,
            "udp_unanswered" => &mut timeouts.udp_unanswered,
            "udp" => &mut timeouts.udp,
            "icmp" => &mut timeouts.icmp,
            "other" => &mut timeouts.other,
            "hold_down" => &mut timeouts.hold_down,
            _ => return Err(place.error("unknown key")),
        };
        *timeout = seconds(&place, value)?;
    }
    Ok(timeouts)
}

fn seconds(place: &Place, value: &Value) -> Result<Duration, ConfigError> {
    /// A year.
    const MOST: u64 = 31_536_000;
    match value {
        Value::Number(number) => match number.as_u64().filter(|seconds| (1..=MOST).contains(seconds)) {
            Some(seconds) => Ok(Duration::from_secs(seconds)),
            None => {
                Err(place.error(format_args!("{number} is not a whole number of seconds from 1 to {MOST}")))
            }
        },
        other => Err(place.error(format_args!("expected a number of seconds, found {}", kind(other)))),
    }
}

fn ports(place: &Place, value: &Value) -> Result<NonZeroU16, ConfigError> {
    /// As many as an address has above 1023.
    const MOST: u64 = 64_512;
    let Value::Number(number) = value else {
        return Err(place.error(format_args!("expected a number of ports, found {}", kind(value))));
    };
    let ports = number.as_u64().filter(|ports| *ports <= MOST).and_then(|ports| u16::try_from(ports).ok());
    ports
        .and_then(NonZeroU16::new)
        .ok_or_else(|| place.error(format_args!("{number} is not a whole number of ports from 1 to {MOST}")))
}

fn management_server(place: &Place, value: &Value) -> Result<ManagementServer, ConfigError> {
    let text = text(place, value)?;
    let mut numbers = text.split('.').map(str::parse::<u32>);
    match (text, numbers.next(), numbers.next()) {
        ("auto", ..) => Ok(ManagementServer::Auto),
        // What comes behind makes no difference, and yet is a number or a mistake.
        (_, Some(Ok(major)), Some(Ok(minor))) if numbers.all(|number| number.is_ok()) => {
            Ok(ManagementServer::Release { major, minor })
        }
        _ => Err(place.error(format_args!("{text:?} is neither \"auto\" nor a release like \"4.21\""))),
    }
}

fn networks(place: &Place, value: &Value) -> Result<BTreeMap<Ipv4Net, NetworkSettings>, ConfigError> {
    let mut networks = BTreeMap::new();
    for (key, value, place) in entries(place, value)? {
        networks.insert(network(&place, key)?, network_settings(&place, value)?);
    }
    Ok(networks)
}

fn network(place: &Place, text: &str) -> Result<Ipv4Net, ConfigError> {
    let network: Ipv4Net =
        text.parse().map_err(|_| place.error(format_args!("{text:?} is no IPv4 network")))?;
    // Two spellings of one network could contradict each other.
    if text != network.trunc().to_string() {
        return Err(place.error(format_args!("write it as {}", network.trunc())));
    }
    Ok(network)
}

fn destinations(place: &Place, value: &Value) -> Result<BTreeSet<Ipv4Net>, ConfigError> {
    let mut destinations = BTreeSet::new();
    for (value, place) in members(place, value)? {
        destinations.insert(network(&place, text(&place, value)?)?);
    }
    Ok(destinations)
}

fn network_settings(place: &Place, value: &Value) -> Result<NetworkSettings, ConfigError> {
    let mut settings = NetworkSettings::default();
    for (key, value, place) in entries(place, value)? {
        match key {
            "mapping" => settings.mapping = choice(&place, value, MAPPINGS)?,
            _ => return Err(place.error("unknown key")),
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn everything_can_be_chosen() {
        let settings = read(
            br#"{
                "timeouts": {
                    "tcp_opening": 1, "tcp_established": 2, "tcp_closing": 3, "udp_unanswered": 4,
                    "udp": 5, "icmp": 6, "other": 7, "hold_down": 8
                },
                "hairpin_source": "external",
                "filtering": "endpoint-independent",
                "denied_flows": "cut",
                "unsolicited_syn": "answered",
                "exhausted_ports": "refused",
                "helpers": ["tftp"],
                "ports_per_guest": 500,
                "untranslated": ["10.0.0.0/8", "192.0.2.9/32"],
                "management_server": "4.21.0.0",
                "networks": {
                    "10.1.1.0/24": { "mapping": "symmetric" },
                    "10.1.2.0/24": { "mapping": "endpoint-independent" },
                    "10.1.3.0/24": {}
                }
            }"#,
        )
        .unwrap();
        let seconds = Duration::from_secs;
        let timeouts = Timeouts {
            tcp_opening: seconds(1),
            tcp_established: seconds(2),
            tcp_closing: seconds(3),
            udp_unanswered: seconds(4),
            udp: seconds(5),
            icmp: seconds(6),
            other: seconds(7),
            hold_down: seconds(8),
        };
        let network = |text: &str, mapping| (text.parse().unwrap(), NetworkSettings { mapping });
        let networks = BTreeMap::from([
            network("10.1.1.0/24", Mapping::Symmetric),
            network("10.1.2.0/24", Mapping::EndpointIndependent),
            network("10.1.3.0/24", Mapping::EndpointIndependent),
        ]);
        let (hairpin_source, filtering) = (HairpinSource::External, Filtering::EndpointIndependent);
        let helpers = Helpers { ftp: false, tftp: true };
        let ports_per_guest = NonZeroU16::new(500);
        let untranslated = ["10.0.0.0/8", "192.0.2.9/32"].map(|text| text.parse().unwrap()).into();
        let expected = Settings {
            timeouts,
            hairpin_source,
            filtering,
            denied_flows: DeniedFlows::Cut,
            unsolicited_syn: UnsolicitedSyn::Answered,
            exhausted_ports: ExhaustedPorts::Refused,
            helpers,
            ports_per_guest,
            untranslated,
            management_server: ManagementServer::Release { major: 4, minor: 21 },
            networks,
            tagged_ports: Vec::new(),
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_is_not_said_is_as_by_default() {
        assert_eq!(read(b"{}").unwrap(), Settings::default());
        assert_eq!(load_file(Path::new("/nonexistent/settings.json")).unwrap(), Settings::default());
        assert_eq!(Settings::default().helpers, Helpers { ftp: true, tftp: true });
        let settings = read(br#"{ "timeouts": { "udp": 30 } }"#).unwrap();
        let timeouts = Timeouts { udp: Duration::from_secs(30), ..Timeouts::default() };
        assert_eq!(settings, Settings { timeouts, ..Settings::default() });
    }

    #[test]
    fn whatever_is_odd_is_an_error_with_its_place() {
        let range = "is not a whole number of seconds from 1 to 31536000";
        let ports = "is not a whole number of ports from 1 to 64512";
        for (text, expected) in [
            ("[]", "#: expected an object, found a list"),
            (r#"{ "timeout": {} }"#, "#/timeout: unknown key"),
            (r#"{ "denied_flows": "flushed" }"#, r#"#/denied_flows: "flushed" is not "kept" or "cut""#),
            (r#"{ "timeouts": 3 }"#, "#/timeouts: expected an object, found a number"),
            (r#"{ "timeouts": { "sctp": 3 } }"#, "#/timeouts/sctp: unknown key"),
            (r#"{ "timeouts": { "udp": "3" } }"#, "#/timeouts/udp: expected a number of seconds, found text"),
            (
                r#"{ "timeouts": { "udp": null } }"#,
                "#/timeouts/udp: expected a number of seconds, found null",
            ),
            (r#"{ "timeouts": { "udp": 0 } }"#, &format!("#/timeouts/udp: 0 {range}")),
            (r#"{ "timeouts": { "udp": -1 } }"#, &format!("#/timeouts/udp: -1 {range}")),
            (r#"{ "timeouts": { "udp": 1.5 } }"#, &format!("#/timeouts/udp: 1.5 {range}")),
            (r#"{ "timeouts": { "udp": 31536001 } }"#, &format!("#/timeouts/udp: 31536001 {range}")),
            (r#"{ "hairpin_source": true }"#, "#/hairpin_source: expected text, found a boolean"),
            (
                r#"{ "hairpin_source": "External" }"#,
                r#"#/hairpin_source: "External" is not "gateway" or "external""#,
            ),
            (
                r#"{ "filtering": "none" }"#,
                r#"#/filtering: "none" is not "address-and-port-dependent" or "endpoint-independent""#,
            ),
            (
                r#"{ "unsolicited_syn": "reset" }"#,
                r#"#/unsolicited_syn: "reset" is not "silent" or "answered""#,
            ),
            (r#"{ "helpers": "ftp" }"#, "#/helpers: expected a list, found text"),
            (r#"{ "helpers": ["ftp", "sip"] }"#, r#"#/helpers/1: "sip" is not "ftp" or "tftp""#),
            (r#"{ "helpers": [21] }"#, "#/helpers/0: expected text, found a number"),
            (r#"{ "ports_per_guest": null }"#, "#/ports_per_guest: expected a number of ports, found null"),
            (r#"{ "ports_per_guest": 0 }"#, &format!("#/ports_per_guest: 0 {ports}")),
            (r#"{ "ports_per_guest": 64513 }"#, &format!("#/ports_per_guest: 64513 {ports}")),
            (r#"{ "untranslated": {} }"#, "#/untranslated: expected a list, found an object"),
            (r#"{ "untranslated": [8] }"#, "#/untranslated/0: expected text, found a number"),
            (r#"{ "untranslated": ["::/0"] }"#, r#"#/untranslated/0: "::/0" is no IPv4 network"#),
            (
                r#"{ "untranslated": ["10.0.0.0/8", "10.1.1.1/24"] }"#,
                "#/untranslated/1: write it as 10.1.1.0/24",
            ),
            (r#"{ "management_server": 4.21 }"#, "#/management_server: expected text, found a number"),
            (
                r#"{ "management_server": "4.x" }"#,
                r#"#/management_server: "4.x" is neither "auto" nor a release like "4.21""#,
            ),
            (r#"{ "networks": ["10.1.1.0/24"] }"#, "#/networks: expected an object, found a list"),
            (r#"{ "networks": { "tier1": {} } }"#, r#"#/networks/tier1: "tier1" is no IPv4 network"#),
            (
                r#"{ "networks": { "10.1.1.0/33": {} } }"#,
                r#"#/networks/10.1.1.0~133: "10.1.1.0/33" is no IPv4 network"#,
            ),
            (r#"{ "networks": { "10.1.1.1/24": {} } }"#, "#/networks/10.1.1.1~124: write it as 10.1.1.0/24"),
            (
                r#"{ "networks": { "10.1.1.0/24": "symmetric" } }"#,
                "#/networks/10.1.1.0~124: expected an object, found text",
            ),
            (
                r#"{ "networks": { "10.1.1.0/24": { "maping": "symmetric" } } }"#,
                "#/networks/10.1.1.0~124/maping: unknown key",
            ),
            (
                r#"{ "networks": { "10.1.1.0/24": { "mapping": "full-cone" } } }"#,
                r#"#/networks/10.1.1.0~124/mapping: "full-cone" is not "endpoint-independent" or "symmetric""#,
            ),
        ] {
            assert_eq!(error(text), format!("{NAME}{expected}"));
        }
    }

    #[test]
    fn what_is_no_json_is_an_error_with_line_and_column() {
        assert_eq!(
            error("{\n\"filtering\": }"),
            "settings.json#: no valid JSON: expected value at line 2 column 14"
        );
        assert!(error("").starts_with("settings.json#: no valid JSON: "));
    }

    #[test]
    fn a_key_that_is_there_twice_is_an_error() {
        assert_eq!(
            error("{ \"filtering\": 1,\n\"filtering\": 1 }"),
            "settings.json#: \"filtering\" is there twice at line 2 column 11"
        );
        let network = r#""10.1.1.0/24": { "mapping": "symmetric" }"#;
        let twice = error(&format!(r#"{{ "networks": {{ {network}, {network} }} }}"#));
        assert!(twice.starts_with("settings.json#: \"10.1.1.0/24\" is there twice at line 1"), "{twice}");
        let odd = r#"{ "a": [null, true, -1, 1.5, "x", { "b": 1, "c": 1 }] }"#;
        assert_eq!(error(odd), "settings.json#/a: unknown key");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_the_reason() {
        let error = load_file(Path::new("/")).unwrap_err().to_string();
        assert_eq!(error, "settings.json#: cannot be read: Is a directory (os error 21)");
    }
}
