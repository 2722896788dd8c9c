//! What RFCs ask of a router and XVR leaves to the kernel: that the two together do it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use router_tests::capture::{Capture, Frames};
use router_tests::clients;
use router_tests::datagrams::{Order, receive, send_fragments, udp_socket};
use router_tests::frames;
use router_tests::lab::{Host, Lab};
use router_tests::needs;
use router_tests::router::{Router, VPC_COMMANDS, fixture};

/// A VPC's router with its programs at each hook in turn.
fn with_router(programs: &[&str], test: impl Fn(&Lab, &mut Router<'_>) -> Result<()>) -> Result<()> {
    if !needs::are_met(programs) {
        return Ok(());
    }
    for attach in ["tc", "xdp"] {
        let lab = Lab::vpc()?;
        let mut router = Router::start(&lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        test(&lab, &mut router).with_context(|| format!("attached as {attach}"))?;
    }
    Ok(())
}

/// Frames that come to a host while something is done.
fn arriving(host: &Host, filter: &str, cause: impl FnOnce() -> Result<()>) -> Result<Vec<String>> {
    let capture = Capture::start(&host.namespace, "eth0", Frames::Arriving, filter)?;
    cause()?;
    std::thread::sleep(Duration::from_millis(500));
    capture.stop()?.frames("")
}

#[test]
fn a_packet_too_big_for_a_tier_or_the_outside_is_answered_with_what_fits() -> Result<()> {
    with_router(&["tracepath"], |lab, router| {
        narrow(router)?;
        let (db1, db2, far) = (lab.host("db1"), lab.host("db2"), lab.host("far"));
        for (to, hops) in [(db1.v4.into(), 2), (db2.v6.into(), 2), (far.v4.into(), 3)] {
            let path = clients::tracepath(lab.host("web1"), to)?;
            assert_eq!((path.mtu, path.hops), (1400, hops), "to {to}");
        }
        Ok(())
    })
}

/// Makes the outside and tier 2 narrower than tier 1.
fn narrow(router: &Router<'_>) -> Result<()> {
    for (kind, file) in [("ip_associations", VPC_COMMANDS[1]), ("guest_network", VPC_COMMANDS[3])] {
        let wide = std::fs::read_to_string(fixture(file))?;
        let narrow = wide.replace("\"mtu\":1500", "\"mtu\":1400");
        assert_ne!(narrow, wide, "{file}");
        router.update_config_with(kind, narrow.as_bytes())?.ok()?;
    }
    Ok(())
}

#[test]
fn what_is_too_big_and_may_be_cut_arrives_in_pieces() -> Result<()> {
    with_router(&["ping", "tcpdump"], |lab, router| {
        narrow(router)?;
        let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
        for receiver in [db1, far] {
            // So that the router knows its next hop.
            clients::ping(web1, receiver.v4.into(), 1, Duration::from_secs(1))?;
            let socket = udp_socket(receiver, 7000)?;
            let too_long = Capture::start(&receiver.namespace, "eth0", Frames::Arriving, "greater 1415")?;
            let pieces = arriving(receiver, "udp or ip[6:2] & 0x1fff != 0", || {
                for (length, order) in [
                    (1450, Order::Forward),
                    (3000, Order::Forward),
                    (3000, Order::Reverse),
                    (65_000, Order::Forward),
                ] {
                    let datagram: Vec<u8> = (0..length).map(|at| (at / 8 % 251) as u8).collect();
                    send_fragments(web1, lab.segment("tier1"), 4000, (receiver.v4, 7000), &datagram, order)?;
                    receive(&socket, &datagram)
                        .with_context(|| format!("{length} bytes to {}, {order:?}", receiver.name))?;
                }
                Ok(())
            })?;
            // Two of each whole one.
            assert_eq!(pieces.len(), 2 + 2 * 5 + 2 * 44 - 1, "{pieces:?}");
            assert_eq!(too_long.stop()?.frames("")?, Vec::<String>::new());
        }
        Ok(())
    })
}

#[test]
fn the_router_answers_arp_for_the_addresses_of_the_nic_that_is_asked_alone() -> Result<()> {
    with_router(&["tcpdump"], |lab, _| {
        let web1 = lab.host("web1");
        let ask = |target: [u8; 4]| {
            let mut frame = vec![0xff; 6];
            frame
                .extend([0x02, 0, 0, 0, 0, 0x99, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 0x02, 0, 0, 0, 0, 0x99]);
            frame.extend(web1.v4.octets());
            frame.extend([0; 6]);
            frame.extend(target);
            arriving(web1, "arp[6:2] = 2 and ether dst 02:00:00:00:00:99", || frames::send(web1, &frame))
        };
        assert_eq!(ask([10, 10, 1, 1])?.len(), 1, "its own address");
        for target in [[10, 10, 2, 1], [203, 0, 113, 30], [169, 254, 1, 177], [10, 10, 1, 77]] {
            assert_eq!(ask(target)?, Vec::<String>::new(), "{target:?}");
        }
        Ok(())
    })
}

#[test]
fn a_dead_neighbour_of_another_tier_is_reported() -> Result<()> {
    with_router(&["tcpdump", "ping"], |lab, _| {
        let web1 = lab.host("web1");
        let came = arriving(web1, "icmp[0] = 3 and icmp[1] = 1", || {
            clients::ping(web1, Ipv4Addr::new(10, 10, 2, 222).into(), 3, Duration::from_secs(1))?;
            std::thread::sleep(Duration::from_secs(3));
            Ok(())
        })?;
        assert!(!came.is_empty(), "no host unreachable came");
        Ok(())
    })
}

#[test]
fn no_route_is_answered_over_ipv6() -> Result<()> {
    with_router(&["tcpdump"], |lab, router| {
        // It would put that right.
        router.kill_daemon();
        router.namespace().run("ip", &["-6", "route", "flush", "default"])?;
        let web1 = lab.host("web1");
        let came = arriving(web1, "icmp6 and ip6[40] = 1", || {
            let nowhere = SocketAddr::from((lab.host("far").v6, 9));
            web1.namespace
                .inside(move || std::net::UdpSocket::bind("[::]:0")?.send_to(b"hello?", nowhere))?
                .map(drop)
                .context("send")
        })?;
        assert!(!came.is_empty(), "no unreachable came");
        Ok(())
    })
}
