//! `xvr show rules`: what each rule has decided, as an operator reads it who wants to know which rule it was.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use router_tests::clients;
use router_tests::lab::{Host, Lab};
use router_tests::nat::is_closed;
use router_tests::router::{ISOLATED_COMMANDS, Router, TIER1, TIER2, Tier, VPC_COMMANDS, for_both_hooks};
use router_tests::rules::{firewall, firewall_rule};
use router_tests::servers::{Conversation, TcpEcho};
use serde_json::{Value, json};

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 14);

/// Rules of a list with CloudStack's numbers (0: none) and what they have decided, and at the end what no rule
/// has.
fn counts(router: &Router<'_>, flows: &str) -> Result<Vec<(u64, u64)>> {
    let list = list(router, flows)?;
    let packets = |of: &Value| of["count"]["packets"].as_u64().context("no count of packets");
    let rules = list["rules"].as_array().context("no rules")?;
    let numbered = rules.iter().map(|rule| Ok((rule["id"].as_u64().unwrap_or(0), packets(rule)?)));
    numbered.chain([packets(&list["rest"]).map(|rest| (0, rest))]).collect()
}

/// The list that judges these flows; there has to be one.
fn list(router: &Router<'_>, flows: &str) -> Result<Value> {
    let shown = router.show("rules")?;
    let lists = shown.as_array().context("xvr show rules is no list")?;
    let judges = |list: &&Value| list["flows"].as_array().is_some_and(|all| all.contains(&json!(flows)));
    let mut found = lists.iter().filter(judges);
    let list = found.next().with_context(|| format!("no list for flows {flows}: {shown:#}"))?;
    assert!(found.next().is_none(), "several lists for flows {flows}: {shown:#}");
    Ok(list.clone())
}

/// As many flows: each ping of one packet has an identifier of its own.
fn ping_flows(from: &Host, to: impl Into<IpAddr>, count: u32) -> Result<()> {
    let to = to.into();
    (0..count).try_for_each(|_| clients::ping_once(from, to, 56).map(drop))
}

fn forward_web(router: &Router<'_>, guest: &Host) -> Result<()> {
    let message = json!({
        "rules": [{
            "revoke": false, "protocol": "tcp", "source_ip_address": PUBLIC, "source_port_range": "80:80",
            "destination_ip_address": guest.v4, "destination_port_range": "8000:8000",
        }],
        "type": "forwardrules", "delete_from_processed_cache": false,
    });
    router.update_config_with("forwarding_rules", message.to_string().as_bytes())?.ok().map(drop)
}

#[test]
fn what_a_rule_has_decided_is_counted_whatever_happens_to_the_other_rules_and_the_daemon() -> Result<()> {
    for_both_hooks(&["ping"], |attach| {
        let lab = Lab::isolated()?;
        let mut router = Router::start(&lab, attach)?;
        router.apply(&ISOLATED_COMMANDS[..1])?;
        let (vm1, far) = (lab.host("vm1"), lab.host("far"));
        let _web = TcpEcho::start_on(vm1, 8000)?;
        forward_web(&router, vm1)?;
        let ip = PUBLIC.to_string();
        let rule = |id, protocol, ports| firewall_rule(id, &ip, protocol, ports, &["0.0.0.0/0"], false);
        firewall(
            &router,
            &[rule(21, "tcp", Some((80, 80))), rule(22, "icmp", None), rule(23, "tcp", Some((81, 90)))],
        )?;
        let to_public = format!("to {PUBLIC}");
        assert_eq!(counts(&router, &to_public)?, [(21, 0), (22, 0), (23, 0), (0, 0)]);

        let web = SocketAddr::from((PUBLIC, 80));
        ping_flows(far, PUBLIC, 3)?;
        for _ in 0..2 {
            Conversation::begin(far, web)?.go_on()?;
        }
        // A connection that nobody answers would be asked for again and again.
        assert_eq!(clients::open_udp_ports(far, PUBLIC.into(), "9")?, [0; 0]);
        let list = list(&router, &to_public)?;
        let denied = list["rest"]["count"]["packets"].as_u64().context("no count of what was denied")?;
        assert!(denied >= 1, "{list:#}");
        assert_eq!(list["rest"]["action"], "deny");
        let expected =
            |more: &[(u64, u64)]| [&[(21, 2), (22, 3), (23, 0)][..], more, &[(0, denied)]].concat();
        assert_eq!(counts(&router, &to_public)?, expected(&[]));
        let rule_21 = &list["rules"][0];
        assert_eq!(rule_21["rule"], "allow tcp 80 from 0.0.0.0/0");
        // Two SYNs: 20 bytes of IPv4 header, and 20 to 60 of TCP's.
        let bytes = rule_21["count"]["bytes"].as_u64().context("no count of bytes")?;
        assert!((80..=160).contains(&bytes), "{rule_21}");

        firewall(&router, &[rule(24, "tcp", Some((443, 443)))])?;
        assert_eq!(counts(&router, &to_public)?, expected(&[(24, 0)]), "with one rule more");

        router.kill_daemon();
        ping_flows(far, PUBLIC, 1).context("without a daemon")?;
        router.start_daemon()?;
        let expected =
            |more: &[(u64, u64)]| [&[(21, 2), (22, 4), (23, 0), (24, 0)][..], more, &[(0, denied)]].concat();
        assert_eq!(counts(&router, &to_public)?, expected(&[]), "after a restart");
        firewall(&router, &[rule(25, "tcp", Some((444, 444)))])?;
        assert_eq!(counts(&router, &to_public)?, expected(&[(25, 0)]), "with one rule more after a restart");
        Ok(())
    })
}

#[test]
fn rules_for_people_are_a_table() -> Result<()> {
    for_both_hooks(&["ping"], |attach| {
        let lab = Lab::isolated()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&ISOLATED_COMMANDS[..1])?;
        let ip = PUBLIC.to_string();
        firewall(&router, &[firewall_rule(22, &ip, "icmp", None, &["198.51.100.0/24"], false)])?;
        ping_flows(lab.host("far"), PUBLIC, 2)?;
        let text = router.xvr(&["show", "rules"])?.ok()?.stdout;
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let title = ["Flows", "to", "203.0.113.14:"];
        let at = lines.iter().position(|line| *line == title).with_context(|| text.clone())?;
        assert_eq!(lines[at + 1], ["NO", "ID", "RULE", "PACKETS", "BYTES"], "{text}");
        assert_eq!(
            lines[at + 2],
            ["1", "22", "allow", "icmp", "from", "198.51.100.0/24", "2", "168", "B"],
            "{text}"
        );
        assert_eq!(lines[at + 3], ["-", "-", "deny", "the", "rest", "0", "0", "B"], "{text}");
        Ok(())
    })
}

fn tcp(port: u16) -> Value {
    json!({ "type": "tcp", "first_port": port, "last_port": port, "cidr": "0.0.0.0/0", "allowed": true })
}

#[test]
fn tiers_with_like_lists_are_counted_apart() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        let (web1, db1) = (lab.host("web1"), lab.host("db1"));
        let _servers = [TcpEcho::start_on(web1, 22)?, TcpEcho::start_on(db1, 22)?];
        let with = |port| json!([tcp(22), tcp(80), tcp(443), tcp(port)]);
        let everything = json!([{ "type": "all", "cidr": "0.0.0.0/0", "allowed": true }]);
        router.apply_acl(TIER1, &with(8080), &everything)?;
        router.apply_acl(TIER2, &with(3306), &everything)?;
        Conversation::begin(web1, (db1.v4, 22).into())?;
        is_closed("what tier 1 alone opens", Conversation::begin(web1, (db1.v4, 8080).into()))?;
        let (to_tier1, to_tier2) = (format!("to {}", TIER1.0), format!("to {}", TIER2.0));
        // Whoever is not answered asks again, and the last time may still be under way: how many are denied in all is
        // nobody's to say.
        let of_tier2 = || -> Result<Vec<(u64, u64)>> {
            let counted = counts(&router, &to_tier2)?;
            let (rules, rest) = counted.split_at(4);
            assert!(rest[0].1 >= 1, "none was denied: {counted:?}");
            Ok(rules.to_vec())
        };
        assert_eq!(of_tier2()?, [(0, 1), (0, 0), (0, 0), (0, 0)]);
        assert_eq!(counts(&router, &to_tier1)?, [(0, 0); 5], "nobody asked for tier 1");
        Conversation::begin(db1, (web1.v4, 22).into())?;
        assert_eq!(of_tier2()?, [(0, 1), (0, 0), (0, 0), (0, 0)], "nobody asked for tier 2 again");
        assert_eq!(counts(&router, &to_tier1)?, [(0, 1), (0, 0), (0, 0), (0, 0), (0, 0)]);
        Ok(())
    })
}

/// CloudStack sends a list that several tiers have to one after the other.
#[test]
fn a_list_that_tiers_share_is_counted_on_when_all_of_them_get_another_rule() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        let (web1, db1) = (lab.host("web1"), lab.host("db1"));
        let _servers = [TcpEcho::start_on(web1, 22)?, TcpEcho::start_on(db1, 22)?];
        let everything = json!([{ "type": "all", "cidr": "0.0.0.0/0", "allowed": true }]);
        let apply = |tiers: &[Tier], rules: &[Value]| {
            tiers.iter().try_for_each(|tier| router.apply_acl(*tier, &json!(rules), &everything))
        };
        apply(&[TIER1, TIER2], &[tcp(22), tcp(80)])?;
        Conversation::begin(web1, (db1.v4, 22).into())?;
        Conversation::begin(db1, (web1.v4, 22).into())?;
        let (to_tier1, to_tier2) = (format!("to {}", TIER1.0), format!("to {}", TIER2.0));
        let shared = list(&router, &to_tier1)?;
        assert_eq!(shared, list(&router, &to_tier2)?, "one list");
        assert_eq!(shared["flows"], json!([to_tier1, to_tier2]));
        assert_eq!(counts(&router, &to_tier1)?, [(0, 2), (0, 0), (0, 0)]);

        apply(&[TIER1], &[tcp(22), tcp(80), tcp(443)])?;
        assert_eq!(counts(&router, &to_tier1)?, [(0, 2), (0, 0), (0, 0), (0, 0)]);
        assert_eq!(counts(&router, &to_tier2)?, [(0, 2), (0, 0), (0, 0)]);
        Conversation::begin(web1, (db1.v4, 22).into())?;
        assert_eq!(counts(&router, &to_tier1)?, [(0, 2), (0, 0), (0, 0), (0, 0)], "each for itself");
        assert_eq!(counts(&router, &to_tier2)?, [(0, 3), (0, 0), (0, 0)], "each for itself");

        apply(&[TIER2], &[tcp(22), tcp(80), tcp(443)])?;
        assert_eq!(list(&router, &to_tier1)?, list(&router, &to_tier2)?, "one list again");
        assert_eq!(counts(&router, &to_tier1)?, [(0, 2), (0, 0), (0, 0), (0, 0)]);
        Ok(())
    })
}

/// A list with a rule that never decides, because the one before says the same.
#[test]
fn a_list_with_an_idle_rule_is_counted_like_others() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let mut router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        let (web1, db1) = (lab.host("web1"), lab.host("db1"));
        let _server = TcpEcho::start_on(db1, 443)?;
        let everything = json!([{ "type": "all", "cidr": "0.0.0.0/0", "allowed": true }]);
        router.apply_acl(TIER2, &json!([tcp(22), tcp(22), tcp(443)]), &everything)?;
        Conversation::begin(web1, (db1.v4, 443).into())?;
        let to_tier2 = format!("to {}", TIER2.0);
        let expected = [(0, 0), (0, 0), (0, 1), (0, 0)];
        assert_eq!(counts(&router, &to_tier2)?, expected);
        router.kill_daemon();
        router.start_daemon()?;
        assert_eq!(counts(&router, &to_tier2)?, expected, "after a restart");
        router.apply_acl(TIER2, &json!([tcp(22), tcp(22), tcp(443), tcp(80)]), &everything)?;
        assert_eq!(counts(&router, &to_tier2)?[..3], expected[..3], "with a rule more");
        Ok(())
    })
}
