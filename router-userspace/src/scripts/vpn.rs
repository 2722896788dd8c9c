//! `checkbatchs2svpn.sh`, `checks2svpn.sh`: which site-to-site VPNs are connected, as strongSwan says that runs with
//! its socket below the root.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::{failed, words};
use crate::root::Root;
use crate::services::charon;

/// `checkbatchs2svpn.sh IP...`: for each peer `ip:ret:text&`, of which the management server takes whatever has three
/// words. Peers of IPv6 cannot be told so, and are left out.
pub fn check_all(arguments: &[OsString]) -> u8 {
    let tunnels = Tunnels::look(&Root::find(None));
    for word in words(arguments) {
        match word.parse() {
            Ok(peer) => print!("{peer}:{}:{}&", tunnels.status(peer), text(tunnels.status(peer))),
            Err(_) => eprintln!("checkbatchs2svpn.sh: {word:?} is no IPv4 address, left out"),
        }
    }
    0
}

/// `checks2svpn.sh IP`: the same about one peer, by text and exit status.
pub fn check_one(arguments: &[OsString]) -> u8 {
    let words = words(arguments);
    let Some(peer) = words.first().and_then(|word| word.parse().ok()).filter(|_| words.len() == 1) else {
        return failed("checks2svpn.sh", "usage: checks2svpn.sh IP");
    };
    let status = Tunnels::look(&Root::find(None)).status(peer);
    print!("{}", text(status));
    status
}

const CONNECTED: u8 = 0;
const NOT_CONNECTED: u8 = 11;

fn text(status: u8) -> &'static str {
    if status == CONNECTED {
        "IPsec SA found;Site-to-site VPN have connected"
    } else {
        "IPsec SA not found;Site-to-site VPN have not connected"
    }
}

/// What strongSwan has said, if it runs.
struct Tunnels(String);

impl Tunnels {
    fn look(root: &Root) -> Self {
        const TIME: Duration = Duration::from_secs(20);
        let said = match charon::list(root, TIME) {
            Ok(None) => String::new(),
            Ok(Some(ran)) if ran.succeeded() => ran.stdout,
            Ok(Some(ran)) => {
                eprintln!("swanctl ended with {}: {}", ran.code(), ran.stderr.trim());
                String::new()
            }
            Err(error) => {
                eprintln!("swanctl: {error}");
                String::new()
            }
        };
        Self(said)
    }

    fn status(&self, peer: Ipv4Addr) -> u8 {
        let is_connected = self.0.split("list-sa event").any(|tunnel| is_established(tunnel, peer));
        if is_connected { CONNECTED } else { NOT_CONNECTED }
    }
}

/// `{name {uniqueid=1 … state=ESTABLISHED … remote-host=192.0.2.2 … child-sas {…}}}`
fn is_established(tunnel: &str, peer: Ipv4Addr) -> bool {
    // What is behind is about the networks at both ends.
    let ike = tunnel.split("child-sas").next().unwrap_or_default();
    let has = |key: &str, value: &str| {
        let mut words = ike.split(['{', '}', ' ']).filter_map(|word| word.split_once('='));
        words.any(|word| word == (key, value))
    };
    has("state", "ESTABLISHED") && has("remote-host", &peer.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_the_peers_and_established() {
        let tunnel = |state: &str, peer: &str| {
            format!(
                "list-sa event {{vpn-{peer} {{uniqueid=3 version=2 state={state} local-host=203.0.113.30 \
                 remote-host={peer} remote-port=500 child-sas {{net-1 {{state=INSTALLED}}}}}}}}\n"
            )
        };
        let said = tunnel("ESTABLISHED", "198.51.100.200") + &tunnel("CONNECTING", "198.51.100.201");
        let tunnels = Tunnels(said + "list-sas reply {}\n");
        assert_eq!(tunnels.status(Ipv4Addr::new(198, 51, 100, 200)), CONNECTED);
        assert_eq!(tunnels.status(Ipv4Addr::new(198, 51, 100, 201)), NOT_CONNECTED);
        assert_eq!(tunnels.status(Ipv4Addr::new(198, 51, 100, 20)), NOT_CONNECTED);
        assert_eq!(Tunnels(String::new()).status(Ipv4Addr::new(198, 51, 100, 200)), NOT_CONNECTED);
    }
}
