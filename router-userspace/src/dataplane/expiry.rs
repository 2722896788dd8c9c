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

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{HashMap, MapData};
use router_common::flow::{Direction, FlowEntry, FlowKey};
use router_common::net::{Address, Ipv4};

use super::Dataplane;
use super::maps::absent_is_fine;
use super::pools::external_key;
use super::stats::{entries, reply_key};
use crate::model::Timeouts;

const FIN: u8 = 1;
const RST: u8 = 4;
const ACK: u8 = 16;

impl Timeouts {
    /// How long a flow may be silent, by its protocol and what its two directions have seen.
    fn of<A>(&self, protocol: u8, original: &FlowEntry<A>, reply: Option<&FlowEntry<A>>) -> Duration {
        let (flags, reply_flags) = (original.tcp_flags, reply.map_or(0, |reply| reply.tcp_flags));
        match protocol {
            6 if (flags | reply_flags) & RST != 0 || flags & reply_flags & FIN != 0 => self.tcp_closing,
            6 if flags & reply_flags & ACK != 0 => self.tcp_established,
            6 => self.tcp_opening,
            17 if reply.is_some_and(|reply| reply.packets > 0) => self.udp,
            17 => self.udp_unanswered,
            1 | 58 => self.icmp,
            _ => self.other,
        }
    }
}

impl Dataplane {
    /// Removes flows whose time is over, both directions, and gives back the external ports of
    /// bindings that have none left; says how many flows.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn expire(&mut self, timeouts: &Timeouts) -> Result<usize> {
        let now = monotonic_now();
        let mut bound = HashSet::new();
        let mut note = |key: &FlowKey<Ipv4>, entry: &FlowEntry<Ipv4>| {
            if entry.translation & FlowEntry::<Ipv4>::BOUND != 0 {
                bound.insert(external_key(key, entry));
            }
        };
        let removed = expire_family(&mut self.tables.flows4, timeouts, now, &mut note)?
            + expire_family(&mut self.tables.flows6, timeouts, now, &mut |_, _| {})?;
        self.settle_pools(&bound, now, timeouts.hold_down)?;
        Ok(removed)
    }
}

fn expire_family<A>(
    flows: &mut HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    timeouts: &Timeouts,
    now: u64,
    survives: &mut impl FnMut(&FlowKey<A>, &FlowEntry<A>),
) -> Result<usize>
where
    A: Address + Hash,
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let all = entries(flows)?;
    let mut removed = 0;
    for (key, entry) in &all {
        let other_key = reply_key(key, entry);
        let other = all.get(&other_key);
        // A reply is its original's business, unless that has gone without it.
        if entry.direction == Direction::Reply as u8 && other.is_some() {
            continue;
        }
        let timeout = timeouts.of(key.protocol, entry, other).as_nanos() as u64;
        let seen = entry.last_seen.max(other.map_or(0, |other| other.last_seen));
        if now.saturating_sub(seen) <= timeout
            || refreshed(flows, key, seen)
            || refreshed(flows, &other_key, seen)
        {
            survives(key, entry);
            continue;
        }
        // The original first: a packet that comes in between opens the flow anew.
        absent_is_fine(flows.remove(key)).context("remove a flow")?;
        absent_is_fine(flows.remove(&other_key)).context("remove a flow's reply")?;
        removed += 1;
    }
    Ok(removed)
}

/// Whether an entry has seen a packet since the table was read.
fn refreshed<A>(flows: &HashMap<MapData, FlowKey<A>, FlowEntry<A>>, key: &FlowKey<A>, seen: u64) -> bool
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    flows.get(key, 0).is_ok_and(|entry| entry.last_seen > seen)
}

/// The clock that the programs read, nanoseconds.
pub(crate) fn monotonic_now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid timespec to be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use router_common::flow::{NextHop, Rewrite};
    use router_common::net::Be16;

    use super::*;

    const SYN: u8 = 2;

    fn seen(tcp_flags: u8, packets: u64) -> FlowEntry<Ipv4> {
        let (address, port) = (Ipv4::UNSPECIFIED, Be16::new(0));
        FlowEntry {
            last_seen: 0,
            resolved: 0,
            opened: 0,
            packets,
            bytes: 0,
            rewrite: Rewrite {
                src: address,
                dst: address,
                src_port: port,
                dst_port: port,
                address_delta: 0,
                port_delta: 0,
            },
            next_hop: NextHop::UNKNOWN,
            generation: 0,
            ingress: 0,
            pinned: 0,
            tcp_ack: 0,
            tcp_flags,
            direction: 0,
            ingress_role: 0,
            translation: 0,
        }
    }

    fn minutes(protocol: u8, original: (u8, u64), reply: (u8, u64)) -> u64 {
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
