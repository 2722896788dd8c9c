//! What the router should do and how the operator wants it done, typed and valid; CloudStack's
//! words do not reach here.
//!
//! Invariant: a `DesiredState` that exists is valid. `cloudstack::desired` makes it from the
//! databags, `compile` reads it; neither knows the other. [`Settings`] come from a file of their own.

pub mod balancer;
pub mod bgp;
pub mod dhcp;
pub mod health;
pub mod metadata;
pub mod nat;
pub mod policy;
pub mod port;
pub mod redundancy;
pub mod route;
pub mod services;
pub mod settings;
pub mod ssh;
pub mod trunk;
pub mod vpn;

pub use balancer::Balancer;
pub use bgp::Bgp;
pub use dhcp::Dhcp;
pub use metadata::Metadata;
pub use nat::{ForwardProtocol, Nat, PortForward, PortRange, StaticNat};
pub use policy::Policy;
pub use port::{Mac, Port, PortSelector, SourceNat};
pub use redundancy::{Pair, RouterRole, SharedAddress};
pub use route::{Route, RouteTarget};
pub use services::Services;
pub use settings::{Settings, Timeouts};
pub use ssh::Ssh;
pub use vpn::{RemoteAccess, Tunnel};

/// Everything the router should do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredState {
    /// Ports, in the order of their names.
    pub ports: Vec<Port>,
    /// Routes besides the connected ones, the default routes included.
    pub routes: Vec<Route>,
    /// Static NAT and port forwarding. Each public address is that of a public port.
    pub nat: Nat,
    /// Which new flows may pass.
    pub policy: Policy,
    /// Site-to-site tunnels. Each end of the router's is an address of a port.
    pub tunnels: Vec<Tunnel>,
    /// What people call from outside to be inside. Its port and its lists are among those above.
    pub remote: Option<RemoteAccess>,
    /// The router is one of two, of which one serves.
    pub pair: Option<Pair>,
}
