//! What was on a wire: tcpdump, and questions about what it saw.
//!
//! How to say "no bad checksum on any wire" soundly: with the offloads of the default, Linux hands
//! a veth packets whose checksum is not finished (`CHECKSUM_PARTIAL`) or that are 64 KiB long,
//! because no wire will ever spoil them; tcpdump calls them incorrect, and the receiver is right
//! to take them. So the question is asked twice. With [`Lab::finish_checksums`] every driver sends
//! what it would send on copper, and a capture of what *arrives* on each bridge port may not show
//! a single wrong checksum. With the defaults, the receiving kernels' own counters of checksum
//! errors ([`crate::clients::checksum_errors`]) must stay zero.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::netns::{Namespace, Process, run_bounded, wait_until};

/// How tcpdump 4.99 marks checksums that do not hold: TCP, UDP, IPv4, ICMP, ICMPv6.
const WRONG: [&str; 5] =
    ["(incorrect ->", "[bad udp cksum", "bad cksum", "(wrong icmp cksum", "[bad icmp6 cksum"];
/// And those that do.
const RIGHT: [&str; 3] = ["(correct)", "udp sum ok", "icmp6 sum ok"];

/// The kernel hands frames over in blocks, the last one when it is full or, at the latest, after
/// tcpdump's timeout of a second.
const HANDED_OVER: Duration = Duration::from_millis(1200);
/// How long a busy machine may take to let tcpdump write down what it was handed.
const WRITTEN_DOWN: Duration = Duration::from_secs(20);

/// Which frames of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Those that come in.
    Arriving,
    /// Both ways.
    All,
}

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    complaints: JoinHandle<String>,
    recording: Recording,
}

impl Capture {
    /// Starts to capture, and returns once tcpdump listens. `filter` may be empty.
    pub fn start(namespace: &Namespace, device: &str, frames: Frames, filter: &str) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("{}-{device}-{serial}.pcap", namespace.name()));
        let recording = Recording { file };
        let mut command = namespace.command("tcpdump");
        command.args(["-n", "-U", "-Z", "root", "--buffer-size", "65536", "-i", device]);
        command.args(["-Q", if frames == Frames::Arriving { "in" } else { "inout" }]);
        command.arg("-w").arg(&recording.file).arg(filter).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut tcpdump = Process::spawn(&mut command)?;
        let stderr = tcpdump.child().stderr.take().context("tcpdump has no standard error")?;
        let mut complaints = BufReader::new(stderr);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            ensure!(complaints.read_line(&mut line)? > 0, "tcpdump on {device} ended at once");
        }
        let complaints =
            thread::spawn(move || complaints.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n"));
        Ok(Self { tcpdump, complaints, recording })
    }

    /// Starts one capture for every station and router port of a lab, of what arrives there.
    pub fn on_every_wire(lab: &Lab) -> Result<Vec<Self>> {
        let routers = lab.segments.iter().map(|segment| segment.router_port());
        let stations = lab.hosts.iter().filter(|host| host.name != "far").map(|host| host.port());
        routers.chain(stations).map(|port| Self::start(&lab.wire, &port, Frames::Arriving, "")).collect()
    }

    /// Stops it. An error if the kernel dropped frames, because then nobody knows what was on the
    /// wire.
    pub fn stop(self) -> Result<Recording> {
        thread::sleep(HANDED_OVER);
        self.stop_now()
    }

    /// Stops several.
    pub fn stop_all(captures: Vec<Self>) -> Result<Vec<Recording>> {
        thread::sleep(HANDED_OVER);
        captures.into_iter().map(Self::stop_now).collect()
    }

    /// tcpdump throws away what it was handed and has not written: it is let finish, which it has
    /// when it waits for more.
    fn stop_now(mut self) -> Result<Recording> {
        let tcpdump = &self.tcpdump;
        wait_until("tcpdump waits for frames", WRITTEN_DOWN, || tcpdump.is_asleep())?;
        self.tcpdump.signal(libc::SIGINT);
        self.tcpdump.wait(Duration::from_secs(20))?;
        let complaints = self.complaints.join().unwrap_or_default();
        // `0 packets dropped by kernel`
        let dropped = complaints.lines().find_map(|line| line.strip_suffix(" dropped by kernel"));
        let dropped = dropped.with_context(|| format!("tcpdump said {complaints:?}"))?;
        ensure!(dropped.starts_with("0 "), "tcpdump missed frames: {dropped} dropped by kernel");
        Ok(self.recording)
    }
}

/// Length of the longest frame on a wire of the lab: an MTU of 1500, and the Ethernet header.
const LONGEST_FRAME: usize = 1514;

/// What a capture saw; its file is removed on drop.
#[derive(Debug)]
pub struct Recording {
    file: PathBuf,
}

/// Checksums of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// How many hold.
    pub right: usize,
    /// The lines of tcpdump with one that does not.
    pub wrong: Vec<String>,
    /// How many frames are longer than the wire takes: GRO has merged them, of segments whose
    /// checksums held, or else it would not have. Their own is unfinished and not looked at.
    pub merged: usize,
}

impl Recording {
    /// A recording somebody else made.
    pub fn open(file: &Path) -> Self {
        Self { file: file.to_owned() }
    }

    /// One line for each frame that the filter matches.
    pub fn frames(&self, filter: &str) -> Result<Vec<String>> {
        Ok(self.read(&["-n", "-t", filter])?.lines().map(str::to_owned).collect())
    }

    /// Looks at every checksum of every frame.
    pub fn checksums(&self) -> Result<Checksums> {
        let merged = self.frames(&format!("greater {}", LONGEST_FRAME + 1))?.len();
        let mut sums = Checksums { merged, ..Checksums::default() };
        for line in self.read(&["-n", "-t", "-vv", &format!("less {LONGEST_FRAME}")])?.lines() {
            if WRONG.iter().any(|mark| line.contains(mark)) {
                sums.wrong.push(line.trim().to_owned());
            } else if RIGHT.iter().any(|mark| line.contains(mark)) {
                sums.right += 1;
            }
        }
        Ok(sums)
    }

    fn read(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("tcpdump");
        command.arg("-r").arg(&self.file).args(arguments);
        run_bounded(&mut command, Duration::from_secs(120))?.ok().map(|output| output.stdout)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        fs::remove_file(&self.file).ok();
    }
}
