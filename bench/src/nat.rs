//! The suite `nat`: what a packet of a known flow costs that is translated, by how many flows there are, and by how many
//! port forwardings.

use anyhow::Result;
use router_common::port::Role;
use router_userspace::compile::attach::Front;
use serde_json::json;

use crate::chains;
use crate::lab::Lab;
use crate::linux::{Program, RoomForFlows};
use crate::paths::{self, Packets, Subject, Traffic};
use crate::report::Report;
use crate::scale::Scale;
use crate::stats::thousands;

/// How many flows of source NAT, as powers of two, and whether everybody is measured with them even when it has to be
/// quick.
const FLOWS: [(u32, bool); 4] = [(0, false), (10, true), (17, false), (20, false)];
/// How many port forwardings.
pub const FORWARDS: [u32; 3] = [10, 1_000, 10_000];
/// Room for entries as the daemon has it, unless it is told otherwise; a flow has two.
const USUAL_ROOM: u32 = 1 << 20;
/// Room for those of the largest number of flows, twice over.
const MAX_FLOWS: u32 = 1 << 22;
/// Port forwardings that are there while guests' flows are measured.
const USUAL: u32 = 10;

/// Runs the suite.
///
/// # Errors
/// Something cannot be set up or sent.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let _room = RoomForFlows::of(scale.of(0, 4 << 20, 4 << 20))?;
    let usual = scale.of(1 << 14, USUAL_ROOM, USUAL_ROOM);
    let mut lab = Lab::new()?;
    let (mut hop, mut redirect) = (Subject::hop(), Subject::redirect(&mut lab)?);
    let mut xvr = both(&mut lab, usual)?;
    let mut references = sources(&mut lab, report)?;
    for (bits, is_thorough) in FLOWS.into_iter().take(scale.of(2, 4, 4)) {
        let flows = 1_u32 << bits;
        let title = format!("nat: source NAT, {} known flows", thousands(flows.into()));
        let about = json!({ "suite": "nat", "what": "source NAT", "flows": flows });
        let traffic = Traffic::of(paths::outbound(bits), Packets::Known);
        let is_thorough = is_thorough || scale == Scale::Full;
        if flows > USUAL_ROOM / 2 {
            xvr = both(&mut lab, MAX_FLOWS)?;
        }
        let mut all = vec![&mut hop, &mut redirect];
        all.extend(xvr.iter_mut().take(if is_thorough { 2 } else { 1 }));
        all.extend(references.iter_mut().take(if is_thorough { usize::MAX } else { 1 }));
        paths::measure(report, &mut lab, scale, (&title, about), traffic, &mut all)?;
    }
    // With what there is of flows.
    drop((references, xvr));
    let mut xvr = both(&mut lab, usual)?;
    for forwards in FORWARDS.into_iter().take(scale.of(1, 3, 3)) {
        let mut references = destinations(&mut lab, forwards)?;
        for xvr in &mut xvr {
            xvr.forward(chains::forwards(forwards))?;
        }
        let bits = scale.of(6, 10, 13);
        let flows = 1_u32 << bits;
        let number = thousands(forwards.into());
        let title =
            format!("nat: {number} port forwardings, {} known flows from outside", thousands(flows.into()));
        let about = json!({ "suite": "nat", "what": "port forwarding", "forwardings": forwards });
        let traffic = Traffic::of(paths::inbound(bits, forwards), Packets::Known);
        let mut all: Vec<_> = [&mut hop, &mut redirect].into_iter().chain(&mut xvr).collect();
        all.extend(&mut references);
        paths::measure(report, &mut lab, scale, (&title, about), traffic, &mut all)?;
    }
    Ok(())
}

/// XVR at both hooks.
fn both(lab: &mut Lab, max_flows: u32) -> Result<Vec<Subject>> {
    let mut subjects = vec![];
    for front in [Front::NativeXdp, Front::Nothing] {
        let mut subject = Subject::xvr(lab, front, Role::Public, max_flows)?;
        subject.forward(chains::forwards(USUAL))?;
        subjects.push(subject);
    }
    Ok(subjects)
}

/// Who else gives guests one address. The first is measured with any number of flows.
fn sources(lab: &mut Lab, report: &mut Report) -> Result<Vec<Subject>> {
    let alone = chains::source_nat();
    let forwards = chains::forwards(USUAL);
    let (cloudstack, maps) = (chains::cloudstack(&forwards), chains::maps(&forwards));
    let mut subjects = vec![];
    for (name, program, text) in [
        ("iptables-legacy", Program::Legacy, &alone),
        ("iptables-nft", Program::IptablesNft, &alone),
        ("cloudstack, legacy", Program::Legacy, &cloudstack),
        ("cloudstack, nft", Program::IptablesNft, &cloudstack),
        ("nft maps", Program::Nft, &maps),
    ] {
        subjects.push(Subject::linux(lab, name, Some((program, text)))?);
    }
    match Subject::linux(lab, "nft flowtable", Some((Program::Nft, &chains::flowtable()))) {
        Ok(subject) => subjects.push(subject),
        Err(_) => report.say("nft flowtable: this kernel has none"),
    }
    Ok(subjects)
}

/// Who else forwards ports.
///
/// # Errors
/// Linux refuses something.
pub fn destinations(lab: &mut Lab, forwards: u32) -> Result<Vec<Subject>> {
    let forwards = chains::forwards(forwards);
    let (cloudstack, maps) = (chains::cloudstack(&forwards), chains::maps(&forwards));
    [
        ("cloudstack, legacy", Program::Legacy, &cloudstack),
        ("cloudstack, nft", Program::IptablesNft, &cloudstack),
        ("nft maps", Program::Nft, &maps),
    ]
    .into_iter()
    .map(|(name, program, text)| Subject::linux(lab, name, Some((program, text))))
    .collect()
}
