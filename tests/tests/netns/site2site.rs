//! Site-to-site tunnels between XVR and a strongSwan that knows nothing of it, as guests and hosts at the other end
//! notice them. Both ends have the kernel's ESP; where it has none, that in user space.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::capture::{Capture, Frames};
use router_tests::clients;
use router_tests::lab::{Host, Lab};
use router_tests::nat::SOURCE_NAT;
use router_tests::netns::wait_until;
use router_tests::router::{Router, TIER1, VPC_COMMANDS, fixture, for_both_hooks};
use router_tests::servers::{self, Conversation, HttpServer, TcpEcho};
use router_tests::vpn::{self, Charon, SECRET, SITE, Site};
use serde_json::{Value, json};

/// Hosts at the other end.
const INNER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);

/// Building a tunnel may take that long.
const TIME: Duration = Duration::from_secs(90);

const UP: &str = "IPsec SA found;Site-to-site VPN have connected";
const DOWN: &str = "IPsec SA not found;Site-to-site VPN have not connected";

fn programs(further: &[&'static str]) -> Vec<&'static str> {
    [vpn::programs_of_sites(), &["ping"], further].concat()
}

const WITH_FILES: &[&str] = &["curl", "sha256sum", "tcpdump"];

fn send(router: &Router<'_>, message: &Value) -> Result<()> {
    router.update_config_with("site_2_site_vpn", message.to_string().as_bytes())?.ok().map(drop)
}

/// What a [`Site`] calls its tunnel, and the first of what it carries.
const TUNNEL: &str = "tunnel";
const CHILD: &str = "net0";

/// Hosts at the other end, on its own loopback device.
fn bring_hosts(far: &Host) -> Result<()> {
    far.namespace
        .ip(&format!("address add {INNER}/32 dev lo\naddress add {SECOND}/32 dev lo\nlink set lo up\n"))
}

fn start<'lab>(lab: &'lab Lab, attach: &str) -> Result<Router<'lab>> {
    bring_hosts(lab.host("far"))?;
    let router = Router::start(lab, attach)?;
    router.apply(&VPC_COMMANDS)?;
    Ok(router)
}

fn status(router: &Router<'_>, peer: Ipv4Addr) -> Result<String> {
    Ok(router.script("checkbatchs2svpn.sh", &[&peer.to_string(), ""])?.ok()?.stdout)
}

fn is_up(router: &Router<'_>, peer: Ipv4Addr) -> bool {
    status(router, peer).is_ok_and(|said| said == format!("{peer}:0:{UP}&"))
}

fn reaches(from: &Host, to: impl Into<IpAddr>) -> bool {
    clients::ping(from, to.into(), 2, Duration::from_millis(20)).is_ok_and(|ping| ping.received > 0)
}

/// Waits until the tunnel carries packets from a guest.
fn wait_until_carried(router: &Router<'_>, from: &Host, to: Ipv4Addr) -> Result<()> {
    wait_until(&format!("{to} is reached"), TIME, || reaches(from, to))
        .with_context(|| format!("the daemon's log:\n{}", router.log()))
}

#[test]
fn tcp_goes_both_ways_with_the_guests_own_addresses_and_nothing_of_it_is_seen_outside() -> Result<()> {
    for_both_hooks(&programs(WITH_FILES), |attach| {
        let lab = Lab::vpc()?;
        let (web1, far) = (lab.host("web1"), lab.host("far"));
        let router = start(&lab, attach)?;
        let public = lab.segment("public").router_port();
        let bare = Capture::start(&lab.wire, &public, Frames::All, "net 10.0.0.0/8")?;
        let peer = Charon::site(far, &SITE)?;
        assert_eq!(status(&router, far.v4)?, format!("{}:11:{DOWN}&", far.v4));
        send(&router, &vpn::message(far.v4, &json!({})))?;
        wait_until_carried(&router, web1, INNER)?;
        assert!(is_up(&router, far.v4));
        assert!(reaches(far, web1.v4));
        let inside = Capture::start(&lab.router, "ipsec0", Frames::All, "")?;
        const LENGTH: u64 = 10_000_000;
        let sum = servers::sha256_of_body(LENGTH)?;
        for (server, client, address) in [(far, web1, INNER), (web1, far, web1.v4)] {
            let http = HttpServer::start(server)?;
            let download = clients::curl(client, http.at(address), LENGTH, TIME)?;
            ensure!(download.sha256 == sum, "another file came from {}", server.name);
        }
        let seen = inside.stop()?.frames("")?;
        ensure!(seen.iter().any(|frame| frame.contains(&format!("IP {}.", web1.v4))), "{seen:?}");
        let bare = bare.stop()?.frames("")?;
        ensure!(bare.is_empty(), "outside the tunnel: {bare:#?}");
        let tunnels = peer.tunnels()?;
        ensure!(tunnels.contains("INSTALLED, TUNNEL"), "{tunnels}");
        let ports = router.show("ports")?;
        ensure!(
            ports.as_array().is_some_and(|all| all.iter().any(|port| port["role"] == "tunnel")),
            "{ports}"
        );
        let shown = router.xvr(&["status"])?.ok()?.stdout;
        ensure!(shown.contains("charon runs, process") && shown.contains("ESP is"), "{shown}");
        let secrets = router.root().join("etc/swanctl/conf.d/xvr.conf");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(secrets)?.permissions());
        assert_eq!(mode & 0o777, 0o600);
        ensure!(!router.log().contains(SECRET), "the secret is in the log");
        assert!(router.plan()?.is_empty());
        Ok(())
    })
}

#[test]
fn versions_of_ike_proposals_and_encapsulation_are_as_cloudstack_says() -> Result<()> {
    if !router_tests::needs::are_met(&programs(&[])) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    let router = start(&lab, "tc")?;
    // Without NAT in between the kernel's is in UDP if CloudStack says so, that in user space always.
    let carried = if vpn::kernel_can() { "TUNNEL, reqid" } else { "TUNNEL-in-UDP" };
    for (other, site, words) in [
        (
            json!({ "ike_version": "ikev1", "ike_policy": "aes256-sha1;modp1536", "esp_policy": "aes256-sha1;modp1536" }),
            Site { version: 1, ike: "aes256-sha1-modp1536", esp: "aes256-sha1-modp1536", ..SITE },
            [
                "IKEv1",
                "AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1536",
                "AES_CBC-256/HMAC_SHA1_96/MODP_1536",
            ],
        ),
        // The peer takes the second of each.
        (
            json!({
                "ike_version": "ike", "encap": true,
                "ike_policy": "aes128-sha1;modp1024,aes192-sha384;modp3072",
                "esp_policy": "aes128-sha1,aes256-sha512",
            }),
            Site { ike: "aes192-sha384-modp3072", esp: "aes256-sha512", ..SITE },
            [
                "IKEv2",
                "AES_CBC-192/HMAC_SHA2_384_192/PRF_HMAC_SHA2_384/MODP_3072",
                "AES_CBC-256/HMAC_SHA2_512_256",
            ],
        ),
        (
            json!({ "ike_policy": "3des-md5;modp1024", "esp_policy": "aes128-sha256;modp2048" }),
            Site { ike: "3des-md5-modp1024", esp: "aes128-sha256-modp2048", ..SITE },
            ["IKEv2", "3DES_CBC/HMAC_MD5_96/PRF_HMAC_MD5/MODP_1024", carried],
        ),
    ] {
        let peer = Charon::site(far, &site)?;
        send(&router, &vpn::message(far.v4, &other))?;
        wait_until_carried(&router, web1, INNER).with_context(|| other.to_string())?;
        let tunnels = peer.tunnels()?;
        ensure!(words.iter().all(|word| tunnels.contains(word)), "{words:?} in {tunnels}");
        assert!(is_up(&router, far.v4));
        send(&router, &vpn::message(far.v4, &json!({ "create": false })))?;
    }
    Ok(())
}

#[test]
fn each_network_of_a_split_tunnel_has_a_connection_of_its_own_and_so_it_is_with_ikev1() -> Result<()> {
    if !router_tests::needs::are_met(&programs(&[])) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    let router = start(&lab, "tc")?;
    let both: &[&str] = &["10.99.0.0/16", "10.97.0.0/16"];
    let networks = "10.99.0.0/16,10.97.0.0/16";
    for (other, site, connections) in [
        (json!({ "split_connections": true }), Site { is_split: true, networks: both, ..SITE }, 2),
        (json!({}), Site { networks: both, ..SITE }, 1),
        (json!({ "ike_version": "ikev1" }), Site { version: 1, is_split: true, networks: both, ..SITE }, 2),
    ] {
        let peer = Charon::site(far, &site)?;
        let mut message = vpn::message(far.v4, &other);
        message["peer_guest_cidr_list"] = networks.into();
        send(&router, &message)?;
        wait_until_carried(&router, web1, INNER).with_context(|| other.to_string())?;
        wait_until_carried(&router, web1, SECOND).with_context(|| other.to_string())?;
        let tunnels = peer.tunnels()?;
        assert_eq!(tunnels.matches("INSTALLED").count(), connections, "{other}: {tunnels}");
        send(&router, &vpn::message(far.v4, &json!({ "create": false })))?;
    }
    Ok(())
}

#[test]
fn a_passive_end_does_not_begin_and_takes_who_does() -> Result<()> {
    if !router_tests::needs::are_met(&programs(&["tcpdump"])) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    let router = start(&lab, "tc")?;
    let public = lab.segment("public").router_port();
    let called = Capture::start(&lab.wire, &public, Frames::All, "udp port 500")?;
    let waiting = Charon::site(far, &SITE)?;
    send(&router, &vpn::message(far.v4, &json!({ "passive": true })))?;
    let is_loaded =
        || router.log().contains("loaded connection") || router.log().contains("added vici connection");
    wait_until("charon knows its tunnel", TIME, is_loaded).with_context(|| router.log())?;
    assert!(!reaches(web1, INNER));
    drop(waiting);
    let _begins = Charon::site(far, &Site { begins: true, ..SITE })?;
    wait_until_carried(&router, web1, INNER)?;
    let calls = called.stop()?.frames("")?;
    let first = calls.first().context("nobody called")?;
    ensure!(first.contains(&format!("IP {}.500 > {SOURCE_NAT}.500", far.v4)), "{first}");
    // A passive tunnel ends with its removal all the same.
    send(&router, &vpn::message(far.v4, &json!({ "create": false })))?;
    wait_until("the tunnel is gone", TIME, || !reaches(far, web1.v4))
}

#[test]
fn without_the_tunnel_nothing_of_it_leaves_and_it_comes_back_by_itself() -> Result<()> {
    for_both_hooks(&programs(&["tcpdump"]), |attach| {
        let lab = Lab::vpc()?;
        let (web1, far) = (lab.host("web1"), lab.host("far"));
        let mut router = start(&lab, attach)?;
        let public = lab.segment("public").router_port();
        let leaked = Capture::start(&lab.wire, &public, Frames::All, "net 10.0.0.0/8")?;
        // Nobody is there.
        send(&router, &vpn::message(far.v4, &json!({})))?;
        assert!(!reaches(web1, INNER));
        let peer = Charon::site(far, &SITE)?;
        wait_until_carried(&router, web1, INNER)?;
        // Its daemon ends, and is started again.
        let before = charon(&router)?;
        kill(before)?;
        reaches(web1, INNER);
        wait_until_carried(&router, web1, INNER)?;
        ensure!(charon(&router)? != before, "the same process");
        // Nobody is left to start it.
        router.kill_daemon();
        kill(charon_of_note(&router)?)?;
        // The kernel goes on with what it has.
        if !vpn::kernel_can() {
            wait_until("the device is gone", TIME, || !lab.router.has_interface("ipsec0"))?;
        }
        assert_eq!(reaches(web1, INNER), vpn::kernel_can());
        router.start_daemon()?;
        wait_until_carried(&router, web1, INNER)?;
        drop(peer);
        assert!(!reaches(web1, INNER));
        let leaked = leaked.stop()?.frames("")?;
        ensure!(leaked.is_empty(), "{leaked:#?}");
        Ok(())
    })
}

/// charon's process, as the router says.
fn charon(router: &Router<'_>) -> Result<u32> {
    let status = router.show("status")?;
    let services = status["services"].as_array().context("no services")?;
    let pid = services.iter().find(|service| service["name"] == "charon").and_then(|own| own["pid"].as_u64());
    Ok(u32::try_from(pid.context("charon does not run")?)?)
}

/// And as it is written down for the next daemon.
fn charon_of_note(router: &Router<'_>) -> Result<u32> {
    let note: Value = serde_json::from_slice(&fs::read(router.root().join("run/xvr/charon.process"))?)?;
    Ok(u32::try_from(note["pid"].as_u64().context("no process")?)?)
}

fn kill(pid: u32) -> Result<()> {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    ensure!(status.success(), "process {pid} is not ended");
    Ok(())
}

#[test]
fn a_tiers_lists_are_asked_about_what_goes_through_the_tunnel() -> Result<()> {
    if !router_tests::needs::are_met(&programs(&[])) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    let router = start(&lab, "tc")?;
    let _peer = Charon::site(far, &SITE)?;
    send(&router, &vpn::message(far.v4, &json!({})))?;
    wait_until_carried(&router, web1, INNER)?;
    let all = |cidr: &str, allowed: bool| json!([{ "type": "all", "cidr": cidr, "allowed": allowed }]);
    let (open, closed) = (all("0.0.0.0/0", true), all("0.0.0.0/0", false));
    for (ingress, egress, inward, outward) in [
        (&all("10.99.0.1/32", true), &closed, true, false),
        (&all("10.99.0.2/32", true), &open, false, true),
        (&closed, &all("10.99.0.0/16", false), false, false),
        (&open, &open, true, true),
    ] {
        router.apply_acl(TIER1, ingress, egress)?;
        assert_eq!((reaches(far, web1.v4), reaches(web1, INNER)), (inward, outward), "{ingress} {egress}");
    }
    Ok(())
}

#[test]
fn the_end_of_a_tunnel_is_its_end_and_another_one_goes_on() -> Result<()> {
    if !router_tests::needs::are_met(&programs(&[])) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let (web1, far, neighbour) = (lab.host("web1"), lab.host("far"), lab.host("neighbour"));
    let router = start(&lab, "tc")?;
    let other = Ipv4Addr::new(10, 96, 0, 1);
    neighbour.namespace.ip(&format!("address add {other}/32 dev lo\nlink set lo up\n"))?;
    let other_site = Site { networks: &["10.96.0.0/16"], ..SITE };
    let peers = (Charon::site(far, &SITE)?, Charon::site(neighbour, &other_site)?);
    send(&router, &vpn::message(far.v4, &json!({})))?;
    send(&router, &vpn::message(neighbour.v4, &json!({ "peer_guest_cidr_list": "10.96.0.0/16" })))?;
    wait_until_carried(&router, web1, INNER)?;
    wait_until_carried(&router, web1, other)?;
    let echo = TcpEcho::start(neighbour)?;
    let mut conversation = Conversation::begin(web1, echo.at(other))?;
    let both =
        router.script("checkbatchs2svpn.sh", &[&far.v4.to_string(), &neighbour.v4.to_string(), ""])?.ok()?;
    assert_eq!(both.stdout, format!("{}:0:{UP}&{}:0:{UP}&", far.v4, neighbour.v4));
    send(&router, &vpn::message(far.v4, &json!({ "create": false })))?;
    wait_until("the peer knows", TIME, || peers.0.tunnels().is_ok_and(|tunnels| tunnels.trim().is_empty()))?;
    assert_eq!(status(&router, far.v4)?, format!("{}:11:{DOWN}&", far.v4));
    conversation.go_on()?;
    assert!(is_up(&router, neighbour.v4) && !reaches(far, web1.v4));
    send(&router, &vpn::message(neighbour.v4, &json!({ "create": false })))?;
    wait_until("charon has nothing to do", TIME, || charon(&router).is_err())?;
    wait_until("the peer knows", TIME, || peers.1.tunnels().is_ok_and(|tunnels| tunnels.trim().is_empty()))?;
    let routes = router.show("routes")?.to_string();
    ensure!(!routes.contains("10.96.0.0") && !routes.contains("10.99.0.0"), "{routes}");
    Ok(())
}

#[test]
fn a_connection_outlives_its_keys() -> Result<()> {
    if !router_tests::needs::are_met(&programs(&[])) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    let router = start(&lab, "tc")?;
    let peer = Charon::site(far, &SITE)?;
    send(&router, &vpn::message(far.v4, &json!({ "ike_lifetime": 30, "esp_lifetime": 20 })))?;
    wait_until_carried(&router, web1, INNER)?;
    let echo = TcpEcho::start(far)?;
    let mut conversation = Conversation::begin(web1, echo.at(INNER))?;
    wait_until_keys_are_new(&peer, TUNNEL)?;
    wait_until_keys_are_new(&peer, CHILD)?;
    conversation.go_on()
}

/// Until what a peer lists by a name has other keys than its first ones.
fn wait_until_keys_are_new(peer: &Charon, name: &str) -> Result<()> {
    // `tunnel: #1, ESTABLISHED` and `net0: #1, reqid 1, INSTALLED`
    let is_anew = |tunnels: String| {
        let mut lines =
            tunnels.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": #"));
        lines.any(|line| !line.starts_with("1,"))
    };
    wait_until(&format!("{name} has new keys"), TIME, || peer.tunnels().is_ok_and(is_anew))
}

#[test]
fn connections_go_both_ways_as_they_are_where_lists_let_them_and_outlive_keys_and_the_daemon() -> Result<()> {
    if !router_tests::needs::are_met(&programs(&[])) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    let mut router = start(&lab, "tc")?;
    let peer = Charon::site(far, &SITE)?;
    send(&router, &vpn::message(far.v4, &json!({})))?;
    wait_until_carried(&router, web1, INNER)?;
    assert!(is_up(&router, far.v4));
    let all = |allowed: bool| json!([{ "type": "all", "cidr": "0.0.0.0/0", "allowed": allowed }]);
    for (ingress, egress) in [(false, true), (true, true)] {
        router.apply_acl(TIER1, &all(ingress), &all(egress))?;
        assert_eq!((reaches(far, web1.v4), reaches(web1, INNER)), (ingress, egress));
    }
    let echoes = [TcpEcho::start(far)?, TcpEcho::start(web1)?];
    let ends = [(web1, echoes[0].at(INNER)), (far, echoes[1].at(web1.v4))];
    let mut conversations = Vec::new();
    for (client, server) in ends {
        conversations.push(Conversation::begin_within(client, server, TIME)?);
        let flows = router.show("flows")?;
        let of_it = |flow: &&Value| flow["destination"] == server.to_string();
        let flow = flows.as_array().and_then(|flows| flows.iter().find(of_it)).context("no flow")?;
        ensure!(flow["translated"] == flow["source"] || flow["translated"].is_null(), "{flow}");
    }
    let said = router.xvr(&["status"])?.ok()?.stdout;
    let esp = if vpn::kernel_can() { "ESP is the kernel's" } else { "ESP is in user space" };
    ensure!(said.contains(esp), "{said}");
    let mut go_on = |when: &str| {
        let mut pairs = conversations.iter_mut().zip(ends);
        pairs.try_for_each(|(one, (client, _))| {
            one.go_on().with_context(|| format!("{}'s conversation {when}", client.name))
        })
    };
    for (kind, name) in [("--child", CHILD), ("--ike", TUNNEL)] {
        peer.change_keys(kind, name)?;
        wait_until_keys_are_new(&peer, name)?;
        go_on("with new keys")?;
    }
    let before = charon(&router)?;
    router.kill_daemon();
    go_on("without the daemon")?;
    router.start_daemon()?;
    go_on("with the next daemon")?;
    wait_until("charon is found again", TIME, || charon(&router).is_ok_and(|process| process == before))
}

/// Public address of the second router of [`bring_other_vpc`].
const OTHER_NAT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 40);

/// Starts the lab's second router as that of another VPC, 10.20.0.0/16, with `db1` for a guest.
fn bring_other_vpc<'lab>(lab: &'lab Lab, attach: &str) -> Result<Router<'lab>> {
    const PUBLIC_MAC: &str = "1e:00:a8:00:00:41";
    let mut differences = vec![
        ("10.10.".to_owned(), "10.20.".to_owned()),
        (SOURCE_NAT.to_string(), OTHER_NAT.to_string()),
        ("169.254.1.177".to_owned(), "169.254.1.178".to_owned()),
        ("fd17:ac56:1234:".to_owned(), "fd17:ac56:4321:".to_owned()),
        ("fe00:31".to_owned(), "fe00:41".to_owned()),
        (lab.segment("public").router_mac.to_owned(), PUBLIC_MAC.to_owned()),
    ];
    differences.extend(["tier1", "tier2"].map(|name| {
        let segment = lab.segment(name);
        (segment.router_mac.to_owned(), segment.twin_mac())
    }));
    let twin = lab.twin.as_ref().context("no second router")?;
    twin.ip(&format!("link set eth1 address {PUBLIC_MAC}\n"))?;
    lab.host("db1").namespace.ip(&format!(
        "address flush dev eth0 scope global\naddress add {OTHER_GUEST}/24 dev eth0\nroute add default via 10.20.2.1\n"
    ))?;
    let mut router = Router::install_twin(lab, attach)?;
    router.start_daemon()?;
    for name in VPC_COMMANDS {
        let file = fixture(name);
        let kind = file.parent().and_then(Path::file_name).context("a fixture has a folder")?;
        let mut message = fs::read_to_string(&file)?;
        for (own, other) in &differences {
            message = message.replace(own, other);
        }
        router.update_config_with(&kind.to_string_lossy(), message.as_bytes())?.ok().context(name)?;
    }
    Ok(router)
}

const OTHER_GUEST: Ipv4Addr = Ipv4Addr::new(10, 20, 2, 11);

#[test]
fn two_routers_are_both_ends_and_a_tier_of_one_reaches_a_tier_of_the_other() -> Result<()> {
    for_both_hooks(&programs(WITH_FILES), |attach| {
        let lab = Lab::vpc()?.with_twin()?;
        let (web1, db1) = (lab.host("web1"), lab.host("db1"));
        let one = Router::start(&lab, attach)?;
        one.apply(&VPC_COMMANDS)?;
        let other = bring_other_vpc(&lab, attach)?;
        assert!(!reaches(web1, OTHER_GUEST));
        send(&one, &vpn::message(OTHER_NAT, &json!({ "peer_guest_cidr_list": "10.20.0.0/16" })))?;
        let towards_one = json!({
            "local_public_ip": OTHER_NAT, "local_guest_cidr": "10.20.0.0/16", "peer_guest_cidr_list": vpn::VPC,
        });
        send(&other, &vpn::message(SOURCE_NAT, &towards_one))?;
        let public = lab.segment("public").router_port();
        let bare = Capture::start(&lab.wire, &public, Frames::All, "net 10.0.0.0/8")?;
        wait_until_carried(&one, web1, OTHER_GUEST).with_context(|| other.log())?;
        for (router, peer) in [(&one, OTHER_NAT), (&other, SOURCE_NAT)] {
            assert_eq!(status(router, peer)?, format!("{peer}:0:{UP}&"));
        }
        const LENGTH: u64 = 1_000_000;
        let sum = servers::sha256_of_body(LENGTH)?;
        for (server, client, address) in [(db1, web1, OTHER_GUEST), (web1, db1, web1.v4)] {
            let http = HttpServer::start(server)?;
            let download = clients::curl(client, http.at(address), LENGTH, TIME)?;
            ensure!(download.sha256 == sum, "another file came from {}", server.name);
        }
        let bare = bare.stop()?.frames("")?;
        ensure!(bare.is_empty(), "outside the tunnel: {bare:#?}");
        // One end is enough to end it.
        send(&other, &vpn::message(SOURCE_NAT, &json!({ "create": false })))?;
        // Both may have begun at once: of the two associations the one that is left over ends when nobody answers.
        wait_until("the other end knows", Duration::from_secs(300), || !is_up(&one, OTHER_NAT))
            .with_context(|| format!("{}\n--- the other's log ---\n{}", one.log(), other.log()))?;
        for (from, to) in [(web1, OTHER_GUEST), (db1, web1.v4)] {
            assert!(!reaches(from, to), "from {}", from.name);
        }
        Ok(())
    })
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn a_peer_that_was_gone_is_noticed_and_called_again() -> Result<()> {
    if !router_tests::needs::are_met(&programs(&[])) {
        return Ok(());
    }
    const MINUTES: Duration = Duration::from_secs(300);
    let lab = Lab::vpc()?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    let router = start(&lab, "tc")?;
    let peer = Charon::site(far, &SITE)?;
    send(&router, &vpn::message(far.v4, &json!({})))?;
    wait_until_carried(&router, web1, INNER)?;
    drop(peer);
    // It knows of no tunnel, and waits.
    let _peer = Charon::site(far, &SITE)?;
    wait_until("the tunnel is there again", MINUTES, || reaches(web1, INNER))
}
