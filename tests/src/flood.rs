//! Floods: as many flows as a host can begin that lead nowhere, at a pace, until somebody stops them.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::frames;
use crate::lab::{Host, Lab, Segment};
use crate::netns::wait_until;

/// Where floods from inside go: addresses that nobody has (RFC 5737).
pub const NOWHERE: [u8; 3] = [192, 0, 2];

/// Makes the gateway swallow what goes there, instead of answering each packet.
pub fn swallow(lab: &Lab) -> Result<()> {
    let [a, b, c] = NOWHERE;
    lab.host("gateway").namespace.ip(&format!("route add blackhole {a}.{b}.{c}.0/24\n"))
}

/// What a flood is made of. Ports are random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP SYNs.
    Syn,
    /// UDP datagrams.
    Udp,
    /// First and later fragments of UDP datagrams, none of which is ever whole.
    Fragments,
}

/// To whom a flood goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Random addresses of [`NOWHERE`].
    Nowhere,
    /// One address.
    One(Ipv4Addr),
}

/// Frames in a burst, and the time from one to the next.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);

/// A flood that is running.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Flood {
    /// Starts it, by the router of the host's segment: 32 frames a millisecond, if the machine can.
    pub fn start(from: &Host, segment: &Segment, kind: Kind, target: Target) -> Result<Self> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let mut packets = Packets { kind, target, from: from.v4.octets(), random: 0x9e37_79b9_7f4a_7c15 };
        let mac = segment.router_mac;
        let thread = from.namespace.spawn(move || {
            let socket = frames::socket()?;
            while !stopped.load(Ordering::Relaxed) {
                let burst: Vec<_> = (0..BURST).map(|_| frames::ipv4(mac, &packets.next())).collect();
                counted.fetch_add(send(&socket, &burst)? as u64, Ordering::Relaxed);
                sleep(PAUSE);
            }
            Ok(())
        })?;
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// Waits until so many frames are sent.
    pub fn wait_for(&self, frames: u64) -> Result<()> {
        let is_there = || self.sent.load(Ordering::Relaxed) >= frames;
        wait_until(&format!("{frames} frames are sent"), Duration::from_secs(60), is_there)
    }

    /// Stops it; how many frames it was.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the thread that sends does not panic").context("send a flood")?;
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Packets {
    kind: Kind,
    target: Target,
    from: [u8; 4],
    random: u64,
}

impl Packets {
    fn next(&mut self) -> Vec<u8> {
        // Xorshift: enough to look like chance.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [a, b, c, d, last, order, id @ ..] = self.random.to_be_bytes();
        let id = u16::from_be_bytes(id);
        let high = |port: [u8; 2]| u16::from_be_bytes(port).max(1024);
        let (source, destination) = (high([a, b]), high([c, d]));
        let to = match self.target {
            Target::Nowhere => [NOWHERE[0], NOWHERE[1], NOWHERE[2], last],
            Target::One(address) => address.octets(),
        };
        match self.kind {
            Kind::Syn => frames::ipv4_packet(self.from, to, 6, 0, id, &frames::syn(source, destination)),
            Kind::Udp => {
                let datagram = frames::udp_datagram(source, destination, b"flood");
                frames::ipv4_packet(self.from, to, 17, 0, id, &datagram)
            }
            Kind::Fragments => {
                let datagram = frames::udp_datagram(source, destination, &[7; 1600]);
                let mut pieces = frames::ipv4_fragments(self.from, to, &datagram, id);
                pieces.swap_remove(usize::from(order & 1))
            }
        }
    }
}

/// Puts frames on the wire in one call; how many. Where there is no room they are gone, as on any wire.
fn send(socket: &OwnedFd, burst: &[Vec<u8>]) -> io::Result<usize> {
    let mut buffers: Vec<_> = burst
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    let mut messages: Vec<_> = buffers
        .iter_mut()
        .map(|buffer| {
            // SAFETY: all zero is valid for it.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (buffer, 1);
            message
        })
        .collect();
    // SAFETY: every message has one buffer of ours with its own length; the kernel reads them.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
    match (sent, io::Error::last_os_error()) {
        (0.., _) => Ok(sent as usize),
        (_, error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
        (_, error) => Err(error),
    }
}
