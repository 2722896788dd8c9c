//! Load balancing by haproxy, as CloudStack configures it, with real clients and servers in a lab.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::balancer::{Pool, message, send};
use router_tests::clients;
use router_tests::lab::{Host, Lab};
use router_tests::needs;
use router_tests::netns::{Output, Process, run_bounded, wait_until};
use router_tests::router::{ISOLATED_COMMANDS, Router, TIER1, TIER2, VPC_COMMANDS, fixture, for_both_hooks};
use router_tests::rules::{firewall, firewall_rule};
use router_tests::servers::Greeter;
use serde_json::{Value, json};

/// The isolated network's public address.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 14);
const GUEST_SIDE: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const PAGE: SocketAddrV4 = SocketAddrV4::new(GUEST_SIDE, 8081);
/// The VPC's.
const VPC_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
/// Programs of every test here.
const PROGRAMS: [&str; 3] = ["curl", "haproxy", "nmap"];
/// How long a daemon may take for what it does at once.
const SOON: Duration = Duration::from_secs(60);

const fn public(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(PUBLIC, port)
}

/// What curl gets, with more of its arguments; nothing where nobody answers.
fn curl(from: &Host, url: &str, arguments: &[&str]) -> Result<Option<String>> {
    let mut curl = from.namespace.command("curl");
    curl.args(["--silent", "--fail", "--connect-timeout", "2", "--max-time", "20"]).args(arguments).arg(url);
    let output = run_bounded(&mut curl, SOON)?;
    Ok(output.status.success().then_some(output.stdout))
}

fn get(from: &Host, at: SocketAddrV4) -> Result<Option<String>> {
    curl(from, &format!("http://{at}/"), &[])
}

/// Which servers answer so many requests, one after the other.
fn answering(from: &Host, at: SocketAddrV4, count: usize) -> Result<Vec<String>> {
    (0..count)
        .map(|_| {
            let answer = get(from, at)?.with_context(|| format!("{at} does not answer {}", from.name))?;
            Ok(answer.lines().next().unwrap_or_default().to_owned())
        })
        .collect()
}

/// A configuration is in force soon after its message.
fn wait_for(from: &Host, at: SocketAddrV4) -> Result<()> {
    wait_until(&format!("{at} answers {}", from.name), SOON, || {
        get(from, at).is_ok_and(|answer| answer.is_some())
    })
}

fn start<'lab>(lab: &'lab Lab, attach: &str) -> Result<(Router<'lab>, [Greeter; 2])> {
    let router = Router::start(lab, attach)?;
    router.apply(&ISOLATED_COMMANDS)?;
    let servers = [Greeter::start_on(lab.host("vm1"), 8080)?, Greeter::start_on(lab.host("vm2"), 8080)?];
    Ok((router, servers))
}

fn members(lab: &Lab) -> [SocketAddr; 2] {
    ["vm1", "vm2"].map(|name| SocketAddr::from((lab.host(name).v4, 8080)))
}

fn open_firewall(router: &Router<'_>, first: u16, last: u16) -> Result<()> {
    let ip = PUBLIC.to_string();
    firewall(router, &[firewall_rule(1, &ip, "tcp", Some((first, last)), &["0.0.0.0/0"], false)])
}

/// The sentences of `xvr status` under a key.
fn status(router: &Router<'_>, key: &str) -> Result<Vec<String>> {
    Ok(serde_json::from_value(router.show("status")?[key].clone())?)
}

/// What haproxy answers at its socket.
fn ask(router: &Router<'_>, question: &str) -> Result<String> {
    let mut socket = UnixStream::connect(router.root().join("run/haproxy/admin.sock"))?;
    writeln!(socket, "{question}")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The number of the worker that is in force.
fn worker(router: &Router<'_>) -> Result<String> {
    let info = ask(router, "show info")?;
    let line = info.lines().find_map(|line| line.strip_prefix("Pid: "));
    line.map(str::to_owned).context("haproxy says no number")
}

/// The number of the process that the router looks after.
fn master(router: &Router<'_>) -> Result<i64> {
    let services = router.show("status")?["services"].clone();
    let services = services.as_array().context("no services")?;
    let haproxy = services.iter().find(|service| service["name"] == "haproxy").context("no haproxy")?;
    haproxy["pid"].as_i64().context("haproxy does not run")
}

fn kill(pid: i64) -> Result<()> {
    ensure!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success(), "kill {pid}");
    Ok(())
}

#[test]
fn connections_are_spread_as_the_rules_say_to_whom_they_let_in() -> Result<()> {
    for_both_hooks(&PROGRAMS, |attach| {
        let lab = Lab::isolated()?;
        let (router, _servers) = start(&lab, attach)?;
        let (far, neighbour) = (lab.host("far"), lab.host("neighbour"));
        let (vm1, vm2) = (lab.host("vm1"), lab.host("vm2"));
        let members = members(&lab);
        let pool = |port, algorithm| Pool::new(public(port), algorithm, &members);
        let only_far = format!("acl network_allowed src 192.0.2.0/24 {}/32 ", far.v4);
        let mut by_proxy = pool(85, "roundrobin");
        by_proxy.of_servers = " send-proxy";
        let pools = [
            pool(80, "roundrobin").by_http(),
            pool(81, "leastconn"),
            pool(82, "source").line("stick-table type ip size 200k expire 30m").line("stick on src"),
            pool(83, "roundrobin").line("cookie SRVID insert  indirect nocache ").by_http(),
            pool(84, "roundrobin")
                .line(only_far.as_str())
                .line("tcp-request connection reject if !network_allowed"),
            by_proxy,
        ];
        send(&router, &message(&pools, Some((PAGE, &format!("{}/32", vm1.v4)))))?.ok()?;

        // The firewall comes before.
        let listens = || ask(&router, "show info").is_ok();
        wait_until("haproxy runs", SOON, listens)?;
        assert_eq!(
            clients::open_ports(far, PUBLIC.into(), "1-200,8081")?,
            Vec::<u16>::new(),
            "before the firewall is open"
        );
        open_firewall(&router, 1, 1000)?;
        wait_for(far, public(80))?;
        assert_eq!(clients::open_ports(far, PUBLIC.into(), "1-200,8081")?, [80, 81, 82, 83, 84, 85]);

        for from in [far, vm1, vm2] {
            let answering = answering(from, public(80), 10)?;
            let by_vm1 = answering.iter().filter(|name| *name == "vm1").count();
            assert_eq!(by_vm1, 5, "in turn, for {}: {answering:?}", from.name);
        }
        let seen = get(far, public(80))?.context("port 80")?;
        let lines: Vec<&str> = seen.lines().map(str::trim_end).collect();
        assert_eq!(lines[1], GUEST_SIDE.to_string(), "servers see the router");
        let forwarded = format!("x-forwarded-for: {}", far.v4);
        assert!(lines.iter().any(|line| line.eq_ignore_ascii_case(&forwarded)), "{seen}");

        let connect = || (0..8).map(|_| TcpStream::connect(public(81))).collect::<Result<Vec<_>, _>>();
        let held = far.namespace.inside(connect)??;
        let average = || router.script("get_haproxy_stats.sh", &["203.0.113.14", "81"]);
        wait_until("four connections for each server", SOON, || {
            average().is_ok_and(|said| said.stdout == "4")
        })?;
        drop(held);

        let same: BTreeSet<String> = answering(far, public(82), 6)?.into_iter().collect();
        assert_eq!(same.len(), 1, "one source has one server: {same:?}");

        let jar = router.root().join("jar");
        let jar = jar.to_str().context("a path")?;
        let url = format!("http://{}/", public(83));
        let first = curl(far, &url, &["--cookie-jar", jar])?.context("port 83")?;
        for _ in 0..4 {
            let again = curl(far, &url, &["--cookie", jar])?.context("port 83")?;
            assert_eq!(again.lines().next(), first.lines().next(), "a cookie's server");
        }
        let strangers: BTreeSet<String> = answering(far, public(83), 4)?.into_iter().collect();
        assert_eq!(strangers.len(), 2, "without a cookie: {strangers:?}");

        assert!(
            get(far, public(84))?.is_some() && get(neighbour, public(84))?.is_none(),
            "the rule's networks"
        );
        let by_proxy = get(far, public(85))?.context("port 85")?;
        assert!(by_proxy.contains(&format!("PROXY TCP4 {} {PUBLIC} ", far.v4)), "{by_proxy}");

        // The page of statistics, for its networks, and inside.
        let page = |from| curl(from, &format!("http://{PAGE}/admin?stats"), &["--user", "admin1:AdMiN123"]);
        assert!(page(vm1)?.is_some_and(|text| text.contains("203_0_113_14-80")), "vm1 sees the page");
        assert_eq!(page(vm2)?, None, "vm2 does not");
        neighbour.namespace.ip(&format!("route add 10.1.1.0/24 via {PUBLIC}\n"))?;
        assert_eq!(page(neighbour)?, None, "nor does who is outside");
        assert_eq!(status(&router, "problems")?, Vec::<String>::new());
        assert_eq!(router.plan()?, Vec::<String>::new());
        Ok(())
    })
}

#[test]
fn a_vpc_s_balancer_is_open_and_goes_round_the_lists_of_its_tiers() -> Result<()> {
    for_both_hooks(&PROGRAMS, |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        let everything = json!([{ "type": "all", "cidr": "0.0.0.0/0", "allowed": true }]);
        router.apply_acl(TIER1, &json!([]), &everything)?;
        let at = SocketAddrV4::new(VPC_PUBLIC, 80);
        let _servers = [Greeter::start_on(lab.host("web1"), 80)?, Greeter::start_on(lab.host("web2"), 80)?];
        let members = ["web1", "web2"].map(|name| SocketAddr::from((lab.host(name).v4, 80)));
        let pool = Pool::new(at, "roundrobin", &members).by_http();
        // CloudStack's own default of sources, and open to the tiers alone.
        let page = SocketAddrV4::new([10, 10, 1, 1].into(), 8081);
        send(&router, &message(&[pool], Some((page, "0/0"))))?.ok()?;
        let (far, web1, db1) = (lab.host("far"), lab.host("web1"), lab.host("db1"));
        for from in [far, web1, db1] {
            wait_for(from, at)?;
            let names: BTreeSet<String> = answering(from, at, 4)?.into_iter().collect();
            assert_eq!(names.len(), 2, "for {}: {names:?}", from.name);
        }
        assert_eq!(clients::open_ports(far, VPC_PUBLIC.into(), "1-200,8081")?, [80]);
        let refusing = json!([{ "type": "tcp", "first_port": 80, "last_port": 80, "cidr": "203.0.113.0/24", "allowed": false }]);
        router.apply_acl(TIER2, &json!([]), &refusing)?;
        assert_eq!(get(db1, at)?, None, "a tier's egress is asked");
        wait_for(web1, at)?;
        Ok(())
    })
}

#[test]
fn reloads_lose_no_request_and_no_connection() -> Result<()> {
    if !needs::are_met(&["ab", "curl", "haproxy"]) {
        return Ok(());
    }
    const RELOADS: u16 = 20;
    let lab = Lab::isolated()?;
    let (router, _servers) = start(&lab, "xdp")?;
    open_firewall(&router, 1, 10_000)?;
    let far = lab.host("far");
    let members = members(&lab);
    let pools = |number: u16| {
        let further = Pool::new(public(9000 + number), "source", &members);
        [
            Pool::new(public(80), "roundrobin", &members).by_http(),
            Pool::new(public(81), "leastconn", &members),
            further,
        ]
    };
    send(&router, &message(&pools(0), None))?.ok()?;
    wait_for(far, public(80))?;
    let mut held = far.namespace.inside(|| TcpStream::connect(public(81)))??;
    let mut greet = |when: &str| -> Result<()> {
        held.set_read_timeout(Some(SOON))?;
        held.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"GET / HTTP/1.1\r\n") {
            let mut more = [0; 1024];
            let length = held.read(&mut more)?;
            ensure!(length > 0, "{when}: the connection is closed");
            answer.extend_from_slice(&more[..length]);
        }
        Ok(())
    };
    greet("before")?;
    let mut load = far.namespace.command("ab");
    load.args(["-q", "-t", "300", "-n", "1000000", "-c", "4", &format!("http://{}/", public(80))]);
    let mut load = Process::spawn(load.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    for number in 1..=RELOADS {
        let before = worker(&router)?;
        send(&router, &message(&pools(number), None))?.ok()?;
        let is_another = || worker(&router).is_ok_and(|worker| worker != before);
        wait_until("another worker is in force", SOON, is_another)?;
        assert!(load.is_running(), "ab goes on during reload {number}");
    }
    load.signal(libc::SIGINT);
    let Output { stdout, stderr, .. } = load.finish(SOON)?;
    let number = |label: &str| {
        let line = stdout.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
        line.and_then(|number| number.parse::<u64>().ok())
    };
    assert!(number("Complete requests:").is_some_and(|count| count > 1000), "{stdout}{stderr}");
    assert_eq!(number("Failed requests:"), Some(0), "{stdout}{stderr}");
    assert_eq!(number("Non-2xx responses:"), None, "{stdout}{stderr}");
    greet("after all reloads, by the first worker")?;
    assert_eq!(clients::open_ports(far, PUBLIC.into(), "1-100,9000-9030")?, [80, 81, 9020]);
    Ok(())
}

#[test]
fn what_haproxy_does_not_take_is_refused_and_the_old_one_serves() -> Result<()> {
    if !needs::are_met(&PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let (mut router, _servers) = start(&lab, "tc")?;
    open_firewall(&router, 1, 1000)?;
    let far = lab.host("far");
    let pool = Pool::new(public(80), "roundrobin", &members(&lab)).by_http();
    send(&router, &message(std::slice::from_ref(&pool), None))?.ok()?;
    wait_for(far, public(80))?;
    let files = ["etc/haproxy/haproxy.cfg", "etc/cloudstack/loadbalancer.json"];
    let read = || files.map(|file| fs::read(router.root().join(file)).ok());
    let (before, first) = (read(), worker(&router)?);

    // AppCookie is no word of today's haproxy.
    let wrong = Pool { listener: public(81), ..pool.clone() }.line("appsession JSESSIONID len 52 timeout 3h");
    let refused = send(&router, &message(&[pool.clone(), wrong], None))?;
    assert_eq!(refused.code(), 1, "{refused:?}");
    for words in ["#/rules/0/configuration: haproxy", "haproxy.cfg:", "'appsession' is not supported anymore"]
    {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    let plan = router.xvr(&["plan"])?;
    assert!(plan.status.success(), "{plan:?}");
    assert_eq!((read(), worker(&router)?), (before, first), "nothing has changed");
    wait_for(far, public(80))?;
    assert_eq!(clients::open_ports(far, PUBLIC.into(), "1-100")?, [80]);
    assert!(!router.root().join("run/xvr/haproxy-check").exists());

    let monitoring = json!({
        "config": "[loadbalancing]:processname=haproxy:servicename=haproxy:pidfile=/var/run/haproxy.pid:,",
        "health_checks_enabled": false,
        "health_checks_config": { "haproxyData": format!(
            "maxconn=4096,sourcePortStart=80,sourcePortEnd=80,sourceIp={PUBLIC},destPortStart=8080,destPortEnd=8080,\
             algorithm=roundrobin,protocol=tcp,stickiness=None,keepAliveEnabled=false,vmIps=10.1.1.11 10.1.1.12;"
        ) },
        "type": "monitorservice",
    });
    router.update_config_with("monitor_service", monitoring.to_string().as_bytes())?.ok()?;
    let results = |router: &Router<'_>| {
        router.script("getRouterMonitorResults.sh", &["true"]).map(|output| output.stdout)
    };
    let said = results(&router)?;
    for words in ["service is running", "All 1 load balancing rules are in force"] {
        assert!(said.contains(words), "{words}: {said}");
    }

    // A daemon that dies leaves it; one that starts finds it.
    let (pid, first) = (master(&router)?, worker(&router)?);
    router.kill_daemon();
    wait_for(far, public(80))?;
    router.start_daemon()?;
    wait_until("the next daemon finds haproxy", SOON, || master(&router).is_ok_and(|found| found == pid))?;
    assert_eq!(worker(&router)?, first);

    kill(pid)?;
    wait_until("haproxy is back", SOON, || master(&router).is_ok_and(|found| found != pid))?;
    wait_for(far, public(80))?;
    let alerts = fs::read_to_string(router.root().join("var/log/routerServiceMonitor.log"))?;
    assert!(alerts.contains("[haproxy] The process haproxy has ended"), "{alerts}");

    send(&router, &message(&[], None))?.ok()?;
    let is_closed = || clients::open_ports(far, PUBLIC.into(), "1-100").is_ok_and(|open| open.is_empty());
    wait_until("the port is closed", SOON, is_closed)?;
    assert_eq!(status(&router, "problems")?, Vec::<String>::new());
    let said = results(&router)?;
    assert!(said.contains("203_0_113_14-80 is missing"), "{said}");
    Ok(())
}

#[test]
fn certificates_are_what_the_last_message_has() -> Result<()> {
    if !needs::are_met(&["curl", "haproxy", "openssl"]) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let (router, _servers) = start(&lab, "tc")?;
    open_firewall(&router, 1, 1000)?;
    let far = lab.host("far");
    let refused = router.update_config(&fixture("cloudstack/load_balancer/v4_22_ssl_offload.json"))?;
    assert_eq!(refused.code(), 1, "a certificate that is none: {refused:?}");
    let folder = router.root().join("etc/cloudstack/ssl");
    assert!(!folder.exists());

    let secure = |name: &str, of_bind| {
        let mut pool = Pool::new(public(443), "roundrobin", &members(&lab));
        pool.of_bind = of_bind;
        let pool = pool.line("http-request add-header X-Forwarded-Proto https").by_http();
        let mut message = message(&[pool], None);
        message["rules"][0]["ssl_certs"] = json!([certificate(router.root(), name)?]);
        anyhow::Ok(message)
    };
    send(
        &router,
        &secure("first", " ssl crt /etc/cloudstack/ssl/first.pem alpn h2,http/1.1 ssl-min-ver TLSv1.2")?,
    )?
    .ok()?;
    let url = format!("https://{}/", public(443));
    let fetch = || curl(far, &url, &["--insecure"]).ok().flatten();
    wait_until("haproxy answers by TLS", SOON, || fetch().is_some())?;
    assert!(fetch().is_some_and(|answer| answer.to_lowercase().contains("x-forwarded-proto: https")));
    let mode = fs::metadata(folder.join("first.pem"))?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    send(
        &router,
        &secure("second", " ssl crt /etc/cloudstack/ssl/second.pem alpn h2,http/1.1 ssl-min-ver TLSv1.2")?,
    )?
    .ok()?;
    let is_replaced = || folder.join("second.pem").exists() && !folder.join("first.pem").exists();
    wait_until("there is no other certificate", SOON, is_replaced)?;
    wait_until("haproxy answers by TLS", SOON, || fetch().is_some())
}

/// A certificate as CloudStack sends it.
fn certificate(folder: &Path, name: &str) -> Result<Value> {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lab", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    run_bounded(openssl.stdin(Stdio::null()), SOON)?.ok()?;
    Ok(json!({ "name": name, "cert": fs::read_to_string(certificate)?, "key": fs::read_to_string(key)? }))
}

#[test]
fn every_configuration_of_cloudstack_s_is_taken() -> Result<()> {
    if !needs::are_met(&PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "tc")?;
    router.apply(&ISOLATED_COMMANDS)?;
    let mut taken = 0;
    for entry in fs::read_dir(fixture("cloudstack/load_balancer"))? {
        let path = entry?.path();
        // Whose certificate is none.
        if path.ends_with("v4_22_ssl_offload.json") {
            continue;
        }
        router.update_config(&path)?.ok()?;
        taken += 1;
        let runs = || {
            status(&router, "problems").is_ok_and(|said| said.iter().all(|said| !said.starts_with("haproxy")))
        };
        wait_until("haproxy runs with it", SOON, || runs() && ask(&router, "show info").is_ok())?;
    }
    assert!(taken >= 10, "{taken}");
    // None of the addresses of those is the router's.
    router.apply(&["cloudstack/load_balancer/isolated_http_two_rules.json"])?;
    let waits = "loadbalancer.json#/config/0/add_rules/0: waits: no port has 203.0.113.11";
    assert!(
        status(&router, "problems")?.iter().any(|said| said == waits),
        "{:?}",
        status(&router, "problems")?
    );
    Ok(())
}
