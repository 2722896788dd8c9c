//! `networkacl`: the access list of a VPC's tier or private gateway (`network_acl.json`).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{ENVELOPE, device, icmp, network};
use crate::cloudstack::object::{Entry, Keys, Object};
use crate::cloudstack::raw::{Raw, piece};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::policy::{Action, Rule, Traffic};
use crate::model::{Mac, PortRange};

const KEYS: [&str; 6] =
    ["device", "mac_address", "private_gateway_acl", "nic_ip", "nic_netmask", "nic_ip6_cidr"];

const RULE_KEYS: [&str; 8] =
    ["type", "cidr", "allowed", "first_port", "last_port", "icmp_type", "icmp_code", "protocol"];

/// Keys of the two lists.
pub(in crate::cloudstack) const INGRESS: &str = "ingress_rules";
/// See [`INGRESS`].
pub(in crate::cloudstack) const EGRESS: &str = "egress_rules";

/// A message of type `networkacl`: both lists of one NIC, which take the place of those before. Copies share
/// the lists.
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
    /// About flows that leave by the NIC.
    pub ingress: Arc<AclRules>,
    /// About flows that come in by the NIC.
    pub egress: Arc<AclRules>,
    /// Whatever else the message holds.
    rest: Entry,
}

/// A list of rules, in order. CloudStack does not number them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AclRules {
    /// What they say. Networks are of both families, sorted; none is anywhere.
    pub rules: Vec<Arc<Rule>>,
    /// The rules as the databag's file is to hold them, in the same order.
    texts: Vec<Arc<str>>,
}

impl NetworkAcl {
    /// Reads a message or an entry of the databag, which holds whole messages. Warnings about
    /// unknown keys come with it.
    pub(in crate::cloudstack) fn read(message: &Raw) -> Result<(Self, Vec<ConfigError>), ConfigError> {
        let rest = message.entry_without(&[INGRESS, EGRESS])?;
        let object = Object::new(message.place.clone(), &rest);
        let mut warnings = object.unknown_keys(|key| KEYS.contains(&key) || ENVELOPE.contains(&key));
        let mut rules = |key: &str, turn: fn(Vec<IpNet>) -> Ends| {
            let place = message.place.at(key);
            // Where CloudStack leaves a list out, nothing is in it.
            let texts = message.list(key)?.unwrap_or_default();
            let mut list = AclRules::default();
            list.rules.reserve_exact(texts.len());
            list.texts.reserve_exact(texts.len());
            for (index, text) in texts.into_iter().enumerate() {
                let (rule, text) = piece(&place, &index, text.get(), DEPTH, |object| {
                    warnings.extend(object.unknown_keys(|key| RULE_KEYS.contains(&key)));
                    rule(object, turn)
                })?;
                list.rules.push(Arc::new(rule));
                list.texts.push(text);
            }
            Ok(Arc::new(list))
        };
        // The networks are the other end's.
        let ingress = rules(INGRESS, |networks| Ends { sources: networks, destinations: vec![] })?;
        let egress = rules(EGRESS, |networks| Ends { sources: vec![], destinations: networks })?;
        let acl = Self {
            place: message.place.clone(),
            device: device(&object)?,
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

impl NetworkAcl {
    /// The same with the rules of an earlier message where they are the same from the first rule on, and from
    /// the last one back: who sends a list again changes little, and what is known of a rule stays known.
    pub(in crate::cloudstack) fn sharing(&self, earlier: &Self) -> Self {
        Self {
            ingress: self.ingress.sharing(&earlier.ingress),
            egress: self.egress.sharing(&earlier.egress),
            ..self.clone()
        }
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

impl NetworkAcl {
    /// Writes it as it was written, without nulls, one object deep, as the databag's file has it.
    pub(in crate::cloudstack) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        enum Part<'a> {
            Value(&'a Value),
            Rules(&'a AclRules),
        }
        let rest = self.rest.iter().map(|(key, value)| (key.as_str(), Part::Value(value)));
        let lists = [(INGRESS, Part::Rules(&self.ingress)), (EGRESS, Part::Rules(&self.egress))];
        let line = new_line(DEPTH - 1);
        let mut before = "{";
        for (key, part) in rest.chain(lists).collect::<BTreeMap<_, _>>() {
            write!(out, "{before}{line}")?;
            serde_json::to_writer(&mut *out, key)?;
            out.write_all(b": ")?;
            match part {
                // No line ends within a text: there it would be escaped.
                Part::Value(value) => {
                    out.write_all(serde_json::to_string_pretty(value)?.replace('\n', &line).as_bytes())?;
                }
                Part::Rules(rules) => rules.write(out)?,
            }
            before = ",";
        }
        write!(out, "{}}}", new_line(DEPTH - 2))
    }
}

impl AclRules {
    fn sharing(self: &Arc<Self>, earlier: &Arc<Self>) -> Arc<Self> {
        let most = self.texts.len().min(earlier.texts.len());
        let same = |(a, b): &(&Arc<str>, &Arc<str>)| a == b;
        let first = self.texts.iter().zip(&earlier.texts).take_while(same).count();
        if first == self.texts.len() && first == earlier.texts.len() {
            return Arc::clone(earlier);
        }
        let last = self.texts.iter().rev().zip(earlier.texts.iter().rev()).take_while(same);
        let last = last.take(most - first).count();
        let between = first..self.texts.len() - last;
        let behind = earlier.texts.len() - last;
        let rules = [&earlier.rules[..first], &self.rules[between.clone()], &earlier.rules[behind..]];
        let texts = [&earlier.texts[..first], &self.texts[between], &earlier.texts[behind..]];
        Arc::new(Self { rules: rules.concat(), texts: texts.concat() })
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (first, next) = (format!("[{}", new_line(DEPTH)), format!(",{}", new_line(DEPTH)));
        let mut before = &first;
        for text in &self.texts {
            out.write_all(before.as_bytes())?;
            out.write_all(text.as_bytes())?;
            before = &next;
        }
        if self.texts.is_empty() { out.write_all(b"[]") } else { write!(out, "{}]", new_line(DEPTH - 1)) }
    }
}

/// Ends a line of a databag's file and indents the next one.
fn new_line(depth: usize) -> String {
    format!("\n{:1$}", "", 2 * depth)
}

/// How deep a rule stands in its bag's file: in a list of an object of the bag.
const DEPTH: usize = 3;

/// Networks of a rule's two ends.
struct Ends {
    sources: Vec<IpNet>,
    destinations: Vec<IpNet>,
}

fn rule(object: &Object<impl Keys>, turn: fn(Vec<IpNet>) -> Ends) -> Result<Rule, ConfigError> {
    let action = match object.required("allowed", object.boolean("allowed")?)? {
        true => Action::Allow,
        false => Action::Deny,
    };
    let traffic = traffic(object)?;
    let Ends { sources, destinations } = turn(networks(object)?);
    Ok(Rule::new(0, action, traffic, sources, destinations))
}

fn traffic(object: &Object<impl Keys>) -> Result<Traffic, ConfigError> {
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
fn ports(object: &Object<impl Keys>) -> Result<Option<PortRange>, ConfigError> {
    let port = |key: &str| object.required(key, object.parsed::<u16>(key, "port")?);
    match (port("first_port")?, port("last_port")?) {
        (0, 0) => Ok(None),
        (first, last) => {
            PortRange::new(first, last).map(Some).map_err(|error| object.error("first_port", error))
        }
    }
}

/// `cidr`: networks with commas between them, of both families. All of both is no condition.
fn networks(object: &Object<impl Keys>) -> Result<Vec<IpNet>, ConfigError> {
    let text = object.required("cidr", object.written("cidr")?.filter(|text| !text.is_empty()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(ports: &[u16]) -> NetworkAcl {
        let rule = |port| json!({"type": "tcp", "cidr": "::/0", "allowed": true, "first_port": port, "last_port": port});
        let rules: Vec<Value> = ports.iter().map(rule).collect();
        let text = json!({"device": "eth2", "ingress_rules": rules}).to_string();
        NetworkAcl::read(&Raw::read(Place::document("f"), &text).expect("an object")).expect("a list").0
    }

    #[test]
    fn what_is_the_same_at_both_ends_of_a_list_is_shared() {
        let before = acl(&[1, 2, 3, 4]);
        for (ports, first, last) in [
            (&[1, 2, 3, 4][..], 4, 0),
            (&[], 0, 0),
            (&[1, 2], 2, 0),
            (&[3, 4], 0, 2),
            (&[1, 2, 9, 3, 4], 2, 2),
            (&[1, 2, 4], 2, 1),
            (&[1, 9, 3, 4], 1, 2),
            (&[1, 2, 3, 4, 1, 2, 3, 4], 4, 0),
            (&[4, 3, 2, 1], 0, 0),
        ] {
            let after = acl(ports);
            let shared = after.sharing(&before);
            assert_eq!(shared, after);
            let (old, new) = (&before.ingress.rules, &shared.ingress.rules);
            let same = |(a, b): &(&Arc<Rule>, &Arc<Rule>)| Arc::ptr_eq(a, b);
            assert_eq!(old.iter().zip(new).take_while(same).count(), first, "{ports:?}");
            let from_behind = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
            assert_eq!(from_behind, if ports.len() == 4 && first == 4 { 4 } else { last }, "{ports:?}");
        }
    }
}
