//! Policy: which new flows may pass. Lists of rules, of which the first that matches decides.
//!
//! A flow that is known passes whatever the lists say; so do errors about it. What a list is asked about is
//! the first packet of a flow.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::nat::PortRange;
use super::port::PortSelector;

/// Every list of a router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// In no order: no two have one scope.
    pub lists: Vec<(Scope, AccessList)>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList {
    /// The first that matches decides.
    pub rules: Vec<Rule>,
    /// What becomes of a flow that no rule matches.
    pub default: Action,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped, without an answer.
    Deny,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The first packet of a flow, as a list is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl AccessList {
    /// The rule that decides and what it says; `None`: the default.
    pub fn judge(&self, question: &Question) -> (Option<&Rule>, Action) {
        let rule = self.rules.iter().find(|rule| rule.matches(question));
        (rule, rule.map_or(self.default, |rule| rule.action))
    }
}

impl Rule {
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
