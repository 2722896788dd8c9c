//! What crosses the maps of the measuring programs.
#![no_std]

use router_common::abi;
use router_common::net::Be16;

/// Tuples in the table, a power of two: as many flows fit into the flow tables between two windows.
pub const TUPLES: u32 = 1 << 14;
/// The longest frame's template.
pub const TEMPLATE: usize = 80;
/// First source port of a flow; so many follow.
pub const FIRST_PORT: u16 = 1024;
/// Bits of the source port that tell flows of one tuple apart.
pub const PORT_BITS: u32 = 15;

abi! {
    /// Whom a flow is from and to, without its source port.
    pub struct Tuple[36] {
        /// Source, as on the wire; IPv4 in the first word.
        pub source: [u32; 4],
        /// Destination likewise.
        pub destination: [u32; 4],
        /// IP protocol number: TCP, UDP, ICMP or ICMPv6.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
        /// Destination port; of ICMP type and code.
        pub port: Be16,
    }
}

abi! {
    /// What frames are made now. The n-th frame is of flow `base + (n * stride & mask)`; a flow's lower bits
    /// are its place in the table of tuples, those above them its source port.
    pub struct Making[112] {
        /// The frame's headers but for what differs from flow to flow.
        pub template: [u32; TEMPLATE / 4],
        /// One's complement sum of the template's IPv4 header, checksum field 0.
        pub header_sum: u32,
        /// See above.
        pub base: u32,
        /// See above.
        pub stride: u32,
        /// See above.
        pub mask: u32,
        /// Sequence number of TCP segments, as on the wire.
        pub sequence: u32,
        /// What they acknowledge.
        pub acknowledged: u32,
        /// TCP flags.
        pub tcp_flags: u8,
        /// Whether frames go the other way: both ends exchanged, an echo answered.
        pub is_reply: u8,
        /// Whether it is IPv6.
        pub is_v6: u8,
        /// Zero.
        pub pad: u8,
        /// How many frames were made.
        pub made: u32,
    }
}
