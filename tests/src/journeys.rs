//! The ways through a VPC's router that every client is sent on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clients::{self, Direction, Download, Ping, Probe, Throughput};
use crate::lab::{Host, Lab};
use crate::servers::{self, HttpServer};

/// From whom to whom, and by which address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// What it shows.
    pub name: &'static str,
    /// Who asks.
    pub client: &'static str,
    /// Who answers.
    pub server: &'static str,
    /// By which family.
    pub family: Family,
    /// The router's address that traceroute sees first, then those behind it.
    pub hops: &'static [&'static str],
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Every kind of way that a packet can go between a guest and somebody else.
pub const JOURNEYS: [Journey; 4] = [
    Journey {
        name: "source NAT",
        client: "web1",
        server: "far",
        family: Family::V4,
        hops: &["10.10.1.1", "203.0.113.1", "198.51.100.9"],
    },
    Journey {
        name: "tier to tier",
        client: "web2",
        server: "db1",
        family: Family::V4,
        hops: &["10.10.1.1", "10.10.2.11"],
    },
    Journey {
        name: "tier to tier, IPv6",
        client: "web1",
        server: "db2",
        family: Family::V6,
        hops: &["fd17:ac56:1234:10::1", "fd17:ac56:1234:20::12"],
    },
    Journey {
        name: "tier to public, IPv6",
        client: "db1",
        server: "far",
        family: Family::V6,
        hops: &["fd17:ac56:1234:20::1", "2001:db8:100::1", "2001:db8:200::9"],
    },
];

impl Journey {
    /// Client, server, and the server's address.
    pub fn ends<'lab>(&self, lab: &'lab Lab) -> (&'lab Host, &'lab Host, IpAddr) {
        let server = lab.host(self.server);
        let address = match self.family {
            Family::V4 => server.v4.into(),
            Family::V6 => server.v6.into(),
        };
        (lab.host(self.client), server, address)
    }

    /// Fetches a file and compares its hash with what was sent.
    pub fn curl(&self, lab: &Lab, bytes: u64) -> Result<Download> {
        let (client, server, address) = self.ends(lab);
        let http = HttpServer::start(server)?;
        let target: SocketAddr = http.at(address);
        let download = clients::curl(client, target, bytes, Duration::from_secs(120));
        let download = download.with_context(|| format!("curl, {}", self.name))?;
        ensure!(download.bytes == bytes, "{}: {} of {bytes} bytes came", self.name, download.bytes);
        let sent = servers::sha256_of_body(bytes)?;
        ensure!(download.sha256 == sent, "{}: got {}, sent {sent}", self.name, download.sha256);
        Ok(download)
    }

    /// Measures TCP throughput.
    pub fn iperf(&self, lab: &Lab, direction: Direction, seconds: u32) -> Result<Throughput> {
        let (client, server, address) = self.ends(lab);
        let result = clients::iperf(client, server, address, direction, seconds);
        result.with_context(|| format!("iperf3 {direction:?}, {}", self.name))
    }

    /// Sends echo requests.
    pub fn ping(&self, lab: &Lab, count: u32) -> Result<Ping> {
        let (client, _, address) = self.ends(lab);
        clients::ping(client, address, count, Duration::from_millis(10))
    }

    /// Opens many connections at once.
    pub fn connections(&self, lab: &Lab, count: usize) -> Result<Duration> {
        let (client, server, address) = self.ends(lab);
        let result = servers::many_connections(client, server, address, count, Duration::from_secs(120));
        result.with_context(|| self.name)
    }

    /// Asks every router on the way for its address, and compares with what is expected.
    pub fn traceroute(&self, lab: &Lab, probe: Probe) -> Result<Vec<IpAddr>> {
        let (client, _, address) = self.ends(lab);
        let seen = clients::traceroute(client, address, probe)?;
        let expected = self.hops.iter().map(|hop| Some(hop.parse::<IpAddr>())).map(Option::transpose);
        let expected = expected.collect::<Result<Vec<_>, _>>()?;
        ensure!(seen == expected, "traceroute {probe:?}, {}: {seen:?}", self.name);
        Ok(seen.into_iter().flatten().collect())
    }
}
