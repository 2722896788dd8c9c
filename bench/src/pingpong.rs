//! One question, one answer, and then the next one: how long each took.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use router_tests::lab::Host;
use router_tests::servers::{TcpEcho, UdpEcho};

use crate::stats::Series;

/// By what they talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, without waiting to fill segments.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Udp, Self::Tcp];

    /// Its name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is asked.
const QUESTION: [u8; 16] = *b"where is the end";

/// Asks so often; the time of each answer, in nanoseconds.
///
/// # Errors
/// An answer does not come.
pub fn times(from: &Host, to: &Host, protocol: Protocol, exchanges: u32) -> Result<Series> {
    let what = move || format!("{} exchanges by {}", exchanges, protocol.label());
    match protocol {
        Protocol::Tcp => {
            let echo = TcpEcho::start(to)?;
            let server = echo.at(to.v4);
            from.namespace.inside(move || by_tcp(server, exchanges))?
        }
        Protocol::Udp => {
            let echo = UdpEcho::start(to)?;
            let server = echo.at(to.v4);
            from.namespace.inside(move || by_udp(server, exchanges))?
        }
    }
    .with_context(what)
}

fn by_tcp(server: SocketAddr, exchanges: u32) -> Result<Series> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    timed(exchanges, || {
        let mut answer = QUESTION;
        stream.write_all(&QUESTION)?;
        Ok(stream.read_exact(&mut answer)?)
    })
}

fn by_udp(server: SocketAddr, exchanges: u32) -> Result<Series> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    timed(exchanges, || {
        let mut answer = QUESTION;
        socket.send(&QUESTION)?;
        Ok(socket.recv(&mut answer).map(drop)?)
    })
}

/// The first tenth is not counted: neighbours are looked for, caches fill.
fn timed(exchanges: u32, mut exchange: impl FnMut() -> Result<()>) -> Result<Series> {
    for _ in 0..exchanges.div_ceil(10) {
        exchange()?;
    }
    let mut times = Series::default();
    for _ in 0..exchanges {
        let begin = Instant::now();
        exchange()?;
        times.push(begin.elapsed().as_nanos() as f64);
    }
    Ok(times)
}
