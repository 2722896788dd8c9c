//! Instructions per packet, exactly: the suite that `cargo xtask bench insn` runs in a guest whose qemu counts.
//!
//! There a nanosecond of the guest's clock is an instruction ([`clock`]), so that nothing that the machine does beside
//! changes a number, and a difference of one percent is one. A row ([`rows`]) is a way of a packet: frames of its flows
//! are recorded, sent by live frames ([`replay`]) through a router ([`between`]) and counted where they arrive. What a
//! window of them takes, without what every window takes, is divided by the frames.
//!
//! What it cannot see is memory: a byte costs the same wherever it lies. That is what the other suites are for.

mod between;
mod clock;
mod replay;
mod rows;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench_programs::RECORDINGS;

use crate::generator::Exit;
use crate::lab::{Lab, inside};
use between::{Between, Routers};
use replay::Replay;
use rows::{Fate, Flows, Row, Side};

/// What is to be measured.
#[derive(Debug, clap::Args)]
pub struct Insn {
    /// Linux' own means too.
    #[arg(long)]
    pub references: bool,
    /// Only rows whose name contains this.
    #[arg(long)]
    pub only: Option<String>,
}

/// Flows whose packets take turns when known ones are measured.
const KNOWN: u16 = 512;
/// Frames of a window, of known flows.
const WINDOW: u32 = 8192;
/// Of new ones, each the first of its own.
const NEW: u16 = 4096;
/// Windows of known flows.
const WINDOWS: usize = 4;
/// Of new ones, whose memory is allocated, now and then at length; the first is thrown away, since tables grow in it.
const WINDOWS_OF_NEW: usize = 9;
/// Longer than RCU and what it frees by take.
const SETTLING: Duration = Duration::from_millis(500);
const _: () = assert!(KNOWN as u32 <= RECORDINGS && NEW as u32 <= RECORDINGS);

/// Runs the suite; prints a line a row, `insn|NAME|LEAST|MOST`: what interrupts a window only ever adds.
///
/// # Errors
/// The clock does not count instructions; something cannot be set up; packets do not go the way they should.
pub fn run(arguments: &Insn) -> Result<()> {
    clock::check()?;
    let lab = Lab::new()?;
    let replay = inside(lab.end(Side::Inside as usize), || Replay::new("unused"))??;
    let mut bench = Bench { lab, replay, routers: Routers::default(), call: 0 };
    bench.call = bench.cost_of_a_call()?;
    let is_wanted = |row: &Row| arguments.only.as_ref().is_none_or(|only| row.name.contains(only.as_str()));
    for row in rows::all(arguments.references).into_iter().filter(is_wanted) {
        let mut windows = bench.measure(&row).with_context(|| format!("measure {:?}", row.name))?;
        windows.sort_by(f64::total_cmp);
        let (least, most) = (windows[0], windows[windows.len() - 1]);
        println!("insn|{}|{least:.2}|{most:.2}", row.name);
    }
    Ok(())
}

struct Bench {
    lab: Lab,
    replay: Replay,
    routers: Routers,
    /// What one system call takes that sends nothing.
    call: u64,
}

impl Bench {
    /// A call costs so much, and each frame so much: of two windows the difference tells the frames'.
    fn cost_of_a_call(&mut self) -> Result<u64> {
        const FEW: u32 = 64;
        let row = rows::no_router();
        let frames: Vec<_> =
            (0..KNOWN).map(|flow| self.frame(&row, (row.packet)(flow))).collect::<Result<_>>()?;
        self.replay.record(&frames)?;
        self.send(&row, Side::Inside, WINDOW)?;
        let few = self.send(&row, Side::Inside, FEW)?.instructions;
        let many = self.send(&row, Side::Inside, WINDOW + FEW)?.instructions;
        Ok(few.saturating_sub((many - few) * u64::from(FEW) / u64::from(WINDOW)))
    }

    /// Instructions per packet, of each window.
    fn measure(&mut self, row: &Row) -> Result<Vec<f64>> {
        self.routers.prepare(&mut self.lab, &row.between)?;
        match row.flows {
            Flows::Known => {
                self.open(row)?;
                let side = self.record(row, KNOWN)?;
                self.sent(row, side, u32::from(KNOWN))?;
                (0..WINDOWS).map(|_| self.sent(row, side, WINDOW)).collect()
            }
            Flows::New => {
                let side = self.record(row, NEW)?;
                let window = |_| {
                    self.forget_flows()?;
                    self.sent(row, side, u32::from(NEW))
                };
                let windows: Vec<_> = (0..WINDOWS_OF_NEW).map(window).collect::<Result<_>>()?;
                Ok(windows[1..].to_vec())
            }
        }
    }

    fn forget_flows(&mut self) -> Result<()> {
        self.routers.forget_flows()?;
        // What was deleted is freed later, and not in a window. While the guest sleeps its clock jumps: that takes
        // no time.
        std::thread::sleep(SETTLING);
        Ok(())
    }

    /// What goes before the packets of known flows: step by step, each step of all flows.
    fn open(&mut self, row: &Row) -> Result<()> {
        self.forget_flows()?;
        for step in 0..(row.before)(0).len() {
            let mut frames = Vec::new();
            let mut side = Side::Inside;
            for flow in 0..KNOWN {
                let packet = (row.before)(flow).swap_remove(step);
                side = packet.side;
                frames.push(self.frame(row, packet)?);
            }
            self.replay.record(&frames)?;
            let sent = self.send(row, side, u32::from(KNOWN))?;
            ensure!(
                sent.arrived == u64::from(KNOWN),
                "step {step} of opening: {} of {KNOWN} have arrived; {}",
                sent.arrived,
                self.routers.account()
            );
        }
        Ok(())
    }

    fn record(&mut self, row: &Row, flows: u16) -> Result<Side> {
        let frames: Vec<_> =
            (0..flows).map(|flow| self.frame(row, (row.packet)(flow))).collect::<Result<_>>()?;
        self.replay.record(&frames)?;
        Ok((row.packet)(0).side)
    }

    /// A window of frames that go as they should; instructions per frame.
    fn sent(&mut self, row: &Row, side: Side, frames: u32) -> Result<f64> {
        let sent = self.send(row, side, frames)?;
        let expected = if row.fate == Fate::Arrives { frames } else { 0 };
        ensure!(
            sent.arrived == u64::from(expected),
            "{} of {frames} frames have arrived; {}",
            sent.arrived,
            self.routers.account()
        );
        Ok(sent.instructions.saturating_sub(self.call) as f64 / f64::from(frames))
    }

    fn frame(&self, row: &Row, packet: rows::Packet) -> Result<Vec<u8>> {
        let exit = self.exit(&row.between, packet.side)?;
        let wire = row.between.wire(packet.side as usize);
        let to = match row.between.is_bridge() {
            true => self.exit(&row.between, packet.side.other())?.mac,
            false => exit.router_mac,
        };
        Ok(packet.bytes((to, exit.mac), wire))
    }

    fn exit(&self, between: &Between, side: Side) -> Result<Exit> {
        let Some(router) = self.routers.of(between)? else { return Ok(self.lab.hop()) };
        Ok(match side {
            Side::Inside => router.forth,
            Side::Outside => router.back,
        })
    }

    fn send(&mut self, row: &Row, side: Side, frames: u32) -> Result<Sent> {
        let ifindex = self.exit(&row.between, side)?.ifindex;
        let before = self.lab.generator().arrived()?;
        let replay = &mut self.replay;
        let instructions = inside(self.lab.end(side as usize), || replay.send(ifindex, frames))??;
        Ok(Sent { instructions, arrived: self.lab.generator().arrived()? - before })
    }
}

struct Sent {
    instructions: u64,
    arrived: u64,
}
