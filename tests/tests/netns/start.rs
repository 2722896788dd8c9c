//! A network's life as the management server leads it, over SSH: it starts, it is started again without clean-up,
//! loses an address, a tier. Real clients see that it works, and connections that they do not notice.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::lab::Lab;
use router_tests::management::Management;
use router_tests::router::{Router, fixture};
use router_tests::servers::{Conversation, TcpEcho};
use router_tests::{clients, needs};
use serde_json::Value;

const PROGRAMS: &[&str] = &["ssh", "scp", "ssh-keygen", "sshd", "ping", "curl"];

/// `r-4-VM` and `r-10-VM` on the control network.
const ISOLATED: [u8; 4] = [169, 254, 100, 12];
const VPC: [u8; 4] = [169, 254, 1, 177];

/// What starts an isolated network.
const BOOT: &str = "VR-5d36d38c-a1ce-49a0-9b0e-0f4f6d1c2b3a.cfg";
/// What restarts it without clean-up.
const RESTART: &str = "VR-88888888-8888-4888-8888-888888888888_restart_no_cleanup.cfg";
/// What a VPC's tier is started with.
const TIER: &str = "VR-10c9e64e-6ad9-4d9b-8d24-fe1496b59146.cfg";

/// From the boot to the sign that the router takes commands.
fn boot(management: &Management<'_>, router: &Router<'_>, line: &str) -> Result<()> {
    management.boot(router, &management.boot_line(line)?)?;
    management.copy_patch("md5sum")?;
    let said = management.call("get_template_version.sh", "")?.ok()?.stdout;
    ensure!(said.split('&').count() == 2 && said.starts_with("Cloudstack Release 4."), "{said}");
    Ok(())
}

/// A databag as it is on disk; nothing where there is none.
fn bag(router: &Router<'_>, name: &str) -> Result<Value> {
    match fs::read(router.root().join("etc/cloudstack").join(name)) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| name.to_owned()),
        Err(_) => Ok(Value::Null),
    }
}

fn bags(router: &Router<'_>) -> Result<BTreeMap<String, String>> {
    let mut bags = BTreeMap::new();
    for file in fs::read_dir(router.root().join("etc/cloudstack"))? {
        let path = file?.path();
        bags.insert(path.display().to_string(), fs::read_to_string(&path)?);
    }
    Ok(bags)
}

fn as_cloudstack_has_it(router: &Router<'_>, name: &str, expected: &str) -> Result<()> {
    let expected: Value =
        serde_json::from_slice(&fs::read(fixture(&format!("cloudstack/_databags/{expected}")))?)?;
    ensure!(bag(router, name)? == expected, "{name} is\n{:#}\nand not\n{expected:#}", bag(router, name)?);
    Ok(())
}

#[test]
fn an_isolated_network_starts_and_restarts_and_nobody_notices() -> Result<()> {
    if !needs::are_met(PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "auto")?;
    let management = Management::new(&lab, ISOLATED.into())?;
    boot(&management, &router, "router_isolated")?;
    as_cloudstack_has_it(&router, "ips.json", "ips.after_boot.router_isolated.json")?;
    management.expect("netusage.sh", "-c", "")?;
    management.aggregate(BOOT)?.ok()?;
    // What comes to a network that runs.
    management.apply("cloudstack/vm_password/save.json")?;
    management.configure("firewall_rules", FORWARDED_PORT.as_bytes())?.ok()?;

    let (vm1, vm2, far) = (lab.host("vm1"), lab.host("vm2"), lab.host("far"));
    vm1.namespace.ip("address add 10.1.1.20/24 dev eth0\n")?;
    vm2.namespace.ip("address add 10.1.1.30/24 dev eth0\n")?;
    let (open, web, _behind) =
        (TcpEcho::start_on(far, 7000)?, TcpEcho::start_on(far, 80)?, TcpEcho::start_on(vm1, 22)?);
    let mut out = Conversation::begin(vm1, open.at(far.v4))?;
    let mut inward = Conversation::begin(far, (std::net::Ipv4Addr::new(203, 0, 113, 11), 2222).into())?;
    ensure!(
        Conversation::begin_within(vm1, web.at(far.v4), Duration::from_secs(2)).is_err(),
        "the egress rule about ports 80 to 443 is not in force"
    );
    let ask = |url: &str, more: &[&str]| {
        let arguments = [&["-sS", "--max-time", "10", "--interface", "10.1.1.20"], more, &[url]].concat();
        vm1.namespace.run("curl", &arguments)
    };
    ensure!(ask("http://10.1.1.1/latest/meta-data/local-hostname", &[])? == "web-1");
    ensure!(ask("http://10.1.1.1/latest/user-data", &[])?.starts_with("#cloud-config\n"));
    let password = ask("http://10.1.1.1:8080/", &["-H", "DomU_Request: send_my_password"])?;
    ensure!(password.trim_end() == "kX3gTw9q", "{password}");

    // The same again, and a restart without clean-up.
    let before = bags(&router)?;
    let pings = clients::start_ping(vm1, far.v4.into(), Duration::from_millis(20))?;
    management.expect("netusage.sh", "-c", "")?;
    management.aggregate(BOOT)?.ok()?;
    ensure!(bags(&router)? == before, "starting again has changed databags");
    ensure!(router.plan()?.is_empty(), "something is left to do: {:?}", router.plan()?);
    management.aggregate(RESTART)?.ok()?;
    ensure!(bags(&router)? == before, "restarting without clean-up has changed databags");
    ensure!(router.plan()?.is_empty(), "something is left to do: {:?}", router.plan()?);
    let pings = pings.stop()?;
    ensure!(pings.lost() == 0, "{pings:?}");
    out.go_on()?;
    inward.go_on()?;

    // An address is released.
    management.apply("cloudstack/ip_associations/isolated_remove_ip.json")?;
    let addresses = lab.router.run("ip", &["-br", "address", "show", "eth2"])?;
    let released: Value =
        serde_json::from_slice(&fs::read(fixture("cloudstack/ip_associations/isolated_remove_ip.json"))?)?;
    for entry in released["ip_address"].as_array().context("addresses")? {
        let address = format!("{}/", entry["public_ip"].as_str().context("an address")?);
        ensure!(addresses.contains(&address) == (entry["add"] == true), "{address} in {addresses}");
    }
    out.go_on()?;
    ensure!(router.plan()?.is_empty(), "something is left to do: {:?}", router.plan()?);
    Ok(())
}

/// CloudStack opens public ports as they are before translation.
const FORWARDED_PORT: &str = r#"{"rules":[{"id":71,"src_ip":"203.0.113.11","protocol":"tcp","src_port_range":[2222,2222],"revoked":false,"already_added":false,"source_cidr_list":["0.0.0.0/0"],"purpose":"Firewall","traffic_type":"Ingress","default_egress_policy":false}],"type":"firewallrules","delete_from_processed_cache":false}"#;

#[test]
fn a_vpc_starts_with_two_tiers_and_loses_one() -> Result<()> {
    if !needs::are_met(PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = Router::start(&lab, "auto")?;
    let management = Management::new(&lab, VPC.into())?;
    boot(&management, &router, "vpcrouter")?;
    management.apply("cloudstack/ip_associations/vpc_add_source_nat.json")?;
    management.apply("cloudstack/ip_associations/vpc_add_extra_ip.json")?;
    management.apply("cloudstack/guest_network/vpc_tier_add.json")?;
    as_cloudstack_has_it(&router, "ips.json", "ips.vpcrouter.json")?;
    as_cloudstack_has_it(&router, "guestnetwork.json", "guestnetwork.vpcrouter.json")?;
    management.apply("own/guest_network/vpc_second_tier_add_dualstack.json")?;
    management.apply("cloudstack/static_routes/v4_21_next_hop_no_private_gateway.json")?;
    management.aggregate(TIER)?.ok()?;
    as_cloudstack_has_it(&router, "networkacl.json", "networkacl.vpcrouter.json")?;
    management.apply("own/network_acl/vpc_second_tier_default_allow.json")?;
    management.apply("cloudstack/load_balancer/vpc_tier_http.json")?;
    management.expect("vpc_netusage.sh", "-c -v 10.10.0.0/16", "")?;

    let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
    let echo = TcpEcho::start_on(far, 80)?;
    let mut first = Conversation::begin(web1, echo.at(far.v4))?;
    let mut second = Conversation::begin(db1, echo.at(far.v4))?;
    ensure!(clients::ping(db1, web1.v4.into(), 3, Duration::from_millis(50))?.lost() == 0);
    ensure!(router.show("flows")?.to_string().contains("203.0.113.30"), "no source NAT");

    let before = bags(&router)?;
    management.aggregate(TIER)?.ok()?;
    management.apply("cloudstack/guest_network/vpc_tier_add.json")?;
    ensure!(bags(&router)? == before, "starting again has changed databags");
    ensure!(router.plan()?.is_empty(), "something is left to do: {:?}", router.plan()?);
    first.go_on()?;
    second.go_on()?;

    management.apply("own/guest_network/vpc_second_tier_remove.json")?;
    management.apply("cloudstack/ip_associations/vpc_remove_extra_ip.json")?;
    let addresses = lab.router.run("ip", &["-br", "address"])?;
    ensure!(!addresses.contains("10.10.2.1/") && !addresses.contains("203.0.113.31/"), "{addresses}");
    ensure!(addresses.contains("10.10.1.1/"), "{addresses}");
    first.go_on()?;
    ensure!(router.plan()?.is_empty(), "something is left to do: {:?}", router.plan()?);
    let usage = management.call("vpc_netusage.sh", "-l 203.0.113.30 -g")?.ok()?.stdout;
    let counters: Vec<u64> = usage.split(':').filter_map(|word| word.parse().ok()).collect();
    ensure!(counters.len() == 4 && counters[0] > 0 && counters[1] > 0, "{usage}");
    Ok(())
}

#[test]
fn an_aggregate_is_in_force_whole_or_not_at_all() -> Result<()> {
    if !needs::are_met(PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "auto")?;
    let management = Management::new(&lab, ISOLATED.into())?;
    boot(&management, &router, "router_isolated")?;
    let whole = fs::read_to_string(fixture(&format!("cloudstack/aggregate/{BOOT}")))?;
    let before = bags(&router)?;
    ensure!(whole.contains("\"2222:2222\""), "the aggregate is another one");
    management.copy(BOOT, whole.replace("\"2222:2222\"", "\"2222:22222222\"").as_bytes(), 0o600)?;
    let refused = management.call("vr_cfg.sh", &format!("-c /var/cache/cloud/{BOOT}"))?;
    let golden = fs::read_to_string(fixture("cloudstack/_query_outputs/vr_cfg_failed.exit1.stderr"))?;
    let golden = golden.replace("UUID", "a1b20005-1111-4222-8333-c0ffee000005");
    ensure!(refused.code() == 1 && refused.stderr == golden, "{refused:?}");
    ensure!(refused.stdout.contains("#/rules/0/source_port_range: "), "{}", refused.stdout);
    ensure!(bags(&router)? == before, "a part of it is in force");
    let parts = || -> Result<usize> {
        let files = fs::read_dir(router.root().join("var/cache/cloud"))?.collect::<Result<Vec<_>, _>>()?;
        Ok(files.iter().filter(|file| file.file_name().to_string_lossy().contains(".json")).count())
    };
    ensure!(parts()? > 0, "nobody can look at what was refused");
    // What is wrong is mended, and the same file comes again.
    management.aggregate(BOOT)?.ok()?;
    ensure!(parts()? == 0, "what is in force lies around");
    ensure!(router.root().join("var/cache/cloud/processed").join(BOOT).exists(), "and is kept nowhere");
    for empty in [
        "VR-00000000-0000-4000-8000-000000000000_empty.cfg",
        "VR-e7dfd01c-8c30-43be-bb1d-38229c8c1edf_null_args.cfg",
    ] {
        management.aggregate(empty)?.ok()?;
    }
    ensure!(router.plan()?.is_empty(), "something is left to do: {:?}", router.plan()?);
    Ok(())
}
