//! What guests are told about themselves and which password they get, by real clients in a lab; and what others
//! learn of it, which is nothing.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use router_tests::clients;
use router_tests::lab::{Host, Lab};
use router_tests::needs;
use router_tests::netns::{Output, run_bounded, wait_until};
use router_tests::router::{ISOLATED_COMMANDS, Router, TIER2, VPC_COMMANDS, fixture, for_both_hooks};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

const TIER1_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 1);
const TIER2_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 10, 2, 1);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
const CONTROL: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 177);
/// Bytes that are neither text nor a header's.
const BINARY: &[u8] = b"\0\x01\r\n\r\n\xff\xfe\x80 HTTP/1.1 \0";
/// Programs of every test here.
const PROGRAMS: [&str; 1] = ["curl"];

/// What curl got; status 0 stands for no answer.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: u16,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn none() -> Reply {
    Reply { status: 0, body: Vec::new() }
}

fn ok(body: impl AsRef<[u8]>) -> Reply {
    Reply { status: 200, body: body.as_ref().to_owned() }
}

/// Asks by curl, with more of its arguments. `address` may have a port.
fn ask_with(from: &Host, address: impl ToString, path: &str, arguments: &[&str]) -> Result<Reply> {
    let mut curl = from.namespace.command("curl");
    curl.args(["--silent", "--globoff", "--path-as-is", "--connect-timeout", "3", "--max-time", "20"])
        .args(["--write-out", "%{stderr}%{http_code}"])
        .args(arguments)
        .arg(format!("http://{}{path}", address.to_string()));
    let output = curl.stderr(Stdio::piped()).output().context("start curl")?;
    let status = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(Reply {
        status: status.parse().with_context(|| format!("curl says {status:?}"))?,
        body: output.stdout,
    })
}

fn ask(from: &Host, address: impl ToString, path: &str) -> Result<Reply> {
    ask_with(from, address, path, &[])
}

/// What the password service answers to a word.
fn say(from: &Host, router: Ipv4Addr, word: &str) -> Result<Reply> {
    ask_with(from, format!("{router}:8080"), "/", &["--header", &format!("DomU_Request: {word}")])
}

/// Tells the router about a guest, with this user data and these items.
fn tell(router: &Router<'_>, guest: &Host, user_data: Option<&[u8]>, items: &[(&str, &str)]) -> Result<()> {
    let user_data = user_data.map(|bytes| STANDARD.encode(bytes));
    let mut list = vec![json!(["userdata", "user-data", user_data])];
    list.extend(items.iter().map(|(name, text)| json!(["metadata", name, text])));
    let message = json!({
        "vm_ip_address": guest.v4, "vm_metadata": list,
        "type": "vmdata", "delete_from_processed_cache": false,
    });
    router.update_config_with("vm_metadata", message.to_string().as_bytes())?.ok().map(drop)
}

/// Gives a guest a password.
fn give(router: &Router<'_>, guest: &Host, password: &str) -> Result<Output> {
    let message = json!({
        "ip_address": guest.v4, "password": password,
        "type": "vmpassword", "delete_from_processed_cache": false,
    });
    router.update_config_with("vm_password", message.to_string().as_bytes())?.ok()
}

/// The router of a VPC with data for three of its four guests.
fn informed<'lab>(lab: &'lab Lab, attach: &str) -> Result<Router<'lab>> {
    let router = Router::start(lab, attach)?;
    router.apply(&VPC_COMMANDS)?;
    let own = |host: &Host| host.name.to_owned();
    for (name, user_data) in [("web1", Some(BINARY)), ("web2", None), ("db1", Some(&b"#cloud-config\n"[..]))]
    {
        let guest = lab.host(name);
        let (id, host) = (format!("id-of-{name}"), own(guest));
        let items = [
            ("local-hostname", host.as_str()),
            ("instance-id", &id),
            ("vm-id", &id),
            ("cloud-domain", "ROOT"),
            ("cloud-domain-id", "9a2c7c5e"),
        ];
        tell(&router, guest, user_data, &items)?;
    }
    Ok(router)
}

#[test]
fn guests_are_told_about_themselves_and_never_about_others() -> Result<()> {
    for_both_hooks(&["curl", "nmap"], |attach| {
        let lab = Lab::vpc()?;
        let router = informed(&lab, attach)?;
        let [web1, web2, db1, db2] = ["web1", "web2", "db1", "db2"].map(|name| lab.host(name));

        for path in ["/latest/user-data", "/latest/user-data/"] {
            assert_eq!(ask(web1, TIER1_GATEWAY, path)?, ok(BINARY), "{path}");
        }
        let manifest = "local-hostname\ninstance-id\nvm-id\ncloud-domain\ncloud-domain-id\n";
        for path in ["/latest/meta-data/", "/latest/meta-data"] {
            assert_eq!(ask(web1, TIER1_GATEWAY, path)?, ok(manifest), "{path}");
        }
        for (name, text) in [("instance-id", "id-of-web1"), ("cloud-domain", "ROOT"), ("vm-id", "id-of-web1")]
        {
            for folder in ["/latest/meta-data", "/latest"] {
                for end in ["", "/"] {
                    let path = format!("{folder}/{name}{end}");
                    assert_eq!(ask(web1, TIER1_GATEWAY, &path)?, ok(text), "{path}");
                }
            }
        }
        assert_eq!(ask(web2, TIER1_GATEWAY, "/latest/user-data")?, ok(""));
        assert_eq!(ask(web2, TIER1_GATEWAY, "/latest/vm-id")?, ok("id-of-web2"));
        assert_eq!(ask(db1, TIER2_GATEWAY, "/latest/vm-id")?, ok("id-of-db1"));
        for path in ["/", "/latest/", "/latest/user-data", "/latest/meta-data/", "/latest/vm-id"] {
            assert_eq!(ask(db2, TIER2_GATEWAY, path)?.status, 404, "{path} of who has nothing");
        }

        // Methods, and several requests over one connection.
        let head = ask_with(web1, TIER1_GATEWAY, "/latest/vm-id", &["--head"])?;
        assert_eq!(head.status, 200);
        assert!(head.text().to_lowercase().contains("content-length: 10\r\n"), "{}", head.text());
        assert_eq!(ask_with(web1, TIER1_GATEWAY, "/latest/vm-id", &["--data", "x=1"])?.status, 405);
        assert_eq!(ask_with(web1, TIER1_GATEWAY, "/latest/vm-id", &["--request", "DELETE"])?.status, 405);
        let twice = web1.namespace.run(
            "curl",
            &["-s", "-v", "--stderr", "-", "http://10.10.1.1/latest/vm-id", "http://10.10.1.1/latest/vm-id"],
        )?;
        assert!(twice.contains("Re-using existing connection"), "{twice}");
        let old = ask_with(web1, TIER1_GATEWAY, "/latest/vm-id", &["--http1.0"])?;
        assert_eq!(old, ok("id-of-web1"));

        // Who pretends to be somebody else is who its address says.
        let pretence = ["--header", "X-Forwarded-For: 10.10.1.12", "--header", "Host: 10.10.1.12"];
        let forwarded = ask_with(web1, TIER1_GATEWAY, "/latest/vm-id", &pretence)?;
        assert_eq!(forwarded, ok("id-of-web1"));
        for path in [
            "/latest/../../metadata/10.10.1.12/vm-id",
            "/latest/meta-data/../../10.10.1.12/vm-id",
            "/metadata/10.10.1.12/vm-id",
            "/latest/%2e%2e/%2e%2e/etc/passwd",
            "/latest/meta-data/vm-id%00",
            "/latest/meta-data/nothing",
        ] {
            assert_eq!(ask(web1, TIER1_GATEWAY, path)?.status, 404, "{path}");
        }
        // With the address of a guest of another tier, which answers for it in its own tier; at its own gateway
        // and at the other tier's.
        web1.namespace.ip("address add 10.10.2.11/32 dev eth0\n")?;
        let spoofed = ["--interface", "10.10.2.11"];
        for gateway in [TIER1_GATEWAY, TIER2_GATEWAY] {
            assert_eq!(ask_with(web1, gateway, "/latest/vm-id", &spoofed)?, none(), "{gateway}");
        }
        web1.namespace.ip("address del 10.10.2.11/32 dev eth0\n")?;
        // With an address behind a guest, which has a way but is in no network of the router's.
        let behind = json!({
            "routes": [{ "revoke": false, "network": "172.31.0.0/16", "gateway": web1.v4 }],
            "type": "staticroutes", "delete_from_processed_cache": false,
        });
        router.update_config_with("static_routes", behind.to_string().as_bytes())?.ok()?;
        let data = json!({
            "vm_ip_address": "172.31.0.1", "vm_metadata": [["metadata", "vm-id", "behind"]], "type": "vmdata",
        });
        router.update_config_with("vm_metadata", data.to_string().as_bytes())?.ok()?;
        web1.namespace.ip("address add 172.31.0.1/32 dev eth0\n")?;
        let behind = ["--interface", "172.31.0.1"];
        assert_eq!(ask_with(web1, TIER1_GATEWAY, "/latest/vm-id", &behind)?, none());
        assert_eq!(ask_with(web1, "10.10.1.1:8080", "/", &behind)?, none());
        assert_eq!(ask(web1, TIER2_GATEWAY, "/latest/vm-id")?, none());
        assert_eq!(ask(db1, TIER1_GATEWAY, "/latest/vm-id")?, none());
        assert_eq!(ask(web1, PUBLIC, "/latest/vm-id")?, none());

        // Outside nobody finds a way.
        let (far, neighbour, host) = (lab.host("far"), lab.host("neighbour"), lab.host("host"));
        neighbour.namespace.ip("route add 10.10.0.0/16 via 203.0.113.30\n")?;
        host.namespace.ip("route add 10.10.0.0/16 via 169.254.1.177\n")?;
        for (from, to) in [
            (far, PUBLIC),
            (neighbour, PUBLIC),
            (neighbour, TIER1_GATEWAY),
            (host, CONTROL),
            (host, TIER1_GATEWAY),
        ] {
            let open = clients::open_ports(from, to.into(), "80,443,8080")?;
            assert_eq!(open, [0; 0], "{to} from {}", from.name);
        }
        assert!(!router.log().contains("panicked"), "{}", router.log());
        Ok(())
    })
}

#[test]
fn compressed_user_data_arrive_as_they_were_and_the_last_word_about_a_guest_counts() -> Result<()> {
    if !needs::are_met(&PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "tc")?;
    router.apply(&ISOLATED_COMMANDS)?;
    let vm1 = lab.host("vm1");
    let packed = Command::new("sh").args(["-c", "seq 20000 | gzip -n"]).output()?.stdout;
    assert!(packed.starts_with(b"\x1f\x8b"));
    tell(&router, vm1, Some(&packed), &[("role", "front"), ("later", "gone")])?;
    let script = "curl -sf http://10.1.1.1/latest/user-data | gunzip | tail -1";
    assert_eq!(vm1.namespace.run("sh", &["-c", script])?, "20000\n");
    assert_eq!(ask(vm1, "10.1.1.1", "/latest/user-data")?, ok(&packed));

    tell(&router, vm1, None, &[("role", "back")])?;
    assert_eq!(ask(vm1, "10.1.1.1", "/latest/meta-data/")?, ok("role\n"));
    assert_eq!(ask(vm1, "10.1.1.1", "/latest/role")?, ok("back"));
    assert_eq!(ask(vm1, "10.1.1.1", "/latest/later")?.status, 404);

    // What makes no sense changes nothing.
    let bad = json!({
        "vm_ip_address": vm1.v4, "type": "vmdata",
        "vm_metadata": [["metadata", "role", "bad"], ["userdata", "user-data", "no base64!"]],
    });
    let refused = router.update_config_with("vm_metadata", bad.to_string().as_bytes())?;
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("#/vm_metadata/1/2: no valid base64"), "{}", refused.stderr);
    assert_eq!(ask(vm1, "10.1.1.1", "/latest/role")?, ok("back"));
    Ok(())
}

/// The archive's files of a kind.
fn archived(router: &Router<'_>, kind: &str) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(router.root().join("var/cache/cloud/processed"))?;
    let paths = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    let is_of = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{kind}.json.")))
    };
    Ok(paths.into_iter().filter(is_of).collect())
}

#[test]
fn a_password_waits_for_its_guest_through_kill_9_and_never_comes_back() -> Result<()> {
    if !needs::are_met(&PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, "tc")?;
    let [web1, web2, db1] = ["web1", "web2", "db1"].map(|name| lab.host(name));
    let (tier1, tier2): (Vec<_>, Vec<_>) =
        VPC_COMMANDS.iter().partition(|name| !name.contains("second_tier"));
    router.apply(&tier1)?;
    let early = give(&router, db1, "Before its tier")?;
    assert!(early.stderr.contains("no guest port has the network of 10.10.2.11 yet"), "{}", early.stderr);
    router.apply(&tier2)?;
    give(&router, web1, "kX3=g Tw9q")?;

    router.kill_daemon();
    router.start_daemon()?;
    assert_eq!(say(web2, TIER1_GATEWAY, "send_my_password")?, ok("saved_password"));
    assert_eq!(say(web2, TIER1_GATEWAY, "saved_password")?, ok("saved_password"));
    assert_eq!(say(web2, TIER2_GATEWAY, "send_my_password")?, none());
    assert_eq!(
        say(web1, TIER1_GATEWAY, "save_password")?,
        Reply { status: 400, body: b"bad_request".into() }
    );
    assert_eq!(ask(web1, "10.10.1.1:8080", "/")?.status, 400);
    assert_eq!(ask_with(web1, "10.10.1.1:8080", "/", &["--data", "ip=10.10.1.11"])?.status, 405);
    for _ in 0..2 {
        assert_eq!(say(web1, TIER1_GATEWAY, "send_my_password")?, ok("kX3=g Tw9q"));
    }
    assert_eq!(say(db1, TIER2_GATEWAY, "send_my_password")?, ok("Before its tier"));
    let words = ["--include", "--header", "DomU_Request: send_my_password"];
    let headers = ask_with(web2, "10.10.1.1:8080", "/any/path", &words)?.text().to_lowercase();
    assert!(headers.contains("\r\nserver: cloudstack password server\r\n"), "{headers}");
    assert!(headers.contains("\r\ncontent-type: text/plain\r\n"), "{headers}");

    assert_eq!(say(web1, TIER1_GATEWAY, "saved_password")?, ok("saved_password"));
    router.kill_daemon();
    router.start_daemon()?;
    assert_eq!(say(web1, TIER1_GATEWAY, "send_my_password")?, ok("saved_password"));
    assert_eq!(say(db1, TIER2_GATEWAY, "send_my_password")?, ok("Before its tier"));

    // CloudStack's messages once more, under their names.
    let messages = archived(&router, "vm_password")?;
    assert_eq!(messages.len(), 2, "{messages:?}");
    for packed in messages {
        assert_eq!(fs::metadata(&packed)?.permissions().mode() & 0o777, 0o600, "{}", packed.display());
        let message =
            run_bounded(Command::new("gunzip").arg("-c").arg(&packed), Duration::from_secs(30))?.ok()?;
        let name = packed.file_stem().context("a name")?.to_string_lossy().into_owned();
        fs::write(router.root().join("var/cache/cloud").join(&name), message.stdout)?;
        let mut script = lab.router.command(router.root().join("opt/cloud/bin/update_config.py"));
        let again = run_bounded(script.arg(&name), Duration::from_secs(30))?.ok()?;
        assert!(again.stderr.contains("this message was taken before"), "{}", again.stderr);
    }
    assert_eq!(say(web1, TIER1_GATEWAY, "send_my_password")?, ok("saved_password"));
    give(&router, web1, "kX3=g Tw9q")?;
    assert_eq!(say(web1, TIER1_GATEWAY, "send_my_password")?, ok("kX3=g Tw9q"));

    for file in ["passwords-10.10.1.1", "passwords-unplaced"] {
        let mode = fs::metadata(router.root().join("var/cache/cloud").join(file))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let bad = json!({ "ip_address": web1.v4, "password": "Zz\nlines", "type": "vmpassword" });
    let refused = router.update_config_with("vm_password", bad.to_string().as_bytes())?;
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stderr.contains("#/password: it is empty or has control characters"),
        "{}",
        refused.stderr
    );
    let log = router.log();
    for secret in ["kX3", "Tw9q", "Before its", "Zz"] {
        assert!(!log.contains(secret), "{log}");
    }
    Ok(())
}

fn listening(router: &Router<'_>) -> Result<Vec<String>> {
    Ok(serde_json::from_value(router.show("status")?["http"]["listening"].clone())?)
}

#[test]
fn where_guests_are_served_follows_the_tiers() -> Result<()> {
    if !needs::are_met(&PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = informed(&lab, "tc")?;
    let (web1, db1) = (lab.host("web1"), lab.host("db1"));
    let both = ["10.10.1.1:80", "10.10.1.1:8080", "10.10.2.1:80", "10.10.2.1:8080"];
    assert_eq!(listening(&router)?, both);
    let tier = fs::read(fixture("own/guest_network/vpc_second_tier_add_dualstack.json"))?;
    let mut gone: Value = serde_json::from_slice(&tier)?;
    gone["add"] = json!(false);
    router.update_config_with("guest_network", gone.to_string().as_bytes())?.ok()?;
    assert_eq!(listening(&router)?, both[..2]);
    let sockets = lab.router.run("ss", &["-Hltn"])?;
    assert!(sockets.contains("10.10.1.1") && !sockets.contains("10.10.2.1"), "{sockets}");
    let status = router.xvr(&["show", "status"])?.ok()?.stdout;
    let line = "Guests are served at 10.10.1.1:80, 10.10.1.1:8080; there are metadata for 3 guests (1 in no guest port's network), and 0 passwords to be fetched.\n";
    assert!(status.contains(line), "{status}");
    assert_eq!(ask(web1, TIER1_GATEWAY, "/latest/vm-id")?, ok("id-of-web1"));

    router.update_config_with("guest_network", &tier)?.ok()?;
    assert_eq!(listening(&router)?, both);
    assert_eq!(ask(db1, TIER2_GATEWAY, "/latest/vm-id")?, ok("id-of-db1"));

    // Another address in the tier.
    let mut moved: Value = serde_json::from_slice(&tier)?;
    moved["router_guest_ip"] = json!("10.10.2.2");
    moved["is_vr_guest_gateway"] = json!(false);
    router.update_config_with("guest_network", moved.to_string().as_bytes())?.ok()?;
    assert_eq!(ask(db1, "10.10.2.2", "/latest/vm-id")?, ok("id-of-db1"));
    assert_eq!(ask(db1, TIER2_GATEWAY, "/latest/vm-id")?, none());
    // Somebody who sits on the address first is reported, and gives way.
    router.update_config_with("guest_network", gone.to_string().as_bytes())?.ok()?;
    lab.router.sysctl("net/ipv4/ip_nonlocal_bind", "1")?;
    let squatter = lab.router.inside(|| TcpListener::bind(("10.10.2.1", 80)))??;
    router.update_config_with("guest_network", &tier)?.ok()?;
    let problems: Vec<String> = serde_json::from_value(router.show("status")?["problems"].clone())?;
    let is_named = |problem: &String| problem.starts_with("guests are not served at 10.10.2.1:80: ");
    assert!(problems.iter().any(is_named), "{problems:?}");
    assert_eq!(say(db1, TIER2_GATEWAY, "send_my_password")?, ok("saved_password"));
    drop(squatter);
    wait_until("the tier is served again", Duration::from_secs(60), || {
        ask(db1, TIER2_GATEWAY, "/latest/vm-id").is_ok_and(|reply| reply == ok("id-of-db1"))
    })?;
    assert_eq!(router.show("status")?["problems"], json!([]));
    Ok(())
}

/// Opens so many connections from each of a guest's addresses to its gateway, and leaves them at that.
fn hold(from: &Host, addresses: Vec<Ipv4Addr>, each: usize, port: u16) -> Result<Vec<TcpStream>> {
    from.namespace.inside(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut streams = Vec::new();
            for address in addresses {
                for number in 0..each {
                    let socket = TcpSocket::new_v4()?;
                    socket.bind(SocketAddr::from((address, 0)))?;
                    let mut stream = socket.connect(SocketAddr::from((TIER1_GATEWAY, port))).await?;
                    if number % 2 == 0 {
                        // The router may have closed it already.
                        let _ = stream.write_all(b"GET /latest/vm-id HTTP/1.1\r\nX-Slow: ").await;
                    }
                    streams.push(stream.into_std()?);
                }
            }
            Ok(streams)
        })
    })?
}

#[test]
fn a_guest_that_keeps_connections_keeps_nobody_from_anything() -> Result<()> {
    if !needs::are_met(&PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = informed(&lab, "tc")?;
    let [web1, web2, db1] = ["web1", "web2", "db1"].map(|name| lab.host(name));
    // As one guest and as twenty: some say nothing, some a little and no more.
    let twenty: Vec<Ipv4Addr> = (100..120).map(|last| Ipv4Addr::new(10, 10, 1, last)).collect();
    web1.namespace
        .ip(&twenty.iter().map(|own| format!("address add {own}/24 dev eth0\n")).collect::<String>())?;
    let mut held = Vec::new();
    for port in [80, 8080] {
        held.extend(hold(web1, vec![web1.v4], 200, port)?);
        held.extend(hold(web1, twenty.clone(), 10, port)?);
    }
    assert_eq!(held.len(), 800);
    for _ in 0..5 {
        assert_eq!(ask(web2, TIER1_GATEWAY, "/latest/vm-id")?, ok("id-of-web2"));
        assert_eq!(ask(db1, TIER2_GATEWAY, "/latest/vm-id")?, ok("id-of-db1"));
        assert_eq!(say(web2, TIER1_GATEWAY, "send_my_password")?, ok("saved_password"));
        assert_eq!(ask(web1, TIER1_GATEWAY, "/latest/vm-id")?, ok("id-of-web1"));
    }
    tell(&router, web2, None, &[("vm-id", "another")])?;
    assert_eq!(ask(web2, TIER1_GATEWAY, "/latest/vm-id")?, ok("another"));
    router.apply_acl(TIER2, &json!([]), &json!([]))?;
    let pid = router.daemon_pid().context("it runs")?;
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    ensure!(open < 400, "the daemon has {open} files open");
    Ok(())
}

/// Where Debian has it.
const CLOUD_INIT: &str = "/usr/lib/python3/dist-packages/cloudinit/sources/DataSourceCloudStack.py";

/// Runs cloud-init's own data source against a router and prints what it understood.
const DATA_SOURCE: &str = r#"
import json, sys
from cloudinit import helpers
from cloudinit.sources import DataSourceCloudStack
DataSourceCloudStack.get_vr_address = lambda: sys.argv[1]
paths = helpers.Paths({"cloud_dir": sys.argv[2], "run_dir": sys.argv[2]})
source = DataSourceCloudStack.DataSourceCloudStack({}, None, paths)
found = source._get_data()
print(json.dumps({
    "found": found,
    "user_data": source.userdata_raw.decode(),
    "metadata": source.metadata,
    "id": source.get_instance_id(),
    "password": source.cfg.get("password"),
}))
"#;

#[test]
fn cloud_init_finds_all_it_asks_for() -> Result<()> {
    if !needs::are_met(&[CLOUD_INIT, "wget"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = Router::start(&lab, "tc")?;
    router.apply(&VPC_COMMANDS)?;
    let [web1, web2] = ["web1", "web2"].map(|name| lab.host(name));
    let text = "#cloud-config\npackages: [nginx]\n";
    let items = [
        ("service-offering", "Small Instance"),
        ("local-hostname", "web-1"),
        ("instance-id", "0d5f0c66"),
        ("public-keys", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABexample user@host"),
    ];
    tell(&router, web1, Some(text.as_bytes()), &items)?;
    give(&router, web1, "kX3gTw9q")?;
    tell(&router, web2, None, &[("instance-id", "another")])?;
    let source = |guest: &Host| -> Result<Value> {
        let folder = router.root().join(guest.name);
        let mut python = guest.namespace.command("/usr/bin/python3");
        python.args(["-c", DATA_SOURCE, "10.10.1.1"]).arg(folder);
        let output = run_bounded(&mut python, Duration::from_secs(120))?.ok()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("it says {}", output.stdout))
    };
    let metadata: serde_json::Map<String, Value> =
        items.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
    let expected = json!({
        "found": true, "user_data": text, "metadata": metadata, "id": "0d5f0c66", "password": "kX3gTw9q",
    });
    assert_eq!(source(web1)?, expected);
    // It has confirmed the password.
    let mut later = expected;
    later["password"] = Value::Null;
    assert_eq!(source(web1)?, later);
    let bare = json!({
        "found": true, "user_data": "", "metadata": { "instance-id": "another" }, "id": "another",
        "password": null,
    });
    assert_eq!(source(web2)?, bare);
    Ok(())
}
