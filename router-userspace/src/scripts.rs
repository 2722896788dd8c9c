//! CloudStack's scripts: the names under which the management server calls the binary.
//!
//! Each has its exit status and its output from CloudStack's own router, since the management server reads
//! them by exact form. One that this release does not have refuses: a script that pretends would make the
//! management server believe in a router that it does not have.

mod netusage;
mod update_config;

use std::ffi::OsString;
use std::time::Duration;

/// Takes the arguments, gives the exit status.
type Script = fn(&[OsString]) -> u8;

/// Every name that is called, of the management server's and its agents' commands.
const SCRIPTS: &[(&str, Script)] = &[
    ("bumpup_priority.sh", missing),
    ("checkbatchs2svpn.sh", missing),
    ("checkrouter.sh", missing),
    ("cks_iso.sh", missing),
    ("cleanup.sh", missing),
    ("configure.py", missing),
    ("diagnostics.py", missing),
    ("filesystem_writable_check.py", missing),
    ("get_diagnostics_files.py", missing),
    ("get_haproxy_stats.sh", missing),
    ("get_template_version.sh", missing),
    ("getRouterAlerts.sh", missing),
    ("getRouterMonitorResults.sh", missing),
    ("keystore-cert-import", missing),
    ("keystore-setup", missing),
    ("manage_service.sh", missing),
    ("netusage.sh", netusage::run),
    ("update_config.py", update_config::run),
    ("update_interface_config.sh", missing),
    ("vpc_netusage.sh", netusage::run_vpc),
    ("vr_cfg.sh", missing),
];

/// A daemon that is just being restarted is waited for: CloudStack does not ask again.
const PATIENCE: Duration = Duration::from_secs(10);

/// The names.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCRIPTS.iter().map(|(name, _)| *name)
}

/// Runs the script of a name, if there is one. Gives the exit status.
pub fn run(name: &str, arguments: &[OsString]) -> Option<u8> {
    let (_, script) = SCRIPTS.iter().find(|(known, _)| *known == name)?;
    Some(script(arguments))
}

fn missing(_: &[OsString]) -> u8 {
    eprintln!("not supported by this release");
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_script_is_left_to_the_command_line() {
        assert_eq!(run("xvr", &[]), None);
    }
}
