//! The daemons that work is left to are killed, again and again, while guests talk through the router: each is back by
//! itself and does its work again, and no packet notices. Keepalived, which decides who serves, is in `netns::pair.rs`.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::balancer::{self, Pool};
use router_tests::clients;
use router_tests::dhcp::dig;
use router_tests::lab::Lab;
use router_tests::nat::SOURCE_NAT;
use router_tests::netns::{run_bounded, wait_until};
use router_tests::router::{Router, VPC_COMMANDS, for_both_hooks};
use router_tests::servers::{Conversation, Greeter, TcpEcho};
use router_tests::vpn::{self, Charon, SITE};
use serde_json::{Value, json};

const PROGRAMS: [&str; 8] =
    ["/usr/lib/frr/bgpd", "/usr/lib/frr/frr-reload.py", "curl", "dig", "dnsmasq", "haproxy", "nmap", "ping"];

/// Whom a router starts for what [`start`] sends, SSH's included.
const DAEMONS: [&str; 6] = ["bgpd", "charon", "dnsmasq", "haproxy", "sshd", "zebra"];

/// How long a daemon may take to be back and at work.
const SOON: Duration = Duration::from_secs(90);

const BALANCED: SocketAddrV4 = SocketAddrV4::new(SOURCE_NAT, 8000);
const BEHIND_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// A VPC with everything that daemons do in one.
fn start<'lab>(lab: &'lab Lab, attach: &str) -> Result<Router<'lab>> {
    let router = Router::start(lab, attach)?;
    router.apply(&VPC_COMMANDS)?;
    router.apply(&["cloudstack/bgp_peers/vpc_two_tiers_two_peers.json"])?;
    let member = SocketAddr::from((lab.host("web1").v4, 8000));
    let pools = [Pool::new(BALANCED, "roundrobin", &[member])];
    balancer::send(&router, &balancer::message(&pools, None))?.ok()?;
    let tunnel = vpn::message(lab.host("far").v4, &json!({}));
    router.update_config_with("site_2_site_vpn", tunnel.to_string().as_bytes())?.ok()?;
    Ok(router)
}

/// A daemon's process, if it runs and nothing is wrong with it.
fn process(router: &Router<'_>, name: &str) -> Result<i64> {
    let status = router.show("status")?;
    let services = status["services"].as_array().context("no services")?;
    let service = services.iter().find(|service| service["name"] == name).context("no such daemon")?;
    ensure!(service["trouble"] == Value::Null, "{service}");
    service["pid"].as_i64().context("it does not run")
}

/// A daemon's work, as clients see it.
fn works(lab: &Lab, router: &Router<'_>, name: &str) -> bool {
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    match name {
        "charon" => clients::ping(web1, BEHIND_TUNNEL.into(), 2, Duration::from_millis(20))
            .is_ok_and(|ping| ping.received > 0),
        "dnsmasq" => dig(&web1.namespace, "10.10.1.1", &["data-server.cs2cloud.internal"])
            .is_ok_and(|found| found.is_some_and(|found| !found.is_empty())),
        "haproxy" => {
            let mut curl = far.namespace.command("curl");
            curl.args(["--silent", "--fail", "--max-time", "5"]).arg(format!("http://{BALANCED}/"));
            run_bounded(&mut curl, SOON).is_ok_and(|answer| answer.status.success())
        }
        "sshd" => lab
            .host("host")
            .namespace
            .inside(|| std::net::TcpStream::connect("169.254.1.177:3922").is_ok())
            .is_ok_and(|is_open| is_open),
        _ => {
            let mut vtysh = router.namespace().command("vtysh");
            vtysh.arg("--vty_socket").arg(router.root().join("run/frr")).args([
                "-d",
                name,
                "-c",
                "show version",
            ]);
            run_bounded(&mut vtysh, SOON).is_ok_and(|said| said.status.success())
        }
    }
}

fn works_soon(lab: &Lab, router: &Router<'_>, name: &str) -> Result<()> {
    wait_until(&format!("{name} does its work"), SOON, || works(lab, router, name))
        .with_context(|| format!("the daemon's log:\n{}", router.log()))
}

#[test]
fn daemons_that_are_killed_are_back_and_no_packet_notices() -> Result<()> {
    for_both_hooks(&[vpn::PROGRAMS.as_slice(), &PROGRAMS].concat(), |attach| {
        let lab = Lab::vpc()?;
        let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
        far.namespace.ip(&format!("address add {BEHIND_TUNNEL}/32 dev lo\nlink set lo up\n"))?;
        let _site = Charon::site(far, &SITE)?;
        let _member = Greeter::start_on(web1, 8000)?;
        let router = start(&lab, attach)?;
        for name in DAEMONS {
            works_soon(&lab, &router, name)?;
        }

        let every = Duration::from_millis(10);
        let targets = [far.v4.into(), db1.v4.into(), far.v6.into()];
        // A neighbour has to be found first.
        for target in targets {
            clients::ping(web1, target, 1, every)?;
        }
        let pings = targets.map(|target| clients::start_ping(web1, target, every));
        let echo = TcpEcho::start(far)?;
        let mut conversation = Conversation::begin(db1, echo.at(far.v4))?;
        for round in 0..2 {
            for name in DAEMONS {
                let before = process(&router, name).with_context(|| name.to_owned())?;
                router.namespace().run("kill", &["-9", &before.to_string()])?;
                let is_another = || process(&router, name).is_ok_and(|process| process != before);
                wait_until(&format!("{name} is back after {round} times"), SOON, is_another)?;
                works_soon(&lab, &router, name)?;
                conversation.go_on().with_context(|| format!("after {name}"))?;
            }
        }
        for (target, ping) in targets.iter().zip(pings) {
            let ping = ping?.stop()?;
            println!("{target}: {ping:?}");
            // The last one may be on its way.
            ensure!(ping.lost() <= 1 && ping.received > 100, "{target}: {ping:?}");
        }
        let status = router.show("status")?;
        let services = status["services"].as_array().context("no services")?;
        for service in services {
            ensure!(service["restarts"].as_u64() >= Some(2), "{service}");
        }
        assert!(router.plan()?.is_empty());
        Ok(())
    })
}
