//! NAT: the rules that CloudStack sends, bindings, and which external ports are in use.
//!
//! ```text
//! STATIC_IN    public address → guest        FORWARDS        public address, protocol, port → guest
//! STATIC_OUT   guest → public address        FORWARD_SOURCES the same by the asker's address
//! UNTRANSLATED destination → guests keep their source towards it
//! BINDINGS     guest's address and port → external port          POOLS  external ports in use
//! EXTERNALS    external address and port → guest      EXPECTED  who may call one for a while → guest
//! GUESTS       guest's address and protocol → how many external ports it has, while that is limited
//! SHIFTS       direction of a flow → how its sequence numbers have moved
//! ```

use crate::abi;
use crate::net::{Be16, Ipv4};

abi! {
    /// One end of a static NAT: the other end's address, and where the public one is.
    pub struct StaticNat[8] {
        /// The other end.
        pub address: Ipv4,
        /// The public port's interface.
        pub ifindex: u32,
    }
}

abi! {
    /// What a port forwarding is looked up by: the longest prefix over all bits, so that a range
    /// of ports is a few entries.
    pub struct ForwardKey[12] {
        /// Public address.
        pub address: Ipv4,
        /// `RouterId`, host byte order.
        pub router: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
        /// Public port.
        pub port: Be16,
        /// Zero, never part of a prefix.
        pub end: u16,
    }
}

impl ForwardKey {
    /// How many bits are in front of the port.
    pub const BEFORE_PORT: u32 = 64;
    /// Length of the prefix that has every bit of the port.
    pub const FULL: u32 = Self::BEFORE_PORT + 16;
}

abi! {
    /// What a port forwarding with source networks is looked up by.
    pub struct SourceKey[8] {
        /// [`Forward::group`] in network byte order, since prefixes go over bytes.
        pub group: [u8; 4],
        /// Who asks.
        pub source: Ipv4,
    }
}

abi! {
    /// A port forwarding.
    pub struct Forward[16] {
        /// The guest; `0.0.0.0` where the asker's network decides, see [`group`](Self::group).
        pub address: Ipv4,
        /// 0, or the group in `FORWARD_SOURCES` that has the guests of networks.
        pub group: u32,
        /// First public port of the range, host byte order.
        pub first_public: u16,
        /// First port of the guest, host byte order.
        pub first_internal: u16,
        /// 1: the whole range goes to one port of the guest; 0: port by port.
        pub to_one: u16,
        /// Zero.
        pub pad: u16,
    }
}

abi! {
    /// What a destination is looked up by, towards which guests keep their source: the longest prefix.
    pub struct DestinationKey[8] {
        /// `RouterId`, host byte order, in every prefix whole.
        pub router: u16,
        /// Zero.
        pub pad: u16,
        /// The destination.
        pub address: Ipv4,
    }
}

impl DestinationKey {
    /// How many bits are in front of the address.
    pub const BEFORE_ADDRESS: u32 = 32;
    /// Length of the prefix that has every bit of the address.
    pub const FULL: u32 = Self::BEFORE_ADDRESS + 32;
}

abi! {
    /// Says that a destination is one towards which guests keep their source.
    pub struct Untranslated[4] {
        /// 1.
        pub is_so: u32,
    }
}

abi! {
    /// A guest's end of a binding.
    pub struct BindingKey[16] {
        /// The guest.
        pub internal: Ipv4,
        /// The address it leaves with.
        pub external: Ipv4,
        /// The guest's port or identifier.
        pub port: Be16,
        /// `RouterId`, host byte order.
        pub router: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

abi! {
    /// A binding: one socket of a guest has one external port towards everybody (RFC 4787 REQ-1).
    pub struct Binding[16] {
        /// When a flow was last opened by it, nanoseconds of the monotonic clock.
        pub last_used: u64,
        /// The external port or identifier.
        pub port: Be16,
        /// Zero.
        pub pad: [u8; 6],
    }
}

abi! {
    /// A binding's external end.
    pub struct ExternalKey[12] {
        /// External address.
        pub external: Ipv4,
        /// External port or identifier.
        pub port: Be16,
        /// `RouterId`, host byte order.
        pub router: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

abi! {
    /// Whose a binding's external end is.
    pub struct Internal[8] {
        /// The guest.
        pub address: Ipv4,
        /// The guest's port or identifier.
        pub port: Be16,
        /// Zero.
        pub pad: u16,
    }
}

abi! {
    /// Whose external ports are counted: a guest's, by protocol.
    pub struct GuestKey[8] {
        /// The guest.
        pub address: Ipv4,
        /// `RouterId`, host byte order.
        pub router: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
    }
}

abi! {
    /// How many external ports a guest has: the programs add and take away, userspace puts right.
    pub struct GuestUse[8] {
        /// Bindings, and flows that have an external port without one.
        pub ports: u64,
    }
}

abi! {
    /// Whom a guest's helper expects: under the external address and port that it was told, as an
    /// [`ExternalKey`], for some time, from whatever port.
    pub struct Expected[24] {
        /// Until when, nanoseconds of the monotonic clock.
        pub until: u64,
        /// Who may call.
        pub peer: Ipv4,
        /// The guest that is called.
        pub guest: Ipv4,
        /// Its port.
        pub port: Be16,
        /// Zero.
        pub pad: [u8; 6],
    }
}

abi! {
    /// How the sequence numbers of one direction of a TCP flow have moved, since its helper made lines
    /// longer or shorter; and the external port that the last line got.
    pub struct Shift[16] {
        /// Where the last line that changed its length began, as the sender counts.
        pub position: u32,
        /// By how much what is not behind it has moved, modulo 2^32.
        pub before: u32,
        /// By how much what is behind it has.
        pub after: u32,
        /// The guest's port that the last line was about.
        pub port: Be16,
        /// The external port that it got; 0 for none.
        pub external: Be16,
    }
}

impl Shift {
    /// Nothing has moved.
    pub const NONE: Self =
        Self { position: 0, before: 0, after: 0, port: Be16::from_raw(0), external: Be16::from_raw(0) };
}

abi! {
    /// Which external ports of an address and a protocol are in use, one bit each. A bit is
    /// claimed by one atomic operation; userspace gives it back likewise.
    ///
    /// Even ports are in the first half and odd ones in the second: bit `port / 2 % 64` of word
    /// `port % 2 * 512 + port / 128`.
    pub struct Pool[8336] {
        /// The bits.
        pub words: [u64; 1024],
        /// A bit for each word that has no free bit left: a hint for the search.
        pub full: [u64; 16],
        /// How often a port had to be shared by flows to different destinations.
        pub shared: u64,
        /// Zero.
        pub pad: u64,
    }
}

impl Pool {
    /// Words of one half.
    pub const HALF: u32 = 512;

    /// The word that has a port's bit.
    #[inline(always)]
    pub const fn word(port: u16) -> u32 {
        (port as u32 & 1) * Self::HALF + (port as u32 >> 7)
    }

    /// The port's bit in its word.
    #[inline(always)]
    pub const fn bit(port: u16) -> u32 {
        (port as u32 >> 1) & 63
    }

    /// The port that a bit of a word stands for.
    #[inline(always)]
    pub const fn port(word: u32, bit: u32) -> u16 {
        (((word & (Self::HALF - 1)) << 7) | (bit << 1) | (word >> 9)) as u16
    }
}

/// Pools per row of `POOLS`: TCP, UDP, ICMP.
pub const POOL_KINDS: u32 = 3;
/// How many ports can have source NAT: those whose row of counters is one of the first.
pub const POOL_SLOTS: u32 = 256;
/// How many pools there are.
pub const POOLS: u32 = POOL_KINDS * POOL_SLOTS;

/// The pool of a port's row and a protocol; `None` for protocols without ports.
#[inline(always)]
pub const fn pool_index(slot: u32, protocol: u8) -> Option<u32> {
    let kind = match protocol {
        6 => 0,
        17 => 1,
        1 => 2,
        _ => return None,
    };
    Some(slot * POOL_KINDS + kind)
}
