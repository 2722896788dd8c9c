//! The suite `rules`: from port forwardings in JSON to packets that are forwarded by them, beside what the same rules take
//! Linux' own programs to load.
//!
//! XVR's is `update_config.py` with a `forwarding_rules.json` of the isolated network's router: the script's time on the
//! wall, from its start to its end, and what of it the daemon says it took from reading the message to having it in force.
//! All forwardings come with one message, to a router that has none. The others load a file: the rules that
//! CloudStack's configure.py writes, which itself takes far longer to find out what to write.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use router_tests::lab::Lab;
use router_tests::netns::{Lifetime, Namespace, unique_prefix};
use router_tests::router::{ISOLATED_COMMANDS, Router};
use serde_json::{Value, json};

use crate::chains;
use crate::linux::{self, Program};
use crate::report::{Report, Series, Time};
use crate::scale::Scale;
use crate::stats::{Ratio, thousands};

/// How many port forwardings.
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// The address of the isolated network's router that they are of, see [`ISOLATED_COMMANDS`].
const PUBLIC: &str = "203.0.113.14";
/// How long a command may take, in seconds.
const PATIENCE: &str = "300";

/// Who loads them, and what is measured of it.
const SUBJECTS: [&str; 5] = [
    "xvr, script",
    "xvr, daemon",
    "cloudstack, iptables-legacy-restore",
    "cloudstack, iptables-nft-restore",
    "nft -f, maps",
];

/// Runs the suite.
///
/// # Errors
/// There is no `xvr` beside this program, or somebody refuses something.
pub fn run(scale: Scale, report: &mut Report) -> Result<()> {
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "auto")?;
    router.apply(&ISOLATED_COMMANDS)?;
    let references = References::new()?;
    report.say(format!("\nrules: port forwardings, from JSON or a file to in force\n  {:36}", ""));
    for size in SIZES.into_iter().take(scale.of(1, 4, 4)) {
        let rounds = if size < 10_000 { scale.of(1, 5, 15) } else { scale.of(1, 3, 9) };
        let mut series = [(); SUBJECTS.len()].map(|()| Series::default());
        for round in 1..=rounds {
            report.progress(&format!("rules: {size} port forwardings, round {round} of {rounds}"));
            let (script, daemon) = apply(&router, &forwardings(size, false))?;
            apply(&router, &forwardings(size, true))?;
            let times = [script, daemon].into_iter().chain(references.load(size)?);
            series.iter_mut().zip(times).for_each(|(series, time)| series.push(time.as_secs_f64() * 1e9));
        }
        report.say(format!("  {} port forwardings", thousands(size as i64)));
        let [script, ..] = &series;
        for (subject, series) in SUBJECTS.into_iter().zip(&series) {
            let about =
                json!({ "suite": "rules", "what": "all at once", "subject": subject, "forwardings": size });
            let noisy = report.add_beside(about, "ns", series, &[(SUBJECTS[0], script)]);
            let ratio = Ratio(&series.ratios(script)).to_string();
            let [median, least, most] =
                [series.median(), series.least(), series.most()].map(|time| Time(time).to_string());
            report.say(format!("    {subject:36} {median:>9} {least:>9}..{most:<9} {ratio:>24}  {noisy}"));
        }
    }
    report.say("  the ratio is to xvr's script; Linux' programs add what they load to nothing, too");
    Ok(())
}

/// A message with so many port forwardings, or one that takes them back.
pub fn forwardings(count: usize, is_revoked: bool) -> Vec<u8> {
    let rules: Vec<Value> = (0..count)
        .map(|number| {
            let port = usize::from(chains::FIRST_PORT) + number;
            json!({
                "revoke": is_revoked, "protocol": "udp", "source_ip_address": PUBLIC,
                "source_port_range": format!("{port}:{port}"),
                "destination_ip_address": format!("10.1.1.{}", 20 + number % 200),
                "destination_port_range": "8080:8080", "source_cidr_list": "",
            })
        })
        .collect();
    json!({ "rules": rules, "type": "forwardrules", "delete_from_processed_cache": false }).to_string().into()
}

/// Sends a message of port forwardings; how long the script took, and the daemon by its own account.
///
/// # Errors
/// The router refuses it, or does not say how long it took.
pub fn apply(router: &Router<'_>, content: &[u8]) -> Result<(Duration, Duration)> {
    apply_as(router, "forwarding_rules", content)
}

/// The same of any kind of message.
///
/// # Errors
/// The router refuses it, or does not say how long it took.
pub fn apply_as(router: &Router<'_>, kind: &str, content: &[u8]) -> Result<(Duration, Duration)> {
    let name = format!("{kind}.json.{:08x}-6ad9-4d9b-8d24-fe1496b59146", serial());
    fs::write(router.root().join("var/cache/cloud").join(&name), content).context("hand over a command")?;
    let mut command = router.namespace().command("timeout");
    command.arg(PATIENCE).arg(router.root().join("opt/cloud/bin/update_config.py")).arg(&name);
    let begin = Instant::now();
    let output = command.output().context("run update_config.py")?;
    let script = begin.elapsed();
    let log = router.log();
    ensure!(
        output.status.success(),
        "update_config.py {name}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        log.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    );
    let idle = log.lines().find(|line| line.contains("not in force"));
    ensure!(idle.is_none(), "a rule is not in force: {}", idle.unwrap_or_default());
    let line = log.lines().rev().find(|line| line.contains("in force with"));
    let milliseconds = line.and_then(|line| line.split(" after ").nth(1)?.split(' ').next()?.parse().ok());
    Ok((script, Duration::from_millis(milliseconds.context("the daemon does not say how long it took")?)))
}

/// A number for each message.
fn serial() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// Linux' own programs, each in a namespace of its own.
struct References {
    namespaces: [Namespace; 3],
    file: PathBuf,
}

impl References {
    const PROGRAMS: [Program; 3] = [Program::Legacy, Program::IptablesNft, Program::Nft];

    fn new() -> Result<Self> {
        let prefix = unique_prefix();
        let [legacy, nft, maps] =
            ["legacy", "nft", "maps"].map(|label| Namespace::new(&prefix, label, Lifetime::Scoped));
        let file = std::env::temp_dir().join(format!("{prefix}-rules"));
        Ok(Self { namespaces: [legacy?, nft?, maps?], file })
    }

    /// How long each takes with so many.
    fn load(&self, size: usize) -> Result<[Duration; 3]> {
        let [none, all] = [0, size as u32].map(chains::forwards);
        let mut times = [Duration::ZERO; 3];
        for ((program, namespace), time) in Self::PROGRAMS.into_iter().zip(&self.namespaces).zip(&mut times) {
            let text = if program == Program::Nft { chains::maps } else { chains::cloudstack };
            linux::load(namespace, program, &self.file, &text(&none))?;
            *time = linux::load(namespace, program, &self.file, &text(&all))?;
        }
        Ok(times)
    }
}

impl Drop for References {
    fn drop(&mut self) {
        fs::remove_file(&self.file).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_as_many_rules_as_asked_for_each_with_a_port_of_its_own() -> Result<()> {
        let message: Value = serde_json::from_slice(&forwardings(300, true))?;
        let rules = message["rules"].as_array().context("rules")?;
        let ports: std::collections::BTreeSet<_> =
            rules.iter().map(|rule| rule["source_port_range"].to_string()).collect();
        assert_eq!((rules.len(), ports.len()), (300, 300));
        assert_eq!(rules[299]["revoke"], true);
        Ok(())
    }
}
