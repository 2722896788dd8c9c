//! Scenarios of protocols that open other connections: FTP, TFTP.

use router_common::account::Hook;
use router_common::verdict::{DeferReason, DropReason, PuntReason};

use super::{Nic, PUBLIC, Router, Scenario, dropped, forwarded, from, ip, punted, udp};
use crate::packet::Read;

const SERVER: &str = "192.0.2.9";

/// A request by TFTP, as it leaves in TC. XDP leaves it to TC: the answer then is that of nobody asked.
fn request(r: &mut dyn Router, nic: Nic, guest: &str, port: u16) -> Option<Read> {
    let frame = from(nic, guest, SERVER, udp(port, 69));
    if r.hook() == Hook::Xdp {
        let sent = r.send(nic, &frame.bytes());
        assert_eq!((sent.outcome, sent.frame), (DeferReason::Helper.outcome(), frame.bytes()));
        return None;
    }
    Some(forwarded(r, nic, &frame, Nic::Public))
}

/// Every one.
pub const SCENARIOS: &[Scenario] = &[
    ("the answer to a TFTP request comes from another port", |r| {
        let Some(out) = request(r, Nic::Tier1, "10.1.1.50", 5000) else { return };
        assert_eq!((out.ends.0, out.ports), (ip(PUBLIC), (5000, 69)));
        let data = from(Nic::Public, SERVER, PUBLIC, udp(40_001, 5000));
        let back = forwarded(r, Nic::Public, &data, Nic::Tier1);
        assert_eq!((back.ends.1, back.ports), (ip("10.1.1.50"), (40_001, 5000)));
        let more = from(Nic::Tier1, "10.1.1.50", SERVER, udp(5000, 40_001));
        let out = forwarded(r, Nic::Tier1, &more, Nic::Public);
        assert_eq!((out.ends.0, out.ports), (ip(PUBLIC), (5000, 40_001)));
    }),
    ("nobody but the server that was asked may answer a TFTP request, and to that port alone", |r| {
        let Some(_) = request(r, Nic::Tier1, "10.1.1.50", 5000) else { return };
        for (src, port) in [("192.0.2.10", 5000), (SERVER, 5001)] {
            let stranger = from(Nic::Public, src, PUBLIC, udp(40_001, port));
            punted(r, Nic::Public, &stranger.bytes(), PuntReason::ToRouter);
        }
        let forged = from(Nic::Public, SERVER, "10.1.1.50", udp(40_001, 5000));
        dropped(r, Nic::Public, &forged.bytes(), DropReason::NotPermitted);
    }),
    ("two guests with one source port get the answers to their own TFTP requests", |r| {
        let guests = ["10.1.1.50", "10.1.1.51"];
        for guest in guests {
            let Some(out) = request(r, Nic::Tier1, guest, 5000) else { return };
            let data = from(Nic::Public, SERVER, PUBLIC, udp(40_001, out.ports.0));
            let back = forwarded(r, Nic::Public, &data, Nic::Tier1);
            assert_eq!((back.ends.1, back.ports.1), (ip(guest), 5000));
        }
    }),
];
