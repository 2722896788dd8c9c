//! Usage: what has passed between two ports, for each public address, in accounts.

use crate::abi;
use crate::net::Ipv4;

abi! {
    /// Names an account. Ports by their MAC addresses, so that a NIC that comes back goes on where it was.
    pub struct AccountKey[20] {
        /// The port that is further outside: public before private gateway before guest, of equals the one with the
        /// higher address.
        pub outside: [u8; 6],
        /// The other one; the same for what stays within a network.
        pub inside: [u8; 6],
        /// The address that the inside is known by outside; `0.0.0.0` where nothing is translated, and between guests.
        pub address: Ipv4,
        /// `RouterId`.
        pub router: u16,
        /// IP version, 4 or 6.
        pub version: u8,
        /// Zero.
        pub pad: u8,
    }
}

/// How many accounts there are. Number 0 is that of all who came when there was no other left.
pub const ACCOUNTS: u32 = 4096;

/// How many counters they have: one for each direction.
pub const COUNTERS: u32 = 2 * ACCOUNTS;

/// Which way packets of an account go.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// From the inside to the outside.
    Sent = 0,
    /// The other way.
    Received = 1,
}

/// Where the counter of an account is.
#[inline(always)]
pub const fn counter(account: u32, course: Course) -> u32 {
    account << 1 | course as u32
}

/// That of the other direction.
#[inline(always)]
pub const fn reverse(counter: u32) -> u32 {
    counter ^ 1
}
