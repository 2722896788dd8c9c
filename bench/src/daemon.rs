//! Changes the way CloudStack makes them: a command file, `update_config.py`, a daemon that reads, compiles,
//! compares and applies.

use anyhow::Result;
use router_tests::lab::Lab;
use router_tests::router::{ISOLATED_COMMANDS, Router};
use router_userspace::model::nat::PortRange;
use router_userspace::model::policy::{Rule, Traffic};
use serde_json::{Value, json};

use crate::control;
use crate::report::{Report, Series, Time};
use crate::rules::{Family, RuleSet, Shape};
use crate::scale::Scale;

/// The address of the isolated network's router that the rules are about, see [`ISOLATED_COMMANDS`].
const PUBLIC: &str = "203.0.113.14";

/// Measures a firewall of so many rules, and one rule more.
///
/// # Errors
/// There is no `xvr` beside this program, or it refuses something.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    report.say("\nfirewall_rules.json by update_config.py, to in force");
    report.say(format!(
        "  {:>7}  {:>12} {:>12}  {:>12} {:>12}",
        "rules", "all: script", "daemon", "one: script", "daemon"
    ));
    let rounds = scale.of(1, 3, 9);
    for rules in [10, scale.of(100, 100_000, 100_000)] {
        let lab = Lab::isolated()?;
        let router = Router::start(&lab, "auto")?;
        router.apply(&ISOLATED_COMMANDS)?;
        let list = RuleSet::new(Shape::CloudStack, Family::V4, rules).list;
        let all: Vec<Value> = (1..).zip(&list.rules).map(|(id, rule)| firewall_rule(id, rule)).collect();
        let mut series = [(); 4].map(|()| Series::default());
        let (script, daemon) = apply(&router, &all)?;
        series[0].push(script);
        series[1].push(daemon);
        for round in 0..rounds {
            let port = Traffic::Tcp(PortRange::new(4242, 4242).ok());
            let like = &list.rules[0];
            let rule = Rule::new(like.id, like.action, port, like.sources.clone(), like.destinations.clone());
            let (script, daemon) = apply(&router, &[firewall_rule(1_000_000 + round, &rule)])?;
            series[2].push(script);
            series[3].push(daemon);
        }
        let names = ["all, script", "all, daemon", "one more, script", "one more, daemon"];
        for (what, series) in names.into_iter().zip(&series) {
            let about = json!({ "suite": "policy", "subject": "daemon", "rules": rules, "change": what });
            report.add(about, "ns", series);
        }
        let [all, all_daemon, one, one_daemon] = series.map(|series| Time(series.median()));
        report.say(format!("  {rules:>7}  {all:>12} {all_daemon:>12}  {one:>12} {one_daemon:>12}"));
    }
    Ok(())
}

/// Sends rules of a public address's firewall; how long the script took, and the daemon by its own account, in
/// nanoseconds.
fn apply(router: &Router<'_>, rules: &[Value]) -> Result<(f64, f64)> {
    let message =
        json!({ "rules": rules, "type": "firewallrules", "delete_from_processed_cache": false }).to_string();
    let (script, daemon) = control::apply_as(router, "firewall_rules", message.as_bytes())?;
    Ok((script.as_secs_f64() * 1e9, daemon.as_secs_f64() * 1e9))
}

/// A rule as CloudStack writes it, from where the list's goes to: a firewall looks at sources.
fn firewall_rule(id: usize, rule: &Rule) -> Value {
    let networks: Vec<_> = rule.destinations.iter().map(ToString::to_string).collect();
    let networks = if networks.is_empty() { vec!["0.0.0.0/0".to_owned()] } else { networks };
    let mut value = json!({
        "id": id, "src_ip": PUBLIC, "revoked": false, "already_added": false, "source_cidr_list": networks,
        "purpose": "Firewall", "traffic_type": "Ingress", "default_egress_policy": false,
    });
    let ports = |range: Option<PortRange>| {
        let range = range.unwrap_or(PortRange::ALL);
        json!([range.first(), range.last()])
    };
    let protocol = match rule.traffic {
        Traffic::Tcp(range) => {
            value["src_port_range"] = ports(range);
            "tcp"
        }
        Traffic::Udp(range) => {
            value["src_port_range"] = ports(range);
            "udp"
        }
        Traffic::Icmp { kind, code } => {
            value["icmp_type"] = kind.map_or(-1, i32::from).into();
            value["icmp_code"] = code.map_or(-1, i32::from).into();
            "icmp"
        }
        Traffic::Any | Traffic::Protocol(_) => "all",
    };
    value["protocol"] = protocol.into();
    value
}
