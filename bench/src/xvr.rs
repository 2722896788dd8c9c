//! XVR as a subject: its programs on a router's two ports, its tables filled directly, no daemon.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use router_common::account::COUNTER_SLOTS;
use router_common::net::{Be16, Ipv4};
use router_common::port::{Port, Role};
use router_tests::kernel::end_flows;
use router_userspace::compile::attach::Front;
use router_userspace::compile::policy::ListEntry;
use router_userspace::compile::{Attachment, TableSet, nat};
use router_userspace::dataplane::{Dataplane, MAX_BINDINGS, Options, Timeouts, mount_bpffs};
use router_userspace::model::nat::{Nat, PortForward};

use crate::lab::{GATEWAY, Lab, PUBLIC, Router, inside, pin_dir};
use crate::wire::Wire;

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
        mount_bpffs()?;
        let router = lab.router()?;
        let options =
            Options { pin_dir: pin_dir(), max_flows, max_bindings: MAX_BINDINGS, max_ports: COUNTER_SLOTS };
        let mut dataplane = Dataplane::open(&options)?;
        let tables = dataplane.tables();
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
