//! Remote ends that the forwarding database of a VXLAN device of the kernel's names (`bridge fdb`): FRR's zebra writes
//! there whom EVPN has told it of, or an operator does.
//!
//! A port follows such a device. Whom an entry is about does not matter, all addresses or one station's: the remote ends
//! of the port are all that there are. The device itself need not carry a packet: programs take them first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use router_common::tunnel::MAX_REMOTES;
use rtnetlink::packet_core::Parseable;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::links::{KernelLink, VxlanDevice};
use crate::model::trunk::{Vni, is_vtep};
use crate::raw_netlink::{DUMP, Message, exchange};

/// An entry that names a remote end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Interface index of the device.
    pub device: u32,
    /// The remote end.
    remote: Ipv4Addr,
    /// The number of the network there, where it is another one than the device's.
    vni: Option<u32>,
    /// The UDP port there, where it is another one than the device's.
    udp_port: Option<u16>,
}

impl Entry {
    /// From a message about one. `None` where it is about something else, as bridges' own entries are, or names an IPv6
    /// address or a group.
    pub fn from_message(message: &NeighbourMessage) -> Option<Self> {
        if message.header.family != AddressFamily::Bridge {
            return None;
        }
        let (mut remote, mut vni, mut udp_port) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                    remote = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from);
                }
                NeighbourAttribute::Vni(number) => vni = Some(*number),
                NeighbourAttribute::Port(number) => udp_port = Some(*number),
                _ => {}
            }
        }
        let remote = remote.filter(|remote| is_vtep(*remote))?;
        Some(Self { device: message.header.ifindex, remote, vni, udp_port })
    }

    /// Whether packets of this network can be sent there.
    fn has(&self, vni: &Vni) -> bool {
        self.vni.is_none_or(|number| number == vni.id)
            && self.udp_port.is_none_or(|number| number == vni.udp_port)
            && self.remote != vni.local
    }
}

/// What the forwarding databases of all devices say of remote ends, by the devices' interface indices.
///
/// # Errors
/// The kernel does not tell.
pub fn list() -> Result<BTreeMap<u32, Vec<Entry>>> {
    // linux/rtnetlink.h, linux/socket.h; `struct ndmsg`.
    const GET_NEIGHBOUR: u16 = 30;
    const BRIDGE: u8 = 7;
    let mut header = [0; 12];
    header[0] = BRIDGE;
    let query = Message::new(GET_NEIGHBOUR, DUMP, &header);
    let mut entries: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
    for (_, body) in exchange(NETLINK_ROUTE, vec![query], 1).context("list forwarding databases")? {
        let message = NeighbourMessage::parse(body.as_slice()).ok();
        if let Some(entry) = message.as_ref().and_then(Entry::from_message) {
            entries.entry(entry.device).or_default().push(entry);
        }
    }
    Ok(entries)
}

/// The remote ends of a network that follows the device of this name, in order; and what is wrong with them.
pub fn remotes(
    vni: &Vni,
    name: &str,
    device: Option<&KernelLink>,
    entries: &BTreeMap<u32, Vec<Entry>>,
) -> (Vec<Ipv4Addr>, Option<String>) {
    const ROOM: usize = MAX_REMOTES as usize;
    let Some(device) = device else {
        return (Vec::new(), Some(format!("there is no {name} whose forwarding database it could follow")));
    };
    if let Some(problem) = unlike(vni, name, device) {
        return (Vec::new(), Some(problem));
    }
    let entries = entries.get(&device.index).into_iter().flatten();
    let all: BTreeSet<Ipv4Addr> = entries.filter(|entry| entry.has(vni)).map(|entry| entry.remote).collect();
    let problem = match all.len() {
        0 => Some(format!("the forwarding database of {name} has no remote end yet")),
        many if many > ROOM => {
            Some(format!("the forwarding database of {name} has {many} remote ends: the first {ROOM} count"))
        }
        _ => None,
    };
    (all.into_iter().take(ROOM).collect(), problem)
}

/// Why a device is not this network's.
fn unlike(vni: &Vni, name: &str, device: &KernelLink) -> Option<String> {
    match device.vxlan {
        None => Some(format!("{name} is no VXLAN device")),
        // That of a device for many networks is 0.
        Some(VxlanDevice { vni: id, .. }) if id != vni.id => {
            Some(format!("{name} is VNI {id}, not {}", vni.id))
        }
        Some(VxlanDevice { local: Some(local), .. }) if local != vni.local => {
            Some(format!("{name} is at {local}, not at {}", vni.local))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::trunk::Remotes;

    const DEVICE: u32 = 7;

    fn vni() -> Vni {
        let remotes = Remotes::Fdb("vx100".to_owned());
        Vni { id: 100, local: Ipv4Addr::new(192, 0, 2, 1), remotes, udp_port: 4789 }
    }

    fn device(vni: u32, local: Option<Ipv4Addr>) -> KernelLink {
        let mut link = KernelLink::default();
        (link.index, link.vxlan) = (DEVICE, Some(VxlanDevice { vni, local }));
        link
    }

    fn message(destination: &[u8], further: &[NeighbourAttribute]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = DEVICE;
        let destination = NeighbourAddress::Other(destination.to_vec());
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![0; 6]));
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message.attributes.extend_from_slice(further);
        message
    }

    fn entries(messages: &[NeighbourMessage]) -> BTreeMap<u32, Vec<Entry>> {
        BTreeMap::from([(DEVICE, messages.iter().filter_map(Entry::from_message).collect())])
    }

    #[test]
    fn remote_ends_are_whom_entries_name() {
        let all = entries(&[
            message(&[192, 0, 2, 12], &[]),
            message(&[192, 0, 2, 11], &[]),
            message(&[192, 0, 2, 12], &[NeighbourAttribute::Vni(100), NeighbourAttribute::Port(4789)]),
            // Itself, a group, another family, and what cannot be sent to.
            message(&[192, 0, 2, 1], &[]),
            message(&[239, 1, 1, 1], &[]),
            message(&[0x20; 16], &[]),
            message(&[192, 0, 2, 13], &[NeighbourAttribute::Vni(101)]),
            message(&[192, 0, 2, 14], &[NeighbourAttribute::Port(8472)]),
        ]);
        let device = device(100, Some(Ipv4Addr::new(192, 0, 2, 1)));
        let expected = vec![Ipv4Addr::new(192, 0, 2, 11), Ipv4Addr::new(192, 0, 2, 12)];
        assert_eq!(remotes(&vni(), "vx100", Some(&device), &all), (expected, None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let some = entries(&[message(&[192, 0, 2, 12], &[])]);
        let said = |device: Option<&KernelLink>, entries| {
            let (remotes, problem) = remotes(&vni(), "vx100", device, entries);
            assert_eq!(remotes, Vec::<Ipv4Addr>::new());
            problem.unwrap()
        };
        assert_eq!(said(None, &some), "there is no vx100 whose forwarding database it could follow");
        assert_eq!(said(Some(&KernelLink::default()), &some), "vx100 is no VXLAN device");
        assert_eq!(said(Some(&device(200, None)), &some), "vx100 is VNI 200, not 100");
        let elsewhere = device(100, Some(Ipv4Addr::new(192, 0, 2, 2)));
        assert_eq!(said(Some(&elsewhere), &some), "vx100 is at 192.0.2.2, not at 192.0.2.1");
        let device = device(100, None);
        let none = "the forwarding database of vx100 has no remote end yet";
        assert_eq!(said(Some(&device), &BTreeMap::new()), none);

        let many: Vec<_> = (1..=70).rev().map(|last| message(&[198, 51, 100, last], &[])).collect();
        let (first, problem) = remotes(&vni(), "vx100", Some(&device), &entries(&many));
        let expected: Vec<_> = (1..=64).map(|last| Ipv4Addr::new(198, 51, 100, last)).collect();
        assert_eq!(first, expected);
        let said = "the forwarding database of vx100 has 70 remote ends: the first 64 count";
        assert_eq!(problem.as_deref(), Some(said));
    }
}
