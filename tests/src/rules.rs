//! Rules of an isolated network's firewall as CloudStack sends them.

use anyhow::Result;
use serde_json::{Value, json};

use crate::router::Router;

/// A rule; about a public address `ip`, or without one about flows to the outside.
pub fn firewall_rule(
    id: u32,
    ip: &str,
    protocol: &str,
    ports: Option<(u16, u16)>,
    sources: &[&str],
    egress: bool,
) -> Value {
    let mut rule = json!({
        "id": id, "src_ip": ip, "protocol": protocol, "revoked": false, "already_added": false,
        "source_cidr_list": sources, "dest_cidr_list": if egress { vec!["0.0.0.0/0"] } else { vec![] },
        "purpose": "Firewall", "traffic_type": if egress { "Egress" } else { "Ingress" },
        "default_egress_policy": false,
    });
    match (protocol, ports) {
        ("icmp", _) => (rule["icmp_type"], rule["icmp_code"]) = (json!(-1), json!(-1)),
        (_, Some((first, last))) => rule["src_port_range"] = json!([first, last]),
        _ => {}
    }
    rule
}

/// The same of IPv6, where guests are known by their own addresses.
pub fn ipv6_firewall_rule(id: u32, ports: (u16, u16), ends: (&str, &str), egress: bool) -> Value {
    let (source, destination) = ends;
    json!({
        "id": id, "protocol": "tcp", "src_port_range": [ports.0, ports.1], "revoked": false,
        "already_added": false, "source_cidr_list": [source], "dest_cidr_list": [destination],
        "purpose": "Ipv6Firewall", "traffic_type": if egress { "Egress" } else { "Ingress" },
        "default_egress_policy": false, "guest_ip6_cidr": if egress { source } else { destination },
    })
}

/// Sends rules, which have to be taken.
pub fn firewall(router: &Router<'_>, rules: &[Value]) -> Result<()> {
    let message = json!({ "rules": rules, "type": "firewallrules", "delete_from_processed_cache": false });
    router.update_config_with("firewall_rules", message.to_string().as_bytes())?.ok().map(drop)
}

/// The same of IPv6.
pub fn ipv6_firewall(router: &Router<'_>, rules: &[Value]) -> Result<()> {
    let message =
        json!({ "rules": rules, "type": "ipv6firewallrules", "delete_from_processed_cache": false });
    router.update_config_with("ipv6_firewall_rules", message.to_string().as_bytes())?.ok().map(drop)
}
