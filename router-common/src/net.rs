//! Addresses and wire integers, each with its byte order in its type.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

/// A 16-bit field in network byte order, as it is on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Be16(u16);

impl Be16 {
    /// From a value in host byte order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// The value in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The 16 bits as they lie in memory: what one's complement sums are made of (RFC 1071 §2
    /// (B): the sum does not depend on byte order as long as it is kept).
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// From 16 bits as they lie in memory.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// An address of one of the two families: the parameter that the packet walk is generic over.
pub trait Address: Copy + Eq + fmt::Debug + fmt::Display + 'static {
    /// 4 or 6.
    const VERSION: u8;
    /// How many 32-bit words an address has.
    const WORDS: usize;
    /// The address as words that lie in memory as on the wire.
    fn words(&self) -> &[u32];
}

/// An IPv4 address; lies in memory as on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ipv4(pub [u32; 1]);

/// An IPv6 address; lies in memory as on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ipv6(pub [u32; 4]);

impl Ipv4 {
    /// `0.0.0.0`, which stands for "none" where an address is optional.
    pub const UNSPECIFIED: Self = Self([0]);

    /// The address as an integer in host byte order, for range tests.
    #[inline(always)]
    pub const fn to_host(self) -> u32 {
        u32::from_be(self.0[0])
    }
}

impl Address for Ipv4 {
    const VERSION: u8 = 4;
    const WORDS: usize = 1;
    #[inline(always)]
    fn words(&self) -> &[u32] {
        &self.0
    }
}

impl Address for Ipv6 {
    const VERSION: u8 = 6;
    const WORDS: usize = 4;
    #[inline(always)]
    fn words(&self) -> &[u32] {
        &self.0
    }
}

impl From<Ipv4Addr> for Ipv4 {
    fn from(address: Ipv4Addr) -> Self {
        Self([u32::from_ne_bytes(address.octets())])
    }
}

impl From<Ipv4> for Ipv4Addr {
    fn from(address: Ipv4) -> Self {
        Self::from(address.0[0].to_ne_bytes())
    }
}

impl From<Ipv6Addr> for Ipv6 {
    fn from(address: Ipv6Addr) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(address.octets().chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self(words)
    }
}

impl From<Ipv6> for Ipv6Addr {
    fn from(address: Ipv6) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(address.0) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Self::from(octets)
    }
}

impl fmt::Display for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Display for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The twelve bytes an Ethernet header begins with, destination then source, as three words
/// that lie in memory as on the wire: written to a packet in three stores.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MacPair(pub [u32; 3]);

impl MacPair {
    /// From the two addresses.
    #[inline(always)]
    pub const fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        let (d, s) = (destination, source);
        Self([
            u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
            u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
            u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
        ])
    }

    /// The destination address.
    pub const fn destination(self) -> [u8; 6] {
        let (a, b) = (self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1]]
    }

    /// The source address.
    pub const fn source(self) -> [u8; 6] {
        let (b, c) = (self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes());
        [b[2], b[3], c[0], c[1], c[2], c[3]]
    }
}

impl fmt::Debug for MacPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?} <- {:02x?}", self.destination(), self.source())
    }
}
