//! Internet checksums (RFC 1071), only ever changed incrementally (RFC 1624).
//!
//! Sums are over 16-bit words as they lie in memory, so byte order never matters (RFC 1071 §2
//! (B)). A *delta* is the folded sum of `~old + new` over all words that change.

use router_common::flow::FlowKey;
use router_common::net::{Address, Be16};

use crate::packet::{ChecksumPatch, Packet};

/// Folds a sum into 16 bits, carries added in.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// What the change of one word adds.
#[inline(always)]
pub const fn delta(old: u16, new: u16) -> u16 {
    fold((!old as u32 & 0xffff) + new as u32)
}

/// What one less in the first byte of a word adds, whatever is in the word beside it.
pub const FIRST_BYTE_ONE_LESS: u16 = delta(u16::from_ne_bytes([1, 0]), 0);

/// Both deltas.
#[inline(always)]
pub const fn add(a: u16, b: u16) -> u16 {
    fold(a as u32 + b as u32)
}

/// Sum over 32-bit words, folded.
#[inline(always)]
pub fn sum_words(words: &[u32]) -> u16 {
    let mut sum = 0u64;
    for word in words {
        sum += u64::from(*word);
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    fold(fold_32(sum))
}

/// 33 bits into a sum that [`fold`] takes.
#[inline(always)]
const fn fold_32(sum: u64) -> u32 {
    ((sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32)) as u32
}

/// What the change of an address adds.
#[inline(always)]
pub fn delta_words(old: &[u32], new: &[u32]) -> u16 {
    add(!sum_words(old), sum_words(new))
}

/// The checksum after a change: `HC' = ~(~HC + ~m + m')` (RFC 1624 eqn. 3).
#[inline(always)]
pub const fn apply(checksum: Be16, delta: u16) -> Be16 {
    Be16::from_raw(!add(!checksum.raw(), delta))
}

/// Patches a finished checksum in the frame's own bytes.
#[inline(always)]
pub fn patch_in_place<P: Packet + ?Sized>(packet: &mut P, patch: ChecksumPatch) -> Option<()> {
    let old: Be16 = packet.load(patch.offset)?;
    if patch.zero_is_none && old.raw() == 0 {
        return Some(());
    }
    let mut new = apply(old, add(patch.addresses, patch.ports));
    if patch.zero_is_none && new.raw() == 0 {
        new = Be16::from_raw(0xffff);
    }
    packet.store(patch.offset, new)
}

/// The sum over a pseudo header (RFC 768, RFC 8200 §8.1) with a sum of addresses and a segment of a length in bytes.
#[inline(always)]
pub const fn pseudo_header(addresses: u16, segment: u16, protocol: u8) -> u16 {
    add(addresses, add(segment.to_be(), (protocol as u16).to_be()))
}

/// Whether two sums are the same number: zero has two representations.
#[inline(always)]
pub const fn same(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

/// Whether what a segment of a length in bytes has for a checksum may be one that its sender left to the hardware: the
/// sum over the pseudo header and no more. A finished checksum has that value once in 65,536 packets.
#[inline(always)]
pub fn may_be_partial<A: Address>(key: &FlowKey<A>, segment: u16, checksum: u16) -> bool {
    let addresses = add(sum_words(key.src.words()), sum_words(key.dst.words()));
    checksum == 0 || same(checksum, pseudo_header(addresses, segment, key.protocol))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    /// RFC 1071 §4.1, written from it.
    fn whole(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        !fold(sum)
    }

    /// xorshift: repeatable, no dependency.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn twenty_thousand_random_changes_agree_with_the_sum_made_anew() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..64).map(|_| random(&mut state) as u8).collect();
            let before = Be16::from_raw(whole(&bytes));
            let word = (random(&mut state) % 15) as usize * 4;
            let old = u32::from_ne_bytes(bytes[word..word + 4].try_into().unwrap());
            let new = random(&mut state) as u32;
            bytes[word..word + 4].copy_from_slice(&new.to_ne_bytes());
            let after = apply(before, delta_words(&[old], &[new]));
            assert!(same(after.raw(), whole(&bytes)), "{old:08x} -> {new:08x}");
        }
    }

    #[test]
    fn sums_of_words_fold_every_carry() {
        assert_eq!(sum_words(&[0xffff_ffff; 4]), 0xffff);
        assert_eq!(sum_words(&[0]), 0);
        assert_eq!(sum_words(&[0x0001_0002, 0x0003_0004]), 10);
    }
}
