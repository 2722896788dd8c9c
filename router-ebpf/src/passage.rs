//! `Passage`: how far one passage through the walk's steps came.
//!
//! The programs make each passage a function of its own, which can hand back one number.

use router_common::net::{Address, Ipv4, Ipv6};
use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};

use crate::walk::{Neighbour, Verdict};

/// Whether the slow path has already decided about the frame: then a flow it left is taken as it
/// is, fresh or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// The first passage.
    No,
    /// The second.
    Yes,
}

/// Where a passage ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At one of the ways out.
    Verdict(Verdict),
    /// At the flow table, unchanged: the slow path has to decide. The IP version tells whose.
    Undecided(u8),
}

impl From<Verdict> for End {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// What came of a passage.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The port's row of counters, 0 where there is no port. Below 65,536.
    pub slot: u32,
    /// Where it ended.
    pub end: End,
}

const UNDECIDED: u64 = 0x80;
const UNRESOLVED: u64 = 0x100;

impl Passage {
    /// As one number: bits 0 to 7 the outcome, or 0x80 and the IP version; bit 8 "the neighbour is
    /// not resolved"; bits 16 to 31 the slot; bits 32 to 63 the interface.
    #[inline(always)]
    pub const fn to_number(self) -> u64 {
        let end = match self.end {
            End::Undecided(version) => UNDECIDED | version as u64,
            End::Verdict(Verdict::Forward { ifindex, neighbour: Neighbour::Resolved }) => {
                (ifindex as u64) << 32 | FORWARDED as u64
            }
            End::Verdict(Verdict::Forward { ifindex, neighbour: Neighbour::Unresolved }) => {
                (ifindex as u64) << 32 | UNRESOLVED | FORWARDED as u64
            }
            End::Verdict(verdict) => verdict.outcome() as u64,
        };
        end | (self.slot as u64 & 0xffff) << 16
    }

    /// The reverse. A number that is none is a drop.
    #[inline(always)]
    pub fn from_number(number: u64) -> Self {
        let outcome = (number & 0x7f) as u32;
        let end = if number & UNDECIDED != 0 {
            End::Undecided(if outcome == Ipv6::VERSION as u32 { Ipv6::VERSION } else { Ipv4::VERSION })
        } else if outcome == FORWARDED {
            let unresolved = number & UNRESOLVED != 0;
            End::Verdict(Verdict::Forward {
                ifindex: (number >> 32) as u32,
                neighbour: if unresolved { Neighbour::Unresolved } else { Neighbour::Resolved },
            })
        } else if let Some(reason) = PuntReason::from_outcome(outcome) {
            End::Verdict(Verdict::Punt(reason))
        } else if let Some(reason) = DeferReason::from_outcome(outcome) {
            End::Verdict(Verdict::Defer(reason))
        } else {
            let reason = DropReason::from_outcome(outcome).unwrap_or(DropReason::RewriteFailed);
            End::Verdict(Verdict::Drop(reason))
        };
        Self { slot: (number >> 16 & 0xffff) as u32, end }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn every_end_comes_back_from_its_number() {
        let forward = |neighbour| End::Verdict(Verdict::Forward { ifindex: u32::MAX, neighbour });
        let mut ends = std::vec![
            End::Undecided(4),
            End::Undecided(6),
            forward(Neighbour::Resolved),
            forward(Neighbour::Unresolved),
        ];
        ends.extend(DropReason::ALL.iter().map(|reason| End::Verdict(Verdict::Drop(*reason))));
        ends.extend(PuntReason::ALL.iter().map(|reason| End::Verdict(Verdict::Punt(*reason))));
        ends.extend(DeferReason::ALL.iter().map(|reason| End::Verdict(Verdict::Defer(*reason))));
        for end in ends {
            let passage = Passage { slot: 255, end };
            assert_eq!(Passage::from_number(passage.to_number()), passage);
        }
    }
}
