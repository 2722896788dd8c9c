//! Names of rules and lists, made of what they say.
//!
//! Two lists of one name would be one list for the tables, so nobody may be able to write two: tenants write
//! their rules themselves. So a name is a cryptographic hash, over bytes that can be read in one way only: fields
//! have a fixed length or their length in front.
//!
//! ```text
//! rule   'R' id:8 action:1 traffic:6 networks networks     numbers big-endian
//! list   'L' default:1 rules:8 (content of a rule):16 …
//!
//! action    0 deny  1 allow                                networks  count:8 network …
//! traffic   0 any  1 TCP  2 UDP  3 ICMP  4 protocol        network   4|6 prefix length:1 address:4|16
//!           then five bytes: whether there is a range:1, first:2, last:2
//!                            whether there is a type:1, type:1, the same of the code, 0
//!                            protocol:1, 0:4
//! ```
//!
//! Names are in pinned tables, so they stay the same on every machine and in every version.

use std::fmt;
use std::net::IpAddr;
use std::sync::OnceLock;

use ipnet::IpNet;

use super::{AccessList, Action, Rule, Traffic};
use crate::model::PortRange;

/// The name of a rule or a list: the same name, the same content. The first 128 bits of BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Content(pub [u8; 16]);

impl Content {
    fn of(bytes: &[u8]) -> Self {
        let mut content = [0; 16];
        content.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Self(content)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Rule {
    /// The name of what it says, its number included. Worked out when it is asked for first.
    pub fn content(&self) -> Content {
        *self.content.0.get_or_init(|| {
            let mut bytes = Vec::with_capacity(128);
            bytes.push(b'R');
            bytes.extend(self.id.to_be_bytes());
            bytes.push(action(self.action));
            bytes.extend(traffic(self.traffic));
            networks(&self.sources, &mut bytes);
            networks(&self.destinations, &mut bytes);
            Content::of(&bytes)
        })
    }
}

impl AccessList {
    /// The name of its rules in their order and of its default. Worked out when it is asked for first.
    pub fn content(&self) -> Content {
        *self.content.0.get_or_init(|| {
            let mut bytes = Vec::with_capacity(10 + 16 * self.rules.len());
            bytes.extend([b'L', action(self.default)]);
            bytes.extend((self.rules.len() as u64).to_be_bytes());
            for rule in &self.rules {
                bytes.extend(rule.content().0);
            }
            Content::of(&bytes)
        })
    }
}

const fn action(action: Action) -> u8 {
    match action {
        Action::Deny => 0,
        Action::Allow => 1,
    }
}

fn traffic(traffic: Traffic) -> [u8; 6] {
    let range = |kind: u8, range: Option<PortRange>| match range.map(|range| (range.first(), range.last())) {
        None => [kind, 0, 0, 0, 0, 0],
        Some((first, last)) => {
            let ([a, b], [c, d]) = (first.to_be_bytes(), last.to_be_bytes());
            [kind, 1, a, b, c, d]
        }
    };
    match traffic {
        Traffic::Any => [0; 6],
        Traffic::Tcp(ports) => range(1, ports),
        Traffic::Udp(ports) => range(2, ports),
        Traffic::Icmp { kind, code } => {
            let [has_kind, has_code] = [kind, code].map(|number| u8::from(number.is_some()));
            [3, has_kind, kind.unwrap_or(0), has_code, code.unwrap_or(0), 0]
        }
        Traffic::Protocol(number) => [4, number, 0, 0, 0, 0],
    }
}

fn networks(networks: &[IpNet], bytes: &mut Vec<u8>) {
    bytes.extend((networks.len() as u64).to_be_bytes());
    for network in networks {
        match network.addr() {
            IpAddr::V4(address) => {
                bytes.extend([4, network.prefix_len()]);
                bytes.extend(address.octets());
            }
            IpAddr::V6(address) => {
                bytes.extend([6, network.prefix_len()]);
                bytes.extend(address.octets());
            }
        }
    }
}

/// A name that is worked out once. It says nothing that the fields beside it do not say, so it is left out
/// where they are compared.
#[derive(Default)]
pub(super) struct OnceContent(OnceLock<Content>);

impl PartialEq for OnceContent {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for OnceContent {}

impl std::hash::Hash for OnceContent {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl fmt::Debug for OnceContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|network| network.parse().expect("a network")).collect()
    }

    fn rule(id: u64, traffic: Traffic, sources: &str, destinations: &str) -> Arc<Rule> {
        Arc::new(Rule::new(id, Action::Allow, traffic, nets(sources), nets(destinations)))
    }

    fn tcp(first: u16, last: u16) -> Traffic {
        Traffic::Tcp(PortRange::new(first, last).ok())
    }

    #[test]
    fn names_stay_what_they_are_in_every_version() {
        let one = rule(7, tcp(80, 90), "192.0.2.0/24 2001:db8::/32", "10.1.1.9/32");
        assert_eq!(one.content().to_string(), "faee152b1270b34a3c2b0129a4c7a725");
        let list = AccessList::new(vec![one, rule(0, Traffic::Any, "", "")], Action::Deny);
        assert_eq!(list.content().to_string(), "be95e893c7ce47f73e5dba210d6ae993");
        assert_eq!(list.content(), list.content());
    }

    #[test]
    fn every_difference_is_another_name() {
        let icmp = |kind, code| Traffic::Icmp { kind, code };
        let mut rules = vec![
            rule(0, Traffic::Any, "", ""),
            rule(1, Traffic::Any, "", ""),
            Arc::new(Rule::new(0, Action::Deny, Traffic::Any, vec![], vec![])),
            rule(0, Traffic::Tcp(None), "", ""),
            rule(0, Traffic::Udp(None), "", ""),
            rule(0, tcp(1, 2), "", ""),
            rule(0, tcp(1, 1), "", ""),
            rule(0, Traffic::Udp(PortRange::new(1, 2).ok()), "", ""),
        ];
        rules.extend(
            [None, Some(0), Some(1)]
                .into_iter()
                .flat_map(|kind| [None, Some(0), Some(1)].map(|code| rule(0, icmp(kind, code), "", ""))),
        );
        rules.extend([0, 1, 3, 6].map(|number| rule(0, Traffic::Protocol(number), "", "")));
        let some = ["10.0.0.0/8", "10.0.0.0/9", "0.0.0.0/0", "::/0", "a00::/8", "10.0.0.0/8 10.0.0.0/8"];
        for networks in some {
            rules.push(rule(0, Traffic::Any, networks, ""));
            rules.push(rule(0, Traffic::Any, "", networks));
            rules.push(rule(0, Traffic::Any, networks, "10.0.0.0/8"));
        }
        let names: BTreeMap<Content, &Rule> = rules.iter().map(|rule| (rule.content(), &**rule)).collect();
        assert_eq!(names.len(), rules.len(), "{names:#?}");

        let [a, b] = [&rules[0], &rules[1]];
        let lists = [vec![], vec![a], vec![b], vec![a, b], vec![b, a], vec![a, a]];
        let lists: Vec<AccessList> = [Action::Allow, Action::Deny]
            .into_iter()
            .flat_map(|default| {
                lists.clone().map(|rules| AccessList::new(rules.into_iter().cloned().collect(), default))
            })
            .collect();
        let names: BTreeMap<Content, &AccessList> = lists.iter().map(|list| (list.content(), list)).collect();
        assert_eq!(names.len(), lists.len(), "{names:#?}");
    }

    #[test]
    fn a_name_that_was_asked_for_makes_no_difference() {
        let (asked, other) = (rule(0, tcp(1, 2), "::/0", ""), rule(0, tcp(1, 2), "::/0", ""));
        asked.content();
        assert_eq!(asked, other);
        assert_eq!(asked.content(), other.content());
        assert_eq!(format!("{asked:?}"), format!("{other:?}"));
    }
}
