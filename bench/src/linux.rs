//! Linux as a router between generator and sink, with whatever rules.
//!
//! In its favour: checksums are not looked at (`nf_conntrack_checksum`), as where a NIC has done that. GRO is on,
//! without which a veth takes no frames from XDP.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use router_tests::netns::Namespace;

use crate::lab::{Lab, Router, inside};

/// Longer than so many seconds no rules may take to be loaded.
const PATIENCE: &str = "300";

/// Who takes rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// iptables-legacy.
    Legacy,
    /// ip6tables-legacy.
    Legacy6,
    /// iptables over nf_tables.
    IptablesNft,
    /// ip6tables over nf_tables.
    IptablesNft6,
    /// nft.
    Nft,
}

impl Program {
    /// The program that changes one rule.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy",
            Self::Legacy6 => "ip6tables-legacy",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesNft6 => "ip6tables-nft",
            Self::Nft => "nft",
        }
    }
}

/// Linux.
#[derive(Debug)]
pub struct Linux {
    /// Where.
    pub router: Router,
    file: PathBuf,
}

impl Linux {
    /// A router that forwards.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(lab: &mut Lab) -> Result<Self> {
        let router = lab.router()?;
        lab.take_xdp_frames(&router)?;
        let file = lab.file(&router);
        Ok(Self { router, file })
    }

    /// Puts rules in the place of those before; how long that took.
    ///
    /// # Errors
    /// Linux refuses them.
    pub fn load(&self, program: Program, text: &str) -> Result<Duration> {
        load(&self.router.namespace, program, &self.file, text)
    }

    /// Runs a program; how long that took.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Duration> {
        run(&self.router.namespace, program, arguments).map(|(took, _)| took)
    }

    /// Has conntrack not look at checksums. It is there from the first rule about states on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn trust_checksums(&self) -> Result<()> {
        if self.router.namespace.has_sysctl("net/netfilter/nf_conntrack_checksum")? {
            self.router.namespace.sysctl("net/netfilter/nf_conntrack_checksum", "0")?;
        }
        Ok(())
    }

    /// Has conntrack forget no flow of UDP while it is measured.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remember_flows(&self) -> Result<()> {
        for key in ["udp_timeout", "udp_timeout_stream"] {
            let key = format!("net/netfilter/nf_conntrack_{key}");
            if self.router.namespace.has_sysctl(&key)? {
                self.router.namespace.sysctl(&key, "3600")?;
            }
        }
        Ok(())
    }

    /// How many flows conntrack has.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn flows(&self) -> Result<u64> {
        let count = self.router.namespace.run("cat", &["/proc/sys/net/netfilter/nf_conntrack_count"])?;
        Ok(count.trim().parse()?)
    }

    /// Forgets every flow.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_flows(&self) -> Result<()> {
        inside(&self.router.namespace, flush_conntrack)?
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        // Or it is done in the background, while something else is measured.
        self.forget_flows().ok();
        fs::remove_file(&self.file).ok();
    }
}

/// Gives rules to a program in a namespace by a file, in the place of those before; how long that took.
///
/// # Errors
/// It refuses them.
pub fn load(namespace: &Namespace, program: Program, file: &Path, text: &str) -> Result<Duration> {
    fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    let file = file.to_string_lossy();
    let (took, _) = match program {
        Program::Nft => run(namespace, "nft", &["-f", &file]),
        iptables => run(namespace, &format!("{}-restore", iptables.name()), &[&file]),
    }?;
    Ok(took)
}

fn run(namespace: &Namespace, program: &str, arguments: &[&str]) -> Result<(Duration, Output)> {
    let mut command: Command = namespace.command("timeout");
    let begin = Instant::now();
    let output = command.arg(PATIENCE).arg(program).args(arguments).output()?;
    let took = begin.elapsed();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let first: Vec<_> = complaint.lines().take(4).collect();
    ensure!(output.status.success(), "{program}: {}\n{}", output.status, first.join("\n"));
    Ok((took, output))
}

/// Forgets every flow of the thread's network namespace: what `conntrack -F` does.
fn flush_conntrack() -> Result<()> {
    const NETLINK_NETFILTER: i32 = 12;
    /// NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE.
    const DELETE: u16 = 1 << 8 | 2;
    const FLAGS: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    // struct nlmsghdr: length, type, flags, sequence, port; struct nfgenmsg: any family, no attributes.
    let mut message = [0u8; 20];
    message[..4].copy_from_slice(&20u32.to_ne_bytes());
    message[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    message[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    let mut answer = [0u8; 256];
    // SAFETY: the buffers have the lengths that are given; the descriptor is closed here.
    let received = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_NETFILTER);
        ensure!(socket >= 0, "open a netlink socket: {}", io::Error::last_os_error());
        libc::send(socket, message.as_ptr().cast(), message.len(), 0);
        let received = libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0);
        libc::close(socket);
        received
    };
    ensure!(received >= 20, "the kernel does not answer about conntrack");
    // struct nlmsgerr begins with the error, negative.
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    ensure!(error == 0, "forget conntrack's flows: {}", io::Error::from_raw_os_error(-error));
    Ok(())
}

/// More flows than the machine lets conntrack have, for as long as the value lives. There is one limit for all
/// namespaces: the only thing of the machine that a bench changes.
#[derive(Debug)]
pub struct RoomForFlows(Option<String>);

impl RoomForFlows {
    const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

    /// Room for so many at least. Where conntrack is not there yet, it comes with the limit it comes with.
    ///
    /// # Errors
    /// The limit cannot be raised.
    pub fn of(flows: u64) -> Result<Self> {
        let Ok(limit) = fs::read_to_string(Self::LIMIT) else { return Ok(Self(None)) };
        if limit.trim().parse::<u64>().is_ok_and(|limit| limit >= flows) {
            return Ok(Self(None));
        }
        fs::write(Self::LIMIT, flows.to_string()).with_context(|| format!("write {}", Self::LIMIT))?;
        Ok(Self(Some(limit)))
    }
}

impl Drop for RoomForFlows {
    fn drop(&mut self) {
        if let Some(limit) = &self.0 {
            fs::write(Self::LIMIT, limit).ok();
        }
    }
}
