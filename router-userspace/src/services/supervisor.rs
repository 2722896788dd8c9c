//! Keeps daemons running as they should.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::process::Process;
use super::{Call, Reload, Rendered, Service};
use crate::alerts::{self, Severity};
use crate::beside;
use crate::root::Root;

/// How long to wait before a daemon that has ended is started again: first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A daemon that has run for so long has not failed to start.
const STEADY: Duration = Duration::from_secs(10);

/// How often a daemon's work is looked after.
const TEND: Duration = Duration::from_secs(15);

/// How long a checker or a maker of keys may take.
const CALL: Duration = Duration::from_secs(60);

/// How long another daemon, which has to be there first, may take to answer; and how often it is tried.
const OTHER: Duration = Duration::from_secs(5);
const OTHER_PAUSE: Duration = Duration::from_millis(20);

/// How often a lease is taken back before that is trouble, and how long that may take a daemon.
const LEASE_TRIES: u32 = 10;
const LEASE_PAUSE: Duration = Duration::from_millis(200);

/// How a daemon is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// Its process, if it runs.
    pub pid: Option<i32>,
    /// How often it was started again because it had ended by itself.
    pub restarts: u64,
    /// What is wrong with it.
    pub trouble: Option<String>,
    /// What is worth knowing of how it runs.
    pub about: Option<&'static str>,
}

/// Keeps daemons running, each in a task of its own.
#[derive(Debug)]
pub struct Supervisor {
    root: Root,
    keepers: BTreeMap<&'static str, Keeper>,
    states: States,
    news: Arc<Notify>,
}

type States = Arc<Mutex<BTreeMap<&'static str, ServiceState>>>;

#[derive(Debug)]
struct Keeper {
    wanted: watch::Sender<Option<Service>>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Of a root's daemons.
    pub fn new(root: &Root) -> Self {
        Self { root: root.clone(), keepers: BTreeMap::new(), states: States::default(), news: Arc::default() }
    }

    /// These should run and no others. Returns at once.
    pub fn want(&mut self, services: Vec<Service>) {
        let mut wanted: BTreeMap<_, _> =
            services.into_iter().map(|service| (service.name, service)).collect();
        for (name, keeper) in &self.keepers {
            let service = wanted.remove(name);
            keeper.wanted.send_if_modified(|known| {
                let is_other = *known != service;
                if is_other {
                    *known = service;
                }
                is_other
            });
        }
        for (name, service) in wanted {
            let (sender, receiver) = watch::channel(Some(service));
            let watcher = Watcher {
                name,
                root: self.root.clone(),
                note: note(&self.root, name),
                wanted: receiver,
                states: self.states.clone(),
                news: self.news.clone(),
                is_loaded: false,
            };
            self.keepers.insert(name, Keeper { wanted: sender, task: tokio::spawn(watcher.watch()) });
        }
    }

    /// Those that should run, and whether they do; without those whose first start is still going on.
    pub fn wanted(&self) -> BTreeMap<String, bool> {
        let states = self.states();
        let wanted = self.keepers.iter().filter(|(_, keeper)| keeper.wanted.borrow().is_some());
        let told = wanted.filter_map(|(name, _)| Some((*name, states.get(name)?)));
        told.map(|(name, state)| (name.to_owned(), state.pid.is_some())).collect()
    }

    /// How they are.
    pub fn states(&self) -> BTreeMap<&'static str, ServiceState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a daemon runs, an earlier one's included.
    pub fn runs(&self, name: &str) -> bool {
        Process::find(&note(&self.root, name)).is_some()
    }

    /// Tells when one has been started or has ended.
    pub fn news(&self) -> Arc<Notify> {
        self.news.clone()
    }

    /// Ends all of them.
    pub async fn stop(self) {
        for (name, keeper) in self.keepers {
            // Its task ends with the sender, and the process with it.
            keeper.wanted.send_replace(None);
            drop(keeper.wanted);
            if let Err(error) = keeper.task.await {
                error!("{name} may still run: {error}");
            }
        }
    }
}

/// One daemon's task.
struct Watcher {
    name: &'static str,
    root: Root,
    note: PathBuf,
    wanted: watch::Receiver<Option<Service>>,
    states: States,
    news: Arc<Notify>,
    /// It was told what is in its files, and these have not changed since.
    is_loaded: bool,
}

impl Watcher {
    async fn watch(mut self) {
        let mut running = Process::find(&self.note);
        let mut pause = PAUSES.0;
        let mut clear = None;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let Some(service) = wanted else {
                if let Some(process) = running.take() {
                    self.stop(process).await;
                }
                if let Some(clear) = clear.take()
                    && let Err(error) = call(&clear, None, CALL).await
                {
                    warn!("{}: {error:#}", self.name);
                }
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            clear.clone_from(&service.clear);
            let (process, trouble) = self.bring_up(&service, running).await;
            running = process;
            let is_troubled = trouble.is_some();
            let begun = Instant::now();
            let is_told = trouble.is_none();
            self.tell(|state| {
                (state.pid, state.trouble) = (running.as_ref().map(Process::pid), trouble);
                state.about = service.about;
            });
            let Some(process) = &mut running else {
                // Whatever it was may be mended, in the state or in the system.
                tokio::select! {
                    () = sleep(pause) => pause = (pause * 2).min(PAUSES.1),
                    _ = self.wanted.changed() => {}
                }
                continue;
            };
            let how = tokio::select! {
                how = process.ended() => how,
                () = sleep(pause), if is_troubled => {
                    pause = (pause * 2).min(PAUSES.1);
                    continue;
                }
                changed = self.wanted.changed() => match changed {
                    Ok(()) => continue,
                    // The daemon ends; its services stay.
                    Err(_) => return,
                },
                () = sleep(TEND), if is_told && service.tend.is_some() => {
                    if let Some(tend) = &service.tend
                        && let Err(error) = call(tend, None, CALL).await
                    {
                        warn!("{}: {error:#}", self.name);
                        self.is_loaded = false;
                    }
                    continue;
                }
                // What it runs by is not what it should be, until that is mended.
                () = sleep(pause), if !is_told => {
                    pause = (pause * 2).min(PAUSES.1);
                    continue;
                }
            };
            running = None;
            if begun.elapsed() >= STEADY {
                pause = PAUSES.0;
            }
            warn!("{} has ended: {how}", self.name);
            self.alert(Severity::Alert, &format!("The process {} has ended: {how}", self.name));
            let trouble = format!("it has ended: {how}");
            self.tell(|state| {
                (state.pid, state.trouble) = (None, Some(trouble));
                state.restarts += 1;
            });
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Brings files and process to what they should be. Gives the process, if it runs, and what is wrong.
    async fn bring_up(
        &mut self,
        service: &Service,
        running: Option<Process>,
    ) -> (Option<Process>, Option<String>) {
        match self.try_to_bring_up(service, running).await {
            Ok(process) => (Some(process), None),
            Err((process, error)) => {
                let trouble = format!("{error:#}");
                error!("{}: {trouble}", self.name);
                (process, Some(trouble))
            }
        }
    }

    async fn try_to_bring_up(
        &mut self,
        service: &Service,
        running: Option<Process>,
    ) -> Result<Process, (Option<Process>, anyhow::Error)> {
        if let Err(error) = self.write(service).await {
            // As it was.
            return Err((running, error));
        }
        if let Some(mut process) = running {
            if process.runs_as(service) && self.tell_of_files(service, &mut process).await {
                let told = match self.load(service).await {
                    Ok(()) => Self::release_leases(service).await,
                    Err(error) => Err(error),
                };
                return match told {
                    Ok(()) => Ok(process),
                    Err(error) => Err((Some(process), error)),
                };
            }
            self.stop(process).await;
        }
        if let Some(leases) = &service.leases
            && let Err(error) = leases.forget_strays()
        {
            warn!("{}: guests that are gone keep their leases: {error:#}", self.name);
        }
        self.is_loaded = false;
        if let Some(socket) = &service.needs
            && let Err(error) = answer(socket).await
        {
            return Err((None, error));
        }
        if let Some(clear) = &service.clear
            && let Err(error) = call(clear, None, CALL).await
        {
            return Err((None, error));
        }
        let process = Process::start(service, &self.note).map_err(|error| (None, error))?;
        info!("{} runs, process {}", self.name, process.pid());
        if self.states().get(self.name).is_some_and(|state| state.restarts > 0) {
            self.alert(Severity::Info, &format!("The process {} is recovered successfully", self.name));
        }
        match self.load(service).await {
            Ok(()) => Ok(process),
            Err(error) => Err((Some(process), error)),
        }
    }

    /// Tells a daemon that runs what is in its files, if it has to be told and was not yet.
    async fn load(&mut self, service: &Service) -> Result<()> {
        if let Some(load) = service.load.as_ref().filter(|_| !self.is_loaded) {
            call(load, None, CALL).await?;
            self.is_loaded = true;
        }
        Ok(())
    }

    /// Has a running daemon let go of leases of guests that are gone.
    async fn release_leases(service: &Service) -> Result<()> {
        let Some(leases) = &service.leases else { return Ok(()) };
        for _ in 0..LEASE_TRIES {
            let strays = leases.strays()?;
            if strays.is_empty() {
                return Ok(());
            }
            for release in &strays {
                call(release, None, CALL).await?;
            }
            sleep(LEASE_PAUSE).await;
        }
        bail!("it keeps leases of guests that are gone")
    }

    /// Puts a service's files in place, once they are checked.
    async fn write(&self, service: &Service) -> Result<()> {
        for folder in &service.folders {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        if let Some(prepare) = &service.prepare {
            call(prepare, None, CALL).await?;
        }
        // The first may name the others.
        for (index, file) in service.files.iter().enumerate().rev() {
            if fs::read_to_string(&file.path).is_ok_and(|old| old == file.content) {
                continue;
            }
            let beside = write_beside(file).with_context(|| format!("write {}", file.path.display()))?;
            if let Some(check) = service.check.as_ref().filter(|_| index == 0) {
                call(check, Some(&beside), CALL).await?;
            }
            fs::rename(&beside, &file.path).with_context(|| format!("replace {}", file.path.display()))?;
        }
        if let Some(folder) = &service.sole {
            sweep(folder, &service.files).with_context(|| format!("clear {}", folder.display()))?;
        }
        Ok(())
    }

    /// Lets it know of files that are others than those that it has read: a daemon before us may have ended
    /// between the two. Says whether it knows; if not, it has to be started again.
    async fn tell_of_files(&mut self, service: &Service, process: &mut Process) -> bool {
        if process.has_read(service) {
            return true;
        }
        self.is_loaded = false;
        let told = match &service.reload {
            Reload::Signal(signal) => process.signal(*signal),
            Reload::Call(program) => call(program, None, CALL).await,
            Reload::Restart => return false,
        };
        let told = told.and_then(|()| process.note_read(service));
        if let Err(error) = &told {
            warn!("{} is started again, for its files: {error:#}", self.name);
        }
        told.is_ok()
    }

    async fn stop(&self, process: Process) {
        let pid = process.pid();
        match process.stop().await {
            Ok(()) => info!("{} is stopped, it was process {pid}", self.name),
            Err(error) => error!("{}: {error:#}", self.name),
        }
        self.tell(|state| *state = ServiceState { restarts: state.restarts, ..ServiceState::default() });
    }

    /// For the management server.
    fn alert(&self, severity: Severity, text: &str) {
        if let Err(error) = alerts::append(&self.root, severity, self.name, text) {
            warn!("nobody is alerted of {}: {error:#}", self.name);
        }
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<&'static str, ServiceState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: impl FnOnce(&mut ServiceState)) {
        let mut states = self.states();
        let state = states.entry(self.name).or_default();
        let before = state.pid;
        what(state);
        if state.pid != before {
            self.news.notify_one();
        }
    }
}

/// Where its process is noted.
fn note(root: &Root, name: &str) -> PathBuf {
    root.run().join(format!("{name}.process"))
}

fn write_beside(file: &Rendered) -> io::Result<PathBuf> {
    if let Some(folder) = file.path.parent() {
        fs::create_dir_all(folder)?;
    }
    beside::write(&file.path, file.content.as_bytes(), file.mode)
}

/// Removes what is in a folder, if there is one, and not among the files.
fn sweep(folder: &Path, files: &[Rendered]) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() && !files.iter().any(|file| file.path == entry.path()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Waits until a daemon answers at its socket. That the file is there says nothing: one that was killed leaves it.
async fn answer(socket: &Path) -> Result<()> {
    let begun = Instant::now();
    while let Err(error) = UnixStream::connect(socket).await {
        if begun.elapsed() > OTHER {
            return Err(error).with_context(|| format!("nobody answers at {}", socket.display()));
        }
        sleep(OTHER_PAUSE).await;
    }
    Ok(())
}

/// Calls a program, with one more argument if there is one, for so long at most. What it says is the error.
pub(super) async fn call(call: &Call, last: Option<&Path>, limit: Duration) -> Result<()> {
    let mut command = Command::new(call.program);
    command.args(&call.arguments).args(last).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(limit, command.output()).await {
        Ok(output) => output.with_context(|| format!("run {}", call.program))?,
        Err(_) => bail!("{} does not end", call.program),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", call.program, output.status, said.trim());
    }
    Ok(())
}
