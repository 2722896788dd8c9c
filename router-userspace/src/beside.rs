//! Files that take the place of others in one step: written beside them, then renamed by who wrote them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes beside a file what is to take its place, readable by whom `mode` says from the first byte on. Gives where;
/// the folder has to be there.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<PathBuf> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    // One that was left may have another mode.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    Ok(beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_beside_is_overwritten_and_gets_the_mode() {
        let path = std::env::temp_dir().join(format!("xvr-beside-{}", std::process::id()));
        let left = write(&path, b"longer than the next", 0o644).unwrap();
        let beside = write(&path, b"next", 0o600).unwrap();
        assert_eq!(left, beside);
        assert_eq!(fs::read(&beside).unwrap(), b"next");
        assert_eq!(fs::metadata(&beside).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!path.exists());
        fs::remove_file(beside).unwrap();
    }
}
