//! Reconciling with a real kernel, in a network namespace of its own. The packet programs are not
//! needed: their tables are kept in memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::Result;
use router_common::account::COUNTER_SLOTS;
use router_common::port::{Carrier, Port as PortEntry, Role};
use router_userspace::compile::nat::{NatEntry, NatKey};
use router_userspace::compile::policy::ListEntry;
use router_userspace::compile::{AttachMode, Attachment, Compiled, Driver, Front, TableSet, Vxlan, compile};
use router_userspace::dataplane::Attached;
use router_userspace::model::{
    DesiredState, Port, PortSelector, Route, RouteTarget, RouterRole, Settings, SourceNat,
};
use router_userspace::reconcile::events::{Event, Events};
use router_userspace::reconcile::neighbours::State;
use router_userspace::reconcile::{Machine, Programs, Reconciler, guard};

/// The programs, as far as reconciling can tell.
#[derive(Debug, Default)]
struct Memory {
    tables: TableSet,
    fronts: BTreeMap<u32, Front>,
}

impl Programs for Memory {
    fn observe_tables(&mut self) -> Result<TableSet> {
        Ok(self.tables.clone())
    }

    fn set_flags(&mut self, flags: u32) -> Result<()> {
        self.tables.flags = flags;
        Ok(())
    }

    fn add_list(&mut self, number: u32, list: &ListEntry) -> Result<()> {
        self.tables.lists.insert(number, list.clone());
        Ok(())
    }

    fn recognise_lists(&mut self, _there: &TableSet, _wanted: &TableSet) {}

    fn remove_list(&mut self, number: u32) -> Result<()> {
        self.tables.lists.remove(&number);
        Ok(())
    }

    fn set_firewall(&mut self, address: Ipv4Addr, list: u32) -> Result<()> {
        self.tables.firewalls.insert(address, list);
        Ok(())
    }

    fn remove_firewall(&mut self, address: Ipv4Addr) -> Result<()> {
        self.tables.firewalls.remove(&address);
        Ok(())
    }

    fn set_ports_per_guest(&mut self, limit: u16) -> Result<()> {
        self.tables.ports_per_guest = limit;
        Ok(())
    }

    fn set_port(&mut self, ifindex: u32, port: &PortEntry) -> Result<()> {
        self.tables.ports.insert(ifindex, *port);
        Ok(())
    }

    fn remove_port(&mut self, ifindex: u32) -> Result<()> {
        self.tables.ports.remove(&ifindex);
        Ok(())
    }

    fn attach_blocks(&mut self) -> Result<()> {
        Ok(())
    }

    fn port_rows(&mut self) -> Result<u32> {
        Ok(COUNTER_SLOTS)
    }

    fn set_tags(&mut self, ifindex: u32, carrier: &Carrier) -> Result<()> {
        self.tables.tags.insert(ifindex, *carrier);
        Ok(())
    }

    fn remove_tags(&mut self, ifindex: u32) -> Result<()> {
        self.tables.tags.remove(&ifindex);
        Ok(())
    }

    fn set_tunnel(&mut self, ifindex: u32, vxlan: &Vxlan) -> Result<()> {
        self.tables.tunnels.insert(ifindex, vxlan.clone());
        Ok(())
    }

    fn remove_tunnel(&mut self, ifindex: u32) -> Result<()> {
        self.tables.tunnels.remove(&ifindex);
        Ok(())
    }

    fn set_bridge(&mut self, bridge: u32, members: &[u32]) -> Result<()> {
        match members {
            [] => drop(self.tables.bridges.remove(&bridge)),
            members => drop(self.tables.bridges.insert(bridge, members.to_vec())),
        }
        Ok(())
    }

    fn set_local(&mut self, address: IpAddr, ifindex: u32) -> Result<()> {
        match address {
            IpAddr::V4(address) => self.tables.local4.insert(address, ifindex),
            IpAddr::V6(address) => self.tables.local6.insert(address, ifindex),
        };
        Ok(())
    }

    fn set_nat(&mut self, key: &NatKey, entry: &NatEntry) -> Result<()> {
        self.tables.nat.insert(*key, *entry);
        Ok(())
    }

    fn remove_nat(&mut self, key: &NatKey) -> Result<()> {
        self.tables.nat.remove(key);
        Ok(())
    }

    fn remove_local(&mut self, address: IpAddr) -> Result<()> {
        match address {
            IpAddr::V4(address) => self.tables.local4.remove(&address),
            IpAddr::V6(address) => self.tables.local6.remove(&address),
        };
        Ok(())
    }

    fn bump_generation(&mut self) -> Result<()> {
        Ok(())
    }

    fn observe_attachments(&self) -> Result<BTreeMap<u32, Front>> {
        Ok(self.fronts.clone())
    }

    fn attach(&mut self, ifindex: u32, attachment: &Attachment) -> Result<Attached> {
        self.fronts.insert(ifindex, attachment.front);
        Ok(Attached { front: attachment.front, reason: attachment.reason.clone() })
    }

    fn detach(&mut self, ifindex: u32) -> Result<()> {
        self.fronts.remove(&ifindex);
        Ok(())
    }
}

/// Runs a test in a network namespace with two veth pairs: `eth0` to `vm`, `eth2` to `isp`, all
/// but `eth0` and `eth2` switched on. Skipped, loudly, without the right to.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let body = move || {
        // SAFETY: only this thread moves into the new namespace.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if moved != 0 {
            let error = std::io::Error::last_os_error();
            assert!(env::var_os("XVR_TEST_ROOT").is_none(), "no network namespace: {error}");
            eprintln!("skipped, because this needs root: no network namespace: {error}");
            return;
        }
        for (nic, peer, last) in [("eth0", "vm", 10), ("eth2", "isp", 12)] {
            ip(&format!("link add {nic} address 02:00:00:00:00:{last} type veth peer name {peer}"));
            ip(&format!("link set {peer} up"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip (package iproute2) runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ip_refuses(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip (package iproute2) runs");
    !output.status.success()
}

fn port(name: &str, last: u8, role: Role, addresses: &[&str]) -> Port {
    Port {
        name: name.to_owned(),
        selector: PortSelector::Mac(format!("02:00:00:00:00:{last}").parse().unwrap()),
        role,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        mtu: Some(1400),
        source_nat: SourceNat::Off,
    }
}

fn route(destination: &str, gateway: &str) -> Route {
    let target = RouteTarget::Gateway(gateway.parse().unwrap());
    Route { destination: destination.parse().unwrap(), target, metric: 0 }
}

fn router() -> DesiredState {
    DesiredState {
        ports: vec![
            port("eth0", 10, Role::Guest, &["10.1.1.1/24", "2001:db8:1::1/64"]),
            port("eth2", 12, Role::Public, &["203.0.113.10/24", "203.0.113.11/24", "2001:db8::a/64"]),
        ],
        routes: vec![route("0.0.0.0/0", "203.0.113.1"), route("::/0", "2001:db8::1")],
        ..Default::default()
    }
}

struct Lab {
    reconciler: Reconciler<Machine<Memory>>,
}

impl Lab {
    fn new() -> Self {
        Self { reconciler: Reconciler::new(Machine::new(Memory::default()).unwrap()) }
    }

    async fn compile(&mut self, desired: &DesiredState) -> Compiled {
        let inventory = self.reconciler.backend.inventory(&[]).unwrap();
        let compiled =
            compile(desired, &Settings::default(), &inventory, AttachMode::Auto, RouterRole::Primary);
        assert_eq!(compiled.problems, []);
        compiled
    }

    /// How many changes it took.
    async fn converge(&mut self, desired: &DesiredState) -> usize {
        let compiled = self.compile(desired).await;
        self.reconciler.converge(&compiled).await.unwrap().changes.len()
    }
}

#[test]
fn a_kernel_is_set_up_and_a_second_run_changes_nothing() {
    in_namespace(|| async {
        let mut lab = Lab::new();
        let begun = Instant::now();
        let changes = lab.converge(&router()).await;
        println!("{changes} changes in {:?}", begun.elapsed());
        assert!(changes > 20);
        // The tables are told the MTU that was set.
        lab.converge(&router()).await;
        assert_eq!(lab.converge(&router()).await, 0);

        assert!(guard::observe().unwrap().is_some());
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/forwarding").unwrap().trim(), "1");
        let routes = ip("route show proto 120") + &ip("-6 route show proto 120");
        assert!(routes.contains("default via 203.0.113.1 dev eth2"), "{routes}");
        assert!(routes.contains("default via 2001:db8::1 dev eth2"), "{routes}");
        let addresses = ip("-o address show eth2");
        assert!(!addresses.contains("tentative"), "{addresses}");
        assert!(ip("-o link show eth2").contains("mtu 1400"));
    });
}

#[test]
fn drift_is_put_right() {
    in_namespace(|| async {
        let mut lab = Lab::new();
        lab.converge(&router()).await;
        lab.converge(&router()).await;
        for damage in [
            "address del 203.0.113.10/24 dev eth2",
            "address flush dev eth0",
            "address add 192.0.2.1/24 dev eth0",
            "link set eth2 down",
            "link set eth2 mtu 1300",
            "route del default",
            "-6 route del default",
        ] {
            ip(damage);
            assert!(lab.converge(&router()).await > 0, "{damage}");
            assert_eq!(lab.converge(&router()).await, 0, "{damage}");
        }
        guard::remove().unwrap();
        assert_eq!(lab.converge(&router()).await, 1);
        let held = ip("-o -4 address show eth2");
        let primary = held.lines().find(|line| !line.contains("secondary")).unwrap_or_default();
        assert!(primary.contains("203.0.113.10/24"), "{held}");
    });
}

#[test]
fn routes_move_and_go_and_those_of_others_stay() {
    in_namespace(|| async {
        let mut lab = Lab::new();
        lab.converge(&router()).await;
        ip("route add 198.51.100.0/24 via 203.0.113.7");
        let mut desired = router();
        desired.routes = vec![route("0.0.0.0/0", "203.0.113.2"), route("::/0", "2001:db8::2")];
        lab.converge(&desired).await;
        let routes = ip("route show") + &ip("-6 route show");
        assert!(routes.contains("default via 203.0.113.2 dev eth2"), "{routes}");
        assert!(routes.contains("default via 2001:db8::2 dev eth2"), "{routes}");
        assert!(!routes.contains("203.0.113.1 ") && !routes.contains("2001:db8::1 "), "{routes}");
        desired.routes.clear();
        lab.converge(&desired).await;
        let routes = ip("route show") + &ip("-6 route show");
        assert!(!routes.contains("default"), "{routes}");
        assert!(routes.contains("198.51.100.0/24 via 203.0.113.7"), "{routes}");
    });
}

#[test]
fn a_route_to_nobody_comes_last_and_goes() {
    in_namespace(|| async {
        let mut lab = Lab::new();
        let range = |text: &str| Route {
            destination: text.parse().unwrap(),
            target: RouteTarget::Blackhole,
            metric: u32::MAX,
        };
        let mut desired = router();
        // One around the tier's network, and one that is as wide.
        desired.routes.extend([range("10.1.0.0/16"), range("10.1.1.0/24")]);
        lab.converge(&desired).await;
        lab.converge(&desired).await;
        assert_eq!(lab.converge(&desired).await, 0);
        assert!(ip("route show type blackhole").contains("10.1.0.0/16 proto 120"));
        assert!(ip("route get 10.1.1.9").contains("dev eth0"));
        assert!(ip_refuses("route get 10.1.2.9"));
        ip("route del blackhole 10.1.0.0/16");
        assert!(lab.converge(&desired).await > 0);
        assert!(ip_refuses("route get 10.1.2.9"));
        lab.converge(&router()).await;
        assert!(ip("route get 10.1.2.9").contains("via 203.0.113.1"));
        assert_eq!(ip("route show type blackhole"), "");
    });
}

#[test]
fn a_state_that_the_kernel_refuses_is_undone() {
    in_namespace(|| async {
        let mut lab = Lab::new();
        lab.converge(&router()).await;
        lab.converge(&router()).await;
        let before = lab.compile(&router()).await;
        let mut next = before.clone();
        // No device of the kernel takes this MTU: 68 is the least for IPv4.
        let link = next.links.values_mut().next().unwrap();
        link.mtu = Some(60);
        link.addresses.push("10.9.9.1/24".parse().unwrap());
        next.routes.clear();
        let refusal = lab.reconciler.converge_or_restore(&next, &before, || Ok(())).await.unwrap_err();
        assert!(refusal.to_string().ends_with("the router is as it was before"), "{refusal}");
        assert_eq!(lab.converge(&router()).await, 0);
    });
}

#[test]
fn the_guard_is_set_again_when_it_was_weakened() {
    in_namespace(|| async {
        assert_eq!(guard::observe().unwrap(), None);
        guard::set().unwrap();
        assert_eq!(guard::observe().unwrap(), Some(guard::Refused::default()));
        guard::set().unwrap();
        assert!(guard::observe().unwrap().is_some());
        guard::remove().unwrap();
        assert_eq!(guard::observe().unwrap(), None);
        guard::remove().unwrap();
    });
}

#[test]
fn the_guard_refuses_what_linux_would_forward_and_counts_it() {
    in_namespace(|| async {
        let mut lab = Lab::new();
        lab.converge(&router()).await;
        // A stranger's frame from the guests' wire to the public one, by the kernel's own path: no
        // program is attached here.
        let mac: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
        let vm: u32 = fs::read_to_string("/sys/class/net/vm/ifindex").map_or_else(
            |_| ip("-o link show vm").split(':').next().unwrap().parse().unwrap(),
            |text| text.trim().parse().unwrap(),
        );
        let frame = udp_frame(mac, [10, 1, 1, 5], [203, 0, 113, 99]);
        ip("neighbour add 203.0.113.99 lladdr 02:00:00:00:00:99 dev eth2");
        send(vm, &frame);
        let deadline = Instant::now() + Duration::from_secs(2);
        while guard::observe().unwrap().unwrap().packets == 0 {
            assert!(Instant::now() < deadline, "the guard has seen nothing");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(guard::observe().unwrap().unwrap().packets, 1);
    });
}

#[test]
fn nics_are_known_by_driver_and_by_what_they_take() {
    in_namespace(|| async {
        let mut lab = Lab::new();
        let inventory = lab.reconciler.backend.inventory(&[]).unwrap();
        let names: Vec<&str> = inventory.nics.iter().map(|nic| nic.name.as_str()).collect();
        assert!(names.contains(&"eth0") && !names.contains(&"lo"), "{names:?}");
        let eth0 = inventory.index().by_name("eth0").unwrap();
        assert_eq!(eth0.driver, Driver::Veth);
        // From 6.3 the kernel says so; a veth whose peer has no program takes no frames.
        assert!(matches!(eth0.takes_xdp_frames, None | Some(false)));
    });
}

#[test]
fn news_of_neighbours_rules_and_links_arrive() {
    in_namespace(|| async {
        let mut lab = Lab::new();
        lab.converge(&router()).await;
        let mut events = Events::open().unwrap();
        ip("neighbour add 10.1.1.5 lladdr 02:00:00:00:00:05 nud stale dev eth0");
        let stale = loop {
            if let Event::Neighbour(neighbour) = next(&mut events).await
                && neighbour.address == IpAddr::from([10, 1, 1, 5])
            {
                break neighbour;
            }
        };
        assert_eq!(stale.state, State::Stale([2, 0, 0, 0, 0, 5]));
        let netlink = lab.reconciler.backend.netlink();
        netlink.use_neighbour(stale.ifindex, stale.address).await.unwrap();
        // Nobody answers, but the kernel has begun to ask.
        let deadline = Instant::now() + Duration::from_secs(2);
        while ip("neighbour show 10.1.1.5").contains("STALE") {
            assert!(Instant::now() < deadline, "the kernel does not ask");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ip("rule add to 192.0.2.9 prohibit");
        while next(&mut events).await != Event::Changed {}
        ip("link set eth2 mtu 1300");
        while next(&mut events).await != Event::Changed {}
    });
}

async fn next(events: &mut Events) -> Event {
    tokio::time::timeout(Duration::from_secs(2), events.next()).await.expect("news within 2 s")
}

fn udp_frame(to: [u8; 6], src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0];
    header.extend(src);
    header.extend(dst);
    let mut sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 0, 5, 8, 0]);
    frame.extend(header);
    // Ports 1000 and 2000, length 12, no checksum.
    frame.extend([3, 232, 7, 208, 0, 12, 0, 0, 1, 2, 3, 4]);
    frame
}

fn send(ifindex: u32, frame: &[u8]) {
    // SAFETY: no pointers; then plain old data; then pointers that are valid during the call.
    let sent = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        assert!(socket >= 0);
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        let sent =
            libc::sendto(socket, frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), length);
        libc::close(socket);
        sent
    };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}
