//! `monitorservice`: each key counts until it is said again.

use std::time::Duration;

use router_userspace::model::health::{RouterVersion, Thresholds};

use super::*;

fn minutes(minutes: u64) -> Option<Duration> {
    Some(Duration::from_secs(60 * minutes))
}

fn told(names: &[&str]) -> Databags {
    merge_all(names, &isolated())
}

#[test]
fn all_of_a_message_is_understood() {
    let bags = told(&["cmd_line/router_isolated.json", "monitor_service/on_start.json"]);
    let monitoring = bags.monitoring().unwrap();
    assert!(monitoring.enabled && monitoring.excluded.is_empty());
    assert_eq!((monitoring.basic_every, monitoring.advanced_every), (minutes(3), minutes(10)));
    assert!(monitoring.services.iter().eq(["dhcp", "loadbalancing", "ssh", "webserver"]));
    let gateways: Vec<String> = monitoring.gateways.iter().map(ToString::to_string).collect();
    assert_eq!(gateways, ["169.254.0.1", "203.0.113.1"]);
    let forwards: Vec<String> = monitoring.forwards.iter().map(ToString::to_string).collect();
    assert_eq!(forwards, ["203.0.113.11 2222 to 10.1.1.20 22"]);
    let thresholds = Thresholds {
        free_disk_megabytes: Some(100.0),
        cpu_percent: Some(100.0),
        memory_percent: Some(100.0),
    };
    assert_eq!(monitoring.thresholds, thresholds);
    let template = "Cloudstack Release 4.20.0.0 Fri Sep 27 01:02:15 PM UTC 2024".to_owned();
    let scripts = "14829be797d19c6d38e8c77efff9aeea".to_owned();
    assert_eq!(monitoring.version, Some(RouterVersion { template, scripts }));
}

#[test]
fn what_a_refresh_does_not_say_stays() {
    let start = ["cmd_line/router_isolated.json", "monitor_service/on_start.json"];
    let refreshed = told(&[&start[..], &["monitor_service/periodic_refresh_delete_after.json"]].concat());
    assert_eq!(refreshed, told(&start));
    let bag = &refreshed.documents()["monitorservice"];
    assert_eq!(bag["id"], "monitorservice");
    assert_eq!(bag["disable_monitoring"], "false");
    assert!(bag.get("type").is_none() && bag.get("delete_from_processed_cache").is_none());
    let excluding = told(&[&start[..], &["monitor_service/vpc_backup_router_excludes.json"]].concat());
    let monitoring = excluding.monitoring().unwrap();
    assert!(monitoring.excluded.iter().eq(["gateways_check.py"]) && monitoring.services.iter().eq(["ssh"]));
    assert!(monitoring.forwards.is_empty() && monitoring.gateways.len() == 2);
}

#[test]
fn the_advanced_interval_is_one_key_in_both_spellings() {
    let old = told(&["cmd_line/router_isolated.json", "monitor_service/older_advance_key_spelling.json"]);
    assert_eq!(old, told(&["cmd_line/router_isolated.json", "monitor_service/on_start.json"]));
}

#[test]
fn monitoring_changes_nothing_that_forwards() {
    let isolated = told(&["cmd_line/router_isolated.json"]);
    let watched = told(&["cmd_line/router_isolated.json", "monitor_service/on_start.json"]);
    assert_eq!(desired(&watched), desired(&isolated));
}
