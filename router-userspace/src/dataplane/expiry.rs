//! Flow ageing: whole flows, by what both directions have seen.
//!
//! ```text
//!                SYN                    ACK from both sides
//!   (none) ───────────────▶ opening ─────────────────────────▶ established
//!                              │ RST, or FIN from both sides        │
//!                              ▼                                    ▼
//!                           closing ◀───────────────────────────────┘
//! ```
//! Each direction's entry keeps the TCP flags it has seen; the state is read off the two.

use std::collections::{HashMap as StdHashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData};
use router_common::flow::{Direction, FlowEntry, FlowKey, instant};
use router_common::nat::ExternalKey;
use router_common::net::{Address, Ipv4};

use super::eviction::{Usage, Victim, Want, Worth, choose, room};
use super::guests::{self, Guests};
use super::pools::{Settled, external_key};
use super::stats::{entries, reply_key};
use super::{Dataplane, batch};
use crate::model::Timeouts;

/// How far a TCP connection is, as a flow's two directions show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TcpStage {
    /// Not both sides have acknowledged.
    Opening,
    /// In use, half-closed included.
    Established,
    /// After RST, or FIN from both sides.
    Closing,
}

impl TcpStage {
    pub(super) fn of<A>(original: &FlowEntry<A>, reply: Option<&FlowEntry<A>>) -> Self {
        const FIN: u8 = 1;
        const RST: u8 = 4;
        const ACK: u8 = 16;
        let (flags, reply_flags) = (original.tcp_flags, reply.map_or(0, |reply| reply.tcp_flags));
        if (flags | reply_flags) & RST != 0 || flags & reply_flags & FIN != 0 {
            Self::Closing
        } else if flags & reply_flags & ACK != 0 {
            Self::Established
        } else {
            Self::Opening
        }
    }
}

impl Timeouts {
    /// How long a flow may be silent, by its protocol and what its two directions have seen.
    fn of<A>(&self, protocol: u8, original: &FlowEntry<A>, reply: Option<&FlowEntry<A>>) -> Duration {
        match protocol {
            6 => match TcpStage::of(original, reply) {
                TcpStage::Opening => self.tcp_opening,
                TcpStage::Established => self.tcp_established,
                TcpStage::Closing => self.tcp_closing,
            },
            17 if reply.is_some_and(|reply| reply.traffic().packets > 0) => self.udp,
            17 => self.udp_unanswered,
            1 | 58 => self.icmp,
            _ => self.other,
        }
    }
}

/// What a look at all flows came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aged {
    /// Flows whose time was over.
    pub expired: usize,
    /// Flows that made room for others.
    pub evicted: usize,
    /// How full the fullest table is now, in thousandths.
    pub fullness: usize,
}

impl Dataplane {
    /// Removes flows whose time is over, both directions, and where a table fills up others before
    /// their time; gives back the external ports of bindings that have none left.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn expire(&mut self, timeouts: &Timeouts) -> Result<Aged> {
        let now = monotonic_now();
        let is_limited = self.tables.config()?.ports_per_guest != 0;
        let source_nats: HashSet<Ipv4> = match is_limited {
            true => self.tables.observe_ports()?.values().map(|port| port.source_nat).collect(),
            false => HashSet::new(),
        };
        let mut guests = Guests::new();
        let mut bound: StdHashMap<ExternalKey, u32> = StdHashMap::new();
        let mut v4 = sweep(&mut self.tables.flows4, timeouts, now, |key, entry| {
            let without_binding = guests::of_flow(key, entry, &source_nats);
            without_binding.into_iter().for_each(|guest| *guests.entry(guest).or_default() += 1);
            let is_bound = entry.translation & FlowEntry::<Ipv4>::BOUND != 0;
            let external = is_bound.then(|| external_key(key, entry));
            external.into_iter().for_each(|external| *bound.entry(external).or_default() += 1);
            external
        })?;
        let mut v6 = sweep(&mut self.tables.flows6, timeouts, now, |_, _| None)?;
        let expired = v4.expired + v6.expired;

        let bindings = self.bindings()?;
        let counted_before = self.guests()?;
        let mut bindings_usage = Usage { taken: bindings.len(), room: room(self.tables.bindings.map())? };
        // Bindings without flows make room by themselves, those with flows when these go.
        let in_use = Usage { taken: bound.len(), ..bindings_usage };
        let (for_flows, for_bindings) = (Want::of(v4.usage, 2), Want::of(in_use, 1));
        let mut victims = v4.take_victims();
        if for_flows == Want::default() {
            victims.retain(|victim| victim.external.is_some());
        }
        let victims = choose(victims, for_flows.or(for_bindings), now);
        let evicted4 = remove_idle(&mut self.tables.flows4, &victims, Victim::idle, |victim, is_gone| {
            let Some(external) = victim.external.filter(|_| is_gone) else { return };
            if let Some(flows) = bound.get_mut(&external) {
                *flows -= 1;
                if *flows == 0 {
                    bound.remove(&external);
                }
            }
        })?;
        let victims = choose(v6.take_victims(), Want::of(v6.usage, 2), now);
        let evicted6 = remove_idle(&mut self.tables.flows6, &victims, Victim::idle, |_, _| {})?;
        v4.usage.taken = v4.usage.taken.saturating_sub(evicted4 * 2);
        v6.usage.taken = v6.usage.taken.saturating_sub(evicted6 * 2);

        let surplus = Want::of(bindings_usage, 1).old;
        let is_bound = |external: &ExternalKey| bound.contains_key(external);
        let Settled { ended, left } =
            self.settle_pools(bindings, is_bound, now, timeouts.hold_down, surplus)?;
        if is_limited {
            left.into_iter().for_each(|(guest, ports)| *guests.entry(guest).or_default() += ports);
        }
        self.settle_guests(&guests, &counted_before)?;
        bindings_usage.taken = bindings_usage.taken.saturating_sub(ended);
        let evicted = evicted4 + evicted6;
        if evicted > 0 {
            self.evictions.flows += evicted as u64;
            self.evictions.last = now;
        }
        let fullness =
            [v4.usage, v6.usage, bindings_usage].into_iter().map(Usage::fullness).max().unwrap_or(0);
        Ok(Aged { expired, evicted, fullness })
    }
}

/// What was found in a flow table.
struct Swept<A> {
    expired: usize,
    /// Without what has expired.
    usage: Usage,
    victims: Vec<Victim<A>>,
}

impl<A> Swept<A> {
    fn take_victims(&mut self) -> Vec<Victim<A>> {
        std::mem::take(&mut self.victims)
    }
}

/// Removes what has expired, and finds what may be evicted. `survives` is told of every flow that stays,
/// and says which binding's external end it has.
fn sweep<A>(
    flows: &mut HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    timeouts: &Timeouts,
    now: u64,
    mut survives: impl FnMut(&FlowKey<A>, &FlowEntry<A>) -> Option<ExternalKey>,
) -> Result<Swept<A>>
where
    A: Address + Hash,
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let all = entries(flows)?;
    let (mut over, mut victims) = (Vec::new(), Vec::new());
    for (key, entry) in &all {
        let reply_key = reply_key(key, entry);
        let other = all.get(&reply_key);
        // A reply is its original's business, unless that has gone without it.
        if entry.direction == Direction::Reply as u8 && other.is_some() {
            continue;
        }
        let timeout = timeouts.of(key.protocol, entry, other).as_nanos() as u64;
        let seen = last_seen(entry, other, now);
        let silent = now.saturating_sub(seen);
        let idle = Idle { key: *key, reply_key, seen };
        if silent > timeout {
            over.push(Silent { idle, entry });
            continue;
        }
        let external = survives(key, entry);
        let silent = Duration::from_nanos(silent);
        if let Some(worth) = Worth::of(key.protocol, entry, other, silent, timeouts) {
            victims.push(Victim { worth, idle, external });
        }
    }
    let expired = remove_idle(
        flows,
        &over,
        |silent| &silent.idle,
        |Silent { idle, entry }, is_gone| {
            if !is_gone {
                survives(&idle.key, entry);
            }
        },
    )?;
    let usage = Usage { taken: all.len().saturating_sub(expired * 2), room: room(flows.map())? };
    Ok(Swept { expired, usage, victims })
}

/// A flow that has not been used for long.
pub(super) struct Idle<A> {
    pub(super) key: FlowKey<A>,
    pub(super) reply_key: FlowKey<A>,
    /// When either direction last saw a packet, nanoseconds.
    pub(super) seen: u64,
}

/// A flow whose time is over, as the table was read.
struct Silent<'a, A> {
    idle: Idle<A>,
    entry: &'a FlowEntry<A>,
}

/// Removes those of some flows that have seen no packet since they were read; how many. `told` hears of each whether it
/// is gone.
pub(super) fn remove_idle<A, F>(
    flows: &mut HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    candidates: &[F],
    idle: impl Fn(&F) -> &Idle<A>,
    mut told: impl FnMut(&F, bool),
) -> Result<usize>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let mut removed = 0;
    for some in candidates.chunks(AT_ONCE) {
        let is_unused = |candidate: &&F| {
            let Idle { key, reply_key, seen } = idle(candidate);
            !refreshed(flows, key, *seen) && !refreshed(flows, reply_key, *seen)
        };
        let (unused, used): (Vec<&F>, Vec<&F>) = some.iter().partition(is_unused);
        let keys = unused.iter().map(|candidate| idle(candidate)).map(|flow| (flow.key, flow.reply_key));
        remove_flows(flows, keys)?;
        unused.iter().for_each(|candidate| told(candidate, true));
        used.iter().for_each(|candidate| told(candidate, false));
        removed += unused.len();
    }
    Ok(removed)
}

/// Few enough that what is looked at is removed within a quarter of a millisecond.
const AT_ONCE: usize = 64;

/// Removes flows by their keys and those of their replies, these first: a flow is opened where there is
/// no original, so nobody can open it anew in between and be left with half of it.
pub(super) fn remove_flows<A>(
    flows: &mut HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    keys: impl Iterator<Item = (FlowKey<A>, FlowKey<A>)>,
) -> Result<()>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let (originals, replies): (Vec<_>, Vec<_>) = keys.unzip();
    batch::delete(flows.map(), &replies).context("remove flows' replies")?;
    batch::delete(flows.map(), &originals).context("remove flows")
}

/// When either direction of a flow last saw a packet, nanoseconds of the monotonic clock, which says `now`.
pub(super) fn last_seen<A>(entry: &FlowEntry<A>, other: Option<&FlowEntry<A>>, now: u64) -> u64 {
    let at = |entry: &FlowEntry<A>| instant(entry.last_seen, now);
    at(entry).max(other.map_or(0, at))
}

/// Whether an entry has seen a packet since the table was read.
fn refreshed<A>(flows: &HashMap<MapData, FlowKey<A>, FlowEntry<A>>, key: &FlowKey<A>, seen: u64) -> bool
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    flows.get(key, 0).is_ok_and(|entry| instant(entry.last_seen, monotonic_now()) > seen)
}

/// The clock that the programs read, nanoseconds.
pub(crate) fn monotonic_now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid timespec to be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;

    /// An entry that has seen these flags and so many packets.
    pub fn seen(tcp_flags: u8, packets: u32) -> FlowEntry<Ipv4> {
        FlowEntry { packets, tcp_flags, ..FlowEntry::blank(Ipv4::UNSPECIFIED) }
    }

    fn minutes(protocol: u8, original: (u8, u32), reply: (u8, u32)) -> u64 {
        let (original, reply) = (seen(original.0, original.1), seen(reply.0, reply.1));
        Timeouts::default().of(protocol, &original, Some(&reply)).as_secs() / 60
    }

    #[test]
    fn udp_lives_two_minutes_and_five_once_answered_and_a_ping_one() {
        assert_eq!(minutes(17, (0, 9), (0, 0)), 2);
        assert_eq!(minutes(17, (0, 1), (0, 1)), 5);
        for icmp in [1, 58] {
            assert_eq!((minutes(icmp, (0, 1), (0, 0)), minutes(icmp, (0, 1), (0, 1))), (1, 1));
        }
        assert_eq!(minutes(47, (0, 1), (0, 1)), 5);
        assert_eq!(Timeouts::default().hold_down.as_secs(), 120);
    }

    #[test]
    fn tcp_lives_two_hours_and_four_minutes_while_in_use_and_four_minutes_otherwise() {
        let tcp = |original, reply| minutes(6, (original, 1), (reply, 1));
        let (opening, established, closing) = (4, 124, 4);
        for (original, reply, lives) in [
            (SYN, 0, opening),
            (SYN, SYN, opening),
            (SYN, SYN | ACK, opening),
            (SYN | ACK, SYN | ACK, established),
            // Half-closed, by either side: a download may pause as long as before.
            (SYN | ACK | FIN, SYN | ACK, established),
            (SYN | ACK, SYN | ACK | FIN, established),
            (SYN | ACK | FIN, SYN | ACK | FIN, closing),
            (SYN | ACK | RST, SYN | ACK, closing),
            (SYN, RST | ACK, closing),
        ] {
            assert_eq!(tcp(original, reply), lives, "{original:#x} {reply:#x}");
        }
    }

    #[test]
    fn opening_and_closing_have_times_of_their_own() {
        let timeouts = Timeouts {
            tcp_opening: Duration::from_secs(5),
            tcp_closing: Duration::from_secs(6),
            ..Timeouts::default()
        };
        let of = |original, reply| timeouts.of(6, &seen(original, 1), Some(&seen(reply, 1))).as_secs();
        assert_eq!((of(SYN, 0), of(SYN, RST), of(ACK, ACK)), (5, 6, 7440));
    }
}
