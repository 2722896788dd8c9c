//! Why a packet went where it went. The numbers reach users and pinned counters: append, never
//! renumber.

/// How many outcomes a counter row has room for.
pub const OUTCOMES: u32 = 128;

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident from $base:literal {
        $($(#[$doc:meta])* $variant:ident = $number:literal => $label:literal,)*
    }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant = $number,)* }

        impl $name {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable word that `xvr show`, metrics and logs use.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// The outcome's place in a counter row.
            #[inline(always)]
            pub const fn outcome(self) -> u32 {
                self as u32
            }

            /// The reason whose place in a counter row this is.
            #[inline(always)]
            pub const fn from_outcome(outcome: u32) -> Option<Self> {
                match outcome { $($number => Some(Self::$variant),)* _ => None }
            }
        }
        $(const _: () = assert!($number >= $base && $number < OUTCOMES);)*
    };
}

/// The outcome's place in a counter row of a packet that was forwarded.
pub const FORWARDED: u32 = 0;

reasons! {
    /// Why a packet was refused. Numbers 1 to 63.
    #[must_use]
    DropReason from 1 {
        /// Shorter than its own headers say.
        Truncated = 1 => "truncated",
        /// IP version, header length or total length make no sense (RFC 1812 §5.2.2).
        BadIpHeader = 2 => "bad-ip-header",
        /// The IPv4 header checksum is wrong (RFC 1812 §5.2.2).
        BadIpChecksum = 3 => "bad-ip-checksum",
        /// More VLAN tags or IPv6 extension headers than the walk follows.
        TooManyHeaders = 4 => "too-many-headers",
        /// A VLAN tag that no port has.
        UnknownVlan = 5 => "unknown-vlan",
        /// A source or destination that no packet on a wire may have (RFC 1812 §5.3.7).
        Martian = 6 => "martian",
        /// A new flow that no policy permits: from the public side towards a guest.
        NotPermitted = 7 => "not-permitted",
        /// A packet that cannot begin a flow: RST, SYN-ACK, FIN without a flow (SEMANTICS T17).
        InvalidState = 8 => "invalid-state",
        /// The flow table is full.
        FlowTableFull = 9 => "flow-table-full",
        /// No free port or identifier was found on the source NAT address.
        NoFreePort = 10 => "no-free-port",
        /// A protocol that source NAT cannot translate yet.
        Untranslatable = 11 => "untranslatable",
        /// An ICMP error about a flow that does not exist.
        UnrelatedIcmpError = 12 => "unrelated-icmp-error",
        /// The TTL or hop limit of a translated packet ran out.
        TtlExceeded = 13 => "ttl-exceeded",
        /// A translated packet, or one that may be fragmented, is larger than the way out.
        TooBig = 14 => "too-big",
        /// The route says blackhole, unreachable or prohibit.
        RouteRefuses = 15 => "route-refuses",
        /// The route leads to an interface that is no port, or to the control network.
        NoEgressPort = 16 => "no-egress-port",
        /// The flow's packets come in by another port than this one.
        WrongPort = 17 => "wrong-port",
        /// From the control network, which is never forwarded.
        FromControl = 18 => "from-control",
        /// An IPv6 type 0 routing header (RFC 5095).
        RoutingHeader = 19 => "routing-header",
        /// An ICMP message that is neither a query, its answer nor an error.
        IcmpUnsupported = 20 => "icmp-unsupported",
        /// Writing the packet failed.
        RewriteFailed = 21 => "rewrite-failed",
        /// A fragment that no datagram can have.
        BadFragment = 22 => "bad-fragment",
        /// A fragment that covers what another has covered (RFC 1858, RFC 5722).
        OverlappingFragment = 23 => "overlapping-fragment",
        /// A fragment that cannot wait for its datagram's first one: too large, or too many wait.
        FragmentNotHeld = 24 => "fragment-not-held",
        /// A source that the way back does not lead to by the port that it came in by (RFC 1812 §5.3.8, RFC
        /// 3704).
        SpoofedSource = 25 => "spoofed-source",
        /// An IPv4 source route (RFC 7126 §4.3, §4.4).
        SourceRoute = 26 => "source-route",
        /// A list of the policy denies it: firewall, egress rules, network ACL, or what the router itself is open for.
        Policy = 27 => "policy",
        /// The guest has as many external ports of the protocol as it may have (RFC 6888 REQ-4).
        GuestLimit = 28 => "guest-limit",
        /// A VXLAN packet to the router's address of a network (VNI) that no port is.
        UnknownVni = 29 => "unknown-vni",
        /// A VXLAN packet from an address that is no remote end of its network.
        UnknownVtep = 30 => "unknown-vtep",
        /// A VXLAN packet whose headers make no sense.
        BadTunnel = 31 => "bad-vxlan",
        /// A frame of a VXLAN packet that the way has marked as congested, whose sender would not hear of it (RFC 6040
        /// §4.2).
        Congested = 32 => "congested",
        /// The way to a remote end of a VXLAN network is not known, or which one the frame is for.
        NoWayToVtep = 33 => "no-way-to-vtep",
        /// A frame on a bridge whose source is no single station.
        GroupSource = 34 => "group-source",
        /// A frame on a bridge for a station behind the port that it came in by.
        SamePort = 35 => "same-port",
        /// A frame on a bridge that is larger than the port of its station takes.
        OversizeFrame = 36 => "oversize-frame",
        /// So many neighbours are talked to at once that there is no room for one more.
        NextHopTableFull = 37 => "next-hop-table-full",
    }
}

reasons! {
    /// Why a packet was handed to the kernel, on purpose. Numbers 64 to 95.
    #[must_use]
    PuntReason from 64 {
        /// Neither IPv4 nor IPv6: ARP, LLDP and the like.
        NotIp = 64 => "not-ip",
        /// Addressed to the router itself.
        ToRouter = 65 => "to-router",
        /// Multicast, broadcast or link-local: DHCP, neighbour discovery, IGMP.
        LinkScope = 66 => "link-scope",
        /// A fragment: the kernel reassembles what is for the router and refuses the rest.
        Fragment = 67 => "fragment",
        /// TTL or hop limit ran out: the kernel answers with ICMP time exceeded.
        TtlExceeded = 68 => "ttl-exceeded",
        /// Larger than the way out: the kernel answers with ICMP too big.
        TooBig = 69 => "too-big",
        /// No route: the kernel answers with ICMP unreachable.
        NoRoute = 70 => "no-route",
        /// On an interface that is no port of this router.
        NotAPort = 71 => "not-a-port",
        /// Addressed to another station's MAC address.
        OtherHost = 72 => "other-host",
    }
}

reasons! {
    /// Why the XDP program left a packet, unchanged, to the TC program behind it. Numbers 96 to
    /// 127.
    #[must_use]
    DeferReason from 96 {
        /// What XDP cannot finish, the kernel may have to: the TC program says why.
        Punted = 96 => "punted",
        /// The next hop's MAC address is not known yet: only TC can wait for it.
        NoNeighbour = 97 => "no-neighbour",
        /// The sender left the checksum to be finished by the hardware it does not have.
        PartialChecksum = 98 => "partial-checksum",
        /// The way out takes no XDP frames.
        EgressWithoutXdp = 99 => "egress-without-xdp",
        /// Larger than the way out: TC knows whether it is a GSO packet.
        Oversize = 100 => "oversize",
        /// A fragment: only TC can keep one that comes too early.
        Fragment = 101 => "fragment",
        /// A fragment that TC holds until its datagram's first one has come; it is counted again then.
        Held = 102 => "held",
        /// An IPv4 header with options: TC looks at them.
        Options = 103 => "ip-options",
        /// Of a flow that a helper reads along with, which may have to change a packet's length.
        Helper = 104 => "helper",
        /// A frame of a VXLAN packet that only the kernel can look at: it comes in again by its port; or a packet that
        /// only TC can take it out of.
        Tunnelled = 105 => "tunnelled",
        /// A frame on a bridge that is for several ports: only TC can copy it.
        Flooded = 106 => "flooded",
        /// In several buffers, which the way out does not take; or its headers are not in the first.
        MultiBuffer = 107 => "multi-buffer",
    }
}
