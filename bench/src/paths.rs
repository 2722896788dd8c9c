//! Routers that carry the same traffic in turns, and what a packet costs by each of them.
//!
//! *whole* is the CPU time of a frame from where it is made to where it is counted: generator, router and sink on one
//! CPU, in a closed loop. *alone* is that without the same frame's cost over a hop that has no router. Ratios are of
//! the whole, as rates of packets would be.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use bench_programs::Grid;
use router_common::port::Role;
use router_userspace::compile::attach::Front;
use router_userspace::model::nat::PortForward;
use serde_json::Value;

use crate::chains;
use crate::generator::{Counted, Exit, Frames, Passed, Window};
use crate::lab::{Lab, PUBLIC, Router};
use crate::linux::{Linux, Program};
use crate::report::{Report, Series, Time};
use crate::scale::Scale;
use crate::stats::{Ratio, short};
use crate::wire::Wire;
use crate::xvr::{MAX_FLOWS, Xvr};

/// The bound, by the name under which others are compared with it.
const REDIRECT: &str = "xdp redirect";
/// The frame's cost without a router.
const HOP: &str = "no router";
/// What tells how fast the machine is.
pub const YARDSTICKS: [&str; 2] = [HOP, REDIRECT];
/// What others are compared with.
const XVR: &str = "xvr, xdp";
/// Sources of a grid begin here: guests, and whoever asks from outside.
const GUESTS: u32 = 0x1000_0000; // 16.0.0.0
const STRANGERS: u32 = 0x8201_0000; // 130.1.0.0
/// A server outside.
const SERVERS: u32 = 0x9001_0000; // 144.1.0.0
/// Of which port.
const SERVICE: u32 = 53;
/// Ports of a guest, as a power of two: 64, the next to the 63 that CSIT has its NAT tests with.
const PORT_BITS: u32 = 6;
/// Guests at most: with their ports, 16,384 sockets, for which one public address has room.
const MOST_GUEST_BITS: u32 = 8;

/// So many flows of guests to the outside, as a power of two.
pub fn outbound(bits: u32) -> Counted {
    let port_bits = bits.min(PORT_BITS);
    let source_bits = (bits - port_bits).min(MOST_GUEST_BITS);
    let grid = Grid { source: GUESTS, destination: SERVERS, source_bits, port_bits, port: SERVICE, ports: 1 };
    Counted { grid, bits, is_inbound: false }
}

/// So many flows, each of a guest of its own, as a power of two.
pub fn guests(bits: u32) -> Counted {
    let counted = outbound(bits);
    Counted { grid: Grid { source_bits: bits, port_bits: 0, ..counted.grid }, ..counted }
}

/// So many flows of guests, each by a socket of its own, as a power of two.
pub fn sockets(bits: u32) -> Counted {
    let counted = outbound(bits);
    Counted { grid: Grid { source_bits: bits.saturating_sub(PORT_BITS), ..counted.grid }, ..counted }
}

/// So many flows from outside, as a power of two, to port forwardings.
pub fn inbound(bits: u32, forwards: u32) -> Counted {
    let port_bits = bits.min(PORT_BITS);
    let grid = Grid {
        source: STRANGERS,
        destination: PUBLIC.into(),
        source_bits: bits - port_bits,
        port_bits,
        port: chains::FIRST_PORT.into(),
        ports: forwards,
    };
    Counted { grid, bits, is_inbound: true }
}

/// Which packets of the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packets {
    /// Of flows that were opened and answered before.
    Known,
    /// Of such, and the answer to each.
    Answered,
    /// The first of each.
    First,
}

/// Who carries traffic.
pub struct Subject {
    /// What it is called in tables.
    pub name: String,
    target: Target,
    /// How its frames are where they come in.
    wire: Wire,
    /// They or those that leave are not as they are.
    is_wired: bool,
    window: Window,
    whole: Series,
    passed: Passed,
}

enum Target {
    /// Nobody: the hop.
    Hop,
    Redirect(Router),
    Xvr(Box<Xvr>),
    Linux(Linux),
}

impl Subject {
    fn new(name: &str, target: Target) -> Self {
        let (window, whole, passed) = (Window::of(1), Series::default(), Passed::default());
        Self { name: name.to_owned(), target, wire: Wire::Plain, is_wired: false, window, whole, passed }
    }

    /// The hop without a router.
    pub fn hop() -> Self {
        Self::new(HOP, Target::Hop)
    }

    /// The bound.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn redirect(lab: &mut Lab) -> Result<Self> {
        let router = lab.router()?;
        lab.send_on(&router)?;
        Ok(Self::new(REDIRECT, Target::Redirect(router)))
    }

    /// XVR at a hook: with `Role::Public` outside it translates, with `Role::Guest` it has a tier there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn xvr(lab: &mut Lab, front: Front, outside: Role, max_flows: u32) -> Result<Self> {
        let name = if front == Front::NativeXdp { XVR } else { "xvr, tc" };
        let xvr = Xvr::with(lab, outside, front, max_flows)?;
        Ok(Self::new(name, Target::Xvr(Box::new(xvr))))
    }

    /// XVR between two tiers, with frames that are so on both sides.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn wired(lab: &mut Lab, front: Front, name: &str, wires: [Wire; 2]) -> Result<Self> {
        let mut xvr = Xvr::with(lab, Role::Guest, front, MAX_FLOWS)?;
        xvr.wire(wires)?;
        let target = Target::Xvr(Box::new(xvr));
        Ok(Self { wire: wires[0], is_wired: true, ..Self::new(name, target) })
    }

    /// XVR with so many tiers on one trunk; over the first `with_guests` of them the guests of these flows are spread.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tiers(
        lab: &mut Lab,
        front: Front,
        name: &str,
        (tiers, with_guests): (u16, u16),
        flows: Counted,
    ) -> Result<Self> {
        let Grid { source, source_bits, .. } = flows.grid;
        let sources = (0..1 << source_bits).map(|number| Ipv4Addr::from(source + number));
        let xvr = Xvr::tiers(lab, front, (tiers, with_guests), sources)?;
        let target = Target::Xvr(Box::new(xvr));
        Ok(Self { wire: Wire::Vlans(with_guests), is_wired: true, ..Self::new(name, target) })
    }

    /// Linux with rules.
    ///
    /// # Errors
    /// It refuses them.
    pub fn linux(lab: &mut Lab, name: &str, rules: Option<(Program, &str)>) -> Result<Self> {
        let linux = Linux::new(lab)?;
        if let Some((program, text)) = rules {
            linux.load(program, text).with_context(|| name.to_owned())?;
            linux.trust_checksums()?;
            linux.remember_flows()?;
        }
        Ok(Self::new(name, Target::Linux(linux)))
    }

    /// Gives XVR port forwardings.
    ///
    /// # Errors
    /// A table is full.
    pub fn forward(&mut self, forwards: Vec<PortForward>) -> Result<()> {
        match &mut self.target {
            Target::Xvr(xvr) => xvr.forward(forwards),
            _ => Ok(()),
        }
    }

    /// XVR itself, if it is that.
    pub fn as_xvr(&mut self) -> Option<&mut Xvr> {
        match &mut self.target {
            Target::Xvr(xvr) => Some(xvr),
            _ => None,
        }
    }

    /// Linux itself, if it is that.
    pub const fn as_linux(&self) -> Option<&Linux> {
        match &self.target {
            Target::Linux(linux) => Some(linux),
            _ => None,
        }
    }

    fn router(&self) -> Option<&Router> {
        match &self.target {
            Target::Hop => None,
            Target::Redirect(router) => Some(router),
            Target::Xvr(xvr) => Some(&xvr.router),
            Target::Linux(linux) => Some(&linux.router),
        }
    }

    /// Forgets every flow.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_flows(&mut self) -> Result<()> {
        match &mut self.target {
            Target::Hop | Target::Redirect(_) => Ok(()),
            Target::Xvr(xvr) => xvr.forget_flows(),
            Target::Linux(linux) => linux.forget_flows(),
        }
    }

    /// Opens every flow and has it answered; how many answers came back, of how many flows.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open(&self, lab: &mut Lab, flows: Counted) -> Result<(u64, u64)> {
        let Some(router) = self.router() else { return Ok((0, 0)) };
        if self.is_wired {
            // The sink reads no tags.
            lab.generator().use_wire(self.wire);
            let window = Window { frames: 1 << flows.bits, limit: Duration::MAX, ..self.window };
            lab.send(Some(router), Frames::InTurn(flows), window)?;
            lab.generator().use_wire(Wire::Plain);
            return Ok((0, 0));
        }
        let Exit { mac, .. } = if flows.is_inbound { router.forth } else { router.back };
        lab.generator().answer_at(Some(mac))?;
        let window = Window { frames: 1 << flows.bits, limit: Duration::MAX, ..self.window };
        let passed = lab.send(Some(router), Frames::InTurn(flows), window)?;
        lab.generator().answer_at(None)?;
        // Counted where it arrives, and again as its answer comes back.
        Ok((passed.arrived.saturating_sub(passed.sent), passed.sent))
    }

    fn send(&mut self, lab: &mut Lab, frames: Frames, window: Window) -> Result<Passed> {
        lab.generator().use_wire(self.wire);
        let passed = lab.send(self.router(), frames, window);
        lab.generator().use_wire(Wire::Plain);
        passed
    }
}

/// What is measured by a round of packets, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// The flows.
    pub flows: Counted,
    /// Which of their packets.
    pub packets: Packets,
    /// How long frames are, in bytes.
    pub length: usize,
}

impl Traffic {
    /// Of the shortest frames.
    pub const fn of(flows: Counted, packets: Packets) -> Self {
        Self { flows, packets, length: 80 }
    }
}

/// Measures subjects in turns, which may have flows of before and keep theirs: to end a million takes longer than to
/// begin anew. `about` says what, for the report; its title is printed.
///
/// # Errors
/// Something cannot be sent.
pub fn measure(
    report: &mut Report,
    lab: &mut Lab,
    scale: Scale,
    (title, about): (&str, Value),
    traffic: Traffic,
    subjects: &mut [&mut Subject],
) -> Result<()> {
    lab.generator().use_length(traffic.length);
    let mut remarks = vec![];
    for subject in subjects.iter_mut() {
        report.progress(&format!("{title}: {}", subject.name));
        (subject.whole, subject.passed) = (Series::default(), Passed::default());
        subject.prepare(lab, scale, traffic)?;
        if traffic.packets != Packets::First {
            let (answered, opened) = subject.open(lab, traffic.flows)?;
            if answered != opened {
                remarks.push(format!("{}: {answered} of {opened} flows were answered", subject.name));
            }
        }
    }
    let rounds = scale.of(1, 7, 15);
    for round in 1..=rounds {
        report.progress(&format!("{title}: round {round} of {rounds}"));
        for subject in subjects.iter_mut() {
            subject.measure(lab, traffic)?;
        }
    }
    lab.generator().use_length(0);
    show(report, title, &about, subjects);
    remarks.iter().for_each(|remark| report.say(format!("  {remark}")));
    Ok(())
}

impl Subject {
    /// Finds out what a window has to be like for what it costs.
    fn prepare(
        &mut self,
        lab: &mut Lab,
        scale: Scale,
        Traffic { flows, packets, .. }: Traffic,
    ) -> Result<()> {
        self.forget_flows()?;
        let few = Window { batch: 1, ..Window::of(64) };
        let cost = self.send(lab, Frames::InTurn(flows), few)?.cost();
        self.forget_flows()?;
        let most = match packets {
            // Each flow has one first packet.
            Packets::First => 1 << flows.bits,
            Packets::Known | Packets::Answered => scale.of(1 << 11, 1 << 20, 1 << 22),
        };
        let limit = Duration::from_millis(scale.of(1, 40, 300));
        self.window = Window::for_cost(most, limit, cost);
        if packets == Packets::First {
            // Tables grow the first time.
            self.send(lab, Frames::InTurn(flows), self.window)?;
            self.forget_flows()?;
        }
        Ok(())
    }

    fn measure(&mut self, lab: &mut Lab, Traffic { flows, packets, .. }: Traffic) -> Result<()> {
        let passed = match packets {
            Packets::Known | Packets::Answered => {
                let answering = self.router().filter(|_| packets == Packets::Answered);
                lab.generator().answer_at(answering.map(|router| router.back.mac))?;
                let Window { frames, limit, .. } = self.window;
                // Caches are as its own traffic leaves them.
                let warm = Window { frames: (frames / 4).max(1), limit: limit / 4, ..self.window };
                self.send(lab, Frames::Scattered(flows), warm)?;
                let passed = self.send(lab, Frames::Scattered(flows), self.window)?;
                lab.generator().answer_at(None)?;
                passed
            }
            Packets::First => {
                let passed = self.send(lab, Frames::InTurn(flows), self.window)?;
                self.forget_flows()?;
                passed
            }
        };
        self.whole.push(passed.cost());
        self.passed.sent += passed.sent;
        self.passed.arrived += passed.arrived;
        Ok(())
    }

    /// The router's part of it, round by round.
    fn alone(&self, hop: Option<&Series>) -> Series {
        let pairs = self.whole.values().iter().zip(hop.map_or(&[][..], Series::values));
        pairs.map(|(whole, hop)| whole - hop).collect::<Vec<_>>().into()
    }
}

fn show(report: &mut Report, title: &str, about: &Value, subjects: &[&mut Subject]) {
    report.say(format!(
        "\n{title}\n  {:24} {:>9} {:>9}..{:<9} {:>9} {:>7}  {:>20} {:>24}",
        "CPU per packet", "whole", "min", "max", "alone", "Mpps", "/ redirect", "/ xvr"
    ));
    let named =
        |name: &str| subjects.iter().find(|subject| subject.name == name).map(|subject| &subject.whole);
    let hop = subjects.iter().find(|subject| matches!(subject.target, Target::Hop)).map(|hop| &hop.whole);
    for subject in subjects {
        let whole = &subject.whole;
        let beside: Vec<_> = [REDIRECT, XVR]
            .into_iter()
            .filter(|name| *name != subject.name && !matches!(subject.target, Target::Hop))
            .filter_map(|name| Some((name, named(name)?)))
            .collect();
        let mut about = about.clone();
        about["subject"] = subject.name.as_str().into();
        let noisy = report.add_beside(about.clone(), "ns", whole, &beside);
        let alone = subject.alone(hop.filter(|_| !matches!(subject.target, Target::Hop)));
        if !alone.is_empty() {
            about["measure"] = "router alone".into();
            let redirect = subjects.iter().find(|other| other.name == REDIRECT && other.name != subject.name);
            let redirect = redirect.map(|redirect| redirect.alone(hop));
            let beside: Vec<_> = redirect.iter().map(|redirect| (REDIRECT, redirect)).collect();
            report.add_beside(about, "ns", &alone, &beside);
        }
        let to = |name: &str| {
            let ratios =
                beside.iter().find(|(other, _)| *other == name).map(|(_, other)| whole.ratios(other));
            Ratio(&ratios.unwrap_or_default()).to_string()
        };
        let mut remarks = vec![noisy.to_owned()];
        if subject.passed.arrived < subject.passed.sent {
            let lost = subject.passed.sent - subject.passed.arrived;
            remarks.push(format!("{lost} of {} lost", subject.passed.sent));
        }
        remarks.retain(|remark| !remark.is_empty());
        report.say(format!(
            "  {:24} {:>9} {:>9}..{:<9} {:>9} {:>7}  {:>20} {:>24}  {}",
            subject.name,
            Time(whole.median()).to_string(),
            Time(whole.least()).to_string(),
            Time(whole.most()).to_string(),
            Time(alone.median()).to_string(),
            short(1e3 / whole.median()),
            to(REDIRECT),
            to(XVR),
            remarks.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use router_tests::needs;

    use super::*;

    const FORWARDS: u32 = 10;

    #[test]
    fn everybody_carries_every_packet_and_has_every_flow_answered() -> Result<()> {
        if !needs::are_met(&["ip", "ethtool", "nft", "iptables-legacy", "iptables-nft", "timeout"]) {
            return Ok(());
        }
        let mut lab = Lab::new()?;
        let forwards = chains::forwards(FORWARDS);
        let (cloudstack, maps) = (chains::cloudstack(&forwards), chains::maps(&forwards));
        let mut subjects = vec![Subject::redirect(&mut lab)?];
        for front in [Front::NativeXdp, Front::Nothing] {
            let mut xvr = Subject::xvr(&mut lab, front, Role::Public, 1 << 14)?;
            xvr.forward(forwards.clone())?;
            subjects.push(xvr);
        }
        for (name, program, text) in [
            ("legacy", Program::Legacy, &cloudstack),
            ("nft", Program::IptablesNft, &cloudstack),
            ("maps", Program::Nft, &maps),
        ] {
            subjects.push(Subject::linux(&mut lab, name, Some((program, text)))?);
        }
        for flows in [outbound(0), outbound(9), sockets(9), inbound(7, FORWARDS)] {
            let number = 1 << flows.bits;
            for subject in &mut subjects {
                subject.window = Window::of(number);
                let counted = subject.open(&mut lab, flows)?;
                assert_eq!(counted, (number.into(), number.into()), "{}: {flows:?}", subject.name);
                let passed = subject.send(&mut lab, Frames::Scattered(flows), Window::of(1000))?;
                assert_eq!((passed.sent, passed.arrived), (1000, 1000), "{}: {flows:?}", subject.name);
                subject.forget_flows()?;
            }
        }
        Ok(())
    }

    #[test]
    fn every_frame_arrives_however_it_is_on_the_wire() -> Result<()> {
        if !needs::are_met(&["ip", "ethtool"]) {
            return Ok(());
        }
        let mut lab = Lab::new()?;
        let wires = [Wire::Plain, Wire::Vlan(100), Wire::Pair(100, 7), Wire::Vni(4096)];
        for front in [Front::NativeXdp, Front::Nothing] {
            for (index, from) in wires.into_iter().enumerate() {
                let to = wires[(index + 1) % wires.len()];
                let mut subject = Subject::wired(&mut lab, front, "both", [from, to])?;
                let flows = outbound(9);
                subject.window = Window::of(1 << flows.bits);
                subject.open(&mut lab, flows)?;
                let passed = subject.send(&mut lab, Frames::Scattered(flows), Window::of(1000))?;
                assert_eq!((passed.sent, passed.arrived), (1000, 1000), "{front:?}: {from:?} to {to:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn every_frame_of_many_tiers_arrives() -> Result<()> {
        if !needs::are_met(&["ip", "ethtool"]) {
            return Ok(());
        }
        let mut lab = Lab::new()?;
        let flows = guests(6);
        for front in [Front::NativeXdp, Front::Nothing] {
            let mut subject = Subject::tiers(&mut lab, front, "tiers", (30, 7), flows)?;
            subject.window = Window::of(1 << flows.bits);
            subject.open(&mut lab, flows)?;
            let passed = subject.send(&mut lab, Frames::Scattered(flows), Window::of(1000))?;
            assert_eq!((passed.sent, passed.arrived), (1000, 1000), "{front:?}");
        }
        Ok(())
    }

    #[test]
    fn flows_of_a_number_are_different_ones_and_an_address_has_room_for_their_sockets() {
        for bits in [0, 1, 6, 10, 14, 17, 20, 22] {
            let Grid { source_bits, port_bits, .. } = outbound(bits).grid;
            assert!(source_bits + port_bits <= bits.min(14), "{bits}");
        }
        let Grid { source_bits, port_bits, .. } = sockets(15).grid;
        assert_eq!(source_bits + port_bits, 15);
        let Grid { source_bits, port_bits, .. } = inbound(13, 10).grid;
        assert_eq!(source_bits + port_bits, 13);
    }
}
