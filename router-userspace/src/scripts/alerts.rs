//! `getRouterAlerts.sh DATE TIME`: alerts that are newer.

use std::ffi::OsString;

use super::{failed, words};
use crate::alerts;
use crate::root::Root;

const NAME: &str = "getRouterAlerts.sh";

/// Prints the lines, the oldest first, with a backslash and an n behind each.
pub fn run(arguments: &[OsString]) -> u8 {
    let date_time = words(arguments).join(" ");
    if !alerts::is_date_time(&date_time) {
        return failed(NAME, "usage: getRouterAlerts.sh yyyy-MM-dd HH:mm:ss");
    }
    match alerts::since(&Root::find(None), &date_time) {
        Ok(lines) if lines.is_empty() => println!("No Alerts"),
        Ok(lines) => println!("{}", lines.iter().map(|line| format!("{line}\\n")).collect::<String>()),
        Err(error) => return failed(NAME, format_args!("read the alerts: {error}")),
    }
    0
}
