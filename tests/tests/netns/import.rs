//! XVR takes the place of CloudStack's own router: that one's databags, and what it has made of them in the kernel.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use router_tests::lab::Lab;
use router_tests::router::{Router, fixture};
use router_tests::{clients, needs};

/// What CloudStack's own router keeps of a VPC with one tier: files of its shapes.
const BAGS: [(&str, &str); 6] = [
    ("cmdline.vpcrouter.json", "cmdline.json"),
    ("ips.vpcrouter.json", "ips.json"),
    ("guestnetwork.vpcrouter.json", "guestnetwork.json"),
    ("networkacl.vpcrouter.json", "networkacl.json"),
    ("bgppeers.vpcrouter.json", "bgppeers.json"),
    ("dhcpentry.json", "dhcpentry.json"),
];

/// Its addresses, routes, rules of routing policy and of netfilter (`CsAddress.py`, `CsNetfilter.py`), as SEMANTICS of
/// its releases have them: all traffic by the tables of marks, and nothing forwarded but by rules.
fn become_cloudstacks_router(lab: &Lab) -> Result<()> {
    lab.router.sysctl("net/ipv4/ip_forward", "1")?;
    lab.router.ip("link set eth0 up\nlink set eth1 up\nlink set eth2 up\n\
         address add 169.254.1.178/16 dev eth0\n\
         address add 203.0.113.30/24 dev eth1\n\
         address add 10.10.1.1/24 dev eth2\n\
         route add default via 203.0.113.1 dev eth1\n\
         route add default via 203.0.113.1 dev eth1 table 101\n\
         route add throw 203.0.113.0/24 table 101\n\
         route add throw 10.10.1.0/24 table 102\n\
         rule add fwmark 101 table 101\n\
         rule add from 203.0.113.0/24 table 101\n\
         rule add fwmark 102 table 102\n")?;
    for rule in [
        "-t nat -A POSTROUTING -o eth1 -j SNAT --to-source 203.0.113.30",
        "-t mangle -A PREROUTING -i eth1 -m state --state NEW -j CONNMARK --set-mark 101",
        "-t filter -P INPUT DROP",
        "-t filter -A INPUT -p icmp -j ACCEPT",
        "-t filter -P FORWARD DROP",
        "-t filter -A FORWARD -j ACCEPT",
    ] {
        lab.router.run("iptables-nft", &rule.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

fn its_databags(root: &std::path::Path) -> Result<PathBuf> {
    let folder = root.join("of-its-own");
    fs::create_dir_all(&folder)?;
    for (from, to) in BAGS {
        fs::copy(fixture(&format!("cloudstack/_databags/{from}")), folder.join(to)).context(from)?;
    }
    Ok(folder)
}

#[test]
fn a_running_router_of_cloudstacks_is_taken_over() -> Result<()> {
    if !needs::are_met(&["iptables-nft", "ping"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    become_cloudstacks_router(&lab)?;
    let (web1, far) = (lab.host("web1"), lab.host("far"));
    ensure!(clients::ping(web1, far.v4.into(), 2, std::time::Duration::from_millis(100))?.lost() == 0);
    let router = Router::start(&lab, "auto")?;
    let folder = its_databags(router.root())?;
    let folder = folder.to_str().context("UTF-8")?;

    let check = router.xvr(&["import", folder, "--check"])?.ok()?;
    for line in ["remove routing rule of mark 0x65 to table 101", "remove table ip filter of nftables"] {
        ensure!(
            check.stdout.lines().any(|found| found == line),
            "{line:?} is not announced:\n{}",
            check.stdout
        );
    }
    let rules = || lab.router.run("ip", &["rule"]);
    ensure!(rules()?.contains("fwmark 0x65"), "--check has changed something");

    router.xvr(&["import", folder])?.ok()?;
    ensure!(!rules()?.contains("101"), "rules are left:\n{}", rules()?);
    let tables = lab.router.run("nft", &["list", "tables"])?;
    ensure!(!tables.contains("ip filter") && tables.contains("inet xvr"), "{tables}");
    let routes = lab.router.run("ip", &["route", "show", "table", "all"])?;
    ensure!(!routes.contains("table 101") && routes.matches("default via").count() == 1, "{routes}");
    ensure!(router.plan()?.is_empty(), "something is left to do: {:?}", router.plan()?);
    // By XVR now.
    ensure!(clients::ping(web1, far.v4.into(), 5, std::time::Duration::from_millis(100))?.lost() == 0);
    ensure!(router.show("flows")?.to_string().contains("203.0.113.30"), "{}", router.show("flows")?);
    // What daemons are to do is there, too, and is kept.
    let saved = fs::read_to_string(router.root().join("etc/cloudstack/dhcpentry.json"))?;
    ensure!(saved.contains("10.1.1.20"), "{saved}");
    // Once more changes nothing.
    let again = router.xvr(&["import", folder])?.ok()?.stdout;
    ensure!(again.contains("0 changes"), "{again}");
    Ok(())
}

#[test]
fn what_cannot_be_taken_over_changes_nothing() -> Result<()> {
    if !needs::are_met(&["iptables-nft", "ping"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    become_cloudstacks_router(&lab)?;
    let router = Router::start(&lab, "auto")?;
    let folder = its_databags(router.root())?;
    // Of IPv6 the kernel adds routes by itself, once it has found its addresses free.
    let routes = || lab.router.run("ip", &["-4", "route", "show", "table", "all"]);
    let before = routes()?;
    let refused = |expected: &str| -> Result<()> {
        let refused = router.xvr(&["import", folder.to_str().context("UTF-8")?])?;
        ensure!(refused.code() == 1 && refused.stderr.contains(expected), "{expected}: {refused:?}");
        let after = routes()?;
        ensure!(after == before, "routes have changed:\n{before}\n{after}");
        ensure!(lab.router.run("ip", &["rule"])?.contains("fwmark 0x65"), "rules have changed");
        ensure!(!router.root().join("etc/cloudstack/ips.json").exists(), "databags were saved");
        Ok(())
    };
    let ips = folder.join("ips.json");
    let sound = fs::read_to_string(&ips)?;
    fs::write(&ips, &sound[..sound.len() / 2])?;
    refused("ips.json#")?;
    fs::write(&ips, sound)?;
    fs::remove_file(folder.join("cmdline.json"))?;
    refused("there is no boot line in cmdline.json")
}
