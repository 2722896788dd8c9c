//! `cargo xtask bench insn`: instructions per packet, exactly.
//!
//! In a guest whose qemu counts (`-icount shift=0`) a nanosecond of the guest's clock is an instruction, however busy
//! the machine is. `xvr-bench insn` measures there; here its rows are compared with the recorded
//! ones in `bench/insn.md`.

mod table;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::guest::Guest;
use crate::{build, root, setup};
use table::{Change, Table, is_gated};

/// Instructions per packet in a guest that counts them.
#[derive(Debug, Default, Parser)]
#[command(name = "cargo xtask bench insn")]
struct Insn {
    /// Fail where a row has grown by more than 2 % (of new flows 4 %) and bench/insn.md has not
    #[arg(long, conflicts_with = "accept")]
    check: bool,
    /// Write what is measured to bench/insn.md
    #[arg(long)]
    accept: bool,
    /// Measure Linux' own means too, which are not judged
    #[arg(long)]
    references: bool,
    /// Only rows whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// The same machine each time, down to its random numbers and the time of day. It counts with one CPU alone.
const MACHINE: &[&str] = &[
    "-accel",
    "tcg,thread=single",
    "-icount",
    "shift=0,sleep=off",
    "-smp",
    "1",
    "-m",
    "1024",
    "-cpu",
    "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt",
    "-seed",
    "1",
    "-rtc",
    "base=2026-01-01T00:00:00,clock=vm",
];

/// Addresses of the kernel's own functions are drawn at boot otherwise.
const KERNEL_ARGUMENTS: &str = "nokaslr tsc=reliable";

const PROGRAMS: &[&str] = &["/usr/sbin/ip", "/usr/sbin/ethtool"];
const MODULES: &[&str] = &["veth", "cls_bpf", "sch_ingress"];

/// What Linux' own means are made with.
const REFERENCES: &[&str] = &["/usr/sbin/nft", "/usr/sbin/iptables-legacy-restore"];
const NETFILTER: &[&str] = &[
    "nf_tables",
    "nft_ct",
    "nft_nat",
    "nft_chain_nat",
    "nf_flow_table_inet",
    "nft_flow_offload",
    "iptable_filter",
    "iptable_nat",
    "xt_conntrack",
    "xt_nat",
];
const IPTABLES_MATCHES: &str = "/usr/lib/x86_64-linux-gnu/xtables";

/// It takes two minutes where nothing else runs.
const TIME_LIMIT: Duration = Duration::from_secs(1800);

/// A row as the guest says it.
struct Measured {
    name: String,
    instructions: f64,
    /// Between the least and the most of its windows.
    spread: f64,
}

/// What `arguments` ask for; the first is the suite's name.
pub fn run(arguments: &[String]) -> Result<()> {
    let insn = Insn::parse_from(arguments);
    measure(&insn)
}

/// What CI asks for.
pub fn check() -> Result<()> {
    measure(&Insn { check: true, ..Insn::default() })
}

fn measure(insn: &Insn) -> Result<()> {
    setup::everything()?;
    crate::run(build::cargo("build").args(["-p", "router-bench", "-p", "xtask", "--bins"]))?;
    let compiler = compiler()?;
    let mut rows = Vec::new();
    guest(insn)?.boot("insn", |line| match row(line) {
        Some(row) => {
            println!("guest: {}: {:.1}", row.name, row.instructions);
            rows.push(row);
        }
        None => println!("guest: {line}"),
    })?;
    ensure!(!rows.is_empty(), "the guest has measured nothing");
    let path = root().join("bench/insn.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut table = Table::parse(&text).with_context(|| path.display().to_string())?;
    show(&table, &compiler, &rows);
    if insn.accept {
        ensure!(compiler != READY_MADE, "{READY_MADE} was measured: who has made it?");
        for row in &rows {
            table.record(&compiler, &row.name, row.instructions);
        }
        fs::write(&path, table.to_string()).with_context(|| format!("write {}", path.display()))?;
        println!("{} has a column of {compiler}", path.display());
        return Ok(());
    }
    if insn.check { judge(&table, &compiler, &rows, insn.only.is_none()) } else { Ok(()) }
}

/// Programs that somebody else has built.
const READY_MADE: &str = "a ready-made object";

/// Whose code it is that is counted: others make other code.
fn compiler() -> Result<String> {
    if std::env::var_os(ebpf_build::ROUTER.object_variable).is_some() {
        return Ok(READY_MADE.to_owned());
    }
    ebpf_build::version(&ebpf_build::toolchain()?)
}

fn guest(insn: &Insn) -> Result<Guest> {
    let mut command = "/usr/sbin/xvr-bench insn".to_owned();
    if insn.references {
        command += " --references";
    }
    if let Some(only) = &insn.only {
        ensure!(!only.contains(char::is_whitespace), "--only takes one word");
        command += &format!(" --only {only}");
    }
    let mut guest = Guest {
        commands: vec![command],
        modules: MODULES.to_vec(),
        machine: MACHINE.to_vec(),
        kernel_arguments: KERNEL_ARGUMENTS,
        time_limit: TIME_LIMIT,
        ..Guest::default()
    };
    guest.programs.push(("/usr/sbin/xvr-bench".into(), build::programs().join("xvr-bench")));
    guest.add_programs(PROGRAMS);
    if insn.references {
        guest.add_programs(REFERENCES);
        guest.modules.extend(NETFILTER);
        let matches = fs::read_dir(IPTABLES_MATCHES).context("list iptables' matches")?;
        let paths = matches.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
        guest.files.extend(paths.into_iter().map(|path| (path.clone(), path)));
    }
    Ok(guest)
}

/// `insn|NAME|LEAST|MOST`.
fn row(line: &str) -> Option<Measured> {
    let mut fields = line.strip_prefix("insn|")?.split('|');
    let name = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse::<f64>().ok();
    let (least, most) = (number()?, number()?);
    Some(Measured { name, instructions: least, spread: most - least })
}

/// Measured next to recorded.
fn show(table: &Table, compiler: &str, rows: &[Measured]) {
    const REDIRECT: &str = "bare redirect";
    let redirect = rows.iter().find(|row| row.name == REDIRECT).map(|row| row.instructions);
    let redirect = redirect.or_else(|| table.recorded(compiler, REDIRECT));
    let wide = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    println!("\ninstructions per packet, whole path from generator to sink; packet programs by {compiler}");
    println!(
        "  {:wide$} {:>10} {:>8} {:>10} {:>8} {:>16}",
        "", "measured", "spread", "recorded", "", "above redirect"
    );
    for Measured { name, instructions, spread } in rows {
        let recorded = table.recorded(compiler, name);
        let shown = recorded.map_or_else(|| "-".into(), |recorded| format!("{recorded:.1}"));
        let change = recorded.map_or_else(String::new, |recorded| {
            format!("{:+.2} %", (instructions / recorded - 1.0) * 100.0)
        });
        let above = redirect.map_or_else(String::new, |redirect| format!("{:.1}", instructions - redirect));
        println!("  {name:wide$} {instructions:>10.1} {spread:>8.1} {shown:>10} {change:>8} {above:>16}");
    }
    println!();
}

/// Fails where a row has grown and the table has not. `is_all`: what is recorded has to be measured.
fn judge(table: &Table, compiler: &str, rows: &[Measured], is_all: bool) -> Result<()> {
    if !table.compilers().iter().any(|other| other == compiler) {
        println!(
            "NOT JUDGED: bench/insn.md has no column of {compiler}, only of {}. `cargo xtask bench insn --accept` \
             makes one, which has to be of the commit before the change.",
            table.compilers().join(" and ")
        );
        return Ok(());
    }
    let mut complaints = Vec::new();
    for row in rows.iter().filter(|row| is_gated(&row.name)) {
        match table.change(compiler, &row.name, row.instructions) {
            Change::None => {}
            Change::Grown => complaints.push(format!("{} has grown too much", row.name)),
            Change::New => complaints.push(format!("{} is not recorded", row.name)),
            Change::Shrunk => println!("{} has shrunk: record it", row.name),
        }
    }
    let is_missing = |name: &&str| {
        is_gated(name) && table.recorded(compiler, name).is_some() && rows.iter().all(|row| row.name != *name)
    };
    if is_all {
        complaints.extend(table.names().filter(is_missing).map(|name| format!("{name} was not measured")));
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!(
        "instructions per packet are not what bench/insn.md says:\n  {}\nIf that is meant, `cargo xtask bench insn \
         --accept`, and commit the table with the change. If \"no router\" or \"bare redirect\" have moved too, it is \
         the kernel that has changed.",
        complaints.join("\n  ")
    )
}
