//! The lab: a generator's namespace, a sink's, and as many routers between them as there are subjects.
//!
//! ```text
//!  spare      gN ───────── in │ router N │ out ───────── sN
//!  hop0 ─────────────────────────────────────────────── hop1
//!  └── gen ─┘                 └──────────┘              └─ sink
//! ```
//!
//! The lower half of each address family is by `in`, the upper half by `out`, with permanent neighbours. What a
//! frame costs from `hop0` to `hop1` is taken off what it costs through a router.

use std::ffi::CString;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, thread};

use anyhow::{Context, Result, ensure};
use router_tests::netns::{self, Lifetime, Namespace};

use crate::generator::{Exit, Frames, Generator, Passed, Window};

const PREFIX: &str = "xvrbench";

/// Networks of the links in front of a router and behind it.
const LINKS: [(&str, &str, &str, &str, &str, &str); 2] = [
    ("in", "10.99.0", "fd99::", "0.0.0.0/1", "2a00::/12", "g"),
    ("out", "223.255.0", "fd98::", "128.0.0.0/1", "2c00::/12", "s"),
];

/// The router's address in front.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The one behind it: that which source NAT gives, and to which port forwardings belong.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(223, 255, 0, 1);

/// Where frames come from and go to.
pub struct Lab {
    prefix: String,
    folder: PathBuf,
    source: Namespace,
    sink: Namespace,
    generator: Generator,
    hop: Exit,
    routers: u8,
}

/// A router's place between generator and sink.
#[derive(Debug)]
pub struct Router {
    /// Where it is.
    pub namespace: Namespace,
    /// From the generator.
    pub forth: Exit,
    /// From the sink back.
    pub back: Exit,
    /// Interface indexes of `in` and `out`.
    pub ifindexes: [u32; 2],
    /// Their MAC addresses.
    pub macs: [[u8; 6]; 2],
}

impl Lab {
    /// Makes the two ends.
    ///
    /// # Errors
    /// Not root, or a namespace or program cannot be made.
    pub fn new() -> Result<Self> {
        sweep();
        let prefix = unique();
        let folder = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(&folder).context("make a folder for rules")?;
        let [source, sink] = ["gen", "sink"].map(|label| Namespace::new(&prefix, label, Lifetime::Scoped));
        let (source, sink) = (source?, sink?);
        for end in [&source, &sink] {
            quiet(end)?;
        }
        let [near, far] = [mac(0, 0), mac(0, 1)];
        source.ip(&format!(
            "link add spare type veth peer name unused\nlink set spare up\nlink set unused up\n\
             link add hop0 address {} type veth peer name hop1 address {} netns {}\nlink set hop0 up\n",
            colons(near),
            colons(far),
            sink.name()
        ))?;
        sink.ip("link set hop1 up\n")?;
        let (mut generator, ifindex) = inside(&source, || {
            let mut generator = Generator::new("spare")?;
            generator.sink("hop0")?;
            anyhow::Ok((generator, ifindex("hop0")?))
        })??;
        inside(&sink, || generator.sink("hop1"))??;
        let hop = Exit { ifindex, mac: near, router_mac: far };
        Ok(Self { prefix, folder, source, sink, generator, hop, routers: 0 })
    }

    /// The generator.
    pub const fn generator(&mut self) -> &mut Generator {
        &mut self.generator
    }

    /// Where frames come from (0), or that of the sink (1).
    pub const fn end(&self, side: usize) -> &Namespace {
        if side == 0 { &self.source } else { &self.sink }
    }

    /// The hop from one to the other that has no router.
    pub const fn hop(&self) -> Exit {
        self.hop
    }

    /// A file of the lab's for rules that a router is given.
    pub fn file(&self, router: &Router) -> PathBuf {
        self.folder.join(format!("{}.rules", router.namespace.name()))
    }

    /// A new place for a router: links, addresses, routes and neighbours, and forwarding turned on.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn router(&mut self) -> Result<Router> {
        self.routers = self.routers.checked_add(1).context("too many routers")?;
        let number = self.routers;
        let namespace = Namespace::new(&self.prefix, &format!("r{number}"), Lifetime::Scoped)?;
        namespace.sysctl("net/ipv4/ip_forward", "1")?;
        namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        let macs = [mac(number, 0), mac(number, 1)];
        let ends = [mac(number, 2), mac(number, 3)];
        for (side, (device, v4, v6, lower4, lower6, end)) in LINKS.iter().enumerate() {
            let outside = [&self.source, &self.sink][side];
            outside.ip(&format!(
                "link add {end}{number} address {} type veth peer name {device} address {} netns {}\n\
                 link set {end}{number} up\n",
                colons(ends[side]),
                colons(macs[side]),
                namespace.name()
            ))?;
            namespace.ip(&format!(
                "link set {device} up\naddress add {v4}.1/24 dev {device}\naddress add {v6}1/64 dev {device} nodad\n\
                 neighbour add {v4}.2 lladdr {end} dev {device} nud permanent\n\
                 neighbour add {v6}2 lladdr {end} dev {device} nud permanent\n\
                 route add {lower4} via {v4}.2\nroute add {lower6} via {v6}2\n",
                end = colons(ends[side])
            ))?;
        }
        let (forth, back) = (format!("g{number}"), format!("s{number}"));
        let generator = &mut self.generator;
        let mut sink_at = |end: &Namespace, device: &str| -> Result<u32> {
            inside(end, || {
                generator.sink(device)?;
                ifindex(device)
            })?
        };
        let indexes = [sink_at(&self.source, &forth)?, sink_at(&self.sink, &back)?];
        let ifindexes = inside(&namespace, || anyhow::Ok([ifindex("in")?, ifindex("out")?]))??;
        let exit = |side: usize| Exit { ifindex: indexes[side], mac: ends[side], router_mac: macs[side] };
        Ok(Router { namespace, forth: exit(0), back: exit(1), ifindexes, macs })
    }

    /// Lets the ends' XDP programs send to a router that has none: a veth wants a receiver with NAPI, which GRO brings.
    ///
    /// # Errors
    /// `ethtool` cannot.
    pub fn take_xdp_frames(&self, router: &Router) -> Result<()> {
        for device in ["in", "out"] {
            router.namespace.run("ethtool", &["-K", device, "gro", "on"])?;
        }
        Ok(())
    }

    /// Makes a place's router one that does nothing but send on: the bound of all that send on by XDP.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send_on(&mut self, router: &Router) -> Result<()> {
        let outwards = |end: Exit, port: usize| Exit {
            ifindex: router.ifindexes[port],
            mac: router.macs[port],
            router_mac: end.mac,
        };
        let ways = [("in", outwards(router.back, 1)), ("out", outwards(router.forth, 0))];
        let generator = &mut self.generator;
        inside(&router.namespace, || generator.send_on(ways))?
    }

    /// Sends frames through a router, or with `None` over the hop that has none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send(&mut self, router: Option<&Router>, frames: Frames, window: Window) -> Result<Passed> {
        let is_back = frames.go_back();
        let exit = match router {
            None => self.hop,
            Some(router) if is_back => router.back,
            Some(router) => router.forth,
        };
        let end = if is_back && router.is_some() { &self.sink } else { &self.source };
        let generator = &mut self.generator;
        inside(end, || generator.send(exit, frames, window))?
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Runs something in a namespace, in a thread of its own.
///
/// # Errors
/// There is no such namespace any more.
pub fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = namespace.path();
    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: the descriptor is open, and the call touches no memory of ours.
            let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            ensure!(entered == 0, "enter a namespace: {}", io::Error::last_os_error());
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Nothing but what is measured: no neighbour discovery of the ends' own.
fn quiet(namespace: &Namespace) -> Result<()> {
    for scope in ["all", "default"] {
        namespace.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
    }
    Ok(())
}

/// A folder that one XVR pins its tables in.
pub fn pin_dir() -> PathBuf {
    Path::new("/sys/fs/bpf").join(unique())
}

/// A name that says which process's it is, and that nothing else of it has.
fn unique() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// Removes what an earlier bench left that was killed.
fn sweep() {
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let is_dead = |name: &String| {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        pid.and_then(|pid| pid.parse::<u32>().ok())
            .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    for name in names(Path::new("/run/netns")).iter().filter(|name| is_dead(name)) {
        netns::remove_all(name);
    }
    for folder in [Path::new("/sys/fs/bpf"), &std::env::temp_dir()] {
        for name in names(folder).iter().filter(|name| is_dead(name)) {
            fs::remove_dir_all(folder.join(name)).ok();
        }
    }
}

const fn mac(router: u8, end: u8) -> [u8; 6] {
    [0x02, 0xbe, 0, 0, router, end]
}

fn colons(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// The index of an interface of the thread's namespace.
fn ifindex(name: &str) -> Result<u32> {
    let text = CString::new(name)?;
    // SAFETY: a string that ends with a zero.
    match unsafe { libc::if_nametoindex(text.as_ptr()) } {
        0 => Err(io::Error::last_os_error()).with_context(|| format!("find {name}")),
        ifindex => Ok(ifindex),
    }
}
