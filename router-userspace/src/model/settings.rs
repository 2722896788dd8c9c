//! What the operator chooses, where CloudStack says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::trunk::TaggedPort;

/// Everything the operator chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How long flows and bindings live.
    pub timeouts: Timeouts,
    /// As whom a guest is seen by a guest that it calls by a public address.
    pub hairpin_source: HairpinSource,
    /// Who may send to a binding's external port.
    pub filtering: Filtering,
    /// What becomes of flows that the policy would not let begin any more.
    pub denied_flows: DeniedFlows,
    /// What becomes of SYNs over IPv6 that nobody inside has asked for.
    pub unsolicited_syn: UnsolicitedSyn,
    /// What a new socket gets of an address that has no port left.
    pub exhausted_ports: ExhaustedPorts,
    /// Which protocols are read along with.
    pub helpers: Helpers,
    /// How many external ports a guest may have at once per protocol (RFC 6888 REQ-4); `None`: as many as there are.
    pub ports_per_guest: Option<NonZeroU16>,
    /// Destinations towards which guests keep their source, whatever port they leave by (RFC 6888 REQ-6).
    pub untranslated: BTreeSet<Ipv4Net>,
    /// Which release of CloudStack speaks with the router.
    pub management_server: ManagementServer,
    /// Guest networks that are not as all others. A network may hold several; the narrowest counts.
    pub networks: BTreeMap<Ipv4Net, NetworkSettings>,
    /// Ports that are tags on a NIC. They have a file of their own.
    pub tagged_ports: Vec<TaggedPort>,
}

/// Which release of CloudStack speaks with the router. It never says so itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManagementServer {
    /// Guessed from what it has left here.
    #[default]
    Auto,
    /// This one.
    Release {
        /// 4 of 4.21.
        major: u32,
        /// 21 of 4.21.
        minor: u32,
    },
}

/// How long a flow may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP before both sides have acknowledged (RFC 5382 REQ-5: at least 4 minutes).
    pub tcp_opening: Duration,
    /// TCP in use (RFC 5382 REQ-5: at least 2 hours 4 minutes).
    pub tcp_established: Duration,
    /// TCP after RST, or FIN from both sides (RFC 7857 §2: 4 minutes).
    pub tcp_closing: Duration,
    /// UDP before an answer (RFC 4787 REQ-5: at least 2 minutes).
    pub udp_unanswered: Duration,
    /// UDP with answers (RFC 4787 REQ-5c: 5 minutes recommended).
    pub udp: Duration,
    /// ICMP queries (RFC 5508 REQ-2: at least 60 seconds).
    pub icmp: Duration,
    /// Anything else.
    pub other: Duration,
    /// How long a binding without flows keeps its external port, so that nobody else gets it at
    /// once (RFC 6888 REQ-8: 120 seconds). Cut short when a pool runs out of ports.
    pub hold_down: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self {
            tcp_opening: minutes(4),
            tcp_established: minutes(124),
            tcp_closing: minutes(4),
            udp_unanswered: minutes(2),
            udp: minutes(5),
            icmp: minutes(1),
            other: minutes(5),
            hold_down: minutes(2),
        }
    }
}

/// As whom a guest is seen by a guest that it calls by a public address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HairpinSource {
    /// As CloudStack's own router has it: within a tier as the tier's gateway, from another tier as
    /// itself.
    #[default]
    Gateway,
    /// As it is seen outside (RFC 4787 REQ-9a).
    External,
}

/// Who may send to a binding's external port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// Whom the guest has sent to, from that address and port (RFC 4787 §5).
    #[default]
    AddressAndPortDependent,
    /// Anybody.
    EndpointIndependent,
}

/// What becomes of a flow that is there when the policy changes and denies its first packet from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedFlows {
    /// It goes on: what is known passes.
    #[default]
    Kept,
    /// It ends at once.
    Cut,
}

/// What becomes of a SYN over IPv6 towards a guest that nobody inside has asked for: it is dropped, and then?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnsolicitedSyn {
    /// Nothing, as CloudStack's own router has it.
    #[default]
    Silent,
    /// Whoever has sent it hears so after six seconds (RFC 6092 REC-34).
    Answered,
}

/// What a new socket gets of an address that has no port left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExhaustedPorts {
    /// One that others have, for each of its flows, to another destination than theirs (RFC 7857 §3).
    #[default]
    Shared,
    /// None: the translation never changes its manner (RFC 4787 REQ-11).
    Refused,
}

/// Which protocols are read along with, because they open connections of which NAT would know nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Helpers {
    /// FTP: active from guests; passive to guests behind port forwarding or static NAT.
    pub ftp: bool,
    /// TFTP from guests.
    pub tftp: bool,
}

impl Helpers {
    /// None of them.
    pub const NONE: Self = Self { ftp: false, tftp: false };
}

impl Default for Helpers {
    fn default() -> Self {
        Self { ftp: true, tftp: true }
    }
}

/// What is chosen for one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Where its guests are seen from.
    pub mapping: Mapping,
}

/// Whether everybody outside sees a guest's socket by one external port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// Everybody does (RFC 4787 REQ-1).
    #[default]
    EndpointIndependent,
    /// Each destination has a port of its own (RFC 4787 §4.1: address and port dependent).
    Symmetric,
}
