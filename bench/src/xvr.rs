//! XVR as a subject: its programs on a router's two ports, its tables filled directly, no daemon.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::Array;
use router_common::account::COUNTER_SLOTS;
use router_common::net::{Be16, Ipv4};
use router_common::policy::Ruling;
use router_common::port::{Carrier, Port, Role};
use router_tests::kernel::end_flows;
use router_userspace::compile::attach::Front;
use router_userspace::compile::policy::ListEntry;
use router_userspace::compile::{Attachment, TableSet, nat};
use router_userspace::dataplane::{Dataplane, MAX_BINDINGS, Options, Room, Timeouts, mount_bpffs};
use router_userspace::model::nat::{Nat, PortForward};
use router_userspace::reconcile::links;

use crate::lab::{GATEWAY, Lab, PUBLIC, Router, inside, pin_dir};
use crate::wire::{CUSTOMER, Wire};

/// Room for flow entries: those of a window twice over.
pub const MAX_FLOWS: u32 = 1 << 18;

/// The programs between generator and sink.
pub struct Xvr {
    /// Where.
    pub router: Router,
    dataplane: Dataplane,
}

impl Xvr {
    /// Loads and attaches the programs: two tiers, and no list.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(lab: &mut Lab) -> Result<Self> {
        Self::with(lab, Role::Guest, Front::NativeXdp, MAX_FLOWS)
    }

    /// The same with a public side behind which guests are one address, `front` of TC, and room for so many flow
    /// entries.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn with(lab: &mut Lab, outside: Role, front: Front, max_flows: u32) -> Result<Self> {
        Self::with_room(lab, outside, front, max_flows, COUNTER_SLOTS)
    }

    fn with_room(lab: &mut Lab, outside: Role, front: Front, max_flows: u32, max_ports: u32) -> Result<Self> {
        mount_bpffs()?;
        let router = lab.router()?;
        let room = Room { flows: max_flows, bindings: MAX_BINDINGS };
        let options = Options { pin_dir: pin_dir(), room, max_ports };
        let mut dataplane = Dataplane::open(&options)?;
        let tables = dataplane.tables();
        // As the daemon does again and again.
        tables.attend(Duration::from_secs(86_400))?;
        for (role, (side, ifindex)) in [Role::Guest, outside].into_iter().zip((0..).zip(router.ifindexes)) {
            tables.set_port(ifindex, &port(&router, side, role))?;
        }
        if outside == Role::Public {
            for (address, ifindex) in [GATEWAY, PUBLIC].into_iter().zip(router.ifindexes) {
                tables.set_local(IpAddr::V4(address), ifindex)?;
            }
        }
        let attachment = Attachment { front, reason: "it is measured".to_owned(), may_fall_back: false };
        inside(&router.namespace, || -> Result<()> {
            for ifindex in router.ifindexes {
                dataplane.attach(ifindex, &attachment)?;
            }
            Ok(())
        })??;
        if front == Front::Nothing {
            lab.take_xdp_frames(&router)?;
        }
        Ok(Self { router, dataplane })
    }

    /// From many tiers to one: each of the many is a VLAN, from 1 on, on the guests' side. The first `with_guests` of them
    /// have these sources in turn, the others none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tiers(
        lab: &mut Lab,
        front: Front,
        (tiers, with_guests): (u16, u16),
        sources: impl Iterator<Item = Ipv4Addr>,
    ) -> Result<Self> {
        // Row 0 is nobody's, and there are two ports besides.
        let rows = u32::from(tiers) + 3;
        let mut xvr = Self::with_room(lab, Role::Guest, front, MAX_FLOWS, rows)?;
        let router = &xvr.router;
        let mut lines: String =
            (1..=tiers).map(|tier| format!("link add t{tier} type ifb\nlink set t{tier} up\n")).collect();
        for (guest, (source, tier)) in (0..=u16::MAX).zip(sources.zip((1..=with_guests).cycle())) {
            // Each is a station of its own: of however many tiers they are, there are as many next hops.
            let [high, low] = guest.to_be_bytes();
            lines += &format!(
                "route add {source} dev t{tier}\n\
                 neighbour add {source} lladdr 02:be:01:00:{high:02x}:{low:02x} dev t{tier} nud permanent\n"
            );
        }
        router.namespace.ip(&lines)?;
        let links = inside(&router.namespace, links::list)??;
        let tables = xvr.dataplane.tables();
        for link in links {
            let number = link.name.strip_prefix('t').and_then(|number| number.parse::<u16>().ok());
            let Some(number) = number else { continue };
            let of_guests = port(router, 0, Role::Guest);
            let flags = of_guests.flags | Port::TAGGED;
            tables.set_port(link.index, &Port { slot: u32::from(number) + 2, flags, ..of_guests })?;
            let carrier = Carrier {
                trunk: router.ifindexes[0],
                outer_protocol: CUSTOMER,
                outer: number,
                inner_protocol: 0,
                inner: 0,
                priority: Carrier::KEEP_PRIORITY,
            };
            tables.set_tags(link.index, &carrier)?;
        }
        Ok(xvr)
    }

    /// Writes port forwardings of the public address.
    ///
    /// # Errors
    /// A table is full.
    pub fn forward(&mut self, forwards: Vec<PortForward>) -> Result<()> {
        let mut set = TableSet::default();
        set.local4.insert(PUBLIC, self.router.ifindexes[1]);
        nat::tables(&Nat { static_nats: vec![], forwards }, &mut set);
        set.nat.iter().try_for_each(|(key, entry)| self.dataplane.tables().set_nat(key, entry))
    }

    /// Has frames be so on the guests' side and on the other.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn wire(&mut self, wires: [Wire; 2]) -> Result<()> {
        let tables = self.dataplane.tables();
        let sides = (0..).zip(wires).zip(self.router.ifindexes);
        sides.into_iter().try_for_each(|((side, wire), ifindex)| wire.set(tables, ifindex, side))
    }

    /// Looks at all flows, as the daemon does again and again, and ends none.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn look(&mut self) -> Result<()> {
        let never = Duration::from_secs(1 << 30);
        self.dataplane
            .expire(&Timeouts { udp: never, udp_unanswered: never, ..Timeouts::default() })
            .map(drop)
    }

    /// Where its tables are pinned.
    pub fn pins(&self) -> &std::path::Path {
        self.dataplane.pin_dir()
    }

    /// Writes a list.
    ///
    /// # Errors
    /// A table is full.
    pub fn add_list(&mut self, number: u32, entry: &ListEntry) -> Result<()> {
        self.dataplane.tables().add_list(number, entry)
    }

    /// Removes one that nothing is judged by.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn remove_list(&mut self, number: u32) -> Result<()> {
        self.dataplane.tables().remove_list(number)
    }

    /// Has flows judged by a list from now on; 0 for none.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn judge_by(&mut self, number: u32) -> Result<()> {
        let port = Port { from_list: number, ..port(&self.router, 0, Role::Guest) };
        self.dataplane.tables().set_port(self.router.ifindexes[0], &port)
    }

    /// Forgets what lists have said.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn forget_rulings(&mut self) -> Result<()> {
        let map = self.dataplane.ebpf().map_mut("RULINGS").context("RULINGS is there")?;
        let mut rulings: Array<_, Ruling> = Array::try_from(map)?;
        (0..rulings.len()).try_for_each(|place| Ok(rulings.set(place, Ruling::NONE, 0)?))
    }

    /// Forgets every flow.
    ///
    /// # Errors
    /// The tables cannot be written, or flows are left.
    pub fn forget_flows(&mut self) -> Result<()> {
        end_flows(&mut self.dataplane)
    }
}

impl Drop for Xvr {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.dataplane.pin_dir()).ok();
    }
}

/// A port of a router, on the guests' side (0) or the other one, whatever it is for.
pub fn port(router: &Router, side: usize, role: Role) -> Port {
    Port {
        slot: side as u32 + 1,
        mtu: 1500,
        source_nat: if role == Role::Public { PUBLIC.into() } else { Ipv4::UNSPECIFIED },
        address: [GATEWAY, PUBLIC][side].into(),
        from_list: 0,
        to_list: 0,
        outside_list: 0,
        own_list: 0,
        router: 0,
        role: role as u8,
        flags: Port::XDP_TARGET,
        mac: router.macs[side],
        vxlan: Be16::default(),
        bridge: 0,
    }
}
