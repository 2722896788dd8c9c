//! Compiled state × what the system holds → a plan → the system changed, and looked at again.
//!
//! ```text
//! observe → plan (pure) → apply → observe again … until the plan is empty
//! ```
//!
//! Invariant: converged means observed, not assumed. A success code is not believed, nor is the
//! memory of an earlier pass. Commands, kernel events and the timer all run [`Reconciler::converge`].
//!
//! Only what is XVR's is touched: NICs that are ports, routes of XVR's protocol number, the
//! programs and their tables, and the kernel settings that are named in the compiled state.

pub mod addresses;
mod announce;
pub mod events;
mod fdb;
pub mod guard;
pub mod kernel;
pub mod links;
mod machine;
mod maps;
pub mod neighbours;
mod netlink;
mod nftables;
pub mod nics;
pub mod own_tcp;
pub mod plan;
mod sysctl;
pub mod takeover;
mod trunks;
mod vteps;
pub mod xfrm;

use std::fmt;
use std::future::Future;

use anyhow::{Context, Result};

use crate::compile::{Compiled, Link};

pub use machine::Machine;
pub use maps::Programs;
pub use netlink::Netlink;
pub use plan::{Change, Observed, ObservedAttachment, ObservedLink, Plan};

/// All that reconciling asks of the world. [`Machine`] is the kernel; tests have others.
pub trait Backend {
    /// What the system holds, as far as the desired state is concerned.
    fn observe(&mut self, desired: &Compiled) -> impl Future<Output = Result<Observed>>;
    /// Makes one change.
    fn apply(&mut self, change: &Change) -> impl Future<Output = Result<()>>;
    /// Makes the first of some changes, and as many behind it as can be made together with it; how many were made, and
    /// what kept the next from being so.
    fn apply_first(&mut self, changes: &[Change]) -> impl Future<Output = (usize, Result<()>)> {
        async move {
            let Some(first) = changes.first() else { return (0, Ok(())) };
            let applied = self.apply(first).await;
            (usize::from(applied.is_ok()), applied)
        }
    }
}

/// Makes a system hold what it should.
#[derive(Debug)]
pub struct Reconciler<B> {
    /// The system.
    pub backend: B,
}

/// What [`Reconciler::converge`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converged {
    /// The changes made, in order.
    pub changes: Vec<Change>,
}

/// Removes the interfaces of all tagged ports.
///
/// # Errors
/// The kernel refuses.
pub fn remove_tagged_ports() -> Result<()> {
    vteps::forget()?;
    trunks::set(&[]).map(drop)
}

/// Why a state could not be reached, and what became of the system.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub cause: anyhow::Error,
    /// What still differs from the state before, when that could not be restored either.
    pub left: Option<String>,
}

/// Passes before giving up. Two are the rule (the second finds nothing to do); a third where one
/// change undoes another, as the kernel does with addresses and the routes behind them.
const MAX_PASSES: usize = 4;

impl<B: Backend> Reconciler<B> {
    /// With a system to look after.
    pub fn new(backend: B) -> Self {
        Self { backend }
    }

    /// What would have to change now.
    pub async fn plan(&mut self, desired: &Compiled) -> Result<Plan> {
        Ok(Plan::between(desired, &self.observe(desired).await?))
    }

    async fn observe(&mut self, desired: &Compiled) -> Result<Observed> {
        self.backend.observe(desired).await.context("observe the system")
    }

    /// Observes, plans and applies until nothing differs.
    pub async fn converge(&mut self, desired: &Compiled) -> Result<Converged> {
        let plan = self.plan(desired).await?;
        self.carry_out(plan, desired).await
    }

    /// Applies a plan, and whatever differs after it.
    async fn carry_out(&mut self, mut plan: Plan, desired: &Compiled) -> Result<Converged> {
        let mut made = Converged::default();
        let mut failure = None;
        for _ in 0..MAX_PASSES {
            if plan.is_empty() {
                return Ok(made);
            }
            failure = self.apply(plan, &mut made).await.err();
            plan = self.plan(desired).await?;
        }
        if plan.is_empty() {
            return Ok(made);
        }
        let left = anyhow::anyhow!("after {MAX_PASSES} passes still to do:\n{plan}");
        Err(failure.map_or(left, |failure| failure.context("could not be applied")))
    }

    /// Applies until the first error: what comes later may rest on what failed.
    async fn apply(&mut self, plan: Plan, made: &mut Converged) -> Result<()> {
        let mut changes = plan.changes;
        let mut at = 0;
        let mut applied = Ok(());
        while applied.is_ok() && at < changes.len() {
            let (count, result) = self.backend.apply_first(&changes[at..]).await;
            at += count;
            applied = result.with_context(|| changes.get(at).map_or_else(String::new, ToString::to_string));
        }
        changes.truncate(at);
        made.changes.append(&mut changes);
        applied
    }

    /// Converges to `next` and commits, or goes back to what the system held before: `previous`,
    /// and the NICs and settings that only `next` touches.
    ///
    /// # Errors
    /// Converging or committing failed.
    pub async fn converge_or_restore(
        &mut self,
        next: &Compiled,
        previous: &Compiled,
        commit: impl FnOnce() -> Result<()>,
    ) -> Result<Converged, Refusal> {
        let observed = self.observe(next).await.map_err(|cause| Refusal { cause, left: None })?;
        let converged = match self.carry_out(Plan::between(next, &observed), next).await {
            Ok(converged) => commit().map(|()| converged),
            Err(error) => Err(error),
        };
        match converged {
            Ok(converged) => Ok(converged),
            Err(cause) => {
                let before = as_before(previous, next, &observed);
                let left = self.converge(&before).await.err().map(|error| format!("{error:#}"));
                Err(Refusal { cause, left })
            }
        }
    }
}

/// What to return to: the previous state, and what was observed where only the next one says
/// anything.
fn as_before(previous: &Compiled, next: &Compiled, observed: &Observed) -> Compiled {
    let mut before = previous.clone();
    for path in next.sysctls.keys().filter(|path| !previous.sysctls.contains_key(*path)) {
        if let Some(value) = observed.sysctls.get(path) {
            before.sysctls.insert(path.clone(), value.clone());
        }
    }
    for ifindex in next.links.keys().filter(|ifindex| !previous.links.contains_key(ifindex)) {
        if let Some(link) = observed.links.get(ifindex) {
            let mtu = u16::try_from(link.mtu).ok();
            let (addresses, shared) = (link.addresses.clone(), Vec::new());
            let link = Link { mtu, up: link.up, addresses, shared };
            before.links.insert(*ifindex, link);
        }
    }
    before
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.left {
            None => write!(f, "{:#}; the router is as it was before", self.cause),
            Some(left) => {
                write!(f, "{:#}; putting the router back failed too, it now differs: {left}", self.cause)
            }
        }
    }
}

impl std::error::Error for Refusal {}
