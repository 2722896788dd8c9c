//! What the first packet of a flow decides: whom it is for and whom it is from.

use std::net::IpAddr;

use router_common::port::Role;
use router_userspace::model::nat::ForwardProtocol;

use super::places::{Route, first_address};
use super::probe::Tuple;
use super::{Model, OWN_PORTS, Port, Translated, Why};
use crate::scenario::Nic;

/// Where a packet goes that no flow knows.
pub enum Destination {
    /// To a guest, by a rule or a binding.
    Guest(IpAddr, u16),
    /// To the router.
    Router,
    /// Where it says.
    Itself,
}

impl Model {
    /// Where a packet really goes: static NAT, then forwardings, then, for guests, bindings.
    pub(super) fn destination(&self, nic: Nic, tuple: Tuple) -> Destination {
        let IpAddr::V4(dst) = tuple.dst else {
            return if self.places.is_local(tuple.dst) { Destination::Router } else { Destination::Itself };
        };
        if let Some(rule) = self.rules.static_nats.iter().find(|rule| rule.public == dst) {
            return Destination::Guest(rule.internal.into(), tuple.ports.1);
        }
        for rule in self.rules.forwards.iter().filter(|rule| rule.public == dst) {
            let protocol = match rule.protocol {
                ForwardProtocol::Tcp => 6,
                ForwardProtocol::Udp => 17,
                ForwardProtocol::Any => tuple.protocol,
            };
            let IpAddr::V4(src) = tuple.src else { continue };
            let may_ask =
                rule.sources.is_empty() || rule.sources.iter().any(|network| network.contains(&src));
            if tuple.protocol == protocol
                && may_ask
                && let Some(port) = rule.internal_port(tuple.ports.1)
            {
                return Destination::Guest(rule.internal.into(), port);
            }
        }
        // A guest's socket is reached by who has its external address; a ping has no such port.
        if nic.role() == Role::Guest
            && matches!(tuple.protocol, 6 | 17)
            && let Some(&(guest, port)) = self.externals.get(&(tuple.protocol, tuple.dst, tuple.ports.1))
        {
            return Destination::Guest(guest, port);
        }
        if self.places.is_local(tuple.dst) { Destination::Router } else { Destination::Itself }
    }

    fn static_public(&self, guest: IpAddr) -> Option<IpAddr> {
        let rule = self.rules.static_nats.iter().find(|rule| IpAddr::V4(rule.internal) == guest);
        rule.map(|rule| rule.public.into())
    }

    /// The way out: the routes', but a guest with a public address leaves by that address's NIC.
    pub(super) fn way_out(&self, from: Nic, left: Tuple) -> Route {
        let route = self.places.route(left.dst, None);
        if let Route::By(nic, _) = route
            && nic.role() == Role::Public
            && from.role() == Role::Guest
            && let Some(home) = self.static_public(left.src).and_then(|public| self.places.home(public))
        {
            return self.places.route(left.dst, Some(home));
        }
        route
    }

    /// Whom a flow's packets are from, once they have left.
    pub(super) fn source(
        &self,
        from: Nic,
        to: Nic,
        asked: Tuple,
        left: &mut Tuple,
        translated: &mut Translated,
    ) -> Result<Port, Why> {
        let keep = |left: &Tuple| {
            // Nor is a flow its own answer.
            let is_free = left.reversed() != asked && !self.index.contains_key(&left.reversed());
            if is_free { Ok(Port::Is(left.ports.0)) } else { Err(Why::NoPort) }
        };
        if !matches!(left.src, IpAddr::V4(_)) || from.role() != Role::Guest {
            return keep(left);
        }
        let guest = left.src;
        if to.role() == Role::Public {
            translated.source = true;
            if let Some(public) = self.static_public(left.src) {
                left.src = public;
                return keep(left);
            }
            left.src = first_address(to);
            if !matches!(left.protocol, 1 | 6 | 17) {
                return keep(left);
            }
            let socket = (left.protocol, guest, left.ports.0, left.src);
            if let Some(&port) = self.bindings.get(&socket) {
                let wanted = std::mem::replace(&mut left.ports.0, port);
                return Ok(keep(left).unwrap_or(Port::Like(wanted)));
            }
            let port = left.ports.0;
            let is_kept = port != 0 && !OWN_PORTS.contains(&port) && !self.is_taken(left, port);
            return Ok(if is_kept { Port::Is(port) } else { Port::Like(port) });
        }
        // Hairpin: a guest of the tier has to see its answers come back to the router.
        if from == to && translated.destination {
            translated.source = true;
            left.src = first_address(from);
            if !matches!(left.protocol, 1 | 6 | 17) {
                return keep(left);
            }
            let is_kept = !OWN_PORTS.contains(&left.ports.0) && keep(left).is_ok();
            return Ok(if is_kept { Port::Is(left.ports.0) } else { Port::Like(left.ports.0) });
        }
        keep(left)
    }

    pub(super) fn is_taken(&self, left: &Tuple, port: u16) -> bool {
        self.externals.contains_key(&(left.protocol, left.src, port))
    }
}
