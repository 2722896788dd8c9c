//! OpenSSH's server: how CloudStack and the operator reach the router, on the control NIC alone.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::{Call, HEADER, Rendered, Service};
use crate::model::Ssh;
use crate::root::Root;

/// CloudStack's port.
pub const PORT: u16 = 3922;

/// Debian's server of file transfers, which `scp` asks for.
const SFTP: &str = "/usr/lib/openssh/sftp-server";

/// Kinds of host keys, in the order in which clients should be offered them.
const KEYS: [&str; 3] = ["ed25519", "ecdsa", "rsa"];

/// The server for what is desired.
pub fn render(ssh: &Ssh, root: &Root) -> Service {
    let config = root.run().join("sshd_config");
    let keys = root.run().join("authorized_keys");
    let authorized = ssh.authorized_key.iter().map(|key| format!("{key}\n")).collect();
    let path = |path: &Path| path.display().to_string();
    let arguments = vec!["-D".to_owned(), "-e".to_owned(), "-f".to_owned(), path(&config)];
    Service {
        files: vec![
            Rendered { path: config, content: configuration(ssh, root, &keys), mode: 0o600 },
            Rendered { path: keys, content: authorized, mode: 0o600 },
        ],
        // Where it separates privileges; made at boot by the system's own unit, which does not run here.
        folders: vec![PathBuf::from("/run/sshd"), host_key_folder(root)],
        // Makes those that are not there.
        prepare: Some(Call {
            program: "ssh-keygen",
            arguments: vec!["-A".into(), "-f".into(), path(root.path())],
        }),
        check: Some(Call { program: "/usr/sbin/sshd", arguments: vec!["-t".into(), "-f".into()] }),
        ..Service::new("sshd", "/usr/sbin/sshd", arguments)
    }
}

fn host_key_folder(root: &Root) -> PathBuf {
    root.path().join("etc/ssh")
}

fn configuration(ssh: &Ssh, root: &Root, keys: &Path) -> String {
    let mut text = String::from(HEADER);
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key} {value}");
    };
    line("Port", &PORT);
    line("ListenAddress", &ssh.address);
    for kind in KEYS {
        line("HostKey", &host_key_folder(root).join(format!("ssh_host_{kind}_key")).display());
    }
    let operators = root.path().join("root/.ssh/authorized_keys");
    line("AuthorizedKeysFile", &format_args!("{} {}", keys.display(), operators.display()));
    line("AllowUsers", &"root");
    line("PermitRootLogin", &"prohibit-password");
    line("PasswordAuthentication", &"no");
    line("KbdInteractiveAuthentication", &"no");
    line("UsePAM", &"no");
    line("UseDNS", &"no");
    // Outputs are read by exact form: nothing is said besides.
    line("PrintMotd", &"no");
    line("PrintLastLog", &"no");
    line("AllowTcpForwarding", &"no");
    line("X11Forwarding", &"no");
    line("MaxStartups", &1000);
    line("MaxSessions", &1000);
    line("PidFile", &"none");
    // A root of its own may be below a folder that others may write to.
    let is_whole_machine = root.path() == Path::new("/");
    line("StrictModes", &if is_whole_machine { "yes" } else { "no" });
    line("Subsystem", &format_args!("sftp {SFTP}"));
    line(
        "ForceCommand",
        &format_args!("{} --root {} ssh-command", root.binary().display(), root.path().display()),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_at_the_control_address_alone_and_takes_keys_alone() {
        let ssh =
            Ssh { address: [169, 254, 1, 2].into(), authorized_key: Some("ssh-rsa AAAA a@b".to_owned()) };
        let service = render(&ssh, &Root::new("/r"));
        let [config, keys] = service.files.as_slice() else { panic!("two files") };
        assert_eq!(config.path, Path::new("/r/run/xvr/sshd_config"));
        for line in ["Port 3922", "ListenAddress 169.254.1.2", "PasswordAuthentication no", "UsePAM no"] {
            assert!(config.content.lines().any(|found| found == line), "{line}");
        }
        assert_eq!(keys.content, "ssh-rsa AAAA a@b\n");
        assert_eq!(keys.mode, 0o600);
    }
}
