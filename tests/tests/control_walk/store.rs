//! Databags on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use router_userspace::cloudstack::{Databags, Files, desired, notices};

use super::{ISOLATED_WITH_NAT, VPC, expected, isolated, merge, merge_all, parse, pretty, refusal, vpc};

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

/// What is loaded from a folder in which nothing is damaged.
fn sound(folder: &Path) -> Databags {
    let bags = Databags::load(folder);
    assert_eq!(bags.damage().next(), None);
    bags
}

/// The one thing that is damaged in a folder.
fn damage(folder: &Path) -> String {
    let bags = Databags::load(folder);
    let damage: Vec<String> = bags.damage().map(ToString::to_string).collect();
    assert_eq!(damage.len(), 1, "{damage:?}");
    damage.into_iter().next().expect("one")
}

#[test]
fn what_is_saved_is_loaded_again_and_only_changes_are_written() {
    let folder = scratch("round-trip");
    let etc = folder.join("etc/cloudstack");
    assert_eq!(Databags::load(&etc), Databags::default());
    assert_eq!(Databags::default().save(&etc).expect("saved"), Vec::<PathBuf>::new());

    let bags = merge_all(&VPC, &vpc());
    let names = |paths: Vec<PathBuf>| -> Vec<String> {
        paths.iter().map(|path| path.strip_prefix(&etc).expect("inside").display().to_string()).collect()
    };
    assert_eq!(names(bags.save(&etc).expect("saved")), ["cmdline.json", "guestnetwork.json", "ips.json"]);
    assert_eq!(Databags::load(&etc), bags.clone());
    let text = fs::read_to_string(etc.join("ips.json")).expect("there");
    assert_eq!(text, pretty(&expected("ips.vpcrouter.json")));
    assert!(text.starts_with("{\n  \"eth0\": [\n    {\n      \"add\": true,\n      \"broadcast\""));

    assert_eq!(names(bags.save(&etc).expect("saved")), Vec::<String>::new());
    fs::write(etc.join("others.json"), "not ours").expect("written");
    let routed = merge(&bags, "static_routes/add.json", &vpc());
    assert_eq!(names(routed.save(&etc).expect("saved")), ["staticroutes.json"]);
    assert_eq!(Databags::load(&etc), routed.clone());
    let forwarding = merge(&routed, "forwarding_rules/vpc_tcp_add.json", &vpc());
    assert_eq!(names(forwarding.save(&etc).expect("saved")), ["forwardingrules.json"]);
    assert_eq!(Databags::load(&etc), forwarding);
    let left = [
        "cmdline.json",
        "forwardingrules.json",
        "guestnetwork.json",
        "ips.json",
        "others.json",
        "staticroutes.json",
    ];
    assert_eq!(files(&etc).into_keys().collect::<Vec<_>>(), left);
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_bag_of_rules_is_written_again_when_its_file_was_touched() {
    let folder = scratch("touched");
    let mut files = Files::new(&folder);
    let bags = merge(
        &merge_all(&ISOLATED_WITH_NAT, &isolated()),
        "firewall_rules/ingress_resync_mixed.json",
        &isolated(),
    );
    let mut written = |bags: &Databags| files.save(bags).expect("saved").len();
    assert!(written(&bags) > 1);
    let path = folder.join("firewallrules.json");
    let whole = fs::read(&path).expect("there");
    assert_eq!(written(&bags), 0);
    // Of another length: whether a file's time tells two moments apart is the kernel's choice.
    fs::write(&path, [&whole[..], b" "].concat()).expect("written");
    assert_eq!(written(&bags), 1);
    assert_eq!(fs::read(&path).expect("there"), whole);
    fs::remove_file(&path).expect("removed");
    assert_eq!(written(&bags), 1);
    let before = merge(&bags, "firewall_rules/ingress_revoke.json", &isolated());
    assert_eq!(written(&before), 1);
    assert_eq!(written(&bags), 1);
    assert_eq!(fs::read(&path).expect("there"), whole);
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_bag_that_cannot_be_written_stays_as_it_was() {
    let folder = scratch("atomic");
    let bags = merge_all(&VPC, &vpc());
    bags.save(&folder).expect("saved");
    let before = files(&folder);
    // The temporary file cannot be made where a folder has its name.
    fs::create_dir(folder.join("ips.json.uncommitted")).expect("made");
    let changed = merge(&bags, "ip_associations/vpc_private_gateway_add.json", &vpc());
    let error = format!("{:#}", changed.save(&folder).unwrap_err());
    assert!(error.starts_with(&format!("write {}/ips.json", folder.display())), "{error}");
    fs::remove_dir(folder.join("ips.json.uncommitted")).expect("removed");
    assert_eq!(files(&folder), before);
    assert_eq!(Databags::load(&folder), bags);
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_damaged_bag_is_an_error_that_names_the_file_and_never_an_empty_bag() {
    let folder = scratch("damaged");
    merge_all(&VPC, &vpc()).save(&folder).expect("saved");
    let whole = fs::read(folder.join("ips.json")).expect("there");
    for length in (0..whole.len()).step_by(7) {
        fs::write(folder.join("ips.json"), &whole[..length]).expect("written");
        let error = damage(&folder);
        assert!(error.starts_with(&format!("{}/ips.json#: no valid JSON", folder.display())), "{error}");
    }
    for (text, message) in [
        ("[]", ": expected an object, found a list"),
        (r#"{"eth1":{}}"#, "/eth1: expected a list, found an object"),
        (r#"{"eth1":[1]}"#, "/eth1/0: expected an object, found a number"),
    ] {
        fs::write(folder.join("ips.json"), text).expect("written");
        let error = damage(&folder);
        assert_eq!(error, format!("{}/ips.json#{message}", folder.display()));
    }
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_damaged_bag_of_rules_is_none_without_rules() {
    let folder = scratch("damaged-rules");
    merge_all(&ISOLATED_WITH_NAT, &isolated()).save(&folder).expect("saved");
    let path = folder.join("forwardingrules.json");
    let whole = fs::read_to_string(&path).expect("there");
    assert_eq!(whole, pretty(&expected("forwardingrules.router_isolated.json")));
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).expect("written");
        let error = damage(&folder);
        assert!(error.starts_with(&format!("{}#: no valid JSON", path.display())), "{error}");
    }
    fs::write(&path, r#"{"203.0.113.12":{"type":"staticnat"}}"#).expect("written");
    let error = damage(&folder);
    assert_eq!(error, format!("{}#/203.0.113.12: expected a list, found an object", path.display()));

    let last = "/203.0.113.12/0";
    for (from, to, message) in [
        ("\"staticnat\"", "\"snat\"", format!("{last}/type: \"snat\" is none of staticnat, forward")),
        ("\"staticnat\"", "null", format!("{last}/type: missing")),
        ("\"10.1.1.30\"", "7", format!("{last}/internal_ip: \"7\" is no IPv4 address")),
        (
            "\"public_ip\": \"203.0.113.12\"",
            "\"public_ip\": \"203.0.113.10\"",
            format!("{last}/public_ip: 203.0.113.10 in the list of 203.0.113.12"),
        ),
        (
            "\"22:22\"",
            "\"22:23\"",
            "/203.0.113.11/0/internal_ports: ports in 22-23: 2, but in the public 2222: 1".to_owned(),
        ),
        ("\"tcp\"", "\"gre\"", "/203.0.113.11/0/protocol: \"gre\" is none of tcp, udp, any".to_owned()),
    ] {
        assert!(whole.contains(from), "{from}");
        fs::write(&path, whole.replace(from, to)).expect("written");
        let bags = sound(&folder);
        assert_eq!(refusal(&bags), format!("forwardingrules.json#{message}"));
    }
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn in_a_bag_of_another_router_a_static_nat_may_follow_forwards() {
    let folder = scratch("other-router");
    merge_all(&ISOLATED_WITH_NAT, &isolated()).save(&folder).expect("saved");
    let path = folder.join("forwardingrules.json");
    let bag = r#"{"203.0.113.10":[],"203.0.113.11":[{"type":"forward","public_ip":"203.0.113.11","protocol":"tcp",
        "public_ports":"22:22","internal_ip":"10.1.1.20","internal_ports":"22:22"},{"type":"staticnat",
        "public_ip":"203.0.113.11","internal_ip":"10.1.1.30"}]}"#;
    fs::write(&path, bag).expect("written");
    let bags = sound(&folder);
    let nat = desired(&bags).expect("valid").nat;
    assert_eq!((nat.static_nats.len(), nat.forwards.len()), (0, 1));
    let said: Vec<String> = notices(&bags).expect("valid").iter().map(ToString::to_string).collect();
    let notice = "/203.0.113.11/1/public_ip: not in force: 203.0.113.11 has forwards";
    assert_eq!(said, [format!("forwardingrules.json#{notice}")]);
    let ended = merge(&bags, "forwarding_rules/isolated_revoke.json", &isolated());
    assert_eq!(ended, bags, "another port");
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_bag_with_a_bad_value_is_refused_by_file_and_place() {
    let folder = scratch("bad-value");
    let names = [VPC[0], VPC[1], VPC[2], "ip_associations/vpc_private_gateway_add.json"];
    merge_all(&names, &vpc()).save(&folder).expect("saved");
    let text = fs::read_to_string(folder.join("ips.json")).expect("there");
    for (from, to, message) in [
        ("\"203.0.113.31\"", "\"203.0.113\"", "/eth1/1/public_ip: \"203.0.113\" is no IPv4 address"),
        (
            "\"203.0.113.31\"",
            "\"192.168.200.2\"",
            "/eth4/0/public_ip: 192.168.200.2 is an address of eth1 already",
        ),
        (
            "02:01:01:2c:00:07",
            "1e:00:a8:00:00:31",
            "/eth4/0: eth4 and eth1 are both the NIC 1e:00:a8:00:00:31",
        ),
    ] {
        fs::write(folder.join("ips.json"), text.replace(from, to)).expect("written");
        let bags = sound(&folder);
        assert_eq!(refusal(&bags), format!("ips.json#{message}"));
    }
    fs::remove_dir_all(folder).expect("removed");
}

/// Everything of a VPC, and of what daemons serve.
fn everything() -> Databags {
    let names =
        ["vm_dhcp_entry/vpc_add.json", "site_2_site_vpn/create.json", "load_balancer/vpc_tier_http.json"];
    names.iter().fold(merge_all(&VPC, &vpc()), |bags, name| merge(&bags, name, &vpc()))
}

fn refused(bags: &Databags, name: &str) -> String {
    bags.merge(&parse(name), &vpc()).expect_err(name).to_string()
}

#[test]
fn a_damaged_bag_of_a_daemons_stops_its_own_messages_and_no_others() {
    let folder = scratch("damaged-service");
    let bags = everything();
    bags.save(&folder).expect("saved");
    let path = folder.join("dhcpentry.json");
    let whole = fs::read(&path).expect("there");
    for (text, message) in [
        ("{", ": no valid JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", ": expected an object, found a list"),
        (r#"{"10.10.1.50":1}"#, "/10.10.1.50: expected an object, found a number"),
        (
            r#"{"10.10.1.50":{"ipv4_address":"10.10.1"}}"#,
            "/10.10.1.50/ipv4_address: \"10.10.1\" is no IPv4 address",
        ),
        (
            r#"{"10.10.1.51":{"ipv4_address":"10.10.1.50","add":false}}"#,
            "/10.10.1.51: 10.10.1.50 in the place of 10.10.1.51",
        ),
    ] {
        fs::write(&path, text).expect("written");
        let found = format!("{}#{message}", path.display());
        assert_eq!(damage(&folder), found);
        let mut damaged = Databags::load(&folder);
        assert_eq!(desired(&damaged), desired(&bags));
        let error = refused(&damaged, "vm_dhcp_entry/remove.json");
        assert_eq!(error, format!("{found}: a damaged databag is not written to"));

        let after = merge(&damaged, "static_routes/add.json", &vpc());
        let after = merge(&after, "site_2_site_vpn/delete.json", &vpc());
        assert_eq!(after.save(&folder).expect("saved").len(), 2);
        assert_eq!(fs::read_to_string(&path).expect("there"), text, "a damaged file is not overwritten");
        bags.save(&folder.join("other")).expect("saved");
        for name in ["staticroutes.json", "site2sitevpn.json"] {
            let _ = fs::remove_file(folder.join(name));
            let _ = fs::copy(folder.join("other").join(name), folder.join(name));
        }
        assert!(!damaged.load_damaged(&folder));
        fs::write(&path, &whole).expect("written");
        assert!(damaged.load_damaged(&folder));
        assert_eq!(damaged, bags);
    }
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_damaged_bag_that_forwarding_rests_on_stops_all_that_is_about_forwarding() {
    let folder = scratch("damaged-forwarding");
    let bags = everything();
    bags.save(&folder).expect("saved");
    let forwarding =
        ["cmdline", "firewallrules", "forwardingrules", "guestnetwork", "ips", "ipv6firewallrules"];
    for bag in forwarding.iter().chain(&["networkacl", "remoteaccessvpn", "site2sitevpn", "staticroutes"]) {
        let path = folder.join(format!("{bag}.json"));
        let whole = fs::read(&path).ok();
        fs::write(&path, "[").expect("written");
        let mut damaged = Databags::load(&folder);
        let found = damage(&folder);
        assert!(found.starts_with(&format!("{}#: ", path.display())), "{found}");
        assert_eq!(refusal(&damaged), found);
        for name in VPC.iter().chain(&[
            "static_routes/add.json",
            "network_acl/vpc_tier_mixed.json",
            "ip_aliases/create.json",
            "remote_access_vpn/vpc_create.json",
            "site_2_site_vpn/create.json",
        ]) {
            assert_eq!(refused(&damaged, name), format!("{found}: a damaged databag is not written to"));
        }
        let after = merge(&damaged, "vpn_user_list/add_two_remove_one.json", &vpc());
        assert_eq!(after.save(&folder).expect("saved"), [folder.join("vpnuserlist.json")]);
        assert_eq!(fs::read(&path).expect("there"), b"[", "a damaged file is not overwritten");
        damaged.save(&folder).expect("saved");
        match whole {
            Some(whole) => fs::write(&path, whole).expect("written"),
            None => fs::remove_file(&path).expect("removed"),
        }
        assert!(damaged.load_damaged(&folder));
        assert_eq!(damaged, bags, "{bag}");
    }
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn what_a_crash_interrupted_is_completed_or_forgotten() {
    let folder = scratch("interrupted");
    let (before, after) = (merge_all(&VPC[..3], &vpc()), merge_all(&VPC, &vpc()));
    let [new, old] = ["new", "old"].map(|name| folder.join(name));
    after.save(&new).expect("saved");
    for is_listed in [false, true] {
        before.save(&old).expect("saved");
        for name in ["guestnetwork.json", "ips.json"] {
            fs::copy(new.join(name), old.join(format!("{name}.uncommitted"))).expect("copied");
        }
        if is_listed {
            fs::write(old.join("databags.commit"), r#"["guestnetwork.json","ips.json"]"#).expect("written");
        }
        assert_eq!(Databags::load(&old), if is_listed { after.clone() } else { before.clone() });
        assert!(files(&old).keys().all(|name| name.ends_with(".json")), "{:?}", files(&old).keys());
    }
    // Nobody knows what is whole where the list is not.
    fs::write(old.join("databags.commit"), "[").expect("written");
    let damaged = Databags::load(&old);
    assert!(refusal(&damaged).starts_with(&format!("{}/databags.commit#: ", old.display())));
    assert_eq!(damaged.damage().count(), damaged.documents().len());
    assert!(refused(&damaged, "vm_dhcp_entry/vpc_add.json").contains("databags.commit"));
    fs::remove_dir_all(folder).expect("removed");
}
