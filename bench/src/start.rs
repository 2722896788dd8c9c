//! The suite `start`: how long the daemon takes to start, how long a boot line takes to be in force, and what a restart
//! costs those whose packets are on their way.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use router_tests::clients;
use router_tests::lab::Lab;
use router_tests::router::{ISOLATED_COMMANDS, Router, fixture};
use serde_json::json;

use crate::control;
use crate::report::{Report, Series, Time};
use crate::scale::Scale;

/// Port forwardings that a router has, which is started again with them.
const FORWARDINGS: usize = 1_000;
/// How often a guest pings meanwhile.
const EVERY: Duration = Duration::from_millis(10);

/// What is measured, in order.
const WHATS: [&str; 4] = [
    "a new router: to ready",
    "the boot line: to in force",
    "cold, with 1,000 port forwardings: to ready",
    "again, while it forwards: to ready",
];

/// Runs the suite.
///
/// # Errors
/// There is no `xvr` beside this program, or it does not start.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let mut series = WHATS.map(|_| Series::default());
    let mut lost = Series::default();
    let rounds = scale.of(1, 2, 9);
    for round in 1..=rounds {
        report.progress(&format!("start: round {round} of {rounds}"));
        let lab = Lab::isolated()?;
        let mut router = Router::install(&lab, "auto")?;
        let new = until_ready(&mut router)?;
        let content = fs::read(fixture(ISOLATED_COMMANDS[0]))?;
        let (boot, _) = control::apply_as(&router, "cmd_line", &content)?;
        router.apply(&ISOLATED_COMMANDS[1..])?;
        control::apply(&router, &control::forwardings(FORWARDINGS, false))?;
        let cold = match scale {
            // It takes long, and is what the first start was.
            Scale::Smoke => new,
            _ => {
                router.make_cold()?;
                until_ready(&mut router)?
            }
        };
        let pings = clients::start_ping(lab.host("vm1"), lab.host("far").v4.into(), EVERY)?;
        std::thread::sleep(Duration::from_secs(1));
        router.kill_daemon();
        let warm = until_ready(&mut router)?;
        std::thread::sleep(Duration::from_millis(500));
        // One may be on its way.
        let ping = pings.stop()?;
        lost.push(f64::from(ping.lost().saturating_sub(1)));
        series.iter_mut().zip([new, boot, cold, warm]).for_each(|(series, time)| {
            series.push(time.as_secs_f64() * 1e9);
        });
    }
    report.say(format!("\nstart\n  {:46} {:>9} {:>9}..{:<9}", "", "time", "min", "max"));
    for (what, series) in WHATS.into_iter().zip(&series) {
        let noisy = report.add(json!({ "suite": "start", "what": what, "subject": "xvr" }), "ns", series);
        let [median, least, most] =
            [series.median(), series.least(), series.most()].map(|time| Time(time).to_string());
        report.say(format!("  {what:46} {median:>9} {least:>9}..{most:<9}  {noisy}"));
    }
    let what = "again, while it forwards: packets lost";
    report.add(json!({ "suite": "start", "what": what, "subject": "xvr" }), "packets", &lost);
    report.say(format!("  {what:46} {:>9} {:>9}..{:<9}", lost.median(), lost.least(), lost.most()));
    Ok(())
}

/// Starts the daemon; how long until it takes commands.
fn until_ready(router: &mut Router<'_>) -> Result<Duration> {
    let begin = Instant::now();
    router.start_daemon().context("start the daemon")?;
    Ok(begin.elapsed())
}
