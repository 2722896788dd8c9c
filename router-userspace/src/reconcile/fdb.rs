//! Remote ends that the forwarding database of a VXLAN device of the kernel's names (`bridge fdb`): FRR's zebra writes
//! there whom EVPN has told it of, or an operator does.
//!
//! A port follows such a device. Whom an entry is about does not matter, all addresses or one station's: the remote ends
//! of the port are all that there are. The device itself need not carry a packet: programs take them first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use router_common::tunnel::MAX_REMOTES;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

use crate::model::trunk::{Vni, is_vtep};

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

/// The remote ends of a network that follows the device of this name, in order; and what is wrong with them.
pub fn remotes(
    vni: &Vni,
    name: &str,
    device: Option<&LinkMessage>,
    entries: &BTreeMap<u32, Vec<Entry>>,
) -> (Vec<Ipv4Addr>, Option<String>) {
    const ROOM: usize = MAX_REMOTES as usize;
    let Some(device) = device else {
        return (Vec::new(), Some(format!("there is no {name} whose forwarding database it could follow")));
    };
    if let Some(problem) = unlike(vni, name, device) {
        return (Vec::new(), Some(problem));
    }
    let entries = entries.get(&device.header.index).into_iter().flatten();
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
fn unlike(vni: &Vni, name: &str, device: &LinkMessage) -> Option<String> {
    let Some(settings) = vxlan(device) else { return Some(format!("{name} is no VXLAN device")) };
    settings.iter().find_map(|setting| match setting {
        // That of a device for many networks is 0.
        InfoVxlan::Id(id) if *id != vni.id => Some(format!("{name} is VNI {id}, not {}", vni.id)),
        InfoVxlan::Local(local) if *local != vni.local => {
            Some(format!("{name} is at {local}, not at {}", vni.local))
        }
        _ => None,
    })
}

fn vxlan(device: &LinkMessage) -> Option<&[InfoVxlan]> {
    let infos = device.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(settings)) => Some(settings.as_slice()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::InfoKind;

    use super::*;
    use crate::model::trunk::Remotes;

    const DEVICE: u32 = 7;

    fn vni() -> Vni {
        let remotes = Remotes::Fdb("vx100".to_owned());
        Vni { id: 100, local: Ipv4Addr::new(192, 0, 2, 1), remotes, udp_port: 4789 }
    }

    fn device(settings: &[InfoVxlan]) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = DEVICE;
        let data = LinkInfo::Data(InfoData::Vxlan(settings.to_vec()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), data]));
        message
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
        let device = device(&[InfoVxlan::Id(100), InfoVxlan::Local(Ipv4Addr::new(192, 0, 2, 1))]);
        let expected = vec![Ipv4Addr::new(192, 0, 2, 11), Ipv4Addr::new(192, 0, 2, 12)];
        assert_eq!(remotes(&vni(), "vx100", Some(&device), &all), (expected, None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let some = entries(&[message(&[192, 0, 2, 12], &[])]);
        let said = |device: Option<&LinkMessage>, entries| {
            let (remotes, problem) = remotes(&vni(), "vx100", device, entries);
            assert_eq!(remotes, Vec::<Ipv4Addr>::new());
            problem.unwrap()
        };
        assert_eq!(said(None, &some), "there is no vx100 whose forwarding database it could follow");
        assert_eq!(said(Some(&LinkMessage::default()), &some), "vx100 is no VXLAN device");
        assert_eq!(said(Some(&device(&[InfoVxlan::Id(200)])), &some), "vx100 is VNI 200, not 100");
        let elsewhere = [InfoVxlan::Id(100), InfoVxlan::Local(Ipv4Addr::new(192, 0, 2, 2))];
        assert_eq!(said(Some(&device(&elsewhere)), &some), "vx100 is at 192.0.2.2, not at 192.0.2.1");
        let device = device(&[InfoVxlan::Id(100)]);
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
