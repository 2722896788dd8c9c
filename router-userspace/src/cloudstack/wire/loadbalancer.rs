//! `loadbalancer`: haproxy's configuration (`load_balancer.json`).
//!
//! CloudStack sends the text of `haproxy.cfg` and beside it which addresses it opens; there are no rules
//! but this text. What the text says is haproxy's to judge; here it is only text.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::{ENVELOPE, host_address, is_host, network4, secret};
use crate::cloudstack::object::{Entry, Items, Object};
use crate::error::ConfigError;
use crate::json::{Place, Shape};

const KEYS: [&str; 8] = [
    "configuration",
    "tmp_cfg_file_path",
    "tmp_cfg_file_name",
    "ssl_certs",
    "add_rules",
    "remove_rules",
    "stat_rules",
    "router_ip",
];
const CERTIFICATE_KEYS: [&str; 5] = ["name", "cert", "key", "chain", "password"];

/// A message of type `loadbalancer`: all of a network's or a VPC's load balancing.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancer {
    /// Where its one configuration stands.
    pub place: Place,
    /// The configuration by lines. A line may hold further ones, and be blank.
    pub configuration: Vec<String>,
    /// Certificates that the configuration names (4.22 and later).
    pub certificates: Vec<Certificate>,
    /// What it listens at, without the page of statistics.
    pub listeners: Vec<SocketAddrV4>,
    /// What it listened at before and does not any more.
    pub withdrawn: Vec<SocketAddrV4>,
    /// Who may see the pages of statistics, and where.
    pub statistics: Vec<Statistics>,
    /// The router's own address that CloudStack reaches it by.
    pub router: Option<Ipv4Addr>,
    /// The configuration as it was written.
    pub(in crate::cloudstack) entry: Entry,
}

/// A certificate with its key, PEM.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// Its file is `NAME.pem`: no path.
    pub name: String,
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The certificates between it and the root.
    pub chain: Option<String>,
    /// What the key is encrypted with.
    pub password: Option<String>,
}

/// A page of statistics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Its address; `None` is each of the router's.
    pub address: Option<Ipv4Addr>,
    /// Its port.
    pub port: u16,
    /// Who may see it.
    pub sources: Vec<Ipv4Net>,
}

impl LoadBalancer {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<Self, ConfigError> {
        Self::read_one(message, "rules")
    }

    /// Reads the configuration of the `loadbalancer` databag.
    pub(in crate::cloudstack) fn stored(bag: &Object) -> Result<Self, ConfigError> {
        Self::read_one(bag, "config")
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Result<Vec<ConfigError>, ConfigError> {
        let mut warnings = message.unknown_keys(|key| key == "rules" || ENVELOPE.contains(&key));
        for rules in message.objects("rules")?.unwrap_or_default() {
            warnings.extend(rules.unknown_keys(|key| KEYS.contains(&key)));
            for certificate in rules.objects("ssl_certs")?.unwrap_or_default() {
                warnings.extend(certificate.unknown_keys(|key| CERTIFICATE_KEYS.contains(&key)));
            }
        }
        Ok(warnings)
    }

    /// A list of exactly one configuration.
    fn read_one(object: &Object, key: &str) -> Result<Self, ConfigError> {
        let all = object.required(key, object.objects(key)?)?;
        let [rules] = all.as_slice() else {
            return Err(object.error(key, format_args!("expected one configuration, found {}", all.len())));
        };
        Self::of(rules)
    }

    /// Reads one configuration.
    pub(in crate::cloudstack) fn of(rules: &Object) -> Result<Self, ConfigError> {
        let certificates = rules.objects("ssl_certs")?.unwrap_or_default();
        let configuration = lines(rules, "configuration")?;
        if configuration.is_empty() {
            return Err(rules.error("configuration", "missing"));
        }
        Ok(Self {
            place: rules.place().into_owned(),
            configuration,
            certificates: certificates.iter().map(Certificate::read).collect::<Result<_, _>>()?,
            listeners: listeners(rules, "add_rules")?,
            withdrawn: listeners(rules, "remove_rules")?,
            statistics: statistics(rules)?,
            router: host_address(rules, "router_ip")?,
            entry: rules.to_entry(),
        })
    }
}

impl Certificate {
    fn read(object: &Object) -> Result<Self, ConfigError> {
        let name = object.required("name", object.text("name")?)?;
        let is_file = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_file) {
            return Err(object.error("name", format_args!("{name:?} is no name of a file")));
        }
        let filled = |key: &str| Ok(object.text(key)?.filter(|text| !text.is_empty()));
        Ok(Self {
            name,
            certificate: object.required("cert", filled("cert")?)?,
            key: object.required("key", filled("key")?)?,
            chain: filled("chain")?,
            password: secret(object, "password")?,
        })
    }
}

/// The texts of a list; missing is none.
fn lines(object: &Object, key: &str) -> Result<Vec<String>, ConfigError> {
    let lines = object.items(key)?.unwrap_or_default().iter().enumerate();
    lines
        .map(|(index, line)| {
            let place = object.place().at(key).at(index);
            match line.shape() {
                Shape::Text(text) if text.contains('\0') => Err(place.error("a zero byte in a line")),
                Shape::Text(text) => Ok(text.to_owned()),
                other => Err(place.error(format_args!("expected text, found {}", other.kind()))),
            }
        })
        .collect()
}

/// `address:port:`
fn listeners(object: &Object, key: &str) -> Result<Vec<SocketAddrV4>, ConfigError> {
    let lines = lines(object, key)?;
    let read = |(index, line): (usize, &String)| {
        let listener: Option<SocketAddrV4> = line.trim_end_matches(':').parse().ok();
        let is_one = |listener: &SocketAddrV4| is_host((*listener.ip()).into()) && listener.port() != 0;
        let place = || object.place().at(key).at(index);
        listener.filter(is_one).ok_or_else(|| place().error(format_args!("{line:?} is no address and port")))
    };
    lines.iter().enumerate().map(read).collect()
}

/// `address:port:sources:,`, and an empty text where there are no statistics.
fn statistics(object: &Object) -> Result<Vec<Statistics>, ConfigError> {
    let lines = lines(object, "stat_rules")?;
    let read = |(index, line): (usize, &String)| {
        let place = || object.place().at("stat_rules").at(index);
        let page = page(line);
        page.ok_or_else(|| place().error(format_args!("{line:?} is no address, port and source networks")))
    };
    lines.iter().enumerate().filter(|(_, line)| !line.is_empty()).map(read).collect()
}

fn page(line: &str) -> Option<Statistics> {
    let mut words = line.split(':');
    let address = match words.next()? {
        "0.0.0.0/0" | "0.0.0.0" => None,
        word => Some(word.parse().ok().filter(|address| is_host(IpAddr::V4(*address)))?),
    };
    let port = words.next()?.parse().ok().filter(|port| *port != 0)?;
    let sources = words.next()?.split(',').map(source).collect::<Option<_>>()?;
    Some(Statistics { address, port, sources })
}

/// CloudStack's own default is `0/0`.
fn source(word: &str) -> Option<Ipv4Net> {
    if word == "0/0" { Some(Ipv4Net::default()) } else { network4(word) }
}
