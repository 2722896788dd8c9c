//! Tells systemd how we are, by the protocol of `sd_notify(3)`.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// The router takes commands.
pub fn ready() {
    send("READY=1\nSTATUS=takes commands");
}

/// The daemon is about to end.
pub fn stopping() {
    send("STOPPING=1");
}

fn send(message: &str) {
    if let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
        && let Err(error) = send_to(&path, message)
    {
        warn!("telling {} failed: {error}", path.display());
    }
}

fn send_to(path: &OsStr, message: &str) -> io::Result<()> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_socket_hear_it() {
        let name = format!("xvr-notify-{}", std::process::id());
        let path = env::temp_dir().join(&name);
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (path.as_os_str().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}").into(), UnixDatagram::bind_addr(&abstract_address).unwrap()),
        ];
        for (to, socket) in &sockets {
            send_to(to, "READY=1").unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        std::fs::remove_file(path).unwrap();
    }
}
