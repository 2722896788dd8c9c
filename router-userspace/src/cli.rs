//! The command line.
//!
//! Exit status: 0 done, 1 refused or failed, 2 not understood. What was asked for goes to standard
//! output, everything else to standard error.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::compile::AttachMode;
use crate::daemon;
use crate::health::{self, IfRunning};
use crate::install;
use crate::legacy;
use crate::root::Root;
use crate::rpc::{self, Answer, Document, Guard, Request};
use crate::scripts::ssh;
use crate::services::{charon, l2tp};
use crate::show::{self, plural};

/// XVR: CloudStack's virtual router with its packet path in eBPF.
#[derive(Debug, Parser)]
#[command(name = "xvr", version, about)]
pub struct Cli {
    /// Folder that the router's files are below [default: $XVR_ROOT, else where xvr is installed, else /]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lay the router down below the root: binary, CloudStack's scripts, folders, systemd unit
    Install,
    /// Run the router in the foreground, in the current network namespace
    Daemon(DaemonArguments),
    /// Apply CloudStack's JSON files, or those of a folder by name, in order
    Apply {
        /// Files or folders
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
    },
    /// Say what applying files would change, or what differs now; change nothing
    Plan {
        /// Files or folders
        #[arg(value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take the place of CloudStack's own router on this machine: its databags, routes, rules and services
    Import {
        /// Where its databags are [default: etc/cloudstack below the root]
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
        /// Say what would be done; change nothing
        #[arg(long)]
        check: bool,
    },
    /// Read the settings again (etc/xvr/settings.json below the root) and put them in force
    Reload,
    /// Look at the running router
    Show {
        /// At what
        what: What,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say how the daemon is
    Status {
        /// Wait up to this many seconds until it takes commands
        #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
        wait: f64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Run what a client of the router's SSH server asks for
    #[command(hide = true, name = "ssh-command")]
    Ssh,
    /// Tell strongSwan which tunnels there are; the daemon does so by itself
    #[command(hide = true)]
    LoadTunnels,
    /// Look after the tunnels that strongSwan has; the daemon does so by itself
    #[command(hide = true)]
    TendTunnels,
    /// Take away what strongSwan has left in the kernel; the daemon does so by itself
    #[command(hide = true)]
    ClearTunnels,
    /// Run xl2tpd; the daemon does so by itself
    #[command(hide = true, name = "serve-l2tp")]
    ServeL2tp,
    /// Note who is behind a device; pppd does so by itself
    #[command(hide = true)]
    NoteSession {
        /// The device
        device: String,
        /// Who
        user: String,
        /// pppd's process
        pid: i32,
    },
    /// End sessions of users who are gone; the daemon does so by itself
    #[command(hide = true)]
    EndSessions,
    /// Run health checks and save what they find, unless they are running already; the daemon does so by itself
    #[command(hide = true)]
    HealthChecks {
        /// Which
        kind: health::Kind,
    },
    /// Take the programs off all ports and forget all flows; the daemon ends
    Remove {
        /// Take the guard away too, after switching forwarding off
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
struct DaemonArguments {
    /// How programs are attached to ports: auto, xdp, xdp-generic or tc
    #[arg(long, value_name = "MODE", default_value_t = AttachModeArgument::default())]
    attach: AttachModeArgument,
    /// Room for flow entries per address family; a session takes two. Otherwise as much as an eighth of the memory holds
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(2..=1 << 26))]
    max_flows: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct AttachModeArgument(AttachMode);

impl std::fmt::Display for AttachModeArgument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.label())
    }
}

impl std::str::FromStr for AttachModeArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Ports: NICs, addresses, how programs are attached and why
    Ports,
    /// Flows the router knows
    Flows,
    /// Packets that were not forwarded, and why
    Drops,
    /// Routes
    Routes,
    /// Static NAT, port forwardings, and how the external ports of source NAT are used
    Nat,
    /// Firewall rules and network ACLs in force, and what each has decided
    Rules,
    /// Bridges of `ports.json`, and which station is behind which port
    Bridges,
    /// What has passed between the outside and the tiers, by public address
    Usage,
    /// How the daemon is
    Status,
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// It was refused, or failed; the message is for the operator.
    pub fn run(self) -> Result<()> {
        let root = Root::find(self.root);
        match self.command {
            Command::Install => {
                for path in install::install(&root)? {
                    println!("{}", path.display());
                }
                Ok(())
            }
            Command::Daemon(arguments) => {
                let DaemonArguments { attach, max_flows } = arguments;
                daemon::run(daemon::Options { root, attach: attach.0, max_flows })
            }
            Command::Apply { paths } => apply(&root, &paths),
            Command::Plan { paths, json } => plan(&root, &paths, json),
            Command::Import { folder, check } => import(&root, folder, check),
            Command::Reload => report(&root, &Request::Reload),
            Command::Show { what, json } => show(&root, what, json, Duration::ZERO),
            Command::Status { wait, json } => {
                let wait = Duration::try_from_secs_f64(wait).context("--wait")?;
                show(&root, What::Status, json, wait)
            }
            Command::Ssh => Err(ssh::run(&root)),
            Command::LoadTunnels => charon::load(&root),
            Command::TendTunnels => charon::tend(&root),
            Command::ClearTunnels => charon::clear(),
            Command::ServeL2tp => Err(l2tp::serve(&root)),
            Command::NoteSession { device, user, pid } => l2tp::note(&root, &device, &user, pid),
            Command::EndSessions => l2tp::end_sessions(&root),
            Command::HealthChecks { kind } => health::run(&root, kind, IfRunning::LeaveItThere),
            Command::Remove { all } => remove(&root, if all { Guard::Goes } else { Guard::Stays }),
        }
    }
}

fn apply(root: &Root, paths: &[PathBuf]) -> Result<()> {
    report(root, &Request::Apply { documents: documents(paths)? })
}

/// Has something put in force, and says what came of it.
fn report(root: &Root, request: &Request) -> Result<()> {
    let Answer::Applied { applied, refused } = ask(root, request, Duration::ZERO)? else {
        return confused();
    };
    for document in &applied {
        for warning in &document.warnings {
            eprintln!("warning: {warning}");
        }
        let changes = plural(document.changes.len(), "change");
        println!("{}: in force, {changes}, {} ms", document.name, document.milliseconds);
    }
    refused.map_or(Ok(()), |refusal| bail!(refusal.reason))
}

fn import(root: &Root, folder: Option<PathBuf>, only_say: bool) -> Result<()> {
    let folder = folder.unwrap_or_else(|| root.databags());
    let folder = fs::canonicalize(&folder).with_context(|| format!("find {}", folder.display()))?;
    let request = Request::Import { folder, only_say };
    if only_say {
        return show_plan(ask(root, &request, Duration::ZERO)?, false);
    }
    report(root, &request)?;
    legacy::stop(root)
}

fn plan(root: &Root, paths: &[PathBuf], json: bool) -> Result<()> {
    let request = Request::Plan { documents: documents(paths)? };
    show_plan(ask(root, &request, Duration::ZERO)?, json)
}

fn show_plan(answer: Answer, json: bool) -> Result<()> {
    let Answer::Plan { changes, notices } = answer else { return confused() };
    for notice in notices {
        eprintln!("notice: {notice}");
    }
    if json {
        return print_json(&changes);
    }
    if changes.is_empty() {
        println!("Nothing would change.");
    }
    for change in changes {
        println!("{change}");
    }
    Ok(())
}

fn show(root: &Root, what: What, json: bool, patience: Duration) -> Result<()> {
    let request = match what {
        What::Ports => Request::Ports,
        What::Flows => Request::Flows,
        What::Drops => Request::Drops,
        What::Routes => Request::Routes,
        What::Nat => Request::Nat,
        What::Rules => Request::Rules,
        What::Bridges => Request::Bridges,
        What::Usage => Request::Usage,
        What::Status => Request::Status,
    };
    match ask(root, &request, patience)? {
        Answer::Ports(ports) => print(&ports, json, |ports| show::ports(ports)),
        Answer::Flows(flows) => print(&flows, json, |flows| show::flows(flows)),
        Answer::Drops(drops) => print(&drops, json, |drops| show::drops(drops)),
        Answer::Routes(routes) => print(&routes, json, |routes| show::routes(routes)),
        Answer::Nat(nat) => print(&nat, json, |nat| nat.text()),
        Answer::Rules(lists) => print(&lists, json, |lists| show::rules(lists)),
        Answer::Bridges(bridges) => print(&bridges, json, |bridges| show::bridges(bridges)),
        Answer::Usage(usage) => print(&usage, json, |usage| usage.text()),
        Answer::Status(status) => print(&status, json, |status| status.text()),
        _ => confused(),
    }
}

/// The daemon does it, or we do where there is none.
fn remove(root: &Root, guard: Guard) -> Result<()> {
    if rpc::call(&root.socket(), &Request::Status, Duration::ZERO).is_err() {
        return daemon::remove(root, guard);
    }
    match ask(root, &Request::Remove { guard }, Duration::ZERO)? {
        Answer::Removed => Ok(()),
        _ => confused(),
    }
}

fn ask(root: &Root, request: &Request, patience: Duration) -> Result<Answer> {
    match rpc::call(&root.socket(), request, patience)? {
        Answer::Refused(reason) => bail!(reason),
        answer => Ok(answer),
    }
}

fn confused() -> Result<()> {
    bail!("the daemon answered something else: is it another version?")
}

fn print<T: Serialize>(value: &T, json: bool, text: impl Fn(&T) -> String) -> Result<()> {
    if json {
        return print_json(value);
    }
    print!("{}", text(value));
    Ok(())
}

fn print_json(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Files as they are given; of a folder, those with `.json` in their name, in the order of their
/// names, as CloudStack names them (`ips.json.3f0c…`).
fn documents(paths: &[PathBuf]) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        if path.is_dir() {
            for file in json_files(path).with_context(|| format!("list {}", path.display()))? {
                documents.push(read(&file)?);
            }
        } else {
            documents.push(read(path)?);
        }
    }
    Ok(documents)
}

fn json_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if path.is_file() && name.contains(".json") && !name.starts_with('.') {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Document> {
    let name = path.display().to_string();
    let bytes = fs::read(path).with_context(|| format!("read {name}"))?;
    let text = String::from_utf8(bytes).map_err(|error| anyhow::anyhow!("{name}#: {error}"))?;
    Ok(Document { name, text })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_the_readme_says_is_understood() {
        for line in [
            "xvr install --root /tmp/r",
            "xvr daemon --root /tmp/r --attach xdp-generic",
            "xvr --root /tmp/r daemon",
            "xvr status --wait 10 --root /tmp/r",
            "xvr status --wait 0.5",
            "xvr apply a.json b.json dir --root /tmp/r",
            "xvr plan",
            "xvr plan a.json --json",
            "xvr reload",
            "xvr import --check",
            "xvr import /etc/cloudstack",
            "xvr show ports --json",
            "xvr show drops",
            "xvr show nat --json",
            "xvr show usage --json",
            "xvr remove --all",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for (line, kind) in [
            ("xvr apply", ErrorKind::MissingRequiredArgument),
            ("xvr daemon --attach fast", ErrorKind::ValueValidation),
            ("xvr show everything", ErrorKind::InvalidValue),
            ("xvr frobnicate", ErrorKind::InvalidSubcommand),
        ] {
            assert_eq!(parse(line).unwrap_err(), kind, "{line}");
        }
    }

    #[test]
    fn a_folders_files_are_taken_by_name() {
        let folder = std::env::temp_dir().join(format!("xvr-apply-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in ["02_ips.json", "01_cmd_line.json", "notes.txt", ".hidden.json", "03_x.json.3f0c"] {
            fs::write(folder.join(name), "{}").unwrap();
        }
        let documents = documents(std::slice::from_ref(&folder)).unwrap();
        let names: Vec<&str> = documents.iter().map(|file| file.name.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["01_cmd_line.json", "02_ips.json", "03_x.json.3f0c"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
