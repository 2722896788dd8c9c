//! What is read, what is refused, and how both are said.

use router_userspace::cloudstack::{Command, Databags, from_boot_line};

use super::{APPLIED, bytes, every_nic, fixtures, isolated, lines_of, merge, merge_all, parse};

#[test]
fn every_fixture_of_the_applied_types_is_read_without_a_warning_and_merged() {
    for (name, _) in APPLIED.iter().flat_map(|folder| fixtures(folder)) {
        let command = parse(&name);
        let inventory = every_nic();
        assert_eq!(command.absent_nics(&inventory.index()), [], "{name}");
        // Aliases are a guest NIC's.
        let start = match command {
            Command::IpAliases(_) => merge_all(&["cmd_line/dhcpsrvr_shared.json"], &inventory),
            _ => Databags::default(),
        };
        let once = start.merge(&command, &inventory).unwrap_or_else(|error| panic!("{error}"));
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
        (format!(r#"{{{},"router_guest_ip":"10.10.1.1"}}"#, tier.replace("eth2", "id")), "/device: \"id\" is no NIC"),
        (r#"{"type":"networkacl","device":"id"}"#.to_owned(), "/device: \"id\" is no NIC"),
        (format!("{}{}", "[".repeat(101), "]".repeat(101)), ": nested deeper than 100"),
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
