//! Taking the place of CloudStack's own router on a machine where that has run.
//!
//! ```text
//! its databags → desired state → compiled → its routes give way → applied, saved → what it left is taken away
//! └───────── errors up to here change nothing ────────┘
//! ```
//!
//! Its flows end: who was translated to what stays in Linux' connection tracking, which XVR does not read.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tracing::{info, warn};

use super::control::Control;
use super::memory::Memory;
use crate::cloudstack::{Databags, desired, notices};
use crate::reconcile::takeover;
use crate::rpc::{Answer, Applied};

/// Takes over from the databags of a folder. With `only_say`, tells what would be done.
pub async fn import(control: &mut Control, folder: &Path, only_say: bool) -> Result<Answer> {
    let begun = Instant::now();
    let after = read(folder)?;
    let notices: Vec<String> =
        notices(&after.bags)?.iter().chain(&control.unserved(&after)).map(ToString::to_string).collect();
    let compiled = control.compile_anew(&after)?;
    let netlink = control.reconciler.backend.netlink().clone();
    let leftovers =
        takeover::look(&netlink, &compiled).await.context("look for what is left in the kernel")?;
    let removals = leftovers.iter().map(|leftover| format!("remove {leftover}"));
    if only_say {
        let plan = control.reconciler.plan(&compiled).await?;
        let changes = plan.changes.iter().map(ToString::to_string).chain(removals).collect();
        return Ok(Answer::Plan { changes, notices });
    }
    let given_way = takeover::supersede(&netlink, &compiled, &leftovers).await?;
    let put = control.put_in_force("import", &Memory::default(), after, begun).await;
    let (changes, in_force) = match put {
        Ok(put) => put,
        Err(error) => {
            takeover::restore(&netlink, &given_way).await.context("put the routes back as they were")?;
            warn!("nothing is imported: {error:#}");
            return Err(error);
        }
    };
    takeover::remove(&netlink, &leftovers).await?;
    control.forget_ways_out();
    control.look_again().await;
    info!("imported {}: {} changes, {} leftovers removed", folder.display(), changes.len(), leftovers.len());
    let applied = Applied {
        name: folder.display().to_string(),
        changes: changes.iter().map(ToString::to_string).chain(removals).collect(),
        warnings: notices,
        milliseconds: u64::try_from(in_force.as_millis()).unwrap_or(u64::MAX),
    };
    Ok(Answer::Applied { applied: vec![applied], refused: None })
}

/// All of its databags, or none: what is missing would be torn down.
fn read(folder: &Path) -> Result<Memory> {
    let bags = Databags::load(folder);
    let damage: Vec<String> = bags.damage().map(ToString::to_string).collect();
    if !damage.is_empty() {
        bail!("{}", damage.join("\n"));
    }
    if !bags.has_boot_line() {
        bail!("{}: there is no boot line in cmdline.json", folder.display());
    }
    let desired = desired(&bags)?;
    Ok(Memory { bags, desired: Ok(desired) })
}
