//! Which hook a port gets, and why.
//!
//! The TC program is on every port, since it can finish what XDP must leave: it waits for
//! neighbours, keeps unfinished checksums and GSO packets. The question is whether XDP goes in
//! front of it.

use std::fmt;
use std::str::FromStr;

/// What drives a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A veth pair: the peer is a kernel (or another XDP router) on the same host.
    Veth,
    /// A tap of a virtual machine on this host.
    Tun,
    /// virtio-net: the router is a virtual machine.
    VirtioNet,
    /// Any other device whose driver `ethtool -i` names: `mlx5_core`, `ice`, `bridge`, ...
    Other(String),
}

impl Driver {
    /// From the name that `ETHTOOL_GDRVINFO` gives.
    pub fn from_name(name: &str) -> Self {
        match name {
            "veth" => Self::Veth,
            "tun" => Self::Tun,
            "virtio_net" => Self::VirtioNet,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// What the operator asks for (`--attach`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// By driver and offloads.
    #[default]
    Auto,
    /// Native XDP, or an error.
    Xdp,
    /// Generic XDP, or an error.
    XdpGeneric,
    /// TC alone.
    Tc,
}

impl AttachMode {
    /// The word of the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
        }
    }
}

impl FromStr for AttachMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::Xdp, Self::XdpGeneric, Self::Tc]
            .into_iter()
            .find(|mode| mode.label() == text)
            .ok_or_else(|| format!("{text:?} is none of auto, xdp, xdp-generic, tc"))
    }
}

/// What is (to be) in front of the TC program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// Nothing: TC alone.
    Nothing,
    /// XDP in the driver.
    NativeXdp,
    /// XDP in the stack.
    GenericXdp,
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "tc",
            Self::NativeXdp => "xdp",
            Self::GenericXdp => "xdp-generic",
        })
    }
}

/// How a port's programs are attached, and why so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What is in front of the TC program.
    pub front: Front,
    /// Fall back to TC alone when the driver refuses: only where the operator left the choice
    /// to us.
    pub may_fall_back: bool,
    /// A sentence for `xvr show ports`.
    pub reason: String,
}
