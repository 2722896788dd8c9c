//! Real clients through the router, by each of its hooks.

use std::time::Duration;

use anyhow::Result;
use router_common::account::Hook;
use router_tests::capture::Capture;
use router_tests::clients::{self, Direction, Probe};
use router_tests::journeys::{Family, JOURNEYS, Journey};
use router_tests::lab::Lab;
use router_tests::needs;
use router_tests::router::{ISOLATED_COMMANDS, Router, VPC_COMMANDS};

/// How the router is attached, and whether its wires take XDP frames.
#[derive(Clone, Copy)]
struct Mode {
    attach: &'static str,
    receivers: Receivers,
}

/// What is at the other end of the router's veth pairs.
#[derive(Clone, Copy, PartialEq)]
enum Receivers {
    /// A plain veth: an XDP program cannot send to it.
    Plain,
    /// One with GRO: it takes XDP frames.
    TakeXdpFrames,
}

/// Makes a test of each function for each mode.
macro_rules! in_every_mode {
    ($($(#[$meta:meta])* $test:ident;)*) => {
        in_every_mode! { mode tc "tc" Plain; $($test;)* }
        in_every_mode! { mode xdp "xdp" Plain; $($test;)* }
        in_every_mode! { mode xdp_end_to_end "xdp" TakeXdpFrames; $($test;)* }
    };
    (mode $name:ident $attach:literal $receivers:ident; $($test:ident;)*) => {
        mod $name {
            use super::{Mode, Receivers};
            const MODE: Mode = Mode { attach: $attach, receivers: Receivers::$receivers };
            $(#[test] fn $test() -> anyhow::Result<()> { super::$test(MODE) })*
        }
    };
}

in_every_mode! {
    a_file_of_100_mb_arrives_whole;
    iperf3_measures_both_ways;
    ten_thousand_connections_are_open_at_once;
    ping_and_traceroute_see_every_hop;
    the_first_packet_to_an_unknown_neighbour_arrives;
    every_checksum_on_every_wire_holds;
}

fn a_file_of_100_mb_arrives_whole(mode: Mode) -> Result<()> {
    with_router(mode, &["curl", "sha256sum"], |lab, journey| journey.curl(lab, 100_000_000).map(drop))
}

fn iperf3_measures_both_ways(mode: Mode) -> Result<()> {
    with_router(mode, &["iperf3"], |lab, journey| {
        for direction in [Direction::Upload, Direction::Download] {
            let result = journey.iperf(lab, direction, 2)?;
            // Not a measurement: something came, and went on coming.
            assert!(result.bits_per_second > 1e6, "{} {direction:?}: {result:?}", journey.name);
        }
        Ok(())
    })
}

fn ten_thousand_connections_are_open_at_once(mode: Mode) -> Result<()> {
    with_router(mode, &[], |lab, journey| {
        // IPv6 shares the code; opening connections is slow work for the clients.
        let count = if journey.family == Family::V4 { 10_000 } else { 1_000 };
        journey.connections(lab, count).map(drop)
    })
}

fn ping_and_traceroute_see_every_hop(mode: Mode) -> Result<()> {
    with_router(mode, &["ping", "traceroute"], |lab, journey| {
        assert_eq!(journey.ping(lab, 20)?.lost(), 0, "{}", journey.name);
        for probe in [Probe::Udp, Probe::Icmp] {
            journey.traceroute(lab, probe)?;
        }
        Ok(())
    })
}

fn the_first_packet_to_an_unknown_neighbour_arrives(mode: Mode) -> Result<()> {
    with_router(mode, &["ping"], |lab, journey| {
        lab.forget_neighbours()?;
        assert_eq!(journey.ping(lab, 1)?.lost(), 0, "{}", journey.name);
        Ok(())
    })
}

fn every_checksum_on_every_wire_holds(mode: Mode) -> Result<()> {
    if !needs::are_met(&["curl", "ethtool", "ping", "tcpdump", "traceroute"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    lab.finish_checksums()?;
    let router = start(&lab, mode)?;
    let captures = Capture::on_every_wire(&lab)?;
    for journey in JOURNEYS {
        journey.curl(&lab, 1_000_000)?;
        journey.ping(&lab, 3)?;
        journey.traceroute(&lab, Probe::Udp)?;
    }
    let (mut right, mut merged) = (0, 0);
    for recording in Capture::stop_all(captures)? {
        let sums = recording.checksums()?;
        assert!(sums.wrong.is_empty(), "{:?}", &sums.wrong[..sums.wrong.len().min(3)]);
        right += sums.right;
        merged += sums.merged;
    }
    match mode.receivers {
        // A megabyte is some 700 segments, on four wires a journey.
        Receivers::Plain => assert!(right > 5_000 && merged == 0, "{right} right, {merged} merged"),
        // GRO is what makes the wires take XDP frames, and it merges segments.
        Receivers::TakeXdpFrames => assert!(right > 1_000, "{right} right, {merged} merged"),
    }
    // With checksums that are finished and wires that take its frames, XDP has nothing to leave
    // to TC but the first packets to neighbours that are not known.
    let by_xdp = router.forwarded(Hook::Xdp)?;
    match (mode.attach, mode.receivers) {
        ("xdp", Receivers::TakeXdpFrames) => assert!(by_xdp > 1_000, "{}", router.show("ports")?),
        _ => assert_eq!(by_xdp, 0, "{}", router.show("ports")?),
    }
    Ok(())
}

#[test]
fn an_isolated_network_gets_out_and_back() -> Result<()> {
    if !needs::are_met(&["curl", "ping"]) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&ISOLATED_COMMANDS)?;
    let (vm1, far) = (lab.host("vm1"), lab.host("far"));
    for address in [far.v4.into(), far.v6.into()] {
        let ping = clients::ping(vm1, address, 5, Duration::from_millis(10))?;
        assert_eq!(ping.lost(), 0, "{address}");
    }
    let http = router_tests::servers::HttpServer::start(far)?;
    clients::curl(vm1, http.at(far.v4), 1_000_000, Duration::from_secs(30))?;
    Ok(())
}

#[test]
fn generic_xdp_lets_a_ping_and_a_file_through() -> Result<()> {
    let mode = Mode { attach: "xdp-generic", receivers: Receivers::Plain };
    with_router(mode, &["curl", "ping"], |lab, journey| {
        assert_eq!(journey.ping(lab, 5)?.lost(), 0, "{}", journey.name);
        journey.curl(lab, 1_000_000).map(drop)
    })
}

#[test]
fn the_router_answers_pings_on_every_port() -> Result<()> {
    if !needs::are_met(&["ping"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&VPC_COMMANDS)?;
    for (host, address) in [
        ("host", "169.254.1.177"),
        ("gateway", "203.0.113.30"),
        ("neighbour", "2001:db8:100::1e00:a8ff:fe00:31"),
        ("web1", "10.10.1.1"),
        ("web2", "fd17:ac56:1234:10::1"),
        ("db1", "10.10.2.1"),
        ("db2", "fd17:ac56:1234:20::1"),
    ] {
        let ping = clients::ping(lab.host(host), address.parse()?, 3, Duration::from_millis(20))?;
        assert_eq!(ping.lost(), 0, "{host} to {address}");
    }
    Ok(())
}

/// Runs `each` over every journey through a router in a lab with the kernel's default offloads;
/// afterwards no kernel may have seen a wrong checksum.
fn with_router(mode: Mode, programs: &[&str], each: impl Fn(&Lab, Journey) -> Result<()>) -> Result<()> {
    if !needs::are_met(programs) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = start(&lab, mode)?;
    for journey in JOURNEYS {
        each(&lab, journey)?;
    }
    let errors = clients::checksum_errors(&lab)?;
    assert!(errors.is_empty(), "{errors:?}");
    drop(router);
    Ok(())
}

fn start(lab: &Lab, mode: Mode) -> Result<Router<'_>> {
    if mode.receivers == Receivers::TakeXdpFrames {
        lab.accept_xdp_frames()?;
    }
    let router = Router::start(lab, mode.attach)?;
    router.apply(&VPC_COMMANDS)?;
    Ok(router)
}
