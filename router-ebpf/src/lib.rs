//! The packet walk: what happens to a packet, as a pure library.
//!
//! [`walk::walk`] is the whole journey, top to bottom. It knows two traits: [`packet::Packet`],
//! the bytes of one frame, and [`tables`], all that it may ask of the world outside the frame.
//! The XDP and the TC program (`main.rs`, built only for the BPF target) implement them with the
//! kernel's contexts and maps; tests with a slice and `HashMap`s. Same source, no switches.
//!
//! Invariants: no clock, no logs, no map names in here; every packet that enters [`walk::walk`]
//! is counted once.

#![no_std]
// Tests may panic.
#![cfg_attr(not(test), forbid(clippy::indexing_slicing))]

pub mod bridge;
pub mod checksum;
pub mod conntrack;
pub mod express;
pub mod family;
pub mod forward;
pub mod fragment;
pub mod ftp;
pub mod helper;
pub mod icmp;
pub mod limit;
pub mod mss;
pub mod nat;
pub mod next_hops;
pub mod options;
pub mod packet;
pub mod parse;
pub mod passage;
pub mod policy;
pub mod ports;
pub mod split;
pub mod tables;
pub mod tags;
pub mod tcp_state;
pub mod tftp;
pub mod tunnel;
pub mod unsolicited;
pub mod usage;
pub mod walk;
