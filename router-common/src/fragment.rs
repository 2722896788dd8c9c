//! Fragments: which datagrams are under way, and which fragments wait for their first one.
//!
//! Only the first fragment has ports. It leaves them in `DATAGRAMS`, where the others find them. One
//! that comes before the first waits in `HELD`. Both tables evict what was not used for longest.

use crate::abi;
use crate::net::Be16;

abi! {
    /// A datagram that comes in fragments (RFC 791 §3.2, RFC 8200 §4.5).
    pub struct DatagramKey<A>[Ipv4: 16, Ipv6: 40] {
        /// Source address.
        pub src: A,
        /// Destination address.
        pub dst: A,
        /// The identification as it lies in the header.
        pub id: u32,
        /// `RouterId`, host byte order.
        pub router: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
    }
}

abi! {
    /// What is known of a datagram.
    pub struct Datagram[1048] {
        /// When a fragment was last seen, nanoseconds of the monotonic clock.
        pub seen: u64,
        /// A bit for every eight bytes that have come: what comes twice is refused.
        pub covered: [u64; 128],
        /// Source port, as in a flow's key.
        pub src_port: Be16,
        /// Destination port, as in a flow's key.
        pub dst_port: Be16,
        /// How many fragments wait for the first one.
        pub held: u32,
        /// The identification to leave with where the source is translated: guests behind one
        /// address must not share one (RFC 6864 §5.2).
        pub new_id: Be16,
        /// How many units of eight bytes have come.
        pub have: u16,
        /// How many there are; 0 until the last fragment has come.
        pub total: u16,
        /// 1 when the first fragment has come, else 0.
        pub known: u8,
        /// Zero.
        pub pad: u8,
    }
}

abi! {
    /// A fragment that waits.
    pub struct HeldKey<A>[Ipv4: 20, Ipv6: 44] {
        /// Its datagram.
        pub datagram: DatagramKey<A>,
        /// Its number among those that wait, from 0.
        pub index: u32,
    }
}

abi! {
    /// A fragment that waits for the first one, from the Ethernet header on.
    pub struct Held[2064] {
        /// Since when, nanoseconds of the monotonic clock.
        pub since: u64,
        /// Length in bytes.
        pub length: u32,
        /// The interface it came in by.
        pub ifindex: u32,
        /// The frame.
        pub frame: [u8; 2048],
    }
}

impl Datagram {
    /// Words of [`covered`](Self::covered).
    pub const WORDS: u32 = 128;
}

/// How many fragments of a datagram may wait: one of 65,535 bytes has 45 at an MTU of 1500.
pub const MAX_HELD: u32 = 48;
