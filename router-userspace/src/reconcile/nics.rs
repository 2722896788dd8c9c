//! What NICs there are: links, their drivers by ethtool, and who takes XDP frames by the
//! netdev family.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use router_common::port::Carrier;
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use tracing::debug;

use super::links::{KernelLink, UP};
use crate::compile::{Driver, Inventory, Nic};
use crate::model::Mac;
use crate::raw_netlink::{ACK, DUMP, Message, attributes, exchange, find};

/// The NICs among links: Ethernet devices that are not part of a bridge or bond, and devices without link
/// layer, as tunnels have them.
/// `carriers` are those of tagged ports' interfaces.
pub fn inventory(links: &[KernelLink], carriers: &BTreeMap<u32, Carrier>) -> Result<Inventory> {
    let features = xdp_features().unwrap_or_else(|error| {
        debug!("the kernel does not say which NICs take XDP frames: {error:#}");
        None
    });
    let control = control_socket()?;
    let mut nics: Vec<Nic> = links
        .iter()
        .filter_map(|link| {
            let carrier = carriers.get(&link.index).copied();
            nic(link, &control, features.as_ref(), carrier)
        })
        .collect();
    let trunks = carriers.values().filter(|carrier| !carrier.is_tunnel());
    let trunks: BTreeSet<u32> = trunks.map(|carrier| carrier.trunk).collect();
    for trunk in nics.iter_mut().filter(|nic| trunks.contains(&nic.ifindex)) {
        trunk.strips_tags = strips_tags(&control, &trunk.name);
    }
    nics.sort_by_key(|nic| nic.ifindex);
    Ok(Inventory { nics, ..Inventory::default() })
}

fn nic(
    link: &KernelLink,
    control: &OwnedFd,
    features: Option<&BTreeMap<u32, u64>>,
    carrier: Option<Carrier>,
) -> Option<Nic> {
    let mac = match link.layer {
        ETHERNET if !link.is_enslaved => link.mac?,
        NONE | PPP => Mac::default(),
        _ => return None,
    };
    let name = link.name.clone();
    // What carries a tagged port has a driver, not its interface.
    let driver = if carrier.is_some() { Ok(String::new()) } else { driver(control, &name) };
    let driver = driver.unwrap_or_else(|error| {
        debug!("{name} does not name its driver: {error}");
        String::new()
    });
    let features = features.map(|features| features.get(&link.index).copied().unwrap_or(0));
    Some(Nic {
        ifindex: link.index,
        mac,
        mtu: link.mtu,
        up: link.is(UP),
        driver: Driver::from_name(&driver),
        takes_xdp_frames: features.map(|features| features & NDO_XMIT != 0),
        takes_multi_buffer: features.is_some_and(|features| features & NDO_XMIT_SG != 0),
        strips_tags: false,
        carrier,
        name,
    })
}

// linux/if_arp.h
const ETHERNET: u16 = 1;
const PPP: u16 = 512;
const NONE: u16 = 0xfffe;

fn control_socket() -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("open a socket for ethtool");
    }
    // SAFETY: a fresh descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `ethtool -i`: the driver's name.
fn driver(control: &OwnedFd, name: &str) -> io::Result<String> {
    /// `struct ethtool_drvinfo`.
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    const GET_DRIVER_INFO: u32 = 3;
    let mut info = DriverInfo { command: GET_DRIVER_INFO, driver: [0; 32], rest: [0; 160] };
    ethtool(control, name, &mut info)?;
    let text = CStr::from_bytes_until_nul(&info.driver).map_err(io::Error::other)?;
    Ok(text.to_string_lossy().into_owned())
}

/// `ethtool -K rxvlan off`: has a trunk leave tags in frames. Whether it takes them out all the same.
fn strips_tags(control: &OwnedFd, name: &str) -> bool {
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Flags {
        command: u32,
        flags: u32,
    }
    const GET_FLAGS: u32 = 0x25;
    const SET_FLAGS: u32 = 0x26;
    const TAKES_TAGS_OUT: u32 = 1 << 8;
    let ask = || {
        let mut now = Flags { command: GET_FLAGS, flags: 0 };
        ethtool(control, name, &mut now).map(|()| now.flags)
    };
    match ask() {
        Ok(flags) if flags & TAKES_TAGS_OUT != 0 => {
            let mut without = Flags { command: SET_FLAGS, flags: flags & !TAKES_TAGS_OUT };
            let set = ethtool(control, name, &mut without);
            !set.and_then(|()| ask()).is_ok_and(|flags| flags & TAKES_TAGS_OUT == 0)
        }
        Ok(_) => false,
        // What has no such flags has no such hardware.
        Err(error) => {
            debug!("{name} has no flags: {error}");
            false
        }
    }
}

/// One `ETHTOOL_*` command, which `value` begins with; the answer is in its place.
fn ethtool<T>(control: &OwnedFd, name: &str, value: &mut T) -> io::Result<()> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    // SAFETY: `ifreq` is plain old data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut *value).cast();
    // SAFETY: the request names a device and points to a value of the command's, both alive during the call.
    match unsafe { libc::ioctl(control.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// By interface index: what the device can do with XDP frames, `NETDEV_XDP_ACT_*`. `None` where the kernel does not have
/// the family that says so (before 6.3).
fn xdp_features() -> Result<Option<BTreeMap<u32, u64>>> {
    let Some(family) = NetdevFamily::find()? else { return Ok(None) };
    let query = Message::new(family.id, DUMP, &[DEVICE_GET, 1, 0, 0]);
    let mut all = BTreeMap::new();
    for (_, body) in exchange(NETLINK_GENERIC, vec![query], 1).context("list NICs' XDP features")? {
        let body = body.get(GENERIC_HEADER..).unwrap_or_default();
        let ifindex =
            find(body, DEVICE_IFINDEX).and_then(|value| value.try_into().ok()).map(u32::from_ne_bytes);
        let features =
            find(body, XDP_FEATURES).and_then(|value| value.try_into().ok()).map(u64::from_ne_bytes);
        if let (Some(ifindex), Some(features)) = (ifindex, features) {
            all.insert(ifindex, features);
        }
    }
    Ok(Some(all))
}

/// What the kernel calls the netdev family at run time.
pub(super) struct NetdevFamily {
    id: u16,
    /// Multicast group of messages about changed features.
    pub changes: Option<u32>,
}

impl NetdevFamily {
    /// Asks the kernel; `None` if it does not have the family.
    pub fn find() -> Result<Option<Self>> {
        const CONTROLLER: u16 = 16;
        const GET_FAMILY: u8 = 3;
        const FAMILY_ID: u16 = 1;
        const FAMILY_NAME: u16 = 2;
        const GROUPS: u16 = 7;
        const GROUP_NAME: u16 = 1;
        const GROUP_ID: u16 = 2;
        let query = Message::new(CONTROLLER, ACK, &[GET_FAMILY, 1, 0, 0]).with_text(FAMILY_NAME, "netdev");
        let bodies = match exchange(NETLINK_GENERIC, vec![query], 1) {
            Ok(bodies) => bodies,
            Err(error) => {
                let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
                return if code == Some(libc::ENOENT) { Ok(None) } else { Err(error) };
            }
        };
        let Some((_, body)) = bodies.first() else { return Ok(None) };
        let body = body.get(GENERIC_HEADER..).unwrap_or_default();
        let Some(id) = find(body, FAMILY_ID).and_then(|value| value.try_into().ok()) else { return Ok(None) };
        let changes = attributes(find(body, GROUPS).unwrap_or_default())
            .find(|(_, group)| find(group, GROUP_NAME) == Some(b"mgmt\0"))
            .and_then(|(_, group)| find(group, GROUP_ID)?.try_into().ok());
        Ok(Some(Self { id: u16::from_ne_bytes(id), changes: changes.map(u32::from_ne_bytes) }))
    }
}

/// `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;
// linux/netdev.h
const DEVICE_GET: u8 = 1;
const DEVICE_IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
const NDO_XMIT: u64 = 4;
const NDO_XMIT_SG: u64 = 64;
