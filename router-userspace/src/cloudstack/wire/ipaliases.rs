//! `ipaliases`: the router's addresses in further subnets of a shared network (`ip_aliases.json`).

use ipnet::Ipv4Net;

use super::{ENVELOPE, host_address, ips, netmask};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;

/// Keys of an alias. `count` numbers them, which nothing needs: today's router does not look at it either.
const KEYS: [&str; 4] = ["revoke", "ip_address", "netmask", "count"];

/// A message of type `ipaliases`.
#[derive(Clone, Debug, PartialEq)]
pub struct IpAliases {
    /// The aliases, in the message's order.
    pub aliases: Vec<IpAlias>,
}

/// One alias.
#[derive(Clone, Debug, PartialEq)]
pub struct IpAlias {
    /// Where it stands.
    pub place: Place,
    /// The address with its prefix length, host bits kept.
    pub address: Ipv4Net,
    /// The address is taken back.
    pub revoke: bool,
    /// Keys that neither the message nor the `ips` databag knows.
    pub(in crate::cloudstack) unknown: Entry,
}

impl IpAliases {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<Self, ConfigError> {
        let objects = message.required("aliases", message.objects("aliases")?)?;
        Ok(Self { aliases: objects.iter().map(IpAlias::read).collect::<Result<_, _>>()? })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Result<Vec<ConfigError>, ConfigError> {
        let mut warnings = message.unknown_keys(|key| key == "aliases" || ENVELOPE.contains(&key));
        for object in message.objects("aliases")?.unwrap_or_default() {
            warnings.extend(object.unknown_keys(|key| KEYS.contains(&key)));
        }
        Ok(warnings)
    }
}

impl IpAlias {
    fn read(object: &Object) -> Result<Self, ConfigError> {
        let address = object.required("ip_address", host_address(object, "ip_address")?)?;
        let length = object.required("netmask", netmask(object, "netmask")?)?;
        let mut unknown = object.to_entry();
        // What `ips` knows would have its effect there.
        unknown.retain(|key, _| !KEYS.contains(&key.as_str()) && !ips::KEYS.contains(&key.as_str()));
        Ok(Self {
            place: object.place().into_owned(),
            address: Ipv4Net::new_assert(address, length),
            revoke: object.required("revoke", object.boolean("revoke")?)?,
            unknown,
        })
    }
}
