//! Frames as no kernel would send them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::lab::Host;

/// Puts a frame, as it is, on the wire of a host.
pub fn send(from: &Host, frame: &[u8]) -> Result<()> {
    let frame = frame.to_vec();
    from.namespace
        .inside(move || send_here(&frame))?
        .with_context(|| format!("send a frame from {}", from.name))
}

fn send_here(frame: &[u8]) -> io::Result<()> {
    let socket = socket()?;
    // SAFETY: the buffer is ours and its length is its own.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket that sends frames by `eth0` of the thread's namespace, and receives none.
pub fn socket() -> io::Result<OwnedFd> {
    let device = CString::new("eth0")?;
    // SAFETY: plain system calls; the address is zeroed, which is valid for it, then filled in,
    // and its length is its size. `OwnedFd` gets a descriptor that nobody else has.
    unsafe {
        let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(raw);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = libc::if_nametoindex(device.as_ptr()) as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        match libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) {
            0 => Ok(socket),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// An Ethernet frame to the MAC address `to` (as text) that carries `packet` as IPv4.
pub fn ipv4(to: &str, packet: &[u8]) -> Vec<u8> {
    let mut frame: Vec<u8> = to.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    frame.extend([0x02, 0, 0, 0, 0, 0x99, 0x08, 0x00]);
    frame.extend(packet);
    frame
}

/// A good IPv4 packet, UDP with 8 bytes of payload, for others to spoil.
pub fn udp_packet(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend(from);
    packet.extend(to);
    let sum = header_checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    // Ports 4000 and 4001, length 16, and no checksum, which IPv4 allows.
    packet.extend([0x0f, 0xa0, 0x0f, 0xa1, 0, 16, 0, 0]);
    packet.extend(b"8 bytes.");
    packet
}

/// A UDP datagram without a checksum, which IPv4 allows.
pub fn udp_datagram(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16 + 8;
    let header = [source, destination, length, 0].map(u16::to_be_bytes);
    [header.as_flattened(), payload].concat()
}

/// A TCP SYN. Its checksum is nobody's who would look.
pub fn syn(source: u16, destination: u16) -> Vec<u8> {
    let ports = [source, destination].map(u16::to_be_bytes);
    [ports.as_flattened(), &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0, 0, 0, 0]].concat()
}

/// An IPv4 packet; `offset` as it is in the header, with flags.
pub fn ipv4_packet(
    from: [u8; 4],
    to: [u8; 4],
    protocol: u8,
    offset: u16,
    id: u16,
    payload: &[u8],
) -> Vec<u8> {
    let length = payload.len() as u16 + 20;
    let words = [0x4500, length, id, offset, 0x4000 | u16::from(protocol), 0].map(u16::to_be_bytes);
    let mut packet = [words.as_flattened(), &from, &to].concat();
    let sum = header_checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// The IPv4 packets, none longer than 1500 bytes, that carry a UDP datagram between them.
pub fn ipv4_fragments(from: [u8; 4], to: [u8; 4], datagram: &[u8], identification: u16) -> Vec<Vec<u8>> {
    let pieces = datagram.chunks(FRAGMENT);
    let last = pieces.len() - 1;
    let fragment = |(number, piece): (usize, &[u8])| {
        let more = if number < last { 0x2000 } else { 0 };
        let offset = more | (number * FRAGMENT / 8) as u16;
        ipv4_packet(from, to, 17, offset, identification, piece)
    };
    pieces.enumerate().map(fragment).collect()
}

/// Bytes in a fragment: what an MTU of 1500 leaves, which is a multiple of eight.
const FRAGMENT: usize = 1480;

/// The Internet checksum (RFC 1071) of a header whose checksum field is zero.
fn header_checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_checksum_is_that_of_a_known_packet() {
        let header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(header_checksum(&header), 0xb861);
    }
}
