//! Databags on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::Databags;
use super::policy::PolicyBag;
use crate::error::ConfigError;
use crate::json::Place;

impl Databags {
    /// Reads the bags of a folder, usually `/etc/cloudstack`. A bag or a folder that is not there
    /// is empty; bags of other types are not looked at.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is damaged, with its full name: losing what CloudStack said
    /// is worse than not starting.
    pub fn load(folder: &Path) -> Result<Self, ConfigError> {
        let mut bags = Self::default();
        for name in Self::default().documents().into_keys() {
            let path = folder.join(file_of(name));
            let place = Place::document(path.display().to_string());
            match fs::read(&path) {
                Ok(bytes) => {
                    let text = str::from_utf8(&bytes)
                        .map_err(|error| place.error(format_args!("no valid JSON: {error}")))?;
                    bags.read_bag(name, place, text)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(place.error(format_args!("cannot be read: {error}"))),
            }
        }
        Ok(bags)
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

    /// Writes the bags that differ from their files, each in one step: a crash leaves a file as it
    /// was or as it shall be. Files of bags that are empty and were never written are not made.
    /// Returns what was written.
    ///
    /// # Errors
    ///
    /// The first file that cannot be written; bags before it are written then.
    pub fn save(&mut self, bags: &Databags) -> anyhow::Result<Vec<PathBuf>> {
        let empty = Databags::default().short_documents();
        let mut short = bags.short_documents();
        let mut long = BTreeMap::from(bags.policy_bags());
        let names: BTreeSet<&'static str> = short.keys().chain(long.keys()).copied().collect();
        let mut written = Vec::new();
        for name in names {
            let path = self.folder.join(file_of(name));
            let bag = long.remove(name);
            if let Some(bag) = &bag
                && self.known.get(name).is_some_and(|(stamp, known)| known == bag && is_of(*stamp, &path))
            {
                continue;
            }
            let document = short.remove(name);
            let (content, is_empty) = match &bag {
                Some(bag) => (Content::Bag(name, bag), bag.is_empty()),
                None => (Content::Short(pretty(&document)?), document.as_ref() == empty.get(name)),
            };
            let is_same = match fs::metadata(&path) {
                Ok(file) => content.is_in(&path, file.len()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(is_empty),
                Err(error) => Err(error),
            };
            if !is_same.with_context(|| format!("read {}", path.display()))? {
                replace(&self.folder, &path, &content)
                    .with_context(|| format!("write {}", path.display()))?;
                written.push(path.clone());
            }
            if let (Some(bag), Ok(file)) = (bag, fs::metadata(&path)) {
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
enum Content<'a> {
    Short(Vec<u8>),
    /// Too much to be in memory once more, if it need not.
    Bag(&'static str, &'a PolicyBag),
}

impl Content<'_> {
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

fn replace(folder: &Path, path: &Path, content: &Content) -> io::Result<()> {
    const BUFFER: usize = 1 << 20;
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("json.new");
    // The boot line holds passwords.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let mut buffer = BufWriter::with_capacity(BUFFER, file);
    content.write(&mut buffer)?;
    buffer.into_inner()?.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}
