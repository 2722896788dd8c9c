//! The scenarios' router on the host: the walk over a [`World`].

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use router_common::account::{Hook, Traffic};
use router_common::config::RouterConfig;
use router_common::flow::{FlowEntry, FlowKey, NextHop};
use router_common::net::{Address, Be16, Ipv4, Ipv6, MacPair};
use router_common::port::{Port, Role};
use router_common::verdict::DeferReason;
use router_ebpf::packet::{Packet, SliceFrame};
use router_ebpf::tables::Route;
use router_ebpf::walk::{Walked, walk};

use router_userspace::compile::{TableSet, nat};

use crate::model::account::Account;
use crate::model::compare::Subject;
use crate::scenario::{self, Nic, Router, Sent, host_mac};
use crate::world::World;

/// The walk over tables in memory, as one hook runs it.
#[derive(Debug)]
pub struct HostRouter {
    /// Its tables.
    pub world: World,
    hook: Hook,
    is_behind_xdp: bool,
}

/// How much longer a frame may become.
const ROOM_TO_GROW: usize = 64;

/// What is chosen for the scenarios' router.
pub const FLAGS: u32 = RouterConfig::FTP | RouterConfig::TFTP;

/// The interface index that stands for a NIC.
pub const fn ifindex(nic: Nic) -> u32 {
    10 + nic as u32
}

/// The port's row for a NIC, at an interface index.
pub fn port(nic: Nic) -> Port {
    let partial = if matches!(nic, Nic::Tier2) { Port::PARTIAL_CHECKSUMS } else { 0 };
    let ipv4 = |text: &str| Ipv4::from(text.parse::<std::net::Ipv4Addr>().expect("an address"));
    let first = nic.addresses()[0].split('/').next().expect("an address");
    Port {
        slot: nic as u32 + 1,
        mtu: u32::from(nic.mtu()),
        source_nat: if nic.role() == Role::Public { ipv4(first) } else { Ipv4::UNSPECIFIED },
        address: ipv4(first),
        router: 0,
        role: nic.role() as u8,
        from_list: 0,
        to_list: 0,
        outside_list: 0,
        own_list: 0,
        flags: Port::XDP_TARGET | partial,
        mac: nic.mac(),
        vxlan: Be16::default(),
        bridge: 0,
    }
}

/// The router's IPv4 addresses and where they are.
pub fn locals4(ifindex: impl Fn(Nic) -> u32) -> Vec<(std::net::Ipv4Addr, u32)> {
    let of = |nic: Nic| nic.addresses().iter().map(move |address| (nic, address));
    let addresses = Nic::ALL.into_iter().flat_map(of);
    let split = |(nic, address): (Nic, &&str)| Some((address.split('/').next()?.parse().ok()?, ifindex(nic)));
    addresses.filter_map(split).collect()
}

impl HostRouter {
    /// The scenarios' router.
    pub fn new(hook: Hook) -> Self {
        let world = World::default();
        for nic in Nic::ALL {
            world.ports.borrow_mut().insert(ifindex(nic), port(nic));
            for address in nic.addresses() {
                connect(&world, nic, address);
            }
        }
        // The last of equals is the one without a metric.
        for nic in [Nic::Public2, Nic::Public] {
            let gateway = Route::Via(next_hop(nic, NextHop::RESOLVED));
            world.v4.routes.borrow_mut().push((Ipv4::UNSPECIFIED, 0, gateway));
        }
        let mut tables = TableSet::default();
        tables.local4.extend(locals4(ifindex));
        nat::tables(&scenario::nat_rules(), &mut tables);
        world.nat.replace(tables.nat);
        let hole = "198.18.0.0".parse::<std::net::Ipv4Addr>().expect("an address");
        world.v4.routes.borrow_mut().push((hole.into(), 15, Route::Refused));
        let config = world.config.get();
        world.config.set(RouterConfig { flags: FLAGS, ..config });
        Self { world, hook, is_behind_xdp: false }
    }

    /// The same with XDP in front of TC: the way of a frame by a port that has both.
    pub fn both_hooks() -> Self {
        Self { is_behind_xdp: true, ..Self::new(Hook::Tc) }
    }

    fn walk(&self, hook: Hook, nic: Nic, bytes: &mut Vec<u8>) -> u32 {
        let counted = |world: &World| world.counters.borrow().values().sum::<u64>();
        let before = counted(&self.world);
        let length = bytes.len();
        bytes.resize(length + ROOM_TO_GROW, 0);
        let mut packet = SliceFrame::with_room(bytes, length, hook);
        let Walked { passage, .. } = walk(&mut packet, &self.world, ifindex(nic));
        let length = packet.length();
        bytes.truncate(length);
        assert_eq!(counted(&self.world), before + 1, "{:?} was not counted once", passage.verdict());
        passage.outcome()
    }
}

/// The router's address, the network around it, and the neighbour there that is not known.
fn connect(world: &World, nic: Nic, address: &str) {
    let (address, length) = address.split_once('/').expect("an address with a length");
    let length: u32 = length.parse().expect("a length");
    let via = |flags| Route::Via(next_hop(nic, flags));
    if let Ok(address) = address.parse::<std::net::Ipv4Addr>() {
        world.v4.locals.borrow_mut().insert(address.into(), ifindex(nic));
        let [a, b, c, _] = address.octets();
        let unknown = Ipv4::from(std::net::Ipv4Addr::new(a, b, c, 99));
        let broadcast = Ipv4::from(address | std::net::Ipv4Addr::from(u32::MAX >> length));
        world.v4.routes.borrow_mut().extend([
            (address.into(), length, via(NextHop::RESOLVED)),
            (unknown, 32, via(0)),
            (address.into(), 32, Route::Nowhere),
            (broadcast, 32, Route::Nowhere),
        ]);
    } else {
        let address: std::net::Ipv6Addr = address.parse().expect("an address");
        world.v6.locals.borrow_mut().insert(address.into(), ifindex(nic));
        let mut segments = address.segments();
        segments[7] = 0x99;
        let unknown = Ipv6::from(std::net::Ipv6Addr::from(segments));
        world.v6.routes.borrow_mut().extend([
            (address.into(), length, via(NextHop::RESOLVED)),
            (unknown, 128, via(0)),
            (address.into(), 128, Route::Nowhere),
        ]);
    }
}

fn next_hop(nic: Nic, flags: u16) -> NextHop {
    NextHop { ifindex: ifindex(nic), macs: MacPair::new(host_mac(nic), nic.mac()), mtu: nic.mtu(), flags }
}

impl Router for HostRouter {
    fn hook(&self) -> Hook {
        self.hook
    }

    fn send(&mut self, nic: Nic, frame: &[u8]) -> Sent {
        let mut bytes = frame.to_vec();
        if self.is_behind_xdp {
            let outcome = self.walk(Hook::Xdp, nic, &mut bytes);
            if DeferReason::from_outcome(outcome).is_none() {
                return Sent { outcome, frame: bytes };
            }
            assert_eq!(bytes, frame, "XDP left a changed frame to TC");
        }
        let outcome = self.walk(self.hook, nic, &mut bytes);
        Sent { outcome, frame: bytes }
    }
}

impl Subject for HostRouter {
    fn forget(&mut self) {
        *self = Self { is_behind_xdp: self.is_behind_xdp, ..Self::new(self.hook) };
    }

    fn account(&mut self) -> Result<Account, String> {
        let mut account = Account::default();
        for (&(_, hook, outcome), &packets) in self.world.counters.borrow().iter() {
            account.add(hook, outcome, packets);
        }
        if self.is_behind_xdp { account.in_the_end() } else { Ok(account) }
    }

    fn usage(&mut self) -> Result<Traffic, String> {
        let usage = self.world.usage.borrow();
        let sum = |of: fn(&(u64, u64)) -> u64| usage.values().map(of).sum();
        Ok(Traffic { packets: sum(|(packets, _)| *packets), bytes: sum(|(_, bytes)| *bytes) })
    }

    /// Its clock stands still.
    fn patience(&self) -> Duration {
        Duration::MAX
    }

    fn flow_entries(&mut self) -> Result<(usize, usize), String> {
        let (v4, v6) = (self.world.v4.flows.borrow(), self.world.v6.flows.borrow());
        Ok((v4.len() + v6.len(), alone(&v4) + alone(&v6)))
    }
}

/// How many entries have no reverse.
fn alone<A: Address + Hash>(flows: &HashMap<FlowKey<A>, FlowEntry<A>>) -> usize {
    let has_reverse = |(key, entry): &(&FlowKey<A>, &FlowEntry<A>)| {
        let to = &entry.rewrite;
        let (src_port, dst_port) = (to.dst_port, to.src_port);
        flows.contains_key(&FlowKey { src: to.dst, dst: to.src, src_port, dst_port, ..**key })
    };
    flows.iter().filter(|entry| !has_reverse(entry)).count()
}
