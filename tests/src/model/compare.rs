//! The model and a router, packet by packet.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use router_common::account::{Hook, Traffic};
use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};

use super::account::Account;
use super::generate::Generator;
use super::probe::{Body, Error, ErrorFlaw, Flaw, Piece, Probe, Station};
use super::{Fate, Forwarded, Model, Port, Why};
use crate::packet::read;
use crate::scenario::{ETHERNET, Nic, Router, Sent, host_mac};

/// A router that can begin anew.
pub trait Subject: Router {
    /// Forgets every flow.
    fn forget(&mut self);
    /// What it has counted since then.
    ///
    /// # Errors
    /// Its hooks disagree.
    fn account(&mut self) -> Result<Account, String>;
    /// What its accounts have, over all of them, since then.
    ///
    /// # Errors
    /// They cannot be read.
    fn usage(&mut self) -> Result<Traffic, String>;
    /// How long a fragment waits for the others at the least.
    fn patience(&self) -> Duration;
    /// How many flow entries it has, and how many of them are without their reverse.
    ///
    /// # Errors
    /// They cannot be read.
    fn flow_entries(&mut self) -> Result<(usize, usize), String>;
}

/// Sends so many packets in sequences of a length, from a seed on, and tells after each how many that
/// are by now; hands back what became of them.
///
/// # Panics
/// The model and the router differ, or the router has counted otherwise. The message has the packets that
/// led to it.
pub fn agree(
    router: &mut dyn Subject,
    seed: u64,
    packets: usize,
    length: usize,
    progress: &mut dyn FnMut(usize),
) -> Account {
    let mut account = Account::default();
    let patience = router.patience();
    'sequences: for sequence in 0..packets.div_ceil(length) as u64 {
        let (seed, begin) = (seed + sequence, Instant::now());
        let mut run = Run::new(router);
        let mut generator = Generator::new(seed);
        let mut probes = vec![];
        for step in 0..length {
            let probe = generator.probe();
            probes.push(probe.clone());
            match run.step(&probe) {
                Ok(passed) => passed.into_iter().for_each(|(came, left)| generator.passed(came, left)),
                Err(_) if probes.last().is_some_and(Probe::is_fragment) && begin.elapsed() >= patience => {
                    println!("seed {seed}: fragments have waited longer than they may, by this machine");
                    continue 'sequences;
                }
                Err(difference) => {
                    let history = shorten(router, probes);
                    panic!("seed {seed}, step {step}: {difference}\n{history}");
                }
            }
        }
        match run.check() {
            Ok(counted) => account.merge(&counted),
            Err(problem) => panic!("seed {seed}, after {length} packets: {problem}"),
        }
        progress((sequence as usize + 1) * length);
    }
    account
}

/// The model and a router side by side, from no flows on.
struct Run<'a> {
    model: Model,
    router: &'a mut dyn Subject,
    /// What became of the packets that were sent, as was seen of each.
    seen: Account,
    /// What was forwarded, in bytes of IP packets.
    forwarded: u64,
    /// What was translated and could not be cut then.
    uncut: u64,
}

impl<'a> Run<'a> {
    fn new(router: &'a mut dyn Subject) -> Self {
        router.forget();
        Self { model: Model::default(), router, seen: Account::default(), forwarded: 0, uncut: 0 }
    }

    /// Sends a packet, and those that come in again because of it; hands back what came in and was
    /// forwarded, and how it left, or says how the two differ.
    fn step(&mut self, probe: &Probe) -> Result<Vec<(Probe, Probe)>, String> {
        let mut passed = vec![];
        let mut coming = VecDeque::from([probe.clone()]);
        while let Some(probe) = coming.pop_front() {
            let left = self.judge(&probe)?;
            // XDP has not looked at it.
            if self.router.hook() == Hook::Tc {
                let id = left.as_ref().and_then(|left| left.piece).map(|piece| piece.id);
                let again = self.model.note_fragment(&probe, id).map_err(|why| format!("{why}: {probe}"))?;
                coming.extend(again);
            }
            passed.extend(left.map(|left| (probe, left)));
        }
        Ok(passed)
    }

    /// Sends a packet; hands back what left, or says how the two differ.
    fn judge(&mut self, probe: &Probe) -> Result<Option<Probe>, String> {
        let bytes = probe.bytes();
        if meets_a_helper(probe) {
            return Ok(None);
        }
        let is_tcs =
            self.router.hook() == Hook::Xdp && probe.is_fragment() && Model::unread(probe).is_empty();
        let expected = if is_tcs { vec![] } else { self.model.expect(probe) };
        if self.router.hook() == Hook::Xdp && expected.iter().any(is_given_a_hidden_port) {
            return Ok(None);
        }
        let sent = self.router.send(probe.nic, &bytes);
        self.seen.add(self.router.hook(), sent.outcome, 1);
        if sent.outcome == FORWARDED {
            self.forwarded += probe.length() as u64;
        } else if sent.outcome == DropReason::TooBig.outcome() && !probe.whole {
            self.uncut += probe.length() as u64;
        }
        let said = || {
            let expected = expected.iter().map(|fate| format!("{fate:?}")).collect::<Vec<_>>().join(" or ");
            format!("{probe}\n  the model: {expected}\n  the router: {}", outcome(probe, &sent))
        };
        let is_answered =
            DropReason::from_outcome(sent.outcome).is_some_and(|reason| self.router.answers(reason, &bytes));
        // What comes in again has been in the first fragment's buffer.
        let comes_again = sent.outcome == DeferReason::Held.outcome() && !probe.is_later();
        if sent.outcome != FORWARDED && !is_answered && !comes_again && sent.frame != bytes {
            return Err(format!("a packet that is not forwarded was changed: {}", said()));
        }
        let outcome = DeferReason::from_outcome(sent.outcome);
        if is_tcs {
            let is_left = matches!(outcome, Some(DeferReason::Fragment | DeferReason::Options));
            return if is_left { Ok(None) } else { Err(said()) };
        }
        if outcome == Some(DeferReason::Options) {
            let has_options = matches!(probe.flaw, Some(Flaw::Options | Flaw::SourceRoute));
            return if has_options { Ok(None) } else { Err(said()) };
        }
        if outcome == Some(DeferReason::PartialChecksum) {
            // The TC program's business.
            let may_defer =
                self.router.hook() == Hook::Xdp && probe.nic == Nic::Tier2 && probe.may_be_unfinished();
            return if may_defer { Ok(None) } else { Err(said()) };
        }
        for fate in &expected {
            match fate {
                Fate::Forwarded(
                    forwarded @ Forwarded { ports: (Port::Is(port), _), resolved: false, .. },
                ) if outcome == Some(DeferReason::NoNeighbour) => {
                    // The TC program finds the flow open.
                    self.model.adopt(probe, forwarded, *port)?;
                    return Ok(None);
                }
                Fate::Forwarded(forwarded) if sent.outcome == FORWARDED => {
                    let port = self
                        .arrived(probe, forwarded, &sent.frame)
                        .map_err(|why| format!("{why}: {}", said()))?;
                    self.model.adopt(probe, forwarded, port).map_err(|why| format!("{why}: {}", said()))?;
                    let id = identification(probe, &sent.frame);
                    return Ok(Some(as_it_left(probe, forwarded, (port, id))));
                }
                // The pieces have left; what is in the buffer is the last one, or still the whole.
                Fate::Cut if sent.outcome == FORWARDED => return Ok(None),
                fate if is(fate, self.router.hook(), probe, sent.outcome) => return Ok(None),
                _ => {}
            }
        }
        Err(said())
    }

    /// Compares a frame that has left with what should have; hands back its source port.
    fn arrived(&self, probe: &Probe, forwarded: &Forwarded, frame: &[u8]) -> Result<u16, String> {
        let macs = [host_mac(forwarded.nic), forwarded.nic.mac()].concat();
        if forwarded.resolved && frame[..12] != macs {
            return Err(format!("not by {:?}", forwarded.nic));
        }
        if probe.piece.is_some() {
            return self.fragment_arrived(probe, forwarded, frame);
        }
        let out = read(frame);
        if out.ends != forwarded.ends || out.ttl != probe.ttl - 1 {
            return Err("other ends or another TTL".to_owned());
        }
        let is_wrong = matches!(&probe.body, Body::Error(error) if error.flaw == Some(ErrorFlaw::Sum));
        if out.sums_hold == is_wrong {
            return Err("a checksum is wrong, or was mended".to_owned());
        }
        if let Some(size) = probe.segments {
            // What the narrower of the two NICs takes, without headers.
            let headers = if probe.src.is_ipv6() { 60 } else { 40 };
            let least = size.min(probe.nic.mtu().min(forwarded.nic.mtu()) - headers);
            let at = ETHERNET + probe.length() - probe.payload() + 23;
            if frame[at..at + 2] != least.to_be_bytes() {
                return Err(format!("segments are not limited to {least}"));
            }
        }
        let (src, dst) = match (&probe.body, forwarded.ports) {
            (Body::Tcp(..) | Body::Udp(_) | Body::Sctp(_), _) => out.ports,
            (Body::Query(..), _) => (out.ports.0, 0),
            (Body::Answer(..), _) => (0, out.ports.0),
            (Body::Error(error), _) => return inside(error, forwarded, frame).map(|()| 0),
            _ => (0, 0),
        };
        let (wanted, to) = forwarded.ports;
        if dst != to || matches!(wanted, Port::Is(port) if port != src) {
            return Err("other ports".to_owned());
        }
        Ok(src)
    }

    /// The same of a fragment, which has to be the very bytes that it has of the packet that should have
    /// left; hands back the datagram's source port.
    fn fragment_arrived(&self, probe: &Probe, forwarded: &Forwarded, frame: &[u8]) -> Result<u16, String> {
        let at = ETHERNET + probe.length() - probe.piece.map_or(0, |piece| piece.end - piece.start);
        let word = |at: usize| frame.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]));
        let port = match (&probe.body, forwarded.ports.0) {
            (Body::Tcp(..) | Body::Udp(_) | Body::Sctp(_), Port::Like(_)) => word(at),
            (Body::Query(..), Port::Like(_)) => word(at + 4),
            (_, Port::Is(port) | Port::Like(port)) => port,
        };
        let id = identification(probe, frame);
        if Model::keeps_id(probe, forwarded) && probe.piece.is_some_and(|piece| piece.id != id) {
            return Err("another identification".to_owned());
        }
        let left = as_it_left(probe, forwarded, (port, id));
        let whole = Probe { data: probe.data, whole: false, flaw: probe.flaw, ttl: probe.ttl - 1, ..left };
        let mut expected = whole.bytes();
        let sum = match probe.body {
            Body::Tcp(..) => at + 16,
            Body::Udp(_) => at + 6,
            _ => at + 2,
        };
        // Zero is written as nothing or as all ones.
        if !probe.is_later() && word(sum) == 0 && expected[sum..sum + 2] == [0xff; 2] {
            expected[sum..sum + 2].fill(0);
        }
        match frame[12..] == expected[12..] {
            true => Ok(port),
            false => Err(format!("left as {:02x?}\n  instead of {:02x?}", &frame[12..], &expected[12..])),
        }
    }

    /// Every packet that was sent is accounted for, once and as what was seen of it, and the flows are
    /// those that the model has.
    fn check(&mut self) -> Result<Account, String> {
        let (hook, counted) = (self.router.hook(), self.router.account()?);
        counted.balances(hook, self.seen.received(hook))?;
        if counted != self.seen {
            return Err(format!("counted was {counted}, but seen {}", self.seen));
        }
        let charged = self.router.usage()?.bytes;
        if charged < self.forwarded || charged > self.forwarded + self.uncut {
            return Err(format!("{} bytes were forwarded, the accounts have {charged}", self.forwarded));
        }
        let expected = self.model.entries();
        match self.router.flow_entries()? {
            (found, 0) if found == expected => Ok(counted),
            (found, 0) => Err(format!("{found} flow entries instead of {expected}")),
            (found, alone) => Err(format!("{alone} of {found} flow entries are without their reverse")),
        }
    }
}

/// XDP leaves the packet to TC when the flow is open already, so that nobody sees its port.
const fn is_given_a_hidden_port(fate: &Fate) -> bool {
    matches!(fate, Fate::Forwarded(Forwarded { ports: (Port::Like(_), _), resolved: false, .. }))
}

/// Whether a helper may read along. The model knows of none; such ports come from the router alone.
fn meets_a_helper(probe: &Probe) -> bool {
    let is_helped = |port| [21, 69].contains(&port);
    probe.tuple().is_some_and(|tuple| is_helped(tuple.ports.0) || is_helped(tuple.ports.1))
}

/// The packet inside an error.
fn inside(error: &Error, forwarded: &Forwarded, frame: &[u8]) -> Result<(), String> {
    let Some(about) = forwarded.about else { return Err("nothing is known about it".to_owned()) };
    let out = read(frame).about.ok_or("no packet inside")?;
    let ports = match error.body {
        Body::Tcp(..) | Body::Udp(_) | Body::Sctp(_) => about.ports,
        Body::Query(..) => (about.ports.0, 0),
        Body::Answer(..) => (about.ports.1, 0),
        _ => out.ports,
    };
    if (out.ends, out.ports) != ((about.src, about.dst), ports) {
        return Err(format!("the packet inside is {out:?}"));
    }
    // What was cut off is not summed up.
    let has_sum =
        error.flaw != Some(ErrorFlaw::Short) && !matches!(error.body, Body::Other(_) | Body::Sctp(_));
    if has_sum && out.sums_hold != (error.flaw != Some(ErrorFlaw::InnerSum)) {
        return Err(format!("the packet inside has other checksums: {out:?}"));
    }
    Ok(())
}

/// The packet that a host on the other side saw, with the source port and the identification that it had.
fn as_it_left(probe: &Probe, forwarded: &Forwarded, (port, id): (u16, u16)) -> Probe {
    let body = match (&probe.body, forwarded.about) {
        (Body::Error(error), Some(about)) => Body::Error(Box::new(Error {
            ends: (about.src, about.dst),
            body: error.body.with_ports(about.ports),
            ..**error
        })),
        (body, _) => body.with_ports((port, forwarded.ports.1)),
    };
    Probe {
        nic: forwarded.nic,
        station: Station::Router,
        src: forwarded.ends.0,
        dst: forwarded.ends.1,
        body,
        data: 32,
        whole: true,
        segments: None,
        piece: probe.piece.map(|piece| Piece { id, ..piece }),
        flaw: None,
        ..*probe
    }
}

/// The identification that a fragment has left with.
fn identification(probe: &Probe, frame: &[u8]) -> u16 {
    let at = ETHERNET + if probe.src.is_ipv6() { 46 } else { 4 };
    frame.get(at..at + 2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]))
}

/// Whether an outcome is what was to be.
fn is(fate: &Fate, hook: Hook, probe: &Probe, outcome: u32) -> bool {
    if let Some(reason) = DropReason::from_outcome(outcome) {
        return *fate == Fate::Dropped(why(reason));
    }
    if PuntReason::from_outcome(outcome).is_some() {
        return hook == Hook::Tc && *fate == Fate::Punted;
    }
    match DeferReason::from_outcome(outcome) {
        // What TC answers, XDP leaves to it.
        Some(DeferReason::Punted) => {
            hook == Hook::Xdp && matches!(fate, Fate::Punted | Fate::Dropped(Why::Ttl))
        }
        Some(DeferReason::Held) => hook == Hook::Tc && *fate == Fate::Held,
        // What is too big may be for a neighbour that is not known.
        Some(DeferReason::Oversize | DeferReason::NoNeighbour) => {
            let is_large = probe.length() > usize::from(Nic::Tier2.mtu());
            hook == Hook::Xdp
                && is_large
                && matches!(fate, Fate::Punted | Fate::Cut | Fate::Dropped(Why::TooBig))
        }
        _ => false,
    }
}

/// The class of a reason; some are not told apart.
fn why(reason: DropReason) -> Why {
    match reason {
        DropReason::Truncated | DropReason::BadIpHeader | DropReason::BadIpChecksum => Why::Malformed,
        DropReason::TooManyHeaders | DropReason::RoutingHeader => Why::Malformed,
        DropReason::BadFragment => Why::Malformed,
        DropReason::UnknownVlan => Why::UnknownVlan,
        DropReason::Martian => Why::Martian,
        DropReason::NotPermitted => Why::NotPermitted,
        DropReason::InvalidState => Why::CannotBegin,
        DropReason::NoFreePort | DropReason::GuestLimit => Why::NoPort,
        DropReason::UnrelatedIcmpError => Why::Unrelated,
        DropReason::TtlExceeded => Why::Ttl,
        DropReason::TooBig => Why::TooBig,
        DropReason::RouteRefuses | DropReason::NoEgressPort => Why::Route,
        DropReason::WrongPort => Why::WrongPort,
        DropReason::SpoofedSource => Why::Spoofed,
        DropReason::FromControl => Why::FromControl,
        DropReason::IcmpUnsupported => Why::IcmpUnsupported,
        DropReason::FlowTableFull | DropReason::Untranslatable | DropReason::RewriteFailed => Why::Broken,
        DropReason::SourceRoute => Why::SourceRoute,
        DropReason::OverlappingFragment => Why::Overlap,
        DropReason::FragmentNotHeld => Why::NotHeld,
        // The model has no policy, and no tunnels.
        DropReason::Policy
        | DropReason::UnknownVni
        | DropReason::UnknownVtep
        | DropReason::BadTunnel
        | DropReason::Congested
        | DropReason::NoWayToVtep
        | DropReason::GroupSource
        | DropReason::SamePort
        | DropReason::OversizeFrame
        | DropReason::NextHopTableFull => Why::Broken,
    }
}

/// What a router said of a packet, to be read.
fn outcome(probe: &Probe, sent: &Sent) -> String {
    if sent.outcome == FORWARDED && probe.piece.is_some() {
        return "forwarded".to_owned();
    }
    if sent.outcome == FORWARDED {
        let out = read(&sent.frame);
        let nic = Nic::ALL.into_iter().find(|nic| nic.mac() == out.macs.1);
        let nic = nic.map_or_else(|| "an unknown NIC".to_owned(), |nic| format!("{nic:?}"));
        return format!("forwarded by {nic}: {out:?}");
    }
    let drop = DropReason::from_outcome(sent.outcome).map(|reason| format!("dropped, {}", reason.label()));
    let punt = || PuntReason::from_outcome(sent.outcome).map(|reason| format!("punted, {}", reason.label()));
    let defer =
        || DeferReason::from_outcome(sent.outcome).map(|reason| format!("deferred, {}", reason.label()));
    drop.or_else(punt).or_else(defer).unwrap_or_else(|| format!("outcome {}", sent.outcome))
}

/// Leaves packets out as long as the last one still makes a difference, and writes down the rest.
///
/// Where a router chooses ports by chance a shorter history may not lead to the same end; then the
/// longer one stays.
fn shorten(router: &mut dyn Subject, mut probes: Vec<Probe>) -> String {
    let last = probes.pop().expect("a packet made a difference");
    let mut differs = |probes: &[Probe]| {
        let mut run = Run::new(router);
        // What goes before has to agree, or it would be another difference.
        probes.iter().all(|probe| run.step(probe).is_ok()).then(|| run.step(&last).err()).flatten()
    };
    let mut size = probes.len().div_ceil(2).max(1);
    while size > 0 {
        let mut at = 0;
        while at < probes.len() {
            let end = (at + size).min(probes.len());
            let fewer = [&probes[..at], &probes[end..]].concat();
            if differs(&fewer).is_some() {
                probes = fewer;
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    let short = differs(&probes);
    if short.is_none() {
        probes.retain(|probe| shares_an_end(probe, &last));
    }
    let mut text = String::from("the packets that led to it:\n");
    let from = probes.len().saturating_sub(60);
    for probe in probes[from..].iter().chain([&last]) {
        let _ = writeln!(text, "  {probe}");
    }
    if let Some(short) = short {
        let _ = writeln!(text, "the last of them: {short}");
    }
    text
}

fn shares_an_end(a: &Probe, b: &Probe) -> bool {
    fn ends(probe: &Probe) -> [IpAddr; 2] {
        match &probe.body {
            Body::Error(error) => [error.ends.0, error.ends.1],
            _ => [probe.src, probe.dst],
        }
    }
    ends(a).iter().any(|end| ends(b).contains(end)) && a.flaw != Some(Flaw::Vlan)
}
