//! Small servers and clients of our own, in threads of this process that live in a host's
//! namespace.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clients::fresh_port;
use crate::lab::Host;
use crate::netns::Namespace;

/// How often a server looks whether it should stop.
const TICK: Duration = Duration::from_millis(20);

/// A server of both address families in a host's namespace. Stops when dropped.
#[derive(Debug)]
struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start_in<S: Send + 'static>(
        namespace: &Namespace,
        port: u16,
        open: impl FnOnce(SocketAddr) -> io::Result<S> + Send + 'static,
        serve: impl FnOnce(S, &AtomicBool) + Send + 'static,
    ) -> Result<Self> {
        // A socket of IPv6 takes IPv4 too.
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, is_open) = std::sync::mpsc::channel();
        let stopped = Arc::clone(&stop);
        let thread = namespace.spawn(move || {
            let socket = open(address);
            match socket {
                Ok(socket) => {
                    opened.send(Ok(())).ok();
                    serve(socket, &stopped);
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        })?;
        is_open.recv()?.with_context(|| format!("listen on port {port} of {}", namespace.name()))?;
        Ok(Self { port, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Serves `GET /N`: N bytes that look random and are the same every time. Takes the same bytes
/// with `PUT /` and answers 200 if all of them have come as they were sent, else 422.
#[derive(Debug)]
pub struct HttpServer(Server);

impl HttpServer {
    /// Starts it.
    pub fn start(host: &Host) -> Result<Self> {
        Self::start_on(host, fresh_port())
    }

    /// Starts it on this port.
    pub fn start_on(host: &Host, port: u16) -> Result<Self> {
        let open = |address| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        Server::start_in(&host.namespace, port, open, serve_http).map(Self)
    }

    /// Where it listens, seen from a client that reaches the host by `address`.
    pub fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.0.port)
    }
}

/// Answers every request by HTTP with its host's name, who asks, and the header lines, PROXY's among them.
#[derive(Debug)]
pub struct Greeter(Server);

impl Greeter {
    /// Starts it.
    pub fn start_on(host: &Host, port: u16) -> Result<Self> {
        let open = |address| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let name = host.name;
        let serve = move |listener: TcpListener, stop: &AtomicBool| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => drop(thread::spawn(move || greet(stream, name, peer))),
                    Err(_) => thread::sleep(TICK),
                }
            }
        };
        Server::start_in(&host.namespace, port, open, serve).map(Self)
    }

    /// Where it listens, seen from a client that reaches the host by `address`.
    pub fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.0.port)
    }
}

/// Until the client hangs up: what it does with a connection is its business.
fn greet(mut stream: TcpStream, name: &str, peer: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = format!("{name}\n{}\n", peer.ip().to_canonical());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            head += &line;
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        stream.write_all(answer.as_bytes())?;
    }
}

fn serve_http(listener: TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // A client that hangs up ends its own thread and nothing else.
            Ok((stream, _)) => drop(thread::spawn(move || answer_http(stream))),
            Err(_) => thread::sleep(TICK),
        }
    }
}

fn answer_http(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = Vec::new();
    for line in reader.by_ref().lines() {
        match line? {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    let request = head.first().cloned().unwrap_or_default();
    if request.starts_with("PUT ") {
        let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        let whole = is_body(&mut reader, length.unwrap_or(0))?;
        let status = if whole { "200 OK" } else { "422 Unprocessable" };
        return write!(stream, "HTTP/1.0 {status}\r\nContent-Length: 0\r\n\r\n");
    }
    let length = request.split(['/', ' ']).nth(2).and_then(|length| length.parse().ok());
    let Some(length) = length else {
        return write!(stream, "HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
    io::copy(&mut Body::new(length), &mut stream)?;
    Ok(())
}

/// Do the next bytes make a whole [`Body`] of this length?
fn is_body(reader: &mut impl Read, length: u64) -> io::Result<bool> {
    let mut sent = Vec::new();
    Body::new(length).read_to_end(&mut sent)?;
    let mut came = vec![0; sent.len()];
    reader.read_exact(&mut came)?;
    Ok(came == sent)
}

/// Writes what [`HttpServer`] sends for a length, and wants to be sent.
pub fn write_body(file: &Path, length: u64) -> Result<()> {
    let mut file = File::create(file).with_context(|| format!("create {}", file.display()))?;
    io::copy(&mut Body::new(length), &mut file)?;
    Ok(())
}

/// SHA-256 of what [`HttpServer`] sends for a length, in hexadecimal digits.
pub fn sha256_of_body(length: u64) -> Result<String> {
    let mut digest = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("sha256sum")?;
    let mut input = digest.stdin.take().context("sha256sum has no input")?;
    io::copy(&mut Body::new(length), &mut input)?;
    drop(input);
    let output = String::from_utf8(digest.wait_with_output()?.stdout)?;
    Ok(output.split(' ').next().unwrap_or_default().to_owned())
}

/// A stream of numbers that no compression, alignment or repetition can hide an error in.
struct Body {
    left: u64,
    state: u64,
}

impl Body {
    fn new(length: u64) -> Self {
        Self { left: length, state: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let whole = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        // Eight bytes a step, unless fewer are left.
        let length = if whole > 8 { whole & !7 } else { whole };
        for chunk in buffer[..length].chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            chunk.copy_from_slice(&self.state.to_le_bytes()[..chunk.len()]);
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// Starts a server that answers every datagram; `answer` is told what it is and whose.
fn answer_datagrams(
    host: &Host,
    port: u16,
    answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + 'static,
) -> Result<Server> {
    let open = |address| {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(socket)
    };
    let serve = move |socket: UdpSocket, stop: &AtomicBool| {
        let mut buffer = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, sender)) = socket.recv_from(&mut buffer) {
                socket.send_to(&answer(&buffer[..length], sender), sender).ok();
            }
        }
    };
    Server::start_in(&host.namespace, port, open, serve)
}

/// Sends every datagram back to where it came from.
#[derive(Debug)]
pub struct UdpEcho(Server);

impl UdpEcho {
    /// Starts it.
    pub fn start(host: &Host) -> Result<Self> {
        Self::start_on(host, fresh_port())
    }

    /// Starts it on this port.
    pub fn start_on(host: &Host, port: u16) -> Result<Self> {
        answer_datagrams(host, port, |datagram, _| datagram.to_vec()).map(Self)
    }

    /// Where it listens, seen from a client that reaches the host by `address`.
    pub fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.0.port)
    }
}

/// Answers every datagram with the address and port that it saw it come from, as text.
#[derive(Debug)]
pub struct UdpMirror(Server);

impl UdpMirror {
    /// Starts it.
    pub fn start(host: &Host) -> Result<Self> {
        let seen = |sender: SocketAddr| SocketAddr::new(sender.ip().to_canonical(), sender.port());
        answer_datagrams(host, fresh_port(), move |_, sender| seen(sender).to_string().into_bytes()).map(Self)
    }

    /// Where it listens, seen from a client that reaches the host by `address`.
    pub fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.0.port)
    }
}

/// Sends every byte of a TCP connection back.
#[derive(Debug)]
pub struct TcpEcho(Server);

impl TcpEcho {
    /// Starts it.
    pub fn start(host: &Host) -> Result<Self> {
        Self::start_on(host, fresh_port())
    }

    /// Starts it on this port.
    pub fn start_on(host: &Host, port: u16) -> Result<Self> {
        Self::start_in(&host.namespace, port)
    }

    /// Starts it on this port of a namespace that need be no host's.
    pub fn start_in(namespace: &Namespace, port: u16) -> Result<Self> {
        Self::start_at(namespace, Ipv6Addr::UNSPECIFIED.into(), port)
    }

    /// Starts it at this address alone.
    pub fn start_at(namespace: &Namespace, address: IpAddr, port: u16) -> Result<Self> {
        // Before the server has open files of its own: tokio's first runtime opens some for all.
        drop(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
        let open = move |_| {
            own_open_files()?;
            TcpListener::bind((address, port))
        };
        Server::start_in(namespace, port, open, echo_tcp).map(Self)
    }

    /// Where it listens, seen from a client that reaches the host by `address`.
    pub fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.0.port)
    }
}

/// A TCP connection over which questions are answered.
#[derive(Debug)]
pub struct Conversation(TcpStream);

impl Conversation {
    /// Connects to a [`TcpEcho`] and asks once.
    pub fn begin(from: &Host, server: SocketAddr) -> Result<Self> {
        let connect = move || TcpStream::connect_timeout(&server, Duration::from_secs(5));
        let stream = from.namespace.inside(connect)?.with_context(|| format!("{} to {server}", from.name))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut conversation = Self(stream);
        conversation.go_on()?;
        Ok(conversation)
    }

    /// The same, again and again: who had no chance so far may have one next time.
    pub fn begin_within(from: &Host, server: SocketAddr, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        loop {
            match Self::begin(from, server) {
                Err(_) if Instant::now() < deadline => thread::sleep(TICK),
                result => return result,
            }
        }
    }

    /// Asks again.
    pub fn go_on(&mut self) -> Result<()> {
        let mut answer = [0; 9];
        self.0.write_all(b"question.").context("ask")?;
        self.0.read_exact(&mut answer).context("be answered")?;
        ensure!(&answer == b"question.", "the answer is {answer:?}");
        Ok(())
    }
}

/// Opens `count` TCP connections one after the other, asks over each and closes it.
pub fn successive_connections(client: &Host, server: &Host, address: IpAddr, count: u32) -> Result<()> {
    let echo = TcpEcho::start(server)?;
    let target = echo.at(address);
    client.namespace.inside(move || {
        for number in 0..count {
            let mut answer = [0; 4];
            let mut talk = || -> io::Result<()> {
                let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(10))?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                stream.write_all(&number.to_be_bytes())?;
                stream.read_exact(&mut answer)
            };
            talk().with_context(|| format!("connection {number} of {count}"))?;
            ensure!(answer == number.to_be_bytes(), "connection {number} was answered {answer:?}");
        }
        Ok(())
    })?
}

/// Sends one datagram; how many bytes of it came back within five seconds: the first packet to an
/// IPv6 neighbour may wait for a router's own address to be found free.
pub fn udp_round_trip(from: &Host, server: SocketAddr, payload: &[u8]) -> Result<usize> {
    let payload = payload.to_vec();
    from.namespace.inside(move || {
        let socket = UdpSocket::bind(wildcard(server))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send_to(&payload, server)?;
        let mut buffer = vec![0; 65_536];
        let length = socket.recv(&mut buffer)?;
        ensure!(buffer[..length] == payload[..length], "the datagram came back changed");
        Ok(length)
    })?
}

/// Sends a datagram every millisecond until the first one comes back, and returns when that was.
/// The thread starts to send at once; join it for the answer.
pub fn first_answer(from: &Host, server: SocketAddr, limit: Duration) -> Result<JoinHandle<Result<Instant>>> {
    from.namespace.spawn(move || {
        let socket = UdpSocket::bind(wildcard(server))?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 16];
        while Instant::now() < deadline {
            // No route, no neighbour and refused are all the same here: not yet.
            socket.send_to(b"first", server).ok();
            if socket.recv(&mut buffer).is_ok() {
                return Ok(Instant::now());
            }
        }
        anyhow::bail!("no answer from {server} within {limit:?}")
    })
}

fn wildcard(server: SocketAddr) -> SocketAddr {
    let any = if server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    SocketAddr::new(any, 0)
}

/// Opens `count` TCP connections, all of which are open at the same time; over each a question is
/// answered when it opens and another one when all are open. Returns how long it took.
pub fn many_connections(
    client: &Host,
    server: &Host,
    address: IpAddr,
    count: usize,
    limit: Duration,
) -> Result<Duration> {
    allow_open_files(count as u64 + 1024)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serving = TcpEcho::start(server)?;
    let target = serving.at(address);
    let begin = Instant::now();
    client.namespace.inside(move || {
        let all = async { tokio::time::timeout(limit, connect_all(target, count)).await };
        runtime.block_on(all).with_context(|| format!("{count} connections within {limit:?}"))?
    })??;
    Ok(begin.elapsed())
}

async fn connect_all(target: SocketAddr, count: usize) -> Result<()> {
    // Fewer than the 128 that std's listeners queue.
    let handshakes = Arc::new(Semaphore::new(100));
    let everyone = Arc::new(tokio::sync::Barrier::new(count));
    let mut tasks = JoinSet::new();
    for number in 0..count as u64 {
        let (handshakes, everyone) = (Arc::clone(&handshakes), Arc::clone(&everyone));
        tasks.spawn(async move {
            let permit = handshakes.acquire().await?;
            let connected = tokio::net::TcpStream::connect(target).await;
            let mut stream = connected.with_context(|| format!("connection {number}"))?;
            ask(&mut stream, number).await.with_context(|| format!("connection {number}, new"))?;
            drop(permit);
            everyone.wait().await;
            ask(&mut stream, !number).await.with_context(|| format!("connection {number}, among all"))
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(())
}

async fn ask(stream: &mut tokio::net::TcpStream, question: u64) -> Result<()> {
    stream.write_all(&question.to_be_bytes()).await?;
    let answer = stream.read_u64().await?;
    ensure!(answer == question, "asked {question:#x}, answered {answer:#x}");
    Ok(())
}

fn echo_tcp(listener: TcpListener, stop: &AtomicBool) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        listener.set_nonblocking(true).ok();
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        let mut clients = JoinSet::new();
        while !stop.load(Ordering::Relaxed) {
            // The timeout is for `stop`; a client's end needs nobody's attention.
            if let Ok(Ok((mut stream, _))) = tokio::time::timeout(TICK, listener.accept()).await {
                clients.spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await.ok();
                });
            }
            while clients.try_join_next().is_some() {}
        }
    });
}

/// Gives this thread open files of its own: the limit is for each table of them, and a process
/// that has both ends of a connection would need twice as many.
fn own_open_files() -> io::Result<()> {
    // SAFETY: a plain system call; what is open stays open.
    if unsafe { libc::unshare(libc::CLONE_FILES) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the limit of open files of this process.
fn allow_open_files(wanted: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours, for the length of the calls.
    unsafe {
        ensure!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0, "{}", io::Error::last_os_error());
        if limit.rlim_cur < wanted {
            let raised = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
            let result = libc::setrlimit(libc::RLIMIT_NOFILE, &raised);
            ensure!(result == 0, "{wanted} open files: {}", io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_length_and_is_the_same_however_it_is_read() {
        let mut whole = Vec::new();
        Body::new(1_003).read_to_end(&mut whole).unwrap();
        assert_eq!(whole.len(), 1_003);
        let mut body = Body::new(1_003);
        let mut pieces = Vec::new();
        let mut buffer = [0; 24];
        loop {
            match body.read(&mut buffer).unwrap() {
                0 => break,
                length => pieces.extend_from_slice(&buffer[..length]),
            }
        }
        assert_eq!(pieces, whole);
    }
}
