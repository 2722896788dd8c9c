//! `get_template_version.sh`: which release this is, said once the router can take commands.
//!
//! CloudStack asks as soon as it reaches the router by SSH, and takes the answer for the sign that
//! everything else may be sent.

use std::ffi::OsString;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::patch;
use crate::root::Root;
use crate::rpc::{self, Answer, Request};

/// As long as CloudStack's own router waits for its boot to end.
const LONGEST: Duration = Duration::from_secs(240);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Arguments are not looked at.
pub fn run(_: &[OsString]) -> u8 {
    let root = Root::find(None);
    match wait(&root).and_then(|()| said(&root)) {
        Ok(line) => {
            println!("{line}");
            0
        }
        Err(error) => {
            eprintln!("get_template_version.sh: {error:#}");
            1
        }
    }
}

fn wait(root: &Root) -> Result<()> {
    let deadline = Instant::now() + LONGEST;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match rpc::call(&root.socket(), &Request::Status, left)? {
            Answer::Status(status) if status.booted => return Ok(()),
            Answer::Status(_) if !left.is_zero() => thread::sleep(PAUSE),
            Answer::Status(_) => bail!("the router has no boot line yet"),
            _ => bail!("the daemon answered something else: is it another version?"),
        }
    }
}

/// Two words with one ampersand in between, whatever the files hold.
fn said(root: &Root) -> Result<String> {
    let path = root.release();
    let release = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let release = release.lines().next().unwrap_or_default().trim().replace('&', "");
    let signature = patch::signature(root)?;
    // With nothing behind the ampersand CloudStack would find one word.
    let signature = if signature.is_empty() { "none" } else { &signature };
    Ok(format!("{release}&{signature}"))
}
