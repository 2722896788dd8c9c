//! FTP (RFC 959, RFC 2428): who speaks on a control connection says where a data connection shall lead.
//!
//! ```text
//! a guest as client  PORT 10,1,1,50,19,136            EPRT |1|10.1.1.50|5000|
//! a guest as server  227 ... (10,1,1,50,19,136)       229 ... (|||5000|)
//! ```
//! A line with the guest's own address gets the external one and an external port, and whoever it speaks with
//! is expected there. A line that names somebody else, or a well-known port, is left alone: nobody is
//! made to call others, or a guest's other services (RFC 2577 §3). So is one that is cut in two, or longer
//! than [`LONGEST`].
//!
//! A line that becomes longer or shorter moves the numbers of all that follows: [`Shift`]. Selective
//! acknowledgments would have to be moved too, so they are not agreed upon on such a connection.

mod line;
mod numbers;

use core::ops::DerefMut;

use router_common::flow::{FlowEntry, FlowKey};
use router_common::nat::{ExternalKey, ForwardKey, Shift};
use router_common::net::{Be16, Ipv4};
use router_common::port::LocalKey;

use crate::checksum;
use crate::conntrack::reply_key;
use crate::helper::{EXPECTED_FOR, Helped};
use crate::packet::{ChecksumPatch, Packet, ROOM};
use crate::parse::tcp_flags;
use crate::tables::{Flows, Tables};
use crate::tcp_state;

use line::{EXTENDED_PASSIVE, MOST_OPTIONS, ROOM_MASK};
pub use line::{Line, NO_OPTION, compose, find, sack_permitted};
use numbers::{move_numbers, moved};

/// Where servers listen.
pub const PORT: u16 = 21;
/// How much a segment may carry to be read, in bytes.
pub const LONGEST: u32 = 128;
/// Length of a TCP header without options.
const HEADER: usize = 20;
/// The first port that a data connection may lead to (RFC 2577 §3).
const FIRST_PORT: u32 = 1024;
/// How many external ports are tried.
const ATTEMPTS: u32 = 16;

/// What the helper asks beyond [`Flows`]. The programs make each step a function of its own, and keep the
/// line in a map: between steps nobody may hold on to it.
pub trait Desk: Flows<Ipv4> {
    /// The line in place.
    type Line: DerefMut<Target = Line>;

    /// The flow of the packet that arrived last.
    fn arrived(&self) -> FlowKey<Ipv4>;
    /// The line that is being read.
    fn line(&self) -> Option<Self::Line>;
    /// How the numbers of a direction have moved.
    fn shift(&self, key: &FlowKey<Ipv4>) -> Option<Shift>;
    /// Writes that down.
    fn set_shift(&self, key: &FlowKey<Ipv4>, shift: &Shift);
    /// Forgets it.
    fn forget_shift(&self, key: &FlowKey<Ipv4>);

    /// [`Line::step`].
    fn step(&self, at: u32) -> bool {
        self.line().is_some_and(|mut line| line.step(at))
    }
    /// [`find`].
    fn find(&self) -> bool {
        find(self)
    }
    /// [`attempt`].
    fn attempt(&self, attempt: u32) -> Option<Be16> {
        self.line().and_then(|line| self::attempt(self, &line, attempt))
    }
    /// [`external_port`].
    fn external_port(&self) -> Option<Be16> {
        external_port(self)
    }
    /// [`Line::piece`].
    fn piece(&self, index: u32) {
        if let Some(mut line) = self.line() {
            line.piece(index);
        }
    }
    /// [`Line::keep`].
    fn keep(&self, at: u32) {
        if let Some(mut line) = self.line() {
            line.keep(at);
        }
    }
    /// [`compose`].
    fn compose(&self) {
        compose(self);
    }
    /// [`Line::sum`].
    fn sum(&self) -> u16 {
        self.line().map_or(0, |line| line.sum())
    }
    /// [`Line::option`].
    fn option(&self, at: u32) -> u32 {
        self.line().map_or(NO_OPTION, |line| line.option(at))
    }
    /// [`sack_permitted`].
    fn sack_permitted(&self) -> u32 {
        sack_permitted(self)
    }
}

/// What the helper does with a segment of a control connection.
#[inline(always)]
pub fn help<P: Packet, T: Desk>(
    packet: &mut P,
    tables: &T,
    helped: &Helped,
    flow: &FlowEntry<Ipv4>,
) -> Option<()> {
    let l4 = helped.l4;
    let [data_offset, flags]: [u8; 2] = packet.load(l4 + 12)?;
    let header = usize::from(data_offset >> 4) * 4;
    // A header that cannot be is its receiver's business.
    let Some(carried) = (helped.length + helped.l3).checked_sub(l4 + header) else { return Some(()) };
    if header < HEADER {
        return Some(());
    }
    let numbers: [u32; 2] = packet.load(l4 + 4)?;
    let other = reply_key(&helped.key, flow);
    if flags & tcp_flags::SYN != 0 {
        // Not those of a connection that goes on, whoever it is that sends such a segment.
        let begins = flow.tcp_flags & tcp_flags::ACK == 0
            || tables.flow(&other).is_none_or(|other| tcp_state::is_closing(flow, &other));
        if begins && flags & tcp_flags::ACK == 0 {
            tables.forget_shift(&helped.key);
            tables.forget_shift(&other);
        }
        return forbid_sack(packet, tables, l4, header);
    }
    // A GSO frame carries more than a line.
    let is_line = (1..=LONGEST as usize).contains(&carried) && packet.segment_payload().is_none();
    if is_line && flow.translation & FlowEntry::<Ipv4>::SOURCE != 0 {
        let segment = Segment { at: packet.blur(l4 + header), carried, sequence: u32::from_be(numbers[0]) };
        translate(packet, tables, helped, flow, &segment)?;
    }
    move_numbers(packet, l4, numbers, (tables.shift(&helped.key), tables.shift(&other)))
}

/// Takes the option that permits selective acknowledgments out of a segment with SYN.
#[inline(always)]
fn forbid_sack<P: Packet, T: Desk>(packet: &mut P, tables: &T, l4: usize, header: usize) -> Option<()> {
    const NOTHING: u8 = 1;
    if header == HEADER {
        return Some(());
    }
    let options = packet.blur(l4 + HEADER);
    {
        let mut line = tables.line()?;
        packet.read(options, &mut line.payload, header - HEADER)?;
        line.length = (header - HEADER) as u32;
    }
    let at = tables.sack_permitted();
    if at >= MOST_OPTIONS {
        return Some(());
    }
    {
        let mut line = tables.line()?;
        (line.text[0], line.text[1]) = (NOTHING, NOTHING);
        packet.write(options + at as usize, &line.text, 2)?;
    }
    let delta = checksum::delta(u16::from_ne_bytes([4, 2]), u16::from_ne_bytes([NOTHING; 2]));
    // Words are those of the segment.
    let ports = if at & 1 == 0 { delta } else { delta.swap_bytes() };
    packet.patch_checksum(ChecksumPatch { offset: l4 + 16, addresses: 0, ports, zero_is_none: false })
}

/// What a segment carries.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// Where it is in the frame.
    at: usize,
    /// How much it is.
    carried: usize,
    /// Its sequence number, as it came.
    sequence: u32,
}

/// Has a line name the external end, if it names the guest's.
#[inline(always)]
fn translate<P: Packet, T: Desk>(
    packet: &mut P,
    tables: &T,
    helped: &Helped,
    flow: &FlowEntry<Ipv4>,
    segment: &Segment,
) -> Option<()> {
    {
        let mut line = tables.line()?;
        line.payload = [0; ROOM];
        packet.read(segment.at, &mut line.payload, segment.carried)?;
        line.length = segment.carried as u32;
        if !line.begins(flow.direction) {
            return Some(());
        }
    }
    if !tables.find() {
        return Some(());
    }
    let mut shift = tables.shift(&helped.key).unwrap_or(Shift::NONE);
    let Some(internal) = named(tables, helped, flow) else { return Some(()) };
    let Some(external) = externally(tables, helped, internal, &shift) else { return Some(()) };
    {
        let mut line = tables.line()?;
        line.new_port = external.get().into();
        if line.form == EXTENDED_PASSIVE && external == internal {
            return Some(());
        }
    }
    tables.compose();
    let grown = replace(packet, tables, helped, segment)?;
    (shift.port, shift.external) = (internal, external);
    moved(&mut shift, segment.sequence, grown);
    tables.set_shift(&helped.key, &shift);
    Some(())
}

/// The port that a line names, if its address is the guest's own; and who may be expected there.
#[inline(always)]
fn named<T: Desk>(tables: &T, helped: &Helped, flow: &FlowEntry<Ipv4>) -> Option<Be16> {
    let key = &helped.key;
    let mut line = tables.line()?;
    let names_another = line.form != EXTENDED_PASSIVE && line.address != key.src.to_host();
    if names_another || line.port < FIRST_PORT {
        return None;
    }
    let (external, port) = (flow.rewrite.src, Be16::new(line.port as u16));
    line.new_address = external.to_host();
    (line.external.external, line.external.port) = (external, port);
    (line.external.router, line.external.protocol) = (key.router, key.protocol);
    line.whom.until = helped.now.wrapping_add(EXPECTED_FOR);
    (line.whom.peer, line.whom.guest, line.whom.port) = (flow.rewrite.dst, key.src, port);
    Some(port)
}

/// The external port for a guest's, where somebody is expected from now on.
#[inline(always)]
fn externally<T: Desk>(tables: &T, helped: &Helped, internal: Be16, shift: &Shift) -> Option<Be16> {
    let external = tables.line()?.external;
    let public = LocalKey { address: external.external, router: helped.key.router, pad: [0; 2] };
    if tables.static_in(&public).is_some() {
        tables.expect(&ExternalKey { port: internal, ..external }, &tables.line()?.whom);
        return Some(internal);
    }
    // The same line once more, or another one about the same port, comes out as before.
    let again = shift.port == internal && shift.external.get() != 0;
    tables.line()?.new_port = if again { shift.external } else { internal }.get().into();
    let port = tables.external_port()?;
    tables.expect(&ExternalKey { port, ..external }, &tables.line()?.whom);
    Some(port)
}

/// Puts the line's text into the segment; by how much that has grown.
#[inline(always)]
fn replace<P: Packet, T: Desk>(
    packet: &mut P,
    tables: &T,
    helped: &Helped,
    segment: &Segment,
) -> Option<u32> {
    let before = tables.sum();
    let (start, text_length) = {
        let line = tables.line()?;
        ((line.start & ROOM_MASK) as usize, (line.text_length & ROOM_MASK) as usize)
    };
    let grown = (start + text_length).wrapping_sub(segment.carried);
    let (old, new) = (helped.length, helped.length.wrapping_add(grown));
    packet.resize(helped.l3 + new)?;
    packet.write(packet.blur(segment.at + start), &tables.line()?.text, text_length)?;
    {
        let mut line = tables.line()?;
        line.payload = [0; ROOM];
        packet.read(segment.at, &mut line.payload, start + text_length)?;
    }
    let payload = checksum::add(!before, tables.sum());
    // The length is in the IP header, and in the pseudo header without that.
    let header = helped.l4 - helped.l3;
    let length = |length: usize| Be16::new(length as u16);
    packet.store(helped.l3 + 2, length(new))?;
    let sum: Be16 = packet.load(helped.l3 + 10)?;
    let changed = checksum::delta(length(old).raw(), length(new).raw());
    packet.store(helped.l3 + 10, checksum::apply(sum, changed))?;
    let addresses =
        checksum::delta(length(old.wrapping_sub(header)).raw(), length(new.wrapping_sub(header)).raw());
    packet.patch_checksum(ChecksumPatch {
        offset: helped.l4 + 16,
        addresses,
        ports: payload,
        zero_is_none: false,
    })?;
    Some(grown as u32)
}

/// An external port for the guest's, first the one that is wanted: nobody else's, and none of the router's.
#[inline(always)]
pub fn attempt<T: Tables>(tables: &T, line: &Line, attempt: u32) -> Option<Be16> {
    let whom = &line.whom;
    let port = match attempt {
        0 => line.new_port as u16,
        _ => (1024 + tables.random() % (0x1_0000 - 1024)) as u16,
    };
    let config = tables.config();
    if port == 0 || config.own_ports_first <= port && port <= config.own_ports_last {
        return None;
    }
    let port = Be16::new(port);
    let key = ExternalKey { port, ..line.external };
    if let Some(other) = tables.expected(&key)
        && other.until > whom.until.wrapping_sub(EXPECTED_FOR)
        && (other.guest, other.port, other.peer) != (whom.guest, whom.port, whom.peer)
    {
        return None;
    }
    if let Some(internal) = tables.external(&key)
        && (internal.address, internal.port) != (whom.guest, whom.port)
    {
        return None;
    }
    let ExternalKey { external: address, router, protocol, .. } = key;
    let forward = ForwardKey { address, router, protocol, pad: 0, port, end: 0 };
    if tables.forward(&forward).is_some() { None } else { Some(port) }
}

/// The external port that a line is given.
#[inline(always)]
pub fn external_port<T: Desk>(tables: &T) -> Option<Be16> {
    (0..ATTEMPTS).find_map(|attempt| tables.attempt(attempt))
}
