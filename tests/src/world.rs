//! `World`: the walk's tables in `HashMap`s, with a clock that tests set.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Deref;

use router_common::account::Hook;
use router_common::config::RouterConfig;
use router_common::flow::{Draft, FlowEntry, FlowKey, NextHop, Rewrite};
use router_common::net::{Address, Be16, Ipv4, Ipv6};
use router_common::port::{Local, LocalKey, Port, PortKey};
use router_common::verdict::DropReason;
use router_ebpf::conntrack::{self, Arrival, Claim, Decision, Opening};
use router_ebpf::family::Family;
use router_ebpf::tables::{self, Activity, Flows, InsertError, Route, RouteQuery, Tables};

/// One family's tables.
#[derive(Debug)]
pub struct FamilyTables<A> {
    /// Flows.
    pub flows: RefCell<HashMap<FlowKey<A>, FlowEntry<A>>>,
    /// The router's addresses.
    pub locals: RefCell<HashMap<A, u32>>,
    /// Routes: network, prefix length, and what is found there. The longest prefix wins.
    pub routes: RefCell<Vec<(A, u32, Route)>>,
    /// The packet that the slow path is to decide about.
    pub arrival: RefCell<Option<Arrival<A>>>,
    /// What it has decided about that packet's flow.
    pub opening: RefCell<Option<Opening<A>>>,
}

impl<A> Default for FamilyTables<A> {
    fn default() -> Self {
        Self {
            flows: RefCell::default(),
            locals: RefCell::default(),
            routes: RefCell::default(),
            arrival: RefCell::default(),
            opening: RefCell::default(),
        }
    }
}

/// Everything the walk may ask, in memory.
#[derive(Debug)]
pub struct World {
    /// Nanoseconds.
    pub now: Cell<u64>,
    /// Settings.
    pub config: Cell<RouterConfig>,
    /// Ports.
    pub ports: RefCell<HashMap<PortKey, Port>>,
    /// Counters: slot, hook, outcome → packets.
    pub counters: RefCell<HashMap<(u32, Hook, u32), u64>>,
    /// How many flow entries fit per family.
    pub capacity: Cell<usize>,
    /// State of the random numbers.
    pub seed: Cell<u64>,
    /// IPv4.
    pub v4: FamilyTables<Ipv4>,
    /// IPv6.
    pub v6: FamilyTables<Ipv6>,
}

impl Default for World {
    fn default() -> Self {
        let (own_ports_first, own_ports_last) = RouterConfig::OWN_PORTS;
        Self {
            now: Cell::new(1_000_000_000_000),
            config: Cell::new(RouterConfig {
                abi_version: 1,
                generation: 1,
                own_ports_first,
                own_ports_last,
                pad: 0,
            }),
            ports: RefCell::default(),
            counters: RefCell::default(),
            capacity: Cell::new(1 << 20),
            seed: Cell::new(0x9e37_79b9_7f4a_7c15),
            v4: FamilyTables::default(),
            v6: FamilyTables::default(),
        }
    }
}

/// A port as it was when it was looked up.
#[derive(Clone, Copy, Debug)]
pub struct FoundPort(Port);

impl Deref for FoundPort {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.0
    }
}

impl Tables for World {
    type Port = FoundPort;

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        let mut state = self.seed.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.seed.set(state);
        (state >> 16) as u32
    }

    fn config(&self) -> RouterConfig {
        self.config.get()
    }

    fn port(&self, key: &PortKey) -> Option<FoundPort> {
        self.ports.borrow().get(key).copied().map(FoundPort)
    }

    fn count(&self, slot: u32, hook: Hook, outcome: u32, _bytes: usize) {
        *self.counters.borrow_mut().entry((slot, hook, outcome)).or_default() += 1;
    }
}

/// A family that has tables in a [`World`].
pub trait WorldFamily: Family + Hash + Default {
    /// Its tables.
    fn tables(world: &World) -> &FamilyTables<Self>;
}

impl WorldFamily for Ipv4 {
    fn tables(world: &World) -> &FamilyTables<Self> {
        &world.v4
    }
}

impl WorldFamily for Ipv6 {
    fn tables(world: &World) -> &FamilyTables<Self> {
        &world.v6
    }
}

/// A flow entry as it was when it was looked up, and where it is.
#[derive(Debug)]
pub struct Found<A> {
    key: FlowKey<A>,
    entry: FlowEntry<A>,
}

impl<A> Deref for Found<A> {
    type Target = FlowEntry<A>;

    fn deref(&self) -> &FlowEntry<A> {
        &self.entry
    }
}

impl<A: WorldFamily> Flows<A> for World {
    type Flow = Found<A>;
    type Draft = Box<Draft<A>>;

    fn draft(&self) -> Option<Box<Draft<A>>> {
        let address = A::default();
        let entry = FlowEntry {
            last_seen: 0,
            resolved: 0,
            opened: 0,
            packets: 0,
            bytes: 0,
            rewrite: Rewrite {
                src: address,
                dst: address,
                src_port: Be16::default(),
                dst_port: Be16::default(),
                address_delta: 0,
                port_delta: 0,
            },
            next_hop: NextHop::UNKNOWN,
            generation: 0,
            ingress: 0,
            tcp_flags: 0,
            direction: 0,
            ingress_role: 0,
            translation: 0,
        };
        let zero = Be16::default();
        let reply_key = FlowKey {
            src: address,
            dst: address,
            src_port: zero,
            dst_port: zero,
            router: 0,
            protocol: 0,
            pad: 0,
        };
        Some(Box::new(Draft { entry, reply_key }))
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<Found<A>> {
        A::tables(self).flows.borrow().get(key).map(|entry| Found { key: *key, entry: *entry })
    }

    fn insert(&self, key: &FlowKey<A>, entry: &FlowEntry<A>) -> Result<(), InsertError> {
        let mut flows = A::tables(self).flows.borrow_mut();
        if flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if flows.len() >= self.capacity.get() {
            return Err(InsertError::Full);
        }
        flows.insert(*key, *entry);
        Ok(())
    }

    fn remove(&self, key: &FlowKey<A>) {
        A::tables(self).flows.borrow_mut().remove(key);
    }

    fn account(&self, flow: &Found<A>, activity: Activity) {
        if let Some(entry) = A::tables(self).flows.borrow_mut().get_mut(&flow.key) {
            entry.last_seen = activity.now;
            entry.packets += 1;
            entry.bytes += activity.bytes as u64;
            entry.tcp_flags |= activity.tcp_flags;
        }
    }

    fn set_next_hop(&self, flow: &Found<A>, next_hop: NextHop, now: u64, generation: u32) {
        if let Some(entry) = A::tables(self).flows.borrow_mut().get_mut(&flow.key) {
            (entry.next_hop, entry.resolved, entry.generation) = (next_hop, now, generation);
        }
    }

    fn arrive(&self, arrival: &Arrival<A>) {
        A::tables(self).arrival.replace(Some(*arrival));
    }

    fn begin(&self, opening: &Opening<A>) {
        A::tables(self).opening.replace(Some(*opening));
    }

    fn claim(&self, attempt: u32) -> Result<Claim, DropReason> {
        let (arrival, opening) = (&A::tables(self).arrival, &A::tables(self).opening);
        let arrival = arrival.borrow().expect("a packet has arrived");
        let opening = opening.borrow().expect("something is decided about it");
        conntrack::claim(self, &arrival, &opening, attempt)
    }

    fn local(&self, key: &LocalKey<A>) -> Option<Local> {
        A::tables(self).locals.borrow().get(&key.address).map(|&ifindex| Local { ifindex })
    }

    fn route(&self, query: &RouteQuery<A>) -> Route {
        let routes = A::tables(self).routes.borrow();
        let matches = routes.iter().filter(|(network, length, _)| within(&query.dst, network, *length));
        matches.max_by_key(|(_, length, _)| *length).map_or(Route::Nowhere, |(_, _, route)| *route)
    }
}

impl tables::World for World {
    fn decide(&self, version: u8) -> Result<Decision, DropReason> {
        fn about<A: WorldFamily>(world: &World) -> Result<Decision, DropReason> {
            let arrival = A::tables(world).arrival.borrow().expect("a packet has arrived");
            conntrack::decide(world, &arrival)
        }
        if version == Ipv6::VERSION { about::<Ipv6>(self) } else { about::<Ipv4>(self) }
    }
}

/// Whether an address lies in a network.
fn within<A: Address>(address: &A, network: &A, length: u32) -> bool {
    let words = address.words().iter().zip(network.words());
    let mut left = length;
    for (a, b) in words {
        let bits = left.min(32);
        let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
        if (u32::from_be(*a) ^ u32::from_be(*b)) & mask != 0 {
            return false;
        }
        left -= bits;
    }
    true
}
