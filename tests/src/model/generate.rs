//! Packets that meet each other's flows: few hosts, few ports, and most packets are about one that
//! went before.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;

use super::probe::{Body, Error, ErrorFlaw, Flaw, Piece, Probe, Station, tuple};
use crate::scenario::Nic;

const TIER1: &[&str] = &["10.1.1.50", "10.1.1.50", "10.1.1.51", "10.1.1.51", "10.1.1.60"];
const TIER2: &[&str] = &["10.1.2.50", "10.1.2.50", "10.1.2.60"];
const OUTSIDE: &[&str] = &["192.0.2.9", "192.0.2.10", "198.51.100.9", "203.0.113.77"];
const OUTSIDE2: &[&str] = &["203.0.114.77", "192.0.2.9", "198.51.100.9"];
const CONTROL: &[&str] = &["169.254.0.1"];
const PUBLIC: &[&str] = &["203.0.113.10", "203.0.113.20", "203.0.113.21", "203.0.114.10", "203.0.114.20"];
const GATEWAYS: &[&str] = &["10.1.1.1", "10.1.2.1", "169.254.3.4"];
const UNKNOWN: &[&str] = &["10.1.1.99", "10.1.2.99"];
const ODD: &[&str] = &[
    "127.0.0.1",
    "0.1.2.3",
    "240.0.0.1",
    "224.0.0.5",
    "255.255.255.255",
    "169.254.0.7",
    "198.18.0.1",
    "198.19.255.255",
    "10.1.1.255",
    "10.1.2.255",
    "203.0.113.255",
];
const GUEST6: &[&str] = &["fd00:1::50", "fd00:2::50"];
const ALL6: &[&str] = &[
    "fd00:1::50",
    "fd00:2::50",
    "2001:db8:100::77",
    "2001:db8:100::77",
    "fd00:1::1",
    "2001:db8:100::10",
    "2001:db8:dead::1",
    "fd00:2::99",
    "::1",
    "::ffff:192.0.2.9",
    "fec0::1",
    "ff02::5",
    "fe80::1",
];
const PORTS: &[u16] = &[
    22, 53, 80, 80, 1023, 2222, 5000, 5000, 5000, 5001, 6000, 8080, 8080, 29_999, 30_000, 30_005, 30_010,
    30_011, 40_005, 64_000, 65_023,
];
const IDS: &[u16] = &[0, 5, 5, 6, 5000];
const PROTOCOLS: &[u8] = &[47, 50, 200];
const FLAGS: &[u8] = &[2, 2, 2, 18, 16, 16, 24, 17, 4, 20, 0, 41, 1, 3, 6, 10];

/// A generator of random numbers.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// One of many.
    pub const fn new(seed: u64) -> Self {
        // Seeds that differ little shall not begin alike.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    /// A number below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True as often as that.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn shuffle<T>(&mut self, of: &mut [T]) {
        for at in 1..of.len() {
            of.swap(at, self.below(at + 1));
        }
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Makes packets.
#[derive(Debug)]
pub struct Generator {
    random: Random,
    /// Packets that came in, and the same as they left by a NIC.
    passed: VecDeque<(Probe, Probe)>,
    /// Datagrams under way: fragments still to be sent.
    cut: Vec<VecDeque<Probe>>,
}

impl Generator {
    /// One of many.
    pub const fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), passed: VecDeque::new(), cut: vec![] }
    }

    /// Takes note of a packet that was forwarded: as it came in and as it left, by the probe's NIC.
    pub fn passed(&mut self, came: Probe, left: Probe) {
        if came.is_later() {
            return;
        }
        if self.passed.len() == 48 {
            self.passed.pop_front();
        }
        let whole = |probe| Probe { data: 32, whole: true, piece: None, ..probe };
        self.passed.push_back((whole(came), whole(left)));
    }

    /// The next packet.
    pub fn probe(&mut self) -> Probe {
        if !self.cut.is_empty() && self.random.percent(60) {
            return self.next_piece();
        }
        let known = !self.passed.is_empty();
        let kind = self.random.below(100);
        let mut probe = match kind {
            0..30 if known => self.answer(),
            30..45 if known => self.again(),
            45..60 if known => self.error(),
            60..65 if known => self.variant(),
            _ => self.fresh(),
        };
        // A first packet that is too large may open a flow or not: nobody says.
        let is_known = known && kind < 45;
        if probe.tuple().is_some() && self.random.percent(7) {
            let pieces = self.pieces(probe, is_known);
            self.cut.push(pieces);
            return self.next_piece();
        }
        probe.segments = None;
        if matches!(probe.body, Body::Tcp(_, flags) if flags & 2 != 0) && self.random.percent(40) {
            probe.segments = Some(self.random.pick(&[536, 1339, 1340, 1360, 1361, 1440, 1460, 8960]));
        }
        self.spoil(&mut probe, is_known);
        probe
    }

    /// A fragment of one of the datagrams under way.
    fn next_piece(&mut self) -> Probe {
        let at = self.random.below(self.cut.len());
        let mut piece = self.cut[at].pop_front().expect("datagrams under way have fragments left");
        if self.cut[at].is_empty() {
            self.cut.swap_remove(at);
        }
        self.spoil(&mut piece, false);
        piece
    }

    /// A packet in fragments, as they will be sent: in any order, some of them not at all, twice, or cut
    /// otherwise.
    fn pieces(&mut self, probe: Probe, is_known: bool) -> VecDeque<Probe> {
        let data = self.random.pick(&[8, 24, 100, 500, 1400, 3000]);
        let mut whole = Probe { data, whole: false, segments: None, ..probe };
        let may_lack_sum = matches!(whole.body, Body::Udp(_)) && whole.src.is_ipv4();
        whole.flaw = (may_lack_sum && self.random.percent(10)).then_some(Flaw::NoSum);
        let id =
            if self.random.percent(70) { self.random.next() as u16 } else { self.random.pick(&[1, 2, 3]) };
        let sizes: &[usize] = if is_known { &[24, 64, 256, 1000, 1440] } else { &[24, 64, 256, 1000, 1344] };
        let size = self.random.pick(sizes).max(whole.payload().div_ceil(12).next_multiple_of(8));
        let piece = |range: Range<usize>| {
            let (start, end) = (range.start, range.end.min(whole.payload()));
            Probe { piece: Some(Piece { id, start, end }), ..whole.clone() }
        };
        let mut pieces: Vec<_> = (0..whole.payload()).step_by(size).map(|at| piece(at..at + size)).collect();
        match self.random.below(100) {
            0..45 => {}
            45..60 => pieces.reverse(),
            60..85 => self.random.shuffle(&mut pieces),
            85..92 => pieces = vec![pieces.swap_remove(self.random.below(pieces.len()))],
            _ if pieces.len() > 1 => drop(pieces.remove(0)),
            _ => {}
        }
        if self.random.percent(15) {
            let twice = pieces[self.random.below(pieces.len())].clone();
            pieces.insert(self.random.below(pieces.len() + 1), twice);
        }
        if self.random.percent(12) {
            // Within the payload, from a multiple of eight on.
            let start = self.random.below(whole.payload().div_ceil(8)) * 8;
            let length = self.random.pick(&[8, 16, 104, 512]);
            pieces.insert(self.random.below(pieces.len() + 1), piece(start..start + length));
        }
        pieces.into()
    }

    fn of_the_past(&mut self) -> (Probe, Probe) {
        let at = self.random.below(self.passed.len());
        self.passed[at].clone()
    }

    /// An answer to a packet that was forwarded.
    fn answer(&mut self) -> Probe {
        let (_, left) = self.of_the_past();
        let body = match &left.body {
            Body::Tcp((src, dst), _) => Body::Tcp((*dst, *src), self.random.pick(FLAGS)),
            Body::Udp((src, dst)) => Body::Udp((*dst, *src)),
            Body::Sctp((src, dst)) => Body::Sctp((*dst, *src)),
            Body::Query(kind, id) => Body::Answer(answer_to(*kind), *id),
            Body::Answer(kind, id) => Body::Query(query_of(*kind), *id),
            other => other.clone(),
        };
        Probe { src: left.dst, dst: left.src, body, ttl: 64, ..left }
    }

    /// A packet that was sent before.
    fn again(&mut self) -> Probe {
        let (mut came, _) = self.of_the_past();
        if let Body::Tcp(_, flags) = &mut came.body {
            *flags = self.random.pick(FLAGS);
        }
        came
    }

    /// Something like a packet of the past, or of its answer, with one thing changed.
    fn variant(&mut self) -> Probe {
        let mut probe = if self.random.percent(50) { self.answer() } else { self.again() };
        match self.random.below(4) {
            0 => probe.nic = self.random.pick(&Nic::ALL),
            1 if probe.src.is_ipv4() => probe.src = self.any4(),
            2 if probe.src.is_ipv4() => probe.dst = self.any4(),
            _ => {
                let ports = tuple((probe.src, probe.dst), &probe.body).map_or((0, 0), |tuple| tuple.ports);
                let other = (self.random.pick(PORTS), self.random.pick(PORTS));
                let ports = if self.random.percent(50) { (other.0, ports.1) } else { (ports.0, other.1) };
                probe.body = probe.body.with_ports(ports);
            }
        }
        probe
    }

    /// An error about a packet that was forwarded, from where it went or from on the way.
    fn error(&mut self) -> Probe {
        let (_, left) = self.of_the_past();
        let v6 = left.src.is_ipv6();
        let kind = if v6 { self.random.pick(&[1, 2, 3, 4]) } else { self.random.pick(&[3, 3, 11, 12]) };
        let mut error = Error { kind, ends: (left.src, left.dst), body: left.body.clone(), flaw: None };
        let mut probe = Probe { src: left.dst, dst: left.src, ttl: 64, ..left };
        if self.random.percent(40) {
            probe.src = self.host_of(probe.nic, v6);
        }
        match self.random.below(30) {
            0 => error.flaw = (!v6).then_some(ErrorFlaw::InnerHeaderSum),
            1 => error.flaw = Some(ErrorFlaw::InnerSum),
            2 => error.flaw = Some(ErrorFlaw::Short),
            3 => error.flaw = Some(ErrorFlaw::TooShort),
            4 => std::mem::swap(&mut error.ends.0, &mut error.ends.1),
            5 if !v6 => error.ends.1 = self.any4(),
            6 if !v6 => probe.dst = self.any4(),
            7 => probe.nic = self.random.pick(&Nic::ALL),
            8 => error.flaw = Some(ErrorFlaw::Sum),
            9 => {
                probe.body = Body::Notice(self.random.pick(if v6 { &[130, 200] } else { &[4, 5, 10] }));
                return probe;
            }
            10 => {
                let ports = (self.random.pick(PORTS), self.random.pick(PORTS));
                error.body = error.body.with_ports(ports);
            }
            11 => error.flaw = (!v6).then_some(ErrorFlaw::Later),
            _ => {}
        }
        probe.body = Body::Error(Box::new(error));
        probe
    }

    fn host_of(&mut self, nic: Nic, v6: bool) -> IpAddr {
        let text = match nic {
            Nic::Tier1 if v6 => "fd00:1::50",
            Nic::Tier2 if v6 => "fd00:2::50",
            _ if v6 => "2001:db8:100::77",
            Nic::Tier1 => self.random.pick(TIER1),
            Nic::Tier2 => self.random.pick(TIER2),
            Nic::Public => self.random.pick(OUTSIDE),
            Nic::Public2 => self.random.pick(OUTSIDE2),
            Nic::Control => self.random.pick(CONTROL),
        };
        text.parse().expect("an address")
    }

    fn any4(&mut self) -> IpAddr {
        let of = match self.random.below(100) {
            0..25 => OUTSIDE,
            25..30 => OUTSIDE2,
            30..45 => TIER1,
            45..60 => TIER2,
            60..88 => PUBLIC,
            88..92 => GATEWAYS,
            92..95 => UNKNOWN,
            _ => ODD,
        };
        self.random.pick(of).parse().expect("an address")
    }

    fn body(&mut self, v6: bool) -> Body {
        let port = |random: &mut Random| random.pick(PORTS);
        match self.random.below(100) {
            0..40 => {
                let ports = (port(&mut self.random), port(&mut self.random));
                // Mostly what can begin.
                let flags = if self.random.percent(60) { 2 } else { self.random.pick(FLAGS) };
                Body::Tcp(ports, flags)
            }
            40..75 => Body::Udp((port(&mut self.random), port(&mut self.random))),
            75..87 => {
                let kinds: &[u8] = if v6 { &[128] } else { &[8, 8, 13] };
                Body::Query(self.random.pick(kinds), self.random.pick(IDS))
            }
            87..90 => {
                let kinds: &[u8] = if v6 { &[129] } else { &[0, 14] };
                Body::Answer(self.random.pick(kinds), self.random.pick(IDS))
            }
            90..92 if !v6 => Body::Notice(self.random.pick(&[4, 5, 10])),
            92..95 => Body::Sctp((port(&mut self.random), port(&mut self.random))),
            _ => Body::Other(self.random.pick(PROTOCOLS)),
        }
    }

    /// A packet about nothing that went before.
    fn fresh(&mut self) -> Probe {
        let nic = match self.random.below(100) {
            0..38 => Nic::Tier1,
            38..62 => Nic::Tier2,
            62..85 => Nic::Public,
            85..98 => Nic::Public2,
            _ => Nic::Control,
        };
        let v6 = nic != Nic::Control && self.random.percent(10);
        let src = self.host_of(nic, v6);
        let dst = if v6 { self.random.pick(ALL6).parse().expect("an address") } else { self.any4() };
        let mut probe = Probe {
            nic,
            station: Station::Router,
            src,
            dst,
            ttl: 64,
            body: self.body(v6),
            data: 32,
            whole: true,
            segments: None,
            piece: None,
            flaw: None,
        };
        if v6 && self.random.percent(4) {
            probe.src = self.random.pick(GUEST6).parse().expect("an address");
        } else if !v6 && self.random.percent(4) {
            probe.src = self.any4();
        }
        probe
    }

    /// One thing that may be wrong, or odd, with any packet.
    fn spoil(&mut self, probe: &mut Probe, is_known: bool) {
        let v6 = probe.src.is_ipv6();
        match self.random.below(100) {
            0 => probe.ttl = 0,
            1..3 => probe.ttl = 1,
            3 => probe.ttl = 2,
            4 => probe.station = self.random.pick(&[Station::Everybody, Station::Stranger]),
            5..7 if probe.is_fragment() && self.random.percent(40) => {
                let flaws: &[Flaw] = if v6 {
                    &[Flaw::Version, Flaw::Ragged, Flaw::Beyond]
                } else {
                    &[Flaw::HeaderSum, Flaw::Options, Flaw::SourceRoute, Flaw::Ragged, Flaw::Beyond]
                };
                probe.flaw = Some(self.random.pick(flaws));
            }
            5 => {
                let v4: &[Flaw] = &[
                    Flaw::HeaderSum,
                    Flaw::HeaderLength,
                    Flaw::Version,
                    Flaw::Options,
                    Flaw::SourceRoute,
                    Flaw::NoSum,
                    Flaw::Padding,
                ];
                probe.flaw = Some(if v6 { Flaw::Version } else { self.random.pick(v4) });
            }
            6 => {
                let headers = if v6 { 40 } else { 20 };
                // What was sent before may have had options, which count no longer.
                probe.flaw = None;
                let most = probe.length() - headers;
                probe.flaw = Some(Flaw::Cut(1 + self.random.below(most)));
            }
            7 if self.random.percent(20) => probe.flaw = Some(Flaw::Vlan),
            8 if is_known && probe.piece.is_none() && matches!(probe.body, Body::Tcp(..) | Body::Udp(_)) => {
                probe.data = self.random.pick(&[1000, 1352, 1380, 1381, 1400, 1450]);
                probe.whole = self.random.percent(70);
            }
            _ => {}
        }
        // Absent checksums are UDP's; only transports whose header is read can end within it.
        let applies = match probe.flaw {
            Some(Flaw::NoSum) => matches!(probe.body, Body::Udp(_)),
            Some(Flaw::Padding) => !matches!(probe.body, Body::Other(_)) && probe.piece.is_none(),
            Some(Flaw::Ragged) => !probe.is_last(),
            Some(Flaw::Beyond) => probe.units().len() > 1,
            _ => true,
        };
        if !applies {
            probe.flaw = None;
        }
    }
}

const fn answer_to(query: u8) -> u8 {
    match query {
        128 => 129,
        13 => 14,
        _ => 0,
    }
}

const fn query_of(answer: u8) -> u8 {
    match answer {
        129 => 128,
        14 => 13,
        _ => 8,
    }
}
