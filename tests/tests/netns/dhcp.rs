//! Guests that come up behind the router: addresses, options, names, router advertisements, by real clients.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::dhcp::{Guest, Told, dig};
use router_tests::lab::Lab;
use router_tests::needs;
use router_tests::netns::{Process, run_bounded, wait_until};
use router_tests::router::{ISOLATED_COMMANDS, Router, VPC_COMMANDS, fixture, for_both_hooks};
use serde_json::{Value, json};

const PROGRAMS: &[&str] =
    &["dnsmasq", "dhcp_release", "dhcp_release6", "udhcpc", "dhclient", "dig", "rdisc6", "nmap"];

const WEB_1: &str = "cloudstack/vm_dhcp_entry/default_nic_add.json";
const WEB_1_MAC: &str = "02:00:3c:91:00:04";
const WEB_2: &str = "cloudstack/vm_dhcp_entry/dualstack_add.json";
const WEB_2_MAC: &str = "02:00:3c:91:00:06";

/// The lease time that is for good.
const INFINITE: &str = "4294967295";

/// A router of an isolated network, or nothing if this machine cannot have one.
macro_rules! isolated_or_skip {
    ($lab:ident, $router:ident) => {
        if !needs::are_met(PROGRAMS) {
            return Ok(());
        }
        let $lab = Lab::isolated()?;
        #[allow(unused_mut, reason = "not every test restarts it")]
        let mut $router = Router::start(&$lab, "auto")?;
        $router.apply(&ISOLATED_COMMANDS)?;
    };
}

#[test]
fn a_guest_gets_its_reserved_address_and_options_and_renews() -> Result<()> {
    isolated_or_skip!(lab, router);
    router.apply(&[WEB_1])?;
    let guest = Guest::plug(&lab, "guests", "g1", WEB_1_MAC)?;
    let told = guest.must_get()?;
    expect(
        &told,
        &[
            ("ip", "10.1.1.20"),
            ("mask", "24"),
            ("router", "10.1.1.1"),
            ("dns", "10.1.1.1 8.8.8.8 8.8.4.4"),
            ("domain", "cs2cloud.internal"),
            ("mtu", "1500"),
            ("hostname", "web-1"),
            ("lease", INFINITE),
            ("serverid", "10.1.1.1"),
        ],
    )?;
    // It works: by the router, to the outside.
    guest.namespace.run("ping", &["-c", "1", "-W", "5", "198.51.100.9"])?;

    let leases = guest.dhclient("-4")?;
    for line in ["fixed-address 10.1.1.20;", "option routers 10.1.1.1;", "option interface-mtu 1500;"] {
        ensure!(leases.contains(line), "no {line}: {leases}");
    }

    let client = guest.stay()?;
    let happened = |event: &str| guest.events().iter().filter(|told| told["event"] == event).count();
    eventually(&router, "the client that stays is bound", || happened("bound") == 2)?;
    client.signal(libc::SIGUSR1);
    eventually(&router, "it has renewed", || happened("renew") == 1)?;
    expect(guest.events().last().context("an event")?, &[("ip", "10.1.1.20"), ("lease", INFINITE)])
}

#[test]
fn a_tiers_guests_get_what_is_their_tiers_with_the_programs_at_either_hook() -> Result<()> {
    for_both_hooks(PROGRAMS, |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        for (segment, label, mac, ip) in [
            ("tier1", "g1", "02:01:00:db:00:30", "10.10.1.50"),
            ("tier2", "g2", "02:01:00:de:00:31", "10.10.2.51"),
        ] {
            let gateway = format!("{}.1", ip.rsplit_once('.').context("dots")?.0);
            entry(&router, label, mac, ip, &json!({ "default_gateway": gateway }))?;
            let guest = Guest::plug(&lab, segment, label, mac)?;
            let dns = format!("{gateway} 8.8.8.8 8.8.4.4");
            let expected = [("ip", ip), ("router", gateway.as_str()), ("dns", dns.as_str())];
            expect(&guest.must_get()?, &expected)?;
            // In the other tier it is a stranger.
            let other = if segment == "tier1" { "tier2" } else { "tier1" };
            lab.wire.ip(&format!("link set g-{label} master {other}\n"))?;
            ensure!(guest.ask(3)?.is_none(), "{other} gives {label} an address");
        }
        Ok(())
    })
}

#[test]
fn a_guest_without_a_reservation_gets_nothing() -> Result<()> {
    isolated_or_skip!(lab, router);
    router.apply(&[WEB_1])?;
    let known = Guest::plug(&lab, "guests", "g1", WEB_1_MAC)?;
    known.must_get()?;
    let stranger = Guest::plug(&lab, "guests", "g2", "02:00:3c:91:00:77")?;
    ensure!(stranger.ask(4)?.is_none(), "a stranger gets an address");
    Ok(())
}

#[test]
fn a_nic_that_is_not_the_default_one_hears_of_no_gateway_name_server_and_domain() -> Result<()> {
    isolated_or_skip!(lab, router);
    boot_with(&router, "router_isolated_dualstack", &[("dnssearchorder", "a.example,b.example")])?;
    let mac = "02:00:3c:91:00:05";
    entry(&router, "web-1", mac, "10.1.1.30", &json!({ "default_entry": false }))?;
    let guest = Guest::plug(&lab, "guests", "g1", mac)?;
    let told = guest.must_get()?;
    expect(&told, &[("ip", "10.1.1.30"), ("mask", "24"), ("mtu", "1500")])?;
    for option in ["router", "dns", "domain", "search"] {
        ensure!(!told.contains_key(option), "{option}: {told:?}");
    }
    // It was served; others come, and dnsmasq reads its files again.
    let before = dnsmasq(&router)?;
    router.apply(&[WEB_1])?;
    let other = Guest::plug(&lab, "guests", "g2", WEB_1_MAC)?;
    let expected = [("ip", "10.1.1.20"), ("router", "10.1.1.1"), ("search", "a.example b.example")];
    expect(&other.must_get()?, &expected)?;
    expect(&guest.must_get()?, &[("ip", "10.1.1.30")])?;
    ensure!(dnsmasq(&router)? == before, "dnsmasq was started anew");
    Ok(())
}

#[test]
fn what_a_removed_guest_had_another_may_have_and_dnsmasq_runs_on() -> Result<()> {
    isolated_or_skip!(lab, router);
    router.apply(&[WEB_1])?;
    let first = Guest::plug(&lab, "guests", "g1", WEB_1_MAC)?;
    first.must_get()?;
    let before = dnsmasq(&router)?;
    ensure!(leases(&router).contains("10.1.1.20"), "no lease: {}", leases(&router));
    ensure!(first.dig("10.1.1.1", &["web-1.cs2cloud.internal"])? == Some(vec!["10.1.1.20".to_owned()]));
    router.apply(&["cloudstack/vm_dhcp_entry/remove.json"])?;
    eventually(&router, "the lease is released", || !leases(&router).contains("10.1.1.20"))?;
    let gone = || first.dig("10.1.1.1", &["web-1.cs2cloud.internal"]).is_ok_and(|said| said == Some(vec![]));
    eventually(&router, "the name is gone", gone)?;
    ensure!(first.ask(3)?.is_none(), "who is gone gets an address");

    let mac = "02:00:3c:91:00:99";
    entry(&router, "web-9", mac, "10.1.1.20", &json!({}))?;
    let second = Guest::plug(&lab, "guests", "g2", mac)?;
    expect(&second.must_get()?, &[("ip", "10.1.1.20"), ("hostname", "web-9")])?;
    ensure!(dnsmasq(&router)? == before, "dnsmasq was started anew");
    Ok(())
}

#[test]
fn a_guest_that_goes_while_dnsmasq_is_away_leaves_no_lease() -> Result<()> {
    isolated_or_skip!(lab, router);
    router.apply(&[WEB_1, WEB_2])?;
    for (label, mac) in [("g1", WEB_1_MAC), ("g2", WEB_2_MAC)] {
        Guest::plug(&lab, "guests", label, mac)?.must_get()?;
    }
    router.kill_daemon();
    kill(&router, dnsmasq_noted(&router)?)?;
    let bag = router.root().join("etc/cloudstack/dhcpentry.json");
    let mut entries: Value = serde_json::from_slice(&fs::read(&bag)?)?;
    entries["10.1.1.20"]["remove"] = json!(true);
    fs::write(&bag, entries.to_string())?;
    router.start_daemon()?;
    eventually(&router, "dnsmasq is back", || dnsmasq(&router).is_ok_and(|pid| pid.is_some()))?;
    let left = leases(&router);
    ensure!(!left.contains("10.1.1.20") && left.contains("10.1.1.21"), "{left}");
    Ok(())
}

#[test]
fn clients_renew_while_others_come_and_go() -> Result<()> {
    const CLIENTS: usize = 50;
    isolated_or_skip!(lab, router);
    let mac = |number: usize| format!("02:00:3c:92:00:{number:02x}");
    let mut guests = Vec::new();
    for number in 0..CLIENTS {
        entry(
            &router,
            &format!("vm-{number}"),
            &mac(number),
            &format!("10.1.1.{}", 100 + number),
            &json!({}),
        )?;
        guests.push(Guest::plug(&lab, "guests", &format!("c{number}"), &mac(number))?);
    }
    let before = dnsmasq(&router)?;
    let clients: Vec<Process> = guests.iter().map(Guest::stay).collect::<Result<_>>()?;
    let has = |guest: &Guest, event: &str, count: usize| {
        guest.events().iter().filter(|told| told["event"] == event).count() >= count
    };
    let all = |event: &str, count: usize| guests.iter().all(|guest| has(guest, event, count));
    eventually(&router, "all are bound", || all("bound", 1))?;
    for round in 1..=4 {
        clients.iter().for_each(|client| client.signal(libc::SIGUSR1));
        for number in 0..5 {
            let (name, ip) = (format!("extra-{number}"), format!("10.1.1.{}", 200 + number));
            let extra = format!("02:00:3c:93:00:{number:02x}");
            entry(&router, &name, &extra, &ip, &json!({ "remove": round % 2 == 0 }))?;
        }
        eventually(&router, "all have renewed", || all("renew", round))?;
    }
    for (number, guest) in guests.iter().enumerate() {
        let events = guest.events();
        let ip = format!("10.1.1.{}", 100 + number);
        // udhcpc begins with taking everything off.
        let failed = events.iter().skip(1).find(|told| told["event"] != "bound" && told["event"] != "renew");
        ensure!(failed.is_none(), "{ip}: {failed:?}");
        ensure!(events.iter().skip(1).all(|told| told["ip"] == ip), "{ip}: {events:?}");
    }
    ensure!(dnsmasq(&router)? == before, "dnsmasq was started anew");
    Ok(())
}

#[test]
fn the_mtu_that_guests_hear_of_follows_the_routers() -> Result<()> {
    isolated_or_skip!(lab, router);
    router.apply(&[WEB_1])?;
    let guest = Guest::plug(&lab, "guests", "g1", WEB_1_MAC)?;
    guest.must_get()?;
    router.script("update_interface_config.sh", &["10.1.1.1", "24", "1400", "15"])?.ok()?;
    eventually(&router, "the guest hears of it", || {
        guest.ask(5).is_ok_and(|told| told.is_some_and(|told| told["mtu"] == "1400"))
    })?;
    ensure!(leases(&router).contains("10.1.1.20"), "the lease is lost");
    Ok(())
}

#[test]
fn names_of_guests_and_of_the_world_are_told_by_udp_and_tcp() -> Result<()> {
    isolated_or_skip!(lab, router);
    let far = lab.host("far");
    let mut upstream = far.namespace.command("dnsmasq");
    upstream.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    upstream.args([
        "--user=root",
        "--pid-file=",
        "--log-facility=-",
        "--host-record=www.world.test,192.0.2.80",
    ]);
    let text = vec!["x".repeat(250); 8].join(",");
    upstream.arg(format!("--txt-record=big.world.test,{text}"));
    let _upstream = Process::spawn(upstream.stderr(std::process::Stdio::null()))?;
    boot_with(
        &router,
        "router_isolated_dualstack",
        &[("dns1", "198.51.100.9"), ("dns2", ""), ("ip6dns1", "")],
    )?;
    router.apply(&[WEB_2])?;
    let vm1 = &lab.host("vm1").namespace;
    let answers = |words: &[&str], expected: &[&str]| {
        eventually(&router, &format!("{words:?} is {expected:?}"), || {
            dig(vm1, "10.1.1.1", words).is_ok_and(|said| said.is_some_and(|said| said == expected))
        })
    };
    for transport in ["+notcp", "+tcp"] {
        answers(&[transport, "web-2.cs2cloud.internal", "A"], &["10.1.1.21"])?;
        answers(&[transport, "web-2.cs2cloud.internal", "AAAA"], &["fd17:ac56:1234:20:0:3cff:fe91:6"])?;
        answers(&[transport, "-x", "10.1.1.21"], &["web-2.cs2cloud.internal."])?;
        answers(&[transport, "data-server.cs2cloud.internal"], &["10.1.1.1"])?;
        answers(&[transport, "www.world.test"], &["192.0.2.80"])?;
        // Nobody is asked about what is ours.
        answers(&[transport, "nobody.cs2cloud.internal"], &[])?;
    }
    // Cut off by UDP, and asked for again by TCP, from the router as well.
    let big = dig(vm1, "10.1.1.1", &["big.world.test", "TXT"])?.context("an answer")?.join("");
    ensure!(big.matches('x').count() == 2000, "{big}");
    let by_ipv6 = dig(vm1, "fd17:ac56:1234:20::1", &["web-2.cs2cloud.internal"])?;
    ensure!(by_ipv6 == Some(vec!["10.1.1.21".to_owned()]), "{by_ipv6:?}");
    Ok(())
}

#[test]
fn a_tier_has_names_before_it_has_guests_and_strangers_have_none() -> Result<()> {
    if !needs::are_met(PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&VPC_COMMANDS)?;
    for (guest, server) in [("web1", "10.10.1.1"), ("db1", "10.10.2.1")] {
        eventually(&router, "data-server is known", || {
            let said = dig(&lab.host(guest).namespace, server, &["data-server.cs2cloud.internal"]);
            said.is_ok_and(|said| said == Some(vec![server.to_owned()]))
        })?;
    }
    // Outside, and on the control network, there is neither.
    for (station, address) in [
        ("gateway", "203.0.113.30"),
        ("neighbour", "203.0.113.30"),
        ("gateway", "10.10.1.1"),
        ("host", "169.254.1.177"),
    ] {
        let station = &lab.host(station).namespace;
        for transport in ["+notcp", "+tcp"] {
            let said = dig(station, address, &[transport, "data-server.cs2cloud.internal"])?;
            ensure!(said.is_none(), "{address} answers by {transport}: {said:?}");
        }
        let scan =
            station.run("nmap", &["-Pn", "-n", "-sU", "-p", "53,67,547", "--host-timeout", "20", address])?;
        ensure!(!scan.contains("/udp open ") && !scan.contains("/udp  open "), "{address}: {scan}");
    }
    // A tier that goes takes its network away, and the other goes on.
    router.apply(&["cloudstack/guest_network/vpc_tier_remove.json"])?;
    eventually(&router, "the other tier has names", || {
        let said = dig(&lab.host("db1").namespace, "10.10.2.1", &["data-server.cs2cloud.internal"]);
        said.is_ok_and(|said| said == Some(vec!["10.10.2.1".to_owned()]))
    })?;
    let config = fs::read_to_string(router.root().join("etc/dnsmasq.d/cloud.conf"))?;
    ensure!(!config.contains("10.10.1.") && config.contains("10.10.2."), "{config}");
    Ok(())
}

#[test]
fn ipv6_comes_by_advertisements_and_reserved_addresses_by_dhcp() -> Result<()> {
    isolated_or_skip!(lab, router);
    router.apply(&[WEB_2])?;
    let guest = Guest::plug(&lab, "guests", "g1", WEB_2_MAC)?;
    guest.must_get()?;
    let mut heard = String::new();
    eventually(&router, "a router advertises itself", || {
        heard = guest.namespace.run("rdisc6", &["-1", "-w", "3000", "eth0"]).unwrap_or_default();
        !heard.is_empty()
    })?;
    for words in [
        "fd17:ac56:1234:20::/64",
        "MTU                      :         1500 bytes",
        "Recursive DNS server     : fd17:ac56:1234:20::1",
        "Recursive DNS server     : 2001:4860:4860::8888",
        "Router lifetime           :           45 ",
    ] {
        ensure!(heard.contains(words), "no {words}:\n{heard}");
    }
    // What CloudStack knows it by, made by the guest itself.
    let reserved = "fd17:ac56:1234:20:0:3cff:fe91:6";
    let addresses = || guest.namespace.run("ip", &["-6", "address", "show", "dev", "eth0"]);
    eventually(&router, "the guest has its address", || {
        addresses().is_ok_and(|text| text.contains(reserved))
    })?;
    guest.namespace.run("ping", &["-6", "-c", "1", "-W", "5", "fd17:ac56:1234:20::1"])?;
    let leases6 = guest.dhclient("-6")?;
    ensure!(leases6.contains(&format!("iaaddr {reserved} ")), "{leases6}");

    let stranger = Guest::plug(&lab, "guests", "g2", "02:00:3c:91:00:77")?;
    eventually(&router, "a stranger has an address of its own", || {
        let text = stranger.namespace.run("ip", &["-6", "address", "show", "dev", "eth0"]);
        text.is_ok_and(|text| text.contains("fd17:ac56:1234:20:0:3cff:fe91:77"))
    })?;
    // It goes: so does the lease, of both families.
    let before = dnsmasq(&router)?;
    ensure!(leases(&router).contains(reserved), "{}", leases(&router));
    entry(&router, "web-2", WEB_2_MAC, "10.1.1.21", &json!({ "remove": true }))?;
    eventually(&router, "the leases are released", || !leases(&router).contains("web-2"))?;
    ensure!(dnsmasq(&router)? == before, "dnsmasq was started anew");
    Ok(())
}

#[test]
fn a_shared_network_has_further_subnets_with_gateways_of_their_own() -> Result<()> {
    if !needs::are_met(PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&["cloudstack/cmd_line/dhcpsrvr_shared.json", "cloudstack/ip_aliases/create.json"])?;
    for (label, mac, ip, gateway) in [
        ("s1", "02:00:3c:91:00:41", "10.20.0.41", "10.20.0.1"),
        ("s2", "02:00:3c:91:00:42", "10.20.1.42", "10.20.1.1"),
        ("s3", "02:00:3c:91:00:43", "10.20.2.43", "10.20.2.1"),
    ] {
        entry(&router, label, mac, ip, &json!({ "default_gateway": gateway }))?;
        let guest = Guest::plug(&lab, "guests", label, mac)?;
        // useextdns
        let expected = [("ip", ip), ("router", gateway), ("dns", "8.8.8.8 8.8.4.4"), ("mask", "24")];
        expect(&guest.must_get()?, &expected)?;
    }
    Ok(())
}

#[test]
fn dnsmasq_comes_back_when_it_is_killed_and_outlives_the_daemon() -> Result<()> {
    isolated_or_skip!(lab, router);
    router.apply(&[WEB_1])?;
    let guest = Guest::plug(&lab, "guests", "g1", WEB_1_MAC)?;
    guest.must_get()?;
    let before = dnsmasq(&router)?.context("it runs")?;
    router.kill_daemon();
    guest.must_get()?;
    router.start_daemon()?;
    eventually(&router, "it is found again", || dnsmasq(&router).is_ok_and(|pid| pid == Some(before)))?;
    // A guest that comes now reaches a dnsmasq that this daemon has not started.
    router.apply(&[WEB_2])?;
    Guest::plug(&lab, "guests", "g2", WEB_2_MAC)?.must_get()?;
    ensure!(dnsmasq(&router)? == Some(before), "dnsmasq was started anew");

    kill(&router, before)?;
    eventually(&router, "it is back", || {
        dnsmasq(&router).is_ok_and(|pid| pid.is_some_and(|pid| pid != before))
    })?;
    expect(&guest.must_get()?, &[("ip", "10.1.1.20")])?;
    Ok(())
}

/// How long something may take that is not waited for.
const LONG: Duration = Duration::from_secs(60);

fn eventually(router: &Router<'_>, what: &str, holds: impl FnMut() -> bool) -> Result<()> {
    wait_until(what, LONG, holds).with_context(|| format!("status: {:?}", router.show("status")))
}

/// A guest was told all this.
fn expect(told: &Told, expected: &[(&str, &str)]) -> Result<()> {
    for (name, value) in expected {
        let found = told.get(*name).map(String::as_str);
        ensure!(found == Some(*value), "{name} is {found:?} and not {value}: {told:?}");
    }
    Ok(())
}

/// Sends a `dhcpentry`, with what differs from a default NIC of the isolated network.
fn entry(router: &Router<'_>, name: &str, mac: &str, address: &str, other: &Value) -> Result<()> {
    let mut message = json!({
        "host_name": name, "mac_address": mac, "ipv4_address": address, "default_gateway": "10.1.1.1",
        "default_entry": true, "remove": false,
        "type": "dhcpentry", "delete_from_processed_cache": false,
    });
    for (key, value) in other.as_object().context("an object")? {
        message[key] = value.clone();
    }
    router.update_config_with("vm_dhcp_entry", message.to_string().as_bytes())?.ok().map(drop)
}

/// Sends a boot line of the fixtures with other values.
fn boot_with(router: &Router<'_>, name: &str, values: &[(&str, &str)]) -> Result<()> {
    let mut boot: Value =
        serde_json::from_slice(&fs::read(fixture(&format!("cloudstack/cmd_line/{name}.json")))?)?;
    for (key, value) in values {
        boot["cmd_line"][*key] = json!(value);
    }
    router.update_config_with("cmd_line", boot.to_string().as_bytes())?.ok().map(drop)
}

/// dnsmasq's process, as `xvr status` has it.
fn dnsmasq(router: &Router<'_>) -> Result<Option<i64>> {
    let status = router.show("status")?;
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let found = services.into_iter().find(|service| service["name"] == "dnsmasq");
    Ok(found.and_then(|service| service["pid"].as_i64()))
}

/// The same without a daemon.
fn dnsmasq_noted(router: &Router<'_>) -> Result<i64> {
    let note: Value = serde_json::from_slice(&fs::read(router.root().join("run/xvr/dnsmasq.process"))?)?;
    note["pid"].as_i64().context("a process")
}

fn kill(router: &Router<'_>, pid: i64) -> Result<()> {
    let mut kill = router.namespace().command("kill");
    run_bounded(kill.args(["-9", &pid.to_string()]), LONG)?.ok().map(drop)
}

fn leases(router: &Router<'_>) -> String {
    fs::read_to_string(router.root().join("var/lib/misc/dnsmasq.leases")).unwrap_or_default()
}
