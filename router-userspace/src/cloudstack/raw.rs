//! JSON whose values are still text.
//!
//! A message may hold a hundred thousand rules. As JSON values all at once they would take ten
//! times the memory of their text, and most of the time that the whole control walk has. So lists
//! of rules are cut into pieces, and each piece is read without copying its texts, checked, and kept as the
//! text that its databag's file holds: to save the bag is to copy it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use super::object::{Entry, Items, Keys, Object};
use crate::error::ConfigError;
use crate::json::{Place, Shape, kind};

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

/// Reads a piece of a document, one step below `parent`: what it says, and its text as its databag's file has
/// it, without nulls, keys sorted, in lines, where the piece stands `depth` objects and lists deep.
pub(super) fn piece<T>(
    parent: &Place,
    step: &dyn Display,
    text: &str,
    depth: usize,
    read: impl FnOnce(&Object<Fields>) -> Result<T, ConfigError>,
) -> Result<(T, Arc<str>), ConfigError> {
    let refuse = |message: fmt::Arguments<'_>| parent.at(step).error(message);
    let fields = match serde_json::from_str(text) {
        Ok(Term::Object(fields)) => fields,
        Ok(other) => return Err(refuse(format_args!("expected an object, found {}", other.shape().kind()))),
        Err(error) => return Err(refuse(format_args!("no valid JSON: {error}"))),
    };
    let meaning = read(&Object::below(parent, step, &fields))?;
    let fields = fields.0.iter().filter(|(_, value)| !matches!(value, Term::Null));
    // What is kept has line breaks and blanks.
    let mut kept = Vec::with_capacity(2 * text.len());
    write_fields(fields, depth, &mut kept).map_err(|error| refuse(format_args!("{error}")))?;
    let kept = String::from_utf8(kept).map_err(|error| refuse(format_args!("{error}")))?;
    Ok((meaning, kept.into()))
}

/// The keys of a piece with their values.
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, Term<'a>)>);

/// A JSON value whose texts are those of the document, where they stand there as they are.
pub(super) enum Term<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Term<'a>>),
    Object(Fields<'a>),
}

impl<'a> Keys for Fields<'a> {
    type Value = Term<'a>;

    fn value(&self, key: &str) -> Option<&Term<'a>> {
        let at = self.0.binary_search_by(|(own, _)| own.as_ref().cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_ref())
    }
}

impl Items for Term<'_> {
    fn shape(&self) -> Shape<'_> {
        match self {
            Self::Null => Shape::Null,
            Self::Bool(word) => Shape::Bool(*word),
            Self::Number(number) => Shape::Number(number),
            Self::Text(text) => Shape::Text(text),
            Self::List(_) => Shape::List,
            Self::Object(_) => Shape::Object,
        }
    }

    fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }
}

impl From<&Term<'_>> for Value {
    fn from(term: &Term) -> Self {
        match term {
            Term::Null => Self::Null,
            Term::Bool(word) => Self::Bool(*word),
            Term::Number(number) => Self::Number(number.clone()),
            Term::Text(text) => Self::String(text.clone().into_owned()),
            Term::List(items) => items.iter().map(Self::from).collect(),
            Term::Object(Fields(fields)) => {
                fields.iter().map(|(key, value)| (key.as_ref(), Self::from(value))).collect()
            }
        }
    }
}

impl fmt::Display for Term<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Value::from(self).fmt(f)
    }
}

impl<'de> Deserialize<'de> for Term<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TermVisitor)
    }
}

struct TermVisitor;

impl<'de> Visitor<'de> for TermVisitor {
    type Value = Term<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Term<'de>, E> {
        Ok(Term::Null)
    }

    fn visit_bool<E>(self, word: bool) -> Result<Term<'de>, E> {
        Ok(Term::Bool(word))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Term<'de>, E> {
        Ok(Term::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Term<'de>, E> {
        Ok(Term::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Term<'de>, E> {
        // As serde has it: JSON has no number that is none.
        Ok(Number::from_f64(number).map_or(Term::Null, Term::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Term<'de>, E> {
        Ok(Term::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Term<'de>, E> {
        Ok(Term::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Term<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Term::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Term<'de>, A::Error> {
        // Room for a rule.
        let mut fields = Vec::with_capacity(12);
        while let Some(key) = object.next_key()? {
            let Term::Text(key) = key else { return Err(A::Error::custom("a key is no text")) };
            fields.push((key, object.next_value()?));
        }
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Of a key that is there twice the last value counts, as everywhere in serde.
        fields.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        Ok(Term::Object(Fields(fields)))
    }
}

impl Term<'_> {
    fn write(&self, depth: usize, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Self::Null => out.extend(b"null"),
            Self::Bool(word) => out.extend(if *word { &b"true"[..] } else { b"false" }),
            Self::Number(number) => serde_json::to_writer(out, number)?,
            Self::Text(text) => serde_json::to_writer(out, text)?,
            Self::List(items) if items.is_empty() => out.extend(b"[]"),
            Self::List(items) => {
                let mut before = b'[';
                for item in items {
                    out.push(before);
                    new_line(depth + 1, out);
                    item.write(depth + 1, out)?;
                    before = b',';
                }
                new_line(depth, out);
                out.push(b']');
            }
            Self::Object(Fields(fields)) => write_fields(fields.iter(), depth, out)?,
        }
        Ok(())
    }
}

fn write_fields<'a, 'b: 'a>(
    fields: impl Iterator<Item = &'a (Cow<'b, str>, Term<'b>)>,
    depth: usize,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let mut before = b'{';
    for (key, value) in fields {
        out.push(before);
        new_line(depth + 1, out);
        serde_json::to_writer(&mut *out, key)?;
        out.extend(b": ");
        value.write(depth + 1, out)?;
        before = b',';
    }
    if before == b'{' {
        out.push(before);
    } else {
        new_line(depth, out);
    }
    out.push(b'}');
    Ok(())
}

/// Ends a line of a databag's file and indents the next one.
fn new_line(depth: usize, out: &mut Vec<u8>) {
    out.push(b'\n');
    out.resize(out.len() + 2 * depth, b' ');
}

fn value(place: &Place, text: &str) -> Result<Value, ConfigError> {
    serde_json::from_str(text).map_err(|error| place.error(format_args!("no valid JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As serde writes a list of nothing but `value`, two deep in lists.
    fn by_serde(value: &Value) -> String {
        let text = serde_json::to_string_pretty(&json!([[value]])).expect("written");
        text.strip_prefix("[\n  [\n    ")
            .and_then(|text| text.strip_suffix("\n  ]\n]"))
            .expect("a list")
            .to_owned()
    }

    #[test]
    fn pieces_are_kept_as_serde_writes_them_without_nulls() {
        for text in [
            "{}",
            r#"{"b":1,"a":null,"c":[null,{"y":null,"x":[]},{},[1,[2]]]}"#,
            r#"{"twice":1,"one":-1,"twice":{"b":"\u00e9\n\"\\/","a":1e3},"ü\u0001":18446744073709551616}"#,
            " { \"f\" : [ 0.1 , -0 , 1.5e-9, 123456789012345678 ] , \"t\" : [true,false] } ",
        ] {
            let mut value: Value = serde_json::from_str(text).expect("valid");
            let fields = value.as_object_mut().expect("an object");
            fields.retain(|_, value| !value.is_null());
            let read =
                piece(&Place::document("f"), &0, text, 2, |object| Ok(object.unknown_keys(|_| false).len()));
            let (_, kept) = read.expect("an object");
            assert_eq!(*kept, *by_serde(&value), "{text}");
        }
    }

    #[test]
    fn what_is_no_object_is_an_error_with_its_place() {
        for (text, message) in [
            ("[]", "expected an object, found a list"),
            ("1", "expected an object, found a number"),
            ("null", "expected an object, found null"),
            ("{", "no valid JSON: EOF while parsing an object at line 1 column 1"),
        ] {
            let error = piece(&Place::document("f"), &7, text, 1, |_| Ok(())).expect_err("refused");
            assert_eq!(error.to_string(), format!("f#/7: {message}"));
        }
    }
}
