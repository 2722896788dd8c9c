//! What has to hold for every frame, whatever it is.
//!
//! Nothing here asks which packets may pass: the model does. A frame that is not sent on is not changed;
//! one that is differs from what it was in what a router writes, its checksums are as right as they were,
//! and no guest's address leaves by a public port.

use std::ops::Range;

use router_common::account::Hook;
use router_common::net::{Ipv4, Ipv6};
use router_common::port::Role;
use router_common::verdict::{DeferReason, DropReason, FORWARDED};
use router_ebpf::packet::{Packet, SliceFrame};
use router_ebpf::parse::{self, Header, Transport};
use router_ebpf::tags::{self, Tags};

use crate::scenario::{ETHERNET, Nic, Router, Sent, host_mac};

type Held = Result<(), String>;

fn ensure(holds: bool, otherwise: &str) -> Held {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

/// The parser stays within the frame and its packet.
///
/// # Errors
/// It does not.
pub fn parse(frame: &[u8]) -> Held {
    for hook in [Hook::Xdp, Hook::Tc] {
        let mut bytes = frame.to_vec();
        let mut packet = SliceFrame::new(&mut bytes, hook);
        let tags = Tags::of(&packet);
        let is_untagged = tags.count != 0 && packet.untag(tags.count).is_some();
        if parse::ethertype(&packet).is_ok() {
            parsed::<Ipv4>(&packet, packet.length(), parse::ETHERNET)?;
            parsed::<Ipv6>(&packet, packet.length(), parse::ETHERNET)?;
        }
        if is_untagged && tags.count < tags::TOO_MANY {
            ensure(packet.tag(&tags).is_some(), "tags that were taken off have no room")?;
            ensure(bytes == frame, "tags taken off and put on again make another frame")?;
        }
    }
    Ok(())
}

fn parsed<A: Header>(packet: &SliceFrame<'_>, length: usize, l3: usize) -> Held {
    let Ok(Some(parsed)) = parse::ip::<A, _>(packet, l3, 0) else { return Ok(()) };
    let end = l3 + parsed.length;
    ensure(end <= length, "the packet is longer than its frame")?;
    ensure(parsed.l4 >= l3 + A::HEADER && parsed.l4 <= end, "the transport header is not in the packet")?;
    let least = match parsed.transport {
        Transport::Tcp => 20,
        Transport::Udp | Transport::IcmpQuery | Transport::IcmpReply | Transport::IcmpError => 8,
        Transport::Other | Transport::LaterFragment => 0,
    };
    ensure(parsed.l4 + least <= end, "the transport header is not whole")?;
    let fragment = parsed.fragment;
    ensure(fragment.start + fragment.units <= 8192, "a fragment lies beyond every datagram")?;
    ensure(fragment.is_later() == (parsed.transport == Transport::LaterFragment), "a fragment has ports")
}

/// What became of a frame is what may become of one.
///
/// # Errors
/// It is not.
pub fn of_frame(router: &dyn Router, before: &[u8], sent: &Sent) -> Held {
    if sent.outcome != FORWARDED {
        // A fragment that others wait for: they have used its buffer.
        let is_free = DeferReason::from_outcome(sent.outcome) == Some(DeferReason::Held)
            || DropReason::from_outcome(sent.outcome).is_some_and(|reason| router.answers(reason, before));
        // What TC leaves to the kernel has no tag that says a priority and nothing else.
        let is_same = sent.frame == before || untagged(before).is_ok_and(|before| before == sent.frame);
        return ensure(is_free || is_same, "what is not sent on was changed");
    }
    let before = &untagged(before)?[..];
    if is_ftp(before) || is_ftp(&sent.frame) {
        return ftp(before, &sent.frame);
    }
    if sent.frame.len() != before.len() {
        return piece(before, &sent.frame);
    }
    let after = &sent.frame[..];
    ensure(after[12..14] == before[12..14], "another ethertype")?;
    let by = egress(before, after)?;
    match after[12..14] {
        [0x08, 0x00] => ipv4(by, before, after),
        [0x86, 0xdd] => ipv6(before, after),
        _ => Err("what is no IP was sent on".to_owned()),
    }
}

/// The last piece of a packet that was cut, which only one may be that is larger than the narrowest way out.
fn piece(before: &[u8], after: &[u8]) -> Held {
    let length = |frame: &[u8]| u16::from_be_bytes([frame[16], frame[17]]);
    let may_be_cut = before[12..14] == [8, 0] && before[20] & 0x40 == 0 && length(before) > Nic::Tier2.mtu();
    ensure(may_be_cut && after[ETHERNET] == 0x45, "another length")?;
    ensure(after.len() == ETHERNET + usize::from(length(after)), "a piece has another length than it says")?;
    ensure(sum(&after[ETHERNET..ETHERNET + 20]) == 0, "a wrong IP header checksum")?;
    let by = egress(before, after)?;
    leaves_no_guest(by, &after[ETHERNET + 12..])
}

/// Whether the router may read along, and write: in segments of FTP's control connections.
fn is_ftp(frame: &[u8]) -> bool {
    let Ok(frame) = untagged(frame) else { return false };
    let l4 = ETHERNET + usize::from(frame[ETHERNET] & 0xf) * 4;
    let is_first = frame.get(20..22).is_some_and(|fragment| fragment[0] & 0x1f == 0 && fragment[1] == 0);
    let ports = frame.get(l4..l4 + 4).map(|ports| [&ports[..2], &ports[2..]].map(|port| [port[0], port[1]]));
    frame[12..14] == [8, 0]
        && frame.get(23) == Some(&6)
        && is_first
        && ports.is_some_and(|ports| ports.contains(&[0, 21]))
}

/// A segment of such a connection: it says how long it is, and its sums are right if they were.
fn ftp(before: &[u8], after: &[u8]) -> Held {
    let length = usize::from(u16::from_be_bytes([after[16], after[17]]));
    ensure(ETHERNET + length <= after.len(), "a segment is longer than its frame")?;
    let header = usize::from(after[ETHERNET] & 0xf) * 4;
    ensure(sum(&after[ETHERNET..ETHERNET + header]) == 0, "a wrong IP header checksum")?;
    let by = egress(before, after)?;
    leaves_no_guest(by, &after[ETHERNET + 12..])
}

fn leaves_no_guest(by: Option<Nic>, source: &[u8]) -> Held {
    let is_public = by.is_some_and(|nic| nic.role() == Role::Public);
    ensure(!is_public || source[0] != 10, "a guest's address leaves by a public port")
}

/// Where a SYN says how large segments may be, which may be lowered: its options and its checksum.
fn segment_size(frame: &[u8], l4: usize, protocol: u8) -> Vec<Range<usize>> {
    match frame.get(l4 + 12..l4 + 14) {
        Some([offset, flags]) if protocol == 6 && flags & 2 != 0 => {
            let end = l4 + usize::from(offset >> 4) * 4;
            vec![l4 + 16..l4 + 18, l4 + 20..end.max(l4 + 20)]
        }
        _ => vec![],
    }
}

/// Whether nothing else was changed from the ethertype on.
fn is_kept_but(may_differ: &[Range<usize>], before: &[u8], after: &[u8]) -> Held {
    let is_changed = (12..before.len())
        .find(|at| before[*at] != after[*at] && !may_differ.iter().any(|range| range.contains(at)));
    is_changed.map_or(Ok(()), |at| Err(format!("byte {at} was changed")))
}

/// Without tags that say a priority alone and no VLAN: there is no VLAN here.
fn untagged(frame: &[u8]) -> Result<Vec<u8>, String> {
    let mut frame = frame.to_vec();
    while let Some([0x81, 0x00, high, low] | [0x88, 0xa8, high, low]) = frame.get(12..16) {
        ensure(u16::from_be_bytes([*high, *low]) & 0xfff == 0, "a VLAN's frame was sent on")?;
        frame.drain(12..16);
    }
    Ok(frame)
}

/// The NIC that a frame left by, none where the kernel is to find the neighbour.
fn egress(before: &[u8], after: &[u8]) -> Result<Option<Nic>, String> {
    if after[..12] == before[..12] {
        return Ok(None);
    }
    let by = Nic::ALL.into_iter().find(|nic| after[..12] == [host_mac(*nic), nic.mac()].concat());
    by.map(Some).ok_or_else(|| "Ethernet addresses of no neighbour".to_owned())
}

/// IPv6 is routed: one hop less, and nothing else but the size of segments.
fn ipv6(before: &[u8], after: &[u8]) -> Held {
    const HOP_LIMIT: usize = ETHERNET + 7;
    ensure(before[HOP_LIMIT] > 1 && after[HOP_LIMIT] == before[HOP_LIMIT] - 1, "not one hop less")?;
    const L4: usize = ETHERNET + 40;
    let end = L4 + usize::from(u16::from_be_bytes([before[18], before[19]]));
    ensure(sum(&before[L4..end]) == sum(&after[L4..end]), "a transport checksum is less right than it was")?;
    let mut may_differ = segment_size(before, L4, before[ETHERNET + 6]);
    may_differ.push(HOP_LIMIT..HOP_LIMIT + 1);
    is_kept_but(&may_differ, before, after)
}

fn ipv4(by: Option<Nic>, before: &[u8], after: &[u8]) -> Held {
    const TTL: usize = ETHERNET + 8;
    let l4 = ETHERNET + usize::from(before[ETHERNET] & 0xf) * 4;
    ensure(before[TTL] > 1 && after[TTL] == before[TTL] - 1, "not one hop less")?;
    ensure(sum(&after[ETHERNET..l4]) == 0, "a wrong IP header checksum")?;
    leaves_no_guest(by, &after[ETHERNET + 12..])?;
    let fragment = u16::from_be_bytes([before[20], before[21]]);
    let (is_fragment, is_later) = (fragment & 0x3fff != 0, fragment & 0x1fff != 0);
    let mut may_differ = vec![TTL..TTL + 1, ETHERNET + 10..l4.min(ETHERNET + 20)];
    if is_fragment {
        may_differ.push(ETHERNET + 4..ETHERNET + 6);
    }
    let end = ETHERNET + usize::from(u16::from_be_bytes([before[16], before[17]]));
    let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    match before[23] {
        _ if is_later => {}
        protocol @ (6 | 17) => {
            let field = l4 + if protocol == 6 { 16 } else { 6 };
            may_differ.extend([l4..l4 + 4, field..field + 2]);
            may_differ.extend(segment_size(before, l4, protocol));
            if protocol == 17 && word(before, field) == 0 {
                ensure(word(after, field) == 0, "an absent checksum was made")?;
            } else {
                let whole =
                    |frame: &[u8]| sum(&[&frame[ETHERNET + 12..ETHERNET + 20], &frame[l4..end]].concat());
                ensure(whole(before) == whole(after), "a transport checksum is less right than it was")?;
            }
        }
        1 => {
            may_differ.extend([l4 + 2..l4 + 4, l4 + 4..l4 + 6]);
            if matches!(before[l4], 3 | 11 | 12) {
                may_differ.push(l4 + 8..end);
                let inside = after.get(l4 + 8 + 16..l4 + 8 + 20).unwrap_or(&[0; 4]);
                leaves_no_guest(by, inside).map_err(|problem| format!("{problem}, within an error"))?;
                let inner = l4 + 8..l4 + 8 + usize::from(before[l4 + 8] & 0xf) * 4;
                ensure(
                    sum(&before[inner.clone()]) == sum(&after[inner]),
                    "a checksum within an error is less right than it was",
                )?;
            }
            ensure(
                sum(&before[l4..end]) == sum(&after[l4..end]),
                "an ICMP checksum is less right than it was",
            )?;
        }
        _ => {}
    }
    is_kept_but(&may_differ, before, after)
}

/// What is missing to a right checksum, 0 if it is one: the complement of the one's complement sum, of which
/// there are two zeros.
fn sum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    (0xffff - sum % 0xffff) as u16 % 0xffff
}
