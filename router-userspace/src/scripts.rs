//! CloudStack's scripts: the names under which the management server calls the binary.
//!
//! Each has its exit status and its output from CloudStack's own router, since the management server reads
//! them by exact form.

mod alerts;
mod checkrouter;
mod cks_iso;
mod configure;
mod diagnostics;
mod diagnostics_files;
mod filesystem;
mod get_template_version;
mod haproxy_stats;
mod interface;
mod monitor_results;
mod netusage;
mod patch;
mod service;
pub mod ssh;
mod update_config;
mod vpn;
mod vr_cfg;

use std::ffi::OsString;
use std::time::Duration;

/// Takes the arguments, gives the exit status.
type Script = fn(&[OsString]) -> u8;

/// Every name that is called, of the management server's and its agents' commands.
const SCRIPTS: &[(&str, Script)] = &[
    ("bumpup_priority.sh", service::bump_up_priority),
    ("checkbatchs2svpn.sh", vpn::check_all),
    ("checkrouter.sh", checkrouter::run),
    ("checks2svpn.sh", vpn::check_one),
    ("cks_iso.sh", cks_iso::run),
    ("cleanup.sh", diagnostics_files::clean_up),
    ("configure.py", configure::run),
    ("diagnostics.py", diagnostics::run),
    ("filesystem_writable_check.py", filesystem::run),
    ("get_diagnostics_files.py", diagnostics_files::run),
    ("get_haproxy_stats.sh", haproxy_stats::run),
    ("get_template_version.sh", get_template_version::run),
    ("getRouterAlerts.sh", alerts::run),
    ("getRouterMonitorResults.sh", monitor_results::run),
    ("keystore-cert-import", service::keystore),
    ("keystore-setup", service::keystore),
    ("manage_service.sh", service::manage),
    ("netusage.sh", netusage::run),
    ("update_config.py", update_config::run),
    ("update_interface_config.sh", interface::run),
    ("vpc_netusage.sh", netusage::run_vpc),
    ("vr_cfg.sh", vr_cfg::run),
];

/// A daemon that is just being restarted is waited for: CloudStack does not ask again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The names.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCRIPTS.iter().map(|(name, _)| *name)
}

/// Runs the script of a name, if there is one. Gives the exit status.
pub fn run(name: &str, arguments: &[OsString]) -> Option<u8> {
    let (_, script) = SCRIPTS.iter().find(|(known, _)| *known == name)?;
    Some(script(arguments))
}

/// Arguments as text, without empty ones and without the word `null`, which CloudStack writes where it has none.
fn words(arguments: &[OsString]) -> Vec<String> {
    let words = arguments.iter().map(|argument| argument.to_string_lossy().trim().to_owned());
    words.filter(|word| !word.is_empty() && word != "null").collect()
}

/// Says on standard error what is wrong; the exit status for that.
fn failed(name: &str, message: impl std::fmt::Display) -> u8 {
    eprintln!("{name}: {message}");
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_script_is_left_to_the_command_line() {
        assert_eq!(run("xvr", &[]), None);
    }

    #[test]
    fn no_argument_the_word_null_and_nothing_at_all_are_the_same() {
        let given = ["null", "", " a ", "nullx"].map(OsString::from);
        assert_eq!(words(&given), ["a", "nullx"]);
    }
}
