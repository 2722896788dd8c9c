//! How long flows live, by the clock on the wall: the daemon's own timers with their defaults, and no clock
//! but the kernel's. Five minutes, so `cargo xtask soak` runs it and `cargo xtask test` does not.

use std::net::{Ipv4Addr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use router_tests::clients;
use router_tests::datagrams::{receive, udp_socket};
use router_tests::nat::{Kind, NatRouter, SOURCE_NAT};
use router_tests::router::Router;
use router_tests::servers::{Conversation, TcpEcho, UdpEcho, udp_round_trip};
use serde_json::Value;

/// How much longer a flow may be there than it has to: the daemon looks every few seconds.
const SLACK: u64 = 10;
/// How long until all but the established connection are gone.
const ALL: u64 = 300 + SLACK;

/// A flow that is watched, by its protocol and what its destination begins with.
struct Watch {
    name: &'static str,
    protocol: &'static str,
    destination: String,
    /// Seconds that it has to live.
    lives: u64,
    /// When its last packet was sent.
    since: Instant,
    last_seen: Option<Duration>,
}

impl Watch {
    fn new(name: &'static str, protocol: &'static str, destination: impl ToString, lives: u64) -> Self {
        let destination = destination.to_string();
        Self { name, protocol, destination, lives, since: Instant::now(), last_seen: None }
    }

    fn look(&mut self, flows: &[Value]) {
        let text = |flow: &Value, key: &str| flow[key].as_str().unwrap_or_default().to_owned();
        let is_there = flows.iter().any(|flow| {
            text(flow, "protocol") == self.protocol
                && text(flow, "destination").starts_with(&self.destination)
        });
        if is_there {
            self.last_seen = Some(self.since.elapsed());
        }
    }

    fn judge(&self) -> Result<()> {
        let lived = self.last_seen.with_context(|| format!("{}: was never there", self.name))?;
        println!("{}: last seen after {:.0} s", self.name, lived.as_secs_f64());
        // It may have been looked at a second before it went.
        let (least, most) = (Duration::from_secs(self.lives - 2), Duration::from_secs(self.lives + SLACK));
        ensure!(lived >= least && lived <= most, "{}: lived {lived:?}, not {} s", self.name, self.lives);
        Ok(())
    }
}

fn look(router: &Router<'_>, watches: &mut [Watch]) -> Result<()> {
    let shown = router.show("flows")?;
    let flows = shown.as_array().context("xvr show flows is no list")?;
    watches.iter_mut().for_each(|watch| watch.look(flows));
    Ok(())
}

/// RFC 4787 REQ-5, RFC 5508 REQ-2, RFC 5382 REQ-5, RFC 7857 §2.2.
#[test]
#[ignore = "takes five minutes: cargo xtask soak"]
fn flows_live_as_long_as_they_have_to_by_the_clock() -> Result<()> {
    Kind::Xdp.run(&["ping"], |lab, router| {
        let NatRouter::Xvr(router) = router else { unreachable!("it was started as XVR") };
        let (web1, far) = (lab.host("web1"), lab.host("far"));
        let mut watches = vec![];

        // Nobody answers; later somebody who was never asked does.
        let (silent, deaf) = (udp_socket(web1, 7001)?, udp_socket(far, 8001)?);
        silent.send_to(b"anybody?", (far.v4, 8001))?;
        let silent_outside = receive(&deaf, b"anybody?")?;
        watches.push(Watch::new("unanswered UDP", "udp", format!("{}:8001", far.v4), 120));

        // The answer takes nearly two minutes.
        let (patient, slow) = (udp_socket(web1, 7003)?, udp_socket(far, 8003)?);
        patient.send_to(b"well?", (far.v4, 8003))?;
        let patient_since = Instant::now();
        let patient_outside = receive(&slow, b"well?")?;
        ensure!(patient_outside.ip() == SOURCE_NAT, "seen as {patient_outside}");

        let echo = UdpEcho::start(far)?;
        udp_round_trip(web1, echo.at(far.v4), b"a datagram")?;
        watches.push(Watch::new("answered UDP", "udp", echo.at(far.v4), 300));

        clients::ping_once(web1, far.v4.into(), 56)?;
        watches.push(Watch::new("ping", "icmp", far.v4, 60));

        let tcp = (TcpEcho::start(far)?, TcpEcho::start(far)?);
        drop(Conversation::begin(web1, tcp.0.at(far.v4))?);
        watches.push(Watch::new("closed TCP", "tcp", tcp.0.at(far.v4), 240));
        let mut established = Conversation::begin(web1, tcp.1.at(far.v4))?;

        // One SYN, and nobody there.
        let nobody = (Ipv4Addr::new(198, 51, 100, 77), 9);
        let connect = move || TcpStream::connect_timeout(&nobody.into(), Duration::from_millis(500));
        ensure!(web1.namespace.inside(connect)?.is_err(), "somebody answers for {nobody:?}");
        watches.push(Watch::new("half-open TCP", "tcp", format!("{}:{}", nobody.0, nobody.1), 240));

        let begin = Instant::now();
        let mut has_answered = false;
        while begin.elapsed() < Duration::from_secs(ALL + 5) {
            look(router, &mut watches)?;
            if !has_answered && patient_since.elapsed() >= Duration::from_secs(118) {
                slow.send_to(b"yes", patient_outside)?;
                receive(&patient, b"yes").context("an answer after 118 s")?;
                has_answered = true;
                println!("an answer after 118 s came through");
            }
            sleep(Duration::from_secs(1));
        }
        watches.iter().try_for_each(Watch::judge)?;
        ensure!(has_answered, "the answer was never sent");
        deaf.send_to(b"too late", silent_outside)?;
        ensure!(receive(&silent, b"too late").is_err(), "an answer to a flow that is gone came through");
        established.go_on().context("an established connection after five minutes of silence")
    })
}
