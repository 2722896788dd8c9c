//! Isolated and shared networks.

use super::{assert_bag, every_nic, isolated, lines_of, merge, merge_all, merge_json, nics};

#[test]
fn an_isolated_network_boots_and_gets_addresses() {
    let inventory = isolated();
    let boot = merge_all(&["cmd_line/router_isolated.json"], &inventory);
    assert_bag(&boot, "ips", "ips.after_boot.router_isolated.json");
    let bags = merge(&boot, "ip_associations/isolated_add_extra_ips_same_vlan.json", &inventory);
    assert_bag(&bags, "ips", "ips.after_ipassoc.router_isolated.json");
    assert_eq!(
        lines_of(&bags),
        [
            "eth0 eth0 guest 10.1.1.1/24 mtu 1500",
            "eth1 eth1 control 169.254.100.12/16 mtu -",
            "eth2 1e:00:d1:00:00:21 public 203.0.113.10/24,203.0.113.11/24,203.0.113.12/24 mtu 1500 nat 203.0.113.10",
            "0.0.0.0/0 via 203.0.113.1 dev eth2",
        ]
    );
    // The boot line waits in the cache and is merged again by the next command.
    assert_eq!(merge(&bags, "cmd_line/router_isolated.json", &inventory), bags);
    let resent = merge(&bags, "ip_associations/isolated_enable_static_nat_ip.json", &inventory);
    assert_eq!(resent, bags);
}

#[test]
fn a_released_address_stays_in_the_bag_and_leaves_the_port() {
    let inventory = isolated();
    let names = [
        "cmd_line/router_isolated.json",
        "ip_associations/isolated_add_extra_ips_same_vlan.json",
        "ip_associations/isolated_remove_ip.json",
    ];
    let bags = merge_all(&names, &inventory);
    assert_eq!(bags.documents()["ips"]["eth2"][2]["public_ip"], "203.0.113.11");
    assert_eq!(bags.documents()["ips"]["eth2"][2]["add"], false);
    let eth2 = "eth2 1e:00:d1:00:00:21 public 203.0.113.10/24,203.0.113.12/24 mtu 1500 nat 203.0.113.10";
    assert_eq!(lines_of(&bags)[2], eth2);
}

#[test]
fn a_second_public_nic_translates_to_its_own_address_and_goes_with_its_last_one() {
    let inventory = isolated();
    let names = [
        "cmd_line/router_isolated.json",
        "ip_associations/isolated_add_source_nat.json",
        "ip_associations/isolated_add_second_public_vlan_new_nic.json",
    ];
    let bags = merge_all(&names, &inventory);
    let eth3 = "eth3 1e:00:d1:00:00:5f public 198.51.100.20/25 mtu 1500 nat 198.51.100.20";
    assert_eq!(lines_of(&bags)[3], eth3);

    // The hypervisor may have unplugged it already.
    let unplugged = nics(&[("eth0", "02:00:3c:91:00:01"), ("eth2", "1e:00:d1:00:00:21")]);
    let bags = merge(&bags, "ip_associations/isolated_remove_only_flags_quirk.json", &unplugged);
    assert_eq!(bags.documents()["ips"]["eth3"][0]["add"], false);
    assert!(!lines_of(&bags).iter().any(|line| line.starts_with("eth3")));
}

#[test]
fn a_mark_does_not_move_an_isolated_networks_source_nat_from_the_boot_address() {
    let inventory = isolated();
    let bags = merge_all(&["cmd_line/router_isolated.json"], &inventory);
    let json = r#"{"type":"ips","ip_address":[{"public_ip":"203.0.113.11","netmask":"255.255.255.0","add":true,
        "source_nat":true,"nic_dev_id":2}]}"#;
    let bags = merge_json(&bags, json, &inventory).expect("merged");
    let eth2 = "eth2 eth2 public 203.0.113.11/24,203.0.113.10/24 mtu 1500 nat 203.0.113.10";
    assert_eq!(lines_of(&bags)[2], eth2);
}

#[test]
fn isolated_networks_come_dual_stack_routed_redundant_and_by_mac() {
    let one = |name: &str| lines_of(&merge_all(&[name], &every_nic()));
    assert_eq!(
        one("cmd_line/router_isolated_dualstack.json"),
        [
            "eth0 eth0 guest 10.1.1.1/24,fd17:ac56:1234:20::1/64 mtu 1500",
            "eth1 eth1 control 169.254.100.13/16 mtu -",
            "eth2 eth2 public 203.0.113.14/24,2001:db8:100:0:1e00:d1ff:fe00:22/64 mtu 1500 nat 203.0.113.14",
            "0.0.0.0/0 via 203.0.113.1 dev eth2",
            "::/0 via 2001:db8:100::1 dev eth2",
        ]
    );
    assert_eq!(one("cmd_line/router_isolated_routed.json")[2], "eth2 eth2 public 203.0.113.16/24 mtu 1500");
    assert_eq!(one("cmd_line/router_isolated_redundant.json")[0], "eth0 eth0 guest 10.1.1.92/24 mtu 1500");
    assert_eq!(
        one("cmd_line/router_isolated_vmware.json"),
        [
            "eth0 02:00:3c:91:00:01 guest 10.1.1.1/24 mtu 1500",
            "eth1 02:00:3d:10:00:02 control 10.0.41.155/20 mtu -",
            "eth2 1e:00:d1:00:00:21 public 203.0.113.10/24 mtu 1500 nat 203.0.113.10",
            "0.0.0.0/0 via 203.0.113.1 dev eth2",
        ]
    );
    assert_eq!(
        one("cmd_line/dhcpsrvr_shared.json"),
        [
            "eth0 eth0 guest 10.20.0.2/24 mtu 1500",
            "eth1 eth1 control 169.254.2.44/16 mtu -",
            "0.0.0.0/0 via 10.20.0.1 dev eth0",
        ]
    );
}
