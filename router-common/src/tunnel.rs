//! Ports that are VXLAN networks (RFC 7348).

use crate::abi;
use crate::net::{Be16, Ipv4, MacPair};

abi! {
    /// How a VXLAN packet names its port. With [`ANY`](Self::ANY) for its VNI: that such packets are ours at all.
    pub struct TunnelKey[16] {
        /// Kernel interface index of the NIC that it comes by, the port's underlay.
        pub underlay: u32,
        /// The router's address there (VTEP).
        pub local: Ipv4,
        /// The network's number (VNI), host byte order.
        pub vni: u32,
        /// UDP port that it is sent to.
        pub udp_port: Be16,
        /// Zero.
        pub pad: [u8; 2],
    }
}

impl TunnelKey {
    /// No VNI, which have 24 bits.
    pub const ANY: u32 = u32::MAX;
}

abi! {
    /// How the frames of a port are carried that is a VNI. Its key is the port's own interface.
    pub struct Tunnel[20] {
        /// Kernel interface index of its underlay.
        pub underlay: u32,
        /// The router's address there.
        pub local: Ipv4,
        /// Its VNI, host byte order.
        pub vni: u32,
        /// How many remote ends it has.
        pub remotes: u32,
        /// UDP port that packets are sent to.
        pub udp_port: Be16,
        /// Zero.
        pub pad: [u8; 2],
    }
}

/// The most remote ends (VTEPs) that a port has.
pub const MAX_REMOTES: u32 = 64;

abi! {
    /// Names a remote end of a port.
    pub struct RemoteKey[8] {
        /// The port's own interface.
        pub ifindex: u32,
        /// The remote end's address.
        pub address: Ipv4,
    }
}

abi! {
    /// A remote end, and the way there as it was last found.
    pub struct Remote[32] {
        /// When that was, nanoseconds; 0 for never.
        pub resolved: u64,
        /// Ethernet addresses of packets to it.
        pub macs: MacPair,
        /// Under which generation of the settings.
        pub generation: u32,
        /// Zero.
        pub pad: u64,
    }
}

abi! {
    /// Names the remote ends of a port one after the other: what is for all goes to each.
    pub struct RemoteIndex[8] {
        /// The port's own interface.
        pub ifindex: u32,
        /// From 0.
        pub index: u32,
    }
}

abi! {
    /// A station of a port.
    pub struct StationKey[12] {
        /// The port's own interface.
        pub ifindex: u32,
        /// Its Ethernet address.
        pub mac: [u8; 6],
        /// Zero.
        pub pad: [u8; 2],
    }
}

abi! {
    /// Where a station is, or which remote end an index means.
    pub struct Whereabouts[4] {
        /// The remote end's address.
        pub remote: Ipv4,
    }
}
