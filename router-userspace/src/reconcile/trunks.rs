//! The interfaces that tagged ports have of their own, and the NICs that carry them.
//!
//! Such an interface is an `ifb` device, which every kernel has that has TC: routes, addresses, neighbours and daemons
//! are on it as on a NIC. Frames reach it without tags, from the program of the trunk; what the kernel sends by it, the
//! program at its egress gives tags and sends by the trunk. Both its programs are filters of blocks that all of these
//! interfaces share: to attach programs to thousands one by one would take as many grace periods.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use router_common::net::Be16;
use router_common::port::Carrier;
use router_common::tunnel::Tunnel;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::netlink::Netlink;
use super::{fdb, nics, sysctl};
use crate::compile::{TableSet, VXLAN_OVERHEAD, Vxlan};
use crate::dataplane::{EGRESS_BLOCK, INGRESS_BLOCK};
use crate::model::trunk::{Kind, Remotes, Tag, TagProtocol, TaggedPort, Trunk, Vni};
use crate::raw_netlink::{ACK, CREATE, EXCLUSIVE, Message, TC_KIND, exchange, traffic_control};

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
}

/// Makes these ports' interfaces and no others. Those that are there stay.
///
/// # Errors
/// The kernel refuses.
pub async fn set(netlink: &Netlink, ports: &[TaggedPort]) -> Result<Trunks> {
    let links = netlink.links().await?;
    let before: BTreeSet<u32> =
        links.iter().filter(|link| is_ours(link)).map(|link| link.header.index).collect();
    if ports.is_empty() && before.is_empty() {
        return Ok(Trunks::default());
    }
    let is_declared = |link: &LinkMessage| ports.iter().any(|port| nics::name(link) == Some(&port.name));
    let (unfinished, links): (Vec<_>, Vec<_>) =
        links.into_iter().partition(|link| is_unfinished(link) && is_declared(link));
    remove(unfinished.iter().map(|link| link.header.index))?;
    let mut trunks = Trunks::default();
    let names: BTreeMap<&str, &LinkMessage> =
        links.iter().filter_map(|link| Some((nics::name(link)?, link))).collect();
    let (mut carried, mut missing) = (Vec::new(), Vec::new());
    let mut wanted = BTreeSet::new();
    for port in ports {
        let index = names.get(port.name.as_str()).map(|link| link.header.index);
        wanted.extend(index);
        match (carrier(port, &links, &names), index) {
            (Ok(trunk), Some(index)) => carried.push((index, port, trunk)),
            (Ok(trunk), None) => missing.push((port, trunk)),
            (Err(problem), _) => trunks.problems.push(format!("{}: {problem}", port.name)),
        }
    }
    remove(before.difference(&wanted).copied())?;
    make(missing.iter().map(|(port, trunk)| (*port, mtu(port, trunk))))?;
    let all = carried.iter().map(|(_, port, trunk)| (*port, *trunk)).chain(missing.iter().copied());
    lift(all)?;
    trunks.are_new = before.intersection(&wanted).next().is_none();
    if !missing.is_empty() {
        let links = netlink.links().await?;
        let made: BTreeMap<&str, u32> =
            links.iter().filter_map(|link| Some((nics::name(link)?, link.header.index))).collect();
        let made = missing
            .into_iter()
            .filter_map(|(port, trunk)| Some((*made.get(port.name.as_str())?, port, trunk)));
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
        let addresses = netlink.addresses().await?;
        let follows = tunnels.iter().any(|(.., vni, _)| matches!(vni.remotes, Remotes::Fdb(_)));
        let entries = if follows { netlink.forwarding_databases().await? } else { BTreeMap::new() };
        for (index, port, vni, underlay) in tunnels {
            trunks.problems.extend(absent(port, vni, underlay, &addresses));
            let remotes = match &vni.remotes {
                Remotes::Listed(remotes) => remotes.clone(),
                Remotes::Fdb(name) => {
                    let device = names.get(name.as_str()).copied();
                    trunks.followed.extend(device.map(|device| device.header.index));
                    let (remotes, problem) = fdb::remotes(vni, name, device, &entries);
                    trunks.problems.extend(problem.map(|problem| format!("{}: {problem}", port.name)));
                    remotes
                }
            };
            trunks.tunnels.insert(index, tunnel(vni, remotes, underlay));
        }
    }
    Ok(trunks)
}

/// Nobody can send to an address that the underlay does not have.
fn absent(
    port: &TaggedPort,
    vni: &Vni,
    underlay: &LinkMessage,
    addresses: &BTreeMap<u32, Vec<IpNet>>,
) -> Option<String> {
    let mut own = addresses.get(&underlay.header.index).into_iter().flatten();
    let is_there = own.any(|own| own.addr() == IpAddr::V4(vni.local));
    let name = nics::name(underlay).unwrap_or_default();
    (!is_there).then(|| format!("{}: {} is no address of {name}", port.name, vni.local))
}

fn tunnel(vni: &Vni, remotes: Vec<Ipv4Addr>, underlay: &LinkMessage) -> Vxlan {
    let tunnel = Tunnel {
        underlay: underlay.header.index,
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
pub async fn known(netlink: &Netlink, tables: &TableSet) -> Result<Vec<TaggedPort>> {
    let links = netlink.links().await?;
    let links: BTreeMap<u32, &LinkMessage> = links.iter().map(|link| (link.header.index, link)).collect();
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
            name: nics::name(link)?.to_owned(),
            mac: nics::mac(link)?,
            trunk: Trunk::Name(nics::name(trunk)?.to_owned()),
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
fn carrier<'a>(
    port: &TaggedPort,
    links: &'a [LinkMessage],
    names: &BTreeMap<&str, &'a LinkMessage>,
) -> Result<&'a LinkMessage, String> {
    if names.get(port.name.as_str()).is_some_and(|link| !is_ours(link)) {
        return Err("there is another interface of this name".to_owned());
    }
    let trunk = match &port.trunk {
        Trunk::Name(name) => names.get(name.as_str()).copied(),
        Trunk::Mac(mac) => links.iter().find(|link| nics::mac(link) == Some(*mac) && !is_ours(link)),
    };
    trunk.ok_or_else(|| format!("there is no NIC {} to carry it", port.trunk))
}

fn carries(port: &TaggedPort, trunk: &LinkMessage) -> Carrier {
    let trunk = trunk.header.index;
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
fn mtu(port: &TaggedPort, trunk: &LinkMessage) -> u32 {
    const TAG: u32 = 4;
    let most = nics::mtu(trunk).unwrap_or(1500);
    let (default, most) = match port.kind {
        Kind::Tags { inner: None, .. } => (most, most),
        Kind::Tags { inner: Some(_), .. } => (most.saturating_sub(TAG), most),
        Kind::Vni(_) => (most.saturating_sub(VXLAN_OVERHEAD), most.saturating_sub(VXLAN_OVERHEAD)),
    };
    port.mtu.map_or(default, u32::from).min(most)
}

/// What marks an interface as a tagged port's.
const MARK: &str = "xvr tagged port";

fn is_ours(link: &LinkMessage) -> bool {
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::IfAlias(alias) if alias == MARK))
}

/// One that was made, by a process that has ended since.
fn is_unfinished(link: &LinkMessage) -> bool {
    is_ifb(link) && !is_ours(link) && !link.header.flags.contains(LinkFlags::Up)
}

fn is_ifb(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Ifb)),
        _ => false,
    })
}

fn make<'a>(ports: impl Iterator<Item = (&'a TaggedPort, u32)>) -> Result<()> {
    let messages = ports.map(|(port, mtu)| {
        let kind = |text: &'static [u8]| [(INFO_KIND, text)];
        Message::new(NEW_LINK, CREATE | EXCLUSIVE | ACK, &link_header(0, 0, 0))
            .with_text(LINK_NAME, &port.name)
            .with(LINK_ADDRESS, &port.mac.0)
            .with(LINK_MTU, &mtu.to_ne_bytes())
            .with_nest(LINK_INFO, &kind(b"ifb"))
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
    let on = interfaces.iter().map(|(index, _)| {
        // An ifb asks for no neighbours until it is told to.
        Message::new(SET_LINK, ACK, &link_header(*index, UP | MULTICAST, UP | MULTICAST | NO_ARP))
            .with_text(LINK_ALIAS, MARK)
    });
    send(on).context("switch on the interfaces of tagged ports")
}

/// Trunks are on, and take frames for other Ethernet addresses than their own. What carries VXLAN packets need not.
fn lift<'a>(ports: impl Iterator<Item = (&'a TaggedPort, &'a LinkMessage)>) -> Result<()> {
    let mut missing: BTreeMap<u32, (&LinkMessage, u32)> = BTreeMap::new();
    for (port, link) in ports {
        let (wanted, flags) = match port.kind {
            Kind::Tags { .. } => (LinkFlags::Up | LinkFlags::Promisc, UP | PROMISCUOUS),
            Kind::Vni(_) => (LinkFlags::Up, UP),
        };
        if !link.header.flags.contains(wanted) {
            missing.entry(link.header.index).or_insert((link, 0)).1 |= flags;
        }
    }
    for (link, _) in missing.values().filter(|(link, _)| !link.header.flags.contains(LinkFlags::Up)) {
        silence(nics::name(link).unwrap_or_default())?;
    }
    let on = missing
        .into_iter()
        .map(|(index, (_, flags))| Message::new(SET_LINK, ACK, &link_header(index, flags, flags)));
    send(on).context("switch on the trunks")
}

/// The kernel does not speak IPv6 there when it is switched on: that is the business of the port it may become.
fn silence(name: &str) -> Result<()> {
    match sysctl::set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        set => set.with_context(|| format!("switch off IPv6 on {name}")),
    }
}

fn remove(indices: impl Iterator<Item = u32>) -> Result<()> {
    let messages = indices.map(|index| Message::new(DELETE_LINK, ACK, &link_header(index, 0, 0)));
    send(messages).context("remove the interfaces of tagged ports")
}

/// So many at a time as a socket's buffers hold.
fn send(messages: impl Iterator<Item = Message>) -> Result<()> {
    const ROOM: usize = 128;
    let mut messages = messages.peekable();
    while messages.peek().is_some() {
        let some: Vec<_> = messages.by_ref().take(ROOM).collect();
        let answers = some.len();
        exchange(NETLINK_ROUTE, some, answers)?;
    }
    Ok(())
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

// linux/rtnetlink.h, linux/if_link.h, linux/if.h, linux/pkt_sched.h
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const SET_LINK: u16 = 19;
const NEW_QDISC: u16 = 36;
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const LINK_ALIAS: u16 = 20;
const INFO_KIND: u16 = 1;
const UP: u32 = 1;
const NO_ARP: u32 = 0x80;
const PROMISCUOUS: u32 = 0x100;
const MULTICAST: u32 = 0x1000;
const TC_INGRESS_BLOCK: u16 = 13;
const TC_EGRESS_BLOCK: u16 = 14;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
