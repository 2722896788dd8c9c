//! What CloudStack has said that is kept and not acted upon.

use super::databag::Databags;
use crate::error::ConfigError;
use crate::json::Place;

/// A sentence for each databag with something in it that remote access is needed for, where the machine lacks
/// something for that, and what.
pub fn unserved(bags: &Databags, lack: Option<&str>) -> Vec<ConfigError> {
    let Some(lack) = lack else { return Vec::new() };
    let there = bags.to_serve().into_iter().filter(|(_, count)| *count > 0);
    there.map(|(bag, count)| sentence(bag, count, lack)).collect()
}

fn sentence(bag: &str, count: usize, lack: &str) -> ConfigError {
    let what = if bag == "vpnuserlist" { "VPN user" } else { "server" };
    let stored = if count == 1 { format!("1 {what} is") } else { format!("{count} {what}s are") };
    let place = Place::document(format!("{bag}.json"));
    place.error(format_args!("{stored} stored and not in force: {lack}, which L2TP over IPsec needs"))
}
