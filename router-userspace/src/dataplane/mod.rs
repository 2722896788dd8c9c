//! The loaded programs: tables, links, counters. The only room that opens BPF objects; knows
//! maps, not meaning.
//!
//! Everything that forwards is pinned, in a folder named after the network namespace and the
//! version of the tables: `netns-<cookie>/v<ABI_VERSION>/`. A daemon that ends, however it ends,
//! leaves it forwarding; the next one opens the same folder and finds the same flows. Programs
//! are replaced under traffic, atomically, by updating the pinned links.
//!
//! Invariant: what is written here has been checked by `compile`; what is read here is what the
//! kernel holds, never what we remember.

mod attach;
mod batch;
mod block;
mod bridges;
mod cutting;
mod eviction;
mod expiry;
mod guests;
mod mapped;
mod maps;
mod pins;
mod policy;
mod pools;
mod room;
mod stats;
mod tunnels;
mod unsolicited;
mod usage;

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use aya::{Ebpf, EbpfLoader};
use router_common::ABI_VERSION;
use router_common::account::forwarded_rows;
use router_common::config::RouterConfig;
use router_common::policy::RULINGS;
use router_common::tunnel::MAX_REMOTES;

pub use crate::model::Timeouts;
pub use attach::{Attached, EGRESS_BLOCK, INGRESS_BLOCK};
pub use bridges::Station;
pub use eviction::{Evictions, HIGH};
pub use expiry::Aged;
pub(crate) use expiry::monotonic_now;
pub use maps::Tables;
pub use pins::{default_pin_dir, mount_bpffs, namespace_pin_dir};
pub use policy::PolicyUse;
pub use pools::PoolUse;
pub use room::{MAX_BINDINGS, Room};
pub use stats::{CounterRow, FlowRecord, Outcome};
pub use unsolicited::UnsolicitedSyn;
pub use usage::AccountRecord;

/// The programs, made by the build script; empty when built with `ROUTER_BPF_SKIP=1`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/router-ebpf.o"));

/// Where and how large.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder in bpffs that pins go to, see [`default_pin_dir`].
    pub pin_dir: PathBuf,
    /// Room for flows and bindings.
    pub room: Room,
    /// Room for ports, row 0 of the counters included.
    pub max_ports: u32,
}

/// Room for stations of VXLAN networks, and of bridges, at least, and where there are many ports. Who finds none sends to
/// everybody.
const STATIONS: u32 = 1 << 14;
const STATIONS_PER_PORT: u32 = 16;

/// The loaded programs and their tables.
pub struct Dataplane {
    ebpf: Ebpf,
    tables: Tables,
    pin_dir: PathBuf,
    adopted: bool,
    settling: pools::Settling,
    evictions: Evictions,
    cut: u64,
}

impl Dataplane {
    /// Loads the programs over new tables, or over those that an earlier daemon has pinned.
    /// Attaches nothing yet: what is attached goes on forwarding by the earlier daemon's program
    /// until [`attach`](Self::attach) replaces it.
    ///
    /// # Errors
    /// No right to, no bpffs, a pinned table of another layout, a refusal by the verifier.
    pub fn open(options: &Options) -> Result<Self> {
        if OBJECT.is_empty() {
            bail!("this xvr was built without packet programs (ROUTER_BPF_SKIP)");
        }
        let pin_dir = options.pin_dir.clone();
        std::fs::create_dir_all(&pin_dir).with_context(|| format!("create {}", pin_dir.display()))?;
        pins::check(&pin_dir)?;
        let adopted = pin_dir.join("CONFIG").exists();
        let cpus = batch::cpus()?;
        let mut loader = EbpfLoader::new();
        for name in maps::NAMES {
            loader.map_pin_path(name, pin_dir.join(name));
        }
        for (name, room) in [
            ("FLOWS4", options.room.flows),
            ("FLOWS6", options.room.flows),
            ("BINDINGS", options.room.bindings),
            ("EXTERNALS", options.room.bindings),
            ("GUESTS", options.room.bindings),
            ("RULINGS", RULINGS * cpus as u32),
            ("COUNTERS", options.max_ports),
            ("FORWARDED", forwarded_rows(options.max_ports)),
            ("PORTS", options.max_ports),
            ("TAGGED", options.max_ports),
            ("CARRIERS", options.max_ports),
            ("TUNNELS", options.max_ports),
            ("TUNNELLED", 2 * options.max_ports),
            ("REMOTES", MAX_REMOTES * options.max_ports),
            ("REMOTE_LIST", MAX_REMOTES * options.max_ports),
            ("STATIONS", STATIONS.max(STATIONS_PER_PORT * options.max_ports)),
            ("MEMBERS", options.max_ports),
            ("FDB", STATIONS.max(STATIONS_PER_PORT * options.max_ports)),
        ] {
            loader.map_max_entries(name, room);
        }
        let mut ebpf = loader.load(OBJECT).context("load the packet programs")?;
        attach::load_programs(&mut ebpf)?;
        let mut tables = Tables::take(&mut ebpf)?;
        if tables.config()?.abi_version == 0 {
            let (own_ports_first, own_ports_last) = RouterConfig::OWN_PORTS;
            tables.set_config(RouterConfig {
                abi_version: ABI_VERSION,
                generation: 1,
                seed: RandomState::new().hash_one(()) as u32,
                own_ports_first,
                own_ports_last,
                ..RouterConfig::NONE
            })?;
        }
        tables.open_lanes()?;
        Ok(Self {
            ebpf,
            tables,
            pin_dir,
            adopted,
            settling: pools::Settling::default(),
            evictions: Evictions::default(),
            cut: 0,
        })
    }

    /// Whether the tables are an earlier daemon's, flows included.
    pub const fn adopted(&self) -> bool {
        self.adopted
    }

    /// Where the pins are.
    pub fn pin_dir(&self) -> &std::path::Path {
        &self.pin_dir
    }

    /// The tables that the control walk fills.
    pub const fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// How many instructions the verifier walked through, per program that is loaded.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn verified_instructions(&self) -> Result<Vec<(String, u32)>> {
        self.ebpf
            .programs()
            .filter(|(_, program)| program.fd().is_ok())
            .map(|(name, program)| {
                let info = program.info().with_context(|| format!("ask about {name}"))?;
                Ok((name.to_owned(), info.verified_instruction_count().unwrap_or(0)))
            })
            .collect()
    }

    /// The programs, for tests that run them on frames of their own (`BPF_PROG_TEST_RUN`).
    pub const fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}
