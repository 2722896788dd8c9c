//! People who call a router from outside: L2TP over IPsec by xl2tpd, pppd and strongSwan.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use router_userspace::reconcile::kernel::Kernel;

use crate::daemons::{Scratch, log, start};
use crate::lab::Host;
use crate::netns::{Process, run_bounded, wait_until};
use crate::vpn::Charon;

/// What a test with them needs, besides a kernel that can do it.
pub const PROGRAMS: [&str; 4] = ["charon-systemd", "swanctl", "xl2tpd", "pppd"];

/// The device that they are inside by.
pub const DEVICE: &str = "ppp0";

/// In an emulated machine that is long.
const TIME: Duration = Duration::from_secs(180);

/// Somebody's computer that has called.
#[derive(Debug)]
pub struct Person<'lab> {
    host: &'lab Host,
    charon: Option<Charon>,
    _xl2tpd: Process,
    scratch: Scratch,
}

impl<'lab> Person<'lab> {
    /// Calls a server, within IPsec and then as this user.
    pub fn call(host: &'lab Host, server: Ipv4Addr, user: &str, password: &str) -> Result<Self> {
        let charon = Charon::person(host, server)?;
        charon.call()?;
        Self::by_l2tp(host, Some(charon), server, user, password)
    }

    /// Calls it in clear, which no router answers.
    pub fn call_in_clear(host: &'lab Host, server: Ipv4Addr, user: &str, password: &str) -> Result<Self> {
        Self::by_l2tp(host, None, server, user, password)
    }

    fn by_l2tp(
        host: &'lab Host,
        charon: Option<Charon>,
        server: Ipv4Addr,
        user: &str,
        password: &str,
    ) -> Result<Self> {
        let scratch = Scratch::new(host)?;
        let options = format!(
            "user {user}\npassword \"{password}\"\nnoauth\nnoccp\nnoipv6\nmtu 1410\nmru 1410\nnodefaultroute\n\
             logfile {}\ndebug\n",
            scratch.file("pppd.log").display()
        );
        let options = scratch.write("options", &options)?;
        let configuration = format!(
            "[global]\nport = 1701\naccess control = no\n[lac vpn]\nlns = {server}\nautodial = yes\nredial = no\n\
             length bit = yes\npppoptfile = {}\n",
            options.display()
        );
        let configuration = scratch.write("xl2tpd.conf", &configuration)?;
        let mut xl2tpd = host.namespace.command("xl2tpd");
        xl2tpd.arg("-D").arg("-c").arg(configuration).arg("-p").arg(scratch.file("pid"));
        xl2tpd.arg("-C").arg(scratch.file("control")).arg("-s").arg(scratch.file("secrets"));
        let xl2tpd = start(&scratch, &mut xl2tpd)?;
        Ok(Self { host, charon, _xl2tpd: xl2tpd, scratch })
    }

    /// The address that it has got, once it is inside; then it goes there for these networks.
    pub fn inside(&self, networks: &[&str]) -> Result<Ipv4Addr> {
        wait_until("somebody is inside", TIME, || self.address().is_some()).with_context(|| self.said())?;
        for network in networks {
            self.host.namespace.ip(&format!("route replace {network} dev {DEVICE}\n"))?;
        }
        self.address().context("it was inside")
    }

    /// Its address inside, if it is there.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let mut ip = self.host.namespace.command("ip");
        let said = run_bounded(ip.args(["-br", "-4", "address", "show", "dev", DEVICE]), TIME).ok()?;
        // `ppp0 UNKNOWN 10.1.2.2 peer 10.1.2.1/32`
        said.stdout.split_whitespace().nth(2)?.split('/').next()?.parse().ok()
    }

    /// What its daemons have said.
    pub fn said(&self) -> String {
        let pppd = std::fs::read_to_string(self.scratch.file("pppd.log")).unwrap_or_default();
        let tunnels = self.charon.as_ref().map(|charon| charon.tunnels().unwrap_or_default());
        format!("{}\npppd: {pppd}\nIPsec: {tunnels:?}", log(&self.scratch))
    }
}

/// Whether this machine's kernel can do it. In the guest of `cargo xtask vm-test` it has to.
///
/// # Panics
/// There, if it cannot.
pub fn kernel_can() -> bool {
    let Some(lack) = Kernel::look().lack(false) else { return true };
    assert!(std::env::var_os("XVR_TEST_GUEST").is_none(), "{lack}");
    eprintln!("SKIPPED: {lack}");
    false
}
