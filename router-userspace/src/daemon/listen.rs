//! The socket: connections carry requests to the one task that owns the router.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::root::Root;
use crate::rpc::{Answer, LONGEST_LINE, Request};

/// A request and who waits for its answer.
pub struct Question {
    pub request: Request,
    pub reply: Reply,
}

/// Who waits for an answer.
pub struct Reply {
    answer: oneshot::Sender<Answer>,
    written: oneshot::Receiver<()>,
}

impl Reply {
    /// Answers, and waits until it is written or the other side has gone, so that a daemon that is
    /// about to end answers its last request.
    pub async fn send(self, answer: Answer) {
        if self.answer.send(answer).is_ok() {
            let _ = self.written.await;
        }
    }
}

/// Takes connections.
pub struct Listener {
    path: PathBuf,
    questions: mpsc::UnboundedReceiver<Question>,
    // Its own sender keeps the channel open.
    _sender: mpsc::UnboundedSender<Question>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens at the root's socket; must be called by the one daemon that has the root.
    pub fn open(root: &Root) -> Result<Self> {
        let path = root.socket();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove the old {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).with_context(|| format!("listen at {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("set the mode of {}", path.display()))?;
        let (sender, questions) = mpsc::unbounded_channel();
        let task = tokio::spawn(accept(listener, sender.clone()));
        Ok(Self { path, questions, _sender: sender, task })
    }

    /// The next request.
    pub async fn next(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }

    /// Takes no more connections.
    pub fn close(&mut self) {
        self.task.abort();
        if let Err(error) = fs::remove_file(&self.path) {
            debug!("removing {}: {error}", self.path.display());
        }
    }
}

async fn accept(listener: UnixListener, questions: mpsc::UnboundedSender<Question>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let questions = questions.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &questions).await {
                        debug!("a connection broke: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, say: connections that end will give some back.
                warn!("taking a connection failed: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, questions: &mpsc::UnboundedSender<Question>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        (&mut read).take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let (done, written) = oneshot::channel();
        let answer = match serde_json::from_slice(&line) {
            Ok(request) => ask(request, written, questions).await,
            Err(error) => Answer::Refused(format!("the request makes no sense: {error}")),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        write.write_all(&line).await?;
        let _ = done.send(());
    }
}

async fn ask(
    request: Request,
    written: oneshot::Receiver<()>,
    questions: &mpsc::UnboundedSender<Question>,
) -> Answer {
    let (sender, answer) = oneshot::channel();
    let question = Question { request, reply: Reply { answer: sender, written } };
    let ended = || Answer::Refused("the daemon is ending".to_owned());
    if questions.send(question).is_err() {
        return ended();
    }
    answer.await.unwrap_or_else(|_| ended())
}
