//! The property test of `tests/tests/model.rs` for longer.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;

use crate::{build, setup};

/// How long, and from where on.
#[derive(Debug, Args)]
pub struct Soak {
    /// Packets through the programs in the kernel: a third by XDP, a third by TC, a third by XDP in front of
    /// TC; and as many through the walk on the host.
    #[arg(long, default_value_t = 10_000_000)]
    packets: u64,
    /// The first sequence's seed, as a difference names it; another each time if none is given.
    #[arg(long)]
    seed: Option<u64>,
}

/// Sends the packets and shows how it is going.
pub fn run(arguments: &Soak) -> Result<()> {
    setup::to_run_the_lab()?;
    let seed = seed_or_new(arguments.seed)?;
    println!("{0} packets through the programs, {0} on the host, from seed {seed} on", arguments.packets);
    let mut command = build::cargo("test");
    command
        .args(["--release", "-p", "router-tests", "--test", "model", "--", "--nocapture", "--test-threads=2"])
        .env("XVR_MODEL_PACKETS", arguments.packets.div_ceil(3).to_string())
        .env("XVR_MODEL_SEED", seed.to_string());
    crate::run(&mut command)
}

/// The seed that was asked for, or one that was not there before.
pub fn seed_or_new(seed: Option<u64>) -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(seed.unwrap_or(now.as_secs() << 16))
}
