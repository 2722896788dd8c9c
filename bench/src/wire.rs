//! How a port's frames are on the wire: as they are, with tags, or in VXLAN packets.
//!
//! Here a port's interface is its own trunk or underlay: there is no daemon that would make another one.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use router_common::net::Be16;
use router_common::port::{Carrier, Port};
use router_common::tunnel::Tunnel;
use router_tests::packet::{Frame, Payload};
use router_userspace::compile::Vxlan;
use router_userspace::dataplane::Tables;

/// How a port's frames are on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// As they are.
    #[default]
    Plain,
    /// With a tag of this VLAN.
    Vlan(u16),
    /// Each with the tag of a VLAN that its source is in, of so many from VLAN 1 on.
    Vlans(u16),
    /// With two, the provider's one outside.
    Pair(u16, u16),
    /// In packets of this VXLAN network.
    Vni(u32),
}

/// The router's end of a VXLAN network on each side, and the other.
const LOCAL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(223, 255, 0, 1)];
const REMOTE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(223, 255, 0, 2)];
const UDP_PORT: u16 = 4789;
/// A customer's tag.
pub const CUSTOMER: u16 = 0x8100;
const PROVIDER: u16 = 0x88a8;

impl Wire {
    /// By how many bytes frames are longer.
    pub const fn front(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Vlan(_) | Self::Vlans(_) => 4,
            Self::Pair(..) => 8,
            Self::Vni(_) => 50,
        }
    }

    /// Over how many VLANs they are spread; 0 for none.
    pub const fn vlans(self) -> u16 {
        match self {
            Self::Vlans(count) => count,
            _ => 0,
        }
    }

    /// A frame as it comes to a router on a side; of several VLANs that of the first.
    pub fn around(self, frame: &[u8], side: usize) -> Vec<u8> {
        let (macs, rest) = frame.split_at(12);
        let tag = |protocol: u16, id: u16| [protocol.to_be_bytes(), id.to_be_bytes()].concat();
        match self {
            Self::Plain => frame.to_vec(),
            Self::Vlan(id) => [macs, &tag(CUSTOMER, id), rest].concat(),
            Self::Vlans(_) => [macs, &tag(CUSTOMER, 1), rest].concat(),
            Self::Pair(outer, inner) => [macs, &tag(PROVIDER, outer), &tag(CUSTOMER, inner), rest].concat(),
            Self::Vni(vni) => {
                let mut data = vec![8, 0, 0, 0];
                data.extend((vni << 8).to_be_bytes());
                data.extend(frame);
                let mac = |at: usize| std::array::from_fn(|index| macs[at + index]);
                let (from, to) = (REMOTE[side].to_string(), LOCAL[side].to_string());
                let payload = Payload::Udp { src: 50_000, dst: UDP_PORT };
                Frame { data, ..Frame::new((mac(0), mac(6)), &from, &to, payload) }.bytes()
            }
        }
    }

    /// Tells XVR that the frames of a port on a side are so.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn set(self, tables: &mut Tables, ifindex: u32, side: usize) -> Result<()> {
        tables.remove_tags(ifindex)?;
        tables.remove_tunnel(ifindex)?;
        let carrier = |outer_protocol, outer, inner_protocol, inner| {
            let priority = Carrier::KEEP_PRIORITY;
            Carrier { trunk: ifindex, outer_protocol, outer, inner_protocol, inner, priority }
        };
        let carrier = match self {
            // Several VLANs are other ports, see `Xvr::tiers`.
            Self::Plain | Self::Vlans(_) => return Ok(()),
            Self::Vlan(id) => carrier(CUSTOMER, id, 0, 0),
            Self::Pair(outer, inner) => carrier(PROVIDER, outer, CUSTOMER, inner),
            Self::Vni(vni) => {
                let (local, udp_port) = (LOCAL[side].into(), Be16::new(UDP_PORT));
                let tunnel = Tunnel { underlay: ifindex, local, vni, remotes: 1, udp_port, pad: [0; 2] };
                tables.set_tunnel(ifindex, &Vxlan { tunnel, remotes: vec![REMOTE[side]] })?;
                Carrier::tunnel(ifindex)
            }
        };
        tables.set_tags(ifindex, &carrier)?;
        let ports = tables.observe()?.ports;
        let port = *ports.get(&ifindex).context("a port")?;
        let vxlan = if carrier.is_tunnel() { Be16::new(UDP_PORT) } else { Be16::default() };
        tables.set_port(ifindex, &Port { flags: port.flags | Port::TAGGED, vxlan, ..port })
    }
}
