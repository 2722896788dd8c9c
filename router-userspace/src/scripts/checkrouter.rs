//! `checkrouter.sh`: which router of a pair this one is.

use std::ffi::OsString;

use super::PATIENCE;
use crate::model::redundancy::RouterRole;
use crate::root::Root;
use crate::rpc::{self, Answer, Request};

/// Prints the role. Whatever becomes of the question, the management server gets an answer.
pub fn run(_: &[OsString]) -> u8 {
    let role = match rpc::call(&Root::find(None).socket(), &Request::Role, PATIENCE) {
        Ok(Answer::Role(role)) => role,
        Ok(_) => {
            eprintln!("checkrouter.sh: the daemon answered something else: is it another version?");
            RouterRole::Fault
        }
        Err(error) => {
            eprintln!("checkrouter.sh: {error:#}");
            RouterRole::Fault
        }
    };
    println!("Status: {role}");
    0
}
