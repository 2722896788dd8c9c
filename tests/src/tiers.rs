//! Many tiers of a VPC: each a VLAN on one trunk, with a policy of its own.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::netns::run_bounded;
use crate::router::{Router, acl, tier};

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
    router.write_ports(&ports)
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

fn message(number: usize) -> Value {
    let network = 299 + u32::from(vlan(number));
    tier(&nic(number), &mac_text(number), &gateway(number).to_string(), network)
}

fn access_list(number: usize) -> Value {
    let port = 1000 + vlan(number);
    let ingress = json!([
        { "type": "tcp", "first_port": port, "last_port": port, "cidr": "0.0.0.0/0", "allowed": true },
        { "type": "icmp", "icmp_type": -1, "icmp_code": -1, "cidr": "10.0.0.0/8", "allowed": true },
    ]);
    let egress = json!([
        { "type": "tcp", "first_port": port, "last_port": port, "cidr": "0.0.0.0/0", "allowed": false },
        { "type": "all", "cidr": "0.0.0.0/0", "allowed": true },
    ]);
    acl(&nic(number), &mac_text(number), &gateway(number).to_string(), &ingress, &egress)
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
