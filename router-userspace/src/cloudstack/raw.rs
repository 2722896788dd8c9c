//! JSON whose values are still text.
//!
//! A message may hold a hundred thousand rules. As JSON values all at once they would take ten
//! times the memory of their text, and most of the time that the whole control walk has. So lists
//! of rules are cut into pieces, and each piece is read, checked and kept as text again.

use std::collections::BTreeMap;

use serde::ser::{Error, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::{Place, kind};

/// A JSON object whose values were not looked at yet.
pub(super) struct Raw<'a> {
    pub(super) place: Place,
    values: BTreeMap<String, &'a RawValue>,
}

impl<'a> Raw<'a> {
    /// The object that `text` has to be.
    pub(super) fn read(place: Place, text: &'a str) -> Result<Self, ConfigError> {
        match serde_json::from_str(text) {
            Ok(values) => Ok(Self { place, values }),
            Err(error) => {
                let value = value(&place, text)?;
                let found = kind(&value);
                Err(match value {
                    Value::Object(_) => place.error(format_args!("no valid JSON: {error}")),
                    _ => place.error(format_args!("expected an object, found {found}")),
                })
            }
        }
    }

    /// All values but those of some keys, nulls left out.
    pub(super) fn entry_without(&self, keys: &[&str]) -> Result<Entry, ConfigError> {
        let mut entry = Entry::new();
        for (key, text) in self.values.iter().filter(|(key, _)| !keys.contains(&key.as_str())) {
            let value = value(&self.place.at(key), text.get())?;
            if !value.is_null() {
                entry.insert(key.clone(), value);
            }
        }
        Ok(entry)
    }

    /// The items of a list; missing and null are the same.
    pub(super) fn list(&self, key: &str) -> Result<Option<Vec<&'a RawValue>>, ConfigError> {
        let text = self.values.get(key).map(|text| text.get()).filter(|text| *text != "null");
        let Some(text) = text else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|_| {
            let place = self.place.at(key);
            match value(&place, text) {
                Ok(other) => place.error(format_args!("expected a list, found {}", kind(&other))),
                Err(error) => error,
            }
        })
    }

    /// Keys with the text of their values.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&String, &'a str)> {
        self.values.iter().map(|(key, text)| (key, text.get()))
    }

    /// The text of a key.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).map(|text| text.get())
    }
}

/// A piece of a document: what it says, and its text as it is kept, without nulls and with its keys
/// sorted.
pub(super) fn piece<T>(
    place: Place,
    text: &str,
    read: impl FnOnce(&Object) -> Result<T, ConfigError>,
) -> Result<(T, Box<str>), ConfigError> {
    let mut value = value(&place, text)?;
    let object = Object::from_value(place, &value)?;
    let (meaning, place) = (read(&object)?, object.place);
    if let Value::Object(entry) = &mut value {
        entry.retain(|_, value| !value.is_null());
    }
    // As long as what was read, as a rule: rules are written without blanks.
    let mut kept = Vec::with_capacity(text.len());
    serde_json::to_writer(&mut kept, &value).map_err(|error| place.error(error))?;
    let kept = String::from_utf8(kept).map_err(|error| place.error(error))?;
    Ok((meaning, kept.into()))
}

/// The text of a piece, to be written as it is laid out elsewhere.
pub(super) struct Unfolded<'a>(pub(super) &'a str);

impl Serialize for Unfolded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<Value>(self.0).map_err(S::Error::custom)?.serialize(serializer)
    }
}

fn value(place: &Place, text: &str) -> Result<Value, ConfigError> {
    serde_json::from_str(text).map_err(|error| place.error(format_args!("no valid JSON: {error}")))
}
