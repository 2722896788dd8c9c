//! What the daemons do that work is left to.

use super::{Balancer, Bgp, Ssh};

/// All of it, each kind by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// How the router is reached by those who tell it all this; nothing while it has no control NIC.
    pub ssh: Option<Ssh>,
    /// What spreads connections over servers; nothing before CloudStack has said how.
    pub balancer: Option<Balancer>,
    /// What tells others of guests' networks; nothing while there is nobody to tell.
    pub bgp: Option<Bgp>,
}
