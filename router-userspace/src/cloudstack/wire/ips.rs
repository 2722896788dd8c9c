//! `ips`: addresses of public NICs and private gateways (`ip_associations.json`).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{ENVELOPE, Written, host_address, mtu, netmask};
use crate::cloudstack::object::Object;
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::Mac;

pub(super) const KEYS: [&str; 13] = [
    "public_ip",
    "source_nat",
    "add",
    "one_to_one_nat",
    "first_i_p",
    "gateway",
    "netmask",
    "vif_mac_address",
    "nic_dev_id",
    "new_nic",
    "nw_type",
    "is_private_gateway",
    "mtu",
];

/// A message of type `ips`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ips {
    /// The addresses, in the message's order.
    pub associations: Vec<Written<IpAssociation>>,
}

/// What a NIC is for, in CloudStack's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkType {
    /// A public NIC or a private gateway.
    Public,
    /// A tenant's network.
    Guest,
    /// The management server's side.
    Control,
}

/// One address of a NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct IpAssociation {
    /// Where it stands.
    pub place: Place,
    /// The address with its prefix length, host bits kept.
    pub address: Ipv4Net,
    /// Whether the NIC is to hold the address; `false` releases it.
    pub add: bool,
    /// The address is its NIC's source NAT address.
    pub source_nat: bool,
    /// The gateway of the address' network.
    pub gateway: Option<Ipv4Addr>,
    /// The NIC's MAC address.
    pub mac: Option<Mac>,
    /// N of the NIC's `ethN`, as the hypervisor's agent counts.
    pub nic_dev_id: Option<u32>,
    /// What the NIC is for.
    pub network_type: NetworkType,
    /// The address is a VPC's private gateway.
    pub is_private_gateway: bool,
    /// MTU of the NIC in bytes.
    pub mtu: Option<u16>,
}

impl Ips {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<Self, ConfigError> {
        let objects = message.required("ip_address", message.objects("ip_address")?)?;
        let read = objects.iter().map(|object| Written::read(object, IpAssociation::read));
        let associations = read.collect::<Result<_, _>>()?;
        Ok(Self { associations })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Result<Vec<ConfigError>, ConfigError> {
        let mut warnings = message.unknown_keys(|key| key == "ip_address" || ENVELOPE.contains(&key));
        for object in message.objects("ip_address")?.unwrap_or_default() {
            warnings.extend(object.unknown_keys(|key| KEYS.contains(&key)));
        }
        Ok(warnings)
    }
}

impl IpAssociation {
    /// Reads an entry of a message or of the `ips` databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let address = object.required("public_ip", host_address(object, "public_ip")?)?;
        let length = object.required("netmask", netmask(object, "netmask")?)?;
        Ok(Self {
            place: object.place().into_owned(),
            address: Ipv4Net::new_assert(address, length),
            add: object.required("add", object.boolean("add")?)?,
            source_nat: object.boolean("source_nat")?.unwrap_or(false),
            gateway: host_address(object, "gateway")?,
            mac: object.parsed("vif_mac_address", "MAC address")?,
            nic_dev_id: object.parsed("nic_dev_id", "number of a NIC")?,
            network_type: network_type(object)?,
            is_private_gateway: object.boolean("is_private_gateway")?.unwrap_or(false),
            mtu: mtu(object, "mtu")?,
        })
    }
}

/// `nw_type`; a missing one is public.
fn network_type(object: &Object) -> Result<NetworkType, ConfigError> {
    match object.word("nw_type")?.as_deref() {
        None | Some("" | "public") => Ok(NetworkType::Public),
        Some("guest") => Ok(NetworkType::Guest),
        Some("control") => Ok(NetworkType::Control),
        Some(other) => {
            Err(object.error("nw_type", format_args!("{other:?} is none of public, guest, control")))
        }
    }
}
