//! Static NAT and port forwarding: what of a public address is whose.
//!
//! Invariants: a public address has either a static NAT or forwards; an internal address has one
//! static NAT at most; the ranges of a forward fit each other ([`PortForward`]).

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// All of a router's static NATs and forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nat {
    /// One for each public and each internal address at most.
    pub static_nats: Vec<StaticNat>,
    /// Of those with one public address the first that matches a flow counts.
    pub forwards: Vec<PortForward>,
}

/// One host has a public address for itself: flows of every protocol to `public` go to `internal`,
/// and flows that `internal` opens to the outside have `public` as their source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StaticNat {
    /// The router's address.
    pub public: Ipv4Addr,
    /// The host's address.
    pub internal: Ipv4Addr,
}

impl fmt::Display for StaticNat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.public, self.internal)
    }
}

/// What a forward is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ForwardProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// TCP and UDP on every port. Other protocols stay the router's: ICMP echo requests to the
    /// public address are answered by the router itself.
    Any,
}

impl fmt::Display for ForwardProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Any => "any",
        })
    }
}

/// Flows to ports of a public address go to a host.
///
/// ```text
/// public_ports   internal_ports       a flow to public port p goes to port
/// None           None                 p
/// a–b            None                 p
/// a–b            c–d, as many         c + (p - a)
/// a–b            c                    c
/// ```
///
/// There is nothing else: [`PortForward::fits`] says so of the ranges, and [`ForwardProtocol::Any`]
/// has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortForward {
    /// The router's address.
    pub public: Ipv4Addr,
    /// What is forwarded.
    pub protocol: ForwardProtocol,
    /// Ports of the public address; `None` is every port, and ports are kept.
    pub public_ports: Option<PortRange>,
    /// The host's address.
    pub internal: Ipv4Addr,
    /// The host's ports; `None` keeps ports.
    pub internal_ports: Option<PortRange>,
    /// Who may use it, host bits clear, sorted; empty is anybody.
    pub sources: Vec<Ipv4Net>,
}

impl PortForward {
    /// Whether a range of public ports can be mapped to a range of internal ones.
    pub fn fits(public: PortRange, internal: PortRange) -> bool {
        internal.len() == 1 || internal.len() == public.len()
    }

    /// The host's port for a port of the public address, if that is forwarded.
    pub fn internal_port(&self, port: u16) -> Option<u16> {
        let public = self.public_ports.unwrap_or(PortRange::ALL);
        let offset = port.checked_sub(public.first()).filter(|_| port <= public.last())?;
        match self.internal_ports {
            None => Some(port),
            Some(internal) if internal.len() == 1 => Some(internal.first()),
            Some(internal) => internal.first().checked_add(offset),
        }
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |ports: Option<PortRange>| ports.map_or_else(String::new, |ports| format!(":{ports}"));
        let (public, internal) = (ports(self.public_ports), ports(self.internal_ports));
        write!(f, "{} {}{public} to {}{internal}", self.protocol, self.public, self.internal)?;
        for (index, source) in self.sources.iter().enumerate() {
            write!(f, "{}{source}", if index == 0 { " from " } else { "," })?;
        }
        Ok(())
    }
}

/// Ports from the first to the last, at least one of them, none of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

#[expect(clippy::len_without_is_empty, reason = "no range is empty")]
impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 1, last: u16::MAX };

    /// The ports from `first` to `last`.
    ///
    /// # Errors
    ///
    /// A first port of 0, a last one before the first.
    pub fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        if first == 0 {
            Err(PortRangeError::Zero)
        } else if last < first {
            Err(PortRangeError::Reversed { first, last })
        } else {
            Ok(Self { first, last })
        }
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many ports there are: 65535 at most, since 0 is none.
    pub fn len(self) -> u16 {
        self.last - self.first + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Two numbers that are no range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRangeError {
    /// It would begin with port 0.
    Zero,
    /// It would end before it begins.
    Reversed {
        /// Where it would begin.
        first: u16,
        /// Where it would end.
        last: u16,
    },
}

impl fmt::Display for PortRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("0 is no port"),
            Self::Reversed { first, last } => {
                write!(f, "the last port, {last}, is before the first, {first}")
            }
        }
    }
}

impl std::error::Error for PortRangeError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> Option<PortRange> {
        Some(PortRange::new(first, last).expect("a range"))
    }

    fn forward(public_ports: Option<PortRange>, internal_ports: Option<PortRange>) -> PortForward {
        PortForward {
            public: Ipv4Addr::new(203, 0, 113, 11),
            protocol: ForwardProtocol::Tcp,
            public_ports,
            internal: Ipv4Addr::new(10, 1, 1, 20),
            internal_ports,
            sources: Vec::new(),
        }
    }

    #[test]
    fn a_range_that_exists_has_ports_and_no_port_0() {
        let ports = PortRange::new(22, 80).expect("a range");
        assert_eq!((ports.first(), ports.last(), ports.len()), (22, 80, 59));
        assert_eq!(PortRange::new(1, u16::MAX), Ok(PortRange::ALL));
        assert_eq!(PortRange::ALL.len(), u16::MAX);
        assert_eq!(PortRange::new(0, 0), Err(PortRangeError::Zero));
        assert_eq!(PortRange::new(0, 80), Err(PortRangeError::Zero));
        let error = PortRange::new(80, 22).unwrap_err();
        assert_eq!(error.to_string(), "the last port, 22, is before the first, 80");
    }

    #[test]
    fn a_range_is_mapped_by_offset_to_one_port_or_not_at_all() {
        let shifted = forward(range(5000, 5010), range(6000, 6010));
        assert_eq!(
            [4999, 5000, 5007, 5010, 5011].map(|port| shifted.internal_port(port)),
            [None, Some(6000), Some(6007), Some(6010), None]
        );
        let one = forward(range(5000, 5010), range(22, 22));
        assert_eq!([5000, 5010].map(|port| one.internal_port(port)), [Some(22), Some(22)]);
        let kept = forward(range(5000, 5010), None);
        assert_eq!([5000, 5010, 5011].map(|port| kept.internal_port(port)), [Some(5000), Some(5010), None]);
        let all = forward(None, None);
        assert_eq!([0, 1, 65535].map(|port| all.internal_port(port)), [None, Some(1), Some(65535)]);
    }

    #[test]
    fn forwards_and_static_nats_are_said_in_a_line() {
        let mut shifted = forward(range(5000, 5010), range(22, 22));
        assert_eq!(shifted.to_string(), "tcp 203.0.113.11:5000-5010 to 10.1.1.20:22");
        shifted.sources = ["192.0.2.0/24", "198.51.100.7/32"].map(|net| net.parse().expect("a net")).to_vec();
        assert!(shifted.to_string().ends_with(":22 from 192.0.2.0/24,198.51.100.7/32"));
        let all = PortForward { protocol: ForwardProtocol::Any, ..forward(None, None) };
        assert_eq!(all.to_string(), "any 203.0.113.11 to 10.1.1.20");
        let own = StaticNat { public: all.public, internal: all.internal };
        assert_eq!(own.to_string(), "203.0.113.11 = 10.1.1.20");
    }
}
