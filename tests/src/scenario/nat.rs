//! Scenarios of NAT: static, forwarded, bound, hairpinned.

use router_common::account::Hook;
use router_common::verdict::{DeferReason, DropReason, PuntReason};

use super::{
    ACK, ETHERNET, FIN, Nic, PUBLIC, RST, Router, SYN, Scenario, dropped, forwarded, from, ip, punted, tcp,
    told_about, udp,
};
use crate::packet::{Payload, read};

const STATIC: &str = "203.0.113.20";
const STATIC2: &str = "203.0.114.20";
const FORWARDS: &str = "203.0.113.21";

/// A handshake and one segment each way, opened from outside.
fn connects(
    r: &mut dyn Router,
    (outside, client): (Nic, &str),
    (public, port): (&str, u16),
    guest: (Nic, &str, u16),
) {
    let (inside, address, internal) = guest;
    let syn = from(outside, client, public, tcp(6000, port, SYN));
    let out = forwarded(r, outside, &syn, inside);
    assert_eq!((out.ends, out.ports), ((ip(client), ip(address)), (6000, internal)));
    let answer = from(inside, address, client, tcp(internal, 6000, SYN | ACK));
    let back = forwarded(r, inside, &answer, outside);
    assert_eq!((back.ends, back.ports), ((ip(public), ip(client)), (port, 6000)));
    let ack = from(outside, client, public, tcp(6000, port, ACK));
    assert_eq!(forwarded(r, outside, &ack, inside).ends.1, ip(address));
}

/// Every one.
pub const SCENARIOS: &[Scenario] = &[
    ("a forwarded port reaches the guest, and its answers come from the public address", |r| {
        connects(r, (Nic::Public, "192.0.2.9"), (FORWARDS, 8080), (Nic::Tier1, "10.1.1.50", 80));
    }),
    ("a forwarded range maps port by port", |r| {
        for port in [30_000, 30_007, 30_010] {
            let out = forwarded(
                r,
                Nic::Public,
                &from(Nic::Public, "192.0.2.9", FORWARDS, udp(53, port)),
                Nic::Tier2,
            );
            assert_eq!((out.ends.1, out.ports.1), (ip("10.1.2.50"), port + 10_000));
        }
        for port in [29_999, 30_011] {
            let frame = from(Nic::Public, "192.0.2.9", FORWARDS, udp(53, port));
            punted(r, Nic::Public, &frame.bytes(), PuntReason::ToRouter);
        }
    }),
    ("a forwarding for some networks does not exist for others", |r| {
        connects(r, (Nic::Public, "192.0.2.200"), (FORWARDS, 2222), (Nic::Tier1, "10.1.1.51", 22));
        let other = from(Nic::Public, "198.51.100.9", FORWARDS, tcp(6000, 2222, SYN));
        dropped(r, Nic::Public, &other.bytes(), DropReason::NotPermitted);
    }),
    ("static NAT translates every protocol both ways", |r| {
        connects(r, (Nic::Public, "192.0.2.9"), (STATIC, 22), (Nic::Tier1, "10.1.1.60", 22));
        let ping = from(Nic::Public, "192.0.2.9", STATIC, Payload::Echo { kind: 8, id: 9 });
        assert_eq!(forwarded(r, Nic::Public, &ping, Nic::Tier1).ends.1, ip("10.1.1.60"));
        let pong = from(Nic::Tier1, "10.1.1.60", "192.0.2.9", Payload::Echo { kind: 0, id: 9 });
        assert_eq!(forwarded(r, Nic::Tier1, &pong, Nic::Public).ends.0, ip(STATIC));
        for protocol in [47, 50, 132, 200] {
            let frame = from(Nic::Public, "192.0.2.9", STATIC, Payload::Other { protocol });
            assert_eq!(forwarded(r, Nic::Public, &frame, Nic::Tier1).ends.1, ip("10.1.1.60"));
            let back = from(Nic::Tier1, "10.1.1.60", "192.0.2.9", Payload::Other { protocol });
            assert_eq!(forwarded(r, Nic::Tier1, &back, Nic::Public).ends.0, ip(STATIC));
        }
        let out = forwarded(
            r,
            Nic::Tier1,
            &from(Nic::Tier1, "10.1.1.60", "192.0.2.9", udp(64_500, 53)),
            Nic::Public,
        );
        assert_eq!((out.ends.0, out.ports.0), (ip(STATIC), 64_500));
    }),
    ("a guest whose public address is on another NIC leaves by that NIC", |r| {
        let frame = from(Nic::Tier2, "10.1.2.60", "192.0.2.9", udp(5000, 53));
        assert_eq!(forwarded(r, Nic::Tier2, &frame, Nic::Public2).ends.0, ip(STATIC2));
        let tier = from(Nic::Tier2, "10.1.2.60", "10.1.1.50", udp(5000, 53));
        assert_eq!(forwarded(r, Nic::Tier2, &tier, Nic::Tier1).ends.0, ip("10.1.2.60"));
    }),
    ("answers leave by the NIC that the question came in by", |r| {
        connects(r, (Nic::Public2, "192.0.2.9"), (FORWARDS, 8080), (Nic::Tier1, "10.1.1.50", 80));
        connects(r, (Nic::Public2, "192.0.2.9"), (STATIC2, 22), (Nic::Tier2, "10.1.2.60", 22));
    }),
    ("one socket of a guest has one external port towards everybody", |r| {
        for (guest, expected) in [("10.1.1.50", Some(5000)), ("10.1.1.51", None)] {
            let mut ports = ["192.0.2.9", "198.51.100.9", "203.0.113.77"].map(|dst| {
                let frame = from(Nic::Tier1, guest, dst, udp(5000, 53));
                forwarded(r, Nic::Tier1, &frame, Nic::Public).ports.0
            });
            assert!(expected.is_none_or(|port| ports[0] == port), "{ports:?}");
            ports.sort_unstable();
            assert_eq!(ports[0], ports[2], "{guest} is seen with several ports");
        }
    }),
    ("ports of TCP, UDP and identifiers of pings are independent", |r| {
        for payload in [udp(5000, 53), tcp(5000, 53, SYN), Payload::Echo { kind: 8, id: 5000 }] {
            for guest in ["10.1.1.50", "10.1.1.51"] {
                let frame = from(Nic::Tier1, guest, "192.0.2.9", payload.clone());
                let port = forwarded(r, Nic::Tier1, &frame, Nic::Public).ports.0;
                assert_eq!(port == 5000, guest == "10.1.1.50", "{guest} {payload:?}");
            }
        }
    }),
    ("a binding lets in nobody whom its guest has not asked", |r| {
        forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53)), Nic::Public);
        for (src, port) in [("192.0.2.9", 54), ("192.0.2.10", 53)] {
            let stranger = from(Nic::Public, src, PUBLIC, udp(port, 5000));
            punted(r, Nic::Public, &stranger.bytes(), PuntReason::ToRouter);
        }
    }),
    ("guests of a tier reach each other by public addresses, and see the gateway", |r| {
        let syn = from(Nic::Tier1, "10.1.1.51", FORWARDS, tcp(6000, 8080, SYN));
        let out = forwarded(r, Nic::Tier1, &syn, Nic::Tier1);
        assert_eq!((out.ends, out.ports), ((ip("10.1.1.1"), ip("10.1.1.50")), (6000, 80)));
        let back = from(Nic::Tier1, "10.1.1.50", "10.1.1.1", tcp(80, 6000, SYN | ACK));
        let back = forwarded(r, Nic::Tier1, &back, Nic::Tier1);
        assert_eq!((back.ends, back.ports), ((ip(FORWARDS), ip("10.1.1.51")), (8080, 6000)));
        // Two with one port are told apart, and a host can call itself.
        let other = forwarded(
            r,
            Nic::Tier1,
            &from(Nic::Tier1, "10.1.1.60", FORWARDS, tcp(6000, 8080, SYN)),
            Nic::Tier1,
        );
        assert_ne!(other.ports.0, 6000);
        let itself =
            forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.60", STATIC, udp(7000, 53)), Nic::Tier1);
        assert_eq!(itself.ends, (ip("10.1.1.1"), ip("10.1.1.60")));
    }),
    ("guests of another tier reach a guest by its public address, and are seen as they are", |r| {
        let syn = from(Nic::Tier2, "10.1.2.50", FORWARDS, tcp(6000, 8080, SYN));
        let out = forwarded(r, Nic::Tier2, &syn, Nic::Tier1);
        assert_eq!((out.ends, out.ports), ((ip("10.1.2.50"), ip("10.1.1.50")), (6000, 80)));
        let back = from(Nic::Tier1, "10.1.1.50", "10.1.2.50", tcp(80, 6000, SYN | ACK));
        assert_eq!(forwarded(r, Nic::Tier1, &back, Nic::Tier2).ends.0, ip(FORWARDS));
    }),
    ("a guest's binding is reached by other guests without a rule", |r| {
        forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53)), Nic::Public);
        let frame = from(Nic::Tier2, "10.1.2.50", PUBLIC, udp(6000, 5000));
        let out = forwarded(r, Nic::Tier2, &frame, Nic::Tier1);
        assert_eq!((out.ends, out.ports), ((ip("10.1.2.50"), ip("10.1.1.50")), (6000, 5000)));
    }),
    ("who sends to a guest's own address from outside reaches nobody, forwarded or not", |r| {
        for (guest, port) in [("10.1.1.50", 80), ("10.1.1.60", 22)] {
            let frame = from(Nic::Public, "192.0.2.9", guest, tcp(6000, port, SYN));
            dropped(r, Nic::Public, &frame.bytes(), DropReason::NotPermitted);
        }
    }),
    ("protocols without ports leave by address alone, and two guests do not share a peer", |r| {
        let frame = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", Payload::Other { protocol: 47 });
        assert_eq!(forwarded(r, Nic::Tier1, &frame, Nic::Public).ends.0, ip(PUBLIC));
        let back = from(Nic::Public, "192.0.2.9", PUBLIC, Payload::Other { protocol: 47 });
        assert_eq!(forwarded(r, Nic::Public, &back, Nic::Tier1).ends.1, ip("10.1.1.50"));
        let other = from(Nic::Tier1, "10.1.1.51", "192.0.2.9", Payload::Other { protocol: 47 });
        dropped(r, Nic::Tier1, &other.bytes(), DropReason::NoFreePort);
    }),
    ("a packet too big for a guest behind static NAT is answered with what fits", |r| {
        let mut frame = from(Nic::Public2, "192.0.2.9", STATIC2, udp(5000, 53));
        frame.data = vec![7; 1372];
        forwarded(r, Nic::Public2, &frame, Nic::Tier2);
        frame.data.push(7);
        if r.hook() == Hook::Xdp {
            assert_eq!(r.send(Nic::Public2, &frame.bytes()).outcome, DeferReason::Oversize.outcome());
            return;
        }
        dropped(r, Nic::Public2, &frame.bytes(), DropReason::TooBig);
        if r.answers(DropReason::TooBig, &frame.bytes()) {
            let answer = r.send(Nic::Public2, &frame.bytes()).frame;
            let ends = read(&answer).ends;
            assert_eq!(ends, (ip("203.0.114.10"), ip("192.0.2.9")));
            assert_eq!(answer[ETHERNET + 20..ETHERNET + 22], [3, 4]);
            assert_eq!(answer[ETHERNET + 26..ETHERNET + 28], 1400u16.to_be_bytes());
        }
    }),
    ("a packet whose time runs out on the way to a guest behind static NAT is answered", |r| {
        let mut frame = from(Nic::Public, "192.0.2.9", STATIC, udp(5000, 53));
        frame.ttl = 1;
        dropped(r, Nic::Public, &frame.bytes(), DropReason::TtlExceeded);
        frame.ttl = 2;
        forwarded(r, Nic::Public, &frame, Nic::Tier1);
        frame.ttl = 1;
        dropped(r, Nic::Public, &frame.bytes(), DropReason::TtlExceeded);
    }),
    ("errors about forwarded and static NAT find their way, inside and out", |r| {
        connects(r, (Nic::Public, "192.0.2.9"), (FORWARDS, 8080), (Nic::Tier1, "10.1.1.50", 80));
        let about = from(Nic::Tier1, "192.0.2.9", "10.1.1.50", tcp(6000, 80, ACK)).ip();
        let error = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", Payload::Error { kind: 3, about });
        let out = forwarded(r, Nic::Tier1, &error, Nic::Public);
        assert_eq!(out.ends, (ip(FORWARDS), ip("192.0.2.9")));
        assert_eq!(out.about, told_about("192.0.2.9", FORWARDS, (6000, 8080)));
        let about = from(Nic::Public, FORWARDS, "192.0.2.9", tcp(8080, 6000, ACK)).ip();
        let error = from(Nic::Public, "198.51.100.1", FORWARDS, Payload::Error { kind: 3, about });
        let back = forwarded(r, Nic::Public, &error, Nic::Tier1);
        assert_eq!(back.about, told_about("10.1.1.50", "192.0.2.9", (80, 6000)));
    }),
    ("errors about hairpinned packets go back through the router", |r| {
        forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.51", FORWARDS, tcp(6000, 8080, SYN)), Nic::Tier1);
        let about = from(Nic::Tier1, "10.1.1.1", "10.1.1.50", tcp(6000, 80, SYN)).ip();
        let error = from(Nic::Tier1, "10.1.1.50", "10.1.1.1", Payload::Error { kind: 3, about });
        let back = forwarded(r, Nic::Tier1, &error, Nic::Tier1);
        assert_eq!(back.ends, (ip(FORWARDS), ip("10.1.1.51")));
        assert_eq!(back.about, told_about("10.1.1.51", FORWARDS, (6000, 8080)));
    }),
    ("simultaneous open, half-close and reset pass, and a closed connection's port is used anew", |r| {
        let out = |r: &mut dyn Router, flags| {
            forwarded(
                r,
                Nic::Tier1,
                &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", tcp(4000, 80, flags)),
                Nic::Public,
            )
        };
        let back = |r: &mut dyn Router, flags| {
            forwarded(
                r,
                Nic::Public,
                &from(Nic::Public, "192.0.2.9", PUBLIC, tcp(80, 4000, flags)),
                Nic::Tier1,
            )
        };
        out(r, SYN);
        back(r, SYN);
        out(r, SYN | ACK);
        back(r, SYN | ACK);
        out(r, FIN | ACK);
        back(r, ACK);
        back(r, FIN | ACK);
        out(r, ACK);
        out(r, SYN);
        back(r, RST | ACK);
        out(r, SYN);
        back(r, SYN | ACK);
    }),
    ("errors about protocols without ports find their way", |r| {
        let there = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", Payload::Other { protocol: 50 });
        forwarded(r, Nic::Tier1, &there, Nic::Public);
        let about = from(Nic::Public, PUBLIC, "192.0.2.9", Payload::Other { protocol: 50 }).ip();
        let error = from(Nic::Public, "198.51.100.1", PUBLIC, Payload::Error { kind: 3, about });
        let back = forwarded(r, Nic::Public, &error, Nic::Tier1);
        assert_eq!(back.ends.1, ip("10.1.1.50"));
        assert_eq!(back.about.map(|about| about.ends), Some((ip("10.1.1.50"), ip("192.0.2.9"))));
    }),
    ("a flow of pings with identifier 0 lets in answers alone", |r| {
        let icmp = |src, dst, kind| from(Nic::Public, src, dst, Payload::Echo { kind, id: 0 });
        let ping = from(Nic::Tier1, "10.1.1.60", "192.0.2.9", Payload::Echo { kind: 8, id: 0 });
        forwarded(r, Nic::Tier1, &ping, Nic::Public);
        for (kind, reason) in [(5, DropReason::IcmpUnsupported), (8, DropReason::InvalidState)] {
            dropped(r, Nic::Public, &icmp("192.0.2.9", STATIC, kind).bytes(), reason);
        }
        forwarded(r, Nic::Public, &icmp("192.0.2.9", STATIC, 0), Nic::Tier1);
    }),
    ("a flow is not disturbed by another of the same two ends without NAT", |r| {
        let syn = |dst, port| from(Nic::Tier2, "10.1.2.50", dst, tcp(6000, port, SYN));
        forwarded(r, Nic::Tier2, &syn(FORWARDS, 8080), Nic::Tier1);
        dropped(r, Nic::Tier2, &syn("10.1.1.50", 80).bytes(), DropReason::NoFreePort);
        let back = from(Nic::Tier1, "10.1.1.50", "10.1.2.50", tcp(80, 6000, SYN | ACK));
        assert_eq!(forwarded(r, Nic::Tier1, &back, Nic::Tier2).ends.0, ip(FORWARDS));
    }),
    ("an error from nowhere about a flow is not passed on", |r| {
        forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.60", "192.0.2.9", udp(5000, 53)), Nic::Public);
        let about = from(Nic::Public, STATIC, "192.0.2.9", udp(5000, 53)).ip();
        let error = from(Nic::Public, "127.0.0.1", STATIC, Payload::Error { kind: 3, about });
        dropped(r, Nic::Public, &error.bytes(), DropReason::UnrelatedIcmpError);
    }),
];
