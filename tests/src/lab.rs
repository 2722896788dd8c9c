//! A lab: a router's surroundings in network namespaces, with real kernels at both ends.
//!
//! ```text
//!  web1 .11 ─┐                          ┌────────┐             gateway .1 ──────────── far
//!  web2 .12 ─┤ tier1 10.10.1.0/24  eth2 │        │ eth1 public 203.0.113.0/24 │   198.51.100.0/24
//!            │ fd17:ac56:1234:10::/64 ──┤ router ├── 2001:db8:100::/64        │   2001:db8:200::/64
//!  db1  .11 ─┤ tier2 10.10.2.0/24  eth3 │        │              neighbour .200
//!  db2  .12 ─┘ fd17:ac56:1234:20::/64   └───┬────┘
//!                                      eth0 │ control 169.254.0.0/16: host .0.1
//! ```
//!
//! Every segment is a Linux bridge in the namespace `wire`; a station's `eth0` (or a router's
//! `ethN`) is one end of a veth pair and a bridge port the other. A capture on a bridge port sees
//! exactly what that station's driver put on the wire. The router's NICs have the MAC addresses
//! of CloudStack's payloads and are down and empty: the router configures them.
//!
//! Offloads are the kernel's defaults. Two switches change that: [`Lab::accept_xdp_frames`] and
//! [`Lab::finish_checksums`].

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::netns::{self, Lifetime, Namespace};

/// An L2 segment of a [`Lab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name, and its bridge's.
    pub name: &'static str,
    /// The router's NIC on it.
    pub router_device: &'static str,
    /// The MAC address of that NIC.
    pub router_mac: &'static str,
}

impl Segment {
    /// The bridge port behind the router's NIC, in the namespace `wire`.
    pub fn router_port(&self) -> String {
        format!("r-{}", self.name)
    }

    /// The bridge port behind the NIC of the second router of a pair.
    pub fn twin_port(&self) -> String {
        format!("t-{}", self.name)
    }

    /// The MAC address of that NIC: outside it is the first one's, as CloudStack has it.
    pub fn twin_mac(&self) -> String {
        match self.name {
            "public" => self.router_mac.to_owned(),
            _ => format!("{}77", self.router_mac.trim_end_matches(|digit| digit != ':')),
        }
    }
}

/// A station with one NIC, `eth0`.
#[derive(Debug)]
pub struct Host {
    /// What it is called in the picture.
    pub name: &'static str,
    /// Where it lives.
    pub namespace: Namespace,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address; unspecified where the segment has no IPv6.
    pub v6: Ipv6Addr,
}

impl Host {
    /// The bridge port behind its NIC, in the namespace `wire`.
    pub fn port(&self) -> String {
        format!("h-{}", self.name)
    }
}

/// What a lab is to be made of.
struct Plan {
    segments: &'static [Segment],
    stations: &'static [Station],
    /// Where the gateway sends what is for the guests' IPv6 prefixes.
    router_v6: &'static str,
    guests_v6: &'static str,
}

struct Station {
    name: &'static str,
    segment: &'static str,
    v4: &'static str,
    via4: Option<&'static str>,
    v6: Option<&'static str>,
    via6: Option<&'static str>,
}

/// The surroundings of one router.
#[derive(Debug)]
pub struct Lab {
    /// The namespace that the router will run in.
    pub router: Namespace,
    /// That of the second router of a pair, in labs [`with_twin`](Lab::with_twin).
    pub twin: Option<Namespace>,
    /// The bridges.
    pub wire: Namespace,
    /// Every station; [`Lab::host`] finds one by name.
    pub hosts: Vec<Host>,
    /// Every segment; [`Lab::segment`] finds one by name.
    pub segments: &'static [Segment],
    prefix: String,
}

impl Lab {
    /// A VPC: two tiers with two guests each, a public side, a control network.
    pub fn vpc() -> Result<Self> {
        netns::sweep();
        Self::build(&VPC, netns::unique_prefix(), Lifetime::Scoped)
    }

    /// The same under names that begin with `prefix`, which may outlive this process.
    pub fn vpc_named(prefix: &str, lifetime: Lifetime) -> Result<Self> {
        Self::build(&VPC, prefix.to_owned(), lifetime)
    }

    /// An isolated network: `eth0` guest, `eth1` control, `eth2` public.
    pub fn isolated() -> Result<Self> {
        netns::sweep();
        Self::build(&ISOLATED, netns::unique_prefix(), Lifetime::Scoped)
    }

    fn build(plan: &Plan, prefix: String, lifetime: Lifetime) -> Result<Self> {
        let namespace = |label| Namespace::new(&prefix, label, lifetime);
        let wire = namespace("wire")?;
        // Bridges and their ports only carry frames: they must not speak IPv6 themselves.
        wire.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        wire.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        // Nor look into what they carry: where bridges call netfilter, they drop malformed packets.
        for family in ["iptables", "ip6tables", "arptables"] {
            let key = format!("net/bridge/bridge-nf-call-{family}");
            if wire.has_sysctl(&key)? {
                wire.sysctl(&key, "0")?;
            }
        }
        let router = namespace("router")?;
        let mut lines = String::new();
        for segment in plan.segments {
            let Segment { name, router_device, router_mac } = segment;
            // Without snooping a bridge floods multicast, neighbour solicitations among it.
            lines += &format!("link add name {name} type bridge mcast_snooping 0\nlink set {name} up\n");
            let peer = format!("{router_device} address {router_mac}");
            lines += &cable(&segment.router_port(), name, &peer, &router);
        }
        let mut hosts = Vec::new();
        for station in plan.stations {
            let host = station.host(namespace(station.name)?)?;
            lines += &cable(&host.port(), station.segment, "eth0", &host.namespace);
            hosts.push(host);
        }
        wire.ip(&lines).context("lay the cables")?;
        for (station, host) in plan.stations.iter().zip(&hosts) {
            host.namespace
                .ip(&station.configuration())
                .with_context(|| format!("configure {}", host.name))?;
        }
        let mut lab = Self { router, twin: None, wire, hosts, segments: plan.segments, prefix };
        lab.add_far_network(plan, lifetime).context("add the network behind the gateway")?;
        Ok(lab)
    }

    /// Plugs a second router into every segment.
    pub fn with_twin(mut self) -> Result<Self> {
        let twin = Namespace::new(&self.prefix, "twin", Lifetime::Scoped)?;
        let cables = self.segments.iter().map(|segment| {
            let peer = format!("{} address {}", segment.router_device, segment.twin_mac());
            cable(&segment.twin_port(), segment.name, &peer, &twin)
        });
        self.wire.ip(&cables.collect::<String>()).context("lay the second router's cables")?;
        self.twin = Some(twin);
        Ok(self)
    }

    /// Puts a host behind the public gateway, which forwards by Linux's own means.
    fn add_far_network(&mut self, plan: &Plan, lifetime: Lifetime) -> Result<()> {
        let namespace = Namespace::new(&self.prefix, "far", lifetime)?;
        let gateway = &self.host("gateway").namespace;
        gateway.ip(&format!(
            "link add far0 type veth peer name eth0 netns {far}
             address add 198.51.100.1/24 dev far0
             address add 2001:db8:200::1/64 dev far0 nodad
             link set far0 up
             route add {guests} via {router}\n",
            far = namespace.name(),
            guests = plan.guests_v6,
            router = plan.router_v6,
        ))?;
        gateway.sysctl("net/ipv4/ip_forward", "1")?;
        gateway.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        self.host("neighbour")
            .namespace
            .ip(&format!("route add {} via {}", plan.guests_v6, plan.router_v6))?;
        let far = Station {
            name: "far",
            segment: "",
            v4: "198.51.100.9/24",
            via4: Some("198.51.100.1"),
            v6: Some("2001:db8:200::9/64"),
            via6: Some("2001:db8:200::1"),
        };
        namespace.ip(&far.configuration())?;
        self.hosts.push(far.host(namespace)?);
        Ok(())
    }

    /// A station by its name.
    ///
    /// # Panics
    /// If there is none: the names are those of the picture.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// A segment by its name.
    ///
    /// # Panics
    /// If there is none.
    pub fn segment(&self, name: &str) -> &Segment {
        self.segments
            .iter()
            .find(|segment| segment.name == name)
            .unwrap_or_else(|| panic!("no segment {name}"))
    }

    /// How the names of the lab's namespaces begin.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Lets the router's XDP programs send to its NICs: `ndo_xdp_xmit` of a veth wants a
    /// receiver with NAPI at the other end, which GRO (or an XDP program) brings.
    pub fn accept_xdp_frames(&self) -> Result<()> {
        for segment in self.segments {
            self.wire.run("ethtool", &["-K", &segment.router_port(), "gro", "on"])?;
        }
        Ok(())
    }

    /// Makes every sender finish its checksums, as a NIC does before a frame is on a real wire:
    /// then every checksum in a capture must be right. With the defaults a veth carries frames
    /// whose checksum is left to hardware that never comes; captures show them as wrong, and the
    /// receiving kernel rightly takes them.
    ///
    /// The bridge ports and the router's NICs are senders too: GRO merges packets into one with
    /// an unfinished checksum, whatever the hosts did.
    pub fn finish_checksums(&self) -> Result<()> {
        let off = |namespace: &Namespace, device: &str| {
            namespace.run("ethtool", &["-K", device, "tx", "off", "tso", "off", "gso", "off"])
        };
        for segment in self.segments {
            off(&self.router, segment.router_device)?;
            off(&self.wire, &segment.router_port())?;
        }
        for host in &self.hosts {
            off(&host.namespace, "eth0")?;
            if host.name != "far" {
                off(&self.wire, &host.port())?;
            }
        }
        off(&self.host("gateway").namespace, "far0")?;
        Ok(())
    }

    /// Makes the router and the stations forget every neighbour, so that the next packet to each
    /// has to wait for one to be found.
    pub fn forget_neighbours(&self) -> Result<()> {
        let mut namespaces: Vec<_> = self.hosts.iter().map(|host| &host.namespace).collect();
        namespaces.push(&self.router);
        for namespace in namespaces {
            namespace.ip("neigh flush all\n")?;
        }
        Ok(())
    }
}

impl Station {
    fn host(&self, namespace: Namespace) -> Result<Host> {
        let address = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
        Ok(Host {
            name: self.name,
            namespace,
            v4: address(self.v4).parse()?,
            v6: self.v6.map_or(Ok(Ipv6Addr::UNSPECIFIED), |v6| address(v6).parse())?,
        })
    }

    fn configuration(&self) -> String {
        let mut lines = format!("address add {} dev eth0\n", self.v4);
        if let Some(v6) = self.v6 {
            lines += &format!("address add {v6} dev eth0 nodad\n");
        }
        lines += "link set eth0 up\n";
        if let Some(via) = self.via4 {
            lines += &format!("route add default via {via}\n");
        }
        if let Some(via) = self.via6 {
            lines += &format!("route add default via {via}\n");
        }
        lines
    }
}

/// Lines that plug one end of a new veth pair into a bridge and leave the other in a namespace.
fn cable(port: &str, bridge: &str, peer: &str, namespace: &Namespace) -> String {
    format!(
        "link add name {port} type veth peer name {peer} netns {}
         link set {port} master {bridge} up\n",
        namespace.name()
    )
}

const fn guest(name: &'static str, segment: &'static str, v4: (&'static str, &'static str)) -> Station {
    Station { name, segment, v4: v4.0, via4: Some(v4.1), v6: None, via6: None }
}

impl Station {
    const fn and_v6(mut self, v6: &'static str, via: &'static str) -> Self {
        self.v6 = Some(v6);
        self.via6 = Some(via);
        self
    }
}

const PUBLIC_GATEWAY: Station = Station {
    name: "gateway",
    segment: "public",
    v4: "203.0.113.1/24",
    via4: None,
    v6: Some("2001:db8:100::1/64"),
    via6: None,
};

const PUBLIC_NEIGHBOUR: Station = guest("neighbour", "public", ("203.0.113.200/24", "203.0.113.1"))
    .and_v6("2001:db8:100::200/64", "2001:db8:100::1");

const CONTROL_HOST: Station =
    Station { name: "host", segment: "control", v4: "169.254.0.1/16", via4: None, v6: None, via6: None };

static VPC: Plan = Plan {
    segments: &[
        Segment { name: "control", router_device: "eth0", router_mac: "0e:00:a9:fe:01:b1" },
        Segment { name: "public", router_device: "eth1", router_mac: "1e:00:a8:00:00:31" },
        Segment { name: "tier1", router_device: "eth2", router_mac: "02:01:00:db:00:2b" },
        Segment { name: "tier2", router_device: "eth3", router_mac: "02:01:00:de:00:2c" },
    ],
    stations: &[
        CONTROL_HOST,
        PUBLIC_GATEWAY,
        PUBLIC_NEIGHBOUR,
        guest("web1", "tier1", ("10.10.1.11/24", "10.10.1.1"))
            .and_v6("fd17:ac56:1234:10::11/64", "fd17:ac56:1234:10::1"),
        guest("web2", "tier1", ("10.10.1.12/24", "10.10.1.1"))
            .and_v6("fd17:ac56:1234:10::12/64", "fd17:ac56:1234:10::1"),
        guest("db1", "tier2", ("10.10.2.11/24", "10.10.2.1"))
            .and_v6("fd17:ac56:1234:20::11/64", "fd17:ac56:1234:20::1"),
        guest("db2", "tier2", ("10.10.2.12/24", "10.10.2.1"))
            .and_v6("fd17:ac56:1234:20::12/64", "fd17:ac56:1234:20::1"),
    ],
    router_v6: "2001:db8:100::1e00:a8ff:fe00:31",
    guests_v6: "fd17:ac56:1234::/48",
};

static ISOLATED: Plan = Plan {
    segments: &[
        Segment { name: "guests", router_device: "eth0", router_mac: "02:01:00:d3:00:01" },
        Segment { name: "control", router_device: "eth1", router_mac: "0e:00:a9:fe:64:0d" },
        Segment { name: "public", router_device: "eth2", router_mac: "1e:00:d1:00:00:21" },
    ],
    stations: &[
        CONTROL_HOST,
        PUBLIC_GATEWAY,
        PUBLIC_NEIGHBOUR,
        guest("vm1", "guests", ("10.1.1.11/24", "10.1.1.1"))
            .and_v6("fd17:ac56:1234:20::11/64", "fd17:ac56:1234:20::1"),
        guest("vm2", "guests", ("10.1.1.12/24", "10.1.1.1"))
            .and_v6("fd17:ac56:1234:20::12/64", "fd17:ac56:1234:20::1"),
    ],
    router_v6: "2001:db8:100::1e00:d1ff:fe00:22",
    guests_v6: "fd17:ac56:1234::/48",
};
