//! What has passed: counters and flows as records.

use std::collections::HashMap as StdHashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::Range;

use anyhow::Result;
use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData};
use router_common::account::{
    CounterRow as CounterEntry, ForwardedRow, Hook, PORTS_PER_ROW, Traffic, counter_index, forwarded_row,
    forwarded_rows,
};
use router_common::flow::{Direction, FlowEntry, FlowKey, instant};
use router_common::net::{Address, Ipv4, Ipv6};
use router_common::verdict::{DeferReason, DropReason, FORWARDED, OUTCOMES, PuntReason};

use super::cutting::is_cut;
use super::expiry::{last_seen, monotonic_now};
use super::{Dataplane, batch};

/// What became of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Sent on.
    Forwarded,
    /// Refused.
    Dropped(DropReason),
    /// To the kernel.
    Punted(PuntReason),
    /// From XDP to TC.
    Deferred(DeferReason),
}

impl Outcome {
    fn from_number(number: u32) -> Option<Self> {
        if number == FORWARDED {
            return Some(Self::Forwarded);
        }
        DropReason::from_outcome(number)
            .map(Self::Dropped)
            .or_else(|| PuntReason::from_outcome(number).map(Self::Punted))
            .or_else(|| DeferReason::from_outcome(number).map(Self::Deferred))
    }
}

/// One counter that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterRow {
    /// The port's slot, 0 for frames without a port.
    pub slot: u32,
    /// Which program counted.
    pub hook: Hook,
    /// What became of the packets.
    pub outcome: Outcome,
    /// How many, over all CPUs.
    pub traffic: Traffic,
}

/// A flow, both directions in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// IP protocol number.
    pub protocol: u8,
    /// Source of the packet that opened it: address and port or ICMP identifier.
    pub src: (IpAddr, u16),
    /// Its destination.
    pub dst: (IpAddr, u16),
    /// What the source becomes, where it is translated.
    pub translated_src: Option<(IpAddr, u16)>,
    /// Interface it came in by.
    pub ingress: u32,
    /// Interface it leaves by.
    pub egress: u32,
    /// Packets and bytes from the side that opened it.
    pub original: Traffic,
    /// Packets and bytes of the other direction.
    pub reply: Traffic,
    /// TCP flags seen in the two directions.
    pub tcp_flags: (u8, u8),
    /// Nanoseconds of the monotonic clock when it was opened, to 17 ms.
    pub opened: u64,
    /// Nanoseconds of the monotonic clock when a packet was last seen in either direction.
    pub last_seen: u64,
}

impl Dataplane {
    /// Every counter of the first `slots` ports that is not zero.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self, slots: u32) -> Result<Vec<CounterRow>> {
        self.counters_of(0..slots)
    }

    /// Every counter of some ports that is not zero.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters_of(&self, slots: Range<u32>) -> Result<Vec<CounterRow>> {
        let cpus = batch::cpus()?;
        let first = forwarded_row(slots.start, Hook::Xdp);
        let forwarded_rows = (forwarded_rows(slots.end) - first) as usize;
        let (_, forwarded) =
            batch::read::<u32, ForwardedRow>(&self.tables.forwarded, cpus, first, forwarded_rows)?;
        let (slots, values) =
            batch::read::<u32, CounterEntry>(&self.tables.counters, cpus, slots.start, slots.len())?;
        let mut rows = Vec::new();
        for (slot, per_cpu) in slots.into_iter().zip(values.chunks_exact(cpus)) {
            for (hook, number) in
                [Hook::Xdp, Hook::Tc].into_iter().flat_map(|hook| (0..OUTCOMES).map(move |n| (hook, n)))
            {
                let of = |cpu: usize| match number {
                    FORWARDED => {
                        let row = (forwarded_row(slot, hook) - first) as usize;
                        forwarded[row * cpus + cpu].ports[(slot % PORTS_PER_ROW) as usize]
                    }
                    _ => per_cpu[cpu].counters[counter_index(hook, number) as usize],
                };
                let packets: u64 = (0..cpus).map(|cpu| of(cpu).packets).sum();
                let Some(outcome) = Outcome::from_number(number).filter(|_| packets != 0) else { continue };
                let bytes = (0..cpus).map(|cpu| of(cpu).bytes).sum();
                rows.push(CounterRow { slot, hook, outcome, traffic: Traffic { packets, bytes } });
            }
        }
        Ok(rows)
    }

    /// Every flow, IPv4 first, without those that were cut.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn flows(&self) -> Result<Vec<FlowRecord>> {
        let mut records = family_records(&self.tables.flows4, |address: Ipv4| IpAddr::V4(address.into()))?;
        records.extend(family_records(&self.tables.flows6, |address: Ipv6| IpAddr::V6(address.into()))?);
        Ok(records)
    }

    /// How many flow entries there are, one for each direction, and how many of them have no
    /// reverse, which should be none.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn flow_entries(&self) -> Result<(usize, usize)> {
        let (v4, v6) = (count(&self.tables.flows4)?, count(&self.tables.flows6)?);
        Ok((v4.0 + v6.0, v4.1 + v6.1))
    }
}

/// How many entries a flow table has, and how many of them have no reverse.
fn count<A>(flows: &HashMap<MapData, FlowKey<A>, FlowEntry<A>>) -> Result<(usize, usize)>
where
    A: Address + Hash,
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let entries = entries(flows)?;
    let alone = entries.iter().filter(|(key, entry)| !entries.contains_key(&reply_key(key, entry)));
    Ok((entries.len(), alone.count()))
}

/// All entries of a flow table.
pub(super) fn entries<A>(
    flows: &HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
) -> Result<StdHashMap<FlowKey<A>, FlowEntry<A>>>
where
    A: Address + Hash,
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let (keys, values) = batch::read::<FlowKey<A>, FlowEntry<A>>(flows.map(), 1, 0, usize::MAX)?;
    Ok(keys.into_iter().zip(values).collect())
}

/// The key of a flow's other direction.
pub(super) fn reply_key<A: Copy>(key: &FlowKey<A>, entry: &FlowEntry<A>) -> FlowKey<A> {
    let to = &entry.rewrite;
    FlowKey { src: to.dst, dst: to.src, src_port: to.dst_port, dst_port: to.src_port, ..*key }
}

fn family_records<A>(
    flows: &HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    to_ip: impl Fn(A) -> IpAddr,
) -> Result<Vec<FlowRecord>>
where
    A: Address + Hash,
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let entries = entries(flows)?;
    let now = monotonic_now();
    let is_flow = |entry: &FlowEntry<A>| entry.direction == Direction::Original as u8 && !is_cut(entry);
    let originals = entries.iter().filter(|(_, entry)| is_flow(entry));
    let record = |(key, entry): (&FlowKey<A>, &FlowEntry<A>)| {
        let reply = entries.get(&reply_key(key, entry));
        let translated = entry.translation & FlowEntry::<A>::SOURCE != 0;
        FlowRecord {
            protocol: key.protocol,
            src: (to_ip(key.src), key.src_port.get()),
            dst: (to_ip(key.dst), key.dst_port.get()),
            translated_src: translated.then(|| (to_ip(entry.rewrite.src), entry.rewrite.src_port.get())),
            ingress: entry.ingress,
            egress: entry.egress,
            original: entry.traffic(),
            reply: reply.map_or(Traffic { packets: 0, bytes: 0 }, FlowEntry::traffic),
            tcp_flags: (entry.tcp_flags, reply.map_or(0, |entry| entry.tcp_flags)),
            opened: instant(entry.opened, now),
            last_seen: last_seen(entry, reply, now),
        }
    };
    Ok(originals.map(record).collect())
}
