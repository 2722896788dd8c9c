//! The boot line: where the hypervisor has put it, and what becomes of it.
//!
//! | hypervisor | where | then |
//! |---|---|---|
//! | KVM | its guest agent writes `var/cache/cloud/cmdline`, some time after the start | all begins anew |
//! | Xen, paravirtual | the kernel's command line, `%` for a blank | goes with what was said before |
//! | Xen, otherwise | XenStore, `vm-data/cloudstack/init`, `%` for a blank | the same |
//! | VMware | `machine.id` of the VM, by its tools | the same |
//! | Hyper-V | the first pool of key-value pairs, zeros and `%` for blanks | the same |
//!
//! (`init.sh` of CloudStack's router.) The file is looked for all the time, the others at the daemon's start,
//! and only where the router has the machine for itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tracing::{error, info, warn};

use crate::program;
use crate::root::Root;

/// How often to look for the file. It is taken once it has not changed between two looks.
pub const EVERY: Duration = Duration::from_millis(250);

/// What the file is called, in CloudStack's folder and among processed files, and in errors.
pub const NAME: &str = "cmdline";

/// Tells CloudStack's tools that the router can take commands.
const DONE: &str = "boot_up_done";

/// A boot line that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootLine {
    /// Blank-separated `key=value`.
    pub text: String,
    /// What CloudStack said before it is void.
    pub begins_anew: bool,
}

/// Looks for the file that KVM's guest agent writes, which takes it several steps.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Option<Stamp>,
    /// Why it was refused; that is said once.
    trouble: Option<String>,
}

/// Inode, length, and when it was changed.
type Stamp = (u64, u64, i64, i64);

impl Watch {
    /// The file's line, once it is whole.
    pub fn look(&mut self, root: &Root) -> Option<BootLine> {
        let path = root.inbox().join(NAME);
        let file = fs::metadata(&path).ok().filter(|file| file.len() > 0);
        let stamp = file.map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
        let is_whole = stamp.is_some() && stamp == self.seen;
        self.seen = stamp;
        if !is_whole {
            return None;
        }
        let text = fs::read_to_string(&path).ok()?;
        Some(BootLine { text, begins_anew: true })
    }

    /// It is in force, or not.
    pub fn taken(&mut self, root: &Root, result: Result<(), String>) {
        let trouble = result.and_then(|()| put_away(root).map_err(|error| format!("{error:#}"))).err();
        if trouble != self.trouble
            && let Some(trouble) = &trouble
        {
            error!("the boot line is refused: {trouble}");
        }
        self.trouble = trouble;
    }
}

fn put_away(root: &Root) -> Result<()> {
    let (from, to) = (root.inbox().join(NAME), root.processed().join(NAME));
    fs::create_dir_all(root.processed()).context("create the folder of processed files")?;
    fs::rename(&from, &to).with_context(|| format!("move {}", from.display()))
}

/// The router has a boot line in force.
pub fn done(root: &Root) {
    let path = root.inbox().join(DONE);
    if !path.exists()
        && let Err(error) = fs::write(&path, "")
    {
        warn!("{} is not written: {error}", path.display());
    }
}

/// Sets root's password where the boot line has one: some installations have it so.
///
/// # Errors
/// It cannot be set.
pub fn set_password(root: &Root, password: &str) -> Result<()> {
    if root.path() != Path::new("/") {
        return Ok(());
    }
    let mut chpasswd = Command::new("chpasswd").stdin(Stdio::piped()).spawn().context("run chpasswd")?;
    let input = chpasswd.stdin.take().context("chpasswd takes no input")?;
    std::io::Write::write_all(&mut { input }, format!("root:{password}\n").as_bytes())?;
    let status = chpasswd.wait().context("wait for chpasswd")?;
    if status.success() { Ok(()) } else { bail!("chpasswd: {status}") }
}

/// What another hypervisor than KVM has for this machine.
pub fn from_hypervisor(root: &Root) -> Option<BootLine> {
    if root.path() != Path::new("/") {
        return None;
    }
    let machine = Machine {
        kind: fs::read_to_string("/sys/hypervisor/type").unwrap_or_default(),
        vendor: fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default(),
        kernel: fs::read_to_string("/proc/cmdline").unwrap_or_default(),
    };
    let source = machine.source()?;
    match source.read(&machine) {
        Ok(text) if text.split_ascii_whitespace().any(|word| word.starts_with("type=")) => {
            info!("the boot line comes from {source:?}");
            Some(BootLine { text, begins_anew: false })
        }
        Ok(_) => None,
        Err(error) => {
            warn!("{source:?} has no boot line: {error:#}");
            None
        }
    }
}

/// What tells hypervisors apart.
struct Machine {
    /// The kernel's word for a hypervisor that it knows itself.
    kind: String,
    /// The firmware's word for who makes such machines.
    vendor: String,
    /// The kernel's command line.
    kernel: String,
}

/// Where a boot line is, other than in KVM's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    KernelCommandLine,
    XenStore,
    VmwareTools,
    HyperVPool,
}

/// Hyper-V's first pool of key-value pairs: what the host gives to the guest.
const POOLS: [&str; 2] = ["/var/lib/hyperv/.kvp_pool_0", "/var/opt/hyperv/.kvp_pool_0"];

impl Machine {
    fn source(&self) -> Option<Source> {
        // A paravirtual guest is told by its kernel's command line.
        if self.kernel.contains("%type=") || self.kernel.contains(" type=") {
            return Some(Source::KernelCommandLine);
        }
        if self.kind.trim() == "xen" {
            return Some(Source::XenStore);
        }
        if self.vendor.starts_with("VMware") {
            return Some(Source::VmwareTools);
        }
        self.vendor.starts_with("Microsoft").then_some(Source::HyperVPool)
    }
}

impl Source {
    fn read(self, machine: &Machine) -> Result<String> {
        match self {
            Self::KernelCommandLine => Ok(machine.kernel.replace('%', " ")),
            Self::XenStore => Ok(output("xenstore-read", &["vm-data/cloudstack/init"])?.replace('%', " ")),
            Self::VmwareTools => output("vmtoolsd", &["--cmd", "machine.id.get"]),
            Self::HyperVPool => {
                let pool = POOLS.iter().find_map(|path| fs::read(path).ok()).context("there is no pool")?;
                Ok(String::from_utf8_lossy(&pool).replace(['\0', '%'], " "))
            }
        }
    }
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    const TIME: Duration = Duration::from_secs(20);
    let ran = program::run(program, arguments, TIME).with_context(|| format!("run {program}"))?;
    if !ran.succeeded() {
        bail!("{program} ended with {}: {}", ran.code(), ran.stderr.trim());
    }
    if ran.stdout.contains(char::REPLACEMENT_CHARACTER) {
        bail!("{program} says something that is no text");
    }
    Ok(ran.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_when_nobody_writes_to_it_any_more() {
        let root = Root::new(std::env::temp_dir().join(format!("xvr-boot-{}", std::process::id())));
        fs::create_dir_all(root.inbox()).unwrap();
        let write = |text| fs::write(root.inbox().join(NAME), text).unwrap();
        let mut watch = Watch::default();
        assert_eq!(watch.look(&root), None);
        write("");
        assert_eq!((watch.look(&root), watch.look(&root)), (None, None));
        write(" type=");
        assert_eq!(watch.look(&root), None);
        write(" type=router");
        assert_eq!(watch.look(&root), None);
        let line = BootLine { text: " type=router".to_owned(), begins_anew: true };
        assert_eq!(watch.look(&root), Some(line.clone()));
        watch.taken(&root, Err("bad".to_owned()));
        assert_eq!(watch.look(&root), Some(line));
        watch.taken(&root, Ok(()));
        assert_eq!(watch.look(&root), None);
        assert!(root.processed().join(NAME).exists());
        fs::remove_dir_all(root.path()).unwrap();
    }

    #[test]
    fn hypervisors_are_told_apart() {
        let source = |kind: &str, vendor: &str, kernel: &str| {
            Machine { kind: kind.into(), vendor: vendor.into(), kernel: kernel.into() }.source()
        };
        assert_eq!(source("xen\n", "Xen", "ro%template=domP%type=router"), Some(Source::KernelCommandLine));
        assert_eq!(source("xen\n", "Xen", "ro quiet"), Some(Source::XenStore));
        assert_eq!(source("", "VMware, Inc.\n", "ro quiet"), Some(Source::VmwareTools));
        assert_eq!(source("", "Microsoft Corporation\n", "ro"), Some(Source::HyperVPool));
        assert_eq!(source("", "QEMU\n", "ro quiet"), None);
        let machine =
            Machine { kind: String::new(), vendor: String::new(), kernel: "ro%type=router%a=b=".into() };
        assert_eq!(Source::KernelCommandLine.read(&machine).unwrap(), "ro type=router a=b=");
    }
}
