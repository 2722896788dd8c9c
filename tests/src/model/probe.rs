//! A packet as the model sees it: what it says, and what is wrong with it.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use crate::packet::{Frame, Payload, Sum, checksum, fragment};
use crate::scenario::{ETHERNET, Nic, host_mac};

/// Who is talking to whom, as one packet has it: the key of a flow's direction.
///
/// A ping has its identifier as source port and 0 as destination port, its answer the reverse; a
/// protocol without ports has 0 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: u8,
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Source and destination port.
    pub ports: (u16, u16),
}

impl Tuple {
    /// The other direction's.
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, ports: (self.ports.1, self.ports.0), ..self }
    }
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// TCP: ports and flags.
    Tcp((u16, u16), u8),
    /// UDP: ports.
    Udp((u16, u16)),
    /// An ICMP message that asks: type and identifier.
    Query(u8, u16),
    /// One that answers.
    Answer(u8, u16),
    /// One that does neither and is no error.
    Notice(u8),
    /// An ICMP error.
    Error(Box<Error>),
    /// SCTP: ports, which are not translated since the checksum that would have to be is over everything.
    Sctp((u16, u16)),
    /// Another protocol.
    Other(u8),
}

/// An ICMP error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The message's type.
    pub kind: u8,
    /// The ends of the packet that it is about.
    pub ends: (IpAddr, IpAddr),
    /// What that packet carried.
    pub body: Body,
    /// What is wrong with it.
    pub flaw: Option<ErrorFlaw>,
}

/// What is wrong with an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorFlaw {
    /// Its own checksum.
    Sum,
    /// The checksum of the IP header inside.
    InnerHeaderSum,
    /// The transport checksum inside, which is not to be looked at (RFC 5508 REQ-3c).
    InnerSum,
    /// Nothing: the packet inside ends eight bytes behind its IP header, as RFC 792 allows.
    Short,
    /// The packet inside ends within its IP header.
    TooShort,
    /// The packet inside is a later fragment, about which there are no errors (RFC 1122 §3.2.2).
    Later,
}

/// What is wrong with a packet, or special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// An IP version that there is not.
    Version,
    /// An IPv4 header that is too short to be one.
    HeaderLength,
    /// The IPv4 header's checksum.
    HeaderSum,
    /// This many bytes are missing at the end.
    Cut(usize),
    /// The IP packet ends within its transport header; what is behind it is padding.
    Padding,
    /// A VLAN tag.
    Vlan,
    /// No UDP checksum.
    NoSum,
    /// Nothing: an IPv4 header with options.
    Options,
    /// An IPv4 option by which the sender chooses the way.
    SourceRoute,
    /// A fragment that ends amid eight bytes though more follow.
    Ragged,
    /// A fragment beyond what a datagram can have.
    Beyond,
}

/// A fragment: which part of the payload it has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Identification.
    pub id: u16,
    /// Where it begins: a multiple of eight.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// Whom the Ethernet frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Station {
    /// The router.
    Router,
    /// All.
    Everybody,
    /// Somebody else.
    Stranger,
}

/// A packet that comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where.
    pub nic: Nic,
    /// For whom.
    pub station: Station,
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What it carries.
    pub body: Body,
    /// Bytes behind the transport header.
    pub data: usize,
    /// May not be fragmented (IPv4).
    pub whole: bool,
    /// Of a SYN: how large its sender takes segments.
    pub segments: Option<u16>,
    /// Which fragment it is, if it is one; all else is the whole packet's.
    pub piece: Option<Piece>,
    /// What is wrong with it.
    pub flaw: Option<Flaw>,
}

/// The key of a packet; none for what belongs to a flow otherwise or to none.
pub fn tuple((src, dst): (IpAddr, IpAddr), body: &Body) -> Option<Tuple> {
    let icmp = if src.is_ipv6() { 58 } else { 1 };
    let (protocol, ports) = match body {
        Body::Tcp(ports, _) => (6, *ports),
        Body::Udp(ports) => (17, *ports),
        Body::Sctp(ports) => (132, *ports),
        Body::Query(_, id) => (icmp, (*id, 0)),
        Body::Answer(_, id) => (icmp, (0, *id)),
        Body::Notice(_) | Body::Error(_) => return None,
        Body::Other(protocol) => (*protocol, (0, 0)),
    };
    Some(Tuple { protocol, src, dst, ports })
}

impl Body {
    /// The same message with other ports.
    #[must_use]
    pub fn with_ports(&self, ports: (u16, u16)) -> Self {
        match self {
            Self::Tcp(_, flags) => Self::Tcp(ports, *flags),
            Self::Udp(_) => Self::Udp(ports),
            Self::Sctp(_) => Self::Sctp(ports),
            Self::Query(kind, _) => Self::Query(*kind, ports.0),
            Self::Answer(kind, _) => Self::Answer(*kind, ports.1),
            other => other.clone(),
        }
    }

    /// What is behind the header that the packet builder knows.
    fn data(&self, length: usize) -> Vec<u8> {
        let mut data: Vec<u8> = (0..length).map(|at| at as u8).collect();
        if let Self::Sctp((src, dst)) = self {
            data[..4].copy_from_slice(&[src.to_be_bytes(), dst.to_be_bytes()].concat());
        }
        data
    }

    fn payload(&self) -> Payload {
        match self {
            Self::Tcp((src, dst), flags) => Payload::Tcp { src: *src, dst: *dst, flags: *flags },
            Self::Udp((src, dst)) => Payload::Udp { src: *src, dst: *dst },
            Self::Query(kind, id) | Self::Answer(kind, id) => Payload::Echo { kind: *kind, id: *id },
            Self::Notice(kind) => Payload::Echo { kind: *kind, id: 0 },
            Self::Sctp(_) => Payload::Other { protocol: 132 },
            Self::Other(protocol) => Payload::Other { protocol: *protocol },
            Self::Error(error) => Payload::Error { kind: error.kind, about: error.about() },
        }
    }
}

impl Error {
    /// Bytes of the packet inside.
    fn about(&self) -> Vec<u8> {
        let mut frame = frame(self.ends, self.body.payload());
        frame.data = self.body.data(16);
        let mut ip = frame.ip();
        let header = if self.ends.0.is_ipv4() { 20 } else { 40 };
        match self.flaw {
            None | Some(ErrorFlaw::Sum) => {}
            Some(ErrorFlaw::InnerHeaderSum) => ip[10] ^= 0x55,
            Some(ErrorFlaw::InnerSum) => {
                let last = ip.len() - 1;
                ip[last] ^= 0x55;
            }
            Some(ErrorFlaw::Short) => ip.truncate(header + 8),
            Some(ErrorFlaw::TooShort) => ip.truncate(header - 4),
            Some(ErrorFlaw::Later) => {
                // The checksum makes up for it: what was 0x4000 and 0x1234.
                ip[4..8].copy_from_slice(&[0x12, 0x35, 0x3f, 0xff]);
            }
        }
        ip
    }
}

fn frame((src, dst): (IpAddr, IpAddr), payload: Payload) -> Frame {
    Frame {
        macs: ([0; 6], [0; 6]),
        vlans: vec![],
        ends: (src, dst),
        ttl: 64,
        options: vec![],
        tcp_options: vec![],
        fragment: 0x4000,
        payload,
        data: vec![],
        sum: Sum::Finished,
    }
}

impl Probe {
    /// The key.
    pub fn tuple(&self) -> Option<Tuple> {
        tuple((self.src, self.dst), &self.body)
    }

    /// The IP protocol number.
    pub fn protocol(&self) -> u8 {
        let icmp = if self.src.is_ipv6() { 58 } else { 1 };
        tuple((self.src, self.dst), &self.body).map_or(icmp, |tuple| tuple.protocol)
    }

    /// Length of the IP packet.
    pub fn length(&self) -> usize {
        let whole = self.frame().ip().len();
        let Some(piece) = self.piece else { return whole };
        let further = if self.src.is_ipv6() { 8 } else { 0 };
        whole - self.payload() + further + piece.end - piece.start
    }

    /// Length of the whole packet's payload: the transport header and what follows.
    pub fn payload(&self) -> usize {
        let header = match &self.body {
            Body::Tcp(..) => 20 + if self.segments.is_some() { 8 } else { 0 },
            Body::Udp(_) | Body::Query(..) | Body::Answer(..) | Body::Notice(_) => 8,
            Body::Sctp(_) | Body::Other(_) => 0,
            // Its data is the packet inside.
            Body::Error(error) => return 8 + error.about().len(),
        };
        header + self.data
    }

    /// A fragment that is not all of its packet: in IPv6 that would be none (RFC 6946).
    pub fn is_fragment(&self) -> bool {
        self.piece.is_some_and(|piece| piece.start != 0 || piece.end != self.payload())
    }

    /// A fragment without ports.
    pub fn is_later(&self) -> bool {
        self.piece.is_some_and(|piece| piece.start != 0)
    }

    /// A fragment that no more follow.
    pub fn is_last(&self) -> bool {
        self.piece.is_some_and(|piece| piece.end == self.payload())
    }

    /// What a fragment covers, in units of eight bytes.
    pub fn units(&self) -> Range<usize> {
        self.piece.map_or(0..0, |piece| piece.start / 8..piece.end.div_ceil(8))
    }

    /// A first fragment that does not have all of the transport header (RFC 1858 §3).
    pub fn is_tiny(&self) -> bool {
        let header = match self.body {
            Body::Tcp(..) => 20,
            Body::Sctp(_) => 12,
            Body::Other(_) => 0,
            _ => 8,
        };
        self.piece.is_some_and(|piece| piece.start == 0 && piece.end < header)
    }

    fn frame(&self) -> Frame {
        let mut frame = frame((self.src, self.dst), self.body.payload());
        let to = match self.station {
            Station::Router => self.nic.mac(),
            Station::Everybody => [0xff; 6],
            Station::Stranger => [2, 9, 9, 9, 9, 9],
        };
        frame.macs = (to, host_mac(self.nic));
        frame.ttl = self.ttl;
        frame.fragment = if self.whole { 0x4000 } else { 0 };
        frame.data = self.body.data(self.data);
        if let Some(size) = self.segments {
            frame.tcp_options = [&[1, 2, 4][..], &size.to_be_bytes(), &[0; 3]].concat();
        }
        match self.flaw {
            Some(Flaw::NoSum) => frame.sum = Sum::Absent,
            Some(Flaw::Options) => frame.options = vec![1, 1, 1, 0],
            Some(Flaw::SourceRoute) => frame.options = vec![1, 131, 7, 4, 10, 1, 2, 50],
            _ => {}
        }
        frame
    }

    /// As it is on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.frame().bytes();
        if let Body::Error(error) = &self.body
            && error.flaw == Some(ErrorFlaw::Sum)
            && matches!(self.flaw, None | Some(Flaw::Options))
        {
            let icmp = bytes.len() - self.payload();
            bytes[icmp + 2] ^= 0x55;
        }
        if let Some(Piece { id, start, end }) = self.piece {
            let end = if self.flaw == Some(Flaw::Ragged) { end - 3 } else { end };
            bytes = fragment(&bytes, id, start..end);
        }
        match self.flaw {
            Some(Flaw::Version) => bytes[ETHERNET] ^= 0x10,
            Some(Flaw::HeaderLength) => bytes[ETHERNET] = 0x44,
            Some(Flaw::HeaderSum) => bytes[ETHERNET + 10] ^= 0x55,
            Some(Flaw::Cut(by)) => bytes.truncate(bytes.len() - by),
            Some(Flaw::Vlan) => drop(bytes.splice(12..12, [0x81, 0, 0, 100])),
            Some(Flaw::Padding) => {
                let mut frame = self.frame();
                frame.payload = Payload::Other { protocol: bytes[ETHERNET + 9] };
                frame.data = bytes[ETHERNET + 20..ETHERNET + 22].to_vec();
                let short = frame.bytes();
                bytes[..short.len()].copy_from_slice(&short);
            }
            Some(Flaw::Beyond) if self.src.is_ipv6() => {
                bytes[ETHERNET + 42..ETHERNET + 44].copy_from_slice(&[0xff, 0xf9]);
            }
            Some(Flaw::Beyond) => {
                bytes[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&[0x3f, 0xff]);
                bytes[ETHERNET + 10..ETHERNET + 12].fill(0);
                let header = usize::from(bytes[ETHERNET] & 0xf) * 4;
                let sum = checksum(&bytes[ETHERNET..ETHERNET + header]);
                bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
            }
            _ => {}
        }
        bytes
    }
}

impl Probe {
    /// The checksum of TCP or UDP looks like one that is left to the hardware.
    pub fn is_unfinished(&self) -> bool {
        let unfinished = Frame { sum: Sum::Partial, ..self.frame() };
        matches!(self.body, Body::Tcp(..) | Body::Udp(_)) && unfinished.bytes() == self.frame().bytes()
    }

    /// The checksum looks like one that is left to the hardware, or there is none to tell.
    pub fn may_be_unfinished(&self) -> bool {
        match self.body {
            Body::Tcp(..) | Body::Udp(_) => self.flaw == Some(Flaw::NoSum) || self.is_unfinished(),
            Body::Sctp(_) | Body::Other(_) => true,
            Body::Notice(_) => true,
            _ => false,
        }
    }
}

fn flags(flags: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    let set = names.iter().enumerate().filter(|(bit, _)| flags & (1 << bit) != 0).map(|(_, name)| *name);
    let text = set.collect::<Vec<_>>().join("+");
    if text.is_empty() { "no flags".to_owned() } else { text }
}

fn write(f: &mut fmt::Formatter<'_>, (src, dst): (IpAddr, IpAddr), body: &Body) -> fmt::Result {
    match body {
        Body::Tcp((from, to), set) => write!(f, "TCP {src}:{from} > {dst}:{to} {}", flags(*set)),
        Body::Udp((from, to)) => write!(f, "UDP {src}:{from} > {dst}:{to}"),
        Body::Sctp((from, to)) => write!(f, "SCTP {src}:{from} > {dst}:{to}"),
        Body::Query(kind, id) => write!(f, "ICMP query {kind} id {id} {src} > {dst}"),
        Body::Answer(kind, id) => write!(f, "ICMP answer {kind} id {id} {src} > {dst}"),
        Body::Notice(kind) => write!(f, "ICMP {kind} {src} > {dst}"),
        Body::Other(protocol) => write!(f, "protocol {protocol} {src} > {dst}"),
        Body::Error(error) => {
            write!(f, "ICMP error {} {src} > {dst} about [", error.kind)?;
            write(f, error.ends, &error.body)?;
            match error.flaw {
                Some(flaw) => write!(f, "] ({flaw:?})"),
                None => write!(f, "]"),
            }
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.nic)?;
        write(f, (self.src, self.dst), &self.body)?;
        if self.ttl != 64 {
            write!(f, ", TTL {}", self.ttl)?;
        }
        if self.data > 64 {
            write!(f, ", {} bytes{}", self.data, if self.whole { "" } else { " that may be fragmented" })?;
        }
        if let Some(Piece { id, start, end }) = self.piece {
            write!(f, ", bytes {start} to {end} of {} as fragment of {id}", self.payload())?;
        }
        if let Some(size) = self.segments {
            write!(f, ", takes segments of {size}")?;
        }
        if self.station != Station::Router {
            write!(f, ", to {:?}", self.station)?;
        }
        self.flaw.map_or(Ok(()), |flaw| write!(f, ", {flaw:?}"))
    }
}
