//! Which hook a port gets, and why.
//!
//! The TC program is on every port, since it can finish what XDP must leave: it waits for
//! neighbours, keeps unfinished checksums and GSO packets. The question is whether XDP goes in
//! front of it.

use std::fmt;
use std::str::FromStr;

use router_common::port::{Port, Role};

use super::Nic;

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
    /// XDP in the driver, which may hand it frames in several buffers.
    MultiBufferXdp,
    /// XDP in the stack.
    GenericXdp,
}

impl Front {
    /// It is in the driver.
    pub const fn is_native(self) -> bool {
        matches!(self, Self::NativeXdp | Self::MultiBufferXdp)
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "tc",
            Self::NativeXdp => "xdp",
            Self::MultiBufferXdp => "xdp-multi-buffer",
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

impl Attachment {
    /// The choice for a port whose MTU is to be so many bytes.
    ///
    /// The control port gets TC whatever the operator asks for: the way in must not depend on a
    /// driver. Every other port gets what was asked for, or an error when it is attached; only
    /// `auto` may settle for less, and never for generic XDP.
    pub fn choose(mode: AttachMode, role: Role, driver: &Driver, mtu: u32) -> Self {
        let (front, may_fall_back, reason) = match (mode, role) {
            (_, Role::Control) => {
                (Front::Nothing, false, "the control network never depends on a driver's XDP".to_owned())
            }
            (_, Role::Tunnel) => {
                (Front::Nothing, false, "a tunnel's packets have no Ethernet header for XDP".to_owned())
            }
            (AttachMode::Auto, _) => by_driver(driver),
            (AttachMode::Xdp, _) => (Front::NativeXdp, false, "--attach xdp".to_owned()),
            (AttachMode::XdpGeneric, _) => (Front::GenericXdp, false, "--attach xdp-generic".to_owned()),
            (AttachMode::Tc, _) => (Front::Nothing, false, "--attach tc".to_owned()),
        };
        if front == Front::NativeXdp && mtu > ONE_BUFFER {
            let reason = format!("{reason}; its MTU may take several buffers");
            return Self { front: Front::MultiBufferXdp, may_fall_back, reason };
        }
        Self { front, may_fall_back, reason }
    }

    /// The choice for a NIC that carries tagged ports. XDP reads tags where they are in the frame, and nowhere else.
    pub fn choose_for_trunk(mode: AttachMode, nic: &Nic, mtu: u32) -> Self {
        let why = match nic.driver {
            Driver::Veth => "veth: a tag may come beside the frame, where XDP does not see it",
            _ if nic.strips_tags => "the device takes tags out of frames, where XDP does not see them",
            _ => return Self::choose(mode, Role::Guest, &nic.driver, mtu),
        };
        Self { front: Front::Nothing, may_fall_back: false, reason: why.to_owned() }
    }

    /// What the programs have to know of a port that is attached like this to such a NIC: a
    /// combination of [`Port::PARTIAL_CHECKSUMS`], [`Port::XDP_TARGET`] and [`Port::MULTI_BUFFER`].
    ///
    /// Where the kernel cannot say whether it takes XDP frames, a driver does once it runs a program of
    /// its own; veth and tun also need a receiver at the far end, which cannot be seen from here.
    pub fn port_flags(&self, nic: &Nic) -> u8 {
        let same_host = matches!(nic.driver, Driver::Veth | Driver::Tun);
        let partial = same_host || self.front == Front::GenericXdp;
        let target = nic.takes_xdp_frames.unwrap_or(!same_host && self.front.is_native());
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        flag(partial, Port::PARTIAL_CHECKSUMS)
            | flag(target, Port::XDP_TARGET)
            | flag(nic.takes_multi_buffer, Port::MULTI_BUFFER)
    }
}

fn by_driver(driver: &Driver) -> (Front, bool, String) {
    match driver {
        Driver::Veth => (Front::Nothing, false, format!("veth: {SAME_HOST}")),
        Driver::Tun => (Front::Nothing, false, format!("tap: {SAME_HOST}")),
        Driver::VirtioNet => {
            let reason = "virtio_net: frames come from the wire, finished and one by one";
            (Front::NativeXdp, true, reason.to_owned())
        }
        Driver::Other(name) if NATIVE_XDP.contains(&name.as_str()) => {
            (Front::NativeXdp, true, format!("{name}: a NIC that runs XDP in its driver"))
        }
        Driver::Other(name) if name.is_empty() => {
            (Front::Nothing, false, "the device does not name its driver".to_owned())
        }
        Driver::Other(name) => {
            (Front::Nothing, false, format!("{name} is not known to run XDP in its driver"))
        }
    }
}

/// MTU in bytes up to which every driver that runs XDP has frames in one buffer: some have buffers of 2,048 bytes, of which
/// headers and tags take a part. Others have more room, and lose nothing but the time to ask for a frame's length.
const ONE_BUFFER: u32 = 2000;

/// Measured: TCP between kernels on one host loses three quarters of its throughput behind
/// native XDP, and all of it where checksums are left to the device.
const SAME_HOST: &str =
    "peers on this host hand over GSO packets and unfinished checksums, which XDP would lose";

/// Drivers that run XDP themselves, by the name that `ETHTOOL_GDRVINFO` gives.
const NATIVE_XDP: &[&str] = &[
    "atlantic",
    "bnxt_en",
    "ena",
    "fsl_dpaa2_eth",
    "fsl_enetc",
    "gve",
    "hv_netvsc",
    "i40e",
    "iavf",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "netsec",
    "nfp",
    "nicvf",
    "qede",
    "rvu_nicpf",
    "sfc",
    "stmmac",
    "tsnep",
    "vmxnet3",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::tests::nic;

    fn choose(mode: AttachMode, role: Role, driver: &str) -> (Front, bool) {
        let chosen = Attachment::choose(mode, role, &Driver::from_name(driver), 1500);
        assert!(!chosen.reason.is_empty());
        (chosen.front, chosen.may_fall_back)
    }

    #[test]
    fn auto_takes_native_xdp_on_wires_and_tc_towards_this_host() {
        for (driver, expected) in [
            ("veth", (Front::Nothing, false)),
            ("tun", (Front::Nothing, false)),
            ("bridge", (Front::Nothing, false)),
            ("", (Front::Nothing, false)),
            ("virtio_net", (Front::NativeXdp, true)),
            ("mlx5_core", (Front::NativeXdp, true)),
        ] {
            assert_eq!(choose(AttachMode::Auto, Role::Guest, driver), expected, "{driver}");
        }
    }

    #[test]
    fn explicit_modes_are_obeyed_and_never_fall_back() {
        for (mode, front) in [
            (AttachMode::Xdp, Front::NativeXdp),
            (AttachMode::XdpGeneric, Front::GenericXdp),
            (AttachMode::Tc, Front::Nothing),
        ] {
            for role in [Role::Public, Role::Guest, Role::PrivateGateway] {
                assert_eq!(choose(mode, role, "veth"), (front, false));
            }
            assert_eq!(choose(mode, Role::Control, "virtio_net"), (Front::Nothing, false));
        }
    }

    #[test]
    fn an_mtu_beyond_one_buffer_asks_native_xdp_for_several_and_nothing_else() {
        let front = |mode, mtu| Attachment::choose(mode, Role::Guest, &Driver::VirtioNet, mtu).front;
        for mode in [AttachMode::Auto, AttachMode::Xdp] {
            assert_eq!(
                [1500, 2000, 2001, 9000].map(|mtu| front(mode, mtu) == Front::MultiBufferXdp),
                [false, false, true, true]
            );
        }
        assert_eq!(front(AttachMode::XdpGeneric, 9000), Front::GenericXdp);
        assert_eq!(front(AttachMode::Tc, 9000), Front::Nothing);
    }

    /// The flags of a port with such a driver, of which the kernel says whether it takes XDP frames.
    fn flags(mode: AttachMode, driver: &str, takes_xdp_frames: Option<bool>) -> u8 {
        let nic = Nic { takes_xdp_frames, ..nic(2, "eth0", driver) };
        Attachment::choose(mode, Role::Guest, &nic.driver, nic.mtu).port_flags(&nic)
    }

    #[test]
    fn partial_checksums_are_expected_where_no_hardware_finishes_them() {
        let flags = |mode, driver: &str| flags(mode, driver, Some(false));
        assert_eq!(flags(AttachMode::Xdp, "veth"), Port::PARTIAL_CHECKSUMS);
        assert_eq!(flags(AttachMode::Xdp, "mlx5_core"), 0);
        assert_eq!(flags(AttachMode::XdpGeneric, "mlx5_core"), Port::PARTIAL_CHECKSUMS);
    }

    #[test]
    fn without_word_from_the_kernel_only_a_driver_with_a_program_takes_frames() {
        let target = |mode, driver: &str, takes| flags(mode, driver, takes) & Port::XDP_TARGET != 0;
        assert!(target(AttachMode::Auto, "mlx5_core", None));
        assert!(!target(AttachMode::Tc, "mlx5_core", None));
        assert!(!target(AttachMode::Xdp, "veth", None));
        assert!(target(AttachMode::Tc, "veth", Some(true)));
    }
}
