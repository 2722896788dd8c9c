//! Ports and the router's own addresses.

use crate::abi;
use crate::net::Ipv4;

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
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Control, Self::Public, Self::Guest, Self::PrivateGateway, Self::Tunnel];

    /// The stable word for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Public => "public",
            Self::Guest => "guest",
            Self::PrivateGateway => "private-gateway",
            Self::Tunnel => "tunnel",
        }
    }
}

abi! {
    /// How a frame names its port: the interface and its VLAN tags, outermost first.
    pub struct PortKey[8] {
        /// Kernel interface index.
        pub ifindex: u32,
        /// Outer VLAN id, host byte order, 0 for none.
        pub outer_vlan: u16,
        /// Inner VLAN id, host byte order, 0 for none.
        pub inner_vlan: u16,
    }
}

impl PortKey {
    /// An interface without tags.
    #[inline(always)]
    pub const fn untagged(ifindex: u32) -> Self {
        Self { ifindex, outer_vlan: 0, inner_vlan: 0 }
    }
}

abi! {
    /// A port: one NIC of one router.
    pub struct Port[44] {
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
        /// Zero.
        pub pad: [u8; 2],
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
}

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
