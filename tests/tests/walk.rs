//! The scenarios against the walk on the host, and what only a settable world can show.

use router_common::account::Hook;
use router_common::config::RouterConfig;
use router_common::flow::tick;
use router_common::nat::pool_index;
use router_common::port::{Carrier, Port, TagKey};
use router_common::usage::{Course, counter};
use router_common::verdict::{DeferReason, DropReason, FORWARDED};
use router_ebpf::packet::SliceFrame;
use router_ebpf::ports::PortPool;
use router_ebpf::tables::{Route, Tables};
use router_ebpf::walk::walk;
use router_tests::host::{HostRouter, ifindex};
use router_tests::packet::{Frame, Payload, read};
use router_tests::scenario::{Nic, PUBLIC, Router, host_mac, scenarios};
use router_tests::trunk::{Tag, tagged};
use router_userspace::compile::nat::{NatEntry, NatKey};

#[test]
fn every_scenario_holds_for_both_hooks() {
    for hook in [Hook::Xdp, Hook::Tc] {
        for (name, scenario) in scenarios(hook) {
            println!("{}: {name}", hook.label());
            scenario(&mut HostRouter::new(hook));
        }
    }
}

fn datagram(src: &str, port: u16) -> Vec<u8> {
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    Frame::new(macs, src, "192.0.2.9", Payload::Udp { src: port, dst: 53 }).bytes()
}

#[test]
fn a_full_table_refuses_new_flows_and_leaves_known_ones_alone() {
    let mut router = HostRouter::new(Hook::Tc);
    assert_eq!(router.send(Nic::Tier1, &datagram("10.1.1.50", 5000)).outcome, FORWARDED);
    router.world.capacity.set(2);
    let full = DropReason::FlowTableFull.outcome();
    assert_eq!(router.send(Nic::Tier1, &datagram("10.1.1.50", 5001)).outcome, full);
    assert_eq!(router.send(Nic::Tier1, &datagram("10.1.1.50", 5000)).outcome, FORWARDED);
    // Room for one entry more is no room for a flow: nothing is left behind by the attempt.
    router.world.capacity.set(3);
    assert_eq!(router.send(Nic::Tier1, &datagram("10.1.1.50", 5001)).outcome, full);
    assert_eq!(router.world.v4.flows.borrow().len(), 2);
}

/// A guest's datagram of 8,000 bytes.
fn long_datagram(src: &str) -> Vec<u8> {
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    let frame = Frame::new(macs, src, "192.0.2.9", Payload::Udp { src: 5000, dst: 53 });
    Frame { data: vec![0x55; 8000], ..frame }.bytes()
}

#[test]
fn of_frames_in_several_buffers_xdp_sends_those_that_their_way_out_takes() {
    let router = HostRouter::new(Hook::Xdp);
    let takes = |flags: u8| {
        let mut ports = router.world.ports.borrow_mut();
        for nic in [Nic::Tier1, Nic::Public] {
            let port = ports.get_mut(&ifindex(nic)).expect("a port");
            (port.mtu, port.flags) = (9000, Port::XDP_TARGET | flags);
        }
    };
    let larger = |router: &HostRouter| {
        for (.., route) in router.world.v4.routes.borrow_mut().iter_mut() {
            if let Route::Via(next_hop) = route {
                next_hop.mtu = 9000;
            }
        }
    };
    larger(&router);
    let send = |src: &str, first: usize| {
        let mut bytes = long_datagram(src);
        let mut buffer = bytes.drain(..first).collect::<Vec<u8>>();
        let mut packet = SliceFrame::first_buffer(&mut buffer, bytes.len(), Hook::Xdp);
        let outcome = walk(&mut packet, &router.world, ifindex(Nic::Tier1)).passage.outcome();
        (outcome, [buffer, bytes].concat())
    };
    let deferred = DeferReason::MultiBuffer.outcome();
    takes(0);
    assert_eq!(send("10.1.1.50", 3000), (deferred, long_datagram("10.1.1.50")));
    takes(Port::MULTI_BUFFER);
    // Of another flow, and then of the same: the first and the later packets, as they are in one buffer.
    for _ in 0..2 {
        let whole = HostRouter::new(Hook::Xdp);
        whole.world.ports.replace(router.world.ports.borrow().clone());
        larger(&whole);
        let mut expected = long_datagram("10.1.1.51");
        let mut packet = SliceFrame::new(&mut expected, Hook::Xdp);
        let outcome = walk(&mut packet, &whole.world, ifindex(Nic::Tier1)).passage.outcome();
        let (sent, bytes) = send("10.1.1.51", 3000);
        assert_eq!((sent, outcome), (FORWARDED, FORWARDED));
        // The external port is another one.
        assert_eq!(read(&bytes).ends, read(&expected).ends);
        assert!(read(&bytes).sums_hold);
    }
    // Headers that cannot be looked at, and a frame that is shorter than it says.
    for first in [12, 60, 255] {
        assert_eq!(send("10.1.1.51", first), (deferred, long_datagram("10.1.1.51")), "{first}");
    }
    let mut bytes = long_datagram("10.1.1.51");
    bytes.truncate(3000);
    let mut packet = SliceFrame::first_buffer(&mut bytes, 4000, Hook::Xdp);
    let outcome = walk(&mut packet, &router.world, ifindex(Nic::Tier1)).passage.outcome();
    assert_eq!(outcome, DropReason::Truncated.outcome());
}

#[test]
fn an_address_without_a_free_port_has_none_to_share_where_that_is_chosen() {
    for (flags, outcome) in
        [(0, FORWARDED), (RouterConfig::REFUSE_EXHAUSTED, DropReason::NoFreePort.outcome())]
    {
        let mut router = HostRouter::new(Hook::Tc);
        let config = router.world.config.get();
        router.world.config.set(RouterConfig { flags, ..config });
        assert_eq!(router.send(Nic::Tier1, &datagram("10.1.1.50", 5000)).outcome, FORWARDED);
        let udp = pool_index(Nic::Public as u32 + 1, 17).expect("UDP has a pool");
        let pool = router.world.pool(udp).expect("a pool");
        (0..1024).for_each(|word| _ = pool.claim(word, u64::MAX));
        (0..16).for_each(|group| pool.set_full(group, u64::MAX));
        assert_eq!(router.send(Nic::Tier1, &datagram("10.1.1.51", 5001)).outcome, outcome);
        assert_eq!(router.send(Nic::Tier1, &datagram("10.1.1.50", 5000)).outcome, FORWARDED, "who has one");
    }
}

#[test]
fn an_entry_never_exists_without_its_reverse() {
    let mut router = HostRouter::new(Hook::Xdp);
    for port in 1000..3000 {
        router.send(Nic::Tier1, &datagram(["10.1.1.50", "10.1.1.51"][usize::from(port % 2)], port));
    }
    let flows = router.world.v4.flows.borrow();
    assert_eq!(flows.len(), 4000);
    for (key, entry) in flows.iter() {
        let to = &entry.rewrite;
        let mut reverse = *key;
        (reverse.src, reverse.dst) = (to.dst, to.src);
        (reverse.src_port, reverse.dst_port) = (to.dst_port, to.src_port);
        assert!(flows.contains_key(&reverse), "{key:?} is alone");
    }
}

#[test]
fn a_moved_next_hop_is_followed_when_the_generation_moves_and_by_the_clock_otherwise() {
    let mut router = HostRouter::new(Hook::Tc);
    let moved = [2, 0, 0, 0, 0xbb, 1];
    router.send(Nic::Tier1, &datagram("10.1.1.50", 5000));
    let routes = &router.world.v4.routes;
    for (_, _, route) in routes.borrow_mut().iter_mut() {
        if let Route::Via(next_hop) = route
            && next_hop.ifindex == ifindex(Nic::Public)
        {
            next_hop.macs = router_common::net::MacPair::new(moved, Nic::Public.mac());
        }
    }
    let to =
        |router: &mut HostRouter| read(&router.send(Nic::Tier1, &datagram("10.1.1.50", 5000)).frame).macs.0;
    assert_eq!(to(&mut router), host_mac(Nic::Public), "asked the kernel for a known flow");
    let mut config = router.world.config.get();
    config.generation += 1;
    router.world.config.set(config);
    assert_eq!(to(&mut router), moved, "did not follow the generation");
    const SECOND: u64 = 1_000_000_000;
    // How long somebody tells of changes, and how long a way out is believed then.
    for (attended, believed) in [(0, 1), (15, 15), (3600, 60)] {
        let mut router = HostRouter::new(Hook::Tc);
        let (start, config) = (router.world.now.get(), router.world.config.get());
        router.world.config.set(RouterConfig { attended: tick(start + attended * SECOND), ..config });
        router.send(Nic::Tier1, &datagram("10.1.1.50", 5000));
        router.world.v4.routes.borrow_mut().clear();
        let mut outcome = |after: u64| {
            router.world.now.set(start + after);
            router.send(Nic::Tier1, &datagram("10.1.1.50", 5000)).outcome
        };
        assert_eq!(outcome(believed * SECOND - SECOND / 10), FORWARDED, "attended for {attended} seconds");
        assert_ne!(outcome(believed * SECOND), FORWARDED, "attended for {attended} seconds");
    }
}

#[test]
fn a_flow_whose_next_hop_has_no_room_is_refused_and_others_go_on() {
    let full = DropReason::NextHopTableFull.outcome();
    for hook in [Hook::Xdp, Hook::Tc] {
        let mut router = HostRouter::new(hook);
        let known = datagram("10.1.1.50", 5000);
        assert_eq!(router.send(Nic::Tier1, &known).outcome, FORWARDED);
        router.world.next_hop_room.set(router.world.next_hops.borrow().len());
        let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
        let elsewhere =
            Frame::new(macs, "10.1.1.50", "10.1.2.50", Payload::Udp { src: 5000, dst: 53 }).bytes();
        assert_eq!(router.send(Nic::Tier1, &elsewhere).outcome, full);
        assert_eq!(router.send(Nic::Tier1, &known).outcome, FORWARDED, "who has one");
        assert_eq!(router.send(Nic::Tier1, &datagram("10.1.1.51", 5001)).outcome, FORWARDED, "the same way");
        // A known flow's neighbour has another address now.
        router.world.next_hops.borrow_mut().clear();
        router.world.next_hop_room.set(0);
        let config = router.world.config.get();
        router.world.config.set(RouterConfig { generation: config.generation + 1, ..config });
        assert_eq!(router.send(Nic::Tier1, &known).outcome, full);
    }
}

#[test]
fn a_routed_flow_whose_way_turns_public_is_translated_from_then_on() {
    let mut router = HostRouter::new(Hook::Tc);
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    let frame = Frame::new(macs, "10.1.1.50", "10.1.2.50", Payload::Udp { src: 5000, dst: 53 }).bytes();
    assert_eq!(read(&router.send(Nic::Tier1, &frame).frame).ends.0.to_string(), "10.1.1.50");
    // Tier 2's network goes: the default route leads to the public side.
    let leads_there = |route: &Route| matches!(route, Route::Via(way) if way.ifindex == ifindex(Nic::Tier2));
    router.world.v4.routes.borrow_mut().retain(|(_, _, route)| !leads_there(route));
    let mut config = router.world.config.get();
    config.generation += 1;
    router.world.config.set(config);
    let sent = router.send(Nic::Tier1, &frame);
    assert_eq!(read(&sent.frame).ends.0.to_string(), "203.0.113.10", "leaked the guest's address");
}

#[test]
fn a_guest_cannot_send_into_another_tiers_flow() {
    let mut router = HostRouter::new(Hook::Tc);
    router.send(Nic::Tier1, &datagram("10.1.1.50", 5000));
    let macs = (Nic::Tier2.mac(), host_mac(Nic::Tier2));
    let forged = Frame::new(macs, "192.0.2.9", "203.0.113.10", Payload::Udp { src: 53, dst: 5000 });
    assert_eq!(router.send(Nic::Tier2, &forged.bytes()).outcome, DropReason::WrongPort.outcome());
}

/// Flows' entries as a test compares them: when last seen, packets, TCP flags.
fn activity(router: &HostRouter) -> Vec<(u32, u32, u8)> {
    let flows = router.world.v4.flows.borrow();
    let mut all: Vec<_> = flows.iter().map(|(key, entry)| (key.src.to_host(), *entry)).collect();
    all.sort_by_key(|(src, _)| *src);
    all.iter().map(|(_, entry)| (entry.last_seen, entry.packets, entry.tcp_flags)).collect()
}

fn later(router: &HostRouter, nanoseconds: u64) -> u64 {
    let now = router.world.now.get() + nanoseconds;
    router.world.now.set(now);
    now
}

/// A frame of web1's connection, outward or as its answer. `seq` is its sequence number; 2 is acknowledged.
fn segment(outward: bool, flags: u8, seq: u32) -> (Nic, Vec<u8>) {
    let (nic, src, dst, ports) = match outward {
        true => (Nic::Tier1, "10.1.1.50", "192.0.2.9", (4000, 80)),
        false => (Nic::Public, "192.0.2.9", "203.0.113.10", (80, 4000)),
    };
    let payload = Payload::Tcp { src: ports.0, dst: ports.1, flags };
    let mut frame = Frame::new((nic.mac(), host_mac(nic)), src, dst, payload).bytes();
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    (nic, frame)
}

fn passes(router: &mut HostRouter, (nic, frame): (Nic, Vec<u8>)) {
    assert_eq!(router.send(nic, &frame).outcome, FORWARDED);
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A connection, both sides have acknowledged byte 2.
fn connected() -> HostRouter {
    let mut router = HostRouter::new(Hook::Tc);
    passes(&mut router, segment(true, SYN, 1));
    passes(&mut router, segment(false, SYN | ACK, 1));
    passes(&mut router, segment(true, ACK, 2));
    router
}

#[test]
fn an_error_neither_refreshes_nor_ends_a_flow() {
    let mut router = connected();
    passes(&mut router, (Nic::Tier1, datagram("10.1.1.50", 5000)));
    let before = activity(&router);
    for payload in [Payload::Tcp { src: 4000, dst: 80, flags: ACK }, Payload::Udp { src: 5000, dst: 53 }] {
        for kind in [3, 11, 12] {
            // Within the second that the way out is believed, and after it.
            later(&router, 700_000_000);
            let inward = |payload| {
                let macs = (Nic::Public.mac(), host_mac(Nic::Public));
                Frame::new(macs, "203.0.113.10", "192.0.2.9", payload)
            };
            let about = inward(payload.clone()).ip();
            let mut error = inward(Payload::Error { kind, about });
            error.ends = ("198.51.100.1".parse().unwrap(), error.ends.0);
            passes(&mut router, (Nic::Public, error.bytes()));
        }
    }
    // One of the guest's own about an answer.
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    let answer = Frame::new(macs, "192.0.2.9", "10.1.1.50", Payload::Udp { src: 53, dst: 5000 });
    let error = Payload::Error { kind: 3, about: answer.ip() };
    passes(&mut router, (Nic::Tier1, Frame::new(macs, "10.1.1.50", "192.0.2.9", error).bytes()));
    assert_eq!(activity(&router), before);
}

#[test]
fn packets_of_both_directions_refresh_their_flow() {
    let mut router = connected();
    for outward in [true, false] {
        let now = later(&router, 60_000_000_000);
        passes(&mut router, segment(outward, ACK, 2));
        assert!(activity(&router).iter().any(|(seen, ..)| *seen == tick(now)));
    }
}

#[test]
fn a_reset_within_the_window_closes_a_connection_and_another_does_not() {
    let closed = |router: &HostRouter| activity(router).iter().any(|(.., flags)| flags & RST != 0);
    for outward in [true, false] {
        let mut router = connected();
        for seq in [1, 2u32.wrapping_sub(1 << 20), 2 + (1 << 20), 1 << 31] {
            // It is passed on: the host knows better.
            passes(&mut router, segment(outward, RST, seq));
            assert!(!closed(&router), "sequence number {seq}");
        }
        passes(&mut router, segment(outward, RST, 1000));
        assert!(closed(&router));
        assert_eq!(router.world.v4.flows.borrow().len(), 2, "a reset's flow stays a while");
    }
    // Nobody has acknowledged anything: any may be the one.
    let mut router = HostRouter::new(Hook::Tc);
    passes(&mut router, segment(true, SYN, 1));
    passes(&mut router, segment(false, RST | ACK, 0));
    assert!(closed(&router));
}

#[test]
fn the_reset_that_closes_a_flow_refreshes_it_and_others_do_not() {
    let mut router = connected();
    let seen = |router: &HostRouter| activity(router).iter().map(|(seen, ..)| *seen).max();
    let before = seen(&router);
    later(&router, 60_000_000_000);
    passes(&mut router, segment(true, RST, 1 << 31));
    assert_eq!(seen(&router), before, "one beyond the window");
    let closed = later(&router, 60_000_000_000);
    passes(&mut router, segment(true, RST, 2));
    assert_eq!(seen(&router), Some(tick(closed)));
    for _ in 0..3 {
        later(&router, 60_000_000_000);
        passes(&mut router, segment(true, RST, 2));
        assert_eq!(seen(&router), Some(tick(closed)), "one more");
    }
}

#[test]
fn a_half_closed_connection_is_not_closed_and_a_closed_one_begins_anew() {
    let flags =
        |router: &HostRouter| -> Vec<u8> { activity(router).iter().map(|(.., flags)| *flags).collect() };
    let mut router = connected();
    passes(&mut router, segment(false, FIN | ACK, 2));
    passes(&mut router, segment(true, ACK, 2));
    assert!(flags(&router).iter().all(|flags| flags & ACK != 0));
    assert_eq!(flags(&router).iter().filter(|flags| *flags & FIN != 0).count(), 1);
    // A SYN with one side's FIN alone is no new connection.
    passes(&mut router, segment(true, SYN, 9));
    assert!(flags(&router).iter().all(|flags| flags & ACK != 0));
    passes(&mut router, segment(true, FIN | ACK, 2));
    assert!(flags(&router).iter().all(|flags| flags & FIN != 0));
    passes(&mut router, segment(true, SYN, 9));
    let mut anew = flags(&router);
    anew.sort_unstable();
    assert_eq!(anew, [0, SYN]);
    assert_eq!(router.world.v4.flows.borrow().len(), 2);
}

/// What the operator chose.
fn choose(router: &HostRouter, flags: u32) {
    let mut config = router.world.config.get();
    config.flags = flags;
    router.world.config.set(config);
}

#[test]
fn a_caller_is_seen_by_its_external_end_where_that_is_chosen_with_tcp_and_udp() {
    let call = |router: &mut HostRouter, payload: Payload| {
        let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
        let (dst, payload) = match payload {
            // A forwarded port, and a binding of another guest.
            Payload::Tcp { .. } => ("203.0.113.21", payload),
            _ => ("203.0.113.10", payload),
        };
        let sent = router.send(Nic::Tier1, &Frame::new(macs, "10.1.1.51", dst, payload).bytes());
        assert_eq!(sent.outcome, FORWARDED);
        let out = read(&sent.frame);
        assert!(out.sums_hold);
        (out.ends.0.to_string(), out.ports.0)
    };
    for hook in [Hook::Xdp, Hook::Tc] {
        let mut router = HostRouter::new(hook);
        choose(&router, RouterConfig::HAIRPIN_EXTERNAL);
        router.send(Nic::Tier1, &datagram("10.1.1.50", 5000));
        let outside = read(&router.send(Nic::Tier1, &datagram("10.1.1.51", 5000)).frame).ports.0;
        assert_ne!(outside, 5000);
        let seen = call(&mut router, Payload::Udp { src: 5000, dst: 5000 });
        assert_eq!(seen, ("203.0.113.10".to_owned(), outside));
        let seen = call(&mut router, Payload::Tcp { src: 6000, dst: 8080, flags: SYN });
        assert_eq!(seen, ("203.0.113.10".to_owned(), 6000));
    }
}

#[test]
fn anybody_gets_to_a_tcp_mapping_where_that_is_chosen() {
    let stranger = || {
        let macs = (Nic::Public.mac(), host_mac(Nic::Public));
        let payload = Payload::Tcp { src: 7000, dst: 4000, flags: SYN };
        Frame::new(macs, "198.51.100.9", "203.0.113.10", payload).bytes()
    };
    let mut router = connected();
    assert_ne!(router.send(Nic::Public, &stranger()).outcome, FORWARDED);
    choose(&router, RouterConfig::OPEN_BINDINGS);
    let sent = router.send(Nic::Public, &stranger());
    assert_eq!(sent.outcome, FORWARDED);
    let out = read(&sent.frame);
    assert_eq!((out.ends.1.to_string(), out.ports.1), ("10.1.1.50".to_owned(), 4000));
}

#[test]
fn an_answer_to_tftp_is_let_in_for_a_minute_after_each_request_while_that_is_chosen() {
    let mut router = HostRouter::new(Hook::Tc);
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    let request = Frame::new(macs, "10.1.1.50", "192.0.2.9", Payload::Udp { src: 5000, dst: 69 }).bytes();
    let macs = (Nic::Public.mac(), host_mac(Nic::Public));
    let answer =
        |port| Frame::new(macs, "192.0.2.9", "203.0.113.10", Payload::Udp { src: port, dst: 5000 }).bytes();
    let ask = |router: &mut HostRouter| {
        assert_eq!(router.send(Nic::Tier1, &request).outcome, FORWARDED);
    };
    let gets_in = |router: &mut HostRouter, port, seconds: u64| {
        router.world.now.set(router.world.now.get() + seconds * 1_000_000_000);
        router.send(Nic::Public, &answer(port)).outcome == FORWARDED
    };
    ask(&mut router);
    assert!(gets_in(&mut router, 40_000, 59));
    assert!(!gets_in(&mut router, 40_001, 1));
    assert!(gets_in(&mut router, 40_000, 0), "a flow that is there");
    ask(&mut router);
    assert!(gets_in(&mut router, 40_001, 0));
    let mut router = HostRouter::new(Hook::Tc);
    let config = router.world.config.get();
    router.world.config.set(RouterConfig { flags: RouterConfig::FTP, ..config });
    ask(&mut router);
    assert!(!gets_in(&mut router, 40_000, 0));
}

#[test]
fn nobody_reads_along_with_ftp_where_that_is_not_chosen() {
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    let mut syn = Frame::new(macs, "10.1.1.50", "192.0.2.9", Payload::Tcp { src: 5000, dst: 21, flags: 2 });
    syn.data.clear();
    for (flags, outcome) in
        [(RouterConfig::TFTP, FORWARDED), (RouterConfig::FTP, DeferReason::Helper.outcome())]
    {
        let mut router = HostRouter::new(Hook::Xdp);
        let config = router.world.config.get();
        router.world.config.set(RouterConfig { flags, ..config });
        assert_eq!(router.send(Nic::Tier1, &syn.bytes()).outcome, outcome);
    }
}

#[test]
fn a_guest_at_its_limit_gets_no_further_port_and_others_do() {
    let limited = |limit, flags| {
        let router = HostRouter::new(Hook::Tc);
        let config = router.world.config.get();
        router.world.config.set(RouterConfig { ports_per_guest: limit, ..config });
        for port in router.world.ports.borrow_mut().values_mut() {
            port.flags |= flags;
        }
        router
    };
    for flags in [0, Port::SYMMETRIC] {
        let mut router = limited(3, flags);
        let mut send = |guest: &str, port| router.send(Nic::Tier1, &datagram(guest, port)).outcome;
        let refused = DropReason::GuestLimit.outcome();
        for port in 5000..5003 {
            assert_eq!(send("10.1.1.50", port), FORWARDED);
        }
        assert_eq!(send("10.1.1.50", 5003), refused);
        assert_eq!(send("10.1.1.50", 5004), refused);
        // What is there goes on, and others are not concerned.
        assert_eq!(send("10.1.1.50", 5001), FORWARDED);
        assert_eq!(send("10.1.1.51", 5003), FORWARDED);
        // Nor are other protocols and what is not translated.
        let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
        let syn = Frame::new(macs, "10.1.1.50", "192.0.2.9", Payload::Tcp { src: 5003, dst: 80, flags: SYN });
        assert_eq!(router.send(Nic::Tier1, &syn.bytes()).outcome, FORWARDED);
        let inside = Frame::new(macs, "10.1.1.50", "10.1.2.50", Payload::Udp { src: 5003, dst: 53 });
        assert_eq!(router.send(Nic::Tier1, &inside.bytes()).outcome, FORWARDED);
        let mut counts: Vec<u64> = router.world.guests.borrow().values().copied().collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 1, 3]);
    }
    // A socket that has its port has it towards everybody.
    let mut router = limited(1, 0);
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    for last in 1..10 {
        let server = format!("192.0.2.{last}");
        let frame = Frame::new(macs, "10.1.1.50", &server, Payload::Udp { src: 5000, dst: 53 });
        assert_eq!(router.send(Nic::Tier1, &frame.bytes()).outcome, FORWARDED);
    }
}

#[test]
fn guests_keep_their_source_towards_chosen_destinations_static_nat_or_not() {
    for hook in [Hook::Xdp, Hook::Tc] {
        let mut router = HostRouter::new(hook);
        choose(&router, RouterConfig::UNTRANSLATED);
        let network = "192.0.2.0/29".parse().expect("a network");
        router.world.nat.borrow_mut().insert(NatKey::Untranslated(network), NatEntry::Untranslated);
        // The last one leaves by another public port where static NAT says so.
        for (nic, guest, translated, public) in [
            (Nic::Tier1, "10.1.1.50", "203.0.113.10", Nic::Public),
            (Nic::Tier1, "10.1.1.60", "203.0.113.20", Nic::Public),
            (Nic::Tier2, "10.1.2.60", "203.0.114.20", Nic::Public2),
        ] {
            for (server, source, out) in
                [("192.0.2.7", guest, Nic::Public), ("192.0.2.8", translated, public)]
            {
                let macs = (nic.mac(), host_mac(nic));
                let frame = Frame::new(macs, guest, server, Payload::Tcp { src: 5000, dst: 80, flags: SYN });
                let sent = router.send(nic, &frame.bytes());
                assert_eq!(sent.outcome, FORWARDED);
                let left = read(&sent.frame);
                assert_eq!((left.ends.0.to_string(), left.macs.1), (source.to_owned(), out.mac()));
                assert!(left.sums_hold);
                let macs = (out.mac(), host_mac(out));
                let payload = Payload::Tcp { src: 80, dst: left.ports.0, flags: SYN | ACK };
                let sent = router.send(out, &Frame::new(macs, server, source, payload).bytes());
                assert_eq!(sent.outcome, FORWARDED);
                let came = read(&sent.frame);
                assert_eq!((came.ends.1.to_string(), came.ports.1), (guest.to_owned(), 5000));
            }
            // Nobody there may begin for all that.
            let macs = (Nic::Public.mac(), host_mac(Nic::Public));
            let frame = Frame::new(macs, "192.0.2.7", guest, Payload::Udp { src: 53, dst: 5000 });
            let outcome = router.send(Nic::Public, &frame.bytes()).outcome;
            assert_eq!(outcome, DropReason::NotPermitted.outcome());
        }
    }
}

#[test]
fn what_passes_is_on_the_account_of_its_ports_and_its_public_address_whoever_began() {
    let mut router = HostRouter::new(Hook::Tc);
    let mut pass = |nic: Nic, (src, dst): (&str, &str), (from, to): (u16, u16)| {
        let macs = (nic.mac(), host_mac(nic));
        let frame = Frame::new(macs, src, dst, Payload::Udp { src: from, dst: to }).bytes();
        let sent = router.send(nic, &frame);
        assert_eq!(sent.outcome, FORWARDED, "{src} to {dst}");
        frame.len() as u64 - 14
    };
    let public = |last: u8| std::net::Ipv4Addr::new(203, 0, 113, last);
    let nobody = std::net::Ipv4Addr::UNSPECIFIED;
    // By source NAT, and the answer.
    let masked = pass(Nic::Tier1, ("10.1.1.50", "192.0.2.9"), (5000, 53));
    let answer = pass(Nic::Public, ("192.0.2.9", PUBLIC), (53, 5000));
    // Out and in by static NAT, from both sides; the second packet of a flow as the first.
    let own = pass(Nic::Tier1, ("10.1.1.60", "192.0.2.9"), (5001, 53));
    let called = pass(Nic::Public, ("192.0.2.10", "203.0.113.20"), (5002, 53))
        + pass(Nic::Public, ("192.0.2.10", "203.0.113.20"), (5002, 53));
    let forwarded = pass(Nic::Public, ("192.0.2.10", "203.0.113.21"), (5003, 30_003));
    let replied = pass(Nic::Tier2, ("10.1.2.50", "192.0.2.10"), (40_003, 5003));
    let routed = pass(Nic::Tier1, ("fd00:1::50", "2001:db8:100::77"), (5004, 53));
    // From tier to tier and back, begun from both.
    let there = pass(Nic::Tier1, ("10.1.1.50", "10.1.2.50"), (5005, 53))
        + pass(Nic::Tier1, ("10.1.1.50", "10.1.2.50"), (53, 5006));
    let back = pass(Nic::Tier2, ("10.1.2.50", "10.1.1.50"), (5007, 53));
    let accounts = router.world.accounts.borrow();
    let mut seen: Vec<_> = accounts
        .iter()
        .map(|(key, number)| {
            let usage = router.world.usage.borrow();
            let bytes = |course| usage.get(&counter(*number, course)).map_or(0, |(_, bytes)| *bytes);
            let nic = |mac| Nic::ALL.into_iter().find(|nic| nic.mac() == mac).expect("a NIC");
            let way = (nic(key.outside) as u8, nic(key.inside) as u8);
            let address = std::net::Ipv4Addr::from(key.address);
            (way, key.version, address, bytes(Course::Sent), bytes(Course::Received))
        })
        .collect();
    seen.sort_unstable();
    let (tier1, tier2, outside) = (Nic::Tier1 as u8, Nic::Tier2 as u8, Nic::Public as u8);
    let expected = [
        ((tier2, tier1), 4, nobody, there, back),
        ((outside, tier1), 4, public(10), masked, answer),
        ((outside, tier1), 4, public(20), own, called),
        ((outside, tier1), 6, nobody, routed, 0),
        ((outside, tier2), 4, public(21), replied, forwarded),
    ];
    assert_eq!(seen, expected);
}

/// Has the first tier's NIC carry the second tier as well, with these tags, and the public port.
fn with_trunk(hook: Hook, tags: (u16, u16), public: Carrier) -> HostRouter {
    let router = HostRouter::new(hook);
    let (outer, inner) = tags;
    let trunk = ifindex(Nic::Tier1);
    router.world.tagged.borrow_mut().insert(TagKey::of(trunk, outer, inner), ifindex(Nic::Tier2));
    router.world.carriers.borrow_mut().insert(ifindex(Nic::Public), Carrier { trunk, ..public });
    router.world.ports.borrow_mut().get_mut(&ifindex(Nic::Public)).expect("a port").flags |= Port::TAGGED;
    router
}

fn from_tier2(port: u16, dst: &str) -> Vec<u8> {
    let macs = (Nic::Tier2.mac(), host_mac(Nic::Tier2));
    Frame::new(macs, "10.1.2.50", dst, Payload::Udp { src: port, dst: 53 }).bytes()
}

#[test]
fn tags_are_taken_off_and_those_of_the_way_out_put_on() {
    const NONE: Carrier =
        Carrier { trunk: 0, outer_protocol: 0x8100, outer: 200, inner_protocol: 0, inner: 0, priority: 8 };
    let two = Carrier { outer_protocol: 0x88a8, outer: 300, inner_protocol: 0x8100, inner: 7, ..NONE };
    // Tags and their priorities as they come, the carrier of the way out, and how it leaves.
    let cases: [(&[Tag], Carrier, &[Tag]); 5] = [
        (&[(0x8100, 100)], NONE, &[(0x8100, 200)]),
        (&[(0x8100, 5 << 13 | 100)], NONE, &[(0x8100, 5 << 13 | 200)]),
        (&[(0x8100, 5 << 13 | 100)], Carrier { priority: 3, ..NONE }, &[(0x8100, 3 << 13 | 200)]),
        (&[(0x88a8, 100), (0x8100, 9)], NONE, &[(0x8100, 200)]),
        (&[(0x8100, 6 << 13 | 100)], two, &[(0x88a8, 6 << 13 | 300), (0x8100, 6 << 13 | 7)]),
    ];
    for hook in [Hook::Xdp, Hook::Tc] {
        for (tags, carrier, expected) in cases {
            let ids = (tags[0].1 & 0xfff, tags.get(1).map_or(0, |tag| tag.1 & 0xfff));
            let mut router = with_trunk(hook, ids, carrier);
            let frame = from_tier2(5000, "192.0.2.9");
            // As it leaves where there are no tags at all.
            let plain = HostRouter::new(hook).send(Nic::Tier2, &frame);
            assert_eq!(plain.outcome, FORWARDED);
            let sent = router.send(Nic::Tier1, &tagged(&frame, tags));
            assert_eq!(sent.outcome, FORWARDED, "{tags:x?}");
            assert_eq!(sent.frame, tagged(&plain.frame, expected), "{hook:?}: {tags:x?}");
        }
    }
}

#[test]
fn what_xdp_leaves_to_tc_has_its_tags_again() {
    let public =
        Carrier { outer_protocol: 0x8100, outer: 200, inner_protocol: 0, inner: 0, trunk: 0, priority: 0 };
    let mut router = with_trunk(Hook::Xdp, (100, 7), public);
    let frame = tagged(&from_tier2(5000, "10.1.2.1"), &[(0x88a8, 3 << 13 | 100), (0x8100, 7)]);
    let sent = router.send(Nic::Tier1, &frame);
    assert_eq!(sent.outcome, DeferReason::Punted.outcome());
    assert_eq!(sent.frame, frame);
    for (tags, reason) in [
        (&[(0x8100, 101)][..], DropReason::UnknownVlan),
        (&[(0x8100, 100)], DropReason::UnknownVlan),
        (&[(0x8100, 100), (0x8100, 7), (0x8100, 1)], DropReason::TooManyHeaders),
    ] {
        let frame = tagged(&from_tier2(5000, "192.0.2.9"), tags);
        let sent = router.send(Nic::Tier1, &frame);
        assert_eq!((sent.outcome, sent.frame), (reason.outcome(), frame), "{tags:x?}");
    }
}
