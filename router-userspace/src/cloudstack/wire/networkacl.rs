//! `networkacl`: the access list of a VPC's tier or private gateway (`network_acl.json`).

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{ENVELOPE, icmp, network};
use crate::cloudstack::object::{Entry, Object};
use crate::cloudstack::raw::{Raw, Unfolded, piece};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::policy::{Action, Traffic};
use crate::model::{Mac, PortRange};

const KEYS: [&str; 6] =
    ["device", "mac_address", "private_gateway_acl", "nic_ip", "nic_netmask", "nic_ip6_cidr"];

const RULE_KEYS: [&str; 8] =
    ["type", "cidr", "allowed", "first_port", "last_port", "icmp_type", "icmp_code", "protocol"];

/// Keys of the two lists.
pub(in crate::cloudstack) const INGRESS: &str = "ingress_rules";
/// See [`INGRESS`].
pub(in crate::cloudstack) const EGRESS: &str = "egress_rules";

/// A message of type `networkacl`: both lists of one NIC, which take the place of those before.
#[derive(Clone, Debug)]
pub struct NetworkAcl {
    /// Where it stands.
    pub place: Place,
    /// CloudStack's name of the NIC, `ethN`.
    pub device: Option<String>,
    /// MAC address of the NIC.
    pub mac: Option<Mac>,
    /// The NIC is a private gateway's and no tier's.
    pub is_private_gateway: bool,
    /// About flows that leave by the NIC, in order.
    pub ingress: Vec<AclRule>,
    /// About flows that come in by the NIC, in order.
    pub egress: Vec<AclRule>,
    /// Whatever else the message holds.
    rest: Entry,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclRule {
    /// What it does.
    pub action: Action,
    /// Protocol and ports.
    pub traffic: Traffic,
    /// The other end: where from for ingress, where to for egress. Of both families, sorted; empty
    /// is anywhere.
    pub networks: Vec<IpNet>,
    /// The rule as the databag is to hold it.
    text: Box<str>,
}

impl NetworkAcl {
    /// Reads a message or an entry of the databag, which holds whole messages. Warnings about
    /// unknown keys come with it.
    pub(in crate::cloudstack) fn read(message: &Raw) -> Result<(Self, Vec<ConfigError>), ConfigError> {
        let rest = message.entry_without(&[INGRESS, EGRESS])?;
        let object = Object::new(message.place.clone(), &rest);
        let mut warnings = object.unknown_keys(|key| KEYS.contains(&key) || ENVELOPE.contains(&key));
        let mut rules = |key: &str| {
            let place = message.place.at(key);
            // Where CloudStack leaves a list out, nothing is in it.
            let texts = message.list(key)?.unwrap_or_default().into_iter().enumerate();
            let rule = |(index, text): (usize, &serde_json::value::RawValue)| {
                let (rule, text) = piece(place.at(index), text.get(), |object| {
                    warnings.extend(object.unknown_keys(|key| RULE_KEYS.contains(&key)));
                    AclRule::read(object)
                })?;
                Ok(AclRule { text, ..rule })
            };
            texts.map(rule).collect::<Result<Vec<AclRule>, ConfigError>>()
        };
        let (ingress, egress) = (rules(INGRESS)?, rules(EGRESS)?);
        let acl = Self {
            place: message.place.clone(),
            device: object.text("device")?.filter(|device| !device.is_empty()),
            mac: object.parsed("mac_address", "MAC address")?,
            is_private_gateway: object.boolean("private_gateway_acl")?.unwrap_or(false),
            ingress,
            egress,
            rest: Entry::new(),
        };
        if acl.mac.is_none() && acl.device.is_none() {
            return Err(object.error("mac_address", "missing, and so is device: which NIC?"));
        }
        Ok((Self { rest, ..acl }, warnings))
    }

    /// The same for a NIC of this name.
    pub(in crate::cloudstack) fn on(&self, device: &str) -> Self {
        let mut acl = Self { device: Some(device.to_owned()), ..self.clone() };
        acl.rest.insert("device".to_owned(), json!(device));
        acl
    }
}

/// The same list is the same wherever it stands: in a message, in the databag.
impl PartialEq for NetworkAcl {
    fn eq(&self, other: &Self) -> bool {
        // The other fields are read from these.
        (&self.rest, &self.ingress, &self.egress) == (&other.rest, &other.ingress, &other.egress)
    }
}

impl Eq for NetworkAcl {}

/// As it was written, without nulls.
impl Serialize for NetworkAcl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        enum Part<'a> {
            Value(&'a Value),
            Rules(&'a [AclRule]),
        }
        impl Serialize for Part<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::Value(value) => value.serialize(serializer),
                    Self::Rules(rules) => {
                        serializer.collect_seq(rules.iter().map(|rule| Unfolded(&rule.text)))
                    }
                }
            }
        }
        let rest = self.rest.iter().map(|(key, value)| (key.as_str(), Part::Value(value)));
        let lists = [(INGRESS, Part::Rules(&self.ingress)), (EGRESS, Part::Rules(&self.egress))];
        serializer.collect_map(rest.chain(lists).collect::<BTreeMap<_, _>>())
    }
}

impl AclRule {
    fn read(object: &Object) -> Result<Self, ConfigError> {
        Ok(Self {
            action: match object.required("allowed", object.boolean("allowed")?)? {
                true => Action::Allow,
                false => Action::Deny,
            },
            traffic: traffic(object)?,
            networks: networks(object)?,
            text: Box::default(),
        })
    }
}

fn traffic(object: &Object) -> Result<Traffic, ConfigError> {
    match object.required("type", object.word("type")?)?.as_str() {
        "tcp" => Ok(Traffic::Tcp(ports(object)?)),
        "udp" => Ok(Traffic::Udp(ports(object)?)),
        "icmp" => icmp(object),
        "all" => Ok(Traffic::Any),
        "protocol" => {
            let number = object.parsed::<u8>("protocol", "protocol number")?;
            Ok(match object.required("protocol", number)? {
                6 => Traffic::Tcp(None),
                17 => Traffic::Udp(None),
                other => Traffic::Protocol(other),
            })
        }
        other => {
            let message = format_args!("{other:?} is none of tcp, udp, icmp, all, protocol");
            Err(object.error("type", message))
        }
    }
}

/// `first_port` and `last_port`. Both 0 is what CloudStack writes where there are none: all ports.
fn ports(object: &Object) -> Result<Option<PortRange>, ConfigError> {
    let port = |key: &str| object.required(key, object.parsed::<u16>(key, "port")?);
    match (port("first_port")?, port("last_port")?) {
        (0, 0) => Ok(None),
        (first, last) => {
            PortRange::new(first, last).map(Some).map_err(|error| object.error("first_port", error))
        }
    }
}

/// `cidr`: networks with commas between them, of both families. All of both is no condition.
fn networks(object: &Object) -> Result<Vec<IpNet>, ConfigError> {
    let text = object.required("cidr", object.text("cidr")?.filter(|text| !text.is_empty()))?;
    let mut networks = Vec::new();
    for cidr in text.split(',').map(str::trim) {
        // An empty word is no network either: taking it for none would let anybody in.
        let network = network(cidr);
        networks.push(network.ok_or_else(|| object.error("cidr", format_args!("{cidr:?} is no network")))?);
    }
    networks.sort_unstable();
    networks.dedup();
    let is_all = |ipv4: bool| move |net: &IpNet| net.prefix_len() == 0 && net.addr().is_ipv4() == ipv4;
    if networks.iter().any(is_all(true)) && networks.iter().any(is_all(false)) {
        networks.clear();
    }
    Ok(networks)
}
