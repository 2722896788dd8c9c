//! What has to change, as a value: it can be printed (`xvr plan`), tested and logged.
//!
//! The order is the one in which changes are applied, so that nothing is promised before it can
//! be kept: guard → kernel settings → links and addresses → tables → programs → routes, and what
//! is no longer wanted in the reverse order. Flows look up their way out again at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use router_common::config::RouterConfig;
use router_common::policy::NO_LIST;
use router_common::port::{Carrier, Port, Role};

use crate::compile::nat::{NatEntry, NatKey};
use crate::compile::policy::ListEntry;
use crate::compile::{Attachment, Compiled, Front, KernelRoute, KernelTarget, Link, TableSet, Vxlan};
use crate::model::Mac;

/// What the system holds, as far as XVR is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Names of all NICs by interface index.
    pub names: BTreeMap<u32, String>,
    /// Linux forwards nothing by itself.
    pub guarded: bool,
    /// Kernel settings that were asked about: path below `/proc/sys/` → value, white space
    /// between words being one blank. What is missing here is missing in the kernel.
    pub sysctls: BTreeMap<String, String>,
    /// NICs by interface index.
    pub links: BTreeMap<u32, ObservedLink>,
    /// Routes of protocol [`ROUTE_PROTOCOL`](crate::compile::ROUTE_PROTOCOL) in the main table.
    pub routes: BTreeSet<KernelRoute>,
    /// What the programs read.
    pub tables: TableSet,
    /// How programs are attached, by interface index.
    pub attachments: BTreeMap<u32, ObservedAttachment>,
    /// NICs whose TCP of the router's own is counted: MAC addresses by interface index.
    pub own_tcp: BTreeMap<u32, Mac>,
}

/// What a NIC holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedLink {
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Addresses in the kernel's order, which makes the first of a subnet its primary one;
    /// IPv6 link-local ones left out.
    pub addresses: Vec<IpNet>,
}

/// How programs are attached to a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedAttachment {
    /// What is in front of the TC program.
    pub front: Front,
    /// What this process asked for; `None` where an earlier daemon attached the programs, which
    /// are therefore to be replaced.
    pub asked: Option<Front>,
}

/// One step from what the system holds towards what it should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make Linux forward nothing by itself.
    Guard,
    /// Write a kernel setting.
    Sysctl {
        /// Path below `/proc/sys/`.
        path: String,
        /// The value now.
        from: Option<String>,
        /// The value to be.
        to: String,
    },
    /// Count the router's own TCP on these NICs and on no others.
    CountOwnTcp(Vec<(NicName, Mac)>),
    /// Set a NIC's MTU, in bytes.
    Mtu(NicName, u16),
    /// Switch a NIC on.
    Up(NicName),
    /// Switch a NIC off.
    Down(NicName),
    /// Add an address to a NIC.
    AddAddress(NicName, IpNet),
    /// Remove an address from a NIC.
    RemoveAddress(NicName, IpNet),
    /// Tell the programs what is chosen for all ports.
    SetFlags(u32),
    /// Write down a list of rules by its number, for ports to be switched to.
    AddList(u32, ListEntry),
    /// Make the programs forget a list.
    RemoveList(u32),
    /// Have flows to a public address judged by a list.
    SetFirewall(Ipv4Addr, u32),
    /// Have them judged by none.
    RemoveFirewall(Ipv4Addr),
    /// Tell the programs how many external ports a guest may have per protocol; 0 for as many as there are.
    SetPortsPerGuest(u16),
    /// Tell the programs about a port.
    SetPort(NicName, Port),
    /// Make the programs forget a port.
    RemovePort(NicName),
    /// Tell the programs about the tags of a port.
    SetTags(NicName, Carrier),
    /// Make the programs forget the tags of a port.
    RemoveTags(NicName),
    /// Tell the programs about the VXLAN network that a port is.
    SetTunnel(NicName, Vxlan),
    /// Make the programs forget it.
    RemoveTunnel(NicName),
    /// Have frames go between these ports by their Ethernet addresses; between none: no more.
    SetBridge(u32, Vec<NicName>),
    /// Tell the programs about an address of the router.
    SetLocal(NicName, IpAddr),
    /// Make the programs forget an address of the router.
    RemoveLocal(IpAddr),
    /// Tell the programs about static NAT, a port forwarding, or towards whom guests are not translated.
    SetNat(NatKey, NatEntry),
    /// Make the programs forget one.
    RemoveNat(NatKey),
    /// Attach the programs to a NIC, or replace those that are there.
    Attach(NicName, Attachment),
    /// Take the programs off a NIC.
    Detach(NicName),
    /// Add a route, with its way out if it has one.
    AddRoute(Option<NicName>, KernelRoute),
    /// Put a route in the place of another to the same destination.
    ReplaceRoute(Option<NicName>, KernelRoute),
    /// Remove a route.
    RemoveRoute(Option<NicName>, KernelRoute),
    /// Make flows look up their way out again.
    BumpGeneration,
}

/// A NIC in a [`Change`]: what the kernel needs, and what the reader of a plan needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicName {
    /// Kernel interface index.
    pub ifindex: u32,
    /// Kernel name.
    pub name: String,
}

/// The changes that turn one state into another, in the order in which they are to be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes.
    pub changes: Vec<Change>,
}

impl Plan {
    /// The difference.
    pub fn between(desired: &Compiled, observed: &Observed) -> Self {
        let mut changes = Vec::new();
        let mut removals = Vec::new();
        let names = Names { observed: &observed.names };
        if !observed.guarded {
            changes.push(Change::Guard);
        }
        sysctls(desired, observed, &mut changes);
        if desired.own_tcp != observed.own_tcp {
            let nics = desired.own_tcp.iter().map(|(ifindex, mac)| (names.of(*ifindex), *mac));
            changes.push(Change::CountOwnTcp(nics.collect()));
        }
        let settings = changes.len();
        // A driver refuses the MTU, or loses what comes, while it has the other program.
        let (first, attachments): (Vec<_>, Vec<_>) =
            attachments(desired, observed, &names).partition(|change| is_for_larger(change, observed));
        changes.extend(first);
        links(desired, observed, &names, &mut changes, &mut removals);
        tables(&desired.tables, &observed.tables, &names, &mut changes, &mut removals);
        changes.extend(attachments);
        let gone = observed.attachments.keys().filter(|ifindex| !desired.attachments.contains_key(ifindex));
        removals.extend(gone.map(|ifindex| Change::Detach(names.of(*ifindex))));
        routes(desired, observed, &names, &mut changes, &mut removals);
        removals.reverse();
        changes.append(&mut removals);
        if changes.len() > settings {
            changes.push(Change::BumpGeneration);
        }
        Self { changes }
    }

    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, change) in self.changes.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{change}")?;
        }
        Ok(())
    }
}

struct Names<'a> {
    observed: &'a BTreeMap<u32, String>,
}

impl Names<'_> {
    fn of(&self, ifindex: u32) -> NicName {
        let unknown = || format!("interface {ifindex}");
        NicName { ifindex, name: self.observed.get(&ifindex).cloned().unwrap_or_else(unknown) }
    }
}

fn sysctls(desired: &Compiled, observed: &Observed, changes: &mut Vec<Change>) {
    // Switching forwarding on for all NICs overwrites settings of each.
    let is_global = |path: &str| path.ends_with("/ip_forward") || path.ends_with("/conf/all/forwarding");
    let differing = differing(&desired.sysctls, &observed.sysctls);
    let (global, others): (Vec<_>, Vec<_>) = differing.partition(|(path, _)| is_global(path));
    for (path, value) in global.into_iter().chain(others) {
        changes.push(Change::Sysctl {
            path: path.clone(),
            from: observed.sysctls.get(path).cloned(),
            to: value.clone(),
        });
    }
}

fn links(
    desired: &Compiled,
    observed: &Observed,
    names: &Names<'_>,
    changes: &mut Vec<Change>,
    removals: &mut Vec<Change>,
) {
    for (ifindex, link) in &desired.links {
        let Some(now) = observed.links.get(ifindex) else { continue };
        let nic = names.of(*ifindex);
        if let Some(mtu) = link.mtu.filter(|mtu| u32::from(*mtu) != now.mtu) {
            changes.push(Change::Mtu(nic.clone(), mtu));
        }
        match (link.up, now.up) {
            (true, false) => changes.push(Change::Up(nic.clone())),
            (false, true) => changes.push(Change::Down(nic.clone())),
            _ => {}
        }
        let is_held = |own: &&IpNet| !link.shared.contains(own) && !desired.lingering.contains(*own);
        let held: Vec<IpNet> = now.addresses.iter().filter(is_held).copied().collect();
        addresses(&nic, link, &held, changes, removals);
    }
    // A NIC that the programs know and that is no port any more gives its addresses back.
    let former = observed.tables.ports.keys().copied().collect::<BTreeSet<_>>();
    for ifindex in former.into_iter().filter(|ifindex| !desired.links.contains_key(ifindex)) {
        let held = observed.links.get(&ifindex).map(|link| link.addresses.as_slice()).unwrap_or_default();
        let held = held.iter().rev().filter(|own| !desired.lingering.contains(*own));
        removals.extend(held.map(|own| Change::RemoveAddress(names.of(ifindex), *own)));
    }
}

/// Additions first, so that a NIC is never without an address halfway through.
///
/// Where another address than the desired one is a subnet's primary, it and all between are taken
/// off once the desired one is there, whereupon the kernel promotes that (`promote_secondaries`),
/// and put back behind it. `held` are those of the NIC that are ours to give and to take.
fn addresses(
    nic: &NicName,
    link: &Link,
    held: &[IpNet],
    changes: &mut Vec<Change>,
    removals: &mut Vec<Change>,
) {
    let add = |address: &IpNet| Change::AddAddress(nic.clone(), *address);
    let remove = |address: &IpNet| Change::RemoveAddress(nic.clone(), *address);
    let (wanted, there): (BTreeSet<_>, BTreeSet<_>) =
        (link.addresses.iter().collect(), held.iter().collect());
    changes.extend(link.addresses.iter().filter(|own| !there.contains(own)).map(add));
    let mut taken_off: BTreeSet<&IpNet> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for primary in &link.addresses {
        let same_subnet = |own: &&IpNet| own.trunc() == primary.trunc();
        if primary.addr().is_ipv6() || !seen.insert(primary.trunc()) {
            continue;
        }
        let ahead: Vec<_> = held.iter().filter(same_subnet).take_while(|own| *own != primary).collect();
        changes.extend(ahead.iter().copied().map(remove));
        taken_off.extend(ahead.iter().copied());
        changes.extend(ahead.into_iter().filter(|own| wanted.contains(own)).map(add));
    }
    let unwanted = held.iter().filter(|own| !wanted.contains(own) && !taken_off.contains(own));
    removals.extend(unwanted.map(remove));
}

fn tables(
    desired: &TableSet,
    observed: &TableSet,
    names: &Names<'_>,
    changes: &mut Vec<Change>,
    removals: &mut Vec<Change>,
) {
    if desired.flags != observed.flags {
        changes.push(Change::SetFlags(desired.flags));
    }
    // Before anything is judged by them, and gone after all that was.
    for (number, list) in differing(&desired.lists, &observed.lists) {
        changes.push(Change::AddList(*number, list.clone()));
    }
    let gone = observed.lists.keys().filter(|number| !desired.lists.contains_key(number));
    removals.extend(gone.map(|number| Change::RemoveList(*number)));
    for (address, list) in differing(&desired.firewalls, &observed.firewalls) {
        changes.push(Change::SetFirewall(*address, *list));
    }
    let gone = observed.firewalls.keys().filter(|address| !desired.firewalls.contains_key(address));
    removals.extend(gone.map(|address| Change::RemoveFirewall(*address)));
    if desired.ports_per_guest != observed.ports_per_guest {
        changes.push(Change::SetPortsPerGuest(desired.ports_per_guest));
    }
    for (ifindex, vxlan) in differing(&desired.tunnels, &observed.tunnels) {
        changes.push(Change::SetTunnel(names.of(*ifindex), vxlan.clone()));
    }
    let gone = observed.tunnels.keys().filter(|ifindex| !desired.tunnels.contains_key(ifindex));
    removals.extend(gone.map(|ifindex| Change::RemoveTunnel(names.of(*ifindex))));
    // What leaves by a port has to find its tags.
    for (ifindex, carrier) in differing(&desired.tags, &observed.tags) {
        changes.push(Change::SetTags(names.of(*ifindex), *carrier));
    }
    let gone = observed.tags.keys().filter(|ifindex| !desired.tags.contains_key(ifindex));
    removals.extend(gone.map(|ifindex| Change::RemoveTags(names.of(*ifindex))));
    for (ifindex, port) in differing(&desired.ports, &observed.ports) {
        changes.push(Change::SetPort(names.of(*ifindex), *port));
    }
    for (bridge, members) in differing(&desired.bridges, &observed.bridges) {
        changes.push(Change::SetBridge(*bridge, members.iter().map(|member| names.of(*member)).collect()));
    }
    let gone = observed.bridges.keys().filter(|bridge| !desired.bridges.contains_key(bridge));
    removals.extend(gone.map(|bridge| Change::SetBridge(*bridge, Vec::new())));
    for (address, ifindex) in differing(&desired.local4, &observed.local4) {
        changes.push(Change::SetLocal(names.of(*ifindex), (*address).into()));
    }
    for (address, ifindex) in differing(&desired.local6, &observed.local6) {
        changes.push(Change::SetLocal(names.of(*ifindex), (*address).into()));
    }
    for (key, entry) in differing(&desired.nat, &observed.nat) {
        changes.push(Change::SetNat(*key, *entry));
    }
    let gone = observed.ports.keys().filter(|key| !desired.ports.contains_key(key));
    removals.extend(gone.map(|ifindex| Change::RemovePort(names.of(*ifindex))));
    let gone = observed.local4.keys().filter(|address| !desired.local4.contains_key(address));
    removals.extend(gone.map(|address| Change::RemoveLocal((*address).into())));
    let gone = observed.local6.keys().filter(|address| !desired.local6.contains_key(address));
    removals.extend(gone.map(|address| Change::RemoveLocal((*address).into())));
    let gone = observed.nat.keys().filter(|key| !desired.nat.contains_key(key));
    removals.extend(gone.map(|key| Change::RemoveNat(*key)));
}

/// The entries of a map that another lacks or has with another value. One walk through both: they may be long.
fn differing<'a, K: Ord, V: PartialEq>(
    desired: &'a BTreeMap<K, V>,
    observed: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let mut observed = observed.iter().peekable();
    desired.iter().filter(move |(key, value)| {
        while observed.next_if(|(there, _)| there < key).is_some() {}
        observed.next_if(|(there, _)| there == key).is_none_or(|(_, there)| there != *value)
    })
}

fn attachments(desired: &Compiled, observed: &Observed, names: &Names<'_>) -> impl Iterator<Item = Change> {
    let differs = |(ifindex, attachment): &(&u32, &Attachment)| {
        let stands = observed.attachments.get(ifindex).is_some_and(|now| {
            let fell_back = attachment.may_fall_back && now.front == Front::Nothing;
            // For several buffers or not, the driver may have refused the one and taken the other.
            let is_as_good = now.front.is_native() && attachment.front.is_native();
            let is_it = now.front == attachment.front || is_as_good || fell_back;
            now.asked == Some(attachment.front) && is_it
        });
        !stands
    };
    let attach =
        |(ifindex, attachment): (&u32, &Attachment)| Change::Attach(names.of(*ifindex), attachment.clone());
    desired.attachments.iter().filter(differs).map(attach)
}

/// Whether programs are replaced since a port's MTU is to become larger than the ones there are for.
fn is_for_larger(change: &Change, observed: &Observed) -> bool {
    let Change::Attach(nic, attachment) = change else { return false };
    let now = observed.attachments.get(&nic.ifindex);
    attachment.front == Front::MultiBufferXdp && now.is_some_and(|now| now.front == Front::NativeXdp)
}

fn routes(
    desired: &Compiled,
    observed: &Observed,
    names: &Names<'_>,
    changes: &mut Vec<Change>,
    removals: &mut Vec<Change>,
) {
    // XVR wants one route to a destination with a metric.
    let place = |route: &KernelRoute| (route.destination, route.metric);
    let by_place = |routes: &BTreeSet<KernelRoute>| -> BTreeMap<_, _> {
        routes.iter().map(|route| (place(route), *route)).collect()
    };
    let (wanted, there) = (by_place(&desired.routes), by_place(&observed.routes));
    let way = |route: &KernelRoute| route.ifindex().map(|ifindex| names.of(ifindex));
    for route in desired.routes.difference(&observed.routes) {
        let nic = way(route);
        changes.push(if there.contains_key(&place(route)) {
            Change::ReplaceRoute(nic, *route)
        } else {
            Change::AddRoute(nic, *route)
        });
    }
    for route in observed.routes.difference(&desired.routes) {
        // The one that is replaced is gone already. With several, the next pass sees the rest.
        let replaced = wanted.get(&place(route));
        if replaced.is_none_or(|wanted| observed.routes.contains(wanted)) {
            removals.push(Change::RemoveRoute(way(route), *route));
        }
    }
}

impl fmt::Display for NicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard => f.write_str("make Linux forward nothing by itself (nft table inet xvr)"),
            Self::Sysctl { path, from: Some(from), to } => write!(f, "set {path} to {to:?}, it is {from:?}"),
            Self::Sysctl { path, from: None, to } => write!(f, "set {path} to {to:?}"),
            Self::CountOwnTcp(nics) => {
                f.write_str("count the router's own TCP (nft table ip xvr-usage) on")?;
                nics.iter().try_for_each(|(nic, _)| write!(f, " {nic}"))?;
                if nics.is_empty() { f.write_str(" no NIC") } else { Ok(()) }
            }
            Self::Mtu(nic, mtu) => write!(f, "set the MTU of {nic} to {mtu}"),
            Self::Up(nic) => write!(f, "switch {nic} on"),
            Self::Down(nic) => write!(f, "switch {nic} off"),
            Self::AddAddress(nic, address) => write!(f, "add address {address} to {nic}"),
            Self::RemoveAddress(nic, address) => write!(f, "remove address {address} from {nic}"),
            Self::SetFlags(flags) => write!(f, "set {}", FlagsSentence(*flags)),
            Self::AddList(number, list) => write!(f, "write policy list {number:08x}, {list:?}"),
            Self::RemoveList(number) => write!(f, "remove policy list {number:08x}"),
            Self::SetFirewall(address, list) => write!(f, "judge flows to {address} by list {list:08x}"),
            Self::RemoveFirewall(address) => write!(f, "judge flows to {address} by no list"),
            Self::SetPortsPerGuest(0) => f.write_str("let a guest have as many external ports as there are"),
            Self::SetPortsPerGuest(limit) => {
                write!(f, "let a guest have {limit} external ports per protocol")
            }
            Self::SetPort(nic, port) => write!(f, "set port {nic}: {}", PortSentence(port)),
            Self::RemovePort(nic) => write!(f, "remove port {nic}"),
            Self::SetTags(nic, carrier) if carrier.is_tunnel() => {
                write!(f, "have frames of {nic} be in VXLAN packets")
            }
            Self::SetTags(nic, carrier) => {
                write!(f, "set the tags of {nic}: VLAN {}", carrier.outer)?;
                if carrier.inner == 0 { Ok(()) } else { write!(f, ", inside it {}", carrier.inner) }
            }
            Self::RemoveTags(nic) => write!(f, "remove the tags of {nic}"),
            Self::SetTunnel(nic, Vxlan { tunnel, remotes }) => {
                write!(f, "set the network of {nic}: VNI {} of {} with ", tunnel.vni, tunnel.local)?;
                if remotes.is_empty() {
                    return f.write_str("nobody");
                }
                let remotes: Vec<String> = remotes.iter().map(ToString::to_string).collect();
                f.write_str(&remotes.join(", "))
            }
            Self::RemoveTunnel(nic) => write!(f, "remove the network of {nic}"),
            Self::SetBridge(bridge, members) if members.is_empty() => write!(f, "remove bridge {bridge}"),
            Self::SetBridge(bridge, members) => {
                let members: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
                write!(f, "set bridge {bridge}: {}", members.join(", "))
            }
            Self::SetLocal(nic, address) => write!(f, "set {address} on {nic} as the router's own"),
            Self::RemoveLocal(address) => write!(f, "remove {address} from the router's own"),
            Self::SetNat(key, entry) => write!(f, "set {key} to {entry}"),
            Self::RemoveNat(NatKey::Untranslated(network)) => {
                write!(f, "translate the source of guests towards {network} again")
            }
            Self::RemoveNat(key) => write!(f, "remove {key}"),
            Self::Attach(nic, attachment) => {
                write!(f, "attach {} to {nic} ({})", attachment.front, attachment.reason)
            }
            Self::Detach(nic) => write!(f, "detach the programs from {nic}"),
            Self::AddRoute(nic, route) => write!(f, "add route {}", RouteSentence(nic, route)),
            Self::ReplaceRoute(nic, route) => write!(f, "change route {}", RouteSentence(nic, route)),
            Self::RemoveRoute(nic, route) => write!(f, "remove route {}", RouteSentence(nic, route)),
            Self::BumpGeneration => f.write_str("make flows look up their way out again"),
        }
    }
}

struct FlagsSentence(u32);

impl fmt::Display for FlagsSentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let choose = |flag, set, clear| if self.0 & flag != 0 { set } else { clear };
        let hairpin = choose(RouterConfig::HAIRPIN_EXTERNAL, "external", "gateway");
        let filtering =
            choose(RouterConfig::OPEN_BINDINGS, "endpoint-independent", "address-and-port-dependent");
        let ftp = choose(RouterConfig::FTP, "on", "off");
        let tftp = choose(RouterConfig::TFTP, "on", "off");
        write!(
            f,
            "the hairpin source to {hairpin}, filtering to {filtering}, helpers: FTP {ftp}, TFTP {tftp}"
        )?;
        let further = [
            (RouterConfig::UNTRANSLATED, ", some destinations to be reached untranslated"),
            (RouterConfig::ANSWER_SYNS, ", unsolicited SYNs over IPv6 to be answered"),
            (RouterConfig::REFUSE_EXHAUSTED, ", no port to be shared"),
        ];
        further.iter().filter(|(flag, _)| self.0 & flag != 0).try_for_each(|(_, words)| f.write_str(words))
    }
}

struct PortSentence<'a>(&'a Port);

impl fmt::Display for PortSentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Port { role, mtu, source_nat, flags, .. } = self.0;
        let role =
            Role::ALL.iter().find(|known| **known as u8 == *role).map_or("unknown", |role| role.label());
        write!(f, "{role}, MTU {mtu}")?;
        if *source_nat != router_common::net::Ipv4::UNSPECIFIED {
            write!(f, ", source NAT to {source_nat}")?;
        }
        if flags & Port::PARTIAL_CHECKSUMS != 0 {
            f.write_str(", unfinished checksums")?;
        }
        if flags & Port::XDP_TARGET != 0 {
            f.write_str(", takes XDP frames")?;
        }
        if flags & Port::MULTI_BUFFER != 0 {
            f.write_str(", in several buffers too")?;
        }
        if flags & Port::SYMMETRIC != 0 {
            f.write_str(", symmetric mapping")?;
        }
        let Port { from_list, to_list, outside_list, own_list, .. } = self.0;
        let lists =
            [("from it", from_list), ("to it", to_list), ("to the outside", outside_list), ("own", own_list)];
        for (what, list) in lists.into_iter().filter(|(_, list)| **list != NO_LIST) {
            write!(f, ", {what} by list {list:08x}")?;
        }
        Ok(())
    }
}

struct RouteSentence<'a>(&'a Option<NicName>, &'a KernelRoute);

impl fmt::Display for RouteSentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(nic, route) = self;
        write!(f, "{}", route.destination)?;
        match route.target {
            KernelTarget::Gateway { address, .. } => write!(f, " by {address}")?,
            KernelTarget::Device { .. } => {}
            KernelTarget::Blackhole => f.write_str(" to nobody")?,
        }
        nic.iter().try_for_each(|nic| write!(f, " via {nic}"))
    }
}
