//! The kernel tests on Debian's 6.1 kernel, the one that CloudStack's system VM runs, in qemu
//! without hardware acceleration.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cpio::Archive;
use crate::{build, root, run as run_command, setup, target_dir};

/// Test programs that run in the guest, and which of their tests (none named: all): what differs
/// between kernels. A lab takes the guest minutes, so there is one a hook, and one restart.
const TESTS: &[(&str, &[&str])] = &[
    ("kernel_walk", &[]),
    ("policy", &[]),
    ("netns_forward", &["tc::ping_and_traceroute", "xdp::the_first_packet"]),
    ("netns_restart", &["the_next_daemon_adopts"]),
    ("netns_people", &["people_call"]),
];

/// Programs of this machine that tests in the guest call.
const PROGRAMS: &[&str] = &[
    "/usr/sbin/ip",
    "/usr/sbin/nft",
    "/usr/sbin/ethtool",
    "/usr/bin/ping",
    "/usr/bin/traceroute",
    "/usr/bin/ssh-keygen",
    "/usr/bin/env",
    "/usr/bin/kill",
    "/usr/bin/dig",
    "/usr/sbin/dnsmasq",
    "/usr/sbin/charon-systemd",
    "/usr/sbin/swanctl",
    "/usr/sbin/xl2tpd",
    "/usr/sbin/pppd",
];

/// What charon and pppd load when they run.
const PLUGINS: &[(&str, &[&str])] = &[
    (
        "/usr/lib/ipsec/plugins/libstrongswan-",
        &[
            "random",
            "nonce",
            "openssl",
            "aes",
            "sha1",
            "sha2",
            "md5",
            "hmac",
            "kdf",
            "gmp",
            "socket-default",
            "kernel-netlink",
            "resolve",
            "vici",
        ],
    ),
    ("/usr/lib/pppd/2.4.9/", &["pppol2tp"]),
];

/// Kernel modules that the tests need; those they depend on come along. The guest has nobody who loads what the kernel
/// asks for by itself, as it does for algorithms.
const MODULES: &[&str] = &[
    "crc32c_generic",
    "veth",
    "dummy",
    "bridge",
    "vxlan",
    "8021q",
    "cls_bpf",
    "sch_ingress",
    "nf_tables",
    "nft_counter",
    "nft_objref",
    "tun",
    "xfrm_user",
    "esp4",
    "crypto_null",
    "sha512_generic",
    "ctr",
    "drbg",
    "authenc",
    "echainiv",
    "ppp_generic",
    "l2tp_ppp",
];

/// The whole run may take this long; the guest is some ten times slower than the machine.
const TIME_LIMIT: Duration = Duration::from_secs(1800);

/// What the guest prints last when every test passed.
const SUCCESS: &str = "vm-init: success";

/// Runs the tests in the guest; `filter` as for `cargo test`.
pub fn run(filter: Option<&str>) -> Result<()> {
    setup::everything()?;
    build::bins()?;
    let tests = test_programs()?;
    let kernel = kernel()?;
    let initrd = target_dir().join("vm/initrd");
    fs::write(&initrd, initial_file_system(&kernel, &tests, filter)?)?;
    boot(&kernel.image, &initrd)
}

/// An unpacked kernel package.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

fn folder() -> PathBuf {
    target_dir().join("vm/linux-image-amd64")
}

fn kernel() -> Result<Kernel> {
    let boot = folder().join("boot");
    let image = fs::read_dir(&boot)?.filter_map(Result::ok).map(|entry| entry.path());
    let image = image.into_iter().find(|path| path.to_string_lossy().contains("vmlinuz-"));
    let image = image.with_context(|| format!("no kernel in {}", boot.display()))?;
    let version = image.to_string_lossy().rsplit_once("vmlinuz-").map(|(_, version)| version.to_owned());
    let modules = folder().join("lib/modules").join(version.context("the kernel has no version")?);
    Ok(Kernel { image, modules })
}

/// Downloads and unpacks the kernel below the target folder: nothing is installed.
pub fn fetch_kernel() -> Result<()> {
    if folder().join("lib/modules").exists() {
        return Ok(());
    }
    let downloads = target_dir().join("vm/download");
    fs::create_dir_all(&downloads)?;
    setup::apt(&["update"])?;
    let depends = Command::new("apt-cache").args(["depends", "linux-image-amd64"]).output()?;
    let text = String::from_utf8(depends.stdout)?;
    let package = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.into_iter().find(|name| name.starts_with("linux-image-"));
    let package = package.context("apt knows no linux-image-amd64")?;
    println!("downloading {package} for vm-test");
    run_command(Command::new("apt-get").current_dir(&downloads).args(["download", "--quiet", package]))?;
    let archives = fs::read_dir(&downloads)?.filter_map(Result::ok).map(|entry| entry.path());
    let archive = archives.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "deb"));
    let archive = archive.context("apt-get has downloaded nothing")?;
    let unpacked = target_dir().join("vm/unpacking");
    run_command(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    let versions = fs::read_dir(unpacked.join("lib/modules"))?.filter_map(Result::ok);
    for version in versions {
        run_command(Command::new("depmod").arg("-b").arg(&unpacked).arg(version.file_name()))?;
    }
    fs::rename(&unpacked, folder())?;
    fs::remove_dir_all(&downloads)?;
    Ok(())
}

/// Builds the test programs and says where each one is.
fn test_programs() -> Result<Vec<(String, PathBuf)>> {
    let mut command = build::cargo("test");
    command.args(["--no-run", "--message-format=json-render-diagnostics", "--package", "router-tests"]);
    for (test, _) in TESTS {
        command.args(["--test", test]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the tests could not be built");
    let text = String::from_utf8(output.stdout)?;
    // One JSON message a line; what is wanted of it is two strings.
    let string = |line: &str, key: &str| {
        let rest = line.split_once(&format!("\"{key}\":\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let programs = text.lines().filter_map(|line| {
        let path = string(line, "executable")?;
        let file = path.rsplit('/').next()?.to_owned();
        let (name, _) = TESTS.iter().find(|(name, _)| file.starts_with(name))?;
        Some(((*name).to_owned(), PathBuf::from(path)))
    });
    let programs: Vec<_> = programs.collect();
    ensure!(programs.len() == TESTS.len(), "built {} of {} tests", programs.len(), TESTS.len());
    Ok(programs)
}

fn initial_file_system(
    kernel: &Kernel,
    tests: &[(String, PathBuf)],
    filter: Option<&str>,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "tmp", "run", "etc", "root", "bin", "var", "var/run", "etc/ppp"] {
        archive.folder(folder);
    }
    let init = build::programs().join("vm-init");
    archive.file("init", &read(&init)?);
    let lines = TESTS.iter().map(|(test, names)| {
        let names = filter.map_or_else(|| names.join(" "), str::to_owned);
        format!("{test} {names}\n")
    });
    archive.file("etc/xvr-tests", lines.collect::<String>().as_bytes());
    // Whom OpenSSH makes keys for, and as whom dnsmasq runs.
    let users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    archive.file("etc/passwd", users);
    archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n");
    let mut files = libraries(&init)?;
    let router = build::programs().join("xvr");
    archive.file("usr/sbin/xvr", &read(&router)?);
    files.extend(libraries(&router)?);
    for fixture in files_below(&root().join("tests/fixtures"))? {
        archive.file(
            Path::new("fixtures").join(fixture.strip_prefix(root().join("tests/fixtures"))?),
            &read(&fixture)?,
        );
    }
    for (name, path) in tests {
        archive.file(Path::new("tests").join(name), &read(path)?);
        files.extend(libraries(path)?);
    }
    for program in PROGRAMS {
        files.insert(PathBuf::from(program));
        files.extend(libraries(Path::new(program))?);
    }
    for (beginning, names) in PLUGINS {
        for name in *names {
            let plugin = PathBuf::from(format!("{beginning}{name}.so"));
            files.extend(libraries(&plugin)?);
            files.insert(plugin);
        }
    }
    let shell = Path::new("/usr/bin/dash");
    archive.file("bin/sh", &read(shell)?);
    files.extend(libraries(shell)?);
    for file in files {
        archive.file(file.strip_prefix("/")?, &read(&file)?);
    }
    for (order, module) in modules_in_order(&kernel.modules)?.iter().enumerate() {
        let name = module.file_name().context("a module without a name")?.to_string_lossy();
        archive.file(format!("modules/{order:03}-{name}"), &read(module)?);
    }
    Ok(archive.finish())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { files.extend(files_below(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Shared libraries that a program is linked to, its loader included.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// The modules' files, each after those it depends on.
fn modules_in_order(folder: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(folder.join("modules.dep"))?;
    let mut order: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let file = format!("/{module}.ko");
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|path| path.ends_with(&file)));
        // Built into the kernel: nothing to load.
        let Some((path, dependencies)) = line.and_then(|line| line.split_once(':')) else { continue };
        // depmod writes the direct dependency first and what it rests on behind it.
        for path in dependencies.split_whitespace().rev().chain([path]) {
            let path = folder.join(path);
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

/// Boots the guest, shows its console, and judges by its last word.
fn boot(kernel: &Path, initrd: &Path) -> Result<()> {
    let start = Instant::now();
    let mut guest = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            "1536",
            "-nographic",
            "-no-reboot",
            "-nodefaults",
        ])
        .args(["-serial", "stdio", "-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("run qemu-system-x86_64 (package qemu-system-x86)")?;
    let console = BufReader::new(guest.stdout.take().context("the guest has no console")?);
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in console.split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    let mut success = false;
    while let Ok(line) = lines.recv_timeout(TIME_LIMIT.saturating_sub(start.elapsed())) {
        println!("guest: {line}");
        success |= line == SUCCESS;
    }
    // Ends by itself, unless the time is over.
    let _ = guest.kill();
    guest.wait()?;
    if !success {
        bail!("the tests failed in the guest, or it hung or crashed (after {} s)", start.elapsed().as_secs());
    }
    println!("the guest ran for {} s", start.elapsed().as_secs());
    Ok(())
}
