//! What was measured: to be read, and as JSON.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A spread above which a series is called noisy.
const NOISY: f64 = 0.2;

/// The same thing measured several times.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// One more value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Nothing was measured.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value in the middle.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.get(sorted.len() / 2), sorted.len() % 2) {
            (None, _) => f64::NAN,
            (Some(middle), 1) => *middle,
            (Some(above), _) => f64::midpoint(*above, sorted[sorted.len() / 2 - 1]),
        }
    }

    /// The smallest value.
    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest value.
    pub fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Half of the values are so close to each other, as a part of the median.
    pub fn spread(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let quarter = sorted.len() / 4;
        match (sorted.get(quarter), sorted.get(sorted.len().saturating_sub(quarter + 1))) {
            (Some(low), Some(high)) => (high - low) / self.median().abs(),
            _ => 0.0,
        }
    }

    /// The middle of the ratios to another series, round by round.
    pub fn ratio(&self, to: &Self) -> f64 {
        Self(self.0.iter().zip(&to.0).map(|(a, b)| a / b).collect()).median()
    }

    fn to_json(&self) -> Value {
        json!({
            "median": self.median(), "min": self.least(), "max": self.most(),
            "spread": self.spread(), "rounds": self.0.len(),
        })
    }
}

/// A time, as people read it.
pub struct Time(pub f64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            nanoseconds if nanoseconds.is_nan() => "-".to_owned(),
            nanoseconds if nanoseconds < 9_999.5 => format!("{nanoseconds:.0} ns"),
            nanoseconds if nanoseconds < 999_500.0 => format!("{:.1} µs", nanoseconds / 1e3),
            nanoseconds if nanoseconds < 9.995e9 => format!("{:.1} ms", nanoseconds / 1e6),
            nanoseconds => format!("{:.1} s", nanoseconds / 1e9),
        };
        f.pad(&text)
    }
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Report {
    machine: Value,
    rows: Vec<Value>,
    noisy: usize,
}

impl Report {
    /// An empty one, about this machine; says which that is.
    pub fn new() -> Self {
        let machine = machine();
        let text = |name: &str| machine[name].as_str().unwrap_or("?").to_owned();
        println!("{}, {} CPUs, Linux {}", text("cpu"), machine["cpus"], text("kernel"));
        println!("commit {}", text("commit"));
        Self { machine, rows: vec![], noisy: 0 }
    }

    /// Keeps a series under what it is about. Says in a word if it is noisy.
    pub fn add(&mut self, about: Value, unit: &str, series: &Series) -> &'static str {
        let is_noisy = series.spread() > NOISY;
        self.noisy += usize::from(is_noisy);
        let mut row = series.to_json();
        row["about"] = about;
        row["unit"] = unit.into();
        self.rows.push(row);
        if is_noisy { "noisy" } else { "" }
    }

    /// Says what is to be thought of all of it, and writes it to a file if there is one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self, file: Option<&Path>) -> Result<()> {
        if self.noisy > 0 {
            println!(
                "\n{} of {} series are noisy: the middle half of their rounds is spread over more than {:.0} %.",
                self.noisy,
                self.rows.len(),
                NOISY * 100.0
            );
        }
        let Some(file) = file else { return Ok(()) };
        let text = serde_json::to_string_pretty(&json!({ "machine": self.machine, "rows": self.rows }))?;
        fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))
    }
}

fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    json!({
        "cpu": cpu.map_or("unknown CPU", |(_, name)| name),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "jit": read("/proc/sys/net/core/bpf_jit_enable").trim(),
        "commit": commit.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_the_spread_and_ratios_round_by_round() {
        let series = Series(vec![4.0, 1.0, 3.0, 100.0]);
        assert_eq!((series.median(), series.least(), series.most()), (3.5, 1.0, 100.0));
        let twice = Series(vec![8.0, 2.0, 6.0, 200.0]);
        assert_eq!(twice.ratio(&series), 2.0);
        assert_eq!(Series(vec![10.0, 11.0, 12.0, 13.0, 50.0]).spread(), 2.0 / 12.0);
    }

    #[test]
    fn times_have_units() {
        let said = [12.4, 12_400.0, 12_400_000.0, 12_400_000_000.0].map(|time| Time(time).to_string());
        assert_eq!(said, ["12 ns", "12.4 µs", "12.4 ms", "12.4 s"]);
    }
}
