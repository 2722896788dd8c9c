//! Reconciling: what is planned, in which order, that it converges, and what becomes of a system
//! when a step fails.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use anyhow::{Result, bail};
use ipnet::IpNet;
use router_common::config::RouterConfig;
use router_common::net::{Be16, Ipv4};
use router_common::port::{Port, Role};
use router_userspace::compile::nat::{NatEntry, NatKey};
use router_userspace::compile::{Attachment, Compiled, Front, KernelRoute, KernelTarget, Link};
use router_userspace::reconcile::{
    Backend, Change, Observed, ObservedAttachment, ObservedLink, Plan, Reconciler,
};

const GUEST: u32 = 2;
const PUBLIC: u32 = 4;

/// A system in memory that does what it is told, but for the steps that fail.
#[derive(Debug)]
struct Memory {
    system: Observed,
    applied: Vec<Change>,
    /// Which calls of `apply` fail, counted from 0.
    fails: fn(usize) -> bool,
    calls: usize,
}

impl Memory {
    fn new(fails: fn(usize) -> bool) -> Self {
        Self { system: bare(), applied: Vec::new(), fails, calls: 0 }
    }
}

impl Backend for Memory {
    async fn observe(&mut self, _desired: &Compiled) -> Result<Observed> {
        Ok(self.system.clone())
    }

    async fn apply(&mut self, change: &Change) -> Result<()> {
        let call = self.calls;
        self.calls += 1;
        if (self.fails)(call) {
            bail!("call {call} fails");
        }
        self.applied.push(change.clone());
        apply(&mut self.system, change.clone());
        Ok(())
    }
}

fn apply(system: &mut Observed, change: Change) {
    let links = &mut system.links;
    match change {
        Change::Guard => system.guarded = true,
        Change::Sysctl { path, to, .. } => drop(system.sysctls.insert(path, to)),
        Change::CountOwnTcp(nics) => {
            system.own_tcp = nics.into_iter().map(|(nic, mac)| (nic.ifindex, mac)).collect();
        }
        Change::Mtu(nic, mtu) => links.get_mut(&nic.ifindex).unwrap().mtu = mtu.into(),
        Change::Up(nic) => links.get_mut(&nic.ifindex).unwrap().up = true,
        Change::Down(nic) => links.get_mut(&nic.ifindex).unwrap().up = false,
        Change::AddAddress(nic, address) => links.get_mut(&nic.ifindex).unwrap().addresses.push(address),
        Change::RemoveAddress(nic, address) => {
            links.get_mut(&nic.ifindex).unwrap().addresses.retain(|own| *own != address);
        }
        Change::SetFlags(flags) => system.tables.flags = flags,
        Change::AddList(number, list) => drop(system.tables.lists.insert(number, list)),
        Change::RemoveList(number) => drop(system.tables.lists.remove(&number)),
        Change::SetFirewall(address, list) => drop(system.tables.firewalls.insert(address, list)),
        Change::RemoveFirewall(address) => drop(system.tables.firewalls.remove(&address)),
        Change::SetPortsPerGuest(limit) => system.tables.ports_per_guest = limit,
        Change::SetPort(nic, port) => drop(system.tables.ports.insert(nic.ifindex, port)),
        Change::RemovePort(nic) => drop(system.tables.ports.remove(&nic.ifindex)),
        Change::SetTags(nic, carrier) => drop(system.tables.tags.insert(nic.ifindex, carrier)),
        Change::RemoveTags(nic) => drop(system.tables.tags.remove(&nic.ifindex)),
        Change::SetTunnel(nic, vxlan) => drop(system.tables.tunnels.insert(nic.ifindex, vxlan)),
        Change::RemoveTunnel(nic) => drop(system.tables.tunnels.remove(&nic.ifindex)),
        Change::SetBridge(bridge, members) if members.is_empty() => {
            system.tables.bridges.remove(&bridge);
        }
        Change::SetBridge(bridge, members) => {
            let members = members.into_iter().map(|member| member.ifindex).collect();
            system.tables.bridges.insert(bridge, members);
        }
        Change::SetLocal(nic, std::net::IpAddr::V4(address)) => {
            system.tables.local4.insert(address, nic.ifindex);
        }
        Change::SetLocal(nic, std::net::IpAddr::V6(address)) => {
            system.tables.local6.insert(address, nic.ifindex);
        }
        Change::SetNat(key, entry) => drop(system.tables.nat.insert(key, entry)),
        Change::RemoveNat(key) => drop(system.tables.nat.remove(&key)),
        Change::RemoveLocal(std::net::IpAddr::V4(address)) => drop(system.tables.local4.remove(&address)),
        Change::RemoveLocal(std::net::IpAddr::V6(address)) => drop(system.tables.local6.remove(&address)),
        Change::Attach(nic, Attachment { front, .. }) => {
            system.attachments.insert(nic.ifindex, ObservedAttachment { front, asked: Some(front) });
        }
        Change::Detach(nic) => drop(system.attachments.remove(&nic.ifindex)),
        Change::AddRoute(_, route) => drop(system.routes.insert(route)),
        Change::ReplaceRoute(_, route) => {
            system.routes.retain(|old| old.destination != route.destination);
            system.routes.insert(route);
        }
        Change::RemoveRoute(_, route) => drop(system.routes.remove(&route)),
        Change::BumpGeneration => {}
    }
}

/// NICs that nobody has touched.
fn bare() -> Observed {
    let link = || ObservedLink { mtu: 1500, up: false, addresses: vec![] };
    Observed {
        names: BTreeMap::from([(GUEST, "eth0".to_owned()), (PUBLIC, "eth2".to_owned())]),
        links: BTreeMap::from([(GUEST, link()), (PUBLIC, link())]),
        sysctls: BTreeMap::from([("net/ipv4/ip_forward".to_owned(), "0".to_owned())]),
        ..Observed::default()
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn default_route(gateway: &str) -> KernelRoute {
    KernelRoute {
        destination: net("0.0.0.0/0"),
        target: KernelTarget::Gateway { address: gateway.parse().unwrap(), ifindex: PUBLIC },
        metric: 0,
    }
}

fn add_port(compiled: &mut Compiled, ifindex: u32, role: Role, addresses: &[&str]) {
    let addresses: Vec<IpNet> = addresses.iter().copied().map(net).collect();
    for address in &addresses {
        if let std::net::IpAddr::V4(address) = address.addr() {
            compiled.tables.local4.insert(address, ifindex);
        }
    }
    compiled.links.insert(ifindex, Link { mtu: Some(1400), up: true, addresses, shared: vec![] });
    let attachment = Attachment { front: Front::Nothing, may_fall_back: false, reason: "a test".to_owned() };
    compiled.attachments.insert(ifindex, attachment);
    let port = Port {
        slot: ifindex,
        mtu: 1400,
        source_nat: Ipv4::UNSPECIFIED,
        address: Ipv4::UNSPECIFIED,
        from_list: 0,
        to_list: 0,
        outside_list: 0,
        own_list: 0,
        router: 0,
        role: role as u8,
        flags: 0,
        mac: [0; 6],
        vxlan: Be16::default(),
        bridge: 0,
    };
    compiled.tables.ports.insert(ifindex, port);
}

fn router() -> Compiled {
    let mut compiled = Compiled {
        routes: BTreeSet::from([default_route("203.0.113.1")]),
        sysctls: BTreeMap::from([
            ("net/ipv4/conf/eth0/rp_filter".to_owned(), "1".to_owned()),
            ("net/ipv4/ip_forward".to_owned(), "1".to_owned()),
        ]),
        ..Compiled::default()
    };
    add_port(&mut compiled, GUEST, Role::Guest, &["10.1.1.1/24"]);
    add_port(&mut compiled, PUBLIC, Role::Public, &["203.0.113.10/24", "203.0.113.11/24"]);
    compiled
}

/// Runs a future that never waits for anything.
fn run<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the back end in memory never waits"),
    }
}

fn sentences(plan: &Plan) -> Vec<String> {
    plan.changes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_bare_system_is_set_up_in_order_and_a_second_run_changes_nothing() {
    let mut reconciler = Reconciler::new(Memory::new(|_| false));
    let plan = run(reconciler.plan(&router())).unwrap();
    assert_eq!(
        sentences(&plan),
        [
            "make Linux forward nothing by itself (nft table inet xvr)",
            "set net/ipv4/ip_forward to \"1\", it is \"0\"",
            "set net/ipv4/conf/eth0/rp_filter to \"1\"",
            "set the MTU of eth0 to 1400",
            "switch eth0 on",
            "add address 10.1.1.1/24 to eth0",
            "set the MTU of eth2 to 1400",
            "switch eth2 on",
            "add address 203.0.113.10/24 to eth2",
            "add address 203.0.113.11/24 to eth2",
            "set port eth0: guest, MTU 1400",
            "set port eth2: public, MTU 1400",
            "set 10.1.1.1 on eth0 as the router's own",
            "set 203.0.113.10 on eth2 as the router's own",
            "set 203.0.113.11 on eth2 as the router's own",
            "attach tc to eth0 (a test)",
            "attach tc to eth2 (a test)",
            "add route 0.0.0.0/0 by 203.0.113.1 via eth2",
            "make flows look up their way out again",
        ]
    );
    let converged = run(reconciler.converge(&router())).unwrap();
    assert_eq!(converged.changes, plan.changes);
    assert_eq!(run(reconciler.converge(&router())).unwrap().changes, []);
}

#[test]
fn what_is_not_wanted_any_more_goes_in_reverse_order() {
    let mut reconciler = Reconciler::new(Memory::new(|_| false));
    run(reconciler.converge(&router())).unwrap();
    let mut less = router();
    less.links.remove(&PUBLIC);
    less.attachments.remove(&PUBLIC);
    less.tables.ports.remove(&PUBLIC);
    less.tables.local4.retain(|_, ifindex| *ifindex != PUBLIC);
    less.routes.clear();
    let plan = run(reconciler.plan(&less)).unwrap();
    assert_eq!(
        sentences(&plan),
        [
            "remove route 0.0.0.0/0 by 203.0.113.1 via eth2",
            "detach the programs from eth2",
            "remove 203.0.113.11 from the router's own",
            "remove 203.0.113.10 from the router's own",
            "remove port eth2",
            "remove address 203.0.113.10/24 from eth2",
            "remove address 203.0.113.11/24 from eth2",
            "make flows look up their way out again",
        ]
    );
}

#[test]
fn a_route_to_another_gateway_takes_the_place_of_the_old_one() {
    let mut reconciler = Reconciler::new(Memory::new(|_| false));
    run(reconciler.converge(&router())).unwrap();
    let mut other = router();
    other.routes = BTreeSet::from([default_route("203.0.113.2")]);
    let plan = run(reconciler.plan(&other)).unwrap();
    assert_eq!(
        sentences(&plan),
        ["change route 0.0.0.0/0 by 203.0.113.2 via eth2", "make flows look up their way out again"]
    );
}

#[test]
fn a_route_to_nobody_needs_no_port() {
    let mut reconciler = Reconciler::new(Memory::new(|_| false));
    run(reconciler.converge(&router())).unwrap();
    let mut other = router();
    let nobody =
        KernelRoute { destination: net("10.0.0.0/8"), target: KernelTarget::Blackhole, metric: u32::MAX };
    other.routes.insert(nobody);
    let plan = run(reconciler.plan(&other)).unwrap();
    let again = "make flows look up their way out again";
    assert_eq!(sentences(&plan), ["add route 10.0.0.0/8 to nobody", again]);
    run(reconciler.converge(&other)).unwrap();
    let plan = run(reconciler.plan(&router())).unwrap();
    assert_eq!(sentences(&plan), ["remove route 10.0.0.0/8 to nobody", again]);
}

#[test]
fn what_the_operator_chose_is_planned_like_anything_else() {
    let mut reconciler = Reconciler::new(Memory::new(|_| false));
    run(reconciler.converge(&router())).unwrap();
    let mut chosen = router();
    chosen.tables.flags = RouterConfig::HAIRPIN_EXTERNAL;
    chosen.tables.ports_per_guest = 500;
    let untranslated = NatKey::Untranslated("10.0.0.0/8".parse().unwrap());
    chosen.tables.nat.insert(untranslated, NatEntry::Untranslated);
    chosen.tables.ports.get_mut(&GUEST).unwrap().flags |= Port::SYMMETRIC;
    let plan = run(reconciler.plan(&chosen)).unwrap();
    assert_eq!(
        sentences(&plan),
        [
            "set the hairpin source to external, filtering to address-and-port-dependent, helpers: FTP off, TFTP off",
            "let a guest have 500 external ports per protocol",
            "set port eth0: guest, MTU 1400, symmetric mapping",
            "set the source of guests towards 10.0.0.0/8 to their own",
            "make flows look up their way out again",
        ]
    );
    run(reconciler.converge(&chosen)).unwrap();
    assert_eq!(reconciler.backend.system.tables, chosen.tables);
    chosen.tables.nat.remove(&untranslated);
    let plan = run(reconciler.plan(&chosen)).unwrap();
    assert_eq!(sentences(&plan)[0], "translate the source of guests towards 10.0.0.0/8 again");
}

#[test]
fn the_first_address_of_a_subnet_becomes_its_primary_one() {
    let mut reconciler = Reconciler::new(Memory::new(|_| false));
    run(reconciler.converge(&router())).unwrap();
    let mut other = router();
    other.links.get_mut(&PUBLIC).unwrap().addresses = vec![net("203.0.113.12/24"), net("203.0.113.10/24")];
    let plan = run(reconciler.plan(&other)).unwrap();
    let addresses: Vec<String> =
        sentences(&plan).into_iter().filter(|sentence| sentence.contains(" address ")).collect();
    assert_eq!(
        addresses,
        [
            "add address 203.0.113.12/24 to eth2",
            "remove address 203.0.113.10/24 from eth2",
            "remove address 203.0.113.11/24 from eth2",
            "add address 203.0.113.10/24 to eth2",
        ]
    );
    run(reconciler.converge(&other)).unwrap();
    assert_eq!(reconciler.backend.system.links[&PUBLIC].addresses, other.links[&PUBLIC].addresses);
}

#[test]
fn programs_of_an_earlier_daemon_are_replaced_and_a_fallback_stands() {
    let mut system = bare();
    let mut desired = Compiled::default();
    add_port(&mut desired, GUEST, Role::Guest, &[]);
    let attachment = Attachment { front: Front::NativeXdp, may_fall_back: true, reason: String::new() };
    desired.attachments.insert(GUEST, attachment);
    let mut attaches = |front, asked| {
        system.attachments.insert(GUEST, ObservedAttachment { front, asked });
        let plan = Plan::between(&desired, &system);
        plan.changes.iter().any(|change| matches!(change, Change::Attach(..)))
    };
    assert!(attaches(Front::NativeXdp, None));
    assert!(!attaches(Front::NativeXdp, Some(Front::NativeXdp)));
    assert!(!attaches(Front::Nothing, Some(Front::NativeXdp)));
    assert!(attaches(Front::Nothing, Some(Front::Nothing)));
}

#[test]
fn the_program_for_several_buffers_is_there_before_a_larger_mtu_and_as_long_as_it() {
    let mut system = bare();
    let mut desired = Compiled::default();
    add_port(&mut desired, GUEST, Role::Guest, &[]);
    let mut steps = |front, mtu, now, asked| {
        let attachment = Attachment { front, may_fall_back: false, reason: String::new() };
        desired.attachments.insert(GUEST, attachment);
        desired.links.get_mut(&GUEST).unwrap().mtu = Some(mtu);
        system.attachments.insert(GUEST, ObservedAttachment { front: now, asked: Some(asked) });
        let plan = Plan::between(&desired, &system);
        let step = |change: &Change| match change {
            Change::Attach(..) => Some("attach"),
            Change::Mtu(..) => Some("MTU"),
            _ => None,
        };
        plan.changes.iter().filter_map(step).collect::<Vec<_>>()
    };
    let (one, several) = (Front::NativeXdp, Front::MultiBufferXdp);
    assert_eq!(steps(several, 9000, one, one), ["attach", "MTU"]);
    assert_eq!(steps(one, 1400, several, several), ["MTU", "attach"]);
    // The driver has refused the one and taken the other: so it stays.
    assert_eq!(steps(one, 1400, several, one), ["MTU"]);
    assert_eq!(steps(several, 9000, one, several), ["MTU"]);
}

#[test]
fn one_step_that_fails_once_is_made_up_for() {
    let changes = run(Reconciler::new(Memory::new(|_| false)).plan(&router())).unwrap().changes.len();
    for (step, fails) in FAIL_ONCE.into_iter().enumerate().take(changes) {
        let mut reconciler = Reconciler::new(Memory::new(fails));
        run(reconciler.converge(&router())).unwrap_or_else(|error| panic!("step {step}: {error:#}"));
        assert!(run(reconciler.plan(&router())).unwrap().is_empty());
    }
}

const FAIL_ONCE: [fn(usize) -> bool; 19] = [
    |n| n == 0,
    |n| n == 1,
    |n| n == 2,
    |n| n == 3,
    |n| n == 4,
    |n| n == 5,
    |n| n == 6,
    |n| n == 7,
    |n| n == 8,
    |n| n == 9,
    |n| n == 10,
    |n| n == 11,
    |n| n == 12,
    |n| n == 13,
    |n| n == 14,
    |n| n == 15,
    |n| n == 16,
    |n| n == 17,
    |n| n == 18,
];

/// What the system holds when it is converged to `previous`, and `next` cannot be had: `refuses`
/// says which changes never succeed.
struct Stubborn {
    memory: Memory,
    refuses: fn(&Change) -> bool,
}

impl Backend for Stubborn {
    async fn observe(&mut self, desired: &Compiled) -> Result<Observed> {
        self.memory.observe(desired).await
    }

    async fn apply(&mut self, change: &Change) -> Result<()> {
        if (self.refuses)(change) {
            bail!("refused");
        }
        self.memory.apply(change).await
    }
}

fn previous() -> Compiled {
    let mut compiled = router();
    compiled.links.remove(&GUEST);
    compiled.attachments.remove(&GUEST);
    compiled.tables.ports.remove(&GUEST);
    compiled.tables.local4.retain(|_, ifindex| *ifindex != GUEST);
    compiled.sysctls.remove("net/ipv4/conf/eth0/rp_filter");
    compiled
}

/// A router that holds [`previous`], with a NIC that is no port and has settings of its own.
fn with_previous(refuses: fn(&Change) -> bool) -> (Reconciler<Stubborn>, Observed) {
    let mut memory = Memory::new(|_| false);
    memory.system.sysctls.insert("net/ipv4/conf/eth0/rp_filter".to_owned(), "2".to_owned());
    memory.system.links.get_mut(&GUEST).unwrap().addresses.push(net("192.0.2.1/24"));
    memory.system.links.get_mut(&GUEST).unwrap().up = true;
    let mut reconciler = Reconciler::new(memory);
    run(reconciler.converge(&previous())).unwrap();
    let before = reconciler.backend.system.clone();
    (Reconciler::new(Stubborn { memory: reconciler.backend, refuses }), before)
}

#[test]
fn whatever_step_fails_for_good_everything_is_undone() {
    let refusals: [fn(&Change) -> bool; 6] = [
        |change| matches!(change, Change::Mtu(nic, 1400) if nic.ifindex == GUEST),
        |change| matches!(change, Change::AddAddress(_, address) if *address == net("10.1.1.1/24")),
        |change| matches!(change, Change::SetPort(nic, ..) if nic.ifindex == GUEST),
        |change| matches!(change, Change::SetLocal(nic, _) if nic.ifindex == GUEST),
        |change| matches!(change, Change::Attach(nic, _) if nic.ifindex == GUEST),
        |change| matches!(change, Change::Sysctl { to, .. } if to == "1"),
    ];
    for (index, refuses) in refusals.into_iter().enumerate() {
        let (mut reconciler, before) = with_previous(refuses);
        let commit = || panic!("nothing to commit");
        let refusal = run(reconciler.converge_or_restore(&router(), &previous(), commit)).unwrap_err();
        assert!(refusal.to_string().ends_with("the router is as it was before"), "{index}: {refusal}");
        assert_eq!(reconciler.backend.memory.system, before, "refusal {index}");
    }
}

#[test]
fn what_cannot_be_saved_is_undone() {
    let (mut reconciler, before) = with_previous(|_| false);
    let commit = || bail!("the disk is full");
    let refusal = run(reconciler.converge_or_restore(&router(), &previous(), commit)).unwrap_err();
    assert_eq!(refusal.to_string(), "the disk is full; the router is as it was before");
    assert_eq!(reconciler.backend.memory.system, before);
}

#[test]
fn when_undoing_fails_too_the_difference_is_told() {
    let (mut reconciler, _) = with_previous(|change| {
        matches!(change, Change::Attach(nic, _) | Change::Detach(nic) | Change::RemovePort(nic)
            if nic.ifindex == GUEST)
    });
    let refusal = run(reconciler.converge_or_restore(&router(), &previous(), || Ok(()))).unwrap_err();
    let text = refusal.to_string();
    assert!(text.contains("putting the router back failed too"), "{text}");
    assert!(text.contains("remove port eth0"), "{text}");
}

#[test]
fn what_stands_by_is_switched_off_and_shared_addresses_are_left_alone() {
    let mut reconciler = Reconciler::new(Memory::new(|_| false));
    run(reconciler.converge(&router())).unwrap();
    let mut backup = router();
    let public = backup.links.get_mut(&PUBLIC).unwrap();
    (public.up, public.addresses) = (false, vec![]);
    backup.routes.clear();
    backup.links.get_mut(&GUEST).unwrap().shared = vec![net("10.1.1.254/24")];
    let plan = run(reconciler.plan(&backup)).unwrap();
    assert_eq!(
        sentences(&plan),
        [
            "switch eth2 off",
            "remove route 0.0.0.0/0 by 203.0.113.1 via eth2",
            "remove address 203.0.113.11/24 from eth2",
            "remove address 203.0.113.10/24 from eth2",
            "make flows look up their way out again",
        ]
    );
    run(reconciler.converge(&backup)).unwrap();

    // It comes, even before the port's own.
    let held = &mut reconciler.backend.system.links.get_mut(&GUEST).unwrap().addresses;
    held.insert(0, net("10.1.1.254/24"));
    assert_eq!(sentences(&run(reconciler.plan(&backup)).unwrap()), Vec::<String>::new());
    // One that is shared no more may be given back, and is taken away in the end.
    backup.links.get_mut(&GUEST).unwrap().shared.clear();
    backup.lingering = BTreeSet::from([net("10.1.1.254/24")]);
    assert_eq!(sentences(&run(reconciler.plan(&backup)).unwrap()), Vec::<String>::new());
    backup.lingering.clear();
    let last = sentences(&run(reconciler.plan(&backup)).unwrap());
    assert_eq!(last[0], "remove address 10.1.1.254/24 from eth0");
    // Of a NIC that is no port any more, too.
    backup.links.remove(&GUEST);
    backup.lingering = BTreeSet::from([net("10.1.1.254/24")]);
    let gone = sentences(&run(reconciler.plan(&backup)).unwrap());
    assert!(gone.contains(&"remove address 10.1.1.1/24 from eth0".to_owned()), "{gone:?}");
    assert!(!gone.contains(&"remove address 10.1.1.254/24 from eth0".to_owned()), "{gone:?}");
}
