//! Scenarios of fragments.

use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};

use super::{ETHERNET, Nic, PUBLIC, Router, Scenario, dropped, forwarded, from, ip, punted, udp};
use crate::packet::{Frame, Payload, Read, fragments, read, reassemble};

/// A datagram of 3,000 bytes of data, which makes three fragments.
fn datagram(nic: Nic, src: &str, dst: &str, payload: Payload) -> Frame {
    Frame { data: (0..3000).map(|byte| byte as u8).collect(), ..from(nic, src, dst, payload) }
}

/// Sends all pieces, which are forwarded, and reads what they make.
fn passes(r: &mut dyn Router, nic: Nic, pieces: &[Vec<u8>]) -> Read {
    let out: Vec<_> = pieces
        .iter()
        .map(|piece| {
            let sent = r.send(nic, piece);
            assert_eq!(sent.outcome, FORWARDED, "a fragment was not forwarded");
            sent.frame
        })
        .collect();
    read(&reassemble(&out))
}

/// XDP keeps no frames.
pub const IN_XDP: &[Scenario] = &[("fragments are left to TC", |r| {
    for (src, dst) in [("10.1.1.50", "192.0.2.9"), ("fd00:1::50", "fd00:2::50")] {
        for piece in fragments(&datagram(Nic::Tier1, src, dst, udp(5000, 53)), 1, 1480) {
            let sent = r.send(Nic::Tier1, &piece);
            assert_eq!((sent.outcome, sent.frame), (DeferReason::Fragment.outcome(), piece));
        }
    }
})];

/// All the others.
pub const IN_TC: &[Scenario] = &[
    ("a datagram in fragments is translated, and so is its answer", |r| {
        let there = datagram(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53));
        let out = passes(r, Nic::Tier1, &fragments(&there, 1, 1480));
        assert_eq!((out.ends, out.ports), ((ip(PUBLIC), ip("192.0.2.9")), (5000, 53)));
        assert!(out.sums_hold);
        let answer = datagram(Nic::Public, "192.0.2.9", PUBLIC, udp(53, 5000));
        let back = passes(r, Nic::Public, &fragments(&answer, 101, 1000));
        assert_eq!((back.ends, back.ports), ((ip("192.0.2.9"), ip("10.1.1.50")), (53, 5000)));
        assert!(back.sums_hold);
    }),
    ("a large ping passes, IPv4 and IPv6", |r| {
        let ping = datagram(Nic::Tier1, "10.1.1.50", "192.0.2.9", Payload::Echo { kind: 8, id: 7 });
        assert!(passes(r, Nic::Tier1, &fragments(&ping, 2, 1480)).sums_hold);
        let ping = datagram(Nic::Tier1, "fd00:1::50", "fd00:2::50", Payload::Echo { kind: 128, id: 7 });
        assert_eq!(passes(r, Nic::Tier1, &fragments(&ping, 2, 1200)).ends, ping.ends);
    }),
    ("fragments before the first one wait for it", |r| {
        for (src, dst) in [("10.1.1.50", "192.0.2.9"), ("fd00:1::50", "fd00:2::50")] {
            let frame = datagram(Nic::Tier1, src, dst, udp(5000, 53));
            let pieces = fragments(&frame, 3, 1200);
            let waits = DeferReason::Held.outcome();
            for piece in pieces[1..].iter().rev() {
                assert_eq!(r.send(Nic::Tier1, piece).outcome, waits);
            }
            // The first is there: all come in again.
            assert_eq!(r.send(Nic::Tier1, &pieces[0]).outcome, waits);
            assert!(passes(r, Nic::Tier1, &pieces).sums_hold);
        }
    }),
    ("what covers what has come before is refused", |r| {
        for (src, dst) in [("10.1.1.50", "192.0.2.9"), ("fd00:1::50", "fd00:2::50")] {
            let frame = datagram(Nic::Tier1, src, dst, udp(5000, 53));
            let pieces = fragments(&frame, 4, 1200);
            let (last, others) = pieces.split_last().expect("pieces");
            for piece in others {
                assert_eq!(r.send(Nic::Tier1, piece).outcome, FORWARDED);
            }
            for piece in others {
                dropped(r, Nic::Tier1, piece, DropReason::OverlappingFragment);
            }
            assert_eq!(r.send(Nic::Tier1, last).outcome, FORWARDED);
            // The datagram is complete: its identification may come again.
            passes(r, Nic::Tier1, &pieces);
            // One that only begins amid another.
            r.send(Nic::Tier1, &fragments(&frame, 204, 1200)[0]);
            dropped(r, Nic::Tier1, &fragments(&frame, 204, 1192)[1], DropReason::OverlappingFragment);
        }
    }),
    ("a first fragment without the whole transport header is refused", |r| {
        let frame = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", Payload::Tcp { src: 5000, dst: 80, flags: 2 });
        dropped(r, Nic::Tier1, &fragments(&frame, 5, 16)[0], DropReason::Truncated);
    }),
    ("fragments for the router itself are the kernel's", |r| {
        let frame = datagram(Nic::Tier1, "10.1.1.50", "10.1.1.1", Payload::Echo { kind: 8, id: 7 });
        for piece in fragments(&frame, 6, 1480) {
            punted(r, Nic::Tier1, &piece, PuntReason::ToRouter);
        }
    }),
    ("datagrams of two guests with one identification leave with different ones", |r| {
        let ids = ["10.1.1.50", "10.1.1.51"].map(|guest| {
            let frame = datagram(Nic::Tier1, guest, "192.0.2.9", udp(5000, 53));
            let pieces = fragments(&frame, 7, 1480);
            let id = |sent: &[u8]| [sent[ETHERNET + 4], sent[ETHERNET + 5]];
            let first = id(&r.send(Nic::Tier1, &pieces[0]).frame);
            assert_eq!(first, id(&r.send(Nic::Tier1, &pieces[1]).frame));
            first
        });
        // The host's tables have one number for all; the kernel's are random.
        assert!(ids[0] != ids[1] || ids[0] == [0x12, 0x34]);
    }),
    ("a fragment of nothing known from outside reaches nobody", |r| {
        let frame = datagram(Nic::Public, "192.0.2.9", "10.1.1.50", udp(53, 5000));
        let pieces = fragments(&frame, 8, 1480);
        dropped(r, Nic::Public, &pieces[0], DropReason::NotPermitted);
        dropped(r, Nic::Public, &pieces[1], DropReason::NotPermitted);
        let small = from(Nic::Tier1, "10.1.1.50", "192.0.2.9", udp(5000, 53));
        forwarded(r, Nic::Tier1, &small, Nic::Public);
    }),
];
