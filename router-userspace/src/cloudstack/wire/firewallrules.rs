//! `firewallrules` and `ipv6firewallrules`: the firewall of an isolated network
//! (`firewall_rules.json`, `ipv6_firewall_rules.json`).
//!
//! Both types have the same rules; only the family of their networks differs.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{ENVELOPE, Family, host_address, icmp, network, number};
use crate::cloudstack::object::{Items, Keys, Object};
use crate::cloudstack::raw::{Raw, piece};
use crate::error::ConfigError;
use crate::json::{Place, Shape};
use crate::model::PortRange;
use crate::model::policy::{Action, Rule, Traffic};

const KEYS: [&str; 17] = [
    "id",
    "protocol",
    "src_port_range",
    "source_cidr_list",
    "dest_cidr_list",
    "src_ip",
    "traffic_type",
    "default_egress_policy",
    "revoked",
    "already_added",
    "purpose",
    "icmp_type",
    "icmp_code",
    "guest_ip6_cidr",
    "guest_cidr",
    "src_vlan_tag",
    "type",
];

/// A message of type `firewallrules` or `ipv6firewallrules`.
#[derive(Clone, Debug, PartialEq)]
pub struct FirewallRules {
    /// Which of the two.
    pub family: Family,
    /// What it changes, in its order.
    pub changes: Vec<FirewallChange>,
}

/// What becomes of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct FirewallChange {
    /// CloudStack's number for the rule; 0 is the network's default for flows to the outside.
    pub id: u64,
    /// What the rule says; `None` withdraws it, whatever it said.
    pub rule: Option<FirewallRule>,
}

/// Which way the flows go that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To guests.
    Ingress,
    /// From guests.
    Egress,
}

/// A rule. Copies share what is long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallRule {
    /// Which way.
    pub direction: Direction,
    /// The public address that it opens; none for IPv6, in routed networks and for egress.
    pub public: Option<Ipv4Addr>,
    /// What the network does with flows to the outside that no rule is about.
    pub default: Action,
    /// The rule is no rule but says what the default is. CloudStack's own router knows it by its
    /// content, and not by its number.
    pub is_default: bool,
    /// What it says of its family's flows, and CloudStack's number for it. Its networks are sorted. Of a rule
    /// about a public address they are sources alone: the address is the destination. One without any
    /// network is to all of its family.
    pub rule: Arc<Rule>,
    /// The rule as the databag's file is to hold it.
    pub(in crate::cloudstack) text: Arc<str>,
}

impl FirewallRules {
    /// Reads a message. Warnings about unknown keys come with it.
    pub(in crate::cloudstack) fn read(
        message: &Raw,
        family: Family,
    ) -> Result<(Self, Vec<ConfigError>), ConfigError> {
        let entry = message.entry_without(&["rules"])?;
        let object = Object::new(message.place.clone(), &entry);
        let mut warnings = object.unknown_keys(|key| ENVELOPE.contains(&key));
        let place = message.place.at("rules");
        let mut changes = Vec::new();
        // CloudStack's own router does nothing about a message without rules.
        for (index, text) in message.list("rules")?.unwrap_or_default().into_iter().enumerate() {
            changes.push(FirewallChange::read(&place, &index, text.get(), family, &mut warnings)?);
        }
        Ok((Self { family, changes }, warnings))
    }
}

impl FirewallChange {
    /// Reads a rule of a message or of a databag, one step below a place.
    pub(in crate::cloudstack) fn read(
        parent: &Place,
        step: &dyn Display,
        text: &str,
        family: Family,
        warnings: &mut Vec<ConfigError>,
    ) -> Result<Self, ConfigError> {
        let (change, text) = piece(parent, step, text, DEPTH, |object| {
            warnings.extend(object.unknown_keys(|key| KEYS.contains(&key)));
            let id = object.required("id", object.parsed::<u64>("id", "number of a rule")?)?;
            // What was refused can be withdrawn.
            let is_wanted = !object.required("revoked", object.boolean("revoked")?)?;
            Ok((id, is_wanted.then(|| FirewallRule::read(object, id, family)).transpose()?))
        })?;
        let (id, rule) = change;
        Ok(Self { id, rule: rule.map(|rule| FirewallRule { text, ..rule }) })
    }
}

/// How deep a rule stands in its bag's file.
const DEPTH: usize = 1;

impl FirewallRule {
    /// Reads what is not the text.
    fn read(object: &Object<impl Keys>, id: u64, family: Family) -> Result<Self, ConfigError> {
        let direction = direction(object)?;
        let public = match (family, direction) {
            (Family::Ipv4, Direction::Ingress) => host_address(object, "src_ip")?,
            _ => None,
        };
        let traffic = traffic(object)?;
        let sources = networks(object, "source_cidr_list", family)?;
        let mut destinations = networks(object, "dest_cidr_list", family)?;
        let default = match object.boolean("default_egress_policy")? {
            Some(true) => Action::Allow,
            Some(false) | None => Action::Deny,
        };
        let anywhere = |networks: &[IpNet]| networks.iter().all(|network| network.prefix_len() == 0);
        let is_default = direction == Direction::Egress
            && traffic == Traffic::Any
            && sources.is_empty()
            && anywhere(&destinations);
        if public.is_some() {
            destinations.clear();
        } else if sources.is_empty() && destinations.is_empty() {
            destinations = vec![family.all()];
        }
        // One about flows to the outside is an exception from their default.
        let action = match (direction, default) {
            (Direction::Egress, Action::Allow) => Action::Deny,
            (Direction::Egress, Action::Deny) | (Direction::Ingress, _) => Action::Allow,
        };
        let rule = Arc::new(Rule::new(id, action, traffic, sources, destinations));
        Ok(Self { direction, public, default, is_default, rule, text: Arc::default() })
    }
}

impl Family {
    /// All of its addresses.
    pub(in crate::cloudstack) fn all(self) -> IpNet {
        match self {
            Self::Ipv4 => Ipv4Net::default().into(),
            Self::Ipv6 => Ipv6Net::default().into(),
        }
    }
}

fn direction(object: &Object<impl Keys>) -> Result<Direction, ConfigError> {
    match object.required("traffic_type", object.word("traffic_type")?)?.as_str() {
        "ingress" => Ok(Direction::Ingress),
        "egress" => Ok(Direction::Egress),
        other => Err(object.error("traffic_type", format_args!("{other:?} is none of ingress, egress"))),
    }
}

fn traffic(object: &Object<impl Keys>) -> Result<Traffic, ConfigError> {
    let ports = ports(object)?;
    let traffic = match object.required("protocol", object.word("protocol")?)?.as_str() {
        "tcp" => Traffic::Tcp(ports),
        "udp" => Traffic::Udp(ports),
        "icmp" => icmp(object)?,
        "all" => Traffic::Any,
        other => {
            let message = format_args!("{other:?} is none of tcp, udp, icmp, all");
            return Err(object.error("protocol", message));
        }
    };
    if ports.is_some() && !matches!(traffic, Traffic::Tcp(_) | Traffic::Udp(_)) {
        return Err(object.error("src_port_range", "ports need the protocol tcp or udp"));
    }
    Ok(traffic)
}

/// `src_port_range`: the first port and the last, or one port.
fn ports(object: &Object<impl Keys>) -> Result<Option<PortRange>, ConfigError> {
    const KEY: &str = "src_port_range";
    let (first, last) = match object.items(KEY)?.unwrap_or_default() {
        [] => return Ok(None),
        [one] => (one, one),
        [first, last] => (first, last),
        more => {
            let message = format_args!("{} numbers are no range of ports", more.len());
            return Err(object.error(KEY, message));
        }
    };
    let [first, last] = [first, last].map(|value| {
        number::<u16>(value).ok_or_else(|| object.error(KEY, format_args!("{value} is no port")))
    });
    PortRange::new(first?, last?).map(Some).map_err(|error| object.error(KEY, error))
}

/// A list of networks of one family, host bits clear, sorted.
fn networks(object: &Object<impl Keys>, key: &str, family: Family) -> Result<Vec<IpNet>, ConfigError> {
    let items = object.items(key)?.unwrap_or_default();
    let mut networks = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let refuse = |message: &str| object.place().at(key).at(index).error(format_args!("{item} {message}"));
        let text = if let Shape::Text(text) = item.shape() { Some(text) } else { None };
        match text.and_then(network) {
            // Leaving one out of a list would let others in, or anybody.
            None => return Err(refuse("is no network")),
            Some(IpNet::V6(_)) if family == Family::Ipv4 => {
                return Err(refuse("is an IPv6 network in a list of IPv4 ones"));
            }
            Some(IpNet::V4(_)) if family == Family::Ipv6 => {
                return Err(refuse("is an IPv4 network in a list of IPv6 ones"));
            }
            Some(network) => networks.push(network),
        }
    }
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}
