//! `forwardrules`: port forwarding (`forwarding_rules.json`).
//!
//! A message and the `forwardingrules` databag hold the same things under different keys, so the
//! readers take the keys as an argument (`Keys`).

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::{ENVELOPE, host_address};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::{ForwardProtocol, PortForward, PortRange};

/// A message of type `forwardrules`.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardRules {
    /// The rules, in the message's order.
    pub rules: Vec<ForwardRule>,
}

/// One rule of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardRule {
    /// Where it stands.
    pub place: Place,
    /// Which rule it is.
    pub identity: Identity,
    /// What it shall be; `None` withdraws it, whatever it was.
    pub forward: Option<PortForward>,
    /// The rule as the databag is to hold it; `None` with `forward`.
    pub(in crate::cloudstack) entry: Option<Entry>,
}

/// What makes two rules the same one: all but where they lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The public address.
    pub public: Ipv4Addr,
    /// The protocol.
    pub protocol: ForwardProtocol,
    /// The public ports; `None` is every port.
    pub public_ports: Option<PortRange>,
    /// Who may use it, host bits clear, sorted; empty is anybody.
    pub sources: Vec<Ipv4Net>,
}

impl ForwardRules {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<Self, ConfigError> {
        let objects = message.required("rules", message.objects("rules")?)?;
        Ok(Self { rules: objects.iter().map(ForwardRule::read).collect::<Result<_, _>>()? })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Result<Vec<ConfigError>, ConfigError> {
        let mut warnings = message.unknown_keys(|key| key == "rules" || ENVELOPE.contains(&key));
        for object in message.objects("rules")?.unwrap_or_default() {
            warnings.extend(object.unknown_keys(|key| MESSAGE.has(key)));
        }
        Ok(warnings)
    }
}

impl ForwardRule {
    fn read(object: &Object) -> Result<Self, ConfigError> {
        let identity = Identity::read(object, &MESSAGE)?;
        let place = object.place().into_owned();
        // CloudStack withdraws rules that were refused as well: where they lead does not matter.
        if object.required("revoke", object.boolean("revoke")?)? {
            return Ok(Self { place, identity, forward: None, entry: None });
        }
        let forward = forward(object, &MESSAGE, identity.clone())?;
        let entry = entry(object, &identity, &forward)?;
        Ok(Self { place, identity, forward: Some(forward), entry: Some(entry) })
    }
}

impl Identity {
    /// The rule of an entry of the `forwardingrules` databag.
    pub(in crate::cloudstack) fn of_stored(object: &Object) -> Result<Self, ConfigError> {
        Self::read(object, &BAG)
    }

    fn read(object: &Object, keys: &Keys) -> Result<Self, ConfigError> {
        let public = object.required(keys.public, host_address(object, keys.public)?)?;
        let (protocol, public_ports) = (protocol(object)?, ports(object, keys.public_ports)?);
        if protocol == ForwardProtocol::Any && public_ports.is_some() {
            return Err(object.error(keys.public_ports, "ports need the protocol tcp or udp"));
        }
        Ok(Self { public, protocol, public_ports, sources: sources(object)? })
    }

    /// Whether two rules are the same one: both are for anybody, or they share a network. So
    /// CloudStack decides as well, and lets rules that share none stand side by side.
    pub(in crate::cloudstack) fn is_same(&self, other: &Self) -> bool {
        let (a, b) = (&self.sources, &other.sources);
        let meets = (a.is_empty() && b.is_empty()) || a.iter().any(|source| b.contains(source));
        let key = |rule: &Self| (rule.public, rule.protocol, rule.public_ports);
        key(self) == key(other) && meets
    }
}

/// Reads an entry of the `forwardingrules` databag whose `type` is `forward`.
pub(in crate::cloudstack) fn stored(object: &Object) -> Result<PortForward, ConfigError> {
    forward(object, &BAG, Identity::read(object, &BAG)?)
}

/// The keys of a rule that differ between message and databag.
struct Keys {
    public: &'static str,
    public_ports: &'static str,
    internal: &'static str,
    internal_ports: &'static str,
}

const MESSAGE: Keys = Keys {
    public: "source_ip_address",
    public_ports: "source_port_range",
    internal: "destination_ip_address",
    internal_ports: "destination_port_range",
};

const BAG: Keys = Keys {
    public: "public_ip",
    public_ports: "public_ports",
    internal: "internal_ip",
    internal_ports: "internal_ports",
};

/// The key of who may use a rule, in both.
const SOURCES: &str = "source_cidr_list";
/// What CloudStack's own router calls every port.
const ANY: &str = "any";

impl Keys {
    fn has(&self, key: &str) -> bool {
        let own = [self.public, self.public_ports, self.internal, self.internal_ports];
        own.contains(&key) || ["revoke", "protocol", SOURCES].contains(&key)
    }
}

/// The whole rule; its ranges fit each other.
fn forward(object: &Object, keys: &Keys, identity: Identity) -> Result<PortForward, ConfigError> {
    let internal = object.required(keys.internal, host_address(object, keys.internal)?)?;
    let internal_ports = ports(object, keys.internal_ports)?;
    let Identity { public, protocol, mut public_ports, sources } = identity;
    if let Some(inside) = internal_ports {
        if protocol == ForwardProtocol::Any {
            return Err(object.error(keys.internal_ports, "ports need the protocol tcp or udp"));
        }
        let outside = *public_ports.get_or_insert(PortRange::ALL);
        if !PortForward::fits(outside, inside) {
            let (have, want) = (inside.len(), outside.len());
            let message = format_args!("ports in {inside}: {have}, but in the public {outside}: {want}");
            return Err(object.error(keys.internal_ports, message));
        }
    }
    Ok(PortForward { public, protocol, public_ports, internal, internal_ports, sources })
}

/// `protocol`; CloudStack's own VPC router knows `any` as well.
fn protocol(object: &Object) -> Result<ForwardProtocol, ConfigError> {
    match object.required("protocol", object.word("protocol")?)?.as_str() {
        "tcp" => Ok(ForwardProtocol::Tcp),
        "udp" => Ok(ForwardProtocol::Udp),
        "any" => Ok(ForwardProtocol::Any),
        other => Err(object.error("protocol", format_args!("{other:?} is none of tcp, udp, any"))),
    }
}

/// `first:last` or one port. `0:0` is what CloudStack writes where there is no range.
fn ports(object: &Object, key: &str) -> Result<Option<PortRange>, ConfigError> {
    let Some(text) = object.text(key)? else { return Ok(None) };
    if ["", ANY, "0:0", "null", "none"].iter().any(|none| text.eq_ignore_ascii_case(none)) {
        return Ok(None);
    }
    let (first, last) = text.split_once(':').unwrap_or((&text, &text));
    let port = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| is_number)
    };
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(object.error(key, format_args!("{text:?} is no range of ports")));
    };
    PortRange::new(first, last)
        .map(Some)
        .map_err(|error| object.error(key, format_args!("{text:?} is no range of ports: {error}")))
}

/// `source_cidr_list`: networks with commas between them; CloudStack 4.18 does not send it.
fn sources(object: &Object) -> Result<Vec<Ipv4Net>, ConfigError> {
    let Some(text) = object.text(SOURCES)?.filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    let mut sources = Vec::new();
    for cidr in text.split(',').map(str::trim) {
        match cidr.parse::<Ipv4Net>() {
            Ok(net) => sources.push(net.trunc()),
            // An empty word is no network either: taking it for none would let anybody in.
            Err(_) if cidr.parse::<Ipv6Net>().is_ok() => {
                let message = format_args!("{cidr:?} is an IPv6 network, forwards are IPv4");
                return Err(object.error(SOURCES, message));
            }
            Err(_) => return Err(object.error(SOURCES, format_args!("{cidr:?} is no IPv4 network"))),
        }
    }
    sources.sort_unstable();
    sources.dedup();
    Ok(sources)
}

/// The rule in the shape of the databag. Sources stay as they were written, since CloudStack's own
/// router compares their text; so do keys that nobody knows.
fn entry(object: &Object, identity: &Identity, forward: &PortForward) -> Result<Entry, ConfigError> {
    let mut entry = object.to_entry();
    entry.retain(|key, _| !MESSAGE.has(key) || key == SOURCES);
    let ports = |range: Option<PortRange>, key| match range {
        Some(range) => Ok(format!("{}:{}", range.first(), range.last())),
        None => Ok(object.text(key)?.filter(|text| !text.is_empty()).unwrap_or_else(|| ANY.to_owned())),
    };
    for (key, value) in [
        ("type", "forward".to_owned()),
        ("protocol", forward.protocol.to_string()),
        (BAG.public, forward.public.to_string()),
        (BAG.public_ports, ports(identity.public_ports, MESSAGE.public_ports)?),
        (BAG.internal, forward.internal.to_string()),
        (BAG.internal_ports, ports(forward.internal_ports, MESSAGE.internal_ports)?),
    ] {
        entry.insert(key.to_owned(), Value::String(value));
    }
    Ok(entry)
}
