//! `filesystem_writable_check.py`: whether files can be written where CloudStack's are.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::root::Root;

/// Writes a file in each folder, and removes it.
pub fn run(_: &[OsString]) -> u8 {
    let root = Root::find(None);
    for (what, name, folder) in
        [("config info", "/var/cache/cloud", root.inbox()), ("monitor results", "/root", root.home())]
    {
        match write_into(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                println!("Read-only file system : {what} ({name}) file system is mounted as read-only");
                return 1;
            }
            Err(error) => {
                println!("{what} ({name}) cannot be written: {error}");
                return 1;
            }
        }
    }
    println!("file system is writable");
    0
}

fn write_into(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!(".xvr-writable-{}", std::process::id()));
    let written = OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
        file.write_all(b"can it be written?")?;
        file.sync_all()
    });
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    written.and(removed)
}
