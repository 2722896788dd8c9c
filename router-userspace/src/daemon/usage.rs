//! What has passed between the outside and the tiers: the programs' accounts, and what nftables has counted of the
//! router's own.

use std::net::IpAddr;

use anyhow::Result;
use router_common::net::Ipv4;
use router_common::port::{Port, Role};
use router_common::usage::AccountKey;

use super::control::Control;
use super::views::{self, count};
use crate::dataplane::AccountRecord;
use crate::model::Mac;
use crate::reconcile::own_tcp;
use crate::show::{AccountView, Count, PortUsageView, UsageView};

/// All of it.
pub fn view(control: &mut Control) -> Result<UsageView> {
    let records = control.reconciler.backend.programs.usage()?;
    let own = own_tcp::read()?;
    let mut ports = Vec::new();
    for (ifindex, port) in outside(control) {
        let own = own.get(&Mac(port.mac)).copied().unwrap_or(own_tcp::OwnTcp::NONE);
        let mut view = PortUsageView {
            port: views::names(control, ifindex).name,
            role: views::role(port.role).to_owned(),
            addresses: addresses(control, ifindex),
            told: port.role != Role::Public as u8 || port.source_nat != Ipv4::UNSPECIFIED,
            sent: Count::default(),
            received: Count::default(),
            own_tcp_sent: count(own.sent),
            own_tcp_received: count(own.received),
        };
        for record in records.iter().filter(|record| is_guests(record, &port, control)) {
            view.sent += count(record.sent);
            view.received += count(record.received);
        }
        ports.push(view);
    }
    let mut accounts: Vec<_> = records.iter().map(|record| account(control, record)).collect();
    ports.sort_by(|a, b| views::natural(&a.port).cmp(&views::natural(&b.port)));
    accounts.sort_by(|a, b| {
        let outside = |view: &AccountView| (view.outside.len(), view.outside.clone());
        let rest = |view: &AccountView| (view.address, view.family.clone(), view.inside.clone());
        outside(a).cmp(&outside(b)).then_with(|| rest(a).cmp(&rest(b)))
    });
    Ok(UsageView { ports, accounts })
}

/// Begins anew for the port that has an address, or for all.
pub fn zero(control: &mut Control, address: Option<IpAddr>) -> Result<()> {
    let is_wanted =
        |ifindex: u32| address.is_none_or(|address| addresses(control, ifindex).contains(&address));
    let macs: Vec<_> = outside(control)
        .into_iter()
        .filter(|(ifindex, _)| is_wanted(*ifindex))
        .map(|(_, port)| port.mac)
        .collect();
    let of_port = |record: &AccountRecord| record.key.is_some_and(|key| macs.contains(&key.outside));
    let programs = &mut control.reconciler.backend.programs;
    programs.zero_usage(|record| address.is_none() || of_port(record))?;
    let own = own_tcp::read()?;
    macs.iter().map(|mac| Mac(*mac)).filter(|mac| own.contains_key(mac)).try_for_each(own_tcp::zero)
}

/// Ports that lead outside.
fn outside(control: &Control) -> Vec<(u32, Port)> {
    let ports = control.compiled.tables.ports.iter();
    let is_outside = |role: u8| role == Role::Public as u8 || role == Role::PrivateGateway as u8;
    ports.filter(|(_, port)| is_outside(port.role)).map(|(ifindex, port)| (*ifindex, *port)).collect()
}

fn addresses(control: &Control, ifindex: u32) -> Vec<IpAddr> {
    let link = control.compiled.links.get(&ifindex);
    link.into_iter().flat_map(|link| &link.addresses).map(ipnet::IpNet::addr).collect()
}

/// Whether traffic of an account is what CloudStack counts for a port: of IPv4, and of guests.
fn is_guests(record: &AccountRecord, port: &Port, control: &Control) -> bool {
    let Some(AccountKey { outside, inside, version: 4, .. }) = record.key else { return false };
    let inner = control.compiled.tables.ports.values().find(|port| port.mac == inside);
    // A NIC that is gone was a guests', as most are.
    outside == port.mac && inner.is_none_or(|inner| inner.role == Role::Guest as u8)
}

fn account(control: &Control, record: &AccountRecord) -> AccountView {
    let (sent, received) = (count(record.sent), count(record.received));
    let Some(AccountKey { outside, inside, address, version, .. }) = record.key else {
        let nobody = || "-".to_owned();
        let (outside, family, inside) = (nobody(), "any".to_owned(), nobody());
        return AccountView { outside, address: None, family, inside, sent, received };
    };
    AccountView {
        outside: named(control, outside),
        address: (address != Ipv4::UNSPECIFIED).then(|| std::net::Ipv4Addr::from(address).into()),
        family: format!("ipv{version}"),
        inside: named(control, inside),
        sent,
        received,
    }
}

/// A port's name by its MAC address, or that of one that is gone.
fn named(control: &Control, mac: [u8; 6]) -> String {
    let ports = &control.compiled.tables.ports;
    let found = ports.iter().find(|(_, port)| port.mac == mac);
    found.map_or_else(|| Mac(mac).to_string(), |(ifindex, _)| views::names(control, *ifindex).name)
}
