//! Many tiers of a VPC: each a VLAN on one trunk, with a policy of its own.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::netns::run_bounded;
use crate::router::Router;

/// How long an aggregate may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The number of the first tier's NIC: those of a VPC's router that has its NICs from the hypervisor come before.
const FIRST_NIC: usize = 5;

/// Its VLAN.
pub fn vlan(tier: usize) -> u16 {
    u16::try_from(tier + 1).expect("there are 4,094 VLANs")
}

/// Its NIC.
pub fn nic(tier: usize) -> String {
    format!("eth{}", FIRST_NIC + tier)
}

/// Its NIC's Ethernet address.
pub fn mac(tier: usize) -> [u8; 6] {
    let [high, low] = vlan(tier).to_be_bytes();
    [2, 1, 0, high, low, 5]
}

fn mac_text(tier: usize) -> String {
    mac(tier).map(|octet| format!("{octet:02x}")).join(":")
}

/// The router's address in it, of a network of 256.
pub fn gateway(tier: usize) -> Ipv4Addr {
    let [high, low] = vlan(tier).to_be_bytes();
    Ipv4Addr::new(10, 64 + high, low, 1)
}

/// Writes `ports.json` with so many tiers on a trunk, for a daemon to read when it starts: then it makes room for them.
///
/// # Errors
/// It cannot be written.
pub fn declare(router: &Router<'_>, trunk: &str, count: usize) -> Result<()> {
    let port = |tier| json!({ "name": nic(tier), "mac": mac_text(tier), "trunk": trunk, "vlan": vlan(tier) });
    let ports = json!({ "ports": (0..count).map(port).collect::<Vec<_>>() });
    let folder = router.root().join("etc/xvr");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("ports.json"), ports.to_string()).context("declare ports")
}

/// What CloudStack says of so many tiers, in one aggregate: of each that it is there, and its own access list.
pub fn aggregate(count: usize) -> String {
    let mut text = "#Apache CloudStack Virtual Router Config File\n<version>\n1.0\n</version>\n".to_owned();
    for tier in 0..count {
        for (kind, message) in [("guest_network", message(tier)), ("network_acl", access_list(tier))] {
            let name = format!("{kind}.json.{tier:08x}-6ad9-4d9b-8d24-fe1496b59146");
            // Writing to text cannot fail.
            let _ = write!(
                text,
                "<file>\n/var/cache/cloud/{name}\n{message}\n</file>\n\
                 <script>\n/opt/cloud/bin/update_config.py {name}\n</script>\n"
            );
        }
    }
    text
}

fn message(tier: usize) -> Value {
    let gateway = gateway(tier);
    json!({
        "add": true, "mac_address": mac_text(tier), "device": nic(tier), "router_guest_ip": gateway,
        "router_guest_netmask": "255.255.255.0", "router_guest_gateway": gateway, "cidr": "24",
        "dns": "8.8.8.8", "domain_name": "cs2cloud.internal", "is_vr_guest_gateway": true,
        "network_id": 300 + tier, "type": "guestnetwork", "delete_from_processed_cache": false,
    })
}

fn access_list(tier: usize) -> Value {
    let port = 1000 + vlan(tier);
    json!({
        "device": nic(tier), "mac_address": mac_text(tier), "private_gateway_acl": false,
        "nic_ip": gateway(tier), "nic_netmask": "24",
        "ingress_rules": [
            { "type": "tcp", "first_port": port, "last_port": port, "cidr": "0.0.0.0/0", "allowed": true },
            { "type": "icmp", "icmp_type": -1, "icmp_code": -1, "cidr": "10.0.0.0/8", "allowed": true },
        ],
        "egress_rules": [
            { "type": "tcp", "first_port": port, "last_port": port, "cidr": "0.0.0.0/0", "allowed": false },
            { "type": "all", "cidr": "0.0.0.0/0", "allowed": true },
        ],
        "type": "networkacl", "delete_from_processed_cache": false,
    })
}

/// Sends an aggregate, which has to be taken; how long the script took.
///
/// # Errors
/// The router refuses it.
pub fn apply(router: &Router<'_>, aggregate: &str) -> Result<Duration> {
    let path = router.root().join("var/cache/cloud/VR-6ad94d9b-8d24-4e14-96b5-9146fe1496b5.cfg");
    fs::write(&path, aggregate).context("hand over an aggregate")?;
    let mut script = router.namespace().command(router.root().join("opt/cloud/bin/vr_cfg.sh"));
    let begin = Instant::now();
    let said = run_bounded(script.arg("-c").arg(&path), PATIENCE)?;
    let took = begin.elapsed();
    said.ok().with_context(|| router.log())?;
    Ok(took)
}
