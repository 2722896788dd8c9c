//! `cargo xtask demo`: a CloudStack VPC in network namespaces, XVR as its router, real clients
//! through it, and a report. Exit status 0 only if every client got through.

mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use router_tests::capture::{Capture, Frames};
use router_tests::clients::{self, Direction, Probe};
use router_tests::journeys::{JOURNEYS, Journey};
use router_tests::lab::Lab;
use router_tests::netns::{self, Lifetime};
use router_tests::router::{Router, VPC_COMMANDS, fixture};
use router_tests::servers::{self, UdpEcho};

use report::{Cell, Report};

/// How the names of a kept demo begin.
const KEPT_PREFIX: &str = "xvrdemo";
/// What the clients need.
const PROGRAMS: [&str; 6] = ["curl", "iperf3", "ping", "sha256sum", "tcpdump", "traceroute"];
/// Length of the file that curl fetches.
const FILE_BYTES: u64 = 100_000_000;
/// How many TCP connections are open at once.
const CONNECTIONS: usize = 2_000;
/// What the public wire may not see.
const PRIVATE_SOURCE: &str = "src net 10.10.0.0/16";
/// From exec of the daemon to the first forwarded packet.
const START_AIM: Duration = Duration::from_millis(300);

/// What the command line asks for.
struct Arguments {
    attach: String,
    keep: bool,
    clean: bool,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| if arguments.clean { Ok(clean()) } else { demo(&arguments) }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments { attach: "auto".to_owned(), keep: false, clean: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--keep" => parsed.keep = true,
            "--clean" => parsed.clean = true,
            "--attach" => parsed.attach = words.next().context("--attach wants a mode")?,
            other => bail!("{other:?} is none of --keep, --clean, --attach MODE"),
        }
    }
    Ok(parsed)
}

/// Where a kept demo's router is installed.
fn kept_root() -> PathBuf {
    std::env::temp_dir().join(KEPT_PREFIX)
}

/// Removes what `--keep` left.
fn clean() -> bool {
    let removed = netns::remove_all(KEPT_PREFIX);
    let had_root = std::fs::remove_dir_all(kept_root()).is_ok();
    match (removed.len(), had_root) {
        (0, false) => println!("There is no kept demo."),
        (count, _) => {
            println!("Removed {count} namespaces, the daemon in them and {}.", kept_root().display())
        }
    }
    true
}

fn demo(arguments: &Arguments) -> Result<bool> {
    let missing = clients::missing(&PROGRAMS);
    if !missing.is_empty() {
        bail!("install {} first: `cargo xtask setup` does", missing.join(", "));
    }
    let begin = Instant::now();
    let mut report = Report::new();
    let lab = build_lab(arguments)?;
    report.title(&format!("--attach {}", arguments.attach));
    let mut router = match arguments.keep {
        true => Router::install_at(&lab, kept_root(), &arguments.attach)?,
        false => Router::install(&lab, &arguments.attach)?,
    };
    router.start_daemon()?;
    let public = lab.segment("public").router_port();
    let public_wire = Capture::start(&lab.wire, &public, Frames::Arriving, PRIVATE_SOURCE)?;
    tell(&mut report, &router)?;
    quote(&mut report, &router, "Ports", "ports")?;
    send_clients(&mut report, &lab);
    quote(&mut report, &router, "Flows", "flows")?;
    quote(&mut report, &router, "What went through which hook", "drops")?;
    start_cold(&mut report, &lab, &mut router);
    watch(&mut report, &lab, public_wire)?;
    let passed = report.verdict(begin.elapsed());
    if arguments.keep {
        router.keep();
        print_how_to_look_around(&lab, &router);
    }
    Ok(passed)
}

/// Namespaces and cables; the router's NICs are there, down and empty.
fn build_lab(arguments: &Arguments) -> Result<Lab> {
    if !netns::remove_all(KEPT_PREFIX).is_empty() {
        std::fs::remove_dir_all(kept_root()).ok();
        println!("(The demo that was kept earlier is removed.)");
    }
    match arguments.keep {
        true => Lab::vpc_named(KEPT_PREFIX, Lifetime::Kept),
        false => Lab::vpc(),
    }
}

/// Sends what CloudStack would send, in its order.
fn tell(report: &mut Report, router: &Router<'_>) -> Result<()> {
    report.section("CloudStack says, and update_config.py returns when it is in force");
    for name in VPC_COMMANDS {
        let begin = Instant::now();
        let output = router.update_config(&fixture(name))?.ok();
        output.with_context(|| format!("{name}; the daemon's log:\n{}", router.log()))?;
        report.line(&format!("{:<58} {:>5} ms", name, begin.elapsed().as_millis()));
    }
    Ok(())
}

fn quote(report: &mut Report, router: &Router<'_>, title: &str, what: &str) -> Result<()> {
    let shown = router.xvr(&["show", what])?.ok()?.stdout;
    report.quote(title, &format!("xvr show {what}"), &shown);
    Ok(())
}

/// A client: its name in the report, and how to run it on one journey.
type Client = (&'static str, fn(&Lab, Journey) -> Result<String>);

const CLIENTS: [Client; 8] = [
    ("first packet, nobody known", |lab, journey| {
        lab.forget_neighbours()?;
        answered(journey.ping(lab, 1)?)
    }),
    ("ping, 100 times", |lab, journey| answered(journey.ping(lab, 100)?)),
    ("curl 100 MB, SHA-256 equal", |lab, journey| {
        let download = journey.curl(lab, FILE_BYTES)?;
        Ok(report::bits(download.bytes as f64 * 8.0 / download.seconds))
    }),
    ("iperf3, to the server", |lab, journey| {
        Ok(report::bits(journey.iperf(lab, Direction::Upload, 2)?.bits_per_second))
    }),
    ("iperf3, from the server", |lab, journey| {
        Ok(report::bits(journey.iperf(lab, Direction::Download, 2)?.bits_per_second))
    }),
    ("2000 TCP connections at once", |lab, journey| {
        Ok(format!("{:.2} s", journey.connections(lab, CONNECTIONS)?.as_secs_f64()))
    }),
    ("traceroute, UDP", |lab, journey| hops(&journey.traceroute(lab, Probe::Udp)?)),
    ("traceroute, ICMP", |lab, journey| hops(&journey.traceroute(lab, Probe::Icmp)?)),
];

fn send_clients(report: &mut Report, lab: &Lab) {
    report.section("Clients");
    let heads = JOURNEYS.map(|journey| (journey.name, format!("{} > {}", journey.client, journey.server)));
    report.heads(&heads);
    for (name, run) in CLIENTS {
        let cells = JOURNEYS.map(|journey| Cell::from(run(lab, journey)));
        report.row(name, &cells);
    }
}

fn answered(ping: clients::Ping) -> Result<String> {
    if ping.lost() > 0 {
        bail!("{} of {} lost", ping.lost(), ping.sent);
    }
    Ok(format!("{:.2} ms", ping.average_ms))
}

fn hops(hops: &[std::net::IpAddr]) -> Result<String> {
    Ok(format!("{} hops", hops.len()))
}

/// What must not have happened.
fn watch(report: &mut Report, lab: &Lab, public_wire: Capture) -> Result<()> {
    report.section("What must not happen");
    let leaked = public_wire.stop()?.frames("")?;
    report.must(
        "private sources on the public wire, start to end",
        &leaked.len().to_string(),
        leaked.is_empty(),
    );
    let wrong = clients::checksum_errors(lab)?;
    let total: u64 = wrong.values().sum();
    report.must("packets with a wrong checksum at any host", &total.to_string(), wrong.is_empty());
    Ok(())
}

/// Kills the daemon, removes programs and tables, and measures how long a new daemon takes from
/// its exec to the first packet forwarded, out of what was saved.
fn start_cold(report: &mut Report, lab: &Lab, router: &mut Router<'_>) {
    report.section("Restart: daemon killed, programs and tables removed, databags kept");
    match measure_cold_start(lab, router) {
        Ok(took) => {
            let aim = if took <= START_AIM { "within" } else { "over" };
            report.line(&format!(
                "exec of `xvr daemon` to the first forwarded packet: {} ms ({aim} the aim of {} ms)",
                took.as_millis(),
                START_AIM.as_millis()
            ));
        }
        Err(error) => report.must("the first forwarded packet", &format!("{error:#}"), false),
    }
}

fn measure_cold_start(lab: &Lab, router: &mut Router<'_>) -> Result<Duration> {
    let far = lab.host("far");
    let echo = UdpEcho::start(far)?;
    router.make_cold()?;
    let target = echo.at(far.v4);
    if servers::udp_round_trip(lab.host("web1"), target, b"is it off?").is_ok() {
        bail!("packets get through without programs");
    }
    let answer = servers::first_answer(lab.host("web1"), target, Duration::from_secs(30))?;
    let begin = router.spawn_daemon()?;
    let Ok(first) = answer.join() else { bail!("the sender panicked") };
    Ok(first?.duration_since(begin))
}

fn print_how_to_look_around(lab: &Lab, router: &Router<'_>) {
    let inside = |name: &str| format!("nsenter --net=/run/netns/{}-{name}", lab.prefix());
    let root = router.root().display();
    println!(
        "The lab stands. Look around:\n\n  \
           {web1} ping 198.51.100.9\n  \
           {db1} ip address\n  \
           {wire} tcpdump -ni r-public\n  \
           {router} {root}/usr/sbin/xvr show flows --root {root}\n  \
           tail -f {root}/daemon.log\n\n\
         Stations: {stations}.\n\
         Remove it:\n\n  cargo xtask demo --clean\n",
        web1 = inside("web1"),
        db1 = inside("db1"),
        wire = inside("wire"),
        router = inside("router"),
        stations = lab.hosts.iter().map(|host| host.name).collect::<Vec<_>>().join(", "),
    );
}
