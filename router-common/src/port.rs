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
    /// How a frame names its port where one interface carries several: by VLAN tags. Those whose last tags are of
    /// neighbouring VLANs share a key, and lie side by side ([`TaggedPorts`]).
    pub struct TagKey[8] {
        /// Kernel interface index of what carries the ports, their trunk.
        pub trunk: u32,
        /// VLAN id of the outer one of two tags, host byte order; 0 where there is one.
        pub outer: u16,
        /// The lowest VLAN id that the last tag may have, host byte order.
        pub first: u16,
    }
}

abi! {
    /// The ports of a key: four lines of the processor's caches, where each in an entry of its own would be two lines
    /// a port.
    pub struct TaggedPorts[256] {
        /// Kernel interface index of each port's own interface, 0 for none.
        pub ports: [u32; 64],
    }
}

impl TagKey {
    /// The key of tags with these VLAN ids, `inner` 0 for none, and the port's place among those of the key.
    #[inline(always)]
    pub const fn of(trunk: u32, outer: u16, inner: u16) -> (Self, u32) {
        let (outer, last) = if inner == 0 { (0, outer) } else { (outer, inner) };
        let place = last & (TaggedPorts::COUNT - 1);
        (Self { trunk, outer, first: last - place }, place as u32)
    }
}

impl TaggedPorts {
    /// How many share a key, a power of two.
    pub const COUNT: u16 = 64;
    /// Nobody.
    pub const NONE: Self = Self { ports: [0; 64] };
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

abi! {
    /// How those of interfaces with neighbouring indexes are carried, side by side as [`TaggedPorts`] are. Their key is
    /// [`Carriers::key`].
    pub struct Carriers[256] {
        /// Each as [`Carrier::noted`] says; [`Carrier::NONE`] of interfaces that are not carried.
        pub carriers: [Carrier; 16],
    }
}

impl Carriers {
    /// How many share a key, a power of two.
    pub const COUNT: u32 = 16;
    /// Nobody's.
    pub const NONE: Self = Self { carriers: [Carrier::NONE; 16] };

    /// The key of an interface.
    #[inline(always)]
    pub const fn key(ifindex: u32) -> u32 {
        ifindex / Self::COUNT
    }

    /// Its place among those of the key.
    #[inline(always)]
    pub const fn place(ifindex: u32) -> usize {
        (ifindex % Self::COUNT) as usize
    }
}

impl Carrier {
    /// Where among the bits of the priority the note begins.
    const NOTE: u32 = 8;

    /// The same with a note of whose it is, in the upper bits of the priority: entries of a hash table become another
    /// key's, and who has been held up since it found one must not send by what it has become.
    pub const fn noted(self, ifindex: u32) -> Self {
        Self { priority: self.priority | ifindex << Self::NOTE, ..self }
    }

    /// The same without the note, if it says that it is that interface's, and that is carried.
    #[inline(always)]
    pub fn of(self, ifindex: u32) -> Option<Self> {
        let is_its_own = self.priority >> Self::NOTE == ifindex & (u32::MAX >> Self::NOTE);
        (is_its_own && self.trunk != 0)
            .then_some(Self { priority: self.priority & ((1 << Self::NOTE) - 1), ..self })
    }

    /// Its interface is not carried.
    pub const NONE: Self =
        Self { trunk: 0, outer_protocol: 0, outer: 0, inner_protocol: 0, inner: 0, priority: 0 };

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
    /// What packets of known flows need of a port; an entry without a slot is none.
    pub struct Lane[16] {
        /// [`Port::slot`], and 0 for none.
        pub slot: u32,
        /// The first four bytes of [`Port::mac`], as they lie in memory.
        pub mac: u32,
        /// The other two.
        pub mac_end: u16,
        /// [`Port::router`].
        pub router: u16,
        /// [`Port::flags`], and more of the lane's own.
        pub flags: u8,
        /// [`Port::role`].
        pub role: u8,
        /// [`Port::vxlan`].
        pub vxlan: Be16,
    }
}

impl Lane {
    /// Nothing is ever routed from it ([`Role::is_routed`]).
    pub const NOT_ROUTED: u8 = 64;
    /// It is on a bridge ([`Port::bridge`]).
    pub const ON_BRIDGE: u8 = 128;

    /// There is no port.
    pub const NONE: Self =
        Self { slot: 0, mac: 0, mac_end: 0, router: 0, flags: 0, role: 0, vxlan: Be16::from_raw(0) };

    /// That of a port.
    #[inline(always)]
    pub const fn of(port: &Port) -> Self {
        let [a, b, c, d, e, f] = port.mac;
        let (mac, mac_end) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]));
        let Port { slot, router, role, vxlan, .. } = *port;
        let not_routed = if Role::is_routed_number(role) { 0 } else { Self::NOT_ROUTED };
        let on_bridge = if port.bridge == 0 { 0 } else { Self::ON_BRIDGE };
        let flags = port.flags | not_routed | on_bridge;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carrier_is_its_own_interfaces_alone() {
        let carrier = Carrier { trunk: 3, outer: 100, priority: Carrier::KEEP_PRIORITY, ..Carrier::NONE };
        for ifindex in [1, 17, 0x00ff_ffff, 0x7fff_ffff] {
            let noted = carrier.noted(ifindex);
            assert_eq!(noted.of(ifindex), Some(carrier));
            assert_eq!([ifindex + 1, ifindex ^ Carriers::COUNT].map(|other| noted.of(other)), [None; 2]);
        }
        assert_eq!([0, 1].map(|ifindex| Carrier::NONE.of(ifindex)), [None; 2]);
    }

    #[test]
    fn neighbouring_vlans_share_a_key_and_no_place() {
        let mut places = [0; 4096];
        for vlan in 1..4095 {
            let (one, place) = TagKey::of(3, vlan, 0);
            assert_eq!(one, TagKey { trunk: 3, outer: 0, first: vlan & !63 });
            places[usize::from(one.first) + place as usize] += 1;
            let (inner, place) = TagKey::of(3, 7, vlan);
            assert_eq!((inner, place), (TagKey { outer: 7, ..one }, place));
        }
        assert!(places[1..4095].iter().all(|ports| *ports == 1));
    }
}
