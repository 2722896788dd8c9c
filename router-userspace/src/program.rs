//! Other programs, run to their end or to a deadline, and never by a shell.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What a program that ran has to say.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How it ended; `None`: it was ended, because it took too long.
    pub status: Option<ExitStatus>,
}

impl Ran {
    /// Whether it ended by itself, with status 0.
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Its exit status as a shell has it: 124 if it took too long, 128 and the signal if one ended it.
    pub fn code(&self) -> i32 {
        self.status.map_or(124, |status| {
            status.code().unwrap_or_else(|| 128_i32.saturating_add(status.signal().unwrap_or(0)))
        })
    }
}

/// Runs a program of the usual folders with these arguments, and ends it and its children after `limit`.
///
/// # Errors
/// It cannot be started: it is not installed, say.
pub fn run(program: &str, arguments: &[impl AsRef<OsStr>], limit: Duration) -> io::Result<Ran> {
    // Who comes by ssh has not always those of the administrator.
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let status = wait(&mut child, limit)?;
    let text = |reader: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    Ok(Ran { stdout: text(stdout), stderr: text(stderr), status })
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    const PAUSE: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            // SAFETY: a plain system call; the child is not reaped yet, so the group is its.
            unsafe { libc::kill(-child.id().cast_signed(), libc::SIGKILL) };
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
}

/// Up to so much: what says more finds its pipe closed.
const MOST: u64 = 16 << 20;

fn read(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before an error counts.
            let _ = pipe.take(MOST).read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_and_how_it_ends_comes_back() {
        let long = Duration::from_secs(60);
        let ran = run("sh", &["-c", "echo out; echo err >&2; exit 3"], long).unwrap();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code()), ("out\n", "err\n", 3));
        let killed = run("sh", &["-c", "kill -9 $$"], long).unwrap();
        assert_eq!(killed.code(), 137);
        assert_eq!(run("no-such-program", &[""; 0], long).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_takes_too_long_ends_with_its_children() {
        let ran =
            run("sh", &["-c", "echo begun; sleep 1000 & sleep 1000"], Duration::from_millis(300)).unwrap();
        assert!(!ran.succeeded());
        assert_eq!((ran.stdout.as_str(), ran.code()), ("begun\n", 124));
    }
}
