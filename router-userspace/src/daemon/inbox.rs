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

use super::control::{Control, Message};
use crate::root::Root;
use crate::rpc::{Afterwards, Answer, Applied, InboxFile, Refusal};

/// The boot line, which everything else rests on.
const BOOT_LINE: &str = "cmd_line.json";

/// Applies files of the inbox, all of them or none; before them the boot line, if one waits.
pub async fn update_config(control: &mut Control, files: &[InboxFile]) -> Answer {
    let mut applied = Vec::new();
    let refused = both(control, files, &mut applied).await.err();
    Answer::Applied { applied, refused }
}

async fn both(control: &mut Control, files: &[InboxFile], applied: &mut Vec<Applied>) -> Result<(), Refusal> {
    let is_boot_line = |file: &InboxFile| file.name == BOOT_LINE;
    if !files.iter().any(is_boot_line) && control.root().inbox().join(BOOT_LINE).exists() {
        let boot_line = InboxFile { name: BOOT_LINE.to_owned(), afterwards: Afterwards::Archive };
        applied.extend(together(control, &[boot_line]).await?);
    }
    applied.extend(together(control, files).await?);
    Ok(())
}

/// `None`: all of it was done before.
async fn together(control: &mut Control, files: &[InboxFile]) -> Result<Option<Applied>, Refusal> {
    let root = control.root().clone();
    let mut texts = Vec::new();
    for file in files {
        let refusal = |error| Refusal { name: file.name.clone(), reason: format!("{error:#}") };
        texts.extend(read(&root, &file.name).map_err(refusal)?.map(|text| (file, text)));
    }
    let Some((last, _)) = texts.last() else { return Ok(None) };
    let messages: Vec<Message> =
        texts.iter().map(|(file, text)| Message { name: &file.name, bytes: text }).collect();
    let mut applied = control.apply(last.name.clone(), &messages).await?;
    for (file, text) in &texts {
        // In force and remembered: what fails from here on does not make it less so.
        if let Err(error) = put_away(&root, &file.name, text, file.afterwards) {
            warn!("{} is in force, but could not be put away: {error:#}", file.name);
            applied.warnings.push(format!("{} could not be put away: {error:#}", file.name));
        }
    }
    Ok(Some(applied))
}

/// A file's content; nothing if it was applied before.
fn read(root: &Root, name: &str) -> Result<Option<Vec<u8>>> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        bail!("{name:?} is no file name");
    }
    let path = root.inbox().join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && archived(root, name).exists() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
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
