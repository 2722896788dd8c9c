//! Sockets of hosts, held by the test: a socket belongs to the namespace that it was made in, not
//! to the thread. UDP, and protocols without a name.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::frames;
use crate::lab::{Host, Segment};

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// A UDP socket of IPv4 on a port of a host; port 0 is any.
pub fn udp_socket(host: &Host, port: u16) -> Result<UdpSocket> {
    let socket = host.namespace.inside(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    let socket = socket.with_context(|| format!("UDP port {port} of {}", host.name))?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    Ok(socket)
}

/// As what a [`crate::servers::UdpMirror`] sees a socket.
pub fn seen_as(socket: &UdpSocket, mirror: SocketAddr) -> Result<SocketAddr> {
    let mut buffer = [0; 64];
    socket.send_to(b"who am I?", mirror)?;
    let (length, sender) =
        socket.recv_from(&mut buffer).with_context(|| format!("no answer from {mirror}"))?;
    ensure!(sender == mirror, "{mirror} was asked, {sender} answered");
    Ok(std::str::from_utf8(&buffer[..length])?.parse()?)
}

/// Waits for a datagram, which has to be this one; who sent it.
pub fn receive(socket: &UdpSocket, expected: &[u8]) -> Result<SocketAddr> {
    let mut buffer = vec![0; 65_536];
    let (length, sender) = socket.recv_from(&mut buffer).context("no datagram came")?;
    ensure!(buffer[..length] == *expected, "{length} bytes came, {} others were sent", expected.len());
    Ok(sender)
}

/// A raw socket of one IPv4 protocol: the kernel writes the IPv4 header, and delivers packets of
/// that protocol with theirs.
#[derive(Debug)]
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens it.
    pub fn open(host: &Host, protocol: u8) -> Result<Self> {
        let socket = host.namespace.inside(move || open_raw(protocol))?;
        socket.map(Self).with_context(|| format!("a socket of protocol {protocol} of {}", host.name))
    }

    /// Sends a packet with this payload.
    pub fn send(&self, to: Ipv4Addr, payload: &[u8]) -> Result<()> {
        // SAFETY: the address is zeroed, which is valid for it, then filled in; the buffer is
        // ours and its length is its own.
        let sent = unsafe {
            let mut address: libc::sockaddr_in = std::mem::zeroed();
            address.sin_family = libc::AF_INET as libc::sa_family_t;
            address.sin_addr.s_addr = u32::from(to).to_be();
            let length = size_of::<libc::sockaddr_in>() as u32;
            let fd = self.0.as_raw_fd();
            libc::sendto(fd, payload.as_ptr().cast(), payload.len(), 0, (&raw const address).cast(), length)
        };
        ensure!(sent >= 0, "send to {to}: {}", io::Error::last_os_error());
        Ok(())
    }

    /// Waits for a packet with this payload; who sent it.
    pub fn receive(&self, expected: &[u8]) -> Result<Ipv4Addr> {
        let mut packet = [0; 2048];
        // SAFETY: the buffer is ours and its length is its own.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
        ensure!(length >= 20, "no packet came: {}", io::Error::last_os_error());
        let payload = &packet[20..length as usize];
        ensure!(payload == expected, "{payload:?} came instead of {expected:?}");
        Ok(Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]))
    }
}

fn open_raw(protocol: u8) -> io::Result<OwnedFd> {
    // SAFETY: plain system calls; `OwnedFd` gets a descriptor that nobody else has, and the
    // option is a structure of ours with its size.
    unsafe {
        let raw = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(raw);
        let limit = libc::timeval { tv_sec: ANSWER_TIME.as_secs() as libc::time_t, tv_usec: 0 };
        let length = size_of::<libc::timeval>() as u32;
        let limit = (&raw const limit).cast();
        match libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_RCVTIMEO, limit, length) {
            0 => Ok(socket),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// In which order the fragments of a datagram are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first one, which has the ports, first.
    Forward,
    /// The first one last.
    Reverse,
}

/// Sends a UDP datagram from a guest in fragments that we cut, by the router of its segment.
pub fn send_fragments(
    from: &Host,
    segment: &Segment,
    source: u16,
    to: (Ipv4Addr, u16),
    payload: &[u8],
    order: Order,
) -> Result<()> {
    let datagram = frames::udp_datagram(source, to.1, payload);
    let mut packets = frames::ipv4_fragments(from.v4.octets(), to.0.octets(), &datagram, order as u16 + 7);
    if order == Order::Reverse {
        packets.reverse();
    }
    packets.iter().try_for_each(|packet| frames::send(from, &frames::ipv4(segment.router_mac, packet)))
}
