//! Several files of a folder replaced together.
//!
//! ```text
//! NAME.uncommitted for each file         │ after a crash: all is forgotten
//! LIST.uncommitted, the files' names     │
//! the folder                             │
//! LIST.uncommitted → LIST                ┴
//! the folder                             ┬ after a crash: the rest is done at the next start
//! NAME.uncommitted → NAME for each file  │
//! the folder                             │
//! LIST is removed                        │
//! the folder                             ┴
//! ```
//!
//! "The folder" is its fsync: before it a crash may keep some of the steps since the last one and lose
//! others, in any order. A file's own content is on the disk before its step is over. One file alone needs
//! no list: its renaming is the step that counts.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Content, pretty};
use crate::error::ConfigError;
use crate::json::Place;

/// The list of the files that are being replaced.
const LIST: &str = "databags.commit";

/// Behind the names of files that are not in their places yet.
const SUFFIX: &str = ".uncommitted";

/// Replaces files.
///
/// # Errors
///
/// A step that fails. Before the list is in its place the files are as they were.
pub(super) fn commit(folder: &Path, files: Vec<(String, &Content)>) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let list = Content::Short(pretty(&files.iter().map(|(name, _)| name).collect::<Vec<_>>())?);
    for step in steps(folder, &files, &list) {
        if let Err(error) = step.perform() {
            // What is left over is forgotten, or known to the list.
            let _ = forget_leftovers(folder);
            return Err(error);
        }
    }
    Ok(())
}

/// Completes what a crash interrupted after its list was in its place, and forgets it otherwise.
///
/// # Errors
///
/// The list is damaged, or what it says cannot be done.
pub(super) fn settle(folder: &Path) -> Result<(), ConfigError> {
    let list = folder.join(LIST);
    let place = Place::document(list.display().to_string());
    let names: BTreeSet<String> = match fs::read(&list) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| place.error(format_args!("no list of databags: {error}")))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let _ = forget_leftovers(folder);
            return Ok(());
        }
        Err(error) => return Err(place.error(format_args!("cannot be read: {error}"))),
    };
    if let Some(name) = names.iter().find(|name| name.contains('/')) {
        return Err(place.error(format_args!("{name:?} is no databag's file")));
    }
    // Those that are not there any more are in their places.
    let is_left = |name: &&String| beside(folder, name).exists();
    let renamed =
        names.iter().filter(is_left).map(|name| Step::Rename(beside(folder, name), folder.join(name)));
    let rest = [Step::SyncFolder(folder), Step::Remove(list), Step::SyncFolder(folder)];
    for step in renamed.collect::<Vec<_>>().into_iter().chain(rest) {
        step.perform().map_err(|error| place.error(format_args!("{error:#}")))?;
    }
    Ok(())
}

/// Removes files that nothing will put in their places, unless the list knows them.
fn forget_leftovers(folder: &Path) -> io::Result<()> {
    if folder.join(LIST).exists() {
        return Ok(());
    }
    for file in fs::read_dir(folder)? {
        let name = file?.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
            fs::remove_file(folder.join(name))?;
        }
    }
    Ok(())
}

/// What is done to the disk.
enum Step<'a> {
    /// A file that nobody reads yet, with all of its content.
    Write(PathBuf, &'a Content),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    /// What was made, renamed and removed in the folder is so after a crash as well.
    SyncFolder(&'a Path),
}

fn steps<'a>(folder: &'a Path, files: &[(String, &'a Content)], list: &'a Content) -> Vec<Step<'a>> {
    let mut steps: Vec<Step> =
        files.iter().map(|(name, content)| Step::Write(beside(folder, name), content)).collect();
    let renamed = files.iter().map(|(name, _)| Step::Rename(beside(folder, name), folder.join(name)));
    if files.len() == 1 {
        steps.extend(renamed);
        steps.push(Step::SyncFolder(folder));
        return steps;
    }
    steps.push(Step::Write(beside(folder, LIST), list));
    steps.push(Step::SyncFolder(folder));
    steps.push(Step::Rename(beside(folder, LIST), folder.join(LIST)));
    steps.push(Step::SyncFolder(folder));
    steps.extend(renamed);
    steps.push(Step::SyncFolder(folder));
    steps.push(Step::Remove(folder.join(LIST)));
    steps.push(Step::SyncFolder(folder));
    steps
}

impl Step<'_> {
    fn perform(&self) -> Result<()> {
        match self {
            Self::Write(path, content) => {
                write(path, content).with_context(|| format!("write {}", path.display()))
            }
            Self::Rename(from, to) => {
                fs::rename(from, to).with_context(|| format!("put {} in its place", to.display()))
            }
            Self::Remove(path) => fs::remove_file(path).with_context(|| format!("remove {}", path.display())),
            Self::SyncFolder(folder) => File::open(folder)
                .and_then(|folder| folder.sync_all())
                .with_context(|| format!("sync {}", folder.display())),
        }
    }
}

fn write(path: &Path, content: &Content) -> io::Result<()> {
    const BUFFER: usize = 1 << 20;
    // The boot line holds passwords.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut buffer = BufWriter::with_capacity(BUFFER, file);
    content.write(&mut buffer)?;
    buffer.flush()?;
    buffer.into_inner()?.sync_all()
}

fn beside(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{SUFFIX}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What is in a folder after a crash and the next start.
    type Files = BTreeMap<String, Vec<u8>>;

    fn fresh(folder: &Path, files: &[(&str, &str)]) {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    fn read(folder: &Path) -> Files {
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        files.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
    }

    const BEFORE: [(&str, &str); 3] = [("a.json", "old a"), ("b.json", "old b"), ("x.json", "another's")];

    /// Performs `done`, then of `open`, which no fsync has seen, those whose bit is set; a file that
    /// is not whole is one that holds half of its content.
    fn crash(done: &[Step], open: &[Step], kept: u32, halves: bool) {
        done.iter().for_each(|step| step.perform().unwrap());
        for (index, step) in open.iter().enumerate() {
            let is_kept = kept & (1 << index) != 0;
            match step {
                Step::Write(path, Content::Short(bytes)) if !is_kept && halves => {
                    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
                }
                // What was never made cannot be renamed.
                Step::Rename(from, _) if is_kept && !from.exists() => {}
                _ if is_kept => step.perform().unwrap(),
                _ => {}
            }
        }
    }

    #[test]
    fn a_crash_at_any_step_leaves_all_files_old_or_all_new() {
        let folder = std::env::temp_dir().join(format!("xvr-commit-{}", std::process::id()));
        let text = |text: &str| Content::Short(text.as_bytes().to_vec());
        let (a, b, c) = (text("new a"), text("new b"), text("new c"));
        let all = [("a.json", &a), ("b.json", &b), ("c.json", &c)].map(|(name, new)| (name.to_owned(), new));
        for files in [&all[1..], &all[..1]] {
            let list =
                Content::Short(pretty(&files.iter().map(|(name, _)| name).collect::<Vec<_>>()).unwrap());
            fresh(&folder, &BEFORE);
            let old = read(&folder);
            commit(&folder, files.to_vec()).unwrap();
            let new = read(&folder);
            assert_eq!(new.len(), 2 + files.len(), "nothing is left over");
            assert!(files.iter().all(|(name, _)| new[name].starts_with(b"new ")));

            let steps = steps(&folder, files, &list);
            let is_sync = |step: &Step| matches!(step, Step::SyncFolder(_));
            let mut seen = BTreeSet::new();
            for end in 0..=steps.len() {
                let synced = steps[..end].iter().rposition(is_sync).map_or(0, |at| at + 1);
                for kept in 0..1 << (end - synced) {
                    for halves in [false, true] {
                        fresh(&folder, &BEFORE);
                        // A file's content is on the disk once its step is over, whatever else happened.
                        let halves = halves && matches!(steps.get(end), Some(Step::Write(..)));
                        let open = &steps[synced..(end + usize::from(halves)).min(steps.len())];
                        crash(&steps[..synced], open, kept, halves);
                        settle(&folder).unwrap();
                        let after = read(&folder);
                        let is_old = after == old;
                        assert!(is_old || after == new, "{} files, {end} steps, {kept:b}", files.len());
                        seen.insert((end == steps.len(), is_old));
                        settle(&folder).unwrap();
                        assert_eq!(read(&folder), after, "settled is settled");
                    }
                }
            }
            assert!(seen.contains(&(false, true)) && seen.contains(&(false, false)), "both happen: {seen:?}");
            assert!(!seen.contains(&(true, true)), "what was committed is there");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_crash_while_a_crash_is_settled_changes_nothing_about_that() {
        let folder = std::env::temp_dir().join(format!("xvr-settle-{}", std::process::id()));
        // Each of the two may have been renamed already, and the list may be all that is left.
        for left in [&["a.json", "b.json"][..], &["a.json"], &["b.json"], &[]] {
            fresh(&folder, &BEFORE);
            for name in ["a.json", "b.json"] {
                let path = if left.contains(&name) { beside(&folder, name) } else { folder.join(name) };
                fs::write(path, "new").unwrap();
            }
            fs::write(folder.join(LIST), r#"["a.json", "b.json"]"#).unwrap();
            settle(&folder).unwrap();
            let after = read(&folder);
            assert_eq!((after["a.json"].as_slice(), after["b.json"].as_slice()), (&b"new"[..], &b"new"[..]));
            assert_eq!(after.len(), 3);
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_damaged_list_is_an_error_and_stays() {
        let folder = std::env::temp_dir().join(format!("xvr-list-{}", std::process::id()));
        for list in ["", "[\"a.json\"", "{}", "[1]", "[\"../a.json\"]"] {
            fresh(&folder, &[("a.json.uncommitted", "new"), (LIST, list)]);
            let before = read(&folder);
            let error = settle(&folder).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}/{LIST}#: ", folder.display())), "{error}");
            assert_eq!(read(&folder), before);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
