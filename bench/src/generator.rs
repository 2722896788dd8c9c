//! The generator: frames made by an XDP program that `BPF_PROG_TEST_RUN` runs on live frames, and a sink that
//! counts them where they arrive.
//!
//! Everything is one closed loop on one CPU: the generator's system call sends a batch, and before it goes on, the
//! veths' NAPI has carried every frame through the router into the sink, in the same thread. So the thread's CPU
//! time is what generator, router and sink have cost. What `ksoftirqd` of that CPU does in its stead when a
//! router is slow is added.
//!
//! The program has to be attached somewhere, or each system call waits for two RCU grace periods; and frames
//! are not restored between runs, so it writes them whole.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, DevMap, PerCpuArray};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use bench_programs::{COVER, FLOWS, Grid, Hop, Making, TEMPLATE, TUPLES, Tuple};

use crate::rules::{Family, HITS};
use crate::wire::Wire;

/// The measuring programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-programs.o"));

/// Flows that are cycled over when known ones are measured.
pub const KNOWN: u32 = 512;
const _: () = assert!((KNOWN as usize) < HITS, "known flows are such as the list allows");

/// Odd, so that every tuple's turn comes; large, so that neighbours in the table do not come one after the other.
const STRIDE: u32 = 10_007;
/// Source ports of new flows, and known ones' behind them.
const NEW_PORTS: u16 = 1024;
const KNOWN_PORTS: u16 = NEW_PORTS + FLOWS as u16;
/// What a NIC's driver hands over at a time.
const BATCH: u32 = 64;
/// The CPU that everything happens on.
const CPU: usize = 0;

/// A veth that frames leave by, and what they find behind it.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Its interface index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The router's.
    pub router_mac: [u8; 6],
}

/// Which frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Each the first of a flow that was not there before, if flows were forgotten [`FLOWS`] frames ago.
    New,
    /// The first of each known flow.
    Opening,
    /// An answer in each of them.
    Answers,
    /// Of known flows, in no order.
    Known,
    /// Of counted flows, one after the other.
    InTurn(Counted),
    /// Of counted flows, in no order.
    Scattered(Counted),
}

/// Flows of UDP that are counted up, a power of two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// As the programs count.
    pub grid: Grid,
    /// How many there are, as a power of two.
    pub bits: u32,
    /// Whether they begin at the sink.
    pub is_inbound: bool,
}

impl Frames {
    /// Whether they go from the sink to the generator.
    pub const fn go_back(self) -> bool {
        match self {
            Self::Answers => true,
            Self::New | Self::Opening | Self::Known => false,
            Self::InTurn(counted) | Self::Scattered(counted) => counted.is_inbound,
        }
    }
}

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// So many frames at most.
    pub frames: u32,
    /// No longer than this.
    pub limit: Duration,
    /// How many frames may be under way at once.
    pub batch: u32,
    /// How many are sent by one system call, after which the time is looked at.
    pub at_once: u32,
}

impl Window {
    /// So many frames. A system call takes some microseconds besides: one sends them all.
    pub const fn of(frames: u32) -> Self {
        Self { frames, limit: Duration::MAX, batch: BATCH, at_once: frames }
    }

    /// A window for frames that cost so much each: as long as asked for, and no batch that takes longer than the
    /// kernel lets softirqs run in one go.
    pub fn for_cost(frames: u32, limit: Duration, nanoseconds: f64) -> Self {
        let of = |time: f64, most: f64| (time / nanoseconds.max(1.0)).clamp(1.0, most) as u32;
        let batch = of(700_000.0, f64::from(BATCH));
        let at_once = of(20_000_000.0, f64::from(frames)).max(batch);
        Self { frames, limit, batch, at_once }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Frames that were sent.
    pub sent: u64,
    /// Frames that arrived.
    pub arrived: u64,
    /// CPU time of all of it, in nanoseconds.
    pub cpu: u64,
}

impl Passed {
    /// CPU time of one frame, in nanoseconds.
    pub fn cost(&self) -> f64 {
        self.cpu as f64 / self.sent.max(1) as f64
    }
}

/// The programs.
pub struct Generator {
    ebpf: Ebpf,
    family: Family,
    /// The number of the next frame of a new flow.
    next: u32,
    /// How long frames are.
    length: usize,
    /// How they are on the wire.
    wire: Wire,
}

impl Generator {
    /// Loads the programs and attaches the one that makes frames to a veth of the thread's network namespace that
    /// has no other use.
    ///
    /// # Errors
    /// Not root, or the kernel refuses.
    pub fn new(spare: &str) -> Result<Self> {
        ensure!(!OBJECT.is_empty(), "this bench was built without packet programs (ROUTER_BPF_SKIP)");
        let mut ebpf = Ebpf::load(OBJECT).context("load the measuring programs")?;
        for name in ["bench_make", "bench_sink", "bench_forth", "bench_back"] {
            program(&mut ebpf, name)?.load().with_context(|| format!("load {name}"))?;
        }
        let make = program(&mut ebpf, "bench_make")?;
        make.attach(spare, XdpMode::Driver).with_context(|| format!("attach bench_make to {spare}"))?;
        Ok(Self { ebpf, family: Family::V4, next: 0, length: TEMPLATE, wire: Wire::Plain })
    }

    /// Drops and counts what arrives at an interface of the thread's network namespace, until that is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sink(&mut self, interface: &str) -> Result<()> {
        let sink = program(&mut self.ebpf, "bench_sink")?;
        sink.attach(interface, XdpMode::Driver)
            .map(drop)
            .with_context(|| format!("attach bench_sink to {interface}"))
    }

    /// Makes two interfaces of the thread's network namespace a router that does nothing but send on, each way by
    /// one of these exits.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send_on(&mut self, ports: [(&str, Exit); 2]) -> Result<()> {
        for (way, (name, (interface, exit))) in (0..).zip(["bench_forth", "bench_back"].iter().zip(ports)) {
            let mut bytes = [0; 16];
            bytes[..6].copy_from_slice(&exit.router_mac);
            bytes[6..12].copy_from_slice(&exit.mac);
            let mut macs = [0; 4];
            for (word, bytes) in macs.iter_mut().zip(bytes.chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            let mut hops: Array<_, Hop> = self.ebpf.map_mut("HOPS").context("no map HOPS")?.try_into()?;
            hops.set(way, Hop { macs }, 0)?;
            let mut ways: DevMap<_> = self.ebpf.map_mut("WAYS").context("no map WAYS")?.try_into()?;
            ways.set(way, exit.ifindex, None, 0)?;
            program(&mut self.ebpf, name)?
                .attach(interface, XdpMode::Driver)
                .with_context(|| format!("attach {name} to {interface}"))?;
        }
        Ok(())
    }

    /// Has the sink with this MAC address send datagrams back, or none.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn answer_at(&mut self, mac: Option<[u8; 6]>) -> Result<()> {
        let whose = mac.map_or(0, |mac| u32::from(u16::from_ne_bytes([mac[4], mac[5]])));
        let mut map: Array<_, u32> =
            self.ebpf.map_mut("ANSWERING").context("no map ANSWERING")?.try_into()?;
        Ok(map.set(0, whose, 0)?)
    }

    /// Frames are so long from now on, without their checksum; 80 bytes at least.
    pub fn use_length(&mut self, length: usize) {
        self.length = length.max(TEMPLATE);
    }

    /// Frames are so on the wire from now on, by which they are longer.
    pub const fn use_wire(&mut self, wire: Wire) {
        self.wire = wire;
    }

    /// Frames are of these flows from now on.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn use_tuples(&mut self, tuples: &[Tuple], family: Family) -> Result<()> {
        ensure!(tuples.len() == TUPLES as usize, "{} tuples are not {TUPLES}", tuples.len());
        let mut table: Array<_, Tuple> = self.ebpf.map_mut("TABLE").context("no map TABLE")?.try_into()?;
        for (index, tuple) in (0..).zip(tuples) {
            table.set(index, tuple, 0)?;
        }
        self.family = family;
        Ok(())
    }

    /// Sends frames by an interface of the calling thread's network namespace, on one CPU.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send(&mut self, exit: Exit, frames: Frames, window: Window) -> Result<Passed> {
        let making = self.making(exit, frames);
        let first = making.made;
        let mut map: Array<_, Making> = self.ebpf.map_mut("MAKING").context("no map MAKING")?.try_into()?;
        map.set(0, making, 0)?;
        let arrived = self.arrived()?;
        let (cpu, helper) = on_one_cpu(|| {
            let begin = (thread_time()?, softirq_time(Some(CPU))?);
            self.run(exit, window)?;
            Ok((thread_time()? - begin.0, softirq_time(Some(CPU))? - begin.1))
        })?;
        let map: Array<_, Making> = self.ebpf.map("MAKING").context("no map MAKING")?.try_into()?;
        let made = map.get(&0, 0)?.made;
        if frames == Frames::New {
            self.next = made;
        }
        let sent = u64::from(made.wrapping_sub(first));
        Ok(Passed { sent, arrived: self.arrived()? - arrived, cpu: cpu + helper })
    }

    fn run(&mut self, exit: Exit, window: Window) -> Result<()> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let length = self.length + self.wire.front();
        let context: Vec<u8> =
            [0, length as u32, 0, exit.ifindex, 0, 0].iter().flat_map(|field| field.to_ne_bytes()).collect();
        let frame = vec![0; length];
        let begin = Instant::now();
        let mut left = window.frames;
        while left > 0 {
            let repeat = left.min(window.at_once);
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat,
                attrs: TestRunAttrs::new().xdp_live_frames(window.batch),
                ..TestRunOptions::new()
            };
            program(&mut self.ebpf, "bench_make")?.test_run(options).context("send frames")?;
            left -= repeat;
            if begin.elapsed() > window.limit {
                break;
            }
        }
        Ok(())
    }

    /// How many frames have arrived at all sinks.
    ///
    /// # Errors
    /// The counter cannot be read.
    pub fn arrived(&self) -> Result<u64> {
        let map: PerCpuArray<_, u64> = self.ebpf.map("COUNT").context("no map COUNT")?.try_into()?;
        Ok(map.get(&0, 0)?.iter().sum())
    }

    fn making(&self, exit: Exit, frames: Frames) -> Making {
        const SYN: u8 = 2;
        const ACK: u8 = 16;
        let counted = match frames {
            Frames::InTurn(counted) | Frames::Scattered(counted) => Some(counted),
            _ => None,
        };
        let family = if counted.is_some() { Family::V4 } else { self.family };
        let template = template(exit, family, self.length);
        let (mut header_sum, mut words, mut cover) = (0, [0; TEMPLATE / 4], [0; COVER / 4]);
        let mut whole = template.to_vec();
        whole.resize(self.length, 0);
        for (words, bytes) in [
            (&mut words[..], &template[..]),
            (&mut cover, &self.wire.around(&whole, frames.go_back().into())),
        ] {
            for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        for pair in template[14..34].chunks_exact(2) {
            header_sum += u32::from(u16::from_ne_bytes([pair[0], pair[1]]));
        }
        let (stride, mask, first_port, made) = match frames {
            Frames::New => (STRIDE, FLOWS - 1, NEW_PORTS, self.next),
            Frames::Opening | Frames::Answers => (1, KNOWN - 1, KNOWN_PORTS, 0),
            Frames::Known => (STRIDE, KNOWN - 1, KNOWN_PORTS, 0),
            Frames::InTurn(counted) => (1, mask(counted), NEW_PORTS, 0),
            Frames::Scattered(counted) => (STRIDE, mask(counted), NEW_PORTS, 0),
        };
        let (sequence, acknowledged, tcp_flags) = match frames {
            Frames::New | Frames::Opening => (0, 0, SYN),
            Frames::Answers => (0, 1, SYN | ACK),
            Frames::Known => (1, 1, ACK),
            Frames::InTurn(_) | Frames::Scattered(_) => (0, 0, 0),
        };
        Making {
            template: words,
            header_sum,
            stride,
            mask,
            sequence: u32::to_be(sequence),
            acknowledged: u32::to_be(acknowledged),
            tcp_flags,
            is_reply: u8::from(frames == Frames::Answers),
            is_v6: u8::from(family == Family::V6),
            is_grid: u8::from(counted.is_some()),
            first_port,
            vlans: self.wire.vlans(),
            made,
            grid: counted.map_or(NO_GRID, |counted| counted.grid),
            front: self.wire.front() as u32,
            cover,
        }
    }
}

const NO_GRID: Grid = Grid { source: 0, destination: 0, source_bits: 0, port_bits: 0, port: 0, ports: 1 };

const fn mask(counted: Counted) -> u32 {
    (1 << counted.bits) - 1
}

/// Headers without what differs from flow to flow.
fn template(exit: Exit, family: Family, length: usize) -> [u8; TEMPLATE] {
    let mut frame = [0; TEMPLATE];
    frame[..6].copy_from_slice(&exit.router_mac);
    frame[6..12].copy_from_slice(&exit.mac);
    let packet = length - 14;
    match family {
        Family::V4 => {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame[14] = 0x45;
            frame[16..18].copy_from_slice(&(packet as u16).to_be_bytes());
            frame[20] = 0x40; // do not fragment
            frame[22] = 64;
        }
        Family::V6 => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[14] = 0x60;
            frame[18..20].copy_from_slice(&((packet - 40) as u16).to_be_bytes());
            frame[21] = 64;
        }
    }
    frame
}

/// One of the programs.
///
/// # Errors
/// The object has none of this name.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?)
}

/// CPU time of the calling thread, in nanoseconds.
pub fn thread_time() -> Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the value that is given.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    ensure!(result == 0, "read the thread's clock: {}", io::Error::last_os_error());
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// CPU time of the threads that take softirqs over, in nanoseconds: that of one CPU, or of all.
///
/// # Errors
/// The kernel does not say.
pub fn softirq_time(cpu: Option<usize>) -> Result<u64> {
    static PIDS: std::sync::OnceLock<Vec<(usize, u32)>> = std::sync::OnceLock::new();
    let find = || {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let named = pids.filter_map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Some((name.trim().strip_prefix("ksoftirqd/")?.parse().ok()?, pid))
        });
        named.collect()
    };
    // In a container there may be none to see.
    let threads = PIDS.get_or_init(find).iter().filter(|(of, _)| cpu.is_none_or(|cpu| cpu == *of));
    let times = threads.map(|(_, pid)| -> Result<u64> {
        let text =
            fs::read_to_string(format!("/proc/{pid}/schedstat")).context("read a thread's CPU time")?;
        text.split_whitespace().next().and_then(|time| time.parse().ok()).context("schedstat has no time")
    });
    times.sum()
}

/// Runs something on [`CPU`] alone, in front of whatever else is to run there.
fn on_one_cpu<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: all zero is an empty set; the calls are about the calling thread and read a value of ours.
    let before = unsafe {
        let mut before: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&before), &raw mut before);
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(CPU, &mut one);
        ensure!(
            libc::sched_setaffinity(0, size_of_val(&one), &raw const one) == 0,
            "move to CPU {CPU}: {}",
            io::Error::last_os_error()
        );
        libc::setpriority(libc::PRIO_PROCESS, 0, -5);
        before
    };
    let result = work();
    // SAFETY: as above.
    unsafe {
        libc::sched_setaffinity(0, size_of_val(&before), &raw const before);
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
    }
    result
}
