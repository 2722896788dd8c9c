//! A command: one JSON file from CloudStack, typed.

use super::object::Object;
use super::raw::Raw;
use super::wire::bgppeers::BgpPeers;
use super::wire::cmdline::CmdLine;
use super::wire::dhcpentry::DhcpEntry;
use super::wire::firewallrules::FirewallRules;
use super::wire::forwardrules::ForwardRules;
use super::wire::guestnetwork::GuestNetwork;
use super::wire::ipaliases::IpAliases;
use super::wire::ips::Ips;
use super::wire::loadbalancer::LoadBalancer;
use super::wire::monitorservice::MonitorService;
use super::wire::networkacl::NetworkAcl;
use super::wire::remoteaccessvpn::RemoteAccessVpn;
use super::wire::site2sitevpn::Site2SiteVpn;
use super::wire::staticnatrules::StaticNatRules;
use super::wire::staticroutes::StaticRoutes;
use super::wire::vmdata::VmData;
use super::wire::vmpassword::VmPassword;
use super::wire::vpnuserlist::VpnUserList;
use super::wire::{Family, Written};
use crate::compile::Index;
use crate::error::ConfigError;
use crate::json::{Place, depth, document};
use crate::model::Mac;

/// How deep a message's objects and lists may be in each other; serde reads 127.
const DEEPEST: usize = 100;

/// One message, by its `type`.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// `cmdline`: the boot line.
    CmdLine(CmdLine),
    /// `ips`: addresses of public NICs and private gateways.
    Ips(Ips),
    /// `guestnetwork`: a tier of a VPC.
    GuestNetwork(Written<GuestNetwork>),
    /// `staticroutes`: routes of a VPC.
    StaticRoutes(StaticRoutes),
    /// `forwardrules`: port forwarding.
    ForwardRules(ForwardRules),
    /// `staticnatrules`: static NAT.
    StaticNatRules(StaticNatRules),
    /// `firewallrules` and `ipv6firewallrules`: the firewall of an isolated network.
    FirewallRules(FirewallRules),
    /// `networkacl`: the access lists of a VPC's tier or private gateway.
    NetworkAcl(NetworkAcl),
    /// `monitorservice`: what is to be watched.
    MonitorService(MonitorService),
    /// `ipaliases`: the router's addresses in further subnets of a shared network.
    IpAliases(IpAliases),
    /// `dhcpentry`: a guest's address and name.
    DhcpEntry(DhcpEntry),
    /// `loadbalancer`: haproxy's configuration.
    LoadBalancer(LoadBalancer),
    /// `site2sitevpn`: a tunnel of a VPC.
    Site2SiteVpn(Site2SiteVpn),
    /// `remoteaccessvpn`: a VPN for people.
    RemoteAccessVpn(RemoteAccessVpn),
    /// `vpnuserlist`: who may use that.
    VpnUserList(VpnUserList),
    /// `bgppeers`: to whom routed networks are announced.
    BgpPeers(BgpPeers),
    /// `vmdata`: what a guest is told about itself.
    VmData(VmData),
    /// `vmpassword`: a password that a guest shall fetch.
    VmPassword(VmPassword),
    /// Any other type, and `dhcpconfig`, which CloudStack's own router ignores as well. Merging it
    /// changes nothing.
    Unknown {
        /// Where the type stands.
        place: Place,
        /// The type.
        name: String,
    },
}

/// A command and what is odd about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The command.
    pub command: Command,
    /// What was ignored, with its place: unknown keys, an unknown type.
    pub warnings: Vec<ConfigError>,
}

impl Command {
    /// Reads a JSON file. `file` is its name in errors and warnings.
    ///
    /// # Errors
    ///
    /// Text that is no JSON (the message has line and column), a document without `type`, a
    /// missing key that is needed, a value of the wrong type, an address, netmask or MAC address
    /// that is none.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Parsed, ConfigError> {
        // A databag has the message a few steps further down, and has to be read again.
        if depth(bytes) > DEEPEST {
            return Err(ConfigError::new(file, "", format_args!("nested deeper than {DEEPEST}")));
        }
        if let Some(parsed) = parse_policy(file, bytes)? {
            return Ok(parsed);
        }
        let value = document(file, bytes)?;
        let message = Object::from_value(Place::document(file), &value)?;
        let name = message.required("type", message.text("type")?)?;
        let place = message.place().at("type");
        let (command, warnings) = match name.as_str() {
            "cmdline" => {
                let object = message.required("cmd_line", message.object("cmd_line")?)?;
                (Self::CmdLine(CmdLine::read(&object)?), CmdLine::warnings(&message)?)
            }
            "ips" => (Self::Ips(Ips::read(&message)?), Ips::warnings(&message)?),
            "guestnetwork" => {
                (Self::GuestNetwork(GuestNetwork::message(&message)?), GuestNetwork::warnings(&message))
            }
            "staticroutes" => {
                (Self::StaticRoutes(StaticRoutes::read(&message)?), StaticRoutes::warnings(&message)?)
            }
            "forwardrules" => {
                (Self::ForwardRules(ForwardRules::read(&message)?), ForwardRules::warnings(&message)?)
            }
            "staticnatrules" => {
                (Self::StaticNatRules(StaticNatRules::read(&message)?), StaticNatRules::warnings(&message)?)
            }
            "monitorservice" => {
                (Self::MonitorService(MonitorService::read(&message)?), MonitorService::warnings(&message))
            }
            "ipaliases" => (Self::IpAliases(IpAliases::read(&message)?), IpAliases::warnings(&message)?),
            "dhcpentry" => (Self::DhcpEntry(DhcpEntry::read(&message)?), DhcpEntry::warnings(&message)),
            "loadbalancer" => {
                (Self::LoadBalancer(LoadBalancer::read(&message)?), LoadBalancer::warnings(&message)?)
            }
            "site2sitevpn" => {
                (Self::Site2SiteVpn(Site2SiteVpn::read(&message)?), Site2SiteVpn::warnings(&message))
            }
            "remoteaccessvpn" => {
                (Self::RemoteAccessVpn(RemoteAccessVpn::read(&message)?), RemoteAccessVpn::warnings(&message))
            }
            "vpnuserlist" => {
                (Self::VpnUserList(VpnUserList::read(&message)?), VpnUserList::warnings(&message)?)
            }
            "bgppeers" => (Self::BgpPeers(BgpPeers::read(&message)?), BgpPeers::warnings(&message)?),
            "vmdata" => {
                let (data, warnings) = VmData::read(&message)?;
                (Self::VmData(data), warnings)
            }
            "vmpassword" => (Self::VmPassword(VmPassword::read(&message)?), VmPassword::warnings(&message)),
            other => {
                let warning = place.error(format_args!("type {other:?} is not known, nothing is stored"));
                (Self::Unknown { place, name }, vec![warning])
            }
        };
        Ok(Parsed { command, warnings })
    }

    /// The `type` of the message.
    pub fn type_name(&self) -> &str {
        match self {
            Self::CmdLine(_) => "cmdline",
            Self::Ips(_) => "ips",
            Self::GuestNetwork(_) => "guestnetwork",
            Self::StaticRoutes(_) => "staticroutes",
            Self::ForwardRules(_) => "forwardrules",
            Self::StaticNatRules(_) => "staticnatrules",
            Self::FirewallRules(FirewallRules { family: Family::Ipv4, .. }) => "firewallrules",
            Self::FirewallRules(FirewallRules { family: Family::Ipv6, .. }) => "ipv6firewallrules",
            Self::NetworkAcl(_) => "networkacl",
            Self::MonitorService(_) => "monitorservice",
            Self::IpAliases(_) => "ipaliases",
            Self::DhcpEntry(_) => "dhcpentry",
            Self::LoadBalancer(_) => "loadbalancer",
            Self::Site2SiteVpn(_) => "site2sitevpn",
            Self::RemoteAccessVpn(_) => "remoteaccessvpn",
            Self::VpnUserList(_) => "vpnuserlist",
            Self::BgpPeers(_) => "bgppeers",
            Self::VmData(_) => "vmdata",
            Self::VmPassword(_) => "vmpassword",
            Self::Unknown { name, .. } => name,
        }
    }

    /// Whether the command may change what is forwarded, and how. One that does not is merged and saved,
    /// and that is all.
    pub fn is_about_forwarding(&self) -> bool {
        match self {
            Self::CmdLine(_)
            | Self::Ips(_)
            | Self::GuestNetwork(_)
            | Self::StaticRoutes(_)
            | Self::ForwardRules(_)
            | Self::StaticNatRules(_)
            | Self::FirewallRules(_)
            | Self::NetworkAcl(_)
            | Self::LoadBalancer(_)
            | Self::BgpPeers(_)
            | Self::Site2SiteVpn(_)
            | Self::RemoteAccessVpn(_)
            | Self::IpAliases(_) => true,
            Self::DhcpEntry(_)
            | Self::VpnUserList(_)
            | Self::MonitorService(_)
            | Self::VmData(_)
            | Self::VmPassword(_)
            | Self::Unknown { .. } => false,
        }
    }

    /// MAC addresses that the command needs and no NIC has: what a caller may wait for, since
    /// hypervisors plug NICs while they send. [`merge`](super::Databags::merge) fails on them.
    pub fn absent_nics(&self, nics: &Index<'_>) -> Vec<Mac> {
        let mut macs: Vec<Mac> = match self {
            Self::CmdLine(boot) => boot.nics.iter().filter_map(|nic| nic.mac).collect(),
            Self::Ips(ips) => {
                let said = ips.associations.iter().map(|association| &association.says);
                said.filter(|said| said.add).filter_map(|said| said.mac).collect()
            }
            Self::GuestNetwork(tier) => tier.says.mac.filter(|_| tier.says.add).into_iter().collect(),
            Self::StaticRoutes(_)
            | Self::ForwardRules(_)
            | Self::StaticNatRules(_)
            | Self::FirewallRules(_)
            | Self::NetworkAcl(_)
            | Self::MonitorService(_)
            | Self::IpAliases(_)
            | Self::DhcpEntry(_)
            | Self::LoadBalancer(_)
            | Self::Site2SiteVpn(_)
            | Self::RemoteAccessVpn(_)
            | Self::VpnUserList(_)
            | Self::BgpPeers(_)
            | Self::VmData(_)
            | Self::VmPassword(_)
            | Self::Unknown { .. } => Vec::new(),
        };
        macs.retain(|mac| nics.by_mac(*mac).is_none());
        macs.sort_unstable();
        macs.dedup();
        macs
    }
}

/// The messages whose lists of rules may be long, read piece by piece. `None`: another type, or
/// something that is for others to say what is wrong with.
fn parse_policy(file: &str, bytes: &[u8]) -> Result<Option<Parsed>, ConfigError> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(None) };
    let Ok(message) = Raw::read(Place::document(file), text) else { return Ok(None) };
    let name = message.text("type").and_then(|name| serde_json::from_str::<String>(name).ok());
    let (command, warnings) = match name.as_deref() {
        Some("firewallrules") => {
            let (rules, warnings) = FirewallRules::read(&message, Family::Ipv4)?;
            (Command::FirewallRules(rules), warnings)
        }
        Some("ipv6firewallrules") => {
            let (rules, warnings) = FirewallRules::read(&message, Family::Ipv6)?;
            (Command::FirewallRules(rules), warnings)
        }
        Some("networkacl") => {
            let (acl, warnings) = NetworkAcl::read(&message)?;
            (Command::NetworkAcl(acl), warnings)
        }
        _ => return Ok(None),
    };
    Ok(Some(Parsed { command, warnings }))
}
