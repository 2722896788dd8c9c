//! TCP as a middlebox sees it (RFC 5382, RFC 7857 §2, RFC 6146 §3.5.2).
//!
//! ```text
//!              SYN from either side            ACK from both sides
//!   (none) ──────────────────────▶ opening ───────────────────────────▶ established
//!                 ▲                   │ RST                    RST, or FIN   │
//!                 │                   ▼                     from both sides  ▼
//!                 └─────────────── closing ◀─────────────────────────────────┘
//!                  SYN (TIME-WAIT reuse)
//! ```
//! Each direction's entry keeps the flags that it has seen; the state is read off the two by
//! whoever expires flows. Both sides may send SYN at once, and one side may close long before the other: the
//! flow is established meanwhile. Two packets need a look at the other direction, here.

use router_common::flow::FlowEntry;

use crate::conntrack::reply_key;
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::{Parsed, tcp_flags};
use crate::tables::Flows;

/// How far a reset's sequence number may be beyond what the other side has acknowledged, in bytes:
/// more than most receive windows. One that is further away closes nothing (RFC 5961 §3); it is passed on
/// all the same, since the host knows better.
const RESET_WINDOW: u32 = 1 << 20;

/// More bytes than a helper ever adds to a connection, or takes away.
const MOVED: u32 = 1 << 16;

/// Whether a flow is closing, by its two directions.
#[inline(always)]
pub const fn is_closing<A>(flow: &FlowEntry<A>, other: &FlowEntry<A>) -> bool {
    use tcp_flags::{FIN, RST};
    (flow.tcp_flags | other.tcp_flags) & RST != 0 || flow.tcp_flags & other.tcp_flags & FIN != 0
}

/// The flags of a segment with SYN or RST that count for its flow's state. A SYN on a flow that is
/// closing makes it a new one. A function of its own, since it would take room on the walk's stack.
#[inline(never)]
pub fn observe<A, P, T>(packet: &P, tables: &T, parsed: &Parsed<A>, flow: &T::Flow) -> u8
where
    A: Family,
    P: Packet,
    T: Flows<A>,
{
    use tcp_flags::{ACK, RST};
    let flags = parsed.tcp_flags;
    let Some(other) = tables.flow(&reply_key(&parsed.key, flow)) else { return flags };
    if flags & RST != 0 {
        let acknowledged = other.tcp_flags & ACK != 0;
        let sequence = packet.load(parsed.l4 + 4).map_or(0, u32::from_be);
        // A helper has moved the numbers of one side and not of the other.
        let moved = if flow.translation & FlowEntry::<A>::HELPED != 0 { MOVED } else { 0 };
        let is_inside = sequence.wrapping_add(moved).wrapping_sub(other.tcp_ack) < RESET_WINDOW;
        return if acknowledged && !is_inside { flags & !RST } else { flags };
    }
    if flags & ACK == 0 && is_closing(flow, &other) {
        tables.forget_tcp(flow);
        tables.forget_tcp(&other);
    }
    flags
}
