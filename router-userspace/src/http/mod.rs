//! What guests ask the router for by HTTP: their metadata (port 80) and their password (port 8080).
//!
//! ```text
//! control walk ──follow──▶ doors: one listener per guest port's IPv4 address and purpose   [`server`]
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
//! the control walk. IPv4 only: CloudStack knows metadata and passwords by IPv4 address.

mod metadata;
mod password;
pub mod passwords;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::AbortHandle;
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
    /// Doors that could not be opened, and why.
    closed: BTreeMap<Door, String>,
}

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
        let (doors, closed) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { runtime: Some(runtime), shared, served, doors, closed })
    }

    /// Passwords that wait for their guests.
    pub fn passwords(&self) -> &Passwords {
        &self.shared.passwords
    }

    /// Serves this from now on, at these addresses and at no others; at none if it does not `serve`. A door that
    /// cannot be opened is tried again with the next call.
    pub fn follow(&mut self, networks: &BTreeMap<u32, Vec<Ipv4Net>>, metadata: &Metadata, serve: bool) {
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
        let opened: Vec<Door> = new.into_iter().filter(|door| self.open(*door)).collect();
        tell("guests are served at", &opened);
    }

    /// Whether it could be opened.
    fn open(&mut self, door: Door) -> bool {
        let Some(runtime) = &self.runtime else { return false };
        let _inside = runtime.enter();
        match server::listen(door) {
            Ok(listener) => {
                let task = runtime.spawn(server::serve(door, listener, self.shared.clone()));
                self.doors.insert(door, task.abort_handle());
                self.closed.remove(&door);
                true
            }
            Err(error) => {
                let message = format!("guests are not served at {door}: {error}");
                if self.closed.get(&door) != Some(&message) {
                    warn!("{message}");
                }
                self.closed.insert(door, message);
                false
            }
        }
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
