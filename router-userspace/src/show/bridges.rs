//! `xvr show bridges`.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::{Table, duration, plural};

/// A bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeView {
    /// What `ports.json` calls it.
    pub name: String,
    /// Its ports.
    pub ports: Vec<String>,
    /// Who was heard of on it, by Ethernet address.
    pub stations: Vec<StationView>,
}

/// A station of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StationView {
    /// Its Ethernet address.
    pub mac: String,
    /// The port that it is behind.
    pub port: String,
    /// When it was last heard of, to within a second.
    pub heard_seconds_ago: u64,
}

/// Bridges for people.
pub fn bridges(bridges: &[BridgeView]) -> String {
    if bridges.is_empty() {
        return "There are no bridges.\n".to_owned();
    }
    let mut text = String::new();
    for BridgeView { name, ports, stations } in bridges {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "{name}: {}; {}.", ports.join(", "), plural(stations.len(), "station"));
        let mut table = Table::new(&["STATION", "PORT", "HEARD"]);
        for StationView { mac, port, heard_seconds_ago } in stations {
            table.row([mac.clone(), port.clone(), format!("{} ago", duration(*heard_seconds_ago))]);
        }
        text += &table.text_or("");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_has_ports_and_stations() {
        let station = StationView {
            mac: "02:00:00:00:05:0b".to_owned(),
            port: "eth5".to_owned(),
            heard_seconds_ago: 7,
        };
        let ports = vec!["eth5".to_owned(), "eth6".to_owned()];
        let busy = BridgeView { name: "blue".to_owned(), ports: ports.clone(), stations: vec![station] };
        let silent = BridgeView { name: "red".to_owned(), ports, stations: vec![] };
        let text = bridges(&[busy, silent]);
        assert!(text.starts_with("blue: eth5, eth6; 1 station.\n"), "{text}");
        assert!(text.contains("02:00:00:00:05:0b") && text.contains("7 s ago"), "{text}");
        assert!(text.ends_with("red: eth5, eth6; 0 stations.\n"), "{text}");
    }
}
