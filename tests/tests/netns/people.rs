//! People who call from outside to be inside: L2TP over IPsec by real clients, where the kernel can do it; where it
//! cannot, what the router says about that.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::clients;
use router_tests::dhcp::dig;
use router_tests::lab::{Host, Lab};
use router_tests::nat::SOURCE_NAT;
use router_tests::needs;
use router_tests::netns::wait_until;
use router_tests::people::{self, Person};
use router_tests::router::{ISOLATED_COMMANDS, Router, TIER1, VPC_COMMANDS};
use router_tests::rules::{firewall, firewall_rule};
use router_tests::servers::{Conversation, TcpEcho};
use router_tests::vpn::{self, Charon, SECRET, SITE};
use router_userspace::reconcile::kernel::Kernel;
use serde_json::{Value, json};

/// The isolated network's public address, and its guests' network.
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 14);
const GUESTS: &str = "10.1.1.0/24";
/// The router's address towards people, and theirs.
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 1);
const PEOPLE: &str = "10.1.2.0/28";

/// In an emulated machine that is long.
const SOON: Duration = Duration::from_secs(180);

fn server(create: bool) -> Value {
    json!({
        "create": create, "ip_range": "10.1.2.2-10.1.2.8", "preshared_key": SECRET, "vpn_server_ip": SERVER,
        "local_ip": LOCAL, "local_cidr": GUESTS, "public_interface": "eth2",
        "type": "remoteaccessvpn", "delete_from_processed_cache": false,
    })
}

fn user(name: &str, add: bool) -> Value {
    json!({ "user": name, "password": format!("of {name}"), "add": add })
}

fn tell(router: &Router<'_>, kind: &str, message: &Value) -> Result<String> {
    Ok(router.update_config_with(kind, message.to_string().as_bytes())?.ok()?.stderr)
}

fn users(router: &Router<'_>, users: &[Value]) -> Result<String> {
    let message = json!({ "vpn_users": users, "type": "vpnuserlist", "delete_from_processed_cache": false });
    tell(router, "vpn_user_list", &message)
}

/// CloudStack's order: users, the server, and the firewall's rules for it.
fn start<'lab>(lab: &'lab Lab, attach: &str) -> Result<Router<'lab>> {
    let router = Router::start(lab, attach)?;
    router.apply(&ISOLATED_COMMANDS)?;
    users(&router, &[user("alice", true), user("bob", true)])?;
    tell(&router, "remote_access_vpn", &server(true))?;
    let rule =
        |id, port| firewall_rule(id, &SERVER.to_string(), "udp", Some((port, port)), &["0.0.0.0/0"], false);
    firewall(&router, &[rule(1, 500), rule(2, 4500), rule(3, 1701)])?;
    Ok(router)
}

/// The sentences of `xvr status` under a key.
fn status(router: &Router<'_>, key: &str) -> Result<Vec<String>> {
    Ok(serde_json::from_value(router.show("status")?[key].clone())?)
}

fn runs(router: &Router<'_>, name: &str) -> bool {
    process(router, name).is_ok()
}

fn reaches(from: &Host, to: Ipv4Addr) -> bool {
    clients::ping(from, to.into(), 3, Duration::from_millis(200)).is_ok_and(|ping| ping.received > 0)
}

/// Packets of the ports that people are behind.
fn of_people(router: &Router<'_>, what: &str) -> Result<u64> {
    let ports = router.show("ports")?;
    let ports = ports.as_array().context("no ports")?.iter();
    let people = ports.filter(|port| port["name"].as_str().is_some_and(|name| name.starts_with("ppp")));
    Ok(people.filter_map(|port| port[what]["packets"].as_u64()).sum())
}

#[test]
fn people_call_and_are_inside_until_their_user_goes() -> Result<()> {
    if !needs::are_met(&[people::PROGRAMS.as_slice(), &["dig", "dnsmasq", "ping"]].concat())
        || !people::kernel_can()
    {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let (vm1, far, neighbour) = (lab.host("vm1"), lab.host("far"), lab.host("neighbour"));
    let router = start(&lab, "tc")?;
    for name in ["charon", "xl2tpd"] {
        wait_until(&format!("{name} runs"), SOON, || runs(&router, name)).with_context(|| router.log())?;
    }
    let inner = || -> Result<()> {
        // Not without IPsec.
        let bare = Person::call_in_clear(neighbour, SERVER, "bob", "of bob")?;
        let alice = Person::call(far, SERVER, "alice", "of alice")?;
        let address = alice.inside(&[GUESTS, PEOPLE, "203.0.113.200/32"])?;
        ensure!(bare.address().is_none(), "somebody is inside without IPsec");
        drop(bare);
        wait_until("a guest is reached", SOON, || reaches(far, vm1.v4))?;
        ensure!(reaches(vm1, address), "nothing goes the other way");
        // As itself, both ways.
        for (client, server, at) in [(far, vm1, vm1.v4), (vm1, far, address)] {
            let echo = TcpEcho::start(server)?;
            let mut conversation = Conversation::begin_within(client, echo.at(at), SOON)?;
            conversation.go_on()?;
            let flows = router.show("flows")?;
            let of_it = |flow: &&Value| flow["destination"] == echo.at(at).to_string();
            let flow = flows.as_array().and_then(|flows| flows.iter().find(of_it)).context("no flow")?;
            let own = if client.name == "far" { address } else { vm1.v4 };
            ensure!(
                flow["source"].as_str().is_some_and(|source| source.starts_with(&format!("{own}:"))),
                "{flow}"
            );
            ensure!(flow["translated"] == flow["source"] || flow["translated"].is_null(), "{flow}");
        }
        ensure!(of_people(&router, "forwarded_by_tc")? > 0, "{}", router.show("ports")?);
        let names = dig(&far.namespace, &LOCAL.to_string(), &["data-server.cs2cloud.internal"])?;
        ensure!(names == Some(vec!["10.1.1.1".to_owned()]), "{names:?}");
        // Not outside, by way of the router.
        let before = of_people(&router, "dropped")?;
        ensure!(!reaches(far, neighbour.v4), "the outside is reached through the tunnel");
        ensure!(of_people(&router, "dropped")? > before, "{}", router.show("drops")?);

        let bob = Person::call(neighbour, SERVER, "bob", "of bob")?;
        let other = bob.inside(&[GUESTS, PEOPLE])?;
        ensure!(other != address, "both have {other}");
        wait_until("people reach each other", SOON, || reaches(far, other))?;
        users(&router, &[user("alice", false)])?;
        wait_until("her session is over", SOON, || alice.address().is_none())
            .with_context(|| alice.said())?;
        ensure!(reaches(neighbour, vm1.v4), "his is, too");
        drop(alice);
        let alice = Person::call(far, SERVER, "alice", "of alice")?;
        tell(&router, "remote_access_vpn", &server(false))?;
        wait_until("all sessions are over", SOON, || bob.address().is_none()).with_context(|| bob.said())?;
        ensure!(alice.address().is_none(), "who is no user is inside");
        wait_until("nobody waits for calls", SOON, || !runs(&router, "charon") && !runs(&router, "xl2tpd"))?;
        ensure!(router.plan()?.is_empty());
        Ok(())
    };
    inner().with_context(|| format!("the router's log:\n{}", router.log()))
}

/// A host at the other end of a tunnel.
const INNER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

#[test]
fn people_call_a_vpc_that_has_a_tunnel_too_its_lists_decide_and_they_can_call_again_when_xl2tpd_has_died()
-> Result<()> {
    if !needs::are_met(&[people::PROGRAMS.as_slice(), &["ping"]].concat()) || !people::kernel_can() {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let (web1, far, neighbour) = (lab.host("web1"), lab.host("far"), lab.host("neighbour"));
    let router = Router::start(&lab, "xdp")?;
    router.apply(&VPC_COMMANDS)?;
    let inner = || -> Result<()> {
        users(&router, &[user("bob", true)])?;
        let mut message = server(true);
        (message["vpn_server_ip"], message["local_cidr"]) = (json!(SOURCE_NAT), json!(vpn::VPC));
        tell(&router, "remote_access_vpn", &message)?;
        wait_until("charon runs", SOON, || runs(&router, "charon"))?;
        far.namespace.ip(&format!("address add {INNER}/32 dev lo\nlink set lo up\n"))?;
        let _site = Charon::site(far, &SITE)?;
        tell(&router, "site_2_site_vpn", &vpn::message(far.v4, &json!({})))?;
        wait_until("the other site is reached", SOON, || reaches(web1, INNER))?;
        ensure!(reaches(far, web1.v4), "the other site does not reach a guest");
        let mut bob = Person::call(neighbour, SOURCE_NAT, "bob", "of bob")?;
        let echo = TcpEcho::start(far)?;
        let mut conversation = Conversation::begin_within(web1, echo.at(INNER), SOON)?;
        let all = |allowed: bool| json!([{ "type": "all", "cidr": "0.0.0.0/0", "allowed": allowed }]);
        for _ in 0..2 {
            let address = bob.inside(&[vpn::VPC, "10.99.0.0/16"])?;
            wait_until("a guest is reached", SOON, || reaches(neighbour, web1.v4))
                .with_context(|| bob.said())?;
            ensure!(!reaches(neighbour, INNER), "people reach the other site");
            router.apply_acl(TIER1, &all(false), &all(true))?;
            ensure!(!reaches(neighbour, web1.v4), "the tier's list is not asked");
            ensure!(reaches(web1, address), "nor should it be the other way");
            router.apply_acl(TIER1, &all(true), &all(true))?;
            // Whoever carries them dies, and is there again for the next call.
            let before = process(&router, "xl2tpd")?;
            router.namespace().run("kill", &["-9", &before.to_string()])?;
            let is_another = || process(&router, "xl2tpd").is_ok_and(|process| process != before);
            wait_until("xl2tpd is back", SOON, is_another)?;
            conversation.go_on()?;
            drop(bob);
            wait_until("he is outside", SOON, || !neighbour.namespace.has_interface(people::DEVICE))?;
            bob = Person::call(neighbour, SOURCE_NAT, "bob", "of bob")?;
        }
        bob.inside(&[]).map(drop)
    };
    inner().with_context(|| format!("the router's log:\n{}", router.log()))
}

fn process(router: &Router<'_>, name: &str) -> Result<i64> {
    let status = router.show("status")?;
    let service = status["services"].as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
    service.and_then(|one| one["pid"].as_i64()).with_context(|| format!("{name} does not run"))
}

#[test]
fn where_the_kernel_cannot_the_router_says_so_and_does_all_else() -> Result<()> {
    let lack = Kernel::look().lack(false);
    if !needs::are_met(&["ping"]) || lack.is_none() {
        return Ok(());
    }
    let lack = lack.unwrap_or_default();
    let lab = Lab::isolated()?;
    let mut router = start(&lab, "tc")?;
    let warned = tell(&router, "remote_access_vpn", &server(true))?;
    let sentence = format!(
        "remoteaccessvpn.json#: 1 server is stored and not in force: {lack}, which L2TP over IPsec needs"
    );
    ensure!(warned.contains(&sentence), "{warned}");
    for _ in 0..2 {
        let said = status(&router, "notices")?;
        ensure!(said.contains(&sentence), "{said:?}");
        ensure!(said.iter().any(|said| said.contains("2 VPN users are stored")), "{said:?}");
        assert_eq!(status(&router, "problems")?, Vec::<String>::new());
        ensure!(!runs(&router, "charon") && !runs(&router, "xl2tpd"), "somebody waits for calls");
        ensure!(!router.root().join("etc/ppp/chap-secrets").exists(), "users are written down for nobody");
        let plan = router.xvr(&["plan"])?.ok()?;
        ensure!(plan.stderr.contains(&format!("notice: {sentence}")), "{}", plan.stderr);
        assert_eq!(router.plan()?, Vec::<String>::new());
        router.kill_daemon();
        router.start_daemon()?;
    }
    // Whose addresses lead to nobody all the same.
    ensure!(router.show("routes")?.to_string().contains("10.1.2.4/30"), "{}", router.show("routes")?);
    ensure!(reaches(lab.host("vm1"), lab.host("far").v4), "guests do not reach the outside");
    users(&router, &[user("alice", false), user("bob", false)])?;
    tell(&router, "remote_access_vpn", &server(false))?;
    assert_eq!(status(&router, "notices")?, Vec::<String>::new());
    let stored = fs::read_to_string(router.root().join("etc/cloudstack/remoteaccessvpn.json"))?;
    ensure!(!stored.contains(SECRET), "the secret stays");
    Ok(())
}
