//! Datagrams that come in fragments (RFC 791 §3.2, RFC 8200 §4.5, RFC 4787 REQ-14).
//!
//! - A datagram is known by its ends, its protocol and its identification, until all of it has come.
//! - Its first fragment alone has ports; the others belong to the same flow, and wait for it where they are
//!   earlier: 48 of a datagram, 256 of a source. When it comes, it and they come in again.
//! - What covers eight bytes that have come is refused, whatever became of those (RFC 1858, RFC 5722).
//! - All of a datagram leaves with one identification: its own, but where the source is translated, since
//!   guests behind one address must not share one (RFC 6864 §5.2).

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use super::probe::{Probe, Tuple};
use super::{Fate, Why};

const HELD_OF_A_DATAGRAM: usize = 48;
const HELD_OF_A_SOURCE: usize = 256;

/// Ends, protocol and identification.
type Name = (IpAddr, IpAddr, u8, u16);

/// Those under way.
#[derive(Debug, Default)]
pub struct Datagrams {
    under_way: HashMap<Name, Datagram>,
    /// How many fragments of a source were to wait.
    early: HashMap<IpAddr, usize>,
}

#[derive(Debug, Default)]
struct Datagram {
    /// What the first fragment said, once it has come.
    first: Option<Tuple>,
    /// What has come, in units of eight bytes.
    came: Vec<Range<usize>>,
    /// How many units were taken.
    taken: usize,
    /// Where it ends, once its last fragment has come.
    end: Option<usize>,
    waiting: Vec<Probe>,
    /// What it leaves with.
    id: Option<u16>,
}

fn name(probe: &Probe) -> Name {
    (probe.src, probe.dst, probe.protocol(), probe.piece.map_or(0, |piece| piece.id))
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Datagrams {
    /// The key of a fragment's flow.
    pub fn tuple(&self, probe: &Probe) -> Option<Tuple> {
        if probe.is_later() { self.under_way.get(&name(probe))?.first } else { probe.tuple() }
    }

    /// What becomes of a fragment whatever its flow is; none if that decides.
    pub fn expect(&self, probe: &Probe) -> Option<Fate> {
        let none = Datagram::default();
        let datagram = self.under_way.get(&name(probe)).unwrap_or(&none);
        if datagram.first.is_none() && probe.is_later() {
            let is_full = datagram.waiting.len() >= HELD_OF_A_DATAGRAM
                || self.early.get(&probe.src).is_some_and(|held| *held >= HELD_OF_A_SOURCE);
            return Some(if is_full { Fate::Dropped(Why::NotHeld) } else { Fate::Held });
        }
        if !datagram.waiting.is_empty() {
            return Some(Fate::Held);
        }
        let part = probe.units();
        let is_double = datagram.came.iter().any(|came| overlap(came, &part));
        is_double.then_some(Fate::Dropped(Why::Overlap))
    }

    /// Takes note of a fragment that became what was expected, and left with an identification if it did;
    /// hands back what comes in again.
    ///
    /// # Errors
    /// The identification is another than the datagram's.
    pub fn note(&mut self, probe: &Probe, left: Option<u16>) -> Result<Vec<Probe>, String> {
        let fate = self.expect(probe);
        let datagram = self.under_way.entry(name(probe)).or_default();
        if datagram.first.is_none() && probe.is_later() {
            *self.early.entry(probe.src).or_default() += 1;
            if fate == Some(Fate::Held) {
                datagram.waiting.push(probe.clone());
            }
            return Ok(vec![]);
        }
        if datagram.first.is_none() {
            datagram.first = probe.tuple();
        }
        if fate == Some(Fate::Held) {
            let waiting = std::mem::take(&mut datagram.waiting);
            return Ok(std::iter::once(probe.clone()).chain(waiting).collect());
        }
        if let Some(left) = left
            && *datagram.id.get_or_insert(left) != left
        {
            return Err(format!("left with identification {left}, after {:?}", datagram.id));
        }
        let part = probe.units();
        datagram.came.push(part.clone());
        if fate.is_none() {
            datagram.taken += part.len();
            if probe.is_last() {
                datagram.end = Some(part.end);
            }
            if datagram.end == Some(datagram.taken) {
                self.under_way.remove(&name(probe));
            }
        }
        Ok(vec![])
    }
}
