//! What XVR's packets and changes cost, beside Linux' own means: one suite per question.
//!
//! Everything is measured in one run on one machine, in turns, and as ratios: absolute numbers of a shared or
//! throttled machine say little. See `bench/README.md`.

mod blocks;
mod chains;
mod compare;
mod control;
mod daemon;
mod failover;
mod flows;
mod forward;
mod generator;
mod insn;
mod lab;
mod latency;
mod linux;
mod memory;
mod message;
mod nat;
mod page;
mod paths;
mod pingpong;
mod policy;
mod references;
mod report;
mod rules;
mod scale;
mod start;
mod stats;
mod tcp;
mod tiers;
mod vlan;
mod wire;
mod xvr;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use crate::insn::Insn;
use crate::message::Message;
use crate::policy::Policy;
use crate::report::{Files, Report};
use crate::scale::Scale;

/// Measures XVR. Without a suite, looks at the last run.
#[derive(Debug, Parser)]
#[command(name = "xvr-bench")]
struct Arguments {
    #[command(subcommand)]
    suite: Option<Suite>,
    /// As long as it takes, where minutes have to do otherwise.
    #[arg(long, global = true)]
    full: bool,
    /// Everything once and as small as it goes: whether it works.
    #[arg(long, global = true, conflicts_with = "full")]
    smoke: bool,
    /// Write everything that was measured to this file as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Say what got better or worse since the run in this file, beyond noise.
    #[arg(long, global = true)]
    compare: Option<PathBuf>,
    /// Keep the run as the one that claims rest on: one of all suites, in full, of a commit.
    #[arg(long, global = true)]
    accept: bool,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Every suite.
    All,
    /// How long a guest hears nothing when one router of a pair fails.
    Failover,
    /// New flows, their end, and how many are held.
    Flows,
    /// From tier to tier, nothing done to packets.
    Forward,
    /// Round trips, idle and under load.
    Latency,
    /// What the daemon and its maps take.
    Memory,
    /// Instructions per packet, in the guest of `cargo xtask bench insn`.
    Insn(Insn),
    /// One change from end to end: a port forwarding, by CloudStack's script and by all that its agent does.
    Message(Message),
    /// Known flows that are translated: up to a million of them, and up to 10,000 port forwardings.
    Nat,
    /// Lists of rules: 10 to 100,000 of them.
    Policy(Policy),
    /// From port forwardings in JSON to in force: 10 to 10,000 of them.
    Rules,
    /// How long starting takes, and what a restart costs.
    Start,
    /// TCP between kernels: throughput, its CPU time, requests and responses.
    Tcp,
    /// Tags and VXLAN, beside frames that are as they are.
    Vlan,
}

impl Suite {
    const fn label(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Failover => "failover",
            Self::Flows => "flows",
            Self::Forward => "forward",
            Self::Insn(_) => "insn",
            Self::Latency => "latency",
            Self::Memory => "memory",
            Self::Message(_) => "message",
            Self::Nat => "nat",
            Self::Policy(_) => "policy",
            Self::Rules => "rules",
            Self::Start => "start",
            Self::Tcp => "tcp",
            Self::Vlan => "vlan",
        }
    }

    fn run(&self, scale: Scale, report: &mut Report) -> Result<()> {
        match self {
            Self::All => all(scale).iter().try_for_each(|suite| suite.run(scale, report)),
            Self::Failover => failover::run(scale, report),
            Self::Flows => flows::run(scale, report),
            Self::Forward => forward::run(scale, report),
            Self::Insn(insn) => insn::run(insn),
            Self::Latency => latency::run(scale, report),
            Self::Memory => memory::run(scale, report),
            Self::Message(message) => message::run(message, scale, report),
            Self::Nat => nat::run(scale, report),
            Self::Policy(policy) => policy::run(policy, scale, report),
            Self::Rules => control::run(scale, report),
            Self::Start => start::run(scale, report),
            Self::Tcp => tcp::run(scale, report),
            Self::Vlan => vlan::run(scale, report).and_then(|()| tiers::run(scale, report)),
        }
        .with_context(|| format!("the suite {}", self.label()))
    }
}

/// What `all` means: all that there is in full, and of the longest the most telling part otherwise.
fn all(scale: Scale) -> Vec<Suite> {
    let some = Some("cloudstack".to_owned());
    let policy = Policy { only: scale.of(some.clone(), some, None), ..Policy::default() };
    vec![
        Suite::Forward,
        Suite::Nat,
        Suite::Vlan,
        Suite::Flows,
        Suite::Policy(policy),
        Suite::Tcp,
        Suite::Latency,
        Suite::Rules,
        Suite::Message(Message::default()),
        Suite::Start,
        Suite::Memory,
        Suite::Failover,
    ]
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { suite, full, smoke, json, compare, accept } = arguments;
    // Read before minutes have passed.
    let before = compare.as_deref().map(report::read).transpose()?;
    let run = match suite {
        // What it says is read from the guest's console.
        Some(Suite::Insn(insn)) => return insn::run(insn),
        Some(suite) => {
            // SAFETY: cannot fail and touches nothing.
            let root = unsafe { libc::geteuid() } == 0;
            ensure!(root, "the bench makes network namespaces and loads BPF programs: run it as root");
            let scale = match (full, smoke) {
                (true, _) => Scale::Full,
                (_, true) => Scale::Smoke,
                _ => Scale::Quick,
            };
            let mut report = Report::new(suite.label(), scale);
            suite.run(scale, &mut report)?;
            report.finish()?
        }
        None => {
            ensure!(
                before.is_some() || *accept,
                "which suite? `help` lists them; without one, --compare and --accept look at the last run"
            );
            Files::LAST.read().context("there is no last run")?
        }
    };
    if let Some(file) = json {
        report::write(file, &run)?;
    }
    if let Some(before) = before {
        print!("\n{}", compare::text(&before, &run));
    }
    if *accept { report::accept() } else { Ok(()) }
}
