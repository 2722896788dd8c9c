//! What the kernel says unasked: links, addresses, routes, rules, neighbours, remote ends of VXLAN devices, and which NICs take
//! XDP frames.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tracing::{debug, warn};

use super::fdb::Entry;
use super::neighbours::Neighbour;
use super::nics::NetdevFamily;

/// A piece of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link, an address, a route, a rule or a NIC's XDP features changed: look again.
    Changed,
    /// News of a neighbour.
    Neighbour(Neighbour),
    /// The forwarding database of the VXLAN device with this interface index changed.
    Forwarding(u32),
    /// News were lost: look at everything again.
    Lost,
}

/// Where news come from. Ends never: a source that breaks is opened again.
pub struct Events {
    routing: Messages,
    netdev: Option<TokioSocket>,
    pending: VecDeque<Event>,
}

type Messages = std::pin::Pin<Box<dyn futures_util::Stream<Item = NetlinkMessage<RouteNetlinkMessage>>>>;

impl Events {
    /// Subscribes; must be called within a tokio runtime.
    pub fn open() -> Result<Self> {
        let netdev = subscribe_netdev().unwrap_or_else(|error| {
            debug!("no news of NICs' XDP features: {error:#}");
            None
        });
        Ok(Self { routing: subscribe_routing()?, netdev, pending: VecDeque::new() })
    }

    /// The next piece of news. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            tokio::select! {
                message = self.routing.next() => match message {
                    Some(message) => self.pending.extend(event(message)),
                    None => return self.reopen().await,
                },
                heard = listen(self.netdev.as_mut()) => match heard {
                    Ok(()) => return Event::Changed,
                    // Thousands of interfaces at once are more than there is room for: what is lost is looked at.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Event::Changed,
                    // The subscription is a matter of promptness: the timer looks too.
                    Err(error) => {
                        warn!("no more news of NICs' XDP features: {error}");
                        self.netdev = None;
                    }
                },
            }
        }
    }

    async fn reopen(&mut self) -> Event {
        match subscribe_routing() {
            Ok(routing) => self.routing = routing,
            Err(error) => {
                warn!("no news from the kernel: {error:#}");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
        Event::Lost
    }
}

fn subscribe_routing() -> Result<Messages> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let (connection, handle, messages) =
        rtnetlink::new_multicast_connection(&groups).context("subscribe to the kernel's routing news")?;
    tokio::spawn(connection);
    // The connection ends when nobody can ask it anything any more.
    Ok(Box::pin(messages.map(move |(message, _)| {
        let _alive = &handle;
        message
    })))
}

fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    match message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message),
        ) if message.header.family == AddressFamily::Bridge => {
            Entry::from_message(&message).map(|entry| Event::Forwarding(entry.device))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
            Neighbour::from_message(&message).map(Event::Neighbour)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
            Neighbour::from_message(&message).map(|neighbour| Event::Neighbour(neighbour.deleted()))
        }
        NetlinkPayload::InnerMessage(_) => Some(Event::Changed),
        NetlinkPayload::Overrun(_) => Some(Event::Lost),
        _ => None,
    }
}

fn subscribe_netdev() -> Result<Option<TokioSocket>> {
    let Some(group) = NetdevFamily::find()?.and_then(|family| family.changes) else { return Ok(None) };
    let mut socket = TokioSocket::new(NETLINK_GENERIC).context("open a netlink socket")?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0)).context("bind a netlink socket")?;
    socket.socket_mut().add_membership(group).context("subscribe to news of NICs' XDP features")?;
    Ok(Some(socket))
}

/// What the message says does not matter: the NICs are looked at again.
async fn listen(socket: Option<&mut TokioSocket>) -> std::io::Result<()> {
    match socket {
        Some(socket) => socket.recv_from_full().await.map(drop),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

    use super::*;

    #[test]
    fn of_forwarding_databases_only_remote_ends_are_news() {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = 7;
        // A bridge has learnt a station.
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]));
        let said = |message: RouteNetlinkMessage| event(NetlinkMessage::from(message));
        assert_eq!(said(RouteNetlinkMessage::NewNeighbour(message.clone())), None);
        let remote = NeighbourAddress::Other(vec![192, 0, 2, 11]);
        message.attributes.push(NeighbourAttribute::Destination(remote));
        let news = Some(Event::Forwarding(7));
        assert_eq!(said(RouteNetlinkMessage::NewNeighbour(message.clone())), news);
        assert_eq!(said(RouteNetlinkMessage::DelNeighbour(message)), news);
    }
}
