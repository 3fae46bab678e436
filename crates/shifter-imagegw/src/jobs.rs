//! Running pulls: one task per job, its progress, its end, and what becomes of jobs whose process died.
//!
//! The catalog remembers jobs, this file runs them: a job is claimed, kept alive by heartbeats, and its
//! work ends when the lease is lost, be it that somebody cancelled it or that another process thought
//! this one dead. Registry credentials exist only in the tasks'
//! memory; a job that had some and lost them to a restart goes on when its caller polls again, since
//! every poll brings the credentials along.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shifter_registry::Credentials;
use tokio::task::AbortHandle;

use crate::audit;
use crate::catalog::{Catalog, CatalogError, HEARTBEAT, LEASE, Lease, patiently};
use crate::convert::sentence;
use crate::model::{Job, JobStatus, now};
use crate::progress::{Progress, Standing};
use crate::pull::{PullError, Puller};

mod hands;

/// How long a job that lost its credentials waits for its caller after a restart.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(600);

/// What the callers of such jobs see.
const WAITING: &str = "The gateway was restarted; waiting for the caller to ask again";

/// Clients ask every half second; polls of one job that are clearly closer come from several clients.
const SHORTEST_PERIOD: Duration = Duration::from_millis(350);

/// How long an end is told to all who ask, where several clients wait: some of their periods.
const SHARED_TELLING: Duration = Duration::from_secs(3);

/// How the reason of a failure begins that the registry's refusal of this caller is: `shifterimg` tells such
/// an end by its exit status.
const DENIED: &str = "access denied: ";

/// Ends of pulls nobody asked about are forgotten after this many seconds.
const FORGET_AFTER: f64 = 86_400.0;

/// The running jobs.
pub(crate) struct Jobs {
    catalog: Arc<dyn Catalog>,
    puller: Arc<Puller>,
    /// This process, as its leases name it.
    holder: String,
    running: Mutex<HashMap<i64, Running>>,
    /// Ends that several clients of one caller wait for, with the time of the end.
    shared_ends: Mutex<HashMap<i64, Instant>>,
    free: Mutex<Free>,
}

/// Jobs that no lease covers, with the time of the first of the looks that all found them so. While a
/// database is away all leases run out, and their holders still live: only a job that stays free for
/// another lease's time, in which its holder could have prolonged it, is nobody's.
#[derive(Default)]
struct Free(HashMap<Lease, Instant>);

impl Free {
    fn look(&mut self, free: &[Job], now: Instant) {
        let before = std::mem::take(&mut self.0);
        let since = |lease: Lease| (lease, before.get(&lease).copied().unwrap_or(now));
        self.0 = free.iter().map(|job| since(job.lease())).collect();
    }

    /// Whether a job that no lease covers may be taken: also where it never was taken or was given back.
    fn is_abandoned(&self, job: &Job, now: Instant) -> bool {
        job.fence == 0
            || job.lease_until == 0.0
            || self.0.get(&job.lease()).is_some_and(|since| now.saturating_duration_since(*since) >= LEASE)
    }
}

/// What becomes of a job that nobody has in hand.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Start,
    /// Its credentials died with its process: the caller is to bring them again.
    AskCaller,
    Wait,
    End,
}

fn next_step(job: &Job, now: f64) -> Step {
    if !job.with_credentials {
        Step::Start
    } else if job.fence > 0 && job.message != WAITING {
        // The caller's time begins when they are asked, however long the job was at work before.
        Step::AskCaller
    } else if now - job.updated > ORPHAN_PATIENCE.as_secs_f64() {
        Step::End
    } else {
        Step::Wait
    }
}

struct Running {
    progress: Arc<Progress>,
    task: AbortHandle,
    /// None until the job is claimed.
    lease: Option<Lease>,
    last_poll: Option<Instant>,
    /// Whether the last two gaps between polls were too short for one client, newest first.
    short_gaps: [bool; 2],
    /// Whether several clients were seen waiting at a time.
    several: bool,
}

impl Running {
    /// Whether several clients ask: of two gaps at least one is short then, whatever their phases.
    fn is_shared(&self) -> bool {
        self.several || self.short_gaps.contains(&true)
    }
}

impl Jobs {
    pub(crate) fn new(catalog: Arc<dyn Catalog>, puller: Arc<Puller>) -> Arc<Jobs> {
        let (running, shared_ends, free) = Default::default();
        Arc::new(Jobs { catalog, puller, holder: holder(), running, shared_ends, free })
    }

    pub(crate) fn puller(&self) -> &Puller {
        &self.puller
    }

    fn running(&self) -> MutexGuard<'_, HashMap<i64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody works on a job any more, as far as this process has seen.
    pub(crate) fn may_take(&self, job: &Job) -> bool {
        !job.is_held() && self.free().is_abandoned(job, Instant::now())
    }

    /// Notes that a client asked for a running job; returns how far it is.
    pub(crate) fn poll(&self, number: i64) -> Option<Standing> {
        let mut running = self.running();
        let running = running.get_mut(&number)?;
        let now = Instant::now();
        let is_short = running.last_poll.is_some_and(|last| now - last < SHORTEST_PERIOD);
        running.short_gaps = [is_short, running.short_gaps[0]];
        running.last_poll = Some(now);
        Some(running.progress.get()).filter(|standing| !standing.line.is_empty())
    }

    /// Whether the end of a job is to be told to several clients, and still fresh enough for that.
    pub(crate) fn is_end_shared(&self, number: i64) -> bool {
        // The end is in the catalog a moment before the job leaves the list.
        if self.running().get(&number).is_some_and(Running::is_shared) {
            return true;
        }
        let mut ends = self.shared_ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|_, end| end.elapsed() < SHARED_TELLING);
        ends.contains_key(&number)
    }

    /// Takes an ended job off the list.
    fn finish(&self, number: i64) {
        let ended = self.running().remove(&number);
        if ended.is_some_and(|running| running.is_shared()) {
            self.shared_ends.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Instant::now());
        }
    }

    /// Starts a job, unless it runs already, here or in another process.
    pub(crate) fn start(self: &Arc<Self>, number: i64, credentials: Option<Credentials>) {
        let mut running = self.running();
        if running.contains_key(&number) {
            return;
        }
        let progress = Arc::new(Progress::default());
        let jobs = self.clone();
        let watched = progress.clone();
        // The task waits for this lock before it can take itself off the list.
        let task = tokio::spawn(async move {
            jobs.run(number, credentials, watched).await;
            jobs.finish(number);
        });
        let task = task.abort_handle();
        let (lease, last_poll, short_gaps, several) = Default::default();
        running.insert(number, Running { progress, task, lease, last_poll, short_gaps, several });
    }

    async fn run(&self, number: i64, credentials: Option<Credentials>, progress: Arc<Progress>) {
        let job = match patiently(|| self.catalog.claim(number, &self.holder)).await {
            Ok(Some(job)) => job,
            // Another process was faster, or the job is over.
            Ok(None) => return,
            Err(error) => {
                tracing::error!(job = number, error = sentence(&error), "taking a pull up failed");
                return;
            }
        };
        let lease = job.lease();
        if let Some(running) = self.running().get_mut(&number) {
            running.lease = Some(lease);
        }
        let begun = now();
        let (system, tag, uid) = (job.key.system.clone(), job.key.tag.clone(), job.uid);
        tracing::info!(job = number, attempt = job.fence, system, tag, uid, "pull started");
        let (puller, told) = (self.puller.clone(), job.clone());
        // A task of its own: a panic in it ends this job and nothing else.
        let mut work = tokio::spawn(async move { puller.pull(&job, credentials, &progress).await });
        let stop = AbortOnDrop(work.abort_handle());
        let result = tokio::select! {
            result = &mut work => result,
            () = self.lose(lease) => Ok(Err(PullError::Lost)),
        };
        drop(stop);
        let seconds = now() - begun;
        let why = match result {
            Ok(Ok(())) => {
                tracing::info!(job = number, system, tag, uid, seconds, "pull is ready");
                return;
            }
            Ok(Err(PullError::Lost)) => {
                tracing::info!(job = number, system, tag, uid, seconds, "pull was ended or taken over");
                return;
            }
            Ok(Err(error)) if error.is_denied() => format!("{DENIED}{}", sentence(&error)),
            Ok(Err(error)) => sentence(&error),
            Err(error) if error.is_cancelled() => return,
            Err(_) => "the pull ended by an internal error; the gateway's log says more".to_owned(),
        };
        tracing::warn!(job = number, system, tag, uid, seconds, why, "pull failed");
        audit::not_granted(&told, &why);
        let failed = patiently(|| self.catalog.set_status(lease, JobStatus::Failure, &why));
        if let Err(error) = failed.await {
            tracing::error!(job = number, error = sentence(&error), "noting a failed pull failed");
        }
    }

    /// Keeps a lease alive; returns when it is lost.
    async fn lose(&self, lease: Lease) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            match self.catalog.heartbeat(lease).await {
                Ok(true) => {}
                Ok(false) => return,
                // Nobody else can take the job meanwhile either.
                Err(error) => {
                    tracing::warn!(job = lease.number, error = sentence(&error), "prolonging a lease failed");
                }
            }
        }
    }

    /// Takes up what dead processes left, now and whenever a lease runs out from now on.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), CatalogError> {
        self.take_up().await?;
        let jobs = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                let Some(jobs) = jobs.upgrade() else { return };
                if let Err(error) = jobs.take_up().await {
                    tracing::warn!(error = sentence(&error), "looking for pulls that nobody works on failed");
                }
            }
        });
        Ok(())
    }

    /// Starts the jobs that nobody has in hand. Those with credentials, which died with their process,
    /// wait for their callers' next poll; who does not poll in time has failed.
    async fn take_up(self: &Arc<Self>) -> Result<(), CatalogError> {
        let unfinished = async {
            self.catalog.forget_ends_before(now() - FORGET_AFTER).await?;
            self.catalog.unfinished(None).await
        };
        // Where looking fails, nobody can prolong a lease either: what was seen before counts no more.
        let mut free = unfinished.await.inspect_err(|_| *self.free() = Free::default())?;
        free.retain(|job| !job.is_held());
        self.free().look(&free, Instant::now());
        for job in free {
            let number = job.number;
            if self.running().contains_key(&number) || !self.may_take(&job) {
                continue;
            }
            if job.fence > 0 {
                tracing::info!(job = number, holder = job.holder, "nobody works on this pull any more");
            }
            match next_step(&job, now()) {
                Step::Start => self.start(number, None),
                Step::AskCaller => {
                    if let Some(job) = self.catalog.claim(number, &self.holder).await? {
                        self.catalog.set_status(job.lease(), JobStatus::Pending, WAITING).await?;
                        self.catalog.release(job.lease()).await?;
                    }
                }
                Step::Wait => {}
                Step::End => {
                    let why = "the gateway was restarted and does not store registry credentials; pull again";
                    self.catalog.abandon(&job, why).await?;
                }
            }
        }
        Ok(())
    }

    /// Ends all work, and tells the catalog nothing, as a kill does.
    pub(crate) fn abort(&self) -> Vec<Lease> {
        let running = self.running();
        running.values().for_each(|running| running.task.abort());
        running.values().filter_map(|running| running.lease).collect()
    }

    /// Ends all work; the catalog keeps the jobs for whoever takes them up next, at once.
    pub(crate) async fn stop(&self) {
        for lease in self.abort() {
            if let Err(error) = self.catalog.release(lease).await {
                tracing::warn!(job = lease.number, error = sentence(&error), "giving a pull back failed");
            }
        }
    }
}

/// Who we are, for people who look at a lease.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} process {}", host.trim(), std::process::id())
}

/// Ends the inner task with the outer one.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TagKey;
    use shifter_core::meta::Acl;

    fn job(fence: i64, message: &str, updated: f64) -> Job {
        Job {
            number: 1,
            key: TagKey { system: "s".into(), itype: "docker".into(), tag: "a:1".into() },
            uid: 7,
            gid: 7,
            acl: Acl::default(),
            status: JobStatus::Pulling,
            message: message.into(),
            public: false,
            with_credentials: true,
            created: 0.0,
            updated,
            fence,
            holder: String::new(),
            lease_until: 5.0,
        }
    }

    #[test]
    fn a_long_download_with_credentials_is_not_failed_by_a_restart() {
        for (job, step) in [
            (job(1, "Downloading", 0.0), Step::AskCaller),
            (job(2, WAITING, 900.0), Step::Wait),
            (job(2, WAITING, 0.0), Step::End),
            (job(0, "", 900.0), Step::Wait),
            (job(0, "", 0.0), Step::End),
            (Job { with_credentials: false, ..job(1, "", 0.0) }, Step::Start),
        ] {
            assert_eq!(next_step(&job, 1000.0), step, "{job:?}");
        }
    }

    #[test]
    fn an_outage_of_the_database_gives_no_living_worker_s_job_away() {
        let (mut free, begin) = (Free::default(), Instant::now());
        let orphan = job(1, "", 0.0);
        free.look(std::slice::from_ref(&orphan), begin);
        assert!(!free.is_abandoned(&orphan, begin + LEASE / 2));
        // Its worker was alive, and prolonged the lease between two looks.
        free.look(&[], begin + LEASE / 2);
        free.look(std::slice::from_ref(&orphan), begin + LEASE);
        assert!(!free.is_abandoned(&orphan, begin + LEASE));
        free.look(std::slice::from_ref(&orphan), begin + 2 * LEASE);
        assert!(free.is_abandoned(&orphan, begin + 2 * LEASE));
        // The next claim counts anew; what was given back or never taken is free at once.
        assert!(!free.is_abandoned(&job(2, "", 0.0), begin + 2 * LEASE));
        assert!(free.is_abandoned(&Job { lease_until: 0.0, ..job(2, "", 0.0) }, begin));
        assert!(free.is_abandoned(&job(0, "", 0.0), begin));
    }
}
