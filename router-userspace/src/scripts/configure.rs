//! `configure.py`: makes the system hold what the databags say, whichever of them its argument names.

use std::ffi::OsString;

use super::{PATIENCE, failed};
use crate::root::Root;
use crate::rpc::{self, Answer, Request};

const NAME: &str = "configure.py";

/// Returns when nothing differs.
pub fn run(_: &[OsString]) -> u8 {
    match rpc::call(&Root::find(None).socket(), &Request::Converge, PATIENCE) {
        Ok(Answer::Converged) => 0,
        Ok(Answer::Refused(reason)) => failed(NAME, reason),
        Ok(_) => failed(NAME, "the daemon answered something else: is it another version?"),
        Err(error) => failed(NAME, format_args!("{error:#}")),
    }
}
