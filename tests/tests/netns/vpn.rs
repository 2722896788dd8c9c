//! A guest's VPN through source NAT, by each of XVR's hooks; and through Linux, which proves both ends.

use std::time::Duration;

use anyhow::{Result, ensure};
use router_tests::clients;
use router_tests::for_every_router;
use router_tests::nat::{Kind, SOURCE_NAT};
use router_tests::servers::{self, HttpServer};
use router_tests::vpn::{self, Charon};

for_every_router! {
    a_guest_builds_an_ipsec_tunnel_to_somebody_outside;
}

fn a_guest_builds_an_ipsec_tunnel_to_somebody_outside(kind: Kind) -> Result<()> {
    let programs = [vpn::PROGRAMS.as_slice(), &["curl", "ping", "sha256sum"]].concat();
    kind.run(&programs, |lab, _| {
        let (web1, far) = (lab.host("web1"), lab.host("far"));
        let (server, guest) = (Charon::wait_for_guests(far)?, Charon::guest_of(web1, far.v4)?);
        let said = guest.call()?;
        // Both ends pretend to be translated, so as to have ESP in UDP; of itself only one that is says so.
        ensure!(said.contains("local host is behind NAT"), "no NAT was found: {said}");
        ensure!(said.contains(&format!("to {}[4500]", far.v4)), "not by port 4500: {said}");
        let tunnels = server.tunnels()?;
        ensure!(tunnels.contains(&format!("remote 'guest' @ {SOURCE_NAT}[")), "{tunnels}");
        ensure!(tunnels.contains("TUNNEL-in-UDP"), "{tunnels}");
        let ping = clients::ping(web1, vpn::INNER.into(), 10, Duration::from_millis(10))?;
        // Not all: charon may count an answer and leave it lying until the next one comes.
        ensure!(ping.received > 0, "{ping:?}");
        let http = HttpServer::start(far)?;
        let download = clients::curl(web1, http.at(vpn::INNER), 1_000_000, Duration::from_secs(60))?;
        ensure!(download.sha256 == servers::sha256_of_body(1_000_000)?, "another file came");
        // It was not beside the tunnel that they came.
        let tunnels = server.tunnels()?;
        let out = tunnels.lines().find_map(|line| line.trim().strip_prefix("out")?.split(',').nth(1));
        let bytes = out.and_then(|bytes| bytes.trim().strip_suffix(" bytes")?.parse::<u64>().ok());
        ensure!(bytes.is_some_and(|bytes| bytes > 1_000_000), "{tunnels}");
        Ok(())
    })
}
