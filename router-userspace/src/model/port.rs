//! A port: a NIC of the router, what it is for and which addresses it has.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
pub use router_common::port::Role;

/// An Ethernet address; all zeroes for a device that has none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacError(pub String);

impl fmt::Display for MacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no MAC address", self.0)
    }
}

impl std::error::Error for MacError {}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let is_octet =
                |part: &&str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            let part = parts.next().filter(is_octet).ok_or_else(error)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(Self(octets)) }
    }
}

/// How a port's NIC is found: by MAC address, and by name only where no MAC address is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortSelector {
    /// The NIC with this address.
    Mac(Mac),
    /// The NIC with this name.
    Name(String),
    /// Each NIC whose name is this and a number. They come and go, and are one port to all rules.
    Numbered(String),
}

impl PortSelector {
    /// Whether a NIC of this name is one of several that the port has.
    pub fn numbers(&self, nic: &str) -> bool {
        let Self::Numbered(name) = self else { return false };
        nic.strip_prefix(name.as_str()).is_some_and(|number| number.parse::<u32>().is_ok())
    }
}

impl fmt::Display for PortSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Name(name) | Self::Numbered(name) => name.fmt(f),
        }
    }
}

/// Source NAT of flows that leave by a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceNat {
    /// Flows leave as they are.
    Off,
    /// IPv4 flows from guests leave with this address.
    To(Ipv4Addr),
}

/// A port of the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// CloudStack's name for it, `ethN`: what errors, logs and `xvr show` call it.
    pub name: String,
    /// How its NIC is found.
    pub selector: PortSelector,
    /// What it is for.
    pub role: Role,
    /// Addresses with prefix length, in the order in which they are to be assigned: the first of
    /// a subnet is the primary one. Host bits are kept.
    pub addresses: Vec<IpNet>,
    /// Largest IP packet in bytes; `None` leaves the NIC's own.
    pub mtu: Option<u16>,
    /// Source NAT of what leaves here.
    pub source_nat: SourceNat,
}

impl Port {
    /// Its IPv4 addresses, in their order, host bits kept.
    pub fn ipv4(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.addresses.iter().filter_map(|address| match address {
            IpNet::V4(address) => Some(*address),
            IpNet::V6(_) => None,
        })
    }
}
