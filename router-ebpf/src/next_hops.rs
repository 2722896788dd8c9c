//! Ways out by number: an entry of the flow table says which one, so that it need not hold all that leads there.
//!
//! A flow's packets believe its number for [`TOLD`](crate::conntrack::TOLD) at most after it was looked up, and each
//! time it is looked up its place is marked as in use. So a place that was not marked for [`KEPT`] is nobody's, and a
//! CPU that needs one takes it; nothing has to be counted or swept.
//!
//! ```text
//! free ──▶ taken ──▶ used (when) ──▶ used (later) ... not for KEPT ──▶ taken ──▶ used, by another way out
//! ```

use router_common::flow::{KeptNextHop, NEXT_HOPS, NextHop};
use router_common::net::MacPair;

use crate::conntrack::TOLD;

/// How long a place stays a way out's own, in nanoseconds. One that is half as old is marked anew.
const KEPT: u64 = 3 * TOLD;

/// How many places a way out may have.
const PLACES: u32 = 16;

/// A place of the table, which several CPUs share.
pub trait Place {
    /// [`KeptNextHop::used`]. What is read afterwards is no older.
    fn used(&self) -> u64;
    /// Replaces that, if it still is what it was. Atomic, and whoever sees it sees what was written before.
    fn replace_used(&self, old: u64, new: u64) -> bool;
    /// The way out.
    fn next_hop(&self) -> NextHop;
    /// Writes it.
    fn set_next_hop(&self, next_hop: &NextHop);
}

/// The number of a way out from `now` on, nanoseconds; `None` where others have all its places. There is a place for
/// each number.
#[inline(always)]
pub fn keep<P: Place>(
    place: impl Fn(u16) -> Option<P>,
    next_hop: &NextHop,
    seed: u32,
    now: u64,
) -> Option<u16> {
    let mut hash = hash(next_hop, seed);
    let step = hash >> 16 | 1;
    for _ in 0..PLACES {
        let number = hash as u16;
        if number != 0 && keep_at(&place(number)?, next_hop, now) {
            return Some(number);
        }
        hash = hash.wrapping_add(step);
    }
    None
}

/// Whether a place has the way out, from now on or still.
#[inline(always)]
fn keep_at<P: Place>(place: &P, next_hop: &NextHop, now: u64) -> bool {
    let (used, now) = (place.used(), now | 1);
    // Another CPU's clock may be a little ahead.
    let age = now.saturating_sub(used);
    match used {
        KeptNextHop::TAKEN => false,
        KeptNextHop::FREE => take(place, used, next_hop, now),
        _ if place.next_hop() == *next_hop => age < KEPT / 2 || place.replace_used(used, now),
        _ => age > KEPT && take(place, used, next_hop, now),
    }
}

#[inline(always)]
fn take<P: Place>(place: &P, used: u64, next_hop: &NextHop, now: u64) -> bool {
    if !place.replace_used(used, KeptNextHop::TAKEN) {
        return false;
    }
    place.set_next_hop(next_hop);
    place.replace_used(KeptNextHop::TAKEN, now)
}

/// Where to look first, in the lower half; in the upper half how far it is to the next place. Guests choose their own
/// Ethernet addresses, but do not know the seed.
#[inline(always)]
fn hash(next_hop: &NextHop, seed: u32) -> u32 {
    let NextHop { ifindex, macs: MacPair([a, b, c]), mtu, flags } = *next_hop;
    let mix = |hash: u32, word: u32| {
        let product = (hash ^ word).wrapping_mul(0x9e37_79b1);
        product ^ product >> 15
    };
    mix(mix(mix(mix(mix(seed, ifindex), a), b), c), u32::from(mtu) << 16 | u32::from(flags))
}

const _: () = assert!(NEXT_HOPS == 1 << u16::BITS);

#[cfg(test)]
mod tests {
    extern crate std;
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use std::collections::BTreeMap;
    use std::thread;
    use std::vec::Vec;

    use super::*;

    struct Shelf(Vec<Slot>);

    #[derive(Default)]
    struct Slot {
        used: AtomicU64,
        words: [AtomicU32; 5],
    }

    impl Shelf {
        fn new() -> Self {
            Self((0..NEXT_HOPS).map(|_| Slot::default()).collect())
        }

        fn keep(&self, next_hop: &NextHop, now: u64) -> Option<u16> {
            super::keep(|number| self.0.get(usize::from(number)), next_hop, 7, now)
        }

        fn at(&self, number: u16) -> &Slot {
            &self.0[usize::from(number)]
        }
    }

    impl Place for &Slot {
        fn used(&self) -> u64 {
            self.used.load(Ordering::SeqCst)
        }
        fn replace_used(&self, old: u64, new: u64) -> bool {
            self.used.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        }
        fn next_hop(&self) -> NextHop {
            let [ifindex, a, b, c, rest] =
                [0, 1, 2, 3, 4].map(|word| self.words[word].load(Ordering::SeqCst));
            NextHop { ifindex, macs: MacPair([a, b, c]), mtu: (rest >> 16) as u16, flags: rest as u16 }
        }
        fn set_next_hop(&self, next_hop: &NextHop) {
            let NextHop { ifindex, macs: MacPair([a, b, c]), mtu, flags } = *next_hop;
            let words = [ifindex, a, b, c, u32::from(mtu) << 16 | u32::from(flags)];
            for (word, value) in self.words.iter().zip(words) {
                word.store(value, Ordering::SeqCst);
            }
        }
    }

    fn neighbour(number: u32) -> NextHop {
        let [a, b, c, d] = number.to_be_bytes();
        NextHop { ifindex: 3, macs: MacPair::new([2, 0, a, b, c, d], [2; 6]), mtu: 1500, flags: 1 }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_way_out_has_one_number_for_as_long_as_it_is_in_use() {
        let shelf = Shelf::new();
        let number = shelf.keep(&neighbour(1), 5 * SECOND);
        assert!(number.is_some_and(|number| number != 0));
        for minute in 1..600 {
            assert_eq!(shelf.keep(&neighbour(1), minute * 60 * SECOND), number, "minute {minute}");
        }
    }

    #[test]
    fn thirty_thousand_neighbours_at_once_have_numbers_of_their_own_and_others_later() {
        let shelf = Shelf::new();
        for (round, now) in [SECOND, SECOND + KEPT + SECOND].into_iter().enumerate() {
            let mut owners = BTreeMap::new();
            for host in 0..30_000 {
                let host = host + round as u32 * 30_000;
                let number = shelf.keep(&neighbour(host), now).expect("there is room");
                assert_eq!(owners.insert(number, host), None, "{number} has two owners");
            }
            let number = *owners.keys().next().unwrap();
            assert_eq!(shelf.at(number).next_hop(), neighbour(owners[&number]));
        }
    }

    #[test]
    fn who_finds_no_room_takes_nobody_elses() {
        let shelf = Shelf::new();
        let mut owners = BTreeMap::new();
        for host in 0..70_000 {
            if let Some(number) = shelf.keep(&neighbour(host), SECOND) {
                assert_eq!(owners.insert(number, host), None);
            }
        }
        assert!(owners.len() > 60_000 && owners.len() < 1 << 16);
        for (number, host) in owners {
            assert_eq!(shelf.at(number).next_hop(), neighbour(host));
        }
    }

    #[test]
    fn a_number_that_was_just_given_out_stays_what_it_is_while_others_take_places() {
        let shelf = Shelf::new();
        let clock = AtomicU64::new(SECOND);
        let work = |thread: u32| {
            // More than there is room for, and time flies: places are taken over from others all the while.
            for step in 0..200_000u32 {
                let host = step.wrapping_mul(2_654_435_761).wrapping_add(thread) >> 15;
                let now = clock.fetch_add(KEPT / 50_000, Ordering::SeqCst);
                let Some(number) = shelf.keep(&neighbour(host), now) else { continue };
                let found = shelf.at(number).next_hop();
                // Who was held up for so long has been overtaken, as no program can be.
                let used = shelf.at(number).used();
                let is_overtaken = used == KeptNextHop::TAKEN || used > now + KEPT / 2;
                assert!(found == neighbour(host) || is_overtaken, "{host} was told {number}");
            }
        };
        let work = &work;
        thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || work(number));
            }
        });
    }
}
