//! What Linux is told to do what a router of CloudStack does for an isolated network: source NAT, port forwardings,
//! the firewall of the public address.
//!
//! `cloudstack` is what `iptables-save` shows after a run of CloudStack's configure.py (4.20): seven rules for each
//! port forwarding, and one of the public address's firewall, all on one address, which is the worst case. In
//! `FIREWALL_<address>` the rules about ports are in front of the one that lets established flows pass, so that each
//! packet to the address goes through them. `maps` is the best that an admin can do with nftables: one lookup.

use std::fmt::Write;
use std::net::Ipv4Addr;

use router_userspace::model::nat::{ForwardProtocol, PortForward, PortRange};

use crate::lab::{GATEWAY, PUBLIC};

/// Where the guests are.
pub const GUESTS: &str = "16.0.0.0/8";
/// The first public port that is forwarded, and the first guest that one is forwarded to.
pub const FIRST_PORT: u16 = 10_000;
const FIRST_GUEST: Ipv4Addr = Ipv4Addr::new(16, 1, 0, 0);
/// The port of every guest.
const SERVICE: u16 = 8080;
/// The mark of the second NIC's flows.
const MARK: &str = "0x66";

/// So many port forwardings, each to a guest of its own.
pub fn forwards(count: u32) -> Vec<PortForward> {
    let one = |port| PortRange::new(port, port).ok();
    (0..count)
        .map(|number| PortForward {
            public: PUBLIC,
            protocol: ForwardProtocol::Udp,
            public_ports: one(FIRST_PORT + number as u16),
            internal: Ipv4Addr::from(u32::from(FIRST_GUEST) + number),
            internal_ports: one(SERVICE),
            sources: vec![],
        })
        .collect()
}

/// Source NAT and nothing else, for iptables-restore.
pub fn source_nat() -> String {
    format!(
        "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o out -j SNAT --to-source {PUBLIC}\nCOMMIT\n\
         *filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"
    )
}

/// CloudStack's rules, for iptables-restore.
pub fn cloudstack(forwards: &[PortForward]) -> String {
    let mut firewall = String::new();
    let (mut nat, mut postrouting, mut filter) = (String::new(), String::new(), String::new());
    for PortForward { public_ports, internal, .. } in forwards {
        let Some(port) = public_ports.map(|ports| ports.first()) else { continue };
        let to = format!("-d {PUBLIC}/32 -p udp -m udp --dport {port}");
        writeln!(firewall, "-A FIREWALL_{PUBLIC} -s 0.0.0.0/0 -p udp -m udp --dport {port} -j RETURN").ok();
        for device in ["out", "in"] {
            writeln!(nat, "-A PREROUTING -i {device} {to} -j DNAT --to-destination {internal}:{SERVICE}")
                .ok();
        }
        writeln!(nat, "-A PREROUTING -i out {to} -j MARK --set-xmark {MARK}/0xffffffff").ok();
        writeln!(
            nat,
            "-A PREROUTING -i out {to} -m state --state NEW -j CONNMARK --save-mark --nfmask 0xffffffff \
             --ctmask 0xffffffff"
        )
        .ok();
        writeln!(nat, "-A OUTPUT {to} -j DNAT --to-destination {internal}:{SERVICE}").ok();
        writeln!(
            postrouting,
            "-A POSTROUTING -s {GUESTS} -d {internal}/32 -o in -p udp -m udp --dport {SERVICE} -j SNAT \
             --to-source {GATEWAY}"
        )
        .ok();
        writeln!(
            filter,
            "-A FORWARD -i out -o in -p udp -m udp --dport {SERVICE} -m state --state NEW,ESTABLISHED -j ACCEPT"
        )
        .ok();
    }
    format!(
        "*mangle\n:PREROUTING ACCEPT [0:0]\n:FIREWALL_{PUBLIC} - [0:0]\n:VPN_{PUBLIC} - [0:0]\n\
         -A PREROUTING -d {PUBLIC}/32 -j FIREWALL_{PUBLIC}\n-A PREROUTING -d {PUBLIC}/32 -j VPN_{PUBLIC}\n\
         -A PREROUTING -m state --state RELATED,ESTABLISHED -j CONNMARK --restore-mark --nfmask 0xffffffff \
         --ctmask 0xffffffff\n\
         -A PREROUTING -i out -m state --state NEW -j CONNMARK --set-xmark {MARK}/0xffffffff\n\
         {firewall}-A FIREWALL_{PUBLIC} -m state --state RELATED,ESTABLISHED -j RETURN\n\
         -A FIREWALL_{PUBLIC} -j DROP\n-A VPN_{PUBLIC} -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
         -A VPN_{PUBLIC} -j RETURN\nCOMMIT\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{nat}\
         -A POSTROUTING -o out -j SNAT --to-source {PUBLIC}\n{postrouting}COMMIT\n\
         *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:FW_EGRESS_RULES - [0:0]\n\
         :FW_OUTBOUND - [0:0]\n:NETWORK_STATS - [0:0]\n:NETWORK_STATS_out - [0:0]\n\
         -A FORWARD -j NETWORK_STATS_out\n-A FORWARD -j NETWORK_STATS\n\
         -A FORWARD -i in -o control -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -i out -o in -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -i in -o in -m state --state NEW -j ACCEPT\n\
         -A FORWARD -i in -o in -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -i in -o out -j FW_OUTBOUND\n{filter}\
         -A FW_EGRESS_RULES -j ACCEPT\n-A FW_OUTBOUND -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
         -A FW_OUTBOUND -j FW_EGRESS_RULES\n{}COMMIT\n",
        ["NETWORK_STATS", "NETWORK_STATS_out"]
            .map(|chain| format!(
                "-A {chain} -i in -o out\n-A {chain} -i out -o in\n-A {chain} ! -i in -o out -p tcp\n\
                 -A {chain} -i out ! -o in -p tcp\n"
            ))
            .concat()
    )
}

/// The same by a set and a map, for nft.
pub fn maps(forwards: &[PortForward]) -> String {
    let (mut open, mut to) = (String::new(), String::new());
    for PortForward { public_ports, internal, .. } in forwards {
        let Some(port) = public_ports.map(|ports| ports.first()) else { continue };
        write!(open, "udp . {port}, ").ok();
        write!(to, "udp . {port} : {internal} . {SERVICE}, ").ok();
    }
    let elements = |text: &str| match text {
        "" => String::new(),
        text => format!("elements = {{ {text}}}\n"),
    };
    format!(
        "table ip bench\ndelete table ip bench\ntable ip bench {{\n\
         set open {{ type inet_proto . inet_service\n{}}}\n\
         map forwards {{ type inet_proto . inet_service : ipv4_addr . inet_service\n{}}}\n\
         chain firewall {{ type filter hook prerouting priority mangle; policy accept\n\
         ct state new ip daddr {PUBLIC} meta l4proto . th dport != @open drop\n}}\n\
         chain prerouting {{ type nat hook prerouting priority dstnat; policy accept\n\
         ip daddr {PUBLIC} dnat ip to meta l4proto . th dport map @forwards\n}}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat; policy accept\n\
         oifname \"out\" snat to {PUBLIC}\n}}\n\
         chain forward {{ type filter hook forward priority filter; policy drop\n\
         ct state established,related accept\niifname \"in\" oifname \"out\" accept\n\
         iifname \"out\" oifname \"in\" ct status dnat accept\n}}\n}}\n",
        elements(&open),
        elements(&to)
    )
}

/// Source NAT by nft, whose known flows leave the stack by its short way.
pub fn flowtable() -> String {
    format!(
        "table ip bench\ndelete table ip bench\ntable ip bench {{\n\
         flowtable known {{ hook ingress priority filter\ndevices = {{ in, out }}\n}}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat; policy accept\n\
         oifname \"out\" snat to {PUBLIC}\n}}\n\
         chain forward {{ type filter hook forward priority filter; policy accept\n\
         meta l4proto {{ tcp, udp }} flow add @known\n}}\n}}\n"
    )
}

/// Forwarding that knows flows, and does nothing to them.
pub const CONNTRACK: &str = "table ip bench\ndelete table ip bench\ntable ip bench {\n\
     chain forward { type filter hook forward priority filter; policy accept\n\
     ct state established,related accept\n}\n}\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarding_is_seven_rules_and_one_of_the_firewall() {
        let rules = |count| {
            let text = cloudstack(&forwards(count));
            let table = |name: &str| {
                let rest = text.split(&format!("*{name}\n")).nth(1).unwrap_or_default();
                let rest = rest.split("COMMIT").next().unwrap_or_default();
                rest.lines().filter(|line| line.starts_with("-A")).count()
            };
            ["mangle", "nat", "filter"].map(table)
        };
        let (few, more) = (rules(10), rules(11));
        assert_eq!([more[0] - few[0], more[1] - few[1], more[2] - few[2]], [1, 6, 1]);
    }

    #[test]
    fn the_firewall_is_asked_before_it_is_known_whether_a_flow_is() {
        let text = cloudstack(&forwards(2));
        let chain: Vec<_> = text.lines().filter(|line| line.starts_with("-A FIREWALL_")).collect();
        assert_eq!(chain.len(), 4);
        assert!(chain[0].contains("--dport 10000") && chain[1].contains("--dport 10001"));
        assert!(chain[2].contains("RELATED,ESTABLISHED") && chain[3].ends_with("DROP"));
    }
}
