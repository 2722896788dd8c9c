//! A host's bridge with VLANs: one trunk into the router's namespace, and stations that know nothing of tags.
//!
//! It is a thread between tap devices, which needs no kernel with VLANs, and sees every frame of the trunk as it is
//! on the wire.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use crate::lab::{Host, Lab};
use crate::netns::{Lifetime, Namespace};

/// A tag: ethertype and VLAN id.
pub type Tag = (u16, u16);

/// A station of the switch.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    /// What it is called.
    pub name: &'static str,
    /// The tags of its network, outermost first.
    pub tags: &'static [Tag],
    /// Its Ethernet address.
    pub mac: &'static str,
    /// Its address, and length of the prefix; unspecified for one that asks by DHCP.
    pub v4: (Ipv4Addr, u8),
    /// Its gateway.
    pub via: Ipv4Addr,
}

/// The switch, until it is dropped.
#[derive(Debug)]
pub struct Switch {
    /// Its stations.
    pub hosts: Vec<Host>,
    trunk: File,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The longest frame that is carried.
const LONGEST: usize = 65_536;

impl Switch {
    /// A switch whose trunk is a NIC of that name in the lab's router.
    ///
    /// # Errors
    /// The devices cannot be made.
    pub fn start(lab: &Lab, trunk: &str, stations: &[Station]) -> Result<Self> {
        let wire = tap(&lab.router, trunk)?;
        let (mut hosts, mut members) = (Vec::new(), Vec::new());
        for station in stations {
            let namespace = Namespace::new(lab.prefix(), station.name, Lifetime::Scoped)?;
            let file = tap(&namespace, "eth0")?;
            namespace.ip(&format!("link set eth0 address {} up\n", station.mac))?;
            let (address, length) = station.v4;
            if !address.is_unspecified() {
                let via = station.via;
                namespace
                    .ip(&format!("address add {address}/{length} dev eth0\nroute add default via {via}\n"))?;
            }
            hosts.push(Host {
                name: station.name,
                namespace,
                v4: address,
                v6: std::net::Ipv6Addr::UNSPECIFIED,
            });
            members.push((station.tags, file));
        }
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let relay =
            Relay { wire: wire.try_clone()?, members, stop: Arc::clone(&stop), seen: Arc::clone(&seen) };
        let thread = std::thread::spawn(move || relay.run());
        Ok(Self { hosts, trunk: wire, seen, stop, thread: Some(thread) })
    }

    /// A station by its name.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).expect("a station of the switch")
    }

    /// Puts a frame on the trunk, towards the router, as it is.
    ///
    /// # Errors
    /// The trunk is down.
    pub fn inject(&self, frame: &[u8]) -> Result<()> {
        (&self.trunk).write_all(frame).context("put a frame on the trunk")
    }

    /// The frames that the router has sent by the trunk since this was last asked, as they are on the wire.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Relay {
    wire: File,
    members: Vec<(&'static [Tag], File)>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Relay {
    fn run(self) {
        const PATIENCE: i32 = 50;
        let poll = |file: &File| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut room = vec![0; LONGEST];
        while !self.stop.load(Ordering::Relaxed) {
            let mut files: Vec<_> = std::iter::once(&self.wire)
                .chain(self.members.iter().map(|(_, file)| file))
                .map(poll)
                .collect();
            // SAFETY: the list is as long as it says.
            unsafe { libc::poll(files.as_mut_ptr(), files.len() as libc::nfds_t, PATIENCE) };
            while let Some(frame) = read(&self.wire, &mut room) {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                // Enough to look at, without a download's.
                if seen.len() < 1000 {
                    seen.push(frame.to_vec());
                }
                drop(seen);
                self.deliver(frame);
            }
            for (tags, file) in &self.members {
                while let Some(frame) = read(file, &mut room) {
                    // Who is full or down loses frames, as in any switch.
                    (&self.wire).write_all(&tagged(frame, tags)).ok();
                }
            }
        }
    }

    /// To the stations of its network.
    fn deliver(&self, frame: &[u8]) {
        for (tags, mut file) in self.members.iter().map(|(tags, file)| (tags, file)) {
            if let Some(frame) = untagged(frame, tags) {
                file.write_all(&frame).ok();
            }
        }
    }
}

fn read<'a>(mut file: &File, room: &'a mut [u8]) -> Option<&'a [u8]> {
    let length = file.read(room).ok().filter(|length| *length >= 14)?;
    room.get(..length)
}

/// A frame with tags in front of those that it has.
pub fn tagged(frame: &[u8], tags: &[Tag]) -> Vec<u8> {
    let mut with = frame[..12].to_vec();
    for (protocol, id) in tags {
        with.extend(protocol.to_be_bytes());
        with.extend(id.to_be_bytes());
    }
    with.extend(&frame[12..]);
    with
}

/// The frame without these tags, if it has these and no others; whatever their priority.
pub fn untagged(frame: &[u8], tags: &[Tag]) -> Option<Vec<u8>> {
    let mut at = 12;
    for (protocol, id) in tags {
        let [a, b, c, d] = frame.get(at..at + 4)?.try_into().ok()?;
        if u16::from_be_bytes([a, b]) != *protocol || u16::from_be_bytes([c, d]) & 0xfff != *id {
            return None;
        }
        at += 4;
    }
    if matches!(frame.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8]) {
        return None;
    }
    Some([&frame[..12], &frame[at..]].concat())
}

/// A tap device in a namespace, without waiting.
fn tap(namespace: &Namespace, name: &str) -> Result<File> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TAP_WITHOUT_HEADER: libc::c_short = 0x1002;
    let name = name.to_owned();
    let file = namespace.inside(move || -> Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .context("open /dev/net/tun")?;
        // SAFETY: `ifreq` is plain old data.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = TAP_WITHOUT_HEADER;
        // SAFETY: the request is alive during the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) } < 0 {
            return Err(std::io::Error::last_os_error()).context("make a tap device");
        }
        Ok(file)
    })??;
    Ok(file)
}
