//! Who may speak BGP to the router.

use ipnet::IpNet;

use crate::cloudstack::databag::Databags;
use crate::error::ConfigError;
use crate::model::PortRange;
use crate::model::policy::{Action, Opening, Rule, Side, Traffic};

const PORT: u16 = 179;

/// It is open to its peers, outside.
pub(super) fn openings(bags: &Databags) -> Result<Vec<Opening>, ConfigError> {
    let mut peers: Vec<IpNet> = Vec::new();
    for peer in bags.bgp_peers()? {
        peers.extend(peer.sessions().map(|(address, _)| IpNet::from(address)));
    }
    peers.sort_unstable();
    peers.dedup();
    let traffic = Traffic::Tcp(PortRange::new(PORT, PORT).ok());
    let opening = |peers| Opening {
        side: Side::Outside,
        rule: Rule::new(0, Action::Allow, traffic, peers, Vec::new()).into(),
    };
    Ok((!peers.is_empty()).then(|| opening(peers)).into_iter().collect())
}
