//! What the daemon tells about bridges.

use anyhow::Result;
use router_common::bridge::FdbEntry;

use super::control::Control;
use super::views::names;
use crate::dataplane::monotonic_now;
use crate::show::{BridgeView, StationView};

/// The bridges in force, and who was heard of on them.
pub fn view(control: &mut Control) -> Result<Vec<BridgeView>> {
    let tables = control.reconciler.backend.programs.tables();
    let (bridges, now) = (tables.bridges()?, monotonic_now());
    let mut stations = tables.stations()?;
    stations.retain(|station| now.saturating_sub(station.heard) < FdbEntry::AGEING);
    stations.sort_unstable_by_key(|station| station.mac);
    let declared = &control.settings.tagged_ports;
    let mut views = Vec::new();
    for (bridge, members) in bridges {
        let ports: Vec<String> = members.iter().map(|ifindex| names(control, *ifindex).name).collect();
        let name =
            declared.iter().find(|port| ports.contains(&port.name)).and_then(|port| port.bridge.clone());
        // What has left the bridge is not there any more.
        let here =
            stations.iter().filter(|station| station.bridge == bridge && members.contains(&station.ifindex));
        let stations = here.map(|station| StationView {
            mac: station.mac.to_string(),
            port: names(control, station.ifindex).name,
            heard_seconds_ago: now.saturating_sub(station.heard) / 1_000_000_000,
        });
        views.push(BridgeView { name: name.unwrap_or_default(), stations: stations.collect(), ports });
    }
    views.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(views)
}
