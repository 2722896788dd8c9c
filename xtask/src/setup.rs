//! What building and testing need, and how it gets here.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{run, vm};

/// Debian packages that the packet programs are built with, where rustup has no nightly with
/// `rust-src`.
const BPF_TOOLCHAIN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// Debian packages, by a file that each brings, and what it is for.
const PACKAGES: &[(&str, &str, &str)] = &[
    ("gcc", "/usr/bin/cc", "linking"),
    ("nftables", "/usr/sbin/nft", "the guard against forwarding by Linux"),
    ("iproute2", "/usr/sbin/ip", "the lab"),
    ("util-linux", "/usr/bin/nsenter", "the lab"),
    ("procps", "/usr/sbin/sysctl", "the lab"),
    ("ethtool", "/usr/sbin/ethtool", "offloads of the lab's NICs"),
    ("iputils-ping", "/usr/bin/ping", "a client"),
    ("traceroute", "/usr/bin/traceroute", "a client"),
    ("curl", "/usr/bin/curl", "a client"),
    ("iperf3", "/usr/bin/iperf3", "a client and its server"),
    ("tcpdump", "/usr/bin/tcpdump", "watching wires"),
    ("kmod", "/usr/sbin/depmod", "the modules of vm-test's kernel"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64", "vm-test"),
];

/// Packages that the linker is built with.
const LINKER_BUILD: &[&str] = &["zlib1g-dev", "libzstd-dev"];

/// Says what is missing.
pub fn check() -> Result<()> {
    let packages = missing_packages();
    let toolchain = ebpf_build::toolchain();
    let linker =
        toolchain.as_ref().map_err(|error| anyhow::anyhow!("{error:#}")).and_then(ebpf_build::linker);
    if packages.is_empty() && linker.is_ok() {
        println!("nothing is missing");
        return Ok(());
    }
    for (package, _, purpose) in &packages {
        println!("package {package} ({purpose}) is missing");
    }
    if let Err(error) = linker {
        println!("{error:#}");
    }
    bail!("`cargo xtask setup` installs what is missing");
}

/// Installs what is missing.
pub fn everything() -> Result<()> {
    packages(&missing_packages().iter().map(|(package, ..)| *package).collect::<Vec<_>>())?;
    to_build()?;
    vm::fetch_kernel()
}

/// Installs what building needs, nothing else.
pub fn to_build() -> Result<()> {
    if ebpf_build::toolchain().is_err() {
        packages(BPF_TOOLCHAIN)?;
    }
    let toolchain = ebpf_build::toolchain()?;
    if ebpf_build::linker(&toolchain).is_ok() {
        return Ok(());
    }
    let llvm = ebpf_build::llvm_version(&toolchain)?;
    let (dev, polly) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
    packages(&[&[dev.as_str(), polly.as_str()], LINKER_BUILD].concat())?;
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let path = format!("{prefix}/bin:{}", env::var("PATH").unwrap_or_default());
    println!("building bpf-linker");
    run(Command::new("cargo")
        .args(["install", "bpf-linker", "--version", "0.13.0", "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}")])
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        .env("PATH", path))
}

fn missing_packages() -> Vec<(&'static str, &'static str, &'static str)> {
    PACKAGES.iter().copied().filter(|(_, file, _)| !Path::new(file).exists()).collect()
}

/// Installs Debian packages, if any are named.
pub fn packages(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --yes --no-install-recommends {}", names.join(" "));
    // SAFETY: cannot fail and touches nothing.
    let root = unsafe { libc::geteuid() } == 0;
    ensure!(root, "as root, run: apt-get update && {install}");
    println!("installing {}", names.join(" "));
    apt(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(names);
    apt(&arguments)
}

/// `apt-get`, quiet unless it fails.
pub fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let output = command.output().context("run apt-get: only Debian and its relatives are supported")?;
    ensure!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
