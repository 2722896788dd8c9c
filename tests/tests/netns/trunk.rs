//! Ports that are tags on a NIC: a VPC's tiers by VLAN and by VLAN in VLAN, beside one with a NIC of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::clients::{self, curl, ping, traceroute, wait_until_reached};
use router_tests::dhcp::dig;
use router_tests::lab::{Host, Lab};
use router_tests::netns::{run_bounded, wait_until};
use router_tests::router::{Router, Tier, VPC_COMMANDS, for_both_hooks};
use router_tests::servers::{HttpServer, sha256_of_body};
use router_tests::tiers;
use router_tests::trunk::{Station, Switch, Tag, tagged, untagged};
use serde_json::{Value, json};

const VLAN: u16 = 0x8100;
const PROVIDER: u16 = 0x88a8;
const SOON: Duration = Duration::from_secs(60);
const TRUNK: &str = "trunk0";

/// Tiers, their networks' third octets, their tags.
const TIERS: [(Tier, u8, &[Tag]); 3] = [
    (("eth5", "02:01:00:e0:00:05", "10.10.5.1"), 5, &[(VLAN, 100)]),
    (("eth6", "02:01:00:e0:00:06", "10.10.6.1"), 6, &[(VLAN, 200)]),
    (("eth7", "02:01:00:e0:00:07", "10.10.7.1"), 7, &[(PROVIDER, 300), (VLAN, 7)]),
];

const fn station(name: &'static str, tier: usize, mac: &'static str, last: u8) -> Station {
    let (_, octet, tags) = TIERS[tier];
    let v4 = match last {
        0 => Ipv4Addr::UNSPECIFIED,
        last => Ipv4Addr::new(10, 10, octet, last),
    };
    Station { name, tags, mac, v4: (v4, 24), via: Ipv4Addr::new(10, 10, octet, 1) }
}

const STATIONS: [Station; 4] = [
    station("red", 0, "02:00:00:00:05:0b", 11),
    station("blue", 1, "02:00:00:00:06:0b", 11),
    station("deep", 2, "02:00:00:00:07:0b", 11),
    station("new", 1, "02:00:00:00:06:32", 0),
];

/// What the operator declares.
fn declaration() -> Value {
    let port = |((name, mac, _), _, tags): &(Tier, u8, &[Tag])| {
        let mut port = json!({"name": name, "mac": mac, "trunk": TRUNK, "vlan": tags[0].1});
        if let Some((_, inner)) = tags.get(1) {
            port["inner_vlan"] = json!(inner);
        }
        port
    };
    json!({"ports": TIERS.iter().map(port).collect::<Vec<_>>()})
}

/// CloudStack's words about the tiers: it knows of NICs and of nothing else.
fn add_tiers(router: &Router<'_>) -> Result<()> {
    let everything = json!([{"type": "all", "cidr": "0.0.0.0/0", "allowed": true}]);
    for (tier, octet, _) in TIERS {
        router.add_tier(tier, octet, &json!({}))?;
        router.apply_acl(tier, &everything, &everything)?;
    }
    Ok(())
}

fn start<'lab>(lab: &'lab Lab, attach: &str) -> Result<(Router<'lab>, Switch)> {
    let switch = Switch::start(lab, TRUNK, &STATIONS)?;
    let router = Router::start(lab, attach)?;
    router.apply(&VPC_COMMANDS)?;
    router.declare_ports(&declaration())?;
    add_tiers(&router)?;
    Ok((router, switch))
}

fn reaches(from: &Host, to: Ipv4Addr) -> Result<()> {
    wait_until_reached(from, to, SOON)
}

#[test]
fn tiers_by_tags_are_tiers_like_others() -> Result<()> {
    for_both_hooks(&["curl", "dig", "traceroute", "udhcpc", "nmap"], |attach| {
        let lab = Lab::vpc()?;
        let (router, switch) = start(&lab, attach)?;
        let [red, blue, deep] = ["red", "blue", "deep"].map(|name| switch.host(name));
        let (web, far) = (lab.host("web1"), lab.host("far"));
        for (host, octet) in [(red, 5), (blue, 6), (deep, 7)] {
            reaches(host, Ipv4Addr::new(10, 10, octet, 1)).with_context(|| router.log())?;
        }
        assert_eq!(router.plan()?, Vec::<String>::new());

        // Between tiers: from tag to tag, to two of them, to none and back.
        for (from, to) in [(red, blue), (blue, deep), (deep, web), (web, red)] {
            reaches(from, to.v4).with_context(|| format!("{attach}: {} to {}", from.name, to.name))?;
            // The inner tag leaves 1,496 bytes to a packet; fragments of 1,500 are cut again for it.
            let sizes = [1468, 4000];
            for size in sizes {
                let lost = clients::ping_once(from, to.v4.into(), size)?;
                ensure!(lost == 64 - 1, "{} bytes from {} to {}", size, from.name, to.name);
            }
        }
        // To the Internet, translated.
        let server = HttpServer::start(far)?;
        for host in [red, blue, deep] {
            let download = curl(host, server.at(far.v4), 3_000_000, SOON)?;
            assert_eq!(download.sha256, sha256_of_body(3_000_000)?, "{}", host.name);
            let hops = traceroute(host, far.v4.into(), clients::Probe::Udp)?;
            let gateway = Ipv4Addr::new(10, 10, host.v4.octets()[2], 1);
            assert_eq!(hops.first().copied().flatten(), Some(gateway.into()), "{}", host.name);
        }
        // From one tier to another, in bulk.
        let inside = HttpServer::start(blue)?;
        let download = curl(deep, inside.at(blue.v4), 10_000_000, SOON)?;
        assert_eq!(download.sha256, sha256_of_body(10_000_000)?);

        // The router's own services.
        let entry = json!({
            "host_name": "new", "mac_address": "02:00:00:00:06:32", "ipv4_address": "10.10.6.50",
            "ipv6_duid": "00:03:00:01:02:00:00:00:06:32", "dns_addresses": "10.10.6.1",
            "default_gateway": "10.10.6.1", "default_entry": true, "remove": false,
            "type": "dhcpentry", "delete_from_processed_cache": false,
        });
        router.update_config_with("vm_dhcp_entry", entry.to_string().as_bytes())?.ok()?;
        let new = switch.host("new");
        let mut client = new.namespace.command("udhcpc");
        client.args(["-i", "eth0", "-f", "-q", "-n", "-t", "20", "-T", "1", "-s", "/bin/true"]);
        let output = run_bounded(&mut client, SOON)?;
        ensure!(output.stderr.contains("lease of 10.10.6.50 obtained"), "{output:?}");
        let answers = dig(&red.namespace, "10.10.5.1", &["new.cs2cloud.internal", "A"])?;
        assert_eq!(answers, Some(vec!["10.10.6.50".to_owned()]));

        // Every frame on the trunk had the tags of a tier, and went to a station of it.
        for frame in switch.seen() {
            let tiers = TIERS.iter().filter(|(_, _, tags)| untagged(&frame, tags).is_some()).count();
            ensure!(tiers == 1, "a frame without a tier's tags: {frame:02x?}");
        }
        Ok(())
    })
}

#[test]
fn tags_of_nobody_are_dropped_and_a_priority_is_no_vlan() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let (router, switch) = start(&lab, attach)?;
        let red = switch.host("red");
        reaches(red, Ipv4Addr::new(10, 10, 5, 1))?;
        let before = router.outcome("unknown-vlan")?;
        let request = |mac: &str| {
            let destination = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).expect("an octet"));
            let mut frame: Vec<u8> = destination.collect();
            frame.extend([2, 0, 0, 0, 5, 0xb]);
            frame.extend([8, 0]);
            frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x5f, 0xbb, 10, 10, 5, 11, 192, 0, 2, 9]);
            frame.extend([0x13, 0x88, 0, 53, 0, 8, 0, 0]);
            frame
        };
        let frame = request("02:01:00:e0:00:05");
        for tags in
            [&[(VLAN, 101)][..], &[(VLAN, 100), (VLAN, 7)], &[(PROVIDER, 300)], &[(PROVIDER, 300), (VLAN, 8)]]
        {
            switch.inject(&tagged(&frame, tags))?;
        }
        wait_until("the frames are counted", SOON, || {
            router.outcome("unknown-vlan").is_ok_and(|now| now == before + 4)
        })?;
        switch.inject(&tagged(&frame, &[(VLAN, 1), (VLAN, 2), (VLAN, 3)]))?;
        wait_until("so is one with three", SOON, || {
            router.outcome("too-many-headers").is_ok_and(|now| now == 1)
        })?;
        // Untagged frames on the trunk are nobody's: there is no port without tags.
        let forwarded = router.outcome("not-a-port")?;
        switch.inject(&frame)?;
        switch.inject(&tagged(&frame, &[(VLAN, 0)]))?;
        wait_until("they are nobody's", SOON, || {
            router.outcome("not-a-port").is_ok_and(|now| now >= forwarded + 2)
        })
    })
}

#[test]
fn what_is_declared_is_there_and_nothing_else() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let (mut router, switch) = start(&lab, attach)?;
        let [red, blue] = ["red", "blue"].map(|name| switch.host(name));
        reaches(red, blue.v4)?;

        // A file with an error changes nothing.
        let mut wrong = declaration();
        wrong["ports"][0]["vlan"] = json!(4095);
        let path = router.root().join("etc/xvr/ports.json");
        fs::write(&path, wrong.to_string())?;
        let refused = router.xvr(&["reload"])?;
        ensure!(refused.stderr.contains("ports.json#/ports/0/vlan"), "{refused:?}");
        reaches(red, blue.v4)?;
        fs::write(&path, declaration().to_string())?;

        // A ping goes on while the daemon dies and comes again, and when it reads the file again.
        let running = clients::start_ping(red, blue.v4.into(), Duration::from_millis(20))?;
        router.kill_daemon();
        router.start_daemon()?;
        router.xvr(&["reload"])?.ok()?;
        assert_eq!(router.plan()?, Vec::<String>::new());
        assert_eq!(running.stop()?.lost(), 0, "{attach}");

        // Nor does a daemon that finds a file with an error end a port.
        fs::write(&path, wrong.to_string())?;
        let running = clients::start_ping(red, blue.v4.into(), Duration::from_millis(20))?;
        router.kill_daemon();
        router.start_daemon()?;
        let problems = router.show("status")?["problems"].to_string();
        ensure!(problems.contains("ports.json#/ports/0/vlan"), "{problems}");
        assert_eq!(running.stop()?.lost(), 0, "{attach}");
        router.declare_ports(&declaration())?;

        // Another VLAN for the same port: the old one is nobody's.
        let mut other = declaration();
        other["ports"][0]["vlan"] = json!(101);
        router.declare_ports(&other)?;
        ensure!(ping(red, blue.v4.into(), 2, Duration::from_millis(20))?.lost() == 2, "the old VLAN goes on");
        router.declare_ports(&declaration())?;
        reaches(red, blue.v4)?;

        // Without its declaration the tier has no NIC, and status says so.
        let mut less = declaration();
        less["ports"].as_array_mut().context("a list")?.remove(0);
        router.declare_ports(&less)?;
        ensure!(!lab.router.has_interface("eth5"), "its interface stays");
        let problems = router.show("status")?["problems"].to_string();
        ensure!(problems.contains("eth5"), "{problems}");
        router.declare_ports(&declaration())?;
        reaches(red, blue.v4)?;

        router.xvr(&["remove"])?.ok()?;
        ensure!(!lab.router.has_interface("eth5"), "its interface outlives the router");
        Ok(())
    })
}

/// Who has the address of a tier's gateway?
fn question(tier: usize) -> Vec<u8> {
    let from = [2, 0, 0, 0, 0, 0x77];
    let [a, b, c, d] = tiers::gateway(tier).octets();
    let mut frame = vec![0xff; 6];
    frame.extend(from);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(from);
    frame.extend([a, b, c, 77, 0, 0, 0, 0, 0, 0, a, b, c, d]);
    frame
}

/// Whether a frame is the answer.
fn is_answer(frame: &[u8], tier: usize) -> bool {
    let reply = frame.get(12..14) == Some(&[0x08, 0x06]) && frame.get(20..22) == Some(&[0, 2]);
    let from = frame
        .get(22..32)
        .is_some_and(|from| from[..6] == tiers::mac(tier) && from[6..] == tiers::gateway(tier).octets());
    reply && from && frame.get(..6) == Some(&[2, 0, 0, 0, 0, 0x77])
}

#[test]
fn hundreds_of_tiers_come_into_force_together_each_with_its_policy() -> Result<()> {
    const TIERS: usize = 300;
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let switch = Switch::start(&lab, TRUNK, &[])?;
        let mut router = Router::install(&lab, attach)?;
        tiers::declare(&router, TRUNK, TIERS)?;
        router.start_daemon()?;
        router.apply(&VPC_COMMANDS[..2])?;
        tiers::apply(&router, &tiers::aggregate(TIERS))?;
        assert_eq!(router.plan()?, Vec::<String>::new());

        let shown = router.show("ports")?;
        let rules = router.show("rules")?.to_string();
        for tier in 0..TIERS {
            let rows = shown.as_array().context("a list")?;
            let row = rows.iter().find(|row| row["name"] == tiers::nic(tier).as_str());
            let row = row.with_context(|| format!("tier {tier} has no row"))?;
            assert_eq!((&row["tags"]["vlan"], &row["role"]), (&json!(tiers::vlan(tier)), &json!("guest")));
            assert_eq!(row["addresses"], json!([format!("{}/24", tiers::gateway(tier))]));
            let port = 1000 + tiers::vlan(tier);
            for rule in [format!("allow tcp {port} from"), format!("deny tcp {port} to")] {
                ensure!(rules.contains(&rule), "tier {tier} has no rule {rule:?}: {rules}");
            }
        }

        let mut silent: Vec<usize> = (0..TIERS).collect();
        wait_until("the router answers in every tier", SOON, || {
            for tier in &silent {
                switch.inject(&tagged(&question(*tier), &[(VLAN, tiers::vlan(*tier))])).ok();
            }
            std::thread::sleep(Duration::from_millis(200));
            let seen = switch.seen();
            silent.retain(|tier| {
                let tags = [(VLAN, tiers::vlan(*tier))];
                !seen.iter().any(|frame| untagged(frame, &tags).is_some_and(|frame| is_answer(&frame, *tier)))
            });
            silent.is_empty()
        })
    })
}
