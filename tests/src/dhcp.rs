//! Guests that come up as machines do: a NIC, and clients of DHCP that are asked what they heard.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::netns::{Lifetime, Namespace, Process, run_bounded, wait_until};

/// What clients call when something happens: it takes the address, and notes what it was told.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
bound|renew)
    ip address replace "$ip/$mask" dev "$interface"
    [ -z "$router" ] || ip route replace default via "${router%% *}"
    ;;
esac
{
    echo "event=$1"
    for name in ip mask router dns domain search mtu lease serverid hostname; do
        eval "echo $name=\$$name"
    done
} >> "$EVENTS"
"#;

/// How long a client may take: the machine may be busy.
const CLIENT_TIME: Duration = Duration::from_secs(120);

/// What a client was told: its script's variables, those without a value left out.
pub type Told = BTreeMap<String, String>;

/// A guest with one NIC, `eth0`, without addresses.
#[derive(Debug)]
pub struct Guest {
    /// Where it lives.
    pub namespace: Namespace,
    folder: PathBuf,
}

impl Guest {
    /// Plugs a guest's NIC into a segment. `label` is its name, of ten letters at most.
    pub fn plug(lab: &Lab, segment: &str, label: &str, mac: &str) -> Result<Self> {
        let namespace = Namespace::new(lab.prefix(), label, Lifetime::Scoped)?;
        lab.wire.ip(&format!(
            "link add name g-{label} type veth peer name eth0 address {mac} netns {}\n\
             link set g-{label} master {segment} up\n",
            namespace.name()
        ))?;
        namespace.ip("link set eth0 up\n")?;
        let folder = std::env::temp_dir().join(format!("{}-guest-{label}", lab.prefix()));
        fs::create_dir_all(&folder)?;
        let guest = Self { namespace, folder };
        fs::write(guest.script(), SCRIPT)?;
        fs::set_permissions(guest.script(), fs::Permissions::from_mode(0o755))?;
        Ok(guest)
    }

    fn script(&self) -> PathBuf {
        self.folder.join("script")
    }

    /// busybox's client. It asks for what it is told and what besides `options` say.
    fn udhcpc(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command("udhcpc");
        command.args(["-i", "eth0", "-f", "-O", "mtu", "-O", "search", "-T", "1"]).args(arguments);
        command.arg("-s").arg(self.script()).env("EVENTS", self.folder.join("events"));
        command
    }

    /// Asks for an address, as often as it takes or `tries` times; `None` if nobody gives one.
    pub fn ask(&self, tries: u32) -> Result<Option<Told>> {
        let before = self.events().len();
        let mut client = self.udhcpc(&["-q", "-n", "-t", &tries.to_string()]);
        let output = run_bounded(&mut client, CLIENT_TIME)?;
        let told = self.events().into_iter().skip(before).find(|told| told["event"] == "bound");
        ensure!(told.is_some() == output.status.success(), "{output:?}");
        Ok(told)
    }

    /// Asks for an address, and has to get one.
    pub fn must_get(&self) -> Result<Told> {
        self.ask(20)?.context("nobody gives it an address")
    }

    /// A client that stays. Signals are as udhcpc knows them: `SIGUSR1` renews.
    pub fn stay(&self) -> Result<Process> {
        let mut command = self.udhcpc(&["-t", "20"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Process::spawn(&mut command)
    }

    /// All that has happened to its clients.
    pub fn events(&self) -> Vec<Told> {
        let text = fs::read_to_string(self.folder.join("events")).unwrap_or_default();
        let mut events: Vec<Told> = Vec::new();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            if name == "event" {
                events.push(Told::new());
            }
            if let Some(told) = events.last_mut().filter(|_| !value.is_empty()) {
                told.insert(name.to_owned(), value.to_owned());
            }
        }
        events
    }

    /// ISC's client, of IPv4 (`-4`) or IPv6 (`-6`); what it says about it.
    pub fn dhclient(&self, family: &str) -> Result<String> {
        let at = |name: &str| self.folder.join(format!("{name}{family}"));
        let mut command = self.namespace.command("dhclient");
        let wanted = "request subnet-mask, routers, domain-name-servers, domain-name, interface-mtu;\n";
        fs::write(at("conf"), wanted)?;
        command.args([family, "-1", "-v", "-d", "-sf", "/bin/true", "-cf"]).arg(at("conf"));
        command.arg("-lf").arg(at("leases")).arg("-pf").arg(at("pid")).arg("eth0");
        let mut client = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let leases = at("leases");
        let found = wait_until("dhclient has a lease", CLIENT_TIME, || {
            fs::read_to_string(&leases).is_ok_and(|text| text.contains("lease") && text.ends_with("}\n"))
        });
        client.kill();
        found?;
        Ok(fs::read_to_string(leases)?)
    }

    /// `dig`: the answers, a line each. `None` if nobody answers.
    pub fn dig(&self, server: &str, words: &[&str]) -> Result<Option<Vec<String>>> {
        dig(&self.namespace, server, words)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Asks a name server.
pub fn dig(from: &Namespace, server: &str, words: &[&str]) -> Result<Option<Vec<String>>> {
    let mut command = from.command("dig");
    command.args(["+short", "+time=2", "+tries=2", &format!("@{server}")]).args(words);
    let output = run_bounded(&mut command, CLIENT_TIME)?;
    // 9: no answer.
    if output.code() == 9 {
        return Ok(None);
    }
    let output = output.ok()?;
    Ok(Some(output.stdout.lines().map(str::to_owned).collect()))
}
