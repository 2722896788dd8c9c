//! Tunnels to other sites, and people who call from outside: what they mean for ports, routes, lists and what the
//! router is open for.

use router_userspace::cloudstack::{Databags, desired, notices, services};
use router_userspace::model::DesiredState;
use router_userspace::model::policy::{AccessList, Scope};
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
    // Of each tunnel its own networks, and nothing else.
    let own = "from ipsec0: allow any from 10.99.0.0/16 to 10.10.0.0/16, \
               allow any from 10.98.0.0/16,10.97.0.0/16 to 10.10.0.0/16; deny";
    let lists = lists(&bags);
    assert!(lists.iter().any(|list| list == own), "{lists:#?}");
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

const PEOPLE: &str = "remote_access_vpn/isolated_create.json";

/// An isolated network, and [`PEOPLE`] with some of its values replaced.
fn people(before: &Databags, values: &[(&str, Value)]) -> Databags {
    let mut message: Value = serde_json::from_slice(&bytes(PEOPLE)).expect("valid");
    for (key, value) in values {
        message[*key] = value.clone();
    }
    merge_json(before, &message.to_string(), &isolated()).expect("merged")
}

fn of_people(bags: &Databags) -> Vec<String> {
    let said = notices(bags).expect("valid");
    said.iter().map(ToString::to_string).filter(|notice| notice.starts_with("remoteaccess")).collect()
}

/// A list's rules in words, and its scope.
fn lists(bags: &Databags) -> Vec<String> {
    let words = |(scope, list): &(Scope, std::sync::Arc<AccessList>)| {
        let rules: Vec<String> = list.rules.iter().map(|rule| rule.to_string()).collect();
        format!("{scope}: {}; {}", rules.join(", "), list.default)
    };
    state(bags).policy.lists.iter().map(words).collect()
}

#[test]
fn people_are_behind_a_port_of_their_own_and_their_addresses_lead_to_nobody_without_them() {
    let before = merge_all(&["cmd_line/router_isolated_dualstack.json"], &isolated());
    let bags = people(&before, &[("vpn_server_ip", json!("203.0.113.14"))]);
    assert_eq!(of_people(&bags), Vec::<String>::new());
    let lines = lines_of(&bags);
    for line in [
        "ppp ppp tunnel 10.1.2.1/32 mtu -",
        "10.1.2.1/32 to nobody",
        "10.1.2.2/31 to nobody",
        "10.1.2.4/30 to nobody",
        "10.1.2.8/32 to nobody",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} in {lines:#?}");
    }
    let openings: Vec<String> = state(&bags)
        .remote
        .expect("a server")
        .openings
        .iter()
        .map(|opening| opening.rule.to_string())
        .collect();
    assert_eq!(
        openings[..3],
        ["udp 500", "udp 4500", "protocol 50"].map(|what| format!("allow {what} to 203.0.113.14/32"))
    );
    assert!(!openings.iter().any(|rule| rule.contains("1701")), "{openings:?}");
    let lists = lists(&bags);
    let is_there = |begins: &str| lists.iter().any(|list| list.starts_with(begins));
    let clients = "10.1.2.2/31,10.1.2.4/30,10.1.2.8/32,10.1.2.1/32";
    assert!(is_there(&format!("to ppp: allow any from {clients},10.1.1.0/24; deny")), "{lists:#?}");
    assert!(is_there("to 203.0.113.14: allow protocol 50 to 203.0.113.14/32; deny"), "{lists:#?}");
    assert!(lists.iter().any(|list| list.contains(&format!("allow any to {clients}"))), "{lists:#?}");
    let gone = people(&bags, &[("vpn_server_ip", json!("203.0.113.14")), ("create", json!(false))]);
    assert_eq!(state(&gone), state(&before));
}

#[test]
fn in_a_vpc_its_lists_decide_about_people() {
    let before = merge_all(&VPC, &vpc());
    let bags = merge(&before, "remote_access_vpn/vpc_create.json", &vpc());
    let added: Vec<String> = lists(&bags).into_iter().filter(|list| !lists(&before).contains(list)).collect();
    let [list] = added.as_slice() else { panic!("{added:#?}") };
    assert!(list.starts_with("to ppp: ") && list.contains("10.10.0.0/16"), "{list}");
    assert!(of_people(&bags).is_empty());
    let both = merge(&bags, CREATE, &vpc());
    assert!(of_people(&both).is_empty() && state(&both).tunnels.len() == 1);
}

#[test]
fn a_server_that_cannot_be_had_says_why() {
    let before = merge_all(&["cmd_line/router_isolated_dualstack.json"], &isolated());
    let ours = ("vpn_server_ip", json!("203.0.113.14"));
    for (values, place) in [
        (
            &[("vpn_server_ip", json!("203.0.113.99"))][..],
            "203.0.113.99/vpn_server_ip: not in force: no public port",
        ),
        (
            &[ours.clone(), ("local_ip", json!("10.1.2.5"))],
            "203.0.113.14/local_ip: not in force: clients would",
        ),
        (
            &[ours.clone(), ("ip_range", json!("10.1.1.100-10.1.1.110"))],
            "203.0.113.14/ip_range: not in force: 10.1.1.100/30 is in the network of a port",
        ),
    ] {
        let bags = people(&before, values);
        let said = of_people(&bags);
        assert!(said[0].starts_with(&format!("remoteaccessvpn.json#/{place}")), "{said:?}");
        assert_eq!(lines_of(&bags), lines_of(&before));
    }
}

#[test]
fn users_are_told_to_pppd_unless_their_password_would_be_a_files_name() {
    let user =
        |name: &str, password: &str, add: bool| json!({"user": name, "password": password, "add": add});
    let list = [user("alice", "one", true), user("bob", "@/etc/shadow", true), user("carol", "x", false)];
    let before = merge_all(&["cmd_line/router_isolated_dualstack.json"], &isolated());
    let bags = people(&before, &[("vpn_server_ip", json!("203.0.113.14"))]);
    let message = json!({"type": "vpnuserlist", "vpn_users": list}).to_string();
    let bags = merge_json(&bags, &message, &isolated()).expect("merged");
    let (services, notices) = services(&bags, &state(&bags));
    let names: Vec<String> = services.remote.expect("a server").1.into_iter().map(|user| user.name).collect();
    assert_eq!(names, ["alice"]);
    let said: Vec<String> = notices.iter().map(ToString::to_string).collect();
    assert!(
        said.iter().any(|said| said.starts_with("vpnuserlist.json#/bob/password: not in force")),
        "{said:?}"
    );
    assert!(!said.iter().any(|said| said.contains("shadow")), "{said:?}");
}
