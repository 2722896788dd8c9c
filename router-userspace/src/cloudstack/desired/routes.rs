//! Routes: the default ones, a VPC's static routes, and none for what of a VPC's range no tier has.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Reading;
use super::ports::PlacedPort;
use crate::cloudstack::wire::cmdline::RouterKind;
use crate::cloudstack::wire::ips::NetworkType;
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::port::Role;
use crate::model::{Route, RouteTarget};

/// All routes. What has no effect now goes to `notices`.
pub(super) fn routes(
    reading: &Reading,
    ports: &[PlacedPort],
    notices: &mut Vec<ConfigError>,
) -> Result<Vec<Route>, ConfigError> {
    let mut routes = Vec::new();
    for (port, gateway, place) in gateways(reading, ports) {
        routes.extend(default_route(port, gateway, &place, notices)?);
    }
    let further = further_gateways(&routes, ports);
    routes.extend(further);
    for route in &reading.routes {
        if routes.iter().any(|other: &Route| other.destination == route.network) {
            notices.push(route.place.error("not in force: another route has the same destination"));
        } else if let Some(port) = connected(ports, route.network) {
            let name = &port.port.name;
            notices.push(route.place.error(format_args!("not in force: it is {name}'s own network")));
        } else if !ports.iter().any(|port| reaches(port, route.gateway)) {
            let (gateway, place) = (route.gateway, route.place.at("gateway"));
            notices.push(place.error(format_args!("not in force: no port reaches {gateway}")));
        } else {
            let target = RouteTarget::Gateway(route.gateway);
            routes.push(Route { destination: route.network, target, metric: 0 });
        }
    }
    routes.extend(unused_range(reading));
    Ok(routes)
}

/// What of a VPC's range no tier, private gateway or static route has is nowhere, and in particular not
/// outside. These all lie within the range, or are as wide and come first.
fn unused_range(reading: &Reading) -> Option<Route> {
    let range = reading.boot.vpc_cidr.filter(|_| reading.boot.kind == RouterKind::Vpc)?;
    Some(Route { destination: range.into(), target: RouteTarget::Blackhole, metric: u32::MAX })
}

/// Where the metrics of further default routes begin; a port's number is added.
const FURTHER: u32 = 100;

/// Further public ports have gateways of their own. Answers leave by the port that the question
/// came in by, and so do flows of hosts whose public address is there.
fn further_gateways(routes: &[Route], ports: &[PlacedPort]) -> Vec<Route> {
    let is_default = |name: &str| {
        let by_port =
            |route: &Route| matches!(&route.target, RouteTarget::GatewayOnPort(_, port) if port == name);
        routes.iter().any(|route| route.destination.addr().is_ipv4() && by_port(route))
    };
    let further = ports
        .iter()
        .enumerate()
        .filter(|(_, port)| port.port.role == Role::Public && !is_default(&port.port.name));
    let route = |(index, port): (usize, &PlacedPort)| {
        let (gateway, _) = port.gateway.as_ref()?;
        let gateway = IpAddr::V4(*gateway);
        let number = port.port.name.strip_prefix("eth").and_then(|number| number.parse::<u32>().ok());
        reaches(port, gateway).then(|| Route {
            destination: IpNet::V4(Ipv4Net::default()),
            target: RouteTarget::GatewayOnPort(gateway, port.port.name.clone()),
            metric: FURTHER + number.unwrap_or(index as u32),
        })
    };
    further.filter_map(route).collect()
}

/// The default gateways, each with the port behind which it is.
fn gateways<'a>(reading: &Reading, ports: &'a [PlacedPort]) -> Vec<(&'a PlacedPort, IpAddr, Place)> {
    let boot = &reading.boot;
    let mut gateways = Vec::new();
    if boot.kind == RouterKind::Vpc && !boot.has_public_network {
        // The tier with the lowest network id; its gateway may be the router itself.
        let tiers = reading.tiers.iter().filter(|(_, tier)| tier.network_id.is_some());
        let first = tiers.min_by_key(|(_, tier)| tier.network_id).or(reading.tiers.first());
        let port = first.and_then(|(name, _)| ports.iter().find(|port| port.port.name == *name));
        if let Some((port, (gateway, place))) = port.and_then(|port| Some((port, port.gateway.as_ref()?))) {
            gateways.push((port, (*gateway).into(), place.clone()));
        }
    } else if boot.kind == RouterKind::Vpc {
        let public = ports.iter().find(|port| port.port.role == Role::Public);
        if let Some(port) = public {
            gateways.extend(
                port.gateway.iter().map(|(address, place)| (port, IpAddr::from(*address), place.clone())),
            );
            gateways.extend(
                port.gateway6.iter().map(|(address, place)| (port, IpAddr::from(*address), place.clone())),
            );
        }
    } else if let Some(port) = boot_default_port(reading, ports) {
        let ip4 = boot.gateway.map(|address| (port, address.into(), boot.place.at("gateway")));
        let ip6 = boot.gateway6.map(|address| (port, address.into(), boot.place.at("ip6gateway")));
        gateways.extend(ip4.into_iter().chain(ip6));
    }
    gateways
}

/// The port of the boot line's `gateway`: the public one, or the guest one of a router without.
fn boot_default_port<'a>(reading: &Reading, ports: &'a [PlacedPort]) -> Option<&'a PlacedPort> {
    let nic_for = |wanted| reading.boot.nics.iter().find(move |nic| nic.network_type == wanted);
    let nic = nic_for(NetworkType::Public).or_else(|| nic_for(NetworkType::Guest))?;
    let holder = ports.iter().find(|port| port.owns(nic.address.addr().into()));
    holder.or_else(|| ports.iter().find(|port| port.port.name == format!("eth{}", nic.number)))
}

/// No route to oneself, and none by a port without an address of the gateway's family: both are
/// what CloudStack means there. A gateway that no network of the port holds is a mistake.
fn default_route(
    port: &PlacedPort,
    gateway: IpAddr,
    place: &Place,
    notices: &mut Vec<ConfigError>,
) -> Result<Option<Route>, ConfigError> {
    let name = &port.port.name;
    let mut family = port.port.addresses.iter().filter(|net| net.addr().is_ipv4() == gateway.is_ipv4());
    if port.owns(gateway) {
        return Ok(None);
    }
    if family.next().is_none() {
        notices.push(place.error(format_args!("not in force: {name} has no address of its family")));
        return Ok(None);
    }
    let is_link_local = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
    if !is_link_local && !reaches(port, gateway) {
        return Err(place.error(format_args!("the gateway {gateway} is in no network of {name}")));
    }
    let destination = match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    Ok(Some(Route { destination, target: RouteTarget::GatewayOnPort(gateway, name.clone()), metric: 0 }))
}

/// Whether a port has a gateway on its link. Routes never lead to the management side.
fn reaches(port: &PlacedPort, gateway: IpAddr) -> bool {
    port.port.role != Role::Control && !port.owns(gateway) && port.network_of(gateway).is_some()
}

/// The port that is in a network.
fn connected(ports: &[PlacedPort], network: IpNet) -> Option<&PlacedPort> {
    ports.iter().find(|port| port.port.addresses.iter().any(|held| held.trunc() == network))
}
