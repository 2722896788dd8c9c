//! How frames are damaged: bytes, lengths, and what is in front of what.

use crate::model::generate::Random;
use crate::packet::{checksum, fragment};
use crate::scenario::ETHERNET;

const BYTES: &[u8] = &[0, 1, 2, 4, 6, 8, 17, 20, 41, 43, 44, 45, 58, 60, 0x45, 0x4f, 0x60, 0x7f, 0x80, 0xff];
const WORDS: &[u16] = &[0, 1, 7, 8, 20, 28, 40, 53, 80, 5000, 0x1fff, 0x2000, 0x4000, 0x7fff, 0x8000, 0xffff];

/// Changes one thing; `other` is another frame to take parts from.
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>, other: &[u8]) {
    if frame.len() <= ETHERNET {
        frame.extend_from_slice(other);
        return;
    }
    // The IP header and what follows, mostly.
    let at = if random.percent(5) { random.below(frame.len()) } else { 12 + random.below(frame.len() - 12) };
    let near = (ETHERNET + random.below(64)).min(frame.len() - 1);
    match random.below(16) {
        0 => frame[at] ^= 1 << random.below(8),
        1 => frame[near] ^= 1 << random.below(8),
        2 => frame[near] = random.pick(BYTES),
        3 => frame[near] = random.below(256) as u8,
        4 | 5 if near + 1 < frame.len() => {
            let value = if random.percent(30) { (frame.len() - ETHERNET) as u16 } else { random.pick(WORDS) };
            frame[near & !1..][..2].copy_from_slice(&value.to_be_bytes());
        }
        6 => frame.truncate(at),
        7 => frame.extend((0..=random.below(64)).map(|at| at as u8)),
        // Another frame's end, or its beginning.
        8 => {
            frame.truncate(at);
            frame.extend_from_slice(other.get(at..).unwrap_or_default());
        }
        9 if frame[ETHERNET] >> 4 == 4 && frame.len() >= 34 => swap(frame, 26, 4),
        9 if frame.len() >= 54 => swap(frame, 22, 16),
        10 => drop(frame.splice(12..12, [0x81, 0, 0, random.pick(BYTES)])),
        11 if frame[ETHERNET] == 0x45 && frame.len() >= 34 => options(random, frame),
        11 if frame[ETHERNET] >> 4 == 6 && frame.len() >= 54 => extension(random, frame),
        12 | 13 if frame.len() > 64 && matches!(frame[ETHERNET], 0x45 | 0x60) => cut(random, frame),
        14 if frame.len() >= 34 => error(frame, other),
        _ => {
            let ports = if frame[ETHERNET] >> 4 == 4 { 34 } else { 54 };
            let port = random.pick(WORDS).to_be_bytes();
            if let Some(bytes) = frame.get_mut(ports + random.pick(&[0, 2, 4])..).and_then(|b| b.get_mut(..2))
            {
                bytes.copy_from_slice(&port);
            }
        }
    }
    if random.percent(80) {
        mend(frame);
    }
}

/// Exchanges two neighbouring fields, such as addresses.
fn swap(frame: &mut [u8], at: usize, length: usize) {
    let (left, right) = frame[at..at + 2 * length].split_at_mut(length);
    left.swap_with_slice(right);
}

fn options(random: &mut Random, frame: &mut Vec<u8>) {
    let words = 1 + random.below(10);
    let kinds = [0, 1, 7, 68, 130, 131, 137, 148];
    let mut options = vec![0; words * 4];
    (options[0], options[1]) = (random.pick(&kinds), random.below(words * 4 + 2) as u8);
    frame[ETHERNET] = 0x45 + words as u8;
    let length = u16::from_be_bytes([frame[16], frame[17]]).wrapping_add(words as u16 * 4);
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame.splice(34..34, options);
}

fn extension(random: &mut Random, frame: &mut Vec<u8>) {
    let kind = random.pick(&[0, 43, 44, 60, 51, 135]);
    let next = std::mem::replace(&mut frame[20], kind);
    let length = u16::from_be_bytes([frame[18], frame[19]]).wrapping_add(8);
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    let header = [next, random.pick(&[0, 0, 0, 1, 255]), random.pick(&[0, 2, 4, 5]), random.pick(&[0, 1, 9])];
    frame.splice(54..54, header.into_iter().chain([0, 0, 0, 1]));
}

/// Makes a fragment of it.
fn cut(random: &mut Random, frame: &mut Vec<u8>) {
    let payload = frame.len() - if frame[ETHERNET] == 0x45 { 34 } else { 54 };
    let start = if random.percent(50) { 0 } else { random.below(payload.div_ceil(8)) * 8 };
    let end = (start + 8 * (1 + random.below(20))).min(payload);
    *frame = fragment(frame, random.pick(&[1, 2, 0x1234]), start..end);
}

/// Makes an ICMP error about another frame of it, if that is of the same family.
fn error(frame: &mut Vec<u8>, other: &[u8]) {
    let about = other.get(ETHERNET..).unwrap_or_default();
    let is_v4 = frame[ETHERNET] >> 4 == 4;
    if about.first().is_none_or(|first| (first >> 4 == 4) != is_v4) || (!is_v4 && frame.len() < 54) {
        return;
    }
    let about = &about[..about.len().min(200)];
    let mut message = vec![if is_v4 { 3 } else { 1 }, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(about);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    if is_v4 {
        frame.truncate(34);
        (frame[ETHERNET], frame[23]) = (0x45, 1);
        frame[16..18].copy_from_slice(&(20 + message.len() as u16).to_be_bytes());
        frame[20..22].fill(0);
    } else {
        frame.truncate(54);
        frame[20] = 58;
        frame[18..20].copy_from_slice(&(message.len() as u16).to_be_bytes());
    }
    frame.extend(message);
}

/// Makes the IPv4 header's checksum right, so that the frame gets further.
fn mend(frame: &mut [u8]) {
    let Some(first) = frame.get(ETHERNET) else { return };
    let end = ETHERNET + usize::from(first & 0xf) * 4;
    if frame[12..14] == [8, 0] && end >= 34 && frame.len() >= end {
        frame[24..26].fill(0);
        let sum = checksum(&frame[ETHERNET..end]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}
