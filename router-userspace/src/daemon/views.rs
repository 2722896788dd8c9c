//! What the daemon tells about itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use router_common::account::{Hook, Traffic};
use router_common::net::Ipv4;
use router_common::policy::{NO_LIST, RuleCount};
use router_common::port::{Carrier, Port, Role};

use super::control::Control;
use super::redundancy;
use crate::cloudstack::{self, notices, remarks};
use crate::compile::Vxlan;
use crate::compile::{KernelTarget, Nic};
use crate::dataplane::{CounterRow, FlowRecord, Outcome, monotonic_now};
use crate::error::ConfigError;
use crate::model::policy::{Content, Scope};
use crate::model::{DesiredState, PortRange, PortSelector};
use crate::reconcile::guard;
use crate::services::ServiceState;
use crate::show::{
    Count, CounterView, FlowView, ListView, NatView, PortForwardView, PortView, RestView, RouteView,
    RuleView, ServiceView, SourceNatView, StaticNatView, StatusView, TagsView, VxlanView,
};
use crate::trunks;

/// How the daemon is.
pub fn status(control: &mut Control) -> StatusView {
    let policy = control.reconciler.backend.programs.tables().policy_use();
    let guard = guard::observe().ok().flatten();
    let problems = problems(control);
    let evictions = control.reconciler.backend.programs.evictions();
    StatusView {
        state: if problems.is_empty() { "running" } else { "degraded" }.to_owned(),
        booted: control.is_booted(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        root: control.root().path().display().to_string(),
        attach: control.options.attach.label().to_owned(),
        uptime_seconds: control.started.elapsed().as_secs(),
        ready_milliseconds: u64::try_from(control.ready_after.as_millis()).unwrap_or(u64::MAX),
        adopted: control.reconciler.backend.programs.adopted(),
        pins: control.reconciler.backend.programs.pin_dir().display().to_string(),
        role: control
            .memory
            .known()
            .is_ok_and(|desired| desired.pair.is_some())
            .then(|| redundancy::role(control)),
        ports: control.compiled.links.len(),
        guard: guard.map(|refused| Count { packets: refused.packets, bytes: refused.bytes }),
        flow_table_permille: control.reconciler.backend.programs.fullness().ok(),
        flow_room: control.reconciler.backend.programs.flow_room().ok(),
        evicted_flows: evictions.flows,
        evicted_seconds_ago: (evictions.flows > 0)
            .then(|| monotonic_now().saturating_sub(evictions.last) / 1_000_000_000),
        cut_flows: control.reconciler.backend.programs.cut_flows(),
        policy_rules: policy.rules,
        policy_permille: policy.permille(),
        services: services(control),
        http: control.http.view(),
        problems,
        notices: said(control),
    }
}

fn services(control: &Control) -> Vec<ServiceView> {
    let states = control.supervisor.states().into_iter();
    let view = |(name, state): (&str, ServiceState)| ServiceView {
        name: name.to_owned(),
        pid: state.pid,
        restarts: state.restarts,
        about: state.about.map(str::to_owned),
    };
    states.map(view).collect()
}

/// What an operator may want to know although nothing is wrong.
fn said(control: &Control) -> Vec<String> {
    let bags = &control.memory.bags;
    let remarks = remarks(bags).unwrap_or_default();
    remarks.iter().chain(&control.unserved(&control.memory)).map(ToString::to_string).collect()
}

fn problems(control: &Control) -> Vec<String> {
    let mut problems: Vec<String> = control.compiled.problems.iter().map(ToString::to_string).collect();
    problems.extend(control.inventory.problems.iter().map(|problem| format!("{}: {problem}", trunks::NAME)));
    problems.extend(control.trouble.clone());
    problems.extend(control.http.problems());
    let refused = |damage: &ConfigError| format!("{damage}: the settings in the file are not in force");
    problems.extend(control.settings_damage.as_ref().map(refused));
    for (name, state) in control.supervisor.states() {
        problems.extend(state.trouble.map(|trouble| format!("{name}: {trouble}")));
    }
    if control.reconciler.backend.programs.usage_is_full() {
        problems.push(
            "usage: all accounts are taken, what else passes is counted together and not billed".to_owned(),
        );
    }
    let bags = &control.memory.bags;
    match notices(bags) {
        Ok(notices) => problems.extend(notices.iter().map(ToString::to_string)),
        Err(damage) => problems.push(format!(
            "{damage}: what is forwarded stays as it is, and messages about it are refused, until this is repaired"
        )),
    }
    if let Ok(desired) = control.memory.known() {
        problems.extend(cloudstack::services(bags, desired).1.iter().map(ToString::to_string));
    }
    let told = bags.forwarding_damage();
    let others = bags.damage().filter(|damage| Some(*damage) != told);
    problems.extend(
        others.map(|damage| format!("{damage}: messages that change it are refused until this is repaired")),
    );
    problems
}

/// The ports in force.
pub fn ports(control: &mut Control) -> Result<Vec<PortView>> {
    let tables = control.reconciler.backend.programs.tables().observe()?;
    let fronts = control.reconciler.backend.programs.observe_attachments()?;
    let mut counters: BTreeMap<u32, Vec<CounterRow>> = BTreeMap::new();
    for row in control.reconciler.backend.programs.counters(control.inventory.port_rows)? {
        counters.entry(row.slot).or_default().push(row);
    }
    let mut views = Vec::new();
    for (ifindex, port) in &tables.ports {
        let Names { name, nic } = names(control, *ifindex);
        let link = control.compiled.links.get(ifindex);
        // Those that come with the role only where it is the one that has them.
        let shared = link.filter(|_| control.compiled.serves).map(|link| link.shared.as_slice());
        let addresses = link.map(|link| link.addresses.as_slice()).into_iter().chain(shared).flatten();
        let carrier = tables.tags.get(ifindex);
        let wire = carrier.map_or(*ifindex, |carrier| carrier.trunk);
        let attached = control.reconciler.backend.attached(wire);
        let mut view = PortView {
            name,
            nic: nic.map_or_else(String::new, |nic| nic.name.clone()),
            ifindex: *ifindex,
            mac: crate::model::Mac(port.mac).to_string(),
            role: role(port.role).to_owned(),
            addresses: addresses.map(ToString::to_string).collect(),
            mtu: port.mtu,
            source_nat: (port.source_nat != Ipv4::UNSPECIFIED).then(|| port.source_nat.to_string()),
            tags: carrier.filter(|carrier| !carrier.is_tunnel()).map(|carrier| tags(control, carrier)),
            vxlan: tables.tunnels.get(ifindex).map(|vxlan| tunnel(control, vxlan)),
            attach: fronts.get(&wire).map_or_else(|| "nothing".to_owned(), ToString::to_string),
            reason: attached.map_or("an earlier daemon attached it", |attached| &attached.reason).to_owned(),
            xdp_target: port.flags & Port::XDP_TARGET != 0,
            forwarded_by_xdp: Count::default(),
            forwarded_by_tc: Count::default(),
            dropped: Count::default(),
            punted: Count::default(),
            deferred: Count::default(),
        };
        for row in counters.get(&port.slot).into_iter().flatten() {
            let counter = match (row.outcome, row.hook) {
                (Outcome::Forwarded, Hook::Xdp) => &mut view.forwarded_by_xdp,
                (Outcome::Forwarded, Hook::Tc) => &mut view.forwarded_by_tc,
                (Outcome::Dropped(_), _) => &mut view.dropped,
                (Outcome::Punted(_), _) => &mut view.punted,
                (Outcome::Deferred(_), _) => &mut view.deferred,
            };
            *counter += count(row.traffic);
        }
        views.push(view);
    }
    views.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
    Ok(views)
}

fn nic_name(control: &Control, ifindex: u32) -> String {
    control.inventory.by_index(ifindex).map_or_else(String::new, |nic| nic.name.clone())
}

fn tunnel(control: &Control, Vxlan { tunnel, remotes }: &Vxlan) -> VxlanView {
    VxlanView {
        underlay: nic_name(control, tunnel.underlay),
        vni: tunnel.vni,
        local: tunnel.local.to_string(),
        udp_port: tunnel.udp_port.get(),
        remotes: remotes.iter().map(ToString::to_string).collect(),
    }
}

fn tags(control: &Control, carrier: &Carrier) -> TagsView {
    TagsView {
        trunk: nic_name(control, carrier.trunk),
        vlan: carrier.outer,
        inner_vlan: (carrier.inner != 0).then_some(carrier.inner),
    }
}

/// The flows the router knows, the latest used first.
pub fn flows(control: &Control) -> Result<Vec<FlowView>> {
    let mut records = control.reconciler.backend.programs.flows()?;
    records.sort_by_key(|record| std::cmp::Reverse(record.last_seen));
    let now = monotonic_now();
    Ok(records.iter().map(|record| flow(control, record, now)).collect())
}

fn flow(control: &Control, record: &FlowRecord, now: u64) -> FlowView {
    let seconds = |instant: u64| Duration::from_nanos(now.saturating_sub(instant)).as_secs();
    let end = |(address, port): (std::net::IpAddr, u16)| std::net::SocketAddr::new(address, port).to_string();
    FlowView {
        protocol: protocol(record.protocol),
        source: end(record.src),
        destination: end(record.dst),
        translated: record.translated_src.map(end),
        ingress: names(control, record.ingress).name,
        egress: if record.egress == 0 { "-".to_owned() } else { names(control, record.egress).name },
        original: count(record.original),
        reply: count(record.reply),
        age_seconds: seconds(record.opened),
        idle_seconds: seconds(record.last_seen),
    }
}

/// What was not forwarded, and why.
pub fn drops(control: &mut Control) -> Result<Vec<CounterView>> {
    let ports = control.reconciler.backend.programs.tables().observe()?.ports;
    let slots: BTreeMap<u32, u32> = ports.iter().map(|(ifindex, port)| (port.slot, *ifindex)).collect();
    let mut views = Vec::new();
    for row in control.reconciler.backend.programs.counters(control.inventory.port_rows)? {
        let (outcome, reason) = match row.outcome {
            Outcome::Forwarded => continue,
            Outcome::Dropped(reason) => ("dropped", reason.label()),
            Outcome::Punted(reason) => ("punted", reason.label()),
            Outcome::Deferred(reason) => ("deferred", reason.label()),
        };
        let port =
            slots.get(&row.slot).map_or_else(|| "-".to_owned(), |ifindex| names(control, *ifindex).name);
        views.push(CounterView {
            port,
            hook: row.hook.label().to_owned(),
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
            count: count(row.traffic),
        });
    }
    if let Some(refused) = guard::observe()?.filter(|refused| refused.packets > 0) {
        views.push(CounterView {
            port: "-".to_owned(),
            hook: "guard".to_owned(),
            outcome: "dropped".to_owned(),
            reason: "not-forwarded-by-linux".to_owned(),
            count: Count { packets: refused.packets, bytes: refused.bytes },
        });
    }
    Ok(views)
}

/// The networks that ports are on, and the routes beyond them.
pub async fn routes(control: &Control) -> Result<Vec<RouteView>> {
    let observed = control.reconciler.backend.netlink().routes().await?;
    let mut views = Vec::new();
    for route in control.compiled.routes.union(&observed) {
        let (gateway, port) = match route.target {
            KernelTarget::Gateway { address, ifindex } => {
                (Some(address.to_string()), names(control, ifindex).name)
            }
            KernelTarget::Device { ifindex } => (None, names(control, ifindex).name),
            KernelTarget::Blackhole => (None, "-".to_owned()),
        };
        views.push(RouteView {
            destination: route.destination.to_string(),
            gateway,
            blackhole: route.target == KernelTarget::Blackhole,
            port,
            active: observed.contains(route),
        });
    }
    for (ifindex, link) in &control.compiled.links {
        let mut networks: Vec<String> = link.addresses.iter().map(|own| own.trunc().to_string()).collect();
        networks.dedup();
        views.extend(networks.into_iter().map(|destination| RouteView {
            destination,
            gateway: None,
            blackhole: false,
            port: names(control, *ifindex).name,
            active: true,
        }));
    }
    Ok(views)
}

/// The NAT rules, and how external ports are used.
pub fn nat(control: &Control) -> Result<NatView> {
    let nat = &control.memory.known()?.nat;
    let is_active = |public| control.compiled.tables.local4.contains_key(public);
    let ports = |ports: Option<PortRange>| ports.map(|ports| ports.to_string());
    let static_nats = nat.static_nats.iter().map(|rule| StaticNatView {
        public: rule.public.to_string(),
        internal: rule.internal.to_string(),
        active: is_active(&rule.public),
    });
    let port_forwardings = nat.forwards.iter().map(|rule| PortForwardView {
        protocol: rule.protocol.to_string(),
        public: rule.public.to_string(),
        public_ports: ports(rule.public_ports),
        internal: rule.internal.to_string(),
        internal_ports: ports(rule.internal_ports),
        sources: rule.sources.iter().map(ToString::to_string).collect(),
        active: is_active(&rule.public),
    });
    let pools = control.reconciler.backend.programs.pool_uses()?;
    let mut source_nats: Vec<_> = pools
        .into_iter()
        .map(|pool| SourceNatView {
            address: pool.address.to_string(),
            protocol: protocol(pool.protocol),
            taken: pool.taken,
            shared: pool.shared,
            bindings: pool.bindings,
        })
        .collect();
    source_nats.sort_by(|a, b| (&a.address, &a.protocol).cmp(&(&b.address, &b.protocol)));
    Ok(NatView {
        static_nats: static_nats.collect(),
        port_forwardings: port_forwardings.collect(),
        source_nats,
    })
}

/// The lists of rules in force, those that CloudStack sends first, and what they have decided.
pub fn rules(control: &mut Control) -> Result<Vec<ListView>> {
    let DesiredState { policy, ports, .. } = control.memory.known()?;
    // To the router ports are known by their MAC addresses, to people by their names.
    let names_of_ports: BTreeMap<&PortSelector, &String> =
        ports.iter().map(|port| (&port.selector, &port.name)).collect();
    let named = |selector: &PortSelector| {
        let name = names_of_ports.get(selector);
        name.map_or_else(|| selector.clone(), |name| PortSelector::Name((*name).clone()))
    };
    let flows = |scope: &Scope| match scope {
        Scope::PublicAddress(_) => scope.to_string(),
        Scope::Outside(port) => Scope::Outside(named(port)).to_string(),
        Scope::From(port) => Scope::From(named(port)).to_string(),
        Scope::To(port) => Scope::To(named(port)).to_string(),
    };
    let tables = &control.compiled.tables;
    let numbers: BTreeMap<Content, u32> =
        tables.lists.iter().map(|(number, entry)| (entry.content, *number)).collect();
    let mut of_lists: BTreeMap<(bool, u32), Vec<String>> = BTreeMap::new();
    for (scope, list) in &policy.lists {
        if let Some(number) = numbers.get(&list.content()) {
            of_lists.entry((false, *number)).or_default().push(flows(scope));
        }
    }
    for (ifindex, port) in tables.ports.iter().filter(|(_, port)| port.own_list != NO_LIST) {
        let flows = format!("from {} to the router", names(control, *ifindex).name);
        of_lists.entry((true, port.own_list)).or_default().push(flows);
    }
    let programs = control.reconciler.backend.programs.tables();
    let view = |((_, number), mut flows): ((bool, u32), Vec<String>)| {
        flows.sort_by(|a, b| natural(a).cmp(&natural(b)));
        let counts = programs.list_counts(number)?;
        let judged = |counted: RuleCount| Count { packets: counted.packets, bytes: counted.bytes };
        let rules = counts.list.rules.iter().zip(counts.rules).map(|(rule, counted)| RuleView {
            id: (rule.id != 0).then_some(rule.id),
            rule: rule.to_string(),
            count: judged(counted),
        });
        let rest = RestView { action: counts.list.default.to_string(), count: judged(counts.rest) };
        Some(ListView { flows, rules: rules.collect(), rest })
    };
    Ok(of_lists.into_iter().filter_map(view).collect())
}

pub(super) struct Names<'a> {
    /// CloudStack's name, else the kernel's.
    pub name: String,
    nic: Option<&'a Nic>,
}

pub(super) fn names(control: &Control, ifindex: u32) -> Names<'_> {
    let nic = control.inventory.by_index(ifindex);
    let kernel = || nic.map_or_else(|| format!("interface {ifindex}"), |nic| nic.name.clone());
    Names { name: control.compiled.names.get(&ifindex).cloned().unwrap_or_else(kernel), nic }
}

/// `eth2` before `eth10`.
pub(super) fn natural(name: &str) -> (usize, &str) {
    (name.len(), name)
}

pub(super) fn role(number: u8) -> &'static str {
    Role::ALL.iter().find(|role| **role as u8 == number).map_or("unknown", |role| role.label())
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmp6".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn count(traffic: Traffic) -> Count {
    Count { packets: traffic.packets, bytes: traffic.bytes }
}
