use std::net::IpAddr;
use std::sync::Arc;

use router_common::config::RouterConfig;
use router_common::nat::POOL_SLOTS;
use router_common::net::Be16;
use router_common::policy::NO_LIST;
use router_common::port::{Port as PortEntry, Role};
use router_common::tunnel::Tunnel;

use super::*;
use crate::model::policy::{AccessList, Action, Policy, Rule, Scope, Traffic};
use crate::model::settings::{
    ExhaustedPorts, Filtering, HairpinSource, Helpers, Mapping, NetworkSettings, UnsolicitedSyn,
};
use crate::model::trunk::{Kind, Tag, TagProtocol, TaggedPort, Trunk};
use crate::model::{Pair, Port, PortSelector, Route, RouteTarget, SharedAddress, SourceNat};

const PUBLIC: u32 = 4;
const GUEST: u32 = 2;
const CONTROL: u32 = 3;

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

pub(super) fn nic(ifindex: u32, name: &str, driver: &str) -> Nic {
    Nic {
        ifindex,
        name: name.to_owned(),
        mac: mac(u8::try_from(ifindex).unwrap()),
        mtu: 1500,
        up: false,
        driver: Driver::from_name(driver),
        takes_xdp_frames: Some(false),
        takes_multi_buffer: false,
        strips_tags: false,
        carrier: None,
    }
}

fn inventory() -> Inventory {
    Inventory {
        nics: vec![nic(GUEST, "ens2", "veth"), nic(CONTROL, "eth1", "veth"), nic(PUBLIC, "ens4", "veth")],
        ..Inventory::default()
    }
}

fn port(name: &str, selector: PortSelector, role: Role, addresses: &[&str]) -> Port {
    Port {
        name: name.to_owned(),
        selector,
        role,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        mtu: None,
        source_nat: SourceNat::Off,
    }
}

fn by_mac(ifindex: u32) -> PortSelector {
    PortSelector::Mac(mac(u8::try_from(ifindex).unwrap()))
}

fn route(destination: &str, gateway: &str) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        target: RouteTarget::Gateway(gateway.parse().unwrap()),
        metric: 0,
    }
}

/// An isolated network's router.
fn router() -> DesiredState {
    let mut public = port("eth2", by_mac(PUBLIC), Role::Public, &["203.0.113.10/24", "203.0.113.11/24"]);
    public.source_nat = SourceNat::To("203.0.113.10".parse().unwrap());
    DesiredState {
        ports: vec![
            port("eth0", by_mac(GUEST), Role::Guest, &["10.1.1.1/24", "2001:db8:1::1/64"]),
            port("eth1", PortSelector::Name("eth1".to_owned()), Role::Control, &["169.254.100.12/16"]),
            public,
        ],
        routes: vec![route("0.0.0.0/0", "203.0.113.1")],
        ..Default::default()
    }
}

fn compile_auto(desired: &DesiredState) -> Compiled {
    compile_with(desired, &Settings::default())
}

fn compile_with(desired: &DesiredState, settings: &Settings) -> Compiled {
    compile(desired, settings, &inventory(), AttachMode::Auto, RouterRole::Primary)
}

#[test]
fn a_router_is_compiled_whole() {
    let compiled = compile_auto(&router());
    assert_eq!(compiled.problems, []);
    assert_eq!(compiled.names[&PUBLIC], "eth2");
    assert_eq!(compiled.links[&GUEST].addresses.len(), 2);
    let entry: PortEntry = compiled.tables.ports[&PUBLIC];
    assert_eq!((entry.slot, entry.mtu, entry.role), (3, 1500, Role::Public as u8));
    assert_eq!(Ipv4Addr::from(entry.source_nat), Ipv4Addr::new(203, 0, 113, 10));
    assert_eq!((entry.mac, entry.flags), (mac(4).0, PortEntry::PARTIAL_CHECKSUMS));
    assert_eq!(compiled.tables.local4[&Ipv4Addr::new(203, 0, 113, 11)], PUBLIC);
    assert_eq!(compiled.tables.local6.len(), 1);
    let served = BTreeMap::from([(GUEST, vec!["10.1.1.1/24".parse().unwrap()])]);
    assert_eq!(compiled.guest_networks, served);
    let default = KernelRoute {
        metric: 0,
        destination: "0.0.0.0/0".parse().unwrap(),
        target: KernelTarget::Gateway { address: IpAddr::from([203, 0, 113, 1]), ifindex: PUBLIC },
    };
    assert_eq!(compiled.routes, BTreeSet::from([default]));
}

#[test]
fn kernel_settings_are_by_role_and_by_the_nics_name() {
    let sysctls = compile_auto(&router()).sysctls;
    for (path, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/ip_local_port_range", "64000 65023"),
        ("net/ipv4/conf/ens4/rp_filter", "0"),
        ("net/ipv4/conf/ens2/rp_filter", "1"),
        ("net/ipv4/conf/ens2/arp_ignore", "1"),
        ("net/ipv4/conf/ens2/accept_redirects", "0"),
        ("net/ipv4/conf/ens4/accept_redirects", "0"),
        ("net/ipv6/conf/ens2/accept_redirects", "0"),
        ("net/ipv4/conf/eth1/forwarding", "0"),
        ("net/ipv6/conf/ens2/disable_ipv6", "0"),
        ("net/ipv6/conf/ens2/forwarding", "1"),
        ("net/ipv6/conf/ens4/disable_ipv6", "1"),
    ] {
        assert_eq!(sysctls.get(path).map(String::as_str), Some(value), "{path}");
    }
}

#[test]
fn a_port_known_by_name_leaves_nics_to_ports_known_by_mac() {
    let desired = DesiredState {
        ports: vec![
            port("eth0", PortSelector::Name("ens4".to_owned()), Role::Guest, &[]),
            port("eth2", by_mac(PUBLIC), Role::Public, &[]),
        ],
        ..Default::default()
    };
    let compiled = compile_auto(&desired);
    assert_eq!(compiled.names, BTreeMap::from([(PUBLIC, "eth2".to_owned())]));
    assert_eq!(compiled.problems[0].to_string(), "port eth0: its NIC ens4 is already port eth2");
}

#[test]
fn what_cannot_be_is_left_out_and_named() {
    let mut desired = router();
    desired.ports.push(port("eth3", by_mac(9), Role::Guest, &["10.1.3.1/24"]));
    desired.routes.extend([
        route("10.9.0.0/16", "10.1.3.7"),
        route("10.8.0.0/16", "203.0.113.10"),
        route("10.1.1.0/24", "203.0.113.1"),
        route("0.0.0.0/0", "203.0.113.2"),
    ]);
    let compiled = compile_auto(&desired);
    let problems: Vec<String> = compiled.problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        problems,
        [
            "port eth3: there is no NIC with the MAC address 02:00:00:00:00:09",
            "route to 10.9.0.0/16: no port reaches the gateway 10.1.3.7",
            "route to 10.8.0.0/16: the gateway 203.0.113.10 is the router's own address, on port eth2",
            "route to 10.1.1.0/24: it is the network of port eth0",
            "route to 0.0.0.0/0: via 203.0.113.2 is left out, there is another via 203.0.113.1",
        ]
    );
    assert_eq!(compiled.routes.len(), 1);
}

#[test]
fn a_command_is_refused_for_its_own_problems_only() {
    let mut before = router();
    before.ports.push(port("eth3", by_mac(9), Role::Guest, &["10.1.3.1/24"]));
    let mut after = before.clone();
    after.routes.push(route("10.9.0.0/16", "203.0.113.7"));
    assert!(compile_auto(&after).refusals(&before, &after).is_empty());
    after.routes.push(route("10.8.0.0/16", "192.0.2.1"));
    let compiled = compile_auto(&after);
    let refusals = compiled.refusals(&before, &after);
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].to_string(), "route to 10.8.0.0/16: no port reaches the gateway 192.0.2.1");
}

#[test]
fn the_narrowest_network_reaches_a_gateway_and_a_named_port_overrides_it() {
    let desired = DesiredState {
        ports: vec![
            port("eth0", by_mac(GUEST), Role::Guest, &["10.0.0.1/8"]),
            port("eth2", by_mac(PUBLIC), Role::Public, &["10.1.1.2/24"]),
        ],
        routes: vec![
            route("192.0.2.0/24", "10.1.1.9"),
            Route {
                destination: "::/0".parse().unwrap(),
                target: RouteTarget::GatewayOnPort("fe80::1".parse().unwrap(), "eth0".to_owned()),
                metric: 0,
            },
        ],
        ..Default::default()
    };
    let compiled = compile_auto(&desired);
    let ways: Vec<u32> = compiled.routes.iter().filter_map(KernelRoute::ifindex).collect();
    assert_eq!(ways, [PUBLIC, GUEST]);
}

#[test]
fn counters_stay_with_their_port() {
    let slot = |names: &[&str], wanted: &str| {
        let ports: Vec<Port> = names
            .iter()
            .zip([GUEST, CONTROL, PUBLIC])
            .map(|(name, ifindex)| port(name, by_mac(ifindex), Role::Guest, &[]))
            .collect();
        let compiled = compile_auto(&DesiredState { ports, ..Default::default() });
        let ifindex = compiled.names.iter().find(|(_, name)| *name == wanted).unwrap().0;
        compiled.tables.ports[ifindex].slot
    };
    assert_eq!(slot(&["eth0", "eth1", "eth7"], "eth7"), 8);
    assert_eq!(slot(&["eth7"], "eth7"), 8);
    assert_eq!(slot(&["eth0", "eth999", "wan"], "eth999"), 255);
    assert_eq!(slot(&["eth0", "eth999", "wan"], "wan"), 254);
}

#[test]
fn the_operators_choices_are_bits() {
    assert_eq!(compile_auto(&router()).tables.flags, RouterConfig::FTP | RouterConfig::TFTP);
    let settings = Settings {
        hairpin_source: HairpinSource::External,
        filtering: Filtering::EndpointIndependent,
        unsolicited_syn: UnsolicitedSyn::Answered,
        exhausted_ports: ExhaustedPorts::Refused,
        helpers: Helpers::NONE,
        ..Settings::default()
    };
    let flags = compile_with(&router(), &settings).tables.flags;
    let chosen = RouterConfig::HAIRPIN_EXTERNAL | RouterConfig::OPEN_BINDINGS | RouterConfig::ANSWER_SYNS;
    assert_eq!(flags, chosen | RouterConfig::REFUSE_EXHAUSTED);
    let networks = ["10.0.0.0/8", "192.0.2.9/32"].map(|text| text.parse().unwrap());
    let tables =
        compile_with(&router(), &Settings { untranslated: networks.into(), ..Settings::default() }).tables;
    assert_ne!(tables.flags & RouterConfig::UNTRANSLATED, 0);
    for network in networks {
        assert_eq!(tables.nat[&nat::NatKey::Untranslated(network)], nat::NatEntry::Untranslated);
    }
    let limited = Settings { ports_per_guest: std::num::NonZeroU16::new(7), ..Settings::default() };
    assert_eq!(compile_with(&router(), &limited).tables.ports_per_guest, 7);
    assert_eq!(compile_auto(&router()).tables.ports_per_guest, 0);
}

#[test]
fn the_narrowest_network_says_how_guests_are_mapped() {
    use Mapping::{EndpointIndependent, Symmetric};
    let is_symmetric = |networks: &[(&str, Mapping)]| {
        let of = |(text, mapping): &(&str, Mapping)| {
            (text.parse().unwrap(), NetworkSettings { mapping: *mapping })
        };
        let settings = Settings { networks: networks.iter().map(of).collect(), ..Settings::default() };
        let compiled = compile_with(&router(), &settings);
        assert_eq!(compiled.problems, []);
        assert_eq!(compiled.tables.ports[&PUBLIC].flags & PortEntry::SYMMETRIC, 0);
        compiled.tables.ports[&GUEST].flags & PortEntry::SYMMETRIC != 0
    };
    assert!(!is_symmetric(&[]));
    assert!(is_symmetric(&[("10.1.1.0/24", Symmetric)]));
    assert!(is_symmetric(&[("10.0.0.0/8", Symmetric)]));
    assert!(!is_symmetric(&[("10.0.0.0/8", Symmetric), ("10.1.1.0/24", EndpointIndependent)]));
    assert!(is_symmetric(&[("10.0.0.0/8", EndpointIndependent), ("10.1.1.0/24", Symmetric)]));
}

#[test]
fn a_network_that_no_guest_port_has_is_a_problem_but_no_commands() {
    let chosen = NetworkSettings { mapping: Mapping::Symmetric };
    // The second one is the public port's.
    let networks = ["10.1.9.0/24", "203.0.113.0/24"].map(|text| (text.parse().unwrap(), chosen));
    let settings = Settings { networks: networks.into(), ..Settings::default() };
    let compiled = compile_with(&router(), &settings);
    let problems: Vec<String> = compiled.problems.iter().map(ToString::to_string).collect();
    let said = |network| format!("network {network} of the settings: no guest port has an address in it");
    assert_eq!(problems, ["10.1.9.0/24", "203.0.113.0/24"].map(said));
    assert!(compiled.refusals(&DesiredState::default(), &router()).is_empty());
}

#[test]
fn new_flows_are_judged_otherwise_by_another_list_or_elsewhere() {
    let list = |id, default| {
        let rule = Rule::new(id, Action::Allow, Traffic::Tcp(None), vec![], vec![]);
        Arc::new(AccessList::new(vec![Arc::new(rule)], default))
    };
    type Lists = [(Scope, Arc<AccessList>)];
    let of = |lists: &Lists, settings: &Settings| {
        let desired =
            DesiredState { policy: Policy { lists: lists.to_vec(), ..Policy::default() }, ..router() };
        compile_with(&desired, settings).tables.jurisdiction()
    };
    let (guest, public) = (by_mac(GUEST), by_mac(PUBLIC));
    let address = Scope::PublicAddress("203.0.113.2".parse().unwrap());
    let (open, closed) = (list(1, Action::Allow), list(1, Action::Deny));
    let before = [(Scope::To(guest.clone()), Arc::clone(&open)), (address.clone(), Arc::clone(&open))];
    let judged = of(&before, &Settings::default());
    let moved = |change: &dyn Fn(&mut Lists)| {
        let mut lists = before.clone();
        change(&mut lists);
        of(&lists, &Settings::default()) != judged
    };
    assert!(!moved(&|_| {}));
    assert!(!moved(&|lists| lists.reverse()));
    assert!(!moved(&|lists| lists[0].1 = list(1, Action::Allow)), "the same, written anew");
    assert!(moved(&|lists| lists[0].1 = Arc::clone(&closed)));
    assert!(moved(&|lists| lists[1].1 = Arc::clone(&closed)));
    assert!(moved(&|lists| lists[0].0 = Scope::From(guest.clone())));
    assert!(moved(&|lists| lists[0].0 = Scope::To(public.clone())));
    let more = [&before[..], &[(Scope::Outside(guest), open)]].concat();
    for other in [&more, &before[..1]] {
        assert_ne!(of(other, &Settings::default()), judged);
    }
    // What is chosen besides changes nothing about it.
    let settings = Settings { hairpin_source: HairpinSource::External, ..Settings::default() };
    assert_eq!(of(&before, &settings), judged);
}

#[test]
fn a_router_of_a_pair_is_ready_and_silent_until_it_is_primary() {
    let address: IpNet = "10.1.1.254/24".parse().unwrap();
    let pair = Pair {
        shared: vec![SharedAddress { port: "eth0".to_owned(), address }],
        password: "secret".to_owned(),
        interval: std::num::NonZeroU8::MIN,
    };
    let desired = DesiredState { pair: Some(pair), ..router() };
    let of = |role| compile(&desired, &Settings::default(), &inventory(), AttachMode::Auto, role);
    let alone = compile_auto(&router());
    let gateway = Ipv4Addr::new(10, 1, 1, 254);

    let primary = of(RouterRole::Primary);
    assert!(primary.serves && primary.links.values().all(|link| link.up));
    assert_eq!(primary.links[&PUBLIC], alone.links[&PUBLIC]);
    assert_eq!(
        primary.links[&GUEST].addresses, alone.links[&GUEST].addresses,
        "the shared one is not ours to give"
    );
    assert_eq!(primary.links[&GUEST].shared, [address]);
    assert_eq!(primary.routes, alone.routes);
    assert_eq!(primary.tables.local4[&gateway], GUEST);
    assert_eq!(Ipv4Addr::from(primary.tables.ports[&GUEST].address), gateway);
    let served: Vec<Ipv4Net> = ["10.1.1.1/24", "10.1.1.254/24"].map(|net| net.parse().unwrap()).into();
    assert_eq!(primary.guest_networks[&GUEST], served);

    for (role, shared) in
        [(RouterRole::Backup, vec![address]), (RouterRole::Fault, vec![]), (RouterRole::Unknown, vec![])]
    {
        let other = of(role);
        assert!(!other.serves && !other.links[&PUBLIC].up && other.links[&GUEST].up);
        assert_eq!(other.links[&PUBLIC].addresses, []);
        assert_eq!(other.links[&GUEST].addresses, alone.links[&GUEST].addresses);
        assert_eq!(other.links[&GUEST].shared, shared, "{role}");
        assert!(other.routes.is_empty() && !other.tables.local4.contains_key(&gateway));
        let mut ready = primary.tables.clone();
        ready.local4.remove(&gateway);
        assert_eq!(other.tables, ready, "all else is as the primary has it");
        assert_eq!(other.attachments, primary.attachments);
    }
}

#[test]
fn a_tagged_port_has_the_hook_of_its_trunk_and_its_tags() {
    const TRUNK: u32 = 20;
    const TAGGED: u32 = 21;
    let carrier = Carrier {
        trunk: TRUNK,
        outer_protocol: 0x8100,
        outer: 100,
        inner_protocol: 0,
        inner: 0,
        priority: Carrier::KEEP_PRIORITY,
    };
    for (driver, strips_tags, front) in [
        ("mlx5_core", false, Front::NativeXdp),
        ("mlx5_core", true, Front::Nothing),
        ("veth", false, Front::Nothing),
    ] {
        let mut inventory = inventory();
        inventory.nics.push(Nic { takes_xdp_frames: Some(true), strips_tags, ..nic(TRUNK, "ens9", driver) });
        inventory.nics.push(Nic { carrier: Some(carrier), ..nic(TAGGED, "eth9", "") });
        let mut desired = router();
        let selector = PortSelector::Name("eth9".to_owned());
        desired.ports.push(port("eth9", selector, Role::Guest, &["10.1.9.1/24"]));
        let compiled =
            compile(&desired, &Settings::default(), &inventory, AttachMode::Auto, RouterRole::Unknown);
        assert_eq!(compiled.problems, []);
        assert_eq!(compiled.attachments[&TRUNK].front, front);
        assert!(!compiled.attachments.contains_key(&TAGGED));
        assert_eq!(compiled.tables.tags, BTreeMap::from([(TAGGED, carrier)]));
        let flags = compiled.tables.ports[&TAGGED].flags;
        assert_eq!(
            flags & (PortEntry::TAGGED | PortEntry::XDP_TARGET),
            PortEntry::TAGGED | PortEntry::XDP_TARGET
        );
        assert!(!compiled.tables.ports.contains_key(&TRUNK), "it is no port itself");
    }
}

#[test]
fn a_vxlan_network_has_the_hook_of_its_underlay_and_leaves_room_for_headers() {
    const UNDERLAY: u32 = 20;
    const NETWORK: u32 = 21;
    let udp_port = Be16::new(4789);
    let local = Ipv4Addr::new(192, 0, 2, 1);
    let tunnel =
        Tunnel { underlay: UNDERLAY, local: local.into(), vni: 7, remotes: 1, udp_port, pad: [0; 2] };
    let vxlan = Vxlan { tunnel, remotes: vec![Ipv4Addr::new(192, 0, 2, 2)] };
    let mut inventory = inventory();
    inventory.nics.push(Nic { takes_xdp_frames: Some(true), ..nic(UNDERLAY, "ens9", "mlx5_core") });
    inventory.nics.push(Nic { carrier: Some(Carrier::tunnel(UNDERLAY)), ..nic(NETWORK, "eth9", "") });
    inventory.tunnels.insert(NETWORK, vxlan.clone());
    let mut desired = router();
    let selector = PortSelector::Name("eth9".to_owned());
    desired.ports.push(Port { mtu: Some(1500), ..port("eth9", selector, Role::Guest, &["10.1.9.1/24"]) });
    // The underlay may be a port as well.
    let selector = PortSelector::Name("ens9".to_owned());
    desired.ports.push(port("ens9", selector, Role::Guest, &["192.0.2.1/24"]));
    let compiled = compile(&desired, &Settings::default(), &inventory, AttachMode::Auto, RouterRole::Unknown);
    assert_eq!(compiled.problems, []);
    assert_eq!(compiled.attachments[&UNDERLAY].front, Front::NativeXdp);
    assert!(!compiled.attachments.contains_key(&NETWORK));
    assert_eq!(compiled.tables.tunnels, BTreeMap::from([(NETWORK, vxlan)]));
    assert!(compiled.tables.tags[&NETWORK].is_tunnel());
    let mtu = inventory.by_index(UNDERLAY).unwrap().mtu - 50;
    assert_eq!(compiled.tables.ports[&NETWORK].mtu, mtu);
    assert_eq!(compiled.links[&NETWORK].mtu.map(u32::from), Some(mtu));
    let ports = [NETWORK, UNDERLAY].map(|ifindex| compiled.tables.ports[&ifindex].vxlan);
    assert_eq!(ports, [Be16::default(), udp_port]);
}

#[test]
fn ports_on_a_bridge_are_never_routed_and_wait_while_another_router_serves() {
    const TRUNK: u32 = 20;
    let tags =
        |id| Kind::Tags { outer: Tag { protocol: TagProtocol::Customer, id }, inner: None, priority: None };
    let declared = |ifindex: u32, bridge: Option<&str>| TaggedPort {
        name: format!("eth{ifindex}"),
        mac: mac(u8::try_from(ifindex).unwrap()),
        trunk: Trunk::Name("ens9".to_owned()),
        kind: tags(u16::try_from(ifindex).unwrap()),
        mtu: None,
        bridge: bridge.map(str::to_owned),
    };
    let tagged_ports = vec![
        declared(24, Some("blue")),
        declared(21, Some("red")),
        declared(22, None),
        declared(23, Some("blue")),
        declared(25, Some("red")),
        // Not there.
        declared(26, Some("red")),
    ];
    let settings = Settings { tagged_ports, ..Settings::default() };
    let mut inventory = inventory();
    inventory.nics.push(nic(TRUNK, "ens9", "mlx5_core"));
    for ifindex in 21..26 {
        let outer = u16::try_from(ifindex).unwrap();
        let carrier = Carrier { outer_protocol: 0x8100, outer, ..Carrier::tunnel(TRUNK) };
        inventory.nics.push(Nic { carrier: Some(carrier), ..nic(ifindex, &format!("eth{ifindex}"), "") });
    }
    let of = |desired: &DesiredState, role| compile(desired, &settings, &inventory, AttachMode::Auto, role);
    let compiled = of(&router(), RouterRole::Unknown);
    assert_eq!(compiled.tables.bridges, BTreeMap::from([(21, vec![21, 25]), (23, vec![23, 24])]));
    for ifindex in [21, 23, 24, 25] {
        let port = &compiled.tables.ports[&ifindex];
        assert_eq!((port.role, port.own_list), (Role::Bridged as u8, NO_LIST));
        assert_eq!(port.bridge, if ifindex % 4 == 1 { 21 } else { 23 });
        assert!(compiled.links[&ifindex].up && compiled.links[&ifindex].addresses.is_empty());
        // The kernel says nothing there.
        assert_eq!(compiled.sysctls[&format!("net/ipv6/conf/eth{ifindex}/disable_ipv6")], "1");
    }
    assert!(!compiled.tables.ports.contains_key(&22), "nobody has said what it is");
    let absent = "port eth26: there is no NIC with the MAC address 02:00:00:00:00:1a";
    assert_eq!(compiled.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [absent]);

    // CloudStack's words about one of them come too late.
    let mut desired = router();
    desired.ports.push(port("eth3", by_mac(23), Role::Guest, &["10.1.9.1/24"]));
    let problems = of(&desired, RouterRole::Unknown).problems;
    let sentence = "port eth3: its NIC eth23 is on a bridge (ports.json)";
    assert!(problems.iter().any(|problem| problem.to_string() == sentence), "{problems:?}");

    let pair = Pair { shared: vec![], password: "secret".to_owned(), interval: std::num::NonZeroU8::MIN };
    let desired = DesiredState { pair: Some(pair), ..router() };
    assert_eq!(of(&desired, RouterRole::Primary).tables.bridges.len(), 2);
    let waiting = of(&desired, RouterRole::Backup);
    assert!(waiting.tables.bridges.is_empty());
    assert!(waiting.tables.ports.values().all(|port| port.bridge == 0));
}

#[test]
fn a_port_with_source_nat_has_a_row_that_has_pools() {
    let mut ports: Vec<Port> = (1..=400)
        .map(|number| port(&format!("eth{number}"), PortSelector::Name(String::new()), Role::Guest, &[]))
        .collect();
    ports[350].source_nat = SourceNat::To(Ipv4Addr::new(203, 0, 113, 1));
    let slots = port::slots(&ports, 512);
    assert_eq!(slots.len(), 400);
    assert_eq!(slots["eth300"], 301);
    assert!(slots["eth351"] < POOL_SLOTS, "{}", slots["eth351"]);
    assert_eq!(slots.values().collect::<BTreeSet<_>>().len(), 400, "no two have one");
}
