//! Databags on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::Databags;
use crate::error::ConfigError;
use crate::json::{Place, document};

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
                    let value = document(&place.file, &bytes)?;
                    bags.read_bag(name, place, &value)?;
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
        for (name, document) in self.documents() {
            let path = file_of(folder, name);
            let old = match fs::read(&path) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
            };
            let new = pretty(&document)?;
            let is_same = old.as_ref() == Some(&new) || (old.is_none() && document == empty[name]);
            if !is_same {
                replace(folder, &path, &new).with_context(|| format!("write {}", path.display()))?;
                written.push(path);
            }
        }
        Ok(written)
    }
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

/// As CloudStack's own router writes: two blanks, sorted keys (`serde_json::Map` sorts).
fn pretty(document: &Value) -> serde_json::Result<Vec<u8>> {
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
