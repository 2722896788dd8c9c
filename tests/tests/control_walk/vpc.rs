//! VPCs.

use router_userspace::cloudstack::{Command, Databags, desired, notices};
use router_userspace::error::ConfigError;
use router_userspace::model::{Mac, SourceNat};

use super::{
    VPC, assert_bag, bytes, isolated, lines_of, merge, merge_all, merge_json, nics, parse, refusal, vpc,
};

#[test]
fn a_vpc_boots_gets_addresses_tiers_a_private_gateway_and_routes() {
    let inventory = vpc();
    let mut bags = merge_all(&VPC, &inventory);
    assert_bag(&bags, "cmdline", "cmdline.vpcrouter.json");
    assert_bag(&bags, "ips", "ips.vpcrouter.json");
    assert_bag(&bags, "guestnetwork", "guestnetwork.vpcrouter.json");
    for name in [
        "guest_network/vpc_second_tier_add.json",
        "ip_associations/vpc_private_gateway_add.json",
        "static_routes/add_two_revoke_one.json",
        "static_routes/v4_21_next_hop_no_private_gateway.json",
    ] {
        bags = merge(&bags, name, &inventory);
        assert_eq!(merge(&bags, name, &inventory), bags, "{name}");
    }
    let ports = [
        "eth0 eth0 control 169.254.1.177/16 mtu -",
        "eth1 1e:00:a8:00:00:31 public 203.0.113.30/24,203.0.113.31/24 mtu 1500 nat 203.0.113.30",
        "eth2 02:01:00:db:00:2b guest 10.10.1.1/24 mtu 1500",
        "eth3 02:01:00:de:00:2c guest 10.10.2.1/24 mtu 1500",
        "eth4 02:01:01:2c:00:07 private-gateway 192.168.200.2/24 mtu 1500",
        "0.0.0.0/0 via 203.0.113.1 dev eth1",
        "172.28.0.0/16 via 10.10.1.50",
        "172.30.0.0/16 via 192.168.200.1",
        "172.31.4.0/24 via 192.168.200.1",
        "10.10.0.0/16 to nobody",
    ];
    assert_eq!(lines_of(&bags), ports);
    assert_eq!(bags.documents()["staticroutes"]["172.29.0.0/16"]["revoke"], true);

    let bags = merge(&bags, "static_routes/revoke.json", &inventory);
    let removed = merge(&bags, "guest_network/vpc_tier_remove.json", &inventory);
    assert_eq!(removed.documents()["guestnetwork"]["eth2"], serde_json::json!([]));
    assert_eq!(removed.documents()["ips"]["eth2"][0]["add"], false);
    let left = [ports[0], ports[1], ports[3], ports[4], ports[5], ports[8], ports[9]];
    assert_eq!(lines_of(&removed), left);
    let places: Vec<String> = notices(&removed).expect("valid").iter().map(ToString::to_string).collect();
    assert_eq!(
        places,
        ["staticroutes.json#/172.28.0.0~116/gateway: not in force: no port reaches 10.10.1.50"]
    );

    let again = merge(&removed, "guest_network/vpc_tier_add.json", &inventory);
    assert_eq!(lines_of(&again), [&ports[..7], &ports[8..]].concat());
}

#[test]
fn removing_an_unknown_tier_changes_nothing() {
    let bags = merge_all(&VPC[..3], &vpc());
    assert_eq!(merge(&bags, "guest_network/vpc_tier_remove.json", &vpc()), bags);
}

#[test]
fn a_tier_sent_again_with_other_values_is_updated_in_place() {
    let inventory = vpc();
    let bags = merge_all(&VPC, &inventory);
    let message = String::from_utf8(bytes("guest_network/vpc_tier_add.json")).expect("UTF-8");
    let changed = message
        .replace("\"mtu\":1500", "\"mtu\":1400")
        .replace("8.8.8.8,", "")
        .replace("10.10.1.1\"", "10.10.1.2\"");
    let updated = merge_json(&bags, &changed, &inventory).expect("merged");
    let documents = updated.documents();
    assert_eq!(documents["guestnetwork"]["eth2"].as_array().map(Vec::len), Some(1));
    assert_eq!(documents["guestnetwork"]["eth2"][0]["dns"], "8.8.4.4");
    assert_eq!(documents["ips"]["eth2"].as_array().map(Vec::len), Some(1));
    assert_eq!(lines_of(&updated)[2], "eth2 02:01:00:db:00:2b guest 10.10.1.2/24 mtu 1400");
    assert_eq!(merge_json(&updated, &message, &inventory), Ok(bags));
}

#[test]
fn the_nic_with_the_mac_address_counts_whatever_number_the_message_says() {
    let renamed = nics(&[("eth1", "02:01:00:db:00:2b"), ("eth7", "1e:00:a8:00:00:31")]);
    let bags = merge_all(&VPC, &renamed);
    assert_eq!(bags.documents()["ips"]["eth7"][0]["device"], "eth7");
    assert_eq!(
        lines_of(&bags)[1..],
        [
            "eth1 02:01:00:db:00:2b guest 10.10.1.1/24 mtu 1500",
            "eth7 1e:00:a8:00:00:31 public 203.0.113.30/24,203.0.113.31/24 mtu 1500 nat 203.0.113.30",
            "0.0.0.0/0 via 203.0.113.1 dev eth7",
            "10.10.0.0/16 to nobody",
        ]
    );
    // After a reboot the kernel names them the other way round; the next command follows.
    let back = merge(&bags, "ip_associations/empty_list.json", &vpc());
    assert_eq!(lines_of(&back), lines_of(&merge_all(&VPC, &vpc())));
    assert_eq!(back.documents()["guestnetwork"]["eth2"][0]["device"], "eth2");
}

#[test]
fn a_mac_address_that_no_nic_has_is_refused_where_it_stands() {
    let bags = merge_all(&VPC[..1], &vpc());
    let inventory = nics(&[("eth0", "0e:00:a9:fe:01:b1")]);
    for (name, mac, path) in [
        ("ip_associations/vpc_add_source_nat.json", "1e:00:a8:00:00:31", "/ip_address/0/vif_mac_address"),
        ("guest_network/vpc_tier_add.json", "02:01:00:db:00:2b", "/mac_address"),
    ] {
        let command = parse(name);
        assert_eq!(command.absent_nics(&inventory.index()), [mac.parse::<Mac>().expect("a MAC address")]);
        let error = bags.merge(&command, &inventory).expect_err(name).to_string();
        assert_eq!(error, format!("{name}#{path}: no NIC has the address {mac}"));
    }
}

#[test]
fn a_dual_stack_tier_brings_the_public_address_too() {
    let names = [VPC[0], VPC[1], "guest_network/vpc_tier_add_dualstack.json"];
    assert_eq!(
        lines_of(&merge_all(&names, &vpc()))[1..],
        [
            "eth1 1e:00:a8:00:00:31 public 203.0.113.30/24,2001:db8:100:0:1e00:a8ff:fe00:31/64 mtu 1500 nat 203.0.113.30",
            "eth2 02:01:00:db:00:2b guest 10.10.1.1/24,fd17:ac56:1234:10::1/64 mtu 1500",
            "0.0.0.0/0 via 203.0.113.1 dev eth1",
            "::/0 via 2001:db8:100::1 dev eth1",
            "10.10.0.0/16 to nobody",
        ]
    );
}

#[test]
fn the_router_takes_its_own_address_in_a_tier_and_not_the_gateways() {
    for (tier, address) in [
        ("guest_network/vpc_tier_add_vr_not_gateway.json", "10.10.1.5/24"),
        ("guest_network/vpc_tier_add_redundant.json", "10.10.1.248/24"),
        ("guest_network/vpc_tier_add_4_19.json", "10.10.1.1/24"),
        ("guest_network/vpc_tier_add_4_20.json", "10.10.1.1/24"),
    ] {
        let bags = merge_all(&[VPC[0], VPC[1], tier], &vpc());
        assert_eq!(lines_of(&bags)[2], format!("eth2 02:01:00:db:00:2b guest {address} mtu 1500"), "{tier}");
    }
    let message = String::from_utf8(bytes("guest_network/vpc_tier_add_vr_not_gateway.json")).expect("UTF-8");
    let error = Command::parse("g.json", message.replace("1.5", "1.1").as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "g.json#/router_guest_ip: 10.10.1.1 is the gateway's, which is not the router here");
}

#[test]
fn a_vpc_without_a_public_network_leaves_by_the_oldest_tier() {
    let inventory = vpc();
    let boot = merge_all(&["cmd_line/vpcrouter_4_21_no_public.json"], &inventory);
    let range = "10.60.0.0/16 to nobody";
    assert_eq!(lines_of(&boot), ["eth0 eth0 control 169.254.1.182/16 mtu -", range]);
    let second = merge(&boot, "guest_network/vpc_second_tier_add.json", &inventory);
    let own_gateway = [
        "eth0 eth0 control 169.254.1.182/16 mtu -",
        "eth3 02:01:00:de:00:2c guest 10.10.2.1/24 mtu 1500",
        range,
    ];
    assert_eq!(lines_of(&second), own_gateway);
    let both = merge(&second, "guest_network/vpc_tier_add_vr_not_gateway.json", &inventory);
    assert!(lines_of(&both).ends_with(&["0.0.0.0/0 via 10.10.1.1 dev eth2".to_owned(), range.to_owned()]));
}

#[test]
fn what_of_a_vpcs_range_nobody_has_is_nowhere() {
    let boot = String::from_utf8(bytes("cmd_line/vpcrouter.json")).expect("UTF-8");
    let range = "\"vpccidr\": \"10.10.0.0/16\"";
    assert!(boot.contains(range));
    let routes = |text: &str| {
        let command = Command::parse("cmd_line.json", boot.replace(range, text).as_bytes())?.command;
        let bags = Databags::default().merge(&command, &vpc())?;
        let bags = merge(&merge(&bags, VPC[1], &vpc()), VPC[2], &vpc());
        let is_route = |line: &String| line.contains(" via ") || line.ends_with(" to nobody");
        Ok::<_, ConfigError>(lines_of(&bags).into_iter().filter(is_route).collect::<Vec<_>>())
    };
    let default = "0.0.0.0/0 via 203.0.113.1 dev eth1";
    for (text, nowhere) in [
        ("\"vpccidr\": \"10.10.9.1/16\"", Some("10.10.0.0/16 to nobody")),
        // As wide as the only tier, whose own route comes first.
        ("\"vpccidr\": \"10.10.1.0/24\"", Some("10.10.1.0/24 to nobody")),
        ("\"vpccidr\": \"null\"", None),
        ("\"vpccidr\": null", None),
    ] {
        let expected: Vec<&str> = [default].into_iter().chain(nowhere).collect();
        assert_eq!(routes(text).expect("taken"), expected, "{text}");
    }
    let error = routes("\"vpccidr\": \"10.10.0.0/40\"").expect_err("refused").to_string();
    assert_eq!(error, "cmd_line.json#/cmd_line/vpccidr: \"10.10.0.0/40\" is no IPv4 network");
}

#[test]
fn source_nat_of_a_vpc_is_marked_or_of_the_boot_line_or_the_ports_own() {
    let inventory = vpc();
    let unmarked = |address: &str, nic: u8| {
        format!(
            r#"{{"type":"ips","ip_address":[{{"public_ip":"{address}","netmask":"24","add":true,"nic_dev_id":{nic}}}]}}"#
        )
    };
    let nat = |messages: &[String], port: &str| {
        let boot = merge_all(&VPC[..1], &inventory);
        let bags =
            messages.iter().fold(boot, |bags, json| merge_json(&bags, json, &inventory).expect("merged"));
        let state = desired(&bags).expect("valid");
        state.ports.iter().find(|found| found.name == port).expect("a port").source_nat
    };
    let to = |text: &str| SourceNat::To(text.parse().expect("an address"));
    assert_eq!(nat(&[unmarked("203.0.113.31", 1), unmarked("203.0.113.30", 1)], "eth1"), to("203.0.113.30"));
    assert_eq!(nat(&[unmarked("198.51.100.7", 2), unmarked("198.51.100.8", 2)], "eth2"), to("198.51.100.7"));

    let gateway = |name| lines_of(&merge_all(&[VPC[0], VPC[1], name], &inventory))[2].clone();
    let plain = "eth4 02:01:01:2c:00:07 private-gateway 192.168.200.2/24 mtu 1500";
    assert_eq!(gateway("ip_associations/vpc_private_gateway_add.json"), plain);
    let marked = gateway("ip_associations/vpc_private_gateway_add_source_nat.json");
    assert_eq!(marked, format!("{plain} nat 192.168.200.2"));

    let routed = merge_all(&["cmd_line/vpcrouter_routed.json", VPC[1]], &inventory);
    assert_eq!(lines_of(&routed)[1], "eth1 1e:00:a8:00:00:31 public 203.0.113.30/24 mtu 1500");
}

#[test]
fn contradictions_are_refused_where_they_stand() {
    let inventory = vpc();
    let bags = merge_all(&VPC, &inventory);
    let second = String::from_utf8(bytes("guest_network/vpc_second_tier_add.json")).expect("UTF-8");

    let overlapping = second.replace("10.10.2.1", "10.10.1.129").replace("255.255.255.0", "255.255.255.128");
    let overlapping = merge_json(&bags, &overlapping, &inventory).expect("merged");
    assert_eq!(
        refusal(&overlapping),
        "guestnetwork.json#/eth3/0/router_guest_ip: the tier's 10.10.1.128/25 overlaps 10.10.1.0/24 of eth2"
    );

    let stolen = second.replace("10.10.2.1", "203.0.113.30");
    assert_eq!(
        merge_json(&bags, &stolen, &inventory).unwrap_err(),
        "test.json#/router_guest_ip: 203.0.113.30 is the address of eth1, a public NIC"
    );

    let on_tier =
        String::from_utf8(bytes(VPC[1])).expect("UTF-8").replace("1e:00:a8:00:00:31", "02:01:00:de:00:2c");
    let on_tier = on_tier.replace("203.0.113.30", "203.0.113.77");
    let both = merge_json(&merge_json(&bags, &second, &inventory).expect("merged"), &on_tier, &inventory);
    assert_eq!(
        refusal(&both.expect("merged")),
        "guestnetwork.json#/eth3/0: eth3 is a public NIC, it cannot be a tier's"
    );

    let off_link =
        String::from_utf8(bytes(VPC[1])).expect("UTF-8").replace("\"203.0.113.1\"", "\"203.0.114.1\"");
    let off_link = merge_json(&merge_all(&VPC[..1], &inventory), &off_link, &inventory).expect("merged");
    assert_eq!(
        refusal(&off_link),
        "ips.json#/eth1/0/gateway: the gateway 203.0.114.1 is in no network of eth1"
    );

    let headless = merge_all(&VPC[1..2], &inventory);
    assert_eq!(
        refusal(&headless),
        "cmdline.json#/config: missing: there is no boot line yet, send cmd_line.json first"
    );
    let tier_of_isolated = merge_all(&["cmd_line/router_isolated.json"], &isolated());
    let tier = merge_json(&tier_of_isolated, &second, &inventory).expect("merged");
    assert_eq!(
        refusal(&tier),
        "guestnetwork.json#/eth3/0: a tier, but the boot line's type is not vpcrouter"
    );
}
