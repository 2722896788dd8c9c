//! `cks_iso.sh true|false`: the ISO image of CloudStack's Kubernetes service, from the router's drive to a folder of
//! the web server.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{failed, words};
use crate::program;
use crate::root::Root;

const NAME: &str = "cks_iso.sh";

/// How long a drive may take.
const TIME: Duration = Duration::from_secs(60);

/// Mounts the drive, or takes it off the folder.
pub fn run(arguments: &[OsString]) -> u8 {
    let folder = Root::find(None).path().join("var/www/html/cks-iso");
    let done = match words(arguments).iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["true"] => mount(&folder),
        ["false"] => unmount(&folder),
        _ => Err("usage: cks_iso.sh true|false".to_owned()),
    };
    done.map_or_else(|message| failed(NAME, message), |()| 0)
}

fn mount(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("create {}: {error}", folder.display()))?;
    if is_mounted(folder) {
        return Ok(());
    }
    let folder = folder.as_os_str();
    tool("mount", &["-o".as_ref(), "ro,nosuid,nodev,noexec".as_ref(), "/dev/cdrom".as_ref(), folder])
}

fn unmount(folder: &Path) -> Result<(), String> {
    if is_mounted(folder) { tool("umount", &[folder.as_os_str()]) } else { Ok(()) }
}

fn tool(name: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
    match program::run(name, arguments, TIME) {
        Ok(ran) if ran.succeeded() => Ok(()),
        Ok(ran) => Err(format!("{name} ended with {}: {}", ran.code(), ran.stderr.trim())),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Whether something is mounted on a folder, in this mount namespace.
fn is_mounted(folder: &Path) -> bool {
    let Ok(folder) = fs::canonicalize(folder) else { return false };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|place| folder == Path::new(place))
}
