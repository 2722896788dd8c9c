//! EVPN by hand: an operator's bgpd beside the router, whose zebra says where a VXLAN network's other ends are.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::clients::{self, ping, wait_until_reached};
use router_tests::frr::Frr;
use router_tests::lab::{Host, Lab};
use router_tests::netns::{Namespace, wait_until};
use router_tests::router::{Router, Tier, VPC_COMMANDS, for_both_hooks};
use router_tests::vtep::{LOCAL, MTU, Overlay, UNDERLAY, VTEPS, carried, has_remotes};
use serde_json::json;

const PROGRAMS: [&str; 2] = ["/usr/lib/frr/bgpd", "vtysh"];
const SOON: Duration = Duration::from_secs(60);
const OFTEN: Duration = Duration::from_millis(20);

/// The tier by VXLAN.
const TIER: Tier = ("eth6", "02:01:00:e0:00:06", "10.10.6.1");
const VNI: u32 = 200;

/// Who speaks EVPN: the router and two hosts, each with all others.
const SPEAKERS: [&str; 3] = [LOCAL, VTEPS[1], VTEPS[2]];

fn bgpd(own: &str) -> String {
    let others = || SPEAKERS.iter().filter(|other| **other != own);
    let neighbour = |other| {
        // Whoever starts first tries again at once.
        format!(" neighbor {other} remote-as 65000\n neighbor {other} timers connect 1\n")
    };
    let neighbours: String = others().map(neighbour).collect();
    let activate: String = others().map(|other| format!("  neighbor {other} activate\n")).collect();
    format!(
        "router bgp 65000\n bgp router-id {own}\n no bgp default ipv4-unicast\n{neighbours} \
         address-family l2vpn evpn\n{activate}  advertise-all-vni\n exit-address-family\nexit\n"
    )
}

/// The kernel's device as zebra wants it: with an address, in a bridge, and learning nothing by itself.
fn device(namespace: &Namespace, local: &str) -> Result<()> {
    namespace.ip(&format!(
        "link add name vx{VNI} type vxlan id {VNI} local {local} dstport 4789 nolearning
         link set vx{VNI} master br{VNI}\n"
    ))?;
    namespace.sysctl(&format!("net/ipv6/conf/vx{VNI}/disable_ipv6"), "1")?;
    namespace.run("bridge", &["link", "set", "dev", &format!("vx{VNI}"), "learning", "off"])?;
    namespace.ip(&format!("link set vx{VNI} mtu {MTU} up\n"))
}

/// What the operator makes in the router's namespace, as docs/ports.md has it.
fn prepare(router: &Namespace) -> Result<()> {
    router.ip(&format!("link add name br{VNI} type bridge mcast_snooping 0\n"))?;
    router.sysctl(&format!("net/ipv6/conf/br{VNI}/disable_ipv6"), "1")?;
    router.ip(&format!("link set br{VNI} up\n"))?;
    device(router, LOCAL)?;
    // The router's own station is announced as one behind another port of the bridge.
    let (_, mac, _) = TIER;
    router.ip(&format!("link add name own{VNI} type ifb\nlink set own{VNI} master br{VNI}\n"))?;
    router.sysctl(&format!("net/ipv6/conf/own{VNI}/disable_ipv6"), "1")?;
    router.ip(&format!("link set own{VNI} up\n"))?;
    router.run("bridge", &["fdb", "add", mac, "dev", &format!("own{VNI}"), "master", "static"]).map(drop)
}

fn reaches(from: &Host, to: Ipv4Addr) -> Result<()> {
    wait_until_reached(from, to, SOON)
}

#[test]
fn what_an_operators_bgpd_learns_of_remote_ends_is_followed_until_it_is_withdrawn() -> Result<()> {
    for_both_hooks(&PROGRAMS, |attach| {
        let lab = Lab::vpc()?;
        let overlay = Overlay::start(&lab)?;
        let (blue, navy, web) = (overlay.host("blue"), overlay.host("navy"), lab.host("web1"));
        for index in [1, 2] {
            let vtep = &overlay.vteps[index];
            vtep.ip(&format!("link del vx{VNI}\n"))?;
            device(vtep, VTEPS[index])?;
        }
        let mut router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        let (name, mac, _) = TIER;
        router.declare_ports(&json!({"ports": [{
            "name": name, "mac": mac, "underlay": UNDERLAY, "vni": VNI, "local": LOCAL, "fdb": format!("vx{VNI}"),
        }]}))?;
        router.add_tier(TIER, 6, &json!({}))?;
        let everything = json!([{"type": "all", "cidr": "0.0.0.0/0", "allowed": true}]);
        router.apply_acl(TIER, &everything, &everything)?;
        prepare(&lab.router)?;

        let speaker = |namespace, own| Frr::start(namespace, "bgpd", &bgpd(own));
        let own = speaker(&lab.router, LOCAL)?;
        let _second = speaker(&overlay.vteps[1], VTEPS[1])?;
        let third = speaker(&overlay.vteps[2], VTEPS[2])?;
        let about =
            || own.vtysh(&["show bgp l2vpn evpn summary", "show evpn vni detail"]).unwrap_or_default();
        has_remotes(&router, name, &VTEPS[1..]).with_context(about)?;
        for (from, to) in [(blue, web), (web, navy), (navy, blue)] {
            reaches(from, to.v4).with_context(about).with_context(|| router.log())?;
        }
        assert_eq!(router.show("status")?["problems"], json!([]));
        assert_eq!(router.plan()?, Vec::<String>::new());

        // Who has heard of the router's own station does not send to all what is for it.
        for index in [1, 2] {
            let knows = || {
                let all = overlay.vteps[index].run("bridge", &["fdb", "show", "dev", &format!("vx{VNI}")]);
                all.is_ok_and(|all| all.contains(&format!("{mac} dst {LOCAL}")))
            };
            wait_until("the router's own station is known", SOON, knows).with_context(about)?;
        }

        // The daemon may start anew.
        let running = clients::start_ping(navy, web.v4.into(), OFTEN)?;
        router.kill_daemon();
        router.start_daemon()?;
        assert_eq!(running.stop()?.lost(), 0, "{attach}");

        // A host leaves the network, and joins it again.
        let family = ["configure", "router bgp 65000", "address-family l2vpn evpn"];
        third.vtysh(&[&family[..], &["no advertise-all-vni"]].concat())?;
        has_remotes(&router, name, &VTEPS[1..2]).with_context(about)?;
        reaches(blue, web.v4)?;
        ensure!(ping(navy, web.v4.into(), 2, OFTEN)?.lost() == 2, "{attach}: navy is still there");
        third.vtysh(&[&family[..], &["advertise-all-vni"]].concat())?;
        has_remotes(&router, name, &VTEPS[1..]).with_context(about)?;
        reaches(navy, web.v4)?;

        // The kernel's device has been handed nothing, nor has it sent anything.
        assert_eq!(carried(&lab.router, &format!("vx{VNI}"))?, (0, 0), "{attach}");
        Ok(())
    })
}
