//! `xvr show`: what the daemon tells about itself, as JSON with stable names and as tables for
//! people. An empty list says so in a sentence.

mod bridges;

use std::fmt::Write;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::RouterRole;

pub use bridges::{BridgeView, StationView, bridges};

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet headers included.
    pub bytes: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// `xvr show status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// `running` when all that CloudStack asked for is in force, else `degraded`.
    pub state: String,
    /// It has a boot line, so that CloudStack may send everything else.
    #[serde(default)]
    pub booted: bool,
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Its root.
    pub root: String,
    /// `--attach`.
    pub attach: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Milliseconds from its start to taking commands.
    pub ready_milliseconds: u64,
    /// Tables and flows of an earlier daemon were taken over.
    pub adopted: bool,
    /// Where the programs and tables are pinned.
    pub pins: String,
    /// Which of a pair it is; nothing for a router that is alone.
    #[serde(default)]
    pub role: Option<RouterRole>,
    /// How many ports are in force.
    pub ports: usize,
    /// What Linux was kept from forwarding by itself; nothing where the guard is missing.
    pub guard: Option<Count>,
    /// About how full the fullest table of flows or bindings is, in thousandths; nothing if that is
    /// not known.
    pub flow_table_permille: Option<usize>,
    /// Room for flow entries of each address family, two a session; nothing if that is not known.
    #[serde(default)]
    pub flow_room: Option<usize>,
    /// Flows that made room for others before their time, since the daemon started.
    pub evicted_flows: u64,
    /// Seconds since the last of them; nothing if there were none.
    pub evicted_seconds_ago: Option<u64>,
    /// Flows that were cut because the policy denies them, since the daemon started.
    #[serde(default)]
    pub cut_flows: u64,
    /// How many rules are in force, the router's own and each list's default among them.
    #[serde(default)]
    pub policy_rules: u32,
    /// How full the memory for them is, in thousandths.
    #[serde(default)]
    pub policy_permille: u32,
    /// The daemons that work is left to.
    #[serde(default)]
    pub services: Vec<ServiceView>,
    /// What serves guests their metadata and passwords.
    #[serde(default)]
    pub http: HttpView,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    /// What is not wrong and worth knowing, a sentence each: rules that never decide.
    #[serde(default)]
    pub notices: Vec<String>,
}

/// A daemon that work is left to, in `xvr show status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Its process, if it runs.
    pub pid: Option<i32>,
    /// How often it was started again because it had ended by itself.
    pub restarts: u64,
    /// What is worth knowing of how it runs.
    #[serde(default)]
    pub about: Option<String>,
}

/// What guests are served by HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpView {
    /// Addresses and TCP ports that guests ask at.
    pub listening: Vec<String>,
    /// How many guests there are metadata for.
    pub guests: usize,
    /// Those of them that are in no guest port's network.
    pub guests_elsewhere: usize,
    /// How many guests have not fetched their password.
    pub passwords: usize,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// How the frames of a port are carried that has tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagsView {
    /// The NIC that carries them.
    pub trunk: String,
    /// VLAN id of the outer tag.
    pub vlan: u16,
    /// VLAN id of the inner tag.
    pub inner_vlan: Option<u16>,
}

/// How the frames of a port are carried that is a VXLAN network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanView {
    /// The NIC that carries its packets.
    pub underlay: String,
    /// Its number.
    pub vni: u32,
    /// The router's address on that NIC.
    pub local: String,
    /// UDP port.
    pub udp_port: u16,
    /// Where its other stations are.
    pub remotes: Vec<String>,
}

/// One of `xvr show ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortView {
    /// CloudStack's name.
    pub name: String,
    /// The kernel's name.
    pub nic: String,
    /// The kernel's index.
    pub ifindex: u32,
    /// MAC address.
    pub mac: String,
    /// `control`, `public`, `guest` or `private-gateway`.
    pub role: String,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Where source NAT puts flows that leave here.
    pub source_nat: Option<String>,
    /// The tags of its frames, if they have any.
    pub tags: Option<TagsView>,
    /// The VXLAN network that it is, if it is one.
    #[serde(default)]
    pub vxlan: Option<VxlanView>,
    /// What is in front of the TC program: `xdp`, `xdp-multi-buffer`, `xdp-generic`, or `tc` for nothing.
    pub attach: String,
    /// Why.
    pub reason: String,
    /// The programs send frames out here by XDP.
    pub xdp_target: bool,
    /// Packets that came in here and were forwarded by the XDP program.
    pub forwarded_by_xdp: Count,
    /// Packets that came in here and were forwarded by the TC program.
    pub forwarded_by_tc: Count,
    /// Packets that came in here and were dropped.
    pub dropped: Count,
    /// Packets that came in here and went to the kernel.
    pub punted: Count,
    /// Packets that came in here and were left by XDP to TC, which counts them again.
    pub deferred: Count,
}

/// One of `xvr show flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    /// `tcp`, `udp`, `icmp`, `icmp6`, or a number.
    pub protocol: String,
    /// Source of the packet that opened it, with port or ICMP identifier.
    pub source: String,
    /// Its destination.
    pub destination: String,
    /// What the source becomes, where it is translated.
    pub translated: Option<String>,
    /// Port it came in by.
    pub ingress: String,
    /// Port it leaves by.
    pub egress: String,
    /// From the side that opened it: IP packets, without Ethernet headers.
    pub original: Count,
    /// The other way.
    pub reply: Count,
    /// Seconds since it was opened.
    pub age_seconds: u64,
    /// Seconds since a packet of it was seen.
    pub idle_seconds: u64,
}

/// One of `xvr show drops`: packets that were not forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterView {
    /// Port they came in by; `-` for frames of no port, and for the guard.
    pub port: String,
    /// `xdp`, `tc`, or `guard`.
    pub hook: String,
    /// `dropped`; `punted` to the kernel; `deferred` by XDP to TC.
    pub outcome: String,
    /// Why, as in the documentation's list of reasons.
    pub reason: String,
    /// How many.
    pub count: Count,
}

/// One of `xvr show routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// Destination.
    pub destination: String,
    /// Next hop; nothing for networks that ports are on, and for a black hole.
    pub gateway: Option<String>,
    /// What no narrower route takes is dropped.
    pub blackhole: bool,
    /// Port; `-` for a black hole.
    pub port: String,
    /// It is in force.
    pub active: bool,
}

/// `xvr show nat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatView {
    /// Static NATs.
    pub static_nats: Vec<StaticNatView>,
    /// Port forwardings; of those of one address and protocol the first that matches counts.
    pub port_forwardings: Vec<PortForwardView>,
    /// How the external ports of source NAT are used.
    pub source_nats: Vec<SourceNatView>,
}

/// A public address that is a guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticNatView {
    /// The public address.
    pub public: String,
    /// The guest's.
    pub internal: String,
    /// It is in force: a port of the router holds the public address.
    pub active: bool,
}

/// Ports of a public address that lead to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForwardView {
    /// `tcp`, `udp`, or `any` for both.
    pub protocol: String,
    /// The public address.
    pub public: String,
    /// Its ports, `22` or `5000-5010`; nothing for all.
    pub public_ports: Option<String>,
    /// The guest's address.
    pub internal: String,
    /// Its ports, as many or one; nothing where ports are kept.
    pub internal_ports: Option<String>,
    /// Who may use it; empty for anybody.
    pub sources: Vec<String>,
    /// It is in force: a port of the router holds the public address.
    pub active: bool,
}

/// How the external ports of one address and protocol are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceNatView {
    /// The address.
    pub address: String,
    /// `tcp`, `udp`, or `icmp`, whose ports are identifiers.
    pub protocol: String,
    /// Ports that are taken, by bindings and by port forwardings.
    pub taken: u32,
    /// How often no port was left, and flows to different destinations shared one.
    pub shared: u64,
    /// Guests' sockets that have a port.
    pub bindings: usize,
}

/// One of `xvr show rules`: a list, the first rule of which that matches decides about a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListView {
    /// Which flows are judged by it; several where ports have the same rules.
    pub flows: Vec<String>,
    /// Its rules, in order.
    pub rules: Vec<RuleView>,
    /// What no rule matches.
    pub rest: RestView,
}

/// A rule, and what it has decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// CloudStack's number for it; nothing for those that it does not number.
    pub id: Option<u64>,
    /// What it says.
    pub rule: String,
    /// Flows' first packets that it has decided about, and their bytes, IP headers included.
    pub count: Count,
}

/// What becomes of what no rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestView {
    /// `allow` or `deny`.
    pub action: String,
    /// As of a rule.
    pub count: Count,
}

/// `xvr show usage`: bytes are those of IP packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageView {
    /// Ports that lead outside, as CloudStack's scripts count for them.
    pub ports: Vec<PortUsageView>,
    /// What has passed, by the two ports and the public address.
    pub accounts: Vec<AccountView>,
}

/// What has passed by a port that leads outside, over IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortUsageView {
    /// Its name.
    pub port: String,
    /// `public` or `private-gateway`.
    pub role: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The scripts tell of it: not in a routed network, whose traffic CloudStack does not count.
    pub told: bool,
    /// From guests.
    pub sent: Count,
    /// To guests.
    pub received: Count,
    /// TCP of the router itself.
    pub own_tcp_sent: Count,
    /// TCP to the router itself.
    pub own_tcp_received: Count,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// The port that is further outside; `-` of all those that found no other account left.
    pub outside: String,
    /// The address that the inside has there; nothing where it is not translated.
    pub address: Option<IpAddr>,
    /// `ipv4` or `ipv6`; `any` of those that found no other account left.
    pub family: String,
    /// The port inside.
    pub inside: String,
    /// From the inside to the outside.
    pub sent: Count,
    /// The other way.
    pub received: Count,
}

impl UsageView {
    /// For people.
    pub fn text(&self) -> String {
        let mut accounts = Table::new(&["OUTSIDE", "AS", "FAMILY", "INSIDE", "SENT", "RECEIVED"]);
        for account in &self.accounts {
            accounts.row([
                account.outside.clone(),
                account.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
                account.family.clone(),
                account.inside.clone(),
                bytes(account.sent.bytes),
                bytes(account.received.bytes),
            ]);
        }
        let mut ports = Table::new(&["PORT", "ROLE", "GUESTS SENT", "RECEIVED", "OWN TCP SENT", "RECEIVED"]);
        for port in &self.ports {
            ports.row([
                port.port.clone(),
                port.role.clone(),
                bytes(port.sent.bytes),
                bytes(port.received.bytes),
                bytes(port.own_tcp_sent.bytes),
                bytes(port.own_tcp_received.bytes),
            ]);
        }
        let accounts = accounts.text_or("Nothing has passed.\n");
        format!("{accounts}\n{}", ports.text_or("No port leads outside.\n"))
    }
}

impl NatView {
    /// For people.
    pub fn text(&self) -> String {
        let mut rules = Table::new(&["RULE", "PROTO", "PUBLIC", "GUEST", "FROM", "STATE"]);
        let state = |active| if active { "active" } else { "missing" }.to_owned();
        for rule in &self.static_nats {
            rules.row([
                "static NAT".to_owned(),
                "any".to_owned(),
                rule.public.clone(),
                rule.internal.clone(),
                "anywhere".to_owned(),
                state(rule.active),
            ]);
        }
        let end = |address: &str, ports: &Option<String>| match ports {
            Some(ports) => format!("{address}:{ports}"),
            None => address.to_owned(),
        };
        for rule in &self.port_forwardings {
            let sources =
                if rule.sources.is_empty() { "anywhere".to_owned() } else { rule.sources.join(" ") };
            rules.row([
                "forwarding".to_owned(),
                rule.protocol.clone(),
                end(&rule.public, &rule.public_ports),
                end(&rule.internal, &rule.internal_ports),
                sources,
                state(rule.active),
            ]);
        }
        let mut pools = Table::new(&["SOURCE NAT", "PROTO", "PORTS TAKEN", "SHARED", "BINDINGS"]);
        for pool in &self.source_nats {
            pools.row([
                pool.address.clone(),
                pool.protocol.clone(),
                pool.taken.to_string(),
                pool.shared.to_string(),
                pool.bindings.to_string(),
            ]);
        }
        let rules = rules.text_or("There are no static NATs and no port forwardings.\n");
        format!("{rules}\n{}", pools.text_or("No port has source NAT.\n"))
    }
}

impl StatusView {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "xvr {} is {}, process {}, root {}, up {}.\n{} in force, attached {}; ready {} ms after its start{}.\n",
            self.version,
            self.state,
            self.pid,
            self.root,
            duration(self.uptime_seconds),
            plural(self.ports, "port"),
            self.attach,
            self.ready_milliseconds,
            if self.adopted { ", with an earlier daemon's flows" } else { "" },
        );
        if let Some(role) = self.role {
            let _ = writeln!(text, "Of a pair of routers this is {role}.");
        }
        text += &match self.guard {
            Some(count) => format!(
                "The guard stands: Linux forwards nothing by itself, it refused {}.\n",
                plural(usize::try_from(count.packets).unwrap_or(usize::MAX), "packet")
            ),
            None => "The guard is missing.\n".to_owned(),
        };
        for service in &self.services {
            let Some(pid) = service.pid else { continue };
            let restarts = plural(usize::try_from(service.restarts).unwrap_or(usize::MAX), "restart");
            let about = service.about.as_ref().map(|about| format!("; {about}")).unwrap_or_default();
            let _ = writeln!(text, "{} runs, process {pid}, {restarts}{about}.", service.name);
        }
        if let Some(permille) = self.flow_table_permille {
            let room = self
                .flow_room
                .map(|room| format!(" have room for {room} entries each and"))
                .unwrap_or_default();
            let _ = write!(text, "The flow tables{room} are {} % full", permille / 10);
        } else {
            text += "Nobody knows how full the flow tables are";
        }
        text += &match self.evicted_seconds_ago {
            Some(ago) => format!(
                "; {} made room for others before their time, the last {} ago.\n",
                plural(usize::try_from(self.evicted_flows).unwrap_or(usize::MAX), "flow"),
                duration(ago)
            ),
            None => "; none had to make room for others.\n".to_owned(),
        };
        if self.cut_flows > 0 {
            let cut = plural(usize::try_from(self.cut_flows).unwrap_or(usize::MAX), "flow");
            let _ = writeln!(text, "{cut} ended early because the policy denies what it let begin.");
        }
        let rules = usize::try_from(self.policy_rules).unwrap_or(usize::MAX);
        let percent = self.policy_permille / 10;
        let _ =
            writeln!(text, "{} of policy take {percent} % of the memory for them.", plural(rules, "rule"));
        text += &self.http.text();
        for problem in &self.problems {
            let _ = writeln!(text, "Problem: {problem}");
        }
        for notice in &self.notices {
            let _ = writeln!(text, "Notice: {notice}");
        }
        text
    }
}

impl HttpView {
    fn text(&self) -> String {
        let at = match self.listening.as_slice() {
            [] => "nowhere".to_owned(),
            addresses => format!("at {}", addresses.join(", ")),
        };
        let elsewhere = match self.guests_elsewhere {
            0 => String::new(),
            count => format!(" ({count} in no guest port's network)"),
        };
        let mut text = format!(
            "Guests are served {at}; there are metadata for {}{elsewhere}, and {} to be fetched.\n",
            plural(self.guests, "guest"),
            plural(self.passwords, "password"),
        );
        if let Some(error) = &self.last_error {
            let _ = writeln!(text, "The last error in serving them: {error}.");
        }
        text
    }
}

/// Ports for people.
pub fn ports(ports: &[PortView]) -> String {
    if ports.is_empty() {
        return "There are no ports: no command has said what to do yet.\n".to_owned();
    }
    let mut table = Table::new(&["PORT", "NIC", "ROLE", "ATTACH", "ADDRESSES", "BY XDP", "BY TC", "DROPPED"]);
    for port in ports {
        table.row([
            port.name.clone(),
            port.nic.clone(),
            port.role.clone(),
            port.attach.clone(),
            if port.addresses.is_empty() { "-".to_owned() } else { port.addresses.join(" ") },
            port.forwarded_by_xdp.packets.to_string(),
            port.forwarded_by_tc.packets.to_string(),
            port.dropped.packets.to_string(),
        ]);
    }
    let mut text = table.text();
    text.push('\n');
    for port in ports {
        let _ = write!(text, "{} is attached by {}: {}.", port.name, port.attach, port.reason);
        if let Some(TagsView { trunk, vlan, inner_vlan }) = &port.tags {
            let inside = inner_vlan.map_or_else(String::new, |inner| format!(", and inside it VLAN {inner}"));
            let _ = write!(text, " It is VLAN {vlan} of {trunk}{inside}.");
        }
        if let Some(VxlanView { underlay, vni, local, remotes, .. }) = &port.vxlan {
            let remotes = if remotes.is_empty() { "nobody yet".to_owned() } else { remotes.join(", ") };
            let _ = write!(text, " It is VNI {vni} by {underlay}, from {local} to {remotes}.");
        }
        if let Some(address) = &port.source_nat {
            let _ = write!(text, " Guests' flows leave as {address}.");
        }
        text.push('\n');
    }
    text
}

/// Flows for people.
pub fn flows(flows: &[FlowView]) -> String {
    if flows.is_empty() {
        return "There are no flows.\n".to_owned();
    }
    let mut table = Table::new(&[
        "PROTO",
        "SOURCE",
        "AS",
        "DESTINATION",
        "WAY",
        "PACKETS",
        "BYTES",
        "REPLIES",
        "BYTES",
        "AGE",
        "IDLE",
    ]);
    for flow in flows {
        table.row([
            flow.protocol.clone(),
            flow.source.clone(),
            flow.translated.clone().unwrap_or_else(|| "-".to_owned()),
            flow.destination.clone(),
            format!("{} > {}", flow.ingress, flow.egress),
            flow.original.packets.to_string(),
            bytes(flow.original.bytes),
            flow.reply.packets.to_string(),
            bytes(flow.reply.bytes),
            duration(flow.age_seconds),
            duration(flow.idle_seconds),
        ]);
    }
    format!("{}\n{}.\n", table.text(), plural(flows.len(), "flow"))
}

/// Drops for people.
pub fn drops(counters: &[CounterView]) -> String {
    if counters.is_empty() {
        return "Every packet was forwarded.\n".to_owned();
    }
    let mut table = Table::new(&["PORT", "HOOK", "OUTCOME", "REASON", "PACKETS", "BYTES"]);
    for counter in counters {
        table.row([
            counter.port.clone(),
            counter.hook.clone(),
            counter.outcome.clone(),
            counter.reason.clone(),
            counter.count.packets.to_string(),
            bytes(counter.count.bytes),
        ]);
    }
    table.text()
}

/// Routes for people.
pub fn routes(routes: &[RouteView]) -> String {
    if routes.is_empty() {
        return "There are no routes.\n".to_owned();
    }
    let mut table = Table::new(&["DESTINATION", "GATEWAY", "PORT", "STATE"]);
    for route in routes {
        let without = if route.blackhole { "blackhole" } else { "connected" };
        table.row([
            route.destination.clone(),
            route.gateway.clone().unwrap_or_else(|| without.to_owned()),
            route.port.clone(),
            if route.active { "active" } else { "missing" }.to_owned(),
        ]);
    }
    table.text()
}

/// Lists of rules for people.
pub fn rules(lists: &[ListView]) -> String {
    if lists.is_empty() {
        return "There are no rules: every flow passes that has a way.\n".to_owned();
    }
    let mut text = String::new();
    for list in lists {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "Flows {}:", list.flows.join(", "));
        let mut table = Table::new(&["NO", "ID", "RULE", "PACKETS", "BYTES"]);
        for (place, rule) in (1..).zip(&list.rules) {
            table.row([
                usize::to_string(&place),
                rule.id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                rule.rule.clone(),
                rule.count.packets.to_string(),
                bytes(rule.count.bytes),
            ]);
        }
        let RestView { action, count } = &list.rest;
        let rest = format!("{action} the rest");
        table.row(["-".to_owned(), "-".to_owned(), rest, count.packets.to_string(), bytes(count.bytes)]);
        text += &table.text();
    }
    text
}

/// A number and its noun.
pub fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// `999 B`, `1.5 kB`, `20 MB`.
fn bytes(count: u64) -> String {
    let mut unit = "B";
    let (mut whole, mut tenths) = (count, 0);
    for larger in ["kB", "MB", "GB", "TB", "PB"] {
        if whole < 1000 {
            break;
        }
        tenths = whole % 1000 / 100;
        whole /= 1000;
        unit = larger;
    }
    if unit == "B" || whole >= 10 { format!("{whole} {unit}") } else { format!("{whole}.{tenths} {unit}") }
}

/// `59 s`, `12 min`, `3 h`, `2 d`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Columns as wide as their widest cell, two blanks between them.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// A sentence where there are no rows.
    fn text_or(&self, otherwise: &str) -> String {
        if self.rows.len() == 1 { otherwise.to_owned() } else { self.text() }
    }

    fn text(&self) -> String {
        let columns = self.rows[0].len();
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let route = |destination: &str, gateway: Option<&str>| RouteView {
            destination: destination.to_owned(),
            gateway: gateway.map(str::to_owned),
            blackhole: false,
            port: "eth2".to_owned(),
            active: true,
        };
        let unused = RouteView { blackhole: true, port: "-".to_owned(), ..route("10.0.0.0/8", None) };
        let text = routes(&[route("0.0.0.0/0", Some("203.0.113.1")), route("10.1.1.0/24", None), unused]);
        assert_eq!(
            text,
            "DESTINATION  GATEWAY      PORT  STATE\n\
             0.0.0.0/0    203.0.113.1  eth2  active\n\
             10.1.1.0/24  connected    eth2  active\n\
             10.0.0.0/8   blackhole    -     active\n"
        );
    }

    #[test]
    fn rules_and_ports_are_two_tables() {
        let nothing = NatView { static_nats: vec![], port_forwardings: vec![], source_nats: vec![] };
        assert_eq!(
            nothing.text(),
            "There are no static NATs and no port forwardings.\n\nNo port has source NAT.\n"
        );
        let own = StaticNatView {
            public: "203.0.113.32".to_owned(),
            internal: "10.1.1.11".to_owned(),
            active: true,
        };
        let forward = PortForwardView {
            protocol: "tcp".to_owned(),
            public: "203.0.113.31".to_owned(),
            public_ports: Some("5000-5010".to_owned()),
            internal: "10.1.1.12".to_owned(),
            internal_ports: None,
            sources: vec!["192.0.2.0/24".to_owned(), "198.51.100.7/32".to_owned()],
            active: false,
        };
        let pool = SourceNatView {
            address: "203.0.113.30".to_owned(),
            protocol: "udp".to_owned(),
            taken: 12,
            shared: 0,
            bindings: 11,
        };
        let view =
            NatView { static_nats: vec![own], port_forwardings: vec![forward], source_nats: vec![pool] };
        assert_eq!(
            view.text(),
            "RULE        PROTO  PUBLIC                  GUEST      FROM                          STATE\n\
             static NAT  any    203.0.113.32            10.1.1.11  anywhere                      active\n\
             forwarding  tcp    203.0.113.31:5000-5010  10.1.1.12  192.0.2.0/24 198.51.100.7/32  missing\n\
             \n\
             SOURCE NAT    PROTO  PORTS TAKEN  SHARED  BINDINGS\n\
             203.0.113.30  udp    12           0       11\n"
        );
    }

    #[test]
    fn rules_are_a_table_for_each_list() {
        let count = |packets, bytes| Count { packets, bytes };
        let rule = |id, rule: &str, packets| RuleView {
            id,
            rule: rule.to_owned(),
            count: count(packets, packets * 60),
        };
        let list = ListView {
            flows: vec!["to 203.0.113.31".to_owned(), "to 203.0.113.32".to_owned()],
            rules: vec![rule(Some(21), "allow tcp 22 from 192.0.2.0/24", 7), rule(None, "deny icmp", 0)],
            rest: RestView { action: "deny".to_owned(), count: count(100, 6000) },
        };
        assert_eq!(
            rules(&[list]),
            "Flows to 203.0.113.31, to 203.0.113.32:\n\
             NO  ID  RULE                            PACKETS  BYTES\n\
             1   21  allow tcp 22 from 192.0.2.0/24  7        420 B\n\
             2   -   deny icmp                       0        0 B\n\
             -   -   deny the rest                   100      6.0 kB\n"
        );
        assert_eq!(rules(&[]), "There are no rules: every flow passes that has a way.\n");
    }

    #[test]
    fn numbers_are_readable() {
        for (count, expected) in [(0, "0 B"), (999, "999 B"), (1550, "1.5 kB"), (20_500_000, "20 MB")] {
            assert_eq!(bytes(count), expected);
        }
        for (seconds, expected) in [(119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")] {
            assert_eq!(duration(seconds), expected);
        }
        assert_eq!(plural(1, "flow"), "1 flow");
    }
}
