//! What the databags mean for the daemons that work is left to.
//!
//! Each kind is read by itself, from its own databag and from what is forwarded: what is wrong with one keeps no
//! other from being served.

mod balancer;
mod bgp;
mod dhcp;
mod remote;
mod ssh;

pub use self::balancer::balancer;

use super::databag::Databags;
use super::object::Object;
use super::wire::cmdline::CmdLine;
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::{DesiredState, Services};

/// What the daemons should do, and what of the databags they cannot, with the places in these.
pub fn services(bags: &Databags, desired: &DesiredState) -> (Services, Vec<ConfigError>) {
    let mut notices = Vec::new();
    let Some(boot) = boot(bags) else { return (Services::default(), notices) };
    let ssh = ssh::ssh(&boot, &desired.ports, &mut notices);
    let dhcp = dhcp::dhcp(bags, &boot, &desired.ports, &mut notices);
    // What is wrong with their databags, forwarding says.
    let balancer = bags.balancer().ok().flatten().map(|said| balancer(&said));
    let peers = bags.bgp_peers().unwrap_or_default();
    let bgp = bgp::bgp(&peers, &desired.ports, &mut notices);
    let remote = desired.remote.clone().map(|server| (server, remote::users(bags, &mut notices)));
    let (pair, tunnels) = (desired.pair.clone(), desired.tunnels.clone());
    (Services { ssh, dhcp, balancer, bgp, pair, tunnels, remote }, notices)
}

/// The boot line, if it is there and sound; if not, forwarding says so.
fn boot(bags: &Databags) -> Option<CmdLine> {
    let config = bags.cmdline.as_ref()?;
    CmdLine::read(&Object::new(Place::document("cmdline.json").at("config"), config)).ok()
}
