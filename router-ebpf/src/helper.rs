//! Helpers: what reads along with flows whose protocol opens other connections.
//!
//! ```text
//! TFTP  the answer to a request comes from another port                                  (tftp.rs)
//! FTP   a line on the control connection says where a data connection shall lead         (ftp.rs)
//! ```
//! A helped flow has [`FlowEntry::HELPED`] in both directions. Its packets leave the fast path: XDP
//! leaves them to TC, where a passage ends with [`Question::Help`](crate::passage::Question::Help) before
//! anything is rewritten. The helper may then change the packet and write down whom its guest expects
//! ([`Expected`](router_common::nat::Expected)); the next passage translates the packet like any other.
//! Whoever is expected finds the guest in [`nat::destination`](crate::nat::destination).

use router_common::config::RouterConfig;
use router_common::flow::{FlowEntry, FlowKey};
use router_common::net::{Be16, Ipv4};
use router_common::verdict::DropReason;

use crate::conntrack::Opening;
use crate::family::{Family, protocol};
use crate::ftp::Desk;
use crate::packet::Packet;
use crate::parse::{Parsed, Transport};
use crate::tables::Tables;
use crate::{ftp, tftp};

/// How long whoever a guest expects may take to call, in nanoseconds.
pub const EXPECTED_FOR: u64 = 60_000_000_000;

/// The packet that a helper is asked about, as the walk knows it. No more of it than this: the walk's stack is
/// full.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject {
    /// Where the IP header begins.
    pub l3: u32,
    /// Whose it is.
    pub router: u32,
}

/// The same packet, as the helper knows it.
#[derive(Clone, Copy, Debug)]
pub struct Helped {
    /// Its flow.
    pub key: FlowKey<Ipv4>,
    /// Now, nanoseconds.
    pub now: u64,
    /// Where the IP header begins.
    pub l3: usize,
    /// Where the transport header begins.
    pub l4: usize,
    /// Length of the IP packet in bytes.
    pub length: usize,
}

impl Helped {
    /// Reads it again: it has ports, and the walk has found nothing odd about it.
    #[inline(always)]
    fn read<P: Packet>(packet: &P, subject: Subject, now: u64) -> Option<Self> {
        let l3 = packet.blur(subject.l3 as usize);
        let [first, _, third, src, dst]: [u32; 5] = packet.load(l3)?;
        let [version_length, _, length_high, length_low] = first.to_ne_bytes();
        let [_, protocol, _, _] = third.to_ne_bytes();
        let l4 = packet.blur(l3 + usize::from(version_length & 0xf) * 4);
        let [src_port, dst_port]: [Be16; 2] = packet.load(l4)?;
        let router = subject.router as u16;
        let key =
            FlowKey { src: Ipv4([src]), dst: Ipv4([dst]), src_port, dst_port, router, protocol, pad: 0 };
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        Some(Self { key, now, l3, l4, length })
    }
}

/// [`FlowEntry::HELPED`] for a flow that is being opened, or 0: only what is translated needs help.
#[inline(always)]
pub fn flag<A: Family, T: Tables>(tables: &T, key: &FlowKey<A>, opening: &Opening<A>) -> u8 {
    let (setting, port) = match key.protocol {
        protocol::TCP => (RouterConfig::FTP, ftp::PORT),
        protocol::UDP => (RouterConfig::TFTP, tftp::PORT),
        _ => return 0,
    };
    let is_translated = opening.source.is_translated() || opening.destination_translated != 0;
    let is_it = key.dst_port.get() == port || opening.dst_port.get() == port;
    let is_wanted = A::TRANSLATED && is_translated && is_it && tables.config().flags & setting != 0;
    if is_wanted { FlowEntry::<A>::HELPED } else { 0 }
}

/// Whether a packet's flow has a helper that has to see it. Fragments are left alone: a helper sees whole
/// packets.
#[inline(always)]
pub fn is_needed<A: Family>(parsed: &Parsed<A>, flow: &FlowEntry<A>) -> bool {
    A::TRANSLATED
        && flow.translation & FlowEntry::<A>::HELPED != 0
        && matches!(parsed.transport, Transport::Tcp | Transport::Udp)
        && !parsed.fragment.is_any()
}

/// What a flow's helper does with the packet that was handed over last.
///
/// # Errors
/// The packet could not be read or written.
#[inline(always)]
pub fn help<P: Packet, T: Desk>(packet: &mut P, tables: &T) -> Result<(), DropReason> {
    let helped = Helped::read(packet, tables.subject(), tables.now()).ok_or(DropReason::RewriteFailed)?;
    // Whoever expires flows may be faster: then there is nothing to help with.
    let Some(flow) = tables.flow(&helped.key) else { return Ok(()) };
    if helped.key.protocol == protocol::UDP {
        tftp::expect_answer(tables, &helped, &flow);
        return Ok(());
    }
    ftp::help(packet, tables, &helped, &flow).ok_or(DropReason::RewriteFailed)
}
