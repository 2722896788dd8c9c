//! Links, addresses, routes and neighbours, by rtnetlink. One dump per kind and observation.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use futures_util::future::ready;
use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec};

use super::neighbours::Neighbour;
use super::takeover::is_its_table;
use crate::compile::{KernelRoute, KernelTarget, ROUTE_PROTOCOL};

/// A connection to the kernel's routing subsystem, of the network namespace it was opened in.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens a connection; must be called within a tokio runtime, which keeps it going.
    pub fn open() -> Result<Self> {
        // Strict: the kernel refuses what it does not understand, and filters dumps of routes.
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().context("open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// XVR's routes in the main table.
    pub async fn routes(&self) -> Result<BTreeSet<KernelRoute>> {
        let mut routes = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            let mut messages = self.dump(RouteNetlinkMessage::GetRoute(message))?;
            while let Some(message) = messages.next().await {
                if let RouteNetlinkMessage::NewRoute(message) = message? {
                    routes.extend(own_route(&message));
                }
            }
        }
        Ok(routes)
    }

    /// The rules of routing policy that CloudStack's own router has made.
    pub async fn foreign_rules(&self) -> Result<Vec<RuleMessage>> {
        let mut rules = Vec::new();
        for family in [IpVersion::V4, IpVersion::V6] {
            let mut messages = self.handle.rule().get(family).execute();
            while let Some(message) = messages.try_next().await.context("list rules of routing policy")? {
                let table = message.attributes.iter().find_map(|attribute| match attribute {
                    RuleAttribute::Table(number) => Some(*number),
                    _ => None,
                });
                if is_its_table(table.unwrap_or(u32::from(message.header.table))) {
                    rules.push(message);
                }
            }
        }
        Ok(rules)
    }

    /// The routes that CloudStack's own router has made: those of its tables, and those of the main table that
    /// lead out by these links and are neither the kernel's nor XVR's.
    pub async fn foreign_routes(&self, links: &BTreeSet<u32>) -> Result<Vec<RouteMessage>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let mut messages = self.dump(RouteNetlinkMessage::GetRoute(message))?;
            while let Some(message) = messages.next().await {
                let RouteNetlinkMessage::NewRoute(message) = message? else { continue };
                let is_by_hand =
                    matches!(message.header.protocol, RouteProtocol::Boot | RouteProtocol::Static);
                let leaves_by_port = message.attributes.iter().any(
                    |attribute| matches!(attribute, RouteAttribute::Oif(index) if links.contains(index)),
                );
                let table = table_of(&message);
                if is_its_table(table)
                    || table == u32::from(RouteHeader::RT_TABLE_MAIN) && is_by_hand && leaves_by_port
                {
                    routes.push(message);
                }
            }
        }
        Ok(routes)
    }

    /// Removes a rule of routing policy; one that has gone is no error.
    pub async fn remove_foreign_rule(&self, rule: &RuleMessage) -> Result<()> {
        gone_is_fine(self.request(RouteNetlinkMessage::DelRule(rule.clone()), 0).await)
    }

    /// Removes a route as it was listed; one that has gone is no error.
    pub async fn remove_foreign_route(&self, route: &RouteMessage) -> Result<()> {
        gone_is_fine(self.request(RouteNetlinkMessage::DelRoute(route.clone()), 0).await)
    }

    /// Puts a route back as it was listed, in the place of whatever is there now.
    pub async fn restore_foreign_route(&self, route: &RouteMessage) -> Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(route.clone()), NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Every neighbour of both families.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>> {
        let mut neighbours = Vec::new();
        let mut messages = self.handle.neighbours().get().execute();
        while let Some(message) = messages.try_next().await.context("list neighbours")? {
            neighbours.extend(Neighbour::from_message(&message));
        }
        Ok(neighbours)
    }

    /// Sets a link's MTU.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u16) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).mtu(u32::from(mtu)).build();
        Ok(self.handle.link().set(message).execute().await?)
    }

    /// Switches a link on.
    pub async fn set_up(&self, ifindex: u32) -> Result<()> {
        Ok(self.handle.link().set(LinkUnspec::new_with_index(ifindex).up().build()).execute().await?)
    }

    /// Switches a link off.
    pub async fn set_down(&self, ifindex: u32) -> Result<()> {
        Ok(self.handle.link().set(LinkUnspec::new_with_index(ifindex).down().build()).execute().await?)
    }

    /// Removes an address.
    pub async fn remove_address(&self, ifindex: u32, address: IpNet) -> Result<()> {
        let added =
            self.handle.address().add(ifindex, address.addr(), address.prefix_len()).message_mut().clone();
        Ok(self.handle.address().del(added).execute().await?)
    }

    /// Adds a route, which must not be there yet.
    pub async fn add_route(&self, route: &KernelRoute) -> Result<()> {
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        self.request(message, NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Puts a route in the place of XVR's other one to the same destination, in one step.
    pub async fn replace_route(&self, route: &KernelRoute) -> Result<()> {
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        self.request(message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Removes a route; one that has gone, as with a link that was switched off, is no error.
    pub async fn remove_route(&self, route: &KernelRoute) -> Result<()> {
        gone_is_fine(self.request(RouteNetlinkMessage::DelRoute(route_message(route)), 0).await)
    }

    /// Tells the kernel that a neighbour is in use, so that it is asked whether it is still
    /// there.
    ///
    /// # Errors
    /// The neighbour has gone meanwhile; or the kernel refuses.
    pub async fn use_neighbour(&self, ifindex: u32, address: IpAddr) -> Result<()> {
        let mut message = NeighbourMessage::default();
        let (family, destination) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
        };
        message.header.family = family;
        message.header.ifindex = ifindex;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(destination));
        self.request(RouteNetlinkMessage::NewNeighbour(message), 0).await
    }

    /// Waits for the kernel's acknowledgement. A message without one would hold up the next:
    /// netlink-proto 0.14 sends one message, and looks for more when an answer comes.
    async fn request(&self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(message)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                bail!(error.to_io());
            }
        }
        Ok(())
    }

    fn dump(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<impl Stream<Item = Result<RouteNetlinkMessage>> + use<>> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        Ok(self.handle.clone().request(message)?.filter_map(|answer| {
            ready(match answer.payload {
                NetlinkPayload::InnerMessage(message) => Some(Ok(message)),
                NetlinkPayload::Error(error) if error.code.is_some() => Some(Err(error.to_io().into())),
                _ => None,
            })
        }))
    }
}

fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(is_gone) => Ok(()),
        result => result,
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// The number of the table that a route is in.
pub(super) fn table_of(route: &RouteMessage) -> u32 {
    let named = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(number) => Some(*number),
        _ => None,
    });
    named.unwrap_or(u32::from(route.header.table))
}

/// Of the main table's routes: where it leads, and before which others. `None` for those of other tables.
pub(super) fn place_of(route: &RouteMessage) -> Option<(IpNet, u32)> {
    if table_of(route) != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let mut destination: IpAddr = match route.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut metric = 0;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(priority) if destination.is_ipv4() => metric = *priority,
            _ => {}
        }
    }
    Some((IpNet::new(destination, route.header.destination_prefix_length).ok()?, metric))
}

/// A route of the kernel as one of XVR's, if it is one.
fn own_route(message: &RouteMessage) -> Option<KernelRoute> {
    let header = &message.header;
    // Kernels before 4.20 do not filter.
    if header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL) {
        return None;
    }
    let (destination, metric) = place_of(message)?;
    let (mut gateway, mut ifindex) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => gateway = Some(ip(address)?),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            _ => {}
        }
    }
    let target = match header.kind {
        RouteType::BlackHole => KernelTarget::Blackhole,
        _ => match gateway {
            Some(address) => KernelTarget::Gateway { address, ifindex: ifindex? },
            None => KernelTarget::Device { ifindex: ifindex? },
        },
    };
    Some(KernelRoute { destination, target, metric })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn route_message(route: &KernelRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family =
        if route.destination.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.scope = match route.target {
        KernelTarget::Device { .. } => RouteScope::Link,
        KernelTarget::Gateway { .. } | KernelTarget::Blackhole => RouteScope::Universe,
    };
    message.header.kind = match route.target {
        KernelTarget::Gateway { .. } | KernelTarget::Device { .. } => RouteType::Unicast,
        KernelTarget::Blackhole => RouteType::BlackHole,
    };
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.addr().into()));
    }
    if let KernelTarget::Gateway { address, .. } = route.target {
        message.attributes.push(RouteAttribute::Gateway(address.into()));
    }
    message.attributes.extend(route.ifindex().map(RouteAttribute::Oif));
    if route.metric > 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}
