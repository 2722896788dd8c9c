//! What the daemons do that work is left to.

use super::vpn::User;
use super::{Balancer, Bgp, Dhcp, Pair, RemoteAccess, Ssh, Tunnel};

/// All of it, each kind by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// How the router is reached by those who tell it all this; nothing while it has no control NIC.
    pub ssh: Option<Ssh>,
    /// Tunnels to other sites.
    pub tunnels: Vec<Tunnel>,
    /// What people call from outside to be inside, and who may.
    pub remote: Option<(RemoteAccess, Vec<User>)>,
    /// How the router finds out whether it is the one of a pair that serves.
    pub pair: Option<Pair>,
    /// Addresses and names for guests; nothing while there is no guest network.
    pub dhcp: Option<Dhcp>,
    /// What spreads connections over servers; nothing before CloudStack has said how.
    pub balancer: Option<Balancer>,
    /// What tells others of guests' networks; nothing while there is nobody to tell.
    pub bgp: Option<Bgp>,
}
