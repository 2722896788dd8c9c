//! Netlink families that rtnetlink does not speak: generic netlink and nftables; and of routing what there are
//! thousands of.
//!
//! Synchronous: the kernel answers these within the call that asks.

use std::io;

use anyhow::{Context, Result, bail};
use rtnetlink::sys::{Socket, SocketAddr};

/// This is a request.
pub const REQUEST: u16 = 1;
/// An acknowledgement is wanted.
pub const ACK: u16 = 4;
/// Create what is missing.
pub const CREATE: u16 = 0x400;
/// Refuse what is there already.
pub const EXCLUSIVE: u16 = 0x200;
/// All there are.
pub const DUMP: u16 = 0x300;

/// The longest datagram of an answer, in bytes: the kernel makes those of a list of up to 32 KiB, if there is room.
const LONGEST: usize = 64 << 10;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A message in the making.
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// With a family's message type, flags, and the family's own header.
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(header);
        Self { bytes }
    }

    /// With an attribute behind it.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.bytes, kind, value);
        self
    }

    /// With a text, as the kernel wants it: a zero byte at its end.
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.with(kind, &value)
    }

    /// With attributes inside an attribute.
    pub fn with_nest(self, kind: u16, inner: &[(u16, &[u8])]) -> Self {
        self.with(kind | NESTED, &nest(inner))
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).expect("messages are a few hundred bytes");
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes
    }
}

/// This attribute's value is attributes.
pub const NESTED: u16 = 0x8000;

/// `struct tcmsg`, the header of messages about queueing disciplines and filters (linux/rtnetlink.h).
pub fn traffic_control(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut header = [0; 20];
    let words = [0, ifindex, handle, parent, info];
    for (bytes, word) in header.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    header
}

/// [`traffic_control`]'s kind of discipline or filter, a text.
pub const TC_KIND: u16 = 1;

/// Attributes as the value of another one.
pub fn nest(inner: &[(u16, &[u8])]) -> Vec<u8> {
    let mut value = Vec::new();
    for (kind, bytes) in inner {
        attribute(&mut value, *kind, bytes);
    }
    value
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("attributes are a few dozen bytes");
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Sends messages in one go and collects the answers' types and bodies, each body beginning with
/// the family's own header, until `answers` acknowledgements or the end of a dump have come. The
/// kernel's refusal is the error.
pub fn exchange(protocol: isize, messages: Vec<Message>, answers: usize) -> Result<Vec<(u16, Vec<u8>)>> {
    let mut bodies = Vec::new();
    let mut acknowledged = 0;
    converse(protocol, messages, |kind, body| {
        match kind {
            ERROR => acknowledgement(body)?.map(|()| acknowledged += 1)?,
            DONE => acknowledged = answers,
            _ => bodies.push((kind, body.to_vec())),
        }
        Ok(acknowledged < answers)
    })?;
    Ok(bodies)
}

/// Sends messages that want an acknowledgement each, some of them at a time, and gives what came of each.
pub fn exchange_each(protocol: isize, messages: Vec<Message>) -> Result<Vec<io::Result<()>>> {
    let mut results = Vec::new();
    let mut messages = messages.into_iter();
    loop {
        let some: Vec<_> = messages.by_ref().take(AT_ONCE).collect();
        let wanted = results.len() + some.len();
        if some.is_empty() {
            return Ok(results);
        }
        converse(protocol, some, |kind, body| {
            if kind == ERROR {
                results.push(acknowledgement(body)?);
            }
            Ok(results.len() < wanted)
        })?;
    }
}

/// How many acknowledgements a socket's buffer has room for.
const AT_ONCE: usize = 128;

/// Sends messages in one go, and shows the answers' types and bodies to `hear` until that has heard enough.
fn converse(
    protocol: isize,
    messages: Vec<Message>,
    mut hear: impl FnMut(u16, &[u8]) -> Result<bool>,
) -> Result<()> {
    let socket = Socket::new(protocol).context("open a netlink socket")?;
    let bytes: Vec<u8> = messages.into_iter().flat_map(Message::finish).collect();
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).context("send to the kernel")?;
    let mut datagram = Vec::with_capacity(LONGEST);
    loop {
        datagram.clear();
        let length = socket.recv(&mut datagram, libc::MSG_TRUNC).context("receive from the kernel")?;
        if length > datagram.len() {
            bail!("the kernel's answer has {length} bytes, more than {LONGEST}");
        }
        let mut goes_on = true;
        for (kind, body) in split(&datagram) {
            goes_on = hear(kind, body)?;
        }
        if !goes_on {
            return Ok(());
        }
    }
}

/// What the kernel says of a message.
fn acknowledgement(body: &[u8]) -> Result<io::Result<()>> {
    match body.get(..4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(Ok(())),
        Some(code) => Ok(Err(io::Error::from_raw_os_error(-code))),
        None => bail!("the kernel's answer is cut off"),
    }
}

/// The messages of a datagram: type and body.
pub fn split(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let len = usize::try_from(len).ok()?;
        let body = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes of a body or of a nest: type and value.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const TYPE: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE, value))
    })
}

/// An attribute's value.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A number in network byte order, as nftables has them.
pub fn be32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let message = Message::new(7, CREATE, &[1, 0, 0, 0]).with_text(1, "xvr").with_nest(4, &[(1, &[9])]);
        let bytes = message.finish();
        let (kind, body) = split(&bytes).next().unwrap();
        assert_eq!((kind, &body[..4]), (7, &[1, 0, 0, 0][..]));
        assert_eq!(find(&body[4..], 1), Some(&b"xvr\0"[..]));
        let nest = find(&body[4..], 4).unwrap();
        assert_eq!(attributes(nest).collect::<Vec<_>>(), [(1, &[9][..])]);
    }

    #[test]
    fn what_is_cut_off_ends_the_walk() {
        let bytes = Message::new(7, 0, &[]).with(1, &[1, 2, 3, 4]).finish();
        for len in 0..bytes.len() {
            assert_eq!(split(&bytes[..len]).count(), 0);
        }
        assert_eq!(attributes(&[8, 0, 1, 0, 1]).count(), 0);
    }
}
