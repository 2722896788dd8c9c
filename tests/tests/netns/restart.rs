//! The daemon is not in the packets' way: it may die, and another one goes on.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use router_tests::clients;
use router_tests::lab::Lab;
use router_tests::router::{Router, VPC_COMMANDS};
use router_tests::{needs, servers};

fn killing_the_daemon_loses_no_packet(attach: &str) -> Result<()> {
    if !needs::are_met(&["bpftool", "iperf3", "ping"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, attach)?;
    router.apply(&VPC_COMMANDS)?;
    let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
    // Longer than all that happens below.
    let (every, count) = (Duration::from_millis(10), 800);
    let pings = [
        clients::start_pings(web1, far.v4.into(), every, count)?,
        clients::start_pings(web1, db1.v4.into(), every, count)?,
        clients::start_pings(web1, far.v6.into(), every, count)?,
    ];
    let iperf = clients::start_paced_iperf(web1, far, far.v4.into(), 8)?;
    sleep(Duration::from_secs(2));
    let programs = router.attached_programs()?;
    router.kill_daemon();
    sleep(Duration::from_secs(2));
    router.start_daemon()?;
    sleep(Duration::from_secs(2));
    assert_eq!(programs.len(), router.attached_programs()?.len(), "programs came or went");
    for ping in pings {
        let ping = ping.finish()?;
        assert_eq!(ping.lost(), 0, "{ping:?}");
    }
    assert!(iperf.finish()?.bits_per_second > 10e6);
    Ok(())
}

#[test]
fn killing_the_daemon_loses_no_packet_in_tc() -> Result<()> {
    killing_the_daemon_loses_no_packet("tc")
}

#[test]
fn killing_the_daemon_loses_no_packet_in_xdp() -> Result<()> {
    killing_the_daemon_loses_no_packet("xdp")
}

#[test]
fn the_next_daemon_adopts_flows_and_does_what_it_is_told() -> Result<()> {
    if !needs::are_met(&["ping"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, "auto")?;
    router.apply(&VPC_COMMANDS)?;
    let far = lab.host("far");
    let echo = servers::UdpEcho::start(far)?;
    servers::udp_round_trip(lab.host("web1"), echo.at(far.v4), b"hello")?;
    let sources = |router: &Router<'_>| -> Result<Vec<String>> {
        let shown = router.show("flows")?;
        let destination = echo.at(far.v4).to_string();
        let flows = shown.as_array().into_iter().flatten();
        let to_echo = flows.filter(|flow| flow["destination"] == destination.as_str());
        Ok(to_echo.map(|flow| format!("{} as {}", flow["source"], flow["translated"])).collect())
    };
    let before = sources(&router)?;
    assert_eq!(before.len(), 1, "{}", router.show("flows")?);
    router.kill_daemon();
    router.start_daemon()?;
    assert_eq!(sources(&router)?, before);
    assert_eq!(router.show("status")?["adopted"], true);
    assert_eq!(router.plan()?, Vec::<String>::new());
    // And it is a daemon like the first: the same again changes nothing and works.
    router.apply(&VPC_COMMANDS)?;
    servers::udp_round_trip(lab.host("db1"), echo.at(far.v4), b"hello")?;
    Ok(())
}

#[test]
fn what_the_kernel_would_do_now_counts_for_known_flows_with_a_daemon_and_without() -> Result<()> {
    if !needs::are_met(&["kill", "ping"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, "auto")?;
    router.apply(&VPC_COMMANDS)?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    // Known flows do not look their way out up for a minute while a daemon hears of changes, and for a second without.
    for (has_daemon, at_least) in [(true, 30), (false, 15)] {
        if !has_daemon {
            let pid = router.daemon_pid().context("a daemon runs")?.to_string();
            router.namespace().run("kill", &["-TERM", &pid])?;
            let deadline = Instant::now() + Duration::from_secs(10);
            while router.daemon_runs() {
                ensure!(Instant::now() < deadline, "the daemon does not end");
                sleep(Duration::from_millis(10));
            }
        }
        let pings = clients::start_pings(web1, far.v4.into(), Duration::from_millis(50), 60)?;
        sleep(Duration::from_secs(1));
        router.namespace().ip(&format!("rule add to {} prohibit", far.v4))?;
        let lost = pings.finish()?.lost();
        ensure!((at_least..50).contains(&lost), "with a daemon: {has_daemon}, {lost} of 60 lost");
        router.namespace().ip(&format!("rule del to {} prohibit", far.v4))?;
    }
    Ok(())
}

#[test]
fn a_cold_start_with_saved_databags_forwards_without_being_told_anything() -> Result<()> {
    if !needs::are_met(&["bpftool"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, "auto")?;
    router.apply(&VPC_COMMANDS)?;
    let far = lab.host("far");
    let echo = servers::UdpEcho::start(far)?;
    router.make_cold()?;
    assert!(servers::udp_round_trip(lab.host("web1"), echo.at(far.v4), b"cold").is_err());
    let answer = servers::first_answer(lab.host("web1"), echo.at(far.v4), Duration::from_secs(20))?;
    let begin = router.spawn_daemon()?;
    let took = answer.join().expect("the thread that sends does not panic")?.duration_since(begin);
    println!("from exec of the daemon to the first forwarded packet: {} ms", took.as_millis());
    Ok(())
}
