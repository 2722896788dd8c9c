//! The suite `latency`: round trips of a small question and its answer between kernels, on an idle machine and while a
//! connection sends through the same router as fast as it can.
//!
//! Most of a round trip is two wake-ups of processes, which is why an idle machine can be slower than a busy one. What a
//! router adds is told by the suites `forward` and `nat`; here it is seen whether that matters.

use std::net::IpAddr;

use anyhow::Result;
use router_tests::clients::{self, Direction};
use serde_json::json;

use crate::pingpong::{self, Protocol};
use crate::report::{Report, Series, Time};
use crate::scale::Scale;
use crate::tcp::Labs;

/// Who carries it.
const SUBJECTS: [&str; 2] = ["xvr, auto", "linux, source NAT"];
/// What is told of a round, in parts of all exchanges.
const PARTS: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
/// How long the load lasts at most, which is ended before.
const LONG: u32 = 60;

/// Runs the suite.
///
/// # Errors
/// Something cannot be started, or an answer does not come.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let labs = Labs::new()?;
    let _router = labs.start("auto")?;
    let (rounds, exchanges) = (scale.of(1, 3, 9), scale.of(100, 3_000, 20_000));
    report.say(format!(
        "\nlatency: a round trip, median of {rounds} rounds of {exchanges}\n  {:6} {:4} {:20} {:>10} {:>10} {:>10}",
        "", "", "", "p50", "p99", "p99.9"
    ));
    for is_loaded in [false, true] {
        let when = if is_loaded { "loaded" } else { "idle" };
        for protocol in Protocol::ALL {
            let mut series = SUBJECTS.map(|_| PARTS.map(|_| Series::default()));
            for round in 1..=rounds {
                for ((subject, (guest, far)), series) in SUBJECTS.iter().zip(labs.ends()).zip(&mut series) {
                    let label = protocol.label();
                    report
                        .progress(&format!("latency: {when}, {label}, {subject}, round {round} of {rounds}"));
                    let load = match is_loaded {
                        true => {
                            let load = clients::start_iperf(
                                guest,
                                far,
                                IpAddr::V4(far.v4),
                                Direction::Upload,
                                LONG,
                            )?;
                            load.wait_until_connected(guest)?;
                            Some(load)
                        }
                        false => None,
                    };
                    let times = pingpong::times(guest, far, protocol, exchanges)?;
                    drop(load);
                    for ((_, part), series) in PARTS.iter().zip(series) {
                        series.push(times.percentile(*part));
                    }
                }
            }
            let [_, linux] = &series;
            for (subject, own) in SUBJECTS.into_iter().zip(&series) {
                let mut noisy = "";
                for (place, ((part, _), series)) in PARTS.iter().zip(own).enumerate() {
                    let about = json!({
                        "suite": "latency", "when": when, "protocol": protocol.label(), "what": part,
                        "subject": subject,
                    });
                    let beside = [(SUBJECTS[1], &linux[place])];
                    let beside = if subject == SUBJECTS[1] { &[][..] } else { &beside[..] };
                    noisy = report.add_beside(about, "ns", series, beside).max(noisy);
                }
                let [p50, p99, p999] = own.each_ref().map(|series| Time(series.median()).to_string());
                let label = protocol.label();
                report.say(format!(
                    "  {when:6} {label:4} {subject:20} {p50:>10} {p99:>10} {p999:>10}  {noisy}"
                ));
            }
        }
    }
    Ok(())
}
