//! The services of CloudStack's own router, whose work XVR does itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::program::{self, Ran};
use crate::root::Root;

/// What holds ports that XVR serves, or would program rules of its own: the web server with the metadata, one
/// password server per guest address, the server of SSH (the daemon has one of its own on the same port; sessions
/// that are there go on), daemons that XVR runs with files of its own, and what set the router up at boot.
const UNITS: [&str; 13] = [
    "apache2.service",
    "cloud-password-server@*.service",
    "ssh.service",
    "dnsmasq.service",
    "radvd.service",
    "haproxy.service",
    "keepalived.service",
    "conntrackd.service",
    "frr.service",
    "strongswan-starter.service",
    "xl2tpd.service",
    "cloud-early-config.service",
    "cloud-postinit.service",
];

/// Runs its health checks and starts its services again.
const CRON: &str = "/etc/cron.d/process";

/// Ends them, and keeps them from starting again. Others stay as they are. Does
/// nothing where the router has not the whole machine, or systemd does not run it.
///
/// # Errors
/// One of them is there and does not end.
pub fn stop(root: &Root) -> Result<()> {
    if root.path() != Path::new("/") || !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for unit in UNITS {
        systemctl(&["stop", unit])?;
        // A name with a star is none that could be disabled, and comes from a template.
        let name = unit.replace('*', "");
        if unit_exists(&name)? {
            systemctl(&["disable", &name])?;
        }
    }
    if Path::new(CRON).exists() {
        std::fs::remove_file(CRON).with_context(|| format!("remove {CRON}"))?;
    }
    Ok(())
}

fn unit_exists(name: &str) -> Result<bool> {
    Ok(run(&["cat", name])?.succeeded())
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let ran = run(arguments)?;
    match ran.code() {
        // 5: there is no such unit.
        0 | 5 => Ok(()),
        _ => bail!("systemctl {}: {}", arguments.join(" "), ran.stderr.trim()),
    }
}

fn run(arguments: &[&str]) -> Result<Ran> {
    // As long as systemd gives a unit to end by itself, and then some.
    const TIME: Duration = Duration::from_secs(120);
    program::run("systemctl", arguments, TIME).context("run systemctl")
}
