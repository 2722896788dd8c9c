//! Where the dataplane outlives the daemon: a folder in bpffs.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result, bail};
use aya::maps::MapInfo;
use router_common::ABI_VERSION;

use super::maps;

/// Where bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// `f_type` of bpffs in `statfs(2)` (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Mounts bpffs at `/sys/fs/bpf` unless it is there.
///
/// # Errors
/// `mount(2)` fails: no right to, or no such file system.
pub fn mount_bpffs() -> Result<()> {
    // SAFETY: a zeroed statfs is a valid one to be written to; the path ends with a zero.
    let mounted = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        libc::statfs(c"/sys/fs/bpf".as_ptr(), &raw mut stat) == 0 && stat.f_type == BPF_FS_MAGIC
    };
    if mounted {
        return Ok(());
    }
    // SAFETY: all strings end with a zero.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), c"/sys/fs/bpf".as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null())
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("mount bpffs at /sys/fs/bpf");
    }
    Ok(())
}

/// The folder of the current network namespace's tables, named after their version.
///
/// # Errors
/// As [`namespace_pin_dir`].
pub fn default_pin_dir() -> Result<PathBuf> {
    Ok(namespace_pin_dir()?.join(format!("v{ABI_VERSION}")))
}

/// The folder of the current network namespace, tables of every version: named after the cookie,
/// which no other namespace has until the next boot.
///
/// # Errors
/// The kernel does not tell the cookie (before 5.14).
pub fn namespace_pin_dir() -> Result<PathBuf> {
    let cookie = netns_cookie().context("ask for the network namespace's cookie")?;
    Ok(Path::new(BPFFS).join(format!("xvr/netns-{cookie}")))
}

fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer has the length that is given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Refuses pinned maps of another shape: aya takes whatever is pinned, without comparing.
pub(super) fn check(pin_dir: &Path) -> Result<()> {
    for expected in maps::SHAPES {
        let path = pin_dir.join(expected.name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).with_context(|| format!("look at {}", path.display()))?;
        let found = (info.key_size(), info.value_size(), info.map_flags());
        let wanted = (expected.key_size, expected.value_size, expected.flags);
        if found != wanted {
            bail!(
                "{} has key size, value size and flags {found:?}, not {wanted:?}: it is not this \
                 version's; `xvr remove` takes the old dataplane away",
                path.display()
            );
        }
    }
    Ok(())
}

/// Removes the folder, its parent if that is empty too, and all pins in it.
pub(super) fn remove(pin_dir: &Path) -> Result<()> {
    fs::remove_dir_all(pin_dir).with_context(|| format!("remove {}", pin_dir.display()))?;
    if let Some(parent) = pin_dir.parent() {
        // Not empty: another version's pins are there.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}
