//! Formatting, clippy, and the tables' version.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::{build, root, setup, target_dir};

/// What needs no compiler.
fn texts() -> Result<()> {
    let mut format = std::process::Command::new("cargo");
    crate::run(format.current_dir(root()).args(["fmt", "--all", "--check"]))?;
    check_abi()
}

/// Runs all of them.
pub fn run() -> Result<()> {
    texts()?;
    setup::to_build()?;
    crate::run(build::cargo("clippy").args(["--workspace", "--all-targets", "--", "-Dwarnings"]))?;
    check_programs()
}

/// Fails when the compiler warns about the packet programs, which no clippy is there for.
fn check_programs() -> Result<()> {
    for programs in [ebpf_build::ROUTER, ebpf_build::BENCH] {
        let object = ebpf_build::build(&programs, root(), &target_dir().join("bpf"))?;
        for warning in &object.warnings {
            eprintln!("{warning}");
        }
        ensure!(object.warnings.is_empty(), "the compiler warns about the programs of {}", programs.package);
    }
    Ok(())
}

/// The file that remembers which tables belong to which version.
fn lock() -> PathBuf {
    root().join("router-common/abi.lock")
}

/// What the tables look like: the version, and a hash of their definitions without comments.
fn fingerprint() -> Result<(String, String)> {
    let folder = root().join("router-common/src");
    let mut files: Vec<_> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut hash = FNV_OFFSET;
    let mut version = None;
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        for line in text.lines().map(str::trim) {
            if let Some(number) = line.strip_prefix("pub const ABI_VERSION: u32 = ") {
                version = Some(number.trim_end_matches(';').to_owned());
            } else if !line.starts_with("//") && !line.is_empty() {
                hash = line.bytes().chain(*b"\n").fold(hash, fnv);
            }
        }
    }
    Ok((version.context("router-common names no ABI_VERSION")?, format!("{hash:016x}")))
}

/// One step of FNV-1a: unlike the standard library's, it stays the same from compiler to compiler.
const fn fnv(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// Fails when the tables changed and their version did not.
fn check_abi() -> Result<()> {
    let (version, hash) = fingerprint()?;
    let text = fs::read_to_string(lock()).context("read router-common/abi.lock")?;
    if text.trim() != format!("{version} {hash}") {
        bail!(
            "router-common/src is not what router-common/abi.lock says ({}). If a layout or a number's meaning \
             changed, raise ABI_VERSION; then `cargo xtask lint --accept-abi`",
            text.trim()
        );
    }
    Ok(())
}

/// Writes down what the tables look like now.
pub fn accept_abi() -> Result<()> {
    let (version, hash) = fingerprint()?;
    fs::write(lock(), format!("{version} {hash}\n")).context("write router-common/abi.lock")?;
    println!("router-common/abi.lock: version {version}");
    Ok(())
}
