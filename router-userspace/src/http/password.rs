//! The password service, as CloudStack's own password server speaks.
//!
//! | header `DomU_Request` | answer |
//! |---|---|
//! | `send_my_password` | the password, or `saved_password` if none waits |
//! | `saved_password` | `saved_password`; the password is gone for good |
//! | anything else | 400, `bad_request` |

use std::io;
use std::net::Ipv4Addr;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use tracing::info;

use super::passwords::{NONE, Passwords};

/// What the service calls itself.
pub const SERVER: HeaderValue = HeaderValue::from_static("CloudStack Password Server");

/// Answers a guest. Writes to disk.
///
/// # Errors
/// That a guest has its password cannot be written down; it is asked again.
pub fn answer(
    word: Option<&[u8]>,
    guest: Ipv4Addr,
    passwords: &Passwords,
) -> io::Result<(StatusCode, String)> {
    match word {
        Some(b"send_my_password") => {
            let password = passwords.of(guest);
            let text = password.map_or_else(|| NONE.to_owned(), |password| password.reveal().to_owned());
            Ok((StatusCode::OK, text))
        }
        Some(b"saved_password") => {
            if passwords.confirm(guest)? {
                info!("{guest} has its password");
            }
            Ok((StatusCode::OK, NONE.to_owned()))
        }
        _ => Ok((StatusCode::BAD_REQUEST, "bad_request".to_owned())),
    }
}
