//! With whom the router speaks BGP, and to whom it is open for that.

use std::net::IpAddr;

use router_userspace::cloudstack::{desired, services};
use router_userspace::model::policy::Side;
use serde_json::{Value, json};

use super::{bytes, isolated, merge, merge_all, merge_json, vpc};

fn openings(bags: &super::Databags) -> Vec<String> {
    let openings = desired(bags).expect("sound").policy.openings;
    assert!(openings.iter().all(|opening| opening.side == Side::Outside));
    openings.iter().map(|opening| opening.rule.to_string()).collect()
}

#[test]
fn a_peer_is_spoken_to_by_each_family_and_let_in_from_outside() {
    let boot = merge_all(&["cmd_line/router_isolated_routed.json"], &isolated());
    let bags = merge(&boot, "bgp_peers/isolated_dualstack_multihop.json", &isolated());
    assert_eq!(openings(&bags), ["allow tcp 179 from 203.0.113.254/32,2001:db8:100::fe/128"]);
    let (found, notices) = services(&bags, &desired(&bags).expect("sound"));
    let bgp = found.bgp.expect("somebody to speak with");
    assert_eq!((bgp.own_as, bgp.router_id.to_string()), (65010, "203.0.113.16".to_owned()));
    let peers: Vec<_> = bgp.peers.iter().map(|peer| (peer.address, peer.peer_as, peer.hops)).collect();
    let peer = |address: &str| (address.parse::<IpAddr>().expect("an address"), 65001, Some(3));
    assert_eq!(peers, [peer("203.0.113.254"), peer("2001:db8:100::fe")]);
    let networks: Vec<String> = bgp.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.50.1.0/24", "fd17:ac56:1234:20::/64"]);
    assert!(notices.is_empty(), "{notices:?}");

    let cleared = merge(&bags, "bgp_peers/clear_all.json", &isolated());
    assert!(openings(&cleared).is_empty());
    assert_eq!(services(&cleared, &desired(&cleared).expect("sound")).0.bgp, None);
}

#[test]
fn there_is_one_session_for_all_networks_of_a_peer_and_one_autonomous_system() {
    let tiers = merge_all(&super::VPC, &vpc());
    let bags = merge(&tiers, "bgp_peers/vpc_two_tiers_two_peers.json", &vpc());
    let (found, _) = services(&bags, &desired(&bags).expect("sound"));
    let bgp = found.bgp.expect("somebody to speak with");
    assert_eq!((bgp.peers.len(), bgp.networks.len()), (2, 2));

    let mut message: Value =
        serde_json::from_slice(&bytes("bgp_peers/vpc_two_tiers_two_peers.json")).expect("valid");
    message["peers"][3]["network_as_number"] = json!(65011);
    let bags = merge_json(&tiers, &message.to_string(), &vpc()).expect("merged");
    let (_, notices) = services(&bags, &desired(&bags).expect("sound"));
    let said: Vec<String> = notices.iter().map(ToString::to_string).collect();
    let message = "not in force: the router speaks for AS 65010, and for no second one";
    assert_eq!(said, [format!("bgppeers.json#/2-222/network_as_number: {message}")]);
}
