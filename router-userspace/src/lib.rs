//! The control walk of XVR: CloudStack's words in, a forwarding router out.
//!
//! ```text
//! command → databag → desired state → compiled → plan → applied → observed again
//! └──── cloudstack ────┘   └ model ┘   └ compile ┘ └────── reconcile, dataplane ──────┘
//! ```
//!
//! [`daemon`] walks it from top to bottom for every command, kernel event and timer.

pub mod alerts;
mod beside;
pub mod calendar;
pub mod classifier;
pub mod cli;
pub mod cloudstack;
pub mod compile;
pub mod daemon;
pub mod dataplane;
pub mod error;
pub mod generation;
pub mod health;
pub mod http;
pub mod install;
pub mod json;
mod legacy;
pub mod model;
mod parallel;
pub mod program;
mod raw_netlink;
pub mod reconcile;
pub mod root;
pub mod rpc;
pub mod scripts;
pub mod services;
pub mod settings;
pub mod show;
pub mod trunks;
