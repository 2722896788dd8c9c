//! A run as one page of HTML: plots in SVG and all numbers in tables. It needs nothing from anywhere.
//!
//! Rows that differ in their subject alone are one plot. Where they also come in three sizes or more, it is lines over
//! the size, else one bar a row. Whiskers are intervals.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::compare::{is_more_better, middle, title};
use crate::stats::{quantity, short, thousands};

/// What a row may come in several sizes of.
const SIZES: [&str; 5] = ["rules", "forwardings", "flows", "sessions", "bytes"];
/// As many subjects are told apart by colour.
const COLOURS: usize = 10;
/// From how far apart on an axis is logarithmic.
const FAR: f64 = 30.0;

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #8886; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--faint); } h3 { font-size: 1rem; margin: 2rem 0 0; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--faint); } svg .whisker { stroke: var(--ink); stroke-width: 1.5; }
table { border-collapse: collapse; font-size: .85rem; } td, th { padding: .1rem .7rem; text-align: right; }
td:first-child, th:first-child { text-align: left; padding-left: 0; } tr:nth-child(even) { background: #8881; }
.c0 { --c: #0b7a75; } .c1 { --c: #d1495b; } .c2 { --c: #5b6abf; } .c3 { --c: #c98a1b; } .c4 { --c: #6a8f2f; }
.c5 { --c: #8a5a9e; } .c6 { --c: #7a6a58; } .c7 { --c: #2a8fc7; } .c8 { --c: #b0568a; } .c9 { --c: #777; }
svg .bar, svg .dot { fill: var(--c); } svg .line { stroke: var(--c); fill: none; stroke-width: 2; }
";

/// The page.
pub fn of(run: &Value) -> String {
    let machine = &run["machine"];
    let said = |name: &str| escaped(machine[name].as_str().unwrap_or("?"));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>XVR, measured</title>\n\
         <style>\n{STYLE}</style>\n<h1>XVR, measured</h1>\n<p>{}, {} CPUs, Linux {}<br>commit {}, {}: {}</p>\n\
         <p>Medians; whiskers and brackets are intervals for the true median, nearly always of 95 % confidence or the \
         least and the most of fewer than six rounds. How it was measured: bench/README.md. {} of {} series are \
         noisy.</p>\n",
        said("cpu"),
        machine["cpus"],
        said("kernel"),
        said("commit"),
        said("date"),
        said("run"),
        run["noisy"],
        run["rows"].as_array().map_or(0, Vec::len),
    );
    for (suite, plots) in plots(run) {
        writeln!(page, "<h2>{}</h2>", escaped(&suite)).ok();
        for plot in plots {
            writeln!(page, "<h3>{}</h3>\n{}", escaped(&plot.title), plot.svg()).ok();
            page += &plot.table();
        }
    }
    page + "</html>\n"
}

/// What is drawn together.
struct Plot<'a> {
    title: String,
    unit: &'a str,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    subject: String,
    size: Option<(&'static str, f64)>,
    value: f64,
    low: f64,
    high: f64,
    row: &'a Value,
}

/// All plots, by suite, in the order in which they were measured.
fn plots(run: &Value) -> Vec<(String, Vec<Plot<'_>>)> {
    let mut suites: Vec<(String, Vec<(String, Plot<'_>)>)> = vec![];
    for row in run["rows"].as_array().into_iter().flatten() {
        let Some((value, interval)) = middle(row) else { continue };
        let about = &row["about"];
        let suite = about["suite"].as_str().unwrap_or("?");
        let unit = row["unit"].as_str().unwrap_or("?");
        let size = SIZES.into_iter().find_map(|name| Some((name, about[name].as_f64()?)));
        let mut without = vec!["suite", "subject"];
        without.extend(size.map(|(name, _)| name));
        let title = title(about, &without);
        let key = format!("{title}, {unit}");
        let place = match suites.iter().position(|(name, _)| name == suite) {
            Some(place) => place,
            None => {
                suites.push((suite.to_owned(), vec![]));
                suites.len() - 1
            }
        };
        let plots = &mut suites[place].1;
        let plot = match plots.iter().position(|(other, _)| *other == key) {
            Some(plot) => plot,
            None => {
                plots.push((key, Plot { title, unit, rows: vec![] }));
                plots.len() - 1
            }
        };
        let subject = about["subject"].as_str().unwrap_or("").to_owned();
        let (low, high) = (interval.low, interval.high);
        plots[plot].1.rows.push(Row { subject, size, value, low, high, row });
    }
    suites
        .into_iter()
        .map(|(suite, plots)| (suite, plots.into_iter().map(|(_, plot)| plot).collect()))
        .collect()
}

impl Plot<'_> {
    /// Subjects in their order, which gives them their colours.
    fn subjects(&self) -> Vec<&str> {
        let mut subjects: Vec<&str> = vec![];
        for row in &self.rows {
            if !subjects.contains(&row.subject.as_str()) {
                subjects.push(&row.subject);
            }
        }
        subjects
    }

    fn colour(&self, subject: &str) -> usize {
        self.subjects().iter().position(|other| *other == subject).unwrap_or(0) % COLOURS
    }

    fn sizes(&self) -> Vec<f64> {
        let mut sizes: Vec<_> = self
            .rows
            .iter()
            .filter_map(|row| row.size)
            .map(|(_, size)| size)
            .filter(|size| *size > 0.0)
            .collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup();
        sizes
    }

    fn svg(&self) -> String {
        if self.sizes().len() >= 3 { self.lines() } else { self.bars() }
    }

    fn axis(&self, from: f64, to: f64) -> Axis {
        let positive = || self.rows.iter().filter(|row| row.value > 0.0);
        let least = positive().map(|row| row.value.min(row.low)).fold(f64::INFINITY, f64::min);
        let most = self.rows.iter().map(|row| row.value.max(row.high)).fold(0.0, f64::max);
        let is_far = least > 0.0 && most / least > FAR;
        Axis { is_far, least: if is_far { least / 1.5 } else { 0.0 }, most: most.max(1e-9) * 1.05, from, to }
    }

    fn label(&self, row: &Row<'_>) -> String {
        match row.size {
            Some((name, size)) => format!("{}, {} {name}", row.subject, thousands(size as i64)),
            None if row.subject.is_empty() => self.title.clone(),
            None => row.subject.clone(),
        }
    }

    fn bars(&self) -> String {
        const HEIGHT: f64 = 22.0;
        let (left, width) = (300.0, 900.0);
        let height = HEIGHT * self.rows.len() as f64 + 30.0;
        let axis = self.axis(left, width - 110.0);
        let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
        for tick in axis.ticks() {
            let x = axis.place(tick);
            let (bottom, below) = (height - 22.0, height - 8.0);
            writeln!(
                svg,
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom}\"/>\
                 <text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>",
                escaped(&quantity(tick, self.unit))
            )
            .ok();
        }
        for (place, row) in self.rows.iter().enumerate() {
            let y = HEIGHT * place as f64;
            let (x, low, high) = (axis.place(row.value), axis.place(row.low), axis.place(row.high));
            let (text, middle, colour) = (y + 15.0, y + 11.0, self.colour(&row.subject));
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"bar c{colour}\" x=\"{left}\" y=\"{}\" width=\"{:.1}\" height=\"14\"/>\
                 <line class=\"whisker\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
                 <text x=\"{:.1}\" y=\"{text}\">{}</text>",
                left - 8.0,
                escaped(&self.label(row)),
                y + 4.0,
                (x - left).max(1.0),
                x.max(high) + 6.0,
                escaped(&quantity(row.value, self.unit))
            )
            .ok();
        }
        svg + "</svg>\n"
    }

    fn lines(&self) -> String {
        let (width, height, left, bottom, right) = (900.0, 340.0, 80.0, 40.0, 210.0);
        let axis = self.axis(height - bottom, 10.0);
        let sizes = self.sizes();
        let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
        let across = |size: f64| left + (size / first).ln() / (last / first).ln() * (width - left - right);
        let name = self.rows.iter().find_map(|row| row.size).map_or("", |(name, _)| name);
        let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
        for tick in axis.ticks() {
            let y = axis.place(tick);
            writeln!(
                svg,
                "<line class=\"axis\" x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                width - right,
                left - 6.0,
                y + 4.0,
                escaped(&quantity(tick, self.unit))
            )
            .ok();
        }
        for size in &sizes {
            let (x, y) = (across(*size), height - bottom + 18.0);
            let said = thousands(*size as i64);
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{said}</text>").ok();
        }
        let (middle, y) = ((left + width - right) / 2.0, height - 4.0);
        writeln!(svg, "<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\">{name}</text>").ok();
        for (place, subject) in self.subjects().into_iter().enumerate() {
            let mut points: Vec<(f64, &Row<'_>)> = self
                .rows
                .iter()
                .filter(|row| row.subject == subject)
                .filter_map(|row| Some((row.size.filter(|(_, size)| *size > 0.0)?.1, row)))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let colour = self.colour(subject);
            let line: Vec<_> = points
                .iter()
                .map(|(size, row)| format!("{:.1},{:.1}", across(*size), axis.place(row.value)))
                .collect();
            writeln!(svg, "<polyline class=\"line c{colour}\" points=\"{}\"/>", line.join(" ")).ok();
            for (size, row) in points {
                let (x, y) = (across(size), axis.place(row.value));
                writeln!(
                    svg,
                    "<line class=\"whisker\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
                     <circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>",
                    axis.place(row.low),
                    axis.place(row.high)
                )
                .ok();
            }
            let (x, y) = (width - right + 20.0, 20.0 + 20.0 * place as f64);
            writeln!(
                svg,
                "<circle class=\"dot c{colour}\" cx=\"{x}\" cy=\"{y}\" r=\"5\"/><text x=\"{}\" y=\"{}\">{}</text>",
                x + 12.0,
                y + 4.0,
                escaped(subject)
            )
            .ok();
        }
        svg + "</svg>\n"
    }

    fn table(&self) -> String {
        let mut references: BTreeMap<&str, ()> = BTreeMap::new();
        for row in &self.rows {
            references.extend(
                row.row["ratios"].as_object().into_iter().flatten().map(|(name, _)| (name.as_str(), ())),
            );
        }
        let mut table =
            "<details><summary>numbers</summary><table><tr><th></th><th>median</th><th>interval</th>\
                         <th>rounds</th>"
                .to_owned();
        for reference in references.keys() {
            write!(table, "<th>times {}</th>", escaped(reference)).ok();
        }
        table += "</tr>\n";
        for row in &self.rows {
            write!(
                table,
                "<tr><td>{}</td><td>{}</td><td>{} to {}</td><td>{}</td>",
                escaped(&self.label(row)),
                escaped(&quantity(row.value, self.unit)),
                escaped(&quantity(row.low, self.unit)),
                escaped(&quantity(row.high, self.unit)),
                row.row["values"].as_array().map_or(0, Vec::len)
            )
            .ok();
            for reference in references.keys() {
                let ratio =
                    middle(&row.row["ratios"][*reference]).map_or("-".to_owned(), |(ratio, around)| {
                        format!("{} [{}, {}]", short(ratio), short(around.low), short(around.high))
                    });
                write!(table, "<td>{ratio}</td>").ok();
            }
            table += "</tr>\n";
        }
        let better = if is_more_better(self.unit) { "more" } else { "less" };
        table + &format!("</table><p>{better} is better</p></details>\n")
    }
}

/// Values along a direction of the picture.
struct Axis {
    is_far: bool,
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let part = match self.is_far {
            true => (value.max(self.least) / self.least).ln() / (self.most / self.least).ln(),
            false => value.max(0.0) / self.most,
        };
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.is_far {
            let powers = (self.least.log10().ceil() as i32)..=(self.most.log10().floor() as i32);
            return powers.map(|power| 10_f64.powi(power)).collect();
        }
        let rough = self.most / 4.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|by| by * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        (0..).map(|place| step * f64::from(place)).take_while(|value| *value <= self.most).collect()
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(subject: &str, flows: u64, value: f64) -> Value {
        json!({
            "about": { "suite": "nat", "subject": subject, "flows": flows, "what": "source NAT" }, "unit": "ns",
            "median": value, "low": value * 0.9, "high": value * 1.1, "confidence": 0.95, "values": [value],
            "ratios": { "redirect & all": { "median": 1.3, "low": 1.2, "high": 1.4, "confidence": 0.95 } },
        })
    }

    #[test]
    fn a_page_has_every_number_lines_over_sizes_and_nothing_from_elsewhere() {
        let sizes = [1, 1024, 131_072];
        let rows: Vec<_> = sizes
            .iter()
            .flat_map(|flows| [row("xvr", *flows, 450.0), row("<b>linux", *flows, 99_000.0)])
            .collect();
        let page = of(&json!({ "machine": { "cpu": "a <CPU>", "cpus": 2 }, "rows": rows, "noisy": 0 }));
        assert_eq!(page.matches("<polyline").count(), 2);
        assert_eq!(page.matches("<circle").count(), 6 + 2);
        assert!(page.contains("xvr, 131,072 flows") && page.contains("1.30 [1.20, 1.40]"));
        assert!(page.contains("times redirect &amp; all") && !page.contains("<b>linux"));
        assert!(!page.contains("http") && !page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn few_sizes_are_bars_and_a_value_of_nothing_is_drawn() {
        let mut nothing = row("xvr", 0, 0.0);
        nothing["about"].as_object_mut().unwrap().remove("flows");
        let page = of(&json!({ "machine": {}, "rows": [row("xvr", 10, 5.0), nothing], "noisy": 0 }));
        assert_eq!(page.matches("<rect").count(), 2);
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn ticks_are_round() {
        let axis = |is_far, least, most| Axis { is_far, least, most, from: 0.0, to: 100.0 };
        assert_eq!(axis(false, 0.0, 430.0).ticks(), [0.0, 200.0, 400.0]);
        assert_eq!(axis(true, 20.0, 15_000.0).ticks(), [100.0, 1000.0, 10_000.0]);
        assert_eq!(axis(true, 10.0, 1000.0).place(100.0), 50.0);
    }
}
