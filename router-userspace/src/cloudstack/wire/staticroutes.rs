//! `staticroutes`: routes of a VPC (`static_routes.json`).

use std::net::IpAddr;

use ipnet::IpNet;

use super::{ENVELOPE, is_host, not_a_host};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;

const KEYS: [&str; 4] = ["revoke", "ip_address", "gateway", "network"];

/// A message of type `staticroutes`.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticRoutes {
    /// The routes, in the message's order.
    pub routes: Vec<StaticRoute>,
}

/// One route.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticRoute {
    /// Where it stands.
    pub place: Place,
    /// The route is withdrawn.
    pub revoke: bool,
    /// Destination, host bits clear.
    pub network: IpNet,
    /// Next hop, of the destination's family.
    pub gateway: IpAddr,
    /// The route as it was written.
    pub(in crate::cloudstack) entry: Entry,
}

impl StaticRoutes {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<Self, ConfigError> {
        let objects = message.required("routes", message.objects("routes")?)?;
        Ok(Self { routes: objects.iter().map(StaticRoute::read).collect::<Result<_, _>>()? })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Result<Vec<ConfigError>, ConfigError> {
        let mut warnings = message.unknown_keys(|key| key == "routes" || ENVELOPE.contains(&key));
        for object in message.objects("routes")?.unwrap_or_default() {
            warnings.extend(object.unknown_keys(|key| KEYS.contains(&key)));
        }
        Ok(warnings)
    }
}

impl StaticRoute {
    /// Reads an entry of a message or of the `staticroutes` databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let network: IpNet = object.required("network", object.parsed("network", "network")?)?;
        let gateway: IpAddr = object.required("gateway", object.parsed("gateway", "IP address")?)?;
        if !is_host(gateway) {
            return Err(not_a_host(object, "gateway", gateway));
        }
        if network.addr().is_ipv4() != gateway.is_ipv4() {
            return Err(object.error("gateway", format_args!("{gateway} is not of the family of {network}")));
        }
        Ok(Self {
            place: object.place().into_owned(),
            revoke: object.required("revoke", object.boolean("revoke")?)?,
            network: network.trunc(),
            gateway,
            entry: object.to_entry(),
        })
    }
}
