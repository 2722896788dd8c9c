//! Helpers: what reads along with flows whose protocol opens other connections.
//!
//! ```text
//! TFTP  the answer to a request comes from another port                                  (tftp.rs)
//! FTP   a line on the control connection says where a data connection shall lead         (ftp.rs)
//! ```
//! A helped flow has [`FlowEntry::HELPED`] in both directions. It is never fresh: each of its packets takes the
//! slow path, which ends with [`Decision::Help`]. XDP then leaves the packet to TC, where the helper may
//! change it and write down whom its guest expects ([`Expected`](router_common::nat::Expected)) before the
//! next passage translates it like any other.
//! Whoever is expected finds the guest in [`nat::destination`](crate::nat::destination).

use router_common::config::RouterConfig;
use router_common::flow::{FlowEntry, FlowKey};
use router_common::net::{Be16, Ipv4};
use router_common::verdict::DropReason;

use crate::conntrack::{Arrival, Decision};
use crate::family::{Family, protocol};
use crate::ftp::Desk;
use crate::packet::Packet;
use crate::parse::{self, Transport};
use crate::tables::Tables;
use crate::{ftp, tftp};

/// How long whoever a guest expects may take to call, in nanoseconds.
pub const EXPECTED_FOR: u64 = 60_000_000_000;

/// A packet that a helper looks at.
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
    /// The packet that arrived last, if it is whole and its way out takes it. Its header has been looked at
    /// before.
    #[inline(always)]
    fn read<P: Packet>(packet: &P, key: FlowKey<Ipv4>, now: u64, mtu: u16) -> Option<Self> {
        const FRAGMENT: u16 = 0x3fff;
        const DONT_FRAGMENT: u16 = 0x4000;
        let l3 = packet.blur(parse::ETHERNET);
        let [first, second]: [u32; 2] = packet.load(l3)?;
        let [version_length, _, length_high, length_low] = first.to_ne_bytes();
        let [_, _, fragment_high, fragment_low] = second.to_ne_bytes();
        let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let is_refused =
            fragment & DONT_FRAGMENT != 0 && length > usize::from(mtu) && packet.segment_payload().is_none();
        if fragment & FRAGMENT != 0 || is_refused {
            return None;
        }
        let l4 = packet.blur(l3 + usize::from(version_length & 0xf) * 4);
        Some(Self { key, now, l3, l4, length })
    }
}

/// [`FlowEntry::HELPED`] for a translated flow that is being opened towards a port in the end, or 0.
#[inline(always)]
pub fn flag<A: Family, T: Tables>(tables: &T, key: &FlowKey<A>, dst_port: Be16) -> u8 {
    let (setting, port) = match key.protocol {
        protocol::TCP => (RouterConfig::FTP, ftp::PORT),
        protocol::UDP => (RouterConfig::TFTP, tftp::PORT),
        _ => return 0,
    };
    let is_it = key.dst_port.get() == port || dst_port.get() == port;
    let is_wanted = A::TRANSLATED && is_it && tables.config().flags & setting != 0;
    if is_wanted { FlowEntry::<A>::HELPED } else { 0 }
}

/// What is decided about a packet whose flow is known, or open now. What is refused or the kernel's is not
/// helped, so that it stays as it is.
#[inline(always)]
pub const fn decision<A: Family>(translation: u8, arrival: &Arrival<A>) -> Decision {
    let is_helped = A::TRANSLATED && translation & FlowEntry::<A>::HELPED != 0;
    let has_ports = matches!(arrival.transport, Transport::Tcp | Transport::Udp);
    if is_helped && has_ports && arrival.hop_limit > 1 { Decision::Help } else { Decision::Flow }
}

/// What a flow's helper does with the packet that arrived last.
///
/// # Errors
/// The packet could not be read or written.
#[inline(always)]
pub fn help<P: Packet, T: Desk>(packet: &mut P, tables: &T) -> Result<(), DropReason> {
    let key = tables.arrived();
    // Whoever expires flows may be faster: then there is nothing to help with.
    let Some(flow) = tables.flow(&key) else { return Ok(()) };
    let Some(next_hop) = tables.next_hop(flow.next_hop) else { return Ok(()) };
    let Some(helped) = Helped::read(packet, key, tables.now(), next_hop.mtu) else { return Ok(()) };
    if key.protocol == protocol::UDP {
        tftp::expect_answer(tables, &helped, &flow);
        return Ok(());
    }
    ftp::help(packet, tables, &helped, &flow).ok_or(DropReason::RewriteFailed)
}
