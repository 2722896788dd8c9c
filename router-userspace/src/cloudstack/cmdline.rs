//! The raw boot line, as the hypervisor delivers it: blank-separated `key=value`.

use serde_json::Value;

use super::object::{Entry, Object};
use super::wire::cmdline::CmdLine;
use crate::error::ConfigError;
use crate::json::Place;

/// Reads a boot line. `file` names it in errors, whose path is that of the key in the
/// `cmd_line.json` that CloudStack's own router makes of the line.
///
/// A pair ends its key at the first `=`, since values may be base64 with padding. Of a repeated
/// key the last value counts. Words without `=` are the kernel's own and are left out.
///
/// # Errors
///
/// As for a `cmd_line.json`: no or an unknown `type`, an address that is none, an address without
/// its mask.
pub fn from_boot_line(file: &str, line: &str) -> Result<CmdLine, ConfigError> {
    let pairs = line.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    let config: Entry = pairs.map(|(key, value)| (key.to_owned(), Value::String(value.to_owned()))).collect();
    CmdLine::read(&Object::new(Place::document(file).at("cmd_line"), &config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_at_the_first_equals_sign_and_the_last_of_a_repeated_key_counts() {
        let line = "  quiet type=router  name=a userdata=QUJD== name=b ";
        let boot = from_boot_line("cmdline", line).expect("valid");
        assert_eq!(boot.config["userdata"], "QUJD==");
        assert_eq!(boot.config["name"], "b");
        assert_eq!(boot.config.len(), 3);
    }

    #[test]
    fn errors_name_the_key() {
        let error = |line| from_boot_line("cmdline", line).unwrap_err().to_string();
        let twice = "type=router nic_macs=02:00:00:00:00:01|02:00:00:00:00:01";
        assert_eq!(error(twice), "cmdline#/cmd_line/nic_macs: 02:00:00:00:00:01 is there twice");
        assert_eq!(error("name=r-1-VM"), "cmdline#/cmd_line/type: missing");
        assert_eq!(
            error("type=ilbvm"),
            "cmdline#/cmd_line/type: \"ilbvm\" is none of router, vpcrouter, dhcpsrvr"
        );
        assert_eq!(error("type=router eth0ip=10.1.1.1"), "cmdline#/cmd_line/eth0mask: missing");
        assert_eq!(
            error("type=router eth0ip=10.1.1 eth0mask=255.255.255.0"),
            "cmdline#/cmd_line/eth0ip: \"10.1.1\" is no IPv4 address"
        );
    }
}
