//! Tunnels to other sites: what they mean for ports, routes and what the router is open for.

use router_userspace::cloudstack::{Databags, desired, notices};
use router_userspace::model::DesiredState;
use router_userspace::model::vpn::IkeVersion;
use serde_json::{Value, json};

use super::{VPC, bytes, isolated, lines_of, merge, merge_all, merge_json, vpc};

const CREATE: &str = "site_2_site_vpn/create.json";

fn state(bags: &Databags) -> DesiredState {
    desired(bags).expect("valid")
}

/// [`CREATE`] with some of its values replaced.
fn with(bags: &Databags, values: &[(&str, Value)]) -> Databags {
    let mut message: Value = serde_json::from_slice(&bytes(CREATE)).expect("valid");
    for (key, value) in values {
        message[*key] = value.clone();
    }
    merge_json(bags, &message.to_string(), &vpc()).expect("merged")
}

fn said(bags: &Databags) -> Vec<String> {
    let said = notices(bags).expect("valid");
    said.iter().map(ToString::to_string).filter(|notice| notice.starts_with("site2sitevpn.json")).collect()
}

#[test]
fn a_tunnel_is_a_port_and_routes_that_lead_to_nobody_without_it() {
    let before = merge_all(&VPC, &vpc());
    let bags = merge(&before, CREATE, &vpc());
    let passive = "site_2_site_vpn/create_passive_ikev2_multi_cidr_split.json";
    let bags = merge(&bags, passive, &vpc());
    let lines = lines_of(&bags);
    for line in [
        "ipsec0 ipsec0 tunnel  mtu 1396",
        "10.97.0.0/16 ipsec0",
        "10.97.0.0/16 to nobody",
        "10.98.0.0/16 ipsec0",
        "10.98.0.0/16 to nobody",
        "10.99.0.0/16 ipsec0",
        "10.99.0.0/16 to nobody",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} in {lines:#?}");
    }
    let tunnels = state(&bags).tunnels;
    let [first, second] = tunnels.as_slice() else { panic!("{tunnels:?}") };
    assert_eq!((first.version, first.passive, first.split), (IkeVersion::Any, false, false));
    assert_eq!((second.version, second.passive, second.split), (IkeVersion::V2, true, true));
    assert_eq!(second.ike, ["aes256-sha256-modp2048"]);
    // Each peer may call, and nobody else.
    let own: Vec<String> =
        state(&bags).policy.openings.iter().map(|opening| opening.rule.to_string()).collect();
    assert_eq!(own.len(), 6);
    for (traffic, peer) in [("udp 500", 200), ("udp 4500", 200), ("protocol 50", 200), ("udp 500", 201)] {
        let rule = format!("allow {traffic} from 198.51.100.{peer}/32 to 203.0.113.30/32");
        assert!(own.contains(&rule), "{rule} in {own:#?}");
    }
    let bags = with(&bags, &[("create", json!(false))]);
    let gone = with(&bags, &[("create", json!(false)), ("peer_gateway_ip", json!("198.51.100.201"))]);
    assert_eq!(state(&gone), state(&before));
}

#[test]
fn ikev1_has_a_connection_for_each_network() {
    let bags = with(&merge_all(&VPC, &vpc()), &[("ike_version", json!("ikev1"))]);
    assert!(state(&bags).tunnels[0].split);
}

#[test]
fn a_tunnel_that_cannot_be_built_says_why_and_nothing_else_depends_on_it() {
    let before = merge_all(&VPC, &vpc());
    for (values, place) in [
        (&[("local_public_ip", json!("203.0.113.99"))][..], "local_public_ip: not in force: no port has"),
        (
            &[("peer_guest_cidr_list", json!("10.99.0.0/16,198.51.100.0/24"))],
            "peer_guest_cidr_list: not in force: 198.51.100.0/24 holds 198.51.100.200",
        ),
    ] {
        let bags = with(&before, values);
        let said = said(&bags);
        assert!(said[0].starts_with(&format!("site2sitevpn.json#/198.51.100.200/{place}")), "{said:?}");
        assert_eq!(lines_of(&bags), lines_of(&before));
    }
    let network = merge_all(&["cmd_line/router_isolated.json", CREATE], &isolated());
    assert!(said(&network)[0].contains("only a VPC has tunnels"), "{:?}", said(&network));
}
