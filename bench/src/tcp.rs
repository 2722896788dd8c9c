//! The suite `tcp`: connections between kernels, with the offloads that a veth has by default, through a router whose hooks
//! were chosen by itself (`--attach auto`), beside Linux' own source NAT in a lab like that.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use router_tests::clients::{self, Direction};
use router_tests::lab::{Host, Lab};
use router_tests::router::{Router, VPC_COMMANDS, start_linux_router};
use serde_json::json;

use crate::generator::softirq_time;
use crate::pingpong::{self, Protocol};
use crate::report::{Report, Series};
use crate::scale::Scale;
use crate::stats::{Ratio, short};

/// Who carries it.
const SUBJECTS: [&str; 2] = ["xvr, auto", "linux, source NAT"];

/// What is measured: a connection by direction, and its unit of data.
const ROWS: [(&str, &str); 5] = [
    ("upload", "Gbit/s"),
    ("upload, CPU", "s/GB"),
    ("download", "Gbit/s"),
    ("download, CPU", "s/GB"),
    ("request and response", "exchanges/s"),
];

/// Two labs that differ in their router alone.
pub struct Labs {
    labs: [Lab; 2],
}

impl Labs {
    /// Makes them; Linux is started at once.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn new() -> Result<Self> {
        let labs = Self { labs: [Lab::vpc()?, Lab::vpc()?] };
        start_linux_router(&labs.labs[1])?;
        Ok(labs)
    }

    /// Starts XVR in the first one.
    ///
    /// # Errors
    /// There is no `xvr` beside this program, or it refuses something.
    pub fn start(&self, attach: &str) -> Result<Router<'_>> {
        let router = Router::start(&self.labs[0], attach)?;
        router.apply(&VPC_COMMANDS)?;
        Ok(router)
    }

    /// A guest and a server far outside, by whom they are connected.
    pub fn ends(&self) -> [(&Host, &Host); 2] {
        [0, 1].map(|which: usize| (self.labs[which].host("web1"), self.labs[which].host("far")))
    }
}

/// Runs the suite.
///
/// # Errors
/// Something cannot be started, or a checksum was wrong.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let labs = Labs::new()?;
    let _router = labs.start("auto")?;
    let (rounds, seconds) = (scale.of(1, 3, 9), scale.of(1, 1, 5));
    let exchanges = scale.of(100, 3_000, 30_000);
    let mut series = SUBJECTS.map(|_| ROWS.map(|_| Series::default()));
    for round in 1..=rounds {
        for ((subject, (guest, far)), series) in SUBJECTS.iter().zip(labs.ends()).zip(&mut series) {
            report.progress(&format!("tcp: {subject}, round {round} of {rounds}"));
            let address = IpAddr::V4(far.v4);
            let mut values = vec![];
            for direction in [Direction::Upload, Direction::Download] {
                let before = softirq_time(None)?;
                let sent = clients::iperf(guest, far, address, direction, seconds)?;
                let cpu = sent.cpu_seconds + (softirq_time(None)? - before) as f64 / 1e9;
                values.extend([sent.bits_per_second / 1e9, cpu / (sent.bytes / 1e9)]);
            }
            let times = pingpong::times(guest, far, Protocol::Tcp, exchanges)?;
            values.push(1e9 / (times.values().iter().sum::<f64>() / times.values().len() as f64));
            series.iter_mut().zip(values).for_each(|(series, value)| series.push(value));
        }
    }
    report.say(format!(
        "\ntcp: one connection between kernels, default offloads\n  {:24} {:20} {:>20} {:>9}..{:<9} {:>22}",
        "", "", "median", "min", "max", "/ linux"
    ));
    for (row, (what, unit)) in ROWS.into_iter().enumerate() {
        let linux = &series[1][row];
        for (place, subject) in SUBJECTS.into_iter().enumerate() {
            let series = &series[place][row];
            let beside = [(SUBJECTS[1], linux)];
            let beside = if place == 1 { &[][..] } else { &beside[..] };
            let about = json!({ "suite": "tcp", "what": what, "subject": subject });
            let noisy = report.add_beside(about, unit, series, beside);
            let ratio = if place == 1 { Series::default() } else { series.ratios(linux) };
            let median = format!("{} {unit}", short(series.median()));
            report.say(format!(
                "  {what:24} {subject:20} {median:>20} {:>9}..{:<9} {:>22}  {noisy}",
                short(series.least()),
                short(series.most()),
                Ratio(&ratio).to_string()
            ));
        }
    }
    for (lab, subject) in labs.labs.iter().zip(SUBJECTS) {
        let errors = clients::checksum_errors(lab)?;
        ensure!(errors.is_empty(), "{subject}: checksums were wrong: {errors:?}");
    }
    report.say("  checksum errors at any end: none");
    report.say(
        "  CPU: of both ends as iperf3 counts it, with what their packets cost on their way, and of ksoftirqd",
    );
    Ok(())
}
