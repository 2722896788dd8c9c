//! The daemon is killed at any moment of a stream of messages: what is saved is always one of the states that a
//! message has led to, whole, and packets never wait.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use router_tests::lab::Lab;
use router_tests::model::generate::Random;
use router_tests::needs;
use router_tests::netns::run_bounded;
use router_tests::router::{Router, VPC_COMMANDS, fixture};
use router_userspace::cloudstack::{Command, Databags};
use router_userspace::compile::{Driver, Inventory, Nic};

/// How often the daemon is killed, unless `XVR_POWER_CUTS` says otherwise (`cargo xtask soak`: 200).
const CUTS: usize = 20;

/// Messages that can come in any order, several times each. The pings below pass whichever came last.
const STREAM: &[&str] = &[
    "own/guest_network/vpc_second_tier_add_dualstack.json",
    "own/guest_network/vpc_second_tier_remove.json",
    "own/network_acl/vpc_second_tier_default_allow.json",
    "cloudstack/ip_associations/vpc_add_extra_ip.json",
    "cloudstack/ip_associations/vpc_remove_extra_ip.json",
    "cloudstack/static_routes/v4_21_next_hop_no_private_gateway.json",
    "cloudstack/static_routes/v4_21_next_hop_revoke.json",
    "cloudstack/staticnat_rules/vpc_enable.json",
    "cloudstack/staticnat_rules/vpc_disable.json",
    "cloudstack/forwarding_rules/vpc_tcp_add.json",
    "cloudstack/forwarding_rules/vpc_revoke.json",
    "cloudstack/network_acl/vpc_tier_mixed.json",
    "cloudstack/network_acl/vpc_tier_default_allow.json",
];

#[test]
fn a_daemon_that_is_killed_comes_back_with_what_it_has_acknowledged() -> Result<()> {
    if !needs::are_met(&["ping"]) {
        return Ok(());
    }
    let cuts = match std::env::var("XVR_POWER_CUTS") {
        Ok(cuts) => cuts.parse().context("XVR_POWER_CUTS is a number")?,
        Err(_) => CUTS,
    };
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, "auto")?;
    router.apply(&VPC_COMMANDS)?;
    let bags = router.root().join("etc/cloudstack");
    let mut random = Random::new(UNIX_EPOCH.elapsed()?.as_secs());
    let stream: Vec<&str> = (0..100_000).map(|_| random.pick(STREAM)).collect();

    let mut ping = lab.host("web1").namespace.command("ping");
    ping.args(["-n", "-q", "-i", "0.01", "-W", "5", "198.51.100.9"]).stdout(Stdio::piped());
    let ping = ping.spawn()?;

    // How many of the stream were acknowledged.
    let (acknowledged, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut known = Known { bags: Databags::load(&bags), at: 0 };
    let nics = nics(&lab)?;
    let sender = Sender { router: Sending::of(&router), stream: &stream };
    let result = thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| sender.send(&acknowledged, &stop));
        let outcome = (|| -> Result<()> {
            for cut in 0..cuts {
                thread::sleep(Duration::from_micros(random.below(400_000) as u64));
                router.kill_daemon();
                let certain = acknowledged.load(Ordering::SeqCst);
                known.follow(&stream, certain, &nics)?;
                let saved = Databags::load(&bags);
                if said(&saved) != said(&known.bags) {
                    let next = known.next(&stream, &nics)?;
                    ensure!(
                        said(&saved) == said(&next),
                        "cut {cut}: what is saved is neither the state after {certain} messages nor that after \
                         {}, {}",
                        certain + 1,
                        stream[certain]
                    );
                }
                router.start_daemon()?;
            }
            Ok(())
        })();
        stop.store(true, Ordering::SeqCst);
        let sent = sending.join().expect("the sender does not panic");
        outcome.and(sent)
    });

    run_bounded(std::process::Command::new("kill").args(["-INT", &ping.id().to_string()]), CALL)?.ok()?;
    let pings = ping.wait_with_output()?;
    let pings = String::from_utf8_lossy(&pings.stdout).into_owned();
    result?;
    let count = acknowledged.load(Ordering::SeqCst);
    known.follow(&stream, count, &nics)?;
    ensure!(said(&Databags::load(&bags)) == said(&known.bags), "after {count} messages");
    ensure!(router.plan()?.is_empty(), "something is left to do: {:?}", router.plan()?);
    ensure!(pings.contains(" 0% packet loss"), "forwarding stopped: {pings}");
    println!("{cuts} times killed between {count} messages; {}", pings.lines().nth(3).unwrap_or_default());
    Ok(())
}

const CALL: Duration = Duration::from_secs(60);

/// What databags say. A removal that comes twice, as after a crash, leaves no list where it left an empty one.
fn said(bags: &Databags) -> Vec<String> {
    let documents = bags.documents();
    documents.values().map(|document| document.to_string().replace("\"eth3\":[],", "")).collect()
}

/// The state after so many messages of the stream.
struct Known {
    bags: Databags,
    at: usize,
}

impl Known {
    fn follow(&mut self, stream: &[&str], to: usize, nics: &Inventory) -> Result<()> {
        while self.at < to {
            self.bags = self.next(stream, nics)?;
            self.at += 1;
        }
        Ok(())
    }

    fn next(&self, stream: &[&str], nics: &Inventory) -> Result<Databags> {
        let name = stream[self.at];
        let parsed = Command::parse(name, &fs::read(fixture(name))?)?;
        Ok(self.bags.merge(&parsed.command, nics)?)
    }
}

/// What sends one message after the other, as CloudStack does.
struct Sender<'a> {
    router: Sending<'a>,
    stream: &'a [&'a str],
}

/// The router's namespace and root, which stay while its daemon comes and goes.
struct Sending<'a> {
    namespace: &'a router_tests::netns::Namespace,
    root: std::path::PathBuf,
}

impl<'a> Sending<'a> {
    fn of(router: &Router<'a>) -> Self {
        Self { namespace: router.namespace(), root: router.root().to_owned() }
    }
}

impl Sender<'_> {
    fn send(&self, acknowledged: &AtomicUsize, stop: &AtomicBool) -> Result<()> {
        for (index, name) in self.stream.iter().enumerate() {
            if stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            let kind = Path::new(name).parent().and_then(Path::file_name).context("a folder")?;
            let file = format!("{}.json.{index}", kind.to_string_lossy());
            let inbox = self.router.root.join("var/cache/cloud");
            fs::copy(fixture(name), inbox.join(&file))?;
            let mut script =
                self.router.namespace.command(self.router.root.join("opt/cloud/bin/update_config.py"));
            let output = run_bounded(script.arg(&file), CALL)?;
            output.ok().with_context(|| format!("message {index}, {name}"))?;
            acknowledged.store(index + 1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The router's NICs.
fn nics(lab: &Lab) -> Result<Inventory> {
    let nic = |(index, segment): (usize, &router_tests::lab::Segment)| -> Result<Nic> {
        Ok(Nic {
            ifindex: u32::try_from(index)? + 1,
            name: segment.router_device.to_owned(),
            mac: segment.router_mac.parse()?,
            mtu: 1500,
            up: true,
            driver: Driver::Veth,
            takes_xdp_frames: None,
            takes_multi_buffer: false,
            strips_tags: false,
            carrier: None,
        })
    };
    let nics = lab.segments.iter().enumerate().map(nic).collect::<Result<_>>()?;
    Ok(Inventory { nics, ..Inventory::default() })
}
