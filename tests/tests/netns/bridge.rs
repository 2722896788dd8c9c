//! Bridges: networks by VLAN, by VLAN in VLAN and by VXLAN that are one, beside a tier on the same trunk.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::clients::{self, curl, ping, wait_until_reached};
use router_tests::lab::{Host, Lab};
use router_tests::netns::wait_until;
use router_tests::router::{Router, Tier, VPC_COMMANDS, for_both_hooks, tier};
use router_tests::servers::{HttpServer, sha256_of_body};
use router_tests::trunk::{Station, Switch, Tag, tagged, untagged};
use router_tests::vtep::{LOCAL, MTU, Overlay, UNDERLAY, VTEPS};
use serde_json::{Value, json};

const VLAN: u16 = 0x8100;
const PROVIDER: u16 = 0x88a8;
const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(300);
const TRUNK: &str = "trunk0";

/// A tier on the same trunk.
const TIER: Tier = ("eth5", "02:01:00:e0:00:05", "10.10.5.1");

/// The networks that are one, with the stations `blue` and `navy` of VNI 200.
const CUSTOMER: &[Tag] = &[(VLAN, 400)];
const INNER: &[Tag] = &[(PROVIDER, 600), (VLAN, 7)];
/// Two that are another one.
const OTHERS: [&[Tag]; 2] = [&[(VLAN, 700)], &[(VLAN, 701)]];

const fn station(name: &'static str, tags: &'static [Tag], mac: &'static str, v4: [u8; 4]) -> Station {
    let [a, b, c, d] = v4;
    Station { name, tags, mac, v4: (Ipv4Addr::new(a, b, c, d), 24), via: Ipv4Addr::new(a, b, c, 1) }
}

const STATIONS: [Station; 5] = [
    station("pink", &[(VLAN, 100)], "02:00:00:00:05:0b", [10, 10, 5, 11]),
    station("cyan", CUSTOMER, "02:00:00:00:06:21", [10, 10, 6, 33]),
    station("teal", INNER, "02:00:00:00:06:22", [10, 10, 6, 34]),
    // The same address as another one's.
    station("gold", OTHERS[0], "02:00:00:00:06:21", [10, 10, 6, 43]),
    station("lime", OTHERS[1], "02:00:00:00:06:2c", [10, 10, 6, 44]),
];

/// What the operator declares.
fn declaration() -> Value {
    let (name, mac, _) = TIER;
    let bridged = |number: u32, bridge: &str, rest: Value| {
        let mut port = json!({
            "name": format!("net{number}"), "mac": format!("02:01:00:e1:00:{number:02x}"), "bridge": bridge,
        });
        for (key, value) in rest.as_object().into_iter().flatten() {
            port[key] = value.clone();
        }
        port
    };
    json!({"ports": [
        {"name": name, "mac": mac, "trunk": TRUNK, "vlan": 100},
        bridged(1, "blue", json!({"trunk": TRUNK, "vlan": 400})),
        bridged(2, "blue", json!({"trunk": TRUNK, "vlan": 600, "inner_vlan": 7})),
        bridged(3, "blue", json!({"underlay": UNDERLAY, "vni": 200, "local": LOCAL, "remotes": VTEPS[1..]})),
        bridged(4, "other", json!({"trunk": TRUNK, "vlan": 700})),
        bridged(5, "other", json!({"trunk": TRUNK, "vlan": 701})),
    ]})
}

fn start<'lab>(lab: &'lab Lab, attach: &str) -> Result<(Router<'lab>, Overlay, Switch)> {
    let overlay = Overlay::start(lab)?;
    let mut switch = Switch::start(lab, TRUNK, &STATIONS)?;
    for (name, last) in [("cyan", 0x21), ("teal", 0x22)] {
        let host = switch.hosts.iter_mut().find(|host| host.name == name).context("a station")?;
        host.v6 = format!("fd17:ac56:1234:6::{last:x}").parse()?;
        host.namespace.ip(&format!("address add {}/64 dev eth0 nodad\n", host.v6))?;
    }
    let router = Router::start(lab, attach)?;
    router.apply(&VPC_COMMANDS)?;
    router.declare_ports(&declaration())?;
    let everything = json!([{"type": "all", "cidr": "0.0.0.0/0", "allowed": true}]);
    router.add_tier(TIER, 5, &json!({}))?;
    router.apply_acl(TIER, &everything, &everything)?;
    Ok((router, overlay, switch))
}

fn reaches(from: &Host, to: impl Into<IpAddr>) -> Result<()> {
    wait_until_reached(from, to, SOON)
}

/// Behind which port of which bridge stations are.
fn stations(router: &Router<'_>) -> Result<Vec<(String, String, String)>> {
    let bridges = router.show("bridges")?;
    let mut found = Vec::new();
    for bridge in bridges.as_array().context("a list")? {
        for station in bridge["stations"].as_array().context("stations")? {
            let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
            found.push((text(&bridge["name"])?, text(&station["mac"])?, text(&station["port"])?));
        }
    }
    Ok(found)
}

#[test]
fn networks_by_tags_and_by_vxlan_are_one() -> Result<()> {
    for_both_hooks(&["curl"], |attach| {
        let lab = Lab::vpc()?;
        let (mut router, overlay, switch) = start(&lab, attach)?;
        let [pink, cyan, teal] = ["pink", "cyan", "teal"].map(|name| switch.host(name));
        let [blue, navy] = ["blue", "navy"].map(|name| overlay.host(name));
        let ways = [(cyan, teal), (teal, blue), (blue, cyan), (navy, teal), (cyan, navy)];
        for (from, to) in ways {
            let about = || format!("{attach}: {} to {}: {}", from.name, to.name, router.log());
            reaches(from, to.v4).with_context(about)?;
            reaches(from, to.v6).with_context(about)?;
            // Nobody has routed it.
            assert_eq!(clients::ping_once(from, to.v4.into(), 1400)?, 64, "{} to {}", from.name, to.name);
        }
        assert_eq!(router.plan()?, Vec::<String>::new());
        assert_eq!(router.show("status")?["problems"], json!([]));
        for (from, to) in [(cyan, teal), (teal, navy), (blue, cyan)] {
            let server = HttpServer::start(to)?;
            let download = curl(from, server.at(to.v4), 20_000_000, LONG)?;
            assert_eq!(download.sha256, sha256_of_body(20_000_000)?, "{} from {}", from.name, to.name);
        }
        let found = stations(&router)?;
        for (bridge, mac, port) in [
            ("blue", "02:00:00:00:06:21", "net1"),
            ("blue", "02:00:00:00:06:22", "net2"),
            ("blue", "02:00:00:00:06:0b", "net3"),
        ] {
            let station = (bridge.to_owned(), mac.to_owned(), port.to_owned());
            ensure!(found.contains(&station), "{mac} is not behind {port}: {found:?}");
        }

        // One trunk serves both: the tier beside it is routed as ever.
        reaches(pink, lab.host("web1").v4)?;
        reaches(pink, lab.host("far").v4)?;
        ensure!(
            ping(pink, cyan.v4.into(), 2, Duration::from_millis(20))?.lost() == 2,
            "a bridge is routed to"
        );

        // What two have to say to each other nobody else hears.
        switch.seen();
        reaches(cyan, blue.v4)?;
        let teals = [2, 0, 0, 0, 6, 0x22];
        let is_others = |frame: Vec<u8>| frame[0] & 1 == 0 && frame[..6] != teals;
        let between = |frame: &Vec<u8>| untagged(frame, INNER).is_some_and(is_others);
        let heard = switch.seen().into_iter().find(between);
        ensure!(heard.is_none(), "teal hears what is for others: {heard:02x?}");

        // It goes on while the daemon dies and comes again.
        let running = clients::start_ping(cyan, navy.v4.into(), Duration::from_millis(20))?;
        router.kill_daemon();
        router.start_daemon()?;
        assert_eq!(running.stop()?.lost(), 0, "{attach}");
        Ok(())
    })
}

#[test]
fn bridges_are_apart_and_the_router_is_silent_on_them() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let (router, _overlay, switch) = start(&lab, attach)?;
        let [cyan, teal, gold, lime] = ["cyan", "teal", "gold", "lime"].map(|name| switch.host(name));
        reaches(cyan, teal.v4)?;
        reaches(gold, lime.v4)?;
        // The same Ethernet address on both.
        for (bridge, port) in [("blue", "net1"), ("other", "net4")] {
            let station = (bridge.to_owned(), "02:00:00:00:06:21".to_owned(), port.to_owned());
            ensure!(stations(&router)?.contains(&station), "{bridge}: {:?}", stations(&router)?);
        }
        for (from, to) in [(cyan, lime), (gold, teal)] {
            ensure!(ping(from, to.v4.into(), 2, Duration::from_millis(20))?.lost() == 2, "bridges are one");
        }
        // Stations are other than the router: nothing on the trunk is from a port of a bridge.
        let own = |frame: &Vec<u8>| frame[6..11] == [2, 1, 0, 0xe1, 0];
        ensure!(!switch.seen().iter().any(own), "the router speaks on a bridge");

        // Spanning tree's frames end here; what claims to be from many stations is dropped.
        let frame = |to: [u8; 6], from: [u8; 6]| {
            let rest = [0x88, 0xb5].into_iter().chain([0; 46]);
            tagged(&to.into_iter().chain(from).chain(rest).collect::<Vec<_>>(), CUSTOMER)
        };
        let somebody = [2, 0, 0, 0, 6, 0x77];
        let tree = [1, 0x80, 0xc2, 0, 0, 0];
        switch.inject(&frame(tree, somebody))?;
        switch.inject(&frame([0xff; 6], [3, 0, 0, 0, 6, 0x77]))?;
        switch.inject(&frame([0xff; 6], somebody))?;
        let mut seen = Vec::new();
        wait_until("a broadcast comes through", SOON, || {
            seen.extend(switch.seen());
            seen.iter().any(|frame| untagged(frame, INNER).is_some_and(|frame| frame[6..12] == somebody))
        })?;
        let is_odd = |frame: &Vec<u8>| frame[..6] == tree || frame[6] == 3;
        ensure!(!seen.iter().any(is_odd), "{attach}: what is of one link, or from a group, is passed on");
        assert_eq!(router.outcome("group-source")?, 1);

        // CloudStack has no say about such a port.
        let message = tier("net1", "02:01:00:e1:00:01", "10.10.9.1", 309);
        let refused = router.update_config_with("guest_network", message.to_string().as_bytes())?;
        ensure!(refused.code() != 0 && refused.stderr.contains("net1 is on a bridge"), "{refused:?}");
        reaches(cyan, teal.v4)?;

        // A file that leaves a bridge with one port is refused whole; one without it ends it.
        let mut less = declaration();
        less["ports"].as_array_mut().context("a list")?.pop();
        let path = router.root().join("etc/xvr/ports.json");
        std::fs::write(&path, less.to_string())?;
        let refused = router.xvr(&["reload"])?;
        ensure!(
            refused.stderr.contains("ports.json#/ports/4/bridge: \"other\" has no other port"),
            "{refused:?}"
        );
        reaches(gold, lime.v4)?;
        less["ports"].as_array_mut().context("a list")?.pop();
        router.declare_ports(&less)?;
        ensure!(
            ping(gold, lime.v4.into(), 2, Duration::from_millis(20))?.lost() == 2,
            "a bridge that is gone goes on"
        );
        reaches(cyan, teal.v4)?;
        assert_eq!(router.plan()?, Vec::<String>::new());
        Ok(())
    })
}

#[test]
fn what_does_not_fit_is_counted() -> Result<()> {
    for_both_hooks(&[], |attach| {
        let lab = Lab::vpc()?;
        let (router, overlay, switch) = start(&lab, attach)?;
        let (cyan, blue) = (switch.host("cyan"), overlay.host("blue"));
        reaches(cyan, blue.v4)?;
        assert_eq!(router.outcome("oversize-frame")?, 0);
        clients::ping_once(cyan, blue.v4.into(), usize::from(MTU) - 28)?;
        ensure!(
            clients::ping_once(cyan, blue.v4.into(), usize::from(MTU) - 27).is_err(),
            "{attach}: it fits"
        );
        ensure!(router.outcome("oversize-frame")? >= 1, "it is not counted");
        Ok(())
    })
}
