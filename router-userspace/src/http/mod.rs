//! What guests ask the router for by HTTP: their metadata (port 80) and their password (port 8080).
//!
//! ```text
//! control walk ──follow──▶ doors: one listener per guest port's IPv4 address and purpose   [`server`]
//!              ──settle──▶ … which are open now
//!              ──watch───▶ what is served                         ┌ [`metadata`]: path → answer
//! guest ──────request────▶ door ─▶ connection ─▶ who asks? ───────┤
//!              ──set─────▶ passwords on disk  ◀───────────────────┴ [`password`]
//! ```
//!
//! A guest is who its address says it is. So a door is bound to its port's device, where no other port's guests
//! reach it, and serves addresses of that port's networks alone. That a guest does not take another one's
//! address within a network is for the hypervisor to see to.
//!
//! All of it runs in a thread of its own: neither does a long control walk keep guests waiting, nor do guests
//! the control walk. Doors are opened there as well, thousands where there are as many networks. IPv4 only: CloudStack
//! knows metadata and passwords by IPv4 address.

mod metadata;
mod password;
pub mod passwords;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, mpsc};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{self, AbortHandle};
use tracing::{info, warn};

use crate::model::Metadata;
use crate::show::HttpView;
use passwords::Passwords;
use server::Shared;

/// The service, as the control walk has it in hand.
pub struct Http {
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    served: watch::Sender<Arc<Served>>,
    doors: BTreeMap<Door, AbortHandle>,
    /// What came of doors that are being opened, once all of them are.
    opening: Option<mpsc::Receiver<Vec<Opened>>>,
    /// Doors that could not be opened, and why.
    closed: BTreeMap<Door, String>,
}

/// What came of a door that was to be opened: who serves there, until aborted.
type Opened = (Door, io::Result<AbortHandle>);

/// An address that guests ask at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Door {
    ifindex: u32,
    address: Ipv4Addr,
    purpose: Purpose,
}

/// What guests ask for there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Metadata,
    Password,
}

impl Purpose {
    const ALL: [Self; 2] = [Self::Metadata, Self::Password];

    /// CloudStack's port.
    const fn port(self) -> u16 {
        match self {
            Self::Metadata => 80,
            Self::Password => 8080,
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddrV4::new(self.address, self.purpose.port()).fmt(f)
    }
}

/// What is served, and to whom.
#[derive(Debug, Default, PartialEq, Eq)]
struct Served {
    /// The router's addresses on guest ports, by interface index.
    networks: BTreeMap<u32, Vec<Ipv4Net>>,
    metadata: Metadata,
}

impl Served {
    /// Whether a guest with this address is in the network of this port.
    fn is_at_home(&self, guest: Ipv4Addr, ifindex: u32) -> bool {
        self.networks.get(&ifindex).is_some_and(|networks| networks.iter().any(|own| own.contains(&guest)))
    }

    fn is_somewhere(&self, guest: Ipv4Addr) -> bool {
        self.networks.keys().any(|ifindex| self.is_at_home(guest, *ifindex))
    }
}

impl Http {
    /// Starts the thread. Passwords that wait are in `folder`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(folder: &Path) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .thread_name("xvr-http")
            .enable_all()
            .build()
            .context("start the thread that serves guests by HTTP")?;
        let (served, receiver) = watch::channel(Arc::default());
        let shared = Arc::new(Shared::new(receiver, Passwords::load(folder)));
        let (doors, opening, closed) = (BTreeMap::new(), None, BTreeMap::new());
        Ok(Self { runtime: Some(runtime), shared, served, doors, opening, closed })
    }

    /// Passwords that wait for their guests.
    pub fn passwords(&self) -> &Passwords {
        &self.shared.passwords
    }

    /// Serves this from now on, at these addresses and at no others; at none if it does not `serve`. Returns while doors
    /// are still being opened; who is to rely on them has to [`settle`](Self::settle). A door that cannot be opened is
    /// tried again with the next call.
    pub fn follow(&mut self, networks: &BTreeMap<u32, Vec<Ipv4Net>>, metadata: &Metadata, serve: bool) {
        self.settle();
        self.served.send_if_modified(|served| {
            if served.networks == *networks && served.metadata == *metadata {
                return false;
            }
            *served = Arc::new(Served { networks: networks.clone(), metadata: metadata.clone() });
            true
        });
        let addresses =
            networks.iter().flat_map(|(ifindex, own)| own.iter().map(|own| (*ifindex, own.addr())));
        let wanted: BTreeSet<Door> = addresses
            .filter(|_| serve)
            .flat_map(|(ifindex, address)| Purpose::ALL.map(|purpose| Door { ifindex, address, purpose }))
            .collect();
        self.closed.retain(|door, _| wanted.contains(door));
        let mut gone = Vec::new();
        self.doors.retain(|door, task| {
            // A listener that has ended did so by a mistake of ours.
            let stays = wanted.contains(door) && !task.is_finished();
            if !stays {
                task.abort();
                gone.push(*door);
            }
            stays
        });
        tell("guests are not served any more at", &gone);
        let new: Vec<Door> = wanted.into_iter().filter(|door| !self.doors.contains_key(door)).collect();
        if let Some(runtime) = self.runtime.as_ref().filter(|_| !new.is_empty()) {
            let (sender, receiver) = mpsc::channel();
            let shared = self.shared.clone();
            runtime.spawn(async move {
                let open = |door| {
                    let serve = |listener| task::spawn(server::serve(door, listener, shared.clone()));
                    (door, server::listen(door).map(|listener| serve(listener).abort_handle()))
                };
                let mut opened = Vec::with_capacity(new.len());
                for some in new.chunks(AT_ONCE) {
                    opened.extend(some.iter().copied().map(open));
                    task::yield_now().await;
                }
                // Who does not listen is ending.
                let _ = sender.send(opened);
            });
            self.opening = Some(receiver);
        }
    }

    /// Waits until all doors are open that are to be, or cannot be opened.
    pub fn settle(&mut self) {
        let Some(opening) = self.opening.take() else { return };
        let mut opened = Vec::new();
        // Nothing comes where a mistake of ours ended it: doors that are not known as open are tried again.
        for (door, result) in opening.recv().unwrap_or_default() {
            match result {
                Ok(task) => {
                    self.doors.insert(door, task);
                    self.closed.remove(&door);
                    opened.push(door);
                }
                Err(error) => {
                    let message = format!("guests are not served at {door}: {error}");
                    if self.closed.get(&door) != Some(&message) {
                        warn!("{message}");
                    }
                    self.closed.insert(door, message);
                }
            }
        }
        tell("guests are served at", &opened);
    }

    /// What is wrong with it, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        self.closed.values().cloned().chain(self.passwords().problems()).collect()
    }

    /// For `xvr status`.
    pub fn view(&self) -> HttpView {
        let served = self.served.borrow();
        let homeless = served.metadata.guests.keys().filter(|guest| !served.is_somewhere(**guest));
        HttpView {
            listening: self.doors.keys().map(ToString::to_string).collect(),
            guests: served.metadata.guests.len(),
            guests_elsewhere: homeless.count(),
            passwords: self.passwords().waiting(),
            last_error: self.shared.last_error(),
        }
    }
}

/// How many doors are opened while guests wait.
const AT_ONCE: usize = 16;

/// A line in the log, however many they are.
fn tell(what: &str, doors: &[Door]) {
    const SHOWN: usize = 8;
    if doors.is_empty() {
        return;
    }
    let shown: Vec<String> = doors.iter().take(SHOWN).map(ToString::to_string).collect();
    let shown = shown.join(", ");
    match doors.len().saturating_sub(SHOWN) {
        0 => info!("{what} {shown}"),
        more => info!("{what} {shown} and {more} more"),
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // To wait for it is not allowed where the daemon's own runtime runs.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}
