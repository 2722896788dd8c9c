//! Counting against a limit.

use crate::abi;

abi! {
    /// How often something has happened lately.
    pub struct Tally[16] {
        /// Since when, nanoseconds of the monotonic clock.
        pub since: u64,
        /// How often since then.
        pub count: u32,
        /// Zero.
        pub pad: u32,
    }
}
