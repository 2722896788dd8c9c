//! `World`: the walk's tables in `HashMap`s, with a clock that tests set.

mod bridges;
mod tunnels;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use router_common::account::Hook;
use router_common::config::RouterConfig;
use router_common::flow::{Draft, FlowEntry, FlowKey, NextHop, tick};
use router_common::fragment::{Datagram, DatagramKey, MAX_HELD};
use router_common::limit::Tally;
use router_common::nat::{
    Binding, BindingKey, DestinationKey, Expected, ExternalKey, Forward, ForwardKey, GuestKey, Internal,
    Shift, SourceKey, StaticNat,
};
use router_common::net::{Address, Be16, Ipv4, Ipv6};
use router_common::policy::{Block, List, Ruling};
use router_common::port::{Carrier, Lane, Local, LocalKey, Port, TagKey};
use router_common::usage::{ACCOUNTS, AccountKey};
use router_common::verdict::DropReason;
use router_ebpf::bridge;
use router_ebpf::conntrack::{self, Arrival, Claim, Decision, Opening};
use router_ebpf::express;
use router_ebpf::family::Family;
use router_ebpf::fragment::{self, Piece};
use router_ebpf::ftp::{Desk, Line};
use router_ebpf::helper;
use router_ebpf::nat::{self, Destination};
use router_ebpf::packet::Packet;
use router_ebpf::parse::{Parsed, tcp_flags};
use router_ebpf::passage::{Passage, Question};
use router_ebpf::policy::{self, Case};
use router_ebpf::ports::PortPool;
use router_ebpf::tables::{self, Activity, Flows, InsertError, Route, RouteQuery, Tables};
use router_ebpf::tags::{self, Tags};
use router_ebpf::tunnel::{self, Leaving, Opened, Outer};
use router_ebpf::usage;
use router_userspace::classifier::{Classifier, Memory, OwnMemory};
use router_userspace::compile::nat::{NatEntry, NatKey};
use router_userspace::model::policy::AccessList;

pub use self::bridges::BridgeTables;
pub use self::tunnels::TunnelTables;

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
    /// The fragment that the slow path is to decide about.
    pub piece: RefCell<Option<Piece<A>>>,
    /// Datagrams that come in fragments.
    pub datagrams: RefCell<HashMap<DatagramKey<A>, Datagram>>,
    /// Who has sent fragments that wait.
    pub holders: RefCell<HashMap<A, Tally>>,
}

impl<A> Default for FamilyTables<A> {
    fn default() -> Self {
        Self {
            flows: RefCell::default(),
            locals: RefCell::default(),
            routes: RefCell::default(),
            arrival: RefCell::default(),
            opening: RefCell::default(),
            piece: RefCell::default(),
            datagrams: RefCell::default(),
            holders: RefCell::default(),
        }
    }
}

/// So few that they take each other's places.
const FEW_RULINGS: u32 = 64;

/// Everything the walk may ask, in memory.
#[derive(Debug)]
pub struct World {
    /// Nanoseconds.
    pub now: Cell<u64>,
    /// Settings.
    pub config: Cell<RouterConfig>,
    /// Ports.
    pub ports: RefCell<HashMap<u32, Port>>,
    /// Whether ports have a lane for packets of known flows.
    pub has_lanes: Cell<bool>,
    /// How many packets have taken it.
    pub by_lane: Cell<u64>,
    /// Interfaces of ports that have tags.
    pub tagged: RefCell<HashMap<(TagKey, u32), u32>>,
    /// The tags that were taken off the frame that came last.
    pub came: Cell<Tags>,
    /// How the frames of these ports are carried.
    pub carriers: RefCell<HashMap<u32, Carrier>>,
    /// Ports that are VXLAN networks.
    pub tunnels: TunnelTables,
    /// Ports that are on bridges.
    pub bridges: BridgeTables,
    /// Counters: slot, hook, outcome → packets.
    pub counters: RefCell<HashMap<(u32, Hook, u32), u64>>,
    /// Numbers of accounts.
    pub accounts: RefCell<HashMap<AccountKey, u32>>,
    /// What was charged to them: packets and bytes by counter.
    pub usage: RefCell<HashMap<u32, (u64, u64)>>,
    /// How many flow entries fit per family.
    pub capacity: Cell<usize>,
    /// State of the random numbers.
    pub seed: Cell<u64>,
    /// Static NAT and port forwardings.
    pub nat: RefCell<BTreeMap<NatKey, NatEntry>>,
    /// Lists of public addresses.
    pub firewalls: RefCell<BTreeMap<std::net::Ipv4Addr, u32>>,
    /// Lists of rules.
    pub lists: RefCell<HashMap<u32, List>>,
    /// The version of the one that was written last.
    pub list_version: Cell<u64>,
    /// What they have said, by place.
    pub rulings: RefCell<HashMap<u32, Ruling>>,
    /// Their blocks.
    pub classifier: RefCell<Classifier<OwnMemory>>,
    /// The blocks that were looked at, if somebody wants to know.
    pub looked_at: RefCell<Option<Vec<u32>>>,
    /// What rules have decided: packets and bytes by counter.
    pub rule_counts: RefCell<HashMap<u32, (u64, u64)>>,
    /// Ways out, whose numbers are one more than their places.
    pub next_hops: RefCell<Vec<NextHop>>,
    /// How many there is room for.
    pub next_hop_room: Cell<usize>,
    /// Bindings by the guest's end.
    pub bindings: RefCell<HashMap<BindingKey, Binding>>,
    /// Bindings by the external end.
    pub externals: RefCell<HashMap<ExternalKey, Internal>>,
    /// How many external ports guests have.
    pub guests: RefCell<HashMap<GuestKey, u64>>,
    /// Who may call external ports that guests have told them.
    pub expected: RefCell<HashMap<ExternalKey, Expected>>,
    /// How sequence numbers of helped flows have moved.
    pub shifts: RefCell<HashMap<FlowKey<Ipv4>, Shift>>,
    /// The line that a helper reads.
    pub line: Rc<RefCell<Line>>,
    /// External ports in use, by pool.
    pub pools: RefCell<HashMap<u32, Rc<Words>>>,
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
                ..RouterConfig::NONE
            }),
            ports: RefCell::default(),
            has_lanes: Cell::new(true),
            by_lane: Cell::default(),
            tagged: RefCell::default(),
            came: Cell::default(),
            carriers: RefCell::default(),
            tunnels: TunnelTables::default(),
            bridges: BridgeTables::default(),
            counters: RefCell::default(),
            accounts: RefCell::default(),
            usage: RefCell::default(),
            capacity: Cell::new(1 << 20),
            seed: Cell::new(0x9e37_79b9_7f4a_7c15),
            nat: RefCell::default(),
            firewalls: RefCell::default(),
            lists: RefCell::default(),
            list_version: Cell::default(),
            rulings: RefCell::default(),
            classifier: RefCell::new(Classifier::new(OwnMemory::new(1 << 16, 1 << 14), [])),
            looked_at: RefCell::default(),
            rule_counts: RefCell::default(),
            next_hops: RefCell::default(),
            next_hop_room: Cell::new(usize::from(u16::MAX)),
            bindings: RefCell::default(),
            externals: RefCell::default(),
            guests: RefCell::default(),
            expected: RefCell::default(),
            shifts: RefCell::default(),
            line: Rc::new(RefCell::new(Line::EMPTY)),
            pools: RefCell::default(),
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

/// A block of the policy as it was when it was looked up.
#[derive(Clone, Copy, Debug)]
pub struct FoundBlock(Block);

impl Deref for FoundBlock {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.0
    }
}

/// A pool of external ports.
#[derive(Debug)]
pub struct Words {
    words: Vec<Cell<u64>>,
    full: Vec<Cell<u64>>,
    /// How often a port had to be shared.
    pub shared: Cell<u64>,
}

impl Default for Words {
    fn default() -> Self {
        Self { words: vec![Cell::new(0); 1024], full: vec![Cell::new(0); 16], shared: Cell::new(0) }
    }
}

/// A pool as the walk holds it.
#[derive(Clone, Debug)]
pub struct SharedWords(Rc<Words>);

impl Deref for SharedWords {
    type Target = Words;

    fn deref(&self) -> &Words {
        &self.0
    }
}

impl PortPool for SharedWords {
    fn word(&self, word: u32) -> u64 {
        self.words[word as usize].get()
    }

    fn claim(&self, word: u32, bits: u64) -> u64 {
        self.words[word as usize].replace(self.word(word) | bits)
    }

    fn release(&self, word: u32, bits: u64) {
        self.words[word as usize].set(self.word(word) & !bits);
    }

    fn full(&self, group: u32) -> u64 {
        self.full[group as usize].get()
    }

    fn set_full(&self, group: u32, bits: u64) {
        self.full[group as usize].set(self.full(group) | bits);
    }

    fn clear_full(&self, group: u32, bits: u64) {
        self.full[group as usize].set(self.full(group) & !bits);
    }

    fn count_shared(&self) {
        self.shared.set(self.shared.get() + 1);
    }
}

impl World {
    /// Writes a list of rules; one of that number makes room.
    ///
    /// # Panics
    /// There is no room for it.
    pub fn set_list(&self, number: u32, list: &std::sync::Arc<AccessList>) {
        let written = self.classifier.borrow_mut().write(number, list).expect("there is room");
        let version = self.list_version.get() + 1;
        self.list_version.set(version);
        self.lists.borrow_mut().insert(number, List { version, ..written });
    }

    fn static_nat(&self, key: NatKey) -> Option<StaticNat> {
        match self.nat.borrow().get(&key) {
            Some(NatEntry::Static(entry)) => Some(*entry),
            _ => None,
        }
    }
}

impl Tables for World {
    type Port = FoundPort;
    type Lane = Box<Lane>;
    type NextHop = Box<NextHop>;
    type Pool = SharedWords;
    type Block = FoundBlock;
    type Ruling = Box<Ruling>;

    fn static_in(&self, public: &LocalKey<Ipv4>) -> Option<StaticNat> {
        self.static_nat(NatKey::StaticIn(public.address.into()))
    }

    fn static_out(&self, guest: &LocalKey<Ipv4>) -> Option<StaticNat> {
        self.static_nat(NatKey::StaticOut(guest.address.into()))
    }

    fn forward(&self, wanted: &ForwardKey) -> Option<Forward> {
        let nat = self.nat.borrow();
        let matching = nat.iter().filter_map(|(key, entry)| match (key, entry) {
            (NatKey::Forward { address, protocol, port, bits }, NatEntry::Forward(forward)) => {
                let shift = 16 - u32::from(*bits);
                let is_it = Ipv4::from(*address) == wanted.address
                    && *protocol == wanted.protocol
                    && u32::from(*port) >> shift == u32::from(wanted.port.get()) >> shift;
                is_it.then_some((*bits, *forward))
            }
            _ => None,
        });
        matching.max_by_key(|(bits, _)| *bits).map(|(_, forward)| forward)
    }

    fn forward_by_source(&self, wanted: &SourceKey) -> Option<Forward> {
        let nat = self.nat.borrow();
        let matching = nat.iter().filter_map(|(key, entry)| match (key, entry) {
            (NatKey::Source { group, network }, NatEntry::Forward(forward)) => {
                let is_it = group.to_be_bytes() == wanted.group
                    && network.contains(&std::net::Ipv4Addr::from(wanted.source));
                is_it.then_some((network.prefix_len(), *forward))
            }
            _ => None,
        });
        matching.max_by_key(|(length, _)| *length).map(|(_, forward)| forward)
    }

    fn firewall(&self, public: &LocalKey<Ipv4>) -> Option<u32> {
        self.firewalls.borrow().get(&public.address.into()).copied()
    }

    fn list(&self, list: u32) -> Option<List> {
        self.lists.borrow().get(&list).copied()
    }

    fn block(&self, index: u32) -> Option<FoundBlock> {
        if let Some(looked_at) = &mut *self.looked_at.borrow_mut() {
            looked_at.push(index);
        }
        let classifier = self.classifier.borrow();
        let memory = classifier.memory();
        (index < memory.blocks()).then(|| FoundBlock(memory.block(index)))
    }

    fn ruling(&self, place: u32) -> Option<Box<Ruling>> {
        self.rulings.borrow().get(&(place % FEW_RULINGS)).copied().map(Box::new)
    }

    fn keep_ruling(&self, place: u32, ruling: &Ruling) {
        self.rulings.borrow_mut().insert(place % FEW_RULINGS, *ruling);
    }

    fn search(&self, case: &mut Case) -> bool {
        policy::search(self, case)
    }

    fn count_rule(&self, counter: u32, bytes: u32) {
        let mut counts = self.rule_counts.borrow_mut();
        let (packets, sum) = counts.entry(counter).or_default();
        (*packets, *sum) = (*packets + 1, *sum + u64::from(bytes));
    }

    fn is_untranslated(&self, destination: &DestinationKey) -> bool {
        let address = std::net::Ipv4Addr::from(destination.address);
        self.nat
            .borrow()
            .keys()
            .any(|key| matches!(key, NatKey::Untranslated(network) if network.contains(&address)))
    }

    fn binding(&self, key: &BindingKey, now: u64) -> Option<Be16> {
        let mut bindings = self.bindings.borrow_mut();
        let binding = bindings.get_mut(key)?;
        binding.last_used = now;
        Some(binding.port)
    }

    fn insert_binding(&self, key: &BindingKey, binding: &Binding) -> Result<(), InsertError> {
        match self.bindings.borrow_mut().insert(*key, *binding) {
            None => Ok(()),
            Some(_) => Err(InsertError::Exists),
        }
    }

    fn external(&self, key: &ExternalKey) -> Option<Internal> {
        self.externals.borrow().get(key).copied()
    }

    fn set_external(&self, key: &ExternalKey, internal: &Internal) -> Result<(), InsertError> {
        self.externals.borrow_mut().insert(*key, *internal);
        Ok(())
    }

    fn remove_external(&self, key: &ExternalKey) {
        self.externals.borrow_mut().remove(key);
    }

    fn count_port(&self, guest: &GuestKey) -> u64 {
        let mut guests = self.guests.borrow_mut();
        let ports = guests.entry(*guest).or_default();
        *ports += 1;
        *ports
    }

    fn discount_port(&self, guest: &GuestKey) {
        if let Some(ports) = self.guests.borrow_mut().get_mut(guest) {
            *ports -= 1;
        }
    }

    fn expected(&self, key: &ExternalKey) -> Option<Expected> {
        self.expected.borrow().get(key).copied()
    }

    fn expect(&self, key: &ExternalKey, expected: &Expected) {
        self.expected.borrow_mut().insert(*key, *expected);
    }

    fn pool(&self, index: u32) -> Option<SharedWords> {
        Some(SharedWords(self.pools.borrow_mut().entry(index).or_default().clone()))
    }

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

    fn next_hop(&self, number: u16) -> Option<Box<NextHop>> {
        let Some(place) = number.checked_sub(1) else { return Some(Box::new(NextHop::UNKNOWN)) };
        self.next_hops.borrow().get(usize::from(place)).copied().map(Box::new)
    }

    fn port(&self, ifindex: u32) -> Option<FoundPort> {
        self.ports.borrow().get(&ifindex).copied().map(FoundPort)
    }

    fn lane(&self, ifindex: u32) -> Option<Lane> {
        let lane = self.ports.borrow().get(&ifindex).map(Lane::of);
        lane.filter(|lane| lane.slot != 0 && self.has_lanes.get())
    }

    fn entrance(&self, ifindex: u32) -> Option<Box<Lane>> {
        self.ports.borrow().get(&ifindex).map(|port| Box::new(Lane::of(port)))
    }

    fn tagged(&self, key: &TagKey, place: u32) -> Option<u32> {
        self.tagged.borrow().get(&(*key, place)).copied()
    }

    fn carrier(&self, ifindex: u32) -> Option<Carrier> {
        self.carriers.borrow().get(&ifindex).copied()
    }

    fn account_of(&self, key: &AccountKey) -> u32 {
        let mut accounts = self.accounts.borrow_mut();
        let next = accounts.len() as u32 + 1;
        if next >= ACCOUNTS {
            return accounts.get(key).copied().unwrap_or(0);
        }
        *accounts.entry(*key).or_insert(next)
    }

    fn charge(&self, counter: u32, bytes: usize) {
        let mut usage = self.usage.borrow_mut();
        let (packets, sum) = usage.entry(counter).or_default();
        (*packets, *sum) = (*packets + 1, *sum + bytes as u64);
    }

    fn count(&self, slot: u32, hook: Hook, outcome: u32, _bytes: usize) {
        *self.counters.borrow_mut().entry((slot, hook, outcome)).or_default() += 1;
    }
}

/// A family that has tables in a [`World`].
pub trait WorldFamily: Family + Hash + Default {
    /// Its tables.
    fn tables(world: &World) -> &FamilyTables<Self>;
    /// An address of it.
    fn to_ip(address: Self) -> IpAddr;
}

impl WorldFamily for Ipv4 {
    fn tables(world: &World) -> &FamilyTables<Self> {
        &world.v4
    }

    fn to_ip(address: Self) -> IpAddr {
        std::net::Ipv4Addr::from(address).into()
    }
}

impl WorldFamily for Ipv6 {
    fn tables(world: &World) -> &FamilyTables<Self> {
        &world.v6
    }

    fn to_ip(address: Self) -> IpAddr {
        std::net::Ipv6Addr::from(address).into()
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
        let entry = FlowEntry::blank(address);
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
            if activity.refreshes {
                entry.last_seen = tick(activity.now);
            }
            entry.count(activity.bytes as u64);
            entry.tcp_flags |= activity.tcp_flags;
            if activity.tcp_flags & tcp_flags::ACK != 0 {
                entry.tcp_ack = activity.tcp_ack;
            }
        }
    }

    fn forget_tcp(&self, flow: &Found<A>) {
        if let Some(entry) = A::tables(self).flows.borrow_mut().get_mut(&flow.key) {
            entry.tcp_flags = 0;
        }
    }

    fn destination(&self, arrival: &Arrival<A>) -> Destination<A> {
        nat::destination(self, arrival)
    }

    fn bind(&self) -> Result<(), DropReason> {
        let arrival = A::tables(self).arrival.borrow().expect("a packet has arrived");
        let mut opening = A::tables(self).opening.borrow().expect("something is decided about it");
        nat::bind(self, &arrival, &mut opening)?;
        self.begin(&opening);
        Ok(())
    }

    fn keep_next_hop(&self, next_hop: &NextHop) -> Option<u16> {
        let mut kept = self.next_hops.borrow_mut();
        if !kept.contains(next_hop) && kept.len() < self.next_hop_room.get() {
            kept.push(*next_hop);
        }
        let place = kept.iter().position(|known| known == next_hop);
        u16::try_from(place? + 1).ok()
    }

    fn set_next_hop(&self, flow: &Found<A>, egress: u32, next_hop: u16, arrival: &Arrival<A>) {
        if let Some(entry) = A::tables(self).flows.borrow_mut().get_mut(&flow.key) {
            (entry.egress, entry.next_hop) = (egress, next_hop);
            (entry.resolved, entry.generation) = (tick(arrival.now), arrival.generation as u16);
        }
    }

    fn arrive(&self, arrival: &Arrival<A>) {
        A::tables(self).arrival.replace(Some(*arrival));
    }

    fn begin(&self, opening: &Opening<A>) {
        A::tables(self).opening.replace(Some(*opening));
    }

    fn enter(&self) {
        let arrival = A::tables(self).arrival.borrow().expect("a packet has arrived");
        let mut opening = A::tables(self).opening.borrow().expect("something is decided about it");
        opening.account = usage::of_opening(self, &arrival, &opening);
        opening.number = Flows::<A>::keep_next_hop(self, &opening.next_hop).unwrap_or(0);
        self.begin(&opening);
    }

    fn claim(&self, attempt: u32) -> Result<Claim, DropReason> {
        let (arrival, opening) = (&A::tables(self).arrival, &A::tables(self).opening);
        let arrival = arrival.borrow().expect("a packet has arrived");
        let opening = opening.borrow().expect("something is decided about it");
        conntrack::claim(self, &arrival, &opening, attempt)
    }

    fn permits(
        &self,
        arrival: &Arrival<A>,
        list: u32,
        (dst, dst_port): (A, Be16),
        comes_again: bool,
    ) -> bool {
        let mut case = Case::EMPTY;
        case.ask_about(arrival, dst, dst_port);
        policy::permits::<A, _>(self, list, &mut case, arrival.bytes, comes_again)
    }

    fn leave(&self, parsed: &Parsed<A>, now: u64) {
        A::tables(self).piece.replace(Some(Piece {
            key: fragment::key(parsed),
            now,
            fragment: parsed.fragment,
            src_port: parsed.key.src_port,
            dst_port: parsed.key.dst_port,
            id: Be16::default(),
        }));
    }

    fn left(&self) -> (Be16, Be16, Be16) {
        let piece = A::tables(self).piece.borrow().expect("a fragment was left");
        (piece.src_port, piece.dst_port, piece.id)
    }

    fn local(&self, key: &LocalKey<A>) -> Option<Local> {
        A::tables(self).locals.borrow().get(&key.address).map(|&ifindex| Local { ifindex })
    }

    fn route(&self, query: &RouteQuery<A>) -> Route {
        let routes = A::tables(self).routes.borrow();
        let leaves_there = |route: &Route| match route {
            Route::Via(next_hop) => query.egress == 0 || next_hop.ifindex == query.egress,
            Route::Nowhere => query.egress == 0,
            Route::Refused => true,
        };
        let matches = routes
            .iter()
            .filter(|(network, length, route)| within(&query.dst, network, *length) && leaves_there(route));
        matches.max_by_key(|(_, length, _)| *length).map_or(Route::Nowhere, |(_, _, route)| *route)
    }
}

/// The line that a helper reads; what is written comes back to its place in the end.
#[derive(Debug)]
pub struct LineInPlace {
    place: Rc<RefCell<Line>>,
    line: Line,
}

impl Deref for LineInPlace {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

impl DerefMut for LineInPlace {
    fn deref_mut(&mut self) -> &mut Line {
        &mut self.line
    }
}

impl Drop for LineInPlace {
    fn drop(&mut self) {
        self.place.replace(self.line);
    }
}

impl Desk for World {
    type Line = LineInPlace;

    fn arrived(&self) -> FlowKey<Ipv4> {
        self.v4.arrival.borrow().expect("a packet has arrived").key
    }

    fn line(&self) -> Option<LineInPlace> {
        let line = *self.line.borrow();
        Some(LineInPlace { place: Rc::clone(&self.line), line })
    }

    fn shift(&self, key: &FlowKey<Ipv4>) -> Option<Shift> {
        self.shifts.borrow().get(key).copied()
    }

    fn set_shift(&self, key: &FlowKey<Ipv4>, shift: &Shift) {
        self.shifts.borrow_mut().insert(*key, *shift);
    }

    fn forget_shift(&self, key: &FlowKey<Ipv4>) {
        self.shifts.borrow_mut().remove(key);
    }
}

impl tables::World for World {
    fn express<P: Packet>(&self, packet: &mut P, ifindex: u32) -> Option<Passage> {
        let passage = express::take(packet, self, ifindex);
        self.by_lane.set(self.by_lane.get() + u64::from(passage.is_some()));
        passage
    }

    fn take_tags<P: Packet>(&self, packet: &mut P, ifindex: u32) -> u32 {
        let (port, tags) = tags::take_off(packet, self, ifindex);
        self.came.set(tags);
        port
    }

    fn take_out<P: Packet>(
        &self,
        packet: &mut P,
        ifindex: u32,
        had_tags: bool,
    ) -> Result<Opened, DropReason> {
        let came = if had_tags { self.came.get() } else { Tags::default() };
        let opened = tunnel::take_out(packet, self, ifindex);
        self.came.set(Tags { is_packet: matches!(opened, Ok(Opened::Inside(_))), ..came });
        opened
    }

    fn give_tags<P: Packet>(
        &self,
        packet: &mut P,
        ifindex: u32,
        was_carried: bool,
    ) -> Result<Leaving, DropReason> {
        let carrier = self.carrier(ifindex).ok_or(DropReason::RewriteFailed)?;
        if carrier.is_tunnel() {
            return tunnel::put_in(packet, self, ifindex, &mut Outer::default());
        }
        let came = if was_carried { self.came.get() } else { Tags::default() };
        let trunk = tags::put_on(packet, &carrier, &came);
        trunk.map(Leaving::By).ok_or(DropReason::RewriteFailed)
    }

    fn give_back<P: Packet>(&self, packet: &mut P) -> bool {
        let came = self.came.get();
        (!came.is_packet || packet.put_back().is_some()) && (came.count == 0 || packet.tag(&came).is_some())
    }

    fn bridge<P: Packet>(&self, packet: &mut P, ifindex: u32) -> Passage {
        bridge::pass(packet, self, ifindex)
    }

    fn decide(&self, version: u8, question: Question, _ifindex: u32) -> Result<Decision, DropReason> {
        if version == Ipv6::VERSION { about::<Ipv6>(self, question) } else { about::<Ipv4>(self, question) }
    }

    fn help<P: Packet>(&self, packet: &mut P) -> Result<(), DropReason> {
        helper::help(packet, self)
    }
}

fn about<A: WorldFamily>(world: &World, question: Question) -> Result<Decision, DropReason> {
    let tables = A::tables(world);
    if question == Question::Flow {
        let arrival = tables.arrival.borrow().expect("a packet has arrived");
        return conntrack::decide(world, &arrival);
    }
    let mut piece = tables.piece.borrow_mut();
    let piece = piece.as_mut().expect("a fragment was left");
    let mut datagrams = tables.datagrams.borrow_mut();
    let datagram = datagrams.entry(piece.key).or_insert_with(|| no_fragments(piece.now));
    // Frames in memory are kept by whoever sends them.
    if !fragment::exchange_ports(datagram, piece) {
        let mut holders = tables.holders.borrow_mut();
        let holder = holders.entry(piece.key.src).or_insert(Tally { since: piece.now, count: 0, pad: 0 });
        if !fragment::HELD_PER_SOURCE.allows(holder, piece.now) {
            return Err(DropReason::FragmentNotHeld);
        }
        datagram.held += 1;
        return if datagram.held > MAX_HELD { Err(DropReason::FragmentNotHeld) } else { Ok(Decision::Held) };
    }
    if datagram.held != 0 && !piece.fragment.is_later() {
        datagram.held = 0;
        return Ok(Decision::Held);
    }
    let covered = &mut datagram.covered;
    let is_new = fragment::cover(|index| {
        fragment::mark(&piece.fragment, index, |word, bits| {
            let before = covered[word as usize];
            covered[word as usize] |= bits;
            before
        })
    });
    if !is_new {
        return Err(DropReason::OverlappingFragment);
    }
    if fragment::completes(datagram, &piece.fragment, piece.now) {
        datagrams.remove(&piece.key);
    }
    Ok(Decision::Found)
}

/// A datagram of which nothing has come.
fn no_fragments(now: u64) -> Datagram {
    let none = Be16::default();
    Datagram {
        seen: now,
        covered: [0; 128],
        src_port: none,
        dst_port: none,
        held: 0,
        new_id: Be16::new(0x1234),
        have: 0,
        total: 0,
        known: 0,
        pad: 0,
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
