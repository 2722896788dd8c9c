//! Routes → routes of the kernel: which port reaches the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::port::Placed;
use super::{KernelRoute, KernelTarget, Problem, Subject};
use crate::model::{Route, RouteTarget};

/// The kernel's routes, one per destination and metric: the first that is possible.
pub(super) fn compile(
    routes: &[Route],
    placed: &[Placed<'_>],
    problems: &mut Vec<Problem>,
) -> BTreeSet<KernelRoute> {
    let mut chosen: BTreeMap<_, KernelRoute> = BTreeMap::new();
    for route in routes {
        let destination = route.destination.trunc();
        let place = (destination, route.metric);
        match one(route, placed) {
            Ok(None) => {}
            Ok(Some(kernel_route)) => {
                let first = *chosen.entry(place).or_insert(kernel_route);
                if first != kernel_route {
                    let [this, first] = [kernel_route, first].map(|route| Way(route.target));
                    let message = format!("{this} is left out, there is another {first}");
                    problems.push(Problem { subject: Subject::Route(destination), message });
                }
            }
            Err(message) => problems.push(Problem { subject: Subject::Route(destination), message }),
        }
    }
    chosen.into_values().collect()
}

/// `None`: its port comes and goes, and is not there.
fn one(route: &Route, placed: &[Placed<'_>]) -> Result<Option<KernelRoute>, String> {
    let destination = route.destination.trunc();
    // A port's own network comes before those with a metric.
    let connected = |port: &&Placed<'_>| port.port.addresses.iter().any(|own| own.trunc() == destination);
    if route.target != RouteTarget::Blackhole
        && let Some(port) = placed.iter().find(connected)
    {
        return Err(format!("it is the network of port {}", port.port.name));
    }
    let (gateway, port) = match &route.target {
        RouteTarget::Gateway(gateway) => {
            let port = reaching(*gateway, placed);
            (*gateway, port.ok_or_else(|| format!("no port reaches the gateway {gateway}"))?)
        }
        RouteTarget::GatewayOnPort(gateway, name) => {
            let port = placed.iter().find(|port| &port.port.name == name);
            let missing = || format!("there is no port {name} to reach the gateway {gateway} by");
            (*gateway, port.ok_or_else(missing)?)
        }
        RouteTarget::Blackhole => {
            let target = KernelTarget::Blackhole;
            return Ok(Some(KernelRoute { destination, target, metric: route.metric }));
        }
        RouteTarget::Port(name) => {
            let port = placed.iter().find(|port| &port.port.name == name);
            let target = port.map(|port| KernelTarget::Device { ifindex: port.nic.ifindex });
            return Ok(target.map(|target| KernelRoute { destination, target, metric: route.metric }));
        }
    };
    if let Some(own) = placed.iter().find(|p| p.port.addresses.iter().any(|own| own.addr() == gateway)) {
        return Err(format!("the gateway {gateway} is the router's own address, on port {}", own.port.name));
    }
    if gateway.is_ipv4() != destination.addr().is_ipv4() {
        return Err(format!("the gateway {gateway} is of another address family"));
    }
    let target = KernelTarget::Gateway { address: gateway, ifindex: port.nic.ifindex };
    Ok(Some(KernelRoute { destination, target, metric: route.metric }))
}

/// Where a route leads, in a sentence.
struct Way(KernelTarget);

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            KernelTarget::Gateway { address, .. } => write!(f, "via {address}"),
            KernelTarget::Device { .. } => f.write_str("by a tunnel"),
            KernelTarget::Blackhole => f.write_str("to nobody"),
        }
    }
}

/// The port with the narrowest connected network that holds an address.
fn reaching<'a, 'b>(gateway: IpAddr, placed: &'a [Placed<'b>]) -> Option<&'a Placed<'b>> {
    let width = |port: &Placed<'_>| {
        let networks = port.port.addresses.iter().filter(|network| network.contains(&gateway));
        networks.map(ipnet::IpNet::prefix_len).max()
    };
    let mut best: Option<(u8, &Placed<'_>)> = None;
    for port in placed {
        if let Some(len) = width(port)
            && best.is_none_or(|(longest, _)| len > longest)
        {
            best = Some((len, port));
        }
    }
    best.map(|(_, port)| port)
}
