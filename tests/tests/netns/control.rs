//! What the operator and CloudStack are told, and what bad input does not do.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use router_tests::lab::Lab;
use router_tests::router::{Router, VPC_COMMANDS, fixture};
use router_tests::{needs, netns};
use serde_json::Value;

/// A router that has been told everything, or nothing if this machine cannot have one.
macro_rules! router_or_skip {
    ($lab:ident, $router:ident, $attach:expr) => {
        if !needs::are_met(&[]) {
            return Ok(());
        }
        let $lab = Lab::vpc()?;
        let $router = Router::start(&$lab, $attach)?;
        $router.apply(&VPC_COMMANDS)?;
    };
}

/// The rows of `xvr show ports`, as `(name, attach, reason)`.
fn ports(router: &Router<'_>) -> Result<Vec<(String, String, String)>> {
    let shown = router.show("ports")?;
    let rows = shown.as_array().context("xvr show ports is no list")?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| (text(row, "name"), text(row, "attach"), text(row, "reason"))).collect())
}

#[test]
fn show_ports_says_native_xdp_where_it_was_chosen() -> Result<()> {
    router_or_skip!(lab, router, "xdp");
    let ports = ports(&router)?;
    assert_eq!(ports.len(), 4, "{}", router.show("ports")?);
    for (name, attach, reason) in ports {
        // The control network does without XDP, whatever was asked for.
        assert_eq!(attach, if name == "eth0" { "tc" } else { "xdp" }, "{name}: {reason}");
        assert!(!reason.is_empty(), "{name}");
    }
    let programs = lab.router.run("bpftool", &["net", "show"])?;
    for device in ["eth1", "eth2", "eth3"] {
        let native = programs.lines().any(|line| line.starts_with(device) && line.contains(" driver "));
        assert!(native, "{device} runs no XDP in its driver:\n{programs}");
    }
    Ok(())
}

#[test]
fn show_ports_says_tc_and_why_where_auto_chose_it() -> Result<()> {
    router_or_skip!(lab, router, "auto");
    let ports = ports(&router)?;
    assert_eq!(ports.len(), 4, "{}", router.show("ports")?);
    for (name, attach, reason) in ports {
        assert_eq!(attach, "tc", "{name}: {reason}");
        assert!(name == "eth0" || reason.contains("veth"), "{name}: {reason}");
    }
    Ok(())
}

#[test]
fn every_word_of_show_works_with_and_without_json() -> Result<()> {
    router_or_skip!(lab, router, "auto");
    for what in ["ports", "flows", "drops", "routes", "nat", "rules", "usage", "status"] {
        router.show(what)?;
        assert!(!router.xvr(&["show", what])?.ok()?.stdout.is_empty(), "{what}");
    }
    Ok(())
}

#[test]
fn after_a_command_nothing_is_left_to_do_and_again_changes_nothing() -> Result<()> {
    router_or_skip!(lab, router, "auto");
    assert_eq!(router.plan()?, Vec::<String>::new());
    let before = (State::of(&lab, &router)?, databags(&router)?);
    router.apply(&VPC_COMMANDS)?;
    assert_eq!((State::of(&lab, &router)?, databags(&router)?), before);
    Ok(())
}

#[test]
fn plan_of_a_file_says_what_would_change_and_changes_nothing() -> Result<()> {
    router_or_skip!(lab, router, "auto");
    let before = (State::of(&lab, &router)?, databags(&router)?);
    let file = fixture("cloudstack/ip_associations/vpc_add_extra_ip.json");
    let plan = router.xvr(&["plan", &file.display().to_string()])?.ok()?.stdout;
    assert!(plan.contains("203.0.113.31"), "{plan}");
    assert_eq!((State::of(&lab, &router)?, databags(&router)?), before);
    Ok(())
}

#[test]
fn plan_says_what_of_a_file_would_not_be_in_force() -> Result<()> {
    router_or_skip!(lab, router, "auto");
    let file = fixture("cloudstack/forwarding_rules/isolated_tcp_single_add.json");
    let output = router.xvr(&["plan", "--json", &file.display().to_string()])?.ok()?;
    assert!(serde_json::from_str::<Vec<String>>(&output.stdout).is_ok(), "{}", output.stdout);
    let notice = "notice: forwardingrules.json#/203.0.113.11/0/public_ip: not in force";
    assert!(output.stderr.contains(notice), "{}", output.stderr);
    Ok(())
}

#[test]
fn an_address_that_somebody_took_away_comes_back() -> Result<()> {
    router_or_skip!(lab, router, "auto");
    lab.router.ip("address del 10.10.1.1/24 dev eth2")?;
    let is_back =
        || lab.router.run("ip", &["-br", "-4", "address"]).is_ok_and(|text| text.contains("10.10.1.1/24"));
    netns::wait_until("10.10.1.1/24 is on eth2", Duration::from_secs(15), is_back)?;
    netns::wait_until("nothing is left to do", Duration::from_secs(15), || {
        router.plan().is_ok_and(|plan| plan.is_empty())
    })?;
    Ok(())
}

/// What a command may change in the kernel, as text.
#[derive(Debug, PartialEq)]
struct State {
    addresses: String,
    routes: String,
    programs: usize,
}

impl State {
    fn of(lab: &Lab, router: &Router<'_>) -> Result<Self> {
        let ip = |arguments: &[&str]| lab.router.run("ip", arguments);
        Ok(Self {
            addresses: ip(&["-br", "address"])?,
            routes: ip(&["-4", "route"])? + &ip(&["-6", "route"])?,
            programs: router.attached_programs()?.len(),
        })
    }
}

/// Every databag with its content.
fn databags(router: &Router<'_>) -> Result<Vec<(String, String)>> {
    let mut bags = Vec::new();
    for entry in fs::read_dir(router.root().join("etc/cloudstack"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            bags.push((path.display().to_string(), fs::read_to_string(&path)?));
        }
    }
    bags.sort();
    Ok(bags)
}

/// Sends content as a file of this kind; it must fail, name file and place, and change nothing.
fn is_refused(lab: &Lab, router: &Router<'_>, kind: &str, content: &str, says: &[&str]) -> Result<()> {
    let before = (State::of(lab, router)?, databags(router)?);
    let output = router.update_config_with(kind, content.as_bytes())?;
    assert_eq!(output.code(), 1, "{kind} {content}: {output:?}");
    let message = output.stdout + &output.stderr;
    assert!(message.contains(&format!("{kind}.json")), "no file name in {message:?}");
    for word in says {
        assert!(message.contains(word), "no {word:?} in {message:?}");
    }
    assert_eq!((State::of(lab, router)?, databags(router)?), before, "{kind} {content}");
    Ok(())
}

#[test]
fn bad_input_is_refused_by_file_and_path_and_changes_nothing() -> Result<()> {
    router_or_skip!(lab, router, "auto");
    let invalid = |name: &str| fs::read_to_string(fixture("cloudstack/_invalid").join(name));
    is_refused(&lab, &router, "forwarding_rules", &invalid("truncated.json")?, &[])?;
    is_refused(&lab, &router, "forwarding_rules", &invalid("no_type.json")?, &["type"])?;
    let source_nat = fs::read_to_string(fixture(VPC_COMMANDS[1]))?;
    let cases = [
        // (what is there, what is put in its place, what the message must name)
        ("\"1e:00:a8:00:00:31\"", "\"1e:00:a8:00:00:99\"", "1e:00:a8:00:00:99"),
        ("\"203.0.113.30\"", "17", "/ip_address/0/public_ip"),
        ("\"203.0.113.30\"", "\"203.0.113.300\"", "/ip_address/0/public_ip"),
        ("\"255.255.255.0\"", "\"255.0.255.0\"", "/ip_address/0/netmask"),
        ("\"add\":true", "\"add\":\"maybe\"", "/ip_address/0/add"),
    ];
    for (there, instead, says) in cases {
        is_refused(&lab, &router, "ip_associations", &source_nat.replace(there, instead), &[says])?;
    }
    Ok(())
}

#[test]
fn an_unknown_type_is_a_warning_that_stores_nothing() -> Result<()> {
    router_or_skip!(lab, router, "auto");
    let before = databags(&router)?;
    let content = fs::read(fixture("cloudstack/_invalid/unknown_type.json"))?;
    let output = router.update_config_with("something_new", &content)?;
    assert_eq!(output.code(), 0, "{output:?}");
    assert_eq!(databags(&router)?, before);
    Ok(())
}

#[test]
fn update_config_answers_as_cloudstack_expects() -> Result<()> {
    router_or_skip!(lab, router, "auto");
    let script = |arguments: &[&str]| -> Result<i32> {
        let mut command = lab.router.command(router.root().join("opt/cloud/bin/update_config.py"));
        netns::run_bounded(command.args(arguments), Duration::from_secs(30)).map(|output| output.code())
    };
    assert_eq!(script(&[])?, 1, "no argument");
    assert_eq!(script(&["one", "false", "three"])?, 1, "three arguments");
    assert_eq!(script(&["ip_associations.json.never-sent"])?, 1, "a file that is not there");
    let cache = router.root().join("var/cache/cloud");
    let name = "ip_associations.json.10c9e64e";
    fs::copy(fixture(VPC_COMMANDS[1]), cache.join(name))?;
    assert_eq!(script(&[name])?, 0);
    assert!(!cache.join(name).exists(), "the file was not archived");
    assert!(cache.join("processed").join(format!("{name}.gz")).exists());
    assert_eq!(script(&[name])?, 0, "the same again, which was processed");
    let name = "ip_associations.json.5d36d38c";
    fs::copy(fixture(VPC_COMMANDS[1]), cache.join(name))?;
    assert_eq!(script(&[name, "false"])?, 0);
    assert!(!cache.join("processed").join(format!("{name}.gz")).exists(), "it was to be deleted");
    Ok(())
}
