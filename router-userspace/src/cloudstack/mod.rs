//! CloudStack's words: the only room that speaks them.
//!
//! ```text
//! JSON file ──Command::parse──▶ Command ──Databags::merge──▶ Databags ──desired──▶ DesiredState
//! boot line ──from_boot_line──▶               ▲ load, save
//! ```
//!
//! [`Command`] is one message, [`Databags`] is all that was said so far, in the files and shapes of
//! CloudStack's own router, [`desired`] is what it means. Everything but `load` and `save` is pure.
//! Every error is a [`ConfigError`](crate::error::ConfigError): file, JSON pointer, message.
//!
//! Which keys are understood and how they are read is in `docs/cloudstack.md`.

pub mod cmdline;
pub mod command;
pub mod databag;
pub mod desired;
mod object;
mod raw;
mod services;
mod unserved;
pub mod wire;

pub use cmdline::from_boot_line;
pub use command::{Command, Parsed};
pub use databag::{Databags, Files};
pub use desired::{Boot, boot, desired, metadata, notices, remarks};
pub use services::{balancer, services};
pub use unserved::unserved;
