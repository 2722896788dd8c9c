//! Scripts that manage services of CloudStack's own router. This one's are the daemon's business.

use std::ffi::OsString;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{PATIENCE, failed, words};
use crate::root::Root;
use crate::rpc::{self, Answer, Request};
use crate::services::keepalived;

/// `manage_service.sh ACTION SERVICE`. CloudStack stops keepalived of a pair's backup before it sets up a new tier,
/// and starts it if that failed.
pub fn manage(arguments: &[OsString]) -> u8 {
    const NAME: &str = "manage_service.sh";
    let done = match words(arguments).iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["stop", keepalived::NAME] => stop(),
        ["start", keepalived::NAME] => take_part(true),
        ["restart", keepalived::NAME] => stop().and_then(|()| take_part(true)),
        [_, service] => return failed(NAME, format_args!("{service} is not managed by CloudStack here")),
        _ => return failed(NAME, "usage: manage_service.sh start|stop|restart SERVICE"),
    };
    done.map_or_else(|error| failed(NAME, format_args!("{error:#}")), |()| 0)
}

/// Returns when it has ended.
fn stop() -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(50);
    take_part(false)?;
    let deadline = Instant::now() + PATIENCE;
    while runs()? {
        if Instant::now() >= deadline {
            bail!("keepalived still runs after {PATIENCE:?}");
        }
        sleep(PAUSE);
    }
    Ok(())
}

fn runs() -> Result<bool> {
    match rpc::call_again(&Root::find(None).socket(), &Request::Status, PATIENCE)? {
        Answer::Status(status) => Ok(status
            .services
            .iter()
            .any(|service| service.name == keepalived::NAME && service.pid.is_some())),
        _ => bail!("the daemon answered something else: is it another version?"),
    }
}

fn take_part(does: bool) -> Result<()> {
    match rpc::call_again(&Root::find(None).socket(), &Request::TakePart(does), PATIENCE)? {
        Answer::TakenPart => Ok(()),
        Answer::Refused(reason) => bail!(reason),
        _ => bail!("the daemon answered something else: is it another version?"),
    }
}

/// `bumpup_priority.sh`, left over from old redundant routers: their priority is nobody's business any more.
pub fn bump_up_priority(_: &[OsString]) -> u8 {
    0
}

/// `keystore-setup`, `keystore-cert-import`: of system VMs with an agent, which a router has not.
pub fn keystore(_: &[OsString]) -> u8 {
    eprintln!("a router has no agent and no keystore: nothing to do");
    0
}
