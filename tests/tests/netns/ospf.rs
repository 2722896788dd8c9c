//! OSPF by hand: an operator's ospfd beside the router. What it learns packets follow by themselves.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use router_tests::frr::Frr;
use router_tests::lab::{Host, Lab};
use router_tests::netns::{run_bounded, wait_until};
use router_tests::router::{ISOLATED_COMMANDS, Router, for_both_hooks};
use router_tests::servers::Greeter;

/// The address that both the neighbour and the gateway have, who has it by the default route.
const LEARNED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SOON: Duration = Duration::from_secs(60);

/// An end of the link: on a point-to-point network all goes to a group, and nothing to the router's address.
fn ospfd(id: &str, device: &str, networks: &[&str]) -> String {
    let networks: String = networks.iter().map(|network| format!(" network {network} area 0\n")).collect();
    format!(
        "interface {device}\n ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval 4\nexit\n\
         router ospf\n ospf router-id {id}\n{networks}exit\n"
    )
}

/// Who answers a guest there.
fn answers(from: &Host) -> Result<Option<String>> {
    let mut curl = from.namespace.command("curl");
    curl.args(["--silent", "--fail", "--connect-timeout", "1", "--max-time", "5"]);
    let output = run_bounded(curl.arg(format!("http://{}/", SocketAddr::from((LEARNED, 8000)))), SOON)?;
    Ok(output.stdout.lines().next().map(str::to_owned))
}

#[test]
fn what_an_operators_ospfd_learns_is_followed_until_it_is_withdrawn() -> Result<()> {
    for_both_hooks(&["/usr/lib/frr/ospfd", "curl", "vtysh"], |attach| {
        let lab = Lab::isolated()?;
        let router = Router::start(&lab, attach)?;
        router.apply(&ISOLATED_COMMANDS)?;
        let (vm1, neighbour, gateway) = (lab.host("vm1"), lab.host("neighbour"), lab.host("gateway"));
        for host in [neighbour, gateway] {
            host.namespace.ip(&format!("address add {LEARNED}/32 dev lo\nlink set lo up\n"))?;
        }
        let _servers = [Greeter::start_on(neighbour, 8000)?, Greeter::start_on(gateway, 8000)?];
        let by = |who: &str| {
            let is_so = || answers(vm1).is_ok_and(|found| found.as_deref() == Some(who));
            wait_until(&format!("{who} answers"), SOON, is_so)
        };
        by("gateway")?;
        let public = "203.0.113.0/24";
        let other = ospfd("203.0.113.200", "eth0", &[public, "192.0.2.1/32"]);
        let other = Frr::start(&neighbour.namespace, "ospfd", &other)?;
        let own = Frr::start(&lab.router, "ospfd", &ospfd("203.0.113.14", "eth2", &[public]))?;
        by("neighbour").with_context(|| own.vtysh(&["show ip ospf neighbor"]).unwrap_or_default())?;
        assert_eq!(router.plan()?, Vec::<String>::new());
        other.vtysh(&["configure", "router ospf", "no network 192.0.2.1/32 area 0"])?;
        by("gateway")
    })
}
