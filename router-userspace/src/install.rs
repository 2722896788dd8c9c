//! `xvr install`: lays the router down below a root. Doing it again changes nothing, or replaces
//! an older version.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::beside;
use crate::root::Root;
use crate::scripts;

/// Installs the running binary. Says what was written.
///
/// # Errors
/// The first file or folder that cannot be written.
pub fn install(root: &Root) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(root.path()).with_context(|| format!("create {}", root.path().display()))?;
    // Links and the unit have it in full.
    let root = fs::canonicalize(root.path()).with_context(|| format!("find {}", root.path().display()))?;
    let root = &Root::new(root);
    let mut written = Vec::new();
    for (folder, mode) in [
        (root.databags(), 0o700),
        (root.operator(), 0o755),
        (root.processed(), 0o755),
        (root.scripts(), 0o755),
        (root.home(), 0o700),
        (root.run(), 0o755),
    ] {
        make_folder(&folder, mode, &mut written)?;
    }
    let binary = root.binary();
    let running = fs::read("/proc/self/exe").context("read the running binary")?;
    write(&binary, &running, 0o755, &mut written)?;
    for name in scripts::names() {
        link(&root.scripts().join(name), &binary, &mut written)?;
    }
    // Another router's, whose place this one takes, stays.
    if !root.release().exists() {
        write(&root.release(), RELEASE.as_bytes(), 0o644, &mut written)?;
    }
    write(&root.unit(), unit(root).as_bytes(), 0o644, &mut written)?;
    Ok(written)
}

/// CloudStack takes the third word for the version of the router's template, and gives no commands to one
/// that is too old for it: this is the newest whose contract is kept.
const RELEASE: &str = concat!("Cloudstack Release 4.22.1 XVR ", env!("CARGO_PKG_VERSION"), "\n");

fn unit(root: &Root) -> String {
    let path = root.path().display();
    let option = if root.path() == Path::new("/") { String::new() } else { format!(" --root {path}") };
    format!(
        "[Unit]\n\
         Description=XVR, CloudStack's virtual router\n\
         After=network-pre.target\n\
         Before=network.target\n\
         Wants=network-pre.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={binary} daemon{option}\n\
         ExecReload={binary} reload{option}\n\
         # The programs are pinned and go on forwarding without the daemon.\n\
         KillMode=process\n\
         Restart=always\n\
         RestartSec=100ms\n\
         LimitMEMLOCK=infinity\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        binary = root.binary().display(),
    )
}

fn make_folder(path: &Path, mode: u32, written: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))?;
    written.push(path.to_owned());
    Ok(())
}

/// Beside the old file and then in its place: a running binary cannot be written to.
fn write(path: &Path, bytes: &[u8], mode: u32, written: &mut Vec<PathBuf>) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let beside =
        beside::write(path, bytes, mode).with_context(|| format!("write beside {}", path.display()))?;
    fs::rename(&beside, path).with_context(|| format!("replace {}", path.display()))?;
    written.push(path.to_owned());
    Ok(())
}

fn link(path: &Path, target: &Path, written: &mut Vec<PathBuf>) -> Result<()> {
    if fs::read_link(path).is_ok_and(|old| old == target) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replace {}", path.display()));
        }
        _ => {}
    }
    symlink(target, path).with_context(|| format!("link {}", path.display()))?;
    written.push(path.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installing_twice_writes_once() {
        let folder = std::env::temp_dir().join(format!("xvr-install-{}", std::process::id()));
        let root = Root::new(&folder);
        let written = install(&root).unwrap();
        assert!(written.contains(&root.binary()));
        assert_eq!(install(&root).unwrap(), Vec::<PathBuf>::new());
        assert!(root.operator().is_dir() && !root.settings().exists());
        let script = root.scripts().join("update_config.py");
        assert_eq!(fs::canonicalize(script).unwrap(), fs::canonicalize(root.binary()).unwrap());
        assert!(fs::read_to_string(root.unit()).unwrap().contains(&format!("--root {}", folder.display())));
        fs::remove_dir_all(folder).unwrap();
    }
}
