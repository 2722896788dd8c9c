//! Basic checks: the machine, who has to answer, and the services.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Check, Finding, Kind, Outcome, Surroundings, saved};
use crate::program;

/// All of them, in the order in which they run.
pub(super) const CHECKS: &[Check] = &[
    ("dhcp.service", dhcp),
    ("loadbalancing.service", super::balancer::service),
    ("ssh.service", ssh),
    ("webserver.service", web_server),
    ("cpu_usage_check.py", cpu_usage),
    ("disk_space_check.py", disk_space),
    ("gateways_check.py", gateways),
    ("memory_usage_check.py", memory_usage),
    ("router_version_check.py", router_version),
];

fn found(outcome: Outcome, message: impl Into<String>) -> Option<Finding> {
    Some(Finding { outcome, message: message.into() })
}

/// The port that CloudStack comes to. It is there from the router's start to its end, so one that was seen there
/// and has gone is a failure. A router whose ssh is somebody else's has none to watch.
fn ssh(surroundings: &Surroundings) -> Option<Finding> {
    const PORT: u16 = 3922;
    if !surroundings.view.monitoring.services.contains("ssh") {
        return None;
    }
    match listens(PORT) {
        Ok(true) => found(Outcome::Success, "service is running"),
        Ok(false) if saved(surroundings.root, Kind::Basic).contains("\"ssh.service\"") => {
            found(Outcome::Failed, format!("nothing listens on TCP port {PORT} any more"))
        }
        Ok(false) => None,
        Err(error) => found(Outcome::Unknown, format!("who listens is not known: {error}")),
    }
}

/// What is said of guests' addresses and names then.
pub(super) const NOT_RUNNING: &str = "dnsmasq does not run, xvr status says why";

/// dnsmasq, where it has guests to serve.
fn dhcp(surroundings: &Surroundings) -> Option<Finding> {
    let view = surroundings.view;
    let runs = view.services.get("dnsmasq").filter(|_| view.monitoring.services.contains("dhcp"))?;
    match runs {
        true => found(Outcome::Success, "service is running"),
        false => found(Outcome::Failed, NOT_RUNNING),
    }
}

/// Metadata: served where there are guests' ports, so it may come and go.
fn web_server(surroundings: &Surroundings) -> Option<Finding> {
    let is_watched = surroundings.view.monitoring.services.contains("webserver");
    let is_there = is_watched && listens(80).unwrap_or(false);
    is_there.then(|| Finding { outcome: Outcome::Success, message: "service is running".to_owned() })
}

/// Whether somebody in this network namespace takes TCP connections at a port.
fn listens(port: u16) -> io::Result<bool> {
    let tables = fs::read_to_string("/proc/self/net/tcp")?
        + &fs::read_to_string("/proc/self/net/tcp6").unwrap_or_default();
    Ok(tables.lines().any(|line| is_listener(line, port)))
}

/// `sl local_address rem_address st …`, numbers in hexadecimal; state 0A listens.
fn is_listener(line: &str, port: u16) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let local = words.next().and_then(|address| u16::from_str_radix(address.rsplit(':').next()?, 16).ok());
    local == Some(port) && words.nth(1) == Some("0A")
}

fn cpu_usage(surroundings: &Surroundings) -> Option<Finding> {
    const SAMPLE: Duration = Duration::from_secs(1);
    let most = surroundings.view.monitoring.thresholds.cpu_percent?;
    let measure = || {
        let before = cpu_times(&fs::read_to_string("/proc/stat").ok()?)?;
        thread::sleep(SAMPLE);
        let after = cpu_times(&fs::read_to_string("/proc/stat").ok()?)?;
        busy_percent(before, after)
    };
    match measure() {
        Some(percent) if percent <= most => {
            found(Outcome::Success, format!("CPU Usage within limits with current at {percent:.1}%"))
        }
        Some(percent) => {
            found(Outcome::Failed, format!("CPU Usage {percent:.1}% has crossed threshold {most:.1}%"))
        }
        None => found(Outcome::Unknown, "the kernel does not say how busy CPUs are"),
    }
}

/// All time of all CPUs and their idle time, since boot.
fn cpu_times(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    // user nice system idle iowait irq softirq steal; guests' time is in user's already.
    let times: Vec<u64> =
        line.split_whitespace().skip(1).take(8).map_while(|word| word.parse().ok()).collect();
    Some((times.iter().sum(), times.get(3)? + times.get(4)?))
}

fn busy_percent(before: (u64, u64), after: (u64, u64)) -> Option<f64> {
    let (all, idle) = (after.0.checked_sub(before.0)?, after.1.saturating_sub(before.1));
    (all > 0).then(|| 100.0 * all.saturating_sub(idle) as f64 / all as f64)
}

fn memory_usage(surroundings: &Surroundings) -> Option<Finding> {
    let most = surroundings.view.monitoring.thresholds.memory_percent?;
    match fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_percent(&text)) {
        Some(percent) if percent <= most => {
            found(Outcome::Success, format!("Memory Usage within limits with current at {percent:.1}%"))
        }
        Some(percent) => {
            found(Outcome::Failed, format!("Memory Usage {percent:.1}% has crossed threshold {most:.1}%"))
        }
        None => found(Outcome::Unknown, "the kernel does not say how much memory is in use"),
    }
}

fn memory_percent(meminfo: &str) -> Option<f64> {
    let kilobytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (all, available) = (kilobytes("MemTotal")?, kilobytes("MemAvailable")?);
    (all > 0).then(|| 100.0 * all.saturating_sub(available) as f64 / all as f64)
}

fn disk_space(surroundings: &Surroundings) -> Option<Finding> {
    let least = surroundings.view.monitoring.thresholds.free_disk_megabytes?;
    match free_bytes(surroundings.root.path()) {
        Ok(bytes) => {
            let free = bytes as f64 / f64::from(1 << 20);
            if free >= least {
                found(Outcome::Success, format!("Sufficient free space is {free:.1} MB"))
            } else {
                found(Outcome::Failed, format!("Insufficient free space is {free:.1} MB"))
            }
        }
        Err(error) => found(Outcome::Unknown, format!("the free space is not known: {error}")),
    }
}

/// Free for everybody, on the file system that a folder is on.
fn free_bytes(folder: &Path) -> io::Result<u64> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: both pointers are valid during the call, which fills in what it is given if it succeeds.
    let found = unsafe {
        if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        found.assume_init()
    };
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// One answer of each within twenty pings is enough.
fn gateways(surroundings: &Surroundings) -> Option<Finding> {
    let gateways = &surroundings.view.monitoring.gateways;
    if gateways.is_empty() {
        return None;
    }
    let answers: io::Result<Vec<bool>> = thread::scope(|scope| {
        let pings: Vec<_> = gateways.iter().map(|gateway| scope.spawn(|| answers(*gateway))).collect();
        let joined = pings.into_iter().map(|ping| ping.join());
        joined.map(|answer| answer.unwrap_or_else(|_| Err(io::Error::other("a ping panicked")))).collect()
    });
    match answers {
        Ok(answers) if answers.iter().all(|answer| *answer) => {
            found(Outcome::Success, format!("All {} gateways are reachable via ping", gateways.len()))
        }
        Ok(answers) => {
            let silent = gateways.iter().zip(answers).filter(|(_, answers)| !answers);
            let silent: String = silent.map(|(gateway, _)| format!("{gateway} ")).collect();
            found(Outcome::Failed, format!("Unreachable gateways found: {silent}"))
        }
        Err(error) => found(Outcome::Unknown, format!("ping does not run: {error}")),
    }
}

fn answers(gateway: IpAddr) -> io::Result<bool> {
    let ran = program::run(
        "ping",
        &["-n", "-q", "-c", "1", "-w", "20", &gateway.to_string()],
        Duration::from_secs(25),
    )?;
    Ok(ran.succeeded())
}

/// Whether the router still is what the management server believes.
fn router_version(surroundings: &Surroundings) -> Option<Finding> {
    let expected = surroundings.view.monitoring.version.as_ref()?;
    let read = |path: &Path| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let release = read(&surroundings.root.path().join("etc/cloudstack-release"));
    let signature = read(&surroundings.root.signature());
    for (what, expected, actual) in
        [("Template", &expected.template, release), ("Scripts", &expected.scripts, signature)]
    {
        match actual {
            Ok(actual) if actual == *expected => {}
            Ok(actual) => {
                let message = format!("{what} version mismatch: {actual}, expected {expected}");
                return found(Outcome::Failed, message);
            }
            // What was never written cannot have changed.
            Err(error) => return found(Outcome::Unknown, format!("{what} version is not known: {error}")),
        }
    }
    found(Outcome::Success, "Template and scripts version match successful")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let listener =
            "   0: 00000000:0F52 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        let connection =
            "   1: 0100007F:0F52 0100007F:A2B4 01 00000000:00000000 00:00000000 00000000     0        0 1 1";
        let ipv6 = "   0: 00000000000000000000000000000000:0F52 00000000000000000000000000000000:0000 0A 0 0 0 0 0 0";
        assert!(is_listener(listener, 3922) && is_listener(ipv6, 3922));
        assert!(!is_listener(listener, 80) && !is_listener(connection, 3922));
        assert!(!is_listener("  sl  local_address rem_address   st tx_queue", 3922));
    }

    #[test]
    fn usage_is_what_is_not_idle() {
        let before = cpu_times("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3 4\n").unwrap();
        let after = cpu_times("cpu  200 0 200 800 200 0 0 0 50 0\n").unwrap();
        assert_eq!(busy_percent(before, after), Some(50.0));
        assert_eq!(busy_percent(before, before), None);
        assert_eq!(cpu_times("intr 1 2 3\n"), None);
        assert_eq!(
            memory_percent("MemTotal:  4000 kB\nMemFree: 100 kB\nMemAvailable:   1000 kB\n"),
            Some(75.0)
        );
        assert_eq!(memory_percent("MemTotal:  4000 kB\n"), None);
    }
}
