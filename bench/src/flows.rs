//! The suite `flows`: what it costs to open flows and to end them, and how many are held in how much memory.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use router_common::port::Role;
use router_userspace::compile::attach::Front;
use serde_json::json;

use crate::chains;
use crate::lab::Lab;
use crate::linux::{Program, RoomForFlows};
use crate::memory;
use crate::nat::{FORWARDS, destinations};
use crate::paths::{self, Packets, Subject, Traffic};
use crate::report::{Report, Series, Time};
use crate::scale::Scale;
use crate::stats::{Ratio, short, thousands};

/// What the daemon has at most, if nobody says otherwise: room for the flows of all but `capacity`.
const MAX_FLOWS: u32 = 1 << 20;

/// Runs the suite.
///
/// # Errors
/// Something cannot be set up or sent.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let _room = RoomForFlows::of(scale.of(0, 5 << 20, 5 << 20))?;
    let mut lab = Lab::new()?;
    let (mut hop, mut redirect) = (Subject::hop(), Subject::redirect(&mut lab)?);
    let mut xvr = vec![];
    for front in [Front::NativeXdp, Front::Nothing] {
        xvr.push(Subject::xvr(&mut lab, front, Role::Public, MAX_FLOWS)?);
    }
    let rules = chains::source_nat();
    let mut linux = vec![];
    for (name, program) in [("iptables-legacy", Program::Legacy), ("iptables-nft", Program::IptablesNft)] {
        linux.push(Subject::linux(&mut lab, name, Some((program, &rules)))?);
    }

    let bits = scale.of(9, 15, 15);
    let title = "flows: source NAT, each packet the first of a new socket";
    let about = json!({ "suite": "flows", "what": "source NAT, new" });
    let traffic = Traffic::of(paths::sockets(bits), Packets::First);
    let mut all: Vec<_> = [&mut hop, &mut redirect].into_iter().chain(&mut xvr).chain(&mut linux).collect();
    paths::measure(report, &mut lab, scale, (title, about), traffic, &mut all)?;

    for forwards in FORWARDS.into_iter().take(scale.of(1, 3, 3)) {
        let mut references = destinations(&mut lab, forwards)?;
        for xvr in &mut xvr {
            xvr.forward(chains::forwards(forwards))?;
        }
        let title = format!(
            "flows: {} port forwardings, each packet the first of a flow",
            thousands(forwards.into())
        );
        let about = json!({ "suite": "flows", "what": "port forwarding, new", "forwardings": forwards });
        let traffic = Traffic::of(paths::inbound(bits, forwards), Packets::First);
        let mut all: Vec<_> =
            [&mut hop, &mut redirect].into_iter().chain(&mut xvr).chain(&mut references).collect();
        paths::measure(report, &mut lab, scale, (&title, about), traffic, &mut all)?;
    }

    teardown(scale, report, &mut lab, [&mut xvr[0], &mut linux[0]])?;
    capacity(scale, report, &mut lab)
}

/// How long it takes to end flows: of XVR a look at all of them, as the daemon does it, of Linux what `conntrack -F`
/// does.
fn teardown(scale: Scale, report: &mut Report, lab: &mut Lab, mut subjects: [&mut Subject; 2]) -> Result<()> {
    let flows = paths::outbound(scale.of(10, 15, 18));
    let mut series = [(); 2].map(|()| Series::default());
    for _ in 0..scale.of(1, 3, 7) {
        for (subject, series) in subjects.iter_mut().zip(&mut series) {
            report.progress(&format!("flows: teardown, {}", subject.name));
            let (_, opened) = subject.open(lab, flows)?;
            let begin = Instant::now();
            subject.forget_flows()?;
            series.push(begin.elapsed().as_secs_f64() * 1e9 / opened as f64);
        }
    }
    let number = thousands(1 << flows.bits);
    report.say(format!(
        "\nflows: teardown of {number} flows, each\n  {:24} {:>9}  {:>24}",
        "", "time", "/ xvr"
    ));
    let [xvr, _] = &series;
    for (subject, series) in subjects.iter().zip(&series) {
        let about = json!({ "suite": "flows", "what": "teardown", "subject": subject.name });
        let ratios = series.ratios(xvr);
        let noisy = report.add_beside(about, "ns", series, &[(subjects[0].name.as_str(), xvr)]);
        let (time, ratio) = (Time(series.median()).to_string(), Ratio(&ratios).to_string());
        report.say(format!("  {:24} {time:>9}  {ratio:>24}  {noisy}", subject.name));
    }
    Ok(())
}

/// How many sessions are held at once, and what memory each takes.
fn capacity(scale: Scale, report: &mut Report, lab: &mut Lab) -> Result<()> {
    let bits = scale.of(11, 18, 22);
    let flows = paths::outbound(bits);
    report.say(format!(
        "\nflows: {} sessions asked for\n  {:24} {:>12} {:>16} {:>16}",
        thousands(1 << bits),
        "",
        "held",
        "memory",
        "daemon's look"
    ));
    // Two entries each, and as many buckets as entries.
    let mut xvr = Subject::xvr(lab, Front::NativeXdp, Role::Public, 1 << (bits + 1))?;
    report.progress("flows: sessions of xvr");
    let (answered, opened) = xvr.open(lab, flows)?;
    let held = answered as f64;
    let table = xvr.as_xvr().and_then(|xvr| memory::of_map(&xvr.pins().join("FLOWS4")));
    let each = table.context("the kernel does not say what FLOWS4 takes")? as f64 / held;
    let look = match xvr.as_xvr() {
        Some(xvr) => memory::peak_while(|| xvr.look())?.1 as f64 / held,
        None => 0.0,
    };
    for (what, unit, value) in [
        ("sessions held", "sessions", held),
        ("memory of a session", "bytes", each),
        ("memory of a session, daemon while it looks at all", "bytes", look),
    ] {
        let about = json!({ "suite": "flows", "what": what, "subject": xvr.name });
        report.add(about, unit, &vec![value].into());
    }
    let line = |name: &str, held: f64, each: f64, look: &str| {
        format!("  {name:24} {:>12} {:>16} {look:>16}", thousands(held as i64), short(each))
    };
    let lost = if answered < opened { format!("  {} refused", opened - answered) } else { String::new() };
    report.say(line(&xvr.name, held, each, &short(look)) + &lost);

    let rules = chains::source_nat();
    let linux = Subject::linux(lab, "iptables-legacy", Some((Program::Legacy, &rules)))?;
    report.progress("flows: sessions of linux");
    // What has ended before is given back a little later, and would be taken for savings.
    sleep(Duration::from_millis(scale.of(0, 2_000, 5_000)));
    let before = memory::slabs()?;
    linux.open(lab, flows)?;
    let held = linux.as_linux().map_or(Ok(0), crate::linux::Linux::flows)? as f64;
    let each = (memory::slabs()? as f64 - before as f64) / held;
    for (what, unit, value) in [("sessions held", "sessions", held), ("memory of a session", "bytes", each)] {
        let about = json!({ "suite": "flows", "what": what, "subject": linux.name });
        report.add(about, unit, &vec![value].into());
    }
    report.say(line(&linux.name, held, each, "-"));
    report.say(
        "  memory: bytes of each: of XVR the full table's, which has them from the start; of Linux what all of the kernel's\n  \
         objects have grown by; daemon's look: what the daemon takes while it reads all flows, and gives back",
    );
    Ok(())
}
