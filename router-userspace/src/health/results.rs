//! What checks have found, in files of CloudStack's own router's shape: every value is text.
//!
//! ```text
//! root/basic_monitor_results.json        {"gateways_check.py": {"success": "false", …}, "lastRun": {…}}
//! root/basic_failing_health_checks       gateways_check.py
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Finding, Kind, Outcome};
use crate::beside;
use crate::calendar::Moment;
use crate::generation::Generation;
use crate::root::Root;

/// A check that has something to say.
pub(super) struct Measured {
    pub(super) name: &'static str,
    pub(super) finding: Finding,
    pub(super) at: SystemTime,
    pub(super) took: Duration,
}

/// One run of all checks of a kind.
pub(super) struct Run {
    pub(super) measured: Vec<Measured>,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) took: Duration,
}

/// Puts a run's results in the place of those before.
pub(super) fn save(root: &Root, kind: Kind, run: &Run, generation: Generation) -> Result<()> {
    let failing = run.measured.iter().filter(|measured| measured.finding.outcome == Outcome::Failed);
    let failing: Vec<&str> = failing.map(|measured| measured.name).collect();
    replace(&results_file(root, kind), &text(run, generation))?;
    replace(&failing_file(root, kind), &failing.join(","))
}

/// The results of the last run, as they were saved; `{}` before the first, and where they are damaged.
pub fn saved(root: &Root, kind: Kind) -> String {
    let saved = fs::read_to_string(results_file(root, kind)).unwrap_or_default();
    let is_sound = serde_json::from_str::<Value>(&saved).is_ok_and(|value| value.is_object());
    if is_sound { saved.trim().replace('\n', " ") } else { "{}".to_owned() }
}

/// The names of checks that failed in the last run, with commas between them; empty if none did.
pub fn failing(root: &Root, kind: Kind) -> String {
    fs::read_to_string(failing_file(root, kind)).unwrap_or_default().trim().to_owned()
}

/// As Python writes JSON, the run itself last.
fn text(run: &Run, generation: Generation) -> String {
    let mut text = "{".to_owned();
    for Measured { name, finding, at, took } in &run.measured {
        let Some(word) = finding.outcome.word(generation) else { continue };
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string();
        let took = format!("{:.1}", took.as_secs_f64() * 1000.0);
        let values = [
            ("success", word),
            ("lastUpdate", at.as_str()),
            ("lastRunDuration", took.as_str()),
            ("message", finding.message.as_str()),
        ];
        text += &format!("{}: {}, ", quoted(name), object(&values));
    }
    let moment = |time| {
        let moment = Moment::from(time);
        format!("{}.{:06}", moment.date_time(), moment.microsecond())
    };
    let (start, end, took) = (moment(run.start), moment(run.end), format!("{:.3}", run.took.as_secs_f64()));
    let values = [("start", start.as_str()), ("end", end.as_str()), ("duration", took.as_str())];
    text + &format!("\"lastRun\": {}}}", object(&values))
}

fn object(values: &[(&str, &str)]) -> String {
    let values: Vec<String> =
        values.iter().map(|(key, value)| format!("{}: {}", quoted(key), quoted(value))).collect();
    format!("{{{}}}", values.join(", "))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn replace(path: &Path, text: &str) -> Result<()> {
    // The folder alone, never the root: that may just have been taken away.
    if let Some(folder) = path.parent() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("create {}", folder.display()));
            }
            _ => {}
        }
    }
    let beside = beside::write(path, text.as_bytes(), 0o644)
        .with_context(|| format!("write beside {}", path.display()))?;
    fs::rename(&beside, path).with_context(|| format!("replace {}", path.display()))
}

fn results_file(root: &Root, kind: Kind) -> PathBuf {
    root.home().join(format!("{kind}_monitor_results.json"))
}

fn failing_file(root: &Root, kind: Kind) -> PathBuf {
    root.home().join(format!("{kind}_failing_health_checks"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let measured = |name, outcome, message: &str| Measured {
            name,
            finding: Finding { outcome, message: message.to_owned() },
            at: UNIX_EPOCH + Duration::from_millis(1_769_000_000_130),
            took: Duration::from_micros(20_400),
        };
        let start = UNIX_EPOCH + Duration::from_micros(1_768_903_200_123_456);
        Run {
            measured: vec![
                measured("disk_space_check.py", Outcome::Success, "Sufficient free space is 1500.0 MB"),
                measured("gateways_check.py", Outcome::Failed, "not \"203.0.113.1\"\n"),
                measured("cpu_usage_check.py", Outcome::Unknown, "-"),
                measured("iptables_check.py", Outcome::Warning, "waiting"),
            ],
            start,
            end: start + Duration::from_micros(5_376_544),
            took: Duration::from_micros(5_376_544),
        }
    }

    #[test]
    fn results_are_text_in_the_words_of_the_generation() {
        let of = |success: &str, message: &str| {
            format!(
                r#"{{"success": "{success}", "lastUpdate": "1769000000130", "lastRunDuration": "20.4", "message": "{message}"}}"#
            )
        };
        let last = r#""lastRun": {"start": "2026-01-20 10:00:00.123456", "end": "2026-01-20 10:00:05.500000", "duration": "5.377"}"#;
        let (space, gateway) = ("Sufficient free space is 1500.0 MB", r#"not \"203.0.113.1\"\n"#);
        let old = format!(
            r#"{{"disk_space_check.py": {}, "gateways_check.py": {}, "iptables_check.py": {}, {last}}}"#,
            of("true", space),
            of("false", gateway),
            of("true", "waiting"),
        );
        assert_eq!(text(&run(), Generation::UpTo4_21), old);
        let new = format!(
            r#"{{"disk_space_check.py": {}, "gateways_check.py": {}, "cpu_usage_check.py": {}, "iptables_check.py": {}, {last}}}"#,
            of("SUCCESS", space),
            of("FAILED", gateway),
            of("UNKNOWN", "-"),
            of("WARNING", "waiting"),
        );
        assert_eq!(text(&run(), Generation::From4_22), new);
        assert!(serde_json::from_str::<Value>(&new).is_ok());
    }

    #[test]
    fn what_is_saved_is_found_again_and_damage_is_as_nothing() {
        let root = Root::new(std::env::temp_dir().join(format!("xvr-results-{}", std::process::id())));
        let kind = Kind::Advanced;
        assert_eq!((saved(&root, kind).as_str(), failing(&root, kind).as_str()), ("{}", ""));
        assert!(save(&root, kind, &run(), Generation::UpTo4_21).is_err(), "the root was not there");
        fs::create_dir(root.path()).unwrap();
        save(&root, kind, &run(), Generation::UpTo4_21).unwrap();
        assert_eq!(saved(&root, kind), text(&run(), Generation::UpTo4_21));
        assert_eq!(failing(&root, kind), "gateways_check.py");
        assert_eq!(saved(&root, Kind::Basic), "{}");
        fs::write(results_file(&root, kind), "{\"a\":").unwrap();
        assert_eq!(saved(&root, kind), "{}");
        fs::remove_dir_all(root.path()).unwrap();
    }
}
