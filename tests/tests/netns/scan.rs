//! Port scans from every side of a router, through both hooks: they find what the rules open and nothing else.
//!
//! Behind every closed port that a test is about somebody listens, so that it is the rules that close it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use router_tests::clients;
use router_tests::lab::{Host, Lab};
use router_tests::nat::{FORWARDING, NatRouter, Rule, SOURCE_NAT, STATIC_NAT};
use router_tests::netns::{Namespace, wait_until};
use router_tests::router::{ISOLATED_COMMANDS, Router, TIER1, TIER2, Tier, VPC_COMMANDS, for_both_hooks};
use router_tests::rules::{firewall, firewall_rule, ipv6_firewall, ipv6_firewall_rule};
use router_tests::servers::{TcpEcho, UdpEcho};
use serde_json::{Value, json};

/// Where somebody listens, wherever a test has servers.
const LISTENING: [u16; 9] = [22, 53, 80, 443, 444, 445, 3922, 8000, 8080];
/// Ports that are scanned.
const SCANNED: &str = "1-100,440-449,3922,8000-8009,8080";
/// What a router is open for to guests.
const SERVICES: [u16; 4] = [53, 80, 443, 8080];
/// Those of them that the router has itself, on guest ports.
const SERVED: [u16; 3] = [53, 80, 8080];

fn listen(namespace: &Namespace) -> Result<Vec<TcpEcho>> {
    LISTENING.into_iter().map(|port| TcpEcho::start_in(namespace, port)).collect()
}

/// The same in the router, besides what it serves itself: guests at its addresses in their networks, and CloudStack
/// on the control network.
fn listen_as_router(lab: &Lab, others: &[IpAddr]) -> Result<Vec<TcpEcho>> {
    let is_served =
        || lab.router.run("ss", &["-Hltn", "sport", "=", ":53"]).is_ok_and(|found| !found.is_empty());
    wait_until("the router serves DNS", Duration::from_secs(30), is_served)?;
    let (own, free): (Vec<_>, Vec<_>) =
        LISTENING.into_iter().partition(|port| SERVED.contains(port) || *port == 3922);
    let at_others = others.iter().flat_map(|address| own.iter().map(|port| (*address, *port)));
    // Of IPv6 it serves guests DNS alone.
    let is_dns6 = |address: &IpAddr, port: u16| port == 53 && address.to_string().starts_with("fd17:");
    let at_others = at_others.filter(|(address, port)| !is_dns6(address, *port));
    let at_others = at_others.map(|(address, port)| TcpEcho::start_at(&lab.router, address, port));
    let anywhere = free.into_iter().map(|port| TcpEcho::start_in(&lab.router, port));
    anywhere.chain(at_others).collect()
}

/// A scan has to find these ports, by TCP.
fn finds(from: &Host, to: impl Into<IpAddr>, expected: &[u16]) -> Result<()> {
    let to = to.into();
    let found = clients::open_ports(from, to, SCANNED)?;
    assert_eq!(found, expected, "{to} from {}", from.name);
    Ok(())
}

/// A packet's way is found before it is scanned: nmap waits for no neighbour.
fn answers(from: &Host, to: impl Into<IpAddr>) -> Result<()> {
    let to = to.into();
    let pings = clients::ping(from, to, 3, Duration::from_millis(10))?;
    assert!(pings.received > 0, "{to} does not answer {}", from.name);
    Ok(())
}

fn tcp(first: u16, last: u16, cidr: &str, allowed: bool) -> Value {
    json!({ "type": "tcp", "first_port": first, "last_port": last, "cidr": cidr, "allowed": allowed })
}

fn pings(cidr: &str) -> Value {
    json!({ "type": "icmp", "icmp_type": -1, "icmp_code": -1, "cidr": cidr, "allowed": true })
}

fn everything(allowed: bool) -> Value {
    json!([{ "type": "all", "cidr": "0.0.0.0/0,::/0", "allowed": allowed }])
}

/// A tier that is open for these, and whose guests may begin whatever they like.
fn open_inward(router: &Router<'_>, tier: Tier, ingress: &[Value]) -> Result<()> {
    router.apply_acl(tier, &json!(ingress), &everything(true))
}

#[test]
fn from_outside_a_vpc_is_what_is_forwarded_and_opened_by_the_tiers_acl() -> Result<()> {
    for_both_hooks(&["dnsmasq", "nmap", "ping"], |attach| {
        let lab = Lab::vpc()?;
        let mut router = NatRouter::xvr(&lab, attach)?;
        let (web1, db1) = (lab.host("web1"), lab.host("db1"));
        let (far, neighbour) = (lab.host("far"), lab.host("neighbour"));
        let _servers =
            [&web1.namespace, &db1.namespace].map(listen).into_iter().collect::<Result<Vec<_>>>()?;
        let _router = listen_as_router(&lab, &[SOURCE_NAT, FORWARDING, STATIC_NAT].map(IpAddr::from))?;
        let udp = [3000, 3001, 3002].map(|port| UdpEcho::start_on(web1, port));
        let _udp = udp.into_iter().collect::<Result<Vec<_>>>()?;
        router.add(&[
            Rule::forward("tcp", 22, web1.v4, 22),
            Rule::forward("tcp", 80, web1.v4, 8080),
            Rule::forward_range("tcp", (8003, 8005), web1.v4, (443, 445)),
            Rule::forward_range("udp", (53, 54), web1.v4, (3000, 3001)),
            Rule::static_nat(db1.v4),
        ])?;
        let NatRouter::Xvr(router) = &router else { unreachable!("it is XVR") };
        let only_far = format!("{}/32", far.v4);
        let dns = json!({ "type": "udp", "first_port": 3000, "last_port": 3000, "cidr": "0.0.0.0/0", "allowed": true });
        let open3002 = json!({ "type": "udp", "first_port": 3002, "last_port": 3002, "cidr": "0.0.0.0/0", "allowed": true });
        open_inward(
            router,
            TIER1,
            &[
                tcp(444, 444, "0.0.0.0/0", false),
                tcp(443, 445, &only_far, true),
                tcp(8080, 8080, "0.0.0.0/0", true),
                // Opened, and not forwarded.
                tcp(53, 53, "0.0.0.0/0", true),
                dns,
                open3002,
            ],
        )?;
        open_inward(router, TIER2, &[tcp(22, 22, &only_far, true), tcp(444, 3922, "0.0.0.0/0", true)])?;

        answers(far, SOURCE_NAT)?;
        finds(far, FORWARDING, &[80, 8003, 8005])?;
        finds(neighbour, FORWARDING, &[80])?;
        finds(far, STATIC_NAT, &[22, 444, 445, 3922])?;
        finds(neighbour, STATIC_NAT, &[444, 445, 3922])?;
        finds(far, SOURCE_NAT, &[])?;
        assert_eq!(clients::open_udp_ports(far, FORWARDING.into(), "53-55,3000-3002")?, [53], "UDP");
        assert_eq!(clients::open_udp_ports(far, SOURCE_NAT.into(), "53,67,3000")?, [0; 0], "UDP");
        Ok(())
    })
}

#[test]
fn from_a_guest_a_vpcs_router_is_its_services() -> Result<()> {
    for_both_hooks(&["dnsmasq", "nmap", "ping"], |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
        let [tier1, tier2] = [Ipv4Addr::new(10, 10, 1, 1), Ipv4Addr::new(10, 10, 2, 1)];
        let (tier1_v6, public_v6): (IpAddr, IpAddr) =
            ("fd17:ac56:1234:10::1".parse()?, "2001:db8:100::1e00:a8ff:fe00:31".parse()?);
        let _servers = listen_as_router(&lab, &[SOURCE_NAT.into(), tier1_v6, public_v6])?;
        // Of the services that it is open for, those of another tier's address are for that tier's guests; but names
        // are the same for all.
        let closed = |ports: &[u16]| -> Vec<u16> {
            ports.iter().copied().filter(|port| *port == 53 || !SERVED.contains(port)).collect()
        };
        for own in [IpAddr::from(tier1), tier1_v6] {
            answers(web1, own)?;
            finds(web1, own, &SERVICES).context("its own tier's")?;
        }
        finds(web1, tier2, &closed(&SERVICES)).context("the other tier's")?;
        finds(web1, SOURCE_NAT, &SERVICES).context("the public one")?;
        // The other ways that the egress list is asked about.
        let list = json!([
            tcp(53, 80, "10.10.2.1/32", true),
            tcp(443, 443, "203.0.113.0/24", true),
            everything(false)[0].clone(),
        ]);
        router.apply_acl(TIER1, &everything(true), &list)?;
        finds(web1, tier1, &SERVICES).context("its own tier's, whatever the list says")?;
        finds(web1, tier2, &[53])?;
        finds(web1, SOURCE_NAT, &[443])?;
        finds(db1, tier1, &closed(&SERVICES)).context("by the second tier's list")?;
        // Who is outside has no way to them.
        finds(far, public_v6, &[])?;
        finds(far, tier1_v6, &[])
    })
}

#[test]
fn ipv6_of_a_vpc_is_what_rules_with_its_networks_open() -> Result<()> {
    for_both_hooks(&["dnsmasq", "nmap", "ping"], |attach| {
        let lab = Lab::vpc()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        let (web1, web2, db1) = (lab.host("web1"), lab.host("web2"), lab.host("db1"));
        let (far, neighbour) = (lab.host("far"), lab.host("neighbour"));
        let _servers = listen(&db1.namespace)?;
        let only_web1 = format!("{}/128", web1.v6);
        open_inward(
            &router,
            TIER2,
            &[
                pings("0.0.0.0/0,::/0"),
                tcp(444, 444, "fd17:ac56:1234::/48,0.0.0.0/0", false),
                tcp(443, 445, "fd17:ac56:1234::/48,2001:db8:200::/64", true),
                tcp(22, 22, &only_web1, true),
                tcp(8000, 8080, "::/0", true),
                // Of the other family.
                tcp(1, 65_535, "0.0.0.0/0", true),
            ],
        )?;
        for from in [web1, web2, far, neighbour] {
            answers(from, db1.v6)?;
        }
        finds(web1, db1.v6, &[22, 443, 445, 8000, 8080])?;
        finds(web2, db1.v6, &[443, 445, 8000, 8080])?;
        finds(far, db1.v6, &[443, 444, 445, 8000, 8080])?;
        finds(neighbour, db1.v6, &[8000, 8080])?;
        let all_but_444: Vec<u16> = LISTENING.into_iter().filter(|port| *port != 444).collect();
        finds(web1, db1.v4, &all_but_444)?;
        // The way out is asked about, too.
        let list = json!([tcp(440, 449, "fd17:ac56:1234:20::/64", true), pings("::/0")]);
        router.apply_acl(TIER1, &json!([]), &list)?;
        finds(web1, db1.v6, &[443, 445])?;
        finds(web1, db1.v4, &all_but_444).context("no rule is about IPv4, which passes then")
    })
}

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 14);

/// What CloudStack sends first about an isolated network that is closed outward.
const DEFAULT_DENY: &str = "cloudstack/firewall_rules/egress_system_default_deny.json";

fn forward(router: &Router<'_>, protocol: &str, port: u16, guest: &Host, to: u16) -> Result<()> {
    let range = |port: u16| format!("{port}:{port}");
    let message = json!({
        "rules": [{
            "revoke": false, "protocol": protocol,
            "source_ip_address": PUBLIC, "source_port_range": range(port),
            "destination_ip_address": guest.v4, "destination_port_range": range(to),
        }],
        "type": "forwardrules", "delete_from_processed_cache": false,
    });
    router.update_config_with("forwarding_rules", message.to_string().as_bytes())?.ok().map(drop)
}

#[test]
fn from_outside_an_isolated_network_is_what_is_forwarded_and_opened_by_its_firewall() -> Result<()> {
    for_both_hooks(&["dnsmasq", "nmap", "ping"], |attach| {
        let lab = Lab::isolated()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&[ISOLATED_COMMANDS[0], DEFAULT_DENY])?;
        let (vm1, vm2) = (lab.host("vm1"), lab.host("vm2"));
        let (far, neighbour) = (lab.host("far"), lab.host("neighbour"));
        let _servers = listen(&vm1.namespace)?;
        let _router = listen_as_router(&lab, &[PUBLIC.into()])?;
        let _udp = [UdpEcho::start_on(vm1, 3000)?, UdpEcho::start_on(vm1, 3001)?];
        finds(far, PUBLIC, &[]).context("before any rule")?;
        for (protocol, port, to) in [
            ("tcp", 22, 22),
            ("tcp", 80, 8000),
            ("tcp", 443, 443),
            ("tcp", 8001, 8080),
            ("udp", 53, 3000),
            ("udp", 54, 3001),
        ] {
            forward(&router, protocol, port, vm1, to)?;
        }
        finds(far, PUBLIC, &[]).context("forwarded, and not opened")?;
        let (ip, only_far) = (PUBLIC.to_string(), format!("{}/32", far.v4));
        firewall(
            &router,
            &[
                firewall_rule(1, &ip, "tcp", Some((80, 80)), &["0.0.0.0/0"], false),
                firewall_rule(2, &ip, "tcp", Some((443, 449)), &[&only_far, "10.1.1.0/24"], false),
                // Opened, and not forwarded: a guest finds the router's own service, who is outside nothing.
                firewall_rule(3, &ip, "tcp", Some((8000, 8080)), &["0.0.0.0/0"], false),
                firewall_rule(4, &ip, "udp", Some((53, 53)), &["0.0.0.0/0"], false),
                firewall_rule(5, &ip, "icmp", None, &["0.0.0.0/0"], false),
            ],
        )?;
        answers(far, PUBLIC)?;
        finds(far, PUBLIC, &[80, 443, 8001])?;
        finds(neighbour, PUBLIC, &[80, 8001])?;
        finds(vm2, PUBLIC, &[80, 443, 8001, 8080]).context("as guests see it")?;
        finds(vm2, Ipv4Addr::new(10, 1, 1, 1), &SERVICES).context("the router's own address")?;
        assert_eq!(clients::open_udp_ports(far, PUBLIC.into(), "53-55,3000-3001")?, [53], "UDP");

        let guests = "fd17:ac56:1234:20::/64";
        ipv6_firewall(
            &router,
            &[
                ipv6_firewall_rule(11, (443, 443), ("::/0", guests), false),
                ipv6_firewall_rule(12, (22, 22), ("2001:db8:200::/64", guests), false),
            ],
        )?;
        answers(vm1, "fd17:ac56:1234:20::1".parse::<IpAddr>()?)?;
        finds(far, vm1.v6, &[22, 443])?;
        finds(neighbour, vm1.v6, &[443])
    })
}

#[test]
fn outward_an_isolated_network_is_what_its_egress_rules_open() -> Result<()> {
    for_both_hooks(&["dnsmasq", "nmap", "ping"], |attach| {
        let lab = Lab::isolated()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&[ISOLATED_COMMANDS[0], DEFAULT_DENY, ISOLATED_COMMANDS[2]])?;
        let (vm1, vm2, far) = (lab.host("vm1"), lab.host("vm2"), lab.host("far"));
        let _servers = listen(&far.namespace)?;
        let _udp = [UdpEcho::start_on(far, 3000)?, UdpEcho::start_on(far, 3001)?];
        finds(vm1, far.v4, &[]).context("before any rule")?;
        let to_far = |mut rule: Value, destination: &str| {
            rule["dest_cidr_list"] = json!([destination]);
            rule
        };
        let only_vm1 = format!("{}/32", vm1.v4);
        firewall(
            &router,
            &[
                firewall_rule(1, "", "tcp", Some((80, 443)), &["10.1.1.0/24"], true),
                firewall_rule(2, "", "tcp", Some((22, 22)), &[&only_vm1], true),
                to_far(
                    firewall_rule(3, "", "tcp", Some((8000, 8000)), &["10.1.1.0/24"], true),
                    "198.51.100.0/24",
                ),
                to_far(
                    firewall_rule(4, "", "tcp", Some((8080, 8080)), &["10.1.1.0/24"], true),
                    "192.0.2.0/24",
                ),
                firewall_rule(5, "", "udp", Some((3000, 3000)), &["10.1.1.0/24"], true),
            ],
        )?;
        finds(vm1, far.v4, &[22, 80, 443, 8000])?;
        finds(vm2, far.v4, &[80, 443, 8000])?;
        assert_eq!(clients::open_udp_ports(vm1, far.v4.into(), "53,3000-3001")?, [3000], "UDP");

        // Of IPv6 everything may leave; rules are exceptions from that.
        let mut exception = ipv6_firewall_rule(11, (443, 445), ("fd17:ac56:1234:20::/64", "::/0"), true);
        exception["default_egress_policy"] = json!(true);
        ipv6_firewall(&router, &[exception])?;
        answers(vm1, far.v6)?;
        finds(vm1, far.v6, &[22, 53, 80, 3922, 8000, 8080])
    })
}
