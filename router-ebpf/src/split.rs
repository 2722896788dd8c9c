//! Fragmentation of an IPv4 packet that is larger than its way out and may be fragmented (RFC 791 §3.2,
//! RFC 4787 REQ-13a). The packet is translated before, so that all pieces leave by one decision.

use router_common::net::{Be16, Ipv4};
use router_common::port::Port;

use crate::checksum;
use crate::family::{ETHERTYPE_IPV4, Family, protocol};
use crate::packet::Packet;
use crate::parse::ETHERNET;
use crate::tables::Tables;

/// The longest payload that is cut, in bytes: more than a jumbo frame's.
pub const LONGEST: u32 = 1 << 14;
/// The most pieces that it is cut into.
pub const PIECES: u32 = 64;

const OFFSET: u16 = 0x1fff;
const MORE: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;

/// The MTU of its way out, if a packet may be fragmented for it and can be. One with a checksum that is not
/// finished cannot: the mark that has the hardware finish it would be on every piece.
#[inline(always)]
pub fn can_be_cut<P: Packet, T: Tables>(packet: &P, tables: &T, ingress: u32, egress: u32) -> Option<u32> {
    let (from, to) = (tables.port(ingress)?, tables.port(egress)?);
    let may_be_partial = from.flags & Port::PARTIAL_CHECKSUMS != 0;
    cuttable(packet, to.mtu, may_be_partial)?.then_some(to.mtu)
}

fn cuttable<P: Packet>(packet: &P, mtu: u32, may_be_partial: bool) -> Option<bool> {
    const L4: usize = ETHERNET + Ipv4::HEADER;
    if packet.load::<Be16>(12)?.get() != ETHERTYPE_IPV4 || packet.segment_payload().is_some() {
        return Some(false);
    }
    let header: [u32; 5] = packet.load(ETHERNET)?;
    let whole = Whole { header, mtu };
    let [version_length, ..] = header[0].to_ne_bytes();
    let [_, _, fragment_high, fragment_low] = header[1].to_ne_bytes();
    let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
    // Options are not copied.
    if version_length != 0x45 || fragment & DONT_FRAGMENT != 0 || whole.pieces() > PIECES {
        return Some(false);
    }
    let [_, protocol, _, _] = header[2].to_ne_bytes();
    let sum_at = match protocol {
        protocol::TCP => L4 + 16,
        protocol::UDP => L4 + 6,
        _ => return Some(true),
    };
    if !may_be_partial || fragment & (MORE | OFFSET) != 0 {
        return Some(true);
    }
    let [_, _, _, src, dst] = header;
    let pseudo = checksum::pseudo_header(checksum::sum_words(&[src, dst]), whole.payload() as u16, protocol);
    Some(!checksum::same(packet.load(sum_at)?, pseudo))
}

/// A packet that is being cut.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    /// Its header, without options.
    pub header: [u32; 5],
    /// The largest packet that its way out takes, in bytes.
    pub mtu: u32,
}

/// A piece of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its header.
    pub header: [u32; 5],
    /// Length of its payload in bytes.
    pub length: u32,
    /// It is the last one.
    pub is_last: bool,
}

impl Whole {
    /// Payload of its pieces but the last, in bytes.
    #[inline(always)]
    const fn room(&self) -> u32 {
        self.mtu.saturating_sub(Ipv4::HEADER as u32) & !7
    }

    /// How many pieces it would be, more than [`PIECES`] for what is not cut.
    #[inline(always)]
    const fn pieces(&self) -> u32 {
        match self.room() {
            0 => PIECES + 1,
            _ if self.payload() > LONGEST => PIECES + 1,
            room => self.payload().div_ceil(room),
        }
    }

    /// Length of its payload in bytes.
    #[inline(always)]
    pub const fn payload(&self) -> u32 {
        let [_, _, high, low] = self.header[0].to_ne_bytes();
        (u16::from_be_bytes([high, low]) as u32).saturating_sub(Ipv4::HEADER as u32)
    }

    /// The piece whose payload begins at a multiple of eight bytes in the whole's.
    #[inline(always)]
    pub fn piece(&self, start: u32) -> Option<Piece> {
        let room = self.room();
        let left = self.payload().saturating_sub(start);
        if room == 0 || left == 0 {
            return None;
        }
        let is_last = left <= self.mtu - Ipv4::HEADER as u32;
        let length = if is_last { left } else { room };
        let [first, second, third, src, dst] = self.header;
        let [version, service, _, _] = first.to_ne_bytes();
        let [high, low] = ((Ipv4::HEADER as u32 + length) as u16).to_be_bytes();
        let first = u32::from_ne_bytes([version, service, high, low]);
        let [id_high, id_low, high, low] = second.to_ne_bytes();
        let fragment = u16::from_be_bytes([high, low]);
        // Of a packet that is a fragment itself the last piece has its "more fragments".
        let more = if is_last { fragment & MORE } else { MORE };
        let offset = (fragment & OFFSET).wrapping_add((start / 8) as u16) & OFFSET;
        let [high, low] = (more | offset).to_be_bytes();
        let second = u32::from_ne_bytes([id_high, id_low, high, low]);
        let [hop_limit, protocol, _, _] = third.to_ne_bytes();
        let third = u32::from_ne_bytes([hop_limit, protocol, 0, 0]);
        let [high, low] = (!checksum::sum_words(&[first, second, third, src, dst])).to_ne_bytes();
        let third = u32::from_ne_bytes([hop_limit, protocol, high, low]);
        Some(Piece { header: [first, second, third, src, dst], length, is_last })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn whole(length: u16, fragment: u16, mtu: u32) -> Whole {
        let ([lh, ll], [fh, fl]) = (length.to_be_bytes(), fragment.to_be_bytes());
        let words = [[0x45, 0xb8, lh, ll], [7, 9, fh, fl], [63, 17, 0, 0], [10, 1, 1, 50], [10, 1, 2, 50]];
        Whole { header: words.map(u32::from_ne_bytes), mtu }
    }

    /// Offset in bytes, payload in bytes, "more fragments" of each piece.
    fn pieces(whole: Whole) -> Vec<(u32, u32, bool)> {
        let (mut start, mut pieces) = (0, Vec::new());
        while let Some(piece) = whole.piece(start) {
            assert_eq!(checksum::sum_words(&piece.header), 0xffff);
            let [_, _, lh, ll] = piece.header[0].to_ne_bytes();
            assert_eq!(u32::from(u16::from_be_bytes([lh, ll])), 20 + piece.length);
            let [_, _, fh, fl] = piece.header[1].to_ne_bytes();
            let fragment = u16::from_be_bytes([fh, fl]);
            pieces.push((u32::from(fragment & OFFSET) * 8, piece.length, fragment & MORE != 0));
            start += piece.length;
            assert_eq!(piece.is_last, start == whole.payload());
        }
        pieces
    }

    #[test]
    fn pieces_fit_and_make_the_whole_again() {
        assert_eq!(pieces(whole(1500, 0, 1400)), [(0, 1376, true), (1376, 104, false)]);
        assert_eq!(pieces(whole(1500, 0, 576)), [(0, 552, true), (552, 552, true), (1104, 376, false)]);
        assert_eq!(pieces(whole(1400, 0, 1400)), [(0, 1380, false)]);
    }

    #[test]
    fn pieces_of_a_fragment_lie_where_it_lay() {
        // Of a datagram of 3,000 bytes the middle and the last fragment.
        assert_eq!(pieces(whole(1500, MORE | 185, 1400)), [(1480, 1376, true), (2856, 104, true)]);
        assert_eq!(pieces(whole(1500, 370, 1400)), [(2960, 1376, true), (4336, 104, false)]);
    }

    #[test]
    fn what_would_be_too_many_pieces_is_not_cut() {
        assert_eq!(whole(1500, 0, 1400).pieces(), 2);
        assert_eq!(whole(9000, 0, 1500).pieces(), 7);
        assert!(whole(9000, 0, 68).pieces() > PIECES);
        assert!(whole(20_000, 0, 1500).pieces() > PIECES);
        assert!(whole(1500, 0, 20).pieces() > PIECES);
    }
}
