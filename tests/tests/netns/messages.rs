//! Aliases of a shared network, and damaged databags: what the real daemon does about them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use router_tests::lab::Lab;
use router_tests::needs;
use router_tests::netns::wait_until;
use router_tests::router::{Router, VPC_COMMANDS, fixture};
use router_tests::servers::{UdpEcho, udp_round_trip};

const DHCP: &str = "cloudstack/vm_dhcp_entry/vpc_add.json";
const USERS: &str = "cloudstack/vpn_user_list/add_two_remove_one.json";
const TUNNEL: &str = "cloudstack/site_2_site_vpn/create.json";

fn bag(router: &Router<'_>, name: &str) -> PathBuf {
    router.root().join("etc/cloudstack").join(name)
}

/// The sentences of `xvr status` under a key.
fn status(router: &Router<'_>, key: &str) -> Result<Vec<String>> {
    Ok(serde_json::from_value(router.show("status")?[key].clone())?)
}

/// Sends a fixture that is refused. Gives what is said about it.
fn refusal(router: &Router<'_>, name: &str) -> Result<String> {
    let output = router.update_config(&fixture(name))?;
    assert_eq!(output.code(), 1, "{name}: {output:?}");
    Ok(output.stderr)
}

#[test]
fn aliases_of_a_shared_network_are_addresses_of_the_router() -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "tc")?;
    let addresses = || lab.router.run("ip", &["-br", "-4", "address", "show", "dev", "eth0"]);
    router.apply(&["cloudstack/cmd_line/dhcpsrvr_shared.json", "cloudstack/ip_aliases/create.json"])?;
    let held = addresses()?;
    for address in ["10.20.0.2/24", "10.20.1.2/24", "10.20.2.2/24"] {
        assert!(held.contains(address), "{held}");
    }
    router.apply(&["cloudstack/ip_aliases/delete_one_keep_one.json"])?;
    let held = addresses()?;
    assert!(held.contains("10.20.2.2/24") && !held.contains("10.20.1.2/24"), "{held}");
    Ok(())
}

#[test]
fn a_damaged_bag_of_guests_addresses_stops_nothing_else() -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, "tc")?;
    router.apply(&VPC_COMMANDS)?;
    router.apply(&[DHCP])?;
    let path = bag(&router, "dhcpentry.json");
    let whole = fs::read(&path)?;
    router.kill_daemon();
    fs::write(&path, &whole[..whole.len() / 2])?;
    router.start_daemon()?;

    let problems = status(&router, "problems")?;
    let told = problems.iter().find(|problem| problem.contains("dhcpentry.json#: no valid JSON"));
    let told = told.with_context(|| format!("{problems:?}"))?;
    assert!(told.ends_with("messages that change it are refused until this is repaired"), "{told}");
    let refused = refusal(&router, DHCP)?;
    assert!(refused.contains("dhcpentry.json#: no valid JSON"), "{refused}");
    router.apply(&[TUNNEL, "cloudstack/ip_associations/vpc_add_extra_ip.json"])?;
    let held = lab.router.run("ip", &["-br", "-4", "address", "show", "dev", "eth1"])?;
    assert!(held.contains("203.0.113.31/24"), "{held}");
    assert_eq!(fs::read(&path)?, whole[..whole.len() / 2], "a damaged file is not overwritten");

    fs::write(&path, &whole)?;
    router.apply(&[DHCP])?;
    assert!(!status(&router, "problems")?.iter().any(|problem| problem.contains("dhcpentry")));
    Ok(())
}

#[test]
fn a_damaged_bag_that_forwarding_rests_on_leaves_what_is_forwarded_as_it_is() -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, "tc")?;
    router.apply(&VPC_COMMANDS)?;
    let far = lab.host("far");
    let echo = UdpEcho::start(far)?;
    udp_round_trip(lab.host("web1"), echo.at(far.v4), b"before")?;
    let path = bag(&router, "ips.json");
    let whole = fs::read(&path)?;
    router.kill_daemon();
    fs::write(&path, "{\"eth1\": 7}")?;
    router.start_daemon()?;

    let damage = "ips.json#/eth1: expected a list, found a number";
    let problems = status(&router, "problems")?;
    assert!(problems.iter().any(|problem| problem.contains(damage)), "{problems:?}");
    udp_round_trip(lab.host("web1"), echo.at(far.v4), b"damaged")?;
    udp_round_trip(lab.host("web2"), echo.at(far.v4), b"a flow that is new")?;
    for name in [VPC_COMMANDS[0], VPC_COMMANDS[2], "cloudstack/static_routes/add.json"] {
        let refused = refusal(&router, name)?;
        assert!(refused.contains(damage), "{refused}");
    }
    router.apply(&[DHCP, USERS])?;
    assert_eq!(fs::read_to_string(&path)?, "{\"eth1\": 7}", "a damaged file is not overwritten");

    fs::write(&path, &whole)?;
    wait_until("the databags are sound", Duration::from_secs(15), || {
        status(&router, "problems")
            .is_ok_and(|problems| !problems.iter().any(|said| said.contains("ips.json")))
    })?;
    router.apply(&VPC_COMMANDS)?;
    assert_eq!(router.plan()?, Vec::<String>::new());
    udp_round_trip(lab.host("db1"), echo.at(far.v4), b"after")?;
    Ok(())
}
