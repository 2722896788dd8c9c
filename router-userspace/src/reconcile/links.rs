//! Links as the kernel lists them, and the kernel settings of each.
//!
//! A router may have thousands. So it is one list that a look is taken by, without statistics, and of each link no more
//! is read than somebody asks about. Its settings are in the list as well: to open tens of thousands of files below
//! `/proc/sys/` instead would take longer than all else.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use crate::model::Mac;
use crate::raw_netlink::{DUMP, Message, attributes, exchange, find};

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelLink {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What layer it has: `ARPHRD_*`.
    pub layer: u16,
    /// A combination of [`UP`], [`RUNNING`] and others: `IFF_*`.
    pub flags: u32,
    /// Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// It is part of a bridge or bond.
    pub is_enslaved: bool,
    /// What kind of virtual device it is, as the kernel calls it.
    pub kind: Option<String>,
    /// Of a VXLAN device: which.
    pub vxlan: Option<VxlanDevice>,
    /// What somebody has written on it.
    pub alias: Option<String>,
    ipv4: Vec<u8>,
    ipv6: Vec<u8>,
}

/// What a VXLAN device of the kernel's is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// The number of its network, host byte order; 0 of a device for many.
    pub vni: u32,
    /// Its address, if it has one, and that is an IPv4 one.
    pub local: Option<Ipv4Addr>,
}

impl VxlanDevice {
    fn read(settings: &[u8]) -> Self {
        let word = |kind| find(settings, kind)?.try_into().ok();
        Self {
            vni: word(VXLAN_ID).map_or(0, u32::from_ne_bytes),
            local: word(VXLAN_LOCAL).map(<[u8; 4]>::into),
        }
    }
}

/// Administratively up: `IFF_UP`.
pub const UP: u32 = 1;
/// With a carrier: `IFF_RUNNING`.
pub const RUNNING: u32 = 0x40;
/// Takes frames for other addresses than its own: `IFF_PROMISC`.
pub const PROMISCUOUS: u32 = 0x100;

/// Every link of the network namespace.
///
/// # Errors
/// The kernel does not tell.
pub fn list() -> Result<Vec<KernelLink>> {
    let query = Message::new(GET_LINK, DUMP, &[0; HEADER]).with(EXTENT, &WITHOUT_STATISTICS.to_ne_bytes());
    let answers = exchange(NETLINK_ROUTE, vec![query], 1).context("list links")?;
    Ok(answers.iter().filter_map(|(_, body)| KernelLink::read(body)).collect())
}

impl KernelLink {
    /// Whether it has all of these flags.
    pub const fn is(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    /// The value of the setting `net/<family>/conf/<link>/<name>`, if it is one of those that are looked at.
    pub fn setting(&self, family: &str, name: &str) -> Option<i32> {
        let (values, place) = match family {
            "ipv4" => (&self.ipv4, usize::from(ipv4_setting(name)?) - 1),
            "ipv6" => (&self.ipv6, ipv6_setting(name)?),
            _ => return None,
        };
        let value = values.chunks_exact(4).nth(place)?;
        value.try_into().ok().map(i32::from_ne_bytes)
    }

    fn read(body: &[u8]) -> Option<Self> {
        let (header, rest) = body.split_at_checked(HEADER)?;
        let word = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let mut link = Self {
            layer: u16::from_ne_bytes([header[2], header[3]]),
            index: word(4)?,
            flags: word(8)?,
            ..Self::default()
        };
        for (kind, value) in attributes(rest) {
            match kind {
                ADDRESS => link.mac = value.try_into().ok().map(Mac),
                NAME => link.name = text(value),
                MTU => link.mtu = value.try_into().ok().map(u32::from_ne_bytes)?,
                CONTROLLER => link.is_enslaved = true,
                INFO => {
                    link.kind = find(value, INFO_KIND).map(text);
                    let settings = find(value, INFO_DATA).filter(|_| link.kind.as_deref() == Some("vxlan"));
                    link.vxlan = settings.map(VxlanDevice::read);
                }
                ALIAS => link.alias = Some(text(value)),
                FAMILIES => {
                    let settings = |family, settings| find(find(value, family)?, settings);
                    link.ipv4 = settings(INET, INET_SETTINGS).unwrap_or_default().to_vec();
                    link.ipv6 = settings(INET6, INET6_SETTINGS).unwrap_or_default().to_vec();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
}

/// The kernel's number of a setting of links for IPv4, `IPV4_DEVCONF_*`, if it is one of those that are looked at.
pub fn ipv4_setting(name: &str) -> Option<u16> {
    Some(match name {
        "forwarding" => 1,
        "accept_redirects" => 4,
        "secure_redirects" => 5,
        "send_redirects" => 6,
        "rp_filter" => 8,
        "arp_announce" => 18,
        "arp_ignore" => 19,
        "promote_secondaries" => 20,
        _ => return None,
    })
}

/// `DEVCONF_*`, likewise.
fn ipv6_setting(name: &str) -> Option<usize> {
    Some(match name {
        "forwarding" => 0,
        "accept_ra" => 3,
        "accept_redirects" => 4,
        "use_tempaddr" => 10,
        "disable_ipv6" => 26,
        "accept_dad" => 27,
        "keep_addr_on_down" => 42,
        _ => return None,
    })
}

/// `struct ifinfomsg`.
const HEADER: usize = 16;

/// It, of a link by its index, 0 for one that is named or made: with these flags, of which those in `change` count.
pub(super) fn header(index: u32, flags: u32, change: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

// linux/rtnetlink.h, linux/if_link.h, linux/socket.h: messages about links, and their attributes.
pub(super) const NEW_LINK: u16 = 16;
pub(super) const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
pub(super) const SET_LINK: u16 = 19;
pub(super) const ADDRESS: u16 = 1;
pub(super) const NAME: u16 = 3;
pub(super) const MTU: u16 = 4;
const CONTROLLER: u16 = 10;
pub(super) const INFO: u16 = 18;
pub(super) const INFO_KIND: u16 = 1;
pub(super) const INFO_DATA: u16 = 2;
const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
pub(super) const ALIAS: u16 = 20;
pub(super) const FAMILIES: u16 = 26;
const EXTENT: u16 = 29;
const WITHOUT_STATISTICS: u32 = 1 << 3;
pub(super) const INET: u16 = 2;
pub(super) const INET_SETTINGS: u16 = 1;
const INET6: u16 = 10;
const INET6_SETTINGS: u16 = 2;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn settings_are_those_of_the_files() {
        let links = list().expect("a list");
        let loopback = links.iter().find(|link| link.name == "lo").expect("every namespace has it");
        assert_eq!((loopback.index, loopback.is_enslaved), (1, false));
        let names = [
            (
                "ipv4",
                &["forwarding", "accept_redirects", "secure_redirects", "send_redirects", "rp_filter"][..],
            ),
            ("ipv4", &["arp_announce", "arp_ignore", "promote_secondaries"]),
            ("ipv6", &["forwarding", "accept_ra", "accept_redirects", "use_tempaddr", "disable_ipv6"]),
            ("ipv6", &["accept_dad", "keep_addr_on_down"]),
        ];
        for (family, names) in names {
            for name in names {
                let file = fs::read_to_string(format!("/proc/sys/net/{family}/conf/lo/{name}"));
                let expected = file.ok().and_then(|text| text.trim().parse::<i32>().ok());
                assert_eq!(loopback.setting(family, name), expected, "{family} {name}");
            }
        }
        assert_eq!(loopback.setting("ipv4", "tag"), None);
    }
}
