//! Kernel settings: what Linux does with packets that the programs leave to it.
//!
//! The programs forward; the kernel answers for the router's own addresses, resolves neighbours
//! and makes ICMP errors. Forwarding has to be on for `bpf_fib_lookup`, and for those errors;
//! that Linux forwards nothing by itself is the guard's doing (`reconcile::guard`).

use std::collections::BTreeMap;

use ipnet::IpNet;
use router_common::config::RouterConfig;
use router_common::port::Role;

use super::port::Placed;

/// Path below `/proc/sys/` → value.
pub(super) fn compile(placed: &[Placed<'_>]) -> BTreeMap<String, String> {
    if placed.is_empty() {
        return BTreeMap::new();
    }
    let (first, last) = RouterConfig::OWN_PORTS;
    let mut sysctls = Vec::new();
    let mut set = |path: String, value: &str| sysctls.push((path, value.to_owned()));
    set("net/ipv4/ip_local_port_range".to_owned(), &format!("{first} {last}"));
    for (name, value) in GLOBAL {
        set(format!("net/{name}"), value);
    }
    let mut placed: Vec<&Placed<'_>> = placed.iter().collect();
    placed.sort_unstable_by_key(|port| &port.nic.name);
    for port in &placed {
        let nic = &port.nic.name;
        for (name, value) in ipv4(port.port.role) {
            set(format!("net/ipv4/conf/{nic}/{name}"), value);
        }
    }
    for port in &placed {
        let nic = &port.nic.name;
        let has_ipv6 = port.port.addresses.iter().any(|own| matches!(own, IpNet::V6(_)));
        for (name, value) in ipv6(port.port.role, has_ipv6) {
            set(format!("net/ipv6/conf/{nic}/{name}"), value);
        }
    }
    // Sorted together: there may be tens of thousands. Most are in order already.
    sysctls.into_iter().collect()
}

/// The settings for IPv4 of a tier's NIC, by their names. Forwarding is switched on for all NICs together.
pub fn tier_settings() -> impl Iterator<Item = (&'static str, u32)> {
    let of_tier = ipv4(Role::Guest).into_iter().filter(|(name, _)| *name != "forwarding");
    of_tier.filter_map(|(name, value)| Some((name, value.parse().ok()?)))
}

const GLOBAL: [(&str, &str); 8] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    // The kernel takes the larger of `all` and the NIC's own value.
    ("ipv4/conf/all/rp_filter", "0"),
    // The kernel sends redirects where `all` or the NIC says so, and likewise believes them.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/all/secure_redirects", "0"),
    // A load balancer may be told of an address before the router is.
    ("ipv4/ip_nonlocal_bind", "1"),
    // Its connections to a server share few ports, which must not all wait for a minute.
    ("ipv4/tcp_tw_reuse", "1"),
];

/// Settings of a port's NIC for IPv4.
fn ipv4(role: Role) -> [(&'static str, &'static str); 8] {
    // A public address may well be reached by another public port than the one that the route
    // back leads out of (several public networks); elsewhere a source has one side it comes from.
    let rp_filter = match role {
        Role::Public | Role::PrivateGateway | Role::Tunnel => "0",
        Role::Control | Role::Guest | Role::Bridged => "1",
    };
    // Never routed, not even when the guard were gone.
    let forwarding = if role.is_routed() { "1" } else { "0" };
    [
        ("accept_redirects", "0"),
        ("arp_announce", "2"),
        // Answer for addresses of the NIC that is asked, and of no other. 2, as CloudStack's own
        // router has it, asks in addition that the questioner be of the address's subnet, which
        // silences the router towards a gateway that asks with its address of another subnet on
        // the same wire (several public ranges on one VLAN, addresses with a prefix of 32).
        ("arp_ignore", "1"),
        ("forwarding", forwarding),
        // Removing a subnet's first address must not take the others with it.
        ("promote_secondaries", "1"),
        ("rp_filter", rp_filter),
        ("secure_redirects", "0"),
        ("send_redirects", "0"),
    ]
}

/// Settings of a port's NIC for IPv6.
fn ipv6(role: Role, has_ipv6: bool) -> Vec<(&'static str, &'static str)> {
    if !has_ipv6 {
        // Not even a link-local address, by which guests could reach the router.
        return vec![("disable_ipv6", "1")];
    }
    let forwarding = if role == Role::Control { "0" } else { "1" };
    vec![
        // Before IPv6 is switched on: addresses are CloudStack's, they need no proof.
        ("accept_dad", "0"),
        // Its routes are CloudStack's too.
        ("accept_ra", "0"),
        ("accept_redirects", "0"),
        ("disable_ipv6", "0"),
        ("forwarding", forwarding),
        // Removing the port's link for a moment must not lose its addresses.
        ("keep_addr_on_down", "1"),
        ("use_tempaddr", "0"),
    ]
}
