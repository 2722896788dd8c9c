//! Lists of rules: the tables say what the list says, read rule by rule; and flows that they deny can be cut.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use router_common::account::Hook;
use router_common::nat::{Expected, ExternalKey};
use router_common::net::{Be16, Ipv4, Ipv6};
use router_common::port::Port;
use router_common::verdict::{DropReason, FORWARDED};
use router_ebpf::policy::{Case, permits};
use router_tests::host::HostRouter;
use router_tests::kernel::{KernelRouter, in_new_namespace};
use router_tests::model::generate::Random;
use router_tests::needs;
use router_tests::packet::{Frame, Payload};
use router_tests::scenario::{Nic, PUBLIC, Router, host_mac};
use router_userspace::compile::policy::ListEntry;
use router_userspace::dataplane::{MAX_BINDINGS, Room};
use router_userspace::model::PortRange;
use router_userspace::model::policy::{AccessList, Action, Question, Rule, Traffic};

/// Addresses and networks that meet each other: few bits that differ.
fn address(random: &mut Random, v6: bool) -> IpAddr {
    if v6 {
        let (first, second) = random.pick(&[(0x2001, 0xdb8), (0xfd00, 1)]);
        let segments = [first, second, random.pick(&[0, 1]), 0, 0, 0, 0, random.pick(&[1, 2, 0x50, 0x8000])];
        return Ipv6Addr::from(segments).into();
    }
    let octets = [
        random.pick(&[10, 10, 192]),
        random.pick(&[0, 1, 2]),
        random.pick(&[0, 1, 128]),
        random.pick(&[0, 1, 50, 51, 255]),
    ];
    Ipv4Addr::from(octets).into()
}

fn network(random: &mut Random, v6: bool) -> IpNet {
    let lengths: &[u8] =
        if v6 { &[0, 32, 47, 48, 64, 112, 127, 128] } else { &[0, 8, 15, 16, 17, 24, 31, 32] };
    IpNet::new(address(random, v6), random.pick(lengths)).expect("a length")
}

fn networks(random: &mut Random) -> Vec<IpNet> {
    let count = random.pick(&[0, 0, 1, 1, 2, 5]);
    (0..count)
        .map(|_| {
            let v6 = random.pick(&[false, false, true]);
            network(random, v6)
        })
        .collect()
}

const PORTS: &[u16] = &[1, 22, 53, 80, 443, 1023, 1024, 8080, 32_768, 65_535];

fn traffic(random: &mut Random) -> Traffic {
    let range = |random: &mut Random| {
        let (a, b) = (random.pick(PORTS), random.pick(PORTS));
        match random.pick(&[0, 1, 2]) {
            0 => None,
            1 => PortRange::new(a, a).ok(),
            _ => PortRange::new(a.min(b), a.max(b)).ok(),
        }
    };
    let byte = |random: &mut Random| random.pick(&[None, Some(0), Some(3), Some(8), Some(13)]);
    match random.pick(&[0, 1, 1, 1, 2, 2, 3, 4]) {
        0 => Traffic::Any,
        1 => Traffic::Tcp(range(random)),
        2 => Traffic::Udp(range(random)),
        3 => Traffic::Icmp { kind: byte(random), code: byte(random) },
        _ => Traffic::Protocol(random.pick(&[6, 17, 47, 50])),
    }
}

fn rule(random: &mut Random) -> Arc<Rule> {
    let action = random.pick(&[Action::Allow, Action::Deny]);
    let traffic = traffic(random);
    Arc::new(Rule::new(0, action, traffic, networks(random), networks(random)))
}

/// Some are about few networks and protocols over and over, more than one place takes.
fn list(random: &mut Random) -> Arc<AccessList> {
    let count = random.pick(&[0, 1, 2, 5, 10, 30, 100]);
    let default = random.pick(&[Action::Allow, Action::Deny]);
    if random.percent(10) {
        let few: Vec<_> = (0..4).map(|_| (traffic(random), networks(random), networks(random))).collect();
        let crowded = (0..3 * count).map(|_| {
            let (traffic, sources, destinations) = &few[random.below(few.len())];
            let action = random.pick(&[Action::Allow, Action::Deny]);
            Arc::new(Rule::new(0, action, *traffic, sources.clone(), destinations.clone()))
        });
        return Arc::new(AccessList::new(crowded.collect(), default));
    }
    Arc::new(AccessList::new((0..count).map(|_| rule(random)).collect(), default))
}

/// The list with some rules less and some more.
fn edited(random: &mut Random, list: &AccessList) -> Arc<AccessList> {
    let mut rules = list.rules.clone();
    for _ in 0..random.pick(&[0, 1, 1, 3]) {
        let at = random.below(rules.len() + 1);
        rules.insert(at, rule(random));
    }
    for _ in 0..random.pick(&[0, 1, 1, 3]) {
        if !rules.is_empty() {
            rules.remove(random.below(rules.len()));
        }
    }
    if random.pick(&[false, false, true]) && rules.len() > 1 {
        let (from, to) = (random.below(rules.len()), random.below(rules.len()));
        rules.swap(from, to);
    }
    Arc::new(AccessList::new(rules, list.default))
}

fn question(random: &mut Random) -> Question {
    let v6 = random.pick(&[false, false, true]);
    let protocol = random.pick(&[6, 6, 17, if v6 { 58 } else { 1 }, 47, 50]);
    let port = match protocol {
        6 | 17 => random.pick(&[PORTS, &[2, 79, 81, 5000]].concat()),
        1 | 58 => u16::from_be_bytes([random.pick(&[0, 3, 8, 13]), random.pick(&[0, 3])]),
        _ => 0,
    };
    Question { source: address(random, v6), destination: address(random, v6), protocol, port }
}

fn permitted(router: &HostRouter, number: u32, question: &Question) -> bool {
    let (protocol, port, world) = (question.protocol, Be16::new(question.port), &router.world);
    let mut case = Case::EMPTY;
    match (question.source, question.destination) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            case.ask::<Ipv4>((src.into(), dst.into()), protocol, port);
            permits::<Ipv4, _>(world, number, &mut case, 1, false)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            case.ask::<Ipv6>((src.into(), dst.into()), protocol, port);
            permits::<Ipv6, _>(world, number, &mut case, 1, false)
        }
        _ => unreachable!("both ends are of one family"),
    }
}

fn agree(router: &HostRouter, number: u32, list: &AccessList, random: &mut Random, asked: &mut [u32; 2]) {
    for _ in 0..100 {
        let question = question(random);
        let (rule, action) = list.judge(&question);
        let allowed = permitted(router, number, &question);
        asked[usize::from(allowed)] += 1;
        assert_eq!(allowed, action == Action::Allow, "{question:?}: {rule:?} of {list:#?}");
        let judged = router.world.classifier.borrow().judge(number, &question);
        assert_eq!(judged, Some(action), "{question:?}: {rule:?} of {list:#?}");
    }
}

#[test]
fn the_tables_say_what_the_list_says() {
    let router = HostRouter::new(Hook::Tc);
    let mut random = Random::new(1);
    let mut asked = [0; 2];
    for _ in 0..500 {
        let list = list(&mut random);
        router.world.set_list(1, &list);
        agree(&router, 1, &list, &mut random, &mut asked);
    }
    assert!(asked.iter().all(|answers| *answers > 5000), "{asked:?}");
}

/// Lists that were made from each other, of which some are forgotten again: each says what it should, and in the
/// end nothing is left of them.
#[test]
fn lists_share_what_they_have_in_common_and_do_not_disturb_each_other() {
    let router = HostRouter::new(Hook::Tc);
    let mut random = Random::new(3);
    let mut asked = [0; 2];
    let mut there: Vec<(u32, Arc<AccessList>)> = vec![];
    for number in 1..=600 {
        let list = match there.last() {
            Some((_, last)) if number % 40 != 0 => edited(&mut random, last),
            _ => list(&mut random),
        };
        router.world.set_list(number, &list);
        there.push((number, list));
        if there.len() > 3 {
            let (gone, _) = there.remove(random.below(there.len() - 1));
            router.world.lists.borrow_mut().remove(&gone);
            router.world.classifier.borrow_mut().forget(gone);
        }
        for (number, list) in &there {
            agree(&router, *number, list, &mut random, &mut asked);
        }
    }
    assert!(asked.iter().all(|answers| *answers > 5000), "{asked:?}");
    let mut classifier = router.world.classifier.borrow_mut();
    for (number, _) in there {
        classifier.forget(number);
    }
    assert_eq!((classifier.blocks().0, classifier.counters().0), (0, 0));
}

#[test]
fn many_lists_that_were_made_from_each_other_say_what_each_says() {
    let router = HostRouter::new(Hook::Tc);
    let mut random = Random::new(5);
    let mut asked = [0; 2];
    let first = AccessList::new((0..100).map(|_| rule(&mut random)).collect(), Action::Deny);
    let mut lists = vec![Arc::new(first)];
    for number in 1..=30 {
        lists.push(edited(&mut random, &lists[number - 1]));
    }
    for (number, list) in (1..).zip(&lists) {
        router.world.set_list(number, list);
    }
    for (number, list) in (1..).zip(&lists) {
        agree(&router, number, list, &mut random, &mut asked);
        agree(&router, number, list, &mut random, &mut asked);
    }
}

/// Nodes of all three tries come and go, and in the end a list is left that is short again.
#[test]
fn a_long_list_that_changes_again_and_again_says_what_it_should() {
    let router = HostRouter::new(Hook::Tc);
    let mut random = Random::new(7);
    let mut asked = [0; 2];
    let mut rules: Vec<_> = (0..1000).map(|_| rule(&mut random)).collect();
    for number in 1..=60 {
        let list = Arc::new(AccessList::new(rules.clone(), Action::Deny));
        router.world.set_list(number, &list);
        if number > 2 {
            router.world.classifier.borrow_mut().forget(number - 2);
        }
        agree(&router, number, &list, &mut random, &mut asked);
        for _ in 0..random.below(40) {
            rules.remove(random.below(rules.len()));
        }
        if number < 30 {
            rules.extend((0..random.below(40)).map(|_| rule(&mut random)));
            rules.insert(random.below(rules.len()), rule(&mut random));
        }
    }
    assert!(asked.iter().all(|answers| *answers > 1000), "{asked:?}");
}

#[test]
fn a_list_that_is_not_there_lets_nothing_pass() {
    let router = HostRouter::new(Hook::Tc);
    let question = question(&mut Random::new(1));
    assert!(!permitted(&router, 1, &question));
    assert_eq!(router.world.classifier.borrow().judge(1, &question), None);
}

#[test]
fn what_was_asked_before_is_not_looked_for_again_until_the_list_changes_and_is_counted_all_the_same() {
    let router = HostRouter::new(Hook::Tc);
    let world = &router.world;
    let ask = |question: &Question| {
        world.looked_at.replace(Some(vec![]));
        let allowed = permitted(&router, 1, question);
        (allowed, world.looked_at.take().is_some_and(|blocks| !blocks.is_empty()))
    };
    let to_web = |action| {
        let web = Traffic::Tcp(PortRange::new(80, 80).ok());
        let everybody = vec!["0.0.0.0/0".parse().expect("a network")];
        Arc::new(AccessList::new(vec![Arc::new(Rule::new(1, action, web, everybody, vec![]))], Action::Deny))
    };
    let counted = || world.rule_counts.borrow().values().map(|(packets, _)| *packets).collect::<Vec<_>>();
    let question = |source: &str, destination: &str| Question {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        protocol: 6,
        port: 80,
    };
    let v4 = question("10.1.1.50", "10.2.0.1");
    // Its first bits are the same.
    let v6 = question("a01:132::", "a02:1::");
    world.set_list(1, &to_web(Action::Allow));
    assert_eq!([ask(&v4), ask(&v4), ask(&v4)], [(true, true), (true, false), (true, false)]);
    assert_eq!(counted(), [3]);
    assert!(!ask(&v6).0);
    assert_eq!(ask(&Question { port: 81, ..v4 }), (false, true));
    world.set_list(1, &to_web(Action::Deny));
    assert_eq!([ask(&v4), ask(&v4)], [(false, true), (false, false)]);
}

/// The programs judge by the list of tier 1, from whose hosts packets go anywhere: lists that are new, and lists
/// that were made from the one before.
fn programs_agree(hook: Hook) {
    if !needs::are_met(&["ip"]) {
        return;
    }
    let pairs = setting("XVR_POLICY_PAIRS").unwrap_or(6_000);
    let of_a_list = (pairs / 150).clamp(40, 2_000) as u16;
    in_new_namespace(move || {
        let mut router = KernelRouter::with_room(hook, Room { flows: 1 << 14, bindings: MAX_BINDINGS })
            .expect("the programs load");
        let seed = setting("XVR_POLICY_SEED").unwrap_or(2);
        let mut random = Random::new(seed);
        let mut answers = [0; 2];
        let mut list = list(&mut random);
        for number in 1.. {
            router.judge_tier1_by(number, &list).expect("the list is written");
            let mut asked = HashSet::new();
            for at in 0..of_a_list {
                let (frame, question) = from_tier1(&mut random, at);
                // What has no ports is one flow both ways, and known from then on.
                let ends = [question.source, question.destination];
                let is_new = match question.protocol {
                    6 | 17 => true,
                    protocol => {
                        asked.insert((protocol, ends)) && asked.insert((protocol, [ends[1], ends[0]]))
                    }
                };
                if !is_new {
                    continue;
                }
                let outcome = router.send(Nic::Tier1, &frame.bytes()).outcome;
                let is_denied = outcome == DropReason::Policy.outcome();
                let (rule, action) = list.judge(&question);
                answers[usize::from(is_denied)] += 1;
                assert_eq!(
                    is_denied,
                    action == Action::Deny,
                    "seed {seed}: {question:?}: {rule:?} of {list:#?}"
                );
            }
            let [passed, denied] = answers;
            if passed + denied >= pairs {
                println!("{}: {passed} passed and {denied} denied, by {number} lists", hook.label());
                break;
            }
            if number % 500 == 0 {
                println!("{}: {} of {pairs} pairs", hook.label(), passed + denied);
            }
            router.forget_flows().expect("flows can be forgotten");
            list = match random.percent(60) {
                true => edited(&mut random, &list),
                false => self::list(&mut random),
            };
        }
        assert!(answers.iter().all(|answers| *answers > pairs / 6), "{answers:?}");
    });
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// A flow's first packet, the so-many-th, and what a list is asked about it.
fn from_tier1(random: &mut Random, at: u16) -> (Frame, Question) {
    let v6 = random.pick(&[false, false, true]);
    let hosts: &[&str] =
        if v6 { &["fd00:1::50", "fd00:1::51"] } else { &["10.1.1.50", "10.1.1.51", "10.1.1.200"] };
    let source = random.pick(hosts);
    let destination = loop {
        let address = address(random, v6);
        // Not to itself, to the router or to everybody.
        let is_odd = match address {
            IpAddr::V4(address) => matches!(address.octets()[3], 0 | 1 | 255),
            IpAddr::V6(address) => address.segments()[7] == 1,
        };
        if !is_odd && address.to_string() != source {
            break address;
        }
    };
    let port = random.pick(&[PORTS, &[2, 79, 81, 5000]].concat());
    let payload = match random.pick(&[0, 0, 1, 2, 3]) {
        0 => Payload::Tcp { src: 2000 + at, dst: port, flags: 2 },
        1 => Payload::Udp { src: 2000 + at, dst: port },
        2 => Payload::Echo { kind: if v6 { 128 } else { 8 }, id: 2000 + at },
        _ => Payload::Other { protocol: random.pick(&[47, 50]) },
    };
    let (protocol, port) = match payload {
        Payload::Tcp { dst, .. } => (6, dst),
        Payload::Udp { dst, .. } => (17, dst),
        Payload::Echo { kind, .. } => (if v6 { 58 } else { 1 }, u16::from(kind) << 8),
        Payload::Other { protocol } => (protocol, 0),
        Payload::Error { .. } => unreachable!("none is made"),
    };
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    let frame = Frame::new(macs, source, &destination.to_string(), payload);
    (frame, Question { source: source.parse().expect("an address"), destination, protocol, port })
}

#[test]
fn the_tc_program_says_what_the_list_says() {
    programs_agree(Hook::Tc);
}

#[test]
fn the_xdp_program_says_what_the_list_says() {
    programs_agree(Hook::Xdp);
}

/// Whether TCP to low ports passes, or to high ones; behind rules about others, so that a list is a hundred
/// blocks, most of which change from one list to the next.
fn half(random: &mut Random, low: bool) -> Arc<AccessList> {
    let others = (0..100).map(|_| {
        let host = IpAddr::from(Ipv4Addr::from(0x0a02_0000 | random.below(1 << 16) as u32));
        let network = IpNet::new(host, random.pick(&[24, 28, 32])).expect("a length");
        Arc::new(Rule::new(0, Action::Deny, traffic(random), vec![network], vec![]))
    });
    let mut rules: Vec<_> = others.collect();
    let (first, last) = if low { (1, 32_767) } else { (32_768, 65_535) };
    let range = PortRange::new(first, last).expect("a range");
    let tier: IpNet = "10.1.1.0/24".parse().expect("a network");
    let halves = Rule::new(0, Action::Allow, Traffic::Tcp(Some(range)), vec![tier], vec![]);
    rules.insert(random.below(rules.len()), Arc::new(halves));
    Arc::new(AccessList::new(rules, Action::Deny))
}

/// One CPU sends first packets in pairs, one for each half, as fast as it can; another switches the port from
/// one half to the other and back. Of a pair between two switches exactly one passes.
fn no_packet_meets_a_mixture(hook: Hook) {
    const SWITCHES: u32 = 1000;
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(move || {
        let mut router = KernelRouter::with_room(hook, Room { flows: 1 << 21, bindings: 4096 })
            .expect("the programs load");
        let mut switcher = router.second().expect("the tables open twice");
        // Odd while the port is being switched.
        let switches = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&switches);
        let switching = std::thread::spawn(move || {
            let mut random = Random::new(4);
            for number in 1..=SWITCHES {
                let list = half(&mut random, number % 2 == 1);
                switcher.write(number, &list).expect("the list is written");
                counted.fetch_add(1, Ordering::SeqCst);
                switcher.judge_tier1_by(number).expect("the port is switched");
                counted.fetch_add(1, Ordering::SeqCst);
                if number > 1 {
                    switcher.forget(number - 1).expect("the list is removed");
                }
            }
        });
        let (mut pairs, mut between) = (0u32, [0u32; 2]);
        while !switching.is_finished() {
            let before = switches.load(Ordering::SeqCst);
            let passes = |router: &mut KernelRouter, port: u16| {
                // Each is a flow of its own.
                let (src, low) = (1024 + (pairs >> 9) as u16, (pairs & 0x1ff) as u16);
                let payload = Payload::Tcp { src, dst: port | low, flags: 2 };
                let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
                let frame = Frame::new(macs, "10.1.1.50", "192.0.2.9", payload);
                let outcome = router.send(Nic::Tier1, &frame.bytes()).outcome;
                assert!(outcome == FORWARDED || outcome == DropReason::Policy.outcome(), "{outcome}");
                outcome == FORWARDED
            };
            let (low, high) = (passes(&mut router, 0x1000), passes(&mut router, 0x9000));
            let after = switches.load(Ordering::SeqCst);
            if before == after && before.is_multiple_of(2) && before > 0 {
                let is_low = before / 2 % 2 == 1;
                assert_eq!((low, high), (is_low, !is_low), "after {} switches", before / 2);
                between[usize::from(is_low)] += 1;
            }
            pairs += 1;
        }
        switching.join().expect("the switches are made");
        assert!(between.iter().all(|pairs| *pairs > 1000), "{between:?} of {pairs} pairs");
    });
}

#[test]
fn a_thousand_switches_show_the_tc_program_no_mixture() {
    no_packet_meets_a_mixture(Hook::Tc);
}

#[test]
fn a_thousand_switches_show_the_xdp_program_no_mixture() {
    no_packet_meets_a_mixture(Hook::Xdp);
}

/// A first frame of each kind of flow that lists see differently, which are known by their source ports.
fn openings(first_port: u16) -> Vec<(u16, Nic, Vec<u8>)> {
    use Nic::{Public, Public2, Tier1, Tier2};
    let tcp = |dst| move |src| Payload::Tcp { src, dst, flags: 2 };
    let udp = |dst| move |src| Payload::Udp { src, dst };
    let echo = |kind| move |id| Payload::Echo { kind, id };
    type Kind<'a> = (Nic, &'a str, &'a str, &'a dyn Fn(u16) -> Payload);
    let kinds: &[Kind<'_>] = &[
        (Tier1, "10.1.1.50", "192.0.2.9", &tcp(80)),
        (Tier1, "10.1.1.51", "192.0.2.9", &udp(53)),
        (Tier1, "10.1.1.50", "192.0.2.9", &echo(8)),
        (Tier1, "10.1.1.60", "192.0.2.9", &tcp(1024)),
        (Tier1, "10.1.1.50", "10.1.2.50", &tcp(22)),
        (Tier2, "10.1.2.50", "10.1.1.50", &udp(443)),
        (Tier2, "10.1.2.60", "203.0.113.21", &tcp(8080)),
        (Public, "192.0.2.9", "203.0.113.21", &tcp(8080)),
        (Public, "192.0.2.9", "203.0.113.21", &udp(30_005)),
        (Public, "192.0.2.8", "203.0.113.20", &udp(1023)),
        (Public, "192.0.2.8", "203.0.113.20", &echo(8)),
        (Public2, "192.0.2.9", "203.0.114.20", &tcp(1)),
        (Tier1, "fd00:1::50", "2001:db8:100::77", &tcp(443)),
        (Tier1, "fd00:1::50", "fd00:2::50", &echo(128)),
        (Public, "2001:db8:100::77", "fd00:1::50", &tcp(80)),
        (Public, "2001:db8:100::77", "fd00:2::50", &udp(80)),
    ];
    let frame = |(port, (nic, src, dst, payload)): (u16, &Kind<'_>)| {
        (port, *nic, Frame::new((nic.mac(), host_mac(*nic)), src, dst, payload(port)).bytes())
    };
    (first_port..).zip(kinds).map(frame).collect()
}

/// Everything passes, and is judged by a list where nothing passes without one.
fn judge_nothing(router: &mut KernelRouter) {
    let everything = Arc::new(AccessList::new(vec![], Action::Allow));
    router.dataplane().tables().add_list(1, &ListEntry::of(&everything)).expect("the list is written");
    for nic in Nic::ALL {
        let (key, mut port) = router.port(nic);
        port.to_list = 1;
        router.dataplane().tables().set_port(key, &port).expect("the port is written");
    }
    for address in FIREWALLED {
        router.dataplane().tables().remove_firewall(address).expect("the table is written");
    }
}

const FIREWALLED: [Ipv4Addr; 3] =
    [Ipv4Addr::new(203, 0, 113, 20), Ipv4Addr::new(203, 0, 113, 21), Ipv4Addr::new(203, 0, 114, 20)];

/// Ports and public addresses get lists of their own, some of them none.
fn judge_by_anything(router: &mut KernelRouter, random: &mut Random) {
    let mut number = 1;
    let mut some_list = |router: &mut KernelRouter, random: &mut Random| {
        if random.below(2) == 0 {
            return 0;
        }
        number += 1;
        let list = ListEntry::of(&list(random));
        router.dataplane().tables().add_list(number, &list).expect("the list is written");
        number
    };
    for nic in Nic::ALL {
        let (key, mut port) = router.port(nic);
        port.from_list = some_list(router, random);
        port.to_list = some_list(router, random);
        port.outside_list = some_list(router, random);
        router.dataplane().tables().set_port(key, &port).expect("the port is written");
    }
    for address in FIREWALLED {
        let list = some_list(router, random);
        if list != 0 {
            router.dataplane().tables().set_firewall(address, list).expect("the table is written");
        }
    }
}

/// Flows begin, then lists come, and flows are cut: those that could not begin any more, as the programs themselves
/// say when the same frames come again as first ones.
fn cuts_are_what_could_not_begin(hook: Hook) {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(move || {
        let mut router = KernelRouter::new(hook).expect("the programs load");
        let mut random = Random::new(5);
        let (mut answers, mut all) = ([0; 2], 0);
        for round in 0..100 {
            judge_nothing(&mut router);
            let frames = openings(2000 + 20 * round);
            for (port, nic, frame) in &frames {
                assert_eq!(router.send(*nic, frame).outcome, FORWARDED, "port {port} by {nic:?}");
            }
            judge_by_anything(&mut router, &mut random);
            let cut = router.dataplane().cut_denied().expect("flows are cut");
            assert_eq!(router.dataplane().flow_entries().expect("flows can be read").1, 0, "half a flow");
            let left = router.dataplane().flows().expect("flows can be read");
            let left: HashSet<u16> = left.iter().map(|flow| flow.src.1).collect();
            assert_eq!(cut + left.len(), frames.len());
            all += cut as u64;
            router.forget_flows().expect("flows can be forgotten");
            for (port, nic, frame) in &frames {
                let begins = router.send(*nic, frame).outcome == FORWARDED;
                assert_eq!(left.contains(port), begins, "kind {} by {nic:?}", port % 20);
                answers[usize::from(begins)] += 1;
            }
            router.forget_flows().expect("flows can be forgotten");
        }
        assert!(answers.iter().all(|answers| *answers > 400), "{answers:?}");
        assert_eq!(router.dataplane().cut_flows(), all);
    });
}

#[test]
fn cut_flows_are_those_that_the_tc_program_would_not_let_begin() {
    cuts_are_what_could_not_begin(Hook::Tc);
}

#[test]
fn cut_flows_are_those_that_the_xdp_program_would_not_let_begin() {
    cuts_are_what_could_not_begin(Hook::Xdp);
}

#[test]
fn a_flow_that_a_helper_expected_is_not_cut() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::new(Hook::Tc).expect("the programs load");
        let address = |text: &str| Ipv4::from(text.parse::<Ipv4Addr>().expect("an address"));
        let external = ExternalKey {
            external: address(PUBLIC),
            port: Be16::new(5500),
            router: 0,
            protocol: 6,
            pad: [0; 3],
        };
        let (peer, guest) = (address("192.0.2.9"), address("10.1.1.50"));
        let whom = Expected { until: u64::MAX, peer, guest, port: Be16::new(2000), pad: [0; 6] };
        router.expect(&external, &whom).expect("it is written");
        let from_outside = |dst: &str, port: u16| {
            let macs = (Nic::Public.mac(), host_mac(Nic::Public));
            Frame::new(macs, "192.0.2.9", dst, Payload::Tcp { src: 20, dst: port, flags: 2 }).bytes()
        };
        for (dst, port) in [(PUBLIC, 5500), ("203.0.113.21", 8080)] {
            assert_eq!(router.send(Nic::Public, &from_outside(dst, port)).outcome, FORWARDED);
        }
        let nothing = Arc::new(AccessList::new(vec![], Action::Deny));
        router.dataplane().tables().add_list(1, &ListEntry::of(&nothing)).expect("the list is written");
        let (key, mut port) = router.port(Nic::Tier1);
        port.to_list = 1;
        router.dataplane().tables().set_port(key, &port).expect("the port is written");
        assert_eq!(router.dataplane().cut_denied().expect("flows are cut"), 1);
        let left = router.dataplane().flows().expect("flows can be read");
        assert_eq!(left.iter().map(|flow| flow.dst.1).collect::<Vec<_>>(), [5500]);
        // Whoever comes under the same port later, when nobody is expected any more, is like others.
        router.expect(&external, &Expected { until: 1, ..whom }).expect("it is written");
        assert_eq!(router.dataplane().cut_denied().expect("flows are cut"), 1);
    });
}

/// Neither end of a TCP connection brings it back, until it may begin again.
fn what_is_cut_stays_cut(hook: Hook) {
    const ACK: u8 = 16;
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(move || {
        let mut router = KernelRouter::new(hook).expect("the programs load");
        let frame = |nic: Nic, (src, dst), (src_port, dst_port), flags| {
            let payload = Payload::Tcp { src: src_port, dst: dst_port, flags };
            Frame::new((nic.mac(), host_mac(nic)), src, dst, payload).bytes()
        };
        // From a guest to another tier, and from outside to static NAT.
        let (guest, other) = ("10.1.1.50", "10.1.2.50");
        let (far, public, behind) = ("192.0.2.9", "203.0.114.20", "10.1.2.60");
        let questions = |flags| {
            let outside = frame(Nic::Public2, (far, public), (4000, 22), flags);
            [(Nic::Tier1, frame(Nic::Tier1, (guest, other), (4000, 22), flags)), (Nic::Public2, outside)]
        };
        let answers = [
            (Nic::Tier2, frame(Nic::Tier2, (other, guest), (22, 4000), ACK)),
            (Nic::Tier2, frame(Nic::Tier2, (behind, far), (22, 4000), ACK)),
        ];
        let outcomes = |router: &mut KernelRouter| {
            let frames = questions(ACK).into_iter().chain(answers.clone());
            frames.map(|(nic, frame)| router.send(nic, &frame).outcome).collect::<Vec<_>>()
        };
        for (nic, frame) in questions(2) {
            assert_eq!(router.send(nic, &frame).outcome, FORWARDED);
        }
        assert_eq!(outcomes(&mut router), [FORWARDED; 4]);
        let nothing = Arc::new(AccessList::new(vec![], Action::Deny));
        router.dataplane().tables().add_list(1, &ListEntry::of(&nothing)).expect("the list is written");
        let (key, port) = router.port(Nic::Tier2);
        let closed = Port { to_list: 1, ..port };
        for forgets in [false, true] {
            router.dataplane().tables().set_port(key, &closed).expect("the port is written");
            assert_eq!(router.dataplane().cut_denied().expect("flows are cut"), 2);
            assert_eq!(router.dataplane().cut_denied().expect("flows are cut"), 0, "again");
            assert!(router.dataplane().flows().expect("flows can be read").is_empty());
            assert_eq!(outcomes(&mut router), [DropReason::WrongPort.outcome(); 4]);
            assert_eq!(router.dataplane().flow_entries().expect("flows can be read"), (4, 0));
            router.dataplane().tables().set_port(key, &port).expect("the port is written");
            if forgets {
                router.dataplane().forget_cut().expect("it is forgotten");
            } else {
                assert_eq!(router.dataplane().cut_denied().expect("flows are cut"), 0);
            }
            assert_eq!(outcomes(&mut router), [FORWARDED; 4], "they may begin again");
        }
        assert_eq!(router.dataplane().cut_flows(), 4);
    });
}

#[test]
fn a_connection_that_was_cut_stays_cut_in_the_tc_program() {
    what_is_cut_stays_cut(Hook::Tc);
}

#[test]
fn a_connection_that_was_cut_stays_cut_in_the_xdp_program() {
    what_is_cut_stays_cut(Hook::Xdp);
}

/// Flows that are denied in one direction are cut while packets of both come in, those of the other opening flows of
/// their own: whatever is left is whole.
fn no_flow_is_split(hook: Hook) {
    const FLOWS: u16 = 200;
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(move || {
        let mut router = KernelRouter::new(hook).expect("the programs load");
        let frame = |nic: Nic, (src, dst), (src_port, dst_port)| {
            let payload = Payload::Udp { src: src_port, dst: dst_port };
            Frame::new((nic.mac(), host_mac(nic)), src, dst, payload).bytes()
        };
        let (one, other) = ("10.1.1.50", "10.1.2.50");
        let questions: Vec<_> =
            (2000..2000 + FLOWS).map(|port| frame(Nic::Tier1, (one, other), (port, 53))).collect();
        let answers: Vec<_> =
            (2000..2000 + FLOWS).map(|port| frame(Nic::Tier2, (other, one), (53, port))).collect();
        let nothing = Arc::new(AccessList::new(vec![], Action::Deny));
        let mut switcher = router.second().expect("the tables open twice");
        switcher.write(1, &nothing).expect("the list is written");
        let mut all = 0;
        for _ in 0..60 {
            let (key, port) = router.port(Nic::Tier1);
            router.dataplane().tables().set_port(key, &port).expect("the port is written");
            for question in &questions {
                assert_eq!(router.send(Nic::Tier1, question).outcome, FORWARDED);
            }
            all += std::thread::scope(|scope| {
                let cutting = scope.spawn(|| {
                    switcher.judge_tier1_by(1).expect("the port is switched");
                    switcher.cut_denied().expect("flows are cut")
                });
                while !cutting.is_finished() {
                    for (question, answer) in questions.iter().zip(&answers) {
                        router.push(Nic::Tier2, answer).expect("the program runs");
                        router.push(Nic::Tier1, question).expect("the program runs");
                    }
                }
                cutting.join().expect("the thread ends")
            });
            let (entries, alone) = router.dataplane().flow_entries().expect("flows can be read");
            assert_eq!(alone, 0, "of {entries} entries");
            router.forget_flows().expect("flows can be forgotten");
        }
        assert!(all > usize::from(FLOWS) * 50, "{all} flows were cut");
    });
}

#[test]
fn no_flow_is_split_by_cutting_it_under_the_tc_program() {
    no_flow_is_split(Hook::Tc);
}

#[test]
fn no_flow_is_split_by_cutting_it_under_the_xdp_program() {
    no_flow_is_split(Hook::Xdp);
}
