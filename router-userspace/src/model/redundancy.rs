//! Which router of a pair serves.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a router is to its network. A router without a second one is primary while it serves.
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
