//! Every map, and [`Tables`] over them.
//!
//! One of the files that may write `unsafe` (with `packet.rs`, `frame.rs`, `apart.rs` and those in `maps/`).

mod bridges;
mod datagram;
mod desk;
mod next_hops;
mod pool;
mod tunnels;

use core::arch::asm;
use core::ffi::c_void;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LOOKUP_OUTPUT,
    BPF_NOEXIST, bpf_fib_lookup as FibLookup, xdp_md,
};
use aya_ebpf::helpers::{
    bpf_fib_lookup, bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use router_common::account::{
    COUNTER_SLOTS, COUNTERS_PER_ROW, CounterRow, ForwardedRow, Hook, PORTS_PER_ROW, Traffic, counter_index,
    forwarded_row, forwarded_rows,
};
use router_common::config::RouterConfig;
use router_common::flow::{
    Draft, FlowEntry, FlowKey, KeptNextHop, NEXT_HOPS as NEXT_HOPS_LENGTH, NextHop, tick,
};
use router_common::fragment::{Datagram, DatagramKey, Held, HeldKey};
use router_common::limit::Tally;
use router_common::nat::{
    Binding, BindingKey, DestinationKey, Expected, ExternalKey, Forward, ForwardKey, GuestKey, GuestUse,
    Internal, POOLS as POOLS_LENGTH, Pool, Shift, SourceKey, StaticNat, Untranslated,
};
use router_common::net::{Address, Be16, Ipv4, Ipv6, MacPair};
use router_common::policy::{self as lists, Block, List, RuleCount, Ruling};
use router_common::port::{
    self as interfaces, Carrier, Carriers, Lane, Local, LocalKey, Port, TagKey, TaggedPorts,
};
use router_common::unsolicited::Syn;
use router_common::usage::{self as accounts, AccountKey};
use router_common::verdict::{self, DropReason};
use router_ebpf::conntrack::{Arrival, Claim, Decision, Opening};
use router_ebpf::family::Family;
use router_ebpf::fragment::{self, Piece};
use router_ebpf::ftp::Line;
use router_ebpf::nat::Destination;
use router_ebpf::packet::Packet;
use router_ebpf::parse::{Parsed, tcp_flags};
use router_ebpf::passage::{Decided, Passage, Question};
use router_ebpf::policy::Case;
use router_ebpf::split::{self, Whole};
use router_ebpf::tables::{Activity, Flows, InsertError, Route, RouteQuery, Tables, World};
use router_ebpf::tags::Tags;
use router_ebpf::tunnel::{self, Leaving, Opened};

use crate::apart;

pub use bridges::member;
pub use datagram::{datagram, piece, set_covered};
pub use next_hops::kept_next_hop;
pub use pool::{PoolInPlace, pool_in_place};
pub use tunnels::outer;

// Sizes are upper bounds; userspace sets the flow tables' at load.

#[map]
static CONFIG: Array<RouterConfig> = Array::with_max_entries(1, 0);
#[map]
static PORTS: HashMap<u32, Port> = HashMap::with_max_entries(COUNTER_SLOTS, 0);
/// By the interface's number.
#[map]
static LANES: Array<Lane> = Array::with_max_entries(interfaces::LANES, 0);
/// Interfaces of ports that have tags.
#[map]
static TAGGED: HashMap<TagKey, TaggedPorts> = HashMap::with_max_entries(COUNTER_SLOTS, 0);
/// By these.
#[map]
static CARRIERS: HashMap<u32, Carriers> = HashMap::with_max_entries(COUNTER_SLOTS, 0);
#[map]
static LOCAL4: HashMap<LocalKey<Ipv4>, Local> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
#[map]
static LOCAL6: HashMap<LocalKey<Ipv6>, Local> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
/// With memory of their own from the start, as bindings have: a flow's first packet waits for no allocator.
#[map]
static FLOWS4: HashMap<FlowKey<Ipv4>, FlowEntry<Ipv4>> = HashMap::with_max_entries(1 << 20, 0);
#[map]
static FLOWS6: HashMap<FlowKey<Ipv6>, FlowEntry<Ipv6>> = HashMap::with_max_entries(1 << 20, 0);
/// By their numbers.
#[map]
static NEXT_HOPS: Array<KeptNextHop> = Array::with_max_entries(NEXT_HOPS_LENGTH, 0);
#[map]
static STATIC_IN: HashMap<LocalKey<Ipv4>, StaticNat> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
#[map]
static STATIC_OUT: HashMap<LocalKey<Ipv4>, StaticNat> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
#[map]
static FORWARDS: LpmTrie<ForwardKey, Forward> = LpmTrie::with_max_entries(1 << 20, BPF_F_NO_PREALLOC);
#[map]
static FORWARD_SOURCES: LpmTrie<SourceKey, Forward> = LpmTrie::with_max_entries(1 << 20, BPF_F_NO_PREALLOC);
#[map]
static FIREWALLS: HashMap<LocalKey<Ipv4>, u32> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
#[map]
static LISTS: HashMap<u32, List> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
#[map]
static BLOCKS: Array<Block> = Array::with_max_entries(lists::BLOCKS, BPF_F_MMAPABLE);
#[map]
static RULE_COUNTS: Array<RuleCount> = Array::with_max_entries(lists::RULE_COUNTS, BPF_F_MMAPABLE);
/// Those of all CPUs behind each other: a per-CPU array would read where its entry is first, which is one more line that
/// no cache has. In pages of its own, as mapped memory is, so that none is in two lines.
#[map]
static RULINGS: Array<Ruling> = Array::with_max_entries(lists::RULINGS, BPF_F_MMAPABLE);
/// What a list is asked about, see [`apart`].
#[map]
static CASE: PerCpuArray<Case> = PerCpuArray::with_max_entries(1, 0);
#[map]
static UNTRANSLATED: LpmTrie<DestinationKey, Untranslated> =
    LpmTrie::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);
#[map]
static BINDINGS: HashMap<BindingKey, Binding> = HashMap::with_max_entries(1 << 18, 0);
#[map]
static EXTERNALS: HashMap<ExternalKey, Internal> = HashMap::with_max_entries(1 << 18, 0);
#[map]
static GUESTS: HashMap<GuestKey, GuestUse> = HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
#[map]
static EXPECTED: LruHashMap<ExternalKey, Expected> = LruHashMap::with_max_entries(16_384, 0);
#[map]
static SHIFTS: LruHashMap<FlowKey<Ipv4>, Shift> = LruHashMap::with_max_entries(16_384, 0);
/// Who floods it pushes others out, whose senders then hear nothing.
#[map]
static SYNS: LruHashMap<FlowKey<Ipv6>, Syn> = LruHashMap::with_max_entries(1024, 0);
/// The line that a helper reads.
#[map]
static LINE: PerCpuArray<Line> = PerCpuArray::with_max_entries(1, 0);
#[map]
static POOLS: Array<Pool> = Array::with_max_entries(POOLS_LENGTH, BPF_F_MMAPABLE);
#[map]
static DATAGRAMS4: LruHashMap<DatagramKey<Ipv4>, Datagram> = LruHashMap::with_max_entries(4096, 0);
#[map]
static DATAGRAMS6: LruHashMap<DatagramKey<Ipv6>, Datagram> = LruHashMap::with_max_entries(4096, 0);
#[map]
static HELD4: LruHashMap<HeldKey<Ipv4>, Held> = LruHashMap::with_max_entries(2048, 0);
#[map]
static HELD6: LruHashMap<HeldKey<Ipv6>, Held> = LruHashMap::with_max_entries(2048, 0);
#[map]
static HOLDERS4: LruHashMap<LocalKey<Ipv4>, Tally> = LruHashMap::with_max_entries(4096, 0);
#[map]
static HOLDERS6: LruHashMap<LocalKey<Ipv6>, Tally> = LruHashMap::with_max_entries(4096, 0);
/// How many errors of its own a CPU has sent.
#[map]
static OWN_ERRORS: PerCpuArray<Tally> = PerCpuArray::with_max_entries(1, 0);
/// What the functions about fragments are called with, see [`apart`].
#[map]
static PIECE4: PerCpuArray<Piece<Ipv4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static PIECE6: PerCpuArray<Piece<Ipv6>> = PerCpuArray::with_max_entries(1, 0);
/// Room to write fragments down in.
#[map]
static FRAGMENTS: PerCpuArray<Fragments> = PerCpuArray::with_max_entries(1, 0);
/// The packet that is being cut, and its payload.
#[map]
static WHOLE: PerCpuArray<Whole> = PerCpuArray::with_max_entries(1, 0);
#[map]
static PAYLOAD: PerCpuArray<PayloadRoom> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<CounterRow> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);
#[map]
static FORWARDED: PerCpuArray<ForwardedRow> = PerCpuArray::with_max_entries(forwarded_rows(COUNTER_SLOTS), 0);
/// Numbers of accounts. With memory of its own from the start: no attempt at a number fails for want of it.
#[map]
static ACCOUNTS: HashMap<AccountKey, u32> = HashMap::with_max_entries(accounts::ACCOUNTS, 0);
/// The last number that was given out.
#[map]
static LAST_ACCOUNT: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static USAGE: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(accounts::COUNTERS, 0);
/// What counters said when they were last set to zero: userspace's alone, since nobody but a CPU itself may write its own.
#[map]
static USAGE_ZERO: Array<Traffic> = Array::with_max_entries(accounts::COUNTERS, 0);
/// How a frame came.
#[map]
static CAME: PerCpuArray<Came> = PerCpuArray::with_max_entries(1, 0);
/// What the slow path is called with, see [`apart`].
#[map]
static ARRIVAL4: PerCpuArray<Arrival<Ipv4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ARRIVAL6: PerCpuArray<Arrival<Ipv6>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static OPENING4: PerCpuArray<Opening<Ipv4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static OPENING6: PerCpuArray<Opening<Ipv6>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static FIB: PerCpuArray<FibLookup> = PerCpuArray::with_max_entries(1, 0);
#[map]
static DRAFT4: PerCpuArray<Draft<Ipv4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static DRAFT6: PerCpuArray<Draft<Ipv6>> = PerCpuArray::with_max_entries(1, 0);

/// Room for a payload that begins anywhere in the longest and is as long: the verifier sees both bounds, but
/// not that they hang together.
pub type PayloadRoom = [u8; 2 * split::LONGEST as usize];

// A program may have 64 maps: what is needed together is one.

/// How a frame came.
struct Came {
    /// The tags that were taken off it.
    tags: Tags,
    /// What is needed of its port, see [`apart`].
    lane: Lane,
}

/// Where fragments are written down.
struct Fragments {
    /// A datagram of them.
    datagram: Datagram,
    /// One that is held.
    held: Held,
}

/// The maps, for one run of a program.
pub struct Maps {
    ctx: Context,
}

/// A program's own context.
#[derive(Clone, Copy)]
pub enum Context {
    /// Of the XDP program.
    Xdp(*mut xdp_md),
    /// Of the TC program.
    Tc(*mut __sk_buff),
    /// None, in a function that asks the kernel nothing about the frame.
    Absent,
}

impl Context {
    #[inline(always)]
    const fn pointer(self) -> *mut c_void {
        match self {
            Self::Xdp(ctx) => ctx.cast(),
            Self::Tc(skb) => skb.cast(),
            Self::Absent => core::ptr::null_mut(),
        }
    }
}

impl Maps {
    /// # Safety
    /// `ctx` is the program's own context.
    #[inline(always)]
    pub const unsafe fn new(ctx: Context) -> Self {
        Self { ctx }
    }
}

impl Tables for Maps {
    type Port = &'static Port;
    type Lane = Own<Lane>;
    type NextHop = &'static NextHop;
    type Pool = PoolInPlace;
    type Block = &'static Block;
    type Ruling = Own<Ruling>;

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn config(&self) -> RouterConfig {
        CONFIG.get(0).copied().unwrap_or(RouterConfig::NONE)
    }

    #[inline(always)]
    fn next_hop(&self, number: u16) -> Option<&'static NextHop> {
        // What may be read is not changed.
        NEXT_HOPS.get(number.into()).map(|kept| &kept.next_hop)
    }

    #[inline(always)]
    fn port(&self, ifindex: u32) -> Option<&'static Port> {
        // SAFETY: userspace replaces entries whole; a torn read of one is of two valid ports.
        unsafe { PORTS.get(&ifindex) }
    }

    #[inline(always)]
    fn lane(&self, ifindex: u32) -> Option<Lane> {
        // A torn read is of two valid ones, or of one that comes or goes, whose address is not whole: no frame is for it.
        LANES.get(ifindex).filter(|lane| lane.slot != 0).copied()
    }

    #[inline(always)]
    fn entrance(&self, ifindex: u32) -> Option<Own<Lane>> {
        if apart::xvr_entrance(ifindex) == 0 { None } else { lane() }
    }

    #[inline(always)]
    fn tagged(&self, key: &TagKey, place: u32) -> Option<u32> {
        let ports = TAGGED.get_ptr(key)?.cast::<u32>();
        // SAFETY: one integer, and it is one of the ports.
        let port = unsafe { *ports.add(pool::masked::<{ TaggedPorts::COUNT as u32 - 1 }>(place)) };
        (port != 0).then_some(port)
    }

    #[inline(always)]
    fn carrier(&self, ifindex: u32) -> Option<Carrier> {
        let carriers = CARRIERS.get_ptr(&Carriers::key(ifindex))?.cast::<Carrier>();
        // SAFETY: it is one of them, and userspace replaces all of them together.
        let carrier =
            unsafe { carriers.add(pool::masked::<{ Carriers::COUNT - 1 }>(ifindex)).read_volatile() };
        carrier.of(ifindex)
    }

    #[inline(always)]
    fn static_in(&self, public: &LocalKey<Ipv4>) -> Option<StaticNat> {
        // SAFETY: userspace replaces entries whole.
        unsafe { STATIC_IN.get(public) }.copied()
    }

    #[inline(always)]
    fn static_out(&self, guest: &LocalKey<Ipv4>) -> Option<StaticNat> {
        // SAFETY: as above.
        unsafe { STATIC_OUT.get(guest) }.copied()
    }

    #[inline(always)]
    fn forward(&self, key: &ForwardKey) -> Option<Forward> {
        FORWARDS.get(&Key::new(ForwardKey::FULL, *key)).copied()
    }

    #[inline(always)]
    fn forward_by_source(&self, key: &SourceKey) -> Option<Forward> {
        FORWARD_SOURCES.get(&Key::new(64, *key)).copied()
    }

    #[inline(always)]
    fn firewall(&self, public: &LocalKey<Ipv4>) -> Option<u32> {
        // SAFETY: entries are replaced whole.
        unsafe { FIREWALLS.get(public) }.copied()
    }

    #[inline(always)]
    fn list(&self, list: u32) -> Option<List> {
        // SAFETY: entries are replaced whole.
        unsafe { LISTS.get(&list) }.copied()
    }

    #[inline(always)]
    fn block(&self, index: u32) -> Option<&'static Block> {
        // What may be read is not changed.
        BLOCKS.get(index)
    }

    #[inline(always)]
    fn ruling(&self, place: u32) -> Option<Own<Ruling>> {
        // SAFETY: no arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        RULINGS.get_ptr_mut(cpu * lists::RULINGS + place).and_then(NonNull::new).map(Own)
    }

    #[inline(always)]
    fn keep_ruling(&self, place: u32, ruling: &Ruling) {
        if let Some(mut kept) = self.ruling(place) {
            *kept = *ruling;
        }
    }

    #[inline(always)]
    fn read_again(&self, case: &mut Case) {
        shared(case);
    }

    // What is called has the same case, in its map.
    #[inline(always)]
    fn search(&self, case: &mut Case) -> bool {
        shared(case);
        apart::xvr_search() != 0
    }

    #[inline(always)]
    fn count_rule(&self, counter: u32, bytes: u32) {
        if let Some(count) = RULE_COUNTS.get_ptr_mut(counter) {
            let packets = count.cast::<u64>();
            pool::fetch_add(packets, 1);
            // SAFETY: the second of the two words.
            pool::fetch_add(unsafe { packets.add(1) }, u64::from(bytes));
        }
    }

    #[inline(always)]
    fn is_untranslated(&self, destination: &DestinationKey) -> bool {
        UNTRANSLATED.get(&Key::new(DestinationKey::FULL, *destination)).is_some()
    }

    #[inline(always)]
    fn binding(&self, key: &BindingKey, now: u64) -> Option<Be16> {
        let binding = BINDINGS.get_ptr_mut(key)?;
        // SAFETY: from a lookup of this run; other CPUs write the same clock.
        unsafe {
            (*binding).last_used = now;
            Some((*binding).port)
        }
    }

    #[inline(always)]
    fn insert_binding(&self, key: &BindingKey, binding: &Binding) -> Result<(), InsertError> {
        insert(&BINDINGS, key, binding, u64::from(BPF_NOEXIST))
    }

    #[inline(always)]
    fn external(&self, key: &ExternalKey) -> Option<Internal> {
        // SAFETY: entries are replaced whole.
        unsafe { EXTERNALS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_external(&self, key: &ExternalKey, internal: &Internal) -> Result<(), InsertError> {
        insert(&EXTERNALS, key, internal, 0)
    }

    #[inline(always)]
    fn remove_external(&self, key: &ExternalKey) {
        // ENOENT is what the caller wants.
        let _ = EXTERNALS.remove(key);
    }

    #[inline(always)]
    fn count_port(&self, guest: &GuestKey) -> u64 {
        if let Some(used) = GUESTS.get_ptr_mut(guest) {
            return pool::fetch_add(used.cast(), 1) + 1;
        }
        // Of two CPUs at once one is not counted, and where there is no room nobody is: the control side
        // makes up for it.
        let _ = insert(&GUESTS, guest, &GuestUse { ports: 1 }, u64::from(BPF_NOEXIST));
        1
    }

    #[inline(always)]
    fn discount_port(&self, guest: &GuestKey) {
        if let Some(used) = GUESTS.get_ptr_mut(guest) {
            pool::fetch_add(used.cast(), u64::MAX);
        }
    }

    #[inline(always)]
    fn expected(&self, key: &ExternalKey) -> Option<Expected> {
        // SAFETY: entries are replaced whole.
        unsafe { EXPECTED.get(key) }.copied()
    }

    #[inline(always)]
    fn expect(&self, key: &ExternalKey, expected: &Expected) {
        // Full it cannot be: what was used least makes room.
        let _ = EXPECTED.insert(key, expected, 0);
    }

    #[inline(always)]
    fn pool(&self, index: u32) -> Option<PoolInPlace> {
        pool_in_place(index)
    }

    #[inline(always)]
    fn judge_options<P: Packet>(&self, _packet: &P, l3: usize, length: usize) -> Result<(), DropReason> {
        // XDP never asks.
        let Context::Tc(skb) = self.ctx else { return Ok(()) };
        match DropReason::from_outcome(apart::xvr_tc_options(skb, l3 as u32, length as u32)) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn limit_segments<P: Packet>(&self, _packet: &mut P, ingress: u32, egress: u32) {
        match self.ctx {
            Context::Xdp(ctx) => _ = apart::xvr_xdp_segments(ctx, ingress, egress),
            Context::Tc(skb) => _ = apart::xvr_tc_segments(skb, ingress, egress),
            Context::Absent => {}
        }
    }

    #[inline(always)]
    fn can_be_cut<P: Packet>(&self, _packet: &P, ingress: u32, egress: u32) -> bool {
        // XDP never asks.
        matches!(self.ctx, Context::Tc(skb) if apart::xvr_tc_can_be_cut(skb, ingress, egress) != 0)
    }

    #[inline(always)]
    fn account_of(&self, key: &AccountKey) -> u32 {
        // SAFETY: entries are neither changed nor removed.
        let known = || unsafe { ACCOUNTS.get(key) }.copied();
        if let Some(number) = known() {
            return number;
        }
        let Some(last) = LAST_ACCOUNT.get_ptr_mut(0) else { return 0 };
        let number = pool::fetch_add(last, 1) + 1;
        if number >= u64::from(accounts::ACCOUNTS) {
            return 0;
        }
        // Another CPU may be faster: then its number counts, and this one is nobody's.
        let _ = insert(&ACCOUNTS, key, &(number as u32), u64::from(BPF_NOEXIST));
        known().unwrap_or(0)
    }

    #[inline(always)]
    fn charge(&self, counter: u32, bytes: usize) {
        if let Some(traffic) = USAGE.get_ptr_mut(counter) {
            // SAFETY: this CPU's own entry, and programs on it do not interrupt each other.
            unsafe {
                (*traffic).packets += 1;
                (*traffic).bytes += bytes as u64;
            }
        }
    }

    #[inline(always)]
    fn count(&self, slot: u32, hook: Hook, outcome: u32, bytes: usize) {
        if outcome == verdict::FORWARDED {
            let row = FORWARDED.get_ptr_mut(forwarded_row(slot, hook));
            count(row, pool::masked::<{ PORTS_PER_ROW - 1 }>(slot), bytes);
        } else {
            apart::xvr_count(slot, counter_index(hook, outcome), bytes as u32);
        }
    }
}

/// Counts what was not forwarded.
#[inline(always)]
pub fn count_other(slot: u32, counter: u32, bytes: u32) {
    let index = pool::masked::<{ COUNTERS_PER_ROW - 1 }>(counter);
    count(COUNTERS.get_ptr_mut(slot), index, bytes as usize);
}

/// Adds a packet to one of the counters that a row is, this CPU's own; the index is within the row.
#[inline(always)]
fn count<R>(row: Option<*mut R>, index: usize, bytes: usize) {
    const { assert!(size_of::<R>() == 256 * size_of::<Traffic>()) };
    let Some(row) = row else { return };
    // SAFETY: from a lookup of this run, and programs on this CPU do not interrupt each other.
    unsafe {
        let traffic = row.cast::<Traffic>().add(index);
        (*traffic).packets += 1;
        (*traffic).bytes += bytes as u64;
    }
}

/// Puts an entry into a map.
#[inline(always)]
fn insert<K, V>(map: &HashMap<K, V>, key: &K, value: &V, flags: u64) -> Result<(), InsertError> {
    match map.insert(key, value, flags) {
        Ok(()) => Ok(()),
        Err(EEXIST) => Err(InsertError::Exists),
        // E2BIG when the table is full, ENOMEM when the machine is.
        Err(_) => Err(InsertError::Full),
    }
}

/// A flow entry in its map. Deleted entries stay readable until the program ends (RCU).
pub struct InPlace<A>(NonNull<FlowEntry<A>>);

impl<A> Deref for InPlace<A> {
    type Target = FlowEntry<A>;

    #[inline(always)]
    fn deref(&self) -> &FlowEntry<A> {
        // SAFETY: from a lookup of this run. Other CPUs may write its counters and way out
        // meanwhile: they are integers, and each of their values is valid.
        unsafe { self.0.as_ref() }
    }
}

/// Something of this CPU's own.
pub struct Own<T>(NonNull<T>);

impl<T> Deref for Own<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this CPU's own, programs on it do not interrupt each other, and one run has
        // one of a kind at a time.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Own<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { self.0.as_mut() }
    }
}

/// The one entry of a per-CPU array.
#[inline(always)]
fn own<T>(array: &PerCpuArray<T>) -> Option<Own<T>> {
    array.get_ptr_mut(0).and_then(NonNull::new).map(Own)
}

/// A part of it: with others at the same time, each of which is one's own.
#[inline(always)]
fn part<T, P>(array: &PerCpuArray<T>, part: impl FnOnce(&mut T) -> *mut P) -> Option<Own<P>> {
    let mut whole = own(array)?;
    NonNull::new(part(&mut whole)).map(Own)
}

/// The tags that were taken off the frame.
#[inline(always)]
pub fn came() -> Option<Own<Tags>> {
    part(&CAME, |came| &raw mut came.tags)
}

/// Where is written what is needed of the port that the frame came in by.
#[inline(always)]
pub fn lane() -> Option<Own<Lane>> {
    part(&CAME, |came| &raw mut came.lane)
}

/// What the slow path has been called with.
#[inline(always)]
pub fn arrival<A: FamilyMaps>() -> Option<Own<Arrival<A>>> {
    own(A::arrivals())
}

/// What is decided about the flow that is being opened.
#[inline(always)]
pub fn opening<A: FamilyMaps>() -> Option<Own<Opening<A>>> {
    own(A::openings())
}

/// This CPU's count of the router's own errors.
#[inline(always)]
pub fn own_errors() -> Option<Own<Tally>> {
    own(&OWN_ERRORS)
}

/// Notes the first SYN of a flow that was refused.
#[inline(always)]
pub fn note_syn(key: &FlowKey<Ipv6>, syn: &Syn) {
    // One that is there is the first; and full it cannot be.
    let _ = SYNS.insert(key, syn, u64::from(BPF_NOEXIST));
}

/// The packet that is being cut.
#[inline(always)]
pub fn whole() -> Option<Own<Whole>> {
    own(&WHOLE)
}

/// Room for its payload.
#[inline(always)]
pub fn payload_room() -> Option<Own<PayloadRoom>> {
    own(&PAYLOAD)
}

/// What a list is asked about.
#[inline(always)]
pub fn case() -> Option<Own<Case>> {
    own(&CASE)
}

/// Tells the compiler that others know of the case, so that it reads again what it has read before.
#[inline(always)]
fn shared(case: &mut Case) {
    // SAFETY: nothing is done, but the kernel wants an instruction for each line.
    unsafe { asm!("{0} = {0}", inout(reg) &raw mut *case => _, options(nostack, preserves_flags)) };
}

/// Where a datagram of fragments is written down.
#[inline(always)]
fn datagram_room() -> Option<Own<Datagram>> {
    part(&FRAGMENTS, |room| &raw mut room.datagram)
}

/// Where held fragments are written down.
#[inline(always)]
pub fn held_room() -> Option<Own<Held>> {
    part(&FRAGMENTS, |room| &raw mut room.held)
}

/// Where a family's tables are.
pub trait FamilyMaps: Family {
    /// `AF_INET` or `AF_INET6`.
    const ADDRESS_FAMILY: u8;
    /// Its flows.
    fn flows() -> &'static HashMap<FlowKey<Self>, FlowEntry<Self>>;
    /// What the slow path is called with.
    fn arrivals() -> &'static PerCpuArray<Arrival<Self>>;
    /// What is decided about a flow.
    fn openings() -> &'static PerCpuArray<Opening<Self>>;
    /// See [`apart`].
    fn permits(list: u32, to: (Self, Be16), comes_again: bool) -> bool;
    /// Its destination, see [`apart`].
    fn destination(arrival: &Arrival<Self>) -> Destination<Self>;
    /// Its binding, see [`apart`]: 0, or the outcome of the reason to drop the packet.
    fn bind() -> u32;
    /// Its account, see [`apart`].
    fn enter();
    /// The number of its way out, see [`apart`]; 0 where there is no room.
    fn number() -> u32;
    /// One more attempt to open it, see [`apart`].
    fn claim(attempt: u32) -> u32;
    /// Datagrams that come in fragments.
    fn datagrams() -> &'static LruHashMap<DatagramKey<Self>, Datagram>;
    /// Fragments that wait.
    fn held() -> &'static LruHashMap<HeldKey<Self>, Held>;
    /// Whose they are.
    fn holders() -> &'static LruHashMap<LocalKey<Self>, Tally>;
    /// What the functions about fragments are called with.
    fn pieces() -> &'static PerCpuArray<Piece<Self>>;
    /// See [`apart`].
    fn mark(index: u32) -> u32;
    /// Room for an entry to be.
    fn drafts() -> &'static PerCpuArray<Draft<Self>>;
    /// The router's addresses.
    fn locals() -> &'static HashMap<LocalKey<Self>, Local>;
    /// Writes a lookup's ends.
    fn set_ends(lookup: &mut FibLookup, query: &RouteQuery<Self>);
}

impl FamilyMaps for Ipv4 {
    const ADDRESS_FAMILY: u8 = 2;

    #[inline(always)]
    fn permits(list: u32, (dst, dst_port): (Self, Be16), comes_again: bool) -> bool {
        apart::xvr_permits4(list, dst.to_host(), u32::from(dst_port.get()), u32::from(comes_again)) != 0
    }

    #[inline(always)]
    fn flows() -> &'static HashMap<FlowKey<Self>, FlowEntry<Self>> {
        &FLOWS4
    }

    #[inline(always)]
    fn datagrams() -> &'static LruHashMap<DatagramKey<Self>, Datagram> {
        &DATAGRAMS4
    }

    #[inline(always)]
    fn held() -> &'static LruHashMap<HeldKey<Self>, Held> {
        &HELD4
    }

    #[inline(always)]
    fn holders() -> &'static LruHashMap<LocalKey<Self>, Tally> {
        &HOLDERS4
    }

    #[inline(always)]
    fn pieces() -> &'static PerCpuArray<Piece<Self>> {
        &PIECE4
    }

    #[inline(always)]
    fn mark(index: u32) -> u32 {
        apart::xvr_mark4(index)
    }

    #[inline(always)]
    fn drafts() -> &'static PerCpuArray<Draft<Self>> {
        &DRAFT4
    }

    #[inline(always)]
    fn arrivals() -> &'static PerCpuArray<Arrival<Self>> {
        &ARRIVAL4
    }

    #[inline(always)]
    fn openings() -> &'static PerCpuArray<Opening<Self>> {
        &OPENING4
    }

    #[inline(always)]
    fn destination(_arrival: &Arrival<Self>) -> Destination<Self> {
        Destination::from_number(apart::xvr_destination4())
    }

    #[inline(always)]
    fn bind() -> u32 {
        apart::xvr_bind4()
    }

    #[inline(always)]
    fn enter() {
        apart::xvr_enter4();
    }

    #[inline(always)]
    fn number() -> u32 {
        apart::xvr_number4()
    }

    #[inline(always)]
    fn claim(attempt: u32) -> u32 {
        apart::xvr_claim4(attempt)
    }

    #[inline(always)]
    fn locals() -> &'static HashMap<LocalKey<Self>, Local> {
        &LOCAL4
    }

    #[inline(always)]
    fn set_ends(lookup: &mut FibLookup, query: &RouteQuery<Self>) {
        let ([src], [dst]) = (query.src.0, query.dst.0);
        lookup.__bindgen_anon_3.ipv4_src = src;
        lookup.__bindgen_anon_4.ipv4_dst = dst;
    }
}

impl FamilyMaps for Ipv6 {
    const ADDRESS_FAMILY: u8 = 10;

    #[inline(always)]
    fn permits(list: u32, _to: (Self, Be16), comes_again: bool) -> bool {
        apart::xvr_permits6(list, u32::from(comes_again)) != 0
    }

    #[inline(always)]
    fn flows() -> &'static HashMap<FlowKey<Self>, FlowEntry<Self>> {
        &FLOWS6
    }

    #[inline(always)]
    fn datagrams() -> &'static LruHashMap<DatagramKey<Self>, Datagram> {
        &DATAGRAMS6
    }

    #[inline(always)]
    fn held() -> &'static LruHashMap<HeldKey<Self>, Held> {
        &HELD6
    }

    #[inline(always)]
    fn holders() -> &'static LruHashMap<LocalKey<Self>, Tally> {
        &HOLDERS6
    }

    #[inline(always)]
    fn pieces() -> &'static PerCpuArray<Piece<Self>> {
        &PIECE6
    }

    #[inline(always)]
    fn mark(index: u32) -> u32 {
        apart::xvr_mark6(index)
    }

    #[inline(always)]
    fn drafts() -> &'static PerCpuArray<Draft<Self>> {
        &DRAFT6
    }

    #[inline(always)]
    fn arrivals() -> &'static PerCpuArray<Arrival<Self>> {
        &ARRIVAL6
    }

    #[inline(always)]
    fn openings() -> &'static PerCpuArray<Opening<Self>> {
        &OPENING6
    }

    #[inline(always)]
    fn destination(arrival: &Arrival<Self>) -> Destination<Self> {
        Destination::itself(&arrival.key)
    }

    #[inline(always)]
    fn bind() -> u32 {
        0
    }

    #[inline(always)]
    fn enter() {
        apart::xvr_enter6();
    }

    #[inline(always)]
    fn number() -> u32 {
        apart::xvr_number6()
    }

    #[inline(always)]
    fn claim(attempt: u32) -> u32 {
        apart::xvr_claim6(attempt)
    }

    #[inline(always)]
    fn locals() -> &'static HashMap<LocalKey<Self>, Local> {
        &LOCAL6
    }

    #[inline(always)]
    fn set_ends(lookup: &mut FibLookup, query: &RouteQuery<Self>) {
        lookup.__bindgen_anon_3.ipv6_src = query.src.0;
        lookup.__bindgen_anon_4.ipv6_dst = query.dst.0;
    }
}

impl World for Maps {
    /// The frame is the context's, whichever way it comes; so it is for all of these.
    #[inline(always)]
    fn take_tags<P: Packet>(&self, _packet: &mut P, ifindex: u32) -> u32 {
        match self.ctx {
            Context::Xdp(ctx) => apart::xvr_xdp_take_tags(ctx, ifindex),
            Context::Tc(skb) => apart::xvr_tc_take_tags(skb, ifindex),
            Context::Absent => ifindex,
        }
    }

    #[inline(always)]
    fn take_out<P: Packet>(
        &self,
        packet: &mut P,
        ifindex: u32,
        had_tags: bool,
    ) -> Result<Opened, DropReason> {
        tunnel::opened(match self.ctx {
            Context::Xdp(ctx) => {
                apart::xvr_xdp_take_out(ctx, ifindex, had_tags.into(), packet.beyond() as u32)
            }
            Context::Tc(skb) => apart::xvr_tc_take_out(skb, ifindex, had_tags.into()),
            Context::Absent => 0,
        })
    }

    #[inline(always)]
    fn give_tags<P: Packet>(
        &self,
        packet: &mut P,
        ifindex: u32,
        was_carried: bool,
    ) -> Result<Leaving, DropReason> {
        tunnel::leaving(match self.ctx {
            Context::Xdp(ctx) => {
                apart::xvr_xdp_give_tags(ctx, ifindex, was_carried.into(), packet.beyond() as u32)
            }
            Context::Tc(skb) => apart::xvr_tc_give_tags(skb, ifindex, was_carried.into()),
            Context::Absent => 0,
        })
    }

    #[inline(always)]
    fn give_back<P: Packet>(&self, _packet: &mut P) -> bool {
        // TC never asks.
        matches!(self.ctx, Context::Xdp(ctx) if apart::xvr_xdp_give_back(ctx) != 0)
    }

    #[inline(always)]
    fn bridge<P: Packet>(&self, packet: &mut P, ifindex: u32) -> Passage {
        Passage::from_number(match self.ctx {
            Context::Xdp(ctx) => apart::xvr_xdp_bridge(ctx, ifindex, packet.beyond() as u32),
            Context::Tc(skb) => apart::xvr_tc_bridge(skb, ifindex),
            Context::Absent => 0,
        })
    }

    #[inline(always)]
    fn express<P: Packet>(&self, packet: &mut P, ifindex: u32) -> Option<Passage> {
        let Context::Xdp(ctx) = self.ctx else { return None };
        // It is not told how many bytes are in other buffers: that would cost every frame.
        if packet.beyond() > 0 {
            return None;
        }
        Some(apart::xvr_xdp_express(ctx, ifindex)).filter(|number| *number != 0).map(Passage::from_number)
    }

    #[inline(always)]
    fn pass<P: Packet>(&self, packet: &mut P, ifindex: u32, decided: Decided) -> Passage {
        let decided = decided as u32;
        Passage::from_number(match self.ctx {
            Context::Xdp(ctx) => apart::xvr_xdp_pass(ctx, ifindex, decided, packet.beyond() as u32),
            Context::Tc(skb) => apart::xvr_tc_pass(skb, ifindex, decided),
            Context::Absent => 0,
        })
    }

    #[inline(always)]
    fn decide(&self, version: u8, question: Question, ifindex: u32) -> Result<Decision, DropReason> {
        let is_v6 = version == Ipv6::VERSION;
        apart::decoded(match (question, self.ctx) {
            // Asked elsewhere.
            (_, Context::Absent) | (Question::Tunnel | Question::Bridge, _) => apart::NO_ROOM,
            (Question::Flow, Context::Xdp(ctx)) if is_v6 => apart::xvr_xdp_decide6(ctx),
            (Question::Flow, Context::Xdp(ctx)) => apart::xvr_xdp_decide4(ctx),
            (Question::Flow, Context::Tc(skb)) if is_v6 => apart::xvr_tc_decide6(skb),
            (Question::Flow, Context::Tc(skb)) => apart::xvr_tc_decide4(skb),
            // Never asked for: XDP keeps no frames.
            (Question::Datagram, Context::Xdp(_)) => DropReason::FragmentNotHeld.outcome(),
            (Question::Datagram, Context::Tc(skb)) if is_v6 => apart::xvr_tc_datagram6(skb, ifindex),
            (Question::Datagram, Context::Tc(skb)) => apart::xvr_tc_datagram4(skb, ifindex),
        })
    }

    /// The packet is the context's.
    #[inline(always)]
    fn help<P: Packet>(&self, _packet: &mut P) -> Result<(), DropReason> {
        match self.ctx {
            Context::Tc(skb) if apart::xvr_tc_help4(skb) == 0 => Ok(()),
            _ => Err(DropReason::RewriteFailed),
        }
    }
}

/// All zeroes, in whole words: a `memset` would go byte by byte.
#[inline(always)]
fn clear(lookup: &mut FibLookup) {
    const WORDS: usize = size_of::<FibLookup>() / 4;
    let words = (&raw mut *lookup).cast::<u32>();
    for word in 0..WORDS {
        // SAFETY: within the lookup, whose alignment is 4; all zeroes is a valid one.
        unsafe { words.add(word).write_volatile(0) };
    }
}

const EEXIST: i32 = -17;

impl<A: FamilyMaps> Flows<A> for Maps {
    type Flow = InPlace<A>;
    type Draft = Own<Draft<A>>;

    #[inline(always)]
    fn draft(&self) -> Option<Own<Draft<A>>> {
        own(A::drafts())
    }

    #[inline(always)]
    fn arrive(&self, arrival: &Arrival<A>) {
        let Some(mut room) = own(A::arrivals()) else { return };
        // Field by field: the whole would be built on the stack first.
        let Arrival {
            key,
            now,
            ifindex,
            generation,
            slot,
            role,
            flags,
            transport,
            icmp,
            hop_limit,
            tcp_flags,
            is_early,
            bytes,
        } = *arrival;
        room.key = key;
        (room.now, room.ifindex, room.generation) = (now, ifindex, generation);
        (room.slot, room.role, room.flags, room.transport) = (slot, role, flags, transport);
        (room.icmp, room.hop_limit, room.tcp_flags, room.bytes) = (icmp, hop_limit, tcp_flags, bytes);
        room.is_early = is_early;
    }

    #[inline(always)]
    fn begin(&self, opening: &Opening<A>) {
        let Some(mut room) = own(A::openings()) else { return };
        let Opening {
            next_hop,
            number,
            source,
            dst,
            dst_port,
            pinned,
            egress_role,
            destination_translated,
            helped,
            account,
        } = *opening;
        (room.next_hop, room.number, room.source) = (next_hop, number, source);
        (room.dst, room.dst_port, room.pinned) = (dst, dst_port, pinned);
        (room.egress_role, room.destination_translated) = (egress_role, destination_translated);
        (room.helped, room.account) = (helped, account);
    }

    #[inline(always)]
    fn destination(&self, arrival: &Arrival<A>) -> Destination<A> {
        A::destination(arrival)
    }

    #[inline(always)]
    fn bind(&self) -> Result<(), DropReason> {
        match DropReason::from_outcome(A::bind()) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn enter(&self) {
        A::enter();
        A::number();
    }

    #[inline(always)]
    fn claim(&self, attempt: u32) -> Result<Claim, DropReason> {
        apart::claimed(A::claim(attempt))
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey<A>) -> Option<InPlace<A>> {
        A::flows().get_ptr_mut(key).and_then(NonNull::new).map(InPlace)
    }

    #[inline(always)]
    fn insert(&self, key: &FlowKey<A>, entry: &FlowEntry<A>) -> Result<(), InsertError> {
        insert(A::flows(), key, entry, u64::from(BPF_NOEXIST))
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey<A>) {
        // ENOENT is what the caller wants.
        let _ = A::flows().remove(key);
    }

    #[inline(always)]
    fn account(&self, flow: &InPlace<A>, activity: Activity) {
        let flow = flow.0.as_ptr();
        // SAFETY: from a lookup of this run. Not atomic: two CPUs with packets of one flow at
        // the same moment may count one of them; ports and accounts count exactly.
        unsafe {
            if activity.refreshes {
                (*flow).last_seen = tick(activity.now);
            }
            (*flow).count(activity.bytes as u64);
            if activity.tcp_flags & !(*flow).tcp_flags != 0 {
                (*flow).tcp_flags |= activity.tcp_flags;
            }
            if activity.tcp_flags & tcp_flags::ACK != 0 {
                (*flow).tcp_ack = activity.tcp_ack;
            }
        }
    }

    #[inline(always)]
    fn forget_tcp(&self, flow: &InPlace<A>) {
        // SAFETY: as in `account`.
        unsafe { (*flow.0.as_ptr()).tcp_flags = 0 };
    }

    /// Nothing is being opened: the room for that is free.
    #[inline(always)]
    fn keep_next_hop(&self, next_hop: &NextHop) -> Option<u16> {
        let mut room = own(A::openings())?;
        // Field by field: the whole would be built on the stack first.
        let NextHop { ifindex, macs, mtu, flags } = *next_hop;
        let kept = &mut room.next_hop;
        (kept.ifindex, kept.macs, kept.mtu, kept.flags) = (ifindex, macs, mtu, flags);
        match A::number() {
            0 => None,
            number => Some(number as u16),
        }
    }

    #[inline(always)]
    fn set_next_hop(&self, flow: &InPlace<A>, egress: u32, next_hop: u16, arrival: &Arrival<A>) {
        let flow = flow.0.as_ptr();
        // SAFETY: as in `account`. Whichever number another CPU reads meanwhile is that of one way out as a whole.
        unsafe {
            (*flow).egress = egress;
            (*flow).next_hop = next_hop;
            (*flow).resolved = tick(arrival.now);
            (*flow).generation = arrival.generation as u16;
        }
    }

    #[inline(always)]
    fn local(&self, key: &LocalKey<A>) -> Option<Local> {
        // SAFETY: userspace replaces entries whole.
        unsafe { A::locals().get(key) }.copied()
    }

    #[inline(always)]
    fn permits(&self, _arrival: &Arrival<A>, list: u32, to: (A, Be16), comes_again: bool) -> bool {
        A::permits(list, to, comes_again)
    }

    #[inline(always)]
    fn leave(&self, parsed: &Parsed<A>, now: u64) {
        let Some(mut room) = own(A::pieces()) else { return };
        room.key = fragment::key(parsed);
        (room.now, room.fragment) = (now, parsed.fragment);
        (room.src_port, room.dst_port) = (parsed.key.src_port, parsed.key.dst_port);
    }

    #[inline(always)]
    fn left(&self) -> (Be16, Be16, Be16) {
        let none = Be16::from_raw(0);
        own(A::pieces()).map_or((none, none, none), |piece| (piece.src_port, piece.dst_port, piece.id))
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery<A>) -> Route {
        let Some(mut lookup) = own(&FIB) else { return Route::Nowhere };
        clear(&mut lookup);
        lookup.family = A::ADDRESS_FAMILY;
        lookup.l4_protocol = query.protocol;
        let flags = if query.egress == 0 { 0 } else { BPF_FIB_LOOKUP_OUTPUT };
        lookup.ifindex = if query.egress == 0 { query.ingress } else { query.egress };
        // Not the packet's length: that would mix "too big" into the answer. Not zero: TC would
        // leave the MTU out.
        lookup.__bindgen_anon_1.tot_len = 1;
        A::set_ends(&mut lookup, query);
        let size = size_of::<FibLookup>() as i32;
        // SAFETY: the program's own context and a whole lookup.
        let result = unsafe { bpf_fib_lookup(self.ctx.pointer(), &raw mut *lookup, size, flags) } as u32;
        let resolved = match result {
            BPF_FIB_LKUP_RET_SUCCESS => NextHop::RESOLVED,
            BPF_FIB_LKUP_RET_NO_NEIGH => 0,
            BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => {
                return Route::Refused;
            }
            _ => return Route::Nowhere,
        };
        // SAFETY: on success the kernel has written the MTU; otherwise it is the 1 from above,
        // or on some kernels the MTU too.
        let mtu = unsafe { lookup.__bindgen_anon_1.mtu_result };
        Route::Via(NextHop {
            ifindex: lookup.ifindex,
            macs: MacPair::new(lookup.dmac, lookup.smac),
            // 68 is the least an IPv4 link has (RFC 791); less means not told.
            mtu: if mtu < 68 { 0 } else { mtu },
            flags: resolved,
        })
    }
}
