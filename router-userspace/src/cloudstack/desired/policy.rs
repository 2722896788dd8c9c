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
//! tunnels            From           their device               peers' networks, inward      else deny
//! remote access      To             the clients' devices       guests and clients           else deny
//!                    and rules of its own before those of an isolated network ([`remote`](super::remote))
//! ```
//!
//! A rule is of the families of its networks: one for `0.0.0.0/0` is about no IPv6 flow. Where a
//! list has both and CloudStack's rule has no network at all, all of its family stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Reading;
use super::ports::PlacedPort;
use crate::cloudstack::databag::{Acls, Databags, Firewall};
use crate::cloudstack::wire::Family;
use crate::cloudstack::wire::cmdline::RouterKind;
use crate::cloudstack::wire::firewallrules::Direction;
use crate::cloudstack::wire::networkacl::{AclRules, EGRESS, INGRESS, NetworkAcl};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::policy::{AccessList, Action, Policy, Rule, Scope, Traffic};
use crate::model::port::Role;
use crate::model::{Mac, PortSelector};

/// All lists, and where their rules stand.
#[derive(Default)]
pub(super) struct PlacedPolicy {
    pub(super) policy: Policy,
    /// As many as there are lists, in the same order.
    origins: Vec<Origins>,
    /// What is stored for what is not there.
    waiting: Vec<ConfigError>,
}

/// Where the rules of a list come from: each origin from a rule on, up to the next one's.
type Origins = Vec<(usize, Origin)>;

/// Where rules come from.
enum Origin {
    /// From a firewall, under their numbers.
    Firewall(Family),
    /// All rules of a NIC's access list: the list's place.
    Acl(Place),
    /// From here: what CloudStack's own router does without a rule.
    Router,
}

/// A list that is being put together.
#[derive(Default)]
struct Draft {
    rules: Vec<Arc<Rule>>,
    origins: Origins,
}

impl Draft {
    fn own(&mut self, rules: impl IntoIterator<Item = Rule>) {
        self.origins.push((self.rules.len(), Origin::Router));
        self.rules.extend(rules.into_iter().map(Arc::new));
    }

    fn firewall(&mut self, family: Family, rules: &[&Arc<Rule>]) {
        self.origins.push((self.rules.len(), Origin::Firewall(family)));
        self.rules.extend(rules.iter().copied().cloned());
    }

    fn acl(&mut self, place: Place, rules: &AclRules) {
        self.origins.push((self.rules.len(), Origin::Acl(place)));
        self.rules.extend_from_slice(&rules.rules);
    }
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
    fn push(&mut self, scope: Scope, draft: Draft, default: Action) {
        self.policy.lists.push((scope, Arc::new(AccessList::new(draft.rules, default))));
        self.origins.push(draft.origins);
    }

    /// Puts rules of the router's own in front of a list, where there are any for it.
    pub(super) fn put_first(&mut self, rules: impl Fn(&Scope) -> Vec<Rule>) {
        for ((scope, list), origins) in self.policy.lists.iter_mut().zip(&mut self.origins) {
            let rules = rules(scope);
            if rules.is_empty() {
                continue;
            }
            origins.iter_mut().for_each(|(first, _)| *first += rules.len());
            origins.insert(0, (0, Origin::Router));
            let rules = rules.into_iter().map(Arc::new).chain(list.rules.iter().cloned());
            *list = Arc::new(AccessList::new(rules.collect(), list.default));
        }
    }

    /// Whether there is a list.
    pub(super) fn has(&self, scope: &Scope) -> bool {
        self.policy.lists.iter().any(|(own, _)| own == scope)
    }

    /// Adds a list of the router's own rules.
    pub(super) fn add(&mut self, scope: Scope, rules: Vec<Rule>) {
        let mut draft = Draft::default();
        draft.own(rules);
        self.push(scope, draft, Action::Deny);
    }

    /// What an operator may want to know although all of it is in force: rules that never decide,
    /// and lists of NICs that are not there.
    pub(super) fn remarks(self, policy: &Policy) -> Vec<ConfigError> {
        const SHOWN: usize = 10;
        let mut remarks = self.waiting;
        for ((_, list), origins) in policy.lists.iter().zip(&self.origins) {
            let idle = list.idle_rules();
            let places = idle.iter().filter_map(|idle| Some((place(list, origins, idle.rule)?, idle)));
            for (at, idle) in places.clone().take(SHOWN) {
                let Some(by) = idle.covered_by else {
                    remarks.push(at.error("never decides: no flow has both of its families"));
                    continue;
                };
                let same = list.rules[by].action == list.rules[idle.rule].action;
                let says = if same { "says the same" } else { "says the opposite" };
                let by = place(list, origins, by).map_or_else(|| "the router".to_owned(), |place| place.path);
                remarks.push(at.error(format_args!("never decides: {by} {says} before")));
            }
            if let Some((at, _)) = places.clone().nth(SHOWN) {
                let more = places.count() - SHOWN;
                remarks.push(at.error(format_args!("never decides, and {} more after it", more - 1)));
            }
        }
        remarks
    }
}

/// Where a rule of a list stands; `None`: it is the router's own.
fn place(list: &AccessList, origins: &Origins, index: usize) -> Option<Place> {
    let after = origins.partition_point(|(first, _)| *first <= index);
    let (first, origin) = &origins[after.checked_sub(1)?];
    match origin {
        Origin::Firewall(family) => Some(Place::document(file(*family)).at(list.rules[index].id)),
        Origin::Acl(place) => Some(place.at(index - first)),
        Origin::Router => None,
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
    [(Family::Ipv4, &bags.firewallrules), (Family::Ipv6, &bags.ipv6firewallrules)].into_iter()
}

fn isolated(
    bags: &Databags,
    reading: &Reading,
    ports: &[PlacedPort],
    notices: &mut Vec<ConfigError>,
    placed: &mut PlacedPolicy,
) {
    let is_routed = reading.boot.is_routed;
    let [ipv4, ipv6] = [&bags.firewallrules, &bags.ipv6firewallrules].map(Sorted::of);
    if !is_routed {
        public_lists(&ipv4, ports, notices, placed);
    }
    for port in ports.iter().filter(|port| port.port.role == Role::Guest) {
        let selector = &port.port.selector;
        let has_ipv6 = has_ipv6(port);

        let mut outside = Draft::default();
        outside.firewall(Family::Ipv4, &ipv4.egress);
        if has_ipv6 {
            outside.firewall(Family::Ipv6, &ipv6.egress);
            if ipv6.default != ipv4.default {
                outside.own([own(ipv6.default, Vec::new(), vec![Family::Ipv6.all()])]);
            }
        }
        placed.push(Scope::Outside(selector.clone()), outside, ipv4.default);

        let mut inside = Draft::default();
        if is_routed {
            // Guests reach each other by way of the router, too.
            let networks = port.port.addresses.iter().filter(|net| net.addr().is_ipv4()).map(IpNet::trunc);
            inside.own(same_network(&networks.collect::<Vec<_>>()));
            inside.firewall(Family::Ipv4, &ipv4.ingress);
            for (public, rule) in &ipv4.public {
                let place = Place::document(file(Family::Ipv4)).at(rule.id).at("src_ip");
                let message = format_args!("not in force: a routed network's {public} stands for no guest");
                notices.push(place.error(message));
            }
        } else if has_ipv6 {
            // What comes to guests by IPv4 was judged by its public address.
            inside.own([own(Action::Allow, Vec::new(), vec![Family::Ipv4.all()])]);
        } else {
            continue;
        }
        if has_ipv6 {
            inside.firewall(Family::Ipv6, &ipv6.ingress);
        }
        placed.push(Scope::To(selector.clone()), inside, Action::Deny);
    }
    let has_ipv6 = |port: &PlacedPort| port.port.role == Role::Guest && self::has_ipv6(port);
    if !bags.ipv6firewallrules.is_empty() && !ports.iter().any(has_ipv6) {
        let place = Place::document(file(Family::Ipv6));
        notices.push(place.error("not in force: the guest network has no IPv6"));
    }
}

/// A firewall's rules, by what they are about.
struct Sorted<'a> {
    /// To guests, by a public address.
    public: Vec<(Ipv4Addr, &'a Arc<Rule>)>,
    /// To guests of a network that is routed, as every network of IPv6 is.
    ingress: Vec<&'a Arc<Rule>>,
    /// Exceptions from the default for flows to the outside.
    egress: Vec<&'a Arc<Rule>>,
    /// What becomes of flows to the outside that no rule is about. Until CloudStack says: nothing passes.
    default: Action,
}

impl<'a> Sorted<'a> {
    fn of(firewall: &'a Firewall) -> Self {
        let mut sorted = Self { public: vec![], ingress: vec![], egress: vec![], default: Action::Deny };
        let mut default = None;
        for (_, rule) in firewall.iter() {
            match (rule.direction, rule.public) {
                (Direction::Egress, _) if rule.is_default => default = default.or(Some(rule.default)),
                (Direction::Egress, _) => sorted.egress.push(&rule.rule),
                (Direction::Ingress, None) => sorted.ingress.push(&rule.rule),
                (Direction::Ingress, Some(public)) => sorted.public.push((public, &rule.rule)),
            }
        }
        sorted.default = default.unwrap_or(sorted.default);
        sorted
    }
}

/// A list for each address that rules can be about, with the rules about it.
fn public_lists(
    firewall: &Sorted,
    ports: &[PlacedPort],
    notices: &mut Vec<ConfigError>,
    placed: &mut PlacedPolicy,
) {
    let public = ports.iter().filter(|port| port.port.role == Role::Public);
    let addresses = public.flat_map(|port| port.port.ipv4()).map(|net| net.addr());
    let mut lists: BTreeMap<Ipv4Addr, Vec<&Arc<Rule>>> =
        addresses.map(|address| (address, Vec::new())).collect();
    let place = |rule: &Rule| Place::document(file(Family::Ipv4)).at(rule.id).at("src_ip");
    for rule in &firewall.ingress {
        let message = "not in force: which public address? the network is not routed";
        notices.push(place(rule).error(message));
    }
    for (public, rule) in &firewall.public {
        match lists.get_mut(public) {
            Some(list) => list.push(rule),
            None => {
                notices.push(place(rule).error(format_args!("not in force: no public port has {public}")))
            }
        }
    }
    for (address, rules) in lists {
        let mut draft = Draft::default();
        draft.firewall(Family::Ipv4, &rules);
        placed.push(Scope::PublicAddress(address), draft, Action::Deny);
    }
}

fn vpc(
    bags: &Databags,
    reading: &Reading,
    ports: &[PlacedPort],
    notices: &mut Vec<ConfigError>,
    placed: &mut PlacedPolicy,
) {
    let boot = &reading.boot;
    let acls = AclsByNic::of(&bags.networkacl);
    let mut used = BTreeSet::new();
    for port in ports {
        let is_gateway = port.port.role == Role::PrivateGateway;
        if !is_gateway && port.port.role != Role::Guest {
            continue;
        }
        let found = acls.about(port);
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
        let selector = &port.port.selector;
        let (mut from, mut to) = (Draft::default(), Draft::default());
        if boot.is_routed {
            let networks: Vec<IpNet> = port.port.addresses.iter().map(IpNet::trunc).collect();
            for draft in [&mut from, &mut to] {
                draft.own(same_network(&networks));
            }
        }
        // CloudStack's words are the guests': their egress comes from them, by their port.
        if let Some((device, acl)) = acl {
            let place = Place::document(ACLS).at(device);
            from.acl(place.at(EGRESS), &acl.egress);
            to.acl(place.at(INGRESS), &acl.ingress);
        }
        // Where CloudStack's own router lets IPv4 out that no rule is about, it does not let IPv6.
        let default = if boot.is_routed { Action::Deny } else { Action::Allow };
        if default == Action::Allow && has_ipv6(port) {
            from.own([own(Action::Deny, Vec::new(), vec![Family::Ipv6.all()])]);
        }
        placed.push(Scope::From(selector.clone()), from, default);
        placed.push(Scope::To(selector.clone()), to, Action::Deny);
    }
    for device in bags.networkacl.keys().filter(|device| !used.contains(device)) {
        let place = Place::document(ACLS).at(device);
        placed.waiting.push(place.error("waits: no tier or private gateway is there"));
    }
}

/// Access lists by the NICs that they are about.
struct AclsByNic<'a> {
    by_name: &'a Acls,
    by_mac: BTreeMap<Mac, (&'a String, &'a Arc<NetworkAcl>)>,
}

impl<'a> AclsByNic<'a> {
    fn of(acls: &'a Acls) -> Self {
        let mut by_mac = BTreeMap::new();
        for (device, acl) in acls {
            if let Some(mac) = acl.mac {
                by_mac.entry(mac).or_insert((device, acl));
            }
        }
        Self { by_name: acls, by_mac }
    }

    /// The one about a port: by MAC address, and by name only where either side has none.
    fn about(&self, port: &PlacedPort) -> Option<(&'a String, &'a Arc<NetworkAcl>)> {
        let mac = match port.port.selector {
            PortSelector::Mac(mac) => Some(mac),
            PortSelector::Name(_) | PortSelector::Numbered(_) => None,
        };
        let by_mac = mac.and_then(|mac| self.by_mac.get(&mac).copied());
        let by_name = self.by_name.get_key_value(&port.port.name);
        let by_name = by_name.filter(|(_, acl)| acl.mac.is_none() || mac.is_none());
        by_mac.into_iter().chain(by_name).min_by_key(|(device, _)| *device)
    }
}

/// Flows that stay in a network pass, one rule for each family.
fn same_network(networks: &[IpNet]) -> Vec<Rule> {
    let family = |ipv4: bool| networks.iter().copied().filter(move |net| net.addr().is_ipv4() == ipv4);
    let both = [family(true).collect::<Vec<_>>(), family(false).collect()];
    let some = both.into_iter().filter(|networks| !networks.is_empty());
    some.map(|networks| own(Action::Allow, networks.clone(), networks)).collect()
}

/// A rule of the router's own.
fn own(action: Action, sources: Vec<IpNet>, destinations: Vec<IpNet>) -> Rule {
    Rule::new(0, action, Traffic::Any, sources, destinations)
}

fn has_ipv6(port: &PlacedPort) -> bool {
    port.port.addresses.iter().any(|net| net.addr().is_ipv6())
}
