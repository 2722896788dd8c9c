//! CloudStack's folder: what `update_config.py` does with the files that arrive there.
//!
//! | situation | becomes |
//! |---|---|
//! | `cmd_line.json` lies there, and another file is meant | it is applied first |
//! | the file is not there, but was applied before | done already |
//! | the file is not there | refused |
//! | its text came with the request, as a part of another file | that counts, whatever is there |
//! | it is refused | it stays |
//! | it is in force | compressed into `processed/`, or deleted |

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use tracing::warn;

use super::control::{Control, InForce, Message};
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
        let boot_line = InboxFile { name: BOOT_LINE.to_owned(), afterwards: Afterwards::Archive, text: None };
        applied.extend(together(control, &[boot_line]).await?);
    }
    applied.extend(together(control, files).await?);
    Ok(())
}

/// `None`: all of it was done before.
async fn together(control: &mut Control, files: &[InboxFile]) -> Result<Option<Applied>, Refusal> {
    let root = control.root().clone();
    let mut texts: Vec<(&InboxFile, Cow<'_, [u8]>)> = Vec::new();
    for file in files {
        let refusal = |error| Refusal { name: file.name.clone(), reason: format!("{error:#}") };
        texts.extend(read(&root, file).map_err(refusal)?.map(|text| (file, text)));
    }
    let Some((last, _)) = texts.last() else { return Ok(None) };
    let messages: Vec<Message> =
        texts.iter().map(|(file, text)| Message { name: &file.name, bytes: text }).collect();
    let InForce { mut warnings, milliseconds, .. } = control.apply(&last.name, &messages).await?;
    // In force and remembered: what fails from here on does not make it less so.
    let there = names(&root.inbox());
    for (file, text) in &texts {
        // What came with the request may be there from an earlier attempt, and hardly ever is.
        let is_there = there.as_ref().is_none_or(|there| there.contains(OsStr::new(&file.name)));
        if let Err(error) = put_away(&root, file, text, is_there) {
            let name = &file.name;
            warn!("{name} is in force, but could not be put away: {error:#}");
            warnings.push(format!("{name} could not be put away: {error:#}"));
        }
    }
    Ok(Some(Applied { name: last.name.clone(), changes: Vec::new(), warnings, milliseconds }))
}

/// What a folder holds, if it can be read.
fn names(folder: &Path) -> Option<HashSet<OsString>> {
    let entries = fs::read_dir(folder).ok()?;
    entries.map(|entry| Some(entry.ok()?.file_name())).collect()
}

/// A file's content; nothing if it was applied before.
fn read<'a>(root: &Root, file: &'a InboxFile) -> Result<Option<Cow<'a, [u8]>>> {
    let name = file.name.as_str();
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        bail!("{name:?} is no file name");
    }
    if let Some(text) = &file.text {
        return Ok(Some(Cow::Borrowed(text.as_bytes())));
    }
    let path = root.inbox().join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && archived(root, name).exists() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Compresses a file into `processed/`, or deletes it.
fn put_away(root: &Root, file: &InboxFile, text: &[u8], is_there: bool) -> Result<()> {
    if file.afterwards == Afterwards::Archive {
        archive(&archived(root, &file.name), text)?;
    }
    if !is_there {
        return Ok(());
    }
    let path = root.inbox().join(&file.name);
    match fs::remove_file(&path) {
        // A file may be named twice.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn archived(root: &Root, name: &str) -> PathBuf {
    root.processed().join(format!("{name}.gz"))
}

/// A crash leaves no half of it.
fn archive(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = compress(bytes).and_then(|content| write(path, &content));
    written.with_context(|| format!("write {}", path.display()))
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("gz.new");
    // Boot lines and messages may hold passwords.
    let open = || File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let opened = open().or_else(|error| match (error.kind(), path.parent()) {
        (io::ErrorKind::NotFound, Some(folder)) => fs::create_dir_all(folder).and_then(|()| open()),
        _ => Err(error),
    });
    opened?.write_all(content)?;
    fs::rename(&beside, path)
}

fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes)?;
    gzip.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn one_file_after_the_other_is_whole() {
        let long: Vec<u8> =
            (0..1_000_000_u32).flat_map(|number| (number.wrapping_mul(number)).to_le_bytes()).collect();
        for bytes in [&b"{\"type\": \"ips\"}"[..], &long, b"", b"another"] {
            let content = compress(bytes).unwrap();
            let mut back = Vec::new();
            GzDecoder::new(&content[..]).read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{} bytes", bytes.len());
        }
    }
}
