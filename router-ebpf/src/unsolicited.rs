//! SYNs over IPv6 that were refused, of which the sender is to hear after a while (RFC 6092 REC-34).

use router_common::flow::FlowKey;
use router_common::net::{Be16, Ipv6};

use crate::family::{ETHERTYPE_IPV6, Family, Scope, protocol};
use crate::packet::Packet;
use crate::parse::tcp_flags::{ACK, FIN, RST, SYN};

const ETHERNET: usize = 14;
const TCP: usize = ETHERNET + Ipv6::HEADER;

/// The flow that a frame would begin, and the headers that an error about it quotes; `None` for what is
/// no SYN between two hosts, and where other headers are in between.
#[inline(always)]
pub fn syn<P: Packet>(packet: &P, router: u16) -> Option<(FlowKey<Ipv6>, [u32; 15])> {
    let headers: [u32; 15] = packet.load(ETHERNET)?;
    let flags: u8 = packet.load(TCP + 13)?;
    if packet.load::<Be16>(12)?.get() != ETHERTYPE_IPV6
        || packet.load::<u8>(ETHERNET + 6)? != protocol::TCP
        || flags & (SYN | ACK | FIN | RST) != SYN
    {
        return None;
    }
    let (src, dst): (Ipv6, Ipv6) = (packet.load(ETHERNET + 8)?, packet.load(ETHERNET + 24)?);
    if (src.source_scope(), dst.destination_scope()) != (Scope::Unicast, Scope::Unicast) {
        return None;
    }
    let (src_port, dst_port) = (packet.load(TCP)?, packet.load(TCP + 2)?);
    Some((FlowKey { src, dst, src_port, dst_port, router, protocol: protocol::TCP, pad: 0 }, headers))
}
