//! Which job is next: decisions alone, on what was read from the catalog. Claiming and running are next door.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::catalog::{GRACE, LEASE, SENT};
use crate::model::Job;
use crate::seal;

/// How long a job that lacks its credentials waits for its caller.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the callers of such jobs see.
pub(super) const WAITING: &str = "The gateway was restarted; waiting for the caller to ask again";

/// What callers see of jobs that wait for room.
pub(super) const QUEUED: &str = "Waiting for a free worker";

/// Whether a job is one for a file.
pub(super) fn is_import(job: &Job) -> bool {
    !job.source.is_empty()
}

/// What becomes of a job that nobody has in hand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It may be taken here.
    Start,
    /// Its credentials died with its process: the caller is to bring them again.
    AskCaller,
    Wait,
    End,
}

/// `is_able`: the job needs no credentials, or this process has them.
pub(super) fn next_step(job: &Job, is_able: bool, now: f64) -> Step {
    if is_able {
        Step::Start
    } else if !seal::is_over(&job.sealed, now) {
        // Whoever has the key.
        Step::Wait
    } else if job.source == SENT && (job.fence > 0 || is_stranded(job, now)) {
        Step::End
    } else if job.fence > 0 && job.message != WAITING {
        // The caller's time begins when they are asked, however long the job was at work before.
        Step::AskCaller
    } else if now - job.updated > PATIENCE.as_secs_f64() {
        Step::End
    } else {
        Step::Wait
    }
}

/// Whether an import never came into the hands of whoever entered it: that is the next thing they do.
pub(super) fn is_stranded(job: &Job, now: f64) -> bool {
    job.fence == 0 && now - job.updated > LEASE.as_secs_f64()
}

/// Since when the catalog could be read at every look. While a database is away all leases run out, and their holders
/// still live: only after a time in which each of them has prolonged its own is a job nobody's.
#[derive(Default)]
pub(super) struct Sight(Option<(Instant, Instant)>);

impl Sight {
    /// A look succeeded. One that comes late, as after a suspended machine's sleep, begins anew.
    pub(super) fn saw(&mut self, now: Instant) {
        let since = match self.0 {
            Some((since, last)) if now.saturating_duration_since(last) < GRACE => since,
            _ => now,
        };
        self.0 = Some((since, now));
    }

    /// A look failed.
    pub(super) fn lost(&mut self) {
        self.0 = None;
    }

    /// Whether a job that no lease covers may be taken: always where it never was taken or was given back.
    pub(super) fn is_abandoned(&self, job: &Job, now: Instant) -> bool {
        job.fence == 0
            || job.lease_until == 0.0
            || self.0.is_some_and(|(since, _)| now.saturating_duration_since(since) >= GRACE)
    }
}

/// Turns of users: whoever has the fewest jobs at work anywhere is next, then who was served here the longest time ago,
/// so that nobody waits for all that another has asked for.
#[derive(Default)]
pub(super) struct Turns {
    served: HashMap<u32, u64>,
    count: u64,
}

impl Turns {
    /// The next of the waiting jobs; `at_work` counts jobs by user.
    pub(super) fn next<'a>(
        &self,
        waiting: impl Iterator<Item = &'a Job>,
        at_work: &HashMap<u32, usize>,
    ) -> Option<&'a Job> {
        let count = |job: &Job| at_work.get(&job.uid).copied().unwrap_or_default();
        let served = |job: &Job| self.served.get(&job.uid).copied().unwrap_or_default();
        waiting.min_by_key(|job| (count(job), served(job), job.number))
    }

    /// Notes that a user had a turn.
    pub(super) fn had(&mut self, uid: u32) {
        const MOST_REMEMBERED: usize = 10_000;
        if self.served.len() >= MOST_REMEMBERED {
            self.served.clear();
        }
        self.count += 1;
        self.served.insert(uid, self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{JobStatus, TagKey};
    use shifter_core::meta::Acl;

    fn job(number: i64, uid: u32) -> Job {
        Job {
            number,
            key: TagKey { system: "s".into(), itype: "docker".into(), tag: "a:1".into() },
            uid,
            gid: 7,
            acl: Acl::default(),
            status: JobStatus::Pulling,
            message: String::new(),
            public: false,
            with_credentials: true,
            created: 0.0,
            updated: 0.0,
            fence: 1,
            holder: String::new(),
            lease_until: 5.0,
            sealed: String::new(),
            source: String::new(),
        }
    }

    #[test]
    fn a_long_download_with_credentials_is_not_failed_by_a_restart() {
        let job =
            |fence, message: &str, updated| Job { fence, message: message.into(), updated, ..job(1, 7) };
        for (job, is_able, step) in [
            (job(1, "Downloading", 0.0), false, Step::AskCaller),
            (job(2, WAITING, 900.0), false, Step::Wait),
            (job(2, WAITING, 0.0), false, Step::End),
            (job(2, WAITING, 0.0), true, Step::Start),
            (job(0, "", 900.0), false, Step::Wait),
            (job(0, "", 0.0), false, Step::End),
            (Job { sealed: "2000:00".into(), ..job(1, "", 0.0) }, false, Step::Wait),
            (Job { sealed: "999:00".into(), ..job(1, "", 0.0) }, false, Step::AskCaller),
            // A file that was sent is gone with the gateway it was sent to.
            (Job { source: SENT.into(), ..job(1, QUEUED, 999.0) }, false, Step::End),
            (Job { source: SENT.into(), ..job(0, "", 999.0) }, false, Step::Wait),
            // It was entered, and its gateway ended or lost the database before it could take it.
            (Job { source: SENT.into(), ..job(0, "", 980.0) }, false, Step::End),
            (Job { source: "1:2".into(), ..job(0, "", 980.0) }, false, Step::Wait),
        ] {
            assert_eq!(next_step(&job, is_able, 1000.0), step, "{job:?}");
        }
    }

    #[test]
    fn an_outage_of_the_database_gives_no_living_worker_s_job_away() {
        let (mut sight, begin) = (Sight::default(), Instant::now());
        let held = job(1, 7);
        let look = |sight: &mut Sight, from: u32, to: u32| {
            (from..=to).for_each(|second| sight.saw(begin + Duration::from_secs(second.into())));
        };
        let after = |seconds: u64| begin + Duration::from_secs(seconds);
        assert!(!sight.is_abandoned(&held, begin), "nothing was seen yet");
        look(&mut sight, 0, 8);
        assert!(!sight.is_abandoned(&held, after(8)));
        look(&mut sight, 9, 9);
        assert!(sight.is_abandoned(&held, after(9)));
        // Whoever could not read has no opinion, nor has who was asleep.
        sight.lost();
        assert!(!sight.is_abandoned(&held, after(10)));
        look(&mut sight, 11, 20);
        assert!(sight.is_abandoned(&held, after(20)));
        look(&mut sight, 28, 28);
        assert!(sight.is_abandoned(&held, after(28)));
        look(&mut sight, 37, 37);
        assert!(!sight.is_abandoned(&held, after(37)));
        // What was given back or never taken is free at once.
        assert!(sight.is_abandoned(&Job { lease_until: 0.0, ..held.clone() }, after(100)));
        assert!(sight.is_abandoned(&Job { fence: 0, ..held }, after(100)));
    }

    #[test]
    fn one_user_s_hundred_pulls_do_not_delay_another_user_s_one() {
        let mut waiting: Vec<Job> = (0..100).map(|number| job(number, 1)).collect();
        waiting.extend([job(100, 2), job(101, 3), job(102, 2)]);
        let mut turns = Turns::default();
        let mut order = Vec::new();
        // One worker: nobody has anything at work when it becomes free.
        while let Some(next) = turns.next(waiting.iter(), &HashMap::new()).cloned() {
            turns.had(next.uid);
            order.push((next.uid, next.number));
            waiting.retain(|job| job.number != next.number);
        }
        let expected = [(1, 0), (2, 100), (3, 101), (1, 1), (2, 102), (1, 2), (1, 3)];
        assert_eq!((&order[..7], order.len()), (&expected[..], 103));
        // Several workers: what others have in hand counts.
        let waiting = [job(0, 1), job(1, 2)];
        let at_work = HashMap::from([(1, 1)]);
        assert_eq!(Turns::default().next(waiting.iter(), &at_work).map(|job| job.uid), Some(2));
    }
}
