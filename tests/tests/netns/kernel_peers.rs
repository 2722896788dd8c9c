//! Ports by tags and by VXLAN, and Linux' own devices at the other end: 8021q, 802.1ad with 802.1Q inside, vxlan.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::clients::{ping_once, wait_until_reached};
use router_tests::lab::{Host, Lab};
use router_tests::needs;
use router_tests::netns::{Lifetime, Namespace};
use router_tests::router::{Router, Tier, VPC_COMMANDS};
use router_tests::servers::TcpEcho;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(120);

/// Tiers, their networks' third octets.
const TIERS: [(Tier, u8); 3] = [
    (("eth5", "02:01:00:e0:00:05", "10.10.5.1"), 5),
    (("eth6", "02:01:00:e0:00:06", "10.10.6.1"), 6),
    (("eth7", "02:01:00:e0:00:07", "10.10.7.1"), 7),
];

/// What carries each.
fn declaration(has_vlans: bool) -> Value {
    let port = |index: usize, rest: &[(&str, Value)]| {
        let ((name, mac, _), _) = TIERS[index];
        let mut port = json!({"name": name, "mac": mac});
        for (key, value) in rest {
            port[*key] = value.clone();
        }
        port
    };
    let remotes = json!(["192.0.2.11"]);
    let network = port(
        0,
        &[
            ("underlay", json!("wan0")),
            ("vni", json!(100)),
            ("local", json!("192.0.2.1")),
            ("remotes", remotes),
        ],
    );
    let trunk = ("trunk", json!("trunk0"));
    let vlans = [
        port(1, &[trunk.clone(), ("vlan", json!(200))]),
        port(2, &[trunk, ("vlan", json!(300)), ("inner_vlan", json!(7))]),
    ];
    let ports = std::iter::once(network).chain(vlans.into_iter().filter(|_| has_vlans));
    json!({"ports": ports.collect::<Vec<_>>()})
}

/// The other end: a host with a cable to each NIC, and stations on devices of its own. Whether this kernel has those for
/// VLANs.
fn plug(lab: &Lab) -> Result<(Namespace, Vec<Host>, bool)> {
    let peer = Namespace::new(lab.prefix(), "peer", Lifetime::Scoped)?;
    peer.ip(&format!(
        "link add name wan type veth peer name wan0 netns {router}
         link add name trunk type veth peer name trunk0 netns {router}
         address add 192.0.2.11/24 dev wan\nlink set wan up\nlink set trunk up\n",
        router = lab.router.name()
    ))?;
    lab.router.ip("address add 192.0.2.1/24 dev wan0\nlink set wan0 up\n")?;
    let station = |name: &'static str, device: &str, index: usize, mtu: u16| -> Result<Host> {
        let (_, octet) = TIERS[index];
        let namespace = Namespace::new(lab.prefix(), name, Lifetime::Scoped)?;
        peer.ip(&device.replace("eth0", &format!("eth0 netns {}", namespace.name())))?;
        namespace.ip(&format!(
            "link set eth0 mtu {mtu} up\naddress add 10.10.{octet}.11/24 dev eth0
             route add default via 10.10.{octet}.1\n"
        ))?;
        let v4 = Ipv4Addr::new(10, 10, octet, 11);
        Ok(Host { name, namespace, v4, v6: Ipv6Addr::UNSPECIFIED })
    };
    let vxlan =
        "link add name eth0 type vxlan id 100 local 192.0.2.11 remote 192.0.2.1 dev wan dstport 4789\n";
    let mut stations = vec![station("net", vxlan, 0, 1450)?];
    let provider =
        "link add link trunk name trunk.300 type vlan proto 802.1ad id 300\nlink set trunk.300 up\n";
    let made = peer.ip(provider);
    let is_guest = std::env::var_os("XVR_TEST_GUEST").is_some();
    if let Err(error) = &made {
        ensure!(!is_guest, "the guest has no 8021q: {error:#}");
        eprintln!("SKIPPED, the part about VLANs: this kernel has no 8021q");
    } else {
        stations.push(station("one", "link add link trunk name eth0 type vlan id 200\n", 1, 1500)?);
        stations.push(station("two", "link add link trunk.300 name eth0 type vlan id 7\n", 2, 1496)?);
    }
    Ok((peer, stations, made.is_ok()))
}

fn reaches(from: &Host, to: Ipv4Addr) -> Result<()> {
    wait_until_reached(from, to, SOON)
}

/// Sends so many bytes over one connection to somebody who sends them back, and looks at each.
fn carry(from: &Host, to: &Host, length: usize) -> Result<()> {
    let echo = TcpEcho::start(to)?;
    let server: SocketAddr = echo.at(to.v4);
    let about = format!("{} to {}", from.name, to.name);
    from.namespace
        .inside(move || -> Result<()> {
            let mut stream = TcpStream::connect_timeout(&server, SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            let mut writer = stream.try_clone()?;
            let byte = |at: usize| (at * 31 + at / 251) as u8;
            let sent: Vec<u8> = (0..length).map(byte).collect();
            let expected = sent.clone();
            let writing = std::thread::spawn(move || {
                writer.write_all(&sent)?;
                writer.shutdown(Shutdown::Write)
            });
            let mut back = Vec::new();
            stream.read_to_end(&mut back)?;
            writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
            ensure!(back == expected, "{} of {length} bytes came back, or others", back.len());
            Ok(())
        })?
        .context(about)
}

#[test]
fn linux_itself_is_at_the_other_end_by_tc() -> Result<()> {
    if needs::are_met(&[]) { linux_is_at_the_other_end("tc") } else { Ok(()) }
}

#[test]
fn linux_itself_is_at_the_other_end_by_xdp() -> Result<()> {
    if needs::are_met(&[]) { linux_is_at_the_other_end("xdp") } else { Ok(()) }
}

fn linux_is_at_the_other_end(attach: &str) -> Result<()> {
    let lab = Lab::vpc()?;
    let (_peer, stations, has_vlans) = plug(&lab)?;
    let router = Router::start(&lab, attach)?;
    router.apply(&VPC_COMMANDS)?;
    router.declare_ports(&declaration(has_vlans))?;
    let everything = json!([{"type": "all", "cidr": "0.0.0.0/0", "allowed": true}]);
    for (tier, octet) in TIERS.into_iter().take(stations.len()) {
        router.add_tier(tier, octet, &json!({}))?;
        router.apply_acl(tier, &everything, &everything)?;
    }
    let (web, far) = (lab.host("web1"), lab.host("far"));
    let others = stations.iter().skip(1).chain([web, far]);
    // From network to network, in a ring, and to the Internet, translated.
    for (from, to) in stations.iter().chain([web]).zip(others) {
        reaches(from, to.v4).with_context(|| format!("{attach}: {}", router.log()))?;
        for size in [1400, 4000] {
            ping_once(from, to.v4.into(), size).with_context(|| format!("{attach}: {}", from.name))?;
        }
        carry(from, to, 1_000_000).with_context(|| attach.to_owned())?;
    }
    reaches(&stations[0], far.v4)?;
    carry(&stations[0], far, 1_000_000)
}
