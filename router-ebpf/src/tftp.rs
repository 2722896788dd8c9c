//! TFTP: a server answers a request from a port of its own choice (RFC 1350 §4), so the answer is of no
//! flow that the guest has opened.
//!
//! Every request tells anew whom the guest expects: a client may keep its socket from file to file.

use router_common::flow::{Direction, FlowEntry};
use router_common::nat::{Expected, ExternalKey};
use router_common::net::Ipv4;

use crate::helper::{EXPECTED_FOR, Helped};
use crate::tables::Tables;

/// Where servers take requests.
pub const PORT: u16 = 69;

/// A request of a guest: whom it asks may answer from any port.
#[inline(always)]
pub fn expect_answer<T: Tables>(tables: &T, helped: &Helped, flow: &FlowEntry<Ipv4>) {
    let is_request = flow.direction == Direction::Original as u8;
    if !is_request || flow.translation & FlowEntry::<Ipv4>::SOURCE == 0 {
        return;
    }
    let (key, rewrite) = (&helped.key, &flow.rewrite);
    let external = ExternalKey {
        external: rewrite.src,
        port: rewrite.src_port,
        router: key.router,
        protocol: key.protocol,
        pad: [0; 3],
    };
    let until = helped.now.wrapping_add(EXPECTED_FOR);
    let whom = Expected { until, peer: rewrite.dst, guest: key.src, port: key.src_port, pad: [0; 6] };
    tables.expect(&external, &whom);
}
