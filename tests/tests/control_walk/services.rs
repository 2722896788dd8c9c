//! What is stored for daemons: DHCP and DNS, VPN; and BGP's databag.

use router_userspace::cloudstack::{Command, Databags, unserved};
use serde_json::{Value, json};

use super::{VPC, assert_bag, bytes, every_nic, fixtures, merge, merge_all, merge_json, vpc};

/// Folder and databag.
const KINDS: [(&str, &str); 4] = [
    ("vm_dhcp_entry", "dhcpentry"),
    ("site_2_site_vpn", "site2sitevpn"),
    ("remote_access_vpn", "remoteaccessvpn"),
    ("vpn_user_list", "vpnuserlist"),
];

fn said(bags: &Databags) -> Vec<String> {
    unserved(bags, Some("the kernel has no PPP")).iter().map(ToString::to_string).collect()
}

fn keys(bags: &Databags, bag: &str) -> Vec<String> {
    let keys = bags.documents()[bag].as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    keys.into_iter().filter(|key| key != "id").collect()
}

/// A message with some of its values replaced.
fn with(name: &str, values: &[(&str, Value)]) -> String {
    let mut message: Value = serde_json::from_slice(&bytes(name)).expect("valid");
    for (key, value) in values {
        message[*key] = value.clone();
    }
    message.to_string()
}

#[test]
fn each_changes_its_own_bag_and_nothing_of_what_is_forwarded() {
    for (folder, bag) in KINDS {
        for (name, bytes) in fixtures(folder) {
            let command = Command::parse(&name, &bytes).expect(&name).command;
            // Where addresses behind tunnels lead is.
            let is_about_forwarding = ["site2sitevpn", "remoteaccessvpn"].contains(&bag);
            assert_eq!(
                (command.type_name(), command.is_about_forwarding()),
                (bag, is_about_forwarding),
                "{name}"
            );
            let before = merge_all(&VPC, &vpc());
            let after = merge(&before, &name, &vpc());
            let mut documents = after.documents();
            documents.insert(bag, before.documents()[bag].clone());
            assert_eq!(documents, before.documents(), "{name}");
        }
    }
}

#[test]
fn the_databags_are_those_of_cloudstacks_own_router() {
    let dhcp = merge_all(&["vm_dhcp_entry/default_nic_add.json"], &every_nic());
    assert_bag(&dhcp, "dhcpentry", "dhcpentry.json");
    let bgp = merge_all(&["bgp_peers/vpc_two_tiers_two_peers.json"], &every_nic());
    assert_bag(&bgp, "bgppeers", "bgppeers.vpcrouter.json");

    let message = |name: &str| serde_json::from_slice::<Value>(&bytes(name)).expect("valid");
    let balancer = merge_all(&["load_balancer/v4_22_ssl_offload.json"], &every_nic());
    let config = message("load_balancer/v4_22_ssl_offload.json")["rules"].clone();
    assert_eq!(balancer.documents()["loadbalancer"], json!({"config": config, "id": "loadbalancer"}));

    for (name, bag, key) in [
        ("site_2_site_vpn/create.json", "site2sitevpn", "198.51.100.200"),
        ("remote_access_vpn/vpc_create.json", "remoteaccessvpn", "203.0.113.30"),
    ] {
        let bags = merge_all(&[name], &every_nic());
        assert_eq!(bags.documents()[bag], json!({key: message(name), "id": bag}));
    }
    let users = merge_all(&["vpn_user_list/add_two_remove_one.json"], &every_nic());
    let user =
        |name: &str, password: &str, add: bool| json!({"user": name, "password": password, "add": add});
    let expected = json!({"alice": user("alice", "pw1", true), "bob": user("bob", "pw2", true),
        "carol": user("carol", "pw3", false), "id": "vpnuserlist"});
    assert_eq!(users.documents()["vpnuserlist"], expected);
}

#[test]
fn a_nic_has_one_address_and_an_address_one_nic() {
    let add = "vm_dhcp_entry/default_nic_add.json";
    let bags = merge_all(&[add, "vm_dhcp_entry/non_default_nic_add.json"], &every_nic());
    assert_eq!(keys(&bags, "dhcpentry"), ["10.1.1.20", "10.1.2.20"]);
    let moved =
        with(add, &[("ipv4_address", json!("10.1.1.99")), ("mac_address", json!("02:00:3C:91:00:04"))]);
    let moved = merge_json(&bags, &moved, &every_nic()).expect("merged");
    assert_eq!(keys(&moved, "dhcpentry"), ["10.1.1.99", "10.1.2.20"]);
    let another = with(add, &[("mac_address", json!("02:00:3c:91:00:99"))]);
    let another = merge_json(&bags, &another, &every_nic()).expect("merged");
    assert_eq!(another.documents()["dhcpentry"]["10.1.1.20"]["mac_address"], "02:00:3c:91:00:99");
    // The one before is removed late: the address is another's by now.
    assert_eq!(merge(&another, "vm_dhcp_entry/remove.json", &every_nic()), another);

    let removed = merge(&bags, "vm_dhcp_entry/remove.json", &every_nic());
    assert_eq!(removed.documents()["dhcpentry"]["10.1.1.20"]["remove"], true);
    let again = merge(&removed, add, &every_nic());
    assert_eq!(again, bags);
    let old_form = r#"{"type":"dhcpentry","add":false,"ipv4_address":"10.1.1.20"}"#;
    let gone = merge_json(&bags, old_form, &every_nic()).expect("merged");
    assert_eq!(keys(&gone, "dhcpentry"), ["10.1.2.20"]);
}

#[test]
fn taking_down_what_is_not_known_stores_nothing() {
    for (create, delete) in [
        ("site_2_site_vpn/create.json", "site_2_site_vpn/delete.json"),
        ("remote_access_vpn/isolated_create.json", "remote_access_vpn/isolated_delete.json"),
    ] {
        assert_eq!(merge_all(&[delete], &every_nic()), Databags::default(), "{delete}");
        assert_eq!(merge_all(&[create, delete], &every_nic()), Databags::default(), "{delete}");
    }
    let others = ["site_2_site_vpn/create_no_pfs_encap.json", "remote_access_vpn/vpc_create.json"];
    let bags = merge_all(&others, &every_nic());
    assert_eq!(merge(&bags, "site_2_site_vpn/delete.json", &every_nic()), bags);
    assert_eq!(merge(&bags, "remote_access_vpn/isolated_delete.json", &every_nic()), bags);
    // For that, nothing but the key is needed.
    let bare = r#"{"type":"site2sitevpn","create":false,"peer_gateway_ip":"198.51.100.202"}"#;
    assert_eq!(keys(&merge_json(&bags, bare, &every_nic()).expect("merged"), "site2sitevpn").len(), 0);
}

#[test]
fn vpn_users_stay_as_they_are_until_they_go() {
    let users = |list: &[(&str, &str, bool)]| {
        let users =
            list.iter().map(|(user, password, add)| json!({"user": user, "password": password, "add": add}));
        json!({"type": "vpnuserlist", "vpn_users": users.collect::<Vec<_>>()}).to_string()
    };
    let merge = |bags: &Databags, list: &[(&str, &str, bool)]| {
        merge_json(bags, &users(list), &every_nic()).expect("merged")
    };
    let password = |bags: &Databags| bags.documents()["vpnuserlist"]["bob"]["password"].clone();
    let bags = merge(&Databags::default(), &[("bob", "one", true)]);
    assert_eq!(merge(&bags, &[("bob", "two", true)]), bags, "a known one is left alone");
    let gone = merge(&bags, &[("bob", "one", false)]);
    assert_eq!((keys(&gone, "vpnuserlist").len(), said(&gone).len()), (1, 0), "a mark");
    assert_eq!(keys(&merge(&gone, &[]), "vpnuserlist").len(), 0, "which the next message takes");
    assert_eq!(password(&merge(&gone, &[("bob", "two", true)])), "two");
    let change = [("bob", "one", false), ("bob", "two", true)];
    let changed = merge(&bags, &change);
    assert_eq!(password(&changed), "two", "both in one message");
    assert_eq!(merge(&changed, &change), changed);
}

#[test]
fn bgp_peers_are_those_of_the_last_message() {
    let bags = merge_all(
        &["bgp_peers/isolated_dualstack_multihop.json", "bgp_peers/isolated_ipv4.json"],
        &every_nic(),
    );
    assert_eq!(keys(&bags, "bgppeers"), ["1-205"]);
    assert_eq!(bags.documents()["bgppeers"]["1-205"]["ip6_address"], Value::Null);
    assert_eq!(merge(&bags, "bgp_peers/clear_all.json", &every_nic()), Databags::default());
}

#[test]
fn what_is_not_served_is_said_in_a_sentence_for_each_kind() {
    let bags = merge_all(
        &[
            "site_2_site_vpn/create.json",
            "remote_access_vpn/isolated_create.json",
            "vpn_user_list/add_two_remove_one.json",
        ],
        &every_nic(),
    );
    let lack = "stored and not in force: the kernel has no PPP, which L2TP over IPsec needs";
    let expected = [
        format!("remoteaccessvpn.json#: 1 server is {lack}"),
        format!("vpnuserlist.json#: 2 VPN users are {lack}"),
    ];
    assert_eq!(said(&bags), expected);
    assert_eq!(unserved(&bags, None), []);
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    let dhcp = "vm_dhcp_entry/default_nic_add.json";
    let tunnel = "site_2_site_vpn/create.json";
    let server = "remote_access_vpn/isolated_create.json";
    for (name, key, value, message) in [
        (dhcp, "ipv4_address", json!(null), "missing"),
        (dhcp, "ipv4_address", json!("10.1.1"), "\"10.1.1\" is no IPv4 address"),
        (dhcp, "ipv4_address", json!("127.0.0.1"), "127.0.0.1 is no host's address"),
        (dhcp, "mac_address", json!("02:00"), "\"02:00\" is no MAC address"),
        (dhcp, "ipv6_address", json!("10.1.1.1"), "\"10.1.1.1\" is no IPv6 address"),
        (dhcp, "ipv6_duid", json!("00:0x"), "\"00:0x\" is no DUID"),
        (dhcp, "host_name", json!("a b"), "\"a b\" is no name of a host"),
        (dhcp, "host_name", json!(""), "missing"),
        (dhcp, "dns_addresses", json!("10.1.1.1,x"), "\"x\" is no IP address"),
        (dhcp, "default_entry", json!(null), "missing"),
        (dhcp, "remove", json!(1), "expected true or false, found a number"),
        (tunnel, "create", json!(null), "missing"),
        (
            tunnel,
            "peer_gateway_ip",
            json!("198.51.100"),
            "\"198.51.100\" is neither an IPv4 address nor a DNS name",
        ),
        (tunnel, "peer_gateway_ip", json!("0.0.0.0"), "0.0.0.0 is no host's address"),
        (tunnel, "peer_guest_cidr_list", json!(""), "missing"),
        (tunnel, "peer_guest_cidr_list", json!("10.0.0.0/8,"), "\"\" is no IPv4 network"),
        (tunnel, "local_guest_cidr", json!("10.0.0.0/33"), "\"10.0.0.0/33\" is no IPv4 network"),
        (tunnel, "ipsec_psk", json!(""), "missing"),
        (tunnel, "ipsec_psk", json!("a\nb"), "a control character in a secret"),
        (tunnel, "ike_policy", json!("aes256-sha256"), "\"aes256-sha256\" is no policy of this kind"),
        (tunnel, "esp_policy", json!("aes256-sha256,rot13-md5"), "\"rot13-md5\" is no policy of this kind"),
        (tunnel, "ike_version", json!("ikev3"), "\"ikev3\" is none of ike, ikev1, ikev2"),
        (tunnel, "esp_lifetime", json!(0), "0 seconds are no lifetime"),
        (
            server,
            "ip_range",
            json!("10.1.2.8-10.1.2.2"),
            "\"10.1.2.8-10.1.2.2\" is no range of IPv4 addresses",
        ),
        (server, "preshared_key", json!(null), "missing"),
        (server, "local_cidr", json!("x"), "\"x\" is no IPv4 network"),
    ] {
        let error =
            merge_json(&Databags::default(), &with(name, &[(key, value)]), &every_nic()).expect_err(name);
        assert_eq!(error, format!("test.json#/{key}: {message}"));
    }
    let one = |key: &str, item: Value| {
        json!({"type": key, "peers": [item], "vpn_users": [item], "rules": [item]}).to_string()
    };
    let lines =
        |key: &str, line: &str| one("loadbalancer", json!({"configuration": ["global"], key: [line]}));
    for (json, message) in [
        (r#"{"type":"loadbalancer","rules":[]}"#.to_owned(), "/rules: expected one configuration, found 0"),
        (one("loadbalancer", json!({})), "/rules/0/configuration: missing"),
        (
            one("loadbalancer", json!({"configuration": ["a", 1]})),
            "/rules/0/configuration/1: expected text, found a number",
        ),
        (
            lines("add_rules", "203.0.113.11:0:"),
            "/rules/0/add_rules/0: \"203.0.113.11:0:\" is no address and port",
        ),
        (
            lines("stat_rules", "10.1.1.1:8081"),
            "/rules/0/stat_rules/0: \"10.1.1.1:8081\" is no address, port and source networks",
        ),
        (
            one(
                "loadbalancer",
                json!({"configuration": ["global"], "ssl_certs": [{"name": "../x", "cert": "c", "key": "k"}]}),
            ),
            "/rules/0/ssl_certs/0/name: \"../x\" is no name of a file",
        ),
        (
            one("vpnuserlist", json!({"user": "id", "password": "p", "add": true})),
            "/vpn_users/0/user: \"id\" is no user's name",
        ),
        (
            one("vpnuserlist", json!({"user": "bob", "password": "", "add": true})),
            "/vpn_users/0/password: missing",
        ),
        (one("bgppeers", json!({"peer_id": 1})), "/peers/0/network_id: missing"),
        (
            one("bgppeers", json!({"peer_id": 1, "network_id": 2, "peer_as_number": 0})),
            "/peers/0/peer_as_number: 0 is no AS number",
        ),
        (
            one(
                "bgppeers",
                json!({"peer_id": 1, "network_id": 2, "peer_as_number": 1, "network_as_number": 2,
                "details": {"EBGP_MultiHop": "256"}}),
            ),
            "/peers/0/details/EBGP_MultiHop: \"256\" is no number of hops up to 255",
        ),
    ] {
        let error = merge_json(&Databags::default(), &json, &every_nic()).expect_err(&json);
        assert_eq!(error, format!("test.json#{message}"));
    }
}

#[test]
fn unknown_keys_are_warnings_and_are_kept() {
    let message = with("vm_dhcp_entry/default_nic_add.json", &[("lease_time", json!(3600))]);
    let parsed = Command::parse("f", message.as_bytes()).expect("tolerated");
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["f#/lease_time: unknown key, ignored"]);
    let bags = Databags::default().merge(&parsed.command, &every_nic()).expect("merged");
    assert_eq!(bags.documents()["dhcpentry"]["10.1.1.20"]["lease_time"], 3600);
}
