//! JSON with the place of everything known: serde's own errors know no JSON pointer.

use std::fmt::Display;

use serde_json::Value;

use crate::error::ConfigError;

/// A place in a JSON document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file's name, as the operator knows it.
    pub file: String,
    /// JSON pointer (RFC 6901).
    pub path: String,
}

impl Place {
    /// The whole document of a file.
    pub fn document(file: impl Into<String>) -> Self {
        Self { file: file.into(), path: String::new() }
    }

    /// One step down, to a key or to an index.
    pub fn at(&self, step: impl Display) -> Self {
        let step = step.to_string().replace('~', "~0").replace('/', "~1");
        Self { file: self.file.clone(), path: format!("{}/{step}", self.path) }
    }

    /// An error here.
    pub fn error(&self, message: impl Display) -> ConfigError {
        ConfigError::new(&self.file, &self.path, message)
    }
}

/// Bytes to JSON; errors name line and column.
///
/// # Errors
/// They are none.
pub fn document(file: &str, bytes: &[u8]) -> Result<Value, ConfigError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ConfigError::new(file, "", format_args!("no valid JSON: {error}")))
}

/// What a value is, for errors.
pub const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
