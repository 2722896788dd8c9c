//! The control walk up to the desired state: CloudStack's own messages, in the order in which it
//! sends them.

mod balancer;
mod bgp;
mod damage;
mod dhcp;
mod isolated;
mod metadata;
mod monitoring;
mod mutation;
mod nat;
mod pair;
mod policy;
mod reading;
mod services;
mod shared;
mod store;
mod vpc;
mod vpn;

use std::fs;
use std::path::{Path, PathBuf};

use router_userspace::cloudstack::{Command, Databags, Parsed, desired};
use router_userspace::compile::{Driver, Inventory, Nic};
use router_userspace::model::{DesiredState, RouteTarget, SourceNat};
use serde_json::Value;

/// Folders of messages that are understood.
const APPLIED: [&str; 19] = [
    "cmd_line",
    "ip_associations",
    "guest_network",
    "static_routes",
    "forwarding_rules",
    "staticnat_rules",
    "firewall_rules",
    "ipv6_firewall_rules",
    "network_acl",
    "monitor_service",
    "ip_aliases",
    "vm_dhcp_entry",
    "load_balancer",
    "site_2_site_vpn",
    "remote_access_vpn",
    "vpn_user_list",
    "bgp_peers",
    "vm_metadata",
    "vm_password",
];

/// A VPC with a public NIC and one tier.
const VPC: [&str; 4] = [
    "cmd_line/vpcrouter.json",
    "ip_associations/vpc_add_source_nat.json",
    "ip_associations/vpc_add_extra_ip.json",
    "guest_network/vpc_tier_add.json",
];

/// An isolated network with three public addresses, forwards and a static NAT.
const ISOLATED_WITH_NAT: [&str; 4] = [
    "cmd_line/router_isolated.json",
    "ip_associations/isolated_add_extra_ips_same_vlan.json",
    "forwarding_rules/isolated_multi.json",
    "staticnat_rules/isolated_enable.json",
];

/// A NIC for every MAC address of the fixtures.
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
        takes_multi_buffer: true,
        strips_tags: false,
        carrier: None,
    });
    Inventory { nics: nics.collect(), ..Inventory::default() }
}

/// The NICs of the isolated network.
fn isolated() -> Inventory {
    nics(&[
        ("eth0", "02:00:3c:91:00:01"),
        ("eth1", "02:00:3d:10:00:02"),
        ("eth2", "1e:00:d1:00:00:21"),
        ("eth3", "1e:00:d1:00:00:5f"),
    ])
}

/// The NICs of the VPC.
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
        RouteTarget::Port(port) => format!("{} {port}", route.destination),
        RouteTarget::Gateway(gateway) => format!("{} via {gateway}", route.destination),
        RouteTarget::GatewayOnPort(gateway, port) => {
            format!("{} via {gateway} dev {port}", route.destination)
        }
        RouteTarget::Blackhole => format!("{} to nobody", route.destination),
    });
    ports.chain(routes).collect()
}

fn lines_of(bags: &Databags) -> Vec<String> {
    lines(&desired(bags).unwrap_or_else(|error| panic!("{error}")))
}

fn refusal(bags: &Databags) -> String {
    desired(bags).expect_err("refused").to_string()
}
