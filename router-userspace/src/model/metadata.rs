//! What guests are told about themselves: user data and metadata, by IPv4 address; and their passwords.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;

/// What each guest may ask for, by the address that it asks from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Guests that there is something for, shared by copies: there may be thousands, with a megabyte each.
    pub guests: BTreeMap<Ipv4Addr, Arc<Guest>>,
}

/// What one guest may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    /// User data as the user meant it, compressed or not; `None` if there is none at all.
    pub user_data: Option<Bytes>,
    /// Names, each once and fit for a line and a path, and what they stand for.
    pub items: Vec<(String, String)>,
}

impl Guest {
    /// What a name stands for.
    pub fn item(&self, name: &str) -> Option<&str> {
        self.items.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }
}

/// A guest's password: at least one character, no control characters. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// `None` if the text cannot be one.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (!text.is_empty() && !text.contains(char::is_control)).then_some(Self(text))
    }

    /// The password itself: not for errors, not for logs.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}
