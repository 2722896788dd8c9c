//! Real servers with a configuration of their own, and the clients that know what they serve.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clients::{wait_for_listener, wait_for_udp};
use crate::lab::Host;
use crate::netns::{Namespace, Process, run_bounded, wait_until};
use crate::servers::{sha256_of_body, write_body};

/// How long a client may take.
const CLIENT_TIME: Duration = Duration::from_secs(60);

/// A directory for a host's process, removed in the end.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    pub fn new(host: &Host) -> Result<Self> {
        Self::of(&host.namespace)
    }

    /// The same for a process in a namespace that need be no host's.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{}-{serial}", namespace.name()));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let file = self.file(name);
        fs::write(&file, content).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Starts a server that stays in the foreground. What it says goes to `log` in its directory.
pub(crate) fn start(scratch: &Scratch, command: &mut Command) -> Result<Process> {
    let log = fs::File::create(scratch.file("log"))?;
    Process::spawn(command.current_dir(&scratch.0).stdout(log.try_clone()?).stderr(log))
}

/// What a server has said, for the message of an error.
pub(crate) fn log(scratch: &Scratch) -> String {
    let text = fs::read(scratch.file("log")).unwrap_or_default();
    format!("the server's log:\n{}", String::from_utf8_lossy(&text))
}

/// OpenSSH's server on port 22, with keys that nobody else has.
#[derive(Debug)]
pub struct Sshd {
    _server: Process,
    scratch: Scratch,
}

impl Sshd {
    /// Starts it.
    pub fn start(host: &Host) -> Result<Self> {
        let scratch = Scratch::new(host)?;
        for key in ["host_key", "user_key"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(scratch.file(key));
            run_bounded(&mut keygen, CLIENT_TIME)?.ok()?;
        }
        let host_key = fs::read_to_string(scratch.file("host_key.pub"))?;
        // Whatever address and port it is reached by.
        scratch.write("known_hosts", &format!("* {host_key}"))?;
        let directory = scratch.0.display();
        let configuration = format!(
            "HostKey {directory}/host_key\nAuthorizedKeysFile {directory}/user_key.pub\nStrictModes no\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nUseDNS no\n\
             PidFile none\n"
        );
        let configuration = scratch.write("sshd_config", &configuration)?;
        // Where OpenSSH wants to find an empty directory; its service makes it, too.
        fs::create_dir_all("/run/sshd")?;
        let mut command = host.namespace.command("/usr/sbin/sshd");
        let server = start(&scratch, command.args(["-D", "-e", "-f"]).arg(configuration))?;
        wait_for_listener(&host.namespace, 22).with_context(|| log(&scratch))?;
        Ok(Self { _server: server, scratch })
    }

    /// Runs a shell command there by `ssh`, which makes sure that it is there; what it printed.
    pub fn run(&self, from: &Host, address: IpAddr, port: u16, command: &str) -> Result<String> {
        let mut ssh = self.client(from, address, port, command);
        let output = run_bounded(&mut ssh, CLIENT_TIME)?.ok().with_context(|| log(&self.scratch))?;
        Ok(output.stdout)
    }

    /// Logs in and stays.
    pub fn log_in(&self, from: &Host, address: IpAddr, port: u16) -> Result<Session> {
        let mut ssh = self.client(from, address, port, "cat");
        let mut client = Process::spawn(ssh.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let answers = BufReader::new(client.child().stdout.take().context("ssh has no output")?);
        let mut session = Session { client, answers };
        session.go_on().with_context(|| log(&self.scratch))?;
        Ok(session)
    }

    fn client(&self, from: &Host, address: IpAddr, port: u16, command: &str) -> Command {
        let mut ssh = from.namespace.command("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=none", "-o"])
            .arg(format!("UserKnownHostsFile={}", self.scratch.file("known_hosts").display()))
            .arg("-i")
            .arg(self.scratch.file("user_key"))
            .args(["-p", &port.to_string(), &format!("root@{address}"), command]);
        ssh
    }
}

/// Somebody who is logged in.
#[derive(Debug)]
pub struct Session {
    client: Process,
    answers: BufReader<ChildStdout>,
}

impl Session {
    /// Says something, and waits for it to come back.
    pub fn go_on(&mut self) -> Result<()> {
        let input = self.client.child().stdin.as_mut().context("ssh has no input")?;
        input.write_all(b"still there?\n").and_then(|()| input.flush()).context("ask by ssh")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("be answered by ssh")?;
        ensure!(answer == "still there?\n", "ssh answers {answer:?}");
        Ok(())
    }
}

/// coturn as a server of STUN that has two addresses, as RFC 5780 wants.
#[derive(Debug)]
pub struct StunServer {
    _server: Process,
    scratch: Scratch,
    address: IpAddr,
}

impl StunServer {
    /// Starts it on `host`, which gets a second address.
    pub fn start(host: &Host, second: IpAddr) -> Result<Self> {
        host.namespace.ip(&format!("address add {second}/24 dev eth0\n"))?;
        let scratch = Scratch::new(host)?;
        let mut command = host.namespace.command("turnserver");
        command
            .args(["-n", "--stun-only", "--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout"])
            .args(["--listening-ip", &host.v4.to_string(), "--listening-ip", &second.to_string()])
            .arg("--userdb")
            .arg(scratch.file("turndb"))
            .arg("--pidfile")
            .arg(scratch.file("pid"));
        let server = start(&scratch, &mut command)?;
        // The default port, and the alternative one.
        for port in [3478, 3479] {
            wait_for_udp(&host.namespace, port).with_context(|| log(&scratch))?;
        }
        Ok(Self { _server: server, scratch, address: host.v4.into() })
    }

    /// What `turnutils_natdiscovery` says about the way from a host to here; `what` is an option
    /// of its: `-m` for mapping, `-f` for filtering, `-H` for hairpinning.
    pub fn discover(&self, from: &Host, what: &str) -> Result<String> {
        let mut command = from.namespace.command("turnutils_natdiscovery");
        let output = run_bounded(command.args([what, &self.address.to_string()]), CLIENT_TIME)?.ok();
        Ok(output.with_context(|| log(&self.scratch))?.stdout)
    }
}

/// dnsmasq: a name with a big answer, and a file by TFTP.
#[derive(Debug)]
pub struct Dnsmasq {
    _server: Process,
    scratch: Scratch,
}

impl Dnsmasq {
    /// Bytes of text in the answer to [`Dnsmasq::dig`].
    const TEXT: usize = 15 * 250;

    /// Starts it: DNS on port 53, TFTP on port 69.
    pub fn start(host: &Host) -> Result<Self> {
        let scratch = Scratch::new(host)?;
        write_body(&scratch.file("file"), TFTP_BYTES)?;
        let text = vec!["x".repeat(250); Self::TEXT / 250].join(",");
        let mut command = host.namespace.command("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
            ])
            .args(["--pid-file=", "--log-facility=-", "--edns-packet-max=4096", "--enable-tftp"])
            .arg(format!("--tftp-root={}", scratch.0.display()))
            .arg(format!("--txt-record=big.test,{text}"));
        let server = start(&scratch, &mut command)?;
        for port in [53, 69] {
            wait_for_udp(&host.namespace, port).with_context(|| log(&scratch))?;
        }
        Ok(Self { _server: server, scratch })
    }

    /// Asks with a buffer of 4096 bytes, over UDP; the answer comes in fragments and whole.
    pub fn dig(&self, from: &Host, address: IpAddr, port: u16) -> Result<()> {
        let mut command = from.namespace.command("dig");
        command.args(["+notcp", "+ignore", "+bufsize=4096", "+time=5", "+tries=2", "+short"]);
        command.args(["-p", &port.to_string(), &format!("@{address}"), "big.test", "TXT"]);
        let output = run_bounded(&mut command, CLIENT_TIME)?.ok().with_context(|| log(&self.scratch))?;
        let text = output.stdout.chars().filter(|&c| c == 'x').count();
        ensure!(text == Self::TEXT, "{text} bytes of {}: {}", Self::TEXT, output.stdout);
        Ok(())
    }

    /// Gets the file by TFTP and compares its hash.
    pub fn tftp(&self, from: &Host, address: IpAddr) -> Result<()> {
        let scratch = Scratch::new(from)?;
        let mut command = from.namespace.command("tftp");
        command.current_dir(&scratch.0).args(["-m", "binary", &address.to_string(), "-c", "get", "file"]);
        run_bounded(&mut command, CLIENT_TIME)?.ok()?;
        is_the_file(&scratch.file("file"), TFTP_BYTES).with_context(|| log(&self.scratch))
    }
}

/// Length of the file that is got by TFTP, 512 bytes at a time.
const TFTP_BYTES: u64 = 100_000;
/// And by FTP.
const FTP_BYTES: u64 = 1_000_000;

fn is_the_file(file: &Path, length: u64) -> Result<()> {
    let sum = run_bounded(Command::new("sha256sum").arg(file), CLIENT_TIME)?.ok()?.stdout;
    let sent = sha256_of_body(length)?;
    ensure!(sum.starts_with(&sent), "got {sum}, sent {sent}");
    Ok(())
}

/// vsftpd on port 21, for everybody.
#[derive(Debug)]
pub struct Vsftpd {
    _server: Process,
    scratch: Scratch,
}

/// Who opens FTP's data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FtpMode {
    /// The client, to where `PASV` says.
    Passive,
    /// The client, to the port that `EPSV` says.
    ExtendedPassive,
    /// The server, to where `PORT` says.
    Active,
    /// The server, to where `EPRT` says.
    ExtendedActive,
}

impl Vsftpd {
    /// Starts it.
    pub fn start(host: &Host) -> Result<Self> {
        let scratch = Scratch::new(host)?;
        write_body(&scratch.file("file"), FTP_BYTES)?;
        fs::create_dir(scratch.file("empty"))?;
        let directory = scratch.0.display();
        let configuration = format!(
            "listen=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nanon_root={directory}\n\
             secure_chroot_dir={directory}/empty\nconnect_from_port_20=YES\nxferlog_enable=NO\n\
             isolate_network=NO\nisolate=NO\nseccomp_sandbox=NO\nvsftpd_log_file={directory}/vsftpd.log\n"
        );
        let configuration = scratch.write("vsftpd.conf", &configuration)?;
        let server = start(&scratch, host.namespace.command("vsftpd").arg(configuration))?;
        wait_for_listener(&host.namespace, 21).with_context(|| log(&scratch))?;
        Ok(Self { _server: server, scratch })
    }

    /// Gets the file twice by one control connection of curl, and compares its hash.
    pub fn get(&self, from: &Host, address: IpAddr, mode: FtpMode) -> Result<()> {
        let scratch = Scratch::new(from)?;
        let mut command = from.namespace.command("curl");
        command.args(["--silent", "--show-error", "--connect-timeout", "10", "--max-time", "50"]);
        command.args(match mode {
            // What the server says is taken seriously.
            FtpMode::Passive => ["--disable-epsv", "--no-ftp-skip-pasv-ip"].as_slice(),
            FtpMode::ExtendedPassive => &[],
            FtpMode::Active => &["--ftp-port", "-", "--disable-eprt"],
            FtpMode::ExtendedActive => &["--ftp-port", "-", "--eprt"],
        });
        let files = ["first", "second"].map(|name| scratch.file(name));
        for file in &files {
            command.arg("--output").arg(file).arg(format!("ftp://{address}/file"));
        }
        let got = run_bounded(&mut command, CLIENT_TIME)?
            .ok()
            .and_then(|_| files.iter().try_for_each(|file| is_the_file(file, FTP_BYTES)));
        got.with_context(|| format!("FTP, {mode:?}; {}", log(&self.scratch)))
    }
}

/// SIPp as a telephone that takes every call, on UDP port 5060.
#[derive(Debug)]
pub struct Telephone {
    _server: Process,
    scratch: Scratch,
}

impl Telephone {
    /// Starts it.
    pub fn start(host: &Host) -> Result<Self> {
        let scratch = Scratch::new(host)?;
        let mut command = host.namespace.command("sipp");
        command.args(["-sn", "uas", "-i", &host.v4.to_string(), "-p", "5060", "-nostdin"]);
        let server = start(&scratch, &mut command)?;
        wait_for_udp(&host.namespace, 5060).with_context(|| log(&scratch))?;
        Ok(Self { _server: server, scratch })
    }

    /// Calls it ten times by this address, and hangs up each time.
    pub fn call(&self, from: &Host, address: IpAddr) -> Result<()> {
        let scratch = Scratch::new(from)?;
        let mut command = from.namespace.command("sipp");
        command
            .current_dir(&scratch.0)
            .args(["-sn", "uac", "-i", &from.v4.to_string(), "-p", "5060", "-nostdin"])
            .args(["-m", "10", "-r", "20", "-d", "200", "-timeout", "30", "-timeout_error"])
            .arg(format!("{address}:5060"))
            .stdout(Stdio::piped());
        run_bounded(&mut command, CLIENT_TIME)?.ok().map(drop).with_context(|| log(&self.scratch))
    }
}

/// haproxy, as CloudStack's load balancer of 203.0.113.14:80 has it, in the router's namespace.
#[derive(Debug)]
pub struct Haproxy {
    _server: Process,
    scratch: Scratch,
}

impl Haproxy {
    /// Starts it with these servers, which it looks after, and its socket for questions.
    pub fn start(
        namespace: &Namespace,
        scratch: Scratch,
        socket: &Path,
        servers: &[SocketAddr],
    ) -> Result<Self> {
        let lines = servers.iter().enumerate().map(|(number, server)| {
            format!("server 203_0_113_14-80_{number} {server} check inter 200 fall 1 rise 1\n")
        });
        let configuration = format!(
            "global\nstats socket {} mode 600 level admin\ndefaults\nmode tcp\ntimeout connect 5s\n\
             timeout client 1h\ntimeout server 1h\nlisten 203_0_113_14-80\nbind 127.0.0.1:8000\n\
             balance roundrobin\n{}",
            socket.display(),
            lines.collect::<String>(),
        );
        let configuration = scratch.write("haproxy.cfg", &configuration)?;
        let server = start(&scratch, namespace.command("haproxy").args(["-db", "-f"]).arg(configuration))?;
        wait_for_listener(namespace, 8000).with_context(|| log(&scratch))?;
        Ok(Self { _server: server, scratch })
    }

    /// Waits until it has noticed that the server of this number is not there.
    pub fn wait_until_down(&self, number: usize) -> Result<()> {
        let line = format!("203_0_113_14-80_{number} is DOWN");
        let is_down = || log(&self.scratch).contains(&line);
        wait_until("haproxy notices", CLIENT_TIME, is_down).with_context(|| log(&self.scratch))
    }
}
