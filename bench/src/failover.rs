//! The suite `failover`: how long a guest behind a pair of routers hears nothing when the one that serves fails. What is
//! measured is the longest time between two answers of a ping every 10 ms.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use router_tests::lab::Lab;
use router_tests::pair::{BOOT_LINE, Pair, Pings, TWIN};
use serde_json::json;

use crate::report::{Report, Series, Time};
use crate::scale::Scale;

/// What happens to the router that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Keepalived,
    Link,
    Daemon,
}

impl Harm {
    const ALL: [Self; 3] = [Self::Keepalived, Self::Link, Self::Daemon];

    const fn label(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived killed",
            Self::Link => "the guest NIC's link lost",
            Self::Daemon => "the daemon killed and started again",
        }
    }
}

/// Runs the suite.
///
/// # Errors
/// There is no `xvr` beside this program, no keepalived, or nobody takes over.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let lab = Lab::isolated()?.with_twin()?;
    let mut pair = Pair::start(&lab, "auto")?;
    report.progress("failover: the first election");
    pair.tell_both(BOOT_LINE, TWIN)?;
    pair.tell_both("cloudstack/firewall_rules/egress_system_default_allow.json", &[])?;
    let mut primary = pair.elected()?;
    let rounds = scale.of(1, 2, 10);
    let harms = Harm::ALL.into_iter().take(scale.of(1, 3, 3));
    let mut series: Vec<_> = harms.map(|harm| (harm, Series::default(), Series::default())).collect();
    for round in 1..=rounds {
        for (harm, longest, lost) in &mut series {
            report.progress(&format!("failover: {}, round {round} of {rounds}", harm.label()));
            let pings = Pings::start(lab.host("vm1"), lab.host("far"))?;
            sleep(Duration::from_secs(1));
            primary = suffer(&mut pair, *harm, primary).with_context(|| harm.label())?;
            sleep(Duration::from_secs(1));
            let outage = pings.outage(harm.label())?;
            longest.push(outage.longest.as_secs_f64() * 1e9);
            lost.push(outage.lost as f64);
            heal(&mut pair, *harm, primary)?;
        }
    }
    pair.is_well = true;
    report.say(format!(
        "\nfailover: the longest time without an answer to a ping every 10 ms\n  {:36} {:>9} {:>9}..{:<9} {:>6}",
        "", "outage", "min", "max", "lost"
    ));
    for (harm, longest, lost) in &series {
        let about = |what: &str| json!({ "suite": "failover", "what": what, "subject": harm.label() });
        let noisy = report.add(about("outage"), "ns", longest);
        report.add(about("pings lost"), "pings", lost);
        let [median, least, most] =
            [longest.median(), longest.least(), longest.most()].map(|time| Time(time).to_string());
        let label = harm.label();
        report.say(format!("  {label:36} {median:>9} {least:>9}..{most:<9} {:>6}  {noisy}", lost.median()));
    }
    report.say("  keepalived says every second that it is alive, as CloudStack has it; three are missed before anybody acts");
    Ok(())
}

/// Harms the router that serves, and waits until one does again; which.
fn suffer(pair: &mut Pair<'_>, harm: Harm, primary: usize) -> Result<usize> {
    let other = 1 - primary;
    match harm {
        Harm::Keepalived => pair.kill_keepalived(primary)?,
        Harm::Link => {
            let port = pair.port(primary, "guests");
            pair.lab.wire.ip(&format!("link set {port} down\n"))?;
        }
        Harm::Daemon => {
            pair.routers[primary].kill_daemon();
            pair.routers[primary].start_daemon()?;
            return Ok(primary);
        }
    }
    router_tests::netns::wait_until("the other router serves", router_tests::pair::SOON, || {
        pair.role(other).is_ok_and(|role| role == "PRIMARY")
    })?;
    Ok(other)
}

/// Puts the router that failed back where it was, and waits until there is one of each again.
fn heal(pair: &mut Pair<'_>, harm: Harm, primary: usize) -> Result<()> {
    if harm == Harm::Link {
        let port = pair.port(1 - primary, "guests");
        pair.lab.wire.ip(&format!("link set {port} up\n"))?;
    }
    pair.elected().map(drop)
}
