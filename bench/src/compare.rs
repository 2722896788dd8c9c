//! Two runs beside each other: what got better or worse, beyond what noise explains.
//!
//! Where both have measured something beside a reference in the same rounds, the ratios to it are compared: they
//! do not know how fast the machine was. Else the values are. A change counts if the two intervals do not meet and
//! the medians differ by more than [`SMALL`].

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::paths::YARDSTICKS;
use crate::stats::{Interval, quantity, short};

/// A change below which nobody has to be told.
const SMALL: f64 = 0.03;

/// What became of one row.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    what: String,
    before: f64,
    now: f64,
    /// The reference that both are ratios to, or the unit.
    measure: Measure,
}

#[derive(Clone, Debug, PartialEq)]
enum Measure {
    RatioTo(String),
    Unit(String),
}

/// What is to be said of a run beside an earlier one.
pub fn text(before: &Value, now: &Value) -> String {
    let (old, new) = (rows(before), rows(now));
    let mut text = String::new();
    for (place, run) in [("before", before), ("now", now)] {
        let machine = &run["machine"];
        let said = |name: &str| machine[name].as_str().unwrap_or("?").to_owned();
        writeln!(
            text,
            "{place}: commit {}, {}; {}, {} CPUs, Linux {}",
            said("commit"),
            said("date"),
            said("cpu"),
            machine["cpus"],
            said("kernel")
        )
        .ok();
    }
    if ["cpu", "cpus", "kernel"].iter().any(|name| before["machine"][name] != now["machine"][name]) {
        text += "The machines differ: only ratios can be compared, and they not exactly.\n";
    }
    let (mut better, mut worse, mut same) = (vec![], vec![], 0);
    for (key, row) in &new {
        let Some(earlier) = old.get(key) else { continue };
        match change(key, earlier, row) {
            None => same += 1,
            Some(change) if is_better(&change, row) => better.push(change),
            Some(change) => worse.push(change),
        }
    }
    for (word, changes) in [("worse", &mut worse), ("better", &mut better)] {
        changes.sort_by(|a, b| factor(b).total_cmp(&factor(a)));
        writeln!(text, "\n{word}: {}", changes.len()).ok();
        for Change { what, before, now, measure } in changes {
            let (before_said, now_said) = match measure {
                Measure::RatioTo(_) => (short(*before), short(*now)),
                Measure::Unit(unit) => (quantity(*before, unit), quantity(*now, unit)),
            };
            let measure = match measure {
                Measure::RatioTo(reference) => format!(" times {reference}"),
                Measure::Unit(_) => String::new(),
            };
            let percent = (*now / *before - 1.0) * 100.0;
            writeln!(text, "  {what}: {before_said} -> {now_said}{measure} ({percent:+.0} %)").ok();
        }
    }
    writeln!(text, "\nno change beyond noise: {same}").ok();
    let only = |some: &BTreeMap<String, &Value>, others: &BTreeMap<String, &Value>| {
        some.keys().filter(|key| !others.contains_key(*key)).count()
    };
    writeln!(text, "only before: {}; only now: {}", only(&old, &new), only(&new, &old)).ok();
    text
}

/// Rows by what they are about, without the yardsticks: how these change is the machine's doing.
fn rows(run: &Value) -> BTreeMap<String, &Value> {
    let is_yardstick = |row: &&Value| YARDSTICKS.iter().any(|name| row["about"]["subject"] == **name);
    let rows = run["rows"].as_array().into_iter().flatten().filter(|row| !is_yardstick(row));
    rows.map(|row| (title(&row["about"], &[]) + ", " + row["unit"].as_str().unwrap_or("?"), row)).collect()
}

/// What a row is about, in a line, without some of it.
pub fn title(about: &Value, without: &[&str]) -> String {
    let fields = about.as_object().into_iter().flatten();
    // The suite first.
    let mut fields: Vec<_> = fields.filter(|(name, _)| !without.contains(&name.as_str())).collect();
    fields.sort_by_key(|(name, _)| *name != "suite");
    let said = fields.into_iter().map(|(name, value)| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            format!("{} {name}", number.as_i64().map_or(number.to_string(), crate::stats::thousands))
        }
        other => format!("{name} {other}"),
    });
    said.collect::<Vec<_>>().join(", ")
}

fn change(what: &str, before: &Value, now: &Value) -> Option<Change> {
    let shared = now["ratios"].as_object().into_iter().flatten();
    let reference = shared.map(|(name, _)| name).find(|name| before["ratios"][name.as_str()].is_object());
    let (old, new, measure) = match reference {
        Some(name) => (&before["ratios"][name], &now["ratios"][name], Measure::RatioTo(name.clone())),
        None => (before, now, Measure::Unit(now["unit"].as_str().unwrap_or_default().to_owned())),
    };
    let (Some((was, around_was)), Some((is, around_is))) = (middle(old), middle(new)) else { return None };
    let changed = !around_was.meets(&around_is) && (is / was - 1.0).abs() > SMALL;
    changed.then(|| Change { what: what.to_owned(), before: was, now: is, measure })
}

/// A row's median, and the interval that it is in.
pub fn middle(row: &Value) -> Option<(f64, Interval)> {
    let number = |name: &str| row[name].as_f64();
    let (low, high) = (number("low")?, number("high")?);
    Some((number("median")?, Interval { low, high, confidence: number("confidence")? }))
}

/// How far apart, whichever way.
fn factor(change: &Change) -> f64 {
    let factor = change.now / change.before;
    if factor < 1.0 { 1.0 / factor } else { factor }
}

fn is_better(change: &Change, row: &Value) -> bool {
    let is_less = change.now < change.before;
    is_less != is_more_better(row["unit"].as_str().unwrap_or_default())
}

/// Of what there cannot be enough; of all else the less the better.
pub fn is_more_better(unit: &str) -> bool {
    unit.ends_with("/s") || unit == "sessions"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stats::Series;

    fn row(subject: &str, unit: &str, values: &[f64], reference: Option<&[f64]>) -> Value {
        let series = |values: &[f64]| {
            let series: Series = values.to_vec().into();
            let Interval { low, high, confidence } = series.interval();
            json!({ "median": series.median(), "low": low, "high": high, "confidence": confidence })
        };
        let mut row = series(values);
        row["about"] = json!({ "suite": "nat", "subject": subject, "flows": 1024 });
        row["unit"] = unit.into();
        row["ratios"] = json!({});
        if let Some(reference) = reference {
            let ratios: Vec<_> = values.iter().zip(reference).map(|(a, b)| a / b).collect();
            row["ratios"]["xdp redirect"] = series(&ratios);
        }
        row
    }

    fn run(rows: &[Value]) -> Value {
        json!({ "machine": { "cpu": "a CPU", "cpus": 2, "kernel": "6.1", "commit": "abc" }, "rows": rows })
    }

    #[test]
    fn what_changed_is_told_by_ratios_where_there_are_some() {
        let slow = [200.0, 202.0, 204.0, 206.0, 208.0, 210.0];
        let fast = slow.map(|value| value / 2.0);
        let before = run(&[row("xvr", "ns", &fast, Some(&fast)), row("iperf3", "Gbit/s", &slow, None)]);
        // Twice as slow, as its reference is: the machine was. And half as much per second.
        let now = run(&[row("xvr", "ns", &slow, Some(&slow)), row("iperf3", "Gbit/s", &fast, None)]);
        let said = text(&before, &now);
        assert!(
            said.contains("worse: 1\n  nat, 1,024 flows, iperf3, Gbit/s: 205 Gbit/s -> 102 Gbit/s (-50 %)"),
            "{said}"
        );
        assert!(said.contains("better: 0") && said.contains("beyond noise: 1"), "{said}");
        // And the other way round, with the ratio.
        let now = run(&[row("xvr", "ns", &fast, Some(&slow))]);
        let said = text(&before, &now);
        assert!(
            said.contains("better: 1\n  nat, 1,024 flows, xvr, ns: 1.00 -> 0.50 times xdp redirect (-50 %)"),
            "{said}"
        );
        assert!(said.contains("only before: 1; only now: 0"), "{said}");
    }

    #[test]
    fn noise_and_small_changes_are_no_changes() {
        let old = [100.0, 101.0, 102.0, 103.0, 104.0, 105.0];
        for new in [[104.0, 110.0, 115.0, 120.0, 130.0, 140.0], old.map(|value| value + 2.0)] {
            let [before, now] = [old, new].map(|values| run(&[row("xvr", "ns", &values, None)]));
            assert!(text(&before, &now).contains("beyond noise: 1"), "{new:?}");
        }
    }

    #[test]
    fn other_machines_are_named() {
        let before = run(&[]);
        let mut now = run(&[]);
        assert!(!text(&before, &now).contains("differ"));
        now["machine"]["kernel"] = "6.18".into();
        assert!(text(&before, &now).contains("The machines differ"));
    }
}
