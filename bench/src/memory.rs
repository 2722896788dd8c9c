//! The suite `memory`: what the daemon and its maps take. What a session takes is in the suite `flows`.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::MapData;
use router_tests::lab::Lab;
use router_tests::router::{ISOLATED_COMMANDS, Router};
use serde_json::json;

use crate::control;
use crate::report::{Report, Series};
use crate::scale::Scale;
use crate::stats::{short, thousands};

/// How many port forwardings the daemon has.
const FORWARDINGS: [usize; 3] = [0, 1_000, 10_000];

/// Runs the suite.
///
/// # Errors
/// There is no `xvr` beside this program, or it refuses something.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let sizes = scale.of(1, 3, 3);
    let mut daemon = vec![Series::default(); sizes];
    let mut maps = daemon.clone();
    for round in 0..scale.of(1, 1, 5) {
        report.progress(&format!("memory: round {round}"));
        let lab = Lab::isolated()?;
        let router = Router::start(&lab, "auto")?;
        router.apply(&ISOLATED_COMMANDS)?;
        for (place, forwardings) in FORWARDINGS.into_iter().take(sizes).enumerate() {
            if forwardings > 0 {
                control::apply(&router, &control::forwardings(forwardings, false))?;
            }
            let pid = router.daemon_pid().context("the daemon does not run")?;
            daemon[place].push(of_process(&pid.to_string(), "VmRSS")? as f64 / 1e6);
            maps[place].push(of_maps(&router.namespace().pin_dir()?)? as f64 / 1e6);
        }
    }
    report.say(format!("\nmemory\n  {:>11}  {:>18}  {:>18}", "forwardings", "daemon", "maps"));
    for ((forwardings, daemon), maps) in FORWARDINGS.into_iter().zip(&daemon).zip(&maps) {
        for (what, series) in [("daemon, resident", daemon), ("maps", maps)] {
            let about =
                json!({ "suite": "memory", "what": what, "subject": "xvr", "forwardings": forwardings });
            report.add(about, "MB", series);
        }
        let said = [daemon, maps].map(|series| format!("{} MB", short(series.median())));
        report.say(format!("  {:>11}  {:>18}  {:>18}", thousands(forwardings as i64), said[0], said[1]));
    }
    report.say("  maps: as the kernel accounts them; most of it is room that is there from the start");
    Ok(())
}

/// Bytes of a process by a line of its status, `VmRSS` for example.
fn of_process(pid: &str, line: &str) -> Result<u64> {
    kilobytes(&format!("/proc/{pid}/status"), line)
}

/// Bytes of all objects of the kernel that it cannot give back: entries of maps and of conntrack among them.
///
/// # Errors
/// The kernel does not say.
pub fn slabs() -> Result<u64> {
    kilobytes("/proc/meminfo", "SUnreclaim")
}

fn kilobytes(file: &str, line: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let value = text.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    Ok(number.with_context(|| format!("{file} has no {line}"))? * 1024)
}

/// Does something; what came of it, and by how many bytes this process had more memory meanwhile than before.
///
/// # Errors
/// It fails, or the kernel does not say.
pub fn peak_while<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    // 5: the peak is what there is now.
    fs::write("/proc/self/clear_refs", "5").context("write /proc/self/clear_refs")?;
    let before = of_process("self", "VmRSS")?;
    let result = work()?;
    Ok((result, of_process("self", "VmHWM")?.saturating_sub(before)))
}

/// Bytes of all maps that are pinned below a folder, as the kernel accounts them.
///
/// # Errors
/// The folder cannot be read.
fn of_maps(folder: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        total += if path.is_dir() { of_maps(&path)? } else { of_map(&path).unwrap_or(0) };
    }
    Ok(total)
}

/// Bytes of a pinned map, as the kernel accounts them; nothing for what is no map.
pub fn of_map(pin: &Path) -> Option<u64> {
    let map = MapData::from_pin(pin).ok()?;
    let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(info).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_what_was_taken_and_given_back() -> Result<()> {
        let (length, peak) = peak_while(|| Ok(std::hint::black_box(vec![1_u8; 128 << 20]).len()))?;
        assert!(peak as usize >= length / 2, "{peak}");
        assert!(slabs()? > 0);
        Ok(())
    }
}
