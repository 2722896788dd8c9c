//! Who floods the router with flows that lead nowhere fills its tables, and harms nobody who has a
//! connection; who has none gets one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::clients;
use router_tests::daemons::{Session, Sshd};
use router_tests::flood::{self, Flood, Target};
use router_tests::for_xvr;
use router_tests::lab::Lab;
use router_tests::nat::{Kind, SOURCE_NAT};
use router_tests::needs;
use router_tests::router::{Router, VPC_COMMANDS};
use router_tests::servers::{Conversation, TcpEcho};

for_xvr! {
    connections_outlive_floods_and_new_ones_find_room;
    connections_outlive_a_full_table_without_a_daemon_and_the_next_daemon_makes_room;
    a_flood_from_outside_opens_nothing;
}

/// Room for entries where a flood should find some again and again.
const MUCH: u32 = 1 << 15;
/// And where it should find none.
const LITTLE: u32 = 1 << 14;

/// How long somebody may try to get a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// A router with small tables.
fn run(
    kind: Kind,
    max_flows: u32,
    programs: &[&str],
    test: impl FnOnce(&Lab, &mut Router<'_>) -> Result<()>,
) -> Result<()> {
    if !needs::are_met(programs) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    flood::swallow(&lab)?;
    let mut router = Router::start_with_room(&lab, kind.prepare(&lab)?, max_flows)?;
    assert_eq!(router.show("status")?["flow_room"], max_flows);
    router.apply(&VPC_COMMANDS)?;
    test(&lab, &mut router)
}

/// Connections that do nothing as long as nobody asks.
struct Idle {
    conversations: Vec<Conversation>,
    session: Session,
}

impl Idle {
    fn begin(lab: &Lab, echo: &TcpEcho, sshd: &Sshd) -> Result<Self> {
        let far = lab.host("far");
        let guests = ["web1", "web2", "db1", "db2"].map(|name| lab.host(name));
        let begin = |guest| Conversation::begin(guest, echo.at(far.v4));
        Ok(Self {
            conversations: guests.into_iter().map(begin).collect::<Result<_>>()?,
            session: sshd.log_in(lab.host("web1"), far.v4.into(), 22)?,
        })
    }

    fn go_on(&mut self) -> Result<()> {
        self.conversations.iter_mut().try_for_each(Conversation::go_on)?;
        self.session.go_on()
    }
}

/// Flows that had to make room so far.
fn evicted(router: &Router<'_>) -> Result<u64> {
    router.show("status")?["evicted_flows"].as_u64().context("status has no count of evicted flows")
}

fn connections_outlive_floods_and_new_ones_find_room(kind: Kind) -> Result<()> {
    run(kind, MUCH, &["iperf3", "ssh", "sshd"], |lab, router| {
        let (web1, web2, db1, far) = (lab.host("web1"), lab.host("web2"), lab.host("db1"), lab.host("far"));
        let (echo, sshd) = (TcpEcho::start(far)?, Sshd::start(far)?);
        let mut idle = Idle::begin(lab, &echo, &sshd)?;
        let quiet = clients::start_paced_iperf(web1, far, far.v4.into(), 1)?.finish()?;
        for kind in [flood::Kind::Syn, flood::Kind::Udp, flood::Kind::Fragments] {
            let before = evicted(router)?;
            let iperf = clients::start_paced_iperf(web1, far, far.v4.into(), 2)?;
            iperf.wait_until_connected(web1)?;
            let flood = Flood::start(web2, lab.segment("tier1"), kind, Target::Nowhere)?;
            flood.wait_for(u64::from(MUCH))?;
            let new = Conversation::begin_within(db1, echo.at(far.v4), PATIENCE);
            let mut new = new.with_context(|| format!("a new connection beside the flood of {kind:?}"))?;
            let iperf = iperf.finish().with_context(|| format!("beside the flood of {kind:?}"))?;
            let sent = flood.stop()?;
            new.go_on()?;
            idle.go_on().with_context(|| format!("after the flood of {kind:?}"))?;
            let evicted = evicted(router)? - before;
            println!(
                "{kind:?}: {sent} frames, {evicted} flows evicted; {:.1} Mbit/s of TCP beside it, {:.1} without",
                iperf.bits_per_second / 1e6,
                quiet.bits_per_second / 1e6,
            );
            ensure!(iperf.bits_per_second > 0.0, "TCP stood still beside the flood of {kind:?}");
            ensure!(evicted > 0, "nothing was evicted by the flood of {kind:?}");
        }
        println!("{} packets were refused by a full table", router.outcome("flow-table-full")?);
        let episodes = router.log().matches("the tables of flows fill up").count();
        ensure!(episodes == 1, "the log tells {episodes} times of one episode");
        Ok(())
    })
}

fn connections_outlive_a_full_table_without_a_daemon_and_the_next_daemon_makes_room(
    kind: Kind,
) -> Result<()> {
    run(kind, LITTLE, &["ssh", "sshd"], |lab, router| {
        let (web2, db1, far) = (lab.host("web2"), lab.host("db1"), lab.host("far"));
        let (echo, sshd) = (TcpEcho::start(far)?, Sshd::start(far)?);
        let mut idle = Idle::begin(lab, &echo, &sshd)?;
        router.kill_daemon();
        let flood = Flood::start(web2, lab.segment("tier1"), flood::Kind::Syn, Target::Nowhere)?;
        // Every flow takes two entries, and some frames may be lost.
        flood.wait_for(u64::from(LITTLE) * 2)?;
        flood.stop()?;
        ensure!(Conversation::begin(db1, echo.at(far.v4)).is_err(), "the table is not full");
        idle.go_on().context("while the table is full")?;
        router.start_daemon()?;
        Conversation::begin_within(db1, echo.at(far.v4), PATIENCE).context("with a daemon again")?;
        idle.go_on().context("after there was room again")?;
        ensure!(router.outcome("flow-table-full")? > 0 && evicted(router)? > 0);
        Ok(())
    })
}

fn a_flood_from_outside_opens_nothing(kind: Kind) -> Result<()> {
    run(kind, LITTLE, &["ssh", "sshd"], |lab, router| {
        let (neighbour, far) = (lab.host("neighbour"), lab.host("far"));
        let (echo, sshd) = (TcpEcho::start(far)?, Sshd::start(far)?);
        let mut idle = Idle::begin(lab, &echo, &sshd)?;
        let flows = |router: &Router<'_>| -> Result<Vec<String>> {
            let shown = router.show("flows")?;
            let sources =
                shown.as_array().context("flows are no list")?.iter().map(|flow| flow["source"].to_string());
            let mut sources: Vec<_> = sources.collect();
            sources.sort();
            Ok(sources)
        };
        let before = flows(router)?;
        for kind in [flood::Kind::Syn, flood::Kind::Udp, flood::Kind::Fragments] {
            let flood = Flood::start(neighbour, lab.segment("public"), kind, Target::One(SOURCE_NAT))?;
            flood.wait_for(10_000)?;
            flood.stop()?;
        }
        assert_eq!(flows(router)?, before);
        idle.go_on()?;
        Conversation::begin(lab.host("db1"), echo.at(far.v4))?.go_on()
    })
}
