//! The neighbour keeper.
//!
//! Flows cache their next hop's MAC address, and XDP forwards without telling the kernel that a
//! neighbour is in use. So a neighbour on one of our ports that goes stale is declared in use:
//! the kernel then asks it, and finds out within seconds when it has moved or gone. Whenever a MAC
//! address that flows may have cached is not true any more, flows look their way out up again.
//!
//! ```text
//!            answers           reachable_time over        declared in use
//!   (none) ──────────▶ valid ─────────────────────▶ stale ────────────────▶ valid, or gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

/// What the kernel says about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface index.
    pub ifindex: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// What is known of it.
    pub state: State,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its MAC address, in use or just confirmed.
    Valid([u8; 6]),
    /// Its MAC address, not confirmed for a while.
    Stale([u8; 6]),
    /// Nothing: never answered, failed, or deleted.
    Gone,
}

/// What a piece of news asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// Tell the kernel that the neighbour is in use.
    pub declare_in_use: bool,
    /// Make flows look their way out up again.
    pub forget: bool,
}

impl Neighbour {
    /// From a message about a neighbour that exists.
    pub fn from_message(message: &NeighbourMessage) -> Option<Self> {
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        })?;
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
            _ => None,
        });
        let state = match (message.header.state, mac) {
            (NeighbourState::Stale, Some(mac)) => State::Stale(mac),
            (
                NeighbourState::Reachable
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp,
                Some(mac),
            ) => State::Valid(mac),
            _ => State::Gone,
        };
        Some(Self { ifindex: message.header.ifindex, address, state })
    }

    /// The same neighbour, deleted.
    pub fn deleted(self) -> Self {
        Self { state: State::Gone, ..self }
    }
}

/// Remembers which MAC addresses flows may have cached.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    known: BTreeMap<(u32, IpAddr), [u8; 6]>,
}

impl Keeper {
    /// Takes news in. `ports` are the interfaces of ports; others do not concern us.
    pub fn note(&mut self, news: &Neighbour, ports: &BTreeSet<u32>) -> Reaction {
        let key = (news.ifindex, news.address);
        if !ports.contains(&news.ifindex) || news.address.is_multicast() {
            self.known.remove(&key);
            return Reaction::default();
        }
        let (before, now) = match news.state {
            State::Gone => (self.known.remove(&key), None),
            State::Valid(mac) | State::Stale(mac) => (self.known.insert(key, mac), Some(mac)),
        };
        Reaction {
            declare_in_use: matches!(news.state, State::Stale(_)),
            forget: before.is_some() && before != now,
        }
    }

    /// Starts anew, as when news were lost, from all there are: gives what must be declared in
    /// use.
    pub fn restart(&mut self, all: &[Neighbour], ports: &BTreeSet<u32>) -> Vec<(u32, IpAddr)> {
        self.known.clear();
        let stale = |news: &&Neighbour| self.note(news, ports).declare_in_use;
        all.iter().filter(stale).map(|news| (news.ifindex, news.address)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn news(ifindex: u32, state: State) -> Neighbour {
        Neighbour { ifindex, address: IpAddr::from([10, 1, 1, 5]), state }
    }

    const NOTHING: Reaction = Reaction { declare_in_use: false, forget: false };
    const USE: Reaction = Reaction { declare_in_use: true, forget: false };
    const FORGET: Reaction = Reaction { declare_in_use: false, forget: true };

    #[test]
    fn a_stale_neighbour_is_declared_in_use() {
        let (mut keeper, ports) = (Keeper::default(), BTreeSet::from([2]));
        assert_eq!(keeper.note(&news(2, State::Valid(MAC)), &ports), NOTHING);
        assert_eq!(keeper.note(&news(2, State::Stale(MAC)), &ports), USE);
        assert_eq!(keeper.note(&news(2, State::Valid(MAC)), &ports), NOTHING);
    }

    #[test]
    fn flows_forget_a_mac_that_is_not_true_any_more() {
        let (mut keeper, ports) = (Keeper::default(), BTreeSet::from([2]));
        assert_eq!(keeper.note(&news(2, State::Gone), &ports), NOTHING);
        assert_eq!(keeper.note(&news(2, State::Valid(MAC)), &ports), NOTHING);
        let moved = keeper.note(&news(2, State::Stale(OTHER)), &ports);
        assert_eq!(moved, Reaction { declare_in_use: true, forget: true });
        assert_eq!(keeper.note(&news(2, State::Gone), &ports), FORGET);
        assert_eq!(keeper.note(&news(2, State::Gone), &ports), NOTHING);
    }

    #[test]
    fn neighbours_of_other_nics_are_left_alone() {
        let (mut keeper, ports) = (Keeper::default(), BTreeSet::from([2]));
        assert_eq!(keeper.note(&news(3, State::Stale(MAC)), &ports), NOTHING);
        let all = [news(3, State::Stale(MAC)), news(2, State::Stale(MAC))];
        assert_eq!(keeper.restart(&all, &ports), [(2, IpAddr::from([10, 1, 1, 5]))]);
    }
}
