//! A line on a control connection: reading which ends it names, and writing others in their place.
//!
//! Byte by byte, since each byte is a function call in the programs.

use router_common::flow::Direction;
use router_common::nat::{Expected, ExternalKey};
use router_common::net::{Be16, Ipv4};

use super::{Desk, LONGEST};
use crate::checksum;
use crate::packet::ROOM;

/// What a line says, and to whom it is said.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Line {
    /// What the segment carries, then zeroes.
    pub payload: [u8; ROOM],
    /// What takes its place, from [`start`](Self::start) on.
    pub text: [u8; ROOM],
    /// Length of the payload.
    pub length: u32,
    /// Length of the text.
    pub text_length: u32,
    /// Where the ends begin that the line names.
    pub start: u32,
    /// Where they end.
    pub end: u32,
    /// The address that is named, host byte order.
    pub address: u32,
    /// The port that is named.
    pub port: u32,
    /// The external address, host byte order.
    pub new_address: u32,
    /// The external port: the one that is wanted, then the one that it is.
    pub new_port: u32,
    /// Under which end somebody is expected; the port is not known at first.
    pub external: ExternalKey,
    /// Who it is, and whom he is for.
    pub whom: Expected,
    /// Which line it is.
    pub form: u32,
    phase: u32,
    field: u32,
    number: u32,
    digits: u32,
    delimiter: u32,
}

/// `PORT`.
const PORT_COMMAND: u32 = 1;
/// `EPRT`.
const EPRT: u32 = 2;
/// The answer to `PASV`.
const PASSIVE: u32 = 3;
/// The answer to `EPSV`.
pub const EXTENDED_PASSIVE: u32 = 4;

/// Up to the parenthesis of an answer.
const SEEK: u32 = 0;
/// Within the ends that are named.
const ENDS: u32 = 1;
/// Behind them.
const DONE: u32 = 2;

/// Field of the port in `EPRT` and in the answer to `EPSV`.
const PORT_FIELD: u32 = 5;

impl Line {
    /// Nothing.
    pub const EMPTY: Self = Self {
        payload: [0; ROOM],
        text: [0; ROOM],
        length: 0,
        text_length: 0,
        start: 0,
        end: 0,
        address: 0,
        port: 0,
        new_address: 0,
        new_port: 0,
        external: ExternalKey {
            external: Ipv4::UNSPECIFIED,
            port: Be16::from_raw(0),
            router: 0,
            protocol: 0,
            pad: [0; 3],
        },
        whom: Expected {
            until: 0,
            peer: Ipv4::UNSPECIFIED,
            guest: Ipv4::UNSPECIFIED,
            port: Be16::from_raw(0),
            pad: [0; 6],
        },
        phase: SEEK,
        form: 0,
        field: 0,
        number: 0,
        digits: 0,
        delimiter: 0,
    };

    #[inline(always)]
    fn byte(&self, at: u32) -> u8 {
        self.payload.get((at & ROOM_MASK) as usize).copied().unwrap_or(0)
    }

    /// Whether the line begins like one that names ends, said by a client or by a server. Commands may
    /// come in any letter case.
    #[inline(always)]
    pub fn begins(&mut self, direction: u8) -> bool {
        let word = u32::from_be_bytes([self.byte(0), self.byte(1), self.byte(2), self.byte(3)]);
        (self.phase, self.start, self.form) = (SEEK, 4, 0);
        if direction == Direction::Original as u8 {
            (self.phase, self.start) = (ENDS, 5);
            self.form = match word & 0xdfdf_dfdf {
                _ if self.byte(4) != b' ' => 0,
                COMMAND_PORT => PORT_COMMAND,
                COMMAND_EPRT => EPRT,
                _ => 0,
            };
        } else {
            self.form = match word {
                ANSWER_227 => PASSIVE,
                ANSWER_229 => EXTENDED_PASSIVE,
                _ => 0,
            };
        }
        (self.field, self.number, self.digits, self.delimiter) = (0, 0, 0, 0);
        (self.address, self.port, self.end) = (0, 0, 0);
        self.form != 0
    }

    /// Reads a byte; whether there is more to read.
    #[inline(always)]
    pub fn step(&mut self, at: u32) -> bool {
        let byte = self.byte(at);
        if self.phase == SEEK {
            if byte == b'(' {
                (self.phase, self.start) = (ENDS, at + 1);
            }
            return byte != b'\r' && byte != b'\n';
        }
        let is_comma_form = self.form == PORT_COMMAND || self.form == PASSIVE;
        if !is_comma_form && self.delimiter == 0 {
            self.delimiter = byte.into();
            return byte > b' ' && byte < 0x7f && !byte.is_ascii_digit();
        }
        if byte.is_ascii_digit() {
            self.number = self.number * 10 + u32::from(byte - b'0');
            self.digits += 1;
            return self.digits <= 5;
        }
        let goes_on = if is_comma_form { self.comma_field(at, byte) } else { self.field(at, byte) };
        (self.number, self.digits) = (0, 0);
        goes_on
    }

    /// A field of six with commas ends with a byte.
    #[inline(always)]
    fn comma_field(&mut self, at: u32, byte: u8) -> bool {
        if self.digits == 0 || self.number > 255 {
            return false;
        }
        if self.field < 4 {
            self.address = self.address << 8 | self.number;
        } else {
            self.port = self.port << 8 | self.number;
        }
        self.field += 1;
        let is_end = match self.form {
            PORT_COMMAND => byte == b'\r' || byte == b'\n',
            _ => byte == b')',
        };
        if is_end && self.field == 6 {
            (self.phase, self.end) = (DONE, at);
        }
        byte == b',' && self.field < 6
    }

    /// A field between delimiters, or of an address, ends with a byte.
    #[inline(always)]
    fn field(&mut self, at: u32, byte: u8) -> bool {
        let is_delimiter = u32::from(byte) == self.delimiter;
        let has_address = self.form == EPRT;
        let is_octet = self.digits != 0 && self.number <= 255;
        match self.field {
            0 if is_delimiter && has_address && self.number == 1 => self.field = 1,
            0 if is_delimiter && !has_address && self.digits == 0 => self.field = 4,
            1..=3 if byte == b'.' && is_octet => {
                self.address = self.address << 8 | self.number;
                self.field += 1;
            }
            4 if is_delimiter && has_address && is_octet => {
                self.address = self.address << 8 | self.number;
                self.field = PORT_FIELD;
            }
            4 if is_delimiter && !has_address && self.digits == 0 => self.field = PORT_FIELD,
            PORT_FIELD if is_delimiter && self.digits != 0 && self.number <= 65_535 => {
                (self.phase, self.port, self.end) = (DONE, self.number, at + 1);
                return false;
            }
            _ => return false,
        }
        true
    }

    #[inline(always)]
    fn put(&mut self, byte: u8) {
        if let Some(room) = self.text.get_mut((self.text_length & ROOM_MASK) as usize) {
            *room = byte;
        }
        self.text_length += 1;
    }

    #[inline(always)]
    fn put_number(&mut self, number: u32) {
        for unit in [10_000, 1000, 100, 10] {
            if number >= unit {
                self.put(b'0' + (number / unit % 10) as u8);
            }
        }
        self.put(b'0' + (number % 10) as u8);
    }

    /// Writes a part of the external end, of which there are [`PIECES`].
    #[inline(always)]
    pub fn piece(&mut self, index: u32) {
        let octet = self.new_address >> (24 - (index & 3) * 8) & 0xff;
        if self.form == PORT_COMMAND || self.form == PASSIVE {
            let number = match index {
                0..=3 => octet,
                4 => self.new_port >> 8 & 0xff,
                _ => self.new_port & 0xff,
            };
            self.put_number(number);
            if index < 5 {
                self.put(b',');
            }
            return;
        }
        let delimiter = self.delimiter as u8;
        if index == 0 {
            self.put(delimiter);
            if self.form == EPRT {
                self.put(b'1');
            }
            self.put(delimiter);
        }
        match index {
            0..=3 if self.form == EPRT => {
                self.put_number(octet);
                self.put(if index == 3 { delimiter } else { b'.' });
            }
            3 => self.put(delimiter),
            5 => {
                self.put_number(self.new_port);
                self.put(delimiter);
            }
            _ => {}
        }
    }

    /// Writes a byte of what is behind the ends.
    #[inline(always)]
    pub fn keep(&mut self, at: u32) {
        self.put(self.byte(at));
    }

    /// The one's complement sum over the payload, which begins at an even offset of its segment.
    #[inline(always)]
    pub fn sum(&self) -> u16 {
        let mut sum = 0;
        for pair in self.payload.chunks_exact(2) {
            if let [first, second] = pair {
                sum += u32::from(u16::from_ne_bytes([*first, *second]));
            }
        }
        checksum::fold(sum)
    }

    /// The TCP option at an offset of the payload, which here is the header's options: where the next one
    /// is, [`NO_OPTION`] at the end, or [`SACK_PERMITTED`] and the offset.
    #[inline(always)]
    pub fn option(&self, at: u32) -> u32 {
        let (kind, length) = (self.byte(at), self.byte(at + 1));
        match kind {
            _ if at >= self.length => NO_OPTION,
            0 => NO_OPTION,
            1 => at + 1,
            4 if length == 2 && at + 2 <= self.length => SACK_PERMITTED | at,
            _ if length < 2 => NO_OPTION,
            _ => at + u32::from(length),
        }
    }
}

/// Indices into the line's rooms.
pub const ROOM_MASK: u32 = ROOM as u32 - 1;
const COMMAND_PORT: u32 = u32::from_be_bytes(*b"PORT");
const COMMAND_EPRT: u32 = u32::from_be_bytes(*b"EPRT");
const ANSWER_227: u32 = u32::from_be_bytes(*b"227 ");
const ANSWER_229: u32 = u32::from_be_bytes(*b"229 ");
/// Parts that an external end is written in.
pub const PIECES: u32 = 6;
/// No more options.
pub const NO_OPTION: u32 = 0x1000;
/// The option that permits selective acknowledgments.
pub const SACK_PERMITTED: u32 = 0x100;
/// Most bytes of TCP options.
pub const MOST_OPTIONS: u32 = 40;

/// Reads a line that begins as it should; whether it names ends.
#[inline(always)]
pub fn find<T: Desk>(tables: &T) -> bool {
    let Some((start, length)) = tables.line().map(|line| (line.start, line.length)) else { return false };
    for at in (start..length).take(LONGEST as usize) {
        if !tables.step(at) {
            break;
        }
    }
    tables.line().is_some_and(|line| line.phase == DONE)
}

/// Writes the external ends and what is behind them into the line's text.
#[inline(always)]
pub fn compose<T: Desk>(tables: &T) {
    let Some((end, length)) = tables.line().map(|mut line| {
        line.text_length = 0;
        (line.end, line.length)
    }) else {
        return;
    };
    for index in 0..PIECES {
        tables.piece(index);
    }
    for at in (end..length).take(LONGEST as usize) {
        tables.keep(at);
    }
}

/// Where among the options that is which permits selective acknowledgments; [`NO_OPTION`] or more where there is none.
#[inline(always)]
pub fn sack_permitted<T: Desk>(tables: &T) -> u32 {
    let mut at = 0;
    for _ in 0..MOST_OPTIONS {
        let next = tables.option(at);
        if next >= NO_OPTION {
            break;
        }
        if next >= SACK_PERMITTED {
            return next & !SACK_PERMITTED;
        }
        at = next;
    }
    NO_OPTION
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::*;

    /// The ends that a line names, and the line with 203.0.113.10 and a port in their place.
    fn read(direction: Direction, text: &str, port: u16) -> Option<(u32, u32, String)> {
        let mut line = Line::EMPTY;
        line.payload[..text.len()].copy_from_slice(text.as_bytes());
        line.length = text.len() as u32;
        if !line.begins(direction as u8) {
            return None;
        }
        let mut at = line.start;
        while at < line.length && line.step(at) {
            at += 1;
        }
        if line.phase != DONE {
            return None;
        }
        (line.new_address, line.new_port) = (0xcb00_710a, port.into());
        (0..PIECES).for_each(|index| line.piece(index));
        (line.end..line.length).for_each(|at| line.keep(at));
        let text = [&line.payload[..line.start as usize], &line.text[..line.text_length as usize]].concat();
        Some((line.address, line.port, String::from_utf8(text).unwrap()))
    }

    #[test]
    fn lines_that_name_ends_name_others_afterwards() {
        use Direction::{Original, Reply};
        for (direction, port, before, after) in [
            (Original, 5001, "PORT 10,1,1,50,19,136\r\n", "PORT 203,0,113,10,19,137\r\n"),
            (Original, 255, "pOrT 10,1,1,50,19,136\n", "pOrT 203,0,113,10,0,255\n"),
            (Original, 5001, "EPRT |1|10.1.1.50|5000|\r\n", "EPRT |1|203.0.113.10|5001|\r\n"),
            (Original, 65_535, "eprt !1!10.1.1.50!5000!", "eprt !1!203.0.113.10!65535!"),
            (Reply, 5001, "227 Now (10,1,1,50,19,136).\r\n", "227 Now (203,0,113,10,19,137).\r\n"),
        ] {
            let read = read(direction, before, port);
            assert_eq!(read, Some((0x0a01_0132, 5000, after.to_string())), "{before}");
        }
        let answer = "229 Entering Extended Passive Mode (|||5000|)\r\n";
        let after = answer.replace("5000", "80");
        assert_eq!(read(Reply, answer, 80), Some((0, 5000, after)));
    }

    #[test]
    fn other_lines_name_none() {
        let client = ["PORT 10,1,1,50,19,136", "PORT 10,1,1,256,19,136\r\n", "PORT 10,1,1,50,19,\r\n"];
        let odd =
            ["PORT 10,1,1,50,19,136,\r\n", "PORT 000010,1,1,50,19,136\r\n", "PORT  10,1,1,50,19,136\r\n"];
        let extended =
            ["EPRT |1|10.1.1.50|5000\r\n", "EPRT |1|10.1.1|5000|\r\n", "EPRT |3|10.1.1.50|5000|\r\n"];
        let more = ["EPRT 1110.1.1.50150001\r\n", "EPRT |1|10.1.1.50|99999|\r\n", "USER x\r\n", "P", ""];
        for text in [&client[..], &odd, &extended, &more].concat() {
            assert_eq!(read(Direction::Original, text, 1), None, "{text}");
        }
        let comma = ["227 Entering Passive Mode\r\n (10,1,1,50,19,136)", "227-x (10,1,1,50,19,136)\r\n"];
        let extended =
            ["229 x (||5000|)\r\n", "229 x (|1||5000|)\r\n", "229 x (|||5000)\r\n", "229 x (|||)\r\n"];
        for text in [&comma[..], &extended, &["PORT 10,1,1,50,19,136\r\n"]].concat() {
            assert_eq!(read(Direction::Reply, text, 1), None, "{text}");
        }
    }

    #[test]
    fn random_lines_never_panic() {
        let alphabet: Vec<char> = "0123456789,.|()\r\n PORTEPRT227229".chars().collect();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..100_000 {
            let mut random = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 8) as usize
            };
            let begin = ["PORT ", "EPRT |", "227 (", "229 (|||", ""][random() % 5];
            let rest: String = (0..random() % 40).map(|_| alphabet[random() % alphabet.len()]).collect();
            for direction in [Direction::Original, Direction::Reply] {
                read(direction, &std::format!("{begin}{rest}"), random() as u16);
            }
        }
    }
}
