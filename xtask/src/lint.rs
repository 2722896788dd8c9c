//! Formatting, clippy, and the tables' version.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{build, root, setup};

/// What needs no compiler.
pub fn texts() -> Result<()> {
    let mut format = std::process::Command::new("cargo");
    crate::run(format.current_dir(root()).args(["fmt", "--all", "--check"]))?;
    check_abi()
}

/// Runs all of them.
pub fn run() -> Result<()> {
    texts()?;
    setup::to_build()?;
    crate::run(build::cargo("clippy").args(["--workspace", "--all-targets", "--", "-Dwarnings"]))
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
    let mut hasher = DefaultHasher::new();
    let mut version = None;
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        for line in text.lines().map(str::trim) {
            if let Some(number) = line.strip_prefix("pub const ABI_VERSION: u32 = ") {
                version = Some(number.trim_end_matches(';').to_owned());
            } else if !line.starts_with("//") && !line.is_empty() {
                line.hash(&mut hasher);
            }
        }
    }
    Ok((version.context("router-common names no ABI_VERSION")?, format!("{:016x}", hasher.finish())))
}

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
