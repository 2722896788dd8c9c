//! The suite `forward`: what a packet costs that nothing is done to but sending it on.

use anyhow::Result;
use router_common::port::Role;
use router_userspace::compile::attach::Front;
use serde_json::json;

use crate::chains;
use crate::lab::Lab;
use crate::linux::Program;
use crate::paths::{self, Packets, Subject, Traffic};
use crate::report::Report;
use crate::scale::Scale;
use crate::xvr::MAX_FLOWS;

/// As a power of two.
const FLOWS: u32 = 10;
/// Frames without their checksums: of 64, 128, 594 and 1518 bytes on a wire, but for the generator's shortest.
const LENGTHS: [usize; 3] = [80, 590, 1514];

/// Runs the suite.
///
/// # Errors
/// Something cannot be set up or sent.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let mut lab = Lab::new()?;
    let mut subjects = vec![Subject::hop(), Subject::redirect(&mut lab)?];
    for front in [Front::NativeXdp, Front::Nothing] {
        subjects.push(Subject::xvr(&mut lab, front, Role::Guest, MAX_FLOWS)?);
    }
    subjects.push(Subject::linux(&mut lab, "linux", None)?);
    let conntrack = Some((Program::Nft, chains::CONNTRACK));
    subjects.push(Subject::linux(&mut lab, "linux, conntrack", conntrack)?);
    for length in LENGTHS.into_iter().take(scale.of(1, 3, 3)) {
        let title = format!("forward: from tier to tier, frames of {length} bytes, {} flows", 1 << FLOWS);
        let about = json!({ "suite": "forward", "bytes": length });
        let traffic = Traffic { length, ..Traffic::of(paths::outbound(FLOWS), Packets::Known) };
        let mut all: Vec<_> = subjects.iter_mut().collect();
        paths::measure(report, &mut lab, scale, (&title, about), traffic, &mut all)?;
    }
    Ok(())
}
