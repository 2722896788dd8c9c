//! Network namespaces that clean up after themselves, and processes inside them.
//!
//! A namespace is a name under `/run/netns`, made by `ip netns add`. Names carry the pid and the
//! start time of the process that made them, so tests run in parallel and [`sweep`] can remove
//! what a killed test left behind. Nothing is ever created in the namespace we were started in.
//!
//! Commands enter by `setns` alone: `ip netns exec` would also remount `/sys` and hide
//! `/sys/fs/bpf`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use router_userspace::dataplane::namespace_pin_dir;

/// Where `ip netns` keeps its names.
const NETNS_DIR: &str = "/run/netns";
/// How every name begins that [`sweep`] may remove.
const PREFIX: &str = "xvrlab";
/// How long a command that sets something up may take: the machine may be busy.
const SETUP_TIME: Duration = Duration::from_secs(60);

/// How long a namespace, and what runs in it, lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the value is dropped, or the process dies.
    Scoped,
    /// Until somebody removes it: `--keep` of the demo.
    Kept,
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    lifetime: Lifetime,
}

impl Namespace {
    /// Makes the namespace `prefix-label` with its loopback up.
    pub fn new(prefix: &str, label: &str, lifetime: Lifetime) -> Result<Self> {
        let name = format!("{prefix}-{label}");
        run_bounded(Command::new("ip").args(["netns", "add", &name]), SETUP_TIME)?.ok()?;
        let namespace = Self { name, lifetime };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip -n` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` takes.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// A command that will run in the namespace. It dies with us unless the namespace is kept.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = self.path();
        let kept = self.lifetime == Lifetime::Kept;
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        // SAFETY: between fork and exec only system calls are made; the path was allocated before.
        unsafe {
            command.pre_exec(move || {
                if !kept {
                    // The parent is the thread that spawns: guards of a test live and die in it.
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                }
                enter(&path)
            })
        };
        command
    }

    /// Runs a command to its end; its standard output, or an error with what it complained about.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        run_bounded(self.command(program).args(args), SETUP_TIME)?.ok().map(|output| output.stdout)
    }

    /// Feeds lines to `ip -batch`; the first failure ends it.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ip (package iproute2)")?;
        child.stdin.take().context("ip has no input")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip -n {} on {lines:?}: {complaint}", self.name);
        Ok(())
    }

    /// Writes a sysctl of the namespace, as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        let value = value.to_owned();
        // The kernel looks at the namespace of the thread that opens the file.
        self.inside(move || fs::write(&path, value).with_context(|| format!("write {}", path.display())))?
    }

    /// Whether the namespace has such a sysctl.
    pub fn has_sysctl(&self, key: &str) -> Result<bool> {
        let path = Path::new("/proc/sys").join(key);
        self.inside(move || path.exists())
    }

    /// Runs a closure in the namespace, in a thread of its own, and waits for it.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        match self.spawn(work)?.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a thread in the namespace; returns once it is there.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let file = File::open(self.path()).with_context(|| format!("open {}", self.name))?;
        let (entered, is_in) = std::sync::mpsc::channel();
        let handle = thread::Builder::new().spawn(move || {
            set_namespace(&file).expect("enter a namespace that is open");
            entered.send(()).ok();
            work()
        })?;
        is_in.recv().with_context(|| format!("enter {}", self.name))?;
        Ok(handle)
    }

    /// Where a router in this namespace pins its programs and tables.
    pub fn pin_dir(&self) -> Result<PathBuf> {
        self.inside(namespace_pin_dir)?.with_context(|| format!("in {}", self.name))
    }

    /// Is there an interface of this name?
    pub fn has_interface(&self, device: &str) -> bool {
        self.run("ip", &["link", "show", "dev", device]).is_ok()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Scoped {
            remove(&self.name);
        }
    }
}

/// A name for the namespaces of one lab of this process.
pub fn unique_prefix() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}-{pid}-{}-{serial}", start_time(pid).unwrap_or(0))
}

/// Removes namespaces, roots and captures whose makers are dead.
pub fn sweep() {
    for name in names() {
        if maker_is_dead(&name) {
            remove(&name);
        }
    }
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(maker_is_dead) {
            let path = entry.path();
            if path.is_dir() {
                fs::remove_dir_all(path).ok()
            } else {
                fs::remove_file(path).ok()
            };
        }
    }
}

/// Removes every namespace whose name begins so, ending the processes that run in them.
pub fn remove_all(prefix: &str) -> Vec<String> {
    let (found, _): (Vec<_>, Vec<_>) = names().into_iter().partition(|name| name.starts_with(prefix));
    for name in &found {
        for pid in pids(name) {
            // SAFETY: a plain system call. The pid is one that `ip netns pids` has just named.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        remove(name);
    }
    found
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn maker_is_dead(name: &str) -> bool {
    let mut parts = name.split('-');
    if parts.next() != Some(PREFIX) {
        return false;
    }
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    let (Some(pid), Some(start)) = (number(), number()) else { return false };
    start_time(pid as u32) != Some(start)
}

/// When a process started, in clock ticks after boot: with the pid, who it is.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; the second field may hold blanks and ends with the last parenthesis.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn pids(name: &str) -> Vec<i32> {
    let output = Command::new("ip").args(["netns", "pids", name]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Removes pins and name, and goes on when one of them fails: there is nobody to tell.
fn remove(name: &str) {
    let namespace = Namespace { name: name.to_owned(), lifetime: Lifetime::Kept };
    if let Ok(pins) = namespace.pin_dir() {
        fs::remove_dir_all(pins).ok();
    }
    Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status().ok();
}

/// Moves the calling thread into a namespace by name.
fn enter(path: &Path) -> io::Result<()> {
    set_namespace(&File::open(path)?)
}

fn set_namespace(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the call touches no memory of ours.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a command that ended has to say.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub what: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Itself if the command succeeded, else an error with all it said.
    pub fn ok(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("{}: {}\n{}{}", self.what, self.status, self.stdout, self.stderr)
    }

    /// The exit status; minus the signal's number if a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or(0))
    }
}

/// Runs a command that must end within `limit`.
pub fn run_bounded(command: &mut Command, limit: Duration) -> Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Process::spawn(command)?.finish(limit)
}

/// A child process that does not outlive the value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts it.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let what = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let child = command.spawn().with_context(|| format!("start {what}"))?;
        Ok(Self { child, what })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's own handle, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Has it not ended yet?
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Does it wait for something, with nothing to do before that?
    pub fn is_asleep(&self) -> bool {
        // `PID (name) STATE ...`, where the name may contain anything.
        fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')))
    }

    /// Sends a signal, for example `libc::SIGINT`.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain system call; the child is not reaped yet, so the pid is its.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for its end and collects what it wrote; kills it and fails when `limit` has passed.
    pub fn finish(mut self, limit: Duration) -> Result<Output> {
        let stdout = read_all(self.child.stdout.take());
        let stderr = read_all(self.child.stderr.take());
        let status = self.wait(limit);
        if status.is_err() {
            self.kill();
        }
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        let what = self.what.clone();
        match status {
            Ok(status) => Ok(Output { what, status, stdout, stderr }),
            Err(error) => bail!("{error}\n{stdout}{stderr}"),
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} has not ended after {limit:?}", self.what);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Lets the process live on when the value is dropped.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).ok();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits until something holds, looking every few milliseconds.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds() {
        ensure!(Instant::now() < deadline, "still not so after {limit:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
