//! Ports that are VXLAN networks: a VPC's tiers on the kernel's own vxlan devices, and behind bridges with such devices,
//! beside one by VLAN and one with a NIC of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_common::account::Hook;
use router_tests::clients::{self, Probe, curl, ping, tracepath, traceroute, upload, wait_until_reached};
use router_tests::dhcp::dig;
use router_tests::lab::{Host, Lab};
use router_tests::needs::{self, sends_several_buffers};
use router_tests::netns::{run_bounded, wait_until};
use router_tests::router::{Router, Tier, VPC_COMMANDS, for_both_hooks};
use router_tests::servers::{HttpServer, sha256_of_body, write_body};
use router_tests::trunk::{Station, Switch};
use router_tests::vtep::{JUMBO_MTU, LOCAL, MTU, NETWORKS, Overlay, UNDERLAY, VTEPS, carried, has_remotes};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(300);
const TRUNK: &str = "trunk0";

/// Tiers, their networks' third octets.
const TIERS: [(Tier, u8); 3] = [
    (("eth5", "02:01:00:e0:00:05", "10.10.5.1"), 5),
    (("eth6", "02:01:00:e0:00:06", "10.10.6.1"), 6),
    (("eth7", "02:01:00:e0:00:07", "10.10.7.1"), 7),
];

/// By VLAN: the third tier.
const GREEN: Station = Station {
    name: "green",
    tags: &[(0x8100, 300)],
    mac: "02:00:00:00:07:0b",
    v4: (Ipv4Addr::new(10, 10, 7, 11), 24),
    via: Ipv4Addr::new(10, 10, 7, 1),
};

/// What the operator declares.
fn declaration() -> Value {
    let network = |index: usize, remotes: &[&str]| {
        let ((name, mac, _), _) = TIERS[index];
        let (vni, _) = NETWORKS[index];
        json!({"name": name, "mac": mac, "underlay": UNDERLAY, "vni": vni, "local": LOCAL, "remotes": remotes})
    };
    let ((name, mac, _), _) = TIERS[2];
    json!({"ports": [
        network(0, &VTEPS[..2]),
        network(1, &VTEPS[1..]),
        {"name": name, "mac": mac, "trunk": TRUNK, "vlan": 300},
    ]})
}

/// CloudStack's words about the tiers: it knows of NICs and of nothing else.
fn add_tiers(router: &Router<'_>, mtu: u16) -> Result<()> {
    let everything = json!([{"type": "all", "cidr": "0.0.0.0/0,::/0", "allowed": true}]);
    for (tier, octet) in TIERS {
        let gateway6 = format!("fd17:ac56:1234:{octet}::1");
        let ipv6 = json!({
            "cidr6": "64", "dns6": "2001:4860:4860::8888", "router_guest_ip6": gateway6, "router_guest_ip6_gateway": gateway6,
            "router_guest_ip6_cidr": format!("fd17:ac56:1234:{octet}::/64"),
            "router_ip6": "2001:db8:100::1e00:a8ff:fe00:31", "router_ip6_gateway": "2001:db8:100::1",
            "router_ip6_cidr": "2001:db8:100::/64", "mtu": mtu,
        });
        router.add_tier(tier, octet, &ipv6)?;
        router.apply_acl(tier, &everything, &everything)?;
    }
    Ok(())
}

/// A VPC with these tiers beside its own.
fn start<'lab>(lab: &'lab Lab, attach: &str) -> Result<(Router<'lab>, Overlay, Switch)> {
    let overlay = Overlay::start(lab)?;
    let switch = Switch::start(lab, TRUNK, &[GREEN])?;
    let router = Router::start(lab, attach)?;
    router.apply(&VPC_COMMANDS)?;
    router.declare_ports(&declaration())?;
    add_tiers(&router, 1500)?;
    Ok((router, overlay, switch))
}

#[test]
fn jumbo_frames_are_taken_out_and_put_in_by_xdp_in_several_buffers() -> Result<()> {
    if !needs::are_met(&["curl", "ethtool", "ping"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let overlay = Overlay::start(&lab)?;
    overlay.take_jumbo_frames(&lab)?;
    let switch = Switch::start(&lab, TRUNK, &[GREEN])?;
    let router = Router::start(&lab, "xdp")?;
    router.apply(&VPC_COMMANDS)?;
    router.declare_ports(&declaration())?;
    add_tiers(&router, JUMBO_MTU)?;
    let (red, blue) = (overlay.host("red"), overlay.host("blue"));
    let port = router.port("eth5")?;
    assert_eq!((&port["attach"], &port["mtu"]), (&json!("xdp-multi-buffer"), &json!(JUMBO_MTU)));
    reaches(red, blue.v4)?;
    let before = router.forwarded(Hook::Xdp)?;
    for _ in 0..50 {
        clients::ping_once(red, blue.v4.into(), usize::from(JUMBO_MTU) - 28)?;
    }
    if sends_several_buffers() {
        let by_xdp = router.forwarded(Hook::Xdp)? - before;
        assert!(by_xdp >= 95, "{by_xdp} by XDP: {}", router.show("drops")?);
    }
    let server = HttpServer::start(blue)?;
    for to in [IpAddr::from(blue.v4), blue.v6.into()] {
        let download = curl(red, server.at(to), 20_000_000, SOON)?;
        assert_eq!(download.sha256, sha256_of_body(20_000_000)?, "{to}");
    }
    drop(switch);
    Ok(())
}

/// Waits until this problem is all that `xvr status` says.
fn says(router: &Router<'_>, problem: &str) -> Result<()> {
    let is_all = || router.show("status").is_ok_and(|status| status["problems"] == json!([problem]));
    wait_until(problem, SOON, is_all).with_context(|| router.log())
}

fn reaches(from: &Host, to: impl Into<IpAddr>) -> Result<()> {
    wait_until_reached(from, to, SOON)
}

#[test]
fn tiers_by_vxlan_are_tiers_like_others() -> Result<()> {
    for_both_hooks(&["curl", "dig", "traceroute", "tracepath", "udhcpc", "nmap"], |attach| {
        let lab = Lab::vpc()?;
        let (router, overlay, switch) = start(&lab, attach)?;
        let [red, rose, blue, navy] = ["red", "rose", "blue", "navy"].map(|name| overlay.host(name));
        let (green, web, far) = (switch.host("green"), lab.host("web1"), lab.host("far"));
        for (host, octet) in [(red, 5), (rose, 5), (blue, 6), (navy, 6), (green, 7)] {
            let v4 = Ipv4Addr::new(10, 10, octet, 1);
            reaches(host, v4).with_context(|| router.log())?;
        }
        assert_eq!(router.plan()?, Vec::<String>::new());
        assert_eq!(router.show("status")?["problems"], json!([]));
        let hook = if attach == "xdp" { "xdp" } else { "tc" };
        let port = router.port("eth5")?;
        assert_eq!((&port["attach"], &port["mtu"]), (&json!(hook), &json!(MTU)));
        assert_eq!(port["vxlan"]["remotes"], json!(VTEPS[..2]));

        // Between tiers: network to network by two hosts and by one, to and from a VLAN and a NIC; both families.
        let ways =
            [(red, blue), (rose, blue), (navy, red), (blue, green), (green, rose), (web, navy), (red, web)];
        for (from, to) in ways {
            reaches(from, to.v4).with_context(|| format!("{attach}: {} to {}", from.name, to.name))?;
            // Fragments of what is sent are cut again, or put together.
            for size in [1422, 4000] {
                let ttl = clients::ping_once(from, to.v4.into(), size)?;
                ensure!(ttl == 64 - 1, "{size} bytes from {} to {}", from.name, to.name);
            }
            if from.name != "green" && to.name != "green" {
                reaches(from, to.v6).with_context(|| format!("{attach}: {} to {}", from.name, to.name))?;
            }
        }
        // A larger MTU here than there: who sends hears of it.
        assert_eq!(tracepath(web, red.v4.into())?.mtu, u32::from(MTU));
        assert_eq!(tracepath(web, blue.v6.into())?.mtu, u32::from(MTU));

        // To the Internet, translated, and what has passed away is answered by the tier's own address.
        let server = HttpServer::start(far)?;
        for host in [red, rose, blue, navy] {
            let download = curl(host, server.at(far.v4), 3_000_000, SOON)?;
            assert_eq!(download.sha256, sha256_of_body(3_000_000)?, "{}", host.name);
            let hops = traceroute(host, far.v4.into(), Probe::Udp)?;
            let gateway = Ipv4Addr::new(10, 10, host.v4.octets()[2], 1);
            assert_eq!(hops.first().copied().flatten(), Some(gateway.into()), "{}", host.name);
        }
        let download = curl(red, server.at(far.v6), 3_000_000, SOON)?;
        assert_eq!(download.sha256, sha256_of_body(3_000_000)?);

        // The router's own services.
        let entry = json!({
            "host_name": "new", "mac_address": "02:00:00:00:06:0b", "ipv4_address": "10.10.6.50",
            "ipv6_duid": "00:03:00:01:02:00:00:00:06:0b", "dns_addresses": "10.10.6.1",
            "default_gateway": "10.10.6.1", "default_entry": true, "remove": false,
            "type": "dhcpentry", "delete_from_processed_cache": false,
        });
        router.update_config_with("vm_dhcp_entry", entry.to_string().as_bytes())?.ok()?;
        let mut client = blue.namespace.command("udhcpc");
        client.args(["-i", "eth0", "-f", "-q", "-n", "-t", "20", "-T", "1", "-s", "/bin/true"]);
        let output = run_bounded(&mut client, SOON)?;
        ensure!(output.stderr.contains("lease of 10.10.6.50 obtained"), "{output:?}");
        for (host, gateway) in [(red, "10.10.5.1"), (rose, "10.10.5.1"), (navy, "10.10.6.1")] {
            let answers = dig(&host.namespace, gateway, &["new.cs2cloud.internal", "A"])?;
            assert_eq!(answers, Some(vec!["10.10.6.50".to_owned()]));
        }

        // A list of the tier's holds.
        let nobody = json!([{"type": "all", "cidr": "0.0.0.0/0,::/0", "allowed": false}]);
        let everything = json!([{"type": "all", "cidr": "0.0.0.0/0,::/0", "allowed": true}]);
        router.apply_acl(TIERS[1].0, &nobody, &everything)?;
        ensure!(
            ping(red, blue.v4.into(), 2, Duration::from_millis(20))?.lost() == 2,
            "the list is not asked"
        );
        reaches(blue, red.v4)
    })
}

#[test]
fn what_is_large_arrives_whole() -> Result<()> {
    for_both_hooks(&["curl", "iperf3"], |attach| {
        let lab = Lab::vpc()?;
        let (router, overlay, switch) = start(&lab, attach)?;
        let [red, blue, navy] = ["red", "blue", "navy"].map(|name| overlay.host(name));
        let (green, web, far) = (switch.host("green"), lab.host("web1"), lab.host("far"));
        let file = router.root().join("large");
        write_body(&file, LARGE)?;
        // The kernel's device itself, a bridge with one, and one behind a hop; from and to.
        for (client, server) in [(blue, red), (red, blue), (navy, red), (green, blue), (web, red), (red, far)]
        {
            reaches(client, server.v4)?;
            let about = || format!("{attach}: {} and {}", client.name, server.name);
            let http = HttpServer::start(server)?;
            let download = curl(client, http.at(server.v4), LARGE, LONG).with_context(about)?;
            assert_eq!(download.sha256, sha256_of_body(LARGE)?, "{}", about());
            upload(client, http.at(server.v4), &file, LONG).with_context(about)?;
        }
        for direction in [clients::Direction::Upload, clients::Direction::Download] {
            for (client, server) in [(red, blue), (web, blue)] {
                let found = clients::iperf(client, server, server.v4.into(), direction, 2)?;
                println!("{attach}: {} and {}: {found:?}", client.name, server.name);
            }
        }
        Ok(())
    })
}

const LARGE: u64 = 100_000_000;

#[test]
fn remote_ends_are_whom_the_kernels_forwarding_database_names() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let (mut router, overlay, _switch) = start(&lab, attach)?;
        let [red, blue, navy] = ["red", "blue", "navy"].map(|name| overlay.host(name));
        let fdb = |line: &str| {
            let words: Vec<&str> = std::iter::once("fdb").chain(line.split(' ')).collect();
            lab.router.run("bridge", &words)
        };
        let device = |vni: u32| {
            lab.router.ip(&format!(
                "link add name vx200 type vxlan id {vni} local {LOCAL} dev {UNDERLAY} dstport 4789 nolearning\n"
            ))?;
            lab.router.sysctl("net/ipv6/conf/vx200/disable_ipv6", "1")?;
            lab.router.ip("link set vx200 up\n")
        };

        // Nobody is there as long as the device is not, nor has an entry.
        let mut followed = declaration();
        let network = followed["ports"][1].as_object_mut().context("a port")?;
        network.remove("remotes");
        network.insert("fdb".to_owned(), json!("vx200"));
        reaches(blue, red.v4)?;
        router.declare_ports(&followed)?;
        says(&router, "ports.json: eth6: there is no vx200 whose forwarding database it could follow")?;
        has_remotes(&router, "eth6", &[])?;
        ensure!(ping(blue, red.v4.into(), 2, Duration::from_millis(20))?.lost() == 2, "blue is still there");
        device(201)?;
        says(&router, "ports.json: eth6: vx200 is VNI 201, not 200")?;
        lab.router.ip("link del vx200\n")?;
        device(200)?;
        says(&router, "ports.json: eth6: the forwarding database of vx200 has no remote end yet")?;

        // One by what is for all, one by a station of its own.
        fdb(&format!("append 00:00:00:00:00:00 dev vx200 dst {}", VTEPS[1]))?;
        has_remotes(&router, "eth6", &VTEPS[1..2])?;
        reaches(blue, red.v4).with_context(|| router.log())?;
        let before = router.outcome("unknown-vtep")?;
        ensure!(
            ping(navy, red.v4.into(), 2, Duration::from_millis(20))?.lost() == 2,
            "navy is there already"
        );
        ensure!(router.outcome("unknown-vtep")? > before, "its packets are not counted");
        fdb(&format!("append 02:00:00:00:06:0c dev vx200 dst {}", VTEPS[2]))?;
        has_remotes(&router, "eth6", &VTEPS[1..])?;
        reaches(navy, red.v4).with_context(|| router.log())?;
        reaches(blue, red.v4)?;
        assert_eq!(router.show("status")?["problems"], json!([]));
        assert_eq!(router.plan()?, Vec::<String>::new());

        // Neither a daemon that starts anew loses a packet, nor one that cannot read whom it is to follow.
        let running =
            [blue, navy].map(|host| clients::start_ping(host, red.v4.into(), Duration::from_millis(20)));
        router.kill_daemon();
        router.start_daemon()?;
        let path = router.root().join("etc/xvr/ports.json");
        fs::write(&path, "{")?;
        router.kill_daemon();
        router.start_daemon()?;
        assert_eq!(router.port("eth6")?["vxlan"]["remotes"], json!(VTEPS[1..]));
        router.declare_ports(&followed)?;
        for ping in running {
            assert_eq!(ping?.stop()?.lost(), 0, "{attach}");
        }

        // One goes.
        fdb(&format!("del 02:00:00:00:06:0c dev vx200 dst {}", VTEPS[2]))?;
        has_remotes(&router, "eth6", &VTEPS[1..2])?;
        let before = router.outcome("unknown-vtep")?;
        ensure!(ping(navy, red.v4.into(), 2, Duration::from_millis(20))?.lost() == 2, "navy is still there");
        ensure!(router.outcome("unknown-vtep")? > before, "its packets are not counted");
        reaches(blue, red.v4)?;

        // The device itself has carried nothing.
        assert_eq!(carried(&lab.router, "vx200")?, (0, 0), "{attach}");
        Ok(())
    })
}

#[test]
fn what_is_declared_is_there_and_nothing_else() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let (mut router, overlay, _switch) = start(&lab, attach)?;
        let [red, blue, navy] = ["red", "blue", "navy"].map(|name| overlay.host(name));
        reaches(red, blue.v4)?;

        // A file with an error changes nothing, nor does it end a port when the daemon begins with it.
        let mut wrong = declaration();
        wrong["ports"][0]["remotes"][0] = json!("2001:db8::1");
        let path = router.root().join("etc/xvr/ports.json");
        fs::write(&path, wrong.to_string())?;
        let refused = router.xvr(&["reload"])?;
        ensure!(refused.stderr.contains("ports.json#/ports/0/remotes/0"), "{refused:?}");
        let running = clients::start_ping(red, blue.v4.into(), Duration::from_millis(20))?;
        router.kill_daemon();
        router.start_daemon()?;
        let problems = router.show("status")?["problems"].to_string();
        ensure!(problems.contains("ports.json#/ports/0/remotes/0"), "{problems}");
        assert_eq!(running.stop()?.lost(), 0, "{attach}");
        router.declare_ports(&declaration())?;
        assert_eq!(router.plan()?, Vec::<String>::new());

        // What comes from elsewhere is nobody's, and what is sent there does not arrive.
        let mut less = declaration();
        less["ports"][1]["remotes"] = json!([VTEPS[1]]);
        reaches(navy, Ipv4Addr::new(10, 10, 6, 1))?;
        let before = router.outcome("unknown-vtep")?;
        router.declare_ports(&less)?;
        ensure!(ping(navy, red.v4.into(), 2, Duration::from_millis(20))?.lost() == 2, "navy is still there");
        ensure!(router.outcome("unknown-vtep")? > before, "its packets are not counted");
        reaches(blue, red.v4)?;
        router.declare_ports(&declaration())?;
        reaches(navy, red.v4)?;

        // Another network: the old one is nobody's.
        let mut other = declaration();
        other["ports"][0]["vni"] = json!(101);
        let before = router.outcome("unknown-vni")?;
        router.declare_ports(&other)?;
        ensure!(ping(red, blue.v4.into(), 2, Duration::from_millis(20))?.lost() == 2, "the old one goes on");
        ensure!(router.outcome("unknown-vni")? > before, "its packets are not counted");
        router.declare_ports(&declaration())?;
        reaches(red, blue.v4)?;

        // The kernel's own devices beside ours: another port of UDP is theirs.
        lab.router.ip(&format!(
            "link add name own type vxlan id 300 local {LOCAL} remote {} dev {UNDERLAY} dstport 8472
             address add 10.99.0.1/24 dev own\nlink set own up\n",
            VTEPS[0]
        ))?;
        overlay.vteps[0].ip(&format!(
            "link add name own type vxlan id 300 local {} remote {LOCAL} dev eth0 dstport 8472
             address add 10.99.0.2/24 dev own\nlink set own up\n",
            VTEPS[0]
        ))?;
        wait_until("the kernel's own device works", SOON, || {
            lab.router.run("ping", &["-n", "-c", "1", "-W", "1", "10.99.0.2"]).is_ok()
        })?;

        // Neighbours of the underlay move: the way is found anew.
        overlay.vteps[1].ip("link set eth0 address 02:00:c0:00:02:99\n")?;
        reaches(blue, red.v4)?;

        router.xvr(&["remove"])?.ok()?;
        ensure!(!lab.router.has_interface("eth5"), "its interface outlives the router");
        let neighbours = lab.router.run("ip", &["neigh", "show", "dev", UNDERLAY])?;
        ensure!(!neighbours.contains("managed"), "{neighbours}");
        Ok(())
    })
}
