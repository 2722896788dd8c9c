//! Step 7: on whose account packets are.
//!
//! An account is the two ports that a flow leads between and the public address that its inside is known by. The
//! slow path finds it once and leaves its counter in the flow's entries, one for each direction, to which the walk adds what it
//! forwards. Who has opened the flow does not matter: sent is what goes outward.

use router_common::net::Ipv4;
use router_common::port::{Port, Role};
use router_common::usage::{AccountKey, Course, counter};

use crate::conntrack::{Arrival, Opening};
use crate::family::Family;
use crate::tables::{Flows, Tables};

/// The counter of the packets that go the way of the one that opens a flow, see [`counter`].
#[inline(always)]
pub fn of_opening<A: Family, T: Flows<A>>(tables: &T, arrival: &Arrival<A>, opening: &Opening<A>) -> u32 {
    const OTHERS: u32 = 0;
    let port = |ifindex| tables.port(ifindex);
    let (Some(from), Some(to)) = (port(arrival.ifindex), port(opening.next_hop.ifindex)) else {
        return counter(OTHERS, Course::Sent);
    };
    if is_outward(&from, &to) {
        let own = if to.role == Role::Guest as u8 { None } else { opening.source.address };
        return counter(number(tables, (&to, &from), own), Course::Sent);
    }
    let called = opening.destination_translated != 0 && from.role != Role::Guest as u8;
    let own = if called { Some(arrival.key.dst) } else { None };
    counter(number(tables, (&from, &to), own), Course::Received)
}

/// Whether the way from one port to another leads outward, or stays where it is.
#[inline(always)]
fn is_outward(from: &Port, to: &Port) -> bool {
    match (distance(from), distance(to)) {
        (a, b) if a == b => from.mac <= to.mac,
        (a, b) => a < b,
    }
}

/// How far outside a port is.
#[inline(always)]
const fn distance(port: &Port) -> u8 {
    const PRIVATE_GATEWAY: u8 = Role::PrivateGateway as u8;
    const GUEST: u8 = Role::Guest as u8;
    match port.role {
        GUEST => 0,
        PRIVATE_GATEWAY => 1,
        _ => 2,
    }
}

#[inline(always)]
fn number<A: Family, T: Tables>(tables: &T, (outside, inside): (&Port, &Port), own: Option<A>) -> u32 {
    tables.account_of(&AccountKey {
        outside: outside.mac,
        inside: inside.mac,
        address: own.and_then(|own| own.to_ipv4()).unwrap_or(Ipv4::UNSPECIFIED),
        router: outside.router,
        version: A::VERSION,
        pad: 0,
    })
}
