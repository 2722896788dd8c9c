//! Reading JSON objects with the place of everything known.
//!
//! CloudStack writes by gson and reads by Python, so it does not mind whether a number has quotes
//! or whether a key is missing or null; neither does this reader. It does mind everything else, and
//! says where.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::error::ConfigError;
use crate::json::{Place, Shape, kind};

/// A JSON object as it was read, without the keys that are null.
pub(super) type Entry = Map<String, Value>;

/// What an object is read from: an [`Entry`], or a piece of a long list.
pub(super) trait Keys {
    /// Its values. Prints as JSON.
    type Value: Items;
    /// The value of a key.
    fn value(&self, key: &str) -> Option<&Self::Value>;
    /// Its keys, sorted.
    fn keys(&self) -> impl Iterator<Item = &str>;
}

/// A JSON value.
pub(super) trait Items: Display + Sized {
    /// What it is.
    fn shape(&self) -> Shape<'_>;
    /// What is in it; nothing if it is no list.
    fn items(&self) -> &[Self];
}

/// A JSON object and its place.
pub(super) struct Object<'a, K = Entry> {
    place: Spot<'a>,
    keys: &'a K,
}

/// A place, worked out when somebody asks for it: there may be a hundred thousand, with nothing to say
/// about any.
enum Spot<'a> {
    Here(Place),
    Below(&'a Place, &'a dyn Display),
}

impl<'a, K: Keys> Object<'a, K> {
    pub(super) fn new(place: Place, keys: &'a K) -> Self {
        Self { place: Spot::Here(place), keys }
    }

    /// One step below a place.
    pub(super) fn below(parent: &'a Place, step: &'a dyn Display, keys: &'a K) -> Self {
        Self { place: Spot::Below(parent, step), keys }
    }

    /// Where it stands.
    pub(super) fn place(&self) -> Cow<'_, Place> {
        match &self.place {
            Spot::Here(place) => Cow::Borrowed(place),
            Spot::Below(parent, step) => Cow::Owned(parent.at(step)),
        }
    }

    /// An error at one of the keys.
    pub(super) fn error(&self, key: &str, message: impl Display) -> ConfigError {
        self.place().at(key).error(message)
    }

    /// The value of a key; missing and null are the same.
    fn value(&self, key: &str) -> Option<&'a K::Value> {
        self.keys.value(key).filter(|value| !matches!(value.shape(), Shape::Null))
    }

    /// Text as [`text`](Self::text), not copied where it is text.
    pub(super) fn written(&self, key: &str) -> Result<Option<Cow<'a, str>>, ConfigError> {
        match self.value(key).map(Items::shape) {
            None => Ok(None),
            Some(Shape::Text(text)) => Ok(Some(Cow::Borrowed(text))),
            Some(Shape::Number(number)) => Ok(Some(Cow::Owned(number.to_string()))),
            Some(Shape::Bool(word)) => Ok(Some(Cow::Borrowed(if word { "true" } else { "false" }))),
            Some(other) => Err(self.error(key, format_args!("expected text, found {}", other.kind()))),
        }
    }

    /// Text; numbers and booleans are taken as if they had quotes.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        Ok(self.written(key)?.map(Cow::into_owned))
    }

    /// A word, in lower case.
    pub(super) fn word(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let mut word = self.text(key)?;
        if let Some(word) = &mut word {
            word.make_ascii_lowercase();
        }
        Ok(word)
    }

    /// Text with a meaning of its own, for example an address; `what` names it in errors. Empty
    /// text and the words `null` and `None` stand for a missing value.
    pub(super) fn parsed<T: FromStr>(&self, key: &str, what: &str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.written(key)?.filter(|text| !is_absent(text)) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.error(key, format_args!("{text:?} is no {what}")))
    }

    /// A boolean, or one of the words `true` and `false`.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let text = match self.value(key).map(Items::shape) {
            None => return Ok(None),
            Some(Shape::Bool(word)) => return Ok(Some(word)),
            Some(Shape::Text(text)) => text,
            Some(other) => {
                return Err(self.error(key, format_args!("expected true or false, found {}", other.kind())));
            }
        };
        match text.to_ascii_lowercase().as_str() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            text if !is_absent(text) => {
                Err(self.error(key, format_args!("{text:?} is neither true nor false")))
            }
            _ => Ok(None),
        }
    }

    /// The items of a list.
    pub(super) fn items(&self, key: &str) -> Result<Option<&'a [K::Value]>, ConfigError> {
        match self.value(key).map(|value| (value, value.shape())) {
            None => Ok(None),
            Some((value, Shape::List)) => Ok(Some(value.items())),
            Some((_, other)) => Err(self.error(key, format_args!("expected a list, found {}", other.kind()))),
        }
    }

    /// Insists on a value.
    pub(super) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.error(key, "missing"))
    }

    /// One warning for each key that `is_known` does not take.
    pub(super) fn unknown_keys(&self, is_known: impl Fn(&str) -> bool) -> Vec<ConfigError> {
        let unknown = self.keys.keys().filter(|key| !is_known(key));
        unknown.map(|key| self.error(key, "unknown key, ignored")).collect()
    }
}

impl<'a> Object<'a> {
    /// The object that `value` has to be.
    pub(super) fn from_value(place: Place, value: &'a Value) -> Result<Self, ConfigError> {
        match value {
            Value::Object(map) => Ok(Self::new(place, map)),
            other => Err(place.error(format_args!("expected an object, found {}", kind(other)))),
        }
    }

    /// The objects of a list.
    pub(super) fn objects(&self, key: &str) -> Result<Option<Vec<Object<'a>>>, ConfigError> {
        self.value(key).map(|value| list(&self.place().at(key), value)).transpose()
    }

    /// The object of a key.
    pub(super) fn object(&self, key: &str) -> Result<Option<Object<'a>>, ConfigError> {
        self.value(key).map(|value| Object::from_value(self.place().at(key), value)).transpose()
    }

    /// Keys with their values, nulls left out.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.keys.iter().filter(|(_, value)| !value.is_null())
    }

    /// The object as it was read, nulls left out.
    pub(super) fn to_entry(&self) -> Entry {
        self.entries().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl Keys for Entry {
    type Value = Value;

    fn value(&self, key: &str) -> Option<&Value> {
        self.get(key)
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        Map::keys(self).map(String::as_str)
    }
}

impl Items for Value {
    fn shape(&self) -> Shape<'_> {
        self.into()
    }

    fn items(&self) -> &[Self] {
        self.as_array().map_or(&[], Vec::as_slice)
    }
}

/// The objects that a list has to hold.
pub(super) fn list<'a>(place: &Place, value: &'a Value) -> Result<Vec<Object<'a>>, ConfigError> {
    let Value::Array(items) = value else {
        return Err(place.error(format_args!("expected a list, found {}", kind(value))));
    };
    items.iter().enumerate().map(|(index, item)| Object::from_value(place.at(index), item)).collect()
}

fn is_absent(text: &str) -> bool {
    text.is_empty() || text.eq_ignore_ascii_case("null") || text.eq_ignore_ascii_case("none")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;

    fn read<T>(value: &Value, get: impl Fn(&Object) -> Result<T, ConfigError>) -> Result<T, String> {
        let object = Object::from_value(Place::document("f"), value).map_err(|error| error.to_string())?;
        get(&object).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_and_text_stand_for_each_other() {
        for value in [json!({"k": 3}), json!({"k": "3"})] {
            assert_eq!(read(&value, |object| object.parsed::<u32>("k", "number")), Ok(Some(3)));
            assert_eq!(read(&value, |object| object.text("k")), Ok(Some("3".to_owned())));
        }
    }

    #[test]
    fn missing_null_empty_and_the_word_null_are_the_same() {
        for value in [json!({}), json!({"k": null}), json!({"k": ""}), json!({"k": "null"})] {
            assert_eq!(read(&value, |object| object.parsed::<Ipv4Addr>("k", "address")), Ok(None));
            assert_eq!(read(&value, |object| object.boolean("k")), Ok(None));
        }
    }

    #[test]
    fn errors_point_at_the_key_with_rfc_6901_escapes() {
        let value = json!({"172.30.0.0/16": {"a~b": [1]}});
        let error = read(&value, |object| object.object("172.30.0.0/16")?.expect("there").text("a~b"));
        assert_eq!(error.unwrap_err(), "f#/172.30.0.0~116/a~0b: expected text, found a list");
    }

    #[test]
    fn booleans_are_words_too_but_not_numbers() {
        assert_eq!(read(&json!({"k": "TRUE"}), |object| object.boolean("k")), Ok(Some(true)));
        let error = read(&json!({"k": 1}), |object| object.boolean("k")).unwrap_err();
        assert_eq!(error, "f#/k: expected true or false, found a number");
    }
}
