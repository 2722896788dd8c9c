//! The control walk, and everything it remembers.
//!
//! ```text
//! command → databags → desired state → compiled → plan → applied → observed again → saved
//! └────────────── errors up to here change nothing ─┘   └─ errors here are undone ─┘
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::pace::Pace;
use super::{Options, inbox, unsolicited, usage, views};
use crate::cloudstack::{Command, Databags, Files, Parsed, desired, notices, remarks};
use crate::compile::policy::Jurisdiction;
use crate::compile::{Compiled, Inventory, Problem, Subject, compile};
use crate::dataplane::{self, Dataplane};
use crate::error::ConfigError;
use crate::model::settings::{DeniedFlows, UnsolicitedSyn};
use crate::model::{DesiredState, Settings};
use crate::reconcile::neighbours::{Keeper, Neighbour};
use crate::reconcile::{Change, Machine, Plan, Reconciler};
use crate::root::Root;
use crate::rpc::{Answer, Applied, Document, Request};
use crate::settings;

/// How long a command may wait for a NIC that the hypervisor is just plugging.
const HOT_PLUG: Duration = Duration::from_secs(3);

/// The router, as far as the daemon is concerned.
pub struct Control {
    pub(super) options: Options,
    pub(super) started: Instant,
    pub(super) ready_after: Duration,
    /// What CloudStack has said, or why nobody knows: then nothing is changed, neither here nor
    /// in the system, until the file is repaired.
    pub(super) memory: Result<Memory, ConfigError>,
    /// Where it is kept.
    files: Files,
    /// What the operator has chosen, as it is in force.
    pub(super) settings: Settings,
    /// Why that is not what the file says.
    pub(super) settings_damage: Option<ConfigError>,
    pub(super) inventory: Inventory,
    pub(super) compiled: Compiled,
    pub(super) reconciler: Reconciler<Machine<Dataplane>>,
    /// Why the system does not hold what it should, after the last look.
    pub(super) trouble: Option<String>,
    neighbours: Keeper,
    pace: Pace,
    /// What flows were last cut by; `None` where they are not cut.
    cut_by: Option<Jurisdiction>,
    /// Interfaces that are ports, an earlier daemon's included.
    ports: BTreeSet<u32>,
}

/// What CloudStack has said, and what it means.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub bags: Databags,
    pub desired: DesiredState,
}

impl Memory {
    fn load(root: &Root) -> Result<Self, ConfigError> {
        let bags = Databags::load(&root.databags())?;
        let desired = desired(&bags)?;
        Ok(Self { bags, desired })
    }

    /// After a command.
    fn merge(&self, command: &Command, inventory: &Inventory) -> Result<Self, ConfigError> {
        let bags = self.bags.merge(command, inventory)?;
        let mut desired = desired(&bags)?;
        desired.policy.share(&self.desired.policy);
        Ok(Self { bags, desired })
    }
}

impl Control {
    /// Reads the databags and the settings, and opens the dataplane, new or an earlier daemon's.
    pub async fn open(options: Options, started: Instant) -> Result<Self> {
        let memory = Memory::load(&options.root);
        let files = Files::new(&options.root.databags());
        let (settings, settings_damage) = match settings::load(&options.root.settings()) {
            Ok(settings) => (settings, None),
            Err(damage) => (Settings::default(), Some(damage)),
        };
        dataplane::mount_bpffs()?;
        let pin_dir = dataplane::default_pin_dir()?;
        let (max_flows, max_bindings) = (options.max_flows, dataplane::MAX_BINDINGS);
        let mut dataplane = Dataplane::open(&dataplane::Options { pin_dir, max_flows, max_bindings })
            .context("open the dataplane")?;
        let ports = dataplane.tables().observe()?.ports.into_keys().map(|(ifindex, _, _)| ifindex).collect();
        let reconciler = Reconciler::new(Machine::new(dataplane)?);
        let inventory = reconciler.backend.inventory().await.context("look for NICs")?;
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
            trouble: None,
            neighbours: Keeper::default(),
            pace: Pace::default(),
            cut_by: None,
            ports,
        })
    }

    /// Makes the system hold what the databags say. Trouble is reported and retried.
    pub async fn start(&mut self) {
        if let Err(damage) = &self.memory {
            error!("{damage}: nothing is changed until this is repaired; what was in force stays in force");
        }
        if let Some(damage) = &self.settings_damage {
            error!("{damage}: all is as without settings until this is repaired and reloaded");
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
            Request::Usage => usage::view(self).map(|view| Answer::Usage(Box::new(view))),
            Request::ZeroUsage { address } => usage::zero(self, address).map(|()| Answer::Zeroed),
            Request::Apply { documents } => Ok(self.apply_all(&documents).await),
            Request::Plan { documents } => self.plan(&documents).await,
            Request::Reload => {
                self.reload().await.map(|reloaded| Answer::Applied { applied: vec![reloaded], refused: None })
            }
            Request::UpdateConfig { name, afterwards } => {
                Ok(inbox::update_config(self, &name, afterwards).await)
            }
            // The loop's, since it ends the daemon.
            Request::Remove { .. } => Err(anyhow!("removing is not answered here")),
        };
        result.unwrap_or_else(|error| Answer::Refused(format!("{error:#}")))
    }

    async fn apply_all(&mut self, documents: &[Document]) -> Answer {
        let mut applied = Vec::new();
        for document in documents {
            match self.apply(&document.name, document.text.as_bytes()).await {
                Ok(done) => applied.push(done),
                Err(error) => return Answer::Applied { applied, refused: Some(format!("{error:#}")) },
            }
        }
        Answer::Applied { applied, refused: None }
    }

    /// Applies one command. When it returns without an error the change is in force and saved; with
    /// one, the router is as it was, or the error says what differs.
    pub async fn apply(&mut self, name: &str, bytes: &[u8]) -> Result<Applied> {
        let begun = Instant::now();
        let walked = self.walk(name, bytes, begun).await;
        let applied = walked.inspect_err(|error| warn!("refused: {error:#}"))?;
        for warning in &applied.warnings {
            warn!("{warning}");
        }
        let (changes, in_force) = (applied.changes.len(), applied.milliseconds);
        let saved = begun.elapsed().as_millis();
        info!("{name}: in force with {changes} changes after {in_force} ms, saved after {saved} ms");
        Ok(applied)
    }

    async fn walk(&mut self, name: &str, bytes: &[u8], begun: Instant) -> Result<Applied> {
        let Parsed { command, warnings } = Command::parse(name, bytes)?;
        self.recall()?;
        self.wait_for_nics(&command).await?;
        let before = self.memory.clone()?;
        let after = before.merge(&command, &self.inventory)?;
        let compiled = self.compile(&after.desired, &self.settings);
        refuse(name, &compiled, &before.desired, &after.desired)?;
        let files = &mut self.files;
        let mut in_force = Duration::ZERO;
        let save = || {
            in_force = begun.elapsed();
            let saved = files.save(&after.bags).map(drop).context("save the databags");
            // Several files, and the first may be the new one already.
            saved.map_err(|error| match files.save(&before.bags) {
                Ok(_) => error,
                Err(_) => error.context("the databags on disk are neither old nor new"),
            })
        };
        let converged = self.reconciler.converge_or_restore(&compiled, &self.compiled, save).await?;
        self.memory = Ok(after);
        self.compiled = compiled;
        self.trouble = None;
        // Attaching programs may have changed what NICs can do.
        self.look_again().await;
        Ok(Applied {
            name: name.to_owned(),
            changes: converged.changes.iter().map(ToString::to_string).collect(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
            milliseconds: u64::try_from(in_force.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// What applying documents would change, or what differs now. Changes nothing, and waits for
    /// no NIC.
    async fn plan(&mut self, documents: &[Document]) -> Result<Answer> {
        self.recall()?;
        self.inventory = self.reconciler.backend.inventory().await?;
        let mut memory = self.memory.clone()?;
        for document in documents {
            let Parsed { command, .. } = Command::parse(&document.name, document.text.as_bytes())?;
            let after = memory.merge(&command, &self.inventory)?;
            let compiled = self.compile(&after.desired, &self.settings);
            refuse(&document.name, &compiled, &memory.desired, &after.desired)?;
            memory = after;
        }
        // Without documents, also what the operator has written and not reloaded.
        let settings = match documents {
            [] => settings::load(&self.options.root.settings())?,
            _ => self.settings.clone(),
        };
        let compiled = self.compile(&memory.desired, &settings);
        let Plan { changes } = self.reconciler.plan(&compiled).await?;
        let said = notices(&memory.bags)?.into_iter().chain(remarks(&memory.bags)?);
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
        let after = settings::load(&self.options.root.settings())
            .inspect_err(|damage| self.settings_damage = Some(damage.clone()))?;
        self.recall()?;
        self.inventory = self.reconciler.backend.inventory().await.context("look for NICs")?;
        let compiled = self.compile(&self.memory.as_ref().map_err(Clone::clone)?.desired, &after);
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
        let own = timeouts.into_iter().chain(denied_flows);
        own.chain(changes.iter().map(ToString::to_string)).collect()
    }

    fn compile(&self, desired: &DesiredState, settings: &Settings) -> Compiled {
        compile(desired, settings, &self.inventory, self.options.attach)
    }

    /// A damaged databag may have been repaired meanwhile.
    fn recall(&mut self) -> Result<()> {
        if self.memory.is_err() {
            self.memory = Memory::load(&self.options.root);
            if self.memory.is_ok() {
                info!("the databags are sound again");
            }
        }
        match &self.memory {
            Ok(_) => Ok(()),
            Err(damage) => bail!("{damage}: a damaged databag is not written to"),
        }
    }

    async fn wait_for_nics(&mut self, command: &Command) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(20);
        let deadline = Instant::now() + HOT_PLUG;
        loop {
            self.inventory = self.reconciler.backend.inventory().await.context("look for NICs")?;
            if command.absent_nics(&self.inventory).is_empty() || Instant::now() >= deadline {
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
    }

    /// Attaching programs changes what NICs can do, and that what the tables say of them: two
    /// rounds are the rule.
    async fn converge(&mut self) -> Result<()> {
        const ROUNDS: usize = 4;
        if self.recall().is_err() {
            // Status tells; nothing can be compared.
            return Ok(());
        }
        for _ in 0..ROUNDS {
            self.inventory = self.reconciler.backend.inventory().await.context("look for NICs")?;
            let desired = &self.memory.as_ref().map_err(Clone::clone)?.desired;
            self.compiled = self.compile(desired, &self.settings);
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

    /// Takes the programs off all ports, and their tables away.
    pub fn remove(self) -> Result<()> {
        self.reconciler.backend.programs.remove()
    }

    async fn declare_in_use(&self, neighbours: &[(u32, std::net::IpAddr)]) {
        for (ifindex, address) in neighbours {
            if let Err(error) = self.reconciler.backend.netlink().use_neighbour(*ifindex, *address).await {
                warn!("{address} is not asked whether it is still there: {error:#}");
            }
        }
    }
}

/// What a command asks for must be possible.
fn refuse(name: &str, compiled: &Compiled, before: &DesiredState, after: &DesiredState) -> Result<()> {
    let refusals: Vec<String> = compiled.refusals(before, after).iter().map(ToString::to_string).collect();
    if refusals.is_empty() { Ok(()) } else { bail!("{name}#: {}", refusals.join("; ")) }
}
