//! `Passage`: how far one passage through the walk's steps came.
//!
//! The programs make each passage a function of its own, which can hand back one number.

use router_common::net::{Address, Ipv4, Ipv6};
use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};

use crate::parse::tcp_flags;
use crate::walk::{Neighbour, Verdict};

/// Whether the slow path has already decided about the frame: then a flow it left is taken as it
/// is, fresh or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// The first passage.
    No,
    /// A further one: the fragment's datagram is known, or that the packet has no other port's frame in it.
    Found,
    /// A further one: the flow is decided.
    Yes,
}

/// What the slow path is asked about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Its flow.
    Flow = 0,
    /// A fragment's datagram.
    Datagram = 1,
    /// Whether there is another port's frame in it; of no IP version.
    Tunnel = 2,
    /// Where on a bridge it goes; of no IP version.
    Bridge = 3,
}

/// Where a passage ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At one of the ways out.
    Verdict(Verdict),
    /// At the flow table or at that of datagrams, unchanged: the slow path has to decide. The IP version tells
    /// whose.
    Undecided(u8, Question),
}

impl From<Verdict> for End {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// What came of a passage, as one number: bits 0 to 7 the outcome, or 0x80, the question in bits 4 to 6 and
/// the IP version; bit 8 "the neighbour is not resolved"; bit 9 "with SYN", bit 10 "to be cut", bit 11 "to get tags", bit 12 "has left"; bits 16 to 31 the port's row of counters; bits
/// 32 to 63 the interface, or the MTU.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage(u64);

const UNDECIDED: u64 = 0x80;
const UNRESOLVED: u64 = 0x100;
const BEGINS: u64 = 0x200;
const SYN_TO_BEGINS: u32 = 8;
const _: () = assert!((tcp_flags::SYN as u64) << SYN_TO_BEGINS == BEGINS);
const SPLIT: u64 = 0x400;
const TAGGED: u64 = 0x800;
const GONE: u64 = 0x1000;
const ROW: u64 = 0xffff_0000;

impl Passage {
    /// A passage that ended so; `slot` is the port's row of counters, 0 where there is no port, and below
    /// 65,536.
    #[inline(always)]
    pub const fn new(slot: u32, end: End) -> Self {
        let end = match end {
            End::Undecided(version, question) => UNDECIDED | (question as u64) << 4 | version as u64,
            End::Verdict(verdict) => Self::sent(verdict),
        };
        Self(end | (slot as u64 & 0xffff) << 16)
    }

    /// The same with the SYN of a TCP header, as it is among the flags.
    #[inline(always)]
    pub const fn with_syn(self, syn: u8) -> Self {
        Self(self.0 | ((syn & tcp_flags::SYN) as u64) << SYN_TO_BEGINS)
    }

    /// All bits but the row.
    #[inline(always)]
    const fn sent(verdict: Verdict) -> u64 {
        let (ifindex, neighbour, how) = match verdict {
            Verdict::Forward { ifindex, neighbour } => (ifindex, neighbour, 0),
            Verdict::Split { ifindex, neighbour } => (ifindex, neighbour, SPLIT),
            Verdict::TooBig { mtu } => (mtu as u32, Neighbour::Resolved, 0),
            Verdict::Sent => (0, Neighbour::Resolved, GONE),
            _ => (0, Neighbour::Resolved, 0),
        };
        let neighbour = match neighbour {
            Neighbour::Resolved => 0,
            Neighbour::Tagged => TAGGED,
            Neighbour::Unresolved => UNRESOLVED,
        };
        (ifindex as u64) << 32 | how | neighbour | verdict.outcome() as u64
    }

    /// The number.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// From the number.
    #[inline(always)]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The port's row of counters.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        (self.0 >> 16 & 0xffff) as u32
    }

    /// Whether it is of a segment with SYN, which speaks of the size of segments ([`crate::mss`]).
    #[inline(always)]
    pub const fn begins(self) -> bool {
        self.0 & BEGINS != 0
    }

    /// The same with another end, which needs nothing but its outcome.
    #[inline(always)]
    pub const fn ending(self, outcome: u32) -> Self {
        Self(self.0 & ROW | outcome as u64)
    }

    /// The same with its tags on, to leave by their trunk.
    #[inline(always)]
    pub const fn leaving_by(self, trunk: u32) -> Self {
        Self((trunk as u64) << 32 | self.0 & 0xffff_ffff & !TAGGED)
    }

    /// The same, having left in copies.
    #[inline(always)]
    pub const fn gone(self) -> Self {
        Self(self.0 & !TAGGED | GONE)
    }

    /// The outcome's place in a counter row. Where the slow path has no more to say it is a drop.
    #[inline(always)]
    pub const fn outcome(self) -> u32 {
        if self.0 & UNDECIDED != 0 { DropReason::FlowTableFull.outcome() } else { (self.0 & 0x7f) as u32 }
    }

    /// Whether it is left to the program behind.
    #[inline(always)]
    pub const fn is_deferred(self) -> bool {
        DeferReason::from_outcome(self.outcome()).is_some()
    }

    /// Whether it is sent, in pieces.
    #[inline(always)]
    pub const fn is_to_be_cut(self) -> bool {
        self.0 & SPLIT != 0
    }

    /// Whether it is sent, as a whole, by a port whose frames have tags.
    #[inline(always)]
    pub const fn needs_tags(self) -> bool {
        self.0 & (TAGGED | SPLIT) == TAGGED
    }

    /// Whether it ended with a packet that is to be sent as it is now, and that nothing more has to be done about.
    #[inline(always)]
    pub const fn is_sent(self) -> bool {
        self.0 & 0xffff == FORWARDED as u64
    }

    /// The interface that it leaves by.
    #[inline(always)]
    pub const fn ifindex(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether it ended with this question, and of which IP version.
    #[inline(always)]
    pub fn asks(self, question: Question) -> Option<u8> {
        let is_it = self.0 & 0xf0 == UNDECIDED | (question as u64) << 4;
        let version = if self.0 & 0xf == u64::from(Ipv6::VERSION) { Ipv6::VERSION } else { Ipv4::VERSION };
        is_it.then_some(version)
    }

    /// The verdict. Where the slow path has no more to say, and for a number that is none, a drop.
    #[inline(always)]
    pub fn verdict(self) -> Verdict {
        let ifindex = self.ifindex();
        // What nearly all are.
        if self.is_sent() {
            return Verdict::Forward { ifindex, neighbour: Neighbour::Resolved };
        }
        let outcome = (self.0 & 0xff) as u32;
        if outcome == FORWARDED {
            let neighbour = match self.0 & (TAGGED | UNRESOLVED) {
                0 => Neighbour::Resolved,
                TAGGED => Neighbour::Tagged,
                _ => Neighbour::Unresolved,
            };
            return match self.0 & (SPLIT | GONE) {
                0 => Verdict::Forward { ifindex, neighbour },
                SPLIT => Verdict::Split { ifindex, neighbour },
                _ => Verdict::Sent,
            };
        }
        if outcome == DropReason::TooBig.outcome() {
            return Verdict::TooBig { mtu: (self.0 >> 32) as u16 };
        }
        if let Some(reason) = PuntReason::from_outcome(outcome) {
            Verdict::Punt(reason)
        } else if let Some(reason) = DeferReason::from_outcome(outcome) {
            Verdict::Defer(reason)
        } else {
            Verdict::Drop(DropReason::from_outcome(outcome).unwrap_or(DropReason::FlowTableFull))
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn every_verdict_and_question_comes_back_from_its_number() {
        let passage = |end| Passage::from_number(Passage::new(255, end).number());
        let mut verdicts = [Neighbour::Resolved, Neighbour::Tagged, Neighbour::Unresolved]
            .into_iter()
            .flat_map(|neighbour| {
                let ifindex = u32::MAX;
                [Verdict::Forward { ifindex, neighbour }, Verdict::Split { ifindex, neighbour }]
            })
            .collect::<std::vec::Vec<_>>();
        let drops = DropReason::ALL.iter().filter(|reason| **reason != DropReason::TooBig);
        verdicts.extend(drops.map(|reason| Verdict::Drop(*reason)));
        verdicts.extend([Verdict::TooBig { mtu: 1400 }, Verdict::Sent]);
        verdicts.extend(PuntReason::ALL.iter().map(|reason| Verdict::Punt(*reason)));
        verdicts.extend(DeferReason::ALL.iter().map(|reason| Verdict::Defer(*reason)));
        for verdict in verdicts {
            let passage = passage(verdict.into());
            assert_eq!((passage.verdict(), passage.slot()), (verdict, 255));
            assert_eq!(passage.asks(Question::Flow), None);
        }
        let sent = passage(Verdict::Forward { ifindex: 7, neighbour: Neighbour::Tagged }.into());
        assert_eq!((sent.gone().verdict(), sent.gone().outcome()), (Verdict::Sent, FORWARDED));
        for (version, question, other) in
            [(4, Question::Flow, Question::Datagram), (6, Question::Datagram, Question::Flow)]
        {
            let passage = passage(End::Undecided(version, question));
            assert_eq!((passage.asks(question), passage.asks(other)), (Some(version), None));
            assert_eq!(passage.verdict(), Verdict::Drop(DropReason::FlowTableFull));
        }
    }
}
