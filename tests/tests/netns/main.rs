//! The router in network namespaces, with real kernels, daemons and clients.
//!
//! One program, so that its tests are built and run together.

mod balance;
mod bgp;
mod bridge;
mod control;
mod dhcp;
mod evpn;
mod flood;
mod forward;
mod fragments;
mod guard;
mod helpers;
mod import;
mod jumbo;
mod kernel_peers;
mod lab;
mod management;
mod messages;
mod metadata;
mod nat;
mod ospf;
mod pair;
mod payloads;
mod people;
mod policy;
mod power;
mod reconcile;
mod restart;
mod rfc;
mod rules;
mod scan;
mod scripts;
mod services;
mod settings;
mod site2site;
mod start;
mod timers;
mod trunk;
mod unsolicited;
mod usage;
mod vpn;
mod vxlan;
