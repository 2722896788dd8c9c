//! Firewalls and access lists.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use router_userspace::cloudstack::{Command, Databags, Files, desired, notices, remarks};
use router_userspace::model::DesiredState;
use router_userspace::model::policy::{AccessList, Action, Content, Question, Scope};
use serde_json::json;

use super::{
    ISOLATED_WITH_NAT, VPC, assert_bag, bytes, every_nic, fixtures, isolated, merge, merge_all, merge_json,
    refusal, vpc,
};

/// The VPC's tier and private gateway.
const TIER: &str = "02:01:00:db:00:2b";
const GATEWAY: &str = "02:01:01:2c:00:07";

fn isolated_bags() -> Databags {
    merge_all(&ISOLATED_WITH_NAT[..2], &isolated())
}

fn dual_stack() -> Databags {
    merge_all(&["cmd_line/router_isolated_dualstack.json"], &isolated())
}

fn vpc_bags() -> Databags {
    merge_all(&[&VPC[..], &["ip_associations/vpc_private_gateway_add.json"]].concat(), &vpc())
}

fn with(bags: &Databags, names: &[&str]) -> Databags {
    names.iter().fold(bags.clone(), |bags, name| {
        let bags = merge(&bags, name, &every_nic());
        assert_eq!(merge(&bags, name, &every_nic()), bags, "{name} twice");
        bags
    })
}

fn lists(bags: &Databags) -> Vec<(Scope, Arc<AccessList>)> {
    desired(bags).unwrap_or_else(|error| panic!("{error}")).policy.lists
}

/// All lists: a line for each, and one for each rule.
fn text(bags: &Databags) -> Vec<String> {
    let mut lines = Vec::new();
    for (scope, list) in lists(bags) {
        lines.push(format!("{scope}, else {}", list.default));
        lines.extend(list.rules.iter().map(|rule| format!("  {} {rule}", rule.id)));
    }
    lines
}

/// The rules of one list, and what becomes of the rest.
fn list(bags: &Databags, scope: &str) -> Vec<String> {
    let text = text(bags);
    let begin = text.iter().position(|line| line.starts_with(&format!("{scope}, "))).expect("a list");
    let rules = text[begin + 1..].iter().take_while(|line| line.starts_with("  ")).map(|rule| rule.trim());
    let rest = text[begin].rsplit(' ').next().expect("a default");
    rules.chain([rest]).map(str::to_owned).collect()
}

fn said(bags: &Databags) -> Vec<String> {
    notices(bags).expect("valid").iter().map(ToString::to_string).collect()
}

fn remarked(bags: &Databags) -> Vec<String> {
    remarks(bags).expect("valid").iter().map(ToString::to_string).collect()
}

fn judge(bags: &Databags, scope: &str, protocol: u8, from: &str, to: &str, port: u16) -> Action {
    let lists = lists(bags);
    let (_, list) = lists.iter().find(|(of, _)| of.to_string() == scope).expect("a list");
    let [source, destination] = [from, to].map(|address| address.parse().expect("an address"));
    list.judge(&Question { source, destination, protocol, port }).1
}

const OUTSIDE: &str = "from eth0 to the outside";

#[test]
fn without_a_message_an_isolated_network_is_closed_both_ways() {
    assert_eq!(
        text(&isolated_bags()),
        [
            "to 203.0.113.10, else deny",
            "to 203.0.113.11, else deny",
            "to 203.0.113.12, else deny",
            "from eth0 to the outside, else deny",
        ]
    );
    assert_eq!(said(&isolated_bags()), [""; 0]);
}

#[test]
fn firewall_messages_make_todays_databag_and_open_what_they_say() {
    let bags = with(
        &isolated_bags(),
        &["firewall_rules/ingress_resync_mixed.json", "firewall_rules/boot_egress_block.json"],
    );
    assert_bag(&bags, "firewallrules", "firewallrules.router_isolated.json");
    assert_eq!(
        list(&bags, "to 203.0.113.11"),
        ["21 allow tcp 22 from 0.0.0.0/0", "26 allow tcp 443 from 0.0.0.0/0", "deny"]
    );
    assert_eq!(list(&bags, "to 203.0.113.10"), ["deny"]);
    let port_80 = "31 deny tcp 80-443 from 10.1.1.0/24 to 0.0.0.0/0";
    assert_eq!(list(&bags, OUTSIDE), [port_80, "allow"]);
    assert_eq!(judge(&bags, OUTSIDE, 6, "10.1.1.9", "192.0.2.1", 80), Action::Deny);
    assert_eq!(judge(&bags, OUTSIDE, 6, "10.1.1.9", "192.0.2.1", 22), Action::Allow);
    assert_eq!(judge(&bags, "to 203.0.113.11", 6, "192.0.2.1", "203.0.113.11", 22), Action::Allow);
    assert_eq!(judge(&bags, "to 203.0.113.11", 1, "192.0.2.1", "203.0.113.11", 0x800), Action::Deny);

    let bags = with(
        &bags,
        &["firewall_rules/ingress_revoke.json", "firewall_rules/egress_system_default_revoke.json"],
    );
    assert_eq!(list(&bags, "to 203.0.113.11"), ["26 allow tcp 443 from 0.0.0.0/0", "deny"]);
    assert_eq!(list(&bags, OUTSIDE), [port_80, "deny"]);
    assert_eq!(said(&bags), [""; 0]);
}

#[test]
fn every_ingress_rule_of_an_isolated_network_says_what_it_says() {
    for (name, rule) in [
        ("ingress_icmp_all_add", "24 allow icmp from 0.0.0.0/0"),
        ("ingress_icmp_echo_add", "25 allow icmp type 8 code 0 from 192.0.2.0/24"),
        ("ingress_tcp_range_multi_cidr_add", "22 allow tcp 8000-8100 from 192.0.2.0/24,198.51.100.7/32"),
        ("ingress_tcp_single_port_add", "21 allow tcp 22 from 0.0.0.0/0"),
        ("ingress_udp_add", "23 allow udp 53 from 0.0.0.0/0"),
    ] {
        let bags = with(&isolated_bags(), &[&format!("firewall_rules/{name}.json")]);
        assert_eq!(list(&bags, "to 203.0.113.11"), [rule, "deny"], "{name}");
    }
}

#[test]
fn egress_rules_are_exceptions_from_the_default_that_the_system_rule_names() {
    let egress = |names: &[&str]| {
        let names: Vec<String> =
            names.iter().map(|name| format!("firewall_rules/egress_{name}.json")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        list(&with(&isolated_bags(), &names), OUTSIDE)
    };
    assert_eq!(egress(&["system_default_allow"]), ["allow"]);
    assert_eq!(egress(&["system_default_allow_on_implement"]), ["allow"]);
    assert_eq!(egress(&["system_default_deny"]), ["deny"]);
    assert_eq!(egress(&["system_default_deny_on_implement"]), ["deny"]);
    assert_eq!(egress(&["system_default_allow", "system_default_revoke"]), ["deny"]);
    // Numbers that are known stay as they are.
    assert_eq!(egress(&["system_default_deny", "system_default_allow"]), ["deny"]);
    assert_eq!(egress(&["system_default_deny", "system_default_revoke", "system_default_allow"]), ["allow"]);
    let icmp = "34 deny icmp type 8 code 0 from 10.1.1.0/24";
    assert_eq!(egress(&["default_allow_user_deny_icmp", "system_default_allow"]), [icmp, "allow"]);
    assert_eq!(egress(&["default_allow_user_deny_tcp"]), ["35 deny tcp 25 from 10.1.1.0/24", "deny"]);
    assert_eq!(
        egress(&["default_deny_user_allow_all", "default_deny_user_allow_udp_dest_cidr"]),
        [
            "32 allow any from 10.1.1.0/24 to 0.0.0.0/0",
            "33 allow udp 123 from 10.1.1.0/24 to 192.0.2.0/24,198.51.100.0/24",
            "deny"
        ]
    );
    assert_eq!(egress(&["default_deny_user_allow_tcp", "revoke"]), ["deny"]);
}

#[test]
fn ipv6_has_a_firewall_of_its_own_in_the_same_lists() {
    let to = "to eth0";
    let ipv4 = "0 allow any to 0.0.0.0/0";
    assert_eq!(list(&dual_stack(), OUTSIDE), ["deny"]);
    assert_eq!(list(&dual_stack(), to), [ipv4, "deny"]);

    let bags = with(&dual_stack(), &["ipv6_firewall_rules/boot_block.json"]);
    let udp = "43 allow udp 53 from fd17:ac56:1234:20::/64 to ::/0";
    let tcp = "41 allow tcp 443 from ::/0 to fd17:ac56:1234:20::/64";
    assert_eq!(list(&bags, OUTSIDE), [udp, "deny"]);
    assert_eq!(list(&bags, to), [ipv4, tcp, "deny"]);
    assert_eq!(judge(&bags, to, 6, "192.0.2.1", "10.1.1.9", 22), Action::Allow);
    assert_eq!(judge(&bags, to, 6, "2001:db8::1", "fd17:ac56:1234:20::9", 22), Action::Deny);
    assert_eq!(judge(&bags, to, 6, "2001:db8::1", "fd17:ac56:1234:20::9", 443), Action::Allow);

    // The families' defaults differ: a rule for all of IPv6 stands last.
    let open4 = with(&bags, &["firewall_rules/egress_system_default_allow.json"]);
    assert_eq!(list(&open4, OUTSIDE), [udp, "0 deny any to ::/0", "allow"]);
    let from6 = "fd17:ac56:1234:20::9";
    assert_eq!(judge(&open4, OUTSIDE, 6, from6, "2001:db8::1", 80), Action::Deny);
    assert_eq!(judge(&open4, OUTSIDE, 6, "10.1.1.9", "192.0.2.1", 80), Action::Allow);
    let open6 = with(&dual_stack(), &["ipv6_firewall_rules/system_default_egress_on_start.json"]);
    assert_eq!(list(&open6, OUTSIDE), ["0 allow any to ::/0", "deny"]);

    for (name, scope, rule) in [
        ("egress_all_add", OUTSIDE, "44 allow any from fd17:ac56:1234:20::/64 to ::/0"),
        ("egress_udp_add", OUTSIDE, udp),
        (
            "ingress_icmpv6_add",
            to,
            "42 allow icmp type 128 code 0 from 2001:db8::/32 to fd17:ac56:1234:20::/64",
        ),
        ("ingress_tcp_add", to, tcp),
        ("ingress_tcp_all_ports_add", to, "45 allow tcp from 2001:db8::/32 to fd17:ac56:1234:20::/64"),
    ] {
        let bags = with(&dual_stack(), &[&format!("ipv6_firewall_rules/{name}.json")]);
        let rules = list(&bags, scope);
        assert_eq!(rules[rules.len() - 2], rule, "{name}");
    }
    let revoked = with(&bags, &["ipv6_firewall_rules/ingress_revoke.json"]);
    assert_eq!(list(&revoked, to), [ipv4, "deny"]);

    let without = with(&isolated_bags(), &["ipv6_firewall_rules/boot_block.json"]);
    assert_eq!(list(&without, OUTSIDE), ["deny"]);
    assert_eq!(said(&without), ["ipv6firewallrules.json#: not in force: the guest network has no IPv6"]);
}

#[test]
fn a_rule_without_networks_is_of_its_own_family_only() {
    let rule = |kind: &str| {
        format!(
            r#"{{"type":"{kind}","rules":[{{"id":7,"protocol":"udp","revoked":false,"traffic_type":"Egress"}}]}}"#
        )
    };
    let bags = merge_json(&dual_stack(), &rule("firewallrules"), &isolated()).expect("merged");
    assert_eq!(list(&bags, OUTSIDE), ["7 allow udp to 0.0.0.0/0", "deny"]);
    let bags = merge_json(&dual_stack(), &rule("ipv6firewallrules"), &isolated()).expect("merged");
    assert_eq!(list(&bags, OUTSIDE), ["7 allow udp to ::/0", "deny"]);
}

#[test]
fn only_a_rule_about_everything_is_the_default() {
    let rule = |id: u32, destination: &str| {
        format!(
            r#"{{"id":{id},"protocol":"all","revoked":false,"traffic_type":"Egress","dest_cidr_list":[{destination}],
            "default_egress_policy":true}}"#
        )
    };
    let both = [rule(36, r#""192.0.2.0/24""#), rule(40, "")].join(",");
    let message = format!(r#"{{"type":"firewallrules","rules":[{both}]}}"#);
    let bags = merge_json(&isolated_bags(), &message, &isolated()).expect("merged");
    assert_eq!(list(&bags, OUTSIDE), ["36 deny any to 192.0.2.0/24", "allow"]);
}

#[test]
fn a_routed_network_is_judged_by_its_guest_port() {
    let routed = merge_all(&["cmd_line/router_isolated_routed.json"], &isolated());
    let own = "0 allow any from 10.50.1.0/24 to 10.50.1.0/24";
    assert_eq!(
        text(&routed),
        ["from eth0 to the outside, else deny", "to eth0, else deny", &format!("  {own}")]
    );
    let bags = with(&routed, &["firewall_rules/routed_boot_block.json"]);
    let https = "51 allow tcp 443 from 0.0.0.0/0 to 10.50.1.0/24";
    assert_eq!(list(&bags, OUTSIDE), ["61 allow udp 53 from 10.50.1.0/24 to 0.0.0.0/0", "deny"]);
    assert_eq!(list(&bags, "to eth0"), [own, https, "deny"]);
    let bags = with(
        &routed,
        &[
            "firewall_rules/routed_ingress_icmp_and_all_add.json",
            "firewall_rules/routed_ingress_tcp_add.json",
        ],
    );
    assert_eq!(
        list(&bags, "to eth0"),
        [
            own,
            https,
            "52 allow icmp from 192.0.2.0/24 to 10.50.1.0/24",
            "53 allow any from 198.51.100.0/24 to 10.50.1.10/32",
            "deny"
        ]
    );
    let bags = with(&routed, &["firewall_rules/ingress_udp_add.json"]);
    assert_eq!(list(&bags, "to eth0"), [own, "deny"]);
    assert_eq!(
        said(&bags),
        ["firewallrules.json#/23/src_ip: not in force: a routed network's 203.0.113.11 stands for no guest"]
    );
    // And the other way round.
    let bags = with(&isolated_bags(), &["firewall_rules/routed_ingress_tcp_add.json"]);
    assert_eq!(text(&bags), text(&isolated_bags()));
    assert_eq!(
        said(&bags),
        ["firewallrules.json#/51/src_ip: not in force: which public address? the network is not routed"]
    );
}

#[test]
fn rules_wait_for_their_public_address() {
    let boot = merge_all(&ISOLATED_WITH_NAT[..1], &isolated());
    let early = with(&boot, &["firewall_rules/ingress_udp_add.json"]);
    assert_eq!(
        said(&early),
        ["firewallrules.json#/23/src_ip: not in force: no public port has 203.0.113.11"]
    );
    let there = with(&early, &[ISOLATED_WITH_NAT[1]]);
    assert_eq!(said(&there), [""; 0]);
    assert_eq!(list(&there, "to 203.0.113.11"), ["23 allow udp 53 from 0.0.0.0/0", "deny"]);
    let rule = r#"{"type":"firewallrules","rules":[{"id":9,"src_ip":"10.1.1.1","protocol":"all","revoked":false,
        "traffic_type":"Ingress"}]}"#;
    let own = merge_json(&there, rule, &isolated()).expect("merged");
    assert_eq!(said(&own), ["firewallrules.json#/9/src_ip: not in force: no public port has 10.1.1.1"]);
}

#[test]
fn without_a_message_a_tier_is_closed_inwards_and_open_outwards() {
    let closed = ["deny"];
    let bags = vpc_bags();
    for port in [TIER, GATEWAY] {
        assert_eq!(list(&bags, &format!("from {port}")), ["allow"]);
        assert_eq!(list(&bags, &format!("to {port}")), closed);
    }
    assert_eq!(lists(&bags).len(), 4, "public addresses have no list");
    assert_eq!(text(&with(&bags, &["network_acl/vpc_tier_no_rules.json"])), text(&bags));
    let name = "_invalid/acl_missing_rules_arrays.json";
    let bare = with(&bags, &[name]);
    assert_eq!(text(&bare), text(&bags));
    assert_eq!(bare.documents()["networkacl"]["eth2"]["egress_rules"], json!([]));
}

#[test]
fn access_lists_make_todays_databag_and_keep_their_order() {
    let bags = with(&vpc_bags(), &["network_acl/vpc_tier_mixed.json"]);
    assert_bag(&bags, "networkacl", "networkacl.vpcrouter.json");
    assert_eq!(
        list(&bags, &format!("to {TIER}")),
        [
            "0 allow tcp 22 from 0.0.0.0/0",
            "0 allow tcp 8000-8100 from 192.0.2.0/24,198.51.100.0/24",
            "0 allow udp 53 from 0.0.0.0/0",
            "0 allow icmp type 8 code 0 from 0.0.0.0/0",
            "0 allow icmp from 10.10.0.0/16",
            "0 allow protocol 47 from 0.0.0.0/0",
            "0 deny protocol 41 from 0.0.0.0/0",
            "0 deny tcp 1-65535 from 203.0.113.66/32",
            "0 deny any from 0.0.0.0/0",
            "deny"
        ]
    );
    assert_eq!(
        list(&bags, &format!("from {TIER}")),
        [
            "0 allow tcp 80 to 0.0.0.0/0",
            "0 allow tcp 443 to 0.0.0.0/0",
            "0 allow udp 123 to 0.0.0.0/0",
            "0 allow icmp to 0.0.0.0/0",
            "0 deny tcp 3306 to 10.10.2.0/24",
            "0 allow any to 0.0.0.0/0",
            "allow"
        ]
    );
    // The whole list is replaced.
    let bags = with(&bags, &["network_acl/vpc_tier_default_deny.json"]);
    assert_eq!(list(&bags, &format!("from {TIER}")), ["0 deny any", "allow"]);
    let bags = with(&bags, &["network_acl/vpc_tier_default_allow.json"]);
    assert_eq!(list(&bags, &format!("to {TIER}")), ["0 allow any", "deny"]);
    let bags = with(&bags, &["network_acl/vpc_tier_tcp_udp_no_ports.json"]);
    assert_eq!(
        list(&bags, &format!("to {TIER}")),
        ["0 allow tcp from 192.0.2.0/24", "0 allow udp from 0.0.0.0/0", "0 deny any from 0.0.0.0/0", "deny"]
    );
}

#[test]
fn a_private_gateway_has_lists_like_a_tier() {
    let bags = with(&vpc_bags(), &["network_acl/private_gateway.json"]);
    assert_eq!(
        list(&bags, &format!("to {GATEWAY}")),
        ["0 allow tcp 22 from 172.30.0.0/16", "0 deny any from 0.0.0.0/0", "deny"]
    );
    assert_eq!(list(&bags, &format!("from {GATEWAY}")), ["0 allow any to 0.0.0.0/0", "allow"]);
    let wrong = String::from_utf8(bytes("network_acl/private_gateway.json")).expect("UTF-8");
    let wrong = wrong.replace("\"private_gateway_acl\":true", "\"private_gateway_acl\":false");
    let bags = merge_json(&vpc_bags(), &wrong, &vpc()).expect("merged");
    assert_eq!(text(&bags), text(&vpc_bags()));
    assert_eq!(
        said(&bags),
        ["networkacl.json#/eth4/private_gateway_acl: not in force: eth4 is a private-gateway NIC"]
    );
}

#[test]
fn ipv6_that_no_rule_of_a_tier_is_about_passes_neither_way() {
    let bags = merge_all(&[VPC[0], VPC[1], VPC[2], "guest_network/vpc_tier_add_dualstack.json"], &vpc());
    let (from, to) = (format!("from {TIER}"), format!("to {TIER}"));
    assert_eq!(list(&bags, &from), ["0 deny any to ::/0", "allow"]);
    let bags = with(&bags, &["network_acl/vpc_tier_dualstack.json"]);
    assert_eq!(list(&bags, &from), ["0 allow any", "0 deny any to ::/0", "allow"]);
    assert_eq!(
        list(&bags, &to),
        [
            "0 allow tcp 443",
            "0 allow tcp 22 from 2001:db8:aaaa::/48",
            "0 allow icmp type 128 code 0 from ::/0",
            "0 deny any",
            "deny"
        ]
    );
    let guest = "fd17:ac56:1234:10::9";
    assert_eq!(judge(&bags, &to, 6, "2001:db8:aaaa::1", guest, 22), Action::Allow);
    assert_eq!(judge(&bags, &to, 6, "192.0.2.1", "10.10.1.9", 22), Action::Deny);
    // A rule for all of IPv4 is about no IPv6.
    let bags = with(&bags, &["network_acl/vpc_tier_mixed.json"]);
    assert_eq!(judge(&bags, &to, 6, "2001:db8:aaaa::1", guest, 22), Action::Deny);
    assert_eq!(judge(&bags, &from, 6, guest, "2001:db8::1", 80), Action::Deny);
    assert_eq!(judge(&bags, &from, 6, "10.10.1.9", "192.0.2.1", 8080), Action::Allow);
}

#[test]
fn a_routed_vpc_is_closed_both_ways_but_within_a_tier() {
    let bags = merge_all(&["cmd_line/vpcrouter_routed.json", "guest_network/vpc_tier_add.json"], &vpc());
    let own = "0 allow any from 10.10.1.0/24 to 10.10.1.0/24";
    assert_eq!(list(&bags, &format!("from {TIER}")), [own, "deny"]);
    assert_eq!(list(&bags, &format!("to {TIER}")), [own, "deny"]);
    let bags = with(&bags, &["network_acl/vpc_tier_no_rules.json"]);
    assert_eq!(list(&bags, &format!("from {TIER}")), [own, "deny"]);
}

#[test]
fn without_a_public_network_only_lists_that_were_sent_are_there() {
    let bags =
        merge_all(&["cmd_line/vpcrouter_4_21_no_public.json", "guest_network/vpc_tier_add.json"], &vpc());
    assert_eq!(text(&bags), [""; 0]);
    let bags = with(&bags, &["network_acl/vpc_tier_no_rules.json"]);
    assert_eq!(list(&bags, &format!("to {TIER}")), ["deny"]);
}

#[test]
fn lists_follow_their_nics_and_wait_for_them() {
    let early = with(&merge_all(&VPC[..3], &vpc()), &["network_acl/vpc_tier_mixed.json"]);
    assert_eq!(said(&early), [""; 0]);
    assert_eq!(remarked(&early), ["networkacl.json#/eth2: waits: no tier or private gateway is there"]);
    let bags = with(&vpc_bags(), &["network_acl/vpc_tier_mixed.json"]);
    assert_eq!(
        list(&merge(&early, VPC[3], &vpc()), &format!("to {TIER}")),
        list(&bags, &format!("to {TIER}"))
    );

    // After a restart the tiers have changed places.
    let both = merge(&bags, "guest_network/vpc_second_tier_add.json", &vpc());
    let both = merge(&both, "network_acl/vpc_tier_ingress_only.json", &vpc());
    let turned = super::nics(&[
        ("eth1", "1e:00:a8:00:00:31"),
        ("eth3", TIER),
        ("eth2", "02:01:00:de:00:2c"),
        ("eth4", GATEWAY),
    ]);
    let sent = String::from_utf8(bytes("network_acl/vpc_tier_ingress_only.json")).expect("UTF-8");
    let after = merge_json(&both, &sent.replace("eth3", "eth2"), &turned).expect("merged");
    let document = &after.documents()["networkacl"];
    assert_eq!(document["eth3"]["mac_address"], TIER);
    assert_eq!(document["eth3"]["device"], "eth3");
    assert_eq!(document["eth2"]["nic_ip"], "10.10.2.1");
    assert_eq!(list(&after, &format!("to {TIER}")), list(&both, &format!("to {TIER}")));

    // One that is not plugged takes no other's place.
    let absent = sent.replace("02:01:00:de:00:2c", "02:01:00:de:00:99").replace("eth3", "eth2");
    let error = merge_json(&bags, &absent, &vpc()).unwrap_err();
    assert_eq!(error, "test.json#/mac_address: no NIC has the address 02:01:00:de:00:99");
    let free = merge_json(&bags, &absent.replace("eth2", "eth9"), &vpc()).expect("merged");
    assert_eq!(text(&free), text(&bags));
}

#[test]
fn what_another_kind_of_router_has_is_not_in_force() {
    let bags = with(&vpc_bags(), &["firewall_rules/ingress_resync_mixed.json"]);
    assert_eq!(text(&bags), text(&vpc_bags()));
    assert_eq!(
        said(&bags),
        [
            "firewallrules.json#: not in force: a VPC's public addresses have no firewall, its tiers have access lists"
        ]
    );
    let bags = with(&isolated_bags(), &["network_acl/vpc_tier_mixed.json"]);
    assert_eq!(said(&bags), ["networkacl.json#/eth2: not in force: only a VPC has tiers with access lists"]);
    let shared = merge_all(&["cmd_line/dhcpsrvr_shared.json"], &every_nic());
    assert_eq!(text(&shared), [""; 0]);
    assert_eq!(
        said(&with(&shared, &["firewall_rules/egress_system_default_allow.json"])),
        ["firewallrules.json#: not in force: the router of a shared network forwards nothing"]
    );
}

#[test]
fn rules_that_never_decide_are_remarked_on_and_are_no_trouble() {
    let acl = |cidr: &str, allowed: bool| {
        format!(r#"{{"type":"tcp","first_port":22,"last_port":22,"cidr":"{cidr}","allowed":{allowed}}}"#)
    };
    let rules = [acl("10.0.0.0/8", true), acl("10.1.0.0/16", false), acl("10.2.0.0/16,10.3.0.0/16", true)];
    let more: Vec<String> = (0..20).map(|index| acl(&format!("10.9.{index}.0/24"), true)).collect();
    let message = |rules: &[String]| {
        format!(
            r#"{{"type":"networkacl","device":"eth2","mac_address":"{TIER}","ingress_rules":[{}]}}"#,
            rules.join(",")
        )
    };
    let bags = merge_json(&vpc_bags(), &message(&rules), &vpc()).expect("merged");
    let first = "/eth2/ingress_rules/0 says the";
    let at = |index: u8| format!("networkacl.json#/eth2/ingress_rules/{index}: never decides");
    assert_eq!(
        remarked(&bags),
        [format!("{}: {first} opposite before", at(1)), format!("{}: {first} same before", at(2))]
    );
    assert_eq!(said(&bags), [""; 0]);
    let bags = merge_json(&vpc_bags(), &message(&[&rules[..1], &more].concat()), &vpc()).expect("merged");
    let remarks = remarked(&bags);
    assert_eq!(remarks.len(), 11);
    assert_eq!(remarks[10], format!("{}, and 9 more after it", at(11)));
    // The router's own last word covers nobody's rule, and is not remarked on itself.
    let name = "network_acl/vpc_tier_dualstack.json";
    let bags =
        merge_all(&[VPC[0], VPC[1], VPC[2], "guest_network/vpc_tier_add_dualstack.json", name], &vpc());
    assert_eq!(remarked(&bags), [""; 0]);
}

#[test]
fn a_refused_firewall_rule_says_where_and_changes_nothing() {
    let good = r#""id":22,"src_ip":"203.0.113.11","protocol":"tcp","src_port_range":[80,90],"revoked":false,"source_cidr_list":["192.0.2.0/24"],"traffic_type":"Ingress","default_egress_policy":false"#;
    let bags = isolated_bags();
    for (from, to, message) in [
        ("\"tcp\"", "\"tcpp\"", "protocol: \"tcpp\" is none of tcp, udp, icmp, all"),
        ("\"tcp\"", "null", "protocol: missing"),
        ("\"tcp\"", "\"all\"", "src_port_range: ports need the protocol tcp or udp"),
        ("\"tcp\"", "\"icmp\"", "src_port_range: ports need the protocol tcp or udp"),
        ("[80,90]", "[90,80]", "src_port_range: the last port, 80, is before the first, 90"),
        ("[80,90]", "[0,80]", "src_port_range: 0 is no port"),
        ("[80,90]", "[80,65536]", "src_port_range: 65536 is no port"),
        ("[80,90]", "[80,90,100]", "src_port_range: 3 numbers are no range of ports"),
        ("[80,90]", "80", "src_port_range: expected a list, found a number"),
        ("22,", "-1,", "id: \"-1\" is no number of a rule"),
        ("22,", "null,", "id: missing"),
        ("false,\"source", "0,\"source", "revoked: expected true or false, found a number"),
        ("false,\"source", "null,\"source", "revoked: missing"),
        ("203.0.113.11", "203.0.113", "src_ip: \"203.0.113\" is no IPv4 address"),
        ("192.0.2.0/24", "192.0.2.0/33", "source_cidr_list/0: \"192.0.2.0/33\" is no network"),
        ("192.0.2.0/24", "", "source_cidr_list/0: \"\" is no network"),
        ("\"192.0.2.0/24\"", "\"192.0.2.0/24\",7", "source_cidr_list/1: 7 is no network"),
        ("192.0.2.0/24", "::/0", "source_cidr_list/0: \"::/0\" is an IPv6 network in a list of IPv4 ones"),
        ("[\"192.0.2.0/24\"]", "\"192.0.2.0/24\"", "source_cidr_list: expected a list, found text"),
        ("Ingress", "Inwards", "traffic_type: \"inwards\" is none of ingress, egress"),
        ("\"Ingress\"", "null", "traffic_type: missing"),
    ] {
        assert!(good.contains(from), "{from}");
        let rule = good.replacen(from, to, 1);
        let json = format!(r#"{{"type":"firewallrules","rules":[{{{good}}},{{{rule}}}]}}"#);
        assert_eq!(merge_json(&bags, &json, &isolated()), Err(format!("test.json#/rules/1/{message}")));
    }
    let ipv6 = good.replace("192.0.2.0/24", "0.0.0.0/0");
    let json = format!(r#"{{"type":"ipv6firewallrules","rules":[{{{ipv6}}}]}}"#);
    let error = merge_json(&bags, &json, &isolated()).unwrap_err();
    assert_eq!(
        error,
        "test.json#/rules/0/source_cidr_list/0: \"0.0.0.0/0\" is an IPv4 network in a list of IPv6 ones"
    );
    for (rules, message) in [
        (r#","rules":{}"#, "/rules: expected a list, found an object"),
        (r#","rules":[7]"#, "/rules/0: expected an object, found a number"),
    ] {
        let json = format!(r#"{{"type":"firewallrules"{rules}}}"#);
        assert_eq!(merge_json(&bags, &json, &isolated()), Err(format!("test.json#{message}")));
    }
    for rules in ["", r#","rules":null"#, r#","rules":[]"#] {
        assert_eq!(
            merge_json(&bags, &format!(r#"{{"type":"firewallrules"{rules}}}"#), &isolated()),
            Ok(bags.clone())
        );
    }
    // What is withdrawn is not looked at any closer.
    let revoke = r#"{"type":"firewallrules","rules":[{"id":"22","revoked":"True","protocol":"gre"}]}"#;
    assert_eq!(merge_json(&bags, revoke, &isolated()), Ok(bags.clone()));
}

#[test]
fn a_refused_access_list_says_where_and_changes_nothing() {
    let good =
        r#""type":"tcp","first_port":22,"last_port":23,"cidr":"192.0.2.0/24,2001:db8::/32","allowed":true"#;
    let bags = vpc_bags();
    for (from, to, message) in [
        ("\"tcp\"", "\"sctp\"", "type: \"sctp\" is none of tcp, udp, icmp, all, protocol"),
        ("\"tcp\"", "null", "type: missing"),
        ("\"tcp\"", "\"protocol\"", "protocol: missing"),
        ("\"tcp\"", "\"protocol\",\"protocol\":256", "protocol: \"256\" is no protocol number"),
        ("\"tcp\"", "\"icmp\",\"icmp_type\":256", "icmp_type: 256 is no ICMP type"),
        ("\"tcp\"", "\"icmp\",\"icmp_code\":-2", "icmp_code: -2 is no ICMP code"),
        ("22,", "24,", "first_port: the last port, 23, is before the first, 24"),
        ("22,", "0,", "first_port: 0 is no port"),
        ("22,", "null,", "first_port: missing"),
        ("23,", "70000,", "last_port: \"70000\" is no port"),
        ("192.0.2.0/24,", "192.0.2.0,", "cidr: \"192.0.2.0\" is no network"),
        ("192.0.2.0/24,", ",", "cidr: \"\" is no network"),
        ("\"192.0.2.0/24,2001:db8::/32\"", "\"\"", "cidr: missing"),
        ("\"192.0.2.0/24,2001:db8::/32\"", "[]", "cidr: expected text, found a list"),
        ("true", "null", "allowed: missing"),
        ("true", "1", "allowed: expected true or false, found a number"),
    ] {
        assert!(good.contains(from), "{from}");
        let rule = good.replacen(from, to, 1);
        let json = format!(
            r#"{{"type":"networkacl","device":"eth2","egress_rules":[],"ingress_rules":[{{{good}}},{{{rule}}}]}}"#
        );
        assert_eq!(merge_json(&bags, &json, &vpc()), Err(format!("test.json#/ingress_rules/1/{message}")));
    }
    for (json, message) in [
        (r#""egress_rules":[]"#, "/mac_address: missing, and so is device: which NIC?"),
        (r#""device":"eth2","mac_address":"02""#, "/mac_address: \"02\" is no MAC address"),
        (r#""device":"eth2","egress_rules":{}"#, "/egress_rules: expected a list, found an object"),
        (r#""device":"eth2","egress_rules":["a"]"#, "/egress_rules/0: expected an object, found text"),
        (
            r#""device":"eth2","private_gateway_acl":3"#,
            "/private_gateway_acl: expected true or false, found a number",
        ),
    ] {
        let json = format!(r#"{{"type":"networkacl",{json}}}"#);
        assert_eq!(merge_json(&bags, &json, &vpc()), Err(format!("test.json#{message}")));
    }
}

#[test]
fn nulls_are_left_out_and_unknown_keys_are_warnings_and_are_kept() {
    let json = r#"{"later":1,"type":"networkacl","device":"eth2","nic_ip":null,"egress_rules":null,"ingress_rules":
        [{"type":"ALL","cidr":"0.0.0.0/0","allowed":"false","why":"x","protocol":null}]}"#;
    let parsed = Command::parse("f", json.as_bytes()).expect("tolerated");
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["f#/later: unknown key, ignored", "f#/ingress_rules/0/why: unknown key, ignored"]);
    let bags = vpc_bags().merge(&parsed.command, &vpc()).expect("merged");
    let rule = json!({"type": "ALL", "cidr": "0.0.0.0/0", "allowed": "false", "why": "x"});
    assert_eq!(
        bags.documents()["networkacl"]["eth2"],
        json!({"later": 1, "type": "networkacl", "device": "eth2", "egress_rules": [], "ingress_rules": [rule]})
    );
    let json = r#"{"type":"firewallrules","rules":[{"id":3,"revoked":false,"protocol":"ICMP","traffic_type":"EGRESS",
        "lease":{"time":1},"src_port_range":null}]}"#;
    let parsed = Command::parse("f", json.as_bytes()).expect("tolerated");
    assert_eq!(parsed.warnings[0].to_string(), "f#/rules/0/lease: unknown key, ignored");
    let bags = isolated_bags().merge(&parsed.command, &isolated()).expect("merged");
    assert_eq!(bags.documents()["firewallrules"]["3"]["lease"], json!({"time": 1}));
    assert_eq!(list(&bags, OUTSIDE), ["3 allow icmp to 0.0.0.0/0", "deny"]);
}

#[test]
fn every_rule_is_taken_by_every_kind_of_router() {
    let folders = ["firewall_rules", "ipv6_firewall_rules", "network_acl"];
    for (name, _) in folders.iter().flat_map(|folder| fixtures(folder)) {
        for bags in [isolated_bags(), dual_stack(), vpc_bags()] {
            desired(&with(&bags, &[&name])).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn rules_are_saved_and_loaded_and_damage_is_none_without_rules() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("policy-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let isolated = with(
        &dual_stack(),
        &["firewall_rules/boot_egress_block.json", "ipv6_firewall_rules/boot_block.json"],
    );
    let vpc = with(&vpc_bags(), &["network_acl/private_gateway.json", "network_acl/vpc_tier_dualstack.json"]);
    for (name, bags) in [("isolated", &isolated), ("vpc", &vpc)] {
        let folder = folder.join(name);
        bags.save(&folder).expect("saved");
        assert_eq!(Databags::load(&folder), *bags);
        assert_eq!(bags.save(&folder).expect("saved").len(), 0);
    }
    for (bag, from, to, message) in [
        (
            "isolated/firewallrules",
            "\"tcp\"",
            "\"gre\"",
            "/31/protocol: \"gre\" is none of tcp, udp, icmp, all",
        ),
        ("isolated/firewallrules", "\"31\":", "\"32\":", "/32/id: 31 in the place of 32"),
        ("isolated/firewallrules", "\"10.1.1.0/24\"", "1", "/31/source_cidr_list/0: 1 is no network"),
        ("isolated/ipv6firewallrules", "[", "{", ": no valid JSON"),
        ("vpc/networkacl", "\"icmp\"", "7", "/eth2/ingress_rules/2/type: \"7\" is none of"),
        (
            "vpc/networkacl",
            "\"eth4\": {",
            "\"eth4\": [], \"eth5\": {",
            "/eth4: expected an object, found a list",
        ),
    ] {
        let path = folder.join(format!("{bag}.json"));
        let whole = fs::read_to_string(&path).expect("there");
        assert!(whole.contains(from), "{from}");
        fs::write(&path, whole.replacen(from, to, 1)).expect("written");
        let error = desired(&Databags::load(path.parent().expect("a folder"))).expect_err(bag).to_string();
        assert!(error.starts_with(&format!("{}#{message}", path.display())), "{error}");
        fs::write(&path, whole).expect("written");
    }
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn no_rule_of_a_firewall_stands_before_the_boot_line() {
    let bags = with(&Databags::default(), &["firewall_rules/boot_egress_block.json"]);
    assert_eq!(
        refusal(&bags),
        "cmdline.json#/config: missing: there is no boot line yet, send cmd_line.json first"
    );
}

/// A message of a hundred thousand rules of each kind: from its text to lists, and the same again with one
/// more or one that is another; the least of several times. Printed by `cargo test --release -p router-tests --test control_walk -- --ignored --nocapture`.
#[test]
#[ignore = "measures; the numbers mean something in a release build only"]
fn a_hundred_thousand_rules_take_milliseconds() {
    let mut firewall = String::from(r#"{"type":"firewallrules","rules":["#);
    let mut acl =
        format!(r#"{{"type":"networkacl","device":"eth2","mac_address":"{TIER}","ingress_rules":["#);
    for index in 0..100_000_u32 {
        let comma = if index == 0 { "" } else { "," };
        let [_, a, b, c] = index.to_be_bytes();
        let (number, port) = (index + 1, 1 + index % 60_000);
        write!(
            firewall,
            r#"{comma}{{"id":{number},"src_ip":"203.0.113.11","protocol":"tcp","src_port_range":[{port},{port}],"revoked":false,"already_added":false,"source_cidr_list":["10.{a}.{b}.{c}/32","198.51.100.7/32"],"purpose":"Firewall","traffic_type":"Ingress","default_egress_policy":false}}"#
        )
        .expect("text");
        write!(
            acl,
            r#"{comma}{{"type":"tcp","first_port":{port},"last_port":{port},"cidr":"10.{a}.{b}.{c}/32","allowed":{}}}"#,
            index % 3 == 0
        )
        .expect("text");
    }
    firewall.push_str("]}");
    acl.push_str(r#"],"egress_rules":[]}"#);
    let one_more = r#"{"type":"firewallrules","rules":[{"id":50001000,"src_ip":"203.0.113.11","protocol":"tcp",
        "src_port_range":[1,1],"revoked":false,"source_cidr_list":[],"traffic_type":"Ingress"}]}"#;
    let one_other = acl.replacen(
        "\"cidr\":\"10.0.0.7/32\",\"allowed\":false",
        "\"cidr\":\"10.0.0.7/31\",\"allowed\":true",
        1,
    );
    assert_ne!(acl, one_other);
    let names = |state: &DesiredState| -> Vec<Content> {
        state.policy.lists.iter().map(|(_, list)| list.content()).collect()
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("many-{}", std::process::id()));
    for (name, start, inventory, message, change) in [
        ("firewallrules", isolated_bags(), isolated(), &*firewall, one_more),
        ("networkacl", vpc_bags(), vpc(), &*acl, &*one_other),
    ] {
        let mut laps: Vec<(&str, Duration)> = Vec::new();
        for _ in 0..7 {
            let mut begun = Instant::now();
            let mut lap = |what: &'static str| {
                let lap = begun.elapsed();
                match laps.iter_mut().find(|(of, _)| *of == what) {
                    Some((_, least)) => *least = lap.min(*least),
                    None => laps.push((what, lap)),
                }
                begun = Instant::now();
            };
            let command = Command::parse(name, message.as_bytes()).expect("read").command;
            lap("all: text to command");
            let bags = start.merge(&command, &inventory).expect("merged");
            lap("all: merge");
            let state = desired(&bags).expect("valid");
            lap("all: desired");
            names(&state);
            lap("all: names");
            let rules: usize = state.policy.lists.iter().map(|(_, list)| list.rules.len()).sum();
            assert!(rules >= 100_000);
            drop(command);
            lap("all: drop the command");
            bags.save(&folder).expect("saved");
            lap("all: save");
            let command = Command::parse(name, change.as_bytes()).expect("read").command;
            lap("one: text to command");
            let after = bags.merge(&command, &inventory).expect("merged");
            lap("one: merge");
            let after_state = desired(&after).expect("valid");
            lap("one: desired");
            names(&after_state);
            lap("one: names");
            let mut files = Files::new(&folder);
            files.save(&after).expect("saved");
            lap("one: save");
            files.save(&after).expect("saved");
            lap("none: save");
            drop((bags, state));
            lap("drop the one before");
            Databags::load(&folder);
            lap("load");
            remarks(&after).expect("valid");
            lap("remarks");
        }
        laps.iter().for_each(|(what, least)| println!("{name}: {what}: {least:?}"));
    }
    fs::remove_dir_all(folder).expect("removed");
}
