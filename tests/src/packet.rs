//! Frames by hand: built and read back here, apart from the walk, so that neither checks itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// The one's complement sum over bytes, as RFC 1071 writes it, not complemented.
fn sum(bytes: &[u8], start: u32) -> u32 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// The checksum over bytes whose own checksum is zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !(sum(bytes, 0) as u16)
}

/// What is in an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// TCP with flags (FIN 1, SYN 2, RST 4, ACK 16).
    Tcp {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
        /// Flags.
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP or ICMPv6 query or answer.
    Echo {
        /// The message's type.
        kind: u8,
        /// Identifier.
        id: u16,
    },
    /// ICMP or ICMPv6 error about a packet (its IP header and what follows).
    Error {
        /// The message's type.
        kind: u8,
        /// The packet it is about.
        about: Vec<u8>,
    },
    /// Another protocol.
    Other {
        /// IP protocol number.
        protocol: u8,
    },
}

/// How the transport checksum is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Right.
    Finished,
    /// Left to the hardware: the pseudo header's sum alone (`CHECKSUM_PARTIAL`).
    Partial,
    /// Zero: none (UDP over IPv4).
    Absent,
}

/// A frame to build.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination and source Ethernet address.
    pub macs: ([u8; 6], [u8; 6]),
    /// VLAN ids, outermost first.
    pub vlans: Vec<u16>,
    /// Source and destination address, of one family.
    pub ends: (IpAddr, IpAddr),
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Options of a TCP header, a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    /// Fragment field of IPv4 (flags and offset).
    pub fragment: u16,
    /// What it carries.
    pub payload: Payload,
    /// Bytes behind the transport header.
    pub data: Vec<u8>,
    /// Transport checksum.
    pub sum: Sum,
}

impl Frame {
    /// An ordinary frame with 32 bytes of data.
    pub fn new(macs: ([u8; 6], [u8; 6]), src: &str, dst: &str, payload: Payload) -> Self {
        let ends = (src.parse().expect("an address"), dst.parse().expect("an address"));
        Self {
            macs,
            vlans: vec![],
            ends,
            ttl: 64,
            options: vec![],
            tcp_options: vec![],
            fragment: 0x4000,
            payload,
            data: (0..32).collect(),
            sum: Sum::Finished,
        }
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.macs.0, self.macs.1].concat();
        for vlan in &self.vlans {
            bytes.extend([0x81, 0x00]);
            bytes.extend(vlan.to_be_bytes());
        }
        bytes.extend(if self.ends.0.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        bytes.extend(self.ip());
        bytes
    }

    /// The IP packet's bytes.
    pub fn ip(&self) -> Vec<u8> {
        let (protocol, transport) = self.transport();
        match self.ends {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = 20 + self.options.len();
                let mut ip = vec![0x40 | (header / 4) as u8, 0];
                ip.extend(((header + transport.len()) as u16).to_be_bytes());
                ip.extend([0x12, 0x34]);
                ip.extend(self.fragment.to_be_bytes());
                ip.extend([self.ttl, protocol, 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(&self.options);
                let checksum = !(sum(&ip, 0) as u16);
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                ip.extend(transport);
                ip
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend((transport.len() as u16).to_be_bytes());
                ip.extend([protocol, self.ttl]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(transport);
                ip
            }
            ends => panic!("{ends:?} are of two families"),
        }
    }

    fn transport(&self) -> (u8, Vec<u8>) {
        let v6 = self.ends.0.is_ipv6();
        let icmp = if v6 { 58 } else { 1 };
        let (protocol, mut bytes, at) = match &self.payload {
            Payload::Tcp { src, dst, flags } => {
                let mut tcp = [src.to_be_bytes(), dst.to_be_bytes()].concat();
                let data_offset = 0x50 + (self.tcp_options.len() as u8 / 4 * 16);
                tcp.extend([0, 0, 0, 1, 0, 0, 0, 2, data_offset, *flags, 0x20, 0, 0, 0, 0, 0]);
                tcp.extend(&self.tcp_options);
                (6, tcp, Some(16))
            }
            Payload::Udp { src, dst } => {
                let mut udp = [src.to_be_bytes(), dst.to_be_bytes()].concat();
                udp.extend(((8 + self.data.len()) as u16).to_be_bytes());
                udp.extend([0, 0]);
                (17, udp, Some(6))
            }
            Payload::Echo { kind, id } => {
                let mut echo = vec![*kind, 0, 0, 0];
                echo.extend(id.to_be_bytes());
                echo.extend([0, 7]);
                (icmp, echo, Some(2))
            }
            Payload::Error { kind, about } => {
                let mut error = vec![*kind, 3, 0, 0, 0, 0, 0, 0];
                error.extend(about);
                return (icmp, finish(error, 2, if v6 { self.pseudo(icmp, 8 + about.len()) } else { 0 }));
            }
            Payload::Other { protocol } => (*protocol, vec![], None),
        };
        bytes.extend(&self.data);
        let Some(at) = at else { return (protocol, bytes) };
        let pseudo = if protocol == 1 { 0 } else { self.pseudo(protocol, bytes.len()) };
        match self.sum {
            Sum::Finished => bytes = finish(bytes, at, pseudo),
            Sum::Partial => bytes[at..at + 2].copy_from_slice(&(pseudo as u16).to_be_bytes()),
            Sum::Absent => {}
        }
        (protocol, bytes)
    }

    fn pseudo(&self, protocol: u8, length: usize) -> u32 {
        let ends = match self.ends {
            (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
            ends => panic!("{ends:?} are of two families"),
        };
        sum(&ends, u32::from(protocol) + length as u32)
    }
}

/// Writes a checksum over a message that begins with a pseudo header's sum.
fn finish(mut message: Vec<u8>, at: usize, pseudo: u32) -> Vec<u8> {
    let checksum = match !(sum(&message, pseudo) as u16) {
        0 => 0xffff,
        other => other,
    };
    message[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// What a frame turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Destination and source Ethernet address.
    pub macs: ([u8; 6], [u8; 6]),
    /// Source and destination address.
    pub ends: (IpAddr, IpAddr),
    /// TTL or hop limit.
    pub ttl: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Source and destination port (TCP, UDP, SCTP); for ICMP the identifier and 0.
    pub ports: (u16, u16),
    /// IP header checksum (IPv4) and transport checksum hold; an absent UDP checksum does.
    pub sums_hold: bool,
    /// The packet inside an ICMP error.
    pub about: Option<About>,
}

/// What a packet inside an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Source and destination address.
    pub ends: (IpAddr, IpAddr),
    /// Source and destination port (TCP, UDP, SCTP); for ICMP the identifier and 0.
    pub ports: (u16, u16),
    /// Its checksums hold.
    pub sums_hold: bool,
}

/// Reads an untagged frame back.
pub fn read(frame: &[u8]) -> Read {
    let macs = (frame[0..6].try_into().unwrap(), frame[6..12].try_into().unwrap());
    let ip = &frame[14..];
    let (ends, ttl, protocol, ports, sums_hold, l4) = read_ip(ip);
    let error = matches!((protocol, ip[l4]), (1, 3 | 11 | 12) | (58, 1..=4));
    let about = error.then(|| {
        let (ends, _, _, ports, sums_hold, _) = read_ip(&ip[l4 + 8..]);
        About { ends, ports, sums_hold }
    });
    Read { macs, ends, ttl, protocol, ports, sums_hold, about }
}

#[allow(clippy::type_complexity, reason = "private, taken apart at once")]
fn read_ip(ip: &[u8]) -> ((IpAddr, IpAddr), u8, u8, (u16, u16), bool, usize) {
    let (ends, ttl, protocol, l4, length, header_holds, address_bytes): (_, u8, u8, _, _, _, &[u8]) = if ip[0]
        >> 4
        == 4
    {
        let address = |at: usize| IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap()));
        let l4 = usize::from(ip[0] & 0xf) * 4;
        let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        ((address(12), address(16)), ip[8], ip[9], l4, length, sum(&ip[..l4], 0) == 0xffff, &ip[12..20])
    } else {
        let address = |at: usize| IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap()));
        let length = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        ((address(8), address(24)), ip[7], ip[6], 40, length, true, &ip[8..40])
    };
    let message = &ip[l4..length.min(ip.len())];
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let ports = match protocol {
        6 | 17 | 132 => (word(0), word(2)),
        _ if message.len() >= 6 => (word(4), 0),
        _ => (0, 0),
    };
    let pseudo =
        if protocol == 1 { 0 } else { sum(address_bytes, u32::from(protocol) + message.len() as u32) };
    let absent = protocol == 17 && word(6) == 0;
    let holds = !matches!(protocol, 1 | 6 | 17 | 58) || absent || sum(message, pseudo) == 0xffff;
    (ends, ttl, protocol, ports, header_holds && holds, l4)
}

/// Cuts a frame's IP packet into fragments of so many bytes of payload, which are a multiple of eight. `id`
/// is their identification.
pub fn fragments(frame: &Frame, id: u16, size: usize) -> Vec<Vec<u8>> {
    let bytes = Frame { fragment: 0, ..frame.clone() }.bytes();
    let payload = bytes.len() - header_length(&bytes);
    (0..payload).step_by(size).map(|at| fragment(&bytes, id, at..payload.min(at + size))).collect()
}

/// One fragment of an untagged frame: these bytes of the payload, from a multiple of eight on. More follow it
/// unless it has the last.
pub fn fragment(whole: &[u8], id: u16, part: Range<usize>) -> Vec<u8> {
    let header = header_length(whole);
    let mut bytes = whole[..header].to_vec();
    let (offset, more) = ((part.start / 8) as u16, u16::from(header + part.end < whole.len()));
    if whole[14] >> 4 == 4 {
        bytes[16..18].copy_from_slice(&((header - 14 + part.len()) as u16).to_be_bytes());
        bytes[20..22].copy_from_slice(&(offset | more << 13).to_be_bytes());
        bytes[18..20].copy_from_slice(&id.to_be_bytes());
        bytes[24..26].fill(0);
        let checksum = !(sum(&bytes[14..], 0) as u16);
        bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let protocol = std::mem::replace(&mut bytes[20], 44);
        bytes[18..20].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        bytes.extend([protocol, 0]);
        bytes.extend((offset << 3 | more).to_be_bytes());
        bytes.extend(u32::from(id).to_be_bytes());
    }
    bytes.extend(&whole[header..][part]);
    bytes
}

/// Length of an untagged frame's headers before what is cut into fragments.
fn header_length(frame: &[u8]) -> usize {
    14 + if frame[14] >> 4 == 4 { usize::from(frame[14] & 0xf) * 4 } else { 40 }
}

/// The frame whose fragments, in order, these are.
pub fn reassemble(pieces: &[Vec<u8>]) -> Vec<u8> {
    let is_v4 = pieces[0][12..14] == [0x08, 0x00];
    let header = header_length(&pieces[0]);
    let mut whole = pieces[0][..header].to_vec();
    let payload = header + if is_v4 { 0 } else { 8 };
    for piece in pieces {
        whole.extend(&piece[payload..]);
    }
    let length = (whole.len() - if is_v4 { 14 } else { header }) as u16;
    if is_v4 {
        whole[16..18].copy_from_slice(&length.to_be_bytes());
        whole[20..22].fill(0);
        whole[24..26].fill(0);
        let checksum = !(sum(&whole[14..header], 0) as u16);
        whole[24..26].copy_from_slice(&checksum.to_be_bytes());
    } else {
        whole[20] = pieces[0][header];
        whole[18..20].copy_from_slice(&length.to_be_bytes());
    }
    whole
}
