//! `patch-sysvms.sh`: CloudStack's live patch, and the checksum of its scripts.
//!
//! At each start and at each patch CloudStack copies `cloud-scripts.tgz` here, its own router's scripts, with a
//! `patch-sysvms.sh` that would unpack them over the router. What it wants to hear in the end is the archive's
//! checksum: by MD5 up to 4.21, by SHA-512 from 4.22 on, whichever the script that came with it calls. So the
//! archive is read, its checksum is kept, and the copied files go.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use md5::Md5;
use sha2::{Digest, Sha512};

use crate::root::Root;

const SCRIPT: &str = "patch-sysvms.sh";
const ARCHIVE: &str = "cloud-scripts.tgz";
/// The agent of other system VMs; tens of megabytes.
const AGENT: &str = "agent.zip";

/// Whether a command line is that of the copied script.
pub fn is_meant(line: &str) -> bool {
    line.split_ascii_whitespace().next().and_then(|program| program.rsplit('/').next()) == Some(SCRIPT)
}

/// Answers as if it were patched. The output has one colon, by which CloudStack takes it apart.
pub fn run(root: &Root) -> u8 {
    match signature(root) {
        Ok(signature) => {
            println!("version:{signature} ");
            0
        }
        Err(error) => {
            eprintln!("{SCRIPT}, {error:#}");
            1
        }
    }
}

/// The checksum of the scripts that came last, in hexadecimal; nothing if none ever came.
///
/// # Errors
/// A file cannot be read or written.
pub fn signature(root: &Root) -> Result<String> {
    let archive = root.inbox().join(ARCHIVE);
    let known = root.signature();
    let Some(bytes) = read(&archive)? else {
        let known = read(&known)?.unwrap_or_default();
        return Ok(String::from_utf8_lossy(&known).trim().to_owned());
    };
    let script = read(&root.inbox().join(SCRIPT))?.unwrap_or_default();
    let signature = match String::from_utf8_lossy(&script).contains("sha512sum") {
        true => hexadecimal(&Sha512::digest(&bytes)),
        false => hexadecimal(&Md5::digest(&bytes)),
    };
    fs::write(&known, format!("{signature}\n")).with_context(|| format!("write {}", known.display()))?;
    for name in [ARCHIVE, AGENT] {
        match fs::remove_file(root.inbox().join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {name}"));
            }
            _ => {}
        }
    }
    Ok(signature)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_known_by_its_name_alone() {
        assert!(is_meant("/var/cache/cloud/patch-sysvms.sh"));
        assert!(is_meant("patch-sysvms.sh null"));
        assert!(!is_meant("cat /var/cache/cloud/patch-sysvms.sh"));
        assert!(!is_meant(""));
    }

    #[test]
    fn the_checksum_is_the_one_that_the_script_would_take_and_stays() {
        let root = Root::new(std::env::temp_dir().join(format!("xvr-patch-{}", std::process::id())));
        fs::create_dir_all(root.inbox()).unwrap();
        assert_eq!(signature(&root).unwrap(), "");
        let bring = |script: &str| {
            fs::write(root.inbox().join(ARCHIVE), "abc").unwrap();
            fs::write(root.inbox().join(AGENT), "abc").unwrap();
            fs::write(root.inbox().join(SCRIPT), script).unwrap();
        };
        bring("md5sum $1");
        assert_eq!(signature(&root).unwrap(), "900150983cd24fb0d6963f7d28e17f72");
        assert!(!root.inbox().join(ARCHIVE).exists() && !root.inbox().join(AGENT).exists());
        assert_eq!(signature(&root).unwrap(), "900150983cd24fb0d6963f7d28e17f72");
        bring("sha512sum $1");
        assert!(signature(&root).unwrap().starts_with("ddaf35a193617abacc417349ae204131"));
        fs::remove_dir_all(root.path()).unwrap();
    }
}
