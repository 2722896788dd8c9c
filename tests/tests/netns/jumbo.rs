//! Packets of 9,000 bytes from tier to tier, which few drivers hand to XDP in one buffer: by TC.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use router_tests::clients::{curl, ping_once, tracepath};
use router_tests::lab::Lab;
use router_tests::needs;
use router_tests::router::{Router, VPC_COMMANDS, fixture};
use router_tests::servers::{HttpServer, sha256_of_body};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const MTU: u16 = 9000;

/// Both tiers' wires take such packets, and so do the router's NICs, since CloudStack says so.
fn start<'lab>(lab: &'lab Lab, attach: &str) -> Result<Router<'lab>> {
    for name in ["web1", "web2", "db1", "db2"] {
        let host = lab.host(name);
        lab.wire.ip(&format!("link set {} mtu {MTU}\n", host.port()))?;
        host.namespace.ip(&format!("link set eth0 mtu {MTU}\n"))?;
    }
    for name in ["tier1", "tier2"] {
        lab.wire.ip(&format!(
            "link set {} mtu {MTU}\nlink set {name} mtu {MTU}\n",
            lab.segment(name).router_port()
        ))?;
    }
    let router = Router::start(lab, attach)?;
    router.apply(&VPC_COMMANDS[..2])?;
    for tier in &VPC_COMMANDS[2..4] {
        let mut message: Value = serde_json::from_slice(&fs::read(fixture(tier))?)?;
        message["mtu"] = json!(MTU);
        let said = router.update_config_with("guest_network", message.to_string().as_bytes())?;
        said.ok().with_context(|| router.log())?;
    }
    router.apply(&VPC_COMMANDS[4..])?;
    Ok(router)
}

#[test]
fn packets_of_9000_bytes_go_from_tier_to_tier() -> Result<()> {
    if !needs::are_met(&["curl", "ping", "tracepath"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let router = start(&lab, "tc")?;
    assert_eq!(router.show("status")?["problems"], json!([]));
    let (web, db, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
    let ends: [IpAddr; 2] = [db.v4.into(), db.v6.into()];
    for to in ends {
        for size in [64, 2000, 4000, 8000, 8900] {
            assert_eq!(ping_once(web, to, size)?, 63, "{size} bytes to {to}");
        }
    }
    let server = HttpServer::start(db)?;
    for to in ends {
        let download = curl(web, server.at(to), 20_000_000, LIMIT)?;
        assert_eq!(download.sha256, sha256_of_body(20_000_000)?, "{to}");
    }
    // Outside it is 1,500, and who sends hears of it.
    let outside = HttpServer::start(far)?;
    let download = curl(web, outside.at(far.v4), 3_000_000, LIMIT)?;
    assert_eq!(download.sha256, sha256_of_body(3_000_000)?);
    assert_eq!(tracepath(web, far.v4.into())?.mtu, 1500);
    Ok(())
}
