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

impl Default for Memory {
    /// Nothing was said.
    fn default() -> Self {
        Self { bags: Databags::default(), desired: Ok(DesiredState::default()) }
    }
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
        if command.is_about_forwarding() {
            self.forwarding()?;
            return self.with(self.bags.merge(command, inventory)?);
        }
        let bags = self.bags.merge(command, inventory)?;
        Ok(Self { bags, desired: self.desired.clone() })
    }

    /// After commands, all of them: what holds in between need not make sense. `at` becomes the name of the
    /// one that an error is about.
    pub fn merge_all<'a>(
        &self,
        commands: &[(&'a str, Command)],
        inventory: &Inventory,
        at: &mut &'a str,
    ) -> Result<Self> {
        let first = commands.iter().find(|(_, command)| command.is_about_forwarding());
        if let Some((name, _)) = first {
            *at = name;
            self.forwarding()?;
        }
        let bags = self.bags.merge_all(commands, inventory, at)?;
        if first.is_none() {
            return Ok(Self { bags, desired: self.desired.clone() });
        }
        let error = match self.with(bags) {
            Ok(memory) => return Ok(memory),
            Err(error) => error,
        };
        // The first after which it is so; or else they do not make sense together.
        let mut memory = self.clone();
        for (name, command) in commands {
            *at = name;
            memory = memory.merge(command, inventory)?;
        }
        Err(error)
    }

    /// With other bags, of which those that forwarding rests on are known.
    pub fn with(&self, bags: Databags) -> Result<Self> {
        let mut desired = desired(&bags)?;
        desired.policy.share(&self.forwarding()?.policy);
        Ok(Self { bags, desired: Ok(desired) })
    }

    fn forwarding(&self) -> Result<&DesiredState> {
        self.known().map_err(|damage| anyhow!("{damage}: a damaged databag is not written to"))
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
