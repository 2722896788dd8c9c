//! Which external port a new binding gets.
//!
//! The guest's own, if it is free; else an unpredictable one of the same parity and range (RFC 4787
//! REQ-3a and REQ-4, RFC 7857 §9); else one of the other parity. The last free port of 64,512
//! is found as fast as the first: a word of 64 ports that is full has a bit in a summary, and the
//! search looks at no more than 16 words of that, twice. The ports of the router's own sockets come
//! when all others are gone.

use router_common::config::RouterConfig;
use router_common::nat::Pool;

/// The external ports of one address and protocol, see [`Pool`]. Several CPUs share one.
pub trait PortPool {
    /// A word of bits.
    fn word(&self, word: u32) -> u64;
    /// Sets bits of a word; returns what was there. Atomic.
    fn claim(&self, word: u32, bits: u64) -> u64;
    /// Clears bits of a word. Atomic.
    fn release(&self, word: u32, bits: u64);
    /// A word of the summary.
    fn full(&self, group: u32) -> u64;
    /// Sets bits of the summary. Atomic.
    fn set_full(&self, group: u32, bits: u64);
    /// Clears bits of the summary. Atomic.
    fn clear_full(&self, group: u32, bits: u64);
    /// Notes that a port had to be shared.
    fn count_shared(&self);
    /// [`attempt`]; the programs make it a function of its own.
    fn attempt(&self, round: u32, wanted: u16, random: u32) -> Option<u16>
    where
        Self: Sized,
    {
        attempt(self, round, wanted, random)
    }
}

/// Words of the summary per half.
const GROUPS: u32 = Pool::HALF / 64;
/// Words of the first group that have the ports below 1024.
const LOW: u64 = 0xff;

/// Claims a port for a guest's socket; `None` when none of its range is left.
#[inline(always)]
pub fn take<P: PortPool>(pool: &P, wanted: u16, random: u32) -> Option<u16> {
    (0..=4 * GROUPS).find_map(|round| pool.attempt(round, wanted, random))
}

/// One look: in round 0 at the port itself; then at one group of words after the other, those of the
/// same parity first, and all of them again with the router's own ports.
#[inline(always)]
pub fn attempt<P: PortPool>(pool: &P, round: u32, wanted: u16, random: u32) -> Option<u16> {
    let (first, last) = RouterConfig::OWN_PORTS;
    let Some(round) = round.checked_sub(1) else {
        let is_own = first <= wanted && wanted <= last;
        let is_free = wanted != 0 && !is_own && claim(pool, Pool::word(wanted), Pool::bit(wanted));
        return is_free.then_some(wanted);
    };
    let half = ((u32::from(wanted) ^ (round / GROUPS)) & 1) * GROUPS;
    let group = random.wrapping_add(round) % GROUPS;
    let own = if round < 2 * GROUPS { Some((first, last)) } else { None };
    let candidates = !pool.full(half + group) & allowed(group, wanted < 1024, own);
    if candidates == 0 {
        return None;
    }
    let word = (half + group) * 64 + pick(candidates, random >> 3);
    // Port 0 is none.
    let free = !(pool.word(word) | u64::from(word == 0));
    if free == 0 {
        pool.set_full(half + group, 1 << (word & 63));
        return None;
    }
    let bit = pick(free, random >> 9);
    claim(pool, word, bit).then(|| Pool::port(word, bit))
}

/// Gives a port back.
#[inline(always)]
pub fn give_back<P: PortPool>(pool: &P, port: u16) {
    let word = Pool::word(port);
    pool.release(word, 1 << Pool::bit(port));
    pool.clear_full(word / 64, 1 << (word & 63));
}

/// The words of a group that may be searched: those of the range, without `own` ports.
#[inline(always)]
const fn allowed(group: u32, low: bool, own: Option<(u16, u16)>) -> u64 {
    if low {
        return if group == 0 { LOW } else { 0 };
    }
    let range = if group == 0 { !LOW } else { u64::MAX };
    let Some((first, last)) = own else { return range };
    let (first, last) = (first as u32 >> 7, last as u32 >> 7);
    if first / 64 != group {
        return range;
    }
    range & !((u64::MAX << (first & 63)) & (u64::MAX >> (63 - (last & 63))))
}

/// Claims a bit; whether it was free.
#[inline(always)]
fn claim<P: PortPool>(pool: &P, word: u32, bit: u32) -> bool {
    let before = pool.claim(word, 1 << bit);
    let (group, in_group) = (word / 64, 1u64 << (word & 63));
    if before | 1 << bit == u64::MAX {
        pool.set_full(group, in_group);
        // Whoever gave a bit back in between has cleared the summary before we set it.
        if pool.word(word) != u64::MAX {
            pool.clear_full(group, in_group);
        }
    }
    before & 1 << bit == 0
}

/// One of the bits that are set, by a random rotation.
#[inline(always)]
const fn pick(bits: u64, random: u32) -> u32 {
    let rotation = random & 63;
    (bits.rotate_right(rotation).trailing_zeros() + rotation) & 63
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::cell::Cell;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::*;

    struct Words {
        words: Vec<Cell<u64>>,
        full: Vec<Cell<u64>>,
    }

    impl Words {
        fn new() -> Self {
            Self { words: std::vec![Cell::new(0); 1024], full: std::vec![Cell::new(0); 16] }
        }
    }

    impl PortPool for Words {
        fn word(&self, word: u32) -> u64 {
            self.words[word as usize].get()
        }
        fn claim(&self, word: u32, bits: u64) -> u64 {
            self.words[word as usize].replace(self.word(word) | bits)
        }
        fn release(&self, word: u32, bits: u64) {
            self.words[word as usize].set(self.word(word) & !bits);
        }
        fn full(&self, group: u32) -> u64 {
            self.full[group as usize].get()
        }
        fn set_full(&self, group: u32, bits: u64) {
            self.full[group as usize].set(self.full(group) | bits);
        }
        fn clear_full(&self, group: u32, bits: u64) {
            self.full[group as usize].set(self.full(group) & !bits);
        }
        fn count_shared(&self) {}
    }

    fn random(state: &mut u32) -> u32 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *state >> 7 ^ *state
    }

    const OWN: (u16, u16) = RouterConfig::OWN_PORTS;

    #[test]
    fn every_port_of_a_range_is_used_once_before_none_is_left() {
        for (wanted, ports) in [(5001u16, 1024..=65_535), (53, 1..=1023u16)] {
            let pool = Words::new();
            let mut state = 1;
            let mut seen = BTreeSet::new();
            while let Some(port) = take(&pool, wanted, random(&mut state)) {
                assert!(ports.contains(&port), "{port} is of the other range");
                assert!(seen.insert(port), "{port} was given out twice");
                let same_parity = seen.len() <= if wanted == 5001 { 32_256 - 512 } else { 512 };
                assert_eq!(port % 2 == wanted % 2, same_parity || port % 2 == wanted % 2, "{port}");
            }
            assert_eq!(seen.len(), ports.len());
        }
    }

    #[test]
    fn a_free_port_is_preserved_and_one_given_back_is_found_again() {
        let pool = Words::new();
        assert_eq!(take(&pool, 5000, 9), Some(5000));
        let other = take(&pool, 5000, 9).unwrap();
        assert!(other != 5000 && other.is_multiple_of(2) && other >= 1024);
        while take(&pool, 5000, 12_345).is_some() {}
        give_back(&pool, 7777);
        assert_eq!(take(&pool, 5000, 99), Some(7777));
        assert_eq!(take(&pool, 5000, 99), None);
    }

    #[test]
    fn the_routers_own_ports_come_last() {
        let pool = Words::new();
        let mut state = 7;
        let taken: Vec<u16> = core::iter::from_fn(|| take(&pool, 64_500, random(&mut state))).collect();
        let is_own = |port: &u16| (OWN.0..=OWN.1).contains(port);
        assert!(!taken[..63_488].iter().any(is_own));
        assert!(taken[63_488..].iter().all(is_own));
    }

    #[test]
    fn changed_ports_are_spread_over_the_range() {
        let pool = Words::new();
        let mut state = 3;
        take(&pool, 5000, 0);
        let ports: Vec<u16> = (0..1000).filter_map(|_| take(&pool, 5000, random(&mut state))).collect();
        for eighth in 0..8u16 {
            let range = 1024 + eighth * 8000..1024 + eighth * 8000 + 8000;
            assert!(ports.iter().filter(|port| range.contains(port)).count() > 50, "{range:?}");
        }
    }
}
