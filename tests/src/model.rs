//! The scenarios' router once more, in plain Rust and from the rules alone: what a packet should
//! become, said without a look at the walk, so that the two can be compared on packets that nobody
//! thought of (`tests/model.rs`).
//!
//! Written as the rules are: no checksums, no tables of bits, no hooks. Where the rules leave the
//! router a choice – a port of the same range and parity that is not in use – the model says what
//! it may choose and adopts what it chose.

pub mod account;
pub mod compare;
mod fragment;
pub mod generate;
mod nat;
mod places;
pub mod probe;

use std::collections::HashMap;
use std::net::IpAddr;

use router_common::port::Role;
use router_userspace::model::nat::Nat;

use crate::scenario::{Nic, nat_rules};
use fragment::Datagrams;
use nat::Destination;
use places::{Places, Route, first_address, is_link_scope, is_martian_destination, is_martian_source};
use probe::{Body, Error, ErrorFlaw, Flaw, Probe, Station, Tuple, tuple};

/// Ports that the router keeps for its own sockets.
const OWN_PORTS: std::ops::RangeInclusive<u16> = 64_000..=65_023;

/// Why a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Why {
    Malformed,
    UnknownVlan,
    Martian,
    NotPermitted,
    CannotBegin,
    NoPort,
    Unrelated,
    Ttl,
    TooBig,
    Route,
    WrongPort,
    Spoofed,
    SourceRoute,
    FromControl,
    Broken,
    IcmpUnsupported,
    Overlap,
    NotHeld,
}

/// What may become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sent on.
    Forwarded(Forwarded),
    /// Sent on, in pieces.
    Cut,
    /// Refused.
    Dropped(Why),
    /// To the kernel.
    Punted,
    /// Kept until its datagram's first fragment comes; or that one, which comes in again with all that were.
    Held,
}

/// A packet that is sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// By this NIC.
    pub nic: Nic,
    /// With these ends.
    pub ends: (IpAddr, IpAddr),
    /// And these ports.
    pub ports: (Port, u16),
    /// An ICMP error: the key of the packet inside.
    pub about: Option<Tuple>,
    /// The router knows the neighbour that gets it.
    pub resolved: bool,
    /// It begins a flow: whether that translates source and destination.
    pub opens: Option<Translated>,
}

/// Which ends of a flow are translated, be it to what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    source: bool,
    destination: bool,
}

/// A source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one.
    Is(u16),
    /// Another than this one, which is in use, but like it.
    Like(u16),
}

/// A flow: its first packet, as it came in and as it left.
#[derive(Clone, Copy, Debug)]
struct Flow {
    asked: Tuple,
    sent: Tuple,
    translated: Translated,
    from: Nic,
    to: Nic,
}

/// What becomes of an answer that has no way back.
const NO_WAY: [Fate; 2] = [Fate::Punted, Fate::Dropped(Why::Route)];

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// A socket of a guest, as a binding knows it: protocol, address, port; and the address it has outside.
type Socket = (u8, IpAddr, u16, IpAddr);

/// The router.
#[derive(Debug)]
pub struct Model {
    rules: Nat,
    places: Places,
    flows: Vec<Flow>,
    index: HashMap<Tuple, (usize, Way)>,
    /// Sockets of guests and the port they have outside.
    bindings: HashMap<Socket, u16>,
    /// The same by the outside: protocol, address, port.
    externals: HashMap<(u8, IpAddr, u16), (IpAddr, u16)>,
    datagrams: Datagrams,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            rules: nat_rules(),
            places: Places::default(),
            flows: vec![],
            index: HashMap::new(),
            bindings: HashMap::new(),
            externals: HashMap::new(),
            datagrams: Datagrams::default(),
        }
    }
}

impl Model {
    /// What may become of a packet that no router looks further into.
    pub fn unread(probe: &Probe) -> Vec<Fate> {
        if probe.flaw == Some(Flaw::Vlan) {
            return vec![Fate::Dropped(Why::UnknownVlan)];
        }
        let mut fates = vec![];
        let is_malformed = matches!(
            probe.flaw,
            Some(
                Flaw::Version
                    | Flaw::HeaderLength
                    | Flaw::HeaderSum
                    | Flaw::Cut(_)
                    | Flaw::Padding
                    | Flaw::Ragged
                    | Flaw::Beyond
            )
        );
        if is_malformed {
            fates.push(Fate::Dropped(Why::Malformed));
        }
        if probe.flaw == Some(Flaw::SourceRoute) {
            fates.push(Fate::Dropped(Why::SourceRoute));
        }
        if probe.station != Station::Router || probe.nic == Nic::Control {
            fates.push(Fate::Punted);
        }
        fates
    }

    /// What may become of a packet: any of these. Where two rules refuse it no rule says which comes
    /// first.
    pub fn expect(&self, probe: &Probe) -> Vec<Fate> {
        let mut fates = Self::unread(probe);
        if probe.is_tiny() {
            fates.push(Fate::Dropped(Why::Malformed));
        }
        if !fates.is_empty() {
            return fates;
        }
        if probe.is_fragment()
            && let Some(fate) = self.datagrams.expect(probe)
        {
            return vec![fate];
        }
        let is_error = matches!(probe.body, Body::Error(_));
        let is_martian = is_martian_source(probe.src) || is_martian_destination(probe.dst);
        if is_martian {
            fates.push(Fate::Dropped(Why::Martian));
        }
        if is_link_scope(probe.src) {
            // RFC 3927 §2.7: not to be forwarded, but the router itself may be asked.
            fates.push(Fate::Dropped(Why::Martian));
        }
        if is_link_scope(probe.dst) {
            fates.push(Fate::Punted);
        }
        if !fates.is_empty() {
            if self.places.is_local(probe.dst) {
                fates.extend([Fate::Punted, Fate::Dropped(Why::NotPermitted)]);
            }
            if is_error {
                fates.extend(self.refuse(probe, Why::Unrelated));
            }
            return fates;
        }
        match &probe.body {
            Body::Notice(_) => self.refuse(probe, Why::IcmpUnsupported),
            Body::Error(error) => self.expect_error(probe, error),
            _ => {
                let tuple = self.datagrams.tuple(probe).expect("what is left has a key");
                match self.index.get(&tuple) {
                    Some(&(flow, way)) => self.expect_known(probe, &self.flows[flow], way),
                    None => self.expect_new(probe, tuple),
                }
            }
        }
    }

    /// What is refused unless it is for the router itself; to a guest's public address nothing is.
    fn refuse(&self, probe: &Probe, why: Why) -> Vec<Fate> {
        let is_a_guests = self.rules.static_nats.iter().any(|rule| IpAddr::V4(rule.public) == probe.dst);
        if self.places.is_local(probe.dst) && !is_a_guests {
            return vec![Fate::Punted];
        }
        let mut fates = vec![Fate::Dropped(why)];
        if probe.src == probe.dst {
            fates.push(Fate::Dropped(Why::Martian));
        }
        if probe.nic.role() == Role::Public && !is_a_guests {
            fates.push(Fate::Dropped(Why::NotPermitted));
        }
        if self.is_spoofed(probe) {
            fates.push(Fate::Dropped(Why::Spoofed));
            return fates;
        }
        fates.extend(self.expired(probe, is_a_guests));
        fates
    }

    /// Whether a source is none of those that are behind the NIC (RFC 1812 §5.3.8, RFC 6092 REC-5 and 6).
    /// Those behind one provider's NIC may come by another.
    fn is_spoofed(&self, probe: &Probe) -> bool {
        !matches!(self.places.route(probe.src, None), Route::By(nic, _) if may_come_by(probe.nic, nic))
    }

    /// The TTL of a packet ran out. The kernel, which answers what it is given, would take one that
    /// has a translated destination for its own.
    fn expired(&self, probe: &Probe, translated: bool) -> Option<Fate> {
        let fate = if translated { Fate::Dropped(Why::Ttl) } else { Fate::Punted };
        (probe.ttl <= 1).then_some(fate)
    }

    /// A packet of a flow: translated as the flow's first was, by the NIC of the other side.
    fn expect_known(&self, probe: &Probe, flow: &Flow, way: Way) -> Vec<Fate> {
        let (left, from) = flow.along(way);
        if !may_come_by(probe.nic, from) {
            return vec![Fate::Dropped(Why::WrongPort)];
        }
        // A flow's first packet asked, so what comes back answers.
        if !probe.is_later()
            && matches!((&probe.body, way), (Body::Query(..), Way::Back) | (Body::Answer(..), Way::There))
        {
            let also = self.ways_along(flow, way).contains(&None).then_some(NO_WAY);
            let cannot = Fate::Dropped(Why::CannotBegin);
            return std::iter::once(cannot).chain(also.into_iter().flatten()).collect();
        }
        let fates = |to: Option<Nic>| match to {
            Some(to) => vec![self.send(probe, left, to, Port::Is(left.ports.0), flow.translates(way), None)],
            None => NO_WAY.to_vec(),
        };
        self.ways_along(flow, way).into_iter().flat_map(fates).collect()
    }

    /// The NIC that packets of a flow leave by, none if there is no way; answers by the one that the
    /// question came in by.
    fn ways_along(&self, flow: &Flow, way: Way) -> Vec<Option<Nic>> {
        if way == Way::There {
            return vec![Some(flow.to)];
        }
        vec![Some(flow.from)]
    }

    /// What leaves by a NIC, if its TTL and its size allow.
    fn send(
        &self,
        probe: &Probe,
        left: Tuple,
        nic: Nic,
        port: Port,
        is_translated: bool,
        opens: Option<Translated>,
    ) -> Fate {
        if let Some(fate) = self.expired(probe, is_translated) {
            return fate;
        }
        if probe.length() > usize::from(nic.mtu()) {
            let is_answered = !is_translated && (probe.dst.is_ipv6() || probe.whole);
            let can_be_cut = probe.dst.is_ipv4()
                && !probe.whole
                && probe.flaw != Some(Flaw::Options)
                && (probe.nic != Nic::Tier2 || !probe.is_unfinished());
            return match is_answered {
                true => Fate::Punted,
                false if can_be_cut => Fate::Cut,
                false => Fate::Dropped(Why::TooBig),
            };
        }
        let resolved = !matches!(self.places.route(left.dst, Some(nic)), Route::By(_, false));
        let ends = (left.src, left.dst);
        Fate::Forwarded(Forwarded { nic, ends, ports: (port, left.ports.1), about: None, resolved, opens })
    }

    /// An ICMP error: it goes where answers to the packet go that it is about.
    fn expect_error(&self, probe: &Probe, error: &Error) -> Vec<Fate> {
        if matches!(error.flaw, Some(ErrorFlaw::InnerHeaderSum | ErrorFlaw::TooShort | ErrorFlaw::Later)) {
            return self.refuse(probe, Why::Unrelated);
        }
        let about = tuple(error.ends, &error.body);
        let Some((about, &(flow, way))) =
            about.and_then(|about| Some((about, self.index.get(&about.reversed())?)))
        else {
            return self.refuse(probe, Why::Unrelated);
        };
        // Errors go to whoever sent the packet, and nowhere else.
        if about.src != probe.dst {
            return self.refuse(probe, Why::Unrelated);
        }
        let (left, from) = self.flows[flow].along(way);
        if !may_come_by(probe.nic, from) {
            return vec![Fate::Dropped(Why::WrongPort)];
        }
        // With 0 for an identifier a query has the key of its answer.
        let asks_back =
            matches!((&error.body, way), (Body::Query(..), Way::There) | (Body::Answer(..), Way::Back));
        let translated = self.flows[flow].translated;
        if asks_back && (translated.source || translated.destination) {
            let also = self.ways_along(&self.flows[flow], way).contains(&None).then_some(NO_WAY);
            let mut fates = self.refuse(probe, Why::Unrelated);
            fates.extend([Fate::Dropped(Why::Broken), Fate::Dropped(Why::Ttl), Fate::Dropped(Why::TooBig)]);
            fates.extend(also.into_iter().flatten());
            return fates;
        }
        let fates = |to: Option<Nic>| {
            let Some(to) = to else { return NO_WAY.to_vec() };
            match self.send(probe, left, to, Port::Is(0), self.flows[flow].translates(way), None) {
                Fate::Forwarded(mut forwarded) => {
                    // Whoever noticed: a translated side does not show (RFC 5508 REQ-5c).
                    let src = if self.flows[flow].hides(way) { left.src } else { probe.src };
                    (forwarded.ends, forwarded.about) = ((src, left.dst), Some(left.reversed()));
                    vec![Fate::Forwarded(forwarded)]
                }
                // Nobody answers an error, so it does not matter which of the two.
                _ if probe.ttl <= 1 => vec![Fate::Punted, Fate::Dropped(Why::Ttl)],
                fate => vec![fate],
            }
        };
        let mut fates: Vec<_> = self.ways_along(&self.flows[flow], way).into_iter().flat_map(fates).collect();
        if error.flaw == Some(ErrorFlaw::Sum) {
            // RFC 5508 REQ-3 says "should be dropped". TODO: it is passed on, as wrong as it came.
            fates.extend(self.refuse(probe, Why::Malformed));
        }
        fates
    }

    /// A packet that no flow knows.
    fn expect_new(&self, probe: &Probe, tuple: Tuple) -> Vec<Fate> {
        let mut fates = self.expect_first(probe, tuple);
        if probe.is_later() && self.places.is_local(probe.dst) {
            // Where the kernel waits for its first fragment, in vain.
            fates.push(Fate::Punted);
        }
        fates
    }

    fn expect_first(&self, probe: &Probe, tuple: Tuple) -> Vec<Fate> {
        let mut left = tuple;
        let mut translated = Translated { source: false, destination: false };
        match self.destination(probe.nic, tuple) {
            // Nobody outside connects to the router, and none is told so (RFC 5382 REQ-4).
            Destination::Router if probe.nic.role() == Role::Public && is_syn(probe) => {
                return vec![Fate::Dropped(Why::NotPermitted)];
            }
            Destination::Router => return vec![Fate::Punted],
            // Nobody sends to himself by way of a router.
            _ if tuple.src == tuple.dst => return vec![Fate::Dropped(Why::Martian)],
            Destination::Guest(address, port) => {
                (left.dst, left.ports.1) = (address, port);
                translated.destination = true;
            }
            Destination::Itself if probe.nic.role() == Role::Public => {
                let also = [
                    (!can_begin(probe), Why::CannotBegin),
                    (self.is_spoofed(probe), Why::Spoofed),
                    (matches!(self.places.route(probe.dst, None), Route::Refused), Why::Route),
                ];
                let also = also.into_iter().filter_map(|(is_so, why)| is_so.then_some(why));
                return std::iter::once(Why::NotPermitted).chain(also).map(Fate::Dropped).collect();
            }
            Destination::Itself => {}
        }
        if self.is_spoofed(probe) {
            return vec![Fate::Dropped(Why::Spoofed)];
        }
        let mut fates: Vec<_> = self.expired(probe, translated.destination).into_iter().collect();
        if !can_begin(probe) {
            fates.push(Fate::Dropped(Why::CannotBegin));
            return fates;
        }
        let fate = match self.way_out(probe.nic, left) {
            Route::By(nic, _) => match self.source(probe.nic, nic, tuple, &mut left, &mut translated) {
                Ok(port) => self.send(probe, left, nic, port, translated.destination, Some(translated)),
                Err(why) => Fate::Dropped(why),
            },
            Route::Nowhere if !translated.destination => Fate::Punted,
            Route::Nowhere | Route::Refused => Fate::Dropped(Why::Route),
        };
        fates.push(fate);
        fates
    }

    /// Takes note of a packet that was forwarded as expected, with the port it was given.
    ///
    /// # Errors
    /// The port was not to be had.
    pub fn adopt(&mut self, probe: &Probe, forwarded: &Forwarded, port: u16) -> Result<(), String> {
        let Some(translated) = forwarded.opens else { return Ok(()) };
        let asked = probe.tuple().expect("a flow's packet has a key");
        let (src, dst) = forwarded.ends;
        let sent = Tuple { src, dst, ports: (port, forwarded.ports.1), ..asked };
        let socket = (sent.protocol, asked.src, asked.ports.0, src);
        let is_bound = self.bindings.contains_key(&socket);
        if let Port::Like(wanted) = forwarded.ports.0 {
            // A flow that cannot have its binding's port has any that tells it from others.
            if self.index.contains_key(&sent.reversed()) || (self.is_taken(&sent, port) && !is_bound) {
                return Err(format!("port {port} is in use"));
            }
            if OWN_PORTS.contains(&port) {
                return Err(format!("port {port} is the router's"));
            }
            let is_like = (port < 1024) == (wanted < 1024) && port % 2 == wanted % 2;
            if sent.protocol != 1 && !is_like {
                return Err(format!("port {port} is not like {wanted}"));
            }
        }
        if forwarded.nic.role() == Role::Public
            && src == first_address(forwarded.nic)
            && probe.nic.role() == Role::Guest
            && matches!(sent.protocol, 1 | 6 | 17)
            && !is_bound
        {
            self.bindings.insert(socket, port);
            self.externals.insert((sent.protocol, src, port), (asked.src, asked.ports.0));
        }
        let flow = self.flows.len();
        self.flows.push(Flow { asked, sent, translated, from: probe.nic, to: forwarded.nic });
        self.index.insert(sent.reversed(), (flow, Way::Back));
        self.index.insert(asked, (flow, Way::There));
        Ok(())
    }

    /// Takes note of a fragment that became what was expected, and left with an identification if it did;
    /// hands back what comes in again.
    ///
    /// # Errors
    /// The identification is another than it should be.
    pub fn note_fragment(&mut self, probe: &Probe, left: Option<u16>) -> Result<Vec<Probe>, String> {
        if !probe.is_fragment() || probe.is_tiny() || !Self::unread(probe).is_empty() {
            return Ok(vec![]);
        }
        self.datagrams.note(probe, left)
    }

    /// Whether a packet keeps its identification: what is not a fragment, and what is of a source that is
    /// not translated.
    pub fn keeps_id(probe: &Probe, forwarded: &Forwarded) -> bool {
        probe.src.is_ipv6() || !probe.is_fragment() || forwarded.ends.0 == probe.src
    }

    /// How many entries a table of flows has, one for each direction.
    pub fn entries(&self) -> usize {
        self.index.len()
    }
}

impl Flow {
    /// Whether packets of one way have their destination translated.
    const fn translates(&self, way: Way) -> bool {
        match way {
            Way::There => self.translated.destination,
            Way::Back => self.translated.source,
        }
    }

    /// Whether packets of one way have their source translated.
    const fn hides(&self, way: Way) -> bool {
        match way {
            Way::There => self.translated.source,
            Way::Back => self.translated.destination,
        }
    }

    /// A packet of one way: as it leaves, and the NIC it comes in by.
    const fn along(&self, way: Way) -> (Tuple, Nic) {
        match way {
            Way::There => (self.sent, self.from),
            Way::Back => (self.asked.reversed(), self.to),
        }
    }
}

/// Whether a flow's packets, expected by one NIC, may come by another: the provider may choose
/// between its own.
fn may_come_by(nic: Nic, expected: Nic) -> bool {
    nic == expected || (nic.role() == Role::Public && expected.role() == Role::Public)
}

/// Whether a packet asks for a connection.
fn is_syn(probe: &Probe) -> bool {
    !probe.is_later() && matches!(probe.body, Body::Tcp(_, flags) if flags & 0x12 == 0x02)
}

/// Whether a packet may be the first of a flow: of TCP what opens a connection, and a bare
/// acknowledgment of one that outlived its flow; no fragment without ports.
fn can_begin(probe: &Probe) -> bool {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    match probe.body {
        _ if probe.is_later() => false,
        Body::Tcp(_, flags) => matches!(flags & (FIN | SYN | RST | ACK), SYN | ACK),
        Body::Answer(..) => false,
        _ => true,
    }
}
