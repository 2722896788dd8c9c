//! Every message of CloudStack's that the fixtures have, by the script that the management server would call.

use std::fs;

use anyhow::{Context, Result, ensure};
use router_tests::lab::Lab;
use router_tests::needs;
use router_tests::router::{Router, fixture};

/// Where messages are, in the order in which a network gets them.
const FOLDERS: [&str; 20] = [
    "ip_associations",
    "guest_network",
    "static_routes",
    "firewall_rules",
    "ipv6_firewall_rules",
    "bgp_peers",
    "staticnat_rules",
    "forwarding_rules",
    "network_acl",
    "vpn_user_list",
    "remote_access_vpn",
    "site_2_site_vpn",
    "load_balancer",
    "ip_aliases",
    "dhcp",
    "monitor_service",
    "vm_dhcp_entry",
    "vm_metadata",
    "vm_password",
    "cmd_line",
];

/// Whose certificate is none, which haproxy says.
const FAKE: &str = "v4_22_ssl_offload.json";

/// NICs of the fixtures that a lab's router does not have.
const MORE_NICS: &str = "link add eth3 address 1e:00:d1:00:00:5f type veth peer name more3\n\
                         link add eth4 address 02:01:01:2c:00:07 type veth peer name more4\n";

fn files(folder: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(fixture(&format!("cloudstack/{folder}")))?
        .map(|file| Ok(file?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    ensure!(!names.is_empty(), "no messages in {folder}");
    Ok(names)
}

/// Of a VPC, by its name and its folder.
fn is_of_vpc(folder: &str, name: &str) -> bool {
    ["guest_network", "static_routes", "network_acl", "site_2_site_vpn"].contains(&folder)
        || name.contains("vpc")
}

fn send_all(router: &Router<'_>, of_vpc: bool) -> Result<()> {
    let mut sent = 0;
    for folder in FOLDERS.into_iter().filter(|folder| *folder != "cmd_line") {
        for name in files(folder)? {
            if is_of_vpc(folder, &name) != of_vpc {
                continue;
            }
            let content = fs::read(fixture(&format!("cloudstack/{folder}/{name}")))?;
            let output = router.update_config_with(folder, &content)?;
            if name == FAKE {
                ensure!(output.code() == 1 && output.stderr.contains("certificate"), "{name}: {output:?}");
                continue;
            }
            output.ok().with_context(|| format!("{folder}/{name}"))?;
            sent += 1;
        }
    }
    println!("{sent} messages");
    ensure!(router.plan()?.is_empty(), "something is left to do: {:?}", router.plan()?);
    Ok(())
}

#[test]
fn every_message_to_an_isolated_networks_router_is_taken() -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    lab.router.ip(MORE_NICS)?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&["cloudstack/cmd_line/router_isolated.json"])?;
    send_all(&router, false)
}

#[test]
fn every_message_to_a_vpcs_router_is_taken() -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    lab.router.ip(MORE_NICS.lines().last().context("a NIC")?)?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&["cloudstack/cmd_line/vpcrouter.json"])?;
    send_all(&router, true)
}

#[test]
fn every_boot_line_is_taken() -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "auto")?;
    for name in files("cmd_line")?.iter().filter(|name| name.ends_with(".json")) {
        // VMware's has the addresses of its own NICs.
        let vmware = name.contains("vmware");
        let content = fs::read(fixture(&format!("cloudstack/cmd_line/{name}")))?;
        let output = router.update_config_with("cmd_line", &content)?;
        ensure!(vmware || output.code() == 0, "{name}: {output:?}");
        // Each begins anew, as after a start.
        if !vmware {
            let line =
                fs::read(fixture(&format!("cloudstack/cmd_line/{}", name.replace(".json", ".cmdline.txt"))))?;
            let inbox = router.root().join("var/cache/cloud/cmdline");
            fs::write(&inbox, line)?;
            router_tests::netns::wait_until(name, std::time::Duration::from_secs(30), || !inbox.exists())?;
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_the_daemon_lives() -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&["cloudstack/cmd_line/vpcrouter.json"])?;
    for name in files("_invalid")? {
        let content = fs::read(fixture(&format!("cloudstack/_invalid/{name}")))?;
        let output = router.update_config_with("message", &content)?;
        let is_taken = ["acl_missing_rules_arrays", "forward_unknown_extra_key", "unknown_type"]
            .iter()
            .any(|taken| name.starts_with(taken));
        ensure!(output.code() == i32::from(!is_taken), "{name}: {output:?}");
        ensure!(is_taken || output.stderr.contains("message.json."), "{name}: {output:?}");
        ensure!(router.show("status")?["pid"].is_u64(), "the daemon is gone after {name}");
    }
    Ok(())
}
