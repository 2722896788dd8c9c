//! FRR: `bgpd`, which speaks, and `zebra`, which puts what it hears into the kernel's routes.
//!
//! Packets follow at once: the programs ask the kernel, and flows look their way out up again whenever a route changes.
//! Several of both run on a machine, each with sockets and files of its own. A changed configuration is compared with
//! what runs, and the difference is applied (`frr-reload.py`), so that sessions stay.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use super::{Call, Reload, Rendered, Service};
use crate::model::Bgp;
use crate::root::Root;

/// Both daemons for what is desired.
pub fn render(bgp: &Bgp, root: &Root) -> [Service; 2] {
    let zebra = "! Written by xvr.\nip nht resolve-via-default\nipv6 nht resolve-via-default\n".to_owned();
    // Its reload would turn forwarding off, which is not in its file.
    let zebra = service(root, ZEBRA, "zebra.conf", zebra, Reload::Restart);
    let mut bgpd = service(root, BGPD, "frr.conf", configuration(bgp), reload(root));
    // A session that comes before the interfaces do loses every IPv6 route: bgpd then has no interface for the
    // link-local next hop, and takes the announcement for a withdrawal. It would ask zebra again after ten seconds.
    bgpd.needs = Some(root.path().join("run/frr").join(ZEBRA_SOCKET));
    // Whose absence vtysh would complain about.
    let shell = "service integrated-vtysh-config\n".to_owned();
    bgpd.files.push(Rendered { path: root.path().join("etc/frr/vtysh.conf"), content: shell, mode: 0o644 });
    [zebra, bgpd]
}

/// Compares what runs with the file and applies the difference.
fn reload(root: &Root) -> Reload {
    let [etc, run] = ["etc/frr", "run/frr"].map(|folder| root.path().join(folder).display().to_string());
    let config = format!("{etc}/frr.conf");
    let arguments = ["--reload", "--stdout", "--daemon", "bgpd", "--vty_socket", &run, "--rundir", &run];
    let arguments = arguments.into_iter().chain(["--confdir", &etc, &config]).map(str::to_owned).collect();
    Reload::Call(Call { program: "/usr/lib/frr/frr-reload.py", arguments })
}

/// Name and program.
type Daemon = (&'static str, &'static str);
const ZEBRA: Daemon = ("zebra", "/usr/lib/frr/zebra");
const BGPD: Daemon = ("bgpd", "/usr/lib/frr/bgpd");

/// Where zebra answers.
const ZEBRA_SOCKET: &str = "zserv.api";

fn service(root: &Root, (name, program): Daemon, file: &str, content: String, reload: Reload) -> Service {
    let text = |path: &Path| path.display().to_string();
    // Both of FRR's own user, who runs the daemons; what is in it has passwords.
    let folders = ["etc/frr", "run/frr"].map(|folder| root.path().join(folder));
    let [etc, run] = folders.each_ref().map(|folder| text(folder));
    let config = folders[0].join(file);
    let arguments = [
        // No terminal by TCP.
        "-P",
        "0",
        "-f",
        &text(&config),
        "-i",
        &format!("{run}/{name}.pid"),
        "-z",
        &format!("{run}/{ZEBRA_SOCKET}"),
        "--vty_socket",
        &run,
        "--log",
        "stdout",
    ];
    let owned = ["-d", "-o", "frr", "-g", "frr", "-m", "0750", &etc, &run];
    Service {
        files: vec![Rendered { path: config.clone(), content, mode: 0o644 }],
        prepare: Some(Call { program: "install", arguments: owned.map(str::to_owned).to_vec() }),
        // FRR's own ends well whatever it finds.
        reload,
        ..Service::new(name, program, arguments.map(str::to_owned).to_vec())
    }
}

/// FRR's words. What its defaults are depends on its release, so it is said.
fn configuration(bgp: &Bgp) -> String {
    let mut text = String::from("! Written by xvr, again whenever it changes.\nfrr defaults traditional\n");
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    line(format_args!("router bgp {}", bgp.own_as));
    line(format_args!(" bgp router-id {}", bgp.router_id));
    // What a peer announces is taken, and what is announced need not be among the routes, as today.
    line(format_args!(" no bgp ebgp-requires-policy"));
    line(format_args!(" no bgp network import-check"));
    line(format_args!(" no bgp default ipv4-unicast"));
    for peer in &bgp.peers {
        line(format_args!(" neighbor {} remote-as {}", peer.address, peer.peer_as));
        if let Some(password) = &peer.password {
            line(format_args!(" neighbor {} password {password}", peer.address));
        }
        if let Some(hops) = peer.hops {
            line(format_args!(" neighbor {} ebgp-multihop {hops}", peer.address));
        }
    }
    for (family, is_ipv4) in [("ipv4", true), ("ipv6", false)] {
        line(format_args!(" address-family {family} unicast"));
        for network in bgp.networks.iter().filter(|network| network.addr().is_ipv4() == is_ipv4) {
            line(format_args!("  network {network}"));
        }
        for peer in bgp.peers.iter().filter(|peer| IpAddr::is_ipv4(&peer.address) == is_ipv4) {
            line(format_args!("  neighbor {} activate", peer.address));
        }
        line(format_args!(" exit-address-family"));
    }
    line(format_args!("exit"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bgp::BgpPeer;

    #[test]
    fn each_peer_is_spoken_to_by_its_own_family() {
        let peer = |address: &str, hops| BgpPeer {
            address: address.parse().expect("an address"),
            peer_as: 65001,
            password: Some("secret".to_owned()),
            hops,
        };
        let bgp = Bgp {
            own_as: 65010,
            router_id: [203, 0, 113, 16].into(),
            peers: vec![peer("203.0.113.254", None), peer("2001:db8:100::fe", Some(3))],
            networks: ["10.50.1.0/24", "fd17::/64"]
                .map(|network| network.parse().expect("a network"))
                .to_vec(),
        };
        let [_, bgpd] = render(&bgp, &Root::new("/r"));
        let [file, _] = bgpd.files.as_slice() else { panic!("two files") };
        assert_eq!(file.path, Path::new("/r/etc/frr/frr.conf"));
        let expected = "router bgp 65010\n bgp router-id 203.0.113.16\n no bgp ebgp-requires-policy\n \
            no bgp network import-check\n no bgp default ipv4-unicast\n \
            neighbor 203.0.113.254 remote-as 65001\n neighbor 203.0.113.254 password secret\n \
            neighbor 2001:db8:100::fe remote-as 65001\n neighbor 2001:db8:100::fe password secret\n \
            neighbor 2001:db8:100::fe ebgp-multihop 3\n \
            address-family ipv4 unicast\n  network 10.50.1.0/24\n  neighbor 203.0.113.254 activate\n \
            exit-address-family\n \
            address-family ipv6 unicast\n  network fd17::/64\n  neighbor 2001:db8:100::fe activate\n \
            exit-address-family\nexit\n";
        assert!(file.content.ends_with(expected), "{}", file.content);
    }
}
