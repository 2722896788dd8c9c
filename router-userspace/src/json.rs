//! JSON with the place of everything known: serde's own errors know no JSON pointer.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Write};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

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
        // A message has one place for each of its rules.
        let mut path = String::with_capacity(self.path.len() + 8);
        path.push_str(&self.path);
        path.push('/');
        let begin = path.len();
        // Writing to text cannot fail.
        let _ = write!(path, "{step}");
        if path[begin..].contains(['~', '/']) {
            let step = path.split_off(begin).replace('~', "~0").replace('/', "~1");
            path.push_str(&step);
        }
        Self { file: self.file.clone(), path }
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

/// How deep objects and lists of a JSON text are in each other.
pub fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = end_of_text(text, at),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// Where a text ends that begins with the quote at `begin`.
fn end_of_text(text: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

/// The same, where no key may be there twice: of two values serde takes the last in silence.
///
/// # Errors
/// They are no JSON, or a key is there twice.
pub fn document_without_repeats(file: &str, bytes: &[u8]) -> Result<Value, ConfigError> {
    let value = document(file, bytes)?;
    let repeats = serde_json::from_slice::<WithoutRepeats>(bytes).err();
    repeats.map_or(Ok(value), |error| Err(ConfigError::new(file, "", error)))
}

/// Any JSON without a key that is there twice; the value is forgotten.
struct WithoutRepeats;

impl<'de> Deserialize<'de> for WithoutRepeats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for WithoutRepeats {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(A::Error::custom(format_args!("{key:?} is there twice")));
            }
            keys.insert(key);
            entries.next_value::<Self>()?;
        }
        Ok(self)
    }
}

/// A value that is none, or has no others in it; of those that have, only what they are.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(&'a Number),
    /// Text.
    Text(&'a str),
    /// A list.
    List,
    /// An object.
    Object,
}

impl Shape<'_> {
    /// What it is, for errors.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

impl<'a> From<&'a Value> for Shape<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(word) => Self::Bool(*word),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::Text(text),
            Value::Array(_) => Self::List,
            Value::Object(_) => Self::Object,
        }
    }
}

/// What a value is, for errors.
pub fn kind(value: &Value) -> &'static str {
    Shape::from(value).kind()
}

/// The members of the list that `value` has to be, with their places.
///
/// # Errors
/// It is something else.
pub fn members<'a>(place: &Place, value: &'a Value) -> Result<Vec<(&'a Value, Place)>, ConfigError> {
    match value {
        Value::Array(list) => {
            Ok(list.iter().enumerate().map(|(index, value)| (value, place.at(index))).collect())
        }
        other => Err(place.error(format_args!("expected a list, found {}", kind(other)))),
    }
}

/// The entries of the object that `value` has to be, with their places.
///
/// # Errors
/// It is something else.
pub fn entries<'a>(place: &Place, value: &'a Value) -> Result<Vec<(&'a str, &'a Value, Place)>, ConfigError> {
    let of =
        |map: &'a Map<String, Value>| map.iter().map(|(key, value)| (key.as_str(), value, place.at(key)));
    match value {
        Value::Object(map) => Ok(of(map).collect()),
        other => Err(place.error(format_args!("expected an object, found {}", kind(other)))),
    }
}

/// The text that `value` has to be.
///
/// # Errors
/// It is something else.
pub fn text<'a>(place: &Place, value: &'a Value) -> Result<&'a str, ConfigError> {
    value.as_str().ok_or_else(|| place.error(format_args!("expected text, found {}", kind(value))))
}

/// The meaning of the word that `value` has to be.
///
/// # Errors
/// It is another one, or no word.
pub fn choice<T: Copy>(place: &Place, value: &Value, choices: &[(&str, T)]) -> Result<T, ConfigError> {
    let word = text(place, value)?;
    let meaning = choices.iter().find(|(known, _)| *known == word).map(|(_, meaning)| *meaning);
    meaning.ok_or_else(|| {
        let known: Vec<String> = choices.iter().map(|(known, _)| format!("{known:?}")).collect();
        place.error(format_args!("{word:?} is not {}", known.join(" or ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_passes_over_texts() {
        for (text, deep) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[{}],"b":[[]]}"#, 3),
            (r#"["[[[","\"[[[",{"\\":"{"}]"#, 2),
            (r#"["[["#, 1),
            (r#"["\"#, 1),
            ("]]]][", 1),
        ] {
            assert_eq!(depth(text.as_bytes()), deep, "{text}");
        }
    }
}
