//! SYNs over IPv6 that nobody inside has asked for, of which the sender is to hear (RFC 6092 REC-34).
//!
//! ```text
//! SYNS         a flow that somebody outside would begin → when, and what an error about it quotes
//! ```

use crate::abi;

abi! {
    /// The first SYN of a flow that was refused.
    pub struct Syn[72] {
        /// When it came, nanoseconds of the monotonic clock.
        pub at: u64,
        /// The interface that it came in by.
        pub ifindex: u32,
        /// Its IPv6 and TCP header, as they came.
        pub headers: [u32; 15],
    }
}
