//! The kernel tests on Debian's 6.1 kernel, the one that CloudStack's system VM runs, in qemu
//! without hardware acceleration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guest::Guest;
use crate::{build, root, setup};

/// Test programs that run in the guest, and which of their tests (none named: all): what differs
/// between kernels. A lab takes the guest minutes, so there is one a hook, and one restart.
const TESTS: &[(&str, &[&str])] = &[
    (
        "kernel_walk",
        &["the_verifier", "every_scenario", "expiry_takes", "accounts_outlive", "a_flood_of_lone"],
    ),
    ("policy", &["program_says_what_the_list_says", "stays_cut"]),
    (
        "netns",
        &[
            "forward::tc::ping_and_traceroute",
            "forward::xdp::the_first_packet",
            "restart::the_next_daemon_adopts",
            "jumbo::a_live_port",
            "people::people_call",
            "kernel_peers::linux_itself_is_at_the_other_end_by_tc",
            "site2site::connections_go_both_ways",
        ],
    ),
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
    "ifb",
    "cls_bpf",
    "sch_ingress",
    "nf_tables",
    "nft_counter",
    "nft_objref",
    "tun",
    "xfrm_user",
    "xfrm_interface",
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

/// Runs the tests in the guest; `filter` as for `cargo test`.
pub fn run(filter: Option<&str>) -> Result<()> {
    setup::everything()?;
    build::bins()?;
    let commands = TESTS.iter().map(|(test, names)| {
        let names = filter.map_or_else(|| names.join(" "), str::to_owned);
        format!("/tests/{test} --nocapture --test-threads=1 {names}")
    });
    let mut guest = Guest {
        commands: commands.collect(),
        programs: test_programs()?,
        files: fixtures()?,
        modules: MODULES.to_vec(),
        machine: vec!["-accel", "tcg,thread=multi", "-smp", "2", "-m", "1536"],
        kernel_arguments: "",
        time_limit: TIME_LIMIT,
    };
    guest.programs.push(("/usr/sbin/xvr".into(), slim(&build::programs().join("xvr"))?));
    guest.add_programs(PROGRAMS);
    guest.programs.push(("/bin/sh".into(), "/usr/bin/dash".into()));
    let plugins =
        PLUGINS.iter().flat_map(|(beginning, names)| names.iter().map(move |name| (beginning, name)));
    let plugins = plugins.map(|(beginning, name)| PathBuf::from(format!("{beginning}{name}.so")));
    guest.programs.extend(plugins.map(|plugin| (plugin.clone(), plugin)));
    guest.boot("vm-test", |line| println!("guest: {line}"))
}

/// Builds the test programs and says where each one is to be and is.
fn test_programs() -> Result<Vec<(PathBuf, PathBuf)>> {
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
        Some((Path::new("/tests").join(name), PathBuf::from(path)))
    });
    let programs: Vec<_> = programs.collect();
    ensure!(programs.len() == TESTS.len(), "built {} of {} tests", programs.len(), TESTS.len());
    programs.into_iter().map(|(there, here)| Ok((there, slim(&here)?))).collect()
}

/// A program without what debuggers read, which is most of it: the guest unpacks all of them into half of its memory.
fn slim(program: &Path) -> Result<PathBuf> {
    let folder = root().join("target/vm/programs");
    fs::create_dir_all(&folder)?;
    let to = folder.join(program.file_name().context("a program has a name")?);
    let mut command = Command::new("strip");
    command.arg("--strip-debug").arg("-o").arg(&to).arg(program);
    let status = command.status().context("run strip")?;
    ensure!(status.success(), "strip {}: {status}", program.display());
    Ok(to)
}

fn fixtures() -> Result<Vec<(PathBuf, PathBuf)>> {
    let folder = root().join("tests/fixtures");
    let place = |here: PathBuf| Ok((Path::new("/fixtures").join(here.strip_prefix(&folder)?), here));
    files_below(&folder)?.into_iter().map(place).collect()
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { files.extend(files_below(&path)?) } else { files.push(path) }
    }
    Ok(files)
}
