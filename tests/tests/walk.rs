//! The scenarios against the walk on the host, and what only a settable world can show.

use router_common::account::Hook;
use router_common::verdict::{DropReason, FORWARDED};
use router_tests::host::{HostRouter, ifindex};
use router_tests::packet::{Frame, Payload, read};
use router_tests::scenario::{Nic, Router, host_mac, scenarios};

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
fn a_moved_next_hop_is_followed_when_the_generation_moves_and_within_a_second_otherwise() {
    let mut router = HostRouter::new(Hook::Tc);
    let moved = [2, 0, 0, 0, 0xbb, 1];
    router.send(Nic::Tier1, &datagram("10.1.1.50", 5000));
    let routes = &router.world.v4.routes;
    for (_, _, route) in routes.borrow_mut().iter_mut() {
        if let router_ebpf::tables::Route::Via(next_hop) = route
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
    let mut router = HostRouter::new(Hook::Tc);
    router.send(Nic::Tier1, &datagram("10.1.1.50", 5000));
    router.world.v4.routes.borrow_mut().clear();
    router.world.now.set(router.world.now.get() + 1_000_000_000);
    assert_ne!(router.send(Nic::Tier1, &datagram("10.1.1.50", 5000)).outcome, FORWARDED);
}

#[test]
fn a_routed_flow_whose_way_turns_public_is_translated_from_then_on() {
    let mut router = HostRouter::new(Hook::Tc);
    let macs = (Nic::Tier1.mac(), host_mac(Nic::Tier1));
    let frame = Frame::new(macs, "10.1.1.50", "10.1.2.50", Payload::Udp { src: 5000, dst: 53 }).bytes();
    assert_eq!(read(&router.send(Nic::Tier1, &frame).frame).ends.0.to_string(), "10.1.1.50");
    // Tier 2's network goes: the default route leads to the public side.
    router.world.v4.routes.borrow_mut().retain(|(_, length, _)| *length == 0);
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

#[test]
fn random_bytes_never_panic_and_are_always_counted() {
    let mut state = 0x0123_4567_89ab_cdefu64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut router = HostRouter::new(Hook::Tc);
    let good = datagram("10.1.1.50", 5000);
    for _ in 0..200_000 {
        let mut frame = good.clone();
        for _ in 0..random() % 8 {
            let at = 12 + (random() as usize) % (frame.len() - 12);
            frame[at] = random() as u8;
        }
        frame.truncate(6 + (random() as usize) % (frame.len() - 6 + 1));
        router.send(Nic::Tier1, &frame);
    }
}
