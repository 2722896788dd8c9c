//! dnsmasq: addresses, names and router advertisements for guests, on guest ports alone.
//!
//! ```text
//! etc/dnsmasq.d/cloud.conf     interfaces, networks, options   read when it starts: another one restarts it
//! etc/dhcphosts.txt            a line for each NIC              read again on SIGHUP, as all below
//! etc/dhcpopts.txt             what some NICs do not hear of
//! etc/hosts                    names
//! etc/dnsmasq-resolv.conf      whom it asks itself
//! etc/resolv.conf              whom the router's own programs ask
//! var/lib/misc/dnsmasq.leases  its own
//! ```
//!
//! A guest that comes or goes is a SIGHUP. dnsmasq 2.90 ends in a segmentation fault when it reads a line of
//! `dhcphosts.txt` again by whose `set:` a client was served. So the tag of a NIC that is not its guest's default one
//! is set by `dhcp-mac` in `cloud.conf`, and only such a NIC is a restart. Leases outlive restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::{Call, HEADER, Leases, Place, Rendered, Service};
use crate::model::dhcp::{Dhcp, Guest, Network};
use crate::model::vpn::PEOPLE;

/// Seconds between router advertisements, and for how long a router that falls silent is believed in: those of
/// CloudStack's own router.
const ADVERTISEMENTS: (u32, u32) = (15, 45);

/// For how long guests keep a prefix and name servers of IPv6 that nobody tells them of any more.
const LIFETIME6: &str = "1d";

/// The server for what is desired; `None` while no network's port has a NIC. With `has_people` it also answers those
/// who have called from outside, about names.
pub fn render(dhcp: &Dhcp, has_people: bool, place: Place<'_>) -> Option<Service> {
    // Of several NICs that one port has the first counts.
    let nics: BTreeMap<&str, u32> =
        place.compiled.names.iter().rev().map(|(ifindex, name)| (name.as_str(), *ifindex)).collect();
    let networks: Vec<Placed<'_>> =
        dhcp.networks.iter().filter_map(|network| Placed::of(network, &nics, place)).collect();
    if networks.is_empty() {
        return None;
    }
    let files = Files::below(place);
    let config = |path: &PathBuf, content| Rendered { path: path.clone(), content, mode: 0o644 };
    let mut rendered = vec![
        config(&files.config, configuration(dhcp, has_people, &networks, &files)),
        config(&files.hosts, dhcp.guests.iter().map(host).collect()),
        config(&files.options, dhcp.guests.iter().map(options).collect()),
        config(&files.names, names(dhcp, &networks)),
        config(&files.upstream, resolvers(&dhcp.upstream)),
    ];
    if !dhcp.upstream.is_empty() {
        rendered.push(config(&files.own_resolvers, resolvers(&dhcp.upstream)));
    }
    let arguments =
        vec!["--keep-in-foreground".to_owned(), format!("--conf-file={}", files.config.display())];
    Some(Service {
        files: rendered,
        folders: files.leases.parent().map(PathBuf::from).into_iter().collect(),
        check: Some(Call { program: "dnsmasq", arguments: vec!["--test".into(), "-C".into()] }),
        read_at_start: vec![files.config],
        leases: Some(leases(dhcp, &networks, files.leases)),
        ..Service::new("dnsmasq", "dnsmasq", arguments)
    })
}

/// A network whose port has a NIC.
struct Placed<'a> {
    network: &'a Network,
    /// The kernel's name of the NIC.
    nic: &'a str,
    mtu: u32,
    /// What the options of its guests are tagged with.
    tag: String,
}

impl<'a> Placed<'a> {
    fn of(network: &'a Network, nics: &BTreeMap<&str, u32>, place: Place<'a>) -> Option<Self> {
        let ifindex = nics.get(network.port.as_str())?;
        let nic = place.inventory.by_index(*ifindex)?;
        let mtu = place.compiled.links.get(ifindex).and_then(|link| link.mtu);
        let tag = format!("interface-{}-{}", network.port, network.router.network());
        Some(Self { network, nic: &nic.name, mtu: mtu.map_or(nic.mtu, u32::from), tag })
    }
}

struct Files {
    config: PathBuf,
    hosts: PathBuf,
    options: PathBuf,
    names: PathBuf,
    upstream: PathBuf,
    own_resolvers: PathBuf,
    leases: PathBuf,
}

impl Files {
    fn below(place: Place<'_>) -> Self {
        let at = |path: &str| place.root.path().join(path);
        Self {
            config: at("etc/dnsmasq.d/cloud.conf"),
            hosts: at("etc/dhcphosts.txt"),
            options: at("etc/dhcpopts.txt"),
            names: at("etc/hosts"),
            upstream: at("etc/dnsmasq-resolv.conf"),
            own_resolvers: at("etc/resolv.conf"),
            leases: at("var/lib/misc/dnsmasq.leases"),
        }
    }
}

fn configuration(dhcp: &Dhcp, has_people: bool, networks: &[Placed<'_>], files: &Files) -> String {
    let mut text = String::from(HEADER);
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    // Only where guests are, and also where addresses come later.
    line(format_args!("bind-dynamic"));
    line(format_args!("except-interface=lo"));
    for nic in networks.iter().map(|placed| placed.nic).collect::<BTreeSet<_>>() {
        line(format_args!("interface={nic}"));
    }
    if has_people {
        line(format_args!("interface={PEOPLE}*"));
    }
    line(format_args!("pid-file="));
    // With the rest of what the daemon says.
    line(format_args!("log-facility=-"));
    for quiet in ["quiet-dhcp", "quiet-dhcp6", "quiet-ra"] {
        line(format_args!("{quiet}"));
    }
    names_configuration(dhcp, networks, files, &mut line);
    line(format_args!("dhcp-hostsfile={}", files.hosts.display()));
    line(format_args!("dhcp-optsfile={}", files.options.display()));
    line(format_args!("dhcp-leasefile={}", files.leases.display()));
    // One for each address that there may be on a guest port.
    line(format_args!("dhcp-lease-max=65536"));
    line(format_args!("dhcp-ignore=tag:!known"));
    // A guest that remembers its address hears at once whether it is still its own, whatever we remember.
    line(format_args!("dhcp-authoritative"));
    // Addresses are reserved: nobody else has them.
    line(format_args!("no-ping"));
    // Windows gives its lease back when it shuts down.
    line(format_args!("dhcp-option=vendor:MSFT,2,1i"));
    for guest in dhcp.guests.iter().filter(|guest| !guest.is_default) {
        line(format_args!("dhcp-mac=set:{},{}", tag_of(guest.address), guest.mac));
    }
    for placed in networks {
        network_configuration(placed, &mut line);
    }
    if networks.iter().any(|placed| placed.network.ipv6.is_some()) {
        line(format_args!("enable-ra"));
    }
    for placed in networks {
        ipv6_configuration(placed, &mut line);
    }
    text
}

fn names_configuration(
    dhcp: &Dhcp,
    networks: &[Placed<'_>],
    files: &Files,
    line: &mut impl FnMut(std::fmt::Arguments<'_>),
) {
    if !dhcp.answers_names {
        line(format_args!("port=0"));
    }
    line(format_args!("domain-needed"));
    line(format_args!("bogus-priv"));
    line(format_args!("localise-queries"));
    line(format_args!("no-hosts"));
    line(format_args!("addn-hosts={}", files.names.display()));
    line(format_args!("expand-hosts"));
    line(format_args!("resolv-file={}", files.upstream.display()));
    // Where answers to the router's own sockets come in.
    let (first, last) = router_common::config::RouterConfig::OWN_PORTS;
    line(format_args!("min-port={first}"));
    line(format_args!("max-port={last}"));
    for domain in networks.iter().map(|placed| &placed.network.domain).collect::<BTreeSet<_>>() {
        line(format_args!("local=/{domain}/"));
    }
    if let Some(first) = networks.first() {
        line(format_args!("domain={}", first.network.domain));
    }
    for Placed { network, .. } in networks {
        line(format_args!("domain={},{}", network.domain, network.router.trunc()));
        if let Some(ipv6) = &network.ipv6 {
            line(format_args!("domain={},{}", network.domain, ipv6.router.trunc()));
        }
    }
}

fn network_configuration(placed: &Placed<'_>, line: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    let Placed { network, tag, .. } = placed;
    let (router, mask) = (network.router.addr(), network.router.netmask());
    line(format_args!("dhcp-range=set:{tag},{router},static,{mask},infinite"));
    line(format_args!("dhcp-option=tag:{tag},1,{mask}"));
    line(format_args!("dhcp-option=tag:{tag},3{}", list(network.gateway)));
    line(format_args!("dhcp-option=tag:{tag},6{}", list(&network.dns)));
    line(format_args!("dhcp-option=tag:{tag},15,{}", network.domain));
    line(format_args!("dhcp-option=tag:{tag},26,{}", placed.mtu));
    if !network.search.is_empty() {
        line(format_args!("dhcp-option-force=tag:{tag},119{}", list(&network.search)));
    }
}

fn ipv6_configuration(placed: &Placed<'_>, line: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    let Placed { network, tag, nic, mtu } = placed;
    let Some(ipv6) = &network.ipv6 else { return };
    let (interval, lifetime) = ADVERTISEMENTS;
    let lifetime = if ipv6.is_gateway { lifetime } else { 0 };
    line(format_args!("ra-param={nic},mtu:{mtu},{interval},{lifetime}"));
    let (router, length) = (ipv6.router.addr(), ipv6.router.prefix_len());
    // Guests make addresses of their own of 64 bits.
    let slaac = if length == 64 { ",slaac" } else { "" };
    line(format_args!("dhcp-range=set:{tag},{router},static{slaac},{length},{LIFETIME6}"));
    let servers = ipv6.dns.iter().map(|server| format!("[{server}]"));
    line(format_args!("dhcp-option=tag:{tag},option6:dns-server{}", list(servers)));
    line(format_args!("dhcp-option=tag:{tag},option6:domain-search,{}", network.domain));
}

/// Values, each with a comma before it. An option without any is not told at all.
fn list(values: impl IntoIterator<Item = impl Display>) -> String {
    values.into_iter().map(|value| format!(",{value}")).collect()
}

/// A line of `dhcphosts.txt`. IPv6 comes last, where CloudStack's own router has nothing.
fn host(guest: &Guest) -> String {
    let mut line = format!("{},{}", guest.mac, guest.address);
    if !is_keyword(&guest.name) {
        line += &format!(",{}", guest.name);
    }
    line += ",infinite";
    if let Some(address6) = guest.address6 {
        line += &format!(",[{address6}]");
        if let Some(duid) = &guest.duid6 {
            let bytes: Vec<String> = duid.iter().map(|byte| format!("{byte:02x}")).collect();
            line += &format!(",id:{}", bytes.join(":"));
        }
    }
    line + "\n"
}

/// What dnsmasq would take for something else than a name: a time, or what to do about the guest.
fn is_keyword(name: &str) -> bool {
    let number = name.trim_end_matches(['s', 'm', 'h', 'd', 'w', 'S', 'M', 'H', 'D', 'W']);
    let is_time = !number.is_empty() && name.len() <= number.len() + 1;
    (is_time && number.bytes().all(|digit| digit.is_ascii_digit()))
        || ["infinite", "ignore", "deprecated"].iter().any(|word| name.eq_ignore_ascii_case(word))
}

/// Lines of `dhcpopts.txt`: a NIC that is not its guest's default one hears of no gateway, name server and domain.
fn options(guest: &Guest) -> String {
    if guest.is_default {
        return String::new();
    }
    let tag = tag_of(guest.address);
    format!("tag:{tag},3\ntag:{tag},6\ntag:{tag},15\ntag:{tag},119\n")
}

fn tag_of(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "_")
}

/// `hosts`: an address, a tab, names.
fn names(dhcp: &Dhcp, networks: &[Placed<'_>]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let mut line = |address: IpAddr, names: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{address}\t{names}");
    };
    for Placed { network, .. } in networks {
        let own = dhcp.router_name.iter().map(String::as_str);
        let own: Vec<&str> = own.chain(["data-server"]).collect();
        line(network.service.into(), &own.join(" "));
    }
    for guest in &dhcp.guests {
        line(guest.address.into(), &guest.name);
        if let Some(address6) = guest.address6 {
            line(address6.into(), &guest.name);
        }
    }
    text
}

fn resolvers(servers: &[IpAddr]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

fn leases(dhcp: &Dhcp, networks: &[Placed<'_>], file: PathBuf) -> Leases {
    let reserved = dhcp.guests.iter().map(|guest| (guest.address.to_string(), guest.mac.to_string()));
    let reserved6 = dhcp.guests.iter().filter_map(|guest| guest.address6.map(IpAddr::V6));
    let interfaces = networks.iter().flat_map(|Placed { network, nic, .. }| {
        let ipv6 = network.ipv6.iter().map(|ipv6| IpNet::V6(ipv6.router));
        let all = std::iter::once(IpNet::V4(network.router)).chain(ipv6);
        all.map(|network| (network, (*nic).to_owned()))
    });
    Leases {
        file,
        reserved: reserved.collect(),
        reserved6: reserved6.collect(),
        interfaces: interfaces.collect(),
    }
}
