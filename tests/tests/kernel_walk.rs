//! The scenarios against the loaded programs, in the running kernel.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use router_common::account::Hook;
use router_common::config::RouterConfig;
use router_common::verdict::{DropReason, FORWARDED};
use router_tests::kernel::{KernelRouter, in_new_namespace};
use router_tests::needs;
use router_tests::packet::{Frame, Payload, fragments, read, reassemble};
use router_tests::scenario::{Nic, PUBLIC, Router, host_mac, scenarios};
use router_userspace::compile::nat::{NatEntry, NatKey};
use router_userspace::dataplane::{MAX_BINDINGS, PoolUse, Room, Timeouts};

/// Verified instructions that a program may cost, a quarter more than it does on 6.1. The kernel's
/// limit is a million, but a start waits for them. A jump shows here before it hurts.
const BUDGET: u32 = 500_000;

fn scenarios_hold(hook: Hook, router: fn() -> Result<KernelRouter>) {
    in_new_namespace(move || {
        let mut router = router().expect("the programs load");
        for (name, scenario) in scenarios(hook) {
            println!("{}: {name}", hook.label());
            router.forget_flows().expect("flows can be removed");
            scenario(&mut router);
        }
    });
}

#[test]
fn every_scenario_holds_in_the_xdp_program() {
    if needs::are_met(&["ip"]) {
        scenarios_hold(Hook::Xdp, || KernelRouter::new(Hook::Xdp));
    }
}

#[test]
fn every_scenario_holds_in_the_xdp_program_for_several_buffers() {
    if needs::are_met(&["ip"]) {
        scenarios_hold(Hook::Xdp, KernelRouter::multi_buffer);
    }
}

#[test]
fn every_scenario_holds_in_the_tc_program() {
    if needs::are_met(&["ip"]) {
        scenarios_hold(Hook::Tc, || KernelRouter::new(Hook::Tc));
    }
}

#[test]
fn the_verifier_accepts_all_programs_within_the_budget() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::multi_buffer().expect("the programs load");
        for (name, instructions) in router.dataplane().verified_instructions().expect("the kernel tells") {
            println!("{name}: {instructions} verified instructions");
            assert!(instructions < BUDGET, "{name} costs the verifier {instructions} instructions");
        }
    });
}

/// A guest's datagram to port 53 of somebody outside.
fn datagram(guest: &str, port: u16, server: &str) -> Frame {
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    Frame::new(macs, guest, server, Payload::Udp { src: port, dst: 53 })
}

/// The external port that a guest's datagram leaves with.
fn external(router: &mut KernelRouter, guest: &str, port: u16, server: &str) -> u16 {
    let frame = datagram(guest, port, server).bytes();
    let out = read(&router.push(Nic::Tier1, &frame).expect("the program runs"));
    assert_eq!(out.ends.0.to_string(), PUBLIC, "port {port} of {guest} was not forwarded");
    out.ports.0
}

/// How the public address's UDP ports are used.
fn udp_pool(router: &mut KernelRouter) -> PoolUse {
    let uses = router.dataplane().pool_uses().expect("the pools can be read");
    let is_it =
        |pool: &PoolUse| pool.protocol == 17 && std::net::Ipv4Addr::from(pool.address).to_string() == PUBLIC;
    uses.into_iter().find(is_it).expect("a pool")
}

fn expire(router: &mut KernelRouter, udp: Duration, hold_down: Duration) -> usize {
    let timeouts = Timeouts { udp, udp_unanswered: udp, hold_down, ..Timeouts::default() };
    router.dataplane().expire(&timeouts).expect("flows expire").expired
}

/// Longer than a tick of the clock that flows are stamped with.
const TICKS: Duration = Duration::from_millis(30);

#[test]
fn expiry_takes_both_directions_and_spares_what_was_refreshed() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::new(Hook::Tc).expect("the programs load");
        for port in 5000..5010 {
            external(&mut router, "10.1.1.50", port, "192.0.2.9");
        }
        let begin = Instant::now();
        sleep(Duration::from_millis(300));
        // One by the guest, one by an answer alone.
        external(&mut router, "10.1.1.50", 5003, "192.0.2.9");
        let macs = (Nic::Public.mac(), host_mac(Nic::Public));
        let answer =
            |port| Frame::new(macs, "192.0.2.9", PUBLIC, Payload::Udp { src: 53, dst: port }).bytes();
        assert_eq!(router.send(Nic::Public, &answer(5007)).outcome, FORWARDED);
        let since = begin.elapsed() - Duration::from_millis(200);
        assert_eq!(expire(&mut router, since, Duration::from_secs(60)), 8);
        let mut left: Vec<_> =
            router.dataplane().flows().expect("flows can be read").iter().map(|flow| flow.src.1).collect();
        left.sort_unstable();
        assert_eq!(left, [5003, 5007]);
        // Nothing is left of the others in the other direction; those that are left have both.
        for port in 5000..5010 {
            let came_in = router.send(Nic::Public, &answer(port)).outcome == FORWARDED;
            assert_eq!(came_in, left.contains(&port), "port {port}");
        }
        for port in left {
            assert_eq!(external(&mut router, "10.1.1.50", port, "192.0.2.9"), port);
        }
    });
}

#[test]
fn a_binding_outlives_its_flows_for_the_hold_down_and_gives_its_port_back() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::new(Hook::Xdp).expect("the programs load");
        external(&mut router, "10.1.1.50", 5001, "192.0.2.9");
        let port = external(&mut router, "10.1.1.51", 5001, "192.0.2.9");
        sleep(TICKS);
        assert_eq!(expire(&mut router, Duration::ZERO, Duration::from_secs(60)), 2);
        assert_eq!(udp_pool(&mut router).taken, 2, "no port is free before the hold-down is over");
        // Nobody else gets them meanwhile; who had them has them again.
        assert!(![5001, port].contains(&external(&mut router, "10.1.1.77", 5001, "192.0.2.9")));
        assert_eq!(external(&mut router, "10.1.1.51", 5001, "198.51.100.9"), port);
        assert_eq!(external(&mut router, "10.1.1.50", 5001, "198.51.100.9"), 5001);
        sleep(TICKS);
        assert_eq!(expire(&mut router, Duration::ZERO, Duration::ZERO), 3);
        assert_eq!(udp_pool(&mut router).taken, 0);
        assert_eq!(external(&mut router, "10.1.1.51", 5001, "192.0.2.9"), 5001);
    });
}

/// Ports of 1024 and above.
const HIGH_PORTS: u16 = 64_512;

#[test]
fn every_port_of_an_address_is_used_before_one_is_shared() {
    if needs::are_met(&["ip"]) {
        in_new_namespace(|| use_every_port(Hook::Xdp));
        in_new_namespace(|| use_every_port(Hook::Tc));
    }
}

/// A guest's socket and whom it talks to, and the external port that it has there.
type Use = (&'static str, u16, String, u16);

fn use_every_port(hook: Hook) {
    let mut router = KernelRouter::with_room(hook, Room { flows: 1 << 19, bindings: MAX_BINDINGS })
        .expect("the programs load");
    let server = "192.0.2.9";
    let first = external(&mut router, "10.1.1.50", 1024, server);
    sleep(TICKS * 3);
    let begin = Instant::now();
    // Two guests with the same ports: the first keeps its own, the second gets others.
    let mut ports = BTreeSet::from([first]);
    let mut uses: Vec<Use> = vec![];
    let (mut replaced, mut in_order) = (Vec::new(), 0);
    for port in 1024..1024 + HIGH_PORTS / 2 {
        for guest in ["10.1.1.50", "10.1.1.51"] {
            if (guest, port) == ("10.1.1.50", 1024) {
                continue;
            }
            let got = external(&mut router, guest, port, server);
            assert!(got >= 1024 && ports.insert(got), "{got} was given out twice");
            uses.push((guest, port, server.to_owned(), got));
            if guest == "10.1.1.51" {
                in_order += u32::from(replaced.last().is_some_and(|last: &u16| last.abs_diff(got) <= 2));
                replaced.push(got);
            }
        }
    }
    assert_eq!(ports.len(), usize::from(HIGH_PORTS));
    assert!(in_order < 1000, "{in_order} of {} replaced ports follow their predecessor", replaced.len());
    let pool = udp_pool(&mut router);
    assert_eq!((pool.taken, pool.shared), (u32::from(HIGH_PORTS), 0));

    // Now they are shared, by flows to different destinations: up to 128,000 flows.
    const FLOWS: usize = 128_000;
    let mut shared = BTreeSet::new();
    for port in 1024 + HIGH_PORTS / 2..=65_023 {
        for guest in ["10.1.1.50", "10.1.1.51"] {
            let other = format!("198.51.100.{}", 1 + port % 16);
            let got = external(&mut router, guest, port, &other);
            assert!(shared.insert((other.clone(), got)), "{got} was given out twice to {other}");
            uses.push((guest, port, other, got));
        }
    }
    assert_eq!(uses.len() + 1, FLOWS);
    assert_eq!(udp_pool(&mut router).shared, (FLOWS - usize::from(HIGH_PORTS)) as u64);
    // None is shared where there is only one destination.
    let by_static_nat = datagram("10.1.1.60", 40_000, server).bytes();
    assert_eq!(router.send(Nic::Tier1, &by_static_nat).outcome, FORWARDED);
    let refused = datagram("10.1.1.77", 40_000, server).bytes();
    assert_eq!(router.send(Nic::Tier1, &refused).outcome, DropReason::NoFreePort.outcome());
    // Established flows notice nothing, in either direction.
    let public = (Nic::Public.mac(), host_mac(Nic::Public));
    for (guest, port, server, got) in uses.iter().step_by(7) {
        assert_eq!(external(&mut router, guest, *port, server), *got);
        let answer = Frame::new(public, server, PUBLIC, Payload::Udp { src: 53, dst: *got }).bytes();
        let came = read(&router.push(Nic::Public, &answer).expect("the program runs"));
        assert_eq!(
            (came.ends.1.to_string().as_str(), came.ports.1),
            (*guest, *port),
            "from {server} to {got}"
        );
    }
    // The first flow ends, and its port is found among all the others.
    assert_eq!(expire(&mut router, begin.elapsed() + TICKS, Duration::from_secs(60)), 1);
    assert_eq!(udp_pool(&mut router).taken, u32::from(HIGH_PORTS) - 1);
    assert_eq!(external(&mut router, "10.1.1.77", 40_000, server), first);
}

#[test]
fn a_flood_of_lone_fragments_harms_neither_whole_packets_nor_fragments_in_order() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    // XDP leaves fragments to TC.
    in_new_namespace(flood_with_fragments);
}

fn flood_with_fragments() {
    let mut router = KernelRouter::new(Hook::Tc).expect("the programs load");
    external(&mut router, "10.1.1.50", 5000, "192.0.2.9");
    let long = |guest: &str| Frame { data: vec![7; 3000], ..datagram(guest, 5000, "192.0.2.9") };
    // More than the tables of datagrams and of held fragments have room for; first ones and later ones.
    for id in 0..6000 {
        let pieces = fragments(&long("10.1.1.51"), id, 1480);
        router.push(Nic::Tier1, &pieces[usize::from(id) % 3]).expect("the program runs");
        if id % 500 == 499 {
            external(&mut router, "10.1.1.50", 5000, "192.0.2.9");
            let pieces = fragments(&long("10.1.1.50"), id, 1480);
            let out: Vec<_> = pieces
                .iter()
                .map(|piece| {
                    let sent = router.send(Nic::Tier1, piece);
                    assert_eq!(sent.outcome, FORWARDED, "after {id} lone fragments");
                    sent.frame
                })
                .collect();
            assert!(read(&reassemble(&out)).sums_hold);
        }
    }
}

const SYN: u8 = 2;
const FIN: u8 = 1;
const ACK: u8 = 16;

/// A segment of the connection from a port of a guest to port 80 of somebody outside, there or back.
fn segment(port: u16, flags: u8, is_reply: bool) -> (Nic, Vec<u8>) {
    let (guest, server) = ("10.1.1.50", "192.0.2.9");
    match is_reply {
        false => {
            let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
            let payload = Payload::Tcp { src: port, dst: 80, flags };
            (Nic::Tier1, Frame::new(macs, guest, server, payload).bytes())
        }
        true => {
            let macs = (Nic::Public.mac(), host_mac(Nic::Public));
            let payload = Payload::Tcp { src: 80, dst: port, flags };
            (Nic::Public, Frame::new(macs, server, PUBLIC, payload).bytes())
        }
    }
}

/// Sends segments of a connection; those after the last are not of its handshake.
fn converse(router: &mut KernelRouter, port: u16, segments: &[(u8, bool)]) {
    for &(flags, is_reply) in segments {
        let (nic, frame) = segment(port, flags, is_reply);
        assert_eq!(router.send(nic, &frame).outcome, FORWARDED, "port {port}, {flags:#x}, {is_reply}");
    }
}

const HANDSHAKE: [(u8, bool); 3] = [(SYN, false), (SYN | ACK, true), (ACK, false)];
const GOODBYE: [(u8, bool); 2] = [(FIN | ACK, false), (FIN | ACK, true)];

/// The guests' ports that flows have.
fn ports_with_flows(router: &mut KernelRouter) -> BTreeSet<u16> {
    let flows = router.dataplane().flows().expect("flows can be read");
    flows.iter().map(|flow| flow.src.1).collect()
}

#[test]
fn a_table_that_fills_up_loses_half_open_flows_first_and_never_a_connection() {
    if needs::are_met(&["ip"]) {
        in_new_namespace(|| fill_up(Hook::Tc));
        in_new_namespace(|| fill_up(Hook::Xdp));
    }
}

fn fill_up(hook: Hook) {
    const ROOM: u32 = 400;
    let mut router = KernelRouter::with_room(hook, Room { flows: ROOM, bindings: MAX_BINDINGS })
        .expect("the programs load");
    let evict = |router: &mut KernelRouter| {
        let aged = router.dataplane().expire(&Timeouts::default()).expect("flows are looked at");
        assert_eq!(aged.expired, 0);
        assert_eq!(router.dataplane().flow_entries().expect("flows can be read").1, 0, "half a flow is left");
        aged.evicted
    };
    let (established, answered, closed) = (1100..1130, 1200..1210, 1300..1310);
    for port in established.clone().chain(closed.clone()) {
        converse(&mut router, port, &HANDSHAKE);
    }
    for port in closed.clone() {
        converse(&mut router, port, &GOODBYE);
    }
    let macs = (Nic::Public.mac(), host_mac(Nic::Public));
    for port in answered.clone() {
        external(&mut router, "10.1.1.50", port, "192.0.2.9");
        let answer = Frame::new(macs, "192.0.2.9", PUBLIC, Payload::Udp { src: 53, dst: port }).bytes();
        assert_eq!(router.send(Nic::Public, &answer).outcome, FORWARDED);
    }
    // Up to the mark nothing goes; above it, as long as all are young, just what is too much.
    for port in 2000..2050 {
        external(&mut router, "10.1.1.50", port, "192.0.2.9");
    }
    for port in 3000..3050 {
        converse(&mut router, port, &HANDSHAKE[..1]);
    }
    assert_eq!(evict(&mut router), 0, "150 flows are three quarters");
    for port in 3050..3060 {
        converse(&mut router, port, &HANDSHAKE[..2]);
    }
    let evicted = evict(&mut router);
    // More where this machine is so slow that some are old already.
    assert!((10..=60).contains(&evicted), "{evicted}");
    // Later there is as much room as there should be. One has been used meanwhile.
    sleep(Duration::from_millis(2100));
    converse(&mut router, 3059, &HANDSHAKE[..1]);
    for port in 4000..4010 {
        converse(&mut router, port, &HANDSHAKE[..1]);
    }
    evict(&mut router);
    let left = ports_with_flows(&mut router);
    for port in
        established.clone().chain(answered.clone()).chain(closed.clone()).chain([3059]).chain(4000..4010)
    {
        assert!(left.contains(&port), "the flow of port {port} is gone");
    }
    assert!(left.len() <= 110, "{} flows are left", left.len());

    // Full: new flows are refused, known ones go on. Then there is room again.
    let mut port = 10_000;
    let refused = loop {
        let (nic, frame) = segment(port, SYN, false);
        if router.send(nic, &frame).outcome != FORWARDED {
            break router.send(nic, &frame).outcome;
        }
        port += 1;
    };
    assert_eq!(refused, DropReason::FlowTableFull.outcome());
    for port in established.clone() {
        converse(&mut router, port, &[(ACK, false), (ACK, true)]);
    }
    sleep(Duration::from_millis(2100));
    assert_eq!(evict(&mut router), 100);
    converse(&mut router, port, &HANDSHAKE);
    for port in established {
        converse(&mut router, port, &[(ACK, false), (ACK, true)]);
    }
    let evictions = router.dataplane().evictions();
    assert!(evictions.flows >= 160 && evictions.last > 0, "{evictions:?}");
}

#[test]
fn a_table_of_bindings_that_fills_up_gives_ports_back_before_their_time() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::with_room(Hook::Tc, Room { flows: 4096, bindings: 200 })
            .expect("the programs load");
        converse(&mut router, 1100, &HANDSHAKE);
        for port in 2000..2160 {
            external(&mut router, "10.1.1.50", port, "192.0.2.9");
        }
        assert_eq!(udp_pool(&mut router).taken, 160);
        assert_eq!(router.dataplane().fullness().expect("tables can be sampled"), 805);
        sleep(Duration::from_millis(2100));
        // The flows of 61 go, and with them their bindings.
        let aged = router.dataplane().expire(&Timeouts::default()).expect("flows are looked at");
        assert_eq!((aged.expired, aged.evicted, aged.fullness), (0, 61, 500));
        assert_eq!(udp_pool(&mut router).taken, 99);
        // A socket that lost its binding gets one again, and the connection was not disturbed.
        assert_eq!(external(&mut router, "10.1.1.50", 2000, "192.0.2.9"), 2000);
        converse(&mut router, 1100, &[(ACK, true), (ACK, false)]);
    });
}

#[test]
fn how_full_a_large_table_is_is_seen_by_a_sample() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::with_room(Hook::Xdp, Room { flows: 1 << 14, bindings: MAX_BINDINGS })
            .expect("the programs load");
        let fullness =
            |router: &mut KernelRouter| router.dataplane().fullness().expect("tables can be sampled");
        assert_eq!(fullness(&mut router), 0);
        for port in 1024..1024 + 4096 {
            external(&mut router, "10.1.1.50", port, "192.0.2.9");
        }
        // 500 with a standard deviation of 22.
        let seen = fullness(&mut router);
        assert!((400..600).contains(&seen), "{seen}");
    });
}

#[test]
fn a_guest_at_its_limit_is_refused_until_one_of_its_ports_is_free_again() {
    if needs::are_met(&["ip"]) {
        in_new_namespace(|| limit_guests(Hook::Tc));
        in_new_namespace(|| limit_guests(Hook::Xdp));
    }
}

fn limit_guests(hook: Hook) {
    let mut router = KernelRouter::new(hook).expect("the programs load");
    let outcome = |router: &mut KernelRouter, guest: &str, port| {
        router.send(Nic::Tier1, &datagram(guest, port, "192.0.2.9").bytes()).outcome
    };
    let refused = DropReason::GuestLimit.outcome();
    // Those from before count as soon as they are looked at.
    external(&mut router, "10.1.1.50", 5000, "192.0.2.9");
    router.dataplane().tables().set_ports_per_guest(10).expect("settings can be written");
    assert_eq!(expire(&mut router, Duration::from_secs(60), Duration::from_secs(60)), 0);
    for port in 5001..5010 {
        assert_eq!(outcome(&mut router, "10.1.1.50", port), FORWARDED, "port {port}");
    }
    for port in 6000..6100 {
        assert_eq!(outcome(&mut router, "10.1.1.50", port), refused, "port {port}");
    }
    assert_eq!(udp_pool(&mut router).taken, 10);
    external(&mut router, "10.1.1.51", 6000, "192.0.2.9");
    external(&mut router, "10.1.1.50", 5004, "198.51.100.9");
    // What was refused is not counted, however often one looks.
    for _ in 0..2 {
        assert_eq!(expire(&mut router, Duration::from_secs(60), Duration::from_secs(60)), 0);
        assert_eq!(outcome(&mut router, "10.1.1.50", 6000), refused);
    }
    sleep(TICKS);
    assert_eq!(expire(&mut router, Duration::ZERO, Duration::from_secs(60)), 12);
    assert_eq!(outcome(&mut router, "10.1.1.50", 6000), refused, "the ports are held");
    sleep(TICKS);
    expire(&mut router, Duration::ZERO, Duration::ZERO);
    assert_eq!(outcome(&mut router, "10.1.1.50", 6000), FORWARDED);
    // Without a limit nobody is counted.
    router.dataplane().tables().set_ports_per_guest(0).expect("settings can be written");
    for port in 7000..7020 {
        external(&mut router, "10.1.1.50", port, "192.0.2.9");
    }
}

#[test]
fn destinations_are_reached_untranslated_as_long_as_that_is_chosen() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::new(Hook::Xdp).expect("the programs load");
        let source = |router: &mut KernelRouter, port, server: &str| {
            let sent = router.send(Nic::Tier1, &datagram("10.1.1.50", port, server).bytes());
            assert_eq!(sent.outcome, FORWARDED);
            read(&sent.frame).ends.0.to_string()
        };
        let keys = ["192.0.2.0/24", "198.51.100.0/25"]
            .map(|network| NatKey::Untranslated(network.parse().expect("a network")));
        for key in &keys {
            router.dataplane().tables().set_nat(key, &NatEntry::Untranslated).expect("it is written");
        }
        let before = source(&mut router, 5000, "192.0.2.9");
        assert_eq!(before, PUBLIC, "the switch is off");
        router.dataplane().tables().set_flags(RouterConfig::UNTRANSLATED).expect("it is written");
        assert_eq!(source(&mut router, 5000, "192.0.2.9"), PUBLIC, "a flow that is there");
        for server in ["192.0.2.9", "192.0.2.255", "198.51.100.9"] {
            assert_eq!(source(&mut router, 5001, server), "10.1.1.50", "{server}");
        }
        for server in ["192.0.3.9", "198.51.100.129"] {
            assert_eq!(source(&mut router, 5001, server), PUBLIC, "{server}");
        }
        let observed = router.dataplane().tables().observe().expect("the tables can be read");
        assert!(keys.iter().all(|key| observed.nat.get(key) == Some(&NatEntry::Untranslated)));
        router.dataplane().tables().remove_nat(&keys[0]).expect("it is removed");
        assert_eq!(source(&mut router, 5002, "192.0.2.9"), PUBLIC);
        assert_eq!(source(&mut router, 5002, "198.51.100.9"), "10.1.1.50");
    });
}

#[test]
fn a_syn_that_nobody_asked_for_is_noted_once_where_it_is_to_be_answered() {
    if needs::are_met(&["ip"]) {
        in_new_namespace(|| note_syns(Hook::Tc));
        in_new_namespace(|| note_syns(Hook::Xdp));
    }
}

fn note_syns(hook: Hook) {
    let mut router = KernelRouter::new(hook).expect("the programs load");
    let (guest, server) = ("fd00:1::50", "2001:db8:100::77");
    let macs = (Nic::Public.mac(), host_mac(Nic::Public));
    let tcp =
        |port, flags| Frame::new(macs, server, guest, Payload::Tcp { src: port, dst: 80, flags }).bytes();
    let refuse = |router: &mut KernelRouter, frame: &[u8]| {
        assert_eq!(router.send(Nic::Public, frame).outcome, DropReason::NotPermitted.outcome());
    };
    let take = |router: &mut KernelRouter, patience, most| {
        router.dataplane().take_unsolicited_syns(patience, most).expect("they can be read")
    };
    refuse(&mut router, &tcp(4000, SYN));
    assert_eq!(take(&mut router, Duration::ZERO, 100), [], "nobody is to hear of it");
    router.dataplane().tables().set_flags(RouterConfig::ANSWER_SYNS).expect("settings can be written");
    for _ in 0..3 {
        refuse(&mut router, &tcp(4000, SYN));
    }
    sleep(TICKS);
    refuse(&mut router, &tcp(4001, SYN));
    // What no connection begins with, and another protocol.
    refuse(&mut router, &tcp(4002, ACK));
    let datagram = Frame::new(macs, server, guest, Payload::Udp { src: 4003, dst: 80 }).bytes();
    refuse(&mut router, &datagram);
    sleep(TICKS);
    assert_eq!(take(&mut router, Duration::from_secs(6), 100), [], "it is too early");
    let [first] = take(&mut router, Duration::ZERO, 1)[..] else { panic!("not one was taken") };
    assert_eq!((first.from.to_string(), &first.headers[..]), (server.to_owned(), &tcp(4000, SYN)[14..74]));
    // The guest opens the second itself meanwhile.
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    let own = Frame::new(macs, guest, server, Payload::Tcp { src: 80, dst: 4001, flags: SYN }).bytes();
    assert_eq!(router.send(Nic::Tier1, &own).outcome, FORWARDED);
    assert_eq!(take(&mut router, Duration::ZERO, 100), []);
}

/// What has been sent on each account, in bytes of IP packets, with the MAC address of its inside.
fn sent(router: &mut KernelRouter) -> Vec<(Option<[u8; 6]>, u64)> {
    let usage = router.dataplane().usage().expect("accounts can be read");
    usage.into_iter().map(|record| (record.key.map(|key| key.inside), record.sent.bytes)).collect()
}

#[test]
fn accounts_outlive_flows_and_whoever_loads_the_programs_and_only_grow() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    let ways: [fn() -> anyhow::Result<KernelRouter>; 3] =
        [|| KernelRouter::new(Hook::Xdp), || KernelRouter::new(Hook::Tc), KernelRouter::both_hooks];
    for router in ways {
        in_new_namespace(move || {
            let mut router = router().expect("the programs load");
            let frame = datagram("10.1.1.50", 5000, "192.0.2.9").bytes();
            let length = frame.len() as u64 - 14;
            let send = |router: &mut KernelRouter| {
                assert_eq!(router.send(Nic::Tier1, &frame).outcome, FORWARDED);
            };
            let of_tier1 = |bytes| vec![(Some(Nic::Tier1.mac()), bytes)];
            send(&mut router);
            send(&mut router);
            assert_eq!(sent(&mut router), of_tier1(2 * length));
            router.forget_flows().expect("flows can be removed");
            assert_eq!(sent(&mut router), of_tier1(2 * length), "flows have ended");
            send(&mut router);
            // As the next daemon does it.
            let _second = router.second().expect("the programs load again");
            send(&mut router);
            assert_eq!(sent(&mut router), of_tier1(4 * length));
            router.dataplane().zero_usage(|_| true).expect("accounts begin anew");
            assert_eq!(sent(&mut router), of_tier1(0));
            send(&mut router);
            assert_eq!(sent(&mut router), of_tier1(length));
        });
    }
}

#[test]
fn who_finds_no_account_left_is_on_that_of_others() {
    use router_common::port::Port;
    use router_common::usage::ACCOUNTS;
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::new(Hook::Tc).expect("the programs load");
        let (key, port) = router.port(Nic::Tier1);
        let mut length = 0;
        let mut from = |router: &mut KernelRouter, number: u32| {
            let [_, _, a, b] = number.to_be_bytes();
            let mac = [2, 0, 0, 9, a, b];
            router.dataplane().tables().set_port(key, &Port { mac, ..port }).expect("a port");
            let macs = (mac, host_mac(Nic::Tier1));
            let payload = Payload::Udp { src: 1024 + number as u16, dst: 53 };
            let frame = Frame::new(macs, "10.1.1.50", "192.0.2.9", payload).bytes();
            length = frame.len() as u64 - 14;
            router.push(Nic::Tier1, &frame).expect("the program runs");
            mac
        };
        // Number 0 is others', and more flows than accounts do not fit.
        let mut macs = vec![];
        for number in 1..ACCOUNTS + 2 {
            macs.push(from(&mut router, number));
            if number % 1000 == 0 {
                router.forget_flows().expect("flows can be removed");
            }
        }
        let mut seen = sent(&mut router);
        seen.sort_unstable();
        let known = macs[..ACCOUNTS as usize - 1].iter().map(|mac| (Some(*mac), length));
        let expected: Vec<_> = std::iter::once((None, 2 * length)).chain(known).collect();
        assert_eq!(seen, expected);
        assert!(router.dataplane().usage_is_full());
    });
}
