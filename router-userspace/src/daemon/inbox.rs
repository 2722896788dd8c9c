//! CloudStack's folder: what `update_config.py` does with the files that arrive there.
//!
//! | situation | becomes |
//! |---|---|
//! | `cmd_line.json` lies there, and another file is meant | it is applied first |
//! | the file is not there, but was applied before | done already |
//! | the file is not there | refused |
//! | it is refused | it stays |
//! | it is in force | compressed into `processed/`, or deleted |

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use tracing::warn;

use super::control::Control;
use crate::root::Root;
use crate::rpc::{Afterwards, Answer, Applied};

/// The boot line, which everything else rests on.
const BOOT_LINE: &str = "cmd_line.json";

/// Applies a file of the inbox.
pub async fn update_config(control: &mut Control, name: &str, afterwards: Afterwards) -> Answer {
    let mut applied = Vec::new();
    let refused = both(control, name, afterwards, &mut applied).await.err();
    Answer::Applied { applied, refused: refused.map(|error| format!("{error:#}")) }
}

async fn both(
    control: &mut Control,
    name: &str,
    afterwards: Afterwards,
    applied: &mut Vec<Applied>,
) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        bail!("{name:?} is no file name");
    }
    let root = control.root().clone();
    if name != BOOT_LINE && root.inbox().join(BOOT_LINE).exists() {
        one(control, &root, BOOT_LINE, Afterwards::Archive, applied).await?;
    }
    one(control, &root, name, afterwards, applied).await
}

async fn one(
    control: &mut Control,
    root: &Root,
    name: &str,
    afterwards: Afterwards,
    applied: &mut Vec<Applied>,
) -> Result<()> {
    let path = root.inbox().join(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound && archived(root, name).exists() => {
            return Ok(());
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let mut document = control.apply(name, &bytes).await?;
    // In force and remembered: what fails from here on does not make it less so.
    if let Err(error) = put_away(root, name, &bytes, afterwards) {
        warn!("{name} is in force, but could not be put away: {error:#}");
        document.warnings.push(format!("{name} could not be put away: {error:#}"));
    }
    applied.push(document);
    Ok(())
}

fn put_away(root: &Root, name: &str, bytes: &[u8], afterwards: Afterwards) -> Result<()> {
    if afterwards == Afterwards::Archive {
        archive(&archived(root, name), bytes)?;
    }
    let path = root.inbox().join(name);
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
}

fn archived(root: &Root, name: &str) -> std::path::PathBuf {
    root.processed().join(format!("{name}.gz"))
}

/// A crash leaves no half of it.
fn archive(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let beside = path.with_extension("gz.new");
    let write = || -> io::Result<()> {
        // Boot lines and messages may hold passwords.
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let mut encoder = GzEncoder::new(file, Compression::default());
        encoder.write_all(bytes)?;
        encoder.finish()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}
