//! Policy: which lists there are, what CloudStack's rules make of them, and what they are without.
//!
//! ```text
//! isolated network   PublicAddress  each public address        firewallrules, ingress       else deny
//!                    Outside        the guest port             both firewalls, egress       else the default
//!                    To             the guest port             ipv6firewallrules, ingress   else deny; IPv4 passes
//!   routed           Outside        as above, and no PublicAddress
//!                    To             the guest port             both firewalls, ingress      else deny
//! VPC                From           tier, private gateway      networkacl, egress           else allow; IPv6: deny
//!                    To             tier, private gateway      networkacl, ingress          else deny
//!   routed           both           as above                                                else deny
//! ```
//!
//! A rule is of the families of its networks: one for `0.0.0.0/0` is about no IPv6 flow. Where a
//! list has both and CloudStack's rule has no network at all, all of its family stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Reading;
use super::ports::PlacedPort;
use crate::cloudstack::databag::{Databags, Firewall};
use crate::cloudstack::wire::Family;
use crate::cloudstack::wire::cmdline::RouterKind;
use crate::cloudstack::wire::firewallrules::{Direction, FirewallRule};
use crate::cloudstack::wire::networkacl::{AclRule, EGRESS, INGRESS, NetworkAcl};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::PortSelector;
use crate::model::policy::{AccessList, Action, Policy, Rule, Scope, Traffic};
use crate::model::port::Role;

/// All lists, and where their rules stand.
#[derive(Default)]
pub(super) struct PlacedPolicy {
    pub(super) policy: Policy,
    /// As many as there are lists, in the same order.
    origins: Vec<Vec<Origin>>,
    /// What is stored for what is not there.
    waiting: Vec<ConfigError>,
}

/// Where a rule of a list comes from.
#[derive(Clone)]
enum Origin {
    /// From a firewall, under a number.
    Firewall(Family, u64),
    /// From a NIC's access list: the list's key, the place in it.
    Acl(String, &'static str, usize),
    /// From here: what CloudStack's own router does without a rule.
    Router,
}

/// All lists. What of the databags is not in force goes to `notices`.
pub(super) fn policy(
    bags: &Databags,
    reading: &Reading,
    ports: &[PlacedPort],
    notices: &mut Vec<ConfigError>,
) -> PlacedPolicy {
    let mut placed = PlacedPolicy::default();
    match reading.boot.kind {
        RouterKind::Isolated => isolated(bags, reading, ports, notices, &mut placed),
        RouterKind::Vpc => vpc(bags, reading, ports, notices, &mut placed),
        RouterKind::Shared => {}
    }
    if reading.boot.kind != RouterKind::Isolated {
        let what = match reading.boot.kind {
            RouterKind::Vpc => "a VPC's public addresses have no firewall, its tiers have access lists",
            _ => "the router of a shared network forwards nothing",
        };
        for (bag, rules) in firewalls(bags).map(|(family, rules)| (file(family), rules)) {
            if !rules.is_empty() {
                notices.push(Place::document(bag).error(format_args!("not in force: {what}")));
            }
        }
    }
    if reading.boot.kind != RouterKind::Vpc {
        for device in bags.networkacl.keys() {
            let place = Place::document(ACLS).at(device);
            notices.push(place.error("not in force: only a VPC has tiers with access lists"));
        }
    }
    placed
}

impl PlacedPolicy {
    fn push(&mut self, scope: Scope, rules: Vec<(Origin, Rule)>, default: Action) {
        let (origins, rules) = rules.into_iter().map(|(origin, rule)| (origin, Arc::new(rule))).unzip();
        self.policy.lists.push((scope, Arc::new(AccessList::new(rules, default))));
        self.origins.push(origins);
    }

    /// What an operator may want to know although all of it is in force: rules that never decide,
    /// and lists of NICs that are not there.
    pub(super) fn remarks(self, policy: &Policy) -> Vec<ConfigError> {
        const SHOWN: usize = 10;
        let mut remarks = self.waiting;
        for ((_, list), origins) in policy.lists.iter().zip(&self.origins) {
            let idle = list.idle_rules();
            let places = idle.iter().filter_map(|idle| Some((origins[idle.rule].place()?, idle)));
            for (place, idle) in places.clone().take(SHOWN) {
                let Some(by) = idle.covered_by else {
                    remarks.push(place.error("never decides: no flow has both of its families"));
                    continue;
                };
                let same = list.rules[by].action == list.rules[idle.rule].action;
                let says = if same { "says the same" } else { "says the opposite" };
                let by = origins[by].place().map_or_else(|| "the router".to_owned(), |place| place.path);
                remarks.push(place.error(format_args!("never decides: {by} {says} before")));
            }
            if let Some((place, _)) = places.clone().nth(SHOWN) {
                let more = places.count() - SHOWN;
                remarks.push(place.error(format_args!("never decides, and {} more after it", more - 1)));
            }
        }
        remarks
    }
}

impl Origin {
    fn place(&self) -> Option<Place> {
        match self {
            Self::Firewall(family, id) => Some(Place::document(file(*family)).at(id)),
            Self::Acl(device, list, index) => Some(Place::document(ACLS).at(device).at(list).at(index)),
            Self::Router => None,
        }
    }
}

const ACLS: &str = "networkacl.json";

fn file(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "firewallrules.json",
        Family::Ipv6 => "ipv6firewallrules.json",
    }
}

fn firewalls(bags: &Databags) -> impl Iterator<Item = (Family, &Firewall)> {
    [(Family::Ipv4, &*bags.firewallrules), (Family::Ipv6, &*bags.ipv6firewallrules)].into_iter()
}

fn isolated(
    bags: &Databags,
    reading: &Reading,
    ports: &[PlacedPort],
    notices: &mut Vec<ConfigError>,
    placed: &mut PlacedPolicy,
) {
    let is_routed = reading.boot.is_routed;
    let mut public = Vec::new();
    if !is_routed {
        public = public_lists(bags, ports, notices);
    }
    for (address, rules) in public {
        placed.push(Scope::PublicAddress(address), rules, Action::Deny);
    }
    for port in ports.iter().filter(|port| port.port.role == Role::Guest) {
        let selector = &port.port.selector;
        let has_ipv6 = has_ipv6(port);

        let mut outside = egress(&bags.firewallrules, Family::Ipv4);
        let default = default(&bags.firewallrules);
        if has_ipv6 {
            outside.extend(egress(&bags.ipv6firewallrules, Family::Ipv6));
            let default6 = self::default(&bags.ipv6firewallrules);
            outside.extend((default6 != default).then(|| own(default6, Vec::new(), all(Family::Ipv6))));
        }
        placed.push(Scope::Outside(selector.clone()), outside, default);

        let mut inside = Vec::new();
        if is_routed {
            // Guests reach each other by way of the router, too.
            let networks = port.port.addresses.iter().filter(|net| net.addr().is_ipv4()).map(IpNet::trunc);
            inside.extend(same_network(&networks.collect::<Vec<_>>()));
            inside.extend(ingress(&bags.firewallrules, Family::Ipv4, notices));
        } else if has_ipv6 {
            // What comes to guests by IPv4 was judged by its public address.
            inside.push(own(Action::Allow, Vec::new(), all(Family::Ipv4)));
        } else {
            continue;
        }
        if has_ipv6 {
            inside.extend(ingress(&bags.ipv6firewallrules, Family::Ipv6, notices));
        }
        placed.push(Scope::To(selector.clone()), inside, Action::Deny);
    }
    let has_ipv6 = |port: &PlacedPort| port.port.role == Role::Guest && self::has_ipv6(port);
    if !bags.ipv6firewallrules.is_empty() && !ports.iter().any(has_ipv6) {
        let place = Place::document(file(Family::Ipv6));
        notices.push(place.error("not in force: the guest network has no IPv6"));
    }
}

/// A list for each address that rules can be about, with the rules about it.
fn public_lists(
    bags: &Databags,
    ports: &[PlacedPort],
    notices: &mut Vec<ConfigError>,
) -> Vec<(Ipv4Addr, Vec<(Origin, Rule)>)> {
    let public = ports.iter().filter(|port| port.port.role == Role::Public);
    let addresses = public.flat_map(|port| &port.port.addresses).filter_map(|net| match net {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    });
    let addresses: BTreeSet<Ipv4Addr> = addresses.collect();
    let mut lists: BTreeMap<Ipv4Addr, Vec<(Origin, Rule)>> =
        addresses.into_iter().map(|address| (address, Vec::new())).collect();
    for rule in bags.firewallrules.values().filter(|rule| rule.direction == Direction::Ingress) {
        let place = || Place::document(file(Family::Ipv4)).at(rule.id).at("src_ip");
        let Some(public) = rule.public else {
            notices.push(place().error("not in force: which public address? the network is not routed"));
            continue;
        };
        match lists.get_mut(&public) {
            // Its destinations are not looked at: the address is the destination.
            Some(list) => {
                let origin = Origin::Firewall(Family::Ipv4, rule.id);
                let sources = rule.sources.clone();
                list.push((origin, Rule::new(rule.id, rule.action(), rule.traffic, sources, Vec::new())));
            }
            None => notices.push(place().error(format_args!("not in force: no public port has {public}"))),
        }
    }
    lists.into_iter().collect()
}

/// Exceptions from the default for flows to the outside.
fn egress(rules: &Firewall, family: Family) -> Vec<(Origin, Rule)> {
    let rules = rules.values().filter(|rule| rule.direction == Direction::Egress && !rule.is_default());
    rules.map(|rule| (Origin::Firewall(family, rule.id), within(of_firewall(rule), family))).collect()
}

/// Rules about flows to guests of a network that is routed, as every network of IPv6 is.
fn ingress(rules: &Firewall, family: Family, notices: &mut Vec<ConfigError>) -> Vec<(Origin, Rule)> {
    let mut list = Vec::new();
    for rule in rules.values().filter(|rule| rule.direction == Direction::Ingress) {
        if let Some(public) = rule.public {
            let place = Place::document(file(family)).at(rule.id).at("src_ip");
            let message = format_args!("not in force: a routed network's {public} stands for no guest");
            notices.push(place.error(message));
        } else {
            list.push((Origin::Firewall(family, rule.id), within(of_firewall(rule), family)));
        }
    }
    list
}

/// What becomes of flows to the outside that no rule is about. Until CloudStack says: nothing passes.
fn default(rules: &Firewall) -> Action {
    rules.values().find(|rule| rule.is_default()).map_or(Action::Deny, |rule| rule.default)
}

fn of_firewall(rule: &FirewallRule) -> Rule {
    Rule::new(rule.id, rule.action(), rule.traffic, rule.sources.clone(), rule.destinations.clone())
}

/// The rule with one family only, also where it names no network.
fn within(mut rule: Rule, family: Family) -> Rule {
    if rule.sources.is_empty() && rule.destinations.is_empty() {
        rule.destinations = all(family);
    }
    rule
}

fn vpc(
    bags: &Databags,
    reading: &Reading,
    ports: &[PlacedPort],
    notices: &mut Vec<ConfigError>,
    placed: &mut PlacedPolicy,
) {
    let boot = &reading.boot;
    let mut used = BTreeSet::new();
    for port in ports {
        let is_gateway = port.port.role == Role::PrivateGateway;
        if !is_gateway && port.port.role != Role::Guest {
            continue;
        }
        let found = bags.networkacl.iter().find(|(device, acl)| is_about(port, device, acl));
        used.extend(found.map(|(device, _)| device));
        let wrong = found.filter(|(_, acl)| acl.is_private_gateway != is_gateway);
        if let Some((device, _)) = wrong {
            let place = Place::document(ACLS).at(device).at("private_gateway_acl");
            let role = port.port.role.label();
            notices.push(place.error(format_args!("not in force: {device} is a {role} NIC")));
        }
        let acl = found.filter(|_| wrong.is_none());
        // Where there is no public network, CloudStack may leave the lists to somebody else.
        if acl.is_none() && !boot.has_public_network {
            continue;
        }
        let mut lists = acl.map_or_else(Default::default, |(device, acl)| of_acl(device, acl));
        let selector = &port.port.selector;
        if boot.is_routed {
            let networks: Vec<IpNet> = port.port.addresses.iter().map(IpNet::trunc).collect();
            for list in [&mut lists.from, &mut lists.to] {
                list.splice(0..0, same_network(&networks));
            }
        }
        // Where CloudStack's own router lets IPv4 out that no rule is about, it does not let IPv6.
        let default = if boot.is_routed { Action::Deny } else { Action::Allow };
        if default == Action::Allow && has_ipv6(port) {
            lists.from.push(own(Action::Deny, Vec::new(), all(Family::Ipv6)));
        }
        placed.push(Scope::From(selector.clone()), lists.from, default);
        placed.push(Scope::To(selector.clone()), lists.to, Action::Deny);
    }
    for device in bags.networkacl.keys().filter(|device| !used.contains(device)) {
        let place = Place::document(ACLS).at(device);
        placed.waiting.push(place.error("waits: no tier or private gateway is there"));
    }
}

/// Both lists of a NIC.
#[derive(Default)]
struct Lists {
    from: Vec<(Origin, Rule)>,
    to: Vec<(Origin, Rule)>,
}

/// CloudStack's words are the guests': their egress comes from them, by their port.
fn of_acl(device: &str, acl: &NetworkAcl) -> Lists {
    let rules = |list: &[AclRule], key: &'static str, turn: fn(&AclRule) -> Rule| {
        let rules = list.iter().enumerate();
        rules.map(|(index, rule)| (Origin::Acl(device.to_owned(), key, index), turn(rule))).collect()
    };
    Lists {
        from: rules(&acl.egress, EGRESS, |rule| of_rule(rule, Vec::new(), rule.networks.clone())),
        to: rules(&acl.ingress, INGRESS, |rule| of_rule(rule, rule.networks.clone(), Vec::new())),
    }
}

/// CloudStack does not number the rules of these lists.
fn of_rule(rule: &AclRule, sources: Vec<IpNet>, destinations: Vec<IpNet>) -> Rule {
    Rule::new(0, rule.action, rule.traffic, sources, destinations)
}

/// By MAC address, and by name only where either side has none.
fn is_about(port: &PlacedPort, device: &str, acl: &NetworkAcl) -> bool {
    let mac = |selector: &PortSelector| match selector {
        PortSelector::Mac(mac) => Some(*mac),
        PortSelector::Name(_) => None,
    };
    match (acl.mac, mac(&port.port.selector)) {
        (Some(wanted), Some(own)) => wanted == own,
        _ => port.port.name == device,
    }
}

/// Flows that stay in a network pass, one rule for each family.
fn same_network(networks: &[IpNet]) -> Vec<(Origin, Rule)> {
    let family = |ipv4: bool| networks.iter().copied().filter(move |net| net.addr().is_ipv4() == ipv4);
    let both = [family(true).collect::<Vec<_>>(), family(false).collect()];
    let some = both.into_iter().filter(|networks| !networks.is_empty());
    some.map(|networks| own(Action::Allow, networks.clone(), networks)).collect()
}

/// A rule of the router's own.
fn own(action: Action, sources: Vec<IpNet>, destinations: Vec<IpNet>) -> (Origin, Rule) {
    (Origin::Router, Rule::new(0, action, Traffic::Any, sources, destinations))
}

fn all(family: Family) -> Vec<IpNet> {
    match family {
        Family::Ipv4 => vec![Ipv4Net::default().into()],
        Family::Ipv6 => vec![Ipv6Net::default().into()],
    }
}

fn has_ipv6(port: &PlacedPort) -> bool {
    port.port.addresses.iter().any(|net| net.addr().is_ipv6())
}
