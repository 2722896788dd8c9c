//! The lab proves itself with Linux as the router: what fails here is not XVR's fault.

use std::time::Duration;

use anyhow::Result;
use router_tests::capture::{Capture, Frames};
use router_tests::clients::{self, Direction, Probe};
use router_tests::journeys::JOURNEYS;
use router_tests::lab::Lab;
use router_tests::netns::{self, Lifetime, Namespace};
use router_tests::router::start_linux_router;
use router_tests::{needs, servers};

const CLIENTS: [&str; 6] = ["curl", "ethtool", "iperf3", "ping", "tcpdump", "traceroute"];

fn lab_with_linux_router() -> Result<Lab> {
    let lab = Lab::vpc()?;
    start_linux_router(&lab)?;
    Ok(lab)
}

#[test]
fn every_client_gets_through_a_router_that_is_linux() -> Result<()> {
    if !needs::are_met(&CLIENTS) {
        return Ok(());
    }
    let lab = lab_with_linux_router()?;
    for journey in JOURNEYS {
        assert_eq!(journey.ping(&lab, 5)?.lost(), 0, "{}", journey.name);
        journey.curl(&lab, 1_000_000)?;
        for direction in [Direction::Upload, Direction::Download] {
            assert!(journey.iperf(&lab, direction, 1)?.bits_per_second > 0.0, "{}", journey.name);
        }
        for probe in [Probe::Udp, Probe::Icmp] {
            journey.traceroute(&lab, probe)?;
        }
        journey.connections(&lab, 500)?;
    }
    assert!(clients::checksum_errors(&lab)?.is_empty());
    Ok(())
}

#[test]
fn with_finished_checksums_every_frame_on_every_wire_verifies() -> Result<()> {
    if !needs::are_met(&CLIENTS) {
        return Ok(());
    }
    let lab = lab_with_linux_router()?;
    lab.finish_checksums()?;
    let captures = Capture::on_every_wire(&lab)?;
    for journey in JOURNEYS {
        journey.curl(&lab, 1_000_000)?;
        journey.ping(&lab, 3)?;
    }
    for recording in Capture::stop_all(captures)? {
        let sums = recording.checksums()?;
        assert!(sums.wrong.is_empty(), "{:?}", &sums.wrong[..sums.wrong.len().min(3)]);
    }
    Ok(())
}

#[test]
fn a_capture_finds_a_wrong_checksum() -> Result<()> {
    if !needs::are_met(&CLIENTS) {
        return Ok(());
    }
    let lab = lab_with_linux_router()?;
    lab.finish_checksums()?;
    // Only this sender leaves its checksums to a receiver that would forgive it.
    let web1 = lab.host("web1");
    web1.namespace.run("ethtool", &["-K", "eth0", "tx", "on"])?;
    let capture = Capture::start(&lab.wire, &web1.port(), Frames::Arriving, "udp")?;
    let echo = servers::UdpEcho::start(lab.host("far"))?;
    servers::udp_round_trip(web1, echo.at(lab.host("far").v4), b"payload")?;
    let sums = capture.stop()?.checksums()?;
    assert_eq!((sums.right, sums.wrong.len()), (0, 1), "{sums:?}");
    Ok(())
}

#[test]
fn linux_finds_neighbours_that_were_forgotten() -> Result<()> {
    if !needs::are_met(&CLIENTS) {
        return Ok(());
    }
    let lab = lab_with_linux_router()?;
    for journey in JOURNEYS {
        lab.forget_neighbours()?;
        assert_eq!(journey.ping(&lab, 1)?.lost(), 0, "{}", journey.name);
    }
    Ok(())
}

#[test]
fn a_namespace_is_gone_after_a_panic() {
    if !needs::are_met(&[]) {
        return;
    }
    let prefix = netns::unique_prefix();
    let inner = prefix.clone();
    let panicked = std::thread::spawn(move || {
        let namespace = Namespace::new(&inner, "doomed", Lifetime::Scoped).expect("make a namespace");
        assert!(!namespace.path().exists(), "as expected");
    });
    assert!(panicked.join().is_err());
    assert!(!std::path::Path::new("/run/netns").join(format!("{prefix}-doomed")).exists());
}

#[test]
fn a_process_in_a_namespace_ends_with_its_guard() -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let namespace = Namespace::new(&netns::unique_prefix(), "busy", Lifetime::Scoped)?;
    let sleeper = netns::Process::spawn(namespace.command("sleep").arg("60"))?;
    let pid = sleeper.pid();
    drop(sleeper);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let slow = netns::run_bounded(namespace.command("sleep").arg("60"), Duration::from_millis(50));
    assert!(slow.is_err_and(|error| error.to_string().contains("has not ended")));
    Ok(())
}
