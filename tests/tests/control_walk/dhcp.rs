//! What guests are told when they come up, in dnsmasq's words.

use std::collections::BTreeMap;

use router_userspace::cloudstack::{self, Databags, desired};
use router_userspace::compile::{AttachMode, Inventory, compile};
use router_userspace::model::Settings;
use router_userspace::model::redundancy::RouterRole;
use router_userspace::reconcile::kernel::Kernel;
use router_userspace::root::Root;
use router_userspace::services::{Place, Service, render};
use serde_json::{Value, json};

use super::{VPC, bytes, every_nic, fixtures, isolated, merge, merge_all, merge_json, vpc};

const DUAL: &str = "cmd_line/router_isolated_dualstack.json";
const SHARED: &str = "cmd_line/dhcpsrvr_shared.json";

/// dnsmasq as it should run, and what is not in force.
fn service(bags: &Databags, inventory: &Inventory) -> (Option<Service>, Vec<String>) {
    let desired = desired(bags).unwrap_or_else(|error| panic!("{error}"));
    let compiled = compile(&desired, &Settings::default(), inventory, AttachMode::Auto, RouterRole::Primary);
    let (services, notices) = cloudstack::services(bags, &desired);
    let root = Root::new("/r");
    let kernel = Kernel::default();
    let rendered = render(&services, Place { root: &root, compiled: &compiled, inventory, kernel });
    let found = rendered.into_iter().find(|service| service.name == "dnsmasq");
    (found, notices.iter().map(ToString::to_string).collect())
}

/// Its files, by name.
fn files(bags: &Databags, inventory: &Inventory) -> BTreeMap<String, String> {
    let service = service(bags, inventory).0.expect("dnsmasq");
    let name = |path: &std::path::Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    service.files.iter().map(|file| (name(&file.path), file.content.clone())).collect()
}

/// The lines of `cloud.conf` about networks.
fn networks(bags: &Databags, inventory: &Inventory) -> Vec<String> {
    let config = files(bags, inventory).remove("cloud.conf").expect("a configuration");
    let begins = ["dhcp-range", "dhcp-option=tag", "dhcp-option-force", "dhcp-mac", "ra-param", "enable-ra"];
    let is_about = |line: &&str| begins.iter().any(|begin| line.starts_with(begin));
    config.lines().filter(is_about).map(str::to_owned).collect()
}

/// The value of an option in each network.
fn option(bags: &Databags, inventory: &Inventory, number: u8) -> Vec<String> {
    let lines = networks(bags, inventory).into_iter().filter(|line| line.starts_with("dhcp-option"));
    let values = lines.filter_map(|line| {
        let (_, rest) = line.split_once(',')?;
        let (found, value) = rest.split_once(',').unwrap_or((rest, ""));
        (found == number.to_string()).then(|| value.to_owned())
    });
    values.collect()
}

/// A fixture's message with other values, merged.
fn with(bags: &Databags, name: &str, values: &[(&str, Value)], inventory: &Inventory) -> Databags {
    let mut message: Value = serde_json::from_slice(&bytes(name)).expect("JSON");
    let object = if name.starts_with("cmd_line") { &mut message["cmd_line"] } else { &mut message };
    for (key, value) in values {
        object[*key] = value.clone();
    }
    merge_json(bags, &message.to_string(), inventory).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn guests_of_an_isolated_network_of_both_families() {
    let messages = [DUAL, "vm_dhcp_entry/default_nic_add.json", "vm_dhcp_entry/dualstack_add.json"];
    let bags = merge_all(&messages, &isolated());
    let bags = with(
        &bags,
        "vm_dhcp_entry/non_default_nic_add.json",
        &[("ipv4_address", json!("10.1.1.30")), ("default_gateway", json!("10.1.1.1"))],
        &isolated(),
    );
    let files = files(&bags, &isolated());
    assert_eq!(
        files["dhcphosts.txt"],
        "02:00:3c:91:00:04,10.1.1.20,web-1,infinite\n\
         02:00:3c:91:00:06,10.1.1.21,web-2,infinite,[fd17:ac56:1234:20:0:3cff:fe91:6],\
         id:00:03:00:01:02:00:3c:91:00:06\n\
         02:00:3c:91:00:05,10.1.1.30,web-1,infinite\n"
    );
    assert_eq!(
        files["dhcpopts.txt"],
        "tag:10_1_1_30,3\ntag:10_1_1_30,6\ntag:10_1_1_30,15\ntag:10_1_1_30,119\n"
    );
    let own = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\n\
               ff02::2\tip6-allrouters\n";
    assert_eq!(
        files["hosts"],
        format!(
            "{own}10.1.1.1\tr-5-VM data-server\n10.1.1.20\tweb-1\n10.1.1.21\tweb-2\n\
             fd17:ac56:1234:20:0:3cff:fe91:6\tweb-2\n10.1.1.30\tweb-1\n"
        )
    );
    let upstream = "nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:4860:4860::8888\n";
    assert_eq!(files["dnsmasq-resolv.conf"], upstream);
    assert_eq!(files["resolv.conf"], upstream);
    let tag = "interface-eth0-10.1.1.0";
    assert_eq!(
        networks(&bags, &isolated()),
        [
            "dhcp-mac=set:10_1_1_30,02:00:3c:91:00:05",
            &format!("dhcp-range=set:{tag},10.1.1.1,static,255.255.255.0,infinite"),
            &format!("dhcp-option=tag:{tag},1,255.255.255.0"),
            &format!("dhcp-option=tag:{tag},3,10.1.1.1"),
            &format!("dhcp-option=tag:{tag},6,10.1.1.1,8.8.8.8,8.8.4.4"),
            &format!("dhcp-option=tag:{tag},15,cs2cloud.internal"),
            &format!("dhcp-option=tag:{tag},26,1500"),
            "enable-ra",
            "ra-param=eth0,mtu:1500,15,45",
            &format!("dhcp-range=set:{tag},fd17:ac56:1234:20::1,static,slaac,64,1d"),
            &format!(
                "dhcp-option=tag:{tag},option6:dns-server,[fd17:ac56:1234:20::1],[2001:4860:4860::8888]"
            ),
            &format!("dhcp-option=tag:{tag},option6:domain-search,cs2cloud.internal"),
        ]
    );
    let config = &files["cloud.conf"];
    for line in [
        "interface=eth0",
        "except-interface=lo",
        "local=/cs2cloud.internal/",
        "domain=cs2cloud.internal,10.1.1.0/24",
        "domain=cs2cloud.internal,fd17:ac56:1234:20::/64",
        "dhcp-ignore=tag:!known",
        "dhcp-hostsfile=/r/etc/dhcphosts.txt",
        "addn-hosts=/r/etc/hosts",
        "min-port=64000",
        "max-port=65023",
    ] {
        assert!(config.lines().any(|found| found == line), "{line} is not in\n{config}");
    }
}

#[test]
fn a_guest_that_comes_or_goes_restarts_nothing() {
    let bags = merge_all(&[DUAL], &isolated());
    let config = |bags: &Databags| files(bags, &isolated())["cloud.conf"].clone();
    let one = merge(&bags, "vm_dhcp_entry/default_nic_add.json", &isolated());
    let two = merge(&one, "vm_dhcp_entry/dualstack_add.json", &isolated());
    let gone = merge(&two, "vm_dhcp_entry/remove.json", &isolated());
    for other in [&one, &two, &gone] {
        assert_eq!(config(other), config(&bags));
    }
    assert!(!files(&gone, &isolated())["dhcphosts.txt"].contains("10.1.1.20"));
    assert!(!files(&gone, &isolated())["hosts"].contains("web-1"));
    let (service, _) = service(&bags, &isolated());
    let names: Vec<String> =
        service.expect("dnsmasq").read_at_start.iter().map(|path| path.display().to_string()).collect();
    assert_eq!(names, ["/r/etc/dnsmasq.d/cloud.conf"]);
}

/// Boot lines of networks that need no further message: gateway, name servers, domain.
#[test]
fn boot_lines_say_what_guests_hear() {
    let nothing: &[(&str, Value)] = &[];
    for (name, values, gateway, dns) in [
        ("router_isolated", nothing, "10.1.1.1", "10.1.1.1,8.8.8.8,8.8.4.4"),
        ("router_isolated_dualstack", nothing, "10.1.1.1", "10.1.1.1,8.8.8.8,8.8.4.4"),
        ("router_isolated_redundant", nothing, "10.1.1.1", "10.1.1.1,8.8.8.8,8.8.4.4"),
        ("router_isolated_routed", nothing, "10.50.1.1", "10.50.1.1,8.8.8.8,8.8.4.4"),
        ("router_isolated_vmware", nothing, "10.1.1.1", "10.1.1.1,8.8.8.8,8.8.4.4"),
        ("router_4_22_userdata", nothing, "10.1.1.1", "10.1.1.1,8.8.8.8,8.8.4.4"),
        ("dhcpsrvr_shared", nothing, "10.20.0.1", "8.8.8.8,8.8.4.4"),
        ("dhcpsrvr_shared", &[("useextdns", json!("false"))], "10.20.0.1", "10.20.0.2,8.8.8.8,8.8.4.4"),
        ("router_isolated", &[("useextdns", json!("true"))], "10.1.1.1", "8.8.8.8,8.8.4.4"),
        ("router_isolated", &[("userouteripresolver", json!("true"))], "10.1.1.1", "10.1.1.1"),
        ("router_isolated", &[("dns1", json!("null")), ("dns2", json!(""))], "10.1.1.1", "10.1.1.1"),
        ("router_isolated", &[("dns2", json!("8.8.8.8"))], "10.1.1.1", "10.1.1.1,8.8.8.8"),
        // dhcprange and exposedns say nothing that is not known already.
        (
            "router_isolated",
            &[("dhcprange", json!("10.1.1.1:")), ("exposedns", json!("true"))],
            "10.1.1.1",
            "10.1.1.1,8.8.8.8,8.8.4.4",
        ),
    ] {
        let name = format!("cmd_line/{name}.json");
        let bags = with(&Databags::default(), &name, values, &every_nic());
        let (_, notices) = service(&bags, &every_nic());
        assert_eq!(notices, Vec::<String>::new(), "{name}");
        assert_eq!(option(&bags, &every_nic(), 3), [gateway], "{name} {values:?}");
        assert_eq!(option(&bags, &every_nic(), 6), [dns], "{name} {values:?}");
        assert_eq!(option(&bags, &every_nic(), 15), ["cs2cloud.internal"], "{name}");
    }
    let boot = |values: &[(&str, Value)]| {
        with(&Databags::default(), "cmd_line/router_isolated.json", values, &isolated())
    };
    let searching = boot(&[("dnssearchorder", json!("a.example, b.example."))]);
    assert_eq!(option(&searching, &isolated(), 119), ["a.example,b.example"]);
    assert_eq!(option(&boot(&[("privateMtu", json!("1400"))]), &isolated(), 26), ["1400"]);
    assert_eq!(option(&boot(&[("privateMtu", json!("null"))]), &isolated(), 26), ["1500"]);
    assert_eq!(option(&boot(&[("domain", json!(""))]), &isolated(), 15), ["cloudnine.internal"]);
    let external = boot(&[("useextdns", json!("true"))]);
    assert!(files(&external, &isolated())["cloud.conf"].lines().any(|line| line == "port=0"));
}

#[test]
fn boot_lines_without_guest_networks_need_no_dnsmasq() {
    for (name, _) in fixtures("cmd_line").iter().filter(|(name, _)| name.contains("vpcrouter")) {
        assert!(service(&merge_all(&[name], &vpc()), &vpc()).0.is_none(), "{name}");
    }
}

#[test]
fn tiers_say_what_their_guests_hear_in_the_words_of_each_release() {
    let base = &VPC[..3];
    for (tier, values, gateway, dns) in [
        ("vpc_tier_add", &[][..], "10.10.1.1", "10.10.1.1,8.8.8.8,8.8.4.4"),
        ("vpc_tier_add_4_19", &[], "10.10.1.1", "10.10.1.1,8.8.8.8,8.8.4.4"),
        ("vpc_tier_add_4_20", &[], "10.10.1.1", "10.10.1.1,8.8.8.8,8.8.4.4"),
        ("vpc_tier_add_dualstack", &[], "10.10.1.1", "10.10.1.1,8.8.8.8,8.8.4.4"),
        ("vpc_tier_add_redundant", &[], "10.10.1.1", "10.10.1.1,8.8.8.8"),
        ("vpc_tier_add_vr_not_gateway", &[], "10.10.1.1", "10.10.1.5,8.8.8.8"),
        // 4.21 lists the gateway itself.
        ("vpc_tier_add", &[("dns", json!("10.10.1.1,8.8.8.8"))], "10.10.1.1", "10.10.1.1,8.8.8.8"),
    ] {
        let name = format!("guest_network/{tier}.json");
        let bags = with(&merge_all(base, &vpc()), &name, values, &vpc());
        let (_, notices) = service(&bags, &vpc());
        assert_eq!(notices, Vec::<String>::new(), "{tier}");
        assert_eq!(option(&bags, &vpc(), 3), [gateway], "{tier}");
        assert_eq!(option(&bags, &vpc(), 6), [dns], "{tier}");
        assert_eq!(option(&bags, &vpc(), 15), ["cs2cloud.internal"], "{tier}");
    }
    let routed = merge_all(&["cmd_line/vpcrouter_4_21.json", VPC[1], VPC[3]], &vpc());
    assert_eq!(option(&routed, &vpc(), 6), ["10.10.1.1"], "userouteripresolver");
    let dual = merge_all(&[VPC[0], VPC[1], "guest_network/vpc_tier_add_dualstack.json"], &vpc());
    let advertised = networks(&dual, &vpc()).into_iter().find(|line| line.contains("option6:dns-server"));
    assert_eq!(
        advertised.as_deref().and_then(|line| line.split_once("dns-server,")).map(|(_, servers)| servers),
        Some("[fd17:ac56:1234:10::1],[2001:4860:4860::8888],[2001:4860:4860::8844]")
    );
}

#[test]
fn a_tier_without_name_servers_is_not_served_unless_it_has_guests() {
    let bags = merge_all(&[VPC[0], VPC[1], "guest_network/vpc_tier_add_no_dns.json"], &vpc());
    assert!(service(&bags, &vpc()).0.is_none());
    let bags = merge(&bags, "vm_dhcp_entry/vpc_add.json", &vpc());
    assert_eq!(option(&bags, &vpc(), 6), ["10.10.1.1"]);
}

#[test]
fn tiers_come_and_go_each_with_its_domain() {
    let bags = merge_all(&VPC, &vpc());
    let second = "guest_network/vpc_second_tier_add.json";
    let both = with(&bags, second, &[("domain_name", json!("other.internal"))], &vpc());
    let both = merge(&both, "vm_dhcp_entry/vpc_add.json", &vpc());
    assert_eq!(option(&both, &vpc(), 15), ["cs2cloud.internal", "other.internal"]);
    let files = files(&both, &vpc());
    for line in [
        "interface=eth2",
        "interface=eth3",
        "domain=cs2cloud.internal,10.10.1.0/24",
        "domain=other.internal,10.10.2.0/24",
        "local=/other.internal/",
    ] {
        assert!(files["cloud.conf"].lines().any(|found| found == line), "{line}");
    }
    assert_eq!(files["dhcphosts.txt"], "02:01:00:db:00:30,10.10.1.50,app-1,infinite\n");
    assert!(files["hosts"].contains("10.10.1.1\tr-10-VM data-server\n10.10.2.1\tr-10-VM data-server\n"));
    let gone = merge(&both, "guest_network/vpc_tier_remove.json", &vpc());
    let (_, notices) = service(&gone, &vpc());
    let expected = "dhcpentry.json#/10.10.1.50/ipv4_address: no guest port has the network of 10.10.1.50, so it \
                    is stored and not in force";
    assert_eq!(notices, [expected]);
    assert_eq!(option(&gone, &vpc(), 3), ["10.10.2.1"]);
}

#[test]
fn further_subnets_of_a_shared_network_have_the_gateways_that_their_guests_name() {
    let bags = merge_all(&[SHARED, "ip_aliases/create.json"], &every_nic());
    assert_eq!(option(&bags, &every_nic(), 3), ["10.20.0.1", "", ""]);
    let add = "vm_dhcp_entry/default_nic_add.json";
    let here = [("ipv4_address", json!("10.20.1.42")), ("default_gateway", json!("10.20.1.1"))];
    let bags = with(&bags, add, &here, &every_nic());
    assert_eq!(option(&bags, &every_nic(), 3), ["10.20.0.1", "10.20.1.1", ""]);
    // dhcpconfig says the same subnets again.
    assert_eq!(
        merge_json(&bags, &String::from_utf8_lossy(&bytes("dhcp/multiple_ranges.json")), &every_nic()),
        Ok(bags)
    );
}

#[test]
fn a_router_that_is_no_gateway_does_not_say_that_it_is_one() {
    let lifetime = |name: &str, values: &[(&str, Value)]| {
        let bags = with(&Databags::default(), name, values, &every_nic());
        let line = networks(&bags, &every_nic()).into_iter().find(|line| line.starts_with("ra-param"));
        line.and_then(|line| line.rsplit_once(',').map(|(_, lifetime)| lifetime.to_owned()))
    };
    let ipv6 = [("eth0ip6", json!("fd17:ac56:1234:20::2")), ("eth0ip6prelen", json!("64"))];
    assert_eq!(lifetime(DUAL, &[]).as_deref(), Some("45"));
    assert_eq!(lifetime(SHARED, &ipv6).as_deref(), Some("0"));
    assert_eq!(lifetime(SHARED, &[]), None);
}

#[test]
fn what_cannot_be_read_is_said_and_all_else_is_served() {
    let odd = [
        ("dns1", json!("8.8.8")),
        ("dns2", json!("127.0.0.1")),
        ("ip6dns1", json!("8.8.8.8")),
        ("domain", json!("a b")),
        ("dnssearchorder", json!("a.example,b c")),
        ("useextdns", json!("maybe")),
    ];
    let bags = with(&Databags::default(), DUAL, &odd, &isolated());
    let (_, notices) = service(&bags, &isolated());
    assert_eq!(
        notices,
        [
            "cmdline.json#/config/dns1: \"8.8.8\" is no IPv4 address",
            "cmdline.json#/config/dns2: 127.0.0.1 is no host's address",
            "cmdline.json#/config/ip6dns1: \"8.8.8.8\" is no IPv6 address",
            "cmdline.json#/config/useextdns: \"maybe\" is neither true nor false",
            "cmdline.json#/config/domain: \"a b\" is no domain, cloudnine.internal is used instead",
            "cmdline.json#/config/dnssearchorder: \"b c\" is no domain, it is left out",
        ]
    );
    assert_eq!(option(&bags, &isolated(), 6), ["10.1.1.1"]);
    assert_eq!(option(&bags, &isolated(), 119), ["a.example"]);

    let tier = "guest_network/vpc_tier_add_dualstack.json";
    let odd = [("dns", json!("8.8.8.8,x,2001:db8::1")), ("domain_name", json!("a\nport=0"))];
    let bags = with(&merge_all(&VPC[..3], &vpc()), tier, &odd, &vpc());
    let (_, notices) = service(&bags, &vpc());
    assert_eq!(notices.len(), 3, "{notices:?}");
    assert_eq!(option(&bags, &vpc(), 6), ["10.10.1.1,8.8.8.8"]);
    assert_eq!(option(&bags, &vpc(), 15), ["cloudnine.internal"]);

    let add = "vm_dhcp_entry/dualstack_add.json";
    let elsewhere = [("ipv6_address", json!("2001:db8::6"))];
    let bags = with(&merge_all(&[DUAL], &isolated()), add, &elsewhere, &isolated());
    let expected = "dhcpentry.json#/10.1.1.21/ipv6_address: 2001:db8::6 is not of the network of 10.1.1.21, it is \
                    left out";
    assert_eq!(service(&bags, &isolated()).1, [expected]);
    assert_eq!(files(&bags, &isolated())["dhcphosts.txt"], "02:00:3c:91:00:06,10.1.1.21,web-2,infinite\n");
    let own = [("ipv4_address", json!("10.1.1.1"))];
    let bags = with(&merge_all(&[DUAL], &isolated()), add, &own, &isolated());
    assert_eq!(files(&bags, &isolated())["dhcphosts.txt"], "");
    assert_eq!(service(&bags, &isolated()).1.len(), 1);
}

#[test]
fn names_that_dnsmasq_takes_for_something_else_are_told_by_dns_alone() {
    let bags = merge_all(&[DUAL], &isolated());
    for name in ["ignore", "Infinite", "12", "12h"] {
        let values = [("host_name", json!(name))];
        let bags = with(&bags, "vm_dhcp_entry/default_nic_add.json", &values, &isolated());
        let files = files(&bags, &isolated());
        assert_eq!(files["dhcphosts.txt"], "02:00:3c:91:00:04,10.1.1.20,infinite\n");
        assert!(files["hosts"].contains(&format!("10.1.1.20\t{name}\n")));
    }
    let values = [("host_name", json!("h12"))];
    let bags = with(&bags, "vm_dhcp_entry/default_nic_add.json", &values, &isolated());
    assert_eq!(files(&bags, &isolated())["dhcphosts.txt"], "02:00:3c:91:00:04,10.1.1.20,h12,infinite\n");
}
