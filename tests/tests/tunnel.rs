//! Ports that are VXLAN networks, in the walk on the host: what only raw frames show.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use router_common::account::Hook;
use router_common::net::Be16;
use router_common::port::{Carrier, Port};
use router_common::tunnel::{StationKey, Tunnel};
use router_common::verdict::{DeferReason, DropReason, FORWARDED};
use router_tests::host::{HostRouter, ifindex};
use router_tests::packet::{Frame, Payload};
use router_tests::scenario::{Nic, Router, Sent, host_mac};

const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Tc];
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const REMOTES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 1, 60), Ipv4Addr::new(10, 1, 1, 61)];
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 62);
const VNI: u32 = 0x12_3456;
const UDP_PORT: u16 = 4789;

/// The first tier's NIC is the underlay of a network, which the second tier or the public port is.
fn with_network(hook: Hook, network: Nic, remotes: &[Ipv4Addr]) -> HostRouter {
    let router = HostRouter::new(hook);
    let underlay = ifindex(Nic::Tier1);
    let tunnel = Tunnel {
        underlay,
        local: LOCAL.into(),
        vni: VNI,
        remotes: remotes.len() as u32,
        udp_port: Be16::new(UDP_PORT),
        pad: [0; 2],
    };
    let remotes: Vec<_> = remotes.iter().map(|address| (*address).into()).collect();
    router.world.tunnels.add(ifindex(network), &tunnel, &remotes);
    router.world.carriers.borrow_mut().insert(ifindex(network), Carrier::tunnel(underlay));
    let mut ports = router.world.ports.borrow_mut();
    ports.get_mut(&ifindex(network)).expect("a port").flags |= Port::TAGGED;
    ports.get_mut(&underlay).expect("a port").vxlan = Be16::new(UDP_PORT);
    drop(ports);
    router
}

/// What is in front of a frame on its way to the router.
#[derive(Clone, Copy)]
struct Outer {
    from: Ipv4Addr,
    to: Ipv4Addr,
    port: u16,
    vni: u32,
    tos: u8,
    flags: u8,
    /// Added to the length that UDP says.
    longer: u16,
}

const OUTER: Outer =
    Outer { from: REMOTES[0], to: LOCAL, port: UDP_PORT, vni: VNI, tos: 0, flags: 8, longer: 0 };

impl Outer {
    fn around(&self, frame: &[u8]) -> Vec<u8> {
        let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
        let payload = Payload::Udp { src: 50_000, dst: self.port };
        let mut data = vec![self.flags, 0, 0, 0];
        data.extend((self.vni << 8).to_be_bytes());
        data.extend(frame);
        let ends = (self.from.to_string(), self.to.to_string());
        let mut packet = Frame { data, ..Frame::new(macs, &ends.0, &ends.1, payload) }.bytes();
        packet[15] = self.tos;
        packet[24..26].fill(0);
        let sum = checksum(&packet[14..34]);
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
        let length = u16::from_be_bytes([packet[38], packet[39]]) + self.longer;
        packet[38..40].copy_from_slice(&length.to_be_bytes());
        packet
    }
}

fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

fn from_tier2(port: u16, dst: &str) -> Vec<u8> {
    let macs = (Nic::Tier2.mac(), host_mac(Nic::Tier2));
    Frame::new(macs, "10.1.2.50", dst, Payload::Udp { src: port, dst: 53 }).bytes()
}

fn with_tos(mut frame: Vec<u8>, tos: u8) -> Vec<u8> {
    frame[15] = tos;
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn a_frame_is_taken_out_and_goes_the_way_of_one_that_was_in_none() {
    for hook in HOOKS {
        let frame = from_tier2(5000, "192.0.2.9");
        let plain = HostRouter::new(hook).send(Nic::Tier2, &frame);
        assert_eq!(plain.outcome, FORWARDED);
        let mut router = with_network(hook, Nic::Tier2, &REMOTES);
        let sent = router.send(Nic::Tier1, &OUTER.around(&frame));
        assert_eq!((sent.outcome, sent.frame), (FORWARDED, plain.frame), "{hook:?}");
        let station = StationKey { ifindex: ifindex(Nic::Tier2), mac: host_mac(Nic::Tier2), pad: [0; 2] };
        let learnt = router.world.tunnels.stations.borrow().get(&station).copied();
        assert_eq!(learnt.map(Ipv4Addr::from), Some(REMOTES[0]));
        // It moves.
        router.send(Nic::Tier1, &Outer { from: REMOTES[1], ..OUTER }.around(&frame));
        let learnt = router.world.tunnels.stations.borrow().get(&station).copied();
        assert_eq!(learnt.map(Ipv4Addr::from), Some(REMOTES[1]));
    }
}

#[test]
fn a_frame_leaves_with_the_headers_of_the_standard() {
    for hook in HOOKS {
        let frame = from_tier2(5000, "192.0.2.9");
        let plain = HostRouter::new(hook).send(Nic::Tier2, &frame).frame;
        let mut router = with_network(hook, Nic::Public, &REMOTES[..1]);
        let sent = router.send(Nic::Tier2, &frame);
        assert_eq!(sent.outcome, FORWARDED);
        let (outer, inner) = sent.frame.split_at(50);
        assert_eq!(inner, plain);
        assert_eq!(outer[..6], host_mac(Nic::Tier1));
        assert_eq!(outer[6..12], Nic::Tier1.mac());
        assert_eq!(outer[12..16], [8, 0, 0x45, 0]);
        let half = |at: usize| u16::from_be_bytes([sent.frame[at], sent.frame[at + 1]]);
        assert_eq!((half(16), half(38)), (inner.len() as u16 + 36, inner.len() as u16 + 16));
        // Never cut on its way; a TTL, UDP, and a sum that is right.
        assert_eq!(outer[18..24], [0, 0, 0x40, 0, 64, 17]);
        assert_eq!(checksum(&outer[14..34]), 0);
        assert_eq!((&outer[26..30], &outer[30..34]), (&LOCAL.octets()[..], &REMOTES[0].octets()[..]));
        assert!(half(34) >= 49_152, "{}", half(34));
        assert_eq!((half(36), half(40)), (UDP_PORT, 0));
        assert_eq!(outer[42..], [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    }
}

#[test]
fn a_flow_has_one_source_port_and_flows_have_many() {
    let mut router = with_network(Hook::Xdp, Nic::Public, &REMOTES[..1]);
    let mut port = |number: u16| {
        let sent = router.send(Nic::Tier2, &from_tier2(number, "192.0.2.9"));
        assert_eq!(sent.outcome, FORWARDED);
        u16::from_be_bytes([sent.frame[34], sent.frame[35]])
    };
    let ports: Vec<u16> = (5000..5256).map(&mut port).collect();
    assert_eq!((5000..5256).map(port).collect::<Vec<_>>(), ports);
    // So many as chance would have it: 254 of 256 in 16,384.
    assert!(ports.iter().collect::<BTreeSet<_>>().len() > 245);
}

#[test]
fn without_knowing_where_a_station_is_xdp_sends_to_nobody() {
    let mut router = with_network(Hook::Xdp, Nic::Public, &REMOTES);
    let frame = from_tier2(5000, "192.0.2.9");
    assert_eq!(router.send(Nic::Tier2, &frame).outcome, DropReason::NoWayToVtep.outcome());
    let station = StationKey { ifindex: ifindex(Nic::Public), mac: host_mac(Nic::Public), pad: [0; 2] };
    let mut learn = |remote: Ipv4Addr| {
        router.world.tunnels.stations.borrow_mut().insert(station, remote.into());
        router.send(Nic::Tier2, &frame)
    };
    let sent = learn(REMOTES[1]);
    assert_eq!((sent.outcome, &sent.frame[30..34]), (FORWARDED, &REMOTES[1].octets()[..]));
    // One that was taken away since.
    assert_eq!(learn(STRANGER).outcome, DropReason::NoWayToVtep.outcome());
}

#[test]
fn what_is_not_ours_goes_its_way_and_what_is_odd_is_dropped() {
    let frame = from_tier2(5000, "192.0.2.9");
    let refused = |outer: Outer, reason: DropReason| {
        for hook in HOOKS {
            let packet = outer.around(&frame);
            let sent = with_network(hook, Nic::Tier2, &REMOTES).send(Nic::Tier1, &packet);
            assert_eq!((sent.outcome, &sent.frame), (reason.outcome(), &packet), "{hook:?}");
        }
    };
    refused(Outer { vni: VNI + 1, ..OUTER }, DropReason::UnknownVni);
    refused(Outer { from: STRANGER, ..OUTER }, DropReason::UnknownVtep);
    refused(Outer { flags: 0, ..OUTER }, DropReason::BadTunnel);
    refused(Outer { longer: 1, ..OUTER }, DropReason::BadTunnel);
    for hook in HOOKS {
        // A header that is cut off, and no frame behind one.
        let whole = OUTER.around(&[]);
        for length in [44, 49, 50, 60] {
            let mut packet = OUTER.around(&frame);
            packet.truncate(length);
            let sent = with_network(hook, Nic::Tier2, &REMOTES).send(Nic::Tier1, &packet);
            assert_eq!(sent.outcome, DropReason::BadTunnel.outcome(), "{hook:?}: {length}");
        }
        let sent = with_network(hook, Nic::Tier2, &REMOTES).send(Nic::Tier1, &whole);
        assert_eq!(sent.outcome, DropReason::BadTunnel.outcome());
        let mut packet = OUTER.around(&frame);
        packet[24] ^= 1;
        let sent = with_network(hook, Nic::Tier2, &REMOTES).send(Nic::Tier1, &packet);
        assert_eq!(sent.outcome, DropReason::BadTunnel.outcome());
        // To another port, another address: as if there were no networks.
        for outer in [Outer { port: 8472, ..OUTER }, Outer { to: Ipv4Addr::new(192, 0, 2, 9), ..OUTER }] {
            let packet = outer.around(&frame);
            let plain = HostRouter::new(hook).send(Nic::Tier1, &packet);
            let sent = with_network(hook, Nic::Tier2, &REMOTES).send(Nic::Tier1, &packet);
            assert_eq!((sent.outcome, sent.frame), (plain.outcome, plain.frame), "{hook:?}");
        }
    }
}

#[test]
fn what_looks_like_one_and_is_not_is_asked_all_that_others_are() {
    let refused = |packet: &[u8], reason: u32| {
        let sent = with_network(Hook::Tc, Nic::Tier2, &REMOTES).send(Nic::Tier1, packet);
        assert_eq!(sent.outcome, reason, "{packet:02x?}");
    };
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    let datagram = Frame::new(macs, "10.1.1.50", "192.0.2.9", Payload::Udp { src: 5000, dst: 53 });
    // A source route, and the port of VXLAN where UDP would have it without.
    let options = vec![131, 4, UDP_PORT.to_be_bytes()[0], UDP_PORT.to_be_bytes()[1]];
    refused(&Frame { options, ..datagram.clone() }.bytes(), DropReason::SourceRoute.outcome());
    // A later fragment, which waits for the first.
    let mut data = vec![0; 32];
    data[..4].copy_from_slice(&[0, 0, UDP_PORT.to_be_bytes()[0], UDP_PORT.to_be_bytes()[1]]);
    let mut piece = Frame { data, fragment: 0x2001, ..datagram }.bytes();
    piece[36..38].copy_from_slice(&UDP_PORT.to_be_bytes());
    refused(&piece, DeferReason::Held.outcome());
}

#[test]
fn what_xdp_leaves_to_tc_is_as_it_came() {
    let mut router = with_network(Hook::Xdp, Nic::Tier2, &REMOTES);
    // To the router itself, and one that is not known how to be marked.
    for (outer, frame, reason) in [
        (OUTER, from_tier2(5000, "10.1.2.1"), DeferReason::Punted),
        (Outer { tos: 3, ..OUTER }, with_tos(from_tier2(5000, "192.0.2.9"), 2), DeferReason::Tunnelled),
    ] {
        let packet = outer.around(&frame);
        let sent = router.send(Nic::Tier1, &packet);
        assert_eq!((sent.outcome, sent.frame), (reason.outcome(), packet));
    }
}

#[test]
fn congestion_is_told_of_to_both_sides() {
    // RFC 6040 §4.2, figure 4: outer and inner field, and what becomes of it.
    let drop = 9;
    let table: [(u8, [u8; 4]); 4] =
        [(0, [0, 1, 2, 3]), (1, [0, 1, 1, 3]), (2, [0, 1, 2, 3]), (3, [drop, 3, 3, 3])];
    for (outer, row) in table {
        for (inner, expected) in (0..).zip(row) {
            let frame = with_tos(from_tier2(5000, "192.0.2.9"), 0xb8 | inner);
            let packet = Outer { tos: 0xb8 | outer, ..OUTER }.around(&frame);
            let Sent { outcome, frame } =
                with_network(Hook::Tc, Nic::Tier2, &REMOTES).send(Nic::Tier1, &packet);
            if expected == drop {
                assert_eq!(outcome, DropReason::Congested.outcome());
                continue;
            }
            assert_eq!((outcome, frame[15]), (FORWARDED, 0xb8 | expected), "{outer} {inner}");
            assert_eq!(checksum(&frame[14..34]), 0, "{outer} {inner}");
        }
    }
    // §4.1, normal mode: it is on the outside what it is on the inside.
    for field in 0..4 {
        let frame = with_tos(from_tier2(5000, "192.0.2.9"), 0xb8 | field);
        let sent = with_network(Hook::Xdp, Nic::Public, &REMOTES[..1]).send(Nic::Tier2, &frame);
        assert_eq!((sent.frame[15], sent.frame[65]), (field, 0xb8 | field));
        assert_eq!(checksum(&sent.frame[14..34]), 0);
    }
}

#[test]
fn no_packet_is_too_odd() {
    let frame = from_tier2(5000, "192.0.2.9");
    let packet = OUTER.around(&frame);
    for hook in HOOKS {
        let mut router = with_network(hook, Nic::Tier2, &REMOTES);
        for at in 12..packet.len() {
            for bits in [1, 0x80, 0xff] {
                let mut odd = packet.clone();
                odd[at] ^= bits;
                router.send(Nic::Tier1, &odd);
                odd.truncate(at);
                router.send(Nic::Tier1, &odd);
            }
        }
    }
}
