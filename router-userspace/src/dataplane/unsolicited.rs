//! SYNs over IPv6 that the programs have refused and noted.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::IterableMap;
use router_common::flow::FlowKey;
use router_common::net::Ipv6;
use router_common::unsolicited::Syn;

use super::expiry::monotonic_now;
use super::maps::absent_is_fine;
use super::{Dataplane, batch};

/// A SYN that nobody inside has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsolicitedSyn {
    /// Who has sent it.
    pub from: Ipv6Addr,
    /// The interface that it came in by.
    pub ifindex: u32,
    /// Its IPv6 and TCP header.
    pub headers: [u8; 60],
}

/// An answer that comes so much later than it might have is none any more.
const LATE: Duration = Duration::from_secs(10);

impl Dataplane {
    /// Takes the oldest of the SYNs that came longer than `patience` ago and whose flow nobody inside has opened
    /// since, at most so many. Those whose flow is there are forgotten.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn take_unsolicited_syns(&mut self, patience: Duration, most: usize) -> Result<Vec<UnsolicitedSyn>> {
        let (keys, syns) = batch::read::<FlowKey<Ipv6>, Syn>(self.tables.syns.map(), 1, 0, usize::MAX)?;
        let now = monotonic_now();
        let mut due: Vec<_> =
            keys.into_iter().zip(syns).filter(|(_, syn)| is_due(syn, now, patience)).collect();
        due.sort_by_key(|(_, syn)| syn.at);
        let mut taken = Vec::new();
        for (key, syn) in due {
            let is_late = is_due(&syn, now, patience + LATE);
            let is_opened = self.tables.flows6.get(&key, 0).is_ok();
            if !is_late && !is_opened && taken.len() == most {
                continue;
            }
            absent_is_fine(self.tables.syns.remove(&key)).context("forget a SYN")?;
            if !is_late && !is_opened {
                taken.push(taken_from(&key, &syn));
            }
        }
        Ok(taken)
    }
}

fn is_due(syn: &Syn, now: u64, patience: Duration) -> bool {
    u128::from(now.saturating_sub(syn.at)) >= patience.as_nanos()
}

fn taken_from(key: &FlowKey<Ipv6>, syn: &Syn) -> UnsolicitedSyn {
    let mut headers = [0; 60];
    for (bytes, word) in headers.chunks_exact_mut(4).zip(syn.headers) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    UnsolicitedSyn { from: key.src.into(), ifindex: syn.ifindex, headers }
}
