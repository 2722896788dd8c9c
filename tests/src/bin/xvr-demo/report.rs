//! The report: what a person reads while the demo runs, line by line.

use std::fs;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;

/// Lines of a quoted command that are shown; the rest is counted.
const QUOTED_LINES: usize = 14;
/// Width of a client's name and of a journey's column.
const NAME_WIDTH: usize = 29;
const CELL_WIDTH: usize = 21;

/// What became of one client on one journey.
pub enum Cell {
    /// It got through; what it measured.
    Through(String),
    /// It did not; why.
    Failed(String),
}

impl From<Result<String>> for Cell {
    fn from(result: Result<String>) -> Self {
        match result {
            Ok(measured) => Self::Through(measured),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

/// Prints as it goes, and remembers how much went well.
#[derive(Default)]
pub struct Report {
    through: usize,
    failures: Vec<String>,
}

impl Report {
    /// Nothing printed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What this is, where it runs, and a picture.
    pub fn title(&self, mode: &str) {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        println!("XVR demo: a VPC and its router ({mode}), Linux {}, {processors} CPUs\n", kernel.trim());
        println!("{PICTURE}");
    }

    /// Begins a part.
    pub fn section(&self, title: &str) {
        let (bold, plain) = if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        println!("\n{bold}{title}{plain}");
    }

    /// A line of a part.
    pub fn line(&self, text: &str) {
        println!("  {text}");
    }

    /// What a command printed, shortened.
    pub fn quote(&self, title: &str, command: &str, text: &str) {
        self.section(&format!("{title}: {command}"));
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().take(QUOTED_LINES) {
            self.line(line);
        }
        if lines.len() > QUOTED_LINES {
            self.line(&format!("... and {} lines more", lines.len() - QUOTED_LINES));
        }
    }

    /// The columns of the clients' table.
    pub fn heads(&self, heads: &[(&str, String)]) {
        let row = |cells: Vec<&str>| {
            let cells: String = cells.iter().map(|cell| format!("{cell:>CELL_WIDTH$}")).collect();
            println!("  {:NAME_WIDTH$}{cells}", "");
        };
        row(heads.iter().map(|(name, _)| *name).collect());
        row(heads.iter().map(|(_, ends)| ends.as_str()).collect());
    }

    /// One client's row.
    pub fn row(&mut self, name: &str, cells: &[Cell]) {
        let mut line = format!("{name:<NAME_WIDTH$}");
        for cell in cells {
            match cell {
                Cell::Through(measured) => {
                    self.through += 1;
                    line += &format!("{measured:>CELL_WIDTH$}");
                }
                Cell::Failed(why) => {
                    self.failures.push(format!("{name}: {why}"));
                    line += &format!("{:>CELL_WIDTH$}", "FAILED");
                }
            }
        }
        self.line(&line);
    }

    /// Something that has to be so.
    pub fn must(&mut self, what: &str, found: &str, holds: bool) {
        self.line(&format!("{what}: {found}"));
        if !holds {
            self.failures.push(format!("{what}: {found}"));
        }
    }

    /// The last word: did every client get through, and nothing happen that must not?
    pub fn verdict(&self, took: Duration) -> bool {
        let clients = self.through + self.failures.len();
        if self.failures.is_empty() {
            println!("\nAll {clients} clients got through, in {:.0} s.\n", took.as_secs_f64());
            return true;
        }
        println!("\nNOT all went well:");
        for failure in &self.failures {
            println!("  - {failure}");
        }
        println!("{} of {clients} clients got through.\n", self.through);
        false
    }
}

/// A rate in words.
pub fn bits(per_second: f64) -> String {
    if per_second >= 1e9 {
        format!("{:.1} Gbit/s", per_second / 1e9)
    } else {
        format!("{:.0} Mbit/s", per_second / 1e6)
    }
}

const PICTURE: &str = "\
  web1 .11 ─┬─ tier 1 10.10.1.0/24         ┌────────┐  203.0.113.0/24 ─┬─ neighbour .200
  web2 .12 ─┘  fd17:ac56:1234:10::/64 eth2 ┤        ├ eth1             └─ gateway .1 ── far 198.51.100.9
                                           │  XVR   │  2001:db8:100::/64              2001:db8:200::9
  db1  .11 ─┬─ tier 2 10.10.2.0/24    eth3 ┤        ├ eth0
  db2  .12 ─┘  fd17:ac56:1234:20::/64      └────────┘  control 169.254.0.0/16 ── host .0.1";
