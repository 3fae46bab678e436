//! Clients that ask for a job: whether several of one caller do, so that all of them hear of its end. Lives in this
//! process's memory, and matters to comfort only.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Clients ask every half second; polls of one job that are clearly closer come from several clients.
const SHORTEST_PERIOD: Duration = Duration::from_millis(350);

/// How long an end is told to all who ask, where several clients wait: some of their periods.
const SHARED_TELLING: Duration = Duration::from_secs(3);

/// Jobs that nobody asked about for so long are forgotten.
const MEMORY: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Polls(HashMap<i64, Poll>);

struct Poll {
    last: Instant,
    /// Whether the last two gaps between polls were too short for one client, newest first.
    short_gaps: [bool; 2],
    /// Whether several clients were seen waiting at a time.
    several: bool,
    /// When the end was told first.
    told: Option<Instant>,
}

impl Polls {
    /// Notes that a client asked.
    pub(super) fn asked(&mut self, number: i64, now: Instant) {
        let since = |last: Instant| now.saturating_duration_since(last);
        self.0.retain(|_, poll| since(poll.last) < MEMORY);
        match self.0.get_mut(&number) {
            Some(poll) => {
                poll.short_gaps = [since(poll.last) < SHORTEST_PERIOD, poll.short_gaps[0]];
                poll.last = now;
            }
            None => {
                self.0.insert(number, Poll { last: now, short_gaps: [false; 2], several: false, told: None });
            }
        }
    }

    /// Notes that several clients wait at a time.
    pub(super) fn several(&mut self, number: i64, now: Instant) {
        let unheard = Poll { last: now, short_gaps: [false; 2], several: false, told: None };
        self.0.entry(number).or_insert(unheard).several = true;
    }

    /// Whether the end of a job is to be told to several clients, and still fresh enough for that. Of two gaps at
    /// least one is short where several clients ask, whatever their phases.
    pub(super) fn is_end_shared(&mut self, number: i64, now: Instant) -> bool {
        let Some(poll) = self.0.get_mut(&number) else { return false };
        let told = *poll.told.get_or_insert(now);
        (poll.several || poll.short_gaps.contains(&true))
            && now.saturating_duration_since(told) < SHARED_TELLING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_to_all_who_ask_at_the_same_time_and_once_to_one() {
        for (gaps, is_shared) in
            [(&[500, 500, 500][..], false), (&[250, 250], true), (&[100, 400, 100, 400], true), (&[], false)]
        {
            let (mut polls, mut now) = (Polls::default(), Instant::now());
            polls.asked(1, now);
            for gap in gaps {
                now += Duration::from_millis(*gap);
                polls.asked(1, now);
            }
            assert_eq!(polls.is_end_shared(1, now), is_shared, "{gaps:?}");
            assert_eq!(polls.is_end_shared(1, now + Duration::from_secs(2)), is_shared, "{gaps:?}");
            assert!(!polls.is_end_shared(1, now + Duration::from_secs(4)), "{gaps:?}");
            assert!(!polls.is_end_shared(2, now), "another job");
        }
    }
}
