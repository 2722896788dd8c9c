//! The operator's settings → bits of the programs' tables.

use ipnet::{IpNet, Ipv4Net};
use router_common::config::RouterConfig;
use router_common::port::Port as PortEntry;

use super::nat::{NatEntry, NatKey};
use super::{Problem, Subject};
use crate::model::settings::{ExhaustedPorts, Filtering, HairpinSource, Mapping, Settings, UnsolicitedSyn};
use crate::model::{Port, port::Role};

/// `RouterConfig::flags`.
pub(super) fn flags(settings: &Settings) -> u32 {
    let hairpin = match settings.hairpin_source {
        HairpinSource::Gateway => 0,
        HairpinSource::External => RouterConfig::HAIRPIN_EXTERNAL,
    };
    let filtering = match settings.filtering {
        Filtering::AddressAndPortDependent => 0,
        Filtering::EndpointIndependent => RouterConfig::OPEN_BINDINGS,
    };
    let ftp = if settings.helpers.ftp { RouterConfig::FTP } else { 0 };
    let tftp = if settings.helpers.tftp { RouterConfig::TFTP } else { 0 };
    let untranslated = if settings.untranslated.is_empty() { 0 } else { RouterConfig::UNTRANSLATED };
    let syns = match settings.unsolicited_syn {
        UnsolicitedSyn::Silent => 0,
        UnsolicitedSyn::Answered => RouterConfig::ANSWER_SYNS,
    };
    let exhausted = match settings.exhausted_ports {
        ExhaustedPorts::Shared => 0,
        ExhaustedPorts::Refused => RouterConfig::REFUSE_EXHAUSTED,
    };
    hairpin | filtering | ftp | tftp | untranslated | syns | exhausted
}

/// The networks towards which guests keep their source.
pub(super) fn untranslated(settings: &Settings) -> impl Iterator<Item = (NatKey, NatEntry)> {
    settings.untranslated.iter().map(|network| (NatKey::Untranslated(*network), NatEntry::Untranslated))
}

/// Those of `Port::flags` that are the operator's.
pub(super) fn port_flags(port: &Port, settings: &Settings) -> u8 {
    let networks = settings.networks.iter().filter(|(network, _)| is_of(port, network));
    let narrowest = networks.max_by_key(|(network, _)| network.prefix_len());
    match narrowest.map(|(_, chosen)| chosen.mapping).unwrap_or_default() {
        Mapping::EndpointIndependent => 0,
        Mapping::Symmetric => PortEntry::SYMMETRIC,
    }
}

/// Networks that no guest port has.
pub(super) fn problems(settings: &Settings, ports: &[Port]) -> Vec<Problem> {
    let absent = settings.networks.keys().filter(|network| !ports.iter().any(|port| is_of(port, network)));
    absent
        .map(|network| Problem {
            subject: Subject::Network(*network),
            message: "no guest port has an address in it".to_owned(),
        })
        .collect()
}

fn is_of(port: &Port, network: &Ipv4Net) -> bool {
    let holds = |own: &IpNet| matches!(own, IpNet::V4(own) if network.contains(&own.addr()));
    port.role == Role::Guest && port.addresses.iter().any(holds)
}
