//! `Tables` and `Flows`: everything that the walk may ask of the world outside the packet.
//!
//! The kernel's implementation is in `maps.rs`, the tests' in `router-tests`.

use core::ops::{Deref, DerefMut};

use router_common::account::Hook;
use router_common::config::RouterConfig;
use router_common::flow::{Draft, FlowEntry, FlowKey, NextHop};
use router_common::nat::{
    Binding, BindingKey, DestinationKey, Expected, ExternalKey, Forward, ForwardKey, GuestKey, Internal,
    SourceKey, StaticNat,
};
use router_common::net::{Be16, Ipv4, Ipv6};
use router_common::policy::{Block, List, Ruling};
use router_common::port::{Carrier, Lane, Local, LocalKey, Port, TagKey};
use router_common::usage::AccountKey;
use router_common::verdict::DropReason;

use crate::conntrack::{Arrival, Claim, Decision, Opening};
use crate::family::Family;
use crate::ftp::Desk;
use crate::nat::Destination;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::passage::{Decided, Passage, Question};
use crate::policy::Case;
use crate::ports::PortPool;
use crate::tunnel::{Leaving, Opened};
use crate::{express, mss, options, split, walk};

/// What does not depend on the address family: NAT is IPv4's alone.
pub trait Tables: Sized {
    /// A port in place.
    type Port: Deref<Target = Port> + Copy;
    /// What packets of known flows need of one.
    type Lane: Deref<Target = Lane>;
    /// A way out in place.
    type NextHop: Deref<Target = NextHop>;
    /// A pool of external ports in place.
    type Pool: PortPool;
    /// A block of the policy in place.
    type Block: Deref<Target = Block>;
    /// What a list has said in place.
    type Ruling: Deref<Target = Ruling>;

    /// The monotonic clock in nanoseconds.
    fn now(&self) -> u64;
    /// 32 unpredictable bits.
    fn random(&self) -> u32;
    /// The settings.
    fn config(&self) -> RouterConfig;
    /// The way out with a number.
    fn next_hop(&self, number: u16) -> Option<Self::NextHop>;
    /// The port that has an interface for its own.
    fn port(&self, ifindex: u32) -> Option<Self::Port>;
    /// What packets of known flows need of it, if it has a lane.
    fn lane(&self, ifindex: u32) -> Option<Lane>;
    /// The same of any port, whether it has a lane or not.
    fn entrance(&self, ifindex: u32) -> Option<Self::Lane>;
    /// The interface of the port that has tags, at its place among those of the key.
    fn tagged(&self, key: &TagKey, place: u32) -> Option<u32>;
    /// How the frames of a port are carried that has tags, by its interface.
    fn carrier(&self, ifindex: u32) -> Option<Carrier>;
    /// The guest behind a public address of static NAT.
    fn static_in(&self, public: &LocalKey<Ipv4>) -> Option<StaticNat>;
    /// The public address that a guest has by static NAT.
    fn static_out(&self, guest: &LocalKey<Ipv4>) -> Option<StaticNat>;
    /// The port forwarding with the longest prefix.
    fn forward(&self, key: &ForwardKey) -> Option<Forward>;
    /// The same by the asker's address: longest prefix.
    fn forward_by_source(&self, key: &SourceKey) -> Option<Forward>;
    /// The list of a public address.
    fn firewall(&self, public: &LocalKey<Ipv4>) -> Option<u32>;
    /// A list of the policy.
    fn list(&self, list: u32) -> Option<List>;
    /// A node or a rule of a list.
    fn block(&self, index: u32) -> Option<Self::Block>;
    /// What this CPU keeps at a place below [`RULINGS`](router_common::policy::RULINGS).
    fn ruling(&self, place: u32) -> Option<Self::Ruling>;
    /// Keeps it there.
    fn keep_ruling(&self, place: u32, ruling: &Ruling);
    /// Does nothing, but has a program forget what it has read of the case.
    fn read_again(&self, _case: &mut Case) {}
    /// [`policy::search`](crate::policy::search); the programs make it a function of its own.
    fn search(&self, case: &mut Case) -> bool;
    /// Counts a packet that a rule has decided about. Atomic.
    fn count_rule(&self, counter: u32, bytes: u32);
    /// Whether guests keep their source towards a destination.
    fn is_untranslated(&self, destination: &DestinationKey) -> bool;
    /// The external port of a guest's socket; notes that it is in use `now`.
    fn binding(&self, key: &BindingKey, now: u64) -> Option<Be16>;
    /// Puts a new binding in. Atomic: of two that insert one key, one gets `Exists`.
    ///
    /// # Errors
    /// See [`InsertError`].
    fn insert_binding(&self, key: &BindingKey, binding: &Binding) -> Result<(), InsertError>;
    /// Whose an external port is.
    fn external(&self, key: &ExternalKey) -> Option<Internal>;
    /// Writes down whose an external port is.
    ///
    /// # Errors
    /// See [`InsertError`]; an old entry is overwritten.
    fn set_external(&self, key: &ExternalKey, internal: &Internal) -> Result<(), InsertError>;
    /// Forgets whose an external port was.
    fn remove_external(&self, key: &ExternalKey);
    /// Counts one more external port of a guest; how many that makes. Atomic.
    fn count_port(&self, guest: &GuestKey) -> u64;
    /// Counts one less. Atomic.
    fn discount_port(&self, guest: &GuestKey);
    /// Who may call an external port that a guest has told them.
    fn expected(&self, key: &ExternalKey) -> Option<Expected>;
    /// Writes that down. What is expected longest makes room.
    fn expect(&self, key: &ExternalKey, expected: &Expected);
    /// A pool of external ports, see [`router_common::nat::pool_index`].
    fn pool(&self, index: u32) -> Option<Self::Pool>;
    /// [`options::judge`](crate::options::judge) of the IPv4 header at `l3`, which has so many bytes of them;
    /// the programs make it a function of its own.
    ///
    /// # Errors
    /// Why the packet is refused.
    fn judge_options<P: Packet>(&self, packet: &P, l3: usize, length: usize) -> Result<(), DropReason> {
        options::judge(length, |at| packet.load(l3 + Ipv4::HEADER + at))
    }
    /// [`mss::limit`](crate::mss::limit) of a segment on its way from one interface to another; the programs make
    /// it a function of its own.
    fn limit_segments<P: Packet>(&self, packet: &mut P, ingress: u32, egress: u32) {
        mss::limit(packet, self, ingress, egress);
    }
    /// [`split::can_be_cut`](crate::split::can_be_cut) of a packet on its way from one interface to another; the
    /// programs make it a function of its own.
    fn can_be_cut<P: Packet>(&self, packet: &P, ingress: u32, egress: u32) -> bool {
        split::can_be_cut(packet, self, ingress, egress).is_some()
    }
    /// The number of an account, which gets one now if it has none; 0 where none is left. Atomic.
    fn account_of(&self, key: &AccountKey) -> u32;
    /// Adds a forwarded packet to a counter of an account ([`router_common::usage::counter`]); bytes of the IP packet.
    fn charge(&self, counter: u32, bytes: usize);
    /// Counts a frame: `outcome` as in [`router_common::verdict`].
    fn count(&self, slot: u32, hook: Hook, outcome: u32, bytes: usize);
}

/// What the kernel's routing table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A way out; [`NextHop::RESOLVED`] tells whether the neighbour's address is known.
    Via(NextHop),
    /// No route, or one that ends at the router itself.
    Nowhere,
    /// Blackhole, unreachable or prohibited.
    Refused,
}

/// What to look a route up by.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery<A> {
    /// The interface the packet came in by.
    pub ingress: u32,
    /// The interface it has to leave by; 0 for any.
    pub egress: u32,
    /// Its source.
    pub src: A,
    /// Its destination.
    pub dst: A,
    /// Its protocol.
    pub protocol: u8,
}

/// The entry could not be put into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// There is one with that key.
    Exists,
    /// There is no room.
    Full,
}

/// What a forwarded packet leaves in its flow's entry.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// Now, nanoseconds.
    pub now: u64,
    /// Length of the IP packet in bytes.
    pub bytes: usize,
    /// TCP flags of the packet, 0 for other protocols.
    pub tcp_flags: u8,
    /// The flow lives on from now; a reset need not make it (RFC 7857 §2.2).
    pub refreshes: bool,
    /// Its acknowledgment number, host byte order; counts with the ACK flag only.
    pub tcp_ack: u32,
}

/// What depends on the address family.
pub trait Flows<A: Family>: Tables + Sized {
    /// A flow entry in place.
    type Flow: Deref<Target = FlowEntry<A>>;

    /// Room to write an entry down in before it goes into the table: two do not fit on a BPF
    /// program's stack.
    type Draft: DerefMut<Target = Draft<A>>;

    /// Room with zeroes or something earlier in it; one at a time.
    fn draft(&self) -> Option<Self::Draft>;
    /// The flow that a packet belongs to.
    fn flow(&self, key: &FlowKey<A>) -> Option<Self::Flow>;
    /// Puts a new entry in. Atomic: of two that insert one key, one gets `Exists`.
    fn insert(&self, key: &FlowKey<A>, entry: &FlowEntry<A>) -> Result<(), InsertError>;
    /// Takes an entry out, if it is there.
    fn remove(&self, key: &FlowKey<A>);
    /// Notes a forwarded packet in its flow.
    fn account(&self, flow: &Self::Flow, activity: Activity);
    /// Forgets the TCP flags that a direction has seen.
    fn forget_tcp(&self, flow: &Self::Flow);
    /// [`next_hops::keep`](crate::next_hops::keep); the programs make it a function of its own.
    fn keep_next_hop(&self, next_hop: &NextHop) -> Option<u16>;
    /// Gives a flow another way out, by an interface and with a number, as decided for an arrival.
    fn set_next_hop(&self, flow: &Self::Flow, egress: u32, next_hop: u16, arrival: &Arrival<A>);
    /// The router's own address.
    fn local(&self, key: &LocalKey<A>) -> Option<Local>;
    /// Keeps what the slow path needs of a packet, for [`World::decide`].
    fn arrive(&self, arrival: &Arrival<A>);
    /// [`nat::destination`](crate::nat::destination) of the packet that arrived last; the programs make it a function of its own.
    fn destination(&self, arrival: &Arrival<A>) -> Destination<A>;
    /// Keeps what is decided about the flow of the packet that arrived last, for
    /// [`bind`](Self::bind), [`enter`](Self::enter) and [`claim`](Self::claim).
    fn begin(&self, opening: &Opening<A>);
    /// [`nat::bind`](crate::nat::bind) for that packet and that decision; the programs make it a
    /// function of its own.
    ///
    /// # Errors
    /// Why the packet is refused.
    fn bind(&self) -> Result<(), DropReason>;
    /// [`usage::of_opening`](crate::usage::of_opening) for that packet and that decision, and the number of its way out,
    /// kept with it; the programs make each a function of its own.
    fn enter(&self);
    /// [`conntrack::claim`](crate::conntrack::claim) for that packet and that decision; the
    /// programs make it a function of its own.
    ///
    /// # Errors
    /// Why the packet is refused.
    fn claim(&self, attempt: u32) -> Result<Claim, DropReason>;
    /// [`policy::permits`](crate::policy::permits) of the packet that arrived last, to where it is going as the list
    /// sees it; the programs make it a function of its own.
    fn permits(&self, arrival: &Arrival<A>, list: u32, to: (A, Be16), comes_again: bool) -> bool;
    /// Keeps what the slow path needs of a fragment, for [`World::decide`].
    fn leave(&self, parsed: &Parsed<A>, now: u64);
    /// The ports of the fragment that was left last, and the identification it leaves with.
    fn left(&self) -> (Be16, Be16, Be16);
    /// The kernel's route.
    fn route(&self, query: &RouteQuery<A>) -> Route;
}

/// Both families, and the parts of the walk that the programs make functions of their own,
/// each with its own stack, and looked at by the verifier once.
pub trait World: Desk + Flows<Ipv6> {
    /// [`tags::take_off`](crate::tags::take_off) of a frame with tags; keeps what was taken off.
    fn take_tags<P: Packet>(&self, packet: &mut P, ifindex: u32) -> u32;

    /// [`tunnel::take_out`](crate::tunnel::take_out); keeps that there was something, and that there were no tags if there
    /// were none.
    ///
    /// # Errors
    /// Why the packet is refused.
    fn take_out<P: Packet>(&self, packet: &mut P, ifindex: u32, had_tags: bool)
    -> Result<Opened, DropReason>;

    /// [`tags::put_on`](crate::tags::put_on) of the frame that came last, if it was carried; or
    /// [`tunnel::put_in`](crate::tunnel::put_in).
    ///
    /// # Errors
    /// Why the packet is refused.
    fn give_tags<P: Packet>(
        &self,
        packet: &mut P,
        ifindex: u32,
        was_carried: bool,
    ) -> Result<Leaving, DropReason>;

    /// Gives the frame that came last what was taken off again: tags, and what it was inside of. Whether that could be
    /// done.
    fn give_back<P: Packet>(&self, packet: &mut P) -> bool;

    /// [`bridge::pass`](crate::bridge::pass); the programs make it a function of its own.
    fn bridge<P: Packet>(&self, packet: &mut P, ifindex: u32) -> Passage;

    /// [`express::take`].
    fn express<P: Packet>(&self, packet: &mut P, ifindex: u32) -> Option<Passage> {
        express::take(packet, self, ifindex)
    }

    /// [`walk::pass`].
    fn pass<P: Packet>(&self, packet: &mut P, ifindex: u32, decided: Decided) -> Passage {
        walk::pass(packet, self, ifindex, decided)
    }

    /// The slow path: [`conntrack::decide`](crate::conntrack::decide) about the packet of this IP
    /// version that arrived last by an interface, or what else is asked about it.
    ///
    /// # Errors
    /// Why the packet is refused.
    fn decide(&self, version: u8, question: Question, ifindex: u32) -> Result<Decision, DropReason>;

    /// [`helper::help`](crate::helper::help) with the packet that arrived last.
    ///
    /// # Errors
    /// The packet could not be written.
    fn help<P: Packet>(&self, packet: &mut P) -> Result<(), DropReason>;
}
