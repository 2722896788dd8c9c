//! The suite `vlan`: what tags and VXLAN cost, beside frames that are as they are.
//!
//! The generator writes what is in front of a frame as well: some five nanoseconds of what is in VXLAN packets.

use anyhow::Result;
use router_common::port::Role;
use router_userspace::compile::attach::Front;
use serde_json::json;

use crate::lab::Lab;
use crate::paths::{self, Packets, Subject, Traffic};
use crate::report::Report;
use crate::scale::Scale;
use crate::wire::Wire;
use crate::xvr::MAX_FLOWS;

/// As a power of two.
const FLOWS: u32 = 10;

const VLANS: [Wire; 2] = [Wire::Vlan(100), Wire::Vlan(200)];
const PAIRS: [Wire; 2] = [Wire::Pair(100, 1), Wire::Pair(200, 2)];
const VNIS: [Wire; 2] = [Wire::Vni(4096), Wire::Vni(4097)];

/// By which hook, what it is called, and how frames are on both sides.
const CASES: [(Front, &str, [Wire; 2]); 11] = [
    (Front::NativeXdp, "VLAN in", [VLANS[0], Wire::Plain]),
    (Front::NativeXdp, "VLAN out", [Wire::Plain, VLANS[1]]),
    (Front::NativeXdp, "VLAN to VLAN", VLANS),
    (Front::NativeXdp, "QinQ to QinQ", PAIRS),
    (Front::NativeXdp, "VNI in", [VNIS[0], Wire::Plain]),
    (Front::NativeXdp, "VNI out", [Wire::Plain, VNIS[1]]),
    (Front::NativeXdp, "VNI to VNI", VNIS),
    (Front::NativeXdp, "VNI to VLAN", [VNIS[0], VLANS[1]]),
    (Front::Nothing, "tc, VLAN to VLAN", VLANS),
    (Front::Nothing, "tc, QinQ to QinQ", PAIRS),
    (Front::Nothing, "tc, VNI to VNI", VNIS),
];

/// Runs the suite.
///
/// # Errors
/// Something cannot be set up or sent.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let mut lab = Lab::new()?;
    let mut subjects = vec![Subject::hop()];
    for front in [Front::NativeXdp, Front::Nothing] {
        subjects.push(Subject::xvr(&mut lab, front, Role::Guest, MAX_FLOWS)?);
    }
    for (front, name, wires) in CASES {
        subjects.push(Subject::wired(&mut lab, front, name, wires)?);
    }
    let title = format!("vlan: from tier to tier, by how frames are on the wire, {} flows", 1 << FLOWS);
    let about = json!({ "suite": "vlan" });
    let traffic = Traffic::of(paths::outbound(FLOWS), Packets::Known);
    let mut all: Vec<_> = subjects.iter_mut().collect();
    paths::measure(report, &mut lab, scale, (&title, about), traffic, &mut all)
}
