//! `guestnetwork`: a tier of a VPC (`guest_network.json`).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    ENVELOPE, Written, device, host_address, host_address6, is_host, mtu, netmask, not_a_host, prefix_length,
};
use crate::cloudstack::object::Object;
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::Mac;

const KEYS: [&str; 20] = [
    "add",
    "mac_address",
    "device",
    "router_guest_ip",
    "router_guest_netmask",
    "router_guest_gateway",
    "cidr",
    "cidr6",
    "dns",
    "dns6",
    "domain_name",
    "router_guest_ip6",
    "router_guest_ip6_gateway",
    "router_guest_ip6_cidr",
    "router_ip6",
    "router_ip6_gateway",
    "router_ip6_cidr",
    "is_vr_guest_gateway",
    "network_id",
    "mtu",
];

/// A message of type `guestnetwork`.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestNetwork {
    /// Where it stands.
    pub place: Place,
    /// Whether the tier is wanted; `false` removes it.
    pub add: bool,
    /// MAC address of the tier's NIC.
    pub mac: Option<Mac>,
    /// CloudStack's name of the NIC, `ethN`.
    pub device: Option<String>,
    /// The router's own address in the tier, host bits kept.
    pub address: Ipv4Net,
    /// The tier's gateway: the router, the pair's virtual address, or somebody else.
    pub gateway: Option<Ipv4Addr>,
    /// The router's own IPv6 address in the tier.
    pub address6: Option<Ipv6Net>,
    /// The tier's IPv6 gateway: the router, or the pair's virtual address.
    pub gateway6: Option<Ipv6Addr>,
    /// The router's IPv6 address on its public NIC, by which the tier is reached.
    pub public6: Option<Ipv6Net>,
    /// The public NIC's IPv6 gateway.
    pub public_gateway6: Option<Ipv6Addr>,
    /// Whether the router may own the gateway's address. From CloudStack 4.21 on, which also sends
    /// `network_id`, this is what `is_vr_guest_gateway` says; 4.20 sends `false` for tiers whose
    /// gateway is the router, and earlier releases send nothing.
    pub may_own_gateway: bool,
    /// Numeric id of the tier's network, from CloudStack 4.21 on.
    pub network_id: Option<u64>,
    /// MTU of the tier in bytes.
    pub mtu: Option<u16>,
}

impl GuestNetwork {
    /// Reads a message.
    pub(in crate::cloudstack) fn message(object: &Object) -> Result<Written<Self>, ConfigError> {
        Written::read(object, Self::read)
    }

    /// Reads a message or an entry of the `guestnetwork` databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let address = object.required("router_guest_ip", host_address(object, "router_guest_ip")?)?;
        let length = object.required("router_guest_netmask", netmask(object, "router_guest_netmask")?)?;
        let network_id = object.parsed("network_id", "network id")?;
        let is_gateway = object.boolean("is_vr_guest_gateway")?;
        let tier = Self {
            place: object.place().into_owned(),
            add: object.required("add", object.boolean("add")?)?,
            mac: object.parsed("mac_address", "MAC address")?,
            device: device(object)?,
            address: Ipv4Net::new_assert(address, length),
            gateway: host_address(object, "router_guest_gateway")?,
            address6: address6(object, "router_guest_ip6", "router_guest_ip6_cidr", Some("cidr6"))?,
            gateway6: host_address6(object, "router_guest_ip6_gateway")?,
            public6: address6(object, "router_ip6", "router_ip6_cidr", None)?,
            public_gateway6: object.parsed("router_ip6_gateway", "IPv6 address")?,
            may_own_gateway: network_id.is_none() || is_gateway != Some(false),
            network_id,
            mtu: mtu(object, "mtu")?,
        };
        if tier.mac.is_none() && tier.device.is_none() {
            return Err(object.error("mac_address", "missing, and so is device: which NIC?"));
        }
        if tier.add && !tier.may_own_gateway && tier.gateway == Some(address) {
            let message = format_args!("{address} is the gateway's, which is not the router here");
            return Err(object.error("router_guest_ip", message));
        }
        Ok(tier)
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Vec<ConfigError> {
        message.unknown_keys(|key| KEYS.contains(&key) || ENVELOPE.contains(&key))
    }
}

/// An IPv6 address; its prefix length is that of a network or stands alone.
fn address6(
    object: &Object,
    address_key: &str,
    network_key: &str,
    length_key: Option<&str>,
) -> Result<Option<Ipv6Net>, ConfigError> {
    let Some(address) = object.parsed::<Ipv6Addr>(address_key, "IPv6 address")? else { return Ok(None) };
    if !is_host(address.into()) {
        return Err(not_a_host(object, address_key, address.into()));
    }
    let network = object.parsed::<Ipv6Net>(network_key, "IPv6 network")?;
    let length = match (network, length_key) {
        (Some(network), _) => Some(network.prefix_len()),
        (None, Some(key)) => prefix_length(object, key)?,
        (None, None) => None,
    };
    let length = object.required(network_key, length)?;
    Ok(Some(Ipv6Net::new_assert(address, length)))
}
