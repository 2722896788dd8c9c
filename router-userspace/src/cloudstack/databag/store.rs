//! Databags on disk.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use super::Databags;
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
            let path = file_of(folder, name);
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

    /// Writes the bags that differ from their files, each in one step: a crash leaves a file as it
    /// was or as it shall be. Files of bags that are empty and were never written are not made.
    /// Returns what was written.
    ///
    /// # Errors
    ///
    /// The first file that cannot be written; bags before it are written then.
    pub fn save(&self, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let empty = Self::default().documents();
        let mut written = Vec::new();
        for (name, content) in self.contents(&empty)? {
            let path = file_of(folder, name);
            let old = match fs::read(&path) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
            };
            let is_same = old.as_ref() == Some(&content.bytes) || (old.is_none() && content.is_empty);
            if !is_same {
                replace(folder, &path, &content.bytes)
                    .with_context(|| format!("write {}", path.display()))?;
                written.push(path);
            }
        }
        Ok(written)
    }

    /// What the files shall hold, by name.
    fn contents(
        &self,
        empty: &BTreeMap<&'static str, Value>,
    ) -> serde_json::Result<BTreeMap<&'static str, Content>> {
        let mut contents = BTreeMap::new();
        for (name, document) in self.short_documents() {
            contents.insert(name, Content { is_empty: document == empty[name], bytes: pretty(&document)? });
        }
        for (name, bag) in self.policy_bags() {
            contents.insert(name, Content { is_empty: bag.is_empty(), bytes: pretty(&bag.name_is(name))? });
        }
        Ok(contents)
    }
}

/// What a file shall hold.
struct Content {
    bytes: Vec<u8>,
    /// It needs no file.
    is_empty: bool,
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

/// As CloudStack's own router writes: two blanks, sorted keys (`serde_json::Map` sorts).
fn pretty(document: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(document)
}

fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("json.new");
    // The boot line holds passwords.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}
