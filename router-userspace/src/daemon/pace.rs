//! How often to look at the flow tables: all flows every few seconds, and in between a sample that says
//! how full they are. A flood fills them in seconds, and a quiet router should cost next to nothing.

use std::time::Duration;

use tracing::{info, warn};

use crate::dataplane::{Aged, HIGH};

/// Between two samples while the tables are far from full.
const CALM: Duration = Duration::from_secs(1);
/// Between two samples otherwise.
const ALERT: Duration = Duration::from_millis(100);
/// From here on, in thousandths: a flood that does it within a second is noticed in time.
const FILLING: usize = 250;
/// An episode is over when nothing was evicted for so long.
const QUIET: Duration = Duration::from_secs(60);

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub struct Pace {
    /// How full the tables were left by the last look at all flows, in thousandths.
    left: usize,
    episode: Option<Episode>,
}

/// A time in which flows have to be evicted.
#[derive(Debug)]
struct Episode {
    /// When it began and when something was last evicted, since whenever.
    since: Duration,
    last: Duration,
    evicted: usize,
}

impl Pace {
    /// Whether to look at all flows now, of a sample.
    pub const fn is_due(&self, fullness: usize) -> bool {
        // What could not be evicted is in use: then only a part of what is left over is worth a look.
        let again = self.left + (1000usize.saturating_sub(self.left)) / 4;
        fullness > if again > HIGH { again } else { HIGH }
    }

    /// When to take the next sample, of this one.
    pub const fn next(fullness: usize) -> Duration {
        if fullness < FILLING { CALM } else { ALERT }
    }

    /// Takes in a look at all flows that took so long; when to take the next sample. The daemon is to
    /// have as much time for others.
    pub fn looked(&mut self, aged: &Aged, now: Duration, took: Duration) -> Duration {
        self.left = aged.fullness;
        self.tell(aged.evicted, now);
        Self::next(aged.fullness).max(took)
    }

    /// A line when an episode begins and one when it is over.
    fn tell(&mut self, evicted: usize, now: Duration) {
        match &mut self.episode {
            None if evicted > 0 => {
                warn!("the tables of flows fill up: half-open flows make room, the oldest first");
                self.episode = Some(Episode { since: now, last: now, evicted });
            }
            Some(episode) if evicted > 0 => {
                episode.evicted += evicted;
                episode.last = now;
            }
            Some(Episode { since, last, evicted }) if now.saturating_sub(*last) > QUIET => {
                let lasted = last.saturating_sub(*since).as_secs();
                info!("the tables of flows have room again: {evicted} flows were evicted within {lasted} s");
                self.episode = None;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn aged(fullness: usize, evicted: usize) -> Aged {
        Aged { expired: 0, evicted, fullness }
    }

    #[test]
    fn a_full_table_is_looked_at_often_and_a_quiet_one_seldom() {
        let mut pace = Pace::default();
        assert!(!pace.is_due(750) && pace.is_due(751));
        assert_eq!((Pace::next(0), Pace::next(249), Pace::next(250)), (CALM, CALM, ALERT));
        let (short, long) = (Duration::from_millis(3), Duration::from_millis(400));
        assert_eq!(pace.looked(&aged(500, 7), Duration::ZERO, short), ALERT);
        assert_eq!(pace.looked(&aged(500, 7), Duration::ZERO, long), long);
        assert_eq!(pace.looked(&aged(0, 0), Duration::ZERO, short), CALM);
    }

    #[test]
    fn a_table_full_of_what_is_in_use_is_not_looked_at_over_and_over() {
        let mut pace = Pace::default();
        pace.looked(&aged(800, 0), Duration::ZERO, Duration::ZERO);
        assert!(!pace.is_due(850) && pace.is_due(851));
        pace.looked(&aged(1000, 0), Duration::ZERO, Duration::ZERO);
        assert!(!pace.is_due(1000));
    }

    #[test]
    fn an_episode_ends_when_nothing_was_evicted_for_a_while() {
        let mut pace = Pace::default();
        let mut at = |seconds, evicted| {
            pace.looked(&aged(500, evicted), Duration::from_secs(seconds), Duration::ZERO);
            pace.episode.as_ref().map(|episode| (episode.since.as_secs(), episode.evicted))
        };
        assert_eq!(at(0, 0), None);
        assert_eq!(at(5, 10), Some((5, 10)));
        assert_eq!(at(6, 20), Some((5, 30)));
        assert_eq!(at(66, 0), Some((5, 30)));
        assert_eq!(at(67, 0), None);
        assert_eq!(at(70, 1), Some((70, 1)));
    }
}
