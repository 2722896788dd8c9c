//! What people run through a router: ping, curl, iperf3, traceroute, and many connections at once.
//!
//! Each function starts the real program in a host's namespace, bounded in time, and returns what
//! it measured as a value; an error says what the program said.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{Host, Lab};
use crate::netns::{Namespace, Process, run_bounded, wait_until};
use crate::vpn;

/// Programs and other files, and the Debian packages they come in.
const PROGRAMS: [(&str, &str); 38] = [
    ("/usr/lib/frr/bgpd", "frr"),
    ("/usr/lib/frr/frr-reload.py", "frr-pythontools"),
    ("vtysh", "frr"),
    ("ab", "apache2-utils"),
    ("haproxy", "haproxy"),
    ("openssl", "openssl"),
    ("charon-systemd", "charon-systemd"),
    ("curl", "curl"),
    ("dhclient", "isc-dhcp-client"),
    ("dhcp_release", "dnsmasq-utils"),
    ("dhcp_release6", "dnsmasq-utils"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("nmap", "nmap"),
    ("ping", "iputils-ping"),
    ("rdisc6", "ndisc6"),
    ("sha256sum", "coreutils"),
    ("sipp", "sip-tester"),
    ("ssh", "openssh-client"),
    ("sshd", "openssh-server"),
    ("swanctl", "strongswan-swanctl"),
    ("tcpdump", "tcpdump"),
    ("tftp", "tftp-hpa"),
    ("tracepath", "iputils-tracepath"),
    ("traceroute", "traceroute"),
    ("turnserver", "coturn"),
    ("turnutils_natdiscovery", "coturn"),
    ("udhcpc", "udhcpc"),
    ("vsftpd", "vsftpd"),
    ("bpftool", "bpftool"),
    (vpn::LIBIPSEC, "libcharon-extra-plugins"),
    ("/usr/lib/python3/dist-packages/cloudinit/sources/DataSourceCloudStack.py", "cloud-init"),
    ("wget", "wget"),
    ("xl2tpd", "xl2tpd"),
    ("pppd", "ppp"),
    ("/dev/net/tun", "of a kernel with CONFIG_TUN"),
];

/// Those of the programs that this machine does not have, with their packages.
pub fn missing(programs: &[&str]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // What begins with a slash is where it says.
    let is_there = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    let package = |program: &str| PROGRAMS.iter().find(|(name, _)| *name == program).map_or("?", |(_, p)| *p);
    let absent = programs.iter().filter(|program| !is_there(program));
    absent.map(|program| format!("{program} (package {})", package(program))).collect()
}

/// What ping reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
    /// Average round trip in milliseconds, 0 without an answer.
    pub average_ms: f64,
}

impl Ping {
    /// Requests without an answer.
    pub fn lost(&self) -> u32 {
        self.sent.saturating_sub(self.received)
    }
}

/// Sends `count` echo requests, one every `interval`, and waits up to 2 s for the last answer.
pub fn ping(from: &Host, to: IpAddr, count: u32, interval: Duration) -> Result<Ping> {
    let limit = interval * count + Duration::from_secs(30);
    let output = run_bounded(
        from.namespace.command("ping").args(["-n", "-q", "-W", "5", "-c", &count.to_string()]).args([
            "-i",
            &interval.as_secs_f64().to_string(),
            &to.to_string(),
        ]),
        limit,
    )?;
    parse_ping(&output.stdout).with_context(|| format!("ping from {}: {}", from.name, output.stderr))
}

/// Sends one echo request with a payload of so many bytes; the TTL of the answer.
pub fn ping_once(from: &Host, to: IpAddr, payload: usize) -> Result<u8> {
    let mut command = from.namespace.command("ping");
    command.args(["-n", "-W", "5", "-c", "1", "-s", &payload.to_string(), &to.to_string()]);
    let output = run_bounded(&mut command, Duration::from_secs(30))?.ok()?;
    // `8008 bytes from 198.51.100.9: icmp_seq=1 ttl=62 time=0.1 ms`
    let answer = output.stdout.lines().find(|line| line.starts_with(&format!("{} bytes from", payload + 8)));
    let ttl = answer.and_then(|line| line.split_once("ttl=")?.1.split(' ').next()?.parse().ok());
    ttl.with_context(|| format!("ping of {to} from {}: {}", from.name, output.stdout))
}

/// Waits until pings from a host reach an address, and come back: the first ones may find neighbours that are not known,
/// and IPv6 that is not settled.
pub fn wait_until_reached(from: &Host, to: impl Into<IpAddr>, limit: Duration) -> Result<()> {
    let to = to.into();
    wait_until(&format!("{} reaches {to}", from.name), limit, || {
        ping(from, to, 3, Duration::from_millis(20)).is_ok_and(|ping| ping.lost() == 0)
    })
}

/// The TCP ports of an address that are open, of these (`1-1024,8080`), as nmap sees them.
pub fn open_ports(from: &Host, to: IpAddr, ports: &str) -> Result<Vec<u16>> {
    scan(from, to, "-sS", ports)
}

/// The same of UDP ports. Open is what answers an empty datagram; one that is silent may be either.
pub fn open_udp_ports(from: &Host, to: IpAddr, ports: &str) -> Result<Vec<u16>> {
    scan(from, to, "-sU", ports)
}

fn scan(from: &Host, to: IpAddr, how: &str, ports: &str) -> Result<Vec<u16>> {
    let mut command = from.namespace.command("nmap");
    command.args(["-n", "-Pn", how, "-T5", "--max-retries", "3", "--min-rate", "500", "-p", ports]);
    // A machine that is busy answers late, and now and then not at all for a quarter of a second.
    command.args(["--min-rtt-timeout", "200ms", "--initial-rtt-timeout", "500ms", "--max-rtt-timeout", "2s"]);
    command.args(to.is_ipv6().then_some("-6")).args(["-oG", "-", &to.to_string()]);
    let output = run_bounded(&mut command, Duration::from_secs(180))?.ok()?;
    // `Host: 203.0.113.31 ()\tPorts: 22/open/tcp//ssh///, 80/closed/tcp//http///\tIgnored ...`
    let list = output.stdout.lines().find_map(|line| line.split_once("Ports: ")?.1.split('\t').next());
    let open = list.unwrap_or_default().split(", ").filter(|port| port.contains("/open/"));
    open.map(|port| Ok(port.split('/').next().unwrap_or_default().parse()?)).collect()
}

/// What tracepath finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathFound {
    /// The largest packet that gets to the end.
    pub mtu: u32,
    /// Hops to the end.
    pub hops: u32,
}

/// Looks for the path's MTU.
pub fn tracepath(from: &Host, to: IpAddr) -> Result<PathFound> {
    let mut command = from.namespace.command("tracepath");
    let output =
        run_bounded(command.args(["-n", "-m", "8", &to.to_string()]), Duration::from_secs(60))?.ok()?;
    // `     Resume: pmtu 1400 hops 3 back 3`
    let words: Vec<_> = output.stdout.split_whitespace().collect();
    let after =
        |word| words.windows(2).rev().find(|pair| pair[0] == word).and_then(|pair| pair[1].parse().ok());
    match (after("pmtu"), after("hops")) {
        (Some(mtu), Some(hops)) => Ok(PathFound { mtu, hops }),
        _ => bail!("tracepath to {to} from {}: {}", from.name, output.stdout),
    }
}

/// A ping that runs beside the test.
#[derive(Debug)]
pub struct RunningPing(Process);

/// Starts to send an echo request every `interval`, until it is stopped.
pub fn start_ping(from: &Host, to: IpAddr, interval: Duration) -> Result<RunningPing> {
    spawn_ping(from, to, interval, &[])
}

/// Starts to send `count` echo requests, one every `interval`.
pub fn start_pings(from: &Host, to: IpAddr, interval: Duration, count: u32) -> Result<RunningPing> {
    spawn_ping(from, to, interval, &["-W", "10", "-c", &count.to_string()])
}

fn spawn_ping(from: &Host, to: IpAddr, interval: Duration, options: &[&str]) -> Result<RunningPing> {
    let mut command = from.namespace.command("ping");
    command
        .args(["-n", "-q", "-i", &interval.as_secs_f64().to_string(), &to.to_string()])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Process::spawn(&mut command).map(RunningPing)
}

impl RunningPing {
    /// Stops it at once: a request that is still on its way counts as lost.
    pub fn stop(self) -> Result<Ping> {
        self.0.signal(libc::SIGINT);
        parse_ping(&self.0.finish(Duration::from_secs(10))?.stdout)
    }

    /// Waits until all requests are sent and the last answer has had 10 s to come.
    pub fn finish(self) -> Result<Ping> {
        parse_ping(&self.0.finish(Duration::from_secs(60))?.stdout)
    }
}

/// Reads `10 packets transmitted, 9 received, ...` and `rtt min/avg/max/mdev = 0.1/0.2/...`.
fn parse_ping(text: &str) -> Result<Ping> {
    let summary = text.lines().find(|line| line.contains("packets transmitted"));
    let summary = summary.with_context(|| format!("no summary in {text:?}"))?;
    let number = |word: &str| {
        let field = summary.split(", ").find(|field| field.contains(word)).unwrap_or_default();
        field.split(' ').next().and_then(|n| n.parse().ok())
    };
    let average = text.lines().find_map(|line| line.strip_prefix("rtt ")?.split('/').nth(4)?.parse().ok());
    Ok(Ping {
        sent: number("transmitted").context("no count of requests")?,
        received: number("received").context("no count of answers")?,
        average_ms: average.unwrap_or(0.0),
    })
}

/// A file that curl fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Download {
    /// Length in bytes.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// SHA-256 of what arrived, in hexadecimal digits.
    pub sha256: String,
}

/// Fetches `bytes` bytes from a [`crate::servers::HttpServer`].
pub fn curl(from: &Host, server: SocketAddr, bytes: u64, limit: Duration) -> Result<Download> {
    let mut fetch = from.namespace.command("curl");
    fetch
        .args(["--silent", "--show-error", "--fail", "--globoff", "--connect-timeout", "10"])
        .args(["--max-time", &limit.as_secs().to_string()])
        .args(["--write-out", "%{stderr}%{size_download} %{time_total}\n"])
        .arg(format!("http://{server}/{bytes}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut fetch = Process::spawn(&mut fetch)?;
    let body = fetch.child().stdout.take().context("curl has no output")?;
    let digest = run_bounded(std::process::Command::new("sha256sum").stdin(body), limit)?.ok()?;
    let report = fetch.finish(Duration::from_secs(10))?;
    ensure!(report.status.success(), "{}: {}", report.what, report.stderr);
    let line = report.stderr.lines().last().unwrap_or_default();
    let (bytes, seconds) = line.split_once(' ').with_context(|| format!("curl reports {line:?}"))?;
    Ok(Download {
        bytes: bytes.parse()?,
        seconds: seconds.parse()?,
        sha256: digest.stdout.split(' ').next().unwrap_or_default().to_owned(),
    })
}

/// Sends a file to a [`crate::servers::HttpServer`], which looks whether it is the one it knows.
pub fn upload(from: &Host, server: SocketAddr, file: &Path, limit: Duration) -> Result<()> {
    let mut command = from.namespace.command("curl");
    command
        .args(["--silent", "--show-error", "--fail", "--header", "Expect:", "--connect-timeout", "10"])
        .args(["--max-time", &limit.as_secs().to_string(), &format!("http://{server}/")])
        .arg("--upload-file")
        .arg(file);
    run_bounded(&mut command, limit + Duration::from_secs(10))?.ok().map(drop)
}

/// Which way iperf3 sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Upload,
    /// From the server to the client (`-R`).
    Download,
}

/// What iperf3 measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Bits per second that arrived.
    pub bits_per_second: f64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Bytes that arrived.
    pub bytes: f64,
    /// CPU time of both ends, with what the kernel did for packets in their stead, in seconds.
    pub cpu_seconds: f64,
}

/// An iperf3 test that is running.
#[derive(Debug)]
pub struct RunningIperf {
    server: Process,
    client: Process,
    seconds: u32,
    port: u16,
}

/// Starts iperf3 over one TCP connection for some seconds. `address` is the server's.
pub fn start_iperf(
    client: &Host,
    server: &Host,
    address: IpAddr,
    direction: Direction,
    seconds: u32,
) -> Result<RunningIperf> {
    let options: &[&str] = if direction == Direction::Download { &["--reverse"] } else { &[] };
    spawn_iperf(client, server, address, seconds, options)
}

/// Starts an upload at 50 Mbit/s in short bursts, which fills no queue, a busy machine's neither:
/// what is lost beside it was not lost to congestion.
pub fn start_paced_iperf(
    client: &Host,
    server: &Host,
    address: IpAddr,
    seconds: u32,
) -> Result<RunningIperf> {
    spawn_iperf(client, server, address, seconds, &["--bitrate=50M", "--length=8K"])
}

fn spawn_iperf(
    client: &Host,
    server: &Host,
    address: IpAddr,
    seconds: u32,
    options: &[&str],
) -> Result<RunningIperf> {
    let port = fresh_port();
    let port_text = port.to_string();
    let mut listen = server.namespace.command("iperf3");
    listen.args(["--server", "--one-off", "--port", &port_text]).stdout(Stdio::null()).stderr(Stdio::null());
    let listener = Process::spawn(&mut listen)?;
    wait_for_listener(&server.namespace, port)?;
    let mut connect = client.namespace.command("iperf3");
    connect
        .args(["--json", "--client", &address.to_string(), "--port", &port_text])
        .args(["--time", &seconds.to_string(), "--connect-timeout", "10000"])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(RunningIperf { server: listener, client: Process::spawn(&mut connect)?, seconds, port })
}

impl RunningIperf {
    /// Waits until the client, of that host, has its connections: one to talk about the test, one for
    /// the test.
    pub fn wait_until_connected(&self, client: &Host) -> Result<()> {
        let what = format!("iperf3 of {} is connected", client.name);
        wait_for_sockets(&client.namespace, ["tcp", "tcp6"], "01", self.port, 2, &what)
    }

    /// Waits for its end.
    pub fn finish(self) -> Result<Throughput> {
        let output = self.client.finish(Duration::from_secs(u64::from(self.seconds) + 30))?;
        drop(self.server);
        let report: serde_json::Value = serde_json::from_str(&output.stdout)
            .with_context(|| format!("{}: {}{}", output.what, output.stdout, output.stderr))?;
        if let Some(error) = report["error"].as_str() {
            bail!("{}: {error}", output.what);
        }
        let received = &report["end"]["sum_received"];
        let usage = &report["end"]["cpu_utilization_percent"];
        let percent = ["host_total", "remote_total"].map(|end| usage[end].as_f64().unwrap_or(f64::NAN));
        Ok(Throughput {
            bits_per_second: received["bits_per_second"].as_f64().context("iperf3 reports no throughput")?,
            retransmits: report["end"]["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
            bytes: received["bytes"].as_f64().unwrap_or(f64::NAN),
            cpu_seconds: (percent[0] + percent[1]) / 100.0 * received["seconds"].as_f64().unwrap_or(f64::NAN),
        })
    }
}

/// Runs iperf3 over one TCP connection for some seconds. `address` is the server's.
pub fn iperf(
    client: &Host,
    server: &Host,
    address: IpAddr,
    direction: Direction,
    seconds: u32,
) -> Result<Throughput> {
    start_iperf(client, server, address, direction, seconds)?.finish()
}

/// A port that no other test of this process uses in any namespace.
pub(crate) fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(5201);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Waits until somebody listens on a TCP port.
pub(crate) fn wait_for_listener(namespace: &Namespace, port: u16) -> Result<()> {
    wait_for_socket(namespace, ["tcp", "tcp6"], "0A", port)
}

/// Waits until somebody has a UDP port.
pub(crate) fn wait_for_udp(namespace: &Namespace, port: u16) -> Result<()> {
    wait_for_socket(namespace, ["udp", "udp6"], "07", port)
}

fn wait_for_socket(namespace: &Namespace, tables: [&'static str; 2], state: &str, port: u16) -> Result<()> {
    let what = format!("port {port} of {} listens", namespace.name());
    wait_for_sockets(namespace, tables, state, port, 1, &what)
}

/// Waits until so many sockets with a port, here or there, have a state.
fn wait_for_sockets(
    namespace: &Namespace,
    tables: [&'static str; 2],
    state: &str,
    port: u16,
    count: usize,
    what: &str,
) -> Result<()> {
    let wanted = format!(":{port:04X} ");
    wait_until(what, Duration::from_secs(20), || {
        let tables = namespace.inside(move || {
            // Not /proc/net: that is the main thread's.
            tables.map(|t| fs::read_to_string(format!("/proc/thread-self/net/{t}")).unwrap_or_default())
        });
        // Columns: slot, local address, remote address, state.
        let is_it = |line: &&str| line.contains(&wanted) && line.split_whitespace().nth(3) == Some(state);
        tables
            .is_ok_and(|tables| tables.iter().flat_map(|table| table.lines()).filter(is_it).count() >= count)
    })
}

/// How traceroute asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// UDP to high ports.
    Udp,
    /// ICMP echo requests.
    Icmp,
}

/// The way to an address: one entry a hop, `None` for a hop that did not answer. Ends with the
/// first answer of the destination.
pub fn traceroute(from: &Host, to: IpAddr, probe: Probe) -> Result<Vec<Option<IpAddr>>> {
    let family = if to.is_ipv4() { "-4" } else { "-6" };
    let mut command = from.namespace.command("traceroute");
    command.args([family, "-n", "-q", "1", "-w", "3", "-m", "8"]);
    command.args((probe == Probe::Icmp).then_some("-I")).arg(to.to_string());
    let output = run_bounded(&mut command, Duration::from_secs(60))?.ok()?;
    // ` 1  10.10.1.1  0.123 ms` or ` 1  *`, after one line of title.
    Ok(output.stdout.lines().skip(1).map(|line| line.split_whitespace().nth(1)?.parse().ok()).collect())
}

/// How many packets the kernels of all end hosts threw away because of a checksum, by host and
/// counter, zeros left out: empty is good. Receivers count here whatever the offloads are.
pub fn checksum_errors(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let mut errors = BTreeMap::new();
    for host in &lab.hosts {
        for (counter, value) in kernel_counters(&host.namespace)? {
            if counter.contains("InCsumErrors") && value > 0 {
                errors.insert(format!("{} {counter}", host.name), value);
            }
        }
    }
    Ok(errors)
}

/// The kernel's protocol counters of a namespace, as `Tcp.InCsumErrors` or `Udp6InCsumErrors`.
pub fn kernel_counters(namespace: &Namespace) -> Result<BTreeMap<String, u64>> {
    let (pairs, list) = namespace.inside(|| {
        let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        (read("snmp").and_then(|snmp| Ok(snmp + &read("netstat")?)), read("snmp6").unwrap_or_default())
    })?;
    let mut counters = BTreeMap::new();
    let pairs = pairs?;
    // Lines come in twos: `Tcp: RtoAlgorithm ...` and `Tcp: 1 ...`.
    let lines: Vec<_> = pairs.lines().collect();
    for pair in lines.chunks_exact(2) {
        let (names, values) = (pair[0].split_whitespace(), pair[1].split_whitespace());
        let protocol = pair[0].split(':').next().unwrap_or_default();
        for (name, value) in names.zip(values).skip(1) {
            counters.insert(format!("{protocol}.{name}"), value.parse().unwrap_or(0));
        }
    }
    for line in list.lines() {
        if let Some((name, value)) = line.split_once(char::is_whitespace) {
            counters.insert(name.to_owned(), value.trim().parse().unwrap_or(0));
        }
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_ping_is_understood() {
        let text = "--- 10.10.2.11 ping statistics ---\n\
                    10 packets transmitted, 9 received, +1 errors, 10% packet loss, time 9ms\n\
                    rtt min/avg/max/mdev = 0.100/0.250/0.300/0.010 ms\n";
        assert_eq!(parse_ping(text).unwrap(), Ping { sent: 10, received: 9, average_ms: 0.25 });
    }

    #[test]
    fn a_ping_without_answers_has_no_average() {
        let text = "1 packets transmitted, 0 received, 100% packet loss, time 0ms\n";
        assert_eq!(parse_ping(text).unwrap(), Ping { sent: 1, received: 0, average_ms: 0.0 });
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        assert_eq!(missing(&["no-such-program"]), ["no-such-program (package ?)"]);
    }
}
