//! Of the suite `vlan`: many tiers on one trunk. What a packet costs among them, and how long they take to be in force.
//!
//! Packets are of known flows from guests to one that is no VLAN, alone and with the answer to each. The guests are those of
//! two tiers, among two and among all that there are, which tells what tiers cost that are in force; and then they are spread
//! over all, which tells what it costs that each packet is another tier's.
//!
//! In force is one aggregate of CloudStack's, in which each tier has an access list of its own. What is measured is
//! `vr_cfg.sh`, from its start to its end: then every tier has its addresses, its rows in the tables, its lists and
//! those who serve its guests' metadata and passwords. Before it, the start of the daemon, which makes an interface
//! for each port that is declared.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use router_tests::lab::Lab;
use router_tests::netns::{Lifetime, Namespace, unique_prefix, wait_until};
use router_tests::router::{Router, VPC_COMMANDS};
use router_tests::tiers;
use router_userspace::compile::attach::Front;
use serde_json::json;

use crate::lab as bench_lab;
use crate::paths::{self, Packets, Subject, Traffic};
use crate::report::{Report, Series, Time};
use crate::scale::Scale;
use crate::stats::thousands;

/// How many tiers.
const SIZES: [usize; 4] = [2, 256, 1_024, 4_094];
/// Of how many packets are in the least case.
const FEW: u16 = 2;
const TRUNK: &str = "trunk0";
const FAR: &str = "far0";
/// How long the kernel may take to remove a router's interfaces.
const TEARDOWN: Duration = Duration::from_secs(120);

/// What is measured, in order.
const WHATS: [&str; 2] = ["their interfaces: start to ready", "the aggregate: to in force"];

/// Flows that packets are of, as a power of two: as many guests, and no fewer than tiers.
const FLOWS: u32 = 12;

/// Measures both.
///
/// # Errors
/// There is no `xvr` beside this program, or the kernel or it refuses something.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    packets(scale, report)?;
    in_force(scale, report)
}

fn packets(scale: Scale, report: &mut Report) -> Result<()> {
    let mut lab = bench_lab::Lab::new()?;
    let flows = paths::guests(FLOWS);
    let mut subjects = vec![Subject::hop()];
    let most = scale.of(16, 4_094, 4_094);
    for (front, hook) in [(Front::NativeXdp, ""), (Front::Nothing, "tc, ")] {
        for (tiers, with_guests) in [(FEW, FEW), (most, FEW), (most, most)] {
            let of = if tiers == with_guests { String::new() } else { format!("{with_guests} of ") };
            let name = format!("{hook}{of}{} tiers", thousands(tiers.into()));
            subjects.push(Subject::tiers(&mut lab, front, &name, (tiers, with_guests), flows)?);
        }
    }
    for (packets, way) in [(Packets::Known, "from"), (Packets::Answered, "from, and back to,")] {
        let title = format!("vlan: {way} tiers on one trunk, {} flows", thousands(1 << FLOWS));
        let about = json!({ "suite": "vlan", "packets": way });
        let traffic = Traffic::of(flows, packets);
        let mut all: Vec<_> = subjects.iter_mut().collect();
        paths::measure(report, &mut lab, scale, (&title, about), traffic, &mut all)?;
    }
    Ok(())
}

fn in_force(scale: Scale, report: &mut Report) -> Result<()> {
    report.say(format!(
        "\nvlan: tiers on one trunk, each with its access list\n  {:46} {:>9} {:>9}..{:<9}",
        "", "time", "min", "max"
    ));
    for size in SIZES.into_iter().take(scale.of(1, 3, 4)) {
        let rounds = scale.of(1, 3, 5);
        let mut series = WHATS.map(|_| Series::default());
        for round in 1..=rounds {
            report.progress(&format!("vlan: {size} tiers, round {round} of {rounds}"));
            let times = set_up(size)?;
            series.iter_mut().zip(times).for_each(|(series, time)| series.push(time.as_secs_f64() * 1e9));
        }
        report.say(format!("  {} tiers", thousands(size as i64)));
        for (what, series) in WHATS.into_iter().zip(&series) {
            let about = json!({ "suite": "vlan", "what": what, "subject": "xvr", "tiers": size });
            let noisy = report.add(about, "ns", series);
            let [median, least, most] =
                [series.median(), series.least(), series.most()].map(|time| Time(time).to_string());
            report.say(format!("    {what:44} {median:>9} {least:>9}..{most:<9}  {noisy}"));
        }
    }
    Ok(())
}

/// A new router with so many tiers; how long it took to start, and they to be in force.
fn set_up(size: usize) -> Result<[Duration; 2]> {
    let lab = Lab::vpc()?;
    let far = Namespace::new(&unique_prefix(), "far", Lifetime::Scoped)?;
    lab.router.ip(&format!("link add {TRUNK} type veth peer name {FAR} netns {}\n", far.name()))?;
    far.ip(&format!("link set {FAR} up\n"))?;
    let mut router = Router::install(&lab, "auto")?;
    tiers::declare(&router, TRUNK, size)?;
    let begin = Instant::now();
    router.start_daemon().context("start the daemon")?;
    let start = begin.elapsed();
    router.apply(&VPC_COMMANDS[..2])?;
    let applied = tiers::apply(&router, &tiers::aggregate(size))?;
    drop(router);
    drop(lab);
    // For as long as the kernel takes thousands of interfaces away nobody else can change one: the next round would wait.
    wait_until("the router's interfaces are gone", TEARDOWN, || {
        far.run("ip", &["link", "show", FAR]).is_err()
    })?;
    far.ip("link set lo down\n")?;
    Ok([start, applied])
}
