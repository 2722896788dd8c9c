//! XVR as a subject: its programs on a router's two ports, its tables filled directly, no daemon.

use anyhow::Result;
use router_common::account::COUNTER_SLOTS;
use router_common::net::Ipv4;
use router_common::port::{Port, Role};
use router_tests::kernel::end_flows;
use router_userspace::compile::Attachment;
use router_userspace::compile::attach::Front;
use router_userspace::compile::policy::ListEntry;
use router_userspace::dataplane::{Dataplane, MAX_BINDINGS, Options, mount_bpffs};

use crate::lab::{Lab, Router, inside, pin_dir};

/// Room for flow entries: those of a window twice over.
const MAX_FLOWS: u32 = 1 << 18;

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
        mount_bpffs()?;
        let router = lab.router()?;
        let options = Options {
            pin_dir: pin_dir(),
            max_flows: MAX_FLOWS,
            max_bindings: MAX_BINDINGS,
            max_ports: COUNTER_SLOTS,
        };
        let mut dataplane = Dataplane::open(&options)?;
        for (side, ifindex) in (0..).zip(router.ifindexes) {
            dataplane.tables().set_port(ifindex, &port(&router, side))?;
        }
        let attachment =
            Attachment { front: Front::NativeXdp, reason: "it is measured".to_owned(), may_fall_back: false };
        inside(&router.namespace, || -> Result<()> {
            for ifindex in router.ifindexes {
                dataplane.attach(ifindex, &attachment)?;
            }
            Ok(())
        })??;
        Ok(Self { router, dataplane })
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
        let port = Port { from_list: number, ..port(&self.router, 0) };
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
        // The folder above it, if the pins are in one of the tables' version.
        std::fs::remove_dir_all(pin_dir()).ok();
    }
}

fn port(router: &Router, side: usize) -> Port {
    let address: std::net::Ipv4Addr = if side == 0 { [10, 99, 0, 1] } else { [223, 255, 0, 1] }.into();
    Port {
        slot: side as u32 + 1,
        mtu: 1500,
        source_nat: Ipv4::UNSPECIFIED,
        address: address.into(),
        from_list: 0,
        to_list: 0,
        outside_list: 0,
        own_list: 0,
        router: 0,
        role: Role::Guest as u8,
        flags: Port::XDP_TARGET,
        mac: router.macs[side],
        pad: [0; 2],
    }
}
