//! Tells a NIC's neighbours that an address is now here: gratuitous ARP (RFC 5227 §2.3) and
//! unsolicited neighbour advertisements (RFC 4861 §7.2.6), in the background.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tracing::{debug, warn};

use crate::model::Mac;

/// Frames may be lost, and a NIC that was just switched on may not have its carrier yet.
const AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1)];

/// Who announces. It keeps its socket: the kernel waits for a grace period whenever one of this kind is closed.
#[derive(Clone, Debug)]
pub struct Announcer(Arc<OwnedFd>);

impl Announcer {
    /// Of the network namespace that it is made in.
    ///
    /// # Errors
    /// There is no right to sockets of this kind.
    pub fn open() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else has.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Announces addresses on NICs, by their indices and Ethernet addresses, a few times. Returns at once: there may be
    /// thousands, and a thread of their own does it.
    pub fn announce(&self, addresses: Vec<(u32, Mac, IpAddr)>) {
        if addresses.is_empty() {
            return;
        }
        let announcer = self.clone();
        let announce = move || {
            for delay in AT {
                thread::sleep(delay);
                for (ifindex, mac, address) in &addresses {
                    for frame in frames(*mac, *address) {
                        if let Err(error) = announcer.send(*ifindex, &frame) {
                            debug!("announcing {address} failed: {error}");
                        }
                    }
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("xvr-announce".to_owned()).spawn(announce) {
            warn!("addresses are not announced: {error}");
        }
    }

    fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: `sockaddr_ll` is plain old data.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex as i32;
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&frame[..6]);
        // SAFETY: both pointers are valid for the lengths given, during the call.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn frames(mac: Mac, address: IpAddr) -> Vec<Vec<u8>> {
    const REQUEST: u16 = 1;
    const REPLY: u16 = 2;
    match address {
        // Some take only the one, some only the other for news.
        IpAddr::V4(address) => vec![arp(mac, address, REQUEST), arp(mac, address, REPLY)],
        IpAddr::V6(address) => vec![advertisement(mac, address)],
    }
}

fn arp(mac: Mac, address: Ipv4Addr, operation: u16) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac.0);
    // ARP, Ethernet, IPv4, address lengths.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend([0xff; 6]);
    frame.extend(address.octets());
    frame
}

fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    // Neighbour advertisement from a router, overriding; option: target link-layer address.
    let mut message = vec![136, 0, 0, 0, 0xa0, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    let len = u8::try_from(message.len()).expect("32 bytes");
    let mut pseudo = Vec::new();
    pseudo.extend(address.octets());
    pseudo.extend(ALL_NODES.octets());
    pseudo.extend([0, 0, 0, len, 0, 0, 0, ICMPV6]);
    pseudo.extend(&message);
    let checksum = checksum(&pseudo);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac.0);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, len, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    #[test]
    fn gratuitous_arp_names_the_address_twice() {
        let frame = arp(MAC, Ipv4Addr::new(203, 0, 113, 9), 1);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[28..32], [203, 0, 113, 9]);
        assert_eq!(frame[38..42], [203, 0, 113, 9]);
    }

    #[test]
    fn an_advertisements_checksum_holds() {
        let address: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let frame = advertisement(MAC, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        let mut pseudo = frame[22..54].to_vec();
        pseudo.extend([0, 0, 0, 32, 0, 0, 0, 58]);
        pseudo.extend(&frame[54..]);
        assert_eq!(checksum(&pseudo), 0);
    }
}
