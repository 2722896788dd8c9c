//! What the router should do and how the operator wants it done, typed and valid; CloudStack's
//! words do not reach here.
//!
//! Invariant: a `DesiredState` that exists is valid. `cloudstack::desired` makes it from the
//! databags, `compile` reads it; neither knows the other. [`Settings`] come from a file of their own.

pub mod metadata;
pub mod nat;
pub mod policy;
pub mod port;
pub mod route;
pub mod settings;

pub use metadata::Metadata;
pub use nat::{ForwardProtocol, Nat, PortForward, PortRange, StaticNat};
pub use policy::Policy;
pub use port::{Mac, Port, PortSelector, SourceNat};
pub use route::{Route, RouteTarget};
pub use settings::{Settings, Timeouts};

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
    /// What guests are told about themselves.
    pub metadata: Metadata,
}
