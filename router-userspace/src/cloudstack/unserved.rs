//! What CloudStack has said that this release keeps and does not act upon.

use super::databag::Databags;
use crate::error::ConfigError;
use crate::json::Place;

/// A sentence for each databag with something in it that no daemon of this release serves.
pub fn unserved(bags: &Databags) -> Vec<ConfigError> {
    let there = bags.to_serve().into_iter().filter(|(_, count)| *count > 0);
    there.filter_map(|(bag, count)| sentence(bag, count)).collect()
}

fn sentence(bag: &str, count: usize) -> Option<ConfigError> {
    let (one, many, lack) = match bag {
        "remoteaccessvpn" => ("server", "servers", "serves no remote access VPN"),
        "vpnuserlist" => ("VPN user", "VPN users", "serves no remote access VPN"),
        _ => return None,
    };
    let stored = if count == 1 { format!("1 {one} is") } else { format!("{count} {many} are") };
    let place = Place::document(format!("{bag}.json"));
    Some(place.error(format_args!("{stored} stored and not in force: this release {lack} yet")))
}
