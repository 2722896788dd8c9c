//! NAT rules as CloudStack sends them, and the two routers that can be told: XVR, and Linux with
//! nftables. A test that Linux fails is wrong; one that only XVR fails has found something.

use std::fmt::Write;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::clients;
use crate::lab::Lab;
use crate::needs;
use crate::router::{Router, VPC_COMMANDS, run_nft, start_linux_router};

/// The VPC's source NAT address.
pub const SOURCE_NAT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
/// A public address for port forwarding.
pub const FORWARDING: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 31);
/// A public address for static NAT.
pub const STATIC_NAT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 32);

/// What brings the two further addresses.
const FURTHER_ADDRESSES: [&str; 2] =
    ["cloudstack/ip_associations/vpc_add_extra_ip.json", "own/ip_associations/vpc_add_static_nat_ip.json"];

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Ports of a public address lead to ports of a guest.
    Forward {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The public address.
        public: Ipv4Addr,
        /// First and last port there.
        ports: (u16, u16),
        /// Whose.
        guest: Ipv4Addr,
        /// First and last port there.
        to: (u16, u16),
        /// From where, as CIDRs with commas; empty for anywhere.
        sources: &'static str,
    },
    /// A public address is a guest's.
    Static {
        /// The public address.
        public: Ipv4Addr,
        /// Whose.
        guest: Ipv4Addr,
    },
}

impl Rule {
    /// `protocol` of port `port` of [`FORWARDING`] leads to port `to` of `guest`.
    pub fn forward(protocol: &'static str, port: u16, guest: Ipv4Addr, to: u16) -> Self {
        Self::forward_range(protocol, (port, port), guest, (to, to))
    }

    /// The same for a range of ports.
    pub fn forward_range(protocol: &'static str, ports: (u16, u16), guest: Ipv4Addr, to: (u16, u16)) -> Self {
        Self::Forward { protocol, public: FORWARDING, ports, guest, to, sources: "" }
    }

    /// [`STATIC_NAT`] is `guest`'s.
    pub fn static_nat(guest: Ipv4Addr) -> Self {
        Self::Static { public: STATIC_NAT, guest }
    }

    /// The same rule for these sources alone.
    #[must_use]
    pub fn only_from(self, cidrs: &'static str) -> Self {
        match self {
            Self::Forward { protocol, public, ports, guest, to, .. } => {
                Self::Forward { protocol, public, ports, guest, to, sources: cidrs }
            }
            Self::Static { .. } => self,
        }
    }

    /// CloudStack's file name and its rule.
    fn cloudstack(&self, revoke: bool) -> (&'static str, &'static str, Value) {
        let range = |ports: &(u16, u16)| format!("{}:{}", ports.0, ports.1);
        match self {
            Self::Forward { protocol, public, ports, guest, to, sources } => {
                let rule = json!({
                    "revoke": revoke,
                    "protocol": protocol,
                    "source_ip_address": public,
                    "source_port_range": range(ports),
                    "destination_ip_address": guest,
                    "destination_port_range": range(to),
                    "source_cidr_list": sources,
                });
                ("forwarding_rules", "forwardrules", rule)
            }
            Self::Static { public, guest } => {
                let rule = json!({
                    "revoke": revoke,
                    "source_ip_address": public,
                    "source_port_range": "0:0",
                    "destination_ip_address": guest,
                });
                ("staticnat_rules", "staticnatrules", rule)
            }
        }
    }

    /// nftables' destination NAT.
    fn nft_inbound(&self) -> String {
        match self {
            Self::Forward { protocol, public, ports, guest, to, sources } => {
                let from =
                    if sources.is_empty() { String::new() } else { format!("ip saddr {{ {sources} }} ") };
                // A map: nftables maps a range to a range at random.
                let pairs: Vec<_> =
                    (ports.0..=ports.1).zip(to.0..).map(|(a, b)| format!("{a} : {b}")).collect();
                let map = format!("{protocol} dport map {{ {} }}", pairs.join(", "));
                let (first, last) = ports;
                format!("{from}ip daddr {public} {protocol} dport {first}-{last} dnat to {guest} : {map}\n")
            }
            Self::Static { public, guest } => format!("ip daddr {public} dnat to {guest}\n"),
        }
    }

    /// nftables' source NAT.
    fn nft_outbound(&self) -> String {
        match self {
            Self::Forward { .. } => String::new(),
            Self::Static { public, guest } => format!("oifname \"eth1\" ip saddr {guest} snat to {public}\n"),
        }
    }
}

/// A router of [`Lab::vpc`] with three public addresses that takes [`Rule`]s.
#[derive(Debug)]
pub enum NatRouter<'lab> {
    /// XVR.
    Xvr(Router<'lab>),
    /// Linux, with the rules that it has.
    Linux(&'lab Lab, Vec<Rule>),
}

impl<'lab> NatRouter<'lab> {
    /// Starts XVR; `attach` as `--attach` has it.
    pub fn xvr(lab: &'lab Lab, attach: &str) -> Result<Self> {
        let router = Router::start(lab, attach)?;
        router.apply(&VPC_COMMANDS)?;
        router.apply(&FURTHER_ADDRESSES)?;
        Ok(Self::Xvr(router))
    }

    /// Makes Linux the router.
    pub fn linux(lab: &'lab Lab) -> Result<Self> {
        start_linux_router(lab)?;
        lab.router.ip(&format!(
            "address add {FORWARDING}/24 dev eth1\n\
             address add {STATIC_NAT}/24 dev eth1\n"
        ))?;
        Ok(Self::Linux(lab, Vec::new()))
    }

    /// Adds rules.
    pub fn add(&mut self, rules: &[Rule]) -> Result<()> {
        self.change(rules, false)
    }

    /// Removes rules.
    pub fn revoke(&mut self, rules: &[Rule]) -> Result<()> {
        self.change(rules, true)
    }

    fn change(&mut self, changed: &[Rule], revoke: bool) -> Result<()> {
        match self {
            Self::Xvr(router) => changed.iter().try_for_each(|rule| tell(router, rule, revoke)),
            Self::Linux(lab, rules) => {
                rules.retain(|rule| !changed.contains(rule));
                if !revoke {
                    rules.extend_from_slice(changed);
                }
                run_nft(lab, &nft(rules))
            }
        }
    }
}

fn tell(router: &Router<'_>, rule: &Rule, revoke: bool) -> Result<()> {
    let (kind, word, rule) = rule.cloudstack(revoke);
    let message = json!({ "rules": [rule], "type": word, "delete_from_processed_cache": false });
    let output = router.update_config_with(kind, message.to_string().as_bytes())?.ok();
    output.with_context(|| format!("send {message}; the daemon's log:\n{}", router.log())).map(drop)
}

/// The whole NAT of the router that is Linux.
fn nft(rules: &[Rule]) -> String {
    let mut text = "table ip lab\ndelete table ip lab\ntable ip lab {\n\
                    chain inbound { type nat hook prerouting priority dstnat;\n"
        .to_owned();
    rules.iter().for_each(|rule| text += &rule.nft_inbound());
    text += "}\nchain outbound { type nat hook postrouting priority srcnat;\n";
    rules.iter().for_each(|rule| text += &rule.nft_outbound());
    // From inside to inside by a public address: the answers, too, have to come by here.
    let _ = write!(
        text,
        "oifname \"eth1\" ip saddr 10.10.0.0/16 masquerade\n\
         ip saddr 10.10.0.0/16 ct status dnat masquerade\n}}\n}}\n"
    );
    text
}

/// Which router a test wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Linux.
    Linux,
    /// XVR by its TC programs alone, with the kernel's default offloads.
    Tc,
    /// XVR by its XDP programs, with checksums finished and wires that take XDP frames: TC gets
    /// only what XDP cannot do.
    Xdp,
}

impl Kind {
    /// Starts it.
    pub fn start(self, lab: &Lab) -> Result<NatRouter<'_>> {
        match self {
            Self::Linux => NatRouter::linux(lab),
            Self::Tc | Self::Xdp => NatRouter::xvr(lab, self.prepare(lab)?),
        }
    }

    /// Makes a lab what XVR wants; how it is to be attached.
    pub fn prepare(self, lab: &Lab) -> Result<&'static str> {
        if self != Self::Xdp {
            return Ok("tc");
        }
        lab.finish_checksums()?;
        lab.accept_xdp_frames()?;
        Ok("xdp")
    }

    /// Runs a test in a lab with such a router, if this machine has the programs; afterwards no
    /// kernel may have seen a wrong checksum.
    pub fn run(
        self,
        programs: &[&str],
        test: impl FnOnce(&Lab, &mut NatRouter<'_>) -> Result<()>,
    ) -> Result<()> {
        if !needs::are_met(programs) {
            return Ok(());
        }
        let lab = Lab::vpc()?;
        let mut router = self.start(&lab)?;
        test(&lab, &mut router)?;
        let errors = clients::checksum_errors(&lab)?;
        ensure!(errors.is_empty(), "{errors:?}");
        Ok(())
    }
}

/// Makes a test of each function for each router. With Linux it proves lab, clients and itself.
#[macro_export]
macro_rules! for_every_router {
    ($($test:ident;)*) => {
        $crate::for_xvr! { $($test;)* }
        $crate::for_xvr! { mod linux Linux; $($test;)* }
    };
}

/// The same for what Linux does not do.
#[macro_export]
macro_rules! for_xvr {
    (mod $name:ident $kind:ident; $($test:ident;)*) => {
        mod $name {
            $(#[test] fn $test() -> anyhow::Result<()> { super::$test($crate::nat::Kind::$kind) })*
        }
    };
    ($($test:ident;)*) => {
        $crate::for_xvr! { mod tc Tc; $($test;)* }
        $crate::for_xvr! { mod xdp Xdp; $($test;)* }
    };
}

/// An error unless `what` fails: a way that has to be closed is.
pub fn is_closed<T>(what: &str, outcome: Result<T>) -> Result<()> {
    ensure!(outcome.is_err(), "{what} is open");
    Ok(())
}
