//! `cmdline`: what the router was told at boot (`cmd_line.json`, made from the boot line).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::ips::NetworkType;
use super::pair::PairKeys;
use super::{ENVELOPE, host_address, is_host, mtu, netmask, not_a_host, prefix_length};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::Mac;
use crate::model::port::MacError;

/// Keys of CloudStack's boot lines besides `eth<N>ip` and its kin.
const KEYS: &[&str] = &[
    "template",
    "name",
    "type",
    "authorized_key",
    "vmpassword",
    "gateway",
    "ip6gateway",
    "privateMtu",
    "publicMtu",
    "domain",
    "cidrsize",
    "dhcprange",
    "dns1",
    "dns2",
    "ip6dns1",
    "ip6dns2",
    "dnssearchorder",
    "useextdns",
    "userouteripresolver",
    "has_public_network",
    "exposedns",
    "disable_rp_filter",
    "ip6firewall",
    "logrotatefrequency",
    "mgmtcidr",
    "localgw",
    "sshonguest",
    "extra_pubnics",
    "nic_macs",
    "vpccidr",
    "privategateway",
    "source_nat_ip",
    "is_routed",
    "redundant_router",
    "redundant_state",
    "advert_int",
    "router_id",
    "router_password",
    "guestgw",
    "guestbrd",
    "guestcidrsize",
    "guestgw6",
    "guestcidr6size",
    "router_pr",
    "host",
    "port",
    "ntpserverlist",
    "userdata",
    "defaultroute",
    "bootproto",
    "mtu",
    "keystore_password",
];

/// Which kind of router this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterKind {
    /// `router`: an isolated network.
    Isolated,
    /// `vpcrouter`: a VPC.
    Vpc,
    /// `dhcpsrvr`: a shared network, which has a router of its own.
    Shared,
}

impl RouterKind {
    /// What the NICs that exist at boot are for, from `eth0` on.
    pub const fn boot_nics(self) -> &'static [NetworkType] {
        match self {
            Self::Isolated => &[NetworkType::Guest, NetworkType::Control, NetworkType::Public],
            Self::Vpc => &[NetworkType::Control],
            Self::Shared => &[NetworkType::Guest, NetworkType::Control],
        }
    }
}

/// A NIC of the boot line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootNic {
    /// N of `ethN`.
    pub number: usize,
    /// What it is for.
    pub network_type: NetworkType,
    /// Its MAC address, where the boot line lists them (VMware).
    pub mac: Option<Mac>,
    /// Its address, host bits kept.
    pub address: Ipv4Net,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Net>,
}

/// A message of type `cmdline`.
#[derive(Clone, Debug, PartialEq)]
pub struct CmdLine {
    /// Where it stands.
    pub place: Place,
    /// Kind of router.
    pub kind: RouterKind,
    /// The NICs that exist at boot.
    pub nics: Vec<BootNic>,
    /// IPv4 gateway of the default NIC.
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 gateway of the default NIC.
    pub gateway6: Option<Ipv6Addr>,
    /// Gateway of the control NIC (VMware, Hyper-V).
    pub control_gateway: Option<Ipv4Addr>,
    /// MTU of public NICs in bytes.
    pub public_mtu: Option<u16>,
    /// MTU of the guest NIC in bytes.
    pub private_mtu: Option<u16>,
    /// Addresses are routed: no NAT of any kind.
    pub is_routed: bool,
    /// The VPC has a public NIC.
    pub has_public_network: bool,
    /// The VPC's source NAT address.
    pub source_nat_ip: Option<Ipv4Addr>,
    /// The VPC's range, of which its tiers have parts, host bits clear.
    pub vpc_cidr: Option<Ipv4Net>,
    /// What a pair of routers needs; nothing for a router that is alone.
    pub pair: Option<PairKeys>,
    /// Whose key opens the router to CloudStack, base64 of a line of OpenSSH's `authorized_keys`.
    pub authorized_key: Option<String>,
    /// Password of root, for the console.
    pub password: Option<String>,
    /// The keys as they were written.
    pub(in crate::cloudstack) config: Entry,
}

impl CmdLine {
    /// Reads the object with the keys: `cmd_line` of the message, `config` of the databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let kind = kind(object)?;
        let mut nics = Vec::new();
        let macs = nic_macs(object)?;
        for (number, &network_type) in kind.boot_nics().iter().enumerate() {
            nics.extend(boot_nic(object, number, network_type, macs.get(number).copied())?);
        }
        Ok(Self {
            place: object.place().into_owned(),
            kind,
            nics,
            gateway: host_address(object, "gateway")?,
            gateway6: object.parsed("ip6gateway", "IPv6 address")?,
            control_gateway: host_address(object, "localgw")?,
            public_mtu: mtu(object, "publicMtu")?,
            private_mtu: mtu(object, "privateMtu")?,
            is_routed: object.boolean("is_routed")?.unwrap_or(false),
            has_public_network: object.boolean("has_public_network")?.unwrap_or(true),
            source_nat_ip: host_address(object, "source_nat_ip")?,
            vpc_cidr: object.parsed::<Ipv4Net>("vpccidr", "IPv4 network")?.map(|range| range.trunc()),
            pair: PairKeys::read(object)?,
            password: object.text("vmpassword")?.filter(|password| !password.is_empty()),
            authorized_key: object.text("authorized_key")?.filter(|key| !key.is_empty()),
            config: object.to_entry(),
        })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Result<Vec<ConfigError>, ConfigError> {
        let mut warnings = message.unknown_keys(|key| key == "cmd_line" || ENVELOPE.contains(&key));
        if let Some(object) = message.object("cmd_line")? {
            warnings.extend(object.unknown_keys(|key| KEYS.contains(&key) || is_nic_key(key)));
        }
        Ok(warnings)
    }
}

fn kind(object: &Object) -> Result<RouterKind, ConfigError> {
    match object.required("type", object.word("type")?)?.as_str() {
        "router" => Ok(RouterKind::Isolated),
        "vpcrouter" => Ok(RouterKind::Vpc),
        "dhcpsrvr" => Ok(RouterKind::Shared),
        other => Err(object.error("type", format_args!("{other:?} is none of router, vpcrouter, dhcpsrvr"))),
    }
}

fn boot_nic(
    object: &Object,
    number: usize,
    network_type: NetworkType,
    mac: Option<Mac>,
) -> Result<Option<BootNic>, ConfigError> {
    let key = |suffix: &str| format!("eth{number}{suffix}");
    let address6 = object.parsed::<Ipv6Addr>(&key("ip6"), "IPv6 address")?;
    let Some(address) = host_address(object, &key("ip"))? else {
        // CloudStack has no network with IPv6 alone.
        return address6.map_or(Ok(None), |_| Err(object.error(&key("ip"), "missing")));
    };
    let length = object.required(&key("mask"), netmask(object, &key("mask"))?)?;
    let address6 = match address6 {
        None => None,
        Some(address6) if !is_host(address6.into()) => {
            return Err(not_a_host(object, &key("ip6"), address6.into()));
        }
        Some(address6) => {
            let length = object.required(&key("ip6prelen"), prefix_length(object, &key("ip6prelen"))?)?;
            Some(Ipv6Net::new_assert(address6, length))
        }
    };
    Ok(Some(BootNic { number, network_type, mac, address: Ipv4Net::new_assert(address, length), address6 }))
}

/// `nic_macs`: the NICs' addresses from `eth0` on, with bars between them.
fn nic_macs(object: &Object) -> Result<Vec<Mac>, ConfigError> {
    let text = object.text("nic_macs")?.unwrap_or_default();
    let mut macs = Vec::new();
    for word in text.split('|').filter(|word| !word.is_empty()) {
        let mac = word.parse().map_err(|error: MacError| object.error("nic_macs", error))?;
        if macs.contains(&mac) {
            return Err(object.error("nic_macs", format_args!("{mac} is there twice")));
        }
        macs.push(mac);
    }
    Ok(macs)
}

/// `eth<N>ip`, `eth<N>mask`, `eth<N>ip6`, `eth<N>ip6prelen`.
fn is_nic_key(key: &str) -> bool {
    let Some(rest) = key.strip_prefix("eth") else { return false };
    let suffix = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    suffix.len() < rest.len() && ["ip", "mask", "ip6", "ip6prelen"].contains(&suffix)
}
