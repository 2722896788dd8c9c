//! SYNs over IPv6 that nobody inside has asked for, in real time (RFC 6092 REC-34).

use std::io;
use std::net::{Ipv6Addr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use router_tests::capture::{Capture, Frames};
use router_tests::for_xvr;
use router_tests::lab::{Host, Lab};
use router_tests::nat::{Kind, NatRouter};
use router_tests::netns::wait_until;
use router_tests::router::{Router, TIER1};
use serde_json::json;

/// How long a guest has to begin the same connection (RFC 6092 REC-34).
const PATIENCE: Duration = Duration::from_secs(6);

/// Connects from a port of a host, and says how that ended and how long it took.
fn connect(host: &Host, port: u16, to: (Ipv6Addr, u16)) -> Result<(io::Result<TcpStream>, Duration)> {
    // The router's advertisements have given it another one, which it would take.
    let own = host.v6;
    host.namespace.inside(move || {
        let begin = Instant::now();
        (connect_here((own, port), to), begin.elapsed())
    })
}

fn connect_here(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16)) -> io::Result<TcpStream> {
    let address = |(address, port): (Ipv6Addr, u16)| libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: port.to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: address.octets() },
        sin6_scope_id: 0,
    };
    let checked = |result| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let (from, to) = (address(from), address(to));
    let length = size_of::<libc::sockaddr_in6>() as u32;
    // SAFETY: plain system calls; the addresses are ours and their length is their own. `TcpStream` gets a
    // descriptor that nobody else has.
    unsafe {
        let fd = libc::socket(libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        checked(fd)?;
        let stream = TcpStream::from_raw_fd(fd);
        checked(libc::bind(stream.as_raw_fd(), (&raw const from).cast(), length))?;
        checked(libc::connect(stream.as_raw_fd(), (&raw const to).cast(), length))?;
        Ok(stream)
    }
}

for_xvr! {
    who_sends_a_syn_that_nobody_asked_for_hears_of_it_after_six_seconds_if_at_all;
}

fn who_sends_a_syn_that_nobody_asked_for_hears_of_it_after_six_seconds_if_at_all(kind: Kind) -> Result<()> {
    kind.run(&["tcpdump"], |lab, router| match router {
        NatRouter::Xvr(router) => refused_or_met(lab, router),
        NatRouter::Linux(..) => unreachable!("it was started as XVR"),
    })
}

fn refused_or_met(lab: &Lab, router: &Router<'_>) -> Result<()> {
    let (far, web1) = (lab.host("far"), lab.host("web1"));
    // Nobody gets in over IPv6.
    let everybody = json!([{ "type": "all", "cidr": "0.0.0.0/0,::/0", "allowed": true }]);
    router.apply_acl(TIER1, &json!([]), &everybody)?;
    let capture = |filter| Capture::start(&far.namespace, "eth0", Frames::Arriving, filter);
    // Nobody hears anything: no error, no reset.
    let all = capture("icmp6[0] = 1 or tcp")?;
    thread::scope(|scope| {
        let silent = scope.spawn(|| connect(far, 4000, (web1.v6, 80)));
        thread::sleep(PATIENCE + Duration::from_secs(2));
        assert_eq!(all.stop()?.frames("")?, Vec::<String>::new());

        let settings = router.root().join("etc/xvr/settings.json");
        std::fs::write(settings, r#"{ "unsolicited_syn": "answered" }"#)?;
        router.xvr(&["reload"])?.ok()?;
        let errors = capture("icmp6[0] = 1 and icmp6[1] = 1")?;
        let (end, took) = connect(far, 4001, (web1.v6, 80))?;
        let error = end.expect_err("nobody is there");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
        // Measured from before the SYN, so it is never less. How much later is the machine's affair.
        assert!(took >= PATIENCE, "{took:?}");
        // The retransmissions of the one that began in silence are answered like any other.
        let error = silent.join().expect("it does not panic")?.0.expect_err("nobody is there");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
        let errors = errors.stop()?.frames("")?;
        assert!(!errors.is_empty());
        for error in errors {
            assert!(error.contains("unreachable prohibited"), "{error}");
            assert!(error.contains(":1e00:a8ff:fe00:31 > 2001:db8:200::9"), "{error}");
        }

        // The guest begins the same connection before the time is over: both are one, and nobody hears.
        let errors = capture("icmp6[0] = 1")?;
        let refused = || router.outcome("not-permitted");
        let before = refused()?;
        let outside = scope.spawn(|| connect(far, 4002, (web1.v6, 4003)));
        wait_until("the SYN is refused", Duration::from_secs(60), || {
            refused().is_ok_and(|count| count > before)
        })?;
        let inside = connect(web1, 4003, (far.v6, 4002))?.0.context("the guest's end")?;
        let outside = outside.join().expect("it does not panic")?.0.context("the other end")?;
        // An error would be there by then.
        thread::sleep(PATIENCE + Duration::from_secs(2));
        assert_eq!(
            (inside.peer_addr()?, outside.peer_addr()?),
            (outside.local_addr()?, inside.local_addr()?)
        );
        assert_eq!(errors.stop()?.frames("")?, Vec::<String>::new());
        Ok(())
    })
}
