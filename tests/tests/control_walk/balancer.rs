//! What load balancing opens at the router itself.

use router_userspace::cloudstack::{desired, notices};
use router_userspace::model::policy::Side;
use serde_json::json;

use super::{bytes, isolated, merge, merge_all, merge_json, vpc};

const BOOT: &str = "cmd_line/router_isolated.json";

/// What is opened, and on which side.
fn opened(bags: &super::Databags) -> Vec<String> {
    let openings = desired(bags).expect("sound").policy.openings;
    let side = |side| if side == Side::Any { "any" } else { "inside" };
    openings.iter().map(|opening| format!("{}: {}", side(opening.side), opening.rule)).collect()
}

fn said(bags: &super::Databags) -> Vec<String> {
    notices(bags).expect("sound").iter().map(ToString::to_string).collect()
}

/// The message of a fixture with other listeners and pages.
fn listening(listeners: &[&str], pages: &[&str]) -> String {
    let text = bytes("load_balancer/isolated_tcp_roundrobin.json");
    let mut message: serde_json::Value = serde_json::from_slice(&text).expect("valid");
    message["rules"][0]["add_rules"] = json!(listeners);
    message["rules"][0]["stat_rules"] = json!(pages);
    message.to_string()
}

#[test]
fn listeners_are_open_on_the_sides_of_their_address_and_pages_to_their_networks() {
    let boot = merge_all(&[BOOT], &isolated());
    let public = desired(&boot).expect("sound").ports[2].addresses[0].addr().to_string();
    let message = listening(
        &[&format!("{public}:80:"), "10.1.1.1:3306:", "203.0.113.99:25:"],
        &[
            "10.1.1.1:8081:0/0:,",
            &format!("{public}:8082:192.0.2.0/24,198.51.100.0/24:,"),
            "0.0.0.0/0:8083:10.0.0.0/8:,",
        ],
    );
    let bags = merge_json(&boot, &message, &isolated()).expect("merged");
    assert_eq!(
        opened(&bags),
        [
            format!("any: allow tcp 80 to {public}/32"),
            "inside: allow tcp 3306 to 10.1.1.1/32".to_owned(),
            "inside: allow tcp 8081 from 0.0.0.0/0 to 10.1.1.1/32".to_owned(),
            format!("any: allow tcp 8082 from 192.0.2.0/24,198.51.100.0/24 to {public}/32"),
            "any: allow tcp 8083 from 10.0.0.0/8".to_owned(),
        ]
    );
    assert_eq!(said(&bags), ["loadbalancer.json#/config/0/add_rules/2: waits: no port has 203.0.113.99"]);
    let none = merge_json(&bags, &listening(&[], &[""]), &isolated()).expect("merged");
    assert_eq!((opened(&none), said(&none)), (vec![], vec![]));
}

#[test]
fn what_is_translated_comes_before_a_listener() {
    let boot = merge_all(&[BOOT], &isolated());
    let public = desired(&boot).expect("sound").ports[2].addresses[0].addr().to_string();
    let forward = |port: u16, sources: &str| {
        json!({
            "rules": [{
                "revoke": false, "protocol": "tcp", "source_ip_address": public,
                "source_port_range": format!("{port}:{port}"), "source_cidr_list": sources,
                "destination_ip_address": "10.1.1.20", "destination_port_range": "80:80",
            }],
            "type": "forwardrules",
        })
        .to_string()
    };
    let mut bags = merge_json(&boot, &forward(80, ""), &isolated()).expect("merged");
    // Others than those still come to the listener.
    bags = merge_json(&bags, &forward(81, "192.0.2.0/24"), &isolated()).expect("merged");
    let message =
        listening(&[80, 81, 82].map(|port| format!("{public}:{port}:")).each_ref().map(String::as_str), &[]);
    bags = merge_json(&bags, &message, &isolated()).expect("merged");
    assert_eq!(opened(&bags), [81, 82].map(|port| format!("any: allow tcp {port} to {public}/32")),);
    let message = format!("not in force: {public}:80 is that of a port forwarding");
    assert_eq!(said(&bags), [format!("loadbalancer.json#/config/0/add_rules/0: {message}")]);
}

#[test]
fn the_last_configuration_counts_as_a_whole_and_changes_its_own_bag() {
    let one = "load_balancer/isolated_http_two_rules.json";
    let last = "load_balancer/isolated_last_rule_removed.json";
    let boot = merge_all(&[BOOT], &isolated());
    let both = merge(&merge(&boot, one, &isolated()), last, &isolated());
    assert_eq!(both, merge(&boot, last, &isolated()));
    let mut documents = both.documents();
    documents.insert("loadbalancer", boot.documents()["loadbalancer"].clone());
    assert_eq!(documents, boot.documents());
    // CloudStack sends a tier's balancer when its network starts.
    let tiers = merge_all(&super::VPC, &vpc());
    let bags = merge(&tiers, "load_balancer/vpc_tier_http.json", &vpc());
    assert_eq!(
        opened(&bags),
        ["any: allow tcp 80 to 203.0.113.31/32", "inside: allow tcp 8081 from 0.0.0.0/0 to 10.10.1.1/32"]
    );
}
