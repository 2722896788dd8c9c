//! `monitorservice`: what each message has said last of each key. A refresh says nothing of services.

use super::Databags;
use crate::cloudstack::object::Object;
use crate::cloudstack::wire::monitorservice::{ADVANCED, ADVANCED_OF_OLD, MonitorService};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::health::Monitoring;

impl Databags {
    /// What is to be watched.
    ///
    /// # Errors
    ///
    /// A value that cannot be read: none, after a merge or a load that succeeded.
    pub fn monitoring(&self) -> Result<Monitoring, ConfigError> {
        let bag = Object::new(Place::document("monitorservice.json"), &self.monitorservice);
        Ok(MonitorService::read(&bag)?.monitoring)
    }

    pub(super) fn merge_monitorservice(&mut self, message: &MonitorService) {
        for (key, value) in &message.entry {
            // Both spellings are one key.
            if key == ADVANCED_OF_OLD {
                if !message.entry.contains_key(ADVANCED) {
                    self.monitorservice.insert(ADVANCED.to_owned(), value.clone());
                }
                continue;
            }
            self.monitorservice.insert(key.clone(), value.clone());
        }
    }
}
