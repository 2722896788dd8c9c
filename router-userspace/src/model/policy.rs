//! Policy: which new flows may pass. Lists of rules, of which the first that matches decides.
//!
//! A flow that is known passes whatever the lists say; so do errors about it. What a list is asked about is
//! the first packet of a flow.
//!
//! Rules and lists are shared and never change, so each is named after its [`Content`] once. There may be a
//! hundred thousand rules: what has to know whether a list is the one of before compares names.

mod content;
mod idle;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

pub use self::content::Content;
pub use self::idle::IdleRule;

use self::content::OnceContent;

use super::nat::PortRange;
use super::port::{PortSelector, Role};

/// Every list of a router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// In no order: no two have one scope.
    pub lists: Vec<(Scope, Arc<AccessList>)>,
    /// What the router itself is open for, besides what it always is.
    pub openings: Vec<Opening>,
}

/// Something that the router itself answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// By which ports.
    pub side: Side,
    /// What: a rule that allows it.
    pub rule: Arc<Rule>,
}

/// Which ports an [`Opening`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// All but the control port, and those that are never routed from.
    Any,
    /// Those of guests and private gateways.
    Inside,
    /// Public ports.
    Outside,
    /// Ports of tunnels.
    Tunnels,
}

impl Side {
    /// Whether a port of this role is one of them.
    pub fn has(self, role: Role) -> bool {
        match self {
            Self::Any => role.is_routed(),
            Self::Inside => matches!(role, Role::Guest | Role::PrivateGateway),
            Self::Outside => role == Role::Public,
            Self::Tunnels => role == Role::Tunnel,
        }
    }
}

/// Which flows are judged by a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Flows from outside to a public address, before its translation (the firewall of an isolated network).
    PublicAddress(Ipv4Addr),
    /// Flows from a guest port to the outside, destination translated, source not yet (an isolated network's
    /// egress firewall).
    Outside(PortSelector),
    /// Flows that come in by a port, as they are sent (the egress list of a tier or private gateway).
    From(PortSelector),
    /// Flows that leave by a port, destination translated (its ingress list).
    To(PortSelector),
}

/// An ordered list.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AccessList {
    /// The first that matches decides.
    pub rules: Vec<Arc<Rule>>,
    /// What becomes of a flow that no rule matches.
    pub default: Action,
    content: OnceContent,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped, without an answer.
    Deny,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublicAddress(address) => write!(f, "to {address}"),
            Self::Outside(port) => write!(f, "from {port} to the outside"),
            Self::From(port) => write!(f, "from {port}"),
            Self::To(port) => write!(f, "to {port}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// One rule.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// CloudStack's number for it, for counters and reports; 0 for those that it does not number.
    pub id: u64,
    /// What it does.
    pub action: Action,
    /// Which protocol and ports.
    pub traffic: Traffic,
    /// Where from; empty: anywhere, of both families.
    pub sources: Vec<IpNet>,
    /// Where to; empty: anywhere, of both families.
    pub destinations: Vec<IpNet>,
    content: OnceContent,
}

/// Protocol, and what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Traffic {
    /// Everything.
    Any,
    /// TCP to these ports, `None`: to all.
    Tcp(Option<PortRange>),
    /// UDP likewise.
    Udp(Option<PortRange>),
    /// ICMP (of IPv4 for IPv4 networks, ICMPv6 for IPv6) of a type and a code; `None`: any.
    Icmp {
        /// The type.
        kind: Option<u8>,
        /// The code.
        code: Option<u8>,
    },
    /// A protocol by its number.
    Protocol(u8),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.traffic)?;
        for (word, networks) in [("from", &self.sources), ("to", &self.destinations)] {
            for (index, network) in networks.iter().enumerate() {
                if index == 0 {
                    write!(f, " {word} {network}")?;
                } else {
                    write!(f, ",{network}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |f: &mut fmt::Formatter<'_>, name: &str, range: &Option<PortRange>| match range {
            None => f.write_str(name),
            Some(range) => write!(f, "{name} {range}"),
        };
        match self {
            Self::Any => f.write_str("any"),
            Self::Tcp(range) => ports(f, "tcp", range),
            Self::Udp(range) => ports(f, "udp", range),
            Self::Icmp { kind: None, code: None } => f.write_str("icmp"),
            Self::Icmp { kind, code } => {
                let number =
                    |number: &Option<u8>| number.map_or("any".to_owned(), |number| number.to_string());
                write!(f, "icmp type {} code {}", number(kind), number(code))
            }
            Self::Protocol(number) => write!(f, "protocol {number}"),
        }
    }
}

/// The first packet of a flow, as a list is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port of TCP and UDP; type and code of ICMP in the upper and the lower byte.
    pub port: u16,
}

impl Policy {
    /// Lists that say what an earlier one of their scope said become that one, whose name is known.
    pub fn share(&mut self, earlier: &Self) {
        let earlier: BTreeMap<_, _> = earlier.lists.iter().map(|(scope, list)| (scope, list)).collect();
        for (scope, list) in &mut self.lists {
            if let Some(same) = earlier.get(&*scope)
                && *same == list
            {
                *list = Arc::clone(same);
            }
        }
    }
}

impl AccessList {
    /// A list of rules, and what becomes of the rest.
    pub fn new(rules: Vec<Arc<Rule>>, default: Action) -> Self {
        Self { rules, default, content: OnceContent::default() }
    }

    /// The rule that decides and what it says; `None`: the default.
    pub fn judge(&self, question: &Question) -> (Option<&Rule>, Action) {
        let rule = self.rules.iter().find(|rule| rule.matches(question));
        (rule.map(Arc::as_ref), rule.map_or(self.default, |rule| rule.action))
    }
}

impl Rule {
    /// A rule; the arguments are its fields.
    pub fn new(
        id: u64,
        action: Action,
        traffic: Traffic,
        sources: Vec<IpNet>,
        destinations: Vec<IpNet>,
    ) -> Self {
        Self { id, action, traffic, sources, destinations, content: OnceContent::default() }
    }

    /// Whether a flow is one of those that the rule is about.
    pub fn matches(&self, question: &Question) -> bool {
        let within = |networks: &[IpNet], address: IpAddr| {
            networks.is_empty() || networks.iter().any(|network| network.contains(&address))
        };
        self.traffic.matches(question)
            && within(&self.sources, question.source)
            && within(&self.destinations, question.destination)
    }
}

impl Traffic {
    fn matches(self, question: &Question) -> bool {
        let holds = |range: Option<PortRange>| {
            range.is_none_or(|range| (range.first()..=range.last()).contains(&question.port))
        };
        let [kind, code] = question.port.to_be_bytes();
        match self {
            Self::Any => true,
            Self::Tcp(range) => question.protocol == 6 && holds(range),
            Self::Udp(range) => question.protocol == 17 && holds(range),
            Self::Icmp { kind: of_kind, code: of_code } => {
                let icmp = if question.source.is_ipv4() { 1 } else { 58 };
                question.protocol == icmp
                    && of_kind.is_none_or(|of_kind| of_kind == kind)
                    && of_code.is_none_or(|of_code| of_code == code)
            }
            Self::Protocol(number) => question.protocol == number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|network| network.parse().expect("a network")).collect()
    }

    fn rule(id: u64, action: Action, traffic: Traffic, sources: &str, destinations: &str) -> Rule {
        Rule::new(id, action, traffic, networks(sources), networks(destinations))
    }

    fn ports(first: u16, last: u16) -> Option<PortRange> {
        Some(PortRange::new(first, last).expect("a range"))
    }

    fn question(source: &str, destination: &str, protocol: u8, port: u16) -> Question {
        let [source, destination] = [source, destination].map(|address| address.parse().expect("an address"));
        Question { source, destination, protocol, port }
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_else_the_default() {
        use Action::{Allow, Deny};
        let rules = [
            rule(1, Deny, Traffic::Tcp(ports(22, 23)), "192.0.2.7/32", ""),
            rule(2, Allow, Traffic::Tcp(ports(22, 22)), "192.0.2.0/24 198.51.100.0/24", "10.1.1.0/24"),
            rule(3, Deny, Traffic::Any, "", "10.1.1.0/25"),
        ];
        let list = AccessList::new(rules.map(Arc::new).into(), Allow);
        let judge = |source: &str, destination: &str, port| {
            let (rule, action) = list.judge(&question(source, destination, 6, port));
            (rule.map(|rule| rule.id), action)
        };
        assert_eq!(judge("192.0.2.7", "10.1.1.1", 22), (Some(1), Deny));
        assert_eq!(judge("192.0.2.8", "10.1.1.1", 22), (Some(2), Allow));
        assert_eq!(judge("198.51.100.1", "10.1.1.1", 22), (Some(2), Allow));
        assert_eq!(judge("198.51.100.1", "10.1.1.1", 23), (Some(3), Deny));
        assert_eq!(judge("198.51.100.1", "10.1.1.200", 23), (None, Allow));
        assert_eq!(judge("198.51.100.1", "10.1.2.1", 22), (None, Allow));
    }

    #[test]
    fn a_rule_is_about_the_families_of_its_networks() {
        let matches = |sources, destinations, from, to| {
            let rule = rule(0, Action::Allow, Traffic::Any, sources, destinations);
            rule.matches(&question(from, to, 6, 80))
        };
        let (host4, host6) = ("192.0.2.1", "2001:db8::1");
        for (sources, destinations, ipv4, ipv6) in [
            ("", "", true, true),
            ("0.0.0.0/0", "", true, false),
            ("", "::/0", false, true),
            ("0.0.0.0/0 ::/0", "", true, true),
            ("2001:db8::/32", "", false, true),
            ("0.0.0.0/0", "::/0", false, false),
        ] {
            assert_eq!(matches(sources, destinations, host4, host4), ipv4, "{sources} {destinations}");
            assert_eq!(matches(sources, destinations, host6, host6), ipv6, "{sources} {destinations}");
        }
    }

    #[test]
    fn traffic_is_told_apart_by_protocol_ports_types_and_codes() {
        let echo = u16::from_be_bytes([8, 0]);
        let exact = Traffic::Icmp { kind: Some(8), code: Some(0) };
        let any_code = Traffic::Icmp { kind: Some(8), code: None };
        let any_kind = Traffic::Icmp { kind: None, code: Some(1) };
        for (traffic, protocol, port, expected) in [
            (Traffic::Any, 200, 7, true),
            (Traffic::Tcp(None), 6, 0, true),
            (Traffic::Tcp(None), 17, 80, false),
            (Traffic::Tcp(ports(80, 90)), 6, 79, false),
            (Traffic::Tcp(ports(80, 90)), 6, 80, true),
            (Traffic::Tcp(ports(80, 90)), 6, 90, true),
            (Traffic::Tcp(ports(80, 90)), 6, 91, false),
            (Traffic::Udp(ports(80, 90)), 6, 80, false),
            (Traffic::Udp(ports(80, 90)), 17, 80, true),
            (exact, 1, echo, true),
            (exact, 1, echo + 1, false),
            (exact, 58, echo, false),
            (any_code, 1, echo + 1, true),
            (any_kind, 1, echo + 1, true),
            (any_kind, 1, echo, false),
            (Traffic::Icmp { kind: None, code: None }, 1, 77, true),
            (Traffic::Protocol(47), 47, 0, true),
            (Traffic::Protocol(47), 6, 0, false),
        ] {
            let matches = traffic.matches(&question("192.0.2.1", "10.1.1.1", protocol, port));
            assert_eq!(matches, expected, "{traffic} {protocol} {port}");
        }
        let ipv6 = |protocol| question("2001:db8::1", "2001:db8::2", protocol, echo);
        assert!(exact.matches(&ipv6(58)) && !exact.matches(&ipv6(1)));
    }

    #[test]
    fn rules_and_scopes_are_said_in_a_line() {
        let said = rule(7, Action::Deny, Traffic::Tcp(ports(80, 90)), "192.0.2.0/24 ::/0", "10.1.1.9/32");
        assert_eq!(said.to_string(), "deny tcp 80-90 from 192.0.2.0/24,::/0 to 10.1.1.9/32");
        let kind = Traffic::Icmp { kind: Some(8), code: None };
        assert_eq!(rule(0, Action::Allow, kind, "", "").to_string(), "allow icmp type 8 code any");
        let port = PortSelector::Name("eth0".to_owned());
        assert_eq!(Scope::Outside(port).to_string(), "from eth0 to the outside");
    }

    #[test]
    fn lists_that_say_the_same_become_one() {
        let scope = |name: &str| Scope::To(PortSelector::Name(name.to_owned()));
        let list = |port| {
            let rules = vec![Arc::new(rule(1, Action::Deny, Traffic::Tcp(ports(port, port)), "", ""))];
            Arc::new(AccessList::new(rules, Action::Allow))
        };
        let earlier =
            Policy { lists: vec![(scope("eth2"), list(22)), (scope("eth3"), list(80))], ..Policy::default() };
        let mut policy =
            Policy { lists: vec![(scope("eth3"), list(81)), (scope("eth2"), list(22))], ..Policy::default() };
        policy.share(&earlier);
        assert_eq!(policy.lists[0].1, list(81));
        assert!(Arc::ptr_eq(&policy.lists[1].1, &earlier.lists[0].1));
    }

    #[test]
    fn rules_of_one_family_to_the_other_never_decide() {
        let rules = [
            rule(0, Action::Allow, Traffic::Tcp(ports(1, 10)), "10.0.0.0/8", ""),
            rule(0, Action::Deny, Traffic::Tcp(ports(2, 3)), "10.1.0.0/16 10.2.0.0/16", ""),
            rule(0, Action::Allow, Traffic::Any, "10.0.0.0/8", "::/0"),
            rule(0, Action::Allow, Traffic::Tcp(ports(1, 11)), "10.0.0.0/8", ""),
        ];
        let idle = AccessList::new(rules.map(Arc::new).into(), Action::Deny).idle_rules();
        let found: Vec<_> = idle.iter().map(|idle| (idle.rule, idle.covered_by)).collect();
        assert_eq!(found, [(1, Some(0)), (2, None)]);
    }
}
