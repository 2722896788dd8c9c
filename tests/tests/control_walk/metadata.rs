//! What guests are told about themselves, and their passwords, up to the desired state and the databags.

use std::fs;
use std::path::Path;

use router_userspace::cloudstack::{Databags, metadata};
use serde_json::json;

use super::{isolated, merge, merge_all, merge_json, vpc};

/// An isolated network with two guests.
const GUESTS: [&str; 3] = [
    "cmd_line/router_isolated.json",
    "vm_metadata/isolated_with_userdata.json",
    "vm_metadata/isolated_null_userdata_and_key.json",
];

#[test]
fn a_guests_data_are_what_its_message_says() {
    let bags = merge_all(&GUESTS, &isolated());
    let guests = metadata(&bags).guests;
    assert_eq!(guests.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.1.20", "10.1.1.21"]);
    let [web1, web2] = ["10.1.1.20", "10.1.1.21"].map(|address| &guests[&address.parse().expect("one")]);
    assert_eq!(web1.user_data.as_deref(), Some(&b"#cloud-config\npackages: [nginx]\n"[..]));
    assert_eq!(web2.user_data.as_deref(), Some(&b""[..]));
    assert_eq!(web1.item("public-keys"), Some("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABexample user@host"));
    assert_eq!((web2.item("public-keys"), web2.item("role")), (Some(""), None));
    let names: Vec<&str> = web2.items.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.first().zip(names.last()), Some((&"service-offering", &"hypervisor-host-name")));
    let tier = merge(&merge_all(&["cmd_line/vpcrouter.json"], &vpc()), "vm_metadata/vpc_tier.json", &vpc());
    assert_eq!(metadata(&tier).guests.len(), 1);
}

#[test]
fn a_guests_entry_is_replaced_as_a_whole() {
    let bags = merge(
        &merge_all(&GUESTS, &isolated()),
        "vm_metadata/isolated_custom_keys_and_domain.json",
        &isolated(),
    );
    let address = "10.1.1.20".parse().expect("an address");
    let guest = |bags: &Databags| metadata(bags).guests[&address].clone();
    assert_eq!(guest(&bags).item("role"), Some("frontend"));
    let later = merge(&bags, "vm_metadata/isolated_with_userdata.json", &isolated());
    assert_eq!(guest(&later).item("role"), None);
    assert_eq!(later, merge_all(&GUESTS, &isolated()));
}

#[test]
fn the_bags_have_cloudstacks_shapes_and_are_read_again() {
    let bags = merge(&merge_all(&GUESTS, &isolated()), "vm_password/save.json", &isolated());
    let documents = bags.documents();
    assert_eq!(documents["vmdata"]["id"], "vmdata");
    assert_eq!(documents["vmdata"]["10.1.1.21"][0], json!(["userdata", "user-data", null]));
    assert_eq!(documents["vmpassword"], json!({ "id": "vmpassword", "10.1.1.20": "kX3gTw9q" }));
    let other = r#"{"type":"vmpassword","ip_address":"10.1.1.9","password":"z"}"#;
    let later = merge_json(&bags, other, &isolated()).expect("merged");
    assert_eq!(later.documents()["vmpassword"], json!({ "id": "vmpassword", "10.1.1.9": "z" }));

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("guests-{}", std::process::id()));
    assert_eq!(bags.save(&folder).expect("saved").len(), 4);
    let text = fs::read_to_string(folder.join("vmdata.json")).expect("there");
    assert_eq!(text, super::pretty(&documents["vmdata"]));
    assert_eq!(Databags::load(&folder), bags);
    fs::write(folder.join("vmdata.json"), r#"{"10.1.1.20":[["metadata","a/b","c"]]}"#).expect("written");
    let damaged = Databags::load(&folder);
    let error = damaged.damage().next().expect("damaged").to_string();
    assert!(error.ends_with("vmdata.json#/10.1.1.20/0/1: \"a/b\" cannot be a file's name"), "{error}");
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn what_cannot_be_obeyed_is_refused_with_its_place_and_without_the_password() {
    let bags = merge_all(&GUESTS, &isolated());
    for (json, message) in [
        (r#"{"type":"vmdata","vm_metadata":[]}"#, "/vm_ip_address: missing"),
        (r#"{"type":"vmdata","vm_ip_address":"10.1.1.20"}"#, "/vm_metadata: missing"),
        (
            r#"{"type":"vmdata","vm_ip_address":"10.1.1.20","vm_metadata":7}"#,
            "/vm_metadata: expected a list, found a number",
        ),
        (
            r#"{"type":"vmdata","vm_ip_address":"fd00::1","vm_metadata":[]}"#,
            "/vm_ip_address: \"fd00::1\" is no IPv4 address",
        ),
        (
            r#"{"type":"vmpassword","ip_address":"0.0.0.0","password":"x"}"#,
            "/ip_address: 0.0.0.0 is no host's address",
        ),
        (r#"{"type":"vmpassword","ip_address":"10.1.1.20"}"#, "/password: missing"),
        (
            r#"{"type":"vmpassword","ip_address":"10.1.1.20","password":""}"#,
            "/password: it is empty or has control characters",
        ),
        (
            r#"{"type":"vmpassword","ip_address":"10.1.1.20","password":["secret"]}"#,
            "/password: expected text, found a list",
        ),
    ] {
        let refused = merge_json(&bags, json, &isolated()).expect_err("refused");
        assert_eq!(refused, format!("test.json#{message}"));
    }
}
