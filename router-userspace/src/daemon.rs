//! The daemon: starts, converges, and then walks the control walk for every command, kernel event
//! and timer.
//!
//! ```text
//! start: locks → databags, settings → dataplane → NICs → converge → listen → READY
//! loop:  request │ kernel event │ timer │ signal
//! ```
//!
//! One task owns everything; connections only carry requests to it. What forwards is pinned in the
//! kernel: the daemon may end at any point, however it ends, and the next one takes over.

mod boot;
mod bridges;
mod control;
mod health;
mod import;
mod inbox;
mod listen;
mod log;
mod memory;
mod notify;
mod pace;
mod redundancy;
mod unsolicited;
mod usage;
mod views;

use std::fs::{self, File};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use crate::compile::AttachMode;
use crate::dataplane;
use crate::reconcile::events::{Event, Events};
use crate::reconcile::{guard, own_tcp, remove_tagged_ports};
use crate::root::Root;
use crate::rpc::{Answer, Guard, Request};

use control::Control;
use health::Schedule;
use listen::{Listener, Question, Reply};

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the router's files are.
    pub root: Root,
    /// How programs are attached.
    pub attach: AttachMode,
    /// Room for flow entries per address family; what the machine's memory allows if nothing is said.
    pub max_flows: Option<u32>,
}

/// Flows are aged, and the system is compared with what it should hold, this often.
const TICK: Duration = Duration::from_secs(5);

/// How long flows may believe that somebody hears of changes: a tick or two may be late.
const LEASE: Duration = TICK.saturating_mul(3);

/// News from the kernel come in bursts: how long to gather them before looking.
const GATHER: Duration = Duration::from_millis(20);

/// Runs until a signal or `xvr remove` ends it.
///
/// # Errors
/// Another daemon has the root or the network namespace; the packet programs cannot be loaded; the
/// socket cannot be opened. Whatever else goes wrong is reported and retried.
pub fn run(options: Options) -> Result<()> {
    let started = Instant::now();
    log::start(&options.root);
    raise_descriptors();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let _locks = Locks::take(&options.root)?;
        let mut daemon = Daemon::start(options, started).await?;
        let end = daemon.serve().await;
        daemon.end(end).await;
        Ok(())
    })
}

/// Lets this process, and those that it starts, have more descriptors than the thousand that are usual: each guest
/// network takes two for those who ask for metadata and passwords there, and dnsmasq as many.
fn raise_descriptors() {
    const ENOUGH: libc::rlim_t = 65_536;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is valid during the call.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    let wanted = limit.rlim_max.min(ENOUGH);
    if known && limit.rlim_cur < wanted {
        limit.rlim_cur = wanted;
        // SAFETY: as above.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            warn!("no more than the usual number of descriptors: {}", io::Error::last_os_error());
        }
    }
}

/// Takes the programs away where no daemon runs that would.
///
/// # Errors
/// A daemon has the network namespace; or what could not be taken away.
pub fn remove(root: &Root, guard: Guard) -> Result<()> {
    let _locks = Locks::take(root)?;
    dataplane::mount_bpffs()?;
    let pin_dir = dataplane::default_pin_dir()?;
    if pin_dir.exists() {
        dataplane::Dataplane::open(&dataplane::Options {
            pin_dir,
            room: dataplane::Room { flows: 2, bindings: 2 },
            max_ports: 2,
        })?
        .remove()?;
    }
    remove_tagged_ports()?;
    own_tcp::remove()?;
    remove_guard(guard)
}

fn remove_guard(guard: Guard) -> Result<()> {
    if guard == Guard::Stays {
        return Ok(());
    }
    for path in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
        fs::write(path, "0").with_context(|| format!("write {path}"))?;
    }
    guard::remove()
}

/// One daemon per root, and one per network namespace. The kernel lets go of both when we end.
struct Locks {
    _root: File,
    _namespace: UnixListener,
}

impl Locks {
    fn take(root: &Root) -> Result<Self> {
        let run = root.run();
        fs::create_dir_all(&run).with_context(|| format!("create {}", run.display()))?;
        let path = run.join("xvr.lock");
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        if file.try_lock().is_err() {
            bail!("another daemon has the root {}", root.path().display());
        }
        // Abstract socket names are the network namespace's own.
        let address = SocketAddr::from_abstract_name("xvr-daemon").context("name the namespace's lock")?;
        match UnixListener::bind_addr(&address) {
            Ok(namespace) => Ok(Self { _root: file, _namespace: namespace }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                bail!("another daemon has this network namespace")
            }
            Err(error) => Err(error).context("lock the network namespace"),
        }
    }
}

struct Daemon {
    control: Control,
    listener: Listener,
    events: Events,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    tick: Interval,
    checks: Schedule,
    /// Of daemons that were started or have ended.
    news: Arc<Notify>,
    /// When to look what news from the kernel were about.
    look_at: Option<Instant>,
    /// When to look how full the flow tables are.
    watch_at: Instant,
    /// When to look who is to hear of a SYN that was refused.
    answer_at: Instant,
    /// When to look for a boot line.
    boot_at: Instant,
    boot: boot::Watch,
}

/// Why a daemon ends.
enum End {
    Signal(&'static str),
    /// `xvr remove`, which waits for its answer.
    Remove(Guard, Reply),
}

impl Daemon {
    async fn start(options: Options, started: Instant) -> Result<Self> {
        let root = options.root.clone();
        // Before looking: what changes meanwhile is heard of.
        let events = Events::open()?;
        let mut control = Control::open(options, started).await?;
        control.start().await;
        control.attend(LEASE);
        let listener = Listener::open(&root)?;
        let terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        control.ready();
        notify::ready();
        info!("ready after {} ms", started.elapsed().as_millis());
        let news = control.supervisor.news();
        let (look_at, watch_at, answer_at, boot_at) = (None, Instant::now(), Instant::now(), Instant::now());
        let checks = Schedule::new(&root);
        Ok(Self {
            control,
            listener,
            events,
            news,
            terminate,
            interrupt,
            hangup,
            tick,
            checks,
            look_at,
            watch_at,
            answer_at,
            boot_at,
            boot: boot::Watch::default(),
        })
    }

    async fn serve(&mut self) -> End {
        loop {
            let (look_at, watch_at, boot_at) = (self.look_at, self.watch_at, self.boot_at);
            let answer_at = self.control.answers_syns().then_some(self.answer_at);
            tokio::select! {
                question = self.listener.next() => {
                    let Question { request, reply } = question;
                    if let Request::Remove { guard } = request {
                        return End::Remove(guard, reply);
                    }
                    let answer = self.answer(request).await;
                    reply.send(answer).await;
                }
                event = self.events.next() => self.hear(event).await,
                () = self.news.notified() => {
                    self.look_at.get_or_insert_with(Instant::now);
                }
                () = until(look_at) => {
                    self.look_at = None;
                    self.control.forget_ways_out();
                    self.control.look_again().await;
                }
                _ = self.tick.tick() => {
                    self.control.attend(LEASE);
                    let pause = self.control.age_flows();
                    self.watch_at = Instant::now() + pause;
                    self.control.look_again().await;
                    self.checks.look(health::monitoring(&self.control).as_ref());
                }
                () = until(Some(watch_at)) => {
                    let pause = self.control.watch_flows();
                    self.watch_at = Instant::now() + pause;
                }
                () = until(answer_at) => {
                    self.control.answer_syns();
                    self.answer_at = Instant::now() + unsolicited::EVERY;
                }
                () = until(Some(boot_at)) => {
                    self.look_for_boot_line().await;
                    self.boot_at = Instant::now() + boot::EVERY;
                }
                _ = self.hangup.recv() => {
                    info!("SIGHUP: reading the settings again");
                    // What is wrong with them is logged on the way.
                    let _ = self.answer(Request::Reload).await;
                }
                _ = self.terminate.recv() => return End::Signal("SIGTERM"),
                _ = self.interrupt.recv() => return End::Signal("SIGINT"),
            }
        }
    }

    async fn look_for_boot_line(&mut self) {
        let Some(line) = self.boot.look(self.control.root()) else { return };
        let result = self.control.boot(&line).await.map_err(|error| format!("{error:#}"));
        self.boot.taken(self.control.root(), result);
    }

    /// A mistake of ours in handling a request is that request's failure, not the router's.
    async fn answer(&mut self, request: Request) -> Answer {
        let what = format!("{request:.200?}");
        match AssertUnwindSafe(self.control.answer(request)).catch_unwind().await {
            Ok(answer) => answer,
            Err(_) => {
                error!("handling {what} panicked");
                self.control.look_again().await;
                Answer::Refused("an internal error, the daemon's log has it; nothing was stored".to_owned())
            }
        }
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Forwarding(device) if !self.control.follows(device) => {}
            Event::Changed | Event::Forwarding(_) => {
                self.look_at.get_or_insert_with(|| Instant::now() + GATHER);
            }
            Event::Neighbour(neighbour) => self.control.hear_of(&neighbour).await,
            Event::Lost => {
                self.control.meet_neighbours().await;
                self.look_at.get_or_insert_with(Instant::now);
            }
        }
    }

    async fn end(mut self, end: End) {
        notify::stopping();
        self.listener.close();
        match end {
            End::Signal(name) => {
                self.control.attend(Duration::ZERO);
                info!("{name}: ending; what is in force stays in force");
            }
            End::Remove(guard, reply) => {
                info!("xvr remove: taking the programs away");
                let removed = self.control.remove().await;
                let removed = removed.and_then(|()| own_tcp::remove()).and_then(|()| remove_guard(guard));
                let refused = |error| Answer::Refused(format!("{error:#}"));
                reply.send(removed.map_or_else(refused, |()| Answer::Removed)).await;
            }
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
