//! A router in a lab: XVR, or plain Linux to prove the lab itself.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use router_common::account::Hook;
use serde_json::Value;

use crate::lab::Lab;
use crate::needs;
use crate::netns::{Namespace, Output, Process, run_bounded};

/// How long a command of the router may take before a test gives up.
const COMMAND_TIME: Duration = Duration::from_secs(120);

/// Seconds that a daemon has to start; in an emulated machine it needs many.
const READY_TIME: &str = "100";

/// What CloudStack sends to a VPC's router, in the order in which it does: two tiers of both
/// address families.
pub const VPC_COMMANDS: [&str; 6] = [
    "cloudstack/cmd_line/vpcrouter.json",
    "cloudstack/ip_associations/vpc_add_source_nat.json",
    "cloudstack/guest_network/vpc_tier_add_dualstack.json",
    "own/guest_network/vpc_second_tier_add_dualstack.json",
    // Everything from and to everybody, so that a test about something else meets no rule.
    "cloudstack/network_acl/vpc_tier_default_allow.json",
    "own/network_acl/vpc_second_tier_default_allow.json",
];

/// A tier's device, MAC address and address.
pub type Tier = (&'static str, &'static str, &'static str);

/// The first tier of [`VPC_COMMANDS`].
pub const TIER1: Tier = ("eth2", "02:01:00:db:00:2b", "10.10.1.1");
/// The second one.
pub const TIER2: Tier = ("eth3", "02:01:00:de:00:2c", "10.10.2.1");

/// What CloudStack sends to the router of an isolated network of both address families.
pub const ISOLATED_COMMANDS: [&str; 3] = [
    "cloudstack/cmd_line/router_isolated_dualstack.json",
    "cloudstack/firewall_rules/egress_system_default_allow.json",
    "cloudstack/ipv6_firewall_rules/system_default_egress_on_start.json",
];

/// The path of a file below `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    let root = std::env::var_os("XVR_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"), PathBuf::from);
    root.join(name)
}

/// The `xvr` binary: `XVR_BIN`, or what cargo built beside this program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("XVR_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("xvr")).find(|path| path.is_file());
    beside.context("no xvr beside this program: run `cargo build -p router-userspace`, or set XVR_BIN")
}

/// XVR in a lab's router namespace, with a root of its own.
#[derive(Debug)]
pub struct Router<'lab> {
    namespace: &'lab Namespace,
    root: PathBuf,
    attach: String,
    max_flows: Option<u32>,
    daemon: Option<Process>,
    kept: bool,
}

impl<'lab> Router<'lab> {
    /// Installs it under a new root; the daemon does not run yet. `attach` as `--attach` has it.
    pub fn install(lab: &'lab Lab, attach: &str) -> Result<Self> {
        Self::install_at(lab, Self::new_root(lab), attach)
    }

    /// The second router of a pair, in the same way.
    pub fn install_twin(lab: &'lab Lab, attach: &str) -> Result<Self> {
        let twin = lab.twin.as_ref().context("the lab has no second router")?;
        Self::install_in(twin, Self::new_root(lab), attach)
    }

    fn new_root(lab: &Lab) -> PathBuf {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("{}-root-{serial}", lab.prefix()))
    }

    /// Installs it under `root`, which is removed in the end.
    pub fn install_at(lab: &'lab Lab, root: PathBuf, attach: &str) -> Result<Self> {
        Self::install_in(&lab.router, root, attach)
    }

    fn install_in(namespace: &'lab Namespace, root: PathBuf, attach: &str) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let (attach, max_flows) = (attach.to_owned(), None);
        let router = Self { namespace, root, attach, max_flows, daemon: None, kept: false };
        let mut install = router.namespace.command(binary()?);
        run_bounded(install.arg("install").arg("--root").arg(&router.root), COMMAND_TIME)?.ok()?;
        router.bring_host_keys()?;
        Ok(router)
    }

    /// Installs it, starts the daemon and waits until it takes commands.
    pub fn start(lab: &'lab Lab, attach: &str) -> Result<Self> {
        let mut router = Self::install(lab, attach)?;
        router.start_daemon()?;
        Ok(router)
    }

    /// The same with room for so many flow entries per address family.
    pub fn start_with_room(lab: &'lab Lab, attach: &str, max_flows: u32) -> Result<Self> {
        let mut router = Self::install(lab, attach)?;
        router.max_flows = Some(max_flows);
        router.start_daemon()?;
        Ok(router)
    }

    /// Gives it the keys of an earlier one: making them takes long, most of all in an emulated machine.
    fn bring_host_keys(&self) -> Result<()> {
        let all = std::env::temp_dir().join("xvr-test-host-keys");
        if !all.exists() {
            let own = self.root.join("host-keys");
            fs::create_dir_all(own.join("etc/ssh"))?;
            let mut keygen = self.namespace.command("ssh-keygen");
            run_bounded(keygen.arg("-A").arg("-f").arg(&own), COMMAND_TIME)?.ok()?;
            // Another test may have been faster.
            if fs::rename(&own, &all).is_err() {
                fs::remove_dir_all(&own).ok();
            }
        }
        let own = self.root.join("etc/ssh");
        fs::create_dir_all(&own)?;
        for file in files_below(&all) {
            let name = file.file_name().context("a key has a name")?;
            fs::copy(&file, own.join(name))?;
        }
        Ok(())
    }

    /// Starts the daemon and waits until it takes commands.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.spawn_daemon()?;
        let ready = run_bounded(&mut self.command(["status", "--wait", READY_TIME]), COMMAND_TIME)?.ok();
        ready.with_context(|| format!("the daemon is not ready; its log:\n{}", self.log()))?;
        Ok(())
    }

    /// Starts the daemon and does not wait. Returns when that was.
    pub fn spawn_daemon(&mut self) -> Result<Instant> {
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = self.command(["daemon", "--attach", &self.attach]);
        if let Some(max_flows) = self.max_flows {
            command.args(["--max-flows", &max_flows.to_string()]);
        }
        command.stdout(log.try_clone()?).stderr(log);
        let begin = Instant::now();
        self.daemon = Some(Process::spawn(&mut command)?);
        Ok(begin)
    }

    /// Kill -9 of the daemon.
    pub fn kill_daemon(&mut self) {
        self.daemon = None;
    }

    /// Its process id while it runs.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Process::pid)
    }

    /// Is the daemon alive?
    pub fn daemon_runs(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Process::is_running)
    }

    /// What the daemon has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    /// Where it is installed.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &'lab Namespace {
        self.namespace
    }

    /// `xvr ARGUMENTS --root ROOT` in the router's namespace.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = self.namespace.command(self.root.join("usr/sbin/xvr"));
        command.args(arguments).arg("--root").arg(&self.root);
        command
    }

    /// Runs `xvr ARGUMENTS --root ROOT`.
    pub fn xvr(&self, arguments: &[&str]) -> Result<Output> {
        run_bounded(&mut self.command(arguments), COMMAND_TIME)
    }

    /// Sends a file the way CloudStack does: into `var/cache/cloud` under a unique name, then
    /// `update_config.py NAME`. Its exit status is in the output.
    pub fn update_config(&self, file: &Path) -> Result<Output> {
        let content = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        // CloudStack names a file for its kind, and our fixtures' folders are named so.
        let kind = file.parent().and_then(Path::file_name).context("a fixture has a folder")?;
        self.update_config_with(&kind.to_string_lossy(), &content)
    }

    /// The same with content that is in no file; `kind` is the file's name before `.json`.
    pub fn update_config_with(&self, kind: &str, content: &[u8]) -> Result<Output> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}.json.{serial:08x}-6ad9-4d9b-8d24-fe1496b59146");
        fs::write(self.root.join("var/cache/cloud").join(&name), content).context("hand over a command")?;
        let script = self.root.join("opt/cloud/bin/update_config.py");
        run_bounded(self.namespace.command(script).arg(&name), COMMAND_TIME)
    }

    /// Runs one of CloudStack's scripts by its installed name, in the router's namespace.
    pub fn script(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.namespace.command(self.root.join("opt/cloud/bin").join(name));
        run_bounded(command.args(arguments), COMMAND_TIME)
    }

    /// Sends fixtures one after the other; each must succeed.
    pub fn apply(&self, fixtures: &[&str]) -> Result<()> {
        for name in fixtures {
            let output = self.update_config(&fixture(name))?.ok();
            output.with_context(|| format!("apply {name}; the daemon's log:\n{}", self.log()))?;
        }
        Ok(())
    }

    /// Writes `ports.json`, and has it read.
    pub fn declare_ports(&self, declaration: &Value) -> Result<()> {
        self.write_ports(declaration)?;
        self.xvr(&["reload"])?.ok().map(drop)
    }

    /// Writes `ports.json`, for a daemon to read when it starts.
    pub fn write_ports(&self, declaration: &Value) -> Result<()> {
        let folder = self.root().join("etc/xvr");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("ports.json"), declaration.to_string()).context("declare ports")
    }

    /// Sends a tier, 10.10.`octet`.0/24, with further keys, which has to be taken.
    pub fn add_tier(&self, (device, mac, gateway): Tier, octet: u8, further: &Value) -> Result<()> {
        let mut message = tier(device, mac, gateway, 300 + u32::from(octet));
        for (key, value) in further.as_object().into_iter().flatten() {
            message[key] = value.clone();
        }
        let said = self.update_config_with("guest_network", message.to_string().as_bytes())?.ok();
        said.map(drop).with_context(|| self.log())
    }

    /// Sends a tier's network ACL, which has to be taken.
    pub fn apply_acl(&self, (device, mac, ip): Tier, ingress: &Value, egress: &Value) -> Result<()> {
        let message = acl(device, mac, ip, ingress, egress);
        self.update_config_with("network_acl", message.to_string().as_bytes())?.ok().map(drop)
    }

    /// `xvr show WHAT --json`.
    pub fn show(&self, what: &str) -> Result<Value> {
        let output = self.xvr(&["show", what, "--json"])?.ok()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("xvr show {what}: {}", output.stdout))
    }

    /// What `xvr show ports` says of the port whose interface has this name.
    pub fn port(&self, nic: &str) -> Result<Value> {
        let shown = self.show("ports")?;
        let port = shown.as_array().and_then(|ports| ports.iter().find(|port| port["nic"] == nic));
        port.cloned().with_context(|| format!("no port of {nic}: {shown}"))
    }

    /// How many packets were not forwarded for a reason of `xvr show drops`, over all ports and
    /// hooks.
    pub fn outcome(&self, label: &str) -> Result<u64> {
        let shown = self.show("drops")?;
        let rows = shown.as_array().context("xvr show drops is no list")?;
        Ok(rows.iter().filter(|row| row["reason"] == label).filter_map(packets).sum())
    }

    /// How many packets a hook has forwarded, over all ports.
    pub fn forwarded(&self, hook: Hook) -> Result<u64> {
        let shown = self.show("ports")?;
        let rows = shown.as_array().context("xvr show ports is no list")?;
        let column = format!("forwarded_by_{}", hook.label());
        Ok(rows.iter().filter_map(|row| row[column.as_str()]["packets"].as_u64()).sum())
    }

    /// `xvr plan --json`: a sentence for every change it would make.
    pub fn plan(&self) -> Result<Vec<String>> {
        let output = self.xvr(&["plan", "--json"])?.ok()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("xvr plan: {}", output.stdout))
    }

    /// Takes every program off every interface by main force, as an operator's mistake would.
    /// The daemon is not told.
    pub fn tear_off_programs(&self) -> Result<()> {
        for pin in files_below(&self.namespace.pin_dir()?) {
            // Most pins are tables, which cannot be detached: what counts is looked at below.
            let mut detach = self.namespace.command("bpftool");
            run_bounded(detach.args(["link", "detach", "pinned"]).arg(&pin), COMMAND_TIME)?;
        }
        for device in self.devices()? {
            for kind in ["xdpdrv", "xdpgeneric"] {
                let mut off = self.namespace.command("ip");
                run_bounded(off.args(["link", "set", "dev", &device, kind, "off"]), COMMAND_TIME)?;
            }
            let mut qdisc = self.namespace.command("tc");
            run_bounded(qdisc.args(["qdisc", "del", "dev", &device, "clsact"]), COMMAND_TIME)?;
        }
        let left = self.attached_programs()?;
        ensure!(left.is_empty(), "programs are still attached: {left:?}");
        Ok(())
    }

    /// What `bpftool net` sees in the namespace, one line a program.
    pub fn attached_programs(&self) -> Result<Vec<String>> {
        let text = self.namespace.run("bpftool", &["net", "show"])?;
        Ok(text.lines().filter(|line| line.starts_with("eth")).map(str::to_owned).collect())
    }

    /// Stops the daemon and removes every pin, so that the next start is a cold one. Databags,
    /// addresses and routes stay.
    pub fn make_cold(&mut self) -> Result<()> {
        self.kill_daemon();
        let pins = self.namespace.pin_dir()?;
        if pins.exists() {
            self.tear_off_programs()?;
            fs::remove_dir_all(&pins).with_context(|| format!("remove {}", pins.display()))?;
        }
        Ok(())
    }

    /// Ends the daemons that a router leaves behind when nobody could stop them.
    fn end_services(&self) {
        for note in files_below(&self.root.join("run/xvr")) {
            let is_note = note.extension().is_some_and(|kind| kind == "process");
            let Some(noted) = is_note.then(|| fs::read(&note).ok()).flatten() else { continue };
            let noted: Value = serde_json::from_slice(&noted).unwrap_or_default();
            let Some(pid) = noted["pid"].as_i64() else { continue };
            let root = self.root.display().to_string();
            // charon's root is in its environment.
            let is_named = |place: &&str| {
                let text = fs::read(format!("/proc/{pid}/{place}")).unwrap_or_default();
                String::from_utf8_lossy(&text).contains(&root)
            };
            if ["cmdline", "environ"].iter().any(is_named) {
                Command::new("kill").arg(pid.to_string()).status().ok();
            }
        }
    }

    /// Leaves daemon, root and programs when the value is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    fn devices(&self) -> Result<Vec<String>> {
        let text = self.namespace.run("ip", &["-br", "link"])?;
        let names = text.lines().filter_map(|line| line.split(['@', ' ']).next());
        Ok(names.filter(|name| *name != "lo").map(str::to_owned).collect())
    }
}

impl Drop for Router<'_> {
    fn drop(&mut self) {
        if self.kept {
            self.daemon.take().into_iter().for_each(Process::leave);
            return;
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
        // `xvr remove` where somebody does it; the pins by hand where nobody can.
        if self.daemon_runs() {
            self.xvr(&["remove"]).ok();
        }
        self.daemon = None;
        self.end_services();
        if let Ok(pins) = self.namespace.pin_dir() {
            fs::remove_dir_all(pins).ok();
        }
        fs::remove_dir_all(&self.root).ok();
    }
}

fn packets(row: &Value) -> Option<u64> {
    row["count"]["packets"].as_u64()
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// CloudStack's message that a tier is there, of 256 addresses, by its NIC and the router's address in it.
pub fn tier(device: &str, mac: &str, gateway: &str, network: u32) -> Value {
    serde_json::json!({
        "add": true, "mac_address": mac, "device": device, "router_guest_ip": gateway,
        "router_guest_netmask": "255.255.255.0", "router_guest_gateway": gateway, "cidr": "24",
        "dns": "8.8.8.8", "domain_name": "cs2cloud.internal", "is_vr_guest_gateway": true,
        "network_id": network, "type": "guestnetwork", "delete_from_processed_cache": false,
    })
}

/// CloudStack's message about the network ACL of such a tier.
pub fn acl(device: &str, mac: &str, ip: &str, ingress: &Value, egress: &Value) -> Value {
    serde_json::json!({
        "device": device, "mac_address": mac, "private_gateway_acl": false,
        "nic_ip": ip, "nic_netmask": "24",
        "ingress_rules": ingress, "egress_rules": egress,
        "type": "networkacl", "delete_from_processed_cache": false,
    })
}

/// Runs a test with the programs at each hook in turn, if this machine has the programs that the test runs.
pub fn for_both_hooks(programs: &[&str], test: impl Fn(&'static str) -> Result<()>) -> Result<()> {
    if !needs::are_met(programs) {
        return Ok(());
    }
    for attach in ["tc", "xdp"] {
        test(attach).with_context(|| format!("attached as {attach}"))?;
    }
    Ok(())
}

/// Linux itself as the router of [`Lab::vpc`]: forwarding, and masquerading by nftables. It
/// proves that lab and clients work; what fails with it is not the router's fault.
pub fn start_linux_router(lab: &Lab) -> Result<()> {
    lab.router.sysctl("net/ipv4/ip_forward", "1")?;
    lab.router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    lab.router.ip("link set eth0 up\n\
         link set eth1 up\n\
         link set eth2 up\n\
         link set eth3 up\n\
         address add 169.254.1.177/16 dev eth0\n\
         address add 203.0.113.30/24 dev eth1\n\
         address add 2001:db8:100::1e00:a8ff:fe00:31/64 dev eth1 nodad\n\
         address add 10.10.1.1/24 dev eth2\n\
         address add fd17:ac56:1234:10::1/64 dev eth2 nodad\n\
         address add 10.10.2.1/24 dev eth3\n\
         address add fd17:ac56:1234:20::1/64 dev eth3 nodad\n\
         route add default via 203.0.113.1\n\
         route add default via 2001:db8:100::1\n")?;
    run_nft(
        lab,
        "table ip lab { chain nat { type nat hook postrouting priority srcnat;\n\
         oifname \"eth1\" ip saddr 10.10.0.0/16 masquerade\n}\n}\n",
    )
}

/// Gives rules to nftables in the router's namespace.
pub fn run_nft(lab: &Lab, rules: &str) -> Result<()> {
    let mut nft = lab.router.command("nft");
    run_bounded(nft.arg(rules), COMMAND_TIME)?.ok().map(drop)
}
