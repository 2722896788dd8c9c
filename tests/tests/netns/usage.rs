//! What a router counts for whom, with real clients, beside what other kernels count; and CloudStack's scripts that
//! tell of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::clients::{self, kernel_counters};
use router_tests::lab::{Host, Lab};
use router_tests::nat::{FORWARDING, Kind, NatRouter, Rule, SOURCE_NAT, STATIC_NAT};
use router_tests::netns::{Namespace, run_bounded};
use router_tests::router::{ISOLATED_COMMANDS, Router, fixture};
use router_tests::servers::HttpServer;
use router_tests::{for_xvr, needs};
use serde_json::Value;

for_xvr! {
    usage_grows_by_what_passes_for_whom_it_passes;
    usage_outlives_the_daemon_and_rules_and_begins_at_zero_when_told;
}

/// How many pings are sent where their bytes are compared, and the length of one: 56 bytes, ICMP's header and IP's.
const PINGS: u32 = 10;
const PINGS_V4: u64 = 10 * (56 + 8 + 20);
const PINGS_V6: u64 = 10 * (56 + 8 + 40);

fn ping(from: &Host, to: impl Into<std::net::IpAddr>) -> Result<()> {
    let ping = clients::ping(from, to.into(), PINGS, Duration::from_millis(10))?;
    ensure!(ping.lost() == 0, "{ping:?} from {}", from.name);
    Ok(())
}

const fn xvr<'a, 'lab>(router: &'a NatRouter<'lab>) -> &'a Router<'lab> {
    match router {
        NatRouter::Xvr(router) => router,
        NatRouter::Linux(..) => panic!("the tests are about XVR"),
    }
}

/// What an account of `xvr show usage` has sent and received, in bytes.
fn account(
    router: &Router<'_>,
    outside: &str,
    address: Option<&str>,
    family: &str,
    inside: &str,
) -> (u64, u64) {
    let shown = router.show("usage").expect("usage is shown");
    let is_it = |account: &&Value| {
        (account["outside"].as_str(), account["address"].as_str(), account["family"].as_str())
            == (Some(outside), address, Some(family))
            && account["inside"] == inside
    };
    let found = shown["accounts"].as_array().expect("a list").iter().find(is_it);
    let bytes = |way| found.map_or(0, |account| account[way]["bytes"].as_u64().expect("a number"));
    (bytes("sent"), bytes("received"))
}

/// What a script of CloudStack's says; it has to end well.
fn script(router: &Router<'_>, name: &str, arguments: &[&str]) -> Result<String> {
    let mut command = router.namespace().command(router.root().join("opt/cloud/bin").join(name));
    Ok(run_bounded(command.args(arguments), Duration::from_secs(60))?.ok()?.stdout)
}

/// The four numbers of a script, each with a colon behind it and nothing else.
fn counters(line: &str) -> Result<[u64; 4]> {
    let numbers = line.strip_suffix(':').with_context(|| format!("{line:?} has no colon at its end"))?;
    let numbers = numbers.split(':').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    numbers.try_into().map_err(|numbers| anyhow::anyhow!("{line:?} has not four numbers: {numbers:?}"))
}

/// What CloudStack's own router prints.
fn todays(name: &str) -> Result<String> {
    let file = fixture(&format!("cloudstack/_query_outputs/{name}.stdout"));
    std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// How many bytes of IPv4 packets a kernel has sent.
fn sent_by(namespace: &Namespace) -> Result<u64> {
    kernel_counters(namespace)?.get("IpExt.OutOctets").copied().context("the kernel counts what it sends")
}

/// How many bytes of packets a station's NIC has sent, without Ethernet headers.
fn left(host: &Host) -> Result<u64> {
    let shown = host.namespace.run("ip", &["-json", "-stats", "link", "show", "dev", "eth0"])?;
    let shown: Value = serde_json::from_str(&shown).context("ip writes JSON")?;
    let number = |name| shown[0]["stats64"]["tx"][name].as_u64().with_context(|| format!("eth0 has {name}"));
    Ok(number("bytes")? - 14 * number("packets")?)
}

/// What was counted is what was sent, but for what hosts say to find each other, and segments that a kernel has sent
/// as one packet.
fn is_about(what: &str, counted: u64, sent: u64) -> Result<()> {
    ensure!(
        counted.abs_diff(sent) <= 500 + sent / 50,
        "{what}: {counted} bytes were counted and {sent} sent"
    );
    Ok(())
}

fn usage_grows_by_what_passes_for_whom_it_passes(kind: Kind) -> Result<()> {
    const BODY: u64 = 300_000;
    kind.run(&["curl", "ping", "sha256sum"], |lab, router| {
        let [web1, web2, db1, far, gateway] =
            ["web1", "web2", "db1", "far", "gateway"].map(|name| lab.host(name));
        router.add(&[Rule::forward("tcp", 8080, web1.v4, 80), Rule::static_nat(web2.v4)])?;
        let router = xvr(router);
        let (masked, forwarded) = (SOURCE_NAT.to_string(), FORWARDING.to_string());
        let own = STATIC_NAT.to_string();
        // Whoever asks: what leaves is sent.
        ping(db1, far.v4)?;
        assert_eq!(account(router, "eth1", Some(&masked), "ipv4", "eth3"), (PINGS_V4, PINGS_V4));
        ping(web2, far.v4)?;
        ping(far, STATIC_NAT)?;
        assert_eq!(account(router, "eth1", Some(&own), "ipv4", "eth2"), (2 * PINGS_V4, 2 * PINGS_V4));
        ping(web1, far.v6)?;
        assert_eq!(account(router, "eth1", None, "ipv6", "eth2"), (PINGS_V6, PINGS_V6));
        // A body goes out to somebody outside by a forwarded port.
        let _http = HttpServer::start_on(web1, 80)?;
        let before = (left(web1)?, left(gateway)?);
        clients::curl(far, (FORWARDING, 8080).into(), BODY, Duration::from_secs(60))?;
        let (sent, received) = account(router, "eth1", Some(&forwarded), "ipv4", "eth2");
        is_about("sent", sent, left(web1)? - before.0)?;
        is_about("received", received, left(gateway)? - before.1)?;
        assert!(sent > BODY && received < BODY / 10, "{sent} and {received} bytes");
        // The scripts bill all IPv4 of the public NIC, by whichever of its addresses they are asked.
        let billed = [sent + 3 * PINGS_V4, received + 3 * PINGS_V4, 0, 0];
        for address in [&masked, &forwarded, &own] {
            assert_eq!(counters(&script(router, "vpc_netusage.sh", &["-l", address, "-g"])?)?, billed);
        }
        // From tier to tier nobody is billed; and what a guest of another tier is called by is its own.
        ping(web1, db1.v4)?;
        let between = account(router, "eth3", None, "ipv4", "eth2");
        assert_eq!(between, (PINGS_V4, PINGS_V4), "{}", router.show("usage")?);
        assert_eq!(counters(&script(router, "vpc_netusage.sh", &["-l", &masked, "-g"])?)?, billed);
        assert_eq!(script(router, "vpc_netusage.sh", &["-l", "203.0.113.99", "-g"])?, "");
        for accepted in [&["-l", &masked, "-n"][..], &["-c", "-l", &masked, "-v", "10.10.0.0/16"], &["-d"]] {
            assert_eq!(script(router, "vpc_netusage.sh", accepted)?, "");
        }
        let text = router.xvr(&["show", "usage"])?.ok()?.stdout;
        assert!(text.contains(&own) && text.contains("OWN TCP SENT"), "{text}");
        Ok(())
    })
}

fn usage_outlives_the_daemon_and_rules_and_begins_at_zero_when_told(kind: Kind) -> Result<()> {
    kind.run(&["ping"], |lab, router| {
        let (web1, far) = (lab.host("web1"), lab.host("far"));
        let address = SOURCE_NAT.to_string();
        let asked = ["-l", address.as_str(), "-g"];
        let told = |router: &NatRouter<'_>| counters(&script(xvr(router), "vpc_netusage.sh", &asked)?);
        let times = |count: u64| [count * PINGS_V4, count * PINGS_V4, 0, 0];
        ping(web1, far.v4)?;
        assert_eq!(told(router)?, times(1));
        // Other rules, and those that are there once more.
        let rules = [Rule::forward("tcp", 8080, web1.v4, 80), Rule::static_nat(lab.host("web2").v4)];
        router.add(&rules)?;
        ping(web1, far.v4)?;
        router.revoke(&rules)?;
        assert_eq!(told(router)?, times(2));
        let NatRouter::Xvr(own) = router else { panic!("the tests are about XVR") };
        own.kill_daemon();
        ping(web1, far.v4)?;
        own.start_daemon()?;
        assert_eq!(told(router)?, times(3), "while there was no daemon");
        assert_eq!(script(xvr(router), "vpc_netusage.sh", &["-l", &address, "-r"])?, "");
        assert_eq!(told(router)?, times(0));
        ping(web1, far.v4)?;
        assert_eq!(told(router)?, times(1));
        let NatRouter::Xvr(own) = router else { panic!("the tests are about XVR") };
        own.kill_daemon();
        own.start_daemon()?;
        assert_eq!(told(router)?, times(1), "zero is remembered");
        Ok(())
    })
}

#[test]
fn the_routers_own_tcp_is_counted_apart_from_the_guests() -> Result<()> {
    const BODY: u64 = 300_000;
    if !needs::are_met(&["curl", "ping"]) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let mut router = Router::start(&lab, "auto")?;
    assert_eq!(script(&router, "netusage.sh", &["-g"])?, "", "nothing is known yet");
    router.apply(&ISOLATED_COMMANDS)?;
    let far = lab.host("far");
    assert_eq!(script(&router, "netusage.sh", &["-g", "null"])?, todays("netusage_get_zero")?);
    let told = |router: &Router<'_>| counters(&script(router, "netusage.sh", &["-g"])?);
    ping(lab.host("vm1"), far.v4)?;
    let http = HttpServer::start(far)?;
    let fetch = || -> Result<()> {
        let mut curl = lab.router.command("curl");
        let server = http.at(far.v4);
        curl.args(["--silent", "--fail", "--output", "/dev/null", &format!("http://{server}/{BODY}")]);
        run_bounded(&mut curl, Duration::from_secs(60))?.ok().map(drop)
    };
    let before = (sent_by(&lab.router)?, sent_by(&far.namespace)?);
    fetch()?;
    let first = told(&router)?;
    // Nobody but the two has sent anything over IPv4 meanwhile.
    is_about("out", first[2], sent_by(&lab.router)? - before.0)?;
    is_about("in", first[3], sent_by(&far.namespace)? - before.1)?;
    assert!(first[3] > BODY && first[2] < BODY / 10, "{first:?}");
    assert_eq!(first[..2], [PINGS_V4; 2], "of the guests nothing else");
    // It goes on over whatever becomes of the daemon, and commands.
    router.kill_daemon();
    fetch()?;
    router.start_daemon()?;
    router.apply(&ISOLATED_COMMANDS[1..])?;
    let second = told(&router)?;
    assert!(second[3] >= first[3] + BODY && second[2] > first[2], "{first:?} then {second:?}");
    assert_eq!(router.plan()?, Vec::<String>::new());
    // Somebody who takes the rules away has them back, and the counts with them.
    lab.router.run("nft", &["flush", "chain", "ip", "xvr-usage", "output"])?;
    assert_eq!(router.plan()?.len(), 1, "{:?}", router.plan()?);
    router.apply(&ISOLATED_COMMANDS[1..])?;
    fetch()?;
    let third = told(&router)?;
    assert!(third[3] >= second[3] + BODY && third[2] > second[2], "{second:?} then {third:?}");
    for accepted in [&["-c"][..], &["-a", "eth3"], &["-d", "eth3"]] {
        assert_eq!(script(&router, "netusage.sh", accepted)?, "");
    }
    assert_eq!(script(&router, "netusage.sh", &["-g", "-l", "203.0.113.99"])?, "", "nobody's address");
    assert_eq!(told(&router)?, third);
    script(&router, "netusage.sh", &["-r"])?;
    assert_eq!(told(&router)?, [0; 4]);
    Ok(())
}

#[test]
fn of_a_routed_network_the_scripts_say_nothing() -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&["cloudstack/cmd_line/router_isolated_routed.json"])?;
    assert_eq!(script(&router, "netusage.sh", &["-g"])?, "");
    let shown = router.show("usage")?;
    assert_eq!((&shown["ports"][0]["port"], &shown["ports"][0]["told"]), (&"eth2".into(), &false.into()));
    for sample in ["netusage_get", "netusage_get_zero", "vpc_netusage_get"] {
        counters(&todays(sample)?)?;
    }
    Ok(())
}
