//! What one change costs from end to end: a port forwarding that CloudStack changes, by its script alone and by
//! all that its agent does.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use router_tests::lab::Lab;
use router_tests::management::Management;
use router_tests::router::Router;
use serde_json::json;

use crate::report::{Report, Series, Time};
use crate::scale::Scale;

/// What `bench message` takes.
#[derive(Debug, Default, Args)]
pub struct Message {
    /// How often the forwarding is changed: 8 times, 50 times with `--full`.
    #[arg(long)]
    rounds: Option<usize>,
}

/// Where the router of `router_isolated` is on the control network.
const CONTROL: [u8; 4] = [169, 254, 100, 12];

/// Port forwardings that are there already; and what one more of them takes CloudStack's own `update_config.py`
/// (4.20 unchanged, iptables-nft, its daemons left out, on another machine with two cores): it is not run here.
const SIZES: [(usize, &str); 3] = [(10, "0.4 s"), (100, "1.0 s"), (1000, "37 s")];

/// Changes one forwarding among so many.
///
/// # Errors
/// There is no `xvr` beside this program, or it refuses something.
pub fn run(arguments: &Message, scale: Scale, report: &mut Report) -> Result<()> {
    let rounds = arguments.rounds.unwrap_or(scale.of(1, 8, 50));
    report.say(format!("\none port forwarding changed, median (least to most) of {rounds} rounds"));
    report.say(format!(
        "  {:>11}  {:>28}  {:>28}  {:>18}",
        "forwardings", "update_config.py", "ping, scp, ssh and script", "CloudStack's own*"
    ));
    for (size, legacy) in SIZES.into_iter().take(scale.of(1, 3, 3)) {
        report.progress(&format!("message: among {size} forwardings"));
        let lab = Lab::isolated()?;
        let router = Router::start(&lab, "auto")?;
        let management = Management::new(&lab, CONTROL.into())?;
        management.boot(&router, &management.boot_line("router_isolated")?)?;
        management.call("get_template_version.sh", "")?.ok()?;
        let all: Vec<_> = (0..size).map(|port| forwarding(1000 + port, 22)).collect();
        management.configure("forwarding_rules", &message(&all))?.ok()?;
        let (mut script, mut whole) = (Series::default(), Series::default());
        for round in 0..rounds {
            script.push(by_script(&router, &message(&[forwarding(1000, 1 + 2 * round)]), round)?);
            let begin = Instant::now();
            management.configure("forwarding_rules", &message(&[forwarding(1000, 2 + 2 * round)]))?.ok()?;
            whole.push(begin.elapsed().as_secs_f64() * 1e9);
        }
        for (what, series) in [("script", &script), ("ssh", &whole)] {
            report.add(json!({ "suite": "message", "forwardings": size, "by": what }), "ns", series);
        }
        let shown = |series: &Series| {
            format!("{} ({} to {})", Time(series.median()), Time(series.least()), Time(series.most()))
        };
        report.say(format!("  {size:>11}  {:>28}  {:>28}  {legacy:>18}", shown(&script), shown(&whole)));
    }
    report.say(
        "  * its script alone; measured before on another machine of two cores, with its daemons left out",
    );
    Ok(())
}

fn by_script(router: &Router<'_>, content: &[u8], round: usize) -> Result<f64> {
    let name = format!("forwarding_rules.json.bench-{round}");
    fs::write(router.root().join("var/cache/cloud").join(&name), content).context("hand over a message")?;
    let mut command = router.namespace().command(router.root().join("opt/cloud/bin/update_config.py"));
    let begin = Instant::now();
    let output = command.arg(&name).output().context("run update_config.py")?;
    let took = begin.elapsed();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(took.as_secs_f64() * 1e9)
}

fn message(rules: &[serde_json::Value]) -> Vec<u8> {
    json!({ "rules": rules, "type": "forwardrules", "delete_from_processed_cache": false }).to_string().into()
}

/// A forwarding of a public port to one of the first guest's.
fn forwarding(public: usize, guest: usize) -> serde_json::Value {
    json!({
        "revoke": false, "protocol": "tcp", "source_ip_address": "203.0.113.10",
        "source_port_range": format!("{public}:{public}"), "destination_ip_address": "10.1.1.11",
        "destination_port_range": format!("{guest}:{guest}"), "source_cidr_list": "",
    })
}
