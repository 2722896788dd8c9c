//! What is longer than the way is wide: fragments, and finding the path's MTU. Through XVR by
//! each of its hooks; and through Linux, which proves the clients.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::clients;
use router_tests::daemons::{Dnsmasq, Scratch};
use router_tests::datagrams::{Order, receive, send_fragments, udp_socket};
use router_tests::for_every_router;
use router_tests::journeys::JOURNEYS;
use router_tests::lab::Lab;
use router_tests::nat::{FORWARDING, Kind, Rule, SOURCE_NAT, STATIC_NAT};
use router_tests::servers::{HttpServer, UdpEcho, udp_round_trip, write_body};

for_every_router! {
    dig_gets_an_answer_of_four_kilobytes;
    a_ping_of_8000_bytes_is_answered;
    a_datagram_of_65000_bytes_comes_back;
    fragments_in_any_order_make_a_datagram;
    tracepath_finds_the_narrow_link;
    an_upload_gets_through_the_narrow_link;
}

fn dig_gets_an_answer_of_four_kilobytes(kind: Kind) -> Result<()> {
    kind.run(&["dig", "dnsmasq"], |lab, router| {
        let (far, web1, db1) = (lab.host("far"), lab.host("web1"), lab.host("db1"));
        let (outside, inside) = (Dnsmasq::start(far)?, Dnsmasq::start(web1)?);
        router.add(&[Rule::forward("udp", 5353, web1.v4, 53)])?;
        outside.dig(web1, far.v4.into(), 53).context("by source NAT")?;
        inside.dig(far, FORWARDING.into(), 5353).context("by port forwarding")?;
        inside.dig(db1, web1.v4.into(), 53).context("from tier to tier")?;
        inside.dig(db1, FORWARDING.into(), 5353).context("by hairpin")
    })
}

fn a_ping_of_8000_bytes_is_answered(kind: Kind) -> Result<()> {
    kind.run(&["ping"], |lab, router| {
        for journey in JOURNEYS {
            let (client, _, address) = journey.ends(lab);
            clients::ping_once(client, address, 8000).context(journey.name)?;
        }
        router.add(&[Rule::static_nat(lab.host("web1").v4)])?;
        clients::ping_once(lab.host("far"), STATIC_NAT.into(), 8000).context("by static NAT").map(drop)
    })
}

fn a_datagram_of_65000_bytes_comes_back(kind: Kind) -> Result<()> {
    kind.run(&[], |lab, router| {
        let datagram = pattern(65_000);
        for journey in JOURNEYS {
            let (client, server, address) = journey.ends(lab);
            udp_round_trip(client, UdpEcho::start(server)?.at(address), &datagram).context(journey.name)?;
        }
        let web1 = lab.host("web1");
        let echo = UdpEcho::start(web1)?;
        router.add(&[Rule::forward("udp", 5000, web1.v4, echo.at(web1.v4).port())])?;
        udp_round_trip(lab.host("far"), (FORWARDING, 5000).into(), &datagram).context("forwarded").map(drop)
    })
}

fn fragments_in_any_order_make_a_datagram(kind: Kind) -> Result<()> {
    kind.run(&[], |lab, router| {
        let (web1, web2, db1) = (lab.host("web1"), lab.host("web2"), lab.host("db1"));
        router.add(&[Rule::forward("udp", 6000, web2.v4, 7000), Rule::static_nat(db1.v4)])?;
        let neighbour = lab.host("neighbour");
        // Who sends from which segment to which address, who gets it, and from whom.
        let ways = [
            ("source NAT", web1, "tier1", (lab.host("far").v4, 7000), lab.host("far"), SOURCE_NAT),
            ("tier to tier", web1, "tier1", (db1.v4, 7000), db1, web1.v4),
            ("port forwarding", neighbour, "public", (FORWARDING, 6000), web2, neighbour.v4),
            ("static NAT, inward", neighbour, "public", (STATIC_NAT, 7000), db1, neighbour.v4),
            ("static NAT, outward", db1, "tier2", (neighbour.v4, 7000), neighbour, STATIC_NAT),
        ];
        for (name, from, segment, to, receiver, sender) in ways {
            let socket = udp_socket(receiver, 7000)?;
            for (length, order) in [
                (3000, Order::Forward),
                (3000, Order::Reverse),
                (65_000, Order::Forward),
                (65_000, Order::Reverse),
            ] {
                let datagram = pattern(length);
                send_fragments(from, lab.segment(segment), 4000, to, &datagram, order)?;
                let seen =
                    receive(&socket, &datagram).with_context(|| format!("{name}, {length}, {order:?}"))?;
                ensure!(seen.ip() == sender, "{name}: seen as {seen}");
            }
        }
        Ok(())
    })
}

fn tracepath_finds_the_narrow_link(kind: Kind) -> Result<()> {
    kind.run(&["tracepath"], |lab, router| {
        narrow(lab)?;
        router.add(&[Rule::static_nat(lab.host("db1").v4)])?;
        // By source NAT and by static NAT.
        for guest in ["web1", "db1"] {
            let path = clients::tracepath(lab.host(guest), lab.host("far").v4.into())?;
            assert_eq!((path.mtu, path.hops), (NARROW, 3), "from {guest}");
        }
        Ok(())
    })
}

fn an_upload_gets_through_the_narrow_link(kind: Kind) -> Result<()> {
    kind.run(&["curl"], |lab, router| {
        narrow(lab)?;
        router.add(&[Rule::static_nat(lab.host("db1").v4)])?;
        let far = lab.host("far");
        let http = HttpServer::start(far)?;
        for guest in ["web1", "db1"].map(|name| lab.host(name)) {
            let scratch = Scratch::new(guest)?;
            write_body(&scratch.file("file"), 10_000_000)?;
            clients::upload(guest, http.at(far.v4), &scratch.file("file"), Duration::from_secs(90))?;
            // It was the gateway that said so, and the router that passed it on.
            let route = guest.namespace.run("ip", &["route", "get", &far.v4.to_string()])?;
            ensure!(route.contains(&format!("mtu {NARROW}")), "{} has {route}", guest.name);
        }
        Ok(())
    })
}

/// What the link between gateway and far takes.
const NARROW: u32 = 1400;

/// Makes it so in one direction: with both, TCP's MSS would say it all.
fn narrow(lab: &Lab) -> Result<()> {
    lab.host("gateway").namespace.ip(&format!("link set far0 mtu {NARROW}\n"))
}

/// Bytes that show where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 8 % 251) as u8).collect()
}
