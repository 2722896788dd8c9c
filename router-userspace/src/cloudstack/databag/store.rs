//! Databags on disk.

mod commit;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::Databags;
use super::policy::PolicyBag;
use crate::json::Place;

impl Databags {
    /// Reads the bags of a folder, usually `/etc/cloudstack`, after completing or forgetting what a crash
    /// interrupted there. A bag or a folder that is not there is empty; bags of other types are not
    /// looked at. A file that cannot be read or is damaged is in [`damage`](Self::damage), with its full name:
    /// losing what CloudStack said is worse than not knowing it for a while.
    pub fn load(folder: &Path) -> Self {
        let mut bags = Self::default();
        let names = Self::names();
        match commit::settle(folder) {
            Ok(()) => names.into_iter().for_each(|name| bags.load_bag(name, folder)),
            Err(damage) => bags.damage = names.into_iter().map(|name| (name, damage.clone())).collect(),
        }
        bags
    }

    /// Reads those bags again that are damaged. Gives whether one is no more.
    pub fn load_damaged(&mut self, folder: &Path) -> bool {
        let damaged: Vec<&'static str> = self.damage.keys().copied().collect();
        if damaged.is_empty() {
            return false;
        }
        // None at all is known where the list of a commit is damaged.
        if damaged.len() == Self::names().len() {
            *self = Self::load(folder);
        } else {
            damaged.iter().for_each(|name| self.load_bag(name, folder));
        }
        self.damage.len() < damaged.len()
    }

    fn names() -> BTreeSet<&'static str> {
        let empty = Self::default();
        let long = empty.policy_bags().into_iter().map(|(name, _)| name);
        empty.short_documents().into_keys().chain(long).collect()
    }

    fn load_bag(&mut self, name: &'static str, folder: &Path) {
        let path = folder.join(file_of(name));
        let place = Place::document(path.display().to_string());
        let read = match fs::read(&path) {
            Ok(bytes) => match str::from_utf8(&bytes) {
                Ok(text) => self.read_bag(name, place, text),
                Err(error) => Err(place.error(format_args!("no valid JSON: {error}"))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(place.error(format_args!("cannot be read: {error}"))),
        };
        match read {
            Ok(()) => self.damage.remove(name),
            Err(damage) => self.damage.insert(name, damage),
        };
    }

    /// [`Files::save`], once.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn save(&self, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        Files::new(folder).save(self)
    }
}

/// The bags' files in a folder, and what is known to be in them. Bags may be long: one that is as it was when
/// it was written last is not written out to be compared, unless its file was touched since.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    known: BTreeMap<&'static str, (Stamp, PolicyBag)>,
}

/// What changes when a file does: device, inode, length, and when it was changed.
type Stamp = (u64, u64, u64, (i64, i64));

impl Files {
    /// The files in a folder, usually `/etc/cloudstack`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), known: BTreeMap::new() }
    }

    /// Writes the bags that differ from their files, all in one step: a crash leaves the files as they were
    /// or as they shall be. Files of bags that are empty and were never written are not made, those of
    /// bags that are damaged are not touched. Returns what was written.
    ///
    /// # Errors
    ///
    /// A file that cannot be written. The files are as they were then, unless the kernel refuses to rename
    /// what it has just let write.
    pub fn save(&mut self, bags: &Databags) -> anyhow::Result<Vec<PathBuf>> {
        commit::settle(&self.folder)?;
        let nothing = Databags::default();
        let empty = nothing.short_documents();
        let mut short = bags.short_documents();
        let mut long = BTreeMap::from(bags.policy_bags());
        let mut looked_at = Vec::new();
        let mut written = Vec::new();
        for name in Databags::names().into_iter().filter(|name| !bags.damage.contains_key(name)) {
            let path = self.folder.join(file_of(name));
            let bag = long.remove(name);
            if let Some(bag) = &bag
                && self.known.get(name).is_some_and(|(stamp, known)| known == bag && is_of(*stamp, &path))
            {
                continue;
            }
            let document = short.remove(name);
            let (content, is_empty) = match bag {
                Some(bag) => {
                    let is_empty = bag.is_empty();
                    (Content::Bag(name, bag), is_empty)
                }
                None => (Content::Short(pretty(&document)?), document.as_ref() == empty.get(name)),
            };
            let is_same = match fs::metadata(&path) {
                Ok(file) => content.is_in(&path, file.len()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(is_empty),
                Err(error) => Err(error),
            };
            let is_same = is_same.with_context(|| format!("read {}", path.display()))?;
            if !is_same {
                written.push(path);
            }
            looked_at.push((name, content, is_same));
        }
        let changed = looked_at.iter().filter(|(_, _, is_same)| !is_same);
        commit::commit(&self.folder, changed.map(|(name, content, _)| (file_of(name), content)).collect())?;
        for (name, content, _) in looked_at {
            if let (Content::Bag(_, bag), Ok(file)) = (content, fs::metadata(self.folder.join(file_of(name))))
            {
                self.known.insert(name, (stamp(&file), bag));
            }
        }
        Ok(written)
    }
}

fn stamp(file: &Metadata) -> Stamp {
    (file.dev(), file.ino(), file.len(), (file.ctime(), file.ctime_nsec()))
}

fn is_of(known: Stamp, path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| stamp(&file) == known)
}

/// What a file shall hold.
enum Content {
    Short(Vec<u8>),
    /// Too much to be in memory once more, if it need not.
    Bag(&'static str, PolicyBag),
}

impl Content {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Short(bytes) => out.write_all(bytes),
            Self::Bag(name, bag) => bag.write(name, out),
        }
    }

    /// Whether a file of this length holds it. One of another length than the content's is not read.
    fn is_in(&self, path: &Path, length: u64) -> io::Result<bool> {
        let mut own = Length(0);
        self.write(&mut own)?;
        if own.0 != length {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        Ok(fs::read(path)? == bytes)
    }
}

/// How much was written.
struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn file_of(name: &str) -> String {
    format!("{name}.json")
}

/// As CloudStack's own router writes: two blanks, sorted keys (`serde_json::Map` sorts).
fn pretty(document: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(document)
}
