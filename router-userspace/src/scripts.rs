//! CloudStack's scripts: the names under which the management server calls the binary.
//!
//! `update_config.py NAME [false]` returns when the change is in force. The others come with later
//! releases, and refuse until then: a script that pretends would make the management server
//! believe in a router that it does not have.

use std::ffi::OsString;
use std::time::Duration;

use crate::root::Root;
use crate::rpc::{self, Afterwards, Answer, Request};

/// Every name that is called, of the management server's and its agents' commands.
pub const NAMES: &[&str] = &[
    UPDATE_CONFIG,
    "bumpup_priority.sh",
    "checkbatchs2svpn.sh",
    "checkrouter.sh",
    "cks_iso.sh",
    "cleanup.sh",
    "configure.py",
    "diagnostics.py",
    "filesystem_writable_check.py",
    "get_diagnostics_files.py",
    "get_haproxy_stats.sh",
    "get_template_version.sh",
    "getRouterAlerts.sh",
    "getRouterMonitorResults.sh",
    "keystore-cert-import",
    "keystore-setup",
    "manage_service.sh",
    "netusage.sh",
    "update_interface_config.sh",
    "vpc_netusage.sh",
    "vr_cfg.sh",
];

const UPDATE_CONFIG: &str = "update_config.py";

/// A daemon that is just being restarted is waited for: CloudStack does not ask again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the script of a name, if there is one. Gives the exit status.
pub fn run(name: &str, arguments: &[OsString]) -> Option<u8> {
    let known = NAMES.iter().find(|known| **known == name)?;
    if *known == UPDATE_CONFIG {
        return Some(update_config(arguments));
    }
    eprintln!("{name}: not supported by this release");
    Some(1)
}

fn update_config(arguments: &[OsString]) -> u8 {
    let request = match parse(arguments) {
        Ok(request) => request,
        Err(usage) => {
            eprintln!("{UPDATE_CONFIG}: {usage}");
            return 1;
        }
    };
    match rpc::call(&Root::find(None).socket(), &request, PATIENCE) {
        Ok(Answer::Applied { applied, refused }) => {
            for warning in applied.iter().flat_map(|document| &document.warnings) {
                eprintln!("{UPDATE_CONFIG}: warning: {warning}");
            }
            match refused {
                None => 0,
                Some(reason) => {
                    eprintln!("{UPDATE_CONFIG}: {reason}");
                    1
                }
            }
        }
        Ok(Answer::Refused(reason)) => {
            eprintln!("{UPDATE_CONFIG}: {reason}");
            1
        }
        Ok(_) => {
            eprintln!("{UPDATE_CONFIG}: the daemon answered something else");
            1
        }
        Err(error) => {
            eprintln!("{UPDATE_CONFIG}: {error:#}");
            1
        }
    }
}

fn parse(arguments: &[OsString]) -> Result<Request, String> {
    let (name, afterwards) = match arguments {
        [name] => (name, Afterwards::Archive),
        [name, keep] if keep == "false" => (name, Afterwards::Delete),
        [name, _] => (name, Afterwards::Archive),
        _ => return Err("usage: update_config.py FILE [false]".to_owned()),
    };
    let name = name.to_str().ok_or("the file's name is not UTF-8")?.to_owned();
    Ok(Request::UpdateConfig { name, afterwards })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(arguments: &[&str]) -> Result<Request, String> {
        parse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn update_config_takes_one_or_two_arguments() {
        let update = |afterwards| Ok(Request::UpdateConfig { name: "ips.json.1".to_owned(), afterwards });
        assert_eq!(request(&["ips.json.1"]), update(Afterwards::Archive));
        assert_eq!(request(&["ips.json.1", "false"]), update(Afterwards::Delete));
        assert_eq!(request(&["ips.json.1", "true"]), update(Afterwards::Archive));
        assert!(request(&[]).is_err());
        assert!(request(&["a", "false", "b"]).is_err());
    }

    #[test]
    fn what_is_not_there_yet_refuses() {
        assert_eq!(run("netusage.sh", &[]), Some(1));
        assert_eq!(run("xvr", &[]), None);
    }
}
