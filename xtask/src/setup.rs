//! What building and testing need, and how it gets here.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{guest, run};

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
    package("iputils-arping", "/usr/bin/arping", "a script's tool"),
    package("keepalived", "/usr/sbin/keepalived", "which router of a pair serves"),
    package("haproxy", "/usr/sbin/haproxy", "the router's load balancer"),
    package("frr", "/usr/lib/frr/bgpd", "the router's BGP, and its peer"),
    package("frr-pythontools", "/usr/lib/frr/frr-reload.py", "changes of the router's BGP"),
    package("apache2-utils", "/usr/bin/ab", "a client"),
    package("openssl", "/usr/bin/openssl", "certificates of a load balancer"),
    package("unzip", "/usr/bin/unzip", "looking into a script's archive"),
    package("traceroute", "/usr/bin/traceroute", "a client"),
    package("curl", "/usr/bin/curl", "a client"),
    package("iperf3", "/usr/bin/iperf3", "a client and its server"),
    package("nmap", "/usr/bin/nmap", "a client"),
    package("openssh-client", "/usr/bin/ssh", "a client"),
    package("openssh-server", "/usr/sbin/sshd", "a server"),
    package("coturn", "/usr/bin/turnserver", "a server of STUN, and its client"),
    package("bind9-dnsutils", "/usr/bin/dig", "a client"),
    package("dnsmasq-base", "/usr/sbin/dnsmasq", "DHCP and DNS for guests; a server of DNS and TFTP"),
    package("dnsmasq-utils", "/usr/bin/dhcp_release", "taking leases back"),
    package("isc-dhcp-client", "/usr/sbin/dhclient", "a client"),
    package("udhcpc", "/usr/sbin/udhcpc", "a client"),
    package("ndisc6", "/usr/bin/rdisc6", "a client"),
    package("iputils-tracepath", "/usr/bin/tracepath", "a client"),
    package("tftp-hpa", "/usr/bin/tftp", "a client"),
    package("vsftpd", "/usr/sbin/vsftpd", "a server"),
    package("sip-tester", "/usr/bin/sipp", "a client and its server"),
    package("charon-systemd", "/usr/sbin/charon-systemd", "the router's VPNs, and those they lead to"),
    package("strongswan-swanctl", "/usr/sbin/swanctl", "telling them what to do"),
    package("libcharon-extra-plugins", IPSEC_IN_USERSPACE, "their ESP, which the kernel may not have"),
    package("libstrongswan-standard-plugins", OPENSSL, "older algorithms of VPNs"),
    package("xl2tpd", "/usr/sbin/xl2tpd", "remote access to a router, and who has it"),
    package("ppp", "/usr/sbin/pppd", "what xl2tpd carries"),
    package("cloud-init", "/usr/lib/python3/dist-packages/cloudinit/__init__.py", "a client's library"),
    package("wget", "/usr/bin/wget", "a client"),
    package("tcpdump", "/usr/bin/tcpdump", "watching wires"),
    package("bpftool", "/usr/sbin/bpftool", "taking programs off by force"),
];

/// The plugin of that package that the lab uses.
const IPSEC_IN_USERSPACE: &str = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";
/// And of the one for the sake of 3DES and MD5.
const OPENSSL: &str = "/usr/lib/ipsec/plugins/libstrongswan-openssl.so";

/// What the router is compared with: bench.
const REFERENCES: &[Package] =
    &[package("iptables", "/usr/sbin/iptables-legacy", "what bench compares with")];

/// What the guest with the other kernel needs: vm-test.
const GUEST: &[Package] = &[
    package("kmod", "/usr/sbin/depmod", "the modules of vm-test's kernel"),
    package("qemu-system-x86", "/usr/bin/qemu-system-x86_64", "vm-test"),
];

/// Packages that the linker is built with, besides LLVM's; a C++ compiler for its library.
const LINKER_BUILD: &[&str] = &["g++", "zlib1g-dev", "libzstd-dev"];

/// Says what is missing.
pub fn check() -> Result<()> {
    let packages: Vec<_> =
        LAB.iter().chain(REFERENCES).chain(GUEST).filter(|package| is_missing(package)).collect();
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
    install_missing(&[LAB, REFERENCES, GUEST].concat())?;
    guest::fetch_kernel()
}

/// Installs what the lab and its clients need, and what building needs.
pub fn to_run_the_lab() -> Result<()> {
    to_build()?;
    install_missing(LAB)
}

/// Installs what the bench needs, and what building needs.
pub fn to_measure() -> Result<()> {
    to_build()?;
    install_missing(&[LAB, REFERENCES].concat())
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
    let new = SERVICES.iter().filter(|(package, _)| names.contains(package) && !is_installed(package));
    let new: Vec<_> = new.map(|(_, service)| *service).collect();
    let quiet = NoStart::begin(Path::new(SBIN))?;
    let installed = apt(&arguments);
    quiet.end()?;
    installed?;
    disable(&new)
}

/// What Debian and its relatives start, and enable for every boot, when they install these packages.
/// The tests start servers of their own, in namespaces; the machine itself is to serve nothing that
/// it did not serve before.
const SERVICES: &[(&str, &str)] = &[
    ("openssh-server", "ssh.service"),
    ("openssh-server", "ssh.socket"),
    ("coturn", "coturn.service"),
    ("vsftpd", "vsftpd.service"),
    ("charon-systemd", "strongswan.service"),
];

/// Whoever has a package already wants its service.
fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    let output = query.args(["--show", "--showformat=${db:Status-Status}", package]).output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

/// Keeps services that were installed just now from starting with the machine.
fn disable(services: &[&str]) -> Result<()> {
    let exists = |service: &&&str| Path::new("/lib/systemd/system").join(service).exists();
    let services: Vec<_> = services.iter().filter(exists).collect();
    if services.is_empty() || !Path::new("/bin/systemctl").exists() {
        return Ok(());
    }
    // Not `mask`: whoever wants one later enables it as ever.
    run(Command::new("systemctl").args(["--quiet", "disable"]).args(services))
}

const SBIN: &str = "/usr/sbin";

/// While it lives, no package's script starts a service: they all ask `policy-rc.d`, and 101 is
/// no. One that was there before comes back, also when an earlier run was killed in between.
struct NoStart {
    policy: PathBuf,
    before: PathBuf,
}

impl NoStart {
    const POLICY: &str =
        "#!/bin/sh\n# Of `cargo xtask setup`, while it installs what tests start by themselves.\nexit 101\n";

    fn begin(folder: &Path) -> Result<Self> {
        let quiet =
            Self { policy: folder.join("policy-rc.d"), before: folder.join("policy-rc.d.before-xvr") };
        let found = fs::read(&quiet.policy);
        if found.is_ok_and(|text| text != Self::POLICY.as_bytes()) {
            fs::rename(&quiet.policy, &quiet.before).context("put policy-rc.d aside")?;
        }
        fs::write(&quiet.policy, Self::POLICY).context("write policy-rc.d")?;
        fs::set_permissions(&quiet.policy, fs::Permissions::from_mode(0o755)).context("write policy-rc.d")?;
        Ok(quiet)
    }

    fn end(self) -> Result<()> {
        if self.before.exists() {
            return fs::rename(&self.before, &self.policy).context("put policy-rc.d back");
        }
        fs::remove_file(&self.policy).context("remove policy-rc.d")
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_policy_before_is_policy_afterwards() {
        let folder = env::temp_dir().join(format!("xvr-setup-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let policy = folder.join("policy-rc.d");
        let exit = |path: &Path| Command::new("/bin/sh").arg(path).status().unwrap().code();

        let quiet = NoStart::begin(&folder).unwrap();
        assert_eq!(exit(&policy), Some(101));
        quiet.end().unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);

        fs::write(&policy, "exit 104\n").unwrap();
        // Killed in between, and run again.
        drop(NoStart::begin(&folder).unwrap());
        let quiet = NoStart::begin(&folder).unwrap();
        assert_eq!(exit(&policy), Some(101));
        quiet.end().unwrap();
        assert_eq!(fs::read_to_string(&policy).unwrap(), "exit 104\n");
        fs::remove_dir_all(folder).unwrap();
    }
}
