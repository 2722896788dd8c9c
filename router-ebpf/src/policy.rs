//! Policy: whether a list lets a flow's first packet pass. Known flows are not asked about.
//!
//! The meaning is that of the list, rule after rule: the first that matches decides. The way there is
//! another one, whose length does not depend on how many rules there are. The networks of a list that have the
//! source lie in each other, and so do those that have the destination; for each pair of them the first rule
//! that matches is one lookup, and the first of those decides.

use router_common::net::Be16;
use router_common::policy::{ANY_PROTOCOL, ANYWHERE, Gate, GateKey, MOST_NESTED, NO_RULE, NetKey};

use crate::conntrack::Arrival;
use crate::family::Family;
use crate::parse::Transport;
use crate::tables::{Flows, Tables};

/// A flow's first packet, and what is found out about it.
#[derive(Clone, Copy, Debug)]
pub struct Case<A> {
    /// From.
    pub src: A,
    /// To, as the list sees it.
    pub dst: A,
    /// The list that is asked.
    pub list: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// The list's rules look at destinations.
    pub has_destinations: u8,
    /// Destination port; of ICMP type and code.
    pub port: Be16,
    /// The first rule that was found to match.
    pub best: Gate,
}

impl<A> Case<A> {
    /// Before anything is found out.
    #[inline(always)]
    pub fn new(list: u32, (src, dst): (A, A), protocol: u8, port: Be16) -> Self {
        let best = Gate { rule: NO_RULE, allows: 0, pad: [0; 3] };
        Self { src, dst, list, protocol, has_destinations: 0, port, best }
    }
}

impl<A: Copy> Case<A> {
    /// The packet that arrived last, to where it is going as the list sees it.
    #[inline(always)]
    pub fn of(arrival: &Arrival<A>, list: u32, dst: A, dst_port: Be16) -> Self {
        let port = match arrival.transport {
            Transport::IcmpQuery => arrival.icmp,
            _ => dst_port,
        };
        Self::new(list, (arrival.key.src, dst), arrival.key.protocol, port)
    }
}

/// Whether the list lets it pass. One that is not there lets nothing pass.
#[inline(always)]
pub fn permits<A: Family, T: Flows<A>>(tables: &T, case: &mut Case<A>) -> bool {
    let Some(list) = tables.list(case.list) else { return false };
    case.best.allows = list.default_allows;
    case.has_destinations = list.has_destinations;
    let mut bits = if list.has_sources == 0 { 0 } else { A::WHOLE_NET };
    for _ in 0..MOST_NESTED {
        if bits == 0 {
            break;
        }
        let key = NetKey { list: case.list.to_be_bytes(), side: NetKey::<A>::SOURCE, address: case.src };
        let Some(net) = tables.network(&key, bits) else { break };
        // Neither it nor those around it have an earlier rule.
        if net.first_rule >= case.best.rule {
            return case.best.allows != 0;
        }
        tables.row(case, net.network);
        bits = net.outer_bits;
    }
    tables.row(case, ANYWHERE);
    case.best.allows != 0
}

/// All pairs of one network of the source with those of the destination.
#[inline(always)]
pub fn row<A: Family, T: Flows<A>>(tables: &T, case: &mut Case<A>, source: u32) {
    let mut bits = if case.has_destinations == 0 { 0 } else { A::WHOLE_NET };
    for _ in 0..MOST_NESTED {
        if bits == 0 {
            break;
        }
        let key = NetKey { list: case.list.to_be_bytes(), side: NetKey::<A>::DESTINATION, address: case.dst };
        let Some(net) = tables.network(&key, bits) else { break };
        if net.first_rule >= case.best.rule {
            return;
        }
        pair(tables, case, source, net.network);
        bits = net.outer_bits;
    }
    pair(tables, case, source, ANYWHERE);
}

/// One pair: the rules of the protocol, and those of all.
#[inline(always)]
fn pair<A, T: Tables>(tables: &T, case: &mut Case<A>, source: u32, destination: u32) {
    for protocol in [case.protocol, ANY_PROTOCOL] {
        let key = GateKey { list: case.list, source, destination, protocol, pad: 0, port: case.port };
        if let Some(gate) = tables.gate(&key)
            && gate.rule < case.best.rule
        {
            case.best = gate;
        }
    }
}
