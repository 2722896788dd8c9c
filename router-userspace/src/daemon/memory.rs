//! What the daemon remembers of CloudStack.

use anyhow::{Result, anyhow};
use tracing::info;

use crate::cloudstack::{Command, Databags, desired};
use crate::compile::Inventory;
use crate::error::ConfigError;
use crate::model::DesiredState;
use crate::root::Root;

/// What CloudStack has said, and what it means.
#[derive(Clone, Debug)]
pub struct Memory {
    pub bags: Databags,
    /// Or why nobody knows: then nothing is changed of what is forwarded, neither here nor in the system,
    /// until the file is repaired.
    pub desired: Result<DesiredState, ConfigError>,
}

impl Memory {
    pub fn load(root: &Root) -> Self {
        let bags = Databags::load(&root.databags());
        let desired = desired(&bags);
        Self { bags, desired }
    }

    /// What is to be forwarded.
    pub fn known(&self) -> Result<&DesiredState, ConfigError> {
        self.desired.as_ref().map_err(Clone::clone)
    }

    /// After a command.
    pub fn merge(&self, command: &Command, inventory: &Inventory) -> Result<Self> {
        if !command.is_about_forwarding() {
            let bags = self.bags.merge(command, inventory)?;
            return Ok(Self { bags, desired: self.desired.clone() });
        }
        let before =
            self.known().map_err(|damage| anyhow!("{damage}: a damaged databag is not written to"))?;
        let bags = self.bags.merge(command, inventory)?;
        let mut desired = desired(&bags)?;
        desired.policy.share(&before.policy);
        Ok(Self { bags, desired: Ok(desired) })
    }

    /// A damaged databag may have been repaired meanwhile.
    pub fn recall(&mut self, root: &Root) {
        let is_better = match &self.desired {
            // A bag may be well formed and say what cannot be.
            Err(_) if self.bags.forwarding_damage().is_none() => {
                self.bags = Databags::load(&root.databags());
                true
            }
            _ => self.bags.load_damaged(&root.databags()),
        };
        if !is_better {
            return;
        }
        if self.desired.is_err() {
            self.desired = desired(&self.bags);
        }
        if self.desired.is_ok() && self.bags.damage().next().is_none() {
            info!("the databags are sound again");
        }
    }
}
