//! Kernel settings: files below `/proc/sys/`. Those of the network are the calling thread's
//! network namespace's.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, Result};

use super::links::KernelLink;

/// The values that settings have; one that the kernel does not have is left out. A kernel without
/// IPv6 has no settings for it, and needs none: they count as they are desired. Of these links the kernel has told
/// most of them already.
pub fn observe(desired: &BTreeMap<String, String>, links: &[KernelLink]) -> Result<BTreeMap<String, String>> {
    let links: HashMap<&str, &KernelLink> = links.iter().map(|link| (link.name.as_str(), link)).collect();
    let told = |path: &str| {
        let (family, rest) = path.strip_prefix("net/")?.split_once("/conf/")?;
        let (link, name) = rest.rsplit_once('/')?;
        links.get(link)?.setting(family, name)
    };
    let has_ipv6 = file("net/ipv6").exists();
    let value = |path: &str, desired: &str| {
        if !has_ipv6 && path.starts_with("net/ipv6/") {
            return Ok(Some(desired.to_owned()));
        }
        if let Some(value) = told(path) {
            return Ok(Some(value.to_string()));
        }
        match fs::read_to_string(file(path)) {
            Ok(text) => Ok(Some(text.split_whitespace().collect::<Vec<_>>().join(" "))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {path}")),
        }
    };
    // In the order in which they are asked about, by which the map need not look for each one's place.
    let values = desired.iter().filter_map(|(path, desired)| {
        value(path, desired).map(|value| Some((path.clone(), value?))).transpose()
    });
    values.collect()
}

/// Writes one setting.
pub fn set(path: &str, value: &str) -> io::Result<()> {
    fs::write(file(path), value)
}

fn file(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(path)
}
