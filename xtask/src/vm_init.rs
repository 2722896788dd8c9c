//! PID 1 of a guest that xtask boots (`guest.rs`): mounts, loads modules, runs what it is told, says how it
//! went, powers off.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let ok = run().unwrap_or_else(|error| {
        println!("vm-init: {error}");
        false
    });
    println!("{}", if ok { "vm-init: success" } else { "vm-init: failure" });
    // SAFETY: ends the guest; nothing is left to be harmed.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
}

fn run() -> io::Result<bool> {
    mount(c"proc", c"/proc", c"proc")?;
    mount(c"sysfs", c"/sys", c"sysfs")?;
    mount(c"devtmpfs", c"/dev", c"devtmpfs")?;
    mount(c"tmpfs", c"/tmp", c"tmpfs")?;
    mount(c"tmpfs", c"/run", c"tmpfs")?;
    mount(c"bpf", c"/sys/fs/bpf", c"bpf")?;
    for module in sorted("/modules")? {
        if let Err(error) = load_module(&module) {
            println!("vm-init: {}: {error}", module.display());
        }
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("vm-init: kernel {}", release.trim());
    let mut ok = true;
    // A program and its arguments a line.
    for line in fs::read_to_string("/etc/vm-init")?.lines() {
        println!("vm-init: running {line}");
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("XVR_BIN", "/usr/sbin/xvr")
            .env("XVR_FIXTURES", "/fixtures")
            .env("XVR_TEST_ROOT", "1")
            .env("XVR_TEST_GUEST", "1");
        let status = command.status()?;
        println!("vm-init: {line}: {status}");
        ok &= status.success();
    }
    Ok(ok)
}

fn sorted(folder: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths)
}

fn mount(source: &CStr, target: &CStr, kind: &CStr) -> io::Result<()> {
    // SAFETY: strings that end with a zero; no data.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!("mount {target:?}: {}", io::Error::last_os_error())))
    }
}

fn load_module(path: &PathBuf) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::default();
    // SAFETY: an open file and an empty string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            error => Err(error),
        },
    }
}
