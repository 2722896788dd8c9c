//! Tells whoever has sent a SYN over IPv6 that nobody asked for (RFC 6092 REC-34): ICMPv6, destination unreachable,
//! administratively prohibited, after long enough for the inside to have begun the same connection.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::dataplane::UnsolicitedSyn;

/// How long the inside has (RFC 6092 REC-34, RFC 5382 REQ-4).
pub const PATIENCE: Duration = Duration::from_secs(6);
/// How often to look.
pub const EVERY: Duration = Duration::from_secs(1);
/// How many hear of it at a time (RFC 4443 §2.4 f).
pub const MOST: usize = 100;

/// Type 1, code 1. The kernel finishes the checksum.
const PROHIBITED: [u8; 8] = [1, 1, 0, 0, 0, 0, 0, 0];

/// Sends the error, from an address of the router, by the interface that the SYN came in by.
pub fn answer(syn: &UnsolicitedSyn, source: Ipv6Addr) -> io::Result<()> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET6, kind, libc::IPPROTO_ICMPV6) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let (option, value, length) = (libc::SO_BINDTOIFINDEX, syn.ifindex as i32, size_of::<i32>() as u32);
    // SAFETY: the pointer is valid for the length given, during the call.
    checked(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), length)
    })?;
    let (from, to) = (socket_address(source), socket_address(syn.from));
    let length = size_of::<libc::sockaddr_in6>() as u32;
    // SAFETY: as above.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const from).cast(), length) })?;
    let message = [PROHIBITED.as_slice(), &syn.headers].concat();
    // SAFETY: both pointers are valid for the lengths given, during the call.
    let sent = unsafe {
        let (bytes, to) = (message.as_ptr().cast(), (&raw const to).cast());
        libc::sendto(socket.as_raw_fd(), bytes, message.len(), 0, to, length)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn socket_address(address: Ipv6Addr) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: 0,
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: address.octets() },
        sin6_scope_id: 0,
    }
}
