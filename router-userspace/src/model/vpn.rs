//! Site-to-site tunnels: IPsec to somebody else's networks. Remote access: L2TP over IPsec, for people.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::policy::Opening;

/// The device that all tunnels are behind, and the name of its port.
pub const DEVICE: &str = "ipsec0";

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The other end.
    pub peer: Peer,
    /// The router's end: an address of its own.
    pub local: Ipv4Addr,
    /// What the router says that it is.
    pub identity: Ipv4Addr,
    /// Networks at the router's end.
    pub local_network: Ipv4Net,
    /// Networks behind the other end; at least one.
    pub peer_networks: Vec<Ipv4Net>,
    /// What to offer for the tunnel's own traffic, best first, in strongSwan's words.
    pub ike: Vec<String>,
    /// What to offer for the traffic in it, likewise.
    pub esp: Vec<String>,
    /// What both ends know.
    pub psk: Secret,
    /// Version of IKE.
    pub version: IkeVersion,
    /// Seconds that the tunnel's own keys live.
    pub ike_lifetime: u32,
    /// Seconds that the traffic's keys live.
    pub esp_lifetime: u32,
    /// Look whether the peer is still there.
    pub dpd: bool,
    /// Wait for the peer to begin.
    pub passive: bool,
    /// UDP encapsulation even where no NAT is between.
    pub encap: bool,
    /// A connection of its own for each of the peer's networks.
    pub split: bool,
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// By its address.
    Address(Ipv4Addr),
    /// By its name in the DNS.
    Name(String),
}

/// Which IKE is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IkeVersion {
    /// Version 2, or what the peer begins with.
    Any,
    /// RFC 2409.
    V1,
    /// RFC 7296.
    V2,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// How the devices begin that people's computers are behind, one each, and the name of their port.
pub const PEOPLE: &str = "ppp";

/// A server of L2TP over IPsec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteAccess {
    /// Whom clients call: an address of a port.
    pub server: Ipv4Addr,
    /// What all of them know.
    pub psk: Secret,
    /// The router's address towards them, where it also answers questions for names.
    pub local: Ipv4Addr,
    /// First and last address for them; the router's is not among them.
    pub clients: (Ipv4Addr, Ipv4Addr),
    /// What the router itself is open for because of them.
    pub openings: Vec<Opening>,
}

/// Somebody who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Without blanks, quotes and what else has a meaning to pppd.
    pub name: String,
    /// Does not name a file to pppd.
    pub password: Secret,
}

/// What no log may have.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
