//! The first step and the last: VLAN tags.
//!
//! Several ports may share an interface, their trunk, and be told apart by tags. Each has an interface of its own as
//! well, for the kernel's routes and neighbours. A frame with a port's tags goes through the walk without them, as one
//! that has come in by the port's own interface; one that is to leave by such an interface gets the port's tags, and
//! leaves by the trunk. In between nobody knows of tags.

use router_common::net::Be16;
use router_common::port::{Carrier, TagKey};

use crate::packet::Packet;
use crate::tables::Tables;

/// A VLAN tag (IEEE 802.1Q), or none, as one number: an option of two would not get past the verifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// No tag.
    pub const NONE: Self = Self(0);

    /// `protocol` is its ethertype, that of customers' or that of providers' tags; `control` has its priority (3 bits),
    /// whether it may be dropped, and its VLAN id (12 bits). Host byte order.
    #[inline(always)]
    pub const fn new(protocol: u16, control: u16) -> Self {
        Self((protocol as u32) << 16 | control as u32)
    }

    /// It is none.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Its ethertype.
    #[inline(always)]
    pub const fn protocol(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Priority, whether it may be dropped, VLAN id.
    #[inline(always)]
    pub const fn control(self) -> u16 {
        self.0 as u16
    }

    /// The VLAN id; with 0 the tag has nothing but a priority.
    #[inline(always)]
    pub const fn id(self) -> u16 {
        self.control() & 0x0fff
    }

    /// The priority.
    #[inline(always)]
    pub const fn priority(self) -> u16 {
        self.control() >> 13
    }
}

/// The tags of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// How many there are; [`TOO_MANY`] for more than two.
    pub count: usize,
    /// The outer one, if there is one.
    pub outer: Tag,
    /// The inner one, if there are two.
    pub inner: Tag,
    /// What is behind them is a VXLAN packet, and the frame inside it ([`crate::tunnel`]).
    pub is_packet: bool,
}

/// More tags than are followed.
pub const TOO_MANY: usize = 3;

const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Whether an ethertype is that of a tag.
#[inline(always)]
pub const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}

impl Tags {
    /// Those of a frame. One that is cut short in the middle of them has as many as are whole.
    #[inline(always)]
    pub fn of<P: Packet>(packet: &P) -> Self {
        let (stripped, first) = (packet.stripped_tag(), packet.tag_at(12));
        let (outer, inner, third) = match stripped.is_none() {
            true => (first, packet.tag_at(16), packet.tag_at(20)),
            false => (stripped, first, packet.tag_at(16)),
        };
        // What is behind the last tag may look like one.
        let count = match (outer.is_none(), inner.is_none(), third.is_none()) {
            (true, ..) => 0,
            (_, true, _) => 1,
            (.., true) => 2,
            _ => TOO_MANY,
        };
        Self { count, outer, inner: if count > 1 { inner } else { Tag::NONE }, is_packet: false }
    }

    /// Their VLAN ids without those that name none.
    #[inline(always)]
    const fn ids(&self) -> (u16, u16) {
        match self.outer.id() {
            0 => (self.inner.id(), 0),
            outer => (outer, self.inner.id()),
        }
    }
}

/// Whether a frame has tags.
#[inline(always)]
pub fn are_on<P: Packet>(packet: &P) -> bool {
    !packet.stripped_tag().is_none() || packet.load(12).is_some_and(|ethertype: Be16| is_tag(ethertype.get()))
}

/// Takes the tags of a port off, and gives them and the port's own interface. A frame with others keeps them, and comes
/// in by no port.
#[inline(always)]
pub fn take_off<P: Packet, T: Tables>(packet: &mut P, tables: &T, ifindex: u32) -> (u32, Tags) {
    let tags = Tags::of(packet);
    let port = match tags.ids() {
        _ if tags.count == 0 || tags.count == TOO_MANY => None,
        // A priority and nothing else: the untagged network.
        (0, _) => Some(ifindex),
        (outer, inner) => {
            let (key, place) = TagKey::of(ifindex, outer, inner);
            tables.tagged(&key, place)
        }
    };
    match port {
        Some(port) if packet.untag(tags.count).is_some() => (port, tags),
        _ => (ifindex, Tags::default()),
    }
}

/// Gives a frame that came with some tags or none the tags of the port that it is to leave by; the trunk that it leaves
/// by.
#[inline(always)]
pub fn put_on<P: Packet>(packet: &mut P, carrier: &Carrier, came: &Tags) -> Option<u32> {
    let priority = match carrier.priority {
        Carrier::KEEP_PRIORITY if came.count == 0 => 0,
        Carrier::KEEP_PRIORITY => came.outer.priority(),
        priority => priority as u16,
    };
    packet.tag(&of_carrier(carrier, priority))?;
    Some(carrier.trunk)
}

/// The tags of a port.
#[inline(always)]
fn of_carrier(carrier: &Carrier, priority: u16) -> Tags {
    let tag = |protocol, id: u16| Tag::new(protocol, (priority & 7) << 13 | id & 0x0fff);
    Tags {
        count: if carrier.inner == 0 { 1 } else { 2 },
        outer: tag(carrier.outer_protocol, carrier.outer),
        inner: tag(carrier.inner_protocol, carrier.inner),
        is_packet: false,
    }
}
