//! Ports that are on bridges, in the walk on the host: what becomes of each frame.

use router_common::account::Hook;
use router_common::bridge::{FdbEntry, FdbKey};
use router_common::port::{Carrier, Port, Role, TagKey};
use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};
use router_ebpf::packet::SliceFrame;
use router_ebpf::walk::walk;
use router_tests::host::{HostRouter, ifindex, port};
use router_tests::packet::{Frame, Payload};
use router_tests::scenario::{Nic, Router};
use router_tests::trunk::tagged;

const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Tc];
const VLAN: u16 = 0x8100;
/// Ports of one bridge: own interfaces and VLANs.
const BLUE: [(u32, u16); 3] = [(31, 100), (32, 200), (33, 300)];
/// Those of another.
const GREEN: [(u32, u16); 2] = [(41, 400), (42, 401)];
const ANN: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const BOB: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const EVERYBODY: [u8; 6] = [0xff; 6];

/// The first tier's NIC is a trunk, on which bridges are beside the tier.
fn with_bridges(hook: Hook) -> HostRouter {
    let router = HostRouter::new(hook);
    let trunk = ifindex(Nic::Tier1);
    for members in [&BLUE[..], &GREEN[..]] {
        let (bridge, _) = members[0];
        for (index, vlan) in members.iter().copied() {
            let entry = Port {
                slot: index,
                mtu: 1500,
                role: Role::Bridged as u8,
                mac: [2, 0, 0, 0, 0xee, index as u8],
                flags: Port::XDP_TARGET | Port::TAGGED,
                bridge,
                ..port(Nic::Tier1)
            };
            let carrier = Carrier {
                trunk,
                outer_protocol: VLAN,
                outer: vlan,
                inner_protocol: 0,
                inner: 0,
                priority: Carrier::KEEP_PRIORITY,
            };
            router.world.ports.borrow_mut().insert(index, entry);
            router.world.carriers.borrow_mut().insert(index, carrier);
            router.world.tagged.borrow_mut().insert(TagKey::of(trunk, vlan, 0), index);
        }
        let members = members.iter().map(|(index, _)| *index).collect();
        router.world.bridges.members.borrow_mut().insert(bridge, members);
    }
    router
}

fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let payload = Payload::Udp { src: 5000, dst: 53 };
    Frame::new((to, from), "10.9.9.1", "10.9.9.2", payload).bytes()
}

/// What becomes of a frame with the tag of a VLAN, and to which ports copies went.
fn send(router: &mut HostRouter, vlan: u16, frame: &[u8]) -> (u32, Vec<u8>, Vec<u32>) {
    router.world.bridges.flooded.borrow_mut().clear();
    let sent = router.send(Nic::Tier1, &tagged(frame, &[(VLAN, vlan)]));
    (sent.outcome, sent.frame, router.world.bridges.flooded.take())
}

/// As after a frame that the router has heard from each.
fn acquainted(hook: Hook) -> HostRouter {
    let mut router = with_bridges(hook);
    send(&mut router, 100, &frame(EVERYBODY, ANN));
    send(&mut router, 200, &frame(EVERYBODY, BOB));
    router
}

#[test]
fn what_is_for_a_station_goes_to_its_port_with_its_tag() {
    for hook in HOOKS {
        let mut router = acquainted(hook);
        let (outcome, bytes, copies) = send(&mut router, 100, &frame(BOB, ANN));
        assert_eq!((outcome, copies), (FORWARDED, vec![]), "{hook:?}");
        assert_eq!(bytes, tagged(&frame(BOB, ANN), &[(VLAN, 200)]));
        let (outcome, bytes, _) = send(&mut router, 200, &frame(ANN, BOB));
        assert_eq!((outcome, bytes), (FORWARDED, tagged(&frame(ANN, BOB), &[(VLAN, 100)])));
    }
}

#[test]
fn what_is_for_all_goes_to_all_other_ports_of_the_bridge_as_a_copy() {
    let mut router = acquainted(Hook::Tc);
    let unheard = [2, 0, 0, 0, 0, 0xf];
    for to in [EVERYBODY, [0x33, 0x33, 0, 0, 0, 1], unheard] {
        let (outcome, bytes, copies) = send(&mut router, 100, &frame(to, ANN));
        assert_eq!((outcome, copies), (FORWARDED, vec![32, 33]));
        // The copies get their tags where they leave.
        assert_eq!(bytes, frame(to, ANN));
        // XDP cannot copy, and leaves the frame as it came.
        let (outcome, bytes, copies) = send(&mut acquainted(Hook::Xdp), 100, &frame(to, ANN));
        assert_eq!((outcome, copies), (DeferReason::Flooded.outcome(), vec![]));
        assert_eq!(bytes, tagged(&frame(to, ANN), &[(VLAN, 100)]));
    }
}

#[test]
fn bridges_know_nothing_of_each_other() {
    let mut router = acquainted(Hook::Tc);
    let (outcome, _, copies) = send(&mut router, 400, &frame(BOB, ANN));
    assert_eq!((outcome, copies), (FORWARDED, vec![42]));
    // The same address is another station there.
    let (_, bytes, _) = send(&mut router, 200, &frame(ANN, BOB));
    assert_eq!(bytes, tagged(&frame(ANN, BOB), &[(VLAN, 100)]));
}

#[test]
fn a_station_that_moves_is_found_and_one_that_is_silent_is_forgotten() {
    for hook in HOOKS {
        let mut router = acquainted(hook);
        send(&mut router, 300, &frame(BOB, ANN));
        let (_, bytes, _) = send(&mut router, 200, &frame(ANN, BOB));
        assert_eq!(bytes, tagged(&frame(ANN, BOB), &[(VLAN, 300)]), "{hook:?}");
        let heard = router.world.now.get();
        router.world.now.set(heard + FdbEntry::AGEING - 1);
        let (outcome, _, copies) = send(&mut router, 200, &frame(ANN, BOB));
        assert_eq!((outcome, copies), (FORWARDED, vec![]));
        router.world.now.set(heard + FdbEntry::AGEING);
        let (outcome, _, copies) = send(&mut router, 200, &frame(ANN, BOB));
        match hook {
            Hook::Tc => assert_eq!((outcome, copies), (FORWARDED, vec![31, 33])),
            Hook::Xdp => assert_eq!(outcome, DeferReason::Flooded.outcome()),
        }
        // Whoever goes on sending is remembered.
        let key = FdbKey { bridge: 31, mac: BOB, pad: [0; 2] };
        let noted = router.world.bridges.fdb.borrow()[&key];
        assert_eq!((noted.ifindex, noted.heard), (32, heard + FdbEntry::AGEING - 1));
    }
}

#[test]
fn a_port_that_has_left_the_bridge_gets_nothing() {
    let mut router = acquainted(Hook::Tc);
    router.world.ports.borrow_mut().get_mut(&32).expect("a port").bridge = 0;
    router.world.bridges.members.borrow_mut().insert(31, vec![31, 33]);
    let (outcome, _, copies) = send(&mut router, 100, &frame(BOB, ANN));
    assert_eq!((outcome, copies), (FORWARDED, vec![33]));
    // And what comes by it is left to the kernel, which has no address there.
    let (outcome, ..) = send(&mut router, 200, &frame(ANN, BOB));
    assert_eq!(outcome, PuntReason::OtherHost.outcome());
}

#[test]
fn what_makes_no_sense_is_dropped_and_counted() {
    for hook in HOOKS {
        let mut router = acquainted(hook);
        let group = [3, 0, 0, 0, 0, 0xa];
        let (outcome, ..) = send(&mut router, 100, &frame(BOB, group));
        assert_eq!(outcome, DropReason::GroupSource.outcome(), "{hook:?}");
        let (outcome, ..) = send(&mut router, 200, &frame(BOB, ANN));
        assert_eq!(outcome, DropReason::SamePort.outcome());
        // Spanning tree, LACP and LLDP are about one link.
        let (outcome, ..) = send(&mut router, 100, &frame([1, 0x80, 0xc2, 0, 0, 0], ANN));
        let expected = match hook {
            Hook::Xdp => DeferReason::Punted.outcome(),
            Hook::Tc => PuntReason::LinkScope.outcome(),
        };
        assert_eq!(outcome, expected);
    }
}

#[test]
fn a_frame_that_does_not_fit_is_not_sent() {
    let long = |to| [frame(to, ANN), vec![0; 1500]].concat();
    let mut router = acquainted(Hook::Tc);
    router.world.ports.borrow_mut().get_mut(&33).expect("a port").mtu = 9000;
    let (outcome, ..) = send(&mut router, 100, &long(BOB));
    assert_eq!(outcome, DropReason::OversizeFrame.outcome());
    let (outcome, _, copies) = send(&mut router, 100, &long(EVERYBODY));
    assert_eq!((outcome, copies), (FORWARDED, vec![33]));
    // TC may know more about its length.
    let (outcome, ..) = send(&mut acquainted(Hook::Xdp), 100, &long(BOB));
    assert_eq!(outcome, DeferReason::Oversize.outcome());
}

#[test]
fn xdp_leaves_what_it_cannot_send_and_sums_that_may_be_unfinished() {
    let mut router = acquainted(Hook::Xdp);
    router.world.ports.borrow_mut().get_mut(&32).expect("a port").flags &= !Port::XDP_TARGET;
    let (outcome, ..) = send(&mut router, 100, &frame(BOB, ANN));
    assert_eq!(outcome, DeferReason::EgressWithoutXdp.outcome());
    let mut router = acquainted(Hook::Xdp);
    for (flags, expected) in [(0, DeferReason::MultiBuffer.outcome()), (Port::MULTI_BUFFER, FORWARDED)] {
        let mut ports = router.world.ports.borrow_mut();
        let port = ports.get_mut(&32).expect("a port");
        (port.mtu, port.flags) = (9000, port.flags | flags);
        drop(ports);
        let mut first = tagged(&[frame(BOB, ANN), vec![0; 1000]].concat(), &[(VLAN, 100)]);
        let mut packet = SliceFrame::first_buffer(&mut first, 7000, Hook::Xdp);
        let walked = walk(&mut packet, &router.world, ifindex(Nic::Tier1));
        assert_eq!(walked.passage.outcome(), expected);
    }
    router.world.ports.borrow_mut().get_mut(&31).expect("a port").flags |= Port::PARTIAL_CHECKSUMS;
    let (outcome, ..) = send(&mut router, 100, &frame(BOB, ANN));
    assert_eq!(outcome, DeferReason::PartialChecksum.outcome());
}

#[test]
fn nothing_on_a_bridge_is_routed_and_the_tier_beside_it_is() {
    for hook in HOOKS {
        let mut router = acquainted(hook);
        // Even what is for the port's own address: no station has it.
        let own = [2, 0, 0, 0, 0xee, 31];
        let packet =
            Frame::new((own, ANN), "10.1.1.50", "192.0.2.9", Payload::Udp { src: 5000, dst: 53 }).bytes();
        let (outcome, _, copies) = send(&mut router, 100, &packet);
        match hook {
            Hook::Tc => assert_eq!((outcome, copies), (FORWARDED, vec![32, 33])),
            Hook::Xdp => assert_eq!(outcome, DeferReason::Flooded.outcome()),
        }
        let macs = (Nic::Tier1.mac(), router_tests::scenario::host_mac(Nic::Tier1));
        let packet = Frame::new(macs, "10.1.1.50", "192.0.2.9", Payload::Udp { src: 5000, dst: 53 }).bytes();
        assert_eq!(router.send(Nic::Tier1, &packet).outcome, FORWARDED, "{hook:?}");
    }
}
