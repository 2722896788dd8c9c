//! What became of so many packets: every one that came in went somewhere, and that was counted.

use std::collections::BTreeMap;
use std::fmt;

use router_common::account::Hook;
use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};

/// Packets by hook and outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account(BTreeMap<(Hook, u32), u64>);

impl Account {
    /// So many more packets of an outcome.
    pub fn add(&mut self, hook: Hook, outcome: u32, packets: u64) {
        if packets != 0 {
            *self.0.entry((hook, outcome)).or_default() += packets;
        }
    }

    /// All of another one, too.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(&(hook, outcome), &packets)| self.add(hook, outcome, packets));
    }

    /// What has come since an earlier one of the same counters.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut new = Self::default();
        for (&(hook, outcome), &packets) in &self.0 {
            new.add(hook, outcome, packets - earlier.0.get(&(hook, outcome)).copied().unwrap_or(0));
        }
        new
    }

    /// How many packets a hook has received.
    pub fn received(&self, hook: Hook) -> u64 {
        self.sum(hook, |_| true)
    }

    /// How many of them it has forwarded.
    pub fn forwarded(&self, hook: Hook) -> u64 {
        self.sum(hook, |outcome| outcome == FORWARDED)
    }

    fn sum(&self, hook: Hook, is_one: impl Fn(u32) -> bool) -> u64 {
        self.0.iter().filter(|((by, outcome), _)| *by == hook && is_one(*outcome)).map(|(_, sum)| sum).sum()
    }

    /// The packets of XDP in front of TC, each with what became of it in the end.
    ///
    /// # Errors
    /// TC has not received what XDP has left to it.
    pub fn in_the_end(&self) -> Result<Self, String> {
        let is_deferred = |outcome| DeferReason::from_outcome(outcome).is_some();
        let (deferred, received) = (self.sum(Hook::Xdp, is_deferred), self.received(Hook::Tc));
        if deferred != received {
            return Err(format!("XDP left {deferred} packets to TC, which received {received}"));
        }
        let mut end = Self::default();
        for (&(hook, outcome), &packets) in &self.0 {
            if hook == Hook::Tc || !is_deferred(outcome) {
                end.add(Hook::Tc, outcome, packets);
            }
        }
        Ok(end)
    }

    /// Whether so many packets were received by a hook, none by another, and each of them was forwarded,
    /// punted, dropped or deferred for a reason that there is.
    ///
    /// # Errors
    /// They were not.
    pub fn balances(&self, hook: Hook, sent: u64) -> Result<(), String> {
        let known = |outcome| class(outcome).is_some();
        let (received, explained) = (self.received(hook), self.sum(hook, known));
        if (received, explained) == (sent, sent) && self.0.keys().all(|(by, _)| *by == hook) {
            return Ok(());
        }
        Err(format!("{sent} packets were sent, {received} counted, {explained} of them explained: {self}"))
    }
}

/// What an outcome is a kind of, and which.
fn class(outcome: u32) -> Option<(&'static str, &'static str)> {
    let drop = || Some(("dropped", DropReason::from_outcome(outcome)?.label()));
    let punt = || Some(("punted", PuntReason::from_outcome(outcome)?.label()));
    let defer = || Some(("deferred", DeferReason::from_outcome(outcome)?.label()));
    (outcome == FORWARDED).then_some(("forwarded", "")).or_else(drop).or_else(punt).or_else(defer)
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for hook in [Hook::Xdp, Hook::Tc].into_iter().filter(|hook| self.received(*hook) != 0) {
            write!(f, "{} received {} =", hook.label(), self.received(hook))?;
            for (number, kind) in ["forwarded", "punted", "dropped", "deferred"].into_iter().enumerate() {
                let is_one = |outcome| class(outcome).is_some_and(|(of, _)| of == kind);
                let plus = if number == 0 { "" } else { " +" };
                write!(f, "{plus} {} {kind}", self.sum(hook, is_one))?;
                let reasons = self.0.iter().filter(|((by, outcome), _)| *by == hook && is_one(*outcome));
                let reasons = reasons.filter_map(|((_, outcome), packets)| {
                    class(*outcome)
                        .filter(|_| *outcome != FORWARDED)
                        .map(|(_, why)| format!("{packets} {why}"))
                });
                let reasons = reasons.collect::<Vec<_>>().join(", ");
                if !reasons.is_empty() {
                    write!(f, " ({reasons})")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_has_to_be_what_was_sent() {
        let mut account = Account::default();
        account.add(Hook::Tc, FORWARDED, 3);
        account.add(Hook::Tc, DropReason::Martian.outcome(), 2);
        assert_eq!(account.balances(Hook::Tc, 5), Ok(()));
        assert_eq!(
            account.to_string(),
            "tc received 5 = 3 forwarded + 0 punted + 2 dropped (2 martian) + 0 deferred"
        );
        assert!(account.balances(Hook::Tc, 6).is_err(), "one is missing");
        assert!(account.balances(Hook::Xdp, 5).is_err(), "another hook");
        let mut later = account.clone();
        later.add(Hook::Xdp, FORWARDED, 1);
        assert!(later.balances(Hook::Tc, 5).is_err(), "by the other hook as well");
        assert_eq!(later.since(&account).received(Hook::Xdp), 1);
        // XDP has left one to TC, which received five.
        later.add(Hook::Xdp, DeferReason::Fragment.outcome(), 1);
        assert!(later.in_the_end().is_err());
        later.add(Hook::Xdp, DeferReason::Punted.outcome(), 4);
        assert_eq!(later.in_the_end().map(|end| end.received(Hook::Tc)), Ok(6));
        // An outcome without a name explains nothing.
        account.add(Hook::Tc, 63, 1);
        assert!(account.balances(Hook::Tc, 6).is_err());
    }
}
