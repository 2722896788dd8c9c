//! Limits: how often something may happen within a while.

use router_common::limit::Tally;

/// So many times within so long.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// How many times.
    pub times: u32,
    /// Within how long, in nanoseconds.
    pub within: u64,
}

impl Limit {
    /// Counts one more; whether it is still within the limit. `now` is the caller's clock.
    #[inline(always)]
    pub const fn allows(self, tally: &mut Tally, now: u64) -> bool {
        if now.wrapping_sub(tally.since) > self.within {
            (tally.since, tally.count) = (now, 0);
        }
        tally.count += 1;
        tally.count <= self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fragment, icmp};

    fn allowed(limit: Limit) -> usize {
        let mut tally = Tally { since: 0, count: 0, pad: 0 };
        let now = 10 * limit.within;
        let allowed = (0..1000).filter(|_| limit.allows(&mut tally, now)).count();
        assert!(limit.allows(&mut tally, now + limit.within + 1), "not again later");
        allowed
    }

    #[test]
    fn a_source_holds_so_many_and_later_again() {
        assert_eq!(allowed(fragment::HELD_PER_SOURCE), 256);
    }

    #[test]
    fn errors_of_our_own_are_rate_limited() {
        assert_eq!(allowed(icmp::OWN_ERRORS), 100);
    }
}
