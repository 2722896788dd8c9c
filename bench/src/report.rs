//! What was measured: to be read while it is, and to be kept as text, JSON and a page with plots.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::page;
use crate::scale::Scale;
pub use crate::stats::{NOISY, Series, Time};

/// Everything that was measured.
#[derive(Debug)]
pub struct Report {
    machine: Value,
    rows: Vec<Value>,
    noisy: usize,
    text: String,
    begin: Instant,
    scale: Scale,
}

impl Report {
    /// An empty one, about this machine and some suite; says which that is.
    pub fn new(suite: &str, scale: Scale) -> Self {
        let machine = machine(&format!("{suite}, {}", scale.label()));
        let text = |name: &str| machine[name].as_str().unwrap_or("?").to_owned();
        let lines = [
            format!("{}, {} CPUs, Linux {}", text("cpu"), machine["cpus"], text("kernel")),
            format!("commit {}, {}: {}", text("commit"), text("date"), text("run")),
        ];
        let mut report =
            Self { machine, rows: vec![], noisy: 0, text: String::new(), begin: Instant::now(), scale };
        lines.iter().for_each(|line| report.say(line));
        report
    }

    /// A line to be read.
    pub fn say(&mut self, line: impl AsRef<str>) {
        self.progress("");
        println!("{}", line.as_ref());
        self.text += line.as_ref();
        self.text.push('\n');
    }

    /// What is being done now, for who waits; the next line takes its place.
    pub fn progress(&self, doing: &str) {
        let mut stderr = std::io::stderr();
        if stderr.is_terminal() {
            let time = if doing.is_empty() { String::new() } else { format!("{:.0} s: ", self.seconds()) };
            write!(stderr, "\r\x1b[K{time}{doing}").ok();
        }
    }

    fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// Keeps a series under what it is about. Says in a word if it is noisy.
    pub fn add(&mut self, about: Value, unit: &str, series: &Series) -> &'static str {
        self.add_beside(about, unit, series, &[])
    }

    /// The same with its ratios to others', round by round. Those tell more than the series does of a machine that is
    /// not always equally fast: they are what has to be quiet.
    pub fn add_beside(
        &mut self,
        about: Value,
        unit: &str,
        series: &Series,
        others: &[(&str, &Series)],
    ) -> &'static str {
        let mut row = to_json(series);
        let mut ratios = serde_json::Map::new();
        for (name, other) in others {
            ratios.insert((*name).to_owned(), to_json(&series.ratios(other)));
        }
        let unlike = |ratio: &Value| ratio["spread"].as_f64().unwrap_or(0.0);
        let is_noisy = match ratios.is_empty() {
            true => series.spread() > NOISY,
            false => ratios.values().any(|ratio| unlike(ratio) > NOISY),
        };
        self.noisy += usize::from(is_noisy);
        row["about"] = about;
        row["unit"] = unit.into();
        row["ratios"] = ratios.into();
        self.rows.push(row);
        if is_noisy { "noisy" } else { "" }
    }

    /// Says what is to be thought of all of it, and keeps it as the last run, unless it means nothing.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(mut self) -> Result<Value> {
        let (noisy, rows) = (self.noisy, self.rows.len());
        let means_something = self.scale != Scale::Smoke;
        if noisy > 0 && means_something {
            let middle = NOISY * 100.0;
            self.say(format!(
                "\n{noisy} of {rows} series are noisy: the middle half of their rounds is spread over more than \
                 {middle:.0} %."
            ));
            if noisy * 4 > rows {
                self.say("That is too much: this machine was too busy to believe this run.");
            }
        }
        self.say(format!("\nmeasured in {:.0} s", self.seconds()));
        let seconds = self.seconds().round();
        let kept = json!({ "machine": self.machine, "rows": self.rows, "noisy": noisy, "seconds": seconds });
        let page = page::of(&kept);
        if means_something {
            Files::LAST.write(&kept, &self.text, &page)?;
            println!("kept as {}", Files::LAST.path("html").display());
        }
        Ok(kept)
    }
}

/// A run as it is kept: `NAME.json`, `NAME.txt` and `NAME.html` below `bench/results`.
#[derive(Clone, Copy, Debug)]
pub struct Files(&'static str);

impl Files {
    /// The last run, of which git knows nothing.
    pub const LAST: Self = Self("last");
    /// The run that claims rest on.
    pub const ACCEPTED: Self = Self("accepted");

    /// One of the files.
    pub fn path(self, ending: &str) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/results");
        PathBuf::from(folder).join(format!("{}.{ending}", self.0))
    }

    fn write(self, kept: &Value, text: &str, page: &str) -> Result<()> {
        let path = self.path("json");
        fs::create_dir_all(path.parent().context("a folder")?)?;
        write(&path, kept)?;
        for (ending, content) in [("txt", text), ("html", page)] {
            let path = self.path(ending);
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// The run that is kept here.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn read(self) -> Result<Value> {
        read(&self.path("json"))
    }
}

/// A run that was kept.
///
/// # Errors
/// There is none, or it is damaged.
pub fn read(path: &std::path::Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let kept: Value = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    ensure!(kept["rows"].is_array(), "{}: it has no rows", path.display());
    Ok(kept)
}

/// Writes a run to a file.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &std::path::Path, kept: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(kept)? + "\n";
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Takes the last run as the one that claims rest on.
///
/// # Errors
/// It was not of all suites in full, its commit is not known, or a file cannot be written.
pub fn accept() -> Result<()> {
    let last = Files::LAST.read()?;
    let machine = &last["machine"];
    let run = machine["run"].as_str().unwrap_or_default();
    ensure!(
        run == "all, full",
        "the last run was of {run:?}: `cargo xtask bench all --full` is what can be accepted"
    );
    let commit = machine["commit"].as_str().unwrap_or_default();
    ensure!(
        !commit.is_empty() && !commit.ends_with("-dirty"),
        "it was measured at {commit:?}, which nobody can find again"
    );
    for ending in ["json", "txt", "html"] {
        let (from, to) = (Files::LAST.path(ending), Files::ACCEPTED.path(ending));
        fs::copy(&from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    println!("accepted: {}", Files::ACCEPTED.path("html").display());
    Ok(())
}

fn to_json(series: &Series) -> Value {
    let interval = series.interval();
    json!({
        "median": series.median(), "min": series.least(), "max": series.most(), "low": interval.low,
        "high": interval.high, "confidence": interval.confidence, "spread": series.spread(),
        "values": series.values(),
    })
}

fn machine(run: &str) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let ask = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    json!({
        "cpu": cpu.map_or("unknown CPU", |(_, name)| name),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "jit": read("/proc/sys/net/core/bpf_jit_enable").trim(),
        "load": read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        "memory_kib": read("/proc/meminfo").split_whitespace().nth(1).unwrap_or_default(),
        "commit": ask("git", &["describe", "--always", "--dirty"]),
        "date": ask("date", &["-u", "-d", &format!("@{since}"), "+%Y-%m-%d %H:%M UTC"]),
        "run": run,
    })
}
