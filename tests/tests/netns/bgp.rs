//! BGP by FRR with another FRR of the lab: what is announced, and what becomes of packets when a route comes and goes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use router_tests::clients;
use router_tests::frr::Frr;
use router_tests::lab::{Host, Lab};
use router_tests::netns::{Process, run_bounded, wait_until};
use router_tests::router::{Router, for_both_hooks};
use router_tests::servers::Greeter;
use serde_json::{Value, json};

/// The network that both the peer and the gateway have, who has it by the default route.
const LEARNED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LEARNED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x300, 0, 0, 0, 0, 1);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 14);
const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0x1e00, 0xd1ff, 0xfe00, 0x22);
const PROGRAMS: [&str; 5] = ["/usr/lib/frr/bgpd", "/usr/lib/frr/frr-reload.py", "curl", "nmap", "vtysh"];
const SOON: Duration = Duration::from_secs(60);

/// A provider's router: FRR in a host's namespace, AS 65001.
struct Provider<'lab>(Frr<'lab>);

impl<'lab> Provider<'lab> {
    fn start(host: &'lab Host) -> Result<Self> {
        let bgpd = format!(
            "router bgp 65001\n bgp router-id 203.0.113.200\n no bgp ebgp-requires-policy\n no bgp network import-check\n\
             neighbor {PUBLIC} remote-as 65010\n neighbor {PUBLIC} password bgpsecret\n\
             neighbor {PUBLIC6} remote-as 65010\n\
             address-family ipv4 unicast\n network 192.0.2.0/24\n exit-address-family\n\
             address-family ipv6 unicast\n network 2001:db8:300::/64\n\
             neighbor {PUBLIC6} activate\n exit-address-family\nexit\n"
        );
        Ok(Self(Frr::start(&host.namespace, "bgpd", &bgpd)?))
    }

    /// How long the session with the router is up, in seconds; nothing while it is not.
    fn session(&self, peer: IpAddr) -> Option<Value> {
        let said = self.0.vtysh(&[&format!("show bgp neighbors {peer} json")]).ok()?;
        let peer = serde_json::from_str::<Value>(&said).ok()?[peer.to_string()].clone();
        (peer["bgpState"] == "Established").then_some(peer)
    }

    fn knows(&self, network: &str) -> bool {
        let family = if network.contains(':') { "ipv6" } else { "ipv4" };
        let said = self.0.vtysh(&[&format!("show bgp {family} unicast {network}")]);
        said.is_ok_and(|said| said.contains("65010"))
    }
}

/// The provider by both families, of which IPv4 has a password.
fn peers(networks: &[(u32, &str, Option<&str>)]) -> String {
    let peer = |id: u32, network: u32| {
        json!({
            "peer_id": id, "peer_as_number": 65001, "network_as_number": 65010, "network_id": network,
            "details": {},
        })
    };
    let mut peers = Vec::new();
    for (network, ipv4, ipv6) in networks {
        let mut by_ipv4 = peer(1, *network);
        by_ipv4["ip4_address"] = json!("203.0.113.200");
        by_ipv4["peer_password"] = json!("bgpsecret");
        by_ipv4["guest_ip4_cidr"] = json!(ipv4);
        let mut by_ipv6 = peer(2, *network);
        by_ipv6["ip6_address"] = json!("2001:db8:100::200");
        by_ipv6["guest_ip6_cidr"] = json!(ipv6);
        peers.extend([by_ipv4, by_ipv6]);
    }
    json!({ "peers": peers, "type": "bgppeers", "delete_from_processed_cache": false }).to_string()
}

/// Who answers a guest there.
fn answers(from: &Host, to: IpAddr) -> Result<Option<String>> {
    let mut curl = from.namespace.command("curl");
    curl.args(["--silent", "--fail", "--connect-timeout", "1", "--max-time", "5"]);
    let output = run_bounded(curl.arg(format!("http://{}/", SocketAddr::new(to, 8000))), SOON)?;
    Ok(output.stdout.lines().next().map(str::to_owned))
}

/// Pings of one flow, and when each was answered with which TTL, which tells by whom.
struct Pings {
    _ping: Process,
    answers: Arc<Mutex<Vec<Answered>>>,
}

/// Seconds of the clock, and the TTL.
type Answered = (f64, u8);

impl Pings {
    fn start(from: &Host, to: Ipv4Addr) -> Result<Self> {
        let mut command = from.namespace.command("ping");
        command
            .args(["-n", "-D", "-i", "0.005", &to.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut ping = Process::spawn(&mut command)?;
        let stdout = ping.child().stdout.take().context("ping has an output")?;
        let answers = Arc::<Mutex<Vec<Answered>>>::default();
        let heard = answers.clone();
        spawn(move || {
            // `[1700000000.123456] 64 bytes from 192.0.2.1: icmp_seq=1 ttl=63 time=0.1 ms`
            let answer = |line: String| -> Option<Answered> {
                let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
                let ttl = rest.split_once("ttl=")?.1.split_once(' ')?.0;
                Some((time.parse().ok()?, ttl.parse().ok()?))
            };
            for answer in BufReader::new(stdout).lines().map_while(Result::ok).filter_map(answer) {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
            }
        });
        Ok(Self { _ping: ping, answers })
    }

    fn answers(&self) -> Vec<Answered> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What [`GATEWAY_TTL`] is after the router.
const GATEWAY: u8 = GATEWAY_TTL - 1;
const GATEWAY_TTL: u8 = 100;

#[test]
fn routes_that_a_peer_announces_are_followed_until_it_withdraws_them() -> Result<()> {
    for_both_hooks(&PROGRAMS, |attach| {
        let lab = Lab::isolated()?;
        let router = Router::start(&lab, attach)?;
        let boot =
            fs::read(router_tests::router::fixture("cloudstack/cmd_line/router_isolated_dualstack.json"))?;
        let mut boot: Value = serde_json::from_slice(&boot)?;
        boot["cmd_line"]["is_routed"] = json!("true");
        router.update_config_with("cmd_line", boot.to_string().as_bytes())?.ok()?;
        router.apply(&[
            "cloudstack/firewall_rules/egress_system_default_allow.json",
            "cloudstack/ipv6_firewall_rules/system_default_egress_on_start.json",
        ])?;
        let (vm1, neighbour, gateway) = (lab.host("vm1"), lab.host("neighbour"), lab.host("gateway"));
        for host in [neighbour, gateway] {
            host.namespace
                .ip(&format!("address add {LEARNED}/32 dev lo\naddress add {LEARNED6}/128 dev lo\n"))?;
        }
        // The gateway knows the guests by IPv4 from nobody.
        gateway.namespace.ip(&format!("route add 10.1.1.0/24 via {PUBLIC}\n"))?;
        neighbour.namespace.ip("route del fd17:ac56:1234::/48\n")?;
        let _servers = [Greeter::start_on(neighbour, 8000)?, Greeter::start_on(gateway, 8000)?];
        let provider = Provider::start(neighbour)?;
        assert_eq!(clients::open_ports(neighbour, PUBLIC6.into(), "1-200")?, Vec::<u16>::new(), "before BGP");
        let by = |to: IpAddr, who: &str| {
            let is_so = || answers(vm1, to).is_ok_and(|found| found.as_deref() == Some(who));
            wait_until(&format!("{who} answers at {to}"), SOON, is_so)
        };
        by(LEARNED.into(), "gateway")?;

        let one = (205, "10.1.1.0/24", Some("fd17:ac56:1234:20::/64"));
        router.update_config_with("bgp_peers", peers(&[one]).as_bytes())?.ok()?;
        let both: [IpAddr; 2] = [PUBLIC.into(), PUBLIC6.into()];
        for peer in both {
            wait_until(&format!("a session with {peer}"), SOON, || provider.session(peer).is_some())
                .with_context(|| router.log())?;
        }
        let announced = || provider.knows("10.1.1.0/24") && provider.knows("fd17:ac56:1234:20::/64");
        wait_until("the guests' networks are announced", SOON, announced)?;
        for to in [LEARNED.into(), LEARNED6.into()] {
            by(to, "neighbour")?;
        }
        // Without the password nobody is answered by IPv4, which has one.
        assert_eq!(clients::open_ports(neighbour, PUBLIC6.into(), "1-200")?, [179], "for the peer");
        for stranger in [gateway, vm1, lab.host("far")] {
            for address in both {
                let open = clients::open_ports(stranger, address, "100-200")?;
                assert_eq!(open, Vec::<u16>::new(), "for {}", stranger.name);
            }
        }

        // Another network, and the same sessions.
        let sessions =
            || both.map(|peer| provider.session(peer).map(|peer| peer["connectionsEstablished"].clone()));
        let before = sessions();
        router.update_config_with("bgp_peers", peers(&[one, (206, "10.1.2.0/24", None)]).as_bytes())?.ok()?;
        wait_until("the other network is announced", SOON, || provider.knows("10.1.2.0/24"))
            .with_context(|| router.log())?;
        assert_eq!(sessions(), before, "sessions have stayed");

        // A flow that goes on follows its route.
        gateway.namespace.sysctl("net/ipv4/ip_default_ttl", &GATEWAY_TTL.to_string())?;
        let pings = Pings::start(vm1, LEARNED)?;
        wait_until("the provider has answered", SOON, || !pings.answers().is_empty())?;
        let withdrawn = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        provider.0.vtysh(&[
            "configure",
            "router bgp 65001",
            "address-family ipv4",
            "no network 192.0.2.0/24",
        ])?;
        by(LEARNED.into(), "gateway")?;
        let by_gateway =
            |answers: &[Answered]| answers.iter().position(|(_, ttl)| *ttl == GATEWAY).unwrap_or_default();
        wait_until("the flow has followed", SOON, || by_gateway(&pings.answers()) > 0)?;
        let answers = pings.answers();
        let first = by_gateway(&answers);
        let [last, next] = [first - 1, first].map(|index| answers[index].0);
        println!(
            "a withdrawn route: {:.0} ms from the command to the first answer by another way, {:.0} ms without one",
            (next - withdrawn) * 1e3,
            (next - last) * 1e3
        );
        by(LEARNED6.into(), "neighbour")?;
        provider.0.vtysh(&[
            "configure",
            "router bgp 65001",
            "address-family ipv4",
            "network 192.0.2.0/24",
        ])?;
        by(LEARNED.into(), "neighbour")?;
        let problems: Vec<String> = serde_json::from_value(router.show("status")?["problems"].clone())?;
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(router.plan()?, Vec::<String>::new());

        // Nobody is left to speak with.
        router.apply(&["cloudstack/bgp_peers/clear_all.json"])?;
        by(LEARNED.into(), "gateway")?;
        wait_until("the session is over", SOON, || provider.session(PUBLIC.into()).is_none())?;
        assert_eq!(clients::open_ports(neighbour, PUBLIC6.into(), "1-200")?, Vec::<u16>::new(), "after BGP");
        Ok(())
    })
}
