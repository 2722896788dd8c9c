//! Packets of 9,000 bytes, which few drivers hand to XDP in one buffer: by TC alone, and by XDP in several.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_common::account::Hook;
use router_tests::clients::{self, curl, ping_once, tracepath};
use router_tests::journeys::JOURNEYS;
use router_tests::lab::{Host, Lab};
use router_tests::needs::{self, sends_several_buffers};
use router_tests::netns::run_bounded;
use router_tests::router::{Router, VPC_COMMANDS, fixture};
use router_tests::servers::{HttpServer, UdpEcho, sha256_of_body, udp_round_trip};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const MTU: u16 = 9000;
/// Beside Ethernet's header, and that of ICMP: what a ping of such a packet carries.
const LONGEST_PING: usize = MTU as usize - 28;

/// A lab in which XDP need leave nothing to TC: wires take its frames, and checksums are finished.
fn xdp_end_to_end() -> Result<Lab> {
    let lab = Lab::vpc()?;
    lab.accept_xdp_frames()?;
    lab.finish_checksums()?;
    Ok(lab)
}

/// Gives the wires of some segments an MTU, with all that is on them but the router.
fn set_wires(lab: &Lab, segments: &[&str], mtu: u16) -> Result<()> {
    for name in segments {
        let hosts: &[&str] = match *name {
            "tier1" => &["web1", "web2"],
            "tier2" => &["db1", "db2"],
            _ => &["gateway"],
        };
        for host in hosts.iter().map(|host| lab.host(host)) {
            lab.wire.ip(&format!("link set {} mtu {mtu}\n", host.port()))?;
            host.namespace.ip(&format!("link set eth0 mtu {mtu}\n"))?;
        }
        let port = lab.segment(name).router_port();
        lab.wire.ip(&format!("link set {port} mtu {mtu}\nlink set {name} mtu {mtu}\n"))?;
    }
    Ok(())
}

/// Tells the router of a tier, or of its public addresses, with an MTU.
fn tell(router: &Router<'_>, message: &str, mtu: u16) -> Result<()> {
    let file = fixture(message);
    let kind = file.parent().and_then(Path::file_name).context("a fixture has a folder")?;
    let mut message: Value = serde_json::from_slice(&fs::read(&file)?)?;
    match message.get_mut("ip_address").and_then(|addresses| addresses.get_mut(0)) {
        Some(address) => address["mtu"] = json!(mtu),
        None => message["mtu"] = json!(mtu),
    }
    let said = router.update_config_with(&kind.to_string_lossy(), message.to_string().as_bytes())?;
    said.ok().map(drop).with_context(|| router.log())
}

const TIERS: &[&str] = &["tier1", "tier2"];

/// Both tiers' wires take such packets, and so do the router's NICs, since CloudStack says so.
fn start<'lab>(lab: &'lab Lab, attach: &str) -> Result<Router<'lab>> {
    set_wires(lab, TIERS, MTU)?;
    let router = Router::start(lab, attach)?;
    router.apply(&VPC_COMMANDS[..2])?;
    for tier in &VPC_COMMANDS[2..4] {
        tell(&router, tier, MTU)?;
    }
    router.apply(&VPC_COMMANDS[4..])?;
    Ok(router)
}

/// The same, and the outside takes such packets as well.
fn start_everywhere<'lab>(lab: &'lab Lab, attach: &str) -> Result<Router<'lab>> {
    set_wires(lab, &["public"], MTU)?;
    lab.host("gateway").namespace.ip(&format!("link set far0 mtu {MTU}\n"))?;
    lab.host("far").namespace.ip(&format!("link set eth0 mtu {MTU}\n"))?;
    let router = start(lab, attach)?;
    tell(&router, VPC_COMMANDS[1], MTU)?;
    Ok(router)
}

/// How a port is attached, and why.
fn attached(router: &Router<'_>, nic: &str) -> Result<(String, String)> {
    let port = router.port(nic)?;
    let text = |key: &str| port[key].as_str().unwrap_or_default().to_owned();
    Ok((text("attach"), text("reason")))
}

/// Pings with further options; all have to be answered.
fn pings(from: &Host, to: IpAddr, options: &[&str]) -> Result<()> {
    let mut command = from.namespace.command("ping");
    let command = command.args(["-n", "-q", "-W", "5"]).args(options).arg(to.to_string());
    let said = run_bounded(command, LIMIT)?;
    ensure!(said.stdout.contains(" 0% packet loss"), "{}: {}{}", from.name, said.stdout, said.stderr);
    Ok(())
}

#[test]
fn packets_of_9000_bytes_go_from_tier_to_tier() -> Result<()> {
    if !needs::are_met(&["curl", "ping", "tracepath"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = start(&lab, "tc")?;
    assert_eq!(router.show("status")?["problems"], json!([]));
    let (web, db, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
    let ends: [IpAddr; 2] = [db.v4.into(), db.v6.into()];
    for to in ends {
        for size in [64, 2000, 4000, 8000, 8900] {
            assert_eq!(ping_once(web, to, size)?, 63, "{size} bytes to {to}");
        }
    }
    let server = HttpServer::start(db)?;
    for to in ends {
        let download = curl(web, server.at(to), 20_000_000, LIMIT)?;
        assert_eq!(download.sha256, sha256_of_body(20_000_000)?, "{to}");
    }
    // Outside it is 1,500, and who sends hears of it.
    let outside = HttpServer::start(far)?;
    let download = curl(web, outside.at(far.v4), 3_000_000, LIMIT)?;
    assert_eq!(download.sha256, sha256_of_body(3_000_000)?);
    assert_eq!(tracepath(web, far.v4.into())?.mtu, 1500);
    Ok(())
}

/// Sends files and datagrams of full size along every journey.
fn send_all_over(lab: &Lab, bytes: u64, datagrams: usize) -> Result<()> {
    for journey in JOURNEYS {
        let (client, server, address) = journey.ends(lab);
        let longest = LONGEST_PING - if address.is_ipv6() { 20 } else { 0 };
        pings(client, address, &["-M", "do", "-c", "20", "-i", "0.01", "-s", &longest.to_string()])
            .context(journey.name)?;
        journey.curl(lab, bytes)?;
        let echo = UdpEcho::start(server)?;
        let payload: Vec<u8> = (0..longest).map(|byte| byte as u8).collect();
        for _ in 0..datagrams {
            let length = udp_round_trip(client, echo.at(address), &payload).context(journey.name)?;
            assert_eq!(length, longest, "{}", journey.name);
        }
    }
    Ok(())
}

#[test]
fn frames_in_several_buffers_go_by_native_xdp() -> Result<()> {
    if !needs::are_met(&["curl", "ethtool", "ping", "sha256sum"]) {
        return Ok(());
    }
    let lab = xdp_end_to_end()?;
    let router = start_everywhere(&lab, "xdp")?;
    assert_eq!(router.show("status")?["problems"], json!([]));
    for nic in ["eth1", "eth2", "eth3"] {
        let (attach, reason) = attached(&router, nic)?;
        assert_eq!(
            (attach.as_str(), reason.contains("several buffers")),
            ("xdp-multi-buffer", true),
            "{reason}"
        );
    }
    send_all_over(&lab, 100_000_000, 100)?;
    let (by_xdp, by_tc) = (router.forwarded(Hook::Xdp)?, router.forwarded(Hook::Tc)?);
    if sends_several_buffers() {
        // The first packets to neighbours that are not known yet.
        assert!(by_tc < by_xdp / 100, "{by_xdp} by XDP, {by_tc} by TC: {}", router.show("drops")?);
        assert_eq!(router.outcome("multi-buffer")?, 0);
    }
    let errors = clients::checksum_errors(&lab)?;
    assert!(errors.is_empty(), "{errors:?}");
    Ok(())
}

#[test]
fn where_nobody_takes_several_buffers_tc_sends_them() -> Result<()> {
    if !needs::are_met(&["curl", "ping", "sha256sum"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = start_everywhere(&lab, "xdp")?;
    assert_eq!(attached(&router, "eth2")?.0, "xdp-multi-buffer");
    send_all_over(&lab, 20_000_000, 10)?;
    assert_eq!(router.forwarded(Hook::Xdp)?, 0);
    Ok(())
}

#[test]
fn in_several_buffers_too_what_is_too_big_is_answered_or_cut() -> Result<()> {
    if !needs::are_met(&["curl", "ethtool", "ping", "tracepath"]) {
        return Ok(());
    }
    let lab = xdp_end_to_end()?;
    let router = start(&lab, "xdp")?;
    let (web, far) = (lab.host("web1"), lab.host("far"));
    assert_eq!(
        (attached(&router, "eth1")?.0, attached(&router, "eth2")?.0),
        ("xdp".into(), "xdp-multi-buffer".into())
    );
    let size = LONGEST_PING.to_string();
    // Of pieces to a neighbour that is not known yet the kernel keeps one.
    ping_once(web, far.v4.into(), 64)?;
    pings(web, far.v4.into(), &["-M", "dont", "-c", "5", "-i", "0.05", "-s", &size])?;
    for to in [IpAddr::from(far.v4), far.v6.into()] {
        assert_eq!(tracepath(web, to)?.mtu, 1500, "{to}");
    }
    let outside = HttpServer::start(far)?;
    let ends: [IpAddr; 2] = [far.v4.into(), far.v6.into()];
    for to in ends {
        let download = curl(web, outside.at(to), 3_000_000, LIMIT)?;
        assert_eq!(download.sha256, sha256_of_body(3_000_000)?, "{to}");
    }
    Ok(())
}

#[test]
fn the_next_daemon_keeps_the_program_for_several_buffers_and_loses_nothing() -> Result<()> {
    if !needs::are_met(&["ethtool", "ping"]) {
        return Ok(());
    }
    let lab = xdp_end_to_end()?;
    let mut router = start(&lab, "xdp")?;
    let (web, db) = (lab.host("web1"), lab.host("db1"));
    // Longer than all that happens below.
    let size = LONGEST_PING.to_string();
    let options = ["-M", "do", "-c", "800", "-i", "0.01", "-s", &size];
    thread::scope(|scope| {
        let pinging = scope.spawn(|| pings(web, db.v4.into(), &options));
        thread::sleep(Duration::from_secs(1));
        router.kill_daemon();
        thread::sleep(Duration::from_secs(1));
        router.start_daemon()?;
        assert_eq!(attached(&router, "eth2")?.0, "xdp-multi-buffer");
        assert_eq!(router.plan()?, Vec::<String>::new());
        pinging.join().expect("no panic")
    })
}

#[test]
fn a_live_port_gets_the_program_that_its_mtu_wants() -> Result<()> {
    if !needs::are_met(&["ethtool", "ping"]) {
        return Ok(());
    }
    let lab = xdp_end_to_end()?;
    let router = Router::start(&lab, "xdp")?;
    router.apply(&VPC_COMMANDS)?;
    let tiers = &VPC_COMMANDS[2..4];
    let (web, db) = (lab.host("web1"), lab.host("db1"));
    let set_all = |mtu| tiers.iter().try_for_each(|tier| tell(&router, tier, mtu));
    let small = ["-M", "do", "-c", "10", "-i", "0.01"];
    let size = LONGEST_PING.to_string();
    let large = ["-M", "do", "-c", "10", "-i", "0.01", "-s", &size];
    for _ in 0..2 {
        assert_eq!(attached(&router, "eth2")?.0, "xdp");
        pings(web, db.v4.into(), &small)?;
        // A veth does not let its peer have more than its program takes: first the router, then the wire.
        set_all(MTU)?;
        assert_eq!(attached(&router, "eth2")?.0, "xdp-multi-buffer");
        set_wires(&lab, TIERS, MTU)?;
        pings(web, db.v4.into(), &large)?;
        // The other way round its peer still has more, and the program stays.
        set_all(1500)?;
        let (attach, reason) = attached(&router, "eth2")?;
        assert_eq!(
            (attach.as_str(), reason.contains("the driver refused xdp")),
            ("xdp-multi-buffer", true),
            "{reason}"
        );
        pings(web, db.v4.into(), &small)?;
        set_wires(&lab, TIERS, 1500)?;
        set_all(MTU)?;
        set_all(1500)?;
        assert_eq!(router.plan()?, Vec::<String>::new());
    }
    Ok(())
}
