//! Firewall rules and network ACLs through both hooks, as those behind and outside the router notice them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use router_tests::capture::{Capture, Frames};
use router_tests::clients;
use router_tests::daemons::{FtpMode, Vsftpd};
use router_tests::lab::{Host, Lab};
use router_tests::nat::{FORWARDING, NatRouter, Rule, STATIC_NAT, is_closed};
use router_tests::router::{ISOLATED_COMMANDS, Router, TIER1, TIER2, VPC_COMMANDS, for_both_hooks};
use router_tests::rules::{firewall, firewall_rule};
use router_tests::servers::{Conversation, TcpEcho, UdpEcho, udp_round_trip};
use serde_json::{Value, json};

fn reaches(from: &Host, to: IpAddr) -> Result<bool> {
    Ok(clients::ping(from, to, 3, Duration::from_millis(10))?.received > 0)
}

fn acl_of_tier2(router: &Router<'_>, ingress: &Value, egress: &Value) -> Result<()> {
    router.apply_acl(TIER2, ingress, egress)
}

#[test]
fn a_tier_is_closed_inward_and_open_outward_until_its_acl_says_otherwise() -> Result<()> {
    for_both_hooks(&["ping"], |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS[..4])?;
        let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
        assert!(reaches(web1, far.v4.into())?, "outward, IPv4");
        assert!(!reaches(web1, db1.v4.into())? && !reaches(web1, db1.v6.into())?, "from tier to tier");
        assert!(router.outcome("policy")? >= 6);

        let everything = json!([{ "type": "all", "cidr": "0.0.0.0/0,::/0", "allowed": true }]);
        let nothing = json!([{ "type": "all", "cidr": "0.0.0.0/0,::/0", "allowed": false }]);
        let pings = json!([{ "type": "icmp", "icmp_type": 8, "icmp_code": 0, "cidr": "10.10.1.0/24", "allowed": true }]);
        acl_of_tier2(&router, &pings, &everything)?;
        assert!(reaches(web1, db1.v4.into())? && !reaches(web1, db1.v6.into())?, "IPv4 pings alone");
        assert!(reaches(db1, far.v4.into())?);
        acl_of_tier2(&router, &everything, &nothing)?;
        assert!(reaches(web1, db1.v4.into())?, "answers are no new flows");
        router.apply_acl(TIER1, &nothing, &everything)?;
        assert!(reaches(web1, db1.v6.into())?, "answers are no new flows, IPv6");
        assert!(!reaches(db1, far.v4.into())?, "outward");
        Ok(())
    })
}

#[test]
fn what_of_the_vpcs_range_no_tier_has_does_not_leave() -> Result<()> {
    for_both_hooks(&["ping", "tcpdump"], |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        // The second tier is not there yet.
        router.apply(&[&VPC_COMMANDS[..3], &VPC_COMMANDS[4..5]].concat())?;
        let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
        let filter = format!("dst net 10.10.0.0/16 or dst host {}", far.v4);
        let public = lab.segment("public").router_port();
        let capture = Capture::start(&lab.wire, &public, Frames::Arriving, &filter)?;
        assert!(!reaches(web1, Ipv4Addr::new(10, 10, 77, 7).into())?, "an address that no tier ever has");
        assert!(!reaches(web1, db1.v4.into())?, "a tier that is to come");
        assert!(router.outcome("route-refuses")? >= 6);
        assert!(reaches(web1, far.v4.into())?, "outward");
        router.apply(&[VPC_COMMANDS[3], VPC_COMMANDS[5]])?;
        assert!(reaches(web1, db1.v4.into())?, "the tier that has come");
        let seen = capture.stop()?.frames("")?;
        assert!(
            !seen.is_empty() && seen.iter().all(|frame| frame.contains(&far.v4.to_string())),
            "{seen:#?}"
        );
        Ok(())
    })
}

#[test]
fn a_scan_finds_what_the_acl_opens_and_nothing_else() -> Result<()> {
    for_both_hooks(&["nmap"], |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS[..4])?;
        let (web1, web2, db1) = (lab.host("web1"), lab.host("web2"), lab.host("db1"));
        let ports = [22, 80, 443, 444, 445, 8080];
        let _echoes =
            ports.map(|port| TcpEcho::start_on(db1, port)).into_iter().collect::<Result<Vec<_>>>()?;
        let only_web1 = format!("{}/32", web1.v4);
        let ingress = json!([
            { "type": "tcp", "first_port": 444, "last_port": 444, "cidr": "0.0.0.0/0", "allowed": false },
            { "type": "tcp", "first_port": 443, "last_port": 445, "cidr": "10.10.0.0/16", "allowed": true },
            { "type": "tcp", "first_port": 22, "last_port": 22, "cidr": only_web1, "allowed": true },
            { "type": "all", "cidr": "0.0.0.0/0", "allowed": false },
        ]);
        acl_of_tier2(&router, &ingress, &json!([]))?;
        for (from, open) in [(web1, &[22, 443, 445][..]), (web2, &[443, 445])] {
            assert_eq!(clients::open_ports(from, db1.v4.into(), "1-1024,8080")?, open, "from {}", from.name);
        }
        Ok(())
    })
}

#[test]
fn a_connection_outlives_the_rule_that_let_it_in_and_another_one_does_not_begin() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        let (web1, db1) = (lab.host("web1"), lab.host("db1"));
        let echo = TcpEcho::start(db1)?;
        let mut conversation = Conversation::begin(web1, echo.at(db1.v4))?;
        acl_of_tier2(&router, &json!([]), &json!([]))?;
        conversation.go_on().context("the connection that was there")?;
        is_closed("a new connection", Conversation::begin(web1, echo.at(db1.v4)))?;
        router.apply(&VPC_COMMANDS[5..])?;
        conversation.go_on()?;
        Conversation::begin(web1, echo.at(db1.v4)).map(drop)
    })
}

#[test]
fn where_denied_flows_are_cut_a_connection_ends_with_its_rule_and_no_other_does() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        fs::write(router.root().join("etc/xvr/settings.json"), r#"{ "denied_flows": "cut" }"#)?;
        router.xvr(&["reload"])?.ok()?;
        let open = |ports: &[u16]| {
            let rule = |port| json!({ "type": "tcp", "first_port": port, "last_port": port, "cidr": "0.0.0.0/0,::/0", "allowed": true });
            acl_of_tier2(&router, &ports.iter().map(rule).collect(), &json!([]))
        };
        open(&[2000, 3000])?;
        let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
        let (revoked, kept) = (TcpEcho::start_on(db1, 2000)?, TcpEcho::start_on(db1, 3000)?);
        let outside = TcpEcho::start(far)?;
        let mut revoked = [
            Conversation::begin(web1, revoked.at(db1.v4))?,
            Conversation::begin(web1, revoked.at(db1.v6)).context("IPv6")?,
        ];
        let mut others = [
            Conversation::begin(web1, kept.at(db1.v4))?,
            Conversation::begin(web1, kept.at(db1.v6)).context("IPv6")?,
            Conversation::begin(db1, outside.at(far.v4)).context("from the tier to the outside")?,
            Conversation::begin(web1, outside.at(far.v4)).context("of a tier that is not concerned")?,
        ];
        let cut = || router.show("status")?["cut_flows"].as_u64().context("status has no count of cut flows");
        assert_eq!(cut()?, 0);
        open(&[3000])?;
        assert_eq!(cut()?, 2);
        for conversation in &mut revoked {
            is_closed("a connection whose rule is revoked", conversation.go_on())?;
        }
        for (index, conversation) in others.iter_mut().enumerate() {
            conversation.go_on().with_context(|| format!("connection {index} of the others"))?;
        }
        open(&[3000])?;
        assert_eq!(cut()?, 2, "nothing has changed");
        Ok(())
    })
}

#[test]
fn ftp_passes_an_acl_that_opens_its_control_port_alone() -> Result<()> {
    for_both_hooks(&["curl", "sha256sum", "vsftpd"], |attach| {
        let lab = Lab::vpc()?;
        let mut router = NatRouter::xvr(&lab, attach)?;
        let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
        router.add(&[Rule::forward("tcp", 21, web1.v4, 21), Rule::static_nat(db1.v4)])?;
        let NatRouter::Xvr(router) = &router else { unreachable!("it is XVR") };
        let control = json!([{ "type": "tcp", "first_port": 21, "last_port": 21, "cidr": "0.0.0.0/0", "allowed": true }]);
        router.apply_acl(TIER1, &control, &json!([]))?;
        router.apply_acl(TIER2, &control, &json!([]))?;
        for (server, address) in [(web1, FORWARDING), (db1, STATIC_NAT)] {
            let ftp = Vsftpd::start(server)?;
            for mode in [FtpMode::Passive, FtpMode::ExtendedPassive] {
                ftp.get(far, address.into(), mode).with_context(|| format!("of {}", server.name))?;
            }
        }
        Ok(())
    })
}

#[test]
fn an_isolated_network_is_closed_both_ways_until_its_firewall_says_otherwise() -> Result<()> {
    for_both_hooks(&["ping"], |attach| {
        let lab = Lab::isolated()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&ISOLATED_COMMANDS[..1])?;
        let (vm1, far) = (lab.host("vm1"), lab.host("far"));
        let public = Ipv4Addr::new(203, 0, 113, 14);
        let (outside, _inside) = (UdpEcho::start(far)?, TcpEcho::start_on(vm1, 8000)?);
        assert!(!reaches(vm1, far.v4.into())?, "outward, before any rule");
        assert!(!reaches(far, public.into())?, "a ping of the public address, before any rule");
        let forward = json!({
            "rules": [{
                "revoke": false, "protocol": "tcp", "source_ip_address": public, "source_port_range": "80:80",
                "destination_ip_address": vm1.v4, "destination_port_range": "8000:8000",
            }],
            "type": "forwardrules", "delete_from_processed_cache": false,
        });
        router.update_config_with("forwarding_rules", forward.to_string().as_bytes())?.ok()?;
        let web = std::net::SocketAddr::from((public, 80));
        is_closed("a forwarded port without a firewall rule", Conversation::begin(far, web))?;

        let ip = public.to_string();
        firewall(
            &router,
            &[
                firewall_rule(1, &ip, "tcp", Some((80, 80)), &["0.0.0.0/0"], false),
                firewall_rule(2, &ip, "icmp", None, &["0.0.0.0/0"], false),
                firewall_rule(3, "", "udp", Some((1, 65_535)), &["10.1.1.0/24"], true),
            ],
        )?;
        let mut conversation = Conversation::begin(far, web).context("the forwarded port")?;
        assert!(reaches(far, public.into())?, "a ping of the public address");
        udp_round_trip(vm1, outside.at(far.v4), b"hello").context("UDP outward")?;
        assert!(!reaches(vm1, far.v4.into())?, "a ping outward");

        let mut revoked = firewall_rule(1, &ip, "tcp", Some((80, 80)), &["0.0.0.0/0"], false);
        revoked["revoked"] = json!(true);
        firewall(&router, &[revoked])?;
        conversation.go_on().context("the connection that was there")?;
        is_closed("a new connection", Conversation::begin(far, web)).map(drop)
    })
}
