//! What stands between generator and sink: nothing, the least that a router could do, XVR, Linux.

use std::sync::LazyLock;

use anyhow::{Context, Result};
use router_common::account::COUNTER_SLOTS;
use router_common::net::Ipv4;
use router_common::port::{Carrier, Port, Role};
use router_tests::kernel::end_flows;
use router_userspace::compile::attach::Front;
use router_userspace::compile::policy::ListEntry;
use router_userspace::compile::{Attachment, TableSet, nat};
use router_userspace::dataplane::{Dataplane, MAX_BINDINGS, Options, Room, Tables, mount_bpffs};
use router_userspace::model::nat::{ForwardProtocol, Nat, PortForward, PortRange, StaticNat};

use super::rows::{FORWARDED, Listed, PORTS, PUBLIC, SERVING_GUEST, STATIC, STATIC_GUEST};
use crate::lab::{Lab, Router, inside, pin_dir};
use crate::linux::{self, Program};
use crate::wire::Wire;
use crate::xvr;

/// Room for flow entries.
const MAX_FLOWS: u32 = 1 << 16;
/// Counters' rows of its two ports, and of frames without one.
const SLOTS: u32 = 3;
/// The one list that there is at a time.
const LIST: u32 = 1;

/// What a packet goes through.
#[derive(Clone, Copy)]
pub enum Between {
    /// One veth, from generator to sink.
    Nothing,
    /// A program that writes Ethernet addresses and sends on.
    Redirect,
    /// XVR.
    Xvr {
        /// Where its program is.
        hook: Hook,
        /// What is on the other side of the guests.
        outside: Outside,
        /// By what guests' flows are judged.
        list: Option<&'static LazyLock<Listed>>,
        /// How frames are on its sides: the guests', the other one.
        wires: [Wire; 2],
    },
    /// Linux, with rules for one of its own programs.
    Linux(Rules),
}

/// What Linux is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// To know flows.
    Conntrack,
    /// Source NAT, by iptables-legacy.
    SourceNat,
    /// Source NAT, by nft, and that known flows leave the stack by its short way.
    Flowtable,
}

impl Rules {
    /// The program that takes them, and they themselves.
    fn text(self) -> (Program, String) {
        match self {
            Self::Conntrack => (
                Program::Legacy,
                "*filter\n:FORWARD ACCEPT [0:0]\n\
                 -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"
                    .to_owned(),
            ),
            Self::SourceNat => (
                Program::Legacy,
                format!(
                    "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o out -j SNAT --to-source {PUBLIC}\nCOMMIT\n\
                     *filter\n:FORWARD ACCEPT [0:0]\n\
                     -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"
                ),
            ),
            Self::Flowtable => (
                Program::Nft,
                format!(
                    "table ip bench {{\n\
                     flowtable known {{ hook ingress priority filter\ndevices = {{ in, out }}\n}}\n\
                     chain postrouting {{ type nat hook postrouting priority srcnat; policy accept\n\
                     oifname \"out\" snat to {PUBLIC}\n}}\n\
                     chain forward {{ type filter hook forward priority filter; policy accept\n\
                     meta l4proto {{ tcp, udp }} flow add @known\n}}\n}}\n"
                ),
            ),
        }
    }
}

/// Where XVR's program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// In the driver.
    Xdp,
    /// In TC alone.
    Tc,
}

/// What is on the other side of the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// The provider's network, behind source NAT.
    Public,
    /// Another tier.
    Tier,
    /// Another tier of thousands.
    ManyTiers,
    /// The same network, on a bridge.
    Bridge,
}

impl Between {
    /// XVR without a list and without tags.
    pub const fn xvr(hook: Hook, outside: Outside) -> Self {
        Self::Xvr { hook, outside, list: None, wires: [Wire::Plain; 2] }
    }

    /// XVR between two tiers.
    pub const fn tiers(wires: [Wire; 2]) -> Self {
        Self::Xvr { hook: Hook::Xdp, outside: Outside::Tier, list: None, wires }
    }

    /// XVR between two tiers of thousands on one trunk.
    pub const fn many_tiers(wires: [Wire; 2]) -> Self {
        Self::Xvr { hook: Hook::Xdp, outside: Outside::ManyTiers, list: None, wires }
    }

    /// XVR as a bridge.
    pub const fn bridged(wires: [Wire; 2]) -> Self {
        Self::Xvr { hook: Hook::Xdp, outside: Outside::Bridge, list: None, wires }
    }

    /// Frames are for the other end, and not for the router.
    pub const fn is_bridge(&self) -> bool {
        matches!(self, Self::Xvr { outside: Outside::Bridge, .. })
    }

    /// How frames are on a side.
    pub const fn wire(&self, side: usize) -> Wire {
        match self {
            Self::Xvr { wires, .. } => wires[side],
            _ => Wire::Plain,
        }
    }
}

/// The routers, each made when it is first needed.
#[derive(Default)]
pub struct Routers {
    redirect: Option<Router>,
    xdp: Option<Xvr>,
    tc: Option<Xvr>,
    linux: Vec<(Rules, Router)>,
}

impl Routers {
    /// Makes one ready.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn prepare(&mut self, lab: &mut Lab, between: &Between) -> Result<()> {
        match between {
            Between::Nothing => Ok(()),
            Between::Redirect => {
                if self.redirect.is_none() {
                    let router = lab.router()?;
                    lab.send_on(&router)?;
                    self.redirect = Some(router);
                }
                Ok(())
            }
            Between::Linux(rules) => {
                if self.linux.iter().all(|(made, _)| made != rules) {
                    self.linux.push((*rules, linux(lab, *rules)?));
                }
                Ok(())
            }
            Between::Xvr { hook, outside, list, .. } => {
                let place = match hook {
                    Hook::Xdp => &mut self.xdp,
                    Hook::Tc => &mut self.tc,
                };
                let xvr = match place {
                    Some(xvr) => xvr,
                    None => place.insert(Xvr::new(lab, *hook)?),
                };
                xvr.prepare(*outside, list.map(|list| &**list))?;
                xvr.wire([0, 1].map(|side| between.wire(side)))
            }
        }
    }

    /// Where it is.
    ///
    /// # Errors
    /// It was not made ready.
    pub fn of(&self, between: &Between) -> Result<Option<&Router>> {
        let router = match between {
            Between::Nothing => return Ok(None),
            Between::Redirect => self.redirect.as_ref(),
            Between::Linux(rules) => {
                self.linux.iter().find(|(made, _)| made == rules).map(|(_, router)| router)
            }
            Between::Xvr { hook: Hook::Xdp, .. } => self.xdp.as_ref().map(|xvr| &xvr.router),
            Between::Xvr { hook: Hook::Tc, .. } => self.tc.as_ref().map(|xvr| &xvr.router),
        };
        router.map(Some).context("the router is not there yet")
    }

    /// What XVR has counted since it began, for whoever wonders where a packet went.
    pub fn account(&self) -> String {
        let counters = self.xdp.iter().chain(&self.tc).flat_map(|xvr| xvr.dataplane.counters(SLOTS));
        let rows = counters.flatten().filter(|row| row.traffic.packets != 0);
        let rows = rows.map(|row| format!("{:?} {:?} {}", row.hook, row.outcome, row.traffic.packets));
        rows.collect::<Vec<_>>().join(", ")
    }

    /// Forgets every flow of XVR's. Linux' routers are of one row each.
    ///
    /// # Errors
    /// Some are left.
    pub fn forget_flows(&mut self) -> Result<()> {
        let mut routers = self.xdp.iter_mut().chain(&mut self.tc);
        routers.try_for_each(|xvr| end_flows(&mut xvr.dataplane))
    }
}

/// Linux. In its favour checksums are not looked at, as where a NIC has done that.
fn linux(lab: &mut Lab, rules: Rules) -> Result<Router> {
    let router = lab.router()?;
    lab.take_xdp_frames(&router)?;
    let (program, text) = rules.text();
    linux::load(&router.namespace, program, &lab.file(&router), &text)?;
    router.namespace.sysctl("net/netfilter/nf_conntrack_checksum", "0")?;
    Ok(router)
}

/// XVR: its programs, its tables filled directly, no daemon.
struct Xvr {
    router: Router,
    dataplane: Dataplane,
    has_list: bool,
    has_crowd: bool,
}

impl Xvr {
    fn new(lab: &mut Lab, hook: Hook) -> Result<Self> {
        mount_bpffs()?;
        let router = lab.router()?;
        let (front, folder) = match hook {
            Hook::Xdp => (Front::NativeXdp, "xdp"),
            Hook::Tc => (Front::Nothing, "tc"),
        };
        // One of its own: interfaces of two namespaces may have the same index.
        let pin_dir = pin_dir().join(folder);
        let mut dataplane = Dataplane::open(&Options {
            pin_dir,
            room: Room { flows: MAX_FLOWS, bindings: MAX_BINDINGS },
            max_ports: COUNTER_SLOTS + CROWD,
        })?;
        let attachment = Attachment { front, reason: "it is measured".to_owned(), may_fall_back: false };
        inside(&router.namespace, || {
            router.ifindexes.iter().try_for_each(|ifindex| dataplane.attach(*ifindex, &attachment).map(drop))
        })??;
        if hook == Hook::Tc {
            lab.take_xdp_frames(&router)?;
        }
        let mut wanted = TableSet::default();
        for address in [PUBLIC, STATIC, FORWARDED] {
            wanted.local4.insert(address.parse()?, router.ifindexes[1]);
        }
        nat::tables(&translations()?, &mut wanted);
        let tables = dataplane.tables();
        for (address, ifindex) in &wanted.local4 {
            tables.set_local((*address).into(), *ifindex)?;
        }
        for (key, entry) in &wanted.nat {
            tables.set_nat(key, entry)?;
        }
        Ok(Self { router, dataplane, has_list: false, has_crowd: false })
    }

    fn prepare(&mut self, outside: Outside, list: Option<&Listed>) -> Result<()> {
        let tables = self.dataplane.tables();
        let [inner, outer] = self.router.ifindexes;
        let (near, far, bridge) = match outside {
            Outside::Public => (Role::Guest, Role::Public, 0),
            Outside::Tier | Outside::ManyTiers => (Role::Guest, Role::Guest, 0),
            Outside::Bridge => (Role::Bridged, Role::Bridged, inner),
        };
        let guests = Port { bridge, ..port(&self.router, 0, near)? };
        let other = Port { bridge, ..port(&self.router, 1, far)? };
        if self.has_crowd != (outside == Outside::ManyTiers) {
            self.has_crowd = !self.has_crowd;
            (0..CROWD).try_for_each(|number| crowd(tables, number, inner, &guests, self.has_crowd))?;
        }
        let members = [inner, outer];
        tables.set_bridge(inner, if bridge == 0 { &[] } else { &members })?;
        tables.set_port(inner, &guests)?;
        tables.set_port(outer, &other)?;
        if std::mem::take(&mut self.has_list) {
            tables.remove_list(LIST)?;
        }
        if let Some(listed) = list {
            tables.add_list(LIST, &ListEntry::of(&listed.list))?;
            self.has_list = true;
            tables.set_port(inner, &Port { from_list: LIST, ..guests })?;
        }
        Ok(())
    }
}

/// Ports that no packet of these comes by, each a VLAN of the first one's NIC.
const CROWD: u32 = 4_000;

/// Adds one of them, or takes it away. Nothing but its entries is there.
fn crowd(tables: &mut Tables, number: u32, trunk: u32, like: &Port, is_there: bool) -> Result<()> {
    // Behind those that the router has, and those of the rows' own tags.
    let (ifindex, vlan) = (1_000 + number, u16::try_from(94 + number)?);
    if !is_there {
        tables.remove_tags(ifindex)?;
        return tables.remove_port(ifindex);
    }
    let (flags, priority) = (like.flags | Port::TAGGED, Carrier::KEEP_PRIORITY);
    tables.set_port(ifindex, &Port { flags, ..*like })?;
    // One inside another, so that none is the rows' own.
    let tags =
        Carrier { trunk, outer_protocol: 0x88a8, outer: vlan, inner_protocol: 0x8100, inner: 1, priority };
    tables.set_tags(ifindex, &tags)
}

impl Xvr {
    fn wire(&mut self, wires: [Wire; 2]) -> Result<()> {
        let tables = self.dataplane.tables();
        let sides = (0..).zip(wires).zip(self.router.ifindexes);
        sides.into_iter().try_for_each(|((side, wire), ifindex)| wire.set(tables, ifindex, side))
    }
}

impl Drop for Xvr {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.dataplane.pin_dir()).ok();
        // The folder above, once it is empty.
        std::fs::remove_dir(pin_dir()).ok();
    }
}

fn translations() -> Result<Nat> {
    let range = |port| PortRange::new(port, port).ok();
    Ok(Nat {
        static_nats: vec![StaticNat { public: STATIC.parse()?, internal: STATIC_GUEST.parse()? }],
        forwards: vec![PortForward {
            public: FORWARDED.parse()?,
            protocol: ForwardProtocol::Tcp,
            public_ports: range(PORTS.0),
            internal: SERVING_GUEST.parse()?,
            internal_ports: range(PORTS.1),
            sources: vec![],
        }],
    })
}

fn port(router: &Router, side: usize, role: Role) -> Result<Port> {
    let public: Ipv4 = match role {
        Role::Public => PUBLIC.parse::<std::net::Ipv4Addr>()?.into(),
        _ => Ipv4::UNSPECIFIED,
    };
    Ok(Port { source_nat: public, address: public, ..xvr::port(router, side, role) })
}
