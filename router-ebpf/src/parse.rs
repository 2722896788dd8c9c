//! Step 1: bytes → what the frame is.
//!
//! Follows at most six IPv6 extension headers. Whatever comes out of here has
//! a sane header: the later steps need not ask again.

use router_common::account::Hook;
use router_common::flow::FlowKey;
use router_common::net::{Address, Be16, Ipv4, Ipv6};
use router_common::verdict::DropReason;

use crate::checksum;
use crate::family::{Family, IcmpKind, Scope, protocol};
use crate::fragment::Fragment;
use crate::icmp;
use crate::packet::Packet;
use crate::tags::{self, Tags};

/// Length of the Ethernet header, once it has no tags.
pub const ETHERNET: usize = 14;

/// Whether an Ethernet address is that of several stations.
#[inline(always)]
pub const fn is_group([first, ..]: [u8; 6]) -> bool {
    first & 1 != 0
}

/// Length of the header of TCP, which says so itself, or of UDP, at an offset.
#[inline(always)]
pub fn transport_header<P: Packet>(packet: &P, l4: usize, is_tcp: bool) -> Option<usize> {
    if !is_tcp {
        return Some(8);
    }
    let data_offset: u8 = packet.load(l4 + 12)?;
    Some(usize::from(data_offset >> 4) * 4)
}

/// What carries the flow's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP: ports.
    Tcp,
    /// UDP: ports.
    Udp,
    /// ICMP query: the identifier stands for the source port.
    IcmpQuery,
    /// ICMP answer: the identifier stands for the destination port.
    IcmpReply,
    /// ICMP error: the packet inside it tells the flow.
    IcmpError,
    /// Anything else: no ports.
    Other,
    /// A fragment that is not the first: the datagram's ports are known from that.
    LaterFragment,
}

/// An IP packet that can belong to a flow.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<A> {
    /// The flow it belongs to; for an ICMP error that of the replies to the packet it is about.
    pub key: FlowKey<A>,
    /// Where the IP header begins.
    pub l3: usize,
    /// Where the transport header begins.
    pub l4: usize,
    /// What is there.
    pub transport: Transport,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// It must not be fragmented: always so for IPv6.
    pub dont_fragment: bool,
    /// Length of the IP packet in bytes.
    pub length: usize,
    /// Where it lies in its datagram, if it is a fragment.
    pub fragment: Fragment,
    /// Its IPv4 header has options.
    pub has_options: bool,
}

/// TCP header flags.
pub mod tcp_flags {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Begin.
    pub const SYN: u8 = 2;
    /// Abort.
    pub const RST: u8 = 4;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 16;
}

/// What no flow of ICMP has for ports.
const NO_FLOWS: (Be16, Be16) = (Be16::from_raw(u16::MAX), Be16::from_raw(u16::MAX));

/// What the Ethernet header says the frame carries. Tags of a port are off by now.
#[inline(always)]
pub fn ethertype<P: Packet>(packet: &P) -> Result<u16, DropReason> {
    let ethertype = load::<_, Be16>(packet, 12)?.get();
    if tags::is_tag(ethertype) || !packet.stripped_tag().is_none() {
        return Err(match Tags::of(packet).count {
            tags::TOO_MANY => DropReason::TooManyHeaders,
            _ => DropReason::UnknownVlan,
        });
    }
    Ok(ethertype)
}

/// An IP packet; `router` is whose. `None`: one with options, or a fragment, in XDP. It can keep no fragment that
/// comes too early, and options are rare and long to read.
#[inline(always)]
pub fn ip<A: Header, P: Packet>(packet: &P, l3: usize, router: u16) -> Result<Option<Parsed<A>>, DropReason> {
    let mut header = A::header(packet, l3)?;
    if packet.hook() == Hook::Xdp && (header.has_options || header.fragment.is_any()) {
        return Ok(None);
    }
    header.fragment.start = packet.blur(header.fragment.start.into()) as u16;
    header.fragment.units = packet.blur(header.fragment.units.into()) as u16;
    let [src, dst]: [A; 2] = load(packet, l3 + A::ADDRESSES)?;
    let l4 = packet.blur(header.l4);
    let mut parsed = Parsed {
        key: FlowKey {
            src,
            dst,
            src_port: Be16::default(),
            dst_port: Be16::default(),
            router,
            protocol: header.protocol,
            pad: 0,
        },
        l3,
        l4,
        transport: Transport::Other,
        hop_limit: header.hop_limit,
        tcp_flags: 0,
        dont_fragment: header.dont_fragment,
        length: header.length,
        fragment: header.fragment,
        has_options: header.has_options,
    };
    if header.fragment.is_later() {
        parsed.transport = Transport::LaterFragment;
        return Ok(Some(parsed));
    }
    // What is behind the IP packet is padding, whatever it looks like; and a first fragment has the whole
    // of what is looked at here (RFC 1858 §3).
    if header.length < header.l4 - l3 + shortest::<A>(header.protocol) {
        return Err(DropReason::Truncated);
    }
    if header.protocol == protocol::TCP || header.protocol == protocol::UDP {
        let [src_port, dst_port]: [Be16; 2] = load(packet, l4)?;
        (parsed.key.src_port, parsed.key.dst_port) = (src_port, dst_port);
        parsed.transport = Transport::Udp;
        if header.protocol == protocol::TCP {
            parsed.tcp_flags = load(packet, l4 + 13)?;
            parsed.transport = Transport::Tcp;
        }
    } else if header.protocol == protocol::SCTP {
        // Its checksum covers no addresses, so it is translated by them alone; the ports tell
        // associations apart.
        let [src_port, dst_port]: [Be16; 2] = load(packet, l4)?;
        (parsed.key.src_port, parsed.key.dst_port) = (src_port, dst_port);
    } else if header.protocol == A::ICMP {
        let kind: u8 = load(packet, l4)?;
        let identifier: Be16 = load(packet, l4 + 4)?;
        parsed.transport = match A::icmp_kind(kind) {
            IcmpKind::Query => {
                parsed.key.src_port = identifier;
                Transport::IcmpQuery
            }
            IcmpKind::Reply => {
                parsed.key.dst_port = identifier;
                Transport::IcmpReply
            }
            IcmpKind::Error => Transport::IcmpError,
            IcmpKind::Other => Transport::Other,
        };
        // An error belongs to the flow of the packet it is about. Where that cannot be told, the
        // error is addressed to somebody else or comes from nowhere, it belongs to none, as what is
        // neither query nor answer: a flow of ICMP has one identifier.
        if matches!(parsed.transport, Transport::IcmpError | Transport::Other) {
            (parsed.key.src_port, parsed.key.dst_port) = NO_FLOWS;
        }
        if parsed.transport == Transport::IcmpError
            && src.source_scope() == Scope::Unicast
            && let Some(about) = icmp::about::<A, P>(packet, l4, l3 + header.length, router)
            && about.src == dst
        {
            parsed.key = about.reverse();
        }
    }
    Ok(Some(parsed))
}

/// How short a transport header can be.
#[inline(always)]
const fn shortest<A: Family>(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 20,
        protocol::SCTP => 12,
        protocol::UDP => 8,
        _ if protocol == A::ICMP => 8,
        _ => 0,
    }
}

/// What the IP header itself says.
#[derive(Clone, Copy, Debug)]
pub struct IpHeader {
    /// Where the transport header begins.
    pub l4: usize,
    /// What is there.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// It must not be fragmented.
    pub dont_fragment: bool,
    /// Length of the IP packet in bytes.
    pub length: usize,
    /// Where it lies in its datagram, if it is a fragment.
    pub fragment: Fragment,
    /// There are IPv4 options.
    pub has_options: bool,
}

/// The family's header.
pub trait Header: Family {
    /// Reads and checks the header (RFC 1812 §5.2.2, RFC 8200 §4).
    fn header<P: Packet>(packet: &P, l3: usize) -> Result<IpHeader, DropReason>;
    /// Where the packet ends, of which the header was read and is sound.
    fn end<P: Packet>(packet: &P, l3: usize) -> Option<usize>;
    /// Of the packet inside an ICMP error, which may be cut short: where its transport header
    /// begins, and which it is. `None` for what cannot be a flow's first bytes: another version,
    /// a later fragment, a header that is not whole, a wrong header checksum (RFC 5508 REQ-3a),
    /// IPv6 extension headers.
    fn inner_header<P: Packet>(packet: &P, l3: usize) -> Option<(usize, u8)>;
}

const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, or an offset.
pub const FRAGMENT: u16 = 0x3fff;
/// More fragments.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset alone.
const FRAGMENT_OFFSET: u16 = 0x1fff;

impl Header for Ipv4 {
    #[inline(always)]
    fn header<P: Packet>(packet: &P, l3: usize) -> Result<IpHeader, DropReason> {
        let words: [u32; 5] = load(packet, l3)?;
        let [first, second, third, _, _] = words;
        let [version_length, _, length_high, length_low] = first.to_ne_bytes();
        let header_length = usize::from(version_length & 0xf) * 4;
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        if version_length >> 4 != Self::VERSION || header_length < Self::HEADER || length < header_length {
            return Err(DropReason::BadIpHeader);
        }
        if packet.length() < l3 + length {
            return Err(DropReason::Truncated);
        }
        let has_options = header_length > Self::HEADER;
        let mut sum = u32::from(checksum::sum_words(&words));
        // XDP leaves them to TC, which looks at their sum.
        if has_options && packet.hook() == Hook::Tc {
            sum += u32::from(options_sum(packet, l3 + Self::HEADER, header_length - Self::HEADER)?);
        }
        if checksum::fold(sum) != 0xffff && !(has_options && packet.hook() == Hook::Xdp) {
            return Err(DropReason::BadIpChecksum);
        }
        let [id_high, id_low, fragment_high, fragment_low] = second.to_ne_bytes();
        let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
        let dont_fragment = fragment & DONT_FRAGMENT != 0;
        let fragment = if fragment & FRAGMENT != 0 {
            let id = u32::from(u16::from_ne_bytes([id_high, id_low]));
            let more = fragment & MORE_FRAGMENTS != 0;
            Fragment::new(id, fragment & FRAGMENT_OFFSET, length - header_length, more)?
        } else {
            Fragment::default()
        };
        let [hop_limit, protocol, _, _] = third.to_ne_bytes();
        Ok(IpHeader {
            l4: l3 + header_length,
            protocol,
            hop_limit,
            dont_fragment,
            length,
            fragment,
            has_options,
        })
    }

    #[inline(always)]
    fn end<P: Packet>(packet: &P, l3: usize) -> Option<usize> {
        Some(l3 + usize::from(packet.load::<Be16>(l3 + 2)?.get()))
    }

    #[inline(always)]
    fn inner_header<P: Packet>(packet: &P, l3: usize) -> Option<(usize, u8)> {
        let words: [u32; 5] = packet.load(l3)?;
        let [first, second, third, _, _] = words;
        let [version_length, ..] = first.to_ne_bytes();
        let header_length = usize::from(version_length & 0xf) * 4;
        // With options the checksum is not looked at: a second loop inside the first would cost
        // the verifier more than the check is worth.
        let sum_holds = header_length > Self::HEADER || checksum::sum_words(&words) == 0xffff;
        let [_, _, fragment_high, fragment_low] = second.to_ne_bytes();
        let later = u16::from_be_bytes([fragment_high, fragment_low]) & FRAGMENT_OFFSET != 0;
        let sane = version_length >> 4 == Self::VERSION && header_length >= Self::HEADER;
        let [_, protocol, _, _] = third.to_ne_bytes();
        (sane && !later && sum_holds).then_some((l3 + header_length, protocol))
    }
}

/// Sum over IPv4 options: `length` is a multiple of four up to 40.
#[inline(always)]
fn options_sum<P: Packet>(packet: &P, start: usize, length: usize) -> Result<u16, DropReason> {
    let mut sum = 0u16;
    for word in 0..10 {
        if word * 4 >= length {
            break;
        }
        let value: u32 = load(packet, start + word * 4)?;
        sum = checksum::add(sum, checksum::sum_words(&[value]));
    }
    Ok(sum)
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT_HEADER: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// How many extension headers are followed.
const EXTENSION_HEADERS: usize = 6;

impl Header for Ipv6 {
    #[inline(always)]
    fn header<P: Packet>(packet: &P, l3: usize) -> Result<IpHeader, DropReason> {
        let [first, second]: [u32; 2] = load(packet, l3)?;
        let [version, _, _, _] = first.to_ne_bytes();
        let [length_high, length_low, mut protocol, hop_limit] = second.to_ne_bytes();
        let length = Self::HEADER + usize::from(u16::from_be_bytes([length_high, length_low]));
        if version >> 4 != Self::VERSION {
            return Err(DropReason::BadIpHeader);
        }
        if packet.length() < l3 + length {
            return Err(DropReason::Truncated);
        }
        let mut l4 = l3 + Self::HEADER;
        for _ in 0..EXTENSION_HEADERS {
            match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {}
                _ => break,
            }
            let [next, extent, routing_type, _]: [u8; 4] = load(packet, l4)?;
            // RFC 5095: type 0 routing headers are refused outright.
            if protocol == ROUTING && routing_type == 0 {
                return Err(DropReason::RoutingHeader);
            }
            protocol = next;
            l4 += (usize::from(extent) + 1) * 8;
            if l4 > l3 + length {
                return Err(DropReason::Truncated);
            }
        }
        let mut l4 = packet.blur(l4);
        let mut fragment = Fragment::default();
        if protocol == FRAGMENT_HEADER {
            let [first, id]: [u32; 2] = load(packet, l4)?;
            let [next, _, offset_high, offset_low] = first.to_ne_bytes();
            let offset = u16::from_be_bytes([offset_high, offset_low]);
            l4 += 8;
            if l4 > l3 + length {
                return Err(DropReason::Truncated);
            }
            protocol = next;
            // A fragment that is the whole datagram is none (RFC 6946).
            if offset & !0x6 != 0 {
                fragment = Fragment::new(id, offset >> 3, l3 + length - l4, offset & 1 != 0)?;
            }
        }
        // Headers behind the fragment header are not followed.
        if !fragment.is_later()
            && matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT_HEADER)
        {
            return Err(DropReason::TooManyHeaders);
        }
        Ok(IpHeader { l4, protocol, hop_limit, dont_fragment: true, length, fragment, has_options: false })
    }

    #[inline(always)]
    fn end<P: Packet>(packet: &P, l3: usize) -> Option<usize> {
        Some(l3 + Self::HEADER + usize::from(packet.load::<Be16>(l3 + 4)?.get()))
    }

    #[inline(always)]
    fn inner_header<P: Packet>(packet: &P, l3: usize) -> Option<(usize, u8)> {
        let [version, _, _, _]: [u8; 4] = packet.load(l3)?;
        let protocol = packet.load(l3 + 6)?;
        (version >> 4 == Self::VERSION).then_some((l3 + Self::HEADER, protocol))
    }
}

#[inline(always)]
fn load<P: Packet, T: crate::packet::Plain>(packet: &P, offset: usize) -> Result<T, DropReason> {
    packet.load(offset).ok_or(DropReason::Truncated)
}
