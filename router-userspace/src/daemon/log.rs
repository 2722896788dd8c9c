//! The daemon's log: to standard error, and to the file that CloudStack's messages and tools speak of.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::warn;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use crate::root::Root;

/// Size of the file in bytes beyond which it becomes `cloud.log.1`, in that one's place.
const LARGEST: u64 = 10 << 20;

/// From now on; a second start in one process, as in tests, keeps the first one's.
pub fn start(root: &Root) {
    let level = std::env::var("XVR_LOG").ok().and_then(|name| name.parse().ok()).unwrap_or(LevelFilter::INFO);
    let builder = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
    let file = LogFile::open(root.log());
    let trouble = match file {
        Ok(file) => builder.with_writer(io::stderr.and(Mutex::new(file))).try_init().ok().and(None),
        Err(error) => builder.with_writer(io::stderr).try_init().ok().and(Some(error)),
    };
    if let Some(error) = trouble {
        warn!("{} is not written: {error}", root.log().display());
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = append(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size })
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let mut old = self.path.as_os_str().to_owned();
        old.push(".1");
        fs::rename(&self.path, old)?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size > LARGEST {
            self.turn_over()?;
        }
        let written = self.file.write(bytes)?;
        self.size += u64::try_from(written).unwrap_or_default();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_large_makes_room() {
        let path = std::env::temp_dir().join(format!("xvr-log-{}.log", std::process::id()));
        let mut log = LogFile::open(path.clone()).unwrap();
        let old = path.with_extension("log.1");
        log.write_all(b"first\n").unwrap();
        log.size = LARGEST + 1;
        log.write_all(b"second\n").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "first\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert_eq!(LogFile::open(path.clone()).unwrap().size, 7);
        fs::remove_file(old).unwrap();
        fs::remove_file(path).unwrap();
    }
}
