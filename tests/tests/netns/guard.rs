//! What must never get through: to the guests, and out of them untranslated.

use std::time::Duration;

use anyhow::Result;
use router_tests::capture::{Capture, Frames, Recording};
use router_tests::clients::{self, Direction};
use router_tests::journeys::JOURNEYS;
use router_tests::lab::Lab;
use router_tests::router::{Router, VPC_COMMANDS};
use router_tests::{frames, needs, netns};

/// Source addresses that the public wire may never see.
const PRIVATE_SOURCE: &str = "src net 10.10.0.0/16";

/// What the router put on the public wire: every leak, and of the rest the pings alone, which
/// show that the capture saw anything. All of an iperf3 is more than tcpdump keeps up with.
fn capture_public_wire(lab: &Lab) -> Result<Capture> {
    let filter = format!("{PRIVATE_SOURCE} or icmp");
    Capture::start(&lab.wire, &lab.segment("public").router_port(), Frames::Arriving, &filter)
}

fn assert_no_leak(recording: &Recording) -> Result<()> {
    assert!(!recording.frames("src host 203.0.113.30")?.is_empty(), "nothing was ever translated");
    let leaked = recording.frames(PRIVATE_SOURCE)?;
    assert!(leaked.is_empty(), "{} frames leaked, the first: {}", leaked.len(), leaked[0]);
    Ok(())
}

fn tearing_off_the_programs_leaks_nothing(attach: &str) -> Result<()> {
    if !needs::are_met(&["bpftool", "iperf3", "ping", "tcpdump"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, attach)?;
    router.apply(&VPC_COMMANDS)?;
    let capture = capture_public_wire(&lab)?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    let iperf = clients::start_iperf(web1, far, far.v4.into(), Direction::Upload, 6)?;
    let ping = clients::start_ping(web1, far.v4.into(), Duration::from_millis(10))?;
    std::thread::sleep(Duration::from_secs(2));
    // Without a daemon nobody puts them back.
    router.kill_daemon();
    router.tear_off_programs()?;
    std::thread::sleep(Duration::from_secs(2));
    let before = ping.stop()?;
    let after = clients::ping(web1, far.v4.into(), 20, Duration::from_millis(10))?;
    drop(iperf);
    assert!(before.received > 0, "{before:?}");
    assert_eq!(after.received, 0, "the programs were not torn off: {after:?}");
    assert_no_leak(&capture.stop()?)
}

#[test]
fn tearing_off_tc_leaks_no_private_source() -> Result<()> {
    tearing_off_the_programs_leaks_nothing("tc")
}

#[test]
fn tearing_off_xdp_leaks_no_private_source() -> Result<()> {
    tearing_off_the_programs_leaks_nothing("xdp")
}

#[test]
fn no_private_source_is_on_the_public_wire_from_the_first_packet_to_the_last() -> Result<()> {
    if !needs::are_met(&["curl", "ping", "tcpdump"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let capture = capture_public_wire(&lab)?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    // The guests talk before, while and after the router is configured.
    let ping = clients::start_ping(web1, far.v4.into(), Duration::from_millis(5))?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&VPC_COMMANDS)?;
    for journey in JOURNEYS {
        journey.curl(&lab, 1_000_000)?;
    }
    drop(router);
    std::thread::sleep(Duration::from_millis(500));
    let ping = ping.stop()?;
    assert!(ping.received > 0, "{ping:?}");
    assert_no_leak(&capture.stop()?)
}

#[test]
fn the_public_side_cannot_open_a_flow_to_a_guest() -> Result<()> {
    if !needs::are_met(&["ping", "tcpdump"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = Router::start(&lab, "auto")?;
    // Without the lists that let everybody in.
    router.apply(&VPC_COMMANDS[..4])?;
    let (web1, neighbour) = (lab.host("web1"), lab.host("neighbour"));
    neighbour.namespace.ip("route add 10.10.0.0/16 via 203.0.113.30")?;
    let filter = "src host 203.0.113.200 or src host 2001:db8:100::200";
    let capture = Capture::start(&lab.wire, &lab.segment("tier1").router_port(), Frames::Arriving, filter)?;
    for address in [web1.v4.into(), web1.v6.into()] {
        let ping = clients::ping(neighbour, address, 3, Duration::from_millis(10))?;
        assert_eq!(ping.received, 0, "{address}");
    }
    let came = capture.stop()?.frames("")?;
    assert!(came.is_empty(), "{came:?}");
    assert!(router.outcome("not-permitted")? >= 6);
    Ok(())
}

#[test]
fn the_control_network_is_forwarded_neither_from_nor_to() -> Result<()> {
    if !needs::are_met(&["ping"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&VPC_COMMANDS)?;
    let (host, web1) = (lab.host("host"), lab.host("web1"));
    host.namespace.ip("route add 10.10.0.0/16 via 169.254.1.177")?;
    for (from, to) in [(host, web1), (web1, host)] {
        let ping = clients::ping(from, to.v4.into(), 3, Duration::from_millis(10))?;
        assert_eq!(ping.received, 0, "{} to {}", from.name, to.name);
    }
    Ok(())
}

/// Changes one thing about a good packet.
type Spoil = fn(&mut Vec<u8>);

#[test]
fn malformed_packets_are_dropped_and_counted() -> Result<()> {
    if !needs::are_met(&["tcpdump"]) {
        return Ok(());
    }
    let spoiled: [(&str, Spoil); 4] = [
        ("truncated", |packet| packet.truncate(24)),
        ("bad-ip-header", |packet| packet[0] = 0x55),
        ("bad-ip-header", |packet| packet[0] = 0x44),
        ("bad-ip-checksum", |packet| packet[10] ^= 0xff),
    ];
    for attach in ["tc", "xdp"] {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        let (web1, db1) = (lab.host("web1"), lab.host("db1"));
        let tier2 = lab.segment("tier2").router_port();
        let capture = Capture::start(&lab.wire, &tier2, Frames::Arriving, "src host 10.10.1.11")?;
        for (reason, spoil) in spoiled {
            let mut packet = frames::udp_packet(web1.v4.octets(), db1.v4.octets());
            spoil(&mut packet);
            let before = router.outcome(reason)?;
            frames::send(web1, &frames::ipv4(lab.segment("tier1").router_mac, &packet))?;
            let counted = || router.outcome(reason).is_ok_and(|now| now == before + 1);
            netns::wait_until(&format!("{attach} counts {reason}"), Duration::from_secs(2), counted)?;
        }
        let good = frames::udp_packet(web1.v4.octets(), db1.v4.octets());
        frames::send(web1, &frames::ipv4(lab.segment("tier1").router_mac, &good))?;
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(capture.stop()?.frames("")?.len(), 1, "{attach}: only the good one comes through");
    }
    Ok(())
}
