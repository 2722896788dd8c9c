//! Scenarios and the harness.

pub mod balancer;
pub mod capture;
pub mod clients;
pub mod daemons;
pub mod datagrams;
pub mod dhcp;
pub mod flood;
pub mod frames;
pub mod fuzz;
pub mod host;
pub mod journeys;
pub mod kernel;
pub mod lab;
pub mod management;
pub mod model;
pub mod nat;
pub mod needs;
pub mod netns;
pub mod packet;
pub mod pair;
pub mod router;
pub mod rules;
pub mod scenario;
pub mod servers;
pub mod vpn;
pub mod world;
