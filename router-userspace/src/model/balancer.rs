//! How the router spreads connections over servers.

use std::fmt;

/// A load balancer, in the words of the daemon that is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// The whole of its configuration, haproxy's, for a router whose root is `/`.
    pub configuration: String,
    /// The certificates that the configuration names.
    pub certificates: Vec<Certificate>,
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// What it is called: its file's name without the suffix.
    pub name: String,
    /// Certificate, those up to the root, and key.
    pub pem: String,
}

impl fmt::Debug for Certificate {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("name", &self.name).finish_non_exhaustive()
    }
}
