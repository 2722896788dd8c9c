//! Settings that the packet programs read: one entry of one array.

use crate::abi;

abi! {
    /// The one entry of the `CONFIG` map.
    pub struct RouterConfig[16] {
        /// `ABI_VERSION` of whoever wrote the tables.
        pub abi_version: u32,
        /// Moves with every change of ports, addresses or routes: a flow decided under another
        /// one looks its way out up again.
        pub generation: u32,
        /// First of the ports that the router's own sockets use, which NAT therefore leaves
        /// alone; host byte order.
        pub own_ports_first: u16,
        /// Last of them.
        pub own_ports_last: u16,
        /// Zero.
        pub pad: u32,
    }
}

impl RouterConfig {
    /// The local port range that the router's own sockets get (`ip_local_port_range`): kept
    /// apart so that a guest's translated flow never has the tuple of a socket of the router.
    pub const OWN_PORTS: (u16, u16) = (64_000, 65_023);
}
