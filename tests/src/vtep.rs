//! Hosts of a provider that have networks by VXLAN, the kernel's own: stations on such a device itself, and behind a
//! bridge with one.
//!
//! ```text
//!  router wan0 192.0.2.1 ──┬── vtep1 192.0.2.11: vxlan device of VNI 100, which is the station `red`
//!                          ├── vtep2 192.0.2.12: a bridge each of VNI 100 and 200, behind them `rose` and `blue`
//!                          └── hop 192.0.2.20 ── vtep3 198.18.0.13: a bridge of VNI 200, behind it `navy`
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::lab::{Host, Lab};
use crate::netns::{Lifetime, Namespace, wait_until};
use crate::router::Router;

/// The router's NIC in the provider's network.
pub const UNDERLAY: &str = "wan0";
/// The router's address there.
pub const LOCAL: &str = "192.0.2.1";
/// Its Ethernet address.
pub const LOCAL_MAC: &str = "02:00:c0:00:02:01";
/// The others, in the order of the picture.
pub const VTEPS: [&str; 3] = ["192.0.2.11", "192.0.2.12", "198.18.0.13"];
/// Where the stations' networks are, by VNI: third octet of 10.10.x.0/24, fourth group of fd17:ac56:1234:x::/64.
pub const NETWORKS: [(u32, u8); 2] = [(100, 5), (200, 6)];
/// What an IP packet may be long inside.
pub const MTU: u16 = 1450;
/// The same, where all take jumbo frames.
pub const JUMBO_MTU: u16 = 9000;

/// The hosts, until they are dropped.
#[derive(Debug)]
pub struct Overlay {
    /// The stations.
    pub stations: Vec<Host>,
    /// The hosts.
    pub vteps: [Namespace; 3],
    _hop: Namespace,
}

impl Overlay {
    /// Hosts beside the lab's router, which gets a NIC.
    ///
    /// # Errors
    /// The kernel has no VXLAN, or something else cannot be made.
    pub fn start(lab: &Lab) -> Result<Self> {
        let namespace = |label| Namespace::new(lab.prefix(), label, Lifetime::Scoped);
        let [first, second, third] = [namespace("vtep1")?, namespace("vtep2")?, namespace("vtep3")?];
        let hop = namespace("hop")?;
        let cable = |port: &str, peer: &str, namespace: &Namespace| {
            format!(
                "link add name {port} type veth peer name {peer} netns {}\nlink set {port} master under up\n",
                namespace.name()
            )
        };
        let mut lines = "link add name under type bridge mcast_snooping 0\nlink set under up\n".to_owned();
        lines += &cable("u-router", &format!("{UNDERLAY} address {LOCAL_MAC}"), &lab.router);
        for (port, namespace) in [("u-vtep1", &first), ("u-vtep2", &second), ("u-hop", &hop)] {
            lines += &cable(port, "eth0", namespace);
        }
        lab.wire.ip(&lines)?;
        hop.ip(&format!(
            "link add name eth1 type veth peer name eth0 netns {}
             address add 192.0.2.20/24 dev eth0\nlink set eth0 up
             address add 198.18.0.1/24 dev eth1\nlink set eth1 up\n",
            third.name()
        ))?;
        hop.sysctl("net/ipv4/ip_forward", "1")?;
        let addresses = [
            (&lab.router, UNDERLAY, LOCAL, "198.18.0.0/24 via 192.0.2.20"),
            (&first, "eth0", VTEPS[0], "198.18.0.0/24 via 192.0.2.20"),
            (&second, "eth0", VTEPS[1], "198.18.0.0/24 via 192.0.2.20"),
            (&third, "eth0", VTEPS[2], "192.0.2.0/24 via 198.18.0.1"),
        ];
        for (namespace, device, address, route) in addresses {
            namespace.ip(&format!(
                "address add {address}/24 dev {device}\nlink set {device} up\nroute add {route}\n"
            ))?;
        }
        let mut overlay = Self { stations: vec![], vteps: [first, second, third], _hop: hop };
        let red = namespace("red")?;
        overlay.vteps[0].ip(&vxlan(&format!("eth0 netns {}", red.name()), 100, VTEPS[0]))?;
        red.ip(&format!("link set eth0 mtu {MTU}\n{}", station("eth0", 5, 11)))?;
        overlay.stations.push(host("red", red, 5, 11)?);
        for (name, vtep, vni, octet, last) in
            [("rose", 1, 100, 5, 12), ("blue", 1, 200, 6, 11), ("navy", 2, 200, 6, 12)]
        {
            overlay.behind_bridge(lab, name, vtep, vni, octet, last)?;
        }
        Ok(overlay)
    }

    /// Has the router's NIC, the first two hosts, `red` and `blue` take packets of [`JUMBO_MTU`] inside, with finished
    /// checksums, and the wire take XDP frames.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take_jumbo_frames(&self, lab: &Lab) -> Result<()> {
        let outside = JUMBO_MTU + 50;
        let set = |namespace: &Namespace, devices: &[&str], mtu: u16| {
            let line = |device: &&str| format!("link set {device} mtu {mtu}\n");
            namespace.ip(&devices.iter().map(line).collect::<String>())
        };
        let [first, second, _] = &self.vteps;
        set(&lab.wire, &["u-router", "u-vtep1", "u-vtep2", "under"], outside)?;
        set(&lab.router, &[UNDERLAY], outside)?;
        for vtep in [first, second] {
            set(vtep, &["eth0"], outside)?;
        }
        set(second, &["vx200", "g-blue", "br200"], JUMBO_MTU)?;
        for station in ["red", "blue"].map(|name| &self.host(name).namespace) {
            set(station, &["eth0"], JUMBO_MTU)?;
            station.run("ethtool", &["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"])?;
        }
        lab.wire.run("ethtool", &["-K", "u-router", "gro", "on"]).map(drop)
    }

    /// A station by its name.
    ///
    /// # Panics
    /// There is none.
    pub fn host(&self, name: &str) -> &Host {
        self.stations.iter().find(|host| host.name == name).expect("a station of the overlay")
    }

    fn behind_bridge(
        &mut self,
        lab: &Lab,
        name: &'static str,
        vtep: usize,
        vni: u32,
        octet: u8,
        last: u8,
    ) -> Result<()> {
        let namespace = Namespace::new(lab.prefix(), name, Lifetime::Scoped)?;
        let device = vxlan(&format!("vx{vni}"), vni, VTEPS[vtep]);
        self.vteps[vtep].ip(&format!(
            "{device}link set vx{vni} mtu {MTU} up
             link add name br{vni} type bridge mcast_snooping 0
             link set br{vni} up
             link set vx{vni} master br{vni}
             link add name g-{name} type veth peer name eth0 netns {}
             link set g-{name} master br{vni} up\n",
            namespace.name()
        ))?;
        namespace.ip(&format!("link set eth0 mtu {MTU}\n{}", station("eth0", octet, last)))?;
        self.stations.push(host(name, namespace, octet, last)?);
        Ok(())
    }
}

/// Waits until a port, by its interface's name, has these remote ends and no others.
///
/// # Errors
/// It has not within a minute.
pub fn has_remotes(router: &Router<'_>, nic: &str, remotes: &[&str]) -> Result<()> {
    let has = || router.port(nic).is_ok_and(|port| port["vxlan"]["remotes"] == json!(remotes));
    let what = format!("the remote ends of {nic} are {remotes:?}");
    wait_until(&what, Duration::from_secs(60), has).with_context(|| router.log())
}

/// How many packets a device of the kernel's has received, and sent.
///
/// # Errors
/// There is none.
pub fn carried(namespace: &Namespace, device: &str) -> Result<(u64, u64)> {
    let said = namespace.run("ip", &["-json", "-statistics", "link", "show", "dev", device])?;
    let links: Value = serde_json::from_str(&said)?;
    let packets = |way: &str| links[0]["stats64"][way]["packets"].as_u64().context("no statistics");
    Ok((packets("rx")?, packets("tx")?))
}

fn station(device: &str, octet: u8, last: u8) -> String {
    format!(
        "link set {device} address 02:00:00:00:{octet:02x}:{last:02x} up
         address add 10.10.{octet}.{last}/24 dev {device}
         address add fd17:ac56:1234:{octet}::{last}/64 dev {device} nodad
         route add default via 10.10.{octet}.1
         route add default via fd17:ac56:1234:{octet}::1\n"
    )
}

fn host(name: &'static str, namespace: Namespace, octet: u8, last: u8) -> Result<Host> {
    let v6 = format!("fd17:ac56:1234:{octet}::{last}").parse()?;
    Ok(Host { name, namespace, v4: Ipv4Addr::new(10, 10, octet, last), v6 })
}

/// The kernel's device of a network, which sends to the router what it has no other place for.
fn vxlan(name: &str, vni: u32, local: &str) -> String {
    format!("link add name {name} type vxlan id {vni} local {local} remote {LOCAL} dev eth0 dstport 4789\n")
}
