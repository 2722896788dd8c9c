//! A shared network: addresses in further subnets.

use router_userspace::cloudstack::Databags;
use serde_json::json;

use super::{VPC, every_nic, lines_of, merge, merge_all, merge_json, nics, vpc};

const SHARED: &str = "cmd_line/dhcpsrvr_shared.json";

fn aliases(address: &str, revoke: bool) -> String {
    let alias = json!({"ip_address": address, "netmask": "255.255.255.0", "revoke": revoke, "count": 1});
    json!({"type": "ipaliases", "aliases": [alias]}).to_string()
}

#[test]
fn aliases_are_addresses_of_the_guest_nic_until_they_are_revoked() {
    let bags = merge_all(&[SHARED, "ip_aliases/create.json"], &every_nic());
    let expected = json!({"add": true, "broadcast": "10.20.1.255", "cidr": "10.20.1.2/24", "device": "eth0",
        "netmask": "255.255.255.0", "network": "10.20.1.0/24", "nic_dev_id": "0", "nw_type": "guest",
        "public_ip": "10.20.1.2", "size": "24"});
    assert_eq!(bags.documents()["ips"]["eth0"][1], expected);
    let guest = |addresses: &str| format!("eth0 eth0 guest {addresses} mtu 1500");
    assert_eq!(lines_of(&bags)[0], guest("10.20.0.2/24,10.20.1.2/24,10.20.2.2/24"));
    // The boot line comes again, and takes nothing away.
    assert_eq!(merge(&bags, SHARED, &every_nic()), bags);

    let fewer = merge(&bags, "ip_aliases/delete_one_keep_one.json", &every_nic());
    assert_eq!(lines_of(&fewer)[0], guest("10.20.0.2/24,10.20.2.2/24"));
    assert_eq!(merge(&fewer, "ip_aliases/delete_one_keep_one.json", &every_nic()), fewer);
    let again = merge(&fewer, "ip_aliases/create.json", &every_nic());
    assert_eq!(lines_of(&again)[0], guest("10.20.0.2/24,10.20.2.2/24,10.20.1.2/24"));
}

#[test]
fn an_alias_takes_no_address_from_anything_else() {
    let bags = merge_all(&[SHARED], &every_nic());
    let refused = |bags: &Databags, address: &str, revoke: bool| {
        let error = merge_json(bags, &aliases(address, revoke), &every_nic()).expect_err("refused");
        error.strip_prefix("test.json#/aliases/0/ip_address: ").expect("the place").to_owned()
    };
    for revoke in [false, true] {
        assert_eq!(refused(&bags, "10.20.0.2", revoke), "10.20.0.2 is the NIC's own address");
    }
    assert_eq!(refused(&Databags::default(), "10.20.1.2", false), "no NIC is a guest NIC");
    let empty = merge_json(&Databags::default(), &aliases("10.20.1.2", true), &every_nic());
    assert_eq!(empty, Ok(Databags::default()));

    let isolated = merge_all(
        &["cmd_line/router_isolated.json", "ip_associations/isolated_add_extra_ips_same_vlan.json"],
        &super::isolated(),
    );
    assert_eq!(
        refused(&isolated, "203.0.113.11", false),
        "203.0.113.11 is the address of eth2, a public NIC"
    );
    assert_eq!(
        refused(&merge_all(&VPC, &vpc()), "10.10.3.1", false),
        "the tiers of a VPC have one address each"
    );
}

#[test]
fn aliases_stay_on_the_nic_that_the_boot_line_names() {
    let named = nics(&[("eth0", "02:00:00:00:00:01"), ("eth1", "02:00:00:00:00:02")]);
    let bags = merge_all(&[SHARED, "ip_aliases/create.json"], &named);
    assert_eq!(bags.documents()["ips"]["eth0"].as_array().map(Vec::len), Some(3));
    assert_eq!(bags.documents()["ips"]["eth1"].as_array().map(Vec::len), Some(1));
}
