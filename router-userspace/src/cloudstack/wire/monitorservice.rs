//! `monitorservice`: what is to be watched, and what health checks compare with (`monitor_service.json`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::ENVELOPE;
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::model::PortRange;
use crate::model::health::{
    ExpectedBalancer, ExpectedForward, ExpectedGuest, Monitoring, RouterVersion, Thresholds,
};

/// The key as CloudStack spells it, and as releases before 4.19 did.
pub(in crate::cloudstack) const ADVANCED: &str = "health_checks_advanced_run_interval";
pub(in crate::cloudstack) const ADVANCED_OF_OLD: &str = "health_checks_advance_run_interval";

const KEYS: [&str; 7] = [
    "config",
    "disable_monitoring",
    "health_checks_enabled",
    "health_checks_basic_run_interval",
    ADVANCED,
    ADVANCED_OF_OLD,
    "excluded_health_checks",
];

const CONFIG: &str = "health_checks_config";

/// A message of type `monitorservice`.
#[derive(Clone, Debug, PartialEq)]
pub struct MonitorService {
    /// What it means, as far as it goes: a message may lack what an earlier one has said.
    pub monitoring: Monitoring,
    /// The message as it was written, without what every message has.
    pub(in crate::cloudstack) entry: Entry,
}

impl MonitorService {
    /// Reads a message, or the databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let mut monitoring = Monitoring {
            enabled: object.boolean("health_checks_enabled")?.unwrap_or(false),
            basic_every: minutes(object, "health_checks_basic_run_interval")?,
            advanced_every: match minutes(object, ADVANCED)? {
                None => minutes(object, ADVANCED_OF_OLD)?,
                some => some,
            },
            excluded: words(&object.text("excluded_health_checks")?.unwrap_or_default()),
            services: services(&object.text("config")?.unwrap_or_default()),
            ..Monitoring::default()
        };
        if let Some(config) = object.object(CONFIG)? {
            monitoring.gateways = gateways(&config)?;
            monitoring.forwards = forwards(&config)?;
            monitoring.guests = guests(&config)?;
            monitoring.balancers = balancers(&config)?;
            monitoring.thresholds = thresholds(&config)?;
            monitoring.version = version(&config)?;
        }
        object.boolean("disable_monitoring")?;
        let mut entry = object.to_entry();
        entry.retain(|key, _| !ENVELOPE.contains(&key.as_str()));
        Ok(Self { monitoring, entry })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Vec<ConfigError> {
        message.unknown_keys(|key| KEYS.contains(&key) || key == CONFIG || ENVELOPE.contains(&key))
    }
}

/// How often, in minutes; 0 is never.
fn minutes(object: &Object, key: &str) -> Result<Option<Duration>, ConfigError> {
    /// A year.
    const MOST: u64 = 525_600;
    match object.parsed::<u64>(key, "number of minutes")? {
        Some(minutes) if minutes > MOST => {
            Err(object.error(key, format_args!("{minutes} minutes are more than a year")))
        }
        minutes => Ok(minutes.map(|minutes| Duration::from_secs(minutes * 60))),
    }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The names of `[name]:processname=…:servicename=…:pidfile=…:,` over and over.
fn services(text: &str) -> BTreeSet<String> {
    let names = text.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
    names.map(|(name, _)| name.to_owned()).collect()
}

fn gateways(config: &Object) -> Result<Vec<IpAddr>, ConfigError> {
    let key = "gateways";
    let text = config.text(key)?.unwrap_or_default();
    let mut gateways = Vec::new();
    for record in text.split(';').map(Record) {
        for word in record.field("gatewaysIps").unwrap_or_default().split_whitespace() {
            match word.parse() {
                Ok(address) => gateways.push(address),
                // A network without a gateway.
                Err(_) if word == "null" => {}
                Err(_) => return Err(config.error(key, format_args!("{word:?} is no address"))),
            }
        }
    }
    Ok(gateways)
}

fn forwards(config: &Object) -> Result<Vec<ExpectedForward>, ConfigError> {
    let key = "portForwarding";
    let text = config.text(key)?.unwrap_or_default();
    let mut forwards = Vec::new();
    for record in text.split(';').map(Record).filter(|record| !record.0.trim().is_empty()) {
        let wrong = |field: &str| config.error(key, format_args!("no {field} in {:?}", record.0.trim()));
        let address = |field| record.parsed::<Ipv4Addr>(field).ok_or_else(|| wrong(field));
        let ports = |first, last| {
            let number = |field| record.parsed::<u16>(field).ok_or_else(|| wrong(field));
            match (number(first)?, number(last)?) {
                (0, 0) => Ok(None),
                (from, to) => PortRange::new(from, to).map(Some).map_err(|error| config.error(key, error)),
            }
        };
        forwards.push(ExpectedForward {
            public: address("sourceIp")?,
            public_ports: ports("sourcePortStart", "sourcePortEnd")?,
            internal: address("destIp")?,
            internal_ports: ports("destPortStart", "destPortEnd")?,
        });
    }
    Ok(forwards)
}

/// What is no guest's NIC is left out: its check says nothing about it.
fn guests(config: &Object) -> Result<Vec<ExpectedGuest>, ConfigError> {
    let text = config.text("virtualMachines")?.unwrap_or_default();
    let guest = |record: Record<'_>| {
        let is = |field: &str| record.field(field).is_some_and(|word| word.trim() == "true");
        let word = |field: &str| record.field(field).map(|word| word.trim().to_owned());
        Some(ExpectedGuest {
            name: word("vmName")?,
            mac: word("macAddress")?.to_ascii_lowercase(),
            address: record.parsed("ip")?,
            dhcp: is("dhcp"),
            dns: is("dns"),
        })
    };
    Ok(text.split(';').map(Record).filter_map(guest).collect())
}

fn balancers(config: &Object) -> Result<Vec<ExpectedBalancer>, ConfigError> {
    let key = "haproxyData";
    let text = config.text(key)?.unwrap_or_default();
    let mut balancers = Vec::new();
    for record in text.split(';').map(Record).filter(|record| !record.0.trim().is_empty()) {
        let wrong = |field: &str| config.error(key, format_args!("no {field} in {:?}", record.0.trim()));
        let address = record.parsed("sourceIp").ok_or_else(|| wrong("sourceIp"))?;
        let port = |field| record.parsed::<u16>(field).ok_or_else(|| wrong(field));
        let server_port = port("destPortStart")?;
        let servers = record.field("vmIps").unwrap_or_default().split_whitespace();
        let servers = servers.map(|word| Some(SocketAddrV4::new(word.parse().ok()?, server_port)));
        balancers.push(ExpectedBalancer {
            listener: SocketAddrV4::new(address, port("sourcePortStart")?),
            algorithm: record.field("algorithm").unwrap_or_default().trim().to_owned(),
            servers: servers.collect::<Option<_>>().ok_or_else(|| wrong("vmIps"))?,
            max_connections: record.parsed("maxconn"),
        });
    }
    Ok(balancers)
}

fn thresholds(config: &Object) -> Result<Thresholds, ConfigError> {
    let key = "systemThresholds";
    let text = config.text(key)?.unwrap_or_default();
    let mut thresholds = Thresholds::default();
    for record in text.split(';').map(Record) {
        for (field, threshold) in [
            ("minDiskNeeded", &mut thresholds.free_disk_megabytes),
            ("maxCpuUsage", &mut thresholds.cpu_percent),
            ("maxMemoryUsage", &mut thresholds.memory_percent),
        ] {
            let Some(text) = record.field(field) else { continue };
            let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            let number =
                number.ok_or_else(|| config.error(key, format_args!("{field}: {text:?} is no number")))?;
            *threshold = Some(number);
        }
    }
    Ok(thresholds)
}

fn version(config: &Object) -> Result<Option<RouterVersion>, ConfigError> {
    let text = config.text("routerVersion")?.unwrap_or_default();
    let record = Record(text.trim_end_matches(';'));
    let field = |name| record.field(name).map(|word| word.trim().to_owned());
    let version = field("templateVersion").zip(field("scriptsVersion"));
    Ok(version.map(|(template, scripts)| RouterVersion { template, scripts }))
}

/// `key=value,key=value`.
struct Record<'a>(&'a str);

impl<'a> Record<'a> {
    fn field(&self, name: &str) -> Option<&'a str> {
        let mut fields = self.0.split(',').filter_map(|field| field.split_once('='));
        fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value)
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.field(name)?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::json::Place;

    fn read(value: &Value) -> Result<Monitoring, String> {
        let object = Object::from_value(Place::document("f"), value).unwrap();
        MonitorService::read(&object).map(|message| message.monitoring).map_err(|error| error.to_string())
    }

    #[test]
    fn whatever_is_odd_is_an_error_with_its_place() {
        let config = |key: &str, text: &str| json!({ "health_checks_config": { key: text } });
        for (value, expected) in [
            (
                json!({ "health_checks_enabled": "maybe" }),
                r#"f#/health_checks_enabled: "maybe" is neither true nor false"#,
            ),
            (
                json!({ "health_checks_basic_run_interval": -1 }),
                r#"f#/health_checks_basic_run_interval: "-1" is no number of minutes"#,
            ),
            (
                json!({ "health_checks_advance_run_interval": 525_601 }),
                "f#/health_checks_advance_run_interval: 525601 minutes are more than a year",
            ),
            (
                json!({ "excluded_health_checks": ["a"] }),
                "f#/excluded_health_checks: expected text, found a list",
            ),
            (
                json!({ "health_checks_config": "a" }),
                "f#/health_checks_config: expected an object, found text",
            ),
            (
                config("gateways", "gatewaysIps=169.254.0.1 nowhere "),
                r#"f#/health_checks_config/gateways: "nowhere" is no address"#,
            ),
            (
                config("systemThresholds", "minDiskNeeded=much,maxCpuUsage=1;"),
                r#"f#/health_checks_config/systemThresholds: minDiskNeeded: "much" is no number"#,
            ),
            (
                config(
                    "haproxyData",
                    "sourceIp=203.0.113.11,sourcePortStart=80,destPortStart=80,vmIps=10.1.1;",
                ),
                "f#/health_checks_config/haproxyData: no vmIps in \"sourceIp=203.0.113.11,sourcePortStart=80,destPortStart=80,vmIps=10.1.1\"",
            ),
            (
                config("portForwarding", "sourceIp=203.0.113.11,sourcePortStart=2222;"),
                "f#/health_checks_config/portForwarding: no sourcePortEnd in \"sourceIp=203.0.113.11,sourcePortStart=2222\"",
            ),
        ] {
            assert_eq!(read(&value).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_refresh_says_nothing_about_services() {
        let value = json!({ "health_checks_enabled": true, "health_checks_config": { "gateways": "gatewaysIps=null 203.0.113.1 " } });
        let monitoring = read(&value).unwrap();
        assert!(monitoring.enabled && monitoring.services.is_empty() && monitoring.basic_every.is_none());
        assert_eq!(monitoring.gateways, [IpAddr::from([203, 0, 113, 1])]);
    }
}
