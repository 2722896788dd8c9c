//! What guests are told when they come up: of the boot line, the tiers, and each guest's `dhcpentry`.
//!
//! What cannot be read is a notice, and everything else is served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cloudstack::databag::Databags;
use crate::cloudstack::object::Object;
use crate::cloudstack::wire::cmdline::{CmdLine, RouterKind};
use crate::cloudstack::wire::dhcpentry::DhcpEntry;
use crate::cloudstack::wire::guestnetwork::GuestNetwork;
use crate::cloudstack::wire::ips::NetworkType;
use crate::cloudstack::wire::{host_address, host_name, is_host, not_a_host};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::Port;
use crate::model::dhcp::{Dhcp, Guest, Network, Network6};
use crate::model::port::Role;

/// CloudStack's own router's, where it is told none.
const DOMAIN: &str = "cloudnine.internal";

/// What is served in all guest networks; `None` where there is none.
pub fn dhcp(bags: &Databags, boot: &CmdLine, ports: &[Port], notices: &mut Vec<ConfigError>) -> Option<Dhcp> {
    let named = Named::read(boot, notices);
    let guests = guests(bags, notices);
    let mut networks = Vec::new();
    let mut upstream = named.dns.clone();
    for port in ports.iter().filter(|port| port.role == Role::Guest) {
        let tier = tier(bags, boot, port, notices);
        if named.dns.is_empty() {
            let asked = tier.iter().flat_map(|tier| &tier.dns).filter(|&server| !upstream.contains(server));
            let asked: Vec<_> = asked.copied().collect();
            upstream.extend(asked);
        }
        let found = of_port(boot, &named, port, tier.as_ref(), &guests);
        let has_guests =
            |network: &Network| guests.iter().any(|(_, guest, _)| network.contains(guest.address.into()));
        // A tier where others answer has no name servers.
        let is_served = tier.is_none_or(|tier| !tier.dns.is_empty());
        networks.extend(found.into_iter().filter(|network| is_served || has_guests(network)));
    }
    let guests = in_networks(guests, &networks, notices);
    let answers_names = !named.is_external;
    let dhcp = Dhcp { router_name: named.router, networks, guests, upstream, answers_names };
    (!dhcp.networks.is_empty()).then_some(dhcp)
}

/// What the boot line says about names.
struct Named {
    router: Option<String>,
    domain: Option<String>,
    search: Vec<String>,
    dns: Vec<IpAddr>,
    /// `useextdns`: guests are told of these servers only.
    is_external: bool,
    /// `userouteripresolver`: guests are told of the router only.
    is_router_alone: bool,
    /// The gateway of an isolated network with a pair of routers.
    guest_gateway: Option<Ipv4Addr>,
}

impl Named {
    fn read(boot: &CmdLine, notices: &mut Vec<ConfigError>) -> Self {
        let object = Object::new(boot.place.clone(), &boot.config);
        let mut dns = Vec::new();
        for key in ["dns1", "dns2"] {
            dns.extend(take(host_address(&object, key), notices).flatten().map(IpAddr::V4));
        }
        for key in ["ip6dns1", "ip6dns2"] {
            let server = object.parsed::<Ipv6Addr>(key, "IPv6 address").and_then(|server| match server {
                Some(server) if !is_host(server.into()) => Err(not_a_host(&object, key, server.into())),
                server => Ok(server),
            });
            dns.extend(take(server, notices).flatten().map(IpAddr::V6));
        }
        let mut is = |key: &str| take(object.boolean(key), notices).flatten().unwrap_or(false);
        let (is_external, is_router_alone) = (is("useextdns"), is("userouteripresolver"));
        Self {
            router: take(host_name(&object, "name"), notices).flatten(),
            domain: domain(&object, "domain", notices),
            search: search(&object, notices),
            dns,
            is_external,
            is_router_alone,
            guest_gateway: take(host_address(&object, "guestgw"), notices).flatten(),
        }
    }
}

/// What a tier's message says about names.
struct Tier {
    tier: GuestNetwork,
    domain: Option<String>,
    dns: Vec<IpAddr>,
}

impl Tier {
    fn read(tier: GuestNetwork, object: &Object, notices: &mut Vec<ConfigError>) -> Self {
        let mut dns = Vec::new();
        for (key, is_family) in
            [("dns", (|server| server.is_ipv4()) as fn(&IpAddr) -> bool), ("dns6", |server| server.is_ipv6())]
        {
            let text = take(object.text(key), notices).flatten().unwrap_or_default();
            for word in text.split(',').map(str::trim).filter(|word| !matches!(*word, "" | "null")) {
                match word.parse::<IpAddr>().ok().filter(|server| is_family(server) && is_host(*server)) {
                    Some(server) => dns.push(server),
                    None => notices.push(
                        object
                            .error(key, format_args!("{word:?} is no name server's address, it is left out")),
                    ),
                }
            }
        }
        Self { tier, domain: domain(object, "domain_name", notices), dns }
    }
}

/// The tier that a port of a VPC is.
fn tier(bags: &Databags, boot: &CmdLine, port: &Port, notices: &mut Vec<ConfigError>) -> Option<Tier> {
    if boot.kind != RouterKind::Vpc {
        return None;
    }
    let place = Place::document("guestnetwork.json").at(&port.name);
    let entries = bags.guestnetwork.get(&port.name)?.iter().enumerate();
    // Forwarding has read them, too, and takes the last.
    let mut read = entries.filter_map(|(at, entry)| {
        let object = Object::new(place.at(at), entry);
        Some((GuestNetwork::read(&object).ok()?, object))
    });
    let (tier, object) = read.rfind(|(tier, _)| tier.add)?;
    Some(Tier::read(tier, &object, notices))
}

/// The networks of a port: a tier's one, or those that a shared network's router has aliases in. IPv6 goes with
/// the first.
fn of_port(
    boot: &CmdLine,
    named: &Named,
    port: &Port,
    tier: Option<&Tier>,
    guests: &[(Place, Guest, Option<Ipv4Addr>)],
) -> Vec<Network> {
    let mut ipv6 = port.addresses.iter().find_map(|address| match address {
        // dnsmasq knows no wider ones; CloudStack's have 64 bits.
        IpNet::V6(router) if router.prefix_len() >= 64 => Some(network6(boot, named, tier, *router)),
        _ => None,
    });
    let network = |router: Ipv4Net| {
        let (service, gateway) = match tier {
            Some(Tier { tier, .. }) => {
                let gateway = tier.gateway.unwrap_or(router.addr());
                (if tier.may_own_gateway { gateway } else { router.addr() }, Some(gateway))
            }
            None => gateway(boot, named, router, guests),
        };
        let servers = tier.map_or(&named.dns, |tier| &tier.dns);
        let servers = servers.iter().filter_map(|server| match server {
            IpAddr::V4(server) => Some(*server),
            IpAddr::V6(_) => None,
        });
        Network {
            port: port.name.clone(),
            router,
            gateway,
            service,
            dns: offered(named, service, servers),
            domain: tier
                .map_or(&named.domain, |tier| &tier.domain)
                .clone()
                .unwrap_or_else(|| DOMAIN.to_owned()),
            search: named.search.clone(),
            ipv6: ipv6.take(),
        }
    };
    port.ipv4().map(network).collect()
}

fn network6(boot: &CmdLine, named: &Named, tier: Option<&Tier>, router: Ipv6Net) -> Network6 {
    let servers = tier.map_or(&named.dns, |tier| &tier.dns);
    let servers = servers.iter().filter_map(|server| match server {
        IpAddr::V6(server) => Some(*server),
        IpAddr::V4(_) => None,
    });
    let is_gateway = tier.map_or(is_gateway(boot), |tier| tier.tier.may_own_gateway);
    Network6 { router, is_gateway, dns: offered(named, router.addr(), servers) }
}

/// The router first, unless guests are to ask others; then these, unless they are to ask the router alone.
fn offered<A: Copy + PartialEq>(named: &Named, router: A, servers: impl Iterator<Item = A>) -> Vec<A> {
    let mut offered: Vec<A> = (!named.is_external).then_some(router).into_iter().collect();
    for server in servers.filter(|_| named.is_external || !named.is_router_alone) {
        if !offered.contains(&server) {
            offered.push(server);
        }
    }
    offered
}

/// Where the router is found in a network that is no tier, and its gateway.
fn gateway(
    boot: &CmdLine,
    named: &Named,
    router: Ipv4Net,
    guests: &[(Place, Guest, Option<Ipv4Addr>)],
) -> (Ipv4Addr, Option<Ipv4Addr>) {
    let is_here = |address: &Ipv4Addr| router.contains(address);
    if is_gateway(boot) {
        let service = named.guest_gateway.filter(is_here).unwrap_or(router.addr());
        return (service, Some(service));
    }
    // Somebody else is the gateway. Of further networks nothing but their guests says who.
    let of_guests = || {
        let guests = guests.iter().filter(|(_, guest, _)| is_here(&guest.address));
        guests.filter_map(|(_, _, gateway)| *gateway).find(is_here)
    };
    (router.addr(), boot.gateway.filter(is_here).or_else(of_guests))
}

/// Whether guests in no tier leave by the router: not in a shared network, nor without a public NIC.
fn is_gateway(boot: &CmdLine) -> bool {
    boot.kind == RouterKind::Isolated && boot.nics.iter().any(|nic| nic.network_type == NetworkType::Public)
}

/// Guests that are to have addresses, with their places and gateways, in the order of their addresses.
fn guests(bags: &Databags, notices: &mut Vec<ConfigError>) -> Vec<(Place, Guest, Option<Ipv4Addr>)> {
    let place = Place::document("dhcpentry.json");
    let mut guests = Vec::new();
    for (key, entry) in bags.dhcpentry.iter() {
        let Some(entry) = take(DhcpEntry::read(&Object::new(place.at(key), entry)), notices) else {
            continue;
        };
        let Some(guest) = entry.guest.filter(|guest| !guest.remove) else { continue };
        let Some(name) = guest.host_name else { continue };
        let (address, gateway) = (entry.address, guest.gateway);
        let guest = Guest {
            mac: guest.mac,
            address,
            name,
            address6: guest.address6,
            duid6: guest.duid6,
            is_default: guest.is_default,
        };
        guests.push((entry.place, guest, gateway));
    }
    guests.sort_by_key(|(_, guest, _)| guest.address);
    guests
}

/// Those that are in a network that is served, each with what it can have there.
fn in_networks(
    guests: Vec<(Place, Guest, Option<Ipv4Addr>)>,
    networks: &[Network],
    notices: &mut Vec<ConfigError>,
) -> Vec<Guest> {
    let routers: BTreeSet<Ipv4Addr> =
        networks.iter().flat_map(|network| [network.router.addr(), network.service]).collect();
    let mut on_port: BTreeMap<&str, Vec<&Network>> = BTreeMap::new();
    for network in networks {
        on_port.entry(&network.port).or_default().push(network);
    }
    let prefixes = Prefixes::of(networks);
    let mut served = Vec::new();
    for (place, mut guest, _) in guests {
        let address = guest.address;
        let Some(network) = prefixes.network_of(address) else {
            notices.push(place.at("ipv4_address").error(format_args!(
                "no guest port has the network of {address}, so it is stored and not in force"
            )));
            continue;
        };
        if routers.contains(&address) {
            let message = format_args!("{address} is the router's own address, no guest gets it");
            notices.push(place.at("ipv4_address").error(message));
            continue;
        }
        let is_on_port = |address6: Ipv6Addr| {
            let mut others = on_port.get(network.port.as_str()).into_iter().flatten();
            others.any(|other| other.contains(address6.into()))
        };
        if let Some(address6) = guest.address6.take_if(|address6| !is_on_port(*address6)) {
            let message = format_args!("{address6} is not of the network of {address}, it is left out");
            notices.push(place.at("ipv6_address").error(message));
        }
        served.push(guest);
    }
    served
}

/// Networks by what addresses in them begin with: there may be thousands, and many times as many guests.
struct Prefixes<'a> {
    networks: &'a [Network],
    lengths: BTreeSet<u8>,
    /// Of several that are the same, the first.
    first: BTreeMap<Ipv4Net, usize>,
}

impl<'a> Prefixes<'a> {
    fn of(networks: &'a [Network]) -> Self {
        let by_prefix = networks.iter().enumerate().rev();
        let first: BTreeMap<Ipv4Net, usize> =
            by_prefix.map(|(index, network)| (network.router.trunc(), index)).collect();
        Self { networks, lengths: first.keys().map(Ipv4Net::prefix_len).collect(), first }
    }

    /// The first that has an address.
    fn network_of(&self, address: Ipv4Addr) -> Option<&'a Network> {
        let of = |length: &u8| self.first.get(&Ipv4Net::new_assert(address, *length).trunc());
        self.networks.get(*self.lengths.iter().filter_map(of).min()?)
    }
}

/// A domain, without the dots that may be around it.
fn domain(object: &Object, key: &str, notices: &mut Vec<ConfigError>) -> Option<String> {
    let text = take(object.text(key), notices).flatten()?;
    let text = text.trim_matches('.');
    if text.is_empty() || text == "null" {
        return None;
    }
    if !is_domain(text) {
        notices.push(object.error(key, format_args!("{text:?} is no domain, {DOMAIN} is used instead")));
        return None;
    }
    Some(text.to_owned())
}

/// `dnssearchorder`: domains with commas between them.
fn search(object: &Object, notices: &mut Vec<ConfigError>) -> Vec<String> {
    const KEY: &str = "dnssearchorder";
    let text = take(object.text(KEY), notices).flatten().unwrap_or_default();
    let words = text.split(',').map(|word| word.trim().trim_matches('.'));
    let (domains, others): (Vec<_>, Vec<_>) =
        words.filter(|word| !matches!(*word, "" | "null")).partition(|word| is_domain(word));
    let others = others.iter().map(|word| format!("{word:?} is no domain, it is left out"));
    notices.extend(others.map(|message| object.error(KEY, message)));
    domains.into_iter().map(str::to_owned).collect()
}

fn is_domain(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_letter);
    text.len() <= 253 && text.split('.').all(is_label)
}

/// What was read, or a notice.
fn take<T>(read: Result<T, ConfigError>, notices: &mut Vec<ConfigError>) -> Option<T> {
    read.map_err(|error| notices.push(error)).ok()
}
