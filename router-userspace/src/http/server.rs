//! Listeners and connections: who gets in, how many, and for how long.
//!
//! A guest that has too many connections loses its oldest, and so does a door that has too many: what sits there
//! the longest is the least likely to still ask for something. Whoever asks and goes is always let in.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::passwords::Passwords;
use super::{Door, Purpose, Served, metadata, password};
use crate::model::metadata::Guest;

/// How many connections a guest may have at a door.
const PER_GUEST: usize = 16;
/// How many connections a door may have.
const PER_DOOR: usize = 64;
/// How many connections all doors together may have: the daemon needs descriptors for other things, too.
const ALTOGETHER: usize = 512;
/// How long a guest may take to say what it wants, the first time and between two requests.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// How long a connection may take altogether, a slow reader's too.
const LIFE_TIME: Duration = Duration::from_secs(120);
/// How much a request's head may be long, in bytes.
const HEAD: usize = 16 << 10;

/// What all connections share.
pub struct Shared {
    served: watch::Receiver<Arc<Served>>,
    pub passwords: Passwords,
    connections: AtomicUsize,
    last_error: Mutex<Option<String>>,
}

impl Shared {
    pub fn new(served: watch::Receiver<Arc<Served>>, passwords: Passwords) -> Self {
        Self { served, passwords, connections: AtomicUsize::new(0), last_error: Mutex::new(None) }
    }

    /// What went wrong last in serving guests.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logged once: guests may ask again and again.
    fn failed(&self, error: String) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() != Some(&error) {
            warn!("{error}");
            *last = Some(error);
        }
    }

    fn served(&self) -> Arc<Served> {
        self.served.borrow().clone()
    }
}

/// Listens at a door. The address may come to the device later. Must be called inside a runtime.
///
/// # Errors
/// Somebody else listens there, or the device is gone.
pub fn listen(door: Door) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a daemon that was killed may still be closing.
    socket.set_reuse_address(true)?;
    socket.set_freebind_v4(true)?;
    socket.bind_device_by_index_v4(NonZeroU32::new(door.ifindex))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(door.address, door.purpose.port()).into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Takes connections until it is aborted, which ends them as well.
pub async fn serve(door: Door, listener: TcpListener, shared: Arc<Shared>) {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut guests = Guests::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let IpAddr::V4(guest) = peer.ip() else { continue };
                    if shared.served().is_at_home(guest, door.ifindex) {
                        guests.admit(guest, stream, door, &shared);
                    } else {
                        debug!("{guest} is in no network of {door}'s port");
                    }
                }
                Err(error) => {
                    // Out of descriptors, say: connections that end will give some back.
                    shared.failed(format!("{door} takes no connection: {error}"));
                    sleep(PAUSE).await;
                }
            },
            ended = guests.tasks.join_next_with_id(), if !guests.tasks.is_empty() => match ended {
                Some(Ok((id, ()))) => guests.forget(id),
                Some(Err(error)) => {
                    guests.forget(error.id());
                    if error.is_panic() {
                        shared.failed(format!("{door}: a request ended by a mistake of ours"));
                    }
                }
                None => {}
            },
        }
    }
}

/// The connections of a door.
#[derive(Default)]
struct Guests {
    tasks: JoinSet<()>,
    /// The oldest first.
    connections: VecDeque<(Ipv4Addr, AbortHandle)>,
    counts: HashMap<Ipv4Addr, usize>,
}

impl Guests {
    fn admit(&mut self, guest: Ipv4Addr, stream: TcpStream, door: Door, shared: &Arc<Shared>) {
        if self.counts.get(&guest).is_some_and(|count| *count >= PER_GUEST) {
            self.evict(|owner| owner == guest);
        } else if self.connections.len() >= PER_DOOR {
            self.evict(|_| true);
        } else if shared.connections.load(Ordering::Relaxed) >= ALTOGETHER && !self.evict(|_| true) {
            // None of this door's could go instead.
            return;
        }
        let counted = Counted::new(shared.clone());
        let task = self.tasks.spawn(converse(guest, stream, door.purpose, counted));
        *self.counts.entry(guest).or_default() += 1;
        self.connections.push_back((guest, task));
    }

    /// Ends the oldest connection of these guests; whether there was one.
    fn evict(&mut self, is_candidate: impl Fn(Ipv4Addr) -> bool) -> bool {
        let found = self.connections.iter().position(|(guest, _)| is_candidate(*guest));
        found.map(|at| self.remove(at)).is_some_and(|task| {
            task.abort();
            true
        })
    }

    fn forget(&mut self, id: Id) {
        if let Some(at) = self.connections.iter().position(|(_, task)| task.id() == id) {
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) -> AbortHandle {
        let (guest, task) = self.connections.remove(at).expect("it was found there");
        if let Some(count) = self.counts.get_mut(&guest) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&guest);
            }
        }
        task
    }
}

/// A connection counts for as long as it has this.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: Arc<Shared>) -> Self {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn converse(guest: Ipv4Addr, stream: TcpStream, purpose: Purpose, counted: Counted) {
    let shared = &counted.0;
    let service = service_fn(|request| async move {
        Ok::<_, Infallible>(match purpose {
            Purpose::Metadata => metadata_answer(&request, guest, shared),
            Purpose::Password => password_answer(&request, guest, shared).await,
        })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(LIFE_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("{guest}: {error}"),
        Err(_) => debug!("{guest} took too long"),
    }
}

type Answer = Response<Full<Bytes>>;

fn metadata_answer(request: &Request<Incoming>, guest: Ipv4Addr, shared: &Shared) -> Answer {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return not_allowed("GET, HEAD");
    }
    let served = shared.served();
    let nothing = Guest::default();
    let own = served.metadata.guests.get(&guest).map(Arc::as_ref);
    let found = match metadata::find(request.uri().path(), own.unwrap_or(&nothing)) {
        Some(found) if own.is_some() => found,
        _ => return plain(StatusCode::NOT_FOUND, "not found\n"),
    };
    let mut answer = Response::new(Full::new(found.content));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(found.content_type));
    answer
}

async fn password_answer(request: &Request<Incoming>, guest: Ipv4Addr, shared: &Arc<Shared>) -> Answer {
    let mut answer = if request.method() == Method::GET {
        let word = request.headers().get("domu_request").map(|word| word.as_bytes().to_owned());
        let of = shared.clone();
        // It waits for the disk.
        match spawn_blocking(move || password::answer(word.as_deref(), guest, &of.passwords)).await {
            Ok(Ok((status, text))) => plain(status, &text),
            Ok(Err(error)) => unavailable(shared, guest, &error),
            Err(error) => unavailable(shared, guest, &io::Error::other(error)),
        }
    } else {
        not_allowed("GET")
    };
    answer.headers_mut().insert(SERVER, password::SERVER);
    answer
}

fn unavailable(shared: &Shared, guest: Ipv4Addr, error: &io::Error) -> Answer {
    shared.failed(format!("the password of {guest} is not handed out or not forgotten: {error}"));
    plain(StatusCode::INTERNAL_SERVER_ERROR, "")
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}
