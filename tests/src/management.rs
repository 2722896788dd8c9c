//! The management server, as far as a router sees it: OpenSSH's clients on the control network, in the order and
//! form of CloudStack's KVM agent (`router_proxy.sh`, `VirtualRoutingResource`).

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::netns::{Namespace, Output, run_bounded};
use crate::router::{Router, fixture};

/// Where CloudStack puts files.
const INBOX: &str = "/var/cache/cloud";

/// The longest that a call may take.
const CALL: Duration = Duration::from_secs(120);

/// A host with CloudStack's agent, which has a key to its routers.
#[derive(Debug)]
pub struct Management<'lab> {
    host: &'lab Namespace,
    control: Ipv4Addr,
    folder: PathBuf,
}

impl<'lab> Management<'lab> {
    /// Of the router that will have this address on the control network.
    pub fn new(lab: &'lab Lab, control: Ipv4Addr) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("{}-management", lab.prefix()));
        fs::create_dir_all(&folder)?;
        let management = Self { host: &lab.host("host").namespace, control, folder };
        if !management.key().exists() {
            let mut keygen = management.host.command("ssh-keygen");
            keygen.args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "cloud@management", "-f"]);
            run_bounded(keygen.arg(management.key()), CALL)?.ok()?;
        }
        Ok(management)
    }

    fn key(&self) -> PathBuf {
        self.folder.join("id_rsa.cloud")
    }

    /// A boot line of the fixtures with this host's key in it.
    pub fn boot_line(&self, name: &str) -> Result<String> {
        let line = fs::read_to_string(fixture(&format!("cloudstack/cmd_line/{name}.cmdline.txt")))?;
        let public = fs::read(self.key().with_extension("cloud.pub"))?;
        let key = base64(&public);
        let words = line.split(' ').map(|word| match word.starts_with("authorized_key=") {
            true => format!("authorized_key={key}"),
            false => word.to_owned(),
        });
        Ok(words.collect::<Vec<_>>().join(" "))
    }

    /// Boots the router as KVM's guest agent does, and waits until its port for SSH is open.
    pub fn boot(&self, router: &Router<'_>, boot_line: &str) -> Result<()> {
        fs::write(router.root().join("var/cache/cloud/cmdline"), boot_line)?;
        self.wait_for_ssh()
    }

    /// Waits until the router's port for SSH is open.
    pub fn wait_for_ssh(&self) -> Result<()> {
        let deadline = Instant::now() + CALL;
        while Instant::now() < deadline {
            let address = (self.control, 3922);
            let open = self.host.inside(move || std::net::TcpStream::connect(address).is_ok())?;
            if open {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{}:3922 does not open", self.control)
    }

    fn options(&self) -> [String; 9] {
        let known = self.folder.join("known_hosts");
        [
            "-q".to_owned(),
            "-i".to_owned(),
            self.key().display().to_string(),
            "-o".to_owned(),
            "StrictHostKeyChecking=no".to_owned(),
            "-o".to_owned(),
            format!("UserKnownHostsFile={}", known.display()),
            "-o".to_owned(),
            "BatchMode=yes".to_owned(),
        ]
    }

    /// `ssh` to the router, to be given a command.
    pub fn ssh(&self) -> std::process::Command {
        let mut ssh = self.host.command("ssh");
        ssh.args(self.options()).args(["-p", "3922"]).arg(format!("root@{}", self.control));
        ssh
    }

    /// Runs a script as `router_proxy.sh` does: one ping, then the script by its full name.
    pub fn call(&self, script: &str, arguments: &str) -> Result<Output> {
        self.host.run("ping", &["-c", "1", "-W", "2", "-q", &self.control.to_string()])?;
        let line = format!("/opt/cloud/bin/{script} {arguments}");
        run_bounded(self.ssh().arg(line.trim_end()), CALL)
    }

    /// Copies a file as CloudStack's client does, by the protocol of `scp` itself.
    pub fn copy(&self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let local = self.folder.join(name);
        fs::write(&local, content)?;
        fs::set_permissions(&local, fs::Permissions::from_mode(mode))?;
        let mut scp = self.host.command("scp");
        scp.arg("-O").arg("-p").args(self.options()).args(["-P", "3922"]).arg(&local);
        scp.arg(format!("root@{}:{INBOX}/", self.control));
        run_bounded(&mut scp, CALL)?.ok().with_context(|| format!("copy {name}"))?;
        fs::remove_file(local)?;
        Ok(())
    }

    /// Copies what CloudStack copies before anything else: its own router's scripts.
    pub fn copy_patch(&self, checksum: &str) -> Result<()> {
        self.copy("agent.zip", b"agent", 0o755)?;
        self.copy("cloud-scripts.tgz", b"scripts", 0o755)?;
        // One that would do harm if it ran.
        let script = format!("#!/bin/bash\n{checksum} cloud-scripts.tgz\nrm -rf /opt/cloud/bin\n");
        self.copy("patch-sysvms.sh", script.as_bytes(), 0o755)
    }

    /// One message: the file, then `update_config.py` with its name.
    pub fn configure(&self, kind: &str, content: &[u8]) -> Result<Output> {
        let name = format!("{kind}.json.{}", uuid());
        self.copy(&name, content, 0o600)?;
        let message: Value = serde_json::from_slice(content).unwrap_or_default();
        let forget = message["delete_from_processed_cache"] == true;
        self.call("update_config.py", &format!("{name}{}", if forget { " false" } else { "" }))
    }

    /// A fixture's message; it has to be taken.
    pub fn apply(&self, name: &str) -> Result<()> {
        let content = fs::read(fixture(name))?;
        // CloudStack names a file for its kind, and our fixtures' folders are named so.
        let kind = Path::new(name).parent().and_then(Path::file_name).context("a fixture has a folder")?;
        self.configure(&kind.to_string_lossy(), &content)?.ok().with_context(|| format!("apply {name}"))?;
        Ok(())
    }

    /// An aggregate of the fixtures: the file, then `vr_cfg.sh` with its path.
    pub fn aggregate(&self, name: &str) -> Result<Output> {
        let content = fs::read(fixture(&format!("cloudstack/aggregate/{name}")))?;
        self.copy(name, &content, 0o600)?;
        self.call("vr_cfg.sh", &format!("-c {INBOX}/{name}"))
    }

    /// Insists on a script's output, exit status 0.
    pub fn expect(&self, script: &str, arguments: &str, output: &str) -> Result<()> {
        let said = self.call(script, arguments)?.ok().with_context(|| format!("{script} {arguments}"))?;
        ensure!(said.stdout == output, "{script} {arguments} printed {:?}, not {output:?}", said.stdout);
        Ok(())
    }
}

impl Drop for Management<'_> {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Unique enough for a file's name.
fn uuid() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    format!("{:08x}-1111-4222-8333-c0ffee000000", SERIAL.fetch_add(1, Ordering::Relaxed))
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}
