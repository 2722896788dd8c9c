//! Scripts that manage services of CloudStack's own router. This one's are the daemon's business.

use std::ffi::OsString;

use super::{failed, words};

/// `manage_service.sh ACTION SERVICE`. CloudStack stops and starts keepalived of a pair's backup around a new tier;
/// there is none yet, so nothing has to stop.
pub fn manage(arguments: &[OsString]) -> u8 {
    const NAME: &str = "manage_service.sh";
    match words(arguments).iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["stop" | "start" | "restart", "keepalived"] => {
            eprintln!("{NAME}: there is no keepalived yet: nothing to do");
            0
        }
        [_, service] => failed(NAME, format_args!("{service} is not managed by CloudStack here")),
        _ => failed(NAME, "usage: manage_service.sh start|stop|restart SERVICE"),
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
