//! What building and testing need, and how it gets here.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{run, vm};

/// Debian packages that the packet programs are built with, where rustup has no nightly with
/// `rust-src`.
const BPF_TOOLCHAIN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// A Debian package that is needed.
#[derive(Clone, Copy)]
struct Package {
    name: &'static str,
    /// A file that it brings; the package is not looked for where that is there from elsewhere.
    file: &'static str,
    purpose: &'static str,
}

const fn package(name: &'static str, file: &'static str, purpose: &'static str) -> Package {
    Package { name, file, purpose }
}

/// What the lab and its clients need: demo, test, vm-test.
const LAB: &[Package] = &[
    package("nftables", "/usr/sbin/nft", "the guard against forwarding by Linux"),
    package("iproute2", "/usr/sbin/ip", "the lab"),
    package("util-linux", "/usr/bin/nsenter", "the lab"),
    package("procps", "/usr/sbin/sysctl", "the lab"),
    package("ethtool", "/usr/sbin/ethtool", "offloads of the lab's NICs"),
    package("iputils-ping", "/usr/bin/ping", "a client"),
    package("traceroute", "/usr/bin/traceroute", "a client"),
    package("curl", "/usr/bin/curl", "a client"),
    package("iperf3", "/usr/bin/iperf3", "a client and its server"),
    package("nmap", "/usr/bin/nmap", "a client"),
    package("openssh-client", "/usr/bin/ssh", "a client"),
    package("openssh-server", "/usr/sbin/sshd", "a server"),
    package("coturn", "/usr/bin/turnserver", "a server of STUN, and its client"),
    package("bind9-dnsutils", "/usr/bin/dig", "a client"),
    package("dnsmasq-base", "/usr/sbin/dnsmasq", "a server of DNS and TFTP"),
    package("iputils-tracepath", "/usr/bin/tracepath", "a client"),
    package("tftp-hpa", "/usr/bin/tftp", "a client"),
    package("vsftpd", "/usr/sbin/vsftpd", "a server"),
    package("sip-tester", "/usr/bin/sipp", "a client and its server"),
    package("tcpdump", "/usr/bin/tcpdump", "watching wires"),
    package("bpftool", "/usr/sbin/bpftool", "taking programs off by force"),
];

/// What the guest with the other kernel needs: vm-test.
const GUEST: &[Package] = &[
    package("kmod", "/usr/sbin/depmod", "the modules of vm-test's kernel"),
    package("qemu-system-x86", "/usr/bin/qemu-system-x86_64", "vm-test"),
];

/// Packages that the linker is built with, besides LLVM's; a C++ compiler for its library.
const LINKER_BUILD: &[&str] = &["g++", "zlib1g-dev", "libzstd-dev"];

/// Says what is missing.
pub fn check() -> Result<()> {
    let packages: Vec<_> = LAB.iter().chain(GUEST).filter(|package| is_missing(package)).collect();
    let toolchain = ebpf_build::toolchain();
    let linker =
        toolchain.as_ref().map_err(|error| anyhow::anyhow!("{error:#}")).and_then(ebpf_build::linker);
    if packages.is_empty() && linker.is_ok() {
        println!("nothing is missing");
        return Ok(());
    }
    for Package { name, purpose, .. } in packages {
        println!("package {name} ({purpose}) is missing");
    }
    if let Err(error) = linker {
        println!("{error:#}");
    }
    bail!("`cargo xtask setup` installs what is missing");
}

/// Installs what is missing for anything.
pub fn everything() -> Result<()> {
    to_build()?;
    install_missing(&[LAB, GUEST].concat())?;
    vm::fetch_kernel()
}

/// Installs what the lab and its clients need, and what building needs.
pub fn to_run_the_lab() -> Result<()> {
    to_build()?;
    install_missing(LAB)
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
        .args([
            "install",
            "bpf-linker",
            "--version",
            ebpf_build::LINKER_VERSION,
            "--locked",
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{llvm}")])
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        .env("PATH", path))
}

fn is_missing(package: &Package) -> bool {
    !Path::new(package.file).exists()
}

fn install_missing(wanted: &[Package]) -> Result<()> {
    let missing: Vec<_> =
        wanted.iter().filter(|package| is_missing(package)).map(|package| package.name).collect();
    packages(&missing)
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
