//! What takes minutes: the property tests of `tests/tests/model.rs` and `tests/tests/policy.rs` for longer, timers in
//! real time, and a daemon that is killed again and again.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{build, setup};

/// How long, and from where on.
#[derive(Debug, Args)]
pub struct Soak {
    /// Packets through the programs in the kernel: a third by XDP, a third by TC, a third by XDP in front of
    /// TC; and as many through the walk on the host.
    #[arg(long, default_value_t = 10_000_000)]
    packets: u64,
    /// Pairs of a list of rules and a first packet, half by XDP and half by TC.
    #[arg(long, default_value_t = 10_000_000)]
    pairs: u64,
    /// How often the daemon is killed amid messages.
    #[arg(long, default_value_t = 200)]
    cuts: u32,
    /// The first sequence's seed, as a difference names it; another each time if none is given.
    #[arg(long)]
    seed: Option<u64>,
}

/// Sends the packets and shows how it is going, while a router's timers run by the clock on the wall.
pub fn run(arguments: &Soak) -> Result<()> {
    setup::to_run_the_lab()?;
    build::bins()?;
    let seed = seed_or_new(arguments.seed)?;
    let Soak { packets, pairs, .. } = arguments;
    println!("{packets} packets through the programs, {packets} on the host, from seed {seed} on");
    println!("then {pairs} pairs of a list of rules and a first packet");
    println!("then a daemon that is killed {} times amid messages", arguments.cuts);
    println!("meanwhile the timers, which take five minutes");
    let mut timers = build::cargo("test");
    timers.args(["-p", "router-tests", "--test", "netns", "--no-fail-fast"]);
    timers.args(["--", "--ignored", "--nocapture"]);
    let mut timers = timers.spawn().with_context(|| format!("run {timers:?}"))?;
    let mut model = build::cargo("test");
    model
        .args(["--release", "-p", "router-tests", "--test", "model", "--", "--nocapture", "--test-threads=2"])
        .env("XVR_MODEL_PACKETS", arguments.packets.div_ceil(3).to_string())
        .env("XVR_MODEL_SEED", seed.to_string());
    let mut policy = build::cargo("test");
    policy
        .args(["--release", "-p", "router-tests", "--test", "policy", "--", "says_what", "--nocapture"])
        .env("XVR_POLICY_PAIRS", arguments.pairs.div_ceil(2).to_string())
        .env("XVR_POLICY_SEED", seed.to_string());
    let mut power = build::cargo("test");
    power
        .args(["-p", "router-tests", "--test", "netns", "--", "power::", "--nocapture"])
        .env("XVR_POWER_CUTS", arguments.cuts.to_string());
    // All to their ends, whatever becomes of the first.
    let packets = crate::run(&mut model).and_then(|()| crate::run(&mut policy));
    let packets = packets.and_then(|()| crate::run(&mut power));
    let status = timers.wait().context("wait for the timers")?;
    packets?;
    ensure!(status.success(), "flows do not live as long as they have to ({status})");
    Ok(())
}

/// The seed that was asked for, or one that was not there before.
pub fn seed_or_new(seed: Option<u64>) -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(seed.unwrap_or(now.as_secs() << 16))
}
