//! `vmdata`: what a guest is told about itself (`vm_metadata.json`).
//!
//! An item is a list of folder, file and content. What its content says:
//!
//! | content | file |
//! |---|---|
//! | text | that; of user data, what it decodes to |
//! | `null` | empty |
//! | empty text | there is none |

use std::net::Ipv4Addr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::{ENVELOPE, host_address};
use crate::cloudstack::object::{Items, Object};
use crate::error::ConfigError;
use crate::json::{Place, Shape, kind};
use crate::model::metadata::Guest;

/// A message of type `vmdata`.
#[derive(Clone, Debug, PartialEq)]
pub struct VmData {
    /// The guest's address.
    pub address: Ipv4Addr,
    pub(in crate::cloudstack) data: Arc<GuestData>,
}

/// All that was said about a guest.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cloudstack) struct GuestData {
    /// What it means.
    pub guest: Arc<Guest>,
    /// The list of items as it was written.
    pub items: Value,
}

impl VmData {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<(Self, Vec<ConfigError>), ConfigError> {
        let address = message.required("vm_ip_address", host_address(message, "vm_ip_address")?)?;
        let mut warnings = message
            .unknown_keys(|key| ["vm_ip_address", "vm_metadata"].contains(&key) || ENVELOPE.contains(&key));
        message.required("vm_metadata", message.items("vm_metadata")?)?;
        let items = message.entries().find(|(key, _)| *key == "vm_metadata").map(|(_, items)| items);
        let data = GuestData::read(
            &message.place().at("vm_metadata"),
            items.unwrap_or(&Value::Null),
            &mut warnings,
        )?;
        Ok((Self { address, data: Arc::new(data) }, warnings))
    }
}

impl GuestData {
    /// Reads the items of a message or of an entry of the `vmdata` databag.
    pub fn read(place: &Place, items: &Value, warnings: &mut Vec<ConfigError>) -> Result<Self, ConfigError> {
        let Value::Array(list) = items else {
            return Err(place.error(format_args!("expected a list, found {}", kind(items))));
        };
        let mut guest = Guest::default();
        for (index, item) in list.iter().enumerate() {
            let place = place.at(index);
            let Value::Array(parts) = item else {
                return Err(place.error(format_args!("expected a list, found {}", kind(item))));
            };
            let [folder, file, content] = parts.as_slice() else {
                let message = format_args!("expected folder, file and content, found {} values", parts.len());
                return Err(place.error(message));
            };
            let (folder, file) = (text(&place.at(0), folder)?, text(&place.at(1), file)?);
            let content_place = place.at(2);
            let content = match content {
                Value::Null => Some(String::new()),
                content => Some(text(&content_place, content)?).filter(|text| !text.is_empty()),
            };
            match (folder.as_str(), file.as_str()) {
                ("userdata", "user-data") => {
                    guest.user_data = content.map(|text| decode(&content_place, &text)).transpose()?;
                }
                ("metadata", name) => {
                    check_name(&place.at(1), name)?;
                    guest.items.retain(|(known, _)| known != name);
                    guest.items.extend(content.map(|text| (file, text)));
                }
                _ => warnings.push(
                    place.error(format_args!("nobody asks for {file:?} of the folder {folder:?}, ignored")),
                ),
            }
        }
        Ok(Self { guest: Arc::new(guest), items: items.clone() })
    }
}

/// Text; numbers and booleans are taken as if they had quotes.
fn text(place: &Place, value: &Value) -> Result<String, ConfigError> {
    match value.shape() {
        Shape::Text(text) => Ok(text.to_owned()),
        Shape::Number(number) => Ok(number.to_string()),
        Shape::Bool(word) => Ok(word.to_string()),
        other => Err(place.error(format_args!("expected text, found {}", other.kind()))),
    }
}

/// A name is a line of the manifest and a step of a path.
fn check_name(place: &Place, name: &str) -> Result<(), ConfigError> {
    let is_fit = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    if is_fit && !name.contains(char::is_control) {
        return Ok(());
    }
    Err(place.error(format_args!("{name:?} cannot be a file's name")))
}

/// Base64; lines may be folded, and padding may lack, as CloudStack's own router has it.
fn decode(place: &Place, text: &str) -> Result<Bytes, ConfigError> {
    let mut text: String = text.split_ascii_whitespace().collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    let decoded = STANDARD.decode(text);
    decoded.map(Bytes::from).map_err(|error| place.error(format_args!("no valid base64: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(items: &Value) -> Result<(Guest, Vec<String>), String> {
        let mut warnings = Vec::new();
        let data = GuestData::read(&Place::document("f").at("vm_metadata"), items, &mut warnings);
        let data = data.map_err(|error| error.to_string())?;
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Ok((Guest::clone(&data.guest), warnings))
    }

    #[test]
    fn null_is_an_empty_file_empty_text_is_none_and_the_last_word_counts() {
        let (guest, warnings) = read(&json!([
            ["userdata", "user-data", null],
            ["metadata", "public-keys", null],
            ["metadata", "role", "front"],
            ["metadata", "gone", "once"],
            ["metadata", "role", "back"],
            ["metadata", "gone", ""],
            ["metadata", "number", 7],
        ]))
        .unwrap();
        assert_eq!(guest.user_data.as_deref(), Some(&b""[..]));
        let item = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(guest.items, [item("public-keys", ""), item("role", "back"), item("number", "7")]);
        assert_eq!(warnings, [""; 0]);
        assert_eq!(read(&json!([["userdata", "user-data", ""]])).unwrap().0, Guest::default());
    }

    #[test]
    fn user_data_is_padded_to_a_multiple_of_four_and_then_has_to_decode() {
        for (written, decoded) in [
            ("AP8Q", &b"\x00\xff\x10"[..]),
            ("aGk=", b"hi"),
            ("aGk", b"hi"),
            ("aA", b"h"),
            ("aG\nk=\n", b"hi"),
        ] {
            let (guest, _) = read(&json!([["userdata", "user-data", written]])).unwrap();
            assert_eq!(guest.user_data.as_deref(), Some(decoded), "{written}");
        }
        for written in ["a", "a b c d e", "aG=k", "%%%%", "aGk=====", "-_-_"] {
            let error =
                read(&json!([["metadata", "a", "b"], ["userdata", "user-data", written]])).unwrap_err();
            assert!(error.starts_with("f#/vm_metadata/1/2: no valid base64: "), "{written}: {error}");
        }
    }

    #[test]
    fn what_is_no_item_is_an_error_with_its_place() {
        for (items, message) in [
            (json!({}), ": expected a list, found an object"),
            (json!([3]), "/0: expected a list, found a number"),
            (json!([["metadata", "a"]]), "/0: expected folder, file and content, found 2 values"),
            (json!([["metadata", "a", {}]]), "/0/2: expected text, found an object"),
            (json!([[null, "a", "b"]]), "/0/0: expected text, found null"),
            (json!([["metadata", "a/b", "c"]]), "/0/1: \"a/b\" cannot be a file's name"),
            (json!([["metadata", "..", "c"]]), "/0/1: \"..\" cannot be a file's name"),
            (json!([["metadata", "", "c"]]), "/0/1: \"\" cannot be a file's name"),
            (json!([["metadata", "a\nb", "c"]]), "/0/1: \"a\\nb\" cannot be a file's name"),
        ] {
            assert_eq!(read(&items).unwrap_err(), format!("f#/vm_metadata{message}"));
        }
    }

    #[test]
    fn what_nobody_asks_for_is_a_warning() {
        let (guest, warnings) = read(&json!([["later", "thing", "x"], ["userdata", "other", "!"]])).unwrap();
        assert_eq!(guest, Guest::default());
        assert_eq!(
            warnings,
            [
                "f#/vm_metadata/0: nobody asks for \"thing\" of the folder \"later\", ignored",
                "f#/vm_metadata/1: nobody asks for \"other\" of the folder \"userdata\", ignored"
            ]
        );
    }
}
