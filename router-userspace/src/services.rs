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
mod process;
pub mod ssh;
mod supervisor;

use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::compile::{Compiled, Inventory};
use crate::model::Services;
use crate::root::Root;

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
    /// What makes what is missing and is not ours to render, as keys are; run before each start.
    pub prepare: Option<Call>,
    /// What checks the first file, once the others are in place; its path is appended to the arguments.
    pub check: Option<Call>,
    /// How it comes to know of changed files.
    pub reload: Reload,
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
}

/// The daemons for what is to be served.
pub fn render(services: &Services, place: Place<'_>) -> Vec<Service> {
    let ssh = services.ssh.iter().map(|ssh| ssh::render(ssh, place.root));
    let balancer = services.balancer.iter().map(|balancer| balancer::render(balancer, place.root));
    let bgp = services.bgp.iter().flat_map(|bgp| bgp::render(bgp, place.root));
    ssh.chain(balancer).chain(bgp).collect()
}
