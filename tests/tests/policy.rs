//! Lists of rules: the tables say what the list says, read rule by rule.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use router_common::account::Hook;
use router_common::net::{Be16, Ipv4, Ipv6};
use router_common::verdict::{DropReason, FORWARDED};
use router_ebpf::policy::{Case, permits};
use router_ebpf::tables::Tables;
use router_tests::host::HostRouter;
use router_tests::kernel::{KernelRouter, in_new_namespace};
use router_tests::model::generate::Random;
use router_tests::needs;
use router_tests::packet::{Frame, Payload};
use router_tests::scenario::{Nic, Router, host_mac};
use router_userspace::dataplane::MAX_BINDINGS;
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
    let lengths: &[u8] = if v6 { &[0, 32, 48, 64, 112, 128] } else { &[0, 8, 15, 16, 17, 24, 31, 32] };
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
    let byte = |random: &mut Random| random.pick(&[None, Some(0), Some(3), Some(8)]);
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
    let Some(list) = world.list(number) else { return false };
    let mut case = Case::EMPTY;
    match (question.source, question.destination) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            case.ask::<Ipv4>((src.into(), dst.into()), protocol, port);
            permits::<Ipv4, _>(world, &list, &mut case, 1, false)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            case.ask::<Ipv6>((src.into(), dst.into()), protocol, port);
            permits::<Ipv6, _>(world, &list, &mut case, 1, false)
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
fn a_list_that_is_not_there_lets_nothing_pass() {
    let router = HostRouter::new(Hook::Tc);
    assert!(!permitted(&router, 1, &question(&mut Random::new(1))));
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
        let mut router = KernelRouter::with_room(hook, 1 << 14, MAX_BINDINGS).expect("the programs load");
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
        let mut router = KernelRouter::with_room(hook, 1 << 21, 4096).expect("the programs load");
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
