//! A typed handle per map, and the tables as the control walk compares them.

use std::collections::{BTreeMap, HashMap as StdHashMap};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::{Ebpf, Pod};
use ipnet::Ipv4Net;
use router_common::account::{CounterRow as CounterEntry, ForwardedRow, Traffic};
use router_common::bridge::{FdbEntry, FdbKey, MemberKey};
use router_common::config::RouterConfig;
use router_common::flow::{FlowEntry, FlowKey, KeptNextHop, tick};
use router_common::fragment::{Datagram, DatagramKey, Held, HeldKey};
use router_common::limit::Tally;
use router_common::nat::{
    Binding, BindingKey, DestinationKey, Expected, ExternalKey, Forward, ForwardKey, GuestKey, GuestUse,
    Internal, Pool, Shift, SourceKey, StaticNat, Untranslated,
};
use router_common::net::{Be16, Ipv4, Ipv6};
use router_common::policy::{Block, List, RuleCount};
use router_common::port::{Carrier, Carriers, LANES, Lane, Local, LocalKey, Port, TagKey, TaggedPorts};
use router_common::tunnel::{Remote, RemoteIndex, RemoteKey, StationKey, Tunnel, TunnelKey, Whereabouts};
use router_common::unsolicited::Syn;
use router_common::usage::AccountKey;

use super::batch;
use super::bridges::BridgeTables;
use super::expiry::monotonic_now;
use super::policy::PolicyTables;
use super::pools::Pools;
use super::tunnels::TunnelTables;
use super::usage::UsageTables;
use crate::compile::TableSet;
use crate::compile::nat::{NatEntry, NatKey};

/// Every map, by the name it is pinned under.
pub(super) const NAMES: &[&str] = &[
    "CONFIG",
    "PORTS",
    "LANES",
    "TAGGED",
    "CARRIERS",
    "LOCAL4",
    "LOCAL6",
    "FLOWS4",
    "FLOWS6",
    "NEXT_HOPS",
    "COUNTERS",
    "FORWARDED",
    "ACCOUNTS",
    "LAST_ACCOUNT",
    "USAGE",
    "USAGE_ZERO",
    "STATIC_IN",
    "STATIC_OUT",
    "FORWARDS",
    "FORWARD_SOURCES",
    "FIREWALLS",
    "LISTS",
    "BLOCKS",
    "RULE_COUNTS",
    "UNTRANSLATED",
    "BINDINGS",
    "EXTERNALS",
    "GUESTS",
    "EXPECTED",
    "SHIFTS",
    "SYNS",
    "POOLS",
    "DATAGRAMS4",
    "DATAGRAMS6",
    "HELD4",
    "HELD6",
    "HOLDERS4",
    "HOLDERS6",
    "TUNNELLED",
    "TUNNELS",
    "REMOTES",
    "REMOTE_LIST",
    "STATIONS",
    "MEMBERS",
    "FDB",
];

/// What frames are told by that are a port's, and its place among the ports of the key.
const fn tag_key(carrier: &Carrier) -> (TagKey, u32) {
    TagKey::of(carrier.trunk, carrier.outer, carrier.inner)
}

/// What a pinned map must look like to be this version's.
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) flags: u32,
}

const fn shape<K, V>(name: &'static str, flags: u32) -> Shape {
    Shape { name, key_size: size_of::<K>() as u32, value_size: size_of::<V>() as u32, flags }
}

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1024;

pub(super) const SHAPES: &[Shape] = &[
    shape::<u32, RouterConfig>("CONFIG", 0),
    shape::<u32, Port>("PORTS", 0),
    shape::<u32, Lane>("LANES", 0),
    shape::<TagKey, TaggedPorts>("TAGGED", 0),
    shape::<u32, Carriers>("CARRIERS", 0),
    shape::<LocalKey<Ipv4>, Local>("LOCAL4", NO_PREALLOC),
    shape::<LocalKey<Ipv6>, Local>("LOCAL6", NO_PREALLOC),
    shape::<FlowKey<Ipv4>, FlowEntry<Ipv4>>("FLOWS4", 0),
    shape::<FlowKey<Ipv6>, FlowEntry<Ipv6>>("FLOWS6", 0),
    shape::<u32, KeptNextHop>("NEXT_HOPS", 0),
    shape::<u32, CounterEntry>("COUNTERS", 0),
    shape::<u32, ForwardedRow>("FORWARDED", 0),
    shape::<AccountKey, u32>("ACCOUNTS", 0),
    shape::<u32, u64>("LAST_ACCOUNT", 0),
    shape::<u32, Traffic>("USAGE", 0),
    shape::<u32, Traffic>("USAGE_ZERO", 0),
    shape::<LocalKey<Ipv4>, StaticNat>("STATIC_IN", NO_PREALLOC),
    shape::<LocalKey<Ipv4>, StaticNat>("STATIC_OUT", NO_PREALLOC),
    shape::<(u32, ForwardKey), Forward>("FORWARDS", NO_PREALLOC),
    shape::<(u32, SourceKey), Forward>("FORWARD_SOURCES", NO_PREALLOC),
    shape::<LocalKey<Ipv4>, u32>("FIREWALLS", NO_PREALLOC),
    shape::<u32, List>("LISTS", NO_PREALLOC),
    shape::<u32, Block>("BLOCKS", MMAPABLE),
    shape::<u32, RuleCount>("RULE_COUNTS", MMAPABLE),
    shape::<(u32, DestinationKey), Untranslated>("UNTRANSLATED", NO_PREALLOC),
    shape::<BindingKey, Binding>("BINDINGS", 0),
    shape::<ExternalKey, Internal>("EXTERNALS", 0),
    shape::<GuestKey, GuestUse>("GUESTS", NO_PREALLOC),
    shape::<ExternalKey, Expected>("EXPECTED", 0),
    shape::<FlowKey<Ipv4>, Shift>("SHIFTS", 0),
    shape::<FlowKey<Ipv6>, Syn>("SYNS", 0),
    shape::<u32, Pool>("POOLS", MMAPABLE),
    shape::<DatagramKey<Ipv4>, Datagram>("DATAGRAMS4", 0),
    shape::<DatagramKey<Ipv6>, Datagram>("DATAGRAMS6", 0),
    shape::<HeldKey<Ipv4>, Held>("HELD4", 0),
    shape::<HeldKey<Ipv6>, Held>("HELD6", 0),
    shape::<LocalKey<Ipv4>, Tally>("HOLDERS4", 0),
    shape::<LocalKey<Ipv6>, Tally>("HOLDERS6", 0),
    shape::<TunnelKey, u32>("TUNNELLED", 0),
    shape::<u32, Tunnel>("TUNNELS", 0),
    shape::<RemoteKey, Remote>("REMOTES", NO_PREALLOC),
    shape::<RemoteIndex, Whereabouts>("REMOTE_LIST", NO_PREALLOC),
    shape::<StationKey, Whereabouts>("STATIONS", 0),
    shape::<MemberKey, u32>("MEMBERS", 0),
    shape::<FdbKey, FdbEntry>("FDB", 0),
];

/// `RouterId` of the one router of a network namespace, see [`Port::router`].
pub const ROUTER: u16 = 0;

/// The maps.
pub struct Tables {
    config: Array<MapData, RouterConfig>,
    ports: HashMap<MapData, u32, Port>,
    lanes: Array<MapData, Lane>,
    tagged: HashMap<MapData, TagKey, TaggedPorts>,
    carriers: HashMap<MapData, u32, Carriers>,
    pub(super) tunnels: TunnelTables,
    pub(super) bridges: BridgeTables,
    local4: HashMap<MapData, LocalKey<Ipv4>, Local>,
    local6: HashMap<MapData, LocalKey<Ipv6>, Local>,
    pub(super) flows4: HashMap<MapData, FlowKey<Ipv4>, FlowEntry<Ipv4>>,
    pub(super) flows6: HashMap<MapData, FlowKey<Ipv6>, FlowEntry<Ipv6>>,
    pub(super) counters: MapData,
    pub(super) forwarded: MapData,
    pub(super) usage: UsageTables,
    static_in: HashMap<MapData, LocalKey<Ipv4>, StaticNat>,
    static_out: HashMap<MapData, LocalKey<Ipv4>, StaticNat>,
    pub(super) forwards: LpmTrie<MapData, ForwardKey, Forward>,
    sources: LpmTrie<MapData, SourceKey, Forward>,
    pub(super) policy: PolicyTables,
    untranslated: LpmTrie<MapData, DestinationKey, Untranslated>,
    pub(super) bindings: HashMap<MapData, BindingKey, Binding>,
    pub(super) externals: HashMap<MapData, ExternalKey, Internal>,
    pub(super) guests: HashMap<MapData, GuestKey, GuestUse>,
    pub(super) expected: HashMap<MapData, ExternalKey, Expected>,
    pub(super) syns: HashMap<MapData, FlowKey<Ipv6>, Syn>,
    pub(super) pools: Pools,
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut map =
            |name: &str| ebpf.take_map(name).with_context(|| format!("the object has no map {name}"));
        Ok(Self {
            config: Array::try_from(map("CONFIG")?)?,
            ports: HashMap::try_from(map("PORTS")?)?,
            lanes: Array::try_from(map("LANES")?)?,
            tagged: HashMap::try_from(map("TAGGED")?)?,
            carriers: HashMap::try_from(map("CARRIERS")?)?,
            tunnels: TunnelTables::take(&mut map)?,
            bridges: BridgeTables::take(&mut map)?,
            local4: HashMap::try_from(map("LOCAL4")?)?,
            local6: HashMap::try_from(map("LOCAL6")?)?,
            flows4: HashMap::try_from(map("FLOWS4")?)?,
            flows6: HashMap::try_from(map("FLOWS6")?)?,
            counters: per_cpu("COUNTERS", map("COUNTERS")?)?,
            forwarded: per_cpu("FORWARDED", map("FORWARDED")?)?,
            usage: UsageTables::take(&mut map)?,
            static_in: HashMap::try_from(map("STATIC_IN")?)?,
            static_out: HashMap::try_from(map("STATIC_OUT")?)?,
            forwards: LpmTrie::try_from(map("FORWARDS")?)?,
            sources: LpmTrie::try_from(map("FORWARD_SOURCES")?)?,
            policy: PolicyTables::take(&mut map)?,
            untranslated: LpmTrie::try_from(map("UNTRANSLATED")?)?,
            bindings: HashMap::try_from(map("BINDINGS")?)?,
            externals: HashMap::try_from(map("EXTERNALS")?)?,
            guests: HashMap::try_from(map("GUESTS")?)?,
            expected: HashMap::try_from(map("EXPECTED")?)?,
            syns: HashMap::try_from(map("SYNS")?)?,
            pools: match map("POOLS")? {
                Map::Array(data) => Pools::map(data).context("map POOLS into memory")?,
                other => anyhow::bail!("POOLS is {other:?}, not an array"),
            },
        })
    }

    /// The settings.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn config(&self) -> Result<RouterConfig> {
        self.config.get(&0, 0).context("read CONFIG")
    }

    /// Replaces the settings.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_config(&mut self, config: RouterConfig) -> Result<()> {
        self.config.set(0, config, 0).context("write CONFIG")
    }

    /// Replaces what is chosen for all ports.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_flags(&mut self, flags: u32) -> Result<()> {
        let config = self.config()?;
        self.set_config(RouterConfig { flags, ..config })
    }

    /// Replaces how many external ports a guest may have per protocol; 0 for as many as there are.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_ports_per_guest(&mut self, ports_per_guest: u16) -> Result<()> {
        let config = self.config()?;
        self.set_config(RouterConfig { ports_per_guest, ..config })
    }

    /// Has flows believe their ways out for longer: somebody hears what the kernel says of links, routes and
    /// neighbours, and [bumps the generation](Self::bump_generation), for so long from now on.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn attend(&mut self, lease: Duration) -> Result<()> {
        let config = self.config()?;
        let attended = tick(monotonic_now() + lease.as_nanos() as u64);
        self.set_config(RouterConfig { attended, ..config })
    }

    /// Makes every flow look its way out up again with its next packet.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn bump_generation(&mut self) -> Result<()> {
        let config = self.config()?;
        self.set_config(RouterConfig { generation: config.generation.wrapping_add(1), ..config })
    }

    /// What the programs read now.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn observe(&self) -> Result<TableSet> {
        let RouterConfig { flags, ports_per_guest, .. } = self.config()?;
        let mut tables = TableSet { flags, ports_per_guest, ..TableSet::default() };
        tables.ports = self.observe_ports()?;
        let local4 = batch::entries(&self.local4).context("read LOCAL4")?;
        tables.local4 = local4.map(|(key, local)| (key.address.into(), local.ifindex)).collect();
        let local6 = batch::entries(&self.local6).context("read LOCAL6")?;
        tables.local6 = local6.map(|(key, local)| (key.address.into(), local.ifindex)).collect();
        tables.tags = self.observe_tags()?;
        tables.tunnels = self.tunnels.observe()?;
        tables.bridges = self.bridges.observe()?;
        self.observe_nat(&mut tables)?;
        self.policy.observe(&mut tables)?;
        Ok(tables)
    }

    fn observe_nat(&self, tables: &mut TableSet) -> Result<()> {
        for (key, value) in batch::entries(&self.static_in).context("read STATIC_IN")? {
            tables.nat.insert(NatKey::StaticIn(key.address.into()), NatEntry::Static(value));
        }
        for (key, value) in batch::entries(&self.static_out).context("read STATIC_OUT")? {
            tables.nat.insert(NatKey::StaticOut(key.address.into()), NatEntry::Static(value));
        }
        for entry in self.forwards.iter() {
            let (key, value) = entry.context("read FORWARDS")?;
            let ForwardKey { address, protocol, port, .. } = key.data();
            let bits = (key.prefix_len() - ForwardKey::BEFORE_PORT) as u8;
            let key = NatKey::Forward { address: address.into(), protocol, port: port.get(), bits };
            tables.nat.insert(key, NatEntry::Forward(value));
        }
        for entry in self.sources.iter() {
            let (key, value) = entry.context("read FORWARD_SOURCES")?;
            let SourceKey { group, source } = key.data();
            let network = Ipv4Net::new(source.into(), (key.prefix_len() - 32) as u8)?;
            let key = NatKey::Source { group: u32::from_be_bytes(group), network };
            tables.nat.insert(key, NatEntry::Forward(value));
        }
        for entry in self.untranslated.iter() {
            let (key, _) = entry.context("read UNTRANSLATED")?;
            let bits = key.prefix_len() - DestinationKey::BEFORE_ADDRESS;
            let network = Ipv4Net::new(key.data().address.into(), bits as u8)?;
            tables.nat.insert(NatKey::Untranslated(network), NatEntry::Untranslated);
        }
        Ok(())
    }

    /// Adds or replaces an entry of the NAT tables.
    ///
    /// # Errors
    /// The table is full or cannot be written.
    pub fn set_nat(&mut self, key: &NatKey, entry: &NatEntry) -> Result<()> {
        match (key, entry) {
            (NatKey::StaticIn(address), NatEntry::Static(entry)) => {
                self.static_in.insert(local_key(Ipv4::from(*address)), entry, 0)
            }
            (NatKey::StaticOut(address), NatEntry::Static(entry)) => {
                self.static_out.insert(local_key(Ipv4::from(*address)), entry, 0)
            }
            (NatKey::Forward { .. }, NatEntry::Forward(entry)) => {
                self.forwards.insert(&forward_key(key), entry, 0)
            }
            (NatKey::Source { group, network }, NatEntry::Forward(entry)) => {
                self.sources.insert(&source_key(*group, *network), entry, 0)
            }
            (NatKey::Untranslated(network), NatEntry::Untranslated) => {
                self.untranslated.insert(&destination_key(*network), Untranslated { is_so: 1 }, 0)
            }
            (key, entry) => anyhow::bail!("{key} cannot lead to {entry}"),
        }
        .with_context(|| format!("write {key}"))
    }

    /// Removes an entry of the NAT tables, if it is there.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn remove_nat(&mut self, key: &NatKey) -> Result<()> {
        let removed = match key {
            NatKey::StaticIn(address) => self.static_in.remove(&local_key(Ipv4::from(*address))),
            NatKey::StaticOut(address) => self.static_out.remove(&local_key(Ipv4::from(*address))),
            NatKey::Forward { .. } => self.forwards.remove(&forward_key(key)),
            NatKey::Source { group, network } => self.sources.remove(&source_key(*group, *network)),
            NatKey::Untranslated(network) => self.untranslated.remove(&destination_key(*network)),
        };
        absent_is_fine(removed).with_context(|| format!("remove {key}"))
    }

    /// The ports that the programs know, by interface.
    pub(super) fn observe_ports(&self) -> Result<BTreeMap<u32, Port>> {
        Ok(batch::entries(&self.ports).context("read PORTS")?.collect())
    }

    /// Adds or replaces a port.
    ///
    /// # Errors
    /// The table is full or cannot be written.
    pub fn set_port(&mut self, ifindex: u32, port: &Port) -> Result<()> {
        self.ports.insert(ifindex, port, 0).with_context(|| format!("write port {ifindex}"))?;
        self.set_lane(ifindex, Lane::of(port))
    }

    /// Removes a port, if it is there.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn remove_port(&mut self, ifindex: u32) -> Result<()> {
        self.set_lane(ifindex, Lane::NONE)?;
        absent_is_fine(self.ports.remove(&ifindex)).with_context(|| format!("remove port {ifindex}"))
    }

    /// Gives every port its lane, of which whoever wrote it may have been ended halfway.
    pub(super) fn open_lanes(&mut self) -> Result<()> {
        let ports = self.observe_ports()?;
        ports.iter().try_for_each(|(ifindex, port)| self.set_lane(*ifindex, Lane::of(port)))
    }

    fn set_lane(&mut self, ifindex: u32, lane: Lane) -> Result<()> {
        if ifindex >= LANES {
            return Ok(());
        }
        self.lanes.set(ifindex, lane, 0).with_context(|| format!("write the lane of port {ifindex}"))
    }

    /// Adds or replaces the tags of a port, by its own interface.
    ///
    /// # Errors
    /// A table is full or cannot be written.
    pub fn set_tags(&mut self, ifindex: u32, carrier: &Carrier) -> Result<()> {
        if let Some(old) = self.carrier(ifindex)?
            && tag_key(&old) != tag_key(carrier)
        {
            self.forget_tags(ifindex, &old)?;
        }
        self.set_carrier(ifindex, Some(carrier))?;
        if carrier.is_tunnel() {
            return Ok(());
        }
        self.change_tagged(carrier, |_| ifindex).with_context(|| format!("write tags {ifindex}"))
    }

    /// Removes the tags of a port, if it has any.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn remove_tags(&mut self, ifindex: u32) -> Result<()> {
        let Some(old) = self.carrier(ifindex)? else { return Ok(()) };
        self.forget_tags(ifindex, &old)?;
        self.set_carrier(ifindex, None)
    }

    /// How the frames of a port are carried, if they are.
    fn carrier(&self, ifindex: u32) -> Result<Option<Carrier>> {
        match self.carriers.get(&Carriers::key(ifindex), 0) {
            Err(MapError::KeyNotFound) => Ok(None),
            all => Ok(all.context("read CARRIERS")?.carriers[Carriers::place(ifindex)].of(ifindex)),
        }
    }

    /// Replaces how they are, if they are.
    fn set_carrier(&mut self, ifindex: u32, carrier: Option<&Carrier>) -> Result<()> {
        change(&mut self.carriers, Carriers::key(ifindex), Carriers::NONE, |all| {
            all.carriers[Carriers::place(ifindex)] =
                carrier.map_or(Carrier::NONE, |carrier| carrier.noted(ifindex));
        })
        .with_context(|| format!("write carrier {ifindex}"))
    }

    /// Frames with these tags are that port's no more, unless they have become another one's.
    fn forget_tags(&mut self, ifindex: u32, carrier: &Carrier) -> Result<()> {
        self.change_tagged(carrier, |owner| if owner == ifindex { 0 } else { owner })
            .with_context(|| format!("remove tags {ifindex}"))
    }

    /// Changes whose frames are that have these tags; 0 for nobody's.
    fn change_tagged(&mut self, carrier: &Carrier, to: impl FnOnce(u32) -> u32) -> Result<(), MapError> {
        let (key, place) = tag_key(carrier);
        change(&mut self.tagged, key, TaggedPorts::NONE, |all| {
            let owner = &mut all.ports[place as usize];
            *owner = to(*owner);
        })
    }

    /// Tags by their ports' own interfaces; without those that frames are not told by.
    fn observe_tags(&self) -> Result<BTreeMap<u32, Carrier>> {
        let tagged: StdHashMap<_, _> = batch::entries(&self.tagged).context("read TAGGED")?.collect();
        let is_told = |(ifindex, carrier): &(u32, Carrier)| {
            let (key, place) = tag_key(carrier);
            let owner = tagged.get(&key).map(|all| all.ports[place as usize]);
            carrier.is_tunnel() || owner == Some(*ifindex)
        };
        let carriers = batch::entries(&self.carriers).context("read CARRIERS")?;
        let all = carriers.flat_map(|(key, all)| (key * Carriers::COUNT..).zip(all.carriers));
        let own = all.filter_map(|(ifindex, carrier)| Some((ifindex, carrier.of(ifindex)?)));
        Ok(own.filter(is_told).collect())
    }

    /// How many ports there is room for, row 0 of the counters included.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn port_rows(&self) -> Result<u32> {
        Ok(self.counters.info().context("ask about COUNTERS")?.max_entries())
    }

    /// Adds or replaces an address of the router itself.
    ///
    /// # Errors
    /// The table is full or cannot be written.
    pub fn set_local(&mut self, address: IpAddr, ifindex: u32) -> Result<()> {
        let local = Local { ifindex };
        match address {
            IpAddr::V4(address) => self.local4.insert(local_key(Ipv4::from(address)), local, 0),
            IpAddr::V6(address) => self.local6.insert(local_key(Ipv6::from(address)), local, 0),
        }
        .with_context(|| format!("write local address {address}"))
    }

    /// Removes an address of the router itself, if it is there.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn remove_local(&mut self, address: IpAddr) -> Result<()> {
        let removed = match address {
            IpAddr::V4(address) => self.local4.remove(&local_key(Ipv4::from(address))),
            IpAddr::V6(address) => self.local6.remove(&local_key(Ipv6::from(address))),
        };
        absent_is_fine(removed).with_context(|| format!("remove local address {address}"))
    }
}

pub(super) const fn local_key<A>(address: A) -> LocalKey<A> {
    LocalKey { address, router: ROUTER, pad: [0; 2] }
}

/// # Panics
/// For a key of another table.
fn forward_key(key: &NatKey) -> Key<ForwardKey> {
    let NatKey::Forward { address, protocol, port, bits } = *key else { unreachable!("{key} is no forward") };
    let data = ForwardKey {
        address: address.into(),
        router: ROUTER,
        protocol,
        pad: 0,
        port: Be16::new(port),
        end: 0,
    };
    Key::new(ForwardKey::BEFORE_PORT + u32::from(bits), data)
}

fn source_key(group: u32, network: Ipv4Net) -> Key<SourceKey> {
    let data = SourceKey { group: group.to_be_bytes(), source: network.network().into() };
    Key::new(32 + u32::from(network.prefix_len()), data)
}

fn destination_key(network: Ipv4Net) -> Key<DestinationKey> {
    let data = DestinationKey { router: ROUTER, pad: 0, address: network.network().into() };
    Key::new(DestinationKey::BEFORE_ADDRESS + u32::from(network.prefix_len()), data)
}

/// Changes something of what shares a key; what is nobody's any more, all of it, is removed.
fn change<K: Pod, V: Pod + PartialEq>(
    table: &mut HashMap<MapData, K, V>,
    key: K,
    none: V,
    change: impl FnOnce(&mut V),
) -> Result<(), MapError> {
    let before = match table.get(&key, 0) {
        Err(MapError::KeyNotFound) => none,
        all => all?,
    };
    let mut after = before;
    change(&mut after);
    match after {
        _ if after == before => Ok(()),
        _ if after == none => absent_is_fine(table.remove(&key)),
        _ => table.insert(key, after, 0),
    }
}

/// One of the maps that programs keep apart by CPU, and that are read in batches.
pub(super) fn per_cpu(name: &str, map: Map) -> Result<MapData> {
    match map {
        Map::PerCpuArray(data) => Ok(data),
        other => anyhow::bail!("{name} is {other:?}, not a per-CPU array"),
    }
}

/// A removal's result, where nothing to remove is what was wanted.
pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
