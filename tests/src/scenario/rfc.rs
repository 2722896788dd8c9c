//! Scenarios of what RFCs ask for and no other scenario shows; `docs/rfc-compliance.md` names them.

use router_common::account::Hook;
use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};

use super::{
    ACK, ETHERNET, FIN, Nic, PUBLIC, RST, Router, SYN, Scenario, dropped, forwarded, from, ip, punted, tcp,
    told_about, udp,
};
use crate::packet::{Frame, Payload, checksum, read};

const IPV4_HEADER: usize = 20;
const ICMP: usize = ETHERNET + IPV4_HEADER;

/// The frame with another type of service, or traffic class and flow label.
fn marked(frame: &Frame, class: u8) -> Vec<u8> {
    let mut bytes = frame.bytes();
    if frame.ends.0.is_ipv4() {
        bytes[ETHERNET + 1] = class;
        mend(&mut bytes, ETHERNET..ICMP, ETHERNET + 10);
    } else {
        let first = 6 << 28 | u32::from(class) << 20 | 0xabcde;
        bytes[ETHERNET..ETHERNET + 4].copy_from_slice(&first.to_be_bytes());
    }
    bytes
}

/// Writes the checksum over a range of a frame.
fn mend(bytes: &mut [u8], range: std::ops::Range<usize>, at: usize) {
    bytes[at..at + 2].fill(0);
    let sum = checksum(&bytes[range]);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The datagram of a guest that errors are about, as it was on the public wire.
fn translated() -> Frame {
    from(Nic::Public, PUBLIC, "192.0.2.9", udp(5000, 33_434))
}

/// Has a guest send that datagram.
fn sends_it(r: &mut dyn Router) {
    forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 33_434)), Nic::Public);
}

fn error(kind: u8, about: Vec<u8>) -> Frame {
    from(Nic::Public, "198.51.100.1", PUBLIC, Payload::Error { kind, about })
}

/// Every one.
pub const SCENARIOS: &[Scenario] = &[
    ("DSCP, ECN and the flow label stay as they are", |r| {
        for (src, dst) in [("10.1.1.50", "192.0.2.9"), ("fd00:1::50", "2001:db8:100::77")] {
            for class in [0x01, 0x02, 0x03, 0xb8, 0xff] {
                let frame = marked(&from(Nic::Tier1, src, dst, tcp(4000, 80, SYN)), class);
                let sent = r.send(Nic::Tier1, &frame);
                assert_eq!(sent.outcome, FORWARDED);
                assert!(read(&sent.frame).sums_hold);
                let first = if dst.contains(':') { ETHERNET..ETHERNET + 4 } else { ETHERNET..ETHERNET + 2 };
                assert_eq!(sent.frame[first.clone()], frame[first], "class {class:#x}");
            }
        }
        let back = marked(&from(Nic::Public, "192.0.2.9", PUBLIC, tcp(80, 4000, SYN | ACK)), 0xb9);
        assert_eq!(r.send(Nic::Public, &back).frame[ETHERNET + 1], 0xb9);
    }),
    ("what a datagram says about addresses is left alone", |r| {
        for port in [25, 1720, 5060] {
            for payload in [udp(5000, port), tcp(5000, port, ACK)] {
                let mut frame = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", payload);
                frame.data = b"PORT 10,1,1,50,19,136\r\nContact: <sip:10.1.1.50:5000>".to_vec();
                let sent = r.send(Nic::Tier1, &frame.bytes());
                assert_eq!(sent.outcome, FORWARDED);
                assert!(sent.frame.ends_with(&frame.data), "port {port}");
            }
        }
    }),
    ("TCP sockets and identifiers of pings are the same towards everybody", |r| {
        for payload in [tcp(5001, 80, SYN), Payload::Echo { kind: 8, id: 5001 }] {
            for guest in ["10.1.1.50", "10.1.1.51"] {
                let ports = ["192.0.2.9", "198.51.100.9", "203.0.113.77"].map(|dst| {
                    let frame = from(Nic::Tier1, guest, dst, payload.clone());
                    let out = forwarded(r, Nic::Tier1, &frame, Nic::Public);
                    assert_eq!(out.ends.0, ip(PUBLIC));
                    out.ports.0
                });
                assert_eq!(ports, [ports[0]; 3], "{guest} {payload:?}");
            }
        }
    }),
    ("errors of every kind pass and end nothing", |r| {
        for payload in [udp(5000, 53), tcp(5000, 53, SYN), Payload::Echo { kind: 8, id: 5000 }] {
            let out = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", payload.clone());
            forwarded(r, Nic::Tier1, &out, Nic::Public);
            let about = from(Nic::Public, PUBLIC, "192.0.2.9", payload.clone()).ip();
            for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)] {
                let mut frame = error(kind, about.clone()).bytes();
                frame[ICMP + 1] = code;
                let end = frame.len();
                mend(&mut frame, ICMP..end, ICMP + 2);
                let sent = r.send(Nic::Public, &frame);
                assert_eq!(sent.outcome, FORWARDED, "type {kind}, code {code}");
                assert_eq!(sent.frame[ICMP..ICMP + 2], [kind, code]);
                assert!(read(&sent.frame).sums_hold);
            }
            let back = match payload {
                Payload::Udp { src, dst } => udp(dst, src),
                Payload::Tcp { src, dst, .. } => tcp(dst, src, SYN | ACK),
                _ => Payload::Echo { kind: 0, id: 5000 },
            };
            forwarded(r, Nic::Public, &from(Nic::Public, "192.0.2.9", PUBLIC, back), Nic::Tier1);
            forwarded(r, Nic::Tier1, &out, Nic::Public);
        }
    }),
    ("options in the packet inside an error are stepped over", |r| {
        sends_it(r);
        for options in [vec![1, 1, 1, 0], vec![7, 7, 4, 0, 0, 0, 0, 0], vec![1; 40]] {
            let about = Frame { options, ..translated() }.ip();
            let back = forwarded(r, Nic::Public, &error(3, about), Nic::Tier1);
            assert_eq!(back.ends.1, ip("10.1.1.50"));
            assert_eq!(back.about, told_about("10.1.1.50", "192.0.2.9", (5000, 33_434)));
        }
    }),
    ("an error whose packet inside has a wrong header checksum reaches no guest", |r| {
        sends_it(r);
        let mut about = translated().ip();
        about[10] ^= 0x55;
        punted(r, Nic::Public, &error(3, about).bytes(), PuntReason::ToRouter);
        // With static NAT there is nobody else whom it could be for.
        forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.60", "192.0.2.9", udp(5000, 53)), Nic::Public);
        let mut about = from(Nic::Public, "203.0.113.20", "192.0.2.9", udp(5000, 53)).ip();
        about[10] ^= 0x55;
        let error = from(Nic::Public, "198.51.100.1", "203.0.113.20", Payload::Error { kind: 3, about });
        dropped(r, Nic::Public, &error.bytes(), DropReason::UnrelatedIcmpError);
    }),
    ("what is behind an error is not taken for the packet inside", |r| {
        let out = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", tcp(5000, 80, SYN));
        forwarded(r, Nic::Tier1, &out, Nic::Public);
        let whole = error(3, from(Nic::Public, PUBLIC, "192.0.2.9", tcp(5000, 80, SYN)).ip()).bytes();
        let ends_with = |inside: usize| {
            let (mut frame, end) = (whole.clone(), ICMP + 8 + IPV4_HEADER + inside);
            frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&((end - ETHERNET) as u16).to_be_bytes());
            mend(&mut frame, ETHERNET..ICMP, ETHERNET + 10);
            mend(&mut frame, ICMP..end, ICMP + 2);
            (frame, end)
        };
        // No TCP checksum inside, but what looks like one behind it.
        let (frame, end) = ends_with(8);
        let sent = r.send(Nic::Public, &frame);
        assert_eq!(sent.outcome, FORWARDED);
        assert_eq!(checksum(&sent.frame[ICMP..end]), 0);
        assert_eq!(sent.frame[end..], frame[end..], "padding was changed");
        // No whole ports inside.
        punted(r, Nic::Public, &ends_with(7).0, PuntReason::ToRouter);
    }),
    ("an error with a wrong checksum is not mended on its way", |r| {
        sends_it(r);
        let mut frame = error(3, translated().ip()).bytes();
        frame[ICMP + 2] ^= 0x55;
        let sent = r.send(Nic::Public, &frame);
        assert_eq!(sent.outcome, FORWARDED);
        assert!(!read(&sent.frame).sums_hold, "the guest would believe it");
    }),
    ("an error passes whatever the transport checksum inside it is", |r| {
        sends_it(r);
        let mut about = translated().ip();
        about[IPV4_HEADER + 6] ^= 0x55;
        let back = forwarded(r, Nic::Public, &error(3, about), Nic::Tier1);
        let inside = back.about.expect("a packet inside");
        assert_eq!((inside.ends.0, inside.ports), (ip("10.1.1.50"), (5000, 33_434)));
        assert!(!inside.sums_hold);
        // No more than a header and eight bytes (RFC 792).
        let mut about = translated().ip();
        about.truncate(IPV4_HEADER + 8);
        forwarded(r, Nic::Public, &error(11, about), Nic::Tier1);
    }),
    ("an error's extension stays as it is, and in its checksum", |r| {
        sends_it(r);
        // RFC 4884: the packet inside is filled up to 128 bytes and its length told in words; RFC
        // 4950: an MPLS label behind it.
        let mut about = translated().ip();
        about.resize(128, 0);
        let extension = [0x20, 0, 0xd4, 0x5d, 0, 8, 1, 1, 0x49, 0x3d, 0x21, 1];
        about.extend(extension);
        let mut frame = error(11, about).bytes();
        frame[ICMP + 5] = 32;
        let end = frame.len();
        mend(&mut frame, ICMP..end, ICMP + 2);
        let sent = r.send(Nic::Public, &frame);
        assert_eq!(sent.outcome, FORWARDED);
        let back = read(&sent.frame);
        assert!(back.sums_hold && sent.frame.ends_with(&extension) && sent.frame[ICMP + 5] == 32);
        assert_eq!(back.about.map(|inside| inside.ends.0), Some(ip("10.1.1.50")));
    }),
    ("an error of a hop behind a guest's tier shows no inside address", |r| {
        forwarded(r, Nic::Tier1, &from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53)), Nic::Public);
        let about = from(Nic::Tier1, "192.0.2.9", "10.1.1.50", udp(53, 5000)).ip();
        let error = from(Nic::Tier1, "10.1.1.77", "192.0.2.9", Payload::Error { kind: 11, about });
        let out = forwarded(r, Nic::Tier1, &error, Nic::Public);
        assert_eq!(out.ends, (ip(PUBLIC), ip("192.0.2.9")));
        assert_eq!(out.about, told_about("192.0.2.9", PUBLIC, (53, 5000)));
    }),
    ("a directed broadcast is not forwarded", |r| {
        for (nic, src, dst) in [
            (Nic::Tier2, "10.1.2.50", "10.1.1.255"),
            (Nic::Tier1, "10.1.1.50", "10.1.1.255"),
            (Nic::Tier1, "10.1.1.50", "203.0.113.255"),
        ] {
            for payload in [udp(5000, 53), Payload::Echo { kind: 8, id: 1 }] {
                punted(r, nic, &from(nic, src, dst, payload).bytes(), PuntReason::NoRoute);
            }
        }
        let outside = from(Nic::Public, "192.0.2.9", "10.1.1.255", udp(5000, 53));
        dropped(r, Nic::Public, &outside.bytes(), DropReason::NotPermitted);
    }),
    ("multicast and link-local addresses are not forwarded, in whatever frame", |r| {
        for (nic, src, dst) in [
            (Nic::Tier1, "10.1.1.50", "239.1.1.1"),
            (Nic::Tier1, "10.1.1.50", "169.254.9.9"),
            (Nic::Public, "192.0.2.9", "224.0.1.1"),
            (Nic::Tier1, "fd00:1::50", "ff05::2"),
            (Nic::Tier1, "fd00:1::50", "ff0e::2"),
            (Nic::Public, "2001:db8:100::77", "ff0e::2"),
            (Nic::Tier1, "fd00:1::50", "fe80::2"),
        ] {
            punted(r, nic, &from(nic, src, dst, udp(5000, 53)).bytes(), PuntReason::LinkScope);
        }
        for (src, dst) in [("fe80::50", "2001:db8:100::77"), ("169.254.9.9", "192.0.2.9")] {
            dropped(r, Nic::Tier1, &from(Nic::Tier1, src, dst, udp(5000, 53)).bytes(), DropReason::Martian);
        }
    }),
    ("a packet to one host in a frame to many is not forwarded", |r| {
        for mac in [[0xff; 6], [0x01, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            for (src, dst) in [("10.1.1.50", "192.0.2.9"), ("fd00:1::50", "fd00:2::50")] {
                let mut frame = from(Nic::Tier1, src, dst, udp(5000, 53));
                frame.macs.0 = mac;
                punted(r, Nic::Tier1, &frame.bytes(), PuntReason::LinkScope);
            }
        }
    }),
    ("a TTL or hop limit of nought or one is not forwarded", |r| {
        for (src, dst) in [("10.1.1.50", "192.0.2.9"), ("fd00:1::50", "fd00:2::50")] {
            let mut frame = from(Nic::Tier1, src, dst, udp(5000, 53));
            for ttl in [0, 1] {
                frame.ttl = ttl;
                punted(r, Nic::Tier1, &frame.bytes(), PuntReason::TtlExceeded);
            }
            frame.ttl = 2;
            assert_eq!(read(&r.send(Nic::Tier1, &frame.bytes()).frame).ttl, 1);
        }
    }),
    // Open, see docs/rfc-compliance.md: Linux refuses source routes wherever they lead.
    ("a source-routed packet is refused, whomever it is for", |r| {
        let mut refused = |nic, mut frame: Frame, options: &[u8], reason: DropReason| {
            frame.options = options.to_vec();
            let sent = r.send(nic, &frame.bytes());
            let xdp = DeferReason::Options.outcome();
            assert_eq!(sent.outcome, if r.hook() == Hook::Xdp { xdp } else { reason.outcome() });
            assert_eq!(sent.frame, frame.bytes());
        };
        let outward = || from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53));
        for kind in [131, 137] {
            refused(Nic::Tier1, outward(), &[kind, 7, 4, 198, 51, 100, 9, 0], DropReason::SourceRoute);
            refused(Nic::Tier1, outward(), &[1, 1, kind, 3, 4, 0, 0, 0], DropReason::SourceRoute);
            // By the router to a guest.
            let inward = from(Nic::Public, "192.0.2.9", PUBLIC, udp(5000, 54));
            refused(Nic::Public, inward, &[kind, 7, 4, 10, 1, 1, 50, 0], DropReason::SourceRoute);
        }
        refused(Nic::Tier1, outward(), &[7, 1, 0, 0], DropReason::BadIpHeader);
    }),
    ("a source that is not where it comes from is refused, inside and outside, IPv4 and IPv6", |r| {
        for (nic, src, dst) in [
            // Another tier's, the router's, an outsider's, nobody's.
            (Nic::Tier1, "10.1.2.50", "192.0.2.9"),
            (Nic::Tier1, "10.1.2.50", "10.1.2.60"),
            (Nic::Tier1, PUBLIC, "192.0.2.9"),
            (Nic::Tier1, "10.1.1.1", "192.0.2.9"),
            (Nic::Tier1, "198.51.100.9", "192.0.2.9"),
            (Nic::Tier1, "198.18.0.1", "192.0.2.9"),
            (Nic::Tier1, "fd00:2::50", "2001:db8:100::77"),
            (Nic::Tier1, "2001:db8:dead::1", "fd00:2::50"),
            // A guest's, from outside to what is forwarded.
            (Nic::Public, "10.1.1.51", "203.0.113.20"),
            (Nic::Public, "203.0.113.10", "203.0.113.20"),
        ] {
            let ttl_too = |ttl| {
                let mut frame = from(nic, src, dst, udp(5000, 53));
                frame.ttl = ttl;
                frame.bytes()
            };
            dropped(r, nic, &ttl_too(64), DropReason::SpoofedSource);
            // Nor does an error tell whoever it pretends to be.
            dropped(r, nic, &ttl_too(1), DropReason::SpoofedSource);
        }
        let forwarded_port = from(Nic::Public, "10.1.1.51", "203.0.113.21", tcp(5000, 8080, SYN));
        dropped(r, Nic::Public, &forwarded_port.bytes(), DropReason::SpoofedSource);
        // Providers' ways in need not be the ways out.
        let other_way = from(Nic::Public2, "203.0.113.77", "203.0.114.20", udp(5000, 53));
        forwarded(r, Nic::Public2, &other_way, Nic::Tier2);
    }),
    ("a connection between ports of different MTU agrees on segments that pass", |r| {
        let syn = |src, dst, nic, options: &[u8]| {
            let mut frame = from(nic, src, dst, tcp(4000, 80, SYN));
            (frame.tcp_options, frame.data) = (options.to_vec(), vec![]);
            frame.bytes()
        };
        let mut agreed = |nic, bytes: Vec<u8>, options: usize| {
            let sent = r.send(nic, &bytes);
            assert_eq!(sent.outcome, FORWARDED);
            assert!(read(&sent.frame).sums_hold, "{:x?}", sent.frame);
            sent.frame[sent.frame.len() - options..].to_vec()
        };
        let mss = |mss: u16| [&[2, 4][..], &mss.to_be_bytes(), &[1, 3, 3, 7]].concat();
        for (src, dst, nic, headers) in [
            ("10.1.1.50", "10.1.2.50", Nic::Tier1, 40),
            ("10.1.2.50", "10.1.1.50", Nic::Tier2, 40),
            ("fd00:1::50", "fd00:2::50", Nic::Tier1, 60),
        ] {
            let large = syn(src, dst, nic, &mss(1460));
            assert_eq!(agreed(nic, large, 8), mss(1400 - headers), "{src}");
            let small = syn(src, dst, nic, &mss(536));
            assert_eq!(agreed(nic, small, 8), mss(536), "what is small enough stays");
            // At an odd place, and among what makes no sense.
            let odd = [&[1][..], &mss(1460)[..4], &[1, 1, 1]].concat();
            let limited = [&[1][..], &mss(1400 - headers)[..4], &[1, 1, 1]].concat();
            assert_eq!(agreed(nic, syn(src, dst, nic, &odd), 8), limited);
            for senseless in [[2, 3, 5, 0xb4], [3, 0, 2, 4], [3, 9, 2, 4], [0, 2, 4, 5]] {
                assert_eq!(agreed(nic, syn(src, dst, nic, &senseless), 4), senseless);
            }
        }
        // Nor does more pass between ports that are alike.
        let jumbo = syn("10.1.1.50", "192.0.2.9", Nic::Tier1, &mss(8960));
        assert_eq!(agreed(Nic::Tier1, jumbo, 8), mss(1460));
        // What is behind the packet is padding, however long its header says that it is.
        let mut cut = syn("10.1.1.50", "10.1.2.50", Nic::Tier1, &mss(1460));
        cut[ETHERNET + 3] -= 8;
        mend(&mut cut, ETHERNET..ICMP, ETHERNET + 10);
        let sent = r.send(Nic::Tier1, &cut);
        assert_eq!((sent.outcome, &sent.frame[ICMP..]), (FORWARDED, &cut[ICMP..]));
    }),
    ("ICMPv6 errors pass for live flows alone, and echo", |r| {
        let there = from(Nic::Tier1, "fd00:1::50", "2001:db8:100::77", udp(5000, 53));
        forwarded(r, Nic::Tier1, &there, Nic::Public);
        for kind in 1..=4 {
            let about = |about: &Frame| {
                let error = Payload::Error { kind, about: about.ip() };
                from(Nic::Public, "2001:db8:100::99", "fd00:1::50", error)
            };
            forwarded(r, Nic::Public, &about(&there), Nic::Tier1);
            let other = from(Nic::Tier1, "fd00:1::50", "2001:db8:100::77", udp(5001, 53));
            dropped(r, Nic::Public, &about(&other).bytes(), DropReason::UnrelatedIcmpError);
        }
        let ping = from(Nic::Tier1, "fd00:1::50", "2001:db8:100::77", Payload::Echo { kind: 128, id: 9 });
        forwarded(r, Nic::Tier1, &ping, Nic::Public);
        let pong = from(Nic::Public, "2001:db8:100::77", "fd00:1::50", Payload::Echo { kind: 129, id: 9 });
        forwarded(r, Nic::Public, &pong, Nic::Tier1);
    }),
    ("messages between neighbours do not pass", |r| {
        for kind in 133..=137 {
            for ttl in [64, 255] {
                let mut frame = from(Nic::Tier1, "fd00:1::50", "fd00:2::50", Payload::Echo { kind, id: 0 });
                frame.ttl = ttl;
                dropped(r, Nic::Tier1, &frame.bytes(), DropReason::IcmpUnsupported);
            }
        }
    }),
    ("ESP, AH and IKE pass over IPv6 from inside, and back", |r| {
        let (guest, peer) = ("fd00:1::50", "2001:db8:100::77");
        for payload in [Payload::Other { protocol: 50 }, Payload::Other { protocol: 51 }, udp(500, 500)] {
            let out = from(Nic::Tier1, guest, peer, payload.clone());
            assert_eq!(forwarded(r, Nic::Tier1, &out, Nic::Public).ends, out.ends);
            let back = from(Nic::Public, peer, guest, payload);
            assert_eq!(forwarded(r, Nic::Public, &back, Nic::Tier1).ends, back.ends);
        }
    }),
    ("an IPv6 connection opens from both sides at once, closes half, and is reset", |r| {
        let (guest, peer) = ("fd00:1::50", "2001:db8:100::77");
        for (outward, flags) in [
            (true, SYN),
            (false, SYN),
            (true, SYN | ACK),
            (false, SYN | ACK),
            (true, FIN | ACK),
            (false, ACK),
            (false, RST),
        ] {
            if outward {
                let frame = from(Nic::Tier1, guest, peer, tcp(4000, 80, flags));
                forwarded(r, Nic::Tier1, &frame, Nic::Public);
            } else {
                let frame = from(Nic::Public, peer, guest, tcp(80, 4000, flags));
                forwarded(r, Nic::Public, &frame, Nic::Tier1);
            }
        }
    }),
    ("an IPv6 packet too big for the way out is answered, not fragmented", |r| {
        let mut frame = from(Nic::Tier1, "fd00:1::50", "fd00:2::50", udp(5000, 53));
        frame.data = vec![7; 1352];
        forwarded(r, Nic::Tier1, &frame, Nic::Tier2);
        frame.data.push(7);
        if r.hook() == Hook::Xdp {
            assert_eq!(r.send(Nic::Tier1, &frame.bytes()).outcome, DeferReason::Oversize.outcome());
        } else {
            punted(r, Nic::Tier1, &frame.bytes(), PuntReason::TooBig);
        }
    }),
];
