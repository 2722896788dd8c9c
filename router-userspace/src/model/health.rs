//! Health checks: when they run, and what they compare with.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{PortForward, PortRange};

/// What is to be watched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Monitoring {
    /// Checks run by themselves.
    pub enabled: bool,
    /// How often the basic ones do; `None` and zero: never.
    pub basic_every: Option<Duration>,
    /// How often the advanced ones do.
    pub advanced_every: Option<Duration>,
    /// Checks that are not to run, by their name.
    pub excluded: BTreeSet<String>,
    /// Services that are to be looked at.
    pub services: BTreeSet<String>,
    /// Who has to answer a ping.
    pub gateways: Vec<IpAddr>,
    /// Port forwardings that have to be in force. The daemon looks for them itself.
    #[serde(skip)]
    pub forwards: Vec<ExpectedForward>,
    /// Guests that have to be served.
    pub guests: Vec<ExpectedGuest>,
    /// What has to be balanced.
    pub balancers: Vec<ExpectedBalancer>,
    /// What the machine has to have left.
    pub thresholds: Thresholds,
    /// What the router's version has to be.
    pub version: Option<RouterVersion>,
}

/// A guest's NIC that has to be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedGuest {
    /// The guest's name.
    pub name: String,
    /// Its MAC address, as it is written in small letters.
    pub mac: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// It has to get its address from the router.
    pub dhcp: bool,
    /// The router has to tell its name.
    pub dns: bool,
}

/// A port forwarding that has to be in force, of whichever protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedForward {
    /// The public address.
    pub public: Ipv4Addr,
    /// Its ports; `None`: all.
    pub public_ports: Option<PortRange>,
    /// The guest's address.
    pub internal: Ipv4Addr,
    /// Its ports; `None`: the same.
    pub internal_ports: Option<PortRange>,
}

impl fmt::Display for ExpectedForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports =
            |ports: Option<PortRange>| ports.map_or_else(|| "all".to_owned(), |ports| ports.to_string());
        let (public, internal) = (ports(self.public_ports), ports(self.internal_ports));
        write!(f, "{} {public} to {} {internal}", self.public, self.internal)
    }
}

impl ExpectedForward {
    /// Whether a rule forwards all of it so.
    pub fn is_done_by(&self, rule: &PortForward) -> bool {
        let leads = |public: u16, internal: u16| rule.internal_port(public) == Some(internal);
        let public = self.public_ports.unwrap_or(PortRange::ALL);
        let internal = self.internal_ports.unwrap_or(public);
        (self.public, self.internal) == (rule.public, rule.internal)
            && leads(public.first(), internal.first())
            && leads(public.last(), internal.last())
    }
}

/// A rule of load balancing that has to be in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedBalancer {
    /// Where it listens.
    pub listener: SocketAddrV4,
    /// How a server is chosen.
    pub algorithm: String,
    /// Its servers.
    pub servers: BTreeSet<SocketAddrV4>,
    /// How many connections all rules together may have.
    pub max_connections: Option<u64>,
}

/// `None`: nobody minds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Free disk space, at least, in MB of 2^20 bytes.
    pub free_disk_megabytes: Option<f64>,
    /// Time that CPUs are busy, at most.
    pub cpu_percent: Option<f64>,
    /// Memory in use, at most.
    pub memory_percent: Option<f64>,
}

/// What `get_template_version.sh` has told the management server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterVersion {
    /// `etc/cloudstack-release`.
    pub template: String,
    /// `var/cache/cloud/cloud-scripts-signature`.
    pub scripts: String,
}
