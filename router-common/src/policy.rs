//! Policy: lists of rules, of which the first that matches a flow's first packet decides.
//!
//! ```text
//! LISTS          list → what decides where no rule does
//! NETS4, NETS6   list, source or destination, address → the narrowest network of the list that has it
//! FIREWALLS      public address → the list that flows to it are judged by, before it is translated
//! GATES          list, network of the source, of the destination, protocol, port → the first rule that matches there
//! ```
//!
//! A list never changes: another content is another list, and a port is switched from one to the other.

use crate::abi;
use crate::net::Be16;

/// No list: everything passes.
pub const NO_LIST: u32 = 0;
/// The network that has every address.
pub const ANYWHERE: u32 = 0;
/// Protocol of the rules that are about all of them. IANA has it reserved.
pub const ANY_PROTOCOL: u8 = 255;
/// No rule: behind all of them.
pub const NO_RULE: u32 = u32::MAX;
/// Networks of a list may lie in each other so deep.
pub const MOST_NESTED: u32 = 32;

abi! {
    /// What a list is besides its rules.
    pub struct List[8] {
        /// How many entries it has in the other tables; 0 while it is being written.
        pub entries: u32,
        /// Whether a flow passes that no rule matches.
        pub default_allows: u8,
        /// Whether its rules look at sources.
        pub has_sources: u8,
        /// Whether its rules look at destinations.
        pub has_destinations: u8,
        /// Zero.
        pub pad: u8,
    }
}

abi! {
    /// What a network of a list is looked up by: the longest prefix over all bits.
    pub struct NetKey<A>[Ipv4: 12, Ipv6: 24] {
        /// The list, network byte order.
        pub list: [u8; 4],
        /// [`SOURCE`](Self::SOURCE) or [`DESTINATION`](Self::DESTINATION).
        pub side: [u8; 4],
        /// The address.
        pub address: A,
    }
}

impl<A> NetKey<A> {
    /// Networks that sources are in.
    pub const SOURCE: [u8; 4] = [0, 0, 0, 1];
    /// Networks that destinations are in.
    pub const DESTINATION: [u8; 4] = [0, 0, 0, 2];
    /// How many bits are in front of the address.
    pub const BEFORE_ADDRESS: u32 = 64;
}

abi! {
    /// A network of a list.
    pub struct Net[12] {
        /// Its number in the list, from 1.
        pub network: u32,
        /// The place of the first rule that is about it or about a network that it lies in.
        pub first_rule: u32,
        /// Bits of the key of the network that it lies in; 0 for none but [`ANYWHERE`].
        pub outer_bits: u32,
    }
}

abi! {
    /// What the rules about a pair of networks are looked up by: the longest prefix over all bits.
    pub struct GateKey[16] {
        /// The list.
        pub list: u32,
        /// Network of the source.
        pub source: u32,
        /// Network of the destination.
        pub destination: u32,
        /// IP protocol number, or [`ANY_PROTOCOL`].
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
        /// Destination port; of ICMP type and code.
        pub port: Be16,
    }
}

impl GateKey {
    /// How many bits are in front of the port.
    pub const BEFORE_PORT: u32 = 112;
    /// Length of the prefix that has every bit of the port.
    pub const FULL: u32 = Self::BEFORE_PORT + 16;
}

abi! {
    /// The first rule that matches there.
    pub struct Gate[8] {
        /// Its place in the list.
        pub rule: u32,
        /// Whether it lets a flow pass.
        pub allows: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}
