//! Ports and the router's own addresses.

use crate::abi;
use crate::net::{Be16, Ipv4};

/// What a port is for. Discriminants reach pinned maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The management server's side: never forwarded from or to.
    Control = 0,
    /// The provider's side.
    Public = 1,
    /// A tenant's network: an isolated network or one tier of a VPC.
    Guest = 2,
    /// A VPC's private gateway.
    PrivateGateway = 3,
    /// The networks behind IPsec tunnels: a device without link layer.
    Tunnel = 4,
    /// One of a bridge's: its frames are never routed.
    Bridged = 5,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::Control, Self::Public, Self::Guest, Self::PrivateGateway, Self::Tunnel, Self::Bridged];

    /// Whether anything is ever routed from such a port.
    pub const fn is_routed(self) -> bool {
        Self::is_routed_number(self as u8)
    }

    /// The same of a role as a number.
    #[inline(always)]
    pub const fn is_routed_number(role: u8) -> bool {
        role != Self::Control as u8 && role != Self::Bridged as u8
    }

    /// The stable word for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Public => "public",
            Self::Guest => "guest",
            Self::PrivateGateway => "private-gateway",
            Self::Tunnel => "tunnel",
            Self::Bridged => "bridged",
        }
    }
}

abi! {
    /// How a frame names its port where one interface carries several: by VLAN tags, outermost first.
    pub struct TagKey[8] {
        /// Kernel interface index of what carries the port, its trunk.
        pub trunk: u32,
        /// VLAN id of the outer tag, host byte order.
        pub outer: u16,
        /// VLAN id of the inner tag, host byte order, 0 for none.
        pub inner: u16,
    }
}

abi! {
    /// How a port's frames are carried that has tags, or is a VNI.
    pub struct Carrier[16] {
        /// Kernel interface index of its trunk.
        pub trunk: u32,
        /// Ethertype of the outer tag, host byte order; 0 where frames have none, but are in VXLAN packets
        /// ([`Tunnel`](crate::tunnel::Tunnel)).
        pub outer_protocol: u16,
        /// Its VLAN id.
        pub outer: u16,
        /// Ethertype of the inner tag, host byte order.
        pub inner_protocol: u16,
        /// Its VLAN id, 0 for none.
        pub inner: u16,
        /// The priority of its tags (PCP), 0 to 7; [`KEEP_PRIORITY`](Self::KEEP_PRIORITY) for that of the outer tag
        /// that a frame came with, if it did.
        pub priority: u32,
    }
}

impl Carrier {
    /// What a frame came with.
    pub const KEEP_PRIORITY: u32 = 8;

    /// That of a port whose frames are in VXLAN packets.
    pub const fn tunnel(underlay: u32) -> Self {
        let priority = Self::KEEP_PRIORITY;
        Self { trunk: underlay, outer_protocol: 0, outer: 0, inner_protocol: 0, inner: 0, priority }
    }

    /// Frames are in VXLAN packets.
    #[inline(always)]
    pub const fn is_tunnel(&self) -> bool {
        self.outer_protocol == 0
    }
}

abi! {
    /// A port: one NIC of one router, or tags on one. Its key is its own interface's index.
    pub struct Port[48] {
        /// The port's row in the counters; 0 is the row of frames without a port.
        pub slot: u32,
        /// Largest IP packet the port takes, in bytes.
        pub mtu: u32,
        /// Where source NAT puts new IPv4 flows that leave here; `0.0.0.0` for no source NAT.
        pub source_nat: Ipv4,
        /// The port's own first IPv4 address; `0.0.0.0` for none.
        pub address: Ipv4,
        /// The list that flows are judged by that come in here, as they are sent ([`crate::policy`]).
        pub from_list: u32,
        /// That of flows that leave here, destination translated.
        pub to_list: u32,
        /// That of flows that come in here and leave by a port that is no guest's, destination translated.
        pub outside_list: u32,
        /// That of what is for the router itself.
        pub own_list: u32,
        /// `RouterId`: which router the port belongs to.
        pub router: u16,
        /// A [`Role`] as a number.
        pub role: u8,
        /// Bits, see the associated constants.
        pub flags: u8,
        /// The port's own MAC address.
        pub mac: [u8; 6],
        /// UDP port of VXLAN packets that come by it and are other ports' frames; 0 for none.
        pub vxlan: Be16,
        /// Which bridge it is one of, 0 for none: the lowest interface index of its ports.
        pub bridge: u32,
    }
}

impl Port {
    /// A peer of the port may hand over checksums that are not finished (`CHECKSUM_PARTIAL`):
    /// veth, tap, and every device in generic XDP.
    pub const PARTIAL_CHECKSUMS: u8 = 1;
    /// The port takes frames that XDP redirects to it (`ndo_xdp_xmit` with a receiver behind it).
    pub const XDP_TARGET: u8 = 2;
    /// Source NAT of what comes in here depends on the destination (RFC 4787: address and port
    /// dependent mapping), where it is endpoint-independent otherwise.
    pub const SYMMETRIC: u8 = 4;
    /// The port's packets have no Ethernet header: it is a tunnel's device.
    pub const WITHOUT_LINK: u8 = 8;
    /// The port's frames are not on the wire as they are ([`Carrier`]).
    pub const TAGGED: u8 = 16;
    /// The port takes frames that XDP redirects to it also where they are in several buffers.
    pub const MULTI_BUFFER: u8 = 32;
}

abi! {
    /// What the express lane needs of a port; an entry without a slot is none.
    pub struct Lane[16] {
        /// [`Port::slot`], and 0 for none.
        pub slot: u32,
        /// The first four bytes of [`Port::mac`], as they lie in memory.
        pub mac: u32,
        /// The other two.
        pub mac_end: u16,
        /// [`Port::router`].
        pub router: u16,
        /// [`Port::flags`].
        pub flags: u8,
        /// [`Port::role`].
        pub role: u8,
        /// [`Port::vxlan`].
        pub vxlan: Be16,
    }
}

impl Lane {
    /// There is no port, or nothing is ever routed from it.
    pub const NONE: Self =
        Self { slot: 0, mac: 0, mac_end: 0, router: 0, flags: 0, role: 0, vxlan: Be16::from_raw(0) };
}

impl From<&Port> for Lane {
    fn from(port: &Port) -> Self {
        if !Role::is_routed_number(port.role) {
            return Self::NONE;
        }
        let [a, b, c, d, e, f] = port.mac;
        let (mac, mac_end) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]));
        let Port { slot, router, flags, role, vxlan, .. } = *port;
        Self { slot, mac, mac_end, router, flags, role, vxlan }
    }
}

/// Ports whose interface has a number below this have a lane: there is one for each number.
pub const LANES: u32 = 8192;

abi! {
    /// Names an address of the router itself.
    pub struct LocalKey<A>[Ipv4: 8, Ipv6: 20] {
        /// The address.
        pub address: A,
        /// `RouterId`.
        pub router: u16,
        /// Zero.
        pub pad: [u8; 2],
    }
}

abi! {
    /// An address of the router itself.
    pub struct Local[4] {
        /// The interface the address is on.
        pub ifindex: u32,
    }
}
