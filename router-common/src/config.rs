//! Settings that the packet programs read: one entry of one array.

use crate::abi;

abi! {
    /// The one entry of the `CONFIG` map.
    pub struct RouterConfig[28] {
        /// `ABI_VERSION` of whoever wrote the tables.
        pub abi_version: u32,
        /// Moves with every change of ports, addresses or routes: a flow decided under another
        /// one looks its way out up again.
        pub generation: u32,
        /// Until when somebody hears what the kernel says of links, routes and neighbours, and moves the generation:
        /// a [`tick`](crate::flow::tick).
        pub attended: u32,
        /// What places of next hops are chosen by, unpredictable.
        pub seed: u32,
        /// First of the ports that the router's own sockets use, which NAT therefore leaves
        /// alone; host byte order.
        pub own_ports_first: u16,
        /// Last of them.
        pub own_ports_last: u16,
        /// Bits, see the associated constants.
        pub flags: u32,
        /// How many external ports a guest may have per protocol, host byte order; 0 for as many as there are.
        pub ports_per_guest: u16,
        /// Zero.
        pub pad: u16,
    }
}

impl RouterConfig {
    /// Nothing set yet.
    pub const NONE: Self = Self {
        abi_version: 0,
        generation: 0,
        attended: 0,
        seed: 0,
        own_ports_first: 0,
        own_ports_last: 0,
        flags: 0,
        ports_per_guest: 0,
        pad: 0,
    };
    /// A guest that calls another by a public address is seen with the address that it would
    /// have on the public side (RFC 4787 REQ-9a); otherwise, as CloudStack's own router does it,
    /// with the tier's gateway address by guests of its own tier and its own by others.
    pub const HAIRPIN_EXTERNAL: u32 = 1;
    /// Whoever knows a binding's external address and port may send to it (RFC 4787: endpoint
    /// independent filtering).
    pub const OPEN_BINDINGS: u32 = 2;
    /// Control connections of FTP are read along with.
    pub const FTP: u32 = 4;
    /// The answers to TFTP's requests are let in, which come from another port.
    pub const TFTP: u32 = 8;
    /// There are destinations towards which guests keep their source.
    pub const UNTRANSLATED: u32 = 16;
    /// Whoever sends a SYN over IPv6 that nobody has asked for hears of it (RFC 6092 REC-34).
    pub const ANSWER_SYNS: u32 = 32;
    /// An address that has no port left has none for another socket, where it would be shared by flows to
    /// different destinations otherwise (RFC 4787 REQ-11).
    pub const REFUSE_EXHAUSTED: u32 = 64;

    /// The local port range that the router's own sockets get (`ip_local_port_range`): kept
    /// apart, until no other port is left, so that a guest's translated flow has not the tuple of a
    /// socket of the router.
    pub const OWN_PORTS: (u16, u16) = (64_000, 65_023);
}
