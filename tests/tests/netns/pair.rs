//! Two routers for one network: one serves, and when it does not the other one does. Real keepaliveds, with what
//! CloudStack sends to both.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use router_tests::capture::{Capture, Frames};
use router_tests::clients;
use router_tests::lab::{Host, Lab};
use router_tests::needs;
use router_tests::netns::{Process, wait_until};
use router_tests::pair::{BOOT_LINE, Differences, EVERY, Pair, Pings, SOON, TWIN};
use router_userspace::model::RouterRole::{self, Backup, Fault, Primary, Unknown};
use router_userspace::rpc::{self, Answer, Request};

/// `advert_int` of the fixtures.
const ADVERT: Duration = Duration::from_secs(1);

/// Long enough for who would want to take over to have done so.
const SETTLED: Duration = Duration::from_secs(6);

/// Asks both routers for their role, again and again.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Watch {
    fn start(pair: &Pair<'_>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sockets, stopped) = (pair.sockets(), stop.clone());
        let thread = spawn(move || {
            let role = |socket: &Path| rpc::call(socket, &Request::Role, Duration::ZERO);
            let (mut since, mut longest) = (None, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let both = sockets.iter().all(|socket| matches!(role(socket), Ok(Answer::Role(Primary))));
                let now = Instant::now();
                let begun = *since.get_or_insert(now);
                longest = longest.max(if both { now - begun } else { Duration::ZERO });
                if !both {
                    since = None;
                }
                sleep(Duration::from_millis(20));
            }
            longest
        });
        Self { stop, thread }
    }

    /// The rule for pairs: never two that serve for longer than it takes to tell that one does not.
    fn never_two(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.thread.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
        println!("both were primary for at most {longest:?}");
        ensure!(longest <= ADVERT * 3, "both were primary for {longest:?}");
        Ok(())
    }
}

/// Does something to the router that serves, and waits until the other one does. Gives the one that serves now.
fn fails_over(
    pair: &mut Pair<'_>,
    what: &str,
    primary: usize,
    failed: RouterRole,
    harm: impl FnOnce(&mut Pair<'_>) -> Result<()>,
) -> Result<usize> {
    let (vm, far) = (pair.lab.host("vm1"), pair.lab.host("far"));
    let watch = Watch::start(pair);
    let pings = Pings::start(vm, far)?;
    sleep(Duration::from_secs(1));
    harm(pair).with_context(|| what.to_owned())?;
    let other = 1 - primary;
    let mut expected = [Primary; 2];
    expected[primary] = failed;
    pair.wait_for(expected).with_context(|| what.to_owned())?;
    sleep(Duration::from_secs(1));
    let outage = pings.outage(what)?;
    println!("{what}: {:.2?} without an answer, {} pings lost", outage.longest, outage.lost);
    ensure!(outage.longest > EVERY, "{outage:?}");
    watch.never_two().with_context(|| what.to_owned())?;
    Ok(other)
}

fn the_other_router_takes_over(attach: &str) -> Result<()> {
    if !needs::are_met(&["keepalived", "ping", "tcpdump", "curl"]) {
        return Ok(());
    }
    let lab = Lab::isolated()?.with_twin()?;
    let mut pair = Pair::start(&lab, attach)?;
    let watch = Watch::start(&pair);
    pair.tell(0, BOOT_LINE, TWIN)?;
    wait_until("a router whose twin is silent serves", SOON, || {
        pair.role(0).is_ok_and(|role| role == "PRIMARY")
    })?;
    // The second one comes quietly.
    let silent = Capture::start(&lab.wire, &pair.port(1, "public"), Frames::Arriving, "")?;
    pair.tell(1, BOOT_LINE, TWIN)?;
    pair.tell_both("cloudstack/firewall_rules/egress_system_default_allow.json", &[])?;
    let mut primary = pair.elected()?;
    ensure!(primary == 0);
    let sent = silent.stop()?.frames("")?;
    ensure!(sent.is_empty(), "the second router has sent {sent:?}");
    watch.never_two()?;

    one_of_them_serves(&pair, primary)?;
    keepalived_of_the_backup_may_die(&pair, primary)?;
    for _ in 0..2 {
        primary = fails_over(&mut pair, "keepalived killed", primary, Backup, |pair| {
            pair.kill_keepalived(primary)
        })?;
        // It does not come back for having come back.
        sleep(SETTLED);
        ensure!(pair.elected()? == primary);
        one_of_them_serves(&pair, primary)?;
    }

    the_daemon_may_die(&mut pair, primary)?;

    let guests = pair.port(primary, "guests");
    primary = fails_over(&mut pair, "the guest NIC's link lost", primary, Fault, |pair| {
        pair.lab.wire.ip(&format!("link set {guests} down\n"))
    })?;
    one_of_them_serves(&pair, primary)?;
    lab.wire.ip(&format!("link set {guests} up\n"))?;
    ensure!(pair.elected()? == primary);

    primary =
        fails_over(&mut pair, "keepalived stopped", primary, Fault, |pair| pair.manage(primary, "stop"))?;
    sleep(SETTLED);
    ensure!(pair.role(1 - primary)? == "FAULT");
    pair.manage(1 - primary, "start")?;
    ensure!(pair.elected()? == primary);

    let dead = primary;
    primary = fails_over(&mut pair, "the whole router gone", primary, Fault, |pair| {
        for segment in pair.lab.segments {
            pair.lab.wire.ip(&format!("link set {} down\n", pair.port(dead, segment.name)))?;
        }
        pair.kill_keepalived(dead)?;
        pair.routers[dead].kill_daemon();
        Ok(())
    })?;
    let watch = Watch::start(&pair);
    for segment in lab.segments {
        lab.wire.ip(&format!("link set {} up\n", pair.port(dead, segment.name)))?;
    }
    pair.routers[dead].start_daemon()?;
    ensure!(pair.elected()? == primary);
    watch.never_two()?;
    a_guest_cannot_take_part(&pair)?;
    ensure!(pair.elected()? == primary);
    one_of_them_serves(&pair, primary)?;
    pair.is_well = true;
    Ok(())
}

/// Addresses, wires and services of both.
fn one_of_them_serves(pair: &Pair<'_>, primary: usize) -> Result<()> {
    let (vm, far, backup) = (pair.lab.host("vm1"), pair.lab.host("far"), 1 - primary);
    let silent = Capture::start(&pair.lab.wire, &pair.port(backup, "public"), Frames::Arriving, "")?;
    vm.namespace.run("ping", &["-c", "3", "-i", "0.2", "-W", "5", &far.v4.to_string()])?;
    let own = ["10.1.1.92", "10.1.1.93"];
    for which in [primary, backup] {
        let serves = which == primary;
        let (inside, outside) = (pair.addresses(which, "eth0")?, pair.addresses(which, "eth2")?);
        ensure!(inside.contains(&format!("{}/24", own[which])), "{inside}");
        ensure!(inside.contains("10.1.1.1/24") == serves, "{inside}");
        ensure!(outside.contains("203.0.113.15/24") == serves, "{outside}");
        let link = pair.namespace(which).run("ip", &["-br", "link", "show", "dev", "eth2"])?;
        ensure!(link.contains(",UP,") == serves, "{link}");
        let status = pair.routers[which].xvr(&["status"])?.ok()?.stdout;
        let word = if serves { "PRIMARY" } else { "BACKUP" };
        if pair.routers[which].daemon_pid().is_some() && pair.role(which)? == word {
            ensure!(status.contains(&format!("Of a pair of routers this is {word}.")), "{status}");
            ensure!(status.contains("is running"), "{status}");
            ensure!(pair.routers[which].plan()?.is_empty(), "{:?}", pair.routers[which].plan()?);
        }
        // What guests are told, they are told by the one that serves.
        let url = format!("http://{}/latest/meta-data/", own[which]);
        let curl =
            vm.namespace.run("curl", &["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url]);
        ensure!(curl.is_ok() == serves, "{curl:?}");
    }
    vm.namespace.run("curl", &["-s", "-m", "5", "http://10.1.1.1/latest/meta-data/"])?;
    let sent = silent.stop()?.frames("")?;
    ensure!(sent.is_empty(), "the backup has sent {sent:?}");
    Ok(())
}

/// One that does not know the password is not heard, however important it says it is.
fn a_guest_cannot_take_part(pair: &Pair<'_>) -> Result<()> {
    let guest = &pair.lab.host("vm2").namespace;
    let path = |kind: &str| std::env::temp_dir().join(format!("{}.{kind}", guest.name()));
    let (config, pid, child) = (path("conf"), path("pid"), path("child"));
    fs::write(
        &config,
        "vrrp_instance inside_network {\n state MASTER\n priority 254\n interface eth0\n virtual_router_id 51\n \
         advert_int 1\n authentication {\n auth_type AH\n auth_pass guessed\n }\n \
         virtual_ipaddress {\n 10.1.1.250/24\n }\n}\n",
    )?;
    let mut command = guest.command("keepalived");
    command.args(["--dont-fork", "--vrrp", "--no-syslog"]).stdout(Stdio::null()).stderr(Stdio::null());
    for (option, file) in [("--use-file", &config), ("--pid", &pid), ("--vrrp_pid", &child)] {
        command.arg(option).arg(file);
    }
    let mut keepalived = Process::spawn(&mut command)?;
    let took = || guest.run("ip", &["-br", "-4", "address"]).is_ok_and(|text| text.contains("10.1.1.250"));
    wait_until("the guest believes that it serves", SOON, took)?;
    let watch = Watch::start(pair);
    sleep(SETTLED);
    pair.elected()?;
    watch.never_two()?;
    keepalived.signal(libc::SIGTERM);
    keepalived.wait(SOON)?;
    [config, pid, child].iter().for_each(|file| drop(fs::remove_file(file)));
    Ok(())
}

/// Nobody notices, however often.
fn keepalived_of_the_backup_may_die(pair: &Pair<'_>, primary: usize) -> Result<()> {
    let backup = 1 - primary;
    let pings = clients::start_ping(pair.lab.host("vm1"), pair.lab.host("far").v4.into(), EVERY)?;
    for _ in 0..2 {
        let before = pair.keepalived(backup)?;
        pair.kill_keepalived(backup)?;
        wait_until("keepalived is back", SOON, || pair.is_another_keepalived(backup, before))?;
        pair.elected()?;
    }
    let pings = pings.stop()?;
    // The last one may be on its way.
    ensure!(pings.lost() <= 1 && pings.received > 50, "{pings:?}");
    ensure!(pair.elected()? == primary);
    Ok(())
}

/// Neither router changes its role for that, and no packet is lost.
fn the_daemon_may_die(pair: &mut Pair<'_>, primary: usize) -> Result<()> {
    let pings = Pings::start(pair.lab.host("vm1"), pair.lab.host("far"))?;
    sleep(Duration::from_secs(1));
    pair.routers[primary].kill_daemon();
    sleep(SETTLED);
    ensure!(pair.role(1 - primary)? == "BACKUP");
    ensure!(pair.addresses(primary, "eth0")?.contains("10.1.1.1/24"));
    pair.routers[primary].start_daemon()?;
    ensure!(pair.role(primary)? == "PRIMARY", "at once: {}", pair.role(primary)?);
    sleep(Duration::from_secs(1));
    let outage = pings.outage("the daemon killed and started again")?;
    ensure!(outage.lost == 0, "{outage:?}");
    ensure!(pair.elected()? == primary);
    Ok(())
}

/// What the second router of a VPC's pair is told otherwise.
const VPC_TWIN: Differences<'static> = &[
    ("169.254.1.178", "169.254.1.179"),
    ("10.10.1.248", "10.10.1.249"),
    ("02:01:00:db:00:2b", "02:01:00:db:00:77"),
    ("10.10.2.248", "10.10.2.249"),
    ("02:01:00:de:00:2c", "02:01:00:de:00:77"),
];

#[test]
fn tiers_come_and_go_while_one_router_of_a_vpc_serves() -> Result<()> {
    if !needs::are_met(&["keepalived", "ping", "tcpdump", "curl"]) {
        return Ok(());
    }
    let lab = Lab::vpc()?.with_twin()?;
    let mut pair = Pair::start(&lab, "tc")?;
    let watch = Watch::start(&pair);
    pair.tell_both("cloudstack/cmd_line/vpcrouter_redundant.json", VPC_TWIN)?;
    pair.tell_both("cloudstack/ip_associations/vpc_add_source_nat.json", &[])?;
    pair.wait_for([Unknown, Unknown])?;
    let has_public = |pair: &Pair<'_>, which: usize| -> Result<bool> {
        Ok(pair.addresses(which, "eth1")?.contains("203.0.113."))
    };
    ensure!(!has_public(&pair, 0)? && !has_public(&pair, 1)?);

    let first = "cloudstack/guest_network/vpc_tier_add_redundant.json";
    pair.tell_both(first, VPC_TWIN)?;
    pair.tell_both("cloudstack/network_acl/vpc_tier_default_allow.json", VPC_TWIN)?;
    let primary = pair.elected()?;
    let (web1, db1, far) = (lab.host("web1"), lab.host("db1"), lab.host("far"));
    let reach = |from: &Host, to: &Host| {
        from.namespace.run("ping", &["-c", "3", "-i", "0.2", "-W", "5", &to.v4.to_string()]).map(drop)
    };
    reach(web1, far)?;

    // As CloudStack does it: the primary has the new tier before the backup, whose keepalived is stopped meanwhile.
    let backup = 1 - primary;
    let second = "own/guest_network/vpc_second_tier_add_redundant.json";
    pair.manage(backup, "stop")?;
    ensure!(pair.role(backup)? == "FAULT");
    pair.tell(primary, second, VPC_TWIN)?;
    pair.tell(backup, second, VPC_TWIN)?;
    pair.tell_both("own/network_acl/vpc_second_tier_default_allow.json", VPC_TWIN)?;
    ensure!(pair.elected()? == primary, "a tier's message brings keepalived back, and it takes nothing over");
    reach(db1, far)?;
    reach(web1, db1)?;
    ensure!(pair.addresses(primary, "eth3")?.contains("10.10.2.1/24"));
    ensure!(!pair.addresses(backup, "eth3")?.contains("10.10.2.1/24"));

    // One of them knows of fewer tiers than the other, for as long as one likes.
    pair.tell(primary, "own/guest_network/vpc_second_tier_remove_redundant.json", VPC_TWIN)?;
    sleep(SETTLED);
    ensure!(pair.elected()? == primary, "one has fewer tiers");
    reach(web1, far)?;
    ensure!(!pair.addresses(primary, "eth3")?.contains("10.10.2."));
    pair.tell(backup, "own/guest_network/vpc_second_tier_remove_redundant.json", VPC_TWIN)?;
    sleep(SETTLED);
    ensure!(pair.elected()? == primary);
    // The routers hear of each other on the first tier, and that may go.
    pair.tell_both(second, VPC_TWIN)?;
    ensure!(pair.elected()? == primary);
    pair.tell_both("own/guest_network/vpc_tier_remove_redundant.json", VPC_TWIN)?;
    sleep(SETTLED);
    pair.elected()?;
    reach(db1, far)?;
    watch.never_two()?;

    pair.tell_both("own/guest_network/vpc_second_tier_remove_redundant.json", VPC_TWIN)?;
    pair.wait_for([Unknown, Unknown])?;
    ensure!(!has_public(&pair, 0)? && !has_public(&pair, 1)?);
    wait_until("there is nothing to elect for", SOON, || {
        pair.keepalived(primary).is_err() && pair.keepalived(backup).is_err()
    })?;
    pair.is_well = true;
    Ok(())
}

#[test]
fn the_other_router_takes_over_in_tc() -> Result<()> {
    the_other_router_takes_over("tc")
}

#[test]
fn the_other_router_takes_over_in_xdp() -> Result<()> {
    the_other_router_takes_over("xdp")
}
