//! The standard daemons that the router leaves work to, and how they are kept running.
//!
//! ```text
//! Services ──render──▶ Service ──Supervisor──▶ files checked and in place, process running
//! ```
//!
//! A [`Service`] says what a daemon needs: its files, how they are checked, how it is started. The
//! [`Supervisor`] has one task for each: it writes files that changed once the daemon's own checker takes
//! them, has a running daemon read them again, starts it when it has ended, later and later while it keeps
//! ending, and never waits for it on the control walk. What is wrong with one is said in `xvr status`; all
//! else goes on.
//!
//! Daemons outlive us, as the programs do: a session that is just changing the router must not end with the
//! daemon that is being replaced. The next daemon finds them by their files in `run/xvr/`.

pub mod balancer;
mod bgp;
pub mod charon;
pub mod dnsmasq;
pub mod keepalived;
pub mod l2tp;
pub mod leases;
mod process;
pub mod ssh;
mod supervisor;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::compile::{Compiled, Inventory};
use crate::model::Services;
use crate::reconcile::kernel::Kernel;
use crate::root::Root;

pub use leases::Leases;
pub use supervisor::{ServiceState, Supervisor};

/// A daemon as it should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What to call it, and its process file in `run/xvr/`.
    pub name: &'static str,
    /// The program; looked for in the system's folders if it is no path.
    pub program: &'static str,
    /// Its arguments. It has to stay in the foreground.
    pub arguments: Vec<String>,
    /// Its files.
    pub files: Vec<Rendered>,
    /// Folders that have to be there.
    pub folders: Vec<PathBuf>,
    /// A folder that holds nothing but files of this list.
    pub sole: Option<PathBuf>,
    /// What makes what is missing and is not ours to render, as keys are; run before the files are put in place.
    pub prepare: Option<Call>,
    /// What takes away what a process of it leaves behind; run before each start, and when it is wanted no longer.
    pub clear: Option<Call>,
    /// The socket of another daemon, which has to answer there before this one is started.
    pub needs: Option<PathBuf>,
    /// What checks the first file, once the others are in place; its path is appended to the arguments.
    pub check: Option<Call>,
    /// Files that it reads when it starts and never again: with others it is started anew.
    pub read_at_start: Vec<PathBuf>,
    /// Whose leases it may hold, if it gives any.
    pub leases: Option<Leases>,
    /// What is in its environment besides ours.
    pub environment: Vec<(&'static str, String)>,
    /// What tells a daemon that runs what is in its files, after each start and each change, until that has
    /// succeeded; without it a change is told by SIGHUP.
    pub load: Option<Call>,
    /// What looks after what a daemon that runs does, every few seconds.
    pub tend: Option<Call>,
    /// What is worth knowing of how it runs, for `xvr status`.
    pub about: Option<&'static str>,
    /// How it comes to know of changed files.
    pub reload: Reload,
}

impl Service {
    /// A daemon that needs nothing but its command line, and hears of changed files by SIGHUP.
    fn new(name: &'static str, program: &'static str, arguments: Vec<String>) -> Self {
        Self {
            name,
            program,
            arguments,
            files: Vec::new(),
            folders: Vec::new(),
            sole: None,
            prepare: None,
            clear: None,
            needs: None,
            check: None,
            read_at_start: Vec::new(),
            leases: None,
            environment: Vec::new(),
            load: None,
            tend: None,
            about: None,
            reload: Reload::Signal(Signal::SIGHUP),
        }
    }

    /// Stands for the content of its files that `is_meant` takes: another content, another word.
    fn digest(&self, is_meant: impl Fn(&Path) -> bool) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in self.files.iter().filter(|file| is_meant(&file.path)) {
            // With their lengths, so that no two files are another two.
            for part in [file.path.as_os_str().as_bytes(), file.content.as_bytes()] {
                hasher.update(&part.len().to_le_bytes()).update(part);
            }
        }
        hasher.finalize().to_string()
    }
}

/// How a running daemon comes to know of changed files. Where that fails it is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    /// By a signal.
    Signal(Signal),
    /// A program tells it.
    Call(Call),
    /// By its start alone.
    Restart,
}

/// A file of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub content: String,
    /// Who may read it.
    pub mode: u32,
}

/// A program that is called and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The program.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Where daemons run.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The router's root.
    pub root: &'a Root,
    /// What the system holds: which ports are in force, by which NICs.
    pub compiled: &'a Compiled,
    /// The NICs.
    pub inventory: &'a Inventory,
    /// What the kernel can do, where there are tunnels.
    pub kernel: Kernel,
}

/// What their files begin with, where a comment begins so.
const HEADER: &str = "# Written by xvr, again whenever it changes.\n";

/// The daemons for what is to be served. Those for guests run where [`Compiled::serves`] is so, these two always.
pub fn render(services: &Services, place: Place<'_>) -> Vec<Service> {
    let ssh = services.ssh.iter().map(|ssh| ssh::render(ssh, place.root));
    let pair = services.pair.iter().filter_map(|pair| keepalived::render(pair, place));
    let bgp = services.bgp.iter().flat_map(|bgp| bgp::render(bgp, place.root));
    let remote = services.remote.as_ref();
    let dhcp = services.dhcp.iter().filter_map(|dhcp| dnsmasq::render(dhcp, remote.is_some(), place));
    let balancer = services.balancer.iter().map(|balancer| balancer::render(balancer, place.root));
    let vpn = charon::render(&services.tunnels, remote.map(|(server, _)| server), place.kernel, place.root);
    let l2tp = remote.map(|(server, users)| l2tp::render(server, users, place.root));
    // Whom the other router of a pair serves is not served twice.
    let for_guests = dhcp.chain(balancer).chain(bgp).chain(vpn).chain(l2tp);
    let for_guests = for_guests.filter(|_| place.compiled.serves);
    ssh.chain(pair).chain(for_guests).collect()
}
