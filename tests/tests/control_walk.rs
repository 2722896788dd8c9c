//! The control walk up to the desired state: CloudStack's own messages, in the order in which it
//! sends them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use router_userspace::cloudstack::{Command, Databags, Parsed, desired, from_boot_line, notices};
use router_userspace::compile::{Driver, Inventory, Nic};
use router_userspace::model::{DesiredState, Mac, RouteTarget, SourceNat};
use serde_json::Value;

/// Folders of messages that this release applies.
const APPLIED: [&str; 4] = ["cmd_line", "ip_associations", "guest_network", "static_routes"];

const FIXTURE_NICS: [(&str, &str); 9] = [
    ("eth0", "02:00:3c:91:00:01"),
    ("eth1", "1e:00:a8:00:00:31"),
    ("eth2", "1e:00:d1:00:00:21"),
    ("eth2", "02:01:00:db:00:2b"),
    ("eth3", "1e:00:d1:00:00:5f"),
    ("eth3", "02:01:00:de:00:2c"),
    ("eth4", "02:01:01:2c:00:07"),
    ("eth1", "02:00:3d:10:00:02"),
    ("eth5", "02:00:00:00:00:05"),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cloudstack").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(folder(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All JSON files of a folder, with names relative to the fixtures.
fn fixtures(name: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder(name)).expect("fixtures are there");
    let names = files.map(|file| file.expect("readable").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.filter(|file| file.ends_with(".json")).collect();
    names.sort();
    assert!(!names.is_empty(), "no fixtures in {name}");
    names.into_iter().map(|file| format!("{name}/{file}")).map(|file| (file.clone(), bytes(&file))).collect()
}

fn nics(macs: &[(&str, &str)]) -> Inventory {
    let nics = macs.iter().zip(2..).map(|((name, mac), ifindex)| Nic {
        ifindex,
        name: (*name).to_owned(),
        mac: mac.parse().expect("a MAC address"),
        mtu: 1500,
        up: true,
        driver: Driver::Veth,
        takes_xdp_frames: Some(true),
    });
    Inventory { nics: nics.collect() }
}

fn isolated() -> Inventory {
    nics(&[
        ("eth0", "02:00:3c:91:00:01"),
        ("eth1", "02:00:3d:10:00:02"),
        ("eth2", "1e:00:d1:00:00:21"),
        ("eth3", "1e:00:d1:00:00:5f"),
    ])
}

fn vpc() -> Inventory {
    nics(&[
        ("eth0", "0e:00:a9:fe:01:b1"),
        ("eth1", "1e:00:a8:00:00:31"),
        ("eth2", "02:01:00:db:00:2b"),
        ("eth3", "02:01:00:de:00:2c"),
        ("eth4", "02:01:01:2c:00:07"),
    ])
}

/// Whatever a fixture asks for is there.
fn every_nic() -> Inventory {
    nics(&FIXTURE_NICS)
}

fn parse(name: &str) -> Command {
    let Parsed { command, warnings } = Command::parse(name, &bytes(name)).expect(name);
    assert_eq!(warnings, [], "{name}");
    command
}

fn merge(bags: &Databags, name: &str, inventory: &Inventory) -> Databags {
    bags.merge(&parse(name), inventory).unwrap_or_else(|error| panic!("{error}"))
}

fn merge_all(names: &[&str], inventory: &Inventory) -> Databags {
    names.iter().fold(Databags::default(), |bags, name| {
        let bags = merge(&bags, name, inventory);
        assert_eq!(merge(&bags, name, inventory), bags, "{name} twice changes something");
        bags
    })
}

fn merge_json(bags: &Databags, json: &str, inventory: &Inventory) -> Result<Databags, String> {
    let parsed = Command::parse("test.json", json.as_bytes()).map_err(|error| error.to_string())?;
    bags.merge(&parsed.command, inventory).map_err(|error| error.to_string())
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&bytes(&format!("_databags/{name}"))).expect("valid JSON")
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("serializable")
}

fn assert_bag(bags: &Databags, bag: &str, fixture: &str) {
    assert_eq!(pretty(&bags.documents()[bag]), pretty(&expected(fixture)), "{fixture}");
}

/// The desired state as text, a line for each port and route.
fn lines(state: &DesiredState) -> Vec<String> {
    let ports = state.ports.iter().map(|port| {
        let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
        let mtu = port.mtu.map_or("-".to_owned(), |mtu| mtu.to_string());
        let nat = match port.source_nat {
            SourceNat::Off => String::new(),
            SourceNat::To(address) => format!(" nat {address}"),
        };
        let role = port.role.label();
        format!("{} {} {role} {} mtu {mtu}{nat}", port.name, port.selector, addresses.join(","))
    });
    let routes = state.routes.iter().map(|route| match &route.target {
        RouteTarget::Gateway(gateway) => format!("{} via {gateway}", route.destination),
        RouteTarget::GatewayOnPort(gateway, port) => {
            format!("{} via {gateway} dev {port}", route.destination)
        }
    });
    ports.chain(routes).collect()
}

fn lines_of(bags: &Databags) -> Vec<String> {
    lines(&desired(bags).unwrap_or_else(|error| panic!("{error}")))
}

fn refusal(bags: &Databags) -> String {
    desired(bags).expect_err("refused").to_string()
}

#[test]
fn every_fixture_of_the_applied_types_is_read_without_a_warning_and_merged() {
    for (name, _) in APPLIED.iter().flat_map(|folder| fixtures(folder)) {
        let command = parse(&name);
        let inventory = every_nic();
        assert_eq!(command.absent_nics(&inventory), [], "{name}");
        let once = Databags::default().merge(&command, &inventory).unwrap_or_else(|error| panic!("{error}"));
        let twice = once.merge(&command, &inventory).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(once, twice, "{name}");
    }
}

#[test]
fn every_boot_line_says_what_its_json_says() {
    for (name, _) in fixtures("cmd_line") {
        let line = String::from_utf8(bytes(&name.replace(".json", ".cmdline.txt"))).expect("UTF-8");
        let from_line = Command::CmdLine(from_boot_line("cmdline", &line).expect(&name));
        let (inventory, bags) = (every_nic(), Databags::default());
        let from_line = bags.merge(&from_line, &inventory).expect(&name);
        assert_eq!(from_line, merge(&bags, &name, &inventory), "{name}");
        lines_of(&from_line);
    }
}

#[test]
fn types_that_this_release_does_not_apply_are_refused_by_name() {
    let others = ["network_acl", "firewall_rules", "vm_metadata", "load_balancer", "ip_aliases"];
    for (name, bytes) in others.iter().flat_map(|folder| fixtures(folder)) {
        let command = Command::parse(&name, &bytes).expect(&name).command;
        let type_name = command.type_name().to_owned();
        assert!(matches!(command, Command::Unsupported { .. }), "{name}");
        let error = Databags::default().merge(&command, &every_nic()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{name}#/type: type {type_name} is not supported by this release")
        );
    }
}

#[test]
fn an_unknown_type_is_a_warning_and_changes_nothing() {
    let bags = merge_all(&["cmd_line/router_isolated.json"], &isolated());
    for (name, type_name) in
        [("_invalid/unknown_type.json", "somethingnew"), ("dhcp/multiple_ranges.json", "dhcpconfig")]
    {
        let parsed = Command::parse(name, &bytes(name)).expect(name);
        let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, [format!("{name}#/type: type {type_name:?} is not known, nothing is stored")]);
        assert_eq!(bags.merge(&parsed.command, &isolated()), Ok(bags.clone()));
    }
}

#[test]
fn invalid_files_are_refused_with_file_and_place() {
    let error = |name: &str| Command::parse(name, &bytes(name)).expect_err(name).to_string();
    assert_eq!(error("_invalid/no_type.json"), "_invalid/no_type.json#/type: missing");
    assert_eq!(
        error("_invalid/truncated.json"),
        "_invalid/truncated.json#: no valid JSON: EOF while parsing a string at line 1 column 58"
    );
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    let ip = r#""public_ip":"203.0.113.10","netmask":"255.255.255.0","add":true"#;
    let tier = r#""type":"guestnetwork","add":true,"device":"eth2","router_guest_netmask":"255.255.255.0""#;
    let ips = |entry: &str| format!(r#"{{"type":"ips","ip_address":[{{{ip}}},{{{entry}}}]}}"#);
    for (json, message) in [
        ("[]".to_owned(), ": expected an object, found a list"),
        (r#"{"type":["ips"]}"#.to_owned(), "/type: expected text, found a list"),
        (r#"{"type":"ips"}"#.to_owned(), "/ip_address: missing"),
        (r#"{"type":"ips","ip_address":{}}"#.to_owned(), "/ip_address: expected a list, found an object"),
        (r#"{"type":"ips","ip_address":["a"]}"#.to_owned(), "/ip_address/0: expected an object, found text"),
        (ips(r#""add":true"#), "/ip_address/1/public_ip: missing"),
        (ips(&ip.replace(".10", ".256")), "/ip_address/1/public_ip: \"203.0.113.256\" is no IPv4 address"),
        (ips(&ip.replace("203.0.113.10", "224.0.0.1")), "/ip_address/1/public_ip: 224.0.0.1 is no host's address"),
        (ips(&ip.replace("255.255.255.0", "255.0.255.0")), "/ip_address/1/netmask: \"255.0.255.0\" is no netmask"),
        (ips(&ip.replace("true", "1")), "/ip_address/1/add: expected true or false, found a number"),
        (ips(&ip.replace("true", "null")), "/ip_address/1/add: missing"),
        (ips(&format!(r#"{ip},"vif_mac_address":"1e:00:d1""#)), "/ip_address/1/vif_mac_address: \"1e:00:d1\" is no MAC address"),
        (ips(&format!(r#"{ip},"nic_dev_id":-1"#)), "/ip_address/1/nic_dev_id: \"-1\" is no number of a NIC"),
        (ips(&format!(r#"{ip},"nw_type":"storage""#)), "/ip_address/1/nw_type: \"storage\" is none of public, guest, control"),
        (ips(&format!(r#"{ip},"mtu":70000"#)), "/ip_address/1/mtu: \"70000\" is no MTU"),
        (ips(&format!(r#"{ip},"mtu":"67""#)), "/ip_address/1/mtu: an MTU of 67 is below 68"),
        (format!("{{{tier}}}"), "/router_guest_ip: missing"),
        (format!(r#"{{{tier},"router_guest_ip":"10.10.1.1","router_guest_ip6":"fd00::1"}}"#), "/router_guest_ip6_cidr: missing"),
        (format!(r#"{{{tier},"router_guest_ip":"10.10.1.1","router_guest_ip6":"fd00::1","cidr6":129}}"#), "/cidr6: prefix length 129 exceeds 128"),
        (r#"{"type":"staticroutes","routes":[{"revoke":false,"gateway":"10.1.1.1","network":"172.30.0.0/33"}]}"#.to_owned(), "/routes/0/network: \"172.30.0.0/33\" is no network"),
        (r#"{"type":"staticroutes","routes":[{"revoke":false,"gateway":"fd00::1","network":"172.30.0.0/16"}]}"#.to_owned(), "/routes/0/gateway: fd00::1 is not of the family of 172.30.0.0/16"),
        (r#"{"type":"cmdline"}"#.to_owned(), "/cmd_line: missing"),
        (r#"{"type":"cmdline","cmd_line":{"type":"router","publicMtu":"big"}}"#.to_owned(), "/cmd_line/publicMtu: \"big\" is no MTU"),
    ] {
        let error = Command::parse("f.json", json.as_bytes()).expect_err(&json).to_string();
        assert_eq!(error, format!("f.json#{message}"), "{json}");
    }
}

#[test]
fn unknown_keys_are_warnings_with_their_place_and_are_kept() {
    let json = r#"{"type":"ips","later":1,"ip_address":[{"public_ip":"203.0.113.10","netmask":"24",
        "add":"True","nic_dev_id":"2","lease":{"time":1}}]}"#;
    let parsed = Command::parse("ips.json.1", json.as_bytes()).expect("tolerated");
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    let unknown =
        ["ips.json.1#/later: unknown key, ignored", "ips.json.1#/ip_address/0/lease: unknown key, ignored"];
    assert_eq!(warnings, unknown);
    let bags = Databags::default().merge(&parsed.command, &isolated()).expect("merged");
    assert_eq!(bags.documents()["ips"]["eth2"][0]["lease"]["time"], 1);
}

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

const VPC: [&str; 4] = [
    "cmd_line/vpcrouter.json",
    "ip_associations/vpc_add_source_nat.json",
    "ip_associations/vpc_add_extra_ip.json",
    "guest_network/vpc_tier_add.json",
];

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
    ];
    assert_eq!(lines_of(&bags), ports);
    assert_eq!(bags.documents()["staticroutes"]["172.29.0.0/16"]["revoke"], true);

    let bags = merge(&bags, "static_routes/revoke.json", &inventory);
    let removed = merge(&bags, "guest_network/vpc_tier_remove.json", &inventory);
    assert_eq!(removed.documents()["guestnetwork"]["eth2"], serde_json::json!([]));
    assert_eq!(removed.documents()["ips"]["eth2"][0]["add"], false);
    let left = [ports[0], ports[1], ports[3], ports[4], ports[5], ports[8]];
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
        assert_eq!(command.absent_nics(&inventory), [mac.parse::<Mac>().expect("a MAC address")]);
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
    assert_eq!(lines_of(&boot), ["eth0 eth0 control 169.254.1.182/16 mtu -"]);
    let second = merge(&boot, "guest_network/vpc_second_tier_add.json", &inventory);
    let own_gateway =
        ["eth0 eth0 control 169.254.1.182/16 mtu -", "eth3 02:01:00:de:00:2c guest 10.10.2.1/24 mtu 1500"];
    assert_eq!(lines_of(&second), own_gateway);
    let both = merge(&second, "guest_network/vpc_tier_add_vr_not_gateway.json", &inventory);
    assert_eq!(lines_of(&both).last().map(String::as_str), Some("0.0.0.0/0 via 10.10.1.1 dev eth2"));
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

#[test]
fn no_truncation_is_taken_for_a_message() {
    for (name, bytes) in APPLIED.iter().flat_map(|folder| fixtures(folder)) {
        for length in 0..bytes.len() {
            assert!(Command::parse(&name, &bytes[..length]).is_err(), "{name} cut at {length}");
        }
    }
}

/// Small and repeatable: the tests need variety, not randomness.
struct Random(u64);

impl Random {
    /// A number below `limit` (xorshift).
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (limit as u64)).expect("below a usize")
    }
}

#[test]
fn mutations_never_panic_and_never_change_the_databags_on_error() {
    const WORDS: [&str; 16] = [
        "null",
        "-1",
        "1e9",
        "[]",
        "{}",
        "true",
        "\"\"",
        "\"eth0\"",
        "99999999999999999999",
        "0.0.0.0",
        "255.255.255.255",
        "::",
        "\"control\"",
        "\"add\"",
        "\"\\ud800\"",
        "10.10.1.1",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let messages: Vec<_> = APPLIED.iter().flat_map(|folder| fixtures(folder)).collect();
    let starts = [
        Databags::default(),
        merge_all(&VPC, &vpc()),
        merge_all(&["cmd_line/router_isolated.json"], &isolated()),
    ];
    let (mut refused, mut merged) = (0, 0);
    for round in 0..6000 {
        let (name, message) = &messages[random.below(messages.len())];
        let mut message = message.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(message.len());
            match random.below(3) {
                0 => message[at] = u8::try_from(random.below(256)).expect("a byte"),
                1 => message.truncate(at.max(1)),
                _ => {
                    let end = (at + random.below(12)).min(message.len());
                    message.splice(at..end, WORDS[random.below(WORDS.len())].bytes());
                }
            }
        }
        let bags = &starts[round % starts.len()];
        let before = bags.clone();
        let inventory = [vpc(), isolated(), every_nic()][random.below(3)].clone();
        let after = Command::parse(name, &message).and_then(|parsed| bags.merge(&parsed.command, &inventory));
        assert_eq!(*bags, before);
        match after.and_then(|bags| desired(&bags)) {
            Ok(_) => merged += 1,
            Err(error) => {
                assert!(!error.message.is_empty() && !error.file.is_empty());
                refused += 1;
            }
        }
    }
    assert!(refused > 1000 && merged > 100, "{refused} refused, {merged} merged: too much of one kind");
}

/// A folder of its own below the target folder, empty.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("databags-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("writable");
    path
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(folder).expect("readable").map(|file| file.expect("readable").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    files.map(|path| (name(&path), fs::read_to_string(&path).expect("UTF-8"))).collect()
}

#[test]
fn what_is_saved_is_loaded_again_and_only_changes_are_written() {
    let folder = scratch("round-trip");
    let etc = folder.join("etc/cloudstack");
    assert_eq!(Databags::load(&etc), Ok(Databags::default()));
    assert_eq!(Databags::default().save(&etc).expect("saved"), Vec::<PathBuf>::new());

    let bags = merge_all(&VPC, &vpc());
    let names = |paths: Vec<PathBuf>| -> Vec<String> {
        paths.iter().map(|path| path.strip_prefix(&etc).expect("inside").display().to_string()).collect()
    };
    assert_eq!(names(bags.save(&etc).expect("saved")), ["cmdline.json", "guestnetwork.json", "ips.json"]);
    assert_eq!(Databags::load(&etc), Ok(bags.clone()));
    let text = fs::read_to_string(etc.join("ips.json")).expect("there");
    assert_eq!(text, pretty(&expected("ips.vpcrouter.json")));
    assert!(text.starts_with("{\n  \"eth0\": [\n    {\n      \"add\": true,\n      \"broadcast\""));

    assert_eq!(names(bags.save(&etc).expect("saved")), Vec::<String>::new());
    fs::write(etc.join("networkacl.json"), "not ours").expect("written");
    let routed = merge(&bags, "static_routes/add.json", &vpc());
    assert_eq!(names(routed.save(&etc).expect("saved")), ["staticroutes.json"]);
    assert_eq!(Databags::load(&etc), Ok(routed));
    let left = ["cmdline.json", "guestnetwork.json", "ips.json", "networkacl.json", "staticroutes.json"];
    assert_eq!(files(&etc).into_keys().collect::<Vec<_>>(), left);
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_bag_that_cannot_be_written_stays_as_it_was() {
    let folder = scratch("atomic");
    let bags = merge_all(&VPC, &vpc());
    bags.save(&folder).expect("saved");
    let before = files(&folder);
    // The temporary file cannot be made where a folder has its name.
    fs::create_dir(folder.join("ips.json.new")).expect("made");
    let changed = merge(&bags, "ip_associations/vpc_private_gateway_add.json", &vpc());
    let error = format!("{:#}", changed.save(&folder).unwrap_err());
    assert!(error.starts_with(&format!("write {}/ips.json", folder.display())), "{error}");
    fs::remove_dir(folder.join("ips.json.new")).expect("removed");
    assert_eq!(files(&folder), before);
    assert_eq!(Databags::load(&folder), Ok(bags));
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_damaged_bag_is_an_error_that_names_the_file_and_never_an_empty_bag() {
    let folder = scratch("damaged");
    merge_all(&VPC, &vpc()).save(&folder).expect("saved");
    let whole = fs::read(folder.join("ips.json")).expect("there");
    for length in (0..whole.len()).step_by(7) {
        fs::write(folder.join("ips.json"), &whole[..length]).expect("written");
        let error = Databags::load(&folder).expect_err("damaged").to_string();
        assert!(error.starts_with(&format!("{}/ips.json#: no valid JSON", folder.display())), "{error}");
    }
    for (damage, message) in [
        ("[]", ": expected an object, found a list"),
        (r#"{"eth1":{}}"#, "/eth1: expected a list, found an object"),
        (r#"{"eth1":[1]}"#, "/eth1/0: expected an object, found a number"),
    ] {
        fs::write(folder.join("ips.json"), damage).expect("written");
        let error = Databags::load(&folder).expect_err("damaged").to_string();
        assert_eq!(error, format!("{}/ips.json#{message}", folder.display()));
    }
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_bag_with_a_bad_value_is_refused_by_file_and_place() {
    let folder = scratch("bad-value");
    merge_all(&VPC, &vpc()).save(&folder).expect("saved");
    let text = fs::read_to_string(folder.join("ips.json")).expect("there");
    fs::write(folder.join("ips.json"), text.replace("\"203.0.113.31\"", "\"203.0.113\"")).expect("written");
    let bags = Databags::load(&folder).expect("well formed");
    assert_eq!(refusal(&bags), "ips.json#/eth1/1/public_ip: \"203.0.113\" is no IPv4 address");
    fs::remove_dir_all(folder).expect("removed");
}
