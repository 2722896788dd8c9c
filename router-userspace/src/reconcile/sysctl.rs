//! Kernel settings: files below `/proc/sys/`. Those of the network are the calling thread's
//! network namespace's.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, Result};

/// The values that settings have; one that the kernel does not have is left out. A kernel without
/// IPv6 has no settings for it, and needs none: they count as they are desired.
pub fn observe(desired: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let has_ipv6 = file("net/ipv6").exists();
    let mut values = BTreeMap::new();
    for (path, value) in desired {
        if !has_ipv6 && path.starts_with("net/ipv6/") {
            values.insert(path.clone(), value.clone());
            continue;
        }
        match fs::read_to_string(file(path)) {
            Ok(text) => {
                let words: Vec<&str> = text.split_whitespace().collect();
                values.insert(path.clone(), words.join(" "));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {path}")),
        }
    }
    Ok(values)
}

/// Writes one setting.
pub fn set(path: &str, value: &str) -> io::Result<()> {
    fs::write(file(path), value)
}

fn file(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(path)
}
