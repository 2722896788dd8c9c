//! What this machine's kernel can do that not every kernel can. Asked by doing it: some look for modules only then.

use std::fs::OpenOptions;
use std::net::Ipv4Addr;

use anyhow::Result;
use rtnetlink::sys::protocols::NETLINK_XFRM;

use super::xfrm;
use crate::raw_netlink::{ACK, CREATE, Message, exchange};

/// What VPNs need of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// IPsec's ESP: user space has it in tunnel mode alone, and L2TP needs transport mode.
    pub esp: bool,
    /// Devices that IPsec is behind.
    pub xfrm_interfaces: bool,
    /// PPP.
    pub ppp: bool,
}

impl Kernel {
    /// That of this machine, seen from this network namespace.
    pub fn look() -> Self {
        let esp = try_esp().is_ok();
        let ppp = OpenOptions::new().read(true).write(true).open("/dev/ppp").is_ok();
        Self { esp, xfrm_interfaces: xfrm::is_known(), ppp }
    }

    /// Whether tunnels to other sites can be its own. Otherwise their ESP is in user space.
    pub const fn can_carry_tunnels(self) -> bool {
        self.esp && self.xfrm_interfaces
    }

    /// What remote access misses, in words, with tunnels to other sites or without; `None` where nothing is missing.
    pub fn lack(self, has_tunnels: bool) -> Option<&'static str> {
        match (self.esp, self.ppp) {
            (true, true) if has_tunnels && !self.xfrm_interfaces => Some(
                "the kernel has no XFRM interfaces (module xfrm_interface), so tunnels to other sites have ESP in \
                 user space, and not the kernel's",
            ),
            (true, true) => None,
            (false, true) => Some("the kernel has no ESP (module esp4)"),
            (true, false) => Some("the kernel has no PPP (modules ppp_generic and l2tp_ppp)"),
            (false, false) => {
                Some("the kernel has neither ESP (module esp4) nor PPP (modules ppp_generic and l2tp_ppp)")
            }
        }
    }
}

/// Adds a security association between two addresses that nobody has, and takes it away again.
fn try_esp() -> Result<()> {
    const NEW: u16 = 0x10;
    const DELETE: u16 = 0x11;
    const AUTHENTICATION: u16 = 1;
    const ENCRYPTION: u16 = 2;
    let there = association();
    let add = Message::new(NEW, ACK | CREATE, &there)
        .with(ENCRYPTION, &algorithm("cbc(aes)", &[0; 16]))
        .with(AUTHENTICATION, &algorithm("hmac(sha1)", &[0; 20]));
    exchange(NETLINK_XFRM, vec![add], 1)?;
    let mut which = [0; 24];
    which[..20].copy_from_slice(&there[DESTINATION..DESTINATION + 20]);
    (which[20], which[22]) = (libc::AF_INET as u8, ESP);
    exchange(NETLINK_XFRM, vec![Message::new(DELETE, ACK, &which)], 1)?;
    Ok(())
}

const ESP: u8 = 50;

/// Where `struct xfrm_usersa_info` has its `struct xfrm_id`: destination, SPI, protocol.
const DESTINATION: usize = 56;

/// `struct xfrm_usersa_info`: transport mode, and gone after a minute should nobody take it away.
fn association() -> [u8; 224] {
    const SOURCE: usize = 80;
    const LIMITS: usize = 96;
    const FAMILY: usize = 212;
    const SPI: [u8; 4] = *b"XVR0";
    let mut info = [0; 224];
    info[DESTINATION..DESTINATION + 4].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 1).octets());
    info[DESTINATION + 16..DESTINATION + 20].copy_from_slice(&SPI);
    info[DESTINATION + 20] = ESP;
    info[SOURCE..SOURCE + 4].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 2).octets());
    // Bytes and packets, soft and hard; then seconds since it was added, soft and hard.
    info[LIMITS..LIMITS + 32].fill(0xff);
    info[LIMITS + 32..LIMITS + 40].copy_from_slice(&60_u64.to_ne_bytes());
    info[LIMITS + 40..LIMITS + 48].copy_from_slice(&60_u64.to_ne_bytes());
    info[FAMILY] = libc::AF_INET as u8;
    info
}

/// `struct xfrm_algo`.
fn algorithm(name: &str, key: &[u8]) -> Vec<u8> {
    let mut algorithm = vec![0; 64];
    algorithm[..name.len()].copy_from_slice(name.as_bytes());
    algorithm.extend((key.len() as u32 * 8).to_ne_bytes());
    algorithm.extend(key);
    algorithm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let lack = |esp, ppp| Kernel { esp, ppp, xfrm_interfaces: true }.lack(true).unwrap_or_default();
        assert_eq!(lack(true, true), "");
        assert!(lack(false, true).contains("ESP") && !lack(false, true).contains("PPP"));
        assert!(lack(true, false).contains("PPP") && !lack(true, false).contains("ESP"));
        assert!(lack(false, false).contains("neither"));
        let without_interfaces = Kernel { esp: true, ppp: true, xfrm_interfaces: false };
        assert_eq!(without_interfaces.lack(false), None);
        assert!(without_interfaces.lack(true).is_some_and(|lack| lack.contains("XFRM")));
    }
}
