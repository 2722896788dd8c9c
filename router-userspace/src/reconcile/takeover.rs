//! What CloudStack's own router leaves in the kernel when XVR takes its place.
//!
//! | what | why it cannot stay |
//! |---|---|
//! | rules of routing policy, and the tables that they lead to | the programs ask the kernel for the way, and would be sent by marks and sources that nobody keeps any more |
//! | routes in the main table | XVR's own take their places one by one; others would outlive what asked for them |
//! | tables of iptables and nftables | they refuse what the router's own services are asked, and translate what it sends |
//!
//! (`CsAddress.py`, `CsRoute.py`, `CsNetfilter.py`.) Only what is called or numbered as CloudStack's router does it is
//! taken away. Looking changes nothing.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};

use super::netlink::{Netlink, place_of, table_of};
use super::nftables;
use crate::compile::Compiled;

/// Something of CloudStack's own router in the kernel.
#[derive(Clone, Debug)]
pub enum Leftover {
    /// A rule of routing policy.
    Rule(RuleMessage),
    /// A route.
    Route(RouteMessage),
    /// A table of nftables, which iptables are made of as well: family, name.
    Table(u8, String),
}

/// Numbers of its routing tables: `Table_ethN` are 100 and N, the others have names of their own.
pub fn is_its_table(number: u32) -> bool {
    matches!(number, 100..=199 | 251 | 252)
}

/// Names of its tables of nftables, by family.
const TABLES: &[(u8, &[&str])] = &[
    (IPV4, &["filter", "nat", "mangle", "raw", "ip4_firewall", "ip4_acl"]),
    (IPV6, &["filter", "nat", "mangle", "raw", "ip6_firewall", "ip6_acl"]),
];

// linux/netfilter.h
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// What is there. A router's ports are told by what was compiled for it.
pub async fn look(netlink: &Netlink, compiled: &Compiled) -> Result<Vec<Leftover>> {
    let ports: BTreeSet<u32> = compiled.links.keys().copied().collect();
    let mut found: Vec<Leftover> = netlink.foreign_rules().await?.into_iter().map(Leftover::Rule).collect();
    found.extend(netlink.foreign_routes(&ports).await?.into_iter().map(Leftover::Route));
    for (family, name) in nftables::tables().context("list the tables of nftables")? {
        let is_its = TABLES.iter().any(|(of, names)| *of == family && names.contains(&name.as_str()));
        if is_its {
            found.push(Leftover::Table(family, name));
        }
    }
    Ok(found)
}

/// XVR's routes take the places of those that lead where they do, without a moment in between: of two to one
/// destination the kernel takes the first alone. Gives those that were there.
pub async fn supersede(
    netlink: &Netlink,
    compiled: &Compiled,
    leftovers: &[Leftover],
) -> Result<Vec<RouteMessage>> {
    let mut given_way = Vec::new();
    for leftover in leftovers {
        let Leftover::Route(route) = leftover else { continue };
        let place = place_of(route);
        let own = compiled.routes.iter().find(|own| Some((own.destination, own.metric)) == place);
        if let Some(own) = own {
            netlink.replace_route(own).await.with_context(|| format!("take the place of the {leftover}"))?;
            given_way.push(route.clone());
        }
    }
    Ok(given_way)
}

/// Puts routes back.
pub async fn restore(netlink: &Netlink, routes: &[RouteMessage]) -> Result<()> {
    for route in routes {
        netlink.restore_foreign_route(route).await?;
    }
    Ok(())
}

/// Takes it away. What has gone by itself, as a route does with its table's rule, is no error.
pub async fn remove(netlink: &Netlink, leftovers: &[Leftover]) -> Result<()> {
    for leftover in leftovers {
        let removed = match leftover {
            Leftover::Rule(rule) => netlink.remove_foreign_rule(rule).await,
            Leftover::Route(route) => netlink.remove_foreign_route(route).await,
            Leftover::Table(family, name) => nftables::remove_table(&nftables::family(*family), name),
        };
        removed.with_context(|| format!("remove {leftover}"))?;
    }
    Ok(())
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => f.write_str(&rule_text(rule)),
            Self::Route(route) => f.write_str(&route_text(route)),
            Self::Table(family, name) => {
                write!(f, "table {} {name} of nftables", if *family == IPV4 { "ip" } else { "ip6" })
            }
        }
    }
}

fn rule_text(rule: &RuleMessage) -> String {
    let (mut text, mut table) = ("routing rule".to_owned(), u32::from(rule.header.table));
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Source(address) => text += &format!(" from {address}/{}", rule.header.src_len),
            RuleAttribute::FwMark(mark) => text += &format!(" of mark {mark:#x}"),
            RuleAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    format!("{text} to table {table}")
}

fn route_text(route: &RouteMessage) -> String {
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => address.to_string(),
        RouteAddress::Inet6(address) => address.to_string(),
        other => format!("{other:?}"),
    };
    let (mut destination, mut gateway) = ("default".to_owned(), String::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                destination = format!("{}/{}", address(to), route.header.destination_prefix_length);
            }
            RouteAttribute::Gateway(via) => gateway = format!(" via {}", address(via)),
            _ => {}
        }
    }
    format!("route to {destination}{gateway} in table {}", table_of(route))
}
