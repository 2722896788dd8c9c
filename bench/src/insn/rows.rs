//! The rows: each one entry.

use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};

use bench_programs::{RECORDED, Tuple};
use router_common::net::Ipv4;
use router_tests::packet::{Frame, Payload};
use router_userspace::model::policy::AccessList;

use super::between::{Between, Hook, Outside, Rules};
use crate::rules::{Family, HITS, RuleSet, Shape};
use crate::wire::Wire;

/// One way of a packet.
pub struct Row {
    /// What it is called; of Linux' own means it begins with `linux`.
    pub name: &'static str,
    /// What it goes through.
    pub between: Between,
    /// Whose packets they are.
    pub flows: Flows,
    /// What has gone before in a known flow of this number.
    pub before: fn(u16) -> Vec<Packet>,
    /// The packet itself.
    pub packet: fn(u16) -> Packet,
    /// What has to become of it.
    pub fate: Fate,
}

/// Whose packets are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// Of flows that were opened before.
    Known,
    /// Each the first of its flow.
    New,
}

/// What has to become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives on the other side.
    Arrives,
    /// It is dropped.
    Dropped,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guests'.
    Inside = 0,
    /// The provider's, or another tier's.
    Outside = 1,
}

impl Side {
    /// Where it goes to.
    pub const fn other(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
    }
}

/// A packet, without Ethernet addresses.
pub struct Packet {
    /// Where it comes from.
    pub side: Side,
    frame: Frame,
}

impl Packet {
    /// The frame, [`RECORDED`] bytes long as it is on the wire, with these Ethernet addresses (destination, source).
    pub fn bytes(mut self, macs: ([u8; 6], [u8; 6]), wire: Wire) -> Vec<u8> {
        let length = RECORDED - wire.front();
        self.frame.macs = macs;
        self.frame.data.clear();
        let header = self.frame.bytes().len();
        self.frame.data = vec![0x55; length.saturating_sub(header)];
        let mut bytes = self.frame.bytes();
        // An error carries no data of its own: padding, as of every short frame.
        bytes.resize(length, 0);
        wire.around(&bytes, self.side as usize)
    }
}

/// The public address that guests share.
pub const PUBLIC: &str = "203.0.113.10";
/// The one that belongs to a guest.
pub const STATIC: &str = "203.0.113.20";
/// The one with port forwardings.
pub const FORWARDED: &str = "203.0.113.21";
/// The public port that is forwarded, and to which.
pub const PORTS: (u16, u16) = (8080, 80);
/// Guests: one behind source NAT, one with an address for itself, one with a forwarded port.
pub const GUEST: &str = "10.1.1.50";
/// See [`GUEST`].
pub const STATIC_GUEST: &str = "10.1.1.60";
/// See [`GUEST`].
pub const SERVING_GUEST: &str = "10.1.1.51";
/// Who is outside.
const FAR: &str = "198.51.100.9";
/// Another hop there.
const HOP: &str = "198.51.100.1";
/// A guest of another tier.
const NEIGHBOUR: &str = "172.16.2.50";
const GUEST6: &str = "2a00:1::50";
const FAR6: &str = "2c00:1::9";

/// Tiers with tags, on each side.
const VLANS: [Wire; 2] = [Wire::Vlan(100), Wire::Vlan(101)];
/// Tiers by VXLAN.
const VNIS: [Wire; 2] = [Wire::Vni(4096), Wire::Vni(4097)];

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Lists of rules, made once each.
static TEN: LazyLock<Listed> = LazyLock::new(|| Listed::new(10));
static TEN_THOUSAND: LazyLock<Listed> = LazyLock::new(|| Listed::new(10_000));

/// A list, and whose packets meet its rules.
pub struct Listed {
    /// The list.
    pub list: Arc<AccessList>,
    /// TCP and UDP that it allows.
    allowed: Vec<Tuple>,
    /// And that no rule matches.
    denied: Vec<Tuple>,
}

impl Listed {
    fn new(rules: usize) -> Self {
        const TCP_AND_UDP: [u8; 2] = [6, 17];
        let RuleSet { list, mut tuples, .. } = RuleSet::new(Shape::CloudStack, Family::V4, rules);
        let mut denied = tuples.split_off(HITS);
        for tuples in [&mut tuples, &mut denied] {
            tuples.retain(|tuple| TCP_AND_UDP.contains(&tuple.protocol));
        }
        Self { list, allowed: tuples, denied }
    }
}

/// The hop from generator to sink alone.
pub fn no_router() -> Row {
    known("no router", Between::Nothing, |_| vec![], |flow| inside(GUEST, FAR, udp(port(flow), 53)))
}

/// All of them; Linux' own means only if they are asked for.
pub fn all(references: bool) -> Vec<Row> {
    let public = Between::xvr(Hook::Xdp, Outside::Public);
    let tier = Between::xvr(Hook::Xdp, Outside::Tier);
    let by_list = |set| Between::Xvr {
        hook: Hook::Xdp,
        outside: Outside::Tier,
        list: Some(set),
        wires: [Wire::Plain; 2],
    };
    let tc = Between::xvr(Hook::Tc, Outside::Public);
    let mut rows = vec![
        no_router(),
        known("bare redirect", Between::Redirect, |_| vec![], |flow| inside(GUEST, FAR, udp(port(flow), 53))),
        known("source NAT, UDP", public, udp_both_ways, |flow| inside(GUEST, FAR, udp(port(flow), 53))),
        known("source NAT, UDP, reply", public, udp_both_ways, |flow| {
            outside(FAR, PUBLIC, udp(53, port(flow)))
        }),
        known("source NAT, TCP", public, tcp_both_ways, |flow| inside(GUEST, FAR, tcp(port(flow), 443, ACK))),
        known("source NAT, TCP, reply", public, tcp_both_ways, |flow| {
            outside(FAR, PUBLIC, tcp(443, port(flow), ACK))
        }),
        known("source NAT, ping", public, pings_both_ways, |flow| inside(GUEST, FAR, echo(8, port(flow)))),
        known("port forwarding, TCP", public, to_server, |flow| {
            outside(FAR, FORWARDED, tcp(port(flow), PORTS.0, ACK))
        }),
        known("static NAT, TCP", public, from_static, |flow| {
            inside(STATIC_GUEST, FAR, tcp(port(flow), 443, ACK))
        }),
        known("tier to tier, TCP", tier, to_neighbour, |flow| {
            inside(GUEST, NEIGHBOUR, tcp(port(flow), 443, ACK))
        }),
        known(
            "tier to tier, TCP, out of a VLAN",
            Between::tiers([VLANS[0], Wire::Plain]),
            to_neighbour,
            |flow| inside(GUEST, NEIGHBOUR, tcp(port(flow), 443, ACK)),
        ),
        known(
            "tier to tier, TCP, into a VLAN",
            Between::tiers([Wire::Plain, VLANS[1]]),
            to_neighbour,
            |flow| inside(GUEST, NEIGHBOUR, tcp(port(flow), 443, ACK)),
        ),
        known("tier to tier, TCP, VLAN to VLAN", Between::tiers(VLANS), to_neighbour, |flow| {
            inside(GUEST, NEIGHBOUR, tcp(port(flow), 443, ACK))
        }),
        known("tier to tier, TCP, VLAN to VLAN of 4,000", Between::many_tiers(VLANS), to_neighbour, |flow| {
            inside(GUEST, NEIGHBOUR, tcp(port(flow), 443, ACK))
        }),
        known(
            "tier to tier, TCP, out of a VNI",
            Between::tiers([VNIS[0], Wire::Plain]),
            to_neighbour,
            |flow| inside(GUEST, NEIGHBOUR, tcp(port(flow), 443, ACK)),
        ),
        known(
            "tier to tier, TCP, into a VNI",
            Between::tiers([Wire::Plain, VNIS[1]]),
            to_neighbour,
            |flow| inside(GUEST, NEIGHBOUR, tcp(port(flow), 443, ACK)),
        ),
        known("tier to tier, TCP, VNI to VNI", Between::tiers(VNIS), to_neighbour, |flow| {
            inside(GUEST, NEIGHBOUR, tcp(port(flow), 443, ACK))
        }),
        known("on a bridge, UDP, VLAN to VLAN", Between::bridged(VLANS), udp_as_it_is, |flow| {
            inside(GUEST, FAR, udp(port(flow), 53))
        }),
        known("IPv6, TCP", public, over_ipv6, |flow| inside(GUEST6, FAR6, tcp(port(flow), 443, ACK))),
        known("ICMP error through source NAT", public, udp_both_ways, |flow| {
            let about = outside(PUBLIC, FAR, udp(port(flow), 53)).frame.ip();
            outside(HOP, PUBLIC, Payload::Error { kind: 11, about })
        }),
        new("new flow, source NAT, UDP", public, |flow| inside(GUEST, FAR, udp(port(flow), 53))),
        new("new flow, source NAT, TCP", public, |flow| inside(GUEST, FAR, tcp(port(flow), 443, SYN))),
        new("new flow, port forwarding, TCP", public, |flow| {
            outside(FAR, FORWARDED, tcp(port(flow), PORTS.0, SYN))
        }),
        new("new flow, tier to tier", tier, |flow| inside(GUEST, NEIGHBOUR, udp(port(flow), 53))),
        new("new flow, list of 10 rules", by_list(&TEN), |flow| by_rule(&TEN.allowed, flow)),
        new("new flow, list of 10,000 rules", by_list(&TEN_THOUSAND), |flow| {
            by_rule(&TEN_THOUSAND.allowed, flow)
        }),
        Row {
            fate: Fate::Dropped,
            ..new("dropped by a list of 10 rules", by_list(&TEN), |flow| by_rule(&TEN.denied, flow))
        },
        known("source NAT, UDP, in TC", tc, udp_both_ways, |flow| inside(GUEST, FAR, udp(port(flow), 53))),
    ];
    if references {
        for (name, rules) in [
            ("linux, conntrack, UDP", Rules::Conntrack),
            ("linux, source NAT by iptables-legacy, UDP", Rules::SourceNat),
            ("linux, source NAT by nft flowtable, UDP", Rules::Flowtable),
        ] {
            let before = if rules == Rules::Conntrack { udp_as_it_is } else { udp_both_ways };
            rows.push(known(name, Between::Linux(rules), before, |flow| {
                inside(GUEST, FAR, udp(port(flow), 53))
            }));
        }
    }
    rows
}

fn known(
    name: &'static str,
    between: Between,
    before: fn(u16) -> Vec<Packet>,
    packet: fn(u16) -> Packet,
) -> Row {
    Row { name, between, flows: Flows::Known, before, packet, fate: Fate::Arrives }
}

fn new(name: &'static str, between: Between, packet: fn(u16) -> Packet) -> Row {
    Row { name, between, flows: Flows::New, before: |_| vec![], packet, fate: Fate::Arrives }
}

/// The source port of a flow of this number: none of the router's own.
const fn port(flow: u16) -> u16 {
    10_000 + flow
}

fn inside(src: &str, dst: &str, payload: Payload) -> Packet {
    Packet { side: Side::Inside, frame: Frame::new(([0; 6], [0; 6]), src, dst, payload) }
}

fn outside(src: &str, dst: &str, payload: Payload) -> Packet {
    Packet { side: Side::Outside, frame: Frame::new(([0; 6], [0; 6]), src, dst, payload) }
}

const fn udp(src: u16, dst: u16) -> Payload {
    Payload::Udp { src, dst }
}

const fn tcp(src: u16, dst: u16, flags: u8) -> Payload {
    Payload::Tcp { src, dst, flags }
}

const fn echo(kind: u8, id: u16) -> Payload {
    Payload::Echo { kind, id }
}

fn udp_both_ways(flow: u16) -> Vec<Packet> {
    vec![inside(GUEST, FAR, udp(port(flow), 53)), outside(FAR, PUBLIC, udp(53, port(flow)))]
}

fn udp_as_it_is(flow: u16) -> Vec<Packet> {
    vec![inside(GUEST, FAR, udp(port(flow), 53)), outside(FAR, GUEST, udp(53, port(flow)))]
}

fn pings_both_ways(flow: u16) -> Vec<Packet> {
    vec![inside(GUEST, FAR, echo(8, port(flow))), outside(FAR, PUBLIC, echo(0, port(flow)))]
}

fn tcp_both_ways(flow: u16) -> Vec<Packet> {
    handshake(Side::Inside, (GUEST, port(flow)), (FAR, 443), (PUBLIC, FAR))
}

fn to_server(flow: u16) -> Vec<Packet> {
    let mut packets = handshake(Side::Outside, (FAR, port(flow)), (FORWARDED, PORTS.0), (FAR, SERVING_GUEST));
    // The answer comes from where it was forwarded to.
    packets[1] = inside(SERVING_GUEST, FAR, tcp(PORTS.1, port(flow), SYN | ACK));
    packets
}

fn from_static(flow: u16) -> Vec<Packet> {
    handshake(Side::Inside, (STATIC_GUEST, port(flow)), (FAR, 443), (STATIC, FAR))
}

fn to_neighbour(flow: u16) -> Vec<Packet> {
    handshake(Side::Inside, (GUEST, port(flow)), (NEIGHBOUR, 443), (GUEST, NEIGHBOUR))
}

fn over_ipv6(flow: u16) -> Vec<Packet> {
    handshake(Side::Inside, (GUEST6, port(flow)), (FAR6, 443), (GUEST6, FAR6))
}

/// A TCP handshake from a side; `seen`: the ends as the other side sees them.
fn handshake(from: Side, client: (&str, u16), server: (&str, u16), seen: (&str, &str)) -> Vec<Packet> {
    let there = |flags| match from {
        Side::Inside => inside(client.0, server.0, tcp(client.1, server.1, flags)),
        Side::Outside => outside(client.0, server.0, tcp(client.1, server.1, flags)),
    };
    let back = match from {
        Side::Inside => outside(seen.1, seen.0, tcp(server.1, client.1, SYN | ACK)),
        Side::Outside => inside(seen.1, seen.0, tcp(server.1, client.1, SYN | ACK)),
    };
    vec![there(SYN), back, there(ACK)]
}

/// The first packet of a flow that a list is asked about.
fn by_rule(tuples: &[Tuple], flow: u16) -> Packet {
    let text = |words: [u32; 4]| Ipv4Addr::from(Ipv4([words[0]])).to_string();
    let tuple = &tuples[usize::from(flow) % tuples.len()];
    let payload = match tuple.protocol {
        17 => udp(port(flow), tuple.port.get()),
        _ => tcp(port(flow), tuple.port.get(), SYN),
    };
    inside(&text(tuple.source), &text(tuple.destination), payload)
}
