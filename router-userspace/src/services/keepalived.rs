//! Which of two routers serves: keepalived, by VRRP on the guest networks (version 2 as of RFC 2338, which knows
//! IPsec's authentication header).
//!
//! The routers hear of each other on the first guest port. The one that serves has the gateway addresses of all
//! guest ports, given and taken by keepalived alone; that it has them is how everybody else knows
//! (`daemon/redundancy.rs`).
//!
//! Only the first port's gateway is in the advertisements. keepalived refuses those that name another number of
//! addresses than its own configuration, so one router that had a new tier before the other would be taken for
//! dead, and both would serve.

use std::fmt::Write;

use ipnet::IpNet;

use super::{Call, HEADER, Place, Rendered, Service};
use crate::compile::{Nic, shared_nics};
use crate::model::{Pair, SharedAddress};

/// What it is called, as CloudStack does.
pub const NAME: &str = "keepalived";

const PROGRAM: &str = "/usr/sbin/keepalived";

/// CloudStack's number for all of its pairs.
const VIRTUAL_ROUTER: u8 = 51;

/// The daemon for a router of a pair with a guest port.
pub fn render(pair: &Pair, place: Place<'_>) -> Option<Service> {
    let shared = shared_nics(pair, &place.compiled.names, place.inventory);
    let (_, first) = shared.first()?;
    let own = place.compiled.links.get(&first.ifindex)?.addresses.iter().find(|own| own.addr().is_ipv4())?;
    let file = place.root.path().join("etc/keepalived/keepalived.conf");
    let run = place.root.path().join("run/keepalived");
    let path = |path: &std::path::Path| path.display().to_string();
    let arguments = [
        // It stays in the foreground, and ends with its child, so that its end is not overlooked.
        "--dont-fork".to_owned(),
        "--dont-respawn".to_owned(),
        "--vrrp".to_owned(),
        "--log-console".to_owned(),
        "--no-syslog".to_owned(),
        format!("--use-file={}", path(&file)),
        format!("--pid={}", path(&run.join("keepalived.pid"))),
        format!("--vrrp_pid={}", path(&run.join("vrrp.pid"))),
    ];
    let content = configuration(&pair.password, pair.interval.get(), (first, own), &shared);
    Some(Service {
        // It holds the password.
        files: vec![Rendered { path: file, content, mode: 0o600 }],
        folders: vec![run],
        check: Some(Call { program: PROGRAM, arguments: vec!["-t".to_owned(), "-f".to_owned()] }),
        ..Service::new(NAME, PROGRAM, arguments.into())
    })
}

fn configuration(
    password: &str,
    interval: u8,
    (first, own): (&Nic, &IpNet),
    shared: &[(&SharedAddress, &Nic)],
) -> String {
    let mut text = String::from(HEADER);
    let (nic, own) = (&first.name, own.addr());
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "global_defs {{\n    vrrp_priority -20\n}}\n\
         vrrp_instance inside_network {{\n    state BACKUP\n    nopreempt\n    interface {nic}\n    \
         mcast_src_ip {own}\n    virtual_router_id {VIRTUAL_ROUTER}\n    advert_int {interval}\n    \
         authentication {{\n        auth_type AH\n        auth_pass {password}\n    }}\n"
    );
    let line = |(shared, nic): &(&SharedAddress, &Nic)| match shared.address {
        IpNet::V4(net) => format!("        {net} brd {} dev {}\n", net.broadcast(), nic.name),
        IpNet::V6(net) => format!("        {net} dev {}\n", nic.name),
    };
    let advertised = shared.iter().position(|(shared, _)| shared.address.addr().is_ipv4());
    let mut block = |name: &str, is_in: &dyn Fn(usize) -> bool| {
        let lines: String =
            shared.iter().enumerate().filter(|(at, _)| is_in(*at)).map(|(_, shared)| line(shared)).collect();
        if !lines.is_empty() {
            let _ = write!(text, "    {name} {{\n{lines}    }}\n");
        }
    };
    block("virtual_ipaddress", &|at| Some(at) == advertised);
    block("virtual_ipaddress_excluded", &|at| Some(at) != advertised);
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Driver;

    #[test]
    fn one_gateway_is_advertised_and_all_are_shared() {
        let nic = |ifindex, name: &str| Nic {
            ifindex,
            name: name.to_owned(),
            mac: crate::model::Mac([2; 6]),
            mtu: 1500,
            up: true,
            driver: Driver::Veth,
            takes_xdp_frames: None,
            takes_multi_buffer: false,
            strips_tags: false,
            carrier: None,
        };
        let share = |port: &str, address: &str| SharedAddress {
            port: port.to_owned(),
            address: address.parse().expect("an address"),
        };
        let nics = [nic(4, "ens4"), nic(5, "ens5")];
        let shared =
            [share("eth2", "10.1.1.1/24"), share("eth2", "fd17::1/64"), share("eth3", "10.1.2.129/25")];
        let placed = [(&shared[0], &nics[0]), (&shared[1], &nics[0]), (&shared[2], &nics[1])];
        let own = "10.1.1.92/24".parse().expect("an address");
        let expected = "\
# Written by xvr, again whenever it changes.
global_defs {
    vrrp_priority -20
}
vrrp_instance inside_network {
    state BACKUP
    nopreempt
    interface ens4
    mcast_src_ip 10.1.1.92
    virtual_router_id 51
    advert_int 3
    authentication {
        auth_type AH
        auth_pass 12345678
    }
    virtual_ipaddress {
        10.1.1.1/24 brd 10.1.1.255 dev ens4
    }
    virtual_ipaddress_excluded {
        fd17::1/64 dev ens4
        10.1.2.129/25 brd 10.1.2.255 dev ens5
    }
}
";
        assert_eq!(configuration("12345678", 3, (&nics[0], &own), &placed), expected);
    }
}
