//! The suite `policy`: what a list of rules costs, by how many there are.
//!
//! Of packets: a flow's first, which the list is asked about, and one of a known flow. Of changes: from a list
//! at hand to one in force.

use std::time::{Duration, Instant};

use anyhow::Result;
use router_userspace::compile::policy::ListEntry;
use serde_json::json;

use crate::generator::{Frames, KNOWN, Passed, Window};
use crate::lab::{Lab, Router};
use crate::references::{Means, Reference};
use crate::report::{Report, Series, Time};
use crate::rules::{Family, HITS, RuleSet, Shape};
use crate::scale::Scale;
use crate::xvr::Xvr;
use crate::{blocks, daemon};

use bench_programs::TUPLES;

/// How large the lists are.
const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];

/// The largest lists that Linux gets, but those of CloudStack's shape in full: a packet goes through 100,000 rules of a
/// chain in milliseconds.
const MOST_OF_LINUX: usize = 10_000;

/// What is to be measured.
#[derive(Debug, Default, clap::Args)]
pub struct Policy {
    /// Only the lists of one shape, the blocks that packets look at, or the daemon.
    #[arg(long, value_parser = ["acl", "fw", "ipc", "cloudstack", "blocks", "daemon"])]
    pub only: Option<String>,
    /// XVR alone, without Linux' own means beside it.
    #[arg(long)]
    pub alone: bool,
    /// So many rounds, on a machine that is too busy for few.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
}

const LEGEND: &str = "\
to in force: time from a list at hand until packets are judged by it; Linux' includes starting a program
CPU per packet: median of all rounds, without generator and sink; /10: to the same with 10 rules; /xvr: to XVR with
as many; new flow: its first packet, between the same number of hosts for each list, one in 16 of which no rule
matches, and each of which has sent one before; known: any other packet; spread: a first packet such as there was none
before, so that the list is gone through, between sixteen times as many hosts all over it, of whose rules most have left
the processor's caches before they come up again
iptables: the chain that CloudStack writes; nft maps: the list as maps of intervals that are asked in turn";

/// Runs the suite.
///
/// # Errors
/// Something cannot be set up or measured.
pub fn run(arguments: &Policy, scale: Scale, report: &mut Report) -> Result<()> {
    let is_wanted = |part: &str| arguments.only.as_ref().is_none_or(|only| only == part);
    let sets = Shape::ALL.map(|shape| (shape, Family::V4)).into_iter().chain([(Shape::Acl, Family::V6)]);
    let sets: Vec<_> = sets.collect();
    if is_wanted("blocks") {
        blocks::run(report, &sets, &SIZES[..scale.of(2, SIZES.len(), SIZES.len())])?;
        if arguments.only.is_some() {
            return Ok(());
        }
    }
    report.say(LEGEND);
    let mut lab = Lab::new()?;
    let mut xvr = Xvr::new(&mut lab)?;
    for (shape, family) in sets.into_iter().filter(|(shape, _)| is_wanted(&shape.to_string())) {
        one_shape(arguments, scale, report, &mut lab, &mut xvr, (shape, family))?;
    }
    if is_wanted("daemon") {
        daemon::run(scale, report)?;
    }
    Ok(())
}

/// Who is measured with how many rules.
struct Subject {
    name: &'static str,
    rules: usize,
    target: Target,
    window: Window,
    new: Series,
    known: Series,
    spread: Series,
    /// Frames of new flows that arrived, of those that were sent.
    passed: (u64, u64),
    remark: String,
}

enum Target {
    /// XVR with a list.
    Xvr(u32),
    /// Linux.
    Reference(Reference),
}

fn one_shape(
    arguments: &Policy,
    scale: Scale,
    report: &mut Report,
    lab: &mut Lab,
    xvr: &mut Xvr,
    (shape, family): (Shape, Family),
) -> Result<()> {
    let sizes = scale.of(2, SIZES.len(), SIZES.len());
    let sets: Vec<_> = SIZES[..sizes].iter().map(|size| RuleSet::new(shape, family, *size)).collect();
    report.say(format!("\n{shape}, {family}"));
    report.say(format!("  {:16} {:>7}  {:>10} {:>10}", "to in force", "rules", "all", "one more"));
    let frames = scale.of(TUPLES / 16, TUPLES, TUPLES);
    let mut subjects = vec![Subject::new("xvr", 0, Target::Xvr(0))];
    for (number, set) in (1..).zip(&sets) {
        changes(scale, report, xvr, set)?;
        xvr.add_list(number, &ListEntry::of(&set.list))?;
        subjects.push(Subject::new("xvr", set.list.rules.len(), Target::Xvr(number)));
    }
    let nothing = Reference::new(lab, Means::Nothing, family)?;
    subjects.push(Subject::new(Means::Nothing.label(), 0, Target::Reference(nothing)));
    for means in Means::LISTS.into_iter().filter(|_| !arguments.alone) {
        let is_all = scale == Scale::Full && shape == Shape::CloudStack;
        for set in sets.iter().filter(|set| is_all || set.list.rules.len() <= MOST_OF_LINUX) {
            match reference(scale, report, lab, means, set) {
                Ok(subject) => subjects.push(subject),
                // It has its limits.
                Err(error) => {
                    report.say(format!("  {:16} {:>7}  {error:#}", means.label(), set.list.rules.len()));
                }
            }
        }
    }
    subjects.iter_mut().for_each(|subject| subject.window = Window::of(frames));
    let rounds = arguments.rounds.unwrap_or(scale.of(1, 4, 7));
    for round in 0..=rounds {
        report.progress(&format!("{shape}, {family}: round {round} of {rounds}"));
        let mut measured = Vec::new();
        for subject in &mut subjects {
            // Without a list, the packets of a large one.
            let set = sets
                .iter()
                .find(|set| set.list.rules.len() == subject.rules)
                .unwrap_or(&sets[sets.len().min(4) - 1]);
            lab.generator().use_tuples(&set.few_tuples(), family)?;
            if round == 0 {
                subject.prepare(scale, lab)?;
            }
            let few = subject.measure(lab, xvr)?;
            lab.generator().use_tuples(&set.tuples, family)?;
            measured.push(Measured { spread: subject.measure_spread(lab, xvr)?, ..few });
        }
        // The first time tables grow.
        if round > 0 {
            subjects.iter_mut().zip(measured).for_each(|(subject, measured)| subject.note(&measured));
        }
    }
    xvr.judge_by(0)?;
    for number in (1..).take(sets.len()) {
        xvr.remove_list(number)?;
    }
    show(report, shape, family, &subjects);
    Ok(())
}

/// One round's numbers: through the router, and without it.
struct Measured {
    new: (Passed, Passed),
    known: (Passed, Passed),
    /// The first packets of flows between sixteen times as many hosts, of XVR alone.
    spread: Option<(Passed, Passed)>,
}

impl Subject {
    fn new(name: &'static str, rules: usize, target: Target) -> Self {
        let window = Window::of(TUPLES);
        let (new, known, spread) = (Series::default(), Series::default(), Series::default());
        Self { name, rules, target, window, new, known, spread, passed: (0, 0), remark: String::new() }
    }

    /// Finds out what a window has to be like for what it costs.
    fn prepare(&mut self, scale: Scale, lab: &mut Lab) -> Result<()> {
        let Target::Reference(reference) = &self.target else { return Ok(()) };
        let few = Window { batch: 1, ..Window::of(64) };
        let hop = lab.send(None, Frames::New, few)?;
        let passed = lab.send(Some(&reference.linux.router), Frames::New, few)?;
        let limit = Duration::from_millis(scale.of(5, 80, 120));
        self.window = Window::for_cost(self.window.frames, limit, passed.cost() - hop.cost());
        Ok(())
    }

    fn measure(&self, lab: &mut Lab, xvr: &mut Xvr) -> Result<Measured> {
        if let Target::Xvr(list) = self.target {
            xvr.judge_by(list)?;
        }
        self.warm(lab, xvr)?;
        let hop = lab.send(None, Frames::New, self.window)?;
        let router = self.router(xvr);
        let new = (lab.send(Some(router), Frames::New, self.window)?, hop);
        let opening = Window { frames: KNOWN, limit: Duration::MAX, ..self.window };
        for frames in [Frames::Opening, Frames::Answers, Frames::Known] {
            lab.send(Some(router), frames, opening)?;
        }
        let hop = lab.send(None, Frames::Known, Window::of(TUPLES))?;
        let known = (lab.send(Some(router), Frames::Known, Window::of(TUPLES))?, hop);
        self.forget_flows(xvr)?;
        Ok(Measured { new, known, spread: None })
    }

    /// As many first packets as are measured then, so that caches are as this subject's own traffic leaves them, and
    /// not as that of the one before.
    fn warm(&self, lab: &mut Lab, xvr: &mut Xvr) -> Result<()> {
        lab.send(Some(self.router(xvr)), Frames::New, self.window)?;
        self.forget_flows(xvr)
    }

    fn router<'a>(&'a self, xvr: &'a Xvr) -> &'a Router {
        match &self.target {
            Target::Xvr(_) => &xvr.router,
            Target::Reference(reference) => &reference.linux.router,
        }
    }

    fn forget_flows(&self, xvr: &mut Xvr) -> Result<()> {
        match &self.target {
            Target::Xvr(_) => xvr.forget_flows(),
            Target::Reference(reference) => reference.linux.forget_flows(),
        }
    }

    fn measure_spread(&self, lab: &mut Lab, xvr: &mut Xvr) -> Result<Option<(Passed, Passed)>> {
        if !matches!(self.target, Target::Xvr(_)) {
            return Ok(None);
        }
        self.warm(lab, xvr)?;
        xvr.forget_rulings()?;
        let hop = lab.send(None, Frames::New, self.window)?;
        let new = lab.send(Some(&xvr.router), Frames::New, self.window)?;
        xvr.forget_flows()?;
        Ok(Some((new, hop)))
    }

    fn note(&mut self, Measured { new, known, spread }: &Measured) {
        if let Some((new, hop)) = spread {
            self.spread.push(new.cost() - hop.cost());
        }
        self.new.push(new.0.cost() - new.1.cost());
        self.known.push(known.0.cost() - known.1.cost());
        self.passed.0 += new.0.arrived;
        self.passed.1 += new.0.sent;
    }

    /// The part of the first packets that passed.
    fn share(&self) -> f64 {
        self.passed.0 as f64 / self.passed.1.max(1) as f64
    }
}

fn show(report: &mut Report, shape: Shape, family: Family, subjects: &[Subject]) {
    report.say(format!(
        "  {:16} {:>7}  {:>9} {:>9}..{:<9} {:>6} {:>6}  {:>9} {:>9}..{:<9} {:>6} {:>6}  {:>9} {:>9}..{:<9} {:>6}",
        "CPU per packet",
        "rules",
        "new flow",
        "min",
        "max",
        "/10",
        "/xvr",
        "known",
        "min",
        "max",
        "/10",
        "/xvr",
        "spread",
        "min",
        "max",
        "/10"
    ));
    let find = |name: &str, rules: usize| {
        subjects.iter().find(|subject| subject.name == name && subject.rules == rules)
    };
    for subject in subjects {
        let mut line = format!("  {:16} {:>7}", subject.name, subject.rules);
        let mut remarks = vec![subject.remark.clone()];
        for (what, of) in [
            ("new", (|subject| &subject.new) as fn(&Subject) -> &Series),
            ("known", |subject| &subject.known),
            ("spread", |subject| &subject.spread),
        ] {
            let series = of(subject);
            if series.is_empty() {
                continue;
            }
            let about = json!({
                "suite": "policy", "shape": shape.to_string(), "family": family.to_string(),
                "subject": subject.name, "rules": subject.rules, "packet": what,
            });
            let noisy = report.add(about, "ns", series);
            remarks.extend((!noisy.is_empty()).then(|| format!("{what} {noisy}")));
            let ratio = |to: Option<&Subject>| {
                to.map_or("-".to_owned(), |to| {
                    let ratio = series.ratio(of(to));
                    if ratio < 99.5 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
                })
            };
            line += &format!(
                "  {:>9} {:>9}..{:<9} {:>6} {:>6}",
                Time(series.median()),
                Time(series.least()),
                Time(series.most()),
                ratio(find(subject.name, 10)),
                ratio(find("xvr", subject.rules)),
            );
        }
        let expected = match subject.rules {
            0 => 1.0,
            _ => HITS as f64 / f64::from(TUPLES),
        };
        if (subject.share() - expected).abs() > 0.02 {
            remarks.push(format!("{:.1} % passed, not {:.1} %", subject.share() * 1e2, expected * 1e2));
        }
        remarks.retain(|remark| !remark.is_empty());
        report.say(format!("{line}  {}", remarks.join(", ")));
    }
    let between = |of: fn(&Subject) -> &Series| {
        let lists = subjects.iter().filter(|subject| subject.name == "xvr" && subject.rules > 0);
        let medians: Vec<_> = lists.map(|subject| of(subject).median()).collect();
        let least = medians.iter().copied().fold(f64::INFINITY, f64::min);
        (medians.iter().copied().fold(0.0, f64::max) / least - 1.0) * 100.0
    };
    report.say(format!(
        "  xvr, from {} to {} rules: new flows within {:.0} %, known flows within {:.0} %, spread within {:.0} %",
        SIZES[0],
        subjects.iter().map(|subject| subject.rules).max().unwrap_or(0),
        between(|subject| &subject.new),
        between(|subject| &subject.known),
        between(|subject| &subject.spread)
    ));
}

/// From a list at hand to one in force: all of it, and with one more rule.
fn changes(scale: Scale, report: &mut Report, xvr: &mut Xvr, set: &RuleSet) -> Result<()> {
    const OLD: u32 = 100;
    const NEW: u32 = 101;
    let rounds = match set.list.rules.len() {
        100_000.. if scale != Scale::Full => 3,
        _ => scale.of(1, 8, 8),
    };
    let (mut all, mut one) = (Series::default(), Series::default());
    for _ in 0..rounds {
        let begin = Instant::now();
        xvr.add_list(OLD, &ListEntry::of(&set.list))?;
        xvr.judge_by(OLD)?;
        all.push(nanoseconds(begin.elapsed()));

        let list = set.with_one_more(set.list.rules.len() / 2);
        let begin = Instant::now();
        xvr.add_list(NEW, &ListEntry::of(&list))?;
        xvr.judge_by(NEW)?;
        one.push(nanoseconds(begin.elapsed()));
        xvr.remove_list(OLD)?;
        xvr.judge_by(0)?;
        xvr.remove_list(NEW)?;
    }
    show_changes(report, set, "xvr", [&all, &one]);
    Ok(())
}

/// Linux with a list, and how long it took to load.
fn reference(
    scale: Scale,
    report: &mut Report,
    lab: &mut Lab,
    means: Means,
    set: &RuleSet,
) -> Result<Subject> {
    let mut reference = Reference::new(lab, means, set.family)?;
    let rules = set.list.rules.len();
    let rounds = match rules {
        ..10_000 => scale.of(1, 4, 4),
        _ => 1,
    };
    let (mut all, mut one) = (Series::default(), Series::default());
    for _ in 0..rounds {
        all.push(nanoseconds(reference.load(set)?));
        one.push(nanoseconds(reference.one_more()?));
    }
    show_changes(report, set, means.label(), [&all, &one]);
    let remark = if reference.maps > 0 { format!("maps: {}", reference.maps) } else { String::new() };
    Ok(Subject { remark, ..Subject::new(means.label(), rules, Target::Reference(reference)) })
}

fn show_changes(report: &mut Report, set: &RuleSet, subject: &str, series: [&Series; 2]) {
    let rules = set.list.rules.len();
    let mut remarks = vec![];
    for (what, series) in ["all", "one more"].into_iter().zip(series) {
        let about = json!({
            "suite": "policy", "shape": set.shape.to_string(), "family": set.family.to_string(),
            "subject": subject, "rules": rules, "change": what,
        });
        let noisy = report.add(about, "ns", series);
        remarks.extend((!noisy.is_empty()).then(|| format!("{what} {noisy}")));
    }
    let [all, one] = series.map(|series| Time(series.median()));
    report.say(format!("  {subject:16} {rules:>7}  {all:>10} {one:>10}  {}", remarks.join(", ")));
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use router_tests::needs;

    use super::*;

    #[test]
    fn what_a_list_allows_arrives_and_nothing_else_through_xvr_and_linux() -> Result<()> {
        if !needs::are_met(&["ip", "ethtool", "nft", "timeout"]) {
            return Ok(());
        }
        let mut lab = Lab::new()?;
        let mut xvr = Xvr::new(&mut lab)?;
        for family in [Family::V4, Family::V6] {
            let set = RuleSet::new(Shape::Firewall, family, 50);
            lab.generator().use_tuples(&set.tuples, family)?;
            xvr.add_list(1, &ListEntry::of(&set.list))?;
            let mut maps = Reference::new(&mut lab, Means::Maps, family)?;
            maps.load(&set)?;
            for target in [Target::Xvr(1), Target::Reference(maps)] {
                let Measured { new, known, .. } = Subject::new("", 50, target).measure(&mut lab, &mut xvr)?;
                assert_eq!((new.0.sent, new.0.arrived), (u64::from(TUPLES), HITS as u64), "{family}");
                assert_eq!(
                    (known.0.sent, known.0.arrived),
                    (u64::from(TUPLES), u64::from(TUPLES)),
                    "{family}"
                );
                assert_eq!(new.1.sent, new.1.arrived);
            }
            xvr.judge_by(0)?;
            xvr.remove_list(1)?;
        }
        Ok(())
    }
}
