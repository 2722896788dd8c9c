//! What the router is to its network: the one that serves, the other one of a pair, or neither.
//!
//! ```text
//!             keepalived runs     its NIC is on     a shared address is there
//! FAULT       no
//! FAULT       yes                 no
//! BACKUP      yes                 yes               no
//! PRIMARY     yes                 yes               yes
//! ```
//!
//! keepalived decides, and says so by giving NICs the shared addresses and taking them away, of which the kernel
//! tells us. So there is nothing to remember and nothing to miss: a daemon that starts sees the same. What a
//! keepalived leaves behind that was killed counts for nothing, and is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::control::Control;
use crate::cloudstack::{self, Boot};
use crate::compile::{names, shared_nics};
use crate::model::{Port, RouterRole, port::Role};
use crate::reconcile::addresses;
use crate::reconcile::links::{self, RUNNING, UP};
use crate::root::Root;
use crate::services::keepalived;

/// What the management server is told.
pub fn role(control: &Control) -> RouterRole {
    let memory = &control.memory;
    let Ok(desired) = memory.known() else { return RouterRole::Fault };
    let boot = match cloudstack::boot(&memory.bags) {
        Ok(Some(boot)) => boot,
        Ok(None) => return RouterRole::Unknown,
        Err(_) => return RouterRole::Fault,
    };
    let plugged = |port: &Port| control.compiled.names.values().any(|name| *name == port.name);
    let has_guests = desired.ports.iter().any(|port| port.role == Role::Guest && plugged(port));
    let role = if boot.is_redundant { control.role } else { RouterRole::Primary };
    told(boot, has_guests, role, control.trouble.is_none())
}

/// Who serves and is not as it should be does not serve well.
fn told(boot: Boot, has_guests: bool, role: RouterRole, is_as_it_should_be: bool) -> RouterRole {
    match role {
        _ if boot.is_vpc && !has_guests => RouterRole::Unknown,
        RouterRole::Primary if !is_as_it_should_be => RouterRole::Fault,
        role => role,
    }
}

/// What keepalived has made of the router, by what is there. Of a router without a twin that is not known: should it
/// become one of a pair it does not serve before it was elected.
pub fn look(control: &Control) -> Result<RouterRole> {
    let desired = control.memory.known()?;
    let Some(pair) = &desired.pair else { return Ok(RouterRole::Unknown) };
    let names = names(&desired.ports, &control.inventory);
    let shared = shared_nics(pair, &names, &control.inventory);
    let Some((_, first)) = shared.first() else { return Ok(RouterRole::Fault) };
    if !control.supervisor.runs(keepalived::NAME) {
        return Ok(RouterRole::Fault);
    }
    let links = links::list()?;
    let on: BTreeSet<u32> =
        links.iter().filter(|link| link.is(UP | RUNNING)).map(|link| link.index).collect();
    let wanted: Vec<(u32, IpNet)> =
        shared.iter().map(|(shared, nic)| (nic.ifindex, shared.address)).collect();
    Ok(of(on.contains(&first.ifindex), &wanted, &addresses::list()?))
}

/// Of a router whose keepalived runs.
fn of(is_on: bool, shared: &[(u32, IpNet)], there: &BTreeMap<u32, Vec<IpNet>>) -> RouterRole {
    let is_there =
        |(ifindex, address): &(u32, IpNet)| there.get(ifindex).is_some_and(|own| own.contains(address));
    match is_on {
        false => RouterRole::Fault,
        // Any: while tiers come and go, it does not have all of them.
        true if shared.iter().any(is_there) => RouterRole::Primary,
        true => RouterRole::Backup,
    }
}

/// From now on keepalived runs, or does not: CloudStack stops it on the backup while a tier is set up. That is
/// kept until the machine is switched off.
///
/// # Errors
/// It could not be kept.
pub fn take_part(control: &mut Control, does: bool) -> Result<()> {
    let path = stop_mark(control.root());
    let done = match does {
        true => match fs::remove_file(&path) {
            // It does already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => done,
        },
        false => fs::write(&path, ""),
    };
    done.with_context(|| format!("note in {} whether keepalived is stopped", path.display()))?;
    control.serve();
    Ok(())
}

/// Whether keepalived was stopped.
pub fn is_stopped(root: &Root) -> bool {
    stop_mark(root).exists()
}

fn stop_mark(root: &Root) -> PathBuf {
    root.run().join("keepalived.stopped")
}

#[cfg(test)]
mod tests {
    use super::*;
    use RouterRole::{Backup, Fault, Primary, Unknown};

    #[test]
    fn who_has_a_shared_address_is_primary() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let shared = [(2, net("10.1.1.1/24")), (3, net("10.1.2.1/24"))];
        let own = |ifindex| (ifindex, vec![net("10.1.1.92/24")]);
        let there = |more: Option<(u32, &str)>| {
            let mut there = BTreeMap::from([own(2), own(3)]);
            more.into_iter().for_each(|(ifindex, text)| there.entry(ifindex).or_default().push(net(text)));
            there
        };
        assert_eq!(of(true, &shared, &there(None)), Backup);
        assert_eq!(of(true, &shared, &there(Some((2, "10.1.1.1/24")))), Primary);
        assert_eq!(of(true, &shared, &there(Some((3, "10.1.2.1/24")))), Primary);
        assert_eq!(of(true, &shared, &there(Some((3, "10.1.1.1/24")))), Backup, "on another NIC");
        assert_eq!(of(false, &shared, &there(Some((2, "10.1.1.1/24")))), Fault, "without a carrier");
    }

    #[test]
    fn a_router_that_serves_has_to_be_as_it_should_be_and_a_vpcs_to_have_a_tier() {
        let boot = |is_vpc| Boot { is_vpc, is_redundant: true };
        for (role, expected) in [(Primary, Primary), (Backup, Backup), (Fault, Fault)] {
            assert_eq!(told(boot(false), true, role, true), expected);
            assert_eq!(told(boot(true), true, role, true), expected);
            assert_eq!(told(boot(true), false, role, true), Unknown);
        }
        assert_eq!(told(boot(true), true, Primary, false), Fault);
        assert_eq!(told(boot(true), true, Backup, false), Backup);
        assert_eq!(told(boot(false), false, Primary, true), Primary);
    }
}
