//! The metadata service: a path and who asks → what there is.
//!
//! | path, with or without a final slash | answer |
//! |---|---|
//! | `/latest/user-data` | user data as it is |
//! | `/latest/meta-data` | the names of the guest's metadata, one per line |
//! | `/latest/meta-data/NAME`, `/latest/NAME` | what the name stands for |
//! | `/latest` | what there is below it |
//! | `/` | `latest` |

use std::fmt::Write;

use hyper::body::Bytes;
use percent_encoding::percent_decode_str;

use crate::model::metadata::Guest;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub content_type: &'static str,
    pub content: Bytes,
}

/// What is at a path for a guest; `None` if there is nothing. Nothing but the guest's own is ever looked at, so
/// that a path cannot lead elsewhere.
pub fn find(path: &str, guest: &Guest) -> Option<Found> {
    let steps: Option<Vec<String>> = path.split('/').filter(|step| !step.is_empty()).map(decoded).collect();
    let steps = steps?;
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    match steps.as_slice() {
        [] => Some(text("latest\n")),
        ["latest"] => Some(text("meta-data/\nuser-data\n")),
        ["latest", "user-data"] => {
            let content = guest.user_data.clone()?;
            Some(Found { content_type: "application/octet-stream", content })
        }
        ["latest", "meta-data"] => Some(text(&manifest(guest))),
        ["latest", "meta-data", name] | ["latest", name] => guest.item(name).map(text),
        _ => None,
    }
}

fn decoded(step: &str) -> Option<String> {
    percent_decode_str(step).decode_utf8().ok().map(|step| step.into_owned())
}

fn manifest(guest: &Guest) -> String {
    guest.items.iter().fold(String::new(), |mut names, (name, _)| {
        // Writing to text cannot fail.
        let _ = writeln!(names, "{name}");
        names
    })
}

fn text(text: &str) -> Found {
    Found { content_type: "text/plain; charset=utf-8", content: Bytes::copy_from_slice(text.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        let item = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let items = ["vm-id", "cloud-domain", "cloud-domain-id", "public-keys", "my key"];
        Guest {
            user_data: Some(Bytes::from_static(b"\x1f\x8b\0")),
            items: items.iter().map(|name| item(name, &format!("<{name}>"))).collect(),
        }
    }

    fn at(path: &str) -> Option<Bytes> {
        find(path, &guest()).map(|found| found.content)
    }

    #[test]
    fn every_form_of_a_path_leads_to_the_same() {
        for path in ["/latest/user-data", "/latest/user-data/", "//latest//user-data", "/latest/user%2Ddata"]
        {
            assert_eq!(at(path).as_deref(), Some(&b"\x1f\x8b\0"[..]), "{path}");
        }
        for path in ["/latest/meta-data", "/latest/meta-data/"] {
            let names = &b"vm-id\ncloud-domain\ncloud-domain-id\npublic-keys\nmy key\n"[..];
            assert_eq!(at(path).as_deref(), Some(names), "{path}");
        }
        for name in ["vm-id", "cloud-domain", "cloud-domain-id", "my%20key"] {
            let expected = format!("<{}>", name.replace("%20", " "));
            for path in [format!("/latest/{name}"), format!("/latest/meta-data/{name}/")] {
                assert_eq!(at(&path).as_deref(), Some(expected.as_bytes()), "{path}");
            }
        }
        assert_eq!(at("/").as_deref(), Some(&b"latest\n"[..]));
        assert_eq!(at("/latest/").as_deref(), Some(&b"meta-data/\nuser-data\n"[..]));
    }

    #[test]
    fn nothing_else_is_there() {
        for path in [
            "/latest/meta-data/nothing",
            "/latest/meta-data/vm-id/x",
            "/latest/meta-data/../vm-id",
            "/latest/meta-data/%2e%2e%2fvm-id",
            "/latest/../../etc/passwd",
            "/latest/user-data/x",
            "/latest/%ff",
            "/1.0/meta-data",
            "*",
        ] {
            assert_eq!(at(path), None, "{path}");
        }
        assert_eq!(find("/latest/user-data", &Guest::default()), None);
    }
}
