//! Frames that nobody would send: those of the scenarios and of the model, damaged at random, one after
//! the other through a router that remembers. What has to hold whatever a frame is: [`properties`].
//!
//! No coverage guides it, which wants a nightly compiler. What becomes of a frame does: one that has
//! another outcome than any of its kind joins those that are damaged further.
//!
//! Sequences that once failed are in `tests/fixtures/fuzz`, a file each: a line is a NIC and a frame, `#` begins
//! a comment. Every one is sent before anything new is tried.

mod mutate;
pub mod properties;

use std::collections::HashSet;
use std::fmt::Write;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use router_common::account::Hook;
use router_common::verdict::FORWARDED;

use crate::host::HostRouter;
use crate::model::compare::Subject;
use crate::model::generate::{Generator, Random};
use crate::router::fixture;
use crate::scenario::{ETHERNET, Nic, Router, Sent, host_mac, scenarios};
use mutate::mutate;

/// A frame and the NIC that it comes in by.
pub type Input = (Nic, Vec<u8>);

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// So many frames.
    Frames(usize),
    /// For so long.
    Time(Duration),
}

/// Frames of one sequence: then the router forgets.
const LENGTH: usize = 1000;
/// How many frames may join those that there were at first.
const LEARNT: usize = 4000;

/// Sends damaged frames until the budget is spent; hands back how many.
///
/// # Panics
/// Something did not hold. The message has the frames that led to it, as a file of the corpus has them.
pub fn fuzz(router: &mut dyn Subject, seed: u64, budget: Budget) -> usize {
    for (name, inputs) in corpus() {
        if let Err((_, problem)) = all_hold(router, &inputs) {
            panic!("{name}: {problem}");
        }
    }
    let mut random = Random::new(seed);
    let mut pool = seeds();
    let limit = pool.len() + LEARNT;
    let (mut known, begin, mut tried) = (HashSet::new(), Instant::now(), 0);
    while match budget {
        Budget::Frames(frames) => tried < frames,
        Budget::Time(time) => begin.elapsed() < time,
    } {
        let mut sequence = Sequence::new(router);
        for _ in 0..LENGTH {
            let input = next(&mut random, &pool);
            let sent = sequence.send(&input);
            let Ok(Some(outcome)) = sent else {
                let Err(problem) = sent else { continue };
                let sent = sequence.sent;
                panic!("seed {seed}: {problem}\n{}", keep(router, sent, &problem));
            };
            tried += 1;
            if pool.len() < limit && known.insert(kind(&input, outcome)) {
                pool.push(input);
            }
        }
        if let Err(problem) = sequence.check() {
            let sent = sequence.sent;
            panic!("seed {seed}: {problem}\n{}", keep(router, sent, &problem));
        }
    }
    tried
}

/// What tells frames apart that something can be learnt from.
fn kind((nic, frame): &Input, outcome: u32) -> (Nic, u32, [u8; 4]) {
    let byte = |at: usize| frame.get(at).copied().unwrap_or(0);
    let is_v6 = byte(ETHERNET) >> 4 == 6;
    let (protocol, l4) = if is_v6 { (20, 54) } else { (23, 34) };
    (*nic, outcome, [byte(13), byte(protocol), byte(l4), byte(20) & 0x3f])
}

fn next(random: &mut Random, pool: &[Input]) -> Input {
    let (mut nic, mut frame) = pool[random.below(pool.len())].clone();
    // Some as they are, so that there are flows to be met.
    if random.percent(25) {
        pad(random, &mut frame);
        return (nic, frame);
    }
    for _ in 0..=random.below(3) {
        let (_, other) = &pool[random.below(pool.len())];
        mutate(random, &mut frame, other);
    }
    if random.percent(10) {
        nic = random.pick(&Nic::ALL);
        if random.percent(70) && frame.len() >= ETHERNET {
            frame[..12].copy_from_slice(&[nic.mac(), host_mac(nic)].concat());
        }
    }
    frame.truncate(1900);
    pad(random, &mut frame);
    (nic, frame)
}

/// As Ethernet does with what is short, or a little more.
fn pad(random: &mut Random, frame: &mut Vec<u8>) {
    const HEADERS: usize = ETHERNET + 40 + 20;
    if random.percent(50) && (ETHERNET..HEADERS).contains(&frame.len()) {
        frame.resize(HEADERS, 0);
    }
}

/// Frames through a router that knew of none.
struct Sequence<'a> {
    router: &'a mut dyn Subject,
    sent: Vec<Input>,
    counted: u64,
}

impl<'a> Sequence<'a> {
    fn new(router: &'a mut dyn Subject) -> Self {
        router.forget();
        Self { router, sent: vec![], counted: 0 }
    }

    /// Sends one, if it can be, and says how it was counted, or what does not hold.
    fn send(&mut self, input: &Input) -> Result<Option<u32>, String> {
        let (nic, frame) = input;
        let header = if frame.get(12..14) == Some(&[0x86, 0xdd]) { 40 } else { 20 };
        if frame.len() < self.router.shortest(header) {
            return Ok(None);
        }
        self.sent.push(input.clone());
        properties::parse(frame)?;
        let sent = catch_unwind(AssertUnwindSafe(|| self.router.send(*nic, frame)));
        let sent: Sent = sent.map_err(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned())).unwrap_or_default()
        })?;
        self.counted += 1;
        properties::of_frame(&*self.router, frame, &sent).map(|()| Some(sent.outcome)).map_err(|problem| {
            let left = if sent.outcome == FORWARDED { hex(&sent.frame) } else { String::new() };
            format!("{problem} {left}")
        })
    }

    /// Every frame is accounted for, and every flow entry has its reverse.
    fn check(&mut self) -> Result<(), String> {
        self.router.account()?.balances(self.router.hook(), self.counted)?;
        match self.router.flow_entries()? {
            (_, 0) => Ok(()),
            (found, alone) => Err(format!("{alone} of {found} flow entries are without their reverse")),
        }
    }
}

/// Whether everything holds for a whole sequence; else which frame was the last, and the problem.
fn all_hold(router: &mut dyn Subject, inputs: &[Input]) -> Result<(), (usize, String)> {
    let mut sequence = Sequence::new(router);
    for (at, input) in inputs.iter().enumerate() {
        sequence.send(input).map_err(|problem| (at, problem))?;
    }
    sequence.check().map_err(|problem| (inputs.len() - 1, problem))
}

/// Leaves frames out as long as something still does not hold, and writes down the rest, also as a file of
/// the corpus if `XVR_FUZZ_KEEP` is a folder for it.
fn keep(router: &mut dyn Subject, mut inputs: Vec<Input>, problem: &str) -> String {
    let mut size = inputs.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < inputs.len() && inputs.len() > 1 {
            let end = (at + size).min(inputs.len());
            let fewer = [&inputs[..at], &inputs[end..]].concat();
            match all_hold(router, &fewer) {
                Err((last, _)) if !fewer.is_empty() => inputs = fewer[..=last].to_vec(),
                _ => at = end,
            }
        }
        size /= 2;
    }
    let mut text = format!("# {}\n", problem.lines().next().unwrap_or_default());
    for (nic, frame) in &inputs {
        let _ = writeln!(text, "{nic:?} {}", hex(frame));
    }
    if let Some(folder) = std::env::var_os("XVR_FUZZ_KEEP").map(PathBuf::from) {
        let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let file = folder.join(format!("{sum:016x}.txt"));
        let kept = fs::write(&file, &text);
        text += &kept.map_or_else(|error| error.to_string(), |()| format!("kept as {}", file.display()));
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What failed once: file names and sequences.
///
/// # Panics
/// A file is not what it should be.
pub fn corpus() -> Vec<(String, Vec<Input>)> {
    let folder = fixture("fuzz");
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut corpus: Vec<_> = files
        .map(|file| {
            let path = file.expect("a folder that can be read").path();
            let text = fs::read_to_string(&path).expect("a file of lines");
            let inputs = text.lines().filter_map(|line| {
                let line = line.split('#').next().unwrap_or_default().trim();
                let (nic, frame) = line.split_once(' ')?;
                let nic = Nic::ALL.into_iter().find(|known| format!("{known:?}") == nic);
                let bytes = (0..frame.len() / 2).map(|at| u8::from_str_radix(&frame[at * 2..at * 2 + 2], 16));
                Some((nic.expect("a NIC"), bytes.collect::<Result<_, _>>().expect("hexadecimal digits")))
            });
            (path.display().to_string(), inputs.collect())
        })
        .collect();
    corpus.sort_by(|(a, _), (b, _)| a.cmp(b));
    corpus
}

/// Writes down what scenarios send.
struct Recorder {
    router: HostRouter,
    sent: Vec<Input>,
}

impl Router for Recorder {
    fn hook(&self) -> Hook {
        self.router.hook()
    }

    fn send(&mut self, nic: Nic, frame: &[u8]) -> Sent {
        self.sent.push((nic, frame.to_vec()));
        self.router.send(nic, frame)
    }
}

/// The frames of every scenario, each once, and some of the model's.
fn seeds() -> Vec<Input> {
    let mut seeds = vec![];
    for hook in [Hook::Xdp, Hook::Tc] {
        for (_, scenario) in scenarios(hook) {
            let mut recorder = Recorder { router: HostRouter::new(hook), sent: vec![] };
            scenario(&mut recorder);
            seeds.extend(recorder.sent);
        }
    }
    let mut generator = Generator::new(1);
    seeds.extend((0..300).map(|_| generator.probe()).map(|probe| (probe.nic, probe.bytes())));
    let mut known = HashSet::new();
    seeds.retain(|seed| known.insert(seed.clone()));
    seeds
}
