//! Sends frames as they are recorded, by `BPF_PROG_TEST_RUN` on live frames.

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, XdpMode};
use bench_programs::{RECORDED, RECORDINGS, Recording, Reel};

use super::clock;
use crate::generator::{OBJECT, program};

/// What a NIC's driver hands over at a time.
const BATCH: u32 = 64;

/// The program that sends, and what it sends.
pub struct Replay {
    ebpf: Ebpf,
    frames: u32,
}

impl Replay {
    /// Loads the program and attaches it to a veth of the thread's network namespace that has no other use, or each
    /// call would wait for RCU.
    ///
    /// # Errors
    /// Not root, or the kernel refuses.
    pub fn new(spare: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("load the measuring programs")?;
        let replay = program(&mut ebpf, "bench_replay")?;
        replay.load().context("load bench_replay")?;
        replay.attach(spare, XdpMode::Driver).with_context(|| format!("attach bench_replay to {spare}"))?;
        Ok(Self { ebpf, frames: 0 })
    }

    /// Frames to be sent from now on, one after the other and over again.
    ///
    /// # Errors
    /// Too many, none, or one of the wrong length.
    pub fn record(&mut self, frames: &[Vec<u8>]) -> Result<()> {
        ensure!(!frames.is_empty() && frames.len() <= RECORDINGS as usize, "{} frames", frames.len());
        let mut map: Array<_, Recording> =
            self.ebpf.map_mut("FRAMES").context("no map FRAMES")?.try_into()?;
        for (number, frame) in (0..).zip(frames) {
            ensure!(frame.len() == RECORDED, "a frame of {} bytes is not of {RECORDED}", frame.len());
            let mut recording = Recording { bytes: [0; RECORDED / 8] };
            for (word, bytes) in recording.bytes.iter_mut().zip(frame.as_chunks().0) {
                *word = u64::from_ne_bytes(*bytes);
            }
            map.set(number, recording, 0)?;
        }
        self.frames = frames.len() as u32;
        Ok(())
    }

    /// Sends so many by an interface of the thread's network namespace, from the first one on; how many instructions
    /// that took.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send(&mut self, ifindex: u32, frames: u32) -> Result<u64> {
        let mut map: Array<_, Reel> = self.ebpf.map_mut("REEL").context("no map REEL")?.try_into()?;
        map.set(0, Reel { next: 0, frames: self.frames }, 0)?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let fields = [0, RECORDED as u32, 0, ifindex, 0, 0];
        let context: Vec<u8> = fields.iter().flat_map(|field| field.to_ne_bytes()).collect();
        let options = TestRunOptions {
            data_in: Some(&[0; RECORDED]),
            ctx_in: Some(&context),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let replay = program(&mut self.ebpf, "bench_replay")?;
        let begin = clock::instructions();
        let result = replay.test_run(options);
        let took = clock::instructions() - begin;
        result.context("send frames")?;
        Ok(took)
    }
}
