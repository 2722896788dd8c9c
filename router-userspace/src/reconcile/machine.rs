//! The machine: every kind of state behind one [`Backend`].

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ipnet::IpNet;
use tracing::info;

use super::announce::Announcer;
use super::links::{self, UP};
use super::maps::Programs;
use super::netlink::Netlink;
use super::plan::{Change, Observed, ObservedAttachment, ObservedLink};
use super::vteps::Ways;
use super::{Backend, addresses, guard, nics, own_tcp, sysctl, trunks};
use crate::compile::policy::ListEntry;
use crate::compile::{Attachment, Compiled, Front, Inventory};
use crate::dataplane::Attached;
use crate::model::Mac;
use crate::model::trunk::TaggedPort;
use crate::parallel;

/// This machine's network namespace and the programs in it.
#[derive(Debug)]
pub struct Machine<P> {
    netlink: Netlink,
    announcer: Announcer,
    /// The programs.
    pub programs: P,
    /// What this process has attached, by interface index: what was asked for, and what came of
    /// it.
    attached: BTreeMap<u32, (Front, Attached)>,
    /// Ethernet addresses by interface index, of the last observation.
    macs: BTreeMap<u32, Mac>,
    /// The programs of tagged ports' own interfaces are this process's.
    has_blocks: bool,
    /// What the kernel has been asked to find.
    ways: Ways,
}

impl<P: Programs> Machine<P> {
    /// With programs that may be running already. Must be called within a tokio runtime.
    pub fn new(programs: P) -> Result<Self> {
        let (attached, macs) = (BTreeMap::new(), BTreeMap::new());
        let announcer = Announcer::open().context("open a packet socket")?;
        let ways = Ways::default();
        Ok(Self { netlink: Netlink::open()?, announcer, programs, attached, macs, has_blocks: false, ways })
    }

    /// The NICs there are, and what was learnt about them when programs were attached; with the interfaces of these
    /// tagged ports, which are made where they are missing, and without those of others, which are removed.
    ///
    /// # Errors
    /// The kernel does not tell, or refuses to make the interfaces of tagged ports.
    pub fn inventory(&mut self, tagged: &[TaggedPort]) -> Result<Inventory> {
        let trunks = trunks::set(tagged)?;
        if !trunks.carriers.is_empty() && (trunks.are_new || !self.has_blocks) {
            self.programs.attach_blocks().context("attach the programs of tagged ports")?;
            self.has_blocks = true;
        }
        let mut inventory = nics::inventory(&trunks.links, &trunks.carriers)?;
        inventory.port_rows = self.programs.port_rows()?;
        inventory.problems = trunks.problems;
        inventory.tunnels = trunks.tunnels;
        inventory.followed = trunks.followed;
        self.ways.keep(&inventory);
        for nic in &mut inventory.nics {
            // Where the kernel cannot say who takes XDP frames (before 6.3), a driver that did not
            // take the program takes no frames either.
            if let Some((asked, got)) = self.attached.get(&nic.ifindex)
                && *asked != Front::Nothing
                && got.front == Front::Nothing
            {
                nic.takes_xdp_frames.get_or_insert(false);
            }
        }
        Ok(inventory)
    }

    /// The tagged ports that an earlier daemon has left, as the programs know them.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn tagged_ports(&mut self) -> Result<Vec<TaggedPort>> {
        let tables = self.programs.observe_tables()?;
        trunks::known(&tables)
    }

    /// What came of attaching programs to an interface, by this process.
    pub fn attached(&self, ifindex: u32) -> Option<&Attached> {
        self.attached.get(&ifindex).map(|(_, attached)| attached)
    }

    /// The connection to the kernel's routing subsystem.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    fn attachments(&self) -> Result<BTreeMap<u32, ObservedAttachment>> {
        let fronts = self.programs.observe_attachments().context("look at attached programs")?;
        let asked = |ifindex| self.attached.get(&ifindex).map(|(asked, _)| *asked);
        Ok(fronts
            .into_iter()
            .map(|(ifindex, front)| (ifindex, ObservedAttachment { front, asked: asked(ifindex) }))
            .collect())
    }

    fn attach(&mut self, ifindex: u32, name: &str, wanted: &Attachment) -> Result<()> {
        let attached = self.programs.attach(ifindex, wanted)?;
        info!("{name}: {} ({})", attached.front, attached.reason);
        self.attached.insert(ifindex, (wanted.front, attached));
        Ok(())
    }

    /// Adds addresses, and writes lists meanwhile, which nothing is judged by before ports are switched to them: all up to
    /// the first that is refused, and addresses first. How many.
    fn add(&mut self, addresses: &[(u32, IpNet)], lists: &[(u32, &ListEntry)]) -> (usize, Result<()>) {
        let programs = &mut self.programs;
        let (added, written) = parallel::both(
            || addresses::add(addresses),
            || up_to_refused(lists.iter().map(|(number, list)| programs.add_list(*number, list))),
        );
        let results = added.map(|results| results.into_iter().map(|result| result.map_err(Into::into)));
        let (added, refused) = results.map_or_else(|error| (0, Err(error)), up_to_refused);
        let mac = |(ifindex, own): &(u32, IpNet)| Some((*ifindex, *self.macs.get(ifindex)?, own.addr()));
        self.announcer.announce(addresses.iter().take(added).filter_map(mac).collect());
        match (refused, written) {
            (Ok(()), (written, result)) => (added + written, result),
            (refused, _) => (added, refused),
        }
    }
}

/// How many succeed before one does not, and why that does not.
fn up_to_refused(results: impl IntoIterator<Item = Result<()>>) -> (usize, Result<()>) {
    let mut succeeded = 0;
    for result in results {
        if result.is_err() {
            return (succeeded, result);
        }
        succeeded += 1;
    }
    (succeeded, Ok(()))
}

/// What the kernel holds besides programs, tables and routes; and Ethernet addresses by interface index.
fn observe_network(desired: &Compiled) -> Result<(Observed, BTreeMap<u32, Mac>)> {
    let links = links::list()?;
    let mut observed = Observed {
        guarded: guard::observe()?.is_some(),
        sysctls: sysctl::observe(&desired.sysctls, &links)?,
        own_tcp: own_tcp::observe()?,
        ..Observed::default()
    };
    let macs = links.iter().filter_map(|link| Some((link.index, link.mac?))).collect();
    let mut addresses = addresses::list()?;
    for link in links {
        let (ifindex, mtu, up) = (link.index, link.mtu, link.is(UP));
        observed.names.insert(ifindex, link.name);
        let addresses = addresses.remove(&ifindex).unwrap_or_default();
        observed.links.insert(ifindex, ObservedLink { mtu, up, addresses });
    }
    Ok((observed, macs))
}

impl<P: Programs> Backend for Machine<P> {
    async fn observe(&mut self, desired: &Compiled) -> Result<Observed> {
        // Where there are thousands of ports, one half takes as long as the other.
        let (network, tables) = parallel::both(
            || observe_network(desired),
            || self.programs.observe_tables().context("read the programs' tables"),
        );
        let (mut observed, macs) = network?;
        self.macs = macs;
        observed.tables = tables?;
        observed.attachments = self.attachments()?;
        observed.routes = self.netlink.routes().await?;
        self.programs.recognise_lists(&observed.tables, &desired.tables);
        self.attached.retain(|ifindex, _| observed.links.contains_key(ifindex));
        Ok(observed)
    }

    async fn apply_first(&mut self, changes: &[Change]) -> (usize, Result<()>) {
        let address = |change: &Change| match change {
            Change::AddAddress(nic, address) => Some((nic.ifindex, *address)),
            _ => None,
        };
        fn list(change: &Change) -> Option<(u32, &ListEntry)> {
            match change {
                Change::AddList(number, list) => Some((*number, list)),
                _ => None,
            }
        }
        let addresses: Vec<_> = changes.iter().map_while(address).collect();
        let lists: Vec<_> = changes[addresses.len()..].iter().map_while(list).collect();
        match changes.first() {
            None => (0, Ok(())),
            Some(_) if !addresses.is_empty() => self.add(&addresses, &lists),
            Some(first) => {
                let applied = self.apply(first).await;
                (usize::from(applied.is_ok()), applied)
            }
        }
    }

    async fn apply(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Guard => guard::set(),
            Change::Sysctl { path, to, .. } => Ok(sysctl::set(path, to)?),
            Change::CountOwnTcp(nics) => {
                own_tcp::set(&nics.iter().map(|(nic, mac)| (nic.ifindex, *mac)).collect())
            }
            Change::Mtu(nic, mtu) => self.netlink.set_mtu(nic.ifindex, *mtu).await,
            Change::Up(nic) => self.netlink.set_up(nic.ifindex).await,
            Change::Down(nic) => self.netlink.set_down(nic.ifindex).await,
            Change::AddAddress(nic, address) => self.add(&[(nic.ifindex, *address)], &[]).1,
            Change::RemoveAddress(nic, address) => self.netlink.remove_address(nic.ifindex, *address).await,
            Change::SetFlags(flags) => self.programs.set_flags(*flags),
            Change::AddList(number, list) => self.programs.add_list(*number, list),
            Change::RemoveList(number) => self.programs.remove_list(*number),
            Change::SetFirewall(address, list) => self.programs.set_firewall(*address, *list),
            Change::RemoveFirewall(address) => self.programs.remove_firewall(*address),
            Change::SetPortsPerGuest(limit) => self.programs.set_ports_per_guest(*limit),
            Change::SetPort(nic, port) => self.programs.set_port(nic.ifindex, port),
            Change::RemovePort(nic) => self.programs.remove_port(nic.ifindex),
            Change::SetTags(nic, carrier) => self.programs.set_tags(nic.ifindex, carrier),
            Change::RemoveTags(nic) => self.programs.remove_tags(nic.ifindex),
            Change::SetTunnel(nic, vxlan) => self.programs.set_tunnel(nic.ifindex, vxlan),
            Change::RemoveTunnel(nic) => self.programs.remove_tunnel(nic.ifindex),
            Change::SetBridge(bridge, members) => {
                let members: Vec<u32> = members.iter().map(|member| member.ifindex).collect();
                self.programs.set_bridge(*bridge, &members)
            }
            Change::SetLocal(nic, address) => self.programs.set_local(*address, nic.ifindex),
            Change::RemoveLocal(address) => self.programs.remove_local(*address),
            Change::SetNat(key, entry) => self.programs.set_nat(key, entry),
            Change::RemoveNat(key) => self.programs.remove_nat(key),
            Change::Attach(nic, attachment) => self.attach(nic.ifindex, &nic.name, attachment),
            Change::Detach(nic) => {
                self.attached.remove(&nic.ifindex);
                self.programs.detach(nic.ifindex)
            }
            Change::AddRoute(_, route) => self.netlink.add_route(route).await,
            Change::ReplaceRoute(_, route) => self.netlink.replace_route(route).await,
            Change::RemoveRoute(_, route) => self.netlink.remove_route(route).await,
            Change::BumpGeneration => self.programs.bump_generation(),
        }
    }
}
