//! Bridges: ports between which frames go by their Ethernet addresses (IEEE 802.1Q, MAC bridging).

use crate::abi;

/// The most ports that a bridge has.
pub const MAX_MEMBERS: u32 = 64;

abi! {
    /// Names the ports of a bridge one after the other: what is for all goes to each.
    pub struct MemberKey[8] {
        /// Which bridge ([`Port::bridge`](crate::port::Port::bridge)).
        pub bridge: u32,
        /// From 0.
        pub index: u32,
    }
}

abi! {
    /// A station of a bridge.
    pub struct FdbKey[12] {
        /// Which bridge.
        pub bridge: u32,
        /// Its Ethernet address.
        pub mac: [u8; 6],
        /// Zero.
        pub pad: [u8; 2],
    }
}

abi! {
    /// Behind which port a station is.
    pub struct FdbEntry[16] {
        /// When it was last heard of, give or take [`LATELY`](Self::LATELY), nanoseconds.
        pub heard: u64,
        /// The port's own interface.
        pub ifindex: u32,
        /// Zero.
        pub pad: u32,
    }
}

impl FdbEntry {
    /// After so long without a word nobody knows where a station is, in nanoseconds: 300 s (IEEE 802.1Q, ageing time).
    pub const AGEING: u64 = 300 * 1_000_000_000;
    /// Who was heard of so lately is not noted again, in nanoseconds.
    pub const LATELY: u64 = 1_000_000_000;
}
