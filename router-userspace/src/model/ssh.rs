//! How CloudStack and the operator reach the router.

use std::net::Ipv4Addr;

/// A server of SSH on the control network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// Where it listens: the control NIC's address.
    pub address: Ipv4Addr,
    /// Who may log in as root, a line of OpenSSH's `authorized_keys`; `None` leaves those that the operator
    /// has written.
    pub authorized_key: Option<String>,
}
