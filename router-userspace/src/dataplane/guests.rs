//! How many external ports guests have (RFC 6888 REQ-4).
//!
//! The programs count one more where they give one out, and refuse what is too much; nobody tells them of one that is
//! given back. Here everything is counted anew, by bindings and by flows that have a port without one,
//! while a limit is in force, and forgotten otherwise.

use std::collections::HashMap;
use std::hash::BuildHasher;

use anyhow::{Context, Result};
use aya::maps::IterableMap;
use router_common::flow::{Direction, FlowEntry, FlowKey};
use router_common::nat::{BindingKey, GuestKey, GuestUse, pool_index};
use router_common::net::Ipv4;

use super::maps::absent_is_fine;
use super::{Dataplane, batch};

/// How many external ports guests have.
pub(super) type Guests = HashMap<GuestKey, u64>;

/// Whose a binding is.
pub(super) const fn of_binding(key: &BindingKey) -> GuestKey {
    GuestKey { address: key.internal, router: key.router, protocol: key.protocol, pad: 0 }
}

/// Whose a flow's external port is, if it has one of source NAT without a binding.
pub(super) fn of_flow<S: BuildHasher>(
    key: &FlowKey<Ipv4>,
    entry: &FlowEntry<Ipv4>,
    source_nats: &std::collections::HashSet<Ipv4, S>,
) -> Option<GuestKey> {
    const SOURCE: u8 = FlowEntry::<Ipv4>::SOURCE;
    let has_port = entry.direction == Direction::Original as u8
        && entry.translation & (SOURCE | FlowEntry::<Ipv4>::BOUND) == SOURCE
        && pool_index(0, key.protocol).is_some()
        && source_nats.contains(&entry.rewrite.src);
    has_port.then_some(GuestKey { address: key.src, router: key.router, protocol: key.protocol, pad: 0 })
}

impl Dataplane {
    /// As the programs have counted.
    pub(super) fn guests(&self) -> Result<Guests> {
        let map = self.tables.guests.map();
        let (keys, values) = batch::read::<GuestKey, GuestUse>(map, 1, 0, usize::MAX)?;
        Ok(keys.into_iter().zip(values.into_iter().map(|value| value.ports)).collect())
    }

    /// Makes the counts what they should be: `counted`, and what the programs have counted since they had `before`.
    pub(super) fn settle_guests(&mut self, counted: &Guests, before: &Guests) -> Result<()> {
        let now = self.guests()?;
        let absent = counted.keys().filter(|guest| !now.contains_key(guest)).map(|guest| (guest, 0));
        for (guest, ports) in now.iter().map(|(guest, ports)| (guest, *ports)).chain(absent) {
            let of = |guests: &Guests| guests.get(guest).copied().unwrap_or(0);
            // Less than before where an attempt was taken back.
            let since = ports.saturating_sub(of(before));
            match of(counted) + since {
                0 => {
                    absent_is_fine(self.tables.guests.remove(guest)).context("forget a guest's ports")?;
                }
                right if right != ports => {
                    let right = GuestUse { ports: right };
                    self.tables.guests.insert(guest, right, 0).context("write a guest's ports")?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use router_common::net::Be16;

    use super::super::expiry::tests::seen;
    use super::*;

    #[test]
    fn a_flow_is_counted_that_has_a_port_of_source_nat_without_a_binding() {
        const SOURCE: u8 = FlowEntry::<Ipv4>::SOURCE;
        const BOUND: u8 = FlowEntry::<Ipv4>::BOUND;
        let ipv4 = |text: &str| Ipv4::from(text.parse::<std::net::Ipv4Addr>().unwrap());
        let source_nats = HashSet::from([ipv4("203.0.113.10")]);
        let is_counted = |protocol, translation, direction: Direction, src| {
            let (guest, server) = (ipv4("10.1.1.50"), ipv4("192.0.2.9"));
            let port = Be16::new(5000);
            let key = FlowKey {
                src: guest,
                dst: server,
                src_port: port,
                dst_port: port,
                router: 0,
                protocol,
                pad: 0,
            };
            let mut entry = FlowEntry { translation, direction: direction as u8, ..seen(0, 1) };
            entry.rewrite.src = ipv4(src);
            let whose = of_flow(&key, &entry, &source_nats);
            assert!(whose.is_none_or(|whose| (whose.address, whose.protocol) == (guest, protocol)));
            whose.is_some()
        };
        for protocol in [6, 17, 1] {
            assert!(is_counted(protocol, SOURCE, Direction::Original, "203.0.113.10"));
        }
        assert!(!is_counted(47, SOURCE, Direction::Original, "203.0.113.10"), "a protocol without ports");
        assert!(!is_counted(17, SOURCE | BOUND, Direction::Original, "203.0.113.10"), "a binding's");
        assert!(!is_counted(17, SOURCE, Direction::Original, "203.0.113.11"), "static NAT");
        assert!(!is_counted(17, SOURCE, Direction::Reply, "203.0.113.10"), "an answer of a forwarded port");
        assert!(!is_counted(17, 0, Direction::Original, "203.0.113.10"), "not translated");
    }
}
