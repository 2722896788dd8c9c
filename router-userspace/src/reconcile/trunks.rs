//! The interfaces that tagged ports have of their own, and the NICs that carry them.
//!
//! Such an interface is an `ifb` device, which every kernel has that has TC: routes, addresses, neighbours and daemons
//! are on it as on a NIC. Frames reach it without tags, from the program of the trunk; what the kernel sends by it, the
//! program at its egress gives tags and sends by the trunk. Both its programs are filters of blocks that all of these
//! interfaces share: to attach programs to thousands one by one would take as many grace periods.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use router_common::net::Be16;
use router_common::port::Carrier;
use router_common::tunnel::Tunnel;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::links::{self, KernelLink, PROMISCUOUS, UP};
use super::{addresses, fdb, sysctl};
use crate::compile::{TableSet, VXLAN_OVERHEAD, Vxlan, tier_settings};
use crate::dataplane::{EGRESS_BLOCK, INGRESS_BLOCK};
use crate::model::Mac;
use crate::model::trunk::{Kind, Remotes, Tag, TagProtocol, TaggedPort, Trunk, Vni};
use crate::raw_netlink::{
    ACK, CREATE, EXCLUSIVE, Message, NESTED, TC_KIND, exchange_each, nest, traffic_control,
};

/// How tagged ports' interfaces are carried, and what could not be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trunks {
    /// By interface index.
    pub carriers: BTreeMap<u32, Carrier>,
    /// Those that are VXLAN networks, by interface index.
    pub tunnels: BTreeMap<u32, Vxlan>,
    /// VXLAN devices of the kernel's that those follow, by interface index.
    pub followed: BTreeSet<u32>,
    /// Interfaces were made where there was none before: their blocks have no programs yet.
    pub are_new: bool,
    /// A sentence for each port that has no interface, or cannot be reached.
    pub problems: Vec<String>,
    /// All links there are now.
    pub links: Vec<KernelLink>,
}

/// Makes these ports' interfaces and no others. Those that are there stay.
///
/// # Errors
/// The kernel refuses.
pub fn set(ports: &[TaggedPort]) -> Result<Trunks> {
    let links = links::list()?;
    let before: BTreeSet<u32> = links.iter().filter(|link| is_ours(link)).map(|link| link.index).collect();
    if ports.is_empty() && before.is_empty() {
        return Ok(Trunks { links, ..Trunks::default() });
    }
    let declared: BTreeSet<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    let (unfinished, links): (Vec<_>, Vec<_>) =
        links.into_iter().partition(|link| is_unfinished(link) && declared.contains(link.name.as_str()));
    remove(unfinished.iter().map(|link| link.index))?;
    let mut trunks = Trunks::default();
    let nics = Nics::of(&links);
    let (mut carried, mut missing) = (Vec::new(), Vec::new());
    let mut wanted = BTreeSet::new();
    for port in ports {
        let index = nics.by_name.get(port.name.as_str()).map(|link| link.index);
        wanted.extend(index);
        match (carrier(port, &nics), index) {
            (Ok(trunk), Some(index)) => carried.push((index, port, trunk)),
            (Ok(trunk), None) => missing.push((port, trunk)),
            (Err(problem), _) => trunks.problems.push(format!("{}: {problem}", port.name)),
        }
    }
    let gone: Vec<u32> = before.difference(&wanted).copied().collect();
    remove(gone.iter().copied())?;
    make(missing.iter().map(|(port, trunk)| (*port, mtu(port, trunk))))?;
    let all = carried.iter().map(|(_, port, trunk)| (*port, *trunk)).chain(missing.iter().copied());
    let is_lifted = lift(all)?;
    let is_other = is_lifted || !(unfinished.is_empty() && gone.is_empty() && missing.is_empty());
    trunks.are_new = before.intersection(&wanted).next().is_none();
    if !missing.is_empty() {
        let links = links::list()?;
        let made = Nics::of(&links).by_name;
        let made = missing
            .into_iter()
            .filter_map(|(port, trunk)| Some((made.get(port.name.as_str())?.index, port, trunk)));
        let made: Vec<_> = made.collect();
        finish(&made.iter().map(|(index, port, _)| (*index, port.name.as_str())).collect::<Vec<_>>())?;
        carried.extend(made);
    }
    trunks.carriers = carried.iter().map(|(index, port, trunk)| (*index, carries(port, trunk))).collect();
    let tunnels = carried.iter().filter_map(|(index, port, trunk)| match &port.kind {
        Kind::Vni(vni) => Some((*index, port, vni, *trunk)),
        Kind::Tags { .. } => None,
    });
    let tunnels: Vec<_> = tunnels.collect();
    if !tunnels.is_empty() {
        let addresses = addresses::list()?;
        let follows = tunnels.iter().any(|(.., vni, _)| matches!(vni.remotes, Remotes::Fdb(_)));
        let entries = if follows { fdb::list()? } else { BTreeMap::new() };
        for (index, port, vni, underlay) in tunnels {
            trunks.problems.extend(absent(port, vni, underlay, &addresses));
            let remotes = match &vni.remotes {
                Remotes::Listed(remotes) => remotes.clone(),
                Remotes::Fdb(name) => {
                    let device = nics.by_name.get(name.as_str()).copied();
                    trunks.followed.extend(device.map(|device| device.index));
                    let (remotes, problem) = fdb::remotes(vni, name, device, &entries);
                    trunks.problems.extend(problem.map(|problem| format!("{}: {problem}", port.name)));
                    remotes
                }
            };
            trunks.tunnels.insert(index, tunnel(vni, remotes, underlay));
        }
    }
    trunks.links = if is_other { links::list()? } else { links };
    Ok(trunks)
}

/// Links by what ports name them by.
struct Nics<'a> {
    by_name: BTreeMap<&'a str, &'a KernelLink>,
    /// Without the interfaces of tagged ports.
    by_mac: BTreeMap<Mac, &'a KernelLink>,
}

impl<'a> Nics<'a> {
    fn of(links: &'a [KernelLink]) -> Self {
        // Of several with one address the first counts.
        let others = links.iter().rev().filter(|link| !is_ours(link));
        Self {
            by_name: links.iter().map(|link| (link.name.as_str(), link)).collect(),
            by_mac: others.filter_map(|link| Some((link.mac?, link))).collect(),
        }
    }
}

/// Nobody can send to an address that the underlay does not have.
fn absent(
    port: &TaggedPort,
    vni: &Vni,
    underlay: &KernelLink,
    addresses: &BTreeMap<u32, Vec<IpNet>>,
) -> Option<String> {
    let mut own = addresses.get(&underlay.index).into_iter().flatten();
    let is_there = own.any(|own| own.addr() == IpAddr::V4(vni.local));
    let name = &underlay.name;
    (!is_there).then(|| format!("{}: {} is no address of {name}", port.name, vni.local))
}

fn tunnel(vni: &Vni, remotes: Vec<Ipv4Addr>, underlay: &KernelLink) -> Vxlan {
    let tunnel = Tunnel {
        underlay: underlay.index,
        local: vni.local.into(),
        vni: vni.id,
        remotes: u32::try_from(remotes.len()).unwrap_or(u32::MAX),
        udp_port: Be16::new(vni.udp_port),
        pad: [0; 2],
    };
    Vxlan { tunnel, remotes }
}

/// The ports that the programs know by these tags, where nobody else can say which there are. Whether somebody has
/// listed their remote ends, or a forwarding database names them, nobody knows: they stay who they are.
///
/// # Errors
/// The kernel does not tell.
pub fn known(tables: &TableSet) -> Result<Vec<TaggedPort>> {
    let links = links::list()?;
    let links: BTreeMap<u32, &KernelLink> = links.iter().map(|link| (link.index, link)).collect();
    let port = |(index, carrier): (&u32, &Carrier)| {
        let (link, trunk) = (links.get(index)?, links.get(&carrier.trunk)?);
        let tag = |protocol, id| Some(Tag { protocol: TagProtocol::of_ethertype(protocol)?, id });
        let kind = match tables.tunnels.get(index) {
            Some(Vxlan { tunnel, remotes }) => Kind::Vni(Vni {
                id: tunnel.vni,
                local: tunnel.local.into(),
                remotes: Remotes::Listed(remotes.clone()),
                udp_port: tunnel.udp_port.get(),
            }),
            None => Kind::Tags {
                outer: tag(carrier.outer_protocol, carrier.outer)?,
                inner: tag(carrier.inner_protocol, carrier.inner),
                priority: u8::try_from(carrier.priority).ok().filter(|priority| *priority < 8),
            },
        };
        Some(TaggedPort {
            name: link.name.clone(),
            mac: link.mac?,
            trunk: Trunk::Name(trunk.name.clone()),
            kind,
            mtu: None,
            bridge: tables
                .ports
                .get(index)
                .filter(|port| port.bridge != 0)
                .map(|port| port.bridge.to_string()),
        })
    };
    Ok(tables.tags.iter().filter_map(port).collect())
}

/// The NIC that carries a port.
fn carrier<'a>(port: &TaggedPort, nics: &Nics<'a>) -> Result<&'a KernelLink, String> {
    if nics.by_name.get(port.name.as_str()).is_some_and(|link| !is_ours(link)) {
        return Err("there is another interface of this name".to_owned());
    }
    let trunk = match &port.trunk {
        Trunk::Name(name) => nics.by_name.get(name.as_str()),
        Trunk::Mac(mac) => nics.by_mac.get(mac),
    };
    trunk.copied().ok_or_else(|| format!("there is no NIC {} to carry it", port.trunk))
}

fn carries(port: &TaggedPort, trunk: &KernelLink) -> Carrier {
    let trunk = trunk.index;
    match port.kind {
        Kind::Tags { outer, inner, priority } => Carrier {
            trunk,
            outer_protocol: outer.protocol.ethertype(),
            outer: outer.id,
            inner_protocol: inner.map_or(0, |tag| tag.protocol.ethertype()),
            inner: inner.map_or(0, |tag| tag.id),
            priority: priority.map_or(Carrier::KEEP_PRIORITY, u32::from),
        },
        Kind::Vni(_) => Carrier::tunnel(trunk),
    }
}

/// The first tag is on top of a link's MTU everywhere; a second one is not, nor is what is in front of a frame in a
/// VXLAN packet.
fn mtu(port: &TaggedPort, trunk: &KernelLink) -> u32 {
    const TAG: u32 = 4;
    let most = trunk.mtu;
    let (default, most) = match port.kind {
        Kind::Tags { inner: None, .. } => (most, most),
        Kind::Tags { inner: Some(_), .. } => (most.saturating_sub(TAG), most),
        Kind::Vni(_) => (most.saturating_sub(VXLAN_OVERHEAD), most.saturating_sub(VXLAN_OVERHEAD)),
    };
    port.mtu.map_or(default, u32::from).min(most)
}

/// What marks an interface as a tagged port's.
const MARK: &str = "xvr tagged port";

fn is_ours(link: &KernelLink) -> bool {
    link.alias.as_deref() == Some(MARK)
}

/// One that was made, by a process that has ended since.
fn is_unfinished(link: &KernelLink) -> bool {
    link.kind.as_deref() == Some(KIND) && !is_ours(link) && !link.is(UP)
}

/// What kind of device they are.
const KIND: &str = "ifb";

fn make<'a>(ports: impl Iterator<Item = (&'a TaggedPort, u32)>) -> Result<()> {
    let messages = ports.map(|(port, mtu)| {
        Message::new(links::NEW_LINK, CREATE | EXCLUSIVE | ACK, &links::header(0, 0, 0))
            .with_text(links::NAME, &port.name)
            .with(links::ADDRESS, &port.mac.0)
            .with(links::MTU, &mtu.to_ne_bytes())
            .with_nest(links::INFO, &[(links::INFO_KIND, KIND.as_bytes())])
    });
    send(messages).context("make the interfaces of tagged ports")
}

/// Their blocks, before anything can be sent by them; then they are switched on, and marked as finished.
fn finish(interfaces: &[(u32, &str)]) -> Result<()> {
    let blocks = interfaces.iter().map(|(index, _)| {
        Message::new(
            NEW_QDISC,
            CREATE | EXCLUSIVE | ACK,
            &traffic_control(*index, CLSACT_HANDLE, CLSACT_PARENT, 0),
        )
        .with_text(TC_KIND, "clsact")
        .with(TC_INGRESS_BLOCK, &INGRESS_BLOCK.to_ne_bytes())
        .with(TC_EGRESS_BLOCK, &EGRESS_BLOCK.to_ne_bytes())
    });
    send(blocks).context("give the interfaces of tagged ports their blocks")?;
    for (_, name) in interfaces {
        silence(name)?;
    }
    // What most of them will be; others are given their own then. To set it one by one, when they are ports, takes as
    // long as all else.
    let settings: Vec<(u16, [u8; 4])> = tier_settings()
        .filter_map(|(name, value)| Some((links::ipv4_setting(name)?, value.to_ne_bytes())))
        .collect();
    let settings: Vec<(u16, &[u8])> = settings.iter().map(|(kind, value)| (*kind, &value[..])).collect();
    let settings = nest(&[(links::INET_SETTINGS | NESTED, &nest(&settings))]);
    let on = interfaces.iter().map(|(index, _)| {
        // An ifb asks for no neighbours until it is told to.
        Message::new(links::SET_LINK, ACK, &links::header(*index, UP | MULTICAST, UP | MULTICAST | NO_ARP))
            .with_text(links::ALIAS, MARK)
            .with_nest(links::FAMILIES, &[(links::INET | NESTED, &settings)])
    });
    send(on).context("switch on the interfaces of tagged ports")
}

/// Trunks are on, and take frames for other Ethernet addresses than their own. What carries VXLAN packets need not.
/// Says whether one was not.
fn lift<'a>(ports: impl Iterator<Item = (&'a TaggedPort, &'a KernelLink)>) -> Result<bool> {
    let mut missing: BTreeMap<u32, (&KernelLink, u32)> = BTreeMap::new();
    for (port, link) in ports {
        let flags = match port.kind {
            Kind::Tags { .. } => UP | PROMISCUOUS,
            Kind::Vni(_) => UP,
        };
        if !link.is(flags) {
            missing.entry(link.index).or_insert((link, 0)).1 |= flags;
        }
    }
    for (link, _) in missing.values().filter(|(link, _)| !link.is(UP)) {
        silence(&link.name)?;
    }
    let on = missing.iter().map(|(index, (_, flags))| {
        Message::new(links::SET_LINK, ACK, &links::header(*index, *flags, *flags))
    });
    send(on).context("switch on the trunks")?;
    Ok(!missing.is_empty())
}

/// The kernel does not speak IPv6 there when it is switched on: that is the business of the port it may become.
fn silence(name: &str) -> Result<()> {
    match sysctl::set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        set => set.with_context(|| format!("switch off IPv6 on {name}")),
    }
}

/// As a group, which the kernel removes at once: for each interface by itself it would wait for a grace period.
fn remove(indices: impl Iterator<Item = u32>) -> Result<()> {
    let group = |message: Message| message.with(LINK_GROUP, &LEAVING.to_ne_bytes());
    let marks: Vec<_> =
        indices.map(|index| group(Message::new(links::SET_LINK, ACK, &links::header(index, 0, 0)))).collect();
    if marks.is_empty() {
        return Ok(());
    }
    let removal = group(Message::new(links::DELETE_LINK, ACK, &links::header(0, 0, 0)));
    send(marks.into_iter().chain([removal])).context("remove the interfaces of tagged ports")
}

/// The number of the group of interfaces that are being removed; nothing else is in it.
const LEAVING: u32 = 0x7876_0003;

fn send(messages: impl Iterator<Item = Message>) -> Result<()> {
    let results = exchange_each(NETLINK_ROUTE, messages.collect())?;
    Ok(results.into_iter().collect::<io::Result<()>>()?)
}

// linux/rtnetlink.h, linux/if_link.h, linux/if.h, linux/pkt_sched.h
const NEW_QDISC: u16 = 36;
const LINK_GROUP: u16 = 27;
const NO_ARP: u32 = 0x80;
const MULTICAST: u32 = 0x1000;
const TC_INGRESS_BLOCK: u16 = 13;
const TC_EGRESS_BLOCK: u16 = 14;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
