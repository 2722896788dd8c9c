//! What the router is to its network: the one that serves, the other one of a pair, or neither.

use super::control::Control;
use crate::cloudstack::{self, Boot};
use crate::model::redundancy::RouterRole;
use crate::model::{Port, port::Role};

/// What the router is now.
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
    of(boot, has_guests, control.trouble.is_none())
}

/// Nobody elects one of a pair yet, so neither of them may say that it serves.
fn of(boot: Boot, has_guests: bool, is_as_it_should_be: bool) -> RouterRole {
    match boot {
        Boot { is_vpc: true, .. } if !has_guests => RouterRole::Unknown,
        Boot { is_redundant: true, .. } => RouterRole::Fault,
        _ if is_as_it_should_be => RouterRole::Primary,
        _ => RouterRole::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_of_a_pair_never_says_that_it_serves() {
        let boot = |is_vpc, is_redundant| Boot { is_vpc, is_redundant };
        assert_eq!(of(boot(false, false), true, true), RouterRole::Primary);
        assert_eq!(of(boot(false, false), true, false), RouterRole::Fault);
        assert_eq!(of(boot(true, false), true, true), RouterRole::Primary);
        assert_eq!(of(boot(true, false), false, true), RouterRole::Unknown);
        assert_eq!(of(boot(true, true), false, true), RouterRole::Unknown);
        assert_eq!(of(boot(true, true), true, true), RouterRole::Fault);
        assert_eq!(of(boot(false, true), true, true), RouterRole::Fault);
    }
}
