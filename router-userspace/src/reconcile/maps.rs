//! The programs, their tables and where they are attached: what reconciling needs of the
//! dataplane.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use router_common::port::{Carrier, Port};

use crate::compile::nat::{NatEntry, NatKey};
use crate::compile::policy::ListEntry;
use crate::compile::{Attachment, Front, TableSet, Vxlan};
use crate::dataplane::{Attached, Dataplane};

/// The loaded programs. [`Dataplane`] is the kernel's; tests of the rest have others.
pub trait Programs {
    /// What the tables hold.
    fn observe_tables(&mut self) -> Result<TableSet>;
    /// Writes what is chosen for all ports.
    fn set_flags(&mut self, flags: u32) -> Result<()>;
    /// Writes a list of rules.
    fn add_list(&mut self, number: u32, list: &ListEntry) -> Result<()>;
    /// Takes in which lists of rules are to take the place of which, and what those that are there already say.
    fn recognise_lists(&mut self, there: &TableSet, wanted: &TableSet);
    /// Removes a list of rules; one that is not there is removed already.
    fn remove_list(&mut self, number: u32) -> Result<()>;
    /// Writes the list of a public address.
    fn set_firewall(&mut self, address: Ipv4Addr, list: u32) -> Result<()>;
    /// Removes the list of a public address; one that is not there is removed already.
    fn remove_firewall(&mut self, address: Ipv4Addr) -> Result<()>;
    /// Writes how many external ports a guest may have per protocol; 0 for as many as there are.
    fn set_ports_per_guest(&mut self, limit: u16) -> Result<()>;
    /// Writes a port by its interface.
    fn set_port(&mut self, ifindex: u32, port: &Port) -> Result<()>;
    /// Removes a port; one that is not there is removed already.
    fn remove_port(&mut self, ifindex: u32) -> Result<()>;
    /// Writes the tags of a port, by its own interface.
    fn set_tags(&mut self, ifindex: u32, carrier: &Carrier) -> Result<()>;
    /// Removes the tags of a port; those that are not there are removed already.
    fn remove_tags(&mut self, ifindex: u32) -> Result<()>;
    /// Writes the VXLAN network that a port is, by its own interface.
    fn set_tunnel(&mut self, ifindex: u32, vxlan: &Vxlan) -> Result<()>;
    /// Removes it; one that is not there is removed already.
    fn remove_tunnel(&mut self, ifindex: u32) -> Result<()>;
    /// Writes the ports of a bridge; none to remove it.
    fn set_bridge(&mut self, bridge: u32, members: &[u32]) -> Result<()>;
    /// Writes an address of the router.
    fn set_local(&mut self, address: IpAddr, ifindex: u32) -> Result<()>;
    /// Removes an address of the router; one that is not there is removed already.
    fn remove_local(&mut self, address: IpAddr) -> Result<()>;
    /// Writes an entry of the NAT tables.
    fn set_nat(&mut self, key: &NatKey, entry: &NatEntry) -> Result<()>;
    /// Removes an entry of the NAT tables; one that is not there is removed already.
    fn remove_nat(&mut self, key: &NatKey) -> Result<()>;
    /// Makes flows look up their way out again.
    fn bump_generation(&mut self) -> Result<()>;
    /// What is attached, by interface index.
    fn observe_attachments(&self) -> Result<BTreeMap<u32, Front>>;
    /// Attaches the programs, or replaces those that are there.
    fn attach(&mut self, ifindex: u32, attachment: &Attachment) -> Result<Attached>;
    /// Takes the programs off an interface.
    fn detach(&mut self, ifindex: u32) -> Result<()>;
    /// Attaches the programs of tagged ports' own interfaces, or replaces those that are there.
    fn attach_blocks(&mut self) -> Result<()>;
    /// How many ports there is room for, row 0 of the counters included.
    fn port_rows(&mut self) -> Result<u32>;
}

impl Programs for Dataplane {
    fn observe_tables(&mut self) -> Result<TableSet> {
        self.tables().observe()
    }

    fn set_flags(&mut self, flags: u32) -> Result<()> {
        self.tables().set_flags(flags)
    }

    fn add_list(&mut self, number: u32, list: &ListEntry) -> Result<()> {
        self.tables().add_list(number, list)
    }

    fn recognise_lists(&mut self, there: &TableSet, wanted: &TableSet) {
        self.tables().recognise_lists(there, wanted);
    }

    fn remove_list(&mut self, number: u32) -> Result<()> {
        self.tables().remove_list(number)
    }

    fn set_firewall(&mut self, address: Ipv4Addr, list: u32) -> Result<()> {
        self.tables().set_firewall(address, list)
    }

    fn remove_firewall(&mut self, address: Ipv4Addr) -> Result<()> {
        self.tables().remove_firewall(address)
    }

    fn set_ports_per_guest(&mut self, limit: u16) -> Result<()> {
        self.tables().set_ports_per_guest(limit)
    }

    fn set_port(&mut self, ifindex: u32, port: &Port) -> Result<()> {
        self.tables().set_port(ifindex, port)
    }

    fn remove_port(&mut self, ifindex: u32) -> Result<()> {
        self.tables().remove_port(ifindex)
    }

    fn set_tags(&mut self, ifindex: u32, carrier: &Carrier) -> Result<()> {
        self.tables().set_tags(ifindex, carrier)
    }

    fn remove_tags(&mut self, ifindex: u32) -> Result<()> {
        self.tables().remove_tags(ifindex)
    }

    fn set_tunnel(&mut self, ifindex: u32, vxlan: &Vxlan) -> Result<()> {
        self.tables().set_tunnel(ifindex, vxlan)
    }

    fn remove_tunnel(&mut self, ifindex: u32) -> Result<()> {
        self.tables().remove_tunnel(ifindex)
    }

    fn set_bridge(&mut self, bridge: u32, members: &[u32]) -> Result<()> {
        self.tables().set_bridge(bridge, members)
    }

    fn set_local(&mut self, address: IpAddr, ifindex: u32) -> Result<()> {
        self.tables().set_local(address, ifindex)
    }

    fn remove_local(&mut self, address: IpAddr) -> Result<()> {
        self.tables().remove_local(address)
    }

    fn set_nat(&mut self, key: &NatKey, entry: &NatEntry) -> Result<()> {
        self.tables().set_nat(key, entry)
    }

    fn remove_nat(&mut self, key: &NatKey) -> Result<()> {
        self.tables().remove_nat(key)
    }

    fn bump_generation(&mut self) -> Result<()> {
        self.tables().bump_generation()
    }

    fn observe_attachments(&self) -> Result<BTreeMap<u32, Front>> {
        Self::observe_attachments(self)
    }

    fn attach(&mut self, ifindex: u32, attachment: &Attachment) -> Result<Attached> {
        Self::attach(self, ifindex, attachment)
    }

    fn detach(&mut self, ifindex: u32) -> Result<()> {
        Self::detach(self, ifindex)
    }

    fn attach_blocks(&mut self) -> Result<()> {
        Self::attach_blocks(self)
    }

    fn port_rows(&mut self) -> Result<u32> {
        self.tables().port_rows()
    }
}
