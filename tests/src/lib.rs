//! Scenarios and the harness.

pub mod host;
pub mod kernel;
pub mod packet;
pub mod scenario;
pub mod world;
