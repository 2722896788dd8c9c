//! Static NAT and port forwarding.

use router_userspace::cloudstack::{Command, Databags, desired, notices};
use router_userspace::model::PortForward;
use serde_json::json;

use super::{
    ISOLATED_WITH_NAT, VPC, assert_bag, bytes, every_nic, fixtures, isolated, lines_of, merge, merge_all,
    merge_json, refusal, vpc,
};

/// A VPC with the addresses 203.0.113.30 to 32 and a tier.
fn vpc_bags() -> Databags {
    let third = r#"{"type":"ips","ip_address":[{"public_ip":"203.0.113.32","netmask":"24","add":true,
        "vif_mac_address":"1e:00:a8:00:00:31"}]}"#;
    merge_json(&merge_all(&VPC, &vpc()), third, &vpc()).expect("merged")
}

fn isolated_bags() -> Databags {
    merge_all(&ISOLATED_WITH_NAT[..2], &isolated())
}

fn forward(rule: &str) -> String {
    format!(r#"{{"type":"forwardrules","rules":[{{{rule}}}]}}"#)
}

/// A rule of a message: `tcp 203.0.113.11:22 10.1.1.20:22`, with sources.
fn rule(revoke: bool, protocol: &str, public: &str, internal: &str, sources: &str) -> String {
    let (public, public_ports) = public.split_once(' ').expect("address and ports");
    let (internal, internal_ports) = internal.split_once(' ').expect("address and ports");
    forward(&format!(
        r#""revoke":{revoke},"protocol":"{protocol}","source_ip_address":"{public}",
        "source_port_range":"{public_ports}","destination_ip_address":"{internal}",
        "destination_port_range":"{internal_ports}","source_cidr_list":"{sources}""#
    ))
}

fn static_nat(revoke: bool, public: &str, internal: &str) -> String {
    format!(
        r#"{{"type":"staticnatrules","rules":[{{"revoke":{revoke},"source_ip_address":"{public}",
        "source_port_range":"0:0","destination_ip_address":"{internal}"}}]}}"#
    )
}

fn then(bags: &Databags, messages: &[String]) -> Databags {
    messages.iter().fold(bags.clone(), |bags, json| {
        let bags = merge_json(&bags, json, &every_nic()).expect("merged");
        assert_eq!(merge_json(&bags, json, &every_nic()), Ok(bags.clone()), "{json} twice");
        bags
    })
}

/// What is in force, a line for each rule.
fn nat(bags: &Databags) -> Vec<String> {
    let nat = desired(bags).unwrap_or_else(|error| panic!("{error}")).nat;
    let own = nat.static_nats.iter().map(ToString::to_string);
    own.chain(nat.forwards.iter().map(ToString::to_string)).collect()
}

fn said(bags: &Databags) -> Vec<String> {
    notices(bags).expect("valid").iter().map(ToString::to_string).collect()
}

#[test]
fn an_isolated_network_gets_forwards_and_a_static_nat() {
    let inventory = isolated();
    let mut bags = isolated_bags();
    for name in [
        "forwarding_rules/isolated_tcp_single_add.json",
        "forwarding_rules/isolated_udp_add.json",
        "forwarding_rules/isolated_tcp_range_add.json",
        "staticnat_rules/isolated_enable.json",
    ] {
        bags = merge(&bags, name, &inventory);
    }
    let lines = [
        "203.0.113.12 = 10.1.1.30",
        "tcp 203.0.113.11:2222 to 10.1.1.20:22",
        "udp 203.0.113.11:53 to 10.1.1.21:5353",
        "tcp 203.0.113.11:8000-8010 to 10.1.1.20:8000-8010",
    ];
    assert_eq!(nat(&bags), lines);

    // Adds two that are there and withdraws the range.
    bags = merge(&bags, "forwarding_rules/isolated_multi.json", &inventory);
    assert_bag(&bags, "forwardingrules", "forwardingrules.router_isolated.json");
    assert_eq!(nat(&bags), lines[..3]);
    assert_eq!(said(&bags), [""; 0]);

    let bags = merge(&bags, "forwarding_rules/isolated_revoke.json", &inventory);
    let bags = merge(&bags, "staticnat_rules/isolated_disable.json", &inventory);
    assert_eq!(nat(&bags), lines[2..3]);
    assert_eq!(merge(&bags, "staticnat_rules/isolated_disable.json", &inventory), bags);
}

#[test]
fn one_message_makes_the_same_databag_as_many() {
    let bags = merge_all(&ISOLATED_WITH_NAT, &isolated());
    assert_bag(&bags, "forwardingrules", "forwardingrules.router_isolated.json");
    let bags = merge(&bags, "staticnat_rules/legacy_ip_forwarding_rule_tcp.json", &isolated());
    assert_bag(&bags, "forwardingrules", "forwardingrules.router_isolated.json");
}

#[test]
fn rules_of_one_message_that_are_about_each_other_count_in_their_order() {
    let add = |ports: &str, internal: &str, sources: &str| {
        rule(false, "tcp", &format!("203.0.113.11 {ports}"), &format!("10.1.1.20 {internal}"), sources)
    };
    let revoke = |ports: &str, sources: &str| {
        rule(true, "tcp", &format!("203.0.113.11 {ports}"), "10.1.1.20 1:1", sources)
    };
    let messages = [
        add("22:22", "22:22", "192.0.2.0/24"),
        add("22:22", "23:23", "198.51.100.0/24"),
        add("80:80", "80:80", ""),
        // Takes the place of both.
        add("22:22", "24:24", "198.51.100.0/24,192.0.2.0/24"),
        revoke("80:80", ""),
        add("80:80", "81:81", ""),
        revoke("443:443", ""),
        add("22:22", "25:25", ""),
        revoke("22:22", "192.0.2.0/24"),
        add("22:22", "26:26", "192.0.2.0/24"),
    ];
    let of_one = |message: &String| {
        let message: serde_json::Value = serde_json::from_str(message).expect("JSON");
        message["rules"][0].clone()
    };
    let together =
        json!({ "type": "forwardrules", "rules": messages.iter().map(of_one).collect::<Vec<_>>() });
    let apart = messages
        .iter()
        .fold(isolated_bags(), |bags, message| merge_json(&bags, message, &isolated()).expect("merged"));
    let bags = merge_json(&isolated_bags(), &together.to_string(), &isolated()).expect("merged");
    assert_eq!(bags, apart);
    let left = nat(&bags)
        .iter()
        .filter_map(|line| line.rsplit(':').next()?.get(..2).map(str::to_owned))
        .collect::<Vec<_>>();
    assert_eq!(left, ["81", "25", "26"], "{:?}", nat(&bags));
}

#[test]
fn nothing_is_left_of_what_was_withdrawn() {
    for (add, withdraw) in [
        ("forwarding_rules/isolated_tcp_single_add.json", "forwarding_rules/isolated_revoke.json"),
        ("forwarding_rules/legacy_4_18_no_source_cidr_list.json", "forwarding_rules/isolated_revoke.json"),
        ("staticnat_rules/isolated_enable.json", "staticnat_rules/isolated_disable.json"),
        ("forwarding_rules/vpc_tcp_add.json", "forwarding_rules/vpc_revoke.json"),
        ("staticnat_rules/vpc_enable.json", "staticnat_rules/vpc_disable.json"),
    ] {
        let bags = isolated_bags();
        assert_eq!(merge(&bags, withdraw, &isolated()), bags, "{withdraw} of what is not there");
        assert_eq!(merge(&merge(&bags, add, &isolated()), withdraw, &isolated()), bags, "{add}, {withdraw}");
    }
}

#[test]
fn a_vpc_gets_forwards_and_a_static_nat() {
    let inventory = vpc();
    let mut bags = vpc_bags();
    for name in ["forwarding_rules/vpc_tcp_add.json", "staticnat_rules/vpc_enable.json"] {
        bags = merge(&bags, name, &inventory);
    }
    let lines = ["203.0.113.32 = 10.10.1.60", "tcp 203.0.113.31:443 to 10.10.1.50:8443"];
    assert_eq!(nat(&bags), lines);
    let bags = merge(&bags, "forwarding_rules/vpc_revoke.json", &inventory);
    assert_eq!(nat(&bags), lines[..1]);
    let bags = merge(&bags, "staticnat_rules/vpc_disable.json", &inventory);
    assert_eq!(bags, vpc_bags());

    let bags = merge(&bags, "staticnat_rules/unreleased_main_cross_network_snat.json", &inventory);
    assert_eq!(nat(&bags), lines[..1]);
    let stored = &bags.documents()["forwardingrules"]["203.0.113.32"][0];
    assert_eq!(stored["should_apply_cross_network_snat"], true);
}

#[test]
fn sources_count_in_isolated_networks_as_well() {
    let bags = merge(&isolated_bags(), "forwarding_rules/isolated_with_source_cidrs.json", &isolated());
    assert_eq!(nat(&bags), ["tcp 203.0.113.11:2222 to 10.1.1.20:22 from 192.0.2.0/24,198.51.100.7/32"]);
    let legacy =
        merge(&isolated_bags(), "forwarding_rules/legacy_4_18_no_source_cidr_list.json", &isolated());
    assert_eq!(nat(&legacy), ["tcp 203.0.113.11:2222 to 10.1.1.20:22"]);
    assert!(legacy.documents()["forwardingrules"]["203.0.113.11"][0].get("source_cidr_list").is_none());
    // A later release says "" for the same.
    let named = merge(&legacy, "forwarding_rules/isolated_tcp_single_add.json", &isolated());
    assert_eq!(nat(&named), nat(&legacy));
}

#[test]
fn forwards_with_disjoint_sources_stand_side_by_side_in_their_order() {
    let inventory = vpc();
    let bags = merge(&vpc_bags(), "forwarding_rules/vpc_two_rules_same_port_disjoint_cidrs.json", &inventory);
    let both = [
        "tcp 203.0.113.31:443 to 10.10.1.50:8443 from 192.0.2.0/24",
        "tcp 203.0.113.31:443 to 10.10.1.51:8443 from 198.51.100.0/24",
    ];
    assert_eq!(nat(&bags), both);
    assert_eq!(merge(&bags, "forwarding_rules/vpc_tcp_add_source_cidrs.json", &inventory), bags);
    // Nobody's and anybody's are not the same.
    assert_eq!(merge(&bags, "forwarding_rules/vpc_revoke.json", &inventory), bags);
    let open = merge(&bags, "forwarding_rules/vpc_tcp_add.json", &inventory);
    assert_eq!(nat(&open), [both[0], both[1], "tcp 203.0.113.31:443 to 10.10.1.50:8443"]);

    let add = |internal: &str, sources: &str| {
        rule(false, "TCP", "203.0.113.31 443:443", &format!("{internal} 8443"), sources)
    };
    let revoke = |sources: &str| rule(true, "tcp", "203.0.113.31 443", "192.0.2.1 1:9", sources);
    // One network in common is enough, host bits or not; the place is kept.
    let shared = then(&bags, &[add("10.10.1.52", "192.0.2.77/24, 203.0.113.128/25")]);
    let replaced = "tcp 203.0.113.31:443 to 10.10.1.52:8443 from 192.0.2.0/24,203.0.113.128/25";
    assert_eq!(nat(&shared), [replaced, both[1]]);
    // A network within another is another one, as CloudStack sees it.
    let within = then(&bags, &[add("10.10.1.52", "192.0.2.0/25")]);
    assert_eq!(nat(&within)[..2], both);
    // One that has something of both replaces both.
    let common = then(&bags, &[add("10.10.1.52", "198.51.100.0/24,192.0.2.0/24")]);
    assert_eq!(nat(&common), ["tcp 203.0.113.31:443 to 10.10.1.52:8443 from 192.0.2.0/24,198.51.100.0/24"]);
    assert_eq!(nat(&then(&bags, &[revoke("192.0.2.0/24")])), both[1..]);
    assert_eq!(nat(&then(&bags, &[revoke("198.51.100.0/24,10.0.0.0/8")])), both[..1]);
}

#[test]
fn a_forward_that_is_sent_again_leads_elsewhere_in_its_place() {
    let bags = merge(&isolated_bags(), "forwarding_rules/isolated_multi.json", &isolated());
    let bags = then(&bags, &[rule(false, "Tcp", "203.0.113.11 2222:2222", "10.1.1.99 23:23", "")]);
    assert_eq!(
        nat(&bags),
        ["tcp 203.0.113.11:2222 to 10.1.1.99:23", "udp 203.0.113.11:53 to 10.1.1.21:5353"]
    );
}

#[test]
fn a_static_nat_takes_the_address_from_forwards_and_its_end_leaves_later_ones() {
    let before = merge(&isolated_bags(), "forwarding_rules/isolated_multi.json", &isolated());
    let taken = then(&before, &[static_nat(false, "203.0.113.11", "10.1.1.40")]);
    assert_eq!(nat(&taken), ["203.0.113.11 = 10.1.1.40"]);
    let kept = json!([{"internal_ip": "10.1.1.40", "public_ip": "203.0.113.11", "type": "staticnat"}]);
    assert_eq!(taken.documents()["forwardingrules"]["203.0.113.11"], kept);

    let both = merge(&taken, "forwarding_rules/isolated_udp_add.json", &isolated());
    assert_eq!(nat(&both), nat(&taken));
    assert_eq!(
        said(&both),
        ["forwardingrules.json#/203.0.113.11/1/public_ip: not in force: 203.0.113.11 is 10.1.1.40's alone"]
    );
    let forwards = then(&both, &[static_nat(true, "203.0.113.11", "10.1.1.40")]);
    assert_eq!(nat(&forwards), ["udp 203.0.113.11:53 to 10.1.1.21:5353"]);
    // CloudStack may repeat itself.
    assert_eq!(then(&forwards, &[static_nat(true, "203.0.113.11", "10.1.1.40")]), forwards);
}

#[test]
fn ranges_are_mapped_by_offset_to_one_port_or_kept() {
    let internal = |public: &str, internal: &str| -> Vec<Option<u16>> {
        let message =
            rule(false, "udp", &format!("203.0.113.11 {public}"), &format!("10.1.1.20 {internal}"), "");
        let state = desired(&then(&isolated_bags(), &[message])).expect("valid");
        let [forward]: [PortForward; 1] = state.nat.forwards.try_into().expect("one forward");
        [5000, 5004, 5010, 5011].map(|port| forward.internal_port(port)).to_vec()
    };
    assert_eq!(internal("5000:5010", "6000:6010"), [Some(6000), Some(6004), Some(6010), None]);
    assert_eq!(internal("5000:5010", "22:22"), [Some(22), Some(22), Some(22), None]);
    assert_eq!(internal("5000:5010", "0:0"), [Some(5000), Some(5004), Some(5010), None]);
    assert_eq!(internal("any", "any"), [Some(5000), Some(5004), Some(5010), Some(5011)]);
    assert_eq!(internal("0:0", "22"), [Some(22); 4]);
}

#[test]
fn any_protocol_has_no_ports() {
    let any = |public: &str, internal: &str| {
        rule(false, "any", &format!("203.0.113.31 {public}"), &format!("10.10.1.50 {internal}"), "")
    };
    let bags = then(&vpc_bags(), &[any("ANY", "any")]);
    assert_eq!(nat(&bags), ["any 203.0.113.31 to 10.10.1.50"]);
    assert_eq!(then(&bags, &[rule(true, "any", "203.0.113.31 0:0", "10.10.1.50 0:0", "")]), vpc_bags());
    for (message, key) in
        [(any("22:22", "any"), "source_port_range"), (any("any", "22:22"), "destination_port_range")]
    {
        let error = merge_json(&bags, &message, &vpc()).unwrap_err();
        assert_eq!(error, format!("test.json#/rules/0/{key}: ports need the protocol tcp or udp"));
    }
}

#[test]
fn rules_wait_for_their_address_and_outlive_it() {
    let boot = merge_all(&ISOLATED_WITH_NAT[..1], &isolated());
    let early = merge(&boot, "staticnat_rules/isolated_enable_two.json", &isolated());
    let early = merge(&early, "forwarding_rules/isolated_tcp_single_add.json", &isolated());
    assert_eq!(nat(&early), [""; 0]);
    let waiting = |address: &str| {
        format!("forwardingrules.json#/{address}/0/public_ip: not in force: no public port has {address}")
    };
    assert_eq!(said(&early), ["198.51.100.20", "203.0.113.11", "203.0.113.12"].map(waiting));

    let there = merge(&early, ISOLATED_WITH_NAT[1], &isolated());
    let lines = ["203.0.113.12 = 10.1.1.30", "tcp 203.0.113.11:2222 to 10.1.1.20:22"];
    assert_eq!(nat(&there), lines);
    assert_eq!(said(&there), [waiting("198.51.100.20")]);
    let second = merge(&there, "ip_associations/isolated_add_second_public_vlan_new_nic.json", &isolated());
    assert_eq!(nat(&second), ["198.51.100.20 = 10.1.1.31", lines[0], lines[1]]);
    let released = merge(&second, "ip_associations/isolated_remove_ip.json", &isolated());
    assert_eq!(said(&released), [waiting("203.0.113.11")]);
    assert_eq!(nat(&released), ["198.51.100.20 = 10.1.1.31", lines[0]]);
}

#[test]
fn what_there_is_no_room_for_is_left_out() {
    let bags = isolated_bags();
    let two =
        [static_nat(false, "203.0.113.12", "10.1.1.30"), static_nat(false, "203.0.113.11", "10.1.1.30")];
    let bags_of_two = then(&bags, &two);
    assert_eq!(nat(&bags_of_two), ["203.0.113.11 = 10.1.1.30"]);
    assert_eq!(
        said(&bags_of_two),
        [
            "forwardingrules.json#/203.0.113.12/0/internal_ip: not in force: 10.1.1.30 has 203.0.113.11 already"
        ]
    );

    // Addresses of other ports, and what would lead to the router itself.
    for (message, notice) in [
        (
            rule(false, "tcp", "10.1.1.1 53:53", "10.1.1.30 53:53", ""),
            "/10.1.1.1/0/public_ip: not in force: no public port has 10.1.1.1",
        ),
        (
            static_nat(false, "169.254.100.12", "10.1.1.30"),
            "/169.254.100.12/0/public_ip: not in force: no public port has 169.254.100.12",
        ),
        (
            rule(false, "tcp", "203.0.113.11 3922:3922", "169.254.100.12 3922:3922", ""),
            "/203.0.113.11/0/internal_ip: not in force: 169.254.100.12 is the router's own address",
        ),
    ] {
        let bags = then(&bags, &[message]);
        assert_eq!(nat(&bags), [""; 0]);
        assert_eq!(said(&bags), [format!("forwardingrules.json#{notice}")]);
    }

    let mut routed = merge_all(&["cmd_line/router_isolated_routed.json"], &isolated());
    for message in [
        rule(false, "tcp", "203.0.113.16 22:22", "10.1.1.30 22:22", ""),
        rule(false, "udp", "203.0.113.16 53:53", "10.1.1.30 53:53", ""),
    ] {
        routed = then(&routed, &[message]);
    }
    assert_eq!(nat(&routed), [""; 0]);
    let notice = |index: u8| {
        format!("forwardingrules.json#/203.0.113.16/{index}: not in force: a routed network has no NAT")
    };
    assert_eq!(said(&routed), [notice(0), notice(1)]);
}

#[test]
fn a_refused_rule_says_where_and_changes_nothing() {
    let bags = merge(&isolated_bags(), "forwarding_rules/isolated_multi.json", &isolated());
    let good = r#""revoke":false,"protocol":"tcp","source_ip_address":"203.0.113.12","source_port_range":"80:90","destination_ip_address":"10.1.1.30","destination_port_range":"80:90","source_cidr_list":"192.0.2.0/24""#;
    let cidrs = |list: &str| format!(r#""source_cidr_list":"{list}""#);
    for (from, to, message) in [
        (r#""tcp""#, r#""tcpp""#, r#"protocol: "tcpp" is none of tcp, udp, any"#),
        (r#""tcp""#, r#""icmp""#, r#"protocol: "icmp" is none of tcp, udp, any"#),
        (r#""tcp""#, r#""""#, r#"protocol: "" is none of tcp, udp, any"#),
        (r#""tcp""#, "null", "protocol: missing"),
        (r#""tcp""#, "[]", "protocol: expected text, found a list"),
        ("false", r#""no""#, r#"revoke: "no" is neither true nor false"#),
        ("false", "0", "revoke: expected true or false, found a number"),
        ("false", "null", "revoke: missing"),
        ("113.12", "113", r#"source_ip_address: "203.0.113" is no IPv4 address"#),
        ("203.0.113.12", "0.0.0.0", "source_ip_address: 0.0.0.0 is no host's address"),
        ("203.0.113.12", "", "source_ip_address: missing"),
        ("10.1.1.30", "fd00::1", r#"destination_ip_address: "fd00::1" is no IPv4 address"#),
        ("10.1.1.30", "224.0.0.1", "destination_ip_address: 224.0.0.1 is no host's address"),
        (r#""10.1.1.30""#, "null", "destination_ip_address: missing"),
        (
            r#"source_port_range":"80:90"#,
            r#"source_port_range":"90:80"#,
            r#"source_port_range: "90:80" is no range of ports: the last port, 80, is before the first, 90"#,
        ),
        (
            r#"source_port_range":"80:90"#,
            r#"source_port_range":"0:90"#,
            r#"source_port_range: "0:90" is no range of ports: 0 is no port"#,
        ),
        (
            r#"source_port_range":"80:90"#,
            r#"source_port_range":"80:65536"#,
            r#"source_port_range: "80:65536" is no range of ports"#,
        ),
        (
            r#"source_port_range":"80:90"#,
            r#"source_port_range":"+80:90"#,
            r#"source_port_range: "+80:90" is no range of ports"#,
        ),
        (
            r#"destination_port_range":"80:90"#,
            r#"destination_port_range":"80:89"#,
            "destination_port_range: ports in 80-89: 10, but in the public 80-90: 11",
        ),
        (
            r#"source_port_range":"80:90"#,
            r#"source_port_range":"0:0"#,
            "destination_port_range: ports in 80-90: 11, but in the public 1-65535: 65535",
        ),
        (
            r#""80:90","destination_ip"#,
            r#"{},"destination_ip"#,
            "source_port_range: expected text, found an object",
        ),
        (
            r#""source_cidr_list":"192.0.2.0/24""#,
            &cidrs("192.0.2.0/33"),
            r#"source_cidr_list: "192.0.2.0/33" is no IPv4 network"#,
        ),
        (
            r#""source_cidr_list":"192.0.2.0/24""#,
            &cidrs("192.0.2.0/24,"),
            r#"source_cidr_list: "" is no IPv4 network"#,
        ),
        (
            r#""source_cidr_list":"192.0.2.0/24""#,
            &cidrs("192.0.2.0/24,2001:db8::/64"),
            r#"source_cidr_list: "2001:db8::/64" is an IPv6 network, forwards are IPv4"#,
        ),
        (
            r#""source_cidr_list":"192.0.2.0/24""#,
            r#""source_cidr_list":["192.0.2.0/24"]"#,
            "source_cidr_list: expected text, found a list",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        // The rule before it is not merged either.
        let changed = good.replace("80:90", "7000:7010");
        let json = format!(
            r#"{{"type":"forwardrules","rules":[{{{changed}}},{{{}}}]}}"#,
            good.replacen(from, to, 1)
        );
        let before = bags.clone();
        assert_eq!(merge_json(&bags, &json, &isolated()), Err(format!("test.json#/rules/1/{message}")));
        assert_eq!(bags, before);
    }
    let good = r#""revoke":false,"source_ip_address":"203.0.113.12","destination_ip_address":"10.1.1.30""#;
    for (from, to, message) in [
        ("false", "2", "revoke: expected true or false, found a number"),
        ("203.0.113.12", "127.0.0.1", "source_ip_address: 127.0.0.1 is no host's address"),
        (r#""203.0.113.12""#, "{}", "source_ip_address: expected text, found an object"),
        ("10.1.1.30", "vm", r#"destination_ip_address: "vm" is no IPv4 address"#),
        (r#""10.1.1.30""#, "null", "destination_ip_address: missing"),
    ] {
        let json =
            format!(r#"{{"type":"staticnatrules","rules":[{{{good}}},{{{}}}]}}"#, good.replacen(from, to, 1));
        assert_eq!(merge_json(&bags, &json, &isolated()), Err(format!("test.json#/rules/1/{message}")));
    }
    for kind in ["forwardrules", "staticnatrules"] {
        let error = |rules: &str| {
            merge_json(&bags, &format!(r#"{{"type":"{kind}"{rules}}}"#), &isolated()).unwrap_err()
        };
        assert_eq!(error(""), "test.json#/rules: missing");
        assert_eq!(error(r#","rules":{}"#), "test.json#/rules: expected a list, found an object");
        assert_eq!(error(r#","rules":[7]"#), "test.json#/rules/0: expected an object, found a number");
    }
}

#[test]
fn a_refused_rule_can_be_withdrawn() {
    let bags = isolated_bags();
    let message = |revoke| rule(revoke, "tcp", "203.0.113.11 80:90", "10.1.1.20 80:81", "");
    assert!(merge_json(&bags, &message(false), &isolated()).is_err());
    assert_eq!(merge_json(&bags, &message(true), &isolated()), Ok(bags));
}

#[test]
fn numbers_may_lack_quotes_and_words_have_no_case() {
    let message = forward(
        r#""revoke":"False","protocol":"UDP","source_ip_address":"203.0.113.11","source_port_range":53,
        "destination_ip_address":"10.1.1.20","destination_port_range":"53:53","source_cidr_list":null"#,
    );
    let bags = then(&isolated_bags(), &[message]);
    assert_eq!(nat(&bags), ["udp 203.0.113.11:53 to 10.1.1.20:53"]);
    assert_eq!(bags.documents()["forwardingrules"]["203.0.113.11"][0]["public_ports"], "53:53");
}

#[test]
fn unknown_keys_of_a_rule_are_warnings_and_are_kept() {
    let name = "_invalid/forward_unknown_extra_key.json";
    let parsed = Command::parse(name, &bytes(name)).expect("tolerated");
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, [format!("{name}#/rules/0/some_future_key: unknown key, ignored")]);
    let bags = isolated_bags().merge(&parsed.command, &isolated()).expect("merged");
    assert_eq!(bags.documents()["forwardingrules"]["203.0.113.11"][0]["some_future_key"], "x");
    assert_eq!(nat(&bags), ["tcp 203.0.113.11:22 to 10.1.1.20:22"]);
}

#[test]
fn every_rule_is_taken_by_either_kind_of_router() {
    for (name, _) in ["forwarding_rules", "staticnat_rules"].iter().flat_map(|folder| fixtures(folder)) {
        for bags in [isolated_bags(), vpc_bags()] {
            let bags = merge(&bags, &name, &every_nic());
            assert_eq!(merge(&bags, &name, &every_nic()), bags, "{name}");
            lines_of(&bags);
        }
    }
}

#[test]
fn no_rule_stands_before_the_boot_line() {
    let bags = then(&Databags::default(), &[static_nat(false, "203.0.113.12", "10.1.1.30")]);
    assert_eq!(
        refusal(&bags),
        "cmdline.json#/config: missing: there is no boot line yet, send cmd_line.json first"
    );
}
