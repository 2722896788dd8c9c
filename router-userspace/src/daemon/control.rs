//! The control walk, and everything it remembers.
//!
//! ```text
//! command → databags → desired state → compiled → plan → applied → observed again → saved
//! └────────────── errors up to here change nothing ─┘   └─ errors here are undone ─┘
//! ```

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net};
use router_common::account::COUNTER_SLOTS;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::boot::{self, BootLine};
use super::memory::Memory;
use super::pace::Pace;
use super::{Options, bridges, health, import, inbox, redundancy, unsolicited, usage, views};
use crate::cloudstack::wire::vmpassword::VmPassword;
use crate::cloudstack::{
    self, Command, Databags, Files, Parsed, from_boot_line, metadata, notices, remarks, unserved,
};
use crate::compile::policy::Jurisdiction;
use crate::compile::{Compiled, Inventory, Problem, Subject, compile};
use crate::dataplane::{self, Dataplane, Room};
use crate::error::ConfigError;
use crate::http::Http;
use crate::http::passwords::{MessageId, Taken};
use crate::model::settings::{DeniedFlows, UnsolicitedSyn};
use crate::model::{DesiredState, RouterRole, Settings};
use crate::reconcile::kernel::Kernel;
use crate::reconcile::neighbours::{Keeper, Neighbour};
use crate::reconcile::{Change, Machine, Plan, Reconciler, remove_tagged_ports};
use crate::root::Root;
use crate::rpc::{Answer, Applied, Document, Refusal, Request};
use crate::services::{self, Supervisor};
use crate::{parallel, settings, trunks};

/// How long a command may wait for a NIC that the hypervisor is just plugging.
const HOT_PLUG: Duration = Duration::from_secs(3);

/// How long keepalived may keep an address that is shared no more: longer than from one look to the next.
const GIVEN_BACK: Duration = Duration::from_secs(15);

/// The router, as far as the daemon is concerned.
pub struct Control {
    pub(super) options: Options,
    pub(super) started: Instant,
    pub(super) ready_after: Duration,
    pub(super) memory: Memory,
    /// Where it is kept.
    files: Files,
    /// What the operator has chosen, as it is in force.
    pub(super) settings: Settings,
    /// Why that is not what the file says.
    pub(super) settings_damage: Option<ConfigError>,
    pub(super) inventory: Inventory,
    pub(super) compiled: Compiled,
    pub(super) reconciler: Reconciler<Machine<Dataplane>>,
    /// What serves guests their metadata and passwords.
    pub(super) http: Http,
    /// Why the system does not hold what it should, after the last look.
    pub(super) trouble: Option<String>,
    neighbours: Keeper,
    pace: Pace,
    /// What flows were last cut by; `None` where they are not cut.
    cut_by: Option<Jurisdiction>,
    /// Interfaces that are ports, an earlier daemon's included.
    ports: BTreeSet<u32>,
    /// The daemons that work is left to.
    pub(super) supervisor: Supervisor,
    /// What the router does in a pair, after the last look; unknown while it is alone.
    pub(super) role: RouterRole,
    /// What the kernel can do, as far as that was asked.
    kernel: Cell<Option<Kernel>>,
    /// Addresses that the pair shares, or shared lately, and how long who holds them may take to give them back.
    shared_until: BTreeMap<IpNet, Instant>,
}

/// A message of CloudStack's as it came.
pub struct Message<'a> {
    /// What to call it in errors.
    pub name: &'a str,
    /// Its text.
    pub bytes: &'a [u8],
}

/// What came of messages that are in force.
pub struct InForce {
    /// The changes that were made, in order.
    pub changes: Vec<Change>,
    /// What was odd about them.
    pub warnings: Vec<String>,
    /// Milliseconds from reading them to being in force.
    pub milliseconds: u64,
}

impl Control {
    /// Reads the databags and the settings, and opens the dataplane, new or an earlier daemon's.
    pub async fn open(options: Options, started: Instant) -> Result<Self> {
        let memory = Memory::load(&options.root);
        let files = Files::new(&options.root.databags());
        let (mut settings, settings_damage) = match settings::load(&options.root) {
            Ok(settings) => (settings, None),
            Err(damage) => (Settings::default(), Some(damage)),
        };
        let http = Http::start(&options.root.inbox())?;
        dataplane::mount_bpffs()?;
        let pin_dir = dataplane::default_pin_dir()?;
        let room = Room::of(options.max_flows)?;
        // As many again as most routers have, for NICs and for tagged ports that are declared later.
        let max_ports = u32::try_from(settings.tagged_ports.len()).unwrap_or(u32::MAX) + COUNTER_SLOTS;
        let mut dataplane = Dataplane::open(&dataplane::Options { pin_dir, room, max_ports })
            .context("open the dataplane")?;
        let ports = dataplane.tables().observe()?.ports.into_keys().collect();
        let mut reconciler = Reconciler::new(Machine::new(dataplane)?);
        if settings_damage.is_some() {
            // A mistake in a file ends no port.
            settings.tagged_ports = match trunks::load(&options.root.ports()) {
                Ok(ports) => ports,
                Err(_) => reconciler.backend.tagged_ports().context("look for tagged ports")?,
            };
        }
        let inventory = inventory(&mut reconciler, &settings)?;
        let supervisor = Supervisor::new(&options.root);
        Ok(Self {
            options,
            started,
            ready_after: Duration::ZERO,
            memory,
            files,
            settings,
            settings_damage,
            inventory,
            compiled: Compiled::default(),
            reconciler,
            http,
            trouble: None,
            neighbours: Keeper::default(),
            pace: Pace::default(),
            cut_by: None,
            ports,
            supervisor,
            role: RouterRole::Unknown,
            kernel: Cell::default(),
            shared_until: BTreeMap::new(),
        })
    }

    /// Makes the system hold what the databags say. Trouble is reported and retried.
    pub async fn start(&mut self) {
        for damage in self.memory.bags.damage() {
            error!("{damage}: the databag is not known, and not written to, until this is repaired");
        }
        if let Err(damage) = &self.memory.desired {
            error!("{damage}: what is forwarded stays as it is until this is repaired");
        }
        if let Some(damage) = &self.settings_damage {
            error!("{damage}: all is as without settings until this is repaired and reloaded");
        }
        if let Err(error) = self.take_role() {
            debug!("{error:#}");
        }
        if let Some(line) = boot::from_hypervisor(&self.options.root)
            && let Err(error) = self.boot(&line).await
        {
            error!("the boot line is refused: {error:#}");
        }
        self.look_again().await;
        for problem in &self.compiled.problems {
            warn!("{problem}");
        }
        self.meet_neighbours().await;
    }

    /// Commands are taken from now on.
    pub fn ready(&mut self) {
        self.ready_after = self.started.elapsed();
    }

    /// Where the router's files are.
    pub fn root(&self) -> &Root {
        &self.options.root
    }

    /// Answers a request.
    pub async fn answer(&mut self, request: Request) -> Answer {
        let result = match request {
            Request::Status => Ok(Answer::Status(Box::new(views::status(self)))),
            Request::Ports => views::ports(self).map(Answer::Ports),
            Request::Flows => views::flows(self).map(Answer::Flows),
            Request::Drops => views::drops(self).map(Answer::Drops),
            Request::Routes => views::routes(self).await.map(Answer::Routes),
            Request::Nat => views::nat(self).map(Answer::Nat),
            Request::Rules => views::rules(self).map(Answer::Rules),
            Request::Bridges => bridges::view(self).map(Answer::Bridges),
            Request::Role => Ok(Answer::Role(redundancy::role(self))),
            Request::TakePart(does) => redundancy::take_part(self, does).map(|()| Answer::TakenPart),
            Request::Health => health::view(self).map(|view| Answer::Health(Box::new(view))),
            Request::SetMtu { address, mtu } => self.set_mtu(address, mtu).await.map(Answer::Mtu),
            Request::Converge => self.look_now().await.map(|()| Answer::Converged),
            Request::Usage => usage::view(self).map(|view| Answer::Usage(Box::new(view))),
            Request::ZeroUsage { address } => usage::zero(self, address).map(|()| Answer::Zeroed),
            Request::Apply { documents } => Ok(self.apply_all(&documents).await),
            Request::Plan { documents } => self.plan(&documents).await,
            Request::Reload => {
                self.reload().await.map(|reloaded| Answer::Applied { applied: vec![reloaded], refused: None })
            }
            Request::UpdateConfig { files } => Ok(inbox::update_config(self, &files).await),
            Request::Import { folder, only_say } => import::import(self, &folder, only_say).await,
            // The loop's, since it ends the daemon.
            Request::Remove { .. } => Err(anyhow!("removing is not answered here")),
        };
        result.unwrap_or_else(|error| Answer::Refused(format!("{error:#}")))
    }

    async fn apply_all(&mut self, documents: &[Document]) -> Answer {
        let mut applied = Vec::new();
        for document in documents {
            let message = Message { name: &document.name, bytes: document.text.as_bytes() };
            let name = document.name.clone();
            match self.apply(&name, &[message]).await {
                Ok(InForce { changes, warnings, milliseconds }) => {
                    let changes = changes.iter().map(ToString::to_string).collect();
                    applied.push(Applied { name, changes, warnings, milliseconds });
                }
                Err(refusal) => return Answer::Applied { applied, refused: Some(refusal) },
            }
        }
        Answer::Applied { applied, refused: None }
    }

    /// Applies messages, all of them or none. When it returns without an error the change is in force and
    /// saved; with one, the router is as it was, or the error says what differs. `name` is what to call them.
    pub async fn apply(&mut self, name: &str, messages: &[Message<'_>]) -> Result<InForce, Refusal> {
        let begun = Instant::now();
        let mut at = "";
        let mut warnings = Vec::new();
        let walked = self.walk(messages, &mut at, &mut warnings, begun).await;
        let (changes, in_force) = walked.map_err(|error| {
            warn!("refused: {error:#}");
            Refusal { name: at.to_owned(), reason: format!("{error:#}") }
        })?;
        for warning in &warnings {
            warn!("{warning}");
        }
        let milliseconds = u64::try_from(in_force.as_millis()).unwrap_or(u64::MAX);
        let (count, saved) = (changes.len(), begun.elapsed().as_millis());
        info!("{name}: in force with {count} changes after {milliseconds} ms, saved after {saved} ms");
        Ok(InForce { changes, warnings, milliseconds })
    }

    /// Takes in a boot line that the hypervisor has delivered.
    ///
    /// # Errors
    /// It is refused; all is as it was.
    pub async fn boot(&mut self, line: &BootLine) -> Result<()> {
        let boot = from_boot_line(boot::NAME, &line.text)?;
        let password = boot.password.clone();
        let before = if line.begins_anew { Memory::default() } else { self.remembered() };
        let commands = [(boot::NAME, Command::CmdLine(boot))];
        let (changes, _) =
            self.carry_out(&commands, before, &mut "", &mut Vec::new(), Instant::now()).await?;
        info!("the boot line is in force with {} changes", changes.len());
        boot::done(&self.options.root);
        if let Some(password) = password
            && let Err(error) = boot::set_password(&self.options.root, &password)
        {
            error!("root's password is not set: {error:#}");
        }
        Ok(())
    }

    /// Whether it has a boot line, on which everything else rests.
    pub fn is_booted(&self) -> bool {
        self.memory.bags.has_boot_line()
    }

    /// `at` becomes the name of the message that an error is about. Gives the changes, and how long it took until
    /// they were in force.
    async fn walk<'a>(
        &mut self,
        messages: &[Message<'a>],
        at: &mut &'a str,
        warnings: &mut Vec<String>,
        begun: Instant,
    ) -> Result<(Vec<Change>, Duration)> {
        let mut commands = Vec::with_capacity(messages.len());
        let parsed = parallel::map(messages, |message| Command::parse(message.name, message.bytes));
        for (Message { name, .. }, parsed) in messages.iter().zip(parsed) {
            *at = name;
            let parsed = parsed?;
            warnings.extend(parsed.warnings.iter().map(ToString::to_string));
            commands.push((*name, parsed.command));
        }
        let before = self.remembered();
        let done = match commands.iter().any(|(_, command)| command.is_about_forwarding()) {
            true => self.carry_out(&commands, before, at, warnings, begun).await?,
            false => self.remember(&commands, at, warnings, begun)?,
        };
        if commands.iter().any(|(_, command)| matches!(command, Command::GuestNetwork(_))) {
            // Which CloudStack's own router does with all of them.
            redundancy::take_part(self, true)?;
        }
        for sentence in self.unserved(&self.memory) {
            if commands.iter().any(|(_, command)| sentence.file == format!("{}.json", command.type_name())) {
                warnings.push(sentence.to_string());
            }
        }
        Ok(done)
    }

    /// From merging to saving.
    async fn carry_out<'a>(
        &mut self,
        commands: &[(&'a str, Command)],
        before: Memory,
        at: &mut &'a str,
        warnings: &mut Vec<String>,
        begun: Instant,
    ) -> Result<(Vec<Change>, Duration)> {
        self.wait_for_nics(commands).await?;
        let after = before.merge_all(commands, &self.inventory, at)?;
        for (name, command) in commands {
            *at = name;
            self.check_services(command).await?;
        }
        self.keep_passwords(commands, warnings)?;
        self.put_in_force(at, &before, after, begun).await
    }

    /// What a daemon would not take is refused in its words, since CloudStack waits for them. That takes milliseconds,
    /// and seconds at most.
    async fn check_services(&self, command: &Command) -> Result<()> {
        let Command::LoadBalancer(message) = command else { return Ok(()) };
        let checked = services::balancer::check(&cloudstack::balancer(message), &self.options.root).await;
        checked.map_err(|said| message.place.at("configuration").error(format_args!("{said:#}")).into())
    }

    /// Gives the NIC that has an address another MTU, which is remembered. Says which NIC that is, if there is one.
    async fn set_mtu(&mut self, address: IpNet, mtu: u16) -> Result<Option<String>> {
        let begun = Instant::now();
        let before = self.remembered();
        self.look_for_nics()?;
        let Some((bags, nic)) = before.bags.with_mtu(address, mtu) else { return Ok(None) };
        let after = before.with(bags)?;
        let name = format!("MTU of {nic}");
        let put = self.put_in_force(&name, &before, after, begun).await;
        let (changes, _) = put.inspect_err(|error| warn!("refused: {error:#}"))?;
        info!("{name}: {mtu}, in force with {} changes", changes.len());
        Ok(Some(nic))
    }

    /// Makes the system hold what the databags after a command say, and saves them. Returns what was changed, and
    /// when that was in force, counted from `begun`. With an error everything is as it was, or the error says what differs.
    pub(super) async fn put_in_force(
        &mut self,
        name: &str,
        before: &Memory,
        after: Memory,
        begun: Instant,
    ) -> Result<(Vec<Change>, Duration)> {
        let compiled = self.compile(after.known()?, &self.settings);
        refuse(name, &compiled, before.known()?, after.known()?)?;
        let (files, http, old) = (&mut self.files, &mut self.http, &self.memory.bags);
        let mut in_force = Duration::ZERO;
        let save = || {
            in_force = begun.elapsed();
            // Opened while all else is looked after.
            serve_guests(http, &compiled, &after.bags);
            let saved = files.save(&after.bags).map(drop).context("save the databags");
            // Where renaming failed, some files may be the new ones already.
            saved.map_err(|error| match files.save(old) {
                Ok(_) => error,
                Err(_) => error.context("the databags on disk may be the new ones after the next start"),
            })
        };
        let converged = self.reconciler.converge_or_restore(&compiled, &self.compiled, save).await;
        // Guests may be served already where they are not to be.
        let converged = converged.inspect_err(|_| self.serve())?;
        self.memory = after;
        self.compiled = compiled;
        self.trouble = None;
        self.look_behind().await;
        Ok((converged.changes, in_force))
    }

    /// [`look_again`](Self::look_again) where what was compiled has just been seen to be in force: attaching programs may
    /// have changed what NICs can do, and so what is to be in force.
    async fn look_behind(&mut self) {
        match self.is_as_compiled() {
            Ok(true) => self.serve(),
            // Who looks again says what is wrong.
            Ok(false) | Err(_) => self.look_again().await,
        }
    }

    fn is_as_compiled(&mut self) -> Result<bool> {
        let now = inventory(&mut self.reconciler, &self.settings)?;
        let (before, role) = (std::mem::replace(&mut self.inventory, now), self.role);
        self.take_role()?;
        let desired = self.memory.known()?;
        // From the same it would be the same. In a pair time counts as well, and for people from outside what the kernel
        // can do.
        let is_from_same = self.inventory == before && self.role == role;
        let is_certain = is_from_same && desired.pair.is_none() && desired.remote.is_none();
        if !is_certain && self.compile(desired, &self.settings) != self.compiled {
            return Ok(false);
        }
        self.ports = self.compiled.links.keys().copied().collect();
        self.cut_denied()?;
        Ok(true)
    }

    /// What the system should hold for another state, with the NICs that are there now.
    pub(super) fn compile_anew(&mut self, memory: &Memory) -> Result<Compiled> {
        self.look_for_nics()?;
        Ok(self.compile(memory.known()?, &self.settings))
    }

    /// Commands that what is forwarded does not depend on: they are known and saved, also where that is damaged.
    fn remember<'a>(
        &mut self,
        commands: &[(&'a str, Command)],
        at: &mut &'a str,
        warnings: &mut Vec<String>,
        begun: Instant,
    ) -> Result<(Vec<Change>, Duration)> {
        let after = self.memory.merge_all(commands, &self.inventory, at)?;
        self.keep_passwords(commands, warnings)?;
        self.files.save(&after.bags).context("save the databags")?;
        self.memory = after;
        self.serve();
        Ok((Vec::new(), begun.elapsed()))
    }

    /// Passwords are on disk before anybody hears of them. One that is there already, since its message was refused
    /// for another reason and comes again, is not set twice.
    fn keep_passwords(&self, commands: &[(&str, Command)], warnings: &mut Vec<String>) -> Result<()> {
        for (name, command) in commands {
            if let Command::VmPassword(message) = command {
                let odd = keep_password(&self.http, name, message, &self.compiled)?;
                warnings.extend(odd.map(|warning| warning.to_string()));
            }
        }
        Ok(())
    }

    /// What guests and daemons are told follows what is known.
    pub(super) fn serve(&mut self) {
        if let Ok(desired) = self.memory.known() {
            let (mut services, _) = cloudstack::services(&self.memory.bags, desired);
            let has_tunnels = !services.tunnels.is_empty();
            services.remote = services.remote.filter(|_| self.lack(true, has_tunnels).is_none());
            let kernel = if has_tunnels { self.kernel() } else { Kernel::default() };
            if redundancy::is_stopped(&self.options.root) {
                services.pair = None;
            }
            let Options { root, .. } = &self.options;
            let (compiled, inventory) = (&self.compiled, &self.inventory);
            let place = services::Place { root, compiled, inventory, kernel };
            self.supervisor.want(services::render(&services, place));
        }
        serve_guests(&mut self.http, &self.compiled, &self.memory.bags);
        self.http.settle();
    }

    /// What applying documents would change, or what differs now. Changes nothing, and waits for
    /// no NIC.
    async fn plan(&mut self, documents: &[Document]) -> Result<Answer> {
        self.memory.recall(&self.options.root);
        self.look_for_nics()?;
        let mut memory = self.memory.clone();
        for document in documents {
            let Parsed { command, .. } = Command::parse(&document.name, document.text.as_bytes())?;
            let after = memory.merge(&command, &self.inventory)?;
            self.check_services(&command).await?;
            if command.is_about_forwarding() {
                let compiled = self.compile(after.known()?, &self.settings);
                refuse(&document.name, &compiled, memory.known()?, after.known()?)?;
            }
            memory = after;
        }
        // Without documents, also what the operator has written and not reloaded.
        let settings = match documents {
            [] => settings::load(&self.options.root)?,
            _ => self.settings.clone(),
        };
        let compiled = self.compile(memory.known()?, &settings);
        let Plan { changes } = self.reconciler.plan(&compiled).await?;
        let said = notices(&memory.bags)?.into_iter().chain(remarks(&memory.bags)?);
        let said = said.chain(self.unserved(&memory));
        Ok(Answer::Plan {
            changes: self.sentences(&settings, &changes),
            notices: said.map(|notice| notice.to_string()).collect(),
        })
    }

    /// What the operator has written since, in force. With an error everything is as it was.
    async fn reload(&mut self) -> Result<Applied> {
        let begun = Instant::now();
        let changes = self.walk_settings().await.inspect_err(|error| warn!("refused: {error:#}"))?;
        let about_settings = |problem: &&Problem| matches!(problem.subject, Subject::Network(_));
        let warnings: Vec<String> =
            self.compiled.problems.iter().filter(about_settings).map(ToString::to_string).collect();
        for warning in &warnings {
            warn!("{warning}");
        }
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!("{}: in force with {} changes after {milliseconds} ms", settings::NAME, changes.len());
        Ok(Applied { name: settings::NAME.to_owned(), changes, warnings, milliseconds })
    }

    async fn walk_settings(&mut self) -> Result<Vec<String>> {
        let after = settings::load(&self.options.root)
            .inspect_err(|damage| self.settings_damage = Some(damage.clone()))?;
        self.memory.recall(&self.options.root);
        self.inventory = inventory(&mut self.reconciler, &after)?;
        let compiled = self.compile(self.memory.known()?, &after);
        let converged = self.reconciler.converge_or_restore(&compiled, &self.compiled, || Ok(())).await?;
        let changes = self.sentences(&after, &converged.changes);
        let is_limited_otherwise = after.ports_per_guest != self.settings.ports_per_guest;
        (self.settings, self.settings_damage) = (after, None);
        self.compiled = compiled;
        self.trouble = None;
        self.look_again().await;
        if is_limited_otherwise {
            // What guests have already counts at once.
            self.age_flows();
        }
        Ok(changes)
    }

    /// Changes of the system, and of how the daemon itself goes about things.
    fn sentences(&self, settings: &Settings, changes: &[Change]) -> Vec<String> {
        let timeouts =
            (settings.timeouts != self.settings.timeouts).then(|| "set timeouts of flows".to_owned());
        let denied_flows = (settings.denied_flows != self.settings.denied_flows).then(|| {
            let word = match settings.denied_flows {
                DeniedFlows::Kept => "keep",
                DeniedFlows::Cut => "cut",
            };
            format!("{word} flows that the policy denies")
        });
        let management_server = (settings.management_server != self.settings.management_server)
            .then(|| "take the management server for another release".to_owned());
        let own = timeouts.into_iter().chain(denied_flows).chain(management_server);
        own.chain(changes.iter().map(ToString::to_string)).collect()
    }

    fn look_for_nics(&mut self) -> Result<()> {
        self.inventory = inventory(&mut self.reconciler, &self.settings)?;
        Ok(())
    }

    /// What the machine lacks for remote access, if it is wanted. Asked again until nothing is missing: modules may come.
    fn lack(&self, is_wanted: bool, has_tunnels: bool) -> Option<&'static str> {
        if !is_wanted {
            return None;
        }
        self.kernel().lack(has_tunnels)?;
        self.kernel.set(Some(Kernel::look()));
        self.kernel().lack(has_tunnels)
    }

    /// What the kernel can do, as far as that was asked: tunnels are not taken from one ESP to another because a module
    /// has come.
    fn kernel(&self) -> Kernel {
        let kernel = self.kernel.get().unwrap_or_else(Kernel::look);
        self.kernel.set(Some(kernel));
        kernel
    }

    /// What of databags is stored and not acted upon, and why.
    pub(super) fn unserved(&self, memory: &Memory) -> Vec<ConfigError> {
        let has_tunnels = memory.known().is_ok_and(|desired| !desired.tunnels.is_empty());
        unserved(&memory.bags, self.lack(memory.bags.wants_remote_access(), has_tunnels))
    }

    fn compile(&self, desired: &DesiredState, settings: &Settings) -> Compiled {
        let lacks = self.lack(desired.remote.is_some(), !desired.tunnels.is_empty()).is_some();
        let without = lacks.then(|| DesiredState { remote: None, ..desired.clone() });
        let desired = without.as_ref().unwrap_or(desired);
        let mut compiled = compile(desired, settings, &self.inventory, self.options.attach, self.role);
        if matches!(self.role, RouterRole::Primary | RouterRole::Backup) {
            let now = Instant::now();
            let lingering = self.shared_until.iter().filter(|(_, until)| **until > now);
            compiled.lingering = lingering.map(|(address, _)| *address).collect();
        }
        compiled
    }

    fn remembered(&mut self) -> Memory {
        self.memory.recall(&self.options.root);
        self.memory.clone()
    }

    async fn wait_for_nics(&mut self, commands: &[(&str, Command)]) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(20);
        let deadline = Instant::now() + HOT_PLUG;
        loop {
            self.look_for_nics()?;
            let nics = self.inventory.index();
            let are_there = commands.iter().all(|(_, command)| command.absent_nics(&nics).is_empty());
            if are_there || Instant::now() >= deadline {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Compares the system with what it should hold, and makes it so: after news from the kernel,
    /// by the timer, and after a command.
    pub async fn look_again(&mut self) {
        let result = self.converge().await;
        let trouble = result.err().map(|error| format!("{error:#}"));
        if trouble != self.trouble {
            match &trouble {
                Some(trouble) => error!("the router is not as it should be: {trouble}"),
                None => info!("the router is as it should be again"),
            }
        }
        self.trouble = trouble;
        self.serve();
    }

    /// [`look_again`](Self::look_again) for somebody who waits for it.
    async fn look_now(&mut self) -> Result<()> {
        self.look_again().await;
        self.memory.known()?;
        match &self.trouble {
            None => Ok(()),
            Some(trouble) => Err(anyhow!("the router is not as it should be: {trouble}")),
        }
    }

    /// Attaching programs changes what NICs can do, and that what the tables say of them: two
    /// rounds are the rule.
    async fn converge(&mut self) -> Result<()> {
        const ROUNDS: usize = 4;
        self.memory.recall(&self.options.root);
        if self.memory.desired.is_err() {
            // Status tells; nothing can be compared.
            return Ok(());
        }
        for _ in 0..ROUNDS {
            self.look_for_nics()?;
            self.take_role()?;
            self.compiled = self.compile(self.memory.known()?, &self.settings);
            self.ports = self.compiled.links.keys().copied().collect();
            let converged = self.reconciler.converge(&self.compiled).await?;
            for change in &converged.changes {
                info!("{change}");
            }
            if converged.changes.is_empty() {
                return self.cut_denied();
            }
        }
        Err(anyhow!("NICs and tables keep changing each other"))
    }

    /// Looks which role the router has in a pair.
    fn take_role(&mut self) -> Result<()> {
        let role = redundancy::look(self).context("find out which router of the pair this is")?;
        if role != self.role {
            info!("the router's role in a pair is {role} now, it was {}", self.role);
            self.role = role;
        }
        let shared = self.memory.known()?.pair.iter().flat_map(|pair| &pair.shared);
        let until = Instant::now() + GIVEN_BACK;
        self.shared_until.retain(|_, until| *until > Instant::now());
        self.shared_until.extend(shared.map(|shared| (shared.address, until)));
        Ok(())
    }

    /// Where that is chosen, flows end that the lists in force would not let begin: once they are in force, and only
    /// if they judge otherwise than when that was last done.
    fn cut_denied(&mut self) -> Result<()> {
        if self.settings.denied_flows == DeniedFlows::Kept {
            if self.cut_by.is_some() {
                self.reconciler.backend.programs.forget_cut().context("forget what was cut")?;
                self.cut_by = None;
            }
            return Ok(());
        }
        let jurisdiction = self.compiled.tables.jurisdiction();
        if self.cut_by.as_ref() == Some(&jurisdiction) {
            return Ok(());
        }
        let cut =
            self.reconciler.backend.programs.cut_denied().context("cut flows that the policy denies")?;
        if cut > 0 {
            info!("cut flows that the policy denies: {cut}");
        }
        self.cut_by = Some(jurisdiction);
        Ok(())
    }

    /// Flows look their way out up again: a link, an address or a route changed.
    pub fn forget_ways_out(&mut self) {
        if let Err(error) = self.reconciler.backend.programs.tables().bump_generation() {
            error!("flows keep their way out: {error:#}");
        }
    }

    /// Flows believe their ways out for longer, since news are heard, until the lease is over.
    pub fn attend(&mut self, lease: Duration) {
        if let Err(error) = self.reconciler.backend.programs.tables().attend(lease) {
            error!("flows look their ways out up more often than they need: {error:#}");
        }
    }

    /// Removes flows whose time is over, and makes room where there is little left; when to
    /// [`watch_flows`](Self::watch_flows) next.
    pub fn age_flows(&mut self) -> Duration {
        let begun = Instant::now();
        match self.reconciler.backend.programs.expire(&self.settings.timeouts) {
            Ok(aged) => self.pace.looked(&aged, self.started.elapsed(), begun.elapsed()),
            Err(error) => {
                error!("flows are not aged: {error:#}");
                Pace::next(0)
            }
        }
    }

    /// Looks how full the tables of flows are, and makes room if they are filling up; when to do so next.
    pub fn watch_flows(&mut self) -> Duration {
        match self.reconciler.backend.programs.fullness() {
            Ok(fullness) if self.pace.is_due(fullness) => self.age_flows(),
            Ok(fullness) => Pace::next(fullness),
            Err(error) => {
                error!("nobody knows how full the tables of flows are: {error:#}");
                Pace::next(0)
            }
        }
    }

    /// Whether the senders of SYNs that nobody asked for are to hear of it.
    pub fn answers_syns(&self) -> bool {
        self.settings.unsolicited_syn == UnsolicitedSyn::Answered
    }

    /// Tells those whose time has come.
    pub fn answer_syns(&mut self) {
        let programs = &mut self.reconciler.backend.programs;
        let syns = match programs.take_unsolicited_syns(unsolicited::PATIENCE, unsolicited::MOST) {
            Ok(syns) => syns,
            Err(error) => return error!("unsolicited SYNs are not answered: {error:#}"),
        };
        for syn in syns {
            let here = self.compiled.tables.local6.iter().find(|(_, ifindex)| **ifindex == syn.ifindex);
            // A port without an address has nothing to answer from.
            let Some((address, _)) = here else { continue };
            if let Err(error) = unsolicited::answer(&syn, *address) {
                debug!("{} does not hear of its SYN: {error}", syn.from);
            }
        }
    }

    /// Whether the forwarding database of a VXLAN device of the kernel's says where a port's remote ends are.
    pub fn follows(&self, device: u32) -> bool {
        self.inventory.followed.contains(&device)
    }

    /// Takes in news of a neighbour.
    pub async fn hear_of(&mut self, neighbour: &Neighbour) {
        let reaction = self.neighbours.note(neighbour, &self.ports);
        if reaction.declare_in_use {
            self.declare_in_use(&[(neighbour.ifindex, neighbour.address)]).await;
        }
        if reaction.forget {
            self.forget_ways_out();
        }
    }

    /// Takes in all neighbours there are, at the start and when news were lost.
    pub async fn meet_neighbours(&mut self) {
        match self.reconciler.backend.netlink().neighbours().await {
            Ok(all) => {
                let stale = self.neighbours.restart(&all, &self.ports);
                self.declare_in_use(&stale).await;
                self.forget_ways_out();
            }
            Err(error) => error!("neighbours cannot be listed: {error:#}"),
        }
    }

    /// Ends all daemons, takes the programs off all ports, and their tables away.
    pub async fn remove(self) -> Result<()> {
        self.supervisor.stop().await;
        let interfaces = remove_tagged_ports();
        self.reconciler.backend.programs.remove()?;
        interfaces
    }

    async fn declare_in_use(&self, neighbours: &[(u32, std::net::IpAddr)]) {
        for (ifindex, address) in neighbours {
            if let Err(error) = self.reconciler.backend.netlink().use_neighbour(*ifindex, *address).await {
                warn!("{address} is not asked whether it is still there: {error:#}");
            }
        }
    }
}

/// The NICs that there are, with the interfaces of tagged ports.
fn inventory(reconciler: &mut Reconciler<Machine<Dataplane>>, settings: &Settings) -> Result<Inventory> {
    reconciler.backend.inventory(&settings.tagged_ports).context("look for NICs")
}

/// Has guests be served their metadata and passwords, where they are.
fn serve_guests(http: &mut Http, compiled: &Compiled, bags: &Databags) {
    http.follow(&compiled.guest_networks, &metadata(bags), compiled.serves);
}

/// Keeps a password for its guest, on disk; what is odd about that.
fn keep_password(
    http: &Http,
    name: &str,
    message: &VmPassword,
    compiled: &Compiled,
) -> Result<Option<ConfigError>> {
    let VmPassword { place, address: guest, password } = message;
    let mut networks = compiled.guest_networks.values().flatten();
    let router = networks.find(|network| network.contains(guest)).map(Ipv4Net::addr);
    let id = MessageId::of(name, *guest, password);
    let taken = http.passwords().set(id, router, *guest, password).context("keep the password")?;
    Ok(match (taken, router) {
        (Taken::Before, _) => {
            Some(place.error("this message was taken before, its password is not set again"))
        }
        (Taken::Now, None) => Some(place.error(format_args!("no guest port has the network of {guest} yet"))),
        (Taken::Now, Some(_)) => None,
    })
}

/// What a command asks for must be possible.
fn refuse(name: &str, compiled: &Compiled, before: &DesiredState, after: &DesiredState) -> Result<()> {
    let refusals: Vec<String> = compiled.refusals(before, after).iter().map(ToString::to_string).collect();
    if refusals.is_empty() { Ok(()) } else { bail!("{name}#: {}", refusals.join("; ")) }
}
