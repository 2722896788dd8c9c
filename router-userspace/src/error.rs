//! Errors that name the thing and the place.

use std::fmt;

/// Something is wrong at a place of a JSON document: a command file or a databag.
///
/// Prints as `forwarding_rules.json#/rules/3/protocol: "tcpp" is no protocol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name, as the operator knows it.
    pub file: String,
    /// JSON pointer (RFC 6901) into the file; empty for the whole document.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl ConfigError {
    /// An error at a JSON pointer of a file.
    pub fn new(file: impl Into<String>, path: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { file: file.into(), path: path.into(), message: message.to_string() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}: {}", self.file, self.path, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// What went wrong in a tear-down, which never stops at the first failure.
#[derive(Debug, Default)]
pub struct Failures {
    failures: Vec<anyhow::Error>,
}

impl Failures {
    /// Keeps a step's failure and goes on.
    pub fn note(&mut self, result: anyhow::Result<()>) {
        if let Err(failure) = result {
            self.failures.push(failure);
        }
    }

    /// All of them in one error.
    ///
    /// # Errors
    /// At least one step failed.
    pub fn into_result(self) -> anyhow::Result<()> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let list: String = self.failures.iter().map(|failure| format!("\n- {failure:#}")).collect();
        anyhow::bail!("{} steps failed:{list}", self.failures.len())
    }
}
