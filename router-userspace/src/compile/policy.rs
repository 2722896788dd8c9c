//! Lists of rules → onto ports and public addresses, by their numbers.
//!
//! A list is numbered by its content: what has the same rules is one list for all ports, and another content is
//! another list, which is written beside the old one before a port is switched to it. How a list is looked
//! through is the [`classifier`](crate::classifier)'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use router_common::policy::NO_LIST;
use router_common::port::Port as PortEntry;

use super::{Compiled, TableSet, port};
use crate::model::PortRange;
use crate::model::policy::{AccessList, Action, Content, Opening, Policy, Rule, Scope, Traffic};
use crate::model::port::{PortSelector, Role};

/// A list that is to be there, or is there. Its content's name says all about it.
#[derive(Clone)]
pub struct ListEntry {
    /// The name of its content.
    pub content: Content,
    /// How many rules it has.
    pub rules: u32,
    /// The rules; `None` for a list that was found.
    pub list: Option<Arc<AccessList>>,
}

impl ListEntry {
    /// One that is to be there.
    pub fn of(list: &Arc<AccessList>) -> Self {
        let rules = u32::try_from(list.rules.len()).unwrap_or(u32::MAX);
        Self { content: list.content(), rules, list: Some(Arc::clone(list)) }
    }
}

impl PartialEq for ListEntry {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

impl Eq for ListEntry {}

impl fmt::Debug for ListEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules", self.rules)
    }
}

/// By what new flows are judged, and where. Two that are equal judge alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jurisdiction {
    /// By port: its role, and the lists of what comes in, what leaves, and what leaves outside.
    ports: BTreeMap<u32, [u32; 4]>,
    firewalls: BTreeMap<Ipv4Addr, u32>,
    /// Numbers say the same again only of the same contents.
    contents: BTreeMap<u32, Content>,
}

impl TableSet {
    /// By what new flows are judged with these tables.
    pub fn jurisdiction(&self) -> Jurisdiction {
        let lists =
            |port: &PortEntry| [u32::from(port.role), port.from_list, port.to_list, port.outside_list];
        let ports: BTreeMap<_, _> = self.ports.iter().map(|(key, port)| (*key, lists(port))).collect();
        let numbers: BTreeSet<u32> = ports
            .values()
            .flat_map(|[_, lists @ ..]| lists)
            .chain(self.firewalls.values())
            .copied()
            .collect();
        let contents = self.lists.iter().filter(|(number, _)| numbers.contains(number));
        let contents = contents.map(|(number, entry)| (*number, entry.content)).collect();
        Jurisdiction { ports, firewalls: self.firewalls.clone(), contents }
    }
}

/// Puts the lists into the tables and onto ports and addresses. `further` is what the router is open for besides what
/// the policy says.
pub(super) fn tables(
    policy: &Policy,
    further: &[Opening],
    placed: &[port::Placed<'_>],
    compiled: &mut Compiled,
) {
    let openings: Vec<&Opening> = policy.openings.iter().chain(further).collect();
    let own: BTreeMap<u8, Arc<AccessList>> = Role::ALL
        .iter()
        .filter(|role| role.is_routed())
        .map(|role| (*role as u8, Arc::new(own_list(*role, &openings))))
        .collect();
    let own = |placed: &port::Placed<'_>| own.get(&(placed.port.role as u8));
    let mut of_ports: Vec<(&PortSelector, Field, &Arc<AccessList>)> = Vec::new();
    // Several NICs may be one port.
    let mut nics: BTreeMap<&PortSelector, Vec<u32>> = BTreeMap::new();
    for placed in placed {
        let selector = &placed.port.selector;
        nics.entry(selector).or_default().push(placed.nic.ifindex);
        of_ports.extend(own(placed).map(|list| (selector, (|port| &mut port.own_list) as Field, list)));
    }
    for (scope, list) in &policy.lists {
        let (selector, field): (_, Field) = match scope {
            Scope::PublicAddress(address) => {
                let number = add(list, &mut compiled.tables.lists);
                compiled.tables.firewalls.insert(*address, number);
                continue;
            }
            Scope::Outside(selector) => (selector, |port| &mut port.outside_list),
            Scope::From(selector) => (selector, |port| &mut port.from_list),
            Scope::To(selector) => (selector, |port| &mut port.to_list),
        };
        of_ports.push((selector, field, list));
    }
    for (selector, field, list) in of_ports {
        // A port without a NIC is a problem that was told already.
        for ifindex in nics.get(selector).into_iter().flatten() {
            let number = add(list, &mut compiled.tables.lists);
            if let Some(port) = compiled.tables.ports.get_mut(ifindex) {
                *field(port) = number;
            }
        }
    }
}

/// Where a port's entry has one of its lists.
type Field = fn(&mut PortEntry) -> &mut u32;

/// Adds a list, if it is not there; its number.
fn add(list: &Arc<AccessList>, lists: &mut BTreeMap<u32, ListEntry>) -> u32 {
    let content = list.content();
    let Content([a, b, c, d, ..]) = content;
    let mut number = u32::from_be_bytes([a, b, c, d]);
    // Two contents that begin alike are told apart by whoever comes first.
    while number == NO_LIST || lists.get(&number).is_some_and(|there| there.content != content) {
        number = number.wrapping_add(1);
    }
    lists.entry(number).or_insert_with(|| ListEntry::of(list));
    number
}

/// What the router itself is open for on a port (SEMANTICS B.1.2, B.2.4): pings and answers outside, the tier's
/// services inside, and on either side what is opened besides. Answers to the router's own sockets come to the ports that it keeps for them.
fn own_list(role: Role, openings: &[&Opening]) -> AccessList {
    let range = |first, last| PortRange::new(first, last).ok();
    let port = |port| range(port, port);
    let (first, last) = router_common::config::RouterConfig::OWN_PORTS;
    let mut allowed = vec![
        Traffic::Icmp { kind: None, code: None },
        Traffic::Tcp(range(first, last)),
        Traffic::Udp(range(first, last)),
    ];
    if role == Role::Guest {
        allowed.extend([67, 547, 53].map(|number| Traffic::Udp(port(number))));
        allowed.extend([53, 80, 443, 8080].map(|number| Traffic::Tcp(port(number))));
    }
    let rule = |traffic| Arc::new(Rule::new(0, Action::Allow, traffic, vec![], vec![]));
    let opened = openings.iter().filter(|opening| opening.side.has(role));
    let opened = opened.map(|opening| Arc::clone(&opening.rule));
    AccessList::new(allowed.into_iter().map(rule).chain(opened).collect(), Action::Deny)
}
