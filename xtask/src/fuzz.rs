//! The fuzzers of `tests/tests/fuzz.rs` for longer, with every check that the compiler can put in.

use anyhow::Result;
use clap::Args;

use crate::{build, root, setup, soak};

/// How long, and from where on.
#[derive(Debug, Args)]
pub struct Fuzz {
    /// Seconds for each: the walk as TC runs it, XDP in front of TC, and the programs in the kernel.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the random numbers begin; elsewhere each time if it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

/// Sends the frames; sequences that fail are kept in the corpus.
pub fn run(arguments: &Fuzz) -> Result<()> {
    setup::to_run_the_lab()?;
    let seed = soak::seed_or_new(arguments.seed)?;
    println!("three fuzzers for {} s from seed {seed} on", arguments.seconds);
    let mut command = build::cargo("test");
    command
        .args(["--profile", "fuzz", "-p", "router-tests", "--test", "fuzz", "--"])
        .args(["--nocapture", "--test-threads=2"])
        .env("XVR_FUZZ_SECONDS", arguments.seconds.to_string())
        .env("XVR_FUZZ_SEED", seed.to_string())
        .env("XVR_FUZZ_KEEP", root().join("tests/fixtures/fuzz"));
    crate::run(&mut command)
}
