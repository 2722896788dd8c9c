//! Cutting: flows end whose first packet the lists in force deny, where the operator has chosen that. All others
//! stay as they are.
//!
//! A flow is judged as a new one is (`router_ebpf::conntrack`), from what its entry keeps of the first packet: as it
//! was sent by the list of the port it came in by and by that of a public address, with its destination
//! translated by the list of the port it leaves by and by that of the way outside. What the entry does not
//! keep:
//!
//! - *The type of an ICMP query.* It counts as an echo request, which nearly all are.
//! - *That a helper expected the flow*, which no list was asked about. The programs remember whom they expected,
//!   also when the time is over, until 16,384 others were expected since.
//!
//! A flow whose ports are gone is no list's business and stays.
//!
//! What is cut is removed, but for TCP, which any of its acknowledgments begins anew, those of the other end
//! included: a connection would be back as soon as that sends something, where the lists let it. So its entries
//! stay, as expected from an interface that there is not: whatever comes is dropped, `wrong-port`. They go when the
//! lists let the flow begin again, or when a connection would have gone that is silent from now on, or make room
//! like a closing one's.
//!
//! Invariant: a flow goes with both its entries. The original goes first: nobody can open it anew, since the lists
//! deny it, and as long as its reply is there nobody opens another flow by that.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData};
use router_common::flow::{Direction, FlowEntry, FlowKey, instant, tick};
use router_common::nat::{Expected, ExternalKey};
use router_common::net::{Be16, Ipv4, Ipv6};
use router_common::policy::NO_LIST;
use router_common::port::{Port, Role};

use super::expiry::monotonic_now;
use super::maps::{Tables, absent_is_fine};
use super::policy::PolicyTables;
use super::stats::reply_key;
use super::{Dataplane, batch};
use crate::model::policy::{Action, Question};

/// Of a flow that was cut, in [`FlowEntry::ingress`]: no interface has such a number.
const CUT: u32 = 1 << 31;

/// Whether an entry only keeps what was cut from beginning anew.
pub(super) const fn is_cut<A>(entry: &FlowEntry<A>) -> bool {
    entry.ingress & CUT != 0
}

/// Few enough that what is looked at is removed within a quarter of a millisecond.
const AT_ONCE: usize = 64;

impl Dataplane {
    /// Ends the flows, both directions, whose first packet the lists in force deny; how many. What was cut before and
    /// may begin again can do so.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn cut_denied(&mut self) -> Result<usize> {
        let ports = self.tables.observe_ports()?;
        let Tables { flows4, flows6, policy, expected, .. } = &mut self.tables;
        let in_force = InForce { ports, firewalls: policy.firewalls()?, lists: policy };
        let cut4 = cut(flows4, |key, entry| {
            in_force.denies(&Opening::of(key, entry, |address: Ipv4| IpAddr::V4(address.into())))
                && !was_expected(expected, key, entry)
        })?;
        let cut6 = cut(flows6, |key, entry| {
            in_force.denies(&Opening::of(key, entry, |address: Ipv6| IpAddr::V6(address.into())))
        })?;
        self.cut += (cut4 + cut6) as u64;
        Ok(cut4 + cut6)
    }

    /// Whatever was cut before can begin again, if the lists let it.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn forget_cut(&mut self) -> Result<()> {
        cut(&mut self.tables.flows4, |_, _| false)?;
        cut(&mut self.tables.flows6, |_, _| false).map(drop)
    }

    /// How many flows were cut so far.
    pub const fn cut_flows(&self) -> u64 {
        self.cut
    }
}

/// A flow's first packet, as far as the flow's entry has kept it.
struct Opening {
    protocol: u8,
    source: IpAddr,
    /// Where it was sent, and with which port as lists see it.
    sent_to: (IpAddr, u16),
    /// The same behind translation.
    arrives_at: (IpAddr, u16),
    is_translated: bool,
    ingress: u32,
    egress: u32,
}

impl Opening {
    fn of<A: Copy>(key: &FlowKey<A>, original: &FlowEntry<A>, to_ip: impl Fn(A) -> IpAddr) -> Self {
        let to = &original.rewrite;
        let source = to_ip(key.src);
        let port = |port: Be16| match (key.protocol, source) {
            (1, IpAddr::V4(_)) => u16::from_be_bytes([8, 0]),
            (58, IpAddr::V6(_)) => u16::from_be_bytes([128, 0]),
            _ => port.get(),
        };
        Self {
            protocol: key.protocol,
            source,
            sent_to: (to_ip(key.dst), port(key.dst_port)),
            arrives_at: (to_ip(to.dst), port(to.dst_port)),
            is_translated: original.translation & FlowEntry::<A>::DESTINATION != 0,
            ingress: original.ingress & !CUT,
            egress: original.egress,
        }
    }
}

/// What new flows are judged by.
struct InForce<'a> {
    ports: BTreeMap<u32, Port>,
    firewalls: BTreeMap<Ipv4Addr, u32>,
    lists: &'a PolicyTables,
}

impl InForce<'_> {
    fn denies(&self, opening: &Opening) -> bool {
        let Some(port) = self.ports.get(&opening.ingress) else { return false };
        let denies = |list: u32, (destination, port): (IpAddr, u16)| {
            let Opening { source, protocol, .. } = *opening;
            let question = Question { source, destination, protocol, port };
            list != NO_LIST && self.lists.judge(list, &question) == Action::Deny
        };
        let firewall = match opening.sent_to.0 {
            IpAddr::V4(address) => self.firewalls.get(&address).copied().unwrap_or(NO_LIST),
            IpAddr::V6(_) => NO_LIST,
        };
        if denies(port.from_list, opening.sent_to) || denies(firewall, opening.sent_to) {
            return true;
        }
        let Some(egress) = self.ports.get(&opening.egress) else { return false };
        let is_inside = port.role == Role::Guest as u8 || opening.is_translated;
        // Who is outside begins nothing without a list that says so.
        !is_inside && egress.to_list == NO_LIST
            || denies(egress.to_list, opening.arrives_at)
            || egress.role != Role::Guest as u8 && denies(port.outside_list, opening.arrives_at)
    }
}

/// Whether a helper had announced the flow when it was opened.
fn was_expected(
    expected: &HashMap<MapData, ExternalKey, Expected>,
    key: &FlowKey<Ipv4>,
    original: &FlowEntry<Ipv4>,
) -> bool {
    let FlowKey { dst: external, dst_port: port, router, protocol, .. } = *key;
    let to = &original.rewrite;
    expected.get(&ExternalKey { external, port, router, protocol, pad: [0; 3] }, 0).is_ok_and(|whom| {
        (whom.peer, whom.guest, whom.port) == (key.src, to.dst, to.dst_port)
            && instant(original.opened, monotonic_now()) < whom.until
    })
}

/// Ends the flows that are denied, by their originals, and forgets those that were cut and are not; how many were cut.
fn cut<A: Copy>(
    flows: &mut HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    is_denied: impl Fn(&FlowKey<A>, &FlowEntry<A>) -> bool,
) -> Result<usize>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    const TCP: u8 = 6;
    let (keys, entries) = batch::read::<FlowKey<A>, FlowEntry<A>>(flows.map(), 1, 0, usize::MAX)?;
    let originals =
        keys.iter().zip(&entries).filter(|(_, entry)| entry.direction == Direction::Original as u8);
    let (mut gone, mut closed) = (Vec::new(), Vec::new());
    for (key, entry) in originals {
        match (is_denied(key, entry), is_cut(entry)) {
            (true, false) if key.protocol == TCP => closed.push((key, entry)),
            (true, false) | (false, true) => gone.push((key, entry)),
            (true, true) | (false, false) => {}
        }
    }
    let mut cut = 0;
    for (key, read) in closed {
        if close(flows, key, read.opened)? {
            close(flows, &reply_key(key, read), read.opened)?;
            cut += 1;
        }
    }
    for some in gone.chunks(AT_ONCE) {
        // One that was opened anew since was judged by what is in force, and may have another reply.
        let is_there = |(key, read): &&(&FlowKey<A>, &FlowEntry<A>)| {
            flows.get(key, 0).is_ok_and(|entry| entry.opened == read.opened)
        };
        let some: Vec<_> = some.iter().filter(is_there).collect();
        let (originals, replies): (Vec<_>, Vec<_>) =
            some.iter().map(|(key, entry)| (**key, reply_key(key, entry))).unzip();
        batch::delete(flows.map(), &originals).context("cut flows")?;
        batch::delete(flows.map(), &replies).context("cut flows' replies")?;
        cut += some.iter().filter(|(_, entry)| !is_cut(entry)).count();
    }
    Ok(cut)
}

/// Has nothing pass by an entry any more, if it is still the one of then; whether it is.
fn close<A: Copy>(
    flows: &mut HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    key: &FlowKey<A>,
    opened: u32,
) -> Result<bool>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    const BPF_EXIST: u64 = 2;
    let Some(entry) = flows.get(key, 0).ok().filter(|entry| entry.opened == opened) else { return Ok(false) };
    let closed = FlowEntry {
        ingress: entry.ingress | CUT,
        // Public ports stand in for each other, these for none.
        ingress_role: Role::Control as u8,
        last_seen: tick(monotonic_now()),
        ..entry
    };
    absent_is_fine(flows.insert(key, closed, BPF_EXIST)).context("close a flow")?;
    Ok(true)
}
