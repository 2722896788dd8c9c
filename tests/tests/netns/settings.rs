//! What the operator chooses, as users notice it; and what a file with a mistake in it does not do.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use router_tests::datagrams::{receive, seen_as, udp_socket};
use router_tests::lab::Lab;
use router_tests::nat::{FORWARDING, NatRouter, Rule, SOURCE_NAT, STATIC_NAT, is_closed};
use router_tests::needs;
use router_tests::netns::{Output, wait_until};
use router_tests::router::{Router, TIER2};
use router_tests::servers::{Conversation, TcpEcho, UdpEcho, UdpMirror, udp_round_trip};
use serde_json::{Value, json};

/// Runs a test with a router that takes NAT rules, with the programs in TC.
fn run(test: impl FnOnce(&Lab, NatRouter<'_>) -> Result<()>) -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = NatRouter::xvr(&lab, "tc")?;
    test(&lab, router)
}

/// The same with the router itself.
fn run_xvr(test: impl FnOnce(&Lab, &mut Router<'_>) -> Result<()>) -> Result<()> {
    run(|lab, mut router| test(lab, xvr(&mut router)))
}

fn xvr<'r, 'lab>(router: &'r mut NatRouter<'lab>) -> &'r mut Router<'lab> {
    match router {
        NatRouter::Xvr(router) => router,
        NatRouter::Linux(..) => unreachable!("it was started as XVR"),
    }
}

fn write(router: &Router<'_>, settings: &str) -> Result<()> {
    fs::write(router.root().join("etc/xvr/settings.json"), settings).context("write the settings")
}

/// Has settings put in force.
fn choose(router: &Router<'_>, settings: &str) -> Result<Output> {
    write(router, settings)?;
    router.xvr(&["reload"])?.ok()
}

/// The problems of `xvr status`.
fn problems(router: &Router<'_>) -> Result<Vec<String>> {
    Ok(serde_json::from_value(router.show("status")?["problems"].clone())?)
}

const BAD: &str = r#"{ "hairpin_source": "gateway", "timeouts": { "udp": "5 min" } }"#;
const COMPLAINT: &str = "settings.json#/timeouts/udp: expected a number of seconds, found text";

#[test]
fn a_guest_that_calls_another_by_a_public_address_is_seen_as_outside() -> Result<()> {
    run(|lab, mut router| {
        let (web1, web2, db1) = (lab.host("web1"), lab.host("web2"), lab.host("db1"));
        let mirror = UdpMirror::start(web1)?;
        router.add(&[Rule::forward("udp", 5000, web1.v4, mirror.at(web1.v4).port())])?;
        let public = SocketAddr::from((FORWARDING, 5000));
        let from_tier = udp_socket(web2, 0)?;
        let gateway = "10.10.1.1".parse::<std::net::IpAddr>()?;
        assert_eq!(seen_as(&from_tier, public)?.ip(), gateway);
        assert_eq!(seen_as(&udp_socket(db1, 0)?, public)?.ip(), db1.v4);

        choose(xvr(&mut router), r#"{ "hairpin_source": "external" }"#)?;
        assert_eq!(seen_as(&udp_socket(web2, 0)?, public)?.ip(), SOURCE_NAT);
        assert_eq!(seen_as(&udp_socket(db1, 0)?, public)?.ip(), SOURCE_NAT);
        assert_eq!(seen_as(&from_tier, public)?.ip(), gateway, "a flow that was there before");
        router.add(&[Rule::static_nat(web2.v4)])?;
        assert_eq!(seen_as(&udp_socket(web2, 0)?, public)?.ip(), STATIC_NAT);

        choose(xvr(&mut router), "{}")?;
        assert_eq!(seen_as(&udp_socket(web2, 0)?, public)?.ip(), gateway);
        Ok(())
    })
}

#[test]
fn a_symmetric_network_is_seen_by_another_port_from_elsewhere() -> Result<()> {
    run_xvr(|lab, router| {
        let (far, neighbour) = (lab.host("far"), lab.host("neighbour"));
        let mirrors = (UdpMirror::start(far)?, UdpMirror::start(neighbour)?);
        let (far, neighbour) = (mirrors.0.at(far.v4), mirrors.1.at(neighbour.v4));
        let before = udp_socket(lab.host("web1"), 6000)?;
        let mapped = seen_as(&before, far)?;

        let symmetric = r#"{ "networks": { "10.10.1.0/24": { "mapping": "symmetric" } } }"#;
        choose(router, symmetric)?;
        assert_eq!(seen_as(&before, far)?, mapped, "a flow that was there before");
        // A port that another guest has to one destination is free to the other.
        let (first, second) = (udp_socket(lab.host("web1"), 5000)?, udp_socket(lab.host("web2"), 5000)?);
        let taken = seen_as(&first, far)?;
        let seen = (seen_as(&second, far)?, seen_as(&second, neighbour)?);
        assert_ne!(seen.0, seen.1);
        assert_ne!(seen.0, taken);
        // The other tier is as ever.
        let other = udp_socket(lab.host("db1"), 7000)?;
        assert_eq!(seen_as(&other, far)?, seen_as(&other, neighbour)?);

        choose(router, "{}")?;
        let (first, second) = (udp_socket(lab.host("web1"), 5001)?, udp_socket(lab.host("web2"), 5001)?);
        assert_ne!(seen_as(&first, far)?, seen_as(&second, far)?);
        assert_eq!(seen_as(&second, far)?, seen_as(&second, neighbour)?);
        Ok(())
    })
}

#[test]
fn a_stranger_gets_in_where_filtering_does_not_ask_who_it_is() -> Result<()> {
    run_xvr(|lab, router| {
        let (far, neighbour) = (lab.host("far"), lab.host("neighbour"));
        let mirror = UdpMirror::start(far)?;
        let guest = udp_socket(lab.host("web1"), 0)?;
        let mapped = seen_as(&guest, mirror.at(far.v4))?;
        is_closed("the mapping", speak(&udp_socket(neighbour, 0)?, &guest, mapped))?;

        choose(router, r#"{ "filtering": "endpoint-independent" }"#)?;
        let stranger = udp_socket(neighbour, 0)?;
        speak(&stranger, &guest, mapped)?;
        // So does another port of somebody known.
        speak(&udp_socket(far, 0)?, &guest, mapped)?;

        choose(router, "{}")?;
        is_closed("the mapping again", speak(&udp_socket(neighbour, 0)?, &guest, mapped))?;
        speak(&stranger, &guest, mapped).context("a flow that was there before")
    })
}

#[test]
fn an_answer_from_another_port_gets_in_where_a_helper_is_chosen() -> Result<()> {
    run_xvr(|lab, router| {
        let far = lab.host("far");
        let server = udp_socket(far, 69)?;
        let gets_an_answer = || {
            let guest = udp_socket(lab.host("web1"), 0)?;
            guest.send_to(b"the file, please", (far.v4, 69))?;
            let seen = receive(&server, b"the file, please")?;
            udp_socket(far, 0)?.send_to(b"here", seen)?;
            receive(&guest, b"here").map(drop)
        };
        gets_an_answer()?;
        choose(router, r#"{ "helpers": ["ftp"] }"#)?;
        is_closed("the way of the answer", gets_an_answer())?;
        choose(router, "{}")?;
        gets_an_answer()
    })
}

/// A datagram to a guest's mapping, and one back.
fn speak(stranger: &UdpSocket, guest: &UdpSocket, mapped: SocketAddr) -> Result<()> {
    stranger.send_to(b"may I come in?", mapped)?;
    let sender = receive(guest, b"may I come in?")?;
    guest.send_to(b"yes", sender)?;
    assert_eq!(receive(stranger, b"yes")?, mapped);
    Ok(())
}

#[test]
fn a_short_timeout_ends_a_flow_and_gives_its_port_back() -> Result<()> {
    run_xvr(|lab, router| {
        let far = lab.host("far");
        // Somebody who never answers.
        let silent = udp_socket(far, 0)?;
        let server = SocketAddr::from((far.v4, silent.local_addr()?.port()));
        let said = choose(router, r#"{ "timeouts": { "udp_unanswered": 2, "hold_down": 1 } }"#)?;
        assert!(said.stdout.starts_with("settings.json: in force, 1 change,"), "{}", said.stdout);
        udp_socket(lab.host("web1"), 0)?.send_to(b"hello?", server)?;
        receive(&silent, b"hello?")?;
        assert_eq!(pool(router, "udp")?, (1, 1));
        assert!(has_flow(router, server)?);
        wait_until("the flow ends", Duration::from_secs(30), || {
            has_flow(router, server).is_ok_and(|has| !has)
                && pool(router, "udp").is_ok_and(|use_| use_ == (0, 0))
        })
    })
}

#[test]
fn a_guest_at_its_limit_gets_a_further_socket_once_one_has_expired_and_another_guest_at_once() -> Result<()> {
    run_xvr(|lab, router| {
        let (web1, web2) = (lab.host("web1"), lab.host("web2"));
        let mirror = UdpMirror::start(lab.host("far"))?;
        let far = mirror.at(lab.host("far").v4);
        let gets_out = |host| -> Result<()> { seen_as(&udp_socket(host, 0)?, far).map(drop) };
        let held = udp_socket(web1, 0)?;
        let mapped = seen_as(&held, far)?;
        let short = r#""timeouts": { "udp_unanswered": 2, "udp": 2, "hold_down": 1 }"#;
        write(router, &format!(r#"{{ "ports_per_guest": 2, {short} }}"#))?;
        assert_eq!(
            router.plan()?[..2],
            ["set timeouts of flows", "let a guest have 2 external ports per protocol"]
        );
        router.xvr(&["reload"])?.ok()?;
        // What it had before counts.
        gets_out(web1)?;
        let refused = udp_socket(web1, 0)?;
        // A socket that hears of the error says so.
        refused.connect(far)?;
        refused.send(b"may I?")?;
        let error = refused.recv(&mut [0; 64]).expect_err("it may not");
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
        assert!(router.outcome("guest-limit")? > 0);
        gets_out(web2)?;
        assert_eq!(seen_as(&held, far)?, mapped, "a flow that is there");
        wait_until("a port is free again", Duration::from_secs(30), || gets_out(web1).is_ok())?;
        choose(router, "{}")?;
        (0..20).try_for_each(|_| gets_out(web1))
    })
}

#[test]
fn guests_keep_their_source_towards_destinations_that_are_chosen() -> Result<()> {
    run(|lab, mut router| {
        let (web1, web2) = (lab.host("web1"), lab.host("web2"));
        let (far, neighbour) = (lab.host("far"), lab.host("neighbour"));
        let mirrors = (UdpMirror::start(far)?, UdpMirror::start(neighbour)?);
        let (far, neighbour) = (mirrors.0.at(far.v4), mirrors.1.at(neighbour.v4));
        // Who is there knows the way back.
        lab.host("gateway").namespace.ip(&format!("route add 10.10.1.0/24 via {SOURCE_NAT}\n"))?;
        router.add(&[Rule::static_nat(web2.v4)])?;
        let router = xvr(&mut router);
        let seen = |host, server| Ok::<_, anyhow::Error>(seen_as(&udp_socket(host, 0)?, server)?.ip());
        assert_eq!((seen(web1, far)?, seen(web2, far)?), (SOURCE_NAT.into(), STATIC_NAT.into()));

        write(router, r#"{ "untranslated": ["10.0.0.0/8", "198.51.100.0/24"] }"#)?;
        let planned = router.plan()?;
        for change in [
            "set the source of guests towards 10.0.0.0/8 to their own",
            "set the source of guests towards 198.51.100.0/24 to their own",
        ] {
            assert!(planned.iter().any(|planned| planned == change), "{planned:?}");
        }
        router.xvr(&["reload"])?.ok()?;
        assert_eq!(router.plan()?, Vec::<String>::new());
        assert_eq!((seen(web1, far)?, seen(web2, far)?), (web1.v4.into(), web2.v4.into()));
        assert_eq!((seen(web1, neighbour)?, seen(web2, neighbour)?), (SOURCE_NAT.into(), STATIC_NAT.into()));

        choose(router, "{}")?;
        assert_eq!((seen(web1, far)?, seen(web2, far)?), (SOURCE_NAT.into(), STATIC_NAT.into()));
        Ok(())
    })
}

/// How many external ports of a protocol are taken, and how many bindings there are.
fn pool(router: &Router<'_>, protocol: &str) -> Result<(u64, u64)> {
    let shown = router.show("nat")?;
    let rows = shown["source_nats"].as_array().context("xvr show nat has no source_nats")?;
    let is_it = |row: &&Value| row["protocol"] == protocol && row["address"] == SOURCE_NAT.to_string();
    let row = rows.iter().find(is_it).with_context(|| format!("no {protocol} in {shown}"))?;
    let number = |key: &str| row[key].as_u64().with_context(|| format!("no {key} in {row}"));
    Ok((number("taken")?, number("bindings")?))
}

fn has_flow(router: &Router<'_>, destination: SocketAddr) -> Result<bool> {
    let shown = router.show("flows")?;
    let rows = shown.as_array().context("xvr show flows is no list")?;
    Ok(rows.iter().any(|row| row["destination"] == destination.to_string()))
}

#[test]
fn a_bad_file_is_refused_and_what_was_chosen_stays() -> Result<()> {
    run(|lab, mut router| {
        let (web1, web2) = (lab.host("web1"), lab.host("web2"));
        let mirror = UdpMirror::start(web1)?;
        router.add(&[Rule::forward("udp", 5000, web1.v4, mirror.at(web1.v4).port())])?;
        let seen = || seen_as(&udp_socket(web2, 0)?, (FORWARDING, 5000).into());
        let router = xvr(&mut router);
        choose(router, r#"{ "hairpin_source": "external" }"#)?;

        write(router, BAD)?;
        let refused = router.xvr(&["reload"])?;
        assert_eq!(refused.code(), 1);
        assert!(refused.stderr.contains(COMPLAINT), "{}", refused.stderr);
        assert!(problems(router)?.iter().any(|problem| problem.starts_with(COMPLAINT)));
        assert_eq!(seen()?.ip(), SOURCE_NAT);

        let pid = router.daemon_pid().context("the daemon runs")?;
        let logged = |router: &Router<'_>| router.log().matches(COMPLAINT).count();
        let before = logged(router);
        hang_up(pid);
        wait_until("the daemon complains", Duration::from_secs(20), || logged(router) > before)?;
        assert_eq!(seen()?.ip(), SOURCE_NAT);

        write(router, "{}")?;
        hang_up(pid);
        wait_until("the settings are in force", Duration::from_secs(20), || {
            problems(router).is_ok_and(|problems| problems.is_empty())
        })?;
        assert_ne!(seen()?.ip(), SOURCE_NAT);
        assert!(router.daemon_runs());
        Ok(())
    })
}

/// SIGHUP.
fn hang_up(pid: u32) {
    // SAFETY: a plain system call; the process is the test's own child.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGHUP) };
}

#[test]
fn a_daemon_lives_with_a_bad_file_and_converges_to_a_good_one() -> Result<()> {
    run_xvr(|lab, router| {
        let far = lab.host("far");
        let echo = UdpEcho::start(far)?;
        router.kill_daemon();
        write(router, BAD)?;
        router.start_daemon()?;
        assert!(problems(router)?.iter().any(|problem| problem.starts_with(COMPLAINT)));
        assert!(router.log().contains(COMPLAINT));
        udp_round_trip(lab.host("web1"), echo.at(far.v4), b"all the same")?;
        let plan = router.xvr(&["plan"])?;
        assert!(plan.code() == 1 && plan.stderr.contains(COMPLAINT), "{}", plan.stderr);

        let good = r#"{
            "hairpin_source": "external",
            "filtering": "endpoint-independent",
            "helpers": ["ftp"],
            "networks": { "10.10.1.0/24": { "mapping": "symmetric" }, "10.99.0.0/16": {} }
        }"#;
        write(router, good)?;
        let planned = router.plan()?;
        let chosen = "set the hairpin source to external, filtering to endpoint-independent, helpers: FTP on, TFTP off";
        assert_eq!(planned.iter().filter(|change| *change == chosen).count(), 1, "{planned:?}");
        assert!(planned.iter().any(|change| change.contains(", symmetric mapping")), "{planned:?}");
        router.kill_daemon();
        router.start_daemon()?;
        assert_eq!(router.plan()?, Vec::<String>::new());
        assert_eq!(
            problems(router)?,
            ["network 10.99.0.0/16 of the settings: no guest port has an address in it"]
        );

        fs::remove_file(router.root().join("etc/xvr/settings.json"))?;
        router.xvr(&["reload"])?.ok()?;
        assert_eq!(problems(router)?, Vec::<String>::new());
        Ok(())
    })
}

#[test]
fn show_nat_has_the_rules_and_the_ports() -> Result<()> {
    run(|lab, mut router| {
        let (far, web1, web2) = (lab.host("far"), lab.host("web1"), lab.host("web2"));
        let echo = UdpEcho::start(far)?;
        router.add(&[
            Rule::forward_range("tcp", (9000, 9002), web1.v4, (7000, 7002)).only_from("198.51.100.0/24"),
            Rule::static_nat(web2.v4),
        ])?;
        udp_round_trip(web1, echo.at(far.v4), b"takes a port")?;
        let router = xvr(&mut router);
        let shown = router.show("nat")?;
        assert_eq!(
            shown["port_forwardings"],
            serde_json::json!([{
                "protocol": "tcp",
                "public": FORWARDING,
                "public_ports": "9000-9002",
                "internal": web1.v4,
                "internal_ports": "7000-7002",
                "sources": ["198.51.100.0/24"],
                "active": true,
            }])
        );
        assert_eq!(
            shown["static_nats"],
            serde_json::json!([{ "public": STATIC_NAT, "internal": web2.v4, "active": true }])
        );
        assert_eq!((pool(router, "udp")?, pool(router, "tcp")?), ((1, 1), (0, 0)));
        let text = router.xvr(&["show", "nat"])?.ok()?.stdout;
        assert!(text.contains("203.0.113.31:9000-9002  10.10.1.11:7000-7002"), "{text}");
        Ok(())
    })
}

#[test]
fn flows_that_the_policy_denies_end_as_soon_as_that_is_chosen() -> Result<()> {
    run_xvr(|lab, router| {
        let (web1, db1) = (lab.host("web1"), lab.host("db1"));
        let echo = TcpEcho::start(db1)?;
        let mut conversation = Conversation::begin(web1, echo.at(db1.v4))?;
        router.apply_acl(TIER2, &json!([]), &json!([]))?;
        conversation.go_on().context("what is known passes by default")?;
        write(router, r#"{ "denied_flows": "cut" }"#)?;
        assert_eq!(router.plan()?, ["cut flows that the policy denies"]);
        conversation.go_on().context("a plan changes nothing")?;
        router.xvr(&["reload"])?.ok()?;
        assert_eq!(router.show("status")?["cut_flows"], 1);
        is_closed("a connection that the policy denies", conversation.go_on())
    })
}
