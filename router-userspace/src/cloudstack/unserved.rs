//! What CloudStack has said that this release keeps and does not act upon.

use super::databag::Databags;
use crate::error::ConfigError;
use crate::json::Place;

/// A sentence for each databag with something in it that no daemon of this release serves.
pub fn unserved(bags: &Databags) -> Vec<ConfigError> {
    let kinds = [
        ("bgppeers", bags.bgppeers.len(), ["BGP peer", "BGP peers"], "speaks no BGP"),
        ("dhcpentry", bags.guests(), ["guest's address", "guests' addresses"], "serves no DHCP and DNS"),
        ("loadbalancer", bags.listeners(), ["listener", "listeners"], "balances no load"),
        ("remoteaccessvpn", bags.remoteaccessvpn.len(), ["server", "servers"], "serves no remote access VPN"),
        ("site2sitevpn", bags.tunnels(), ["tunnel", "tunnels"], "has no site-to-site VPN"),
        ("vpnuserlist", bags.vpn_users(), ["VPN user", "VPN users"], "serves no remote access VPN"),
    ];
    let kinds = kinds.into_iter().filter(|(_, count, _, _)| *count > 0);
    let sentence = |(bag, count, [one, many], lack): (&str, usize, [&str; 2], &str)| {
        let (what, is) = if count == 1 { (one, "is") } else { (many, "are") };
        let place = Place::document(format!("{bag}.json"));
        place.error(format_args!("{count} {what} {is} stored and not in force: this release {lack} yet"))
    };
    kinds.map(sentence).collect()
}
