//! A route that is not a connected one.

use std::net::IpAddr;

use ipnet::IpNet;

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteTarget {
    /// To a gateway; the kernel finds the port that reaches it.
    Gateway(IpAddr),
    /// To a gateway on a certain port, named as in [`Port::name`](super::Port::name).
    GatewayOnPort(IpAddr, String),
    /// Out by a port that needs no next hop, named as in [`Port::name`](super::Port::name): a tunnel's.
    Port(String),
    /// To nobody: what no narrower route takes is dropped.
    Blackhole,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Destination, host bits clear.
    pub destination: IpNet,
    /// Next hop; of the destination's family.
    pub target: RouteTarget,
    /// Of several to one destination the lowest counts. 0, or larger for a route that is used only by what has to
    /// leave by its port, or where there is no other: IPv4.
    pub metric: u32,
}
