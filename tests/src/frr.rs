//! FRR as somebody runs it by hand: zebra and a daemon that speaks to others, in a namespace.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::daemons::Scratch;
use crate::netns::{Namespace, Process, run_bounded};

const SOON: Duration = Duration::from_secs(60);

/// zebra and one more.
#[derive(Debug)]
pub struct Frr<'lab> {
    namespace: &'lab Namespace,
    scratch: Scratch,
    _daemons: [Process; 2],
}

impl<'lab> Frr<'lab> {
    /// Starts both, the second one by its name and with this configuration.
    pub fn start(namespace: &'lab Namespace, daemon: &str, configuration: &str) -> Result<Self> {
        let scratch = Scratch::of(namespace)?;
        let folder = scratch.file("");
        run_bounded(Command::new("chown").arg("frr:frr").arg(&folder), SOON)?.ok()?;
        let start = |name: &str, content: &str| {
            let config = scratch.write(&format!("{name}.conf"), content)?;
            let mut command = namespace.command(Path::new("/usr/lib/frr").join(name));
            command.args(["-P", "0", "-f"]).arg(config).arg("-i").arg(scratch.file(&format!("{name}.pid")));
            command.arg("-z").arg(scratch.file("zserv.api")).arg("--vty_socket").arg(&folder);
            Process::spawn(&mut command)
        };
        let daemons = [start("zebra", "ip nht resolve-via-default\n")?, start(daemon, configuration)?];
        Ok(Self { namespace, scratch, _daemons: daemons })
    }

    /// What it answers to commands.
    pub fn vtysh(&self, commands: &[&str]) -> Result<String> {
        let mut vtysh = self.namespace.command("vtysh");
        vtysh.arg("--vty_socket").arg(self.scratch.file(""));
        for command in commands {
            vtysh.args(["-c", command]);
        }
        Ok(run_bounded(&mut vtysh, SOON)?.ok()?.stdout)
    }
}
