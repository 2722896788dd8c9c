//! The one list of packet scenarios. Each runs against the walk on the host (`tests/walk.rs`)
//! and against the loaded programs in the kernel (`tests/kernel_walk.rs`), for both hooks.
//!
//! The router of every scenario:
//!
//! ```text
//! tier 1  10.1.1.0/24, fd00:1::/64 ── .1 ┐          ┌ 203.0.113.10, 2001:db8:100::10
//! tier 2  10.1.2.0/24, fd00:2::/64 ── .1 ┤  router  ├── public 203.0.113.0/24, gateway .1
//!         (MTU 1400)                     │          ├── public 2 203.0.114.0/24, gateway .1
//!                                        └──────────┘   control 169.254.0.0/16
//! ```
//! Static NAT: 203.0.113.20 is 10.1.1.60, 203.0.114.20 is 10.1.2.60. Port forwardings of
//! 203.0.113.21: TCP 8080 to 10.1.1.50:80; UDP 30000-30010 to 10.1.2.50:40000-40010; TCP 2222 to
//! 10.1.1.51:22 for 192.0.2.0/24 alone.
//! Neighbours are known but for those whose address ends in .99 (`::99`). 198.18.0.0/15 is a
//! blackhole. There is no IPv6 default route.

mod fragment;
mod nat;
mod rfc;

use std::net::Ipv4Addr;

use router_common::account::Hook;
use router_common::port::Role;
use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};

use router_userspace::model::nat::{ForwardProtocol, Nat, PortForward, PortRange, StaticNat};

use crate::packet::{About, Frame, Payload, Read, Sum, read};

/// A NIC of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nic {
    /// Guest side.
    Tier1,
    /// Guest side; may hand over unfinished checksums, MTU 1400.
    Tier2,
    /// Provider's side, with source NAT.
    Public,
    /// Management.
    Control,
    /// Provider's side, a second network.
    Public2,
}

impl Nic {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Tier1, Self::Tier2, Self::Public, Self::Control, Self::Public2];

    /// What the port is for.
    pub const fn role(self) -> Role {
        match self {
            Self::Tier1 | Self::Tier2 => Role::Guest,
            Self::Public | Self::Public2 => Role::Public,
            Self::Control => Role::Control,
        }
    }

    /// The router's own Ethernet address there.
    pub const fn mac(self) -> [u8; 6] {
        [0x02, 0, 0, 0, 0xff, self as u8 + 1]
    }

    /// Its MTU.
    pub const fn mtu(self) -> u16 {
        if matches!(self, Self::Tier2) { 1400 } else { 1500 }
    }

    /// Addresses of the router there.
    pub const fn addresses(self) -> &'static [&'static str] {
        match self {
            Self::Tier1 => &["10.1.1.1/24", "fd00:1::1/64"],
            Self::Tier2 => &["10.1.2.1/24", "fd00:2::1/64"],
            Self::Public => &["203.0.113.10/24", "203.0.113.20/24", "203.0.113.21/24", "2001:db8:100::10/64"],
            Self::Public2 => &["203.0.114.10/24", "203.0.114.20/24"],
            Self::Control => &["169.254.3.4/16"],
        }
    }

    /// Hosts that are known there.
    pub const fn neighbours(self) -> &'static [&'static str] {
        match self {
            Self::Tier1 => &["10.1.1.50", "10.1.1.51", "10.1.1.60", "fd00:1::50"],
            Self::Tier2 => &["10.1.2.50", "10.1.2.60", "fd00:2::50"],
            Self::Public => &["203.0.113.1", "203.0.113.77", "2001:db8:100::77"],
            Self::Public2 => &["203.0.114.1", "203.0.114.77"],
            Self::Control => &[],
        }
    }
}

/// The public address of the router.
pub const PUBLIC: &str = "203.0.113.10";

/// What CloudStack wants translated.
pub fn nat_rules() -> Nat {
    let ipv4 = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
    let static_nat = |public, internal| StaticNat { public: ipv4(public), internal: ipv4(internal) };
    let forward =
        |protocol, public: (u16, u16), internal: &str, to: (u16, u16), sources: &[&str]| PortForward {
            public: ipv4("203.0.113.21"),
            protocol,
            public_ports: PortRange::new(public.0, public.1).ok(),
            internal: ipv4(internal),
            internal_ports: PortRange::new(to.0, to.1).ok(),
            sources: sources.iter().map(|text| text.parse().expect("a network")).collect(),
        };
    use ForwardProtocol::{Tcp, Udp};
    Nat {
        static_nats: vec![static_nat("203.0.113.20", "10.1.1.60"), static_nat("203.0.114.20", "10.1.2.60")],
        forwards: vec![
            forward(Tcp, (8080, 8080), "10.1.1.50", (80, 80), &[]),
            forward(Udp, (30_000, 30_010), "10.1.2.50", (40_000, 40_010), &[]),
            forward(Tcp, (2222, 2222), "10.1.1.51", (22, 22), &["192.0.2.0/24"]),
        ],
    }
}

/// Ethernet address of whoever is at the other end of a NIC. All hosts of a segment share it:
/// it is the segment that scenarios tell apart.
pub const fn host_mac(nic: Nic) -> [u8; 6] {
    [0x02, 0, 0, 0, 0xaa, nic as u8 + 1]
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// As counted, see `router_common::verdict`.
    pub outcome: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// A router that scenarios send frames through.
pub trait Router {
    /// The hook that is tested.
    fn hook(&self) -> Hook;
    /// A frame that comes in by a NIC.
    fn send(&mut self, nic: Nic, frame: &[u8]) -> Sent;
    /// Whether a frame that is refused for a reason becomes the answer to its sender.
    fn answers(&self, reason: DropReason, frame: &[u8]) -> bool {
        let _ = (reason, frame);
        false
    }
    /// How short a frame can be sent, if its IP header is so long.
    fn shortest(&self, header: usize) -> usize {
        let _ = header;
        ETHERNET
    }
}

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;

/// A scenario: a sentence and what proves it.
pub type Scenario = (&'static str, fn(&mut dyn Router));

fn from(nic: Nic, src: &str, dst: &str, payload: Payload) -> Frame {
    Frame::new((nic.mac(), host_mac(nic)), src, dst, payload)
}

fn told_about(src: &str, dst: &str, ports: (u16, u16)) -> Option<About> {
    Some(About { ends: (ip(src), ip(dst)), ports, sums_hold: true })
}

fn udp(src: u16, dst: u16) -> Payload {
    Payload::Udp { src, dst }
}

fn tcp(src: u16, dst: u16, flags: u8) -> Payload {
    Payload::Tcp { src, dst, flags }
}

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;

/// Sends and expects it to be forwarded to a NIC; reads what came out.
fn forwarded(router: &mut dyn Router, nic: Nic, frame: &Frame, to: Nic) -> Read {
    let sent = router.send(nic, &frame.bytes());
    assert_eq!(sent.outcome, FORWARDED, "{frame:?} was not forwarded");
    let out = read(&sent.frame);
    assert_eq!(out.macs, (host_mac(to), to.mac()), "left by another port than {to:?}");
    assert_eq!(out.ttl, frame.ttl - 1);
    assert!(out.sums_hold, "checksums of {out:?}");
    out
}

fn dropped(router: &mut dyn Router, nic: Nic, frame: &[u8], reason: DropReason) {
    let sent = router.send(nic, frame);
    // XDP leaves to TC what is to be answered there.
    let expected = match (router.hook(), reason) {
        (Hook::Xdp, DropReason::TtlExceeded) => DeferReason::Punted.outcome(),
        _ => reason.outcome(),
    };
    assert_eq!(sent.outcome, expected, "expected drop {reason:?}");
    if router.answers(reason, frame) {
        let answer = read(&sent.frame);
        assert_eq!(answer.macs, (host_mac(nic), nic.mac()));
        assert!(answer.sums_hold, "checksums of {answer:?}");
        assert_eq!(answer.about.expect("an error").ends, read(frame).ends, "about another packet");
    } else {
        assert_eq!(sent.frame, frame, "a dropped frame was changed");
    }
}

fn punted(router: &mut dyn Router, nic: Nic, frame: &[u8], reason: PuntReason) {
    let expected = match router.hook() {
        Hook::Xdp => DeferReason::Punted.outcome(),
        Hook::Tc => reason.outcome(),
    };
    let sent = router.send(nic, frame);
    assert_eq!(sent.outcome, expected, "expected punt {reason:?}");
    assert_eq!(sent.frame, frame, "a punted frame was changed");
}

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

/// Every scenario of a hook.
pub fn scenarios(hook: Hook) -> impl Iterator<Item = &'static Scenario> {
    let of_fragments = match hook {
        Hook::Xdp => fragment::IN_XDP,
        Hook::Tc => fragment::IN_TC,
    };
    SCENARIOS.iter().chain(nat::SCENARIOS).chain(of_fragments).chain(rfc::SCENARIOS)
}

const SCENARIOS: &[Scenario] = &[
    ("a guest's datagram leaves with the public address and the answer finds the guest", |r| {
        let out =
            forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53)), Nic::Public);
        assert_eq!((out.ends, out.ports), ((ip(PUBLIC), ip("192.0.2.9")), (5000, 53)));
        let back =
            forwarded(r, Nic::Public, &from(Nic::Public, "192.0.2.9", PUBLIC, udp(53, 5000)), Nic::Tier1);
        assert_eq!((back.ends, back.ports), ((ip("192.0.2.9"), ip("10.1.1.50")), (53, 5000)));
    }),
    ("a TCP handshake passes source NAT", |r| {
        let syn = from(Nic::Tier1, "10.1.1.50", "203.0.113.77", tcp(40_000, 80, SYN));
        assert_eq!(forwarded(r, Nic::Tier1, &syn, Nic::Public).ends, (ip(PUBLIC), ip("203.0.113.77")));
        let syn_ack = from(Nic::Public, "203.0.113.77", PUBLIC, tcp(80, 40_000, SYN | ACK));
        assert_eq!(forwarded(r, Nic::Public, &syn_ack, Nic::Tier1).ends.1, ip("10.1.1.50"));
        let ack = from(Nic::Tier1, "10.1.1.50", "203.0.113.77", tcp(40_000, 80, ACK));
        assert_eq!(forwarded(r, Nic::Tier1, &ack, Nic::Public).ports, (40_000, 80));
    }),
    ("two guests with one source port are told apart, range and parity kept", |r| {
        let first = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5001, 53));
        let second = from(Nic::Tier1, "10.1.1.51", "192.0.2.9", udp(5001, 53));
        assert_eq!(forwarded(r, Nic::Tier1, &first, Nic::Public).ports.0, 5001);
        let port = forwarded(r, Nic::Tier1, &second, Nic::Public).ports.0;
        assert!(port != 5001 && port >= 1024 && port % 2 == 1, "port {port}");
        let back =
            forwarded(r, Nic::Public, &from(Nic::Public, "192.0.2.9", PUBLIC, udp(53, port)), Nic::Tier1);
        assert_eq!((back.ends.1, back.ports.1), (ip("10.1.1.51"), 5001));
    }),
    ("a source port of the router's own range is not used for a guest", |r| {
        let out = forwarded(
            r,
            Nic::Tier1,
            &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(64_500, 53)),
            Nic::Public,
        );
        assert!(!(64_000..=65_023).contains(&out.ports.0), "port {}", out.ports.0);
    }),
    ("pings of two guests with one identifier are told apart", |r| {
        let ping = |src| from(Nic::Tier1, src, "192.0.2.9", Payload::Echo { kind: 8, id: 7777 });
        assert_eq!(forwarded(r, Nic::Tier1, &ping("10.1.1.50"), Nic::Public).ports.0, 7777);
        let id = forwarded(r, Nic::Tier1, &ping("10.1.1.51"), Nic::Public).ports.0;
        assert_ne!(id, 7777);
        for (id, guest) in [(7777, "10.1.1.50"), (id, "10.1.1.51")] {
            let pong = from(Nic::Public, "192.0.2.9", PUBLIC, Payload::Echo { kind: 0, id });
            let back = forwarded(r, Nic::Public, &pong, Nic::Tier1);
            assert_eq!((back.ends.1, back.ports.0), (ip(guest), 7777));
        }
    }),
    ("tier to tier keeps addresses and ports", |r| {
        let there = from(Nic::Tier1, "10.1.1.50", "10.1.2.50", tcp(1234, 80, SYN));
        let out = forwarded(r, Nic::Tier1, &there, Nic::Tier2);
        assert_eq!((out.ends, out.ports), (there.ends, (1234, 80)));
        let back = from(Nic::Tier2, "10.1.2.50", "10.1.1.50", tcp(80, 1234, SYN | ACK));
        assert_eq!(forwarded(r, Nic::Tier2, &back, Nic::Tier1).ends, back.ends);
    }),
    ("IPv6 is routed, not translated", |r| {
        let there = from(Nic::Tier1, "fd00:1::50", "2001:db8:100::77", tcp(1234, 80, SYN));
        assert_eq!(forwarded(r, Nic::Tier1, &there, Nic::Public).ends, there.ends);
        let back = from(Nic::Public, "2001:db8:100::77", "fd00:1::50", tcp(80, 1234, SYN | ACK));
        assert_eq!(forwarded(r, Nic::Public, &back, Nic::Tier1).ends, back.ends);
        let ping = from(Nic::Tier1, "fd00:1::50", "fd00:2::50", Payload::Echo { kind: 128, id: 9 });
        assert_eq!(forwarded(r, Nic::Tier1, &ping, Nic::Tier2).ends, ping.ends);
    }),
    ("an absent UDP checksum stays absent", |r| {
        let mut frame = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53));
        frame.sum = Sum::Absent;
        let sent = r.send(Nic::Tier1, &frame.bytes());
        assert_eq!(sent.outcome, FORWARDED);
        assert_eq!(sent.frame[40..42], [0, 0]);
    }),
    ("IPv4 options do not hide the ports", |r| {
        let mut frame = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53));
        frame.options = vec![1, 1, 1, 0];
        if r.hook() == Hook::Xdp {
            assert_eq!(r.send(Nic::Tier1, &frame.bytes()).outcome, DeferReason::Options.outcome());
            return;
        }
        let out = forwarded(r, Nic::Tier1, &frame, Nic::Public);
        assert_eq!((out.ends.0, out.ports), (ip(PUBLIC), (5000, 53)));
    }),
    ("an error about a translated datagram reaches the guest with its own packet inside", |r| {
        let out = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 33_434));
        forwarded(r, Nic::Tier1, &out, Nic::Public);
        let about = from(Nic::Public, PUBLIC, "192.0.2.9", udp(5000, 33_434)).ip();
        for (kind, hop) in [(3, "192.0.2.9"), (11, "198.51.100.1")] {
            let error = from(Nic::Public, hop, PUBLIC, Payload::Error { kind, about: about.clone() });
            let back = forwarded(r, Nic::Public, &error, Nic::Tier1);
            assert_eq!(back.ends, (ip(hop), ip("10.1.1.50")));
            assert_eq!(back.about, told_about("10.1.1.50", "192.0.2.9", (5000, 33_434)));
        }
    }),
    ("an error about a ping comes back with the guest's identifier", |r| {
        let echo = Payload::Echo { kind: 8, id: 70 };
        forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", echo.clone()), Nic::Public);
        let about = from(Nic::Public, PUBLIC, "192.0.2.9", echo).ip();
        let error = from(Nic::Public, "198.51.100.1", PUBLIC, Payload::Error { kind: 11, about });
        let back = forwarded(r, Nic::Public, &error, Nic::Tier1);
        assert_eq!(back.about, told_about("10.1.1.50", "192.0.2.9", (70, 0)));
    }),
    ("a guest's error about an answer leaves with the public address, inside and out", |r| {
        forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53)), Nic::Public);
        let about = from(Nic::Tier1, "192.0.2.9", "10.1.1.50", udp(53, 5000)).ip();
        let error = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", Payload::Error { kind: 3, about });
        let out = forwarded(r, Nic::Tier1, &error, Nic::Public);
        assert_eq!(out.ends, (ip(PUBLIC), ip("192.0.2.9")));
        assert_eq!(out.about, told_about("192.0.2.9", PUBLIC, (53, 5000)));
    }),
    ("an IPv6 packet-too-big finds its flow", |r| {
        let there = from(Nic::Tier1, "fd00:1::50", "2001:db8:100::77", tcp(1234, 80, SYN));
        forwarded(r, Nic::Tier1, &there, Nic::Public);
        let error = Payload::Error { kind: 2, about: there.ip() };
        let error = from(Nic::Public, "2001:db8:100::77", "fd00:1::50", error);
        assert!(forwarded(r, Nic::Public, &error, Nic::Tier1).about.is_some());
    }),
    ("an error about no flow is the router's own business or refused", |r| {
        let about = from(Nic::Public, PUBLIC, "192.0.2.9", udp(6000, 53)).ip();
        let error = Payload::Error { kind: 3, about };
        punted(
            r,
            Nic::Public,
            &from(Nic::Public, "192.0.2.9", PUBLIC, error.clone()).bytes(),
            PuntReason::ToRouter,
        );
        let error = from(Nic::Public, "192.0.2.9", "10.1.1.50", error).bytes();
        dropped(r, Nic::Public, &error, DropReason::UnrelatedIcmpError);
    }),
    ("nobody outside opens a flow to a guest", |r| {
        for payload in [tcp(999, 22, SYN), udp(999, 53), Payload::Echo { kind: 8, id: 1 }] {
            let frame = from(Nic::Public, "192.0.2.9", "10.1.1.50", payload);
            dropped(r, Nic::Public, &frame.bytes(), DropReason::NotPermitted);
        }
        let frame = from(Nic::Public, "2001:db8:100::77", "fd00:1::50", tcp(999, 22, SYN));
        dropped(r, Nic::Public, &frame.bytes(), DropReason::NotPermitted);
    }),
    ("what is for the router itself goes to the kernel", |r| {
        for (nic, src, dst) in [
            (Nic::Tier1, "10.1.1.50", "10.1.1.1"),
            (Nic::Public, "192.0.2.9", PUBLIC),
            (Nic::Tier1, "fd00:1::50", "fd00:1::1"),
        ] {
            punted(r, nic, &from(nic, src, dst, udp(999, 53)).bytes(), PuntReason::ToRouter);
        }
        let control = from(Nic::Control, "169.254.0.1", "169.254.3.4", tcp(999, 3922, SYN));
        punted(r, Nic::Control, &control.bytes(), PuntReason::ToRouter);
        // An answer to a connection of the router's own.
        let answer = from(Nic::Public, "192.0.2.9", PUBLIC, tcp(80, 64_001, SYN | ACK));
        punted(r, Nic::Public, &answer.bytes(), PuntReason::ToRouter);
    }),
    ("an unsolicited connection from outside is not answered, and a guest's own passes later", |r| {
        for flags in [SYN, SYN | 0xc0] {
            let early = from(Nic::Public, "192.0.2.9", PUBLIC, tcp(80, 4000, flags));
            dropped(r, Nic::Public, &early.bytes(), DropReason::NotPermitted);
        }
        let early = from(Nic::Public, "2001:db8:100::77", "2001:db8:100::10", tcp(80, 4000, SYN));
        dropped(r, Nic::Public, &early.bytes(), DropReason::NotPermitted);
        forwarded(
            r,
            Nic::Tier1,
            &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", tcp(4000, 80, SYN)),
            Nic::Public,
        );
        let again = from(Nic::Public, "192.0.2.9", PUBLIC, tcp(80, 4000, SYN));
        forwarded(r, Nic::Public, &again, Nic::Tier1);
    }),
    ("ARP, broadcasts, multicasts and strangers' frames go to the kernel", |r| {
        let mut arp = [Nic::Tier1.mac(), host_mac(Nic::Tier1)].concat();
        arp.extend([0x08, 0x06]);
        arp.extend([0; 46]);
        punted(r, Nic::Tier1, &arp, PuntReason::NotIp);
        let mut dhcp = from(Nic::Tier1, "0.0.0.0", "255.255.255.255", udp(68, 67));
        dhcp.macs.0 = [0xff; 6];
        punted(r, Nic::Tier1, &dhcp.bytes(), PuntReason::LinkScope);
        let mut other = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53));
        other.macs.0 = [0x02, 9, 9, 9, 9, 9];
        punted(r, Nic::Tier1, &other.bytes(), PuntReason::OtherHost);
        let local = from(Nic::Tier1, "fe80::50", "fe80::1", udp(546, 547));
        punted(r, Nic::Tier1, &local.bytes(), PuntReason::LinkScope);
    }),
    ("a TTL that runs out is answered, or dropped where the kernel could not answer", |r| {
        let mut frame = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53));
        frame.ttl = 1;
        punted(r, Nic::Tier1, &frame.bytes(), PuntReason::TtlExceeded);
        frame.ttl = 64;
        forwarded(r, Nic::Tier1, &frame, Nic::Public);
        frame.ttl = 1;
        punted(r, Nic::Tier1, &frame.bytes(), PuntReason::TtlExceeded);
        let mut back = from(Nic::Public, "192.0.2.9", PUBLIC, udp(53, 5000));
        back.ttl = 1;
        dropped(r, Nic::Public, &back.bytes(), DropReason::TtlExceeded);
    }),
    ("a packet too big for the way out is answered, or cut where it may be fragmented", |r| {
        let mut frame = from(Nic::Tier1, "10.1.1.50", "10.1.2.50", udp(5000, 53));
        frame.data = vec![7; 1372];
        forwarded(r, Nic::Tier1, &frame, Nic::Tier2);
        frame.data.push(7);
        if r.hook() == Hook::Xdp {
            assert_eq!(r.send(Nic::Tier1, &frame.bytes()).outcome, DeferReason::Oversize.outcome());
            return;
        }
        punted(r, Nic::Tier1, &frame.bytes(), PuntReason::TooBig);
        frame.fragment = 0;
        assert_eq!(r.send(Nic::Tier1, &frame.bytes()).outcome, FORWARDED);
        // Options are not copied into pieces.
        frame.options = vec![1, 1, 1, 0];
        dropped(r, Nic::Tier1, &frame.bytes(), DropReason::TooBig);
    }),
    ("what cannot begin a connection does not leave untranslated", |r| {
        for flags in [RST, SYN | ACK, FIN | ACK, 0, FIN | 8 | 32, RST | ACK] {
            let frame = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", tcp(4000, 80, flags));
            dropped(r, Nic::Tier1, &frame.bytes(), DropReason::InvalidState);
        }
        let pong = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", Payload::Echo { kind: 0, id: 3 });
        dropped(r, Nic::Tier1, &pong.bytes(), DropReason::InvalidState);
        let redirect = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", Payload::Echo { kind: 5, id: 3 });
        dropped(r, Nic::Tier1, &redirect.bytes(), DropReason::IcmpUnsupported);
    }),
    ("a bare acknowledgment opens a flow: a long connection comes back after a restart", |r| {
        let ack = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", tcp(4000, 80, ACK));
        assert_eq!(forwarded(r, Nic::Tier1, &ack, Nic::Public).ends.0, ip(PUBLIC));
    }),
    ("martians are refused", |r| {
        for (src, dst) in [
            ("10.1.1.50", "127.0.0.1"),
            ("10.1.1.50", "0.1.2.3"),
            ("10.1.1.50", "240.0.0.1"),
            ("127.0.0.1", "192.0.2.9"),
            ("224.0.0.5", "192.0.2.9"),
            ("fd00:1::50", "::1"),
            ("fd00:1::50", "fec0::1"),
            ("fd00:1::50", "::ffff:192.0.2.9"),
            ("::ffff:10.1.1.50", "2001:db8:100::77"),
            ("ff02::5", "2001:db8:100::77"),
            ("10.1.1.50", "10.1.1.50"),
        ] {
            let frame = from(Nic::Tier1, src, dst, udp(5000, 53));
            dropped(r, Nic::Tier1, &frame.bytes(), DropReason::Martian);
        }
    }),
    ("a destination without a route is the kernel's to answer, a blackhole is nobody's", |r| {
        let nowhere = from(Nic::Tier1, "fd00:1::50", "2001:db8:dead::1", udp(5000, 53));
        punted(r, Nic::Tier1, &nowhere.bytes(), PuntReason::NoRoute);
        let hole = from(Nic::Tier1, "10.1.1.50", "198.18.0.1", udp(5000, 53));
        dropped(r, Nic::Tier1, &hole.bytes(), DropReason::RouteRefuses);
    }),
    ("the first packet to a neighbour that is not known waits for it in the kernel", |r| {
        for (src, dst) in [("10.1.1.50", "10.1.2.99"), ("fd00:1::50", "fd00:2::99")] {
            let frame = from(Nic::Tier1, src, dst, udp(5000, 53));
            let sent = r.send(Nic::Tier1, &frame.bytes());
            if r.hook() == Hook::Xdp {
                assert_eq!(sent.outcome, DeferReason::NoNeighbour.outcome());
                assert_eq!(sent.frame, frame.bytes(), "a deferred frame was changed");
            } else {
                assert_eq!(sent.outcome, FORWARDED);
                assert_eq!(read(&sent.frame).ttl, 63);
            }
        }
    }),
    ("IPv6 extension headers are stepped over, and type 0 routing headers refused", |r| {
        let mut frame = from(Nic::Tier1, "fd00:1::50", "fd00:2::50", Payload::Other { protocol: 0 });
        let datagram = [0x13, 0x88, 0, 53, 0, 8, 0x12, 0x34];
        frame.data = [&[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
        let sent = r.send(Nic::Tier1, &frame.bytes());
        assert_eq!(sent.outcome, FORWARDED);
        let mut frame = from(Nic::Tier1, "fd00:1::50", "fd00:2::50", Payload::Other { protocol: 43 });
        frame.data = [&[17, 0, 0, 0, 0, 0, 0, 0][..], &datagram].concat();
        dropped(r, Nic::Tier1, &frame.bytes(), DropReason::RoutingHeader);
    }),
    ("unknown VLANs are refused", |r| {
        let mut frame = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53));
        frame.vlans = vec![100];
        dropped(r, Nic::Tier1, &frame.bytes(), DropReason::UnknownVlan);
        frame.vlans = vec![100, 200];
        dropped(r, Nic::Tier1, &frame.bytes(), DropReason::UnknownVlan);
    }),
    ("headers that make no sense are refused", |r| {
        let good = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53)).bytes();
        let broken = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        dropped(r, Nic::Tier1, &broken(14, 0x55), DropReason::BadIpHeader);
        dropped(r, Nic::Tier1, &broken(14, 0x44), DropReason::BadIpHeader);
        dropped(r, Nic::Tier1, &broken(17, 10), DropReason::BadIpHeader);
        dropped(r, Nic::Tier1, &broken(16, 0x40), DropReason::Truncated);
        dropped(r, Nic::Tier1, &broken(22, 63), DropReason::BadIpChecksum);
    }),
    ("a frame cut short anywhere is refused and not changed", |r| {
        for (header, frame) in [
            (20, from(Nic::Tier1, "10.1.1.50", "192.0.2.9", tcp(5000, 53, SYN)).bytes()),
            (40, from(Nic::Tier1, "fd00:1::50", "fd00:2::50", udp(5000, 53)).bytes()),
        ] {
            for length in r.shortest(header)..frame.len() {
                let sent = r.send(Nic::Tier1, &frame[..length]);
                assert_eq!(sent.outcome, DropReason::Truncated.outcome(), "cut to {length} bytes");
                assert_eq!(sent.frame, frame[..length]);
            }
        }
    }),
    ("what is behind an IP packet is not taken for its ports", |r| {
        let whole = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53)).bytes();
        let mut short = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", Payload::Other { protocol: 17 });
        short.data = whole[34..38].to_vec();
        let frame = [&short.bytes(), &whole[38..]].concat();
        dropped(r, Nic::Tier1, &frame, DropReason::Truncated);
    }),
    ("XDP leaves unfinished checksums to TC where a peer may hand them over", |r| {
        if r.hook() == Hook::Tc {
            return;
        }
        for (src, dst) in [("10.1.2.50", "192.0.2.9"), ("fd00:2::50", "fd00:1::50")] {
            for payload in [tcp(5000, 80, SYN), udp(5000, 53)] {
                let mut frame = from(Nic::Tier2, src, dst, payload);
                frame.sum = Sum::Partial;
                let sent = r.send(Nic::Tier2, &frame.bytes());
                assert_eq!(sent.outcome, DeferReason::PartialChecksum.outcome());
                assert_eq!(sent.frame, frame.bytes());
                frame.sum = Sum::Finished;
                assert_eq!(r.send(Nic::Tier2, &frame.bytes()).outcome, FORWARDED);
            }
        }
    }),
];
