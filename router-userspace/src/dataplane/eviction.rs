//! Eviction: flows that go before their time, so that there is room before it is needed.
//!
//! ```text
//!   0 ──────────────── LOW ─────────────── HIGH ──────────── full: new flows are refused
//!                       ◀── old victims go ──┤
//!                                            ◀── young ones ──┤
//! ```
//! Above [`HIGH`] flows are evicted: of those that have been silent for a while ([`YOUNG`]) the ones of
//! least [`Worth`] and among them the longest silent, down to [`LOW`]. One that is younger may be about
//! to be answered: it goes only where the table would stay above `HIGH` without that. What is in use is
//! never evicted: a table full of it refuses new flows.
//!
//! Invariant: a flow goes with both its entries, and not if it has seen a packet meanwhile.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{IterableMap, MapData};
use router_common::flow::{FlowEntry, FlowKey};
use router_common::nat::{Binding, BindingKey, ExternalKey};
use router_common::net::{Ipv4, Ipv6};

use super::cutting::is_cut;
use super::expiry::{Idle, TcpStage};
use super::{Dataplane, batch};
use crate::model::Timeouts;

/// Of a thousand places this many may be taken before anything is evicted.
pub const HIGH: usize = 750;
/// Of a thousand places this many are taken when enough is evicted.
pub const LOW: usize = 500;
/// A flow that was used so recently may be about to be answered: a handshake takes as long as a round
/// trip, and a second more when its first packet is lost.
const YOUNG: Duration = Duration::from_secs(2);

/// How much is lost with a flow that goes before its time, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// Nobody has answered; of TCP, not both sides have acknowledged.
    HalfOpen,
    /// TCP after RST, or FIN from both sides, or cut.
    Closing,
    /// Answered, but silent for longer than an unanswered flow may be.
    Silent,
}

impl Worth {
    /// `None` for what is in use.
    pub(super) fn of<A>(
        protocol: u8,
        original: &FlowEntry<A>,
        reply: Option<&FlowEntry<A>>,
        silent: Duration,
        timeouts: &Timeouts,
    ) -> Option<Self> {
        match protocol {
            _ if is_cut(original) => Some(Self::Closing),
            6 => match TcpStage::of(original, reply) {
                TcpStage::Opening => Some(Self::HalfOpen),
                TcpStage::Closing => Some(Self::Closing),
                TcpStage::Established => None,
            },
            _ if reply.is_none_or(|reply| reply.traffic().packets == 0) => Some(Self::HalfOpen),
            _ => (silent > timeouts.udp_unanswered).then_some(Self::Silent),
        }
    }
}

/// A flow that may be evicted.
pub(super) struct Victim<A> {
    pub(super) worth: Worth,
    pub(super) idle: Idle<A>,
    /// The external end of the binding that it uses.
    pub(super) external: Option<ExternalKey>,
}

impl<A> Victim<A> {
    pub(super) const fn idle(&self) -> &Idle<A> {
        &self.idle
    }
}

/// How many places are taken, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) taken: usize,
    pub(super) room: usize,
}

impl Usage {
    /// In thousandths.
    pub(super) const fn fullness(self) -> usize {
        match (self.taken * 1000).checked_div(self.room) {
            Some(thousandths) => thousandths,
            None => 0,
        }
    }

    /// How many have to go so that a mark is not exceeded.
    const fn above(self, mark: usize) -> usize {
        self.taken.saturating_sub(self.room * mark / 1000)
    }
}

/// How many flows have to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Want {
    /// As long as there are old ones.
    pub(super) old: usize,
    /// Whatever their age.
    pub(super) any: usize,
}

impl Want {
    /// Of a table where a flow takes `places`.
    pub(super) const fn of(usage: Usage, places: usize) -> Self {
        match usage.above(HIGH) {
            0 => Self { old: 0, any: 0 },
            any => Self { old: usage.above(LOW).div_ceil(places), any: any.div_ceil(places) },
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self { old: self.old.max(other.old), any: self.any.max(other.any) }
    }
}

/// Those that go, in order, of those that may.
pub(super) fn choose<A>(mut victims: Vec<Victim<A>>, want: Want, now: u64) -> Vec<Victim<A>> {
    let is_young = |seen: u64| now.saturating_sub(seen) < YOUNG.as_nanos() as u64;
    victims.sort_unstable_by_key(|victim| (is_young(victim.idle.seen), victim.worth, victim.idle.seen));
    let old = victims.iter().take_while(|victim| !is_young(victim.idle.seen)).count();
    victims.truncate(old.min(want.old).max(want.any));
    victims
}

/// What was evicted since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// How many flows.
    pub flows: u64,
    /// When the last time was, nanoseconds of the monotonic clock; 0 for never.
    pub last: u64,
}

impl Dataplane {
    /// What was evicted so far.
    pub const fn evictions(&self) -> Evictions {
        self.evictions
    }

    /// About how full the fullest of the tables of flows and bindings is, in thousandths. Reads a
    /// small part of each: cheap enough to be asked often.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn fullness(&self) -> Result<usize> {
        let tables = &self.tables;
        let usages = [
            estimate::<FlowKey<Ipv4>, FlowEntry<Ipv4>>(tables.flows4.map())?,
            estimate::<FlowKey<Ipv6>, FlowEntry<Ipv6>>(tables.flows6.map())?,
            estimate::<BindingKey, Binding>(tables.bindings.map())?,
        ];
        Ok(usages.into_iter().map(Usage::fullness).max().unwrap_or(0))
    }

    /// Room for flow entries of each address family.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn flow_room(&self) -> Result<usize> {
        room(self.tables.flows4.map())
    }
}

/// How many entries a table has room for.
pub(super) fn room(map: &MapData) -> Result<usize> {
    Ok(map.info().context("ask how large a map is")?.max_entries() as usize)
}

fn estimate<K: Pod, V: Pod>(map: &MapData) -> Result<Usage> {
    let room = room(map)?;
    Ok(Usage { taken: batch::estimate::<K, V>(map, room)?, room })
}

#[cfg(test)]
mod tests {
    use router_common::net::Be16;

    use super::super::expiry::tests::{ACK, FIN, RST, SYN, seen};
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn worth(protocol: u8, original: (u8, u32), reply: (u8, u32), silent: u64) -> Option<Worth> {
        let (original, reply) = (seen(original.0, original.1), seen(reply.0, reply.1));
        Worth::of(protocol, &original, Some(&reply), Duration::from_secs(silent), &Timeouts::default())
    }

    #[test]
    fn an_established_connection_is_never_evicted_however_long_it_is_silent() {
        let flags = SYN | ACK;
        assert_eq!(worth(6, (flags, 2), (flags, 1), 0), None);
        assert_eq!(worth(6, (flags, 2), (flags, 1), 7000), None);
        assert_eq!(worth(6, (flags | FIN, 3), (flags, 1), 7000), None, "half-closed");
    }

    #[test]
    fn half_open_goes_before_closing_and_that_before_what_was_answered_long_ago() {
        let half_open = Some(Worth::HalfOpen);
        assert_eq!(worth(6, (SYN, 1), (0, 0), 0), half_open);
        assert_eq!(worth(6, (SYN, 1), (SYN | ACK, 1), 0), half_open);
        assert_eq!(worth(6, (ACK, 9), (0, 0), 0), half_open);
        for protocol in [17, 1, 58, 47] {
            assert_eq!(worth(protocol, (0, 9), (0, 0), 0), half_open);
            assert_eq!(worth(protocol, (0, 1), (0, 1), 119), None);
            assert_eq!(worth(protocol, (0, 1), (0, 1), 121), Some(Worth::Silent));
        }
        assert_eq!(worth(6, (SYN, 1), (RST | ACK, 1), 0), Some(Worth::Closing));
        assert_eq!(worth(6, (SYN | ACK | FIN, 1), (SYN | ACK | FIN, 1), 0), Some(Worth::Closing));
        assert!(Worth::HalfOpen < Worth::Closing && Worth::Closing < Worth::Silent);
        // A reply entry that is not there has answered nothing.
        let alone = Worth::of(17, &seen(0, 1), None, Duration::ZERO, &Timeouts::default());
        assert_eq!(alone, half_open);
    }

    /// The ports of those that go, in order, of flows with a port, a worth and an age in seconds.
    fn chosen(flows: &[(u16, Worth, u64)], want: Want) -> Vec<u16> {
        let now = 1000 * SECOND;
        let victim = |&(port, worth, age): &(u16, Worth, u64)| {
            let key = FlowKey {
                src: Ipv4::UNSPECIFIED,
                dst: Ipv4::UNSPECIFIED,
                src_port: Be16::new(port),
                dst_port: Be16::new(0),
                router: 0,
                protocol: 17,
                pad: 0,
            };
            let idle = Idle { key, reply_key: key.reverse(), seen: now - age * SECOND };
            Victim { worth, idle, external: None }
        };
        let chosen = choose(flows.iter().map(victim).collect(), want, now);
        chosen.iter().map(|victim| victim.idle.key.src_port.get()).collect()
    }

    #[test]
    fn the_oldest_of_the_least_worth_go_and_young_ones_only_in_need() {
        use Worth::{Closing, HalfOpen, Silent};
        let flows = [
            (1, Silent, 200),
            (2, Closing, 90),
            (3, HalfOpen, 5),
            (4, HalfOpen, 50),
            (5, HalfOpen, 1),
            (6, HalfOpen, 0),
            (7, Closing, 0),
        ];
        assert!(chosen(&flows, Want::default()).is_empty());
        assert_eq!(chosen(&flows, Want { old: 1, any: 0 }), [4]);
        assert_eq!(chosen(&flows, Want { old: 3, any: 1 }), [4, 3, 2]);
        assert_eq!(chosen(&flows, Want { old: 9, any: 1 }), [4, 3, 2, 1]);
        assert_eq!(chosen(&flows, Want { old: 9, any: 5 }), [4, 3, 2, 1, 5]);
        assert_eq!(chosen(&flows, Want { old: 9, any: 9 }), [4, 3, 2, 1, 5, 6, 7]);
    }

    #[test]
    fn nothing_has_to_go_below_the_high_mark_and_above_it_down_to_the_low_one() {
        let want = |taken| Want::of(Usage { taken, room: 4000 }, 2);
        assert_eq!(want(0), Want::default());
        assert_eq!(want(3000), Want::default());
        assert_eq!(want(3002), Want { old: 501, any: 1 });
        assert_eq!(want(4000), Want { old: 1000, any: 500 });
        assert_eq!(Want::of(Usage { taken: 0, room: 0 }, 2), Want::default());
        assert_eq!(Usage { taken: 3, room: 4 }.fullness(), 750);
    }
}
