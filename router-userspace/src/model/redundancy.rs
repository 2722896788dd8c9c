//! Two routers for one network: what they share, and which of them serves.

use std::fmt;
use std::num::NonZeroU8;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What a router of a pair does now. A router without a second one is primary while it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterRole {
    /// It serves.
    Primary,
    /// Another one does.
    Backup,
    /// It should take part and does not.
    Fault,
    /// There is nothing to serve yet.
    Unknown,
}

impl fmt::Display for RouterRole {
    /// As the management server reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "PRIMARY",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
            Self::Unknown => "UNKNOWN",
        })
    }
}

/// What a router needs to settle with its twin who serves (VRRP).
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// Addresses of guest ports that the one has that serves, in the order of the ports' numbers. Each is in a
    /// network of its port.
    pub shared: Vec<SharedAddress>,
    /// What both know and guests do not: ASCII letters, digits, `-`, `_` and `.`, at most eight. Never printed.
    pub password: String,
    /// Seconds between two signs of life of the one that serves.
    pub interval: NonZeroU8,
}

/// An address that the router of a pair has while it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedAddress {
    /// Name of its port.
    pub port: String,
    /// The address, with the length of its network.
    pub address: IpNet,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shared, interval, .. } = self;
        f.debug_struct("Pair").field("shared", shared).field("interval", interval).finish_non_exhaustive()
    }
}
