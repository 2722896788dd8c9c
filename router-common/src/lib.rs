//! The ABI: every type that crosses a BPF map, and nothing else.
//!
//! Both sides of a map are compiled from these definitions, so they cannot drift. The
//! [`layout`] macro checks each type's size and refuses padding: the kernel compares keys byte
//! by byte, so a padding byte is a bug.
//!
//! Invariant: no logic beyond conversions, and no dependency but `aya::Pod` for userspace.

#![no_std]
#![deny(unsafe_code)]

pub mod account;
pub mod bridge;
pub mod config;
pub mod flow;
pub mod fragment;
pub mod layout;
pub mod limit;
pub mod nat;
pub mod net;
pub mod policy;
pub mod port;
pub mod tunnel;
pub mod unsolicited;
pub mod usage;
pub mod verdict;

#[cfg(feature = "user")]
#[doc(hidden)]
pub use aya::Pod;

/// Version of everything in this crate. Pinned maps live in a folder named after it, so a
/// program never meets a table of another layout. Raise it with every change of a layout or of
/// a discriminant's meaning.
pub const ABI_VERSION: u32 = 12;
