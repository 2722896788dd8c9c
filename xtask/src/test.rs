//! Every test that this machine can run.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{build, setup};

/// Runs the tests; `filter` as for `cargo test`.
pub fn run(filter: Option<&str>) -> Result<()> {
    setup::to_run_the_lab()?;
    build::bins()?;
    let mut command = build::cargo("test");
    command.args(["--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        command.arg(filter);
    }
    // Tests with namespaces, clients and timing share two cores badly with each other.
    command.args(["--", "--test-threads=2"]);
    run_and_repeat_failures(command)
}

/// What failed is said once more at the end: thousands of lines of other programs follow where it is said first, and
/// who keeps only the end of a log finds it there.
fn run_and_repeat_failures(mut command: Command) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut failures = Failures::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cargo test's output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        failures.read(&line);
    }
    let status = child.wait().context("cargo test")?;
    if !failures.lines.is_empty() {
        println!("\nWhat failed, once more:\n{}", failures.lines.join("\n"));
    }
    crate::succeeded(&command, status)
}

/// What the programs of tests print of tests that failed: from `failures:` to the program's result.
#[derive(Default)]
struct Failures {
    lines: Vec<String>,
    is_among_them: bool,
}

impl Failures {
    fn read(&mut self, line: &str) {
        self.is_among_them |= line == "failures:";
        if self.is_among_them {
            self.lines.push(line.to_owned());
        }
        self.is_among_them &= !line.starts_with("test result:");
    }
}

#[cfg(test)]
mod tests {
    use super::Failures;

    #[test]
    fn what_failed_is_kept_and_what_passed_is_not() {
        let mut failures = Failures::default();
        let output = "test a ... FAILED\nfailures:\n---- a stdout ----\nwhy\nfailures:\n    a\n\
                      test result: FAILED.\nrunning 1 test\ntest b ... ok\ntest result: ok.";
        output.lines().for_each(|line| failures.read(line));
        let expected =
            ["failures:", "---- a stdout ----", "why", "failures:", "    a", "test result: FAILED."];
        assert_eq!(failures.lines, expected);
    }
}
