//! What crosses the maps of the measuring programs.
#![no_std]

use router_common::abi;
use router_common::net::Be16;

/// Tuples in the table, a power of two: as many flows fit into the flow tables between two windows.
pub const TUPLES: u32 = 1 << 14;
/// The longest frame's template.
pub const TEMPLATE: usize = 80;
/// The most that is in front of a frame, in words: VXLAN's headers, and two bytes of the frame.
pub const COVER: usize = 52;
/// Flows that are told apart by their source port: each tuple has two.
pub const FLOWS: u32 = 2 * TUPLES;

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
    /// What frames are made now. The n-th frame is of flow `n * stride & mask`: its tuple is found by that, and its
    /// source port is `first_port` and that, so that tuples that are the same are of different flows. Flows of a
    /// grid have no tuple: all is counted up from the flow's number, see [`Grid`].
    pub struct Making[192] {
        /// The frame's headers but for what differs from flow to flow.
        pub template: [u32; TEMPLATE / 4],
        /// One's complement sum of the template's IPv4 header, checksum field 0.
        pub header_sum: u32,
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
        /// Whether flows are those of the grid; they are of IPv4 and UDP.
        pub is_grid: u8,
        /// Source port of the first flow, host byte order; an echo's identifier likewise.
        pub first_port: u16,
        /// Over how many VLANs the sources of a grid are spread, from VLAN 1 on; 0: frames are all as the cover has them.
        pub vlans: u16,
        /// How many frames were made.
        pub made: u32,
        /// The grid.
        pub grid: Grid,
        /// How many bytes later the frame begins: 0, 4 and 8 for tags, 50 for VXLAN.
        pub front: u32,
        /// What it begins with instead, so many bytes and the Ethernet addresses; VXLAN has them twice.
        pub cover: [u32; COVER / 4],
    }
}

abi! {
    /// Flows that are counted up instead of written down, so that a million of them cost the generator no memory. A
    /// flow's number has, from its lowest bit on: which source, which of its ports, which destination.
    pub struct Grid[24] {
        /// The first source, host byte order.
        pub source: u32,
        /// The first destination likewise.
        pub destination: u32,
        /// How many of the number's bits say which source.
        pub source_bits: u32,
        /// How many say which port of the source.
        pub port_bits: u32,
        /// The first destination port, host byte order.
        pub port: u32,
        /// To how many destination ports flows go, spread over all of them.
        pub ports: u32,
    }
}

abi! {
    /// A router that does nothing but send on: the other port, and the Ethernet addresses to write.
    pub struct Hop[16] {
        /// Destination and source, as on the wire, and zero behind them.
        pub macs: [u32; 4],
    }
}

/// How long frames are that are sent as they are recorded.
pub const RECORDED: usize = 128;
/// How many there is room for.
pub const RECORDINGS: u32 = 1 << 13;

abi! {
    /// A frame that is sent as it is.
    pub struct Recording[128] {
        /// Its bytes.
        pub bytes: [u64; RECORDED / 8],
    }
}

abi! {
    /// Which of them is the next.
    pub struct Reel[8] {
        /// Its number.
        pub next: u32,
        /// How many there are; behind the last comes the first.
        pub frames: u32,
    }
}
