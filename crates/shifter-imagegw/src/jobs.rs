//! Running pulls: one task per job, its progress, its end, and what becomes of jobs at a restart.
//!
//! The catalog remembers jobs, this file runs them. Registry credentials exist only in the tasks'
//! memory; a job that had some and lost them to a restart goes on when its caller polls again, since
//! every poll brings the credentials along.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shifter_registry::Credentials;
use tokio::task::AbortHandle;

use crate::catalog::{Catalog, CatalogError};
use crate::convert::sentence;
use crate::model::{Job, JobStatus, now};
use crate::pull::{Progress, Puller};

/// How long a job that lost its credentials waits for its caller after a restart.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(600);

/// Clients ask every half second; polls of one job that are clearly closer come from several clients.
const SHORTEST_PERIOD: Duration = Duration::from_millis(350);

/// How long an end is told to all who ask, where several clients wait: some of their periods.
const SHARED_TELLING: Duration = Duration::from_secs(3);

/// Ends of pulls nobody asked about are forgotten after this many seconds.
const FORGET_AFTER: f64 = 86_400.0;

/// The running jobs.
pub(crate) struct Jobs {
    catalog: Arc<Catalog>,
    puller: Arc<Puller>,
    running: Mutex<HashMap<i64, Running>>,
    /// Ends that several clients of one caller wait for, with the time of the end.
    shared_ends: Mutex<HashMap<i64, Instant>>,
}

struct Running {
    progress: Arc<Progress>,
    task: AbortHandle,
    last_poll: Option<Instant>,
    /// Whether the last two gaps between polls were too short for one client, newest first.
    short_gaps: [bool; 2],
}

impl Running {
    /// Whether several clients ask: of two gaps at least one is short then, whatever their phases.
    fn is_shared(&self) -> bool {
        self.short_gaps.contains(&true)
    }
}

impl Jobs {
    pub(crate) fn new(catalog: Arc<Catalog>, puller: Arc<Puller>) -> Arc<Jobs> {
        Arc::new(Jobs { catalog, puller, running: Mutex::default(), shared_ends: Mutex::default() })
    }

    pub(crate) fn puller(&self) -> &Puller {
        &self.puller
    }

    fn running(&self) -> MutexGuard<'_, HashMap<i64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a task has the job in hand; false only after its end is in the catalog.
    pub(crate) fn is_running(&self, number: i64) -> bool {
        self.running().contains_key(&number)
    }

    /// Notes that a client asked for a running job; returns its progress line.
    pub(crate) fn poll(&self, number: i64) -> Option<String> {
        let mut running = self.running();
        let running = running.get_mut(&number)?;
        let now = Instant::now();
        let is_short = running.last_poll.is_some_and(|last| now - last < SHORTEST_PERIOD);
        running.short_gaps = [is_short, running.short_gaps[0]];
        running.last_poll = Some(now);
        Some(running.progress.get()).filter(|line| !line.is_empty())
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

    /// Starts a job unless it runs already.
    pub(crate) fn start(self: &Arc<Self>, job: Job, credentials: Option<Credentials>) {
        let mut running = self.running();
        if running.contains_key(&job.number) {
            return;
        }
        let (number, progress) = (job.number, Arc::new(Progress::default()));
        let jobs = self.clone();
        let watched = progress.clone();
        // The task waits for this lock before it can take itself off the list.
        let task = tokio::spawn(async move {
            jobs.run(job, credentials, watched).await;
            jobs.finish(number);
        });
        running.insert(
            number,
            Running { progress, task: task.abort_handle(), last_poll: None, short_gaps: [false; 2] },
        );
    }

    async fn run(&self, job: Job, credentials: Option<Credentials>, progress: Arc<Progress>) {
        let begun = now();
        let (system, tag, uid) = (job.key.system.clone(), job.key.tag.clone(), job.uid);
        tracing::info!(job = job.number, system, tag, uid, "pull started");
        let number = job.number;
        let puller = self.puller.clone();
        // A task of its own: a panic in it ends this job and nothing else.
        let work = tokio::spawn(async move { puller.pull(&job, credentials, &progress).await });
        let stop = AbortOnDrop(work.abort_handle());
        let result = work.await;
        drop(stop);
        let seconds = now() - begun;
        let why = match result {
            Ok(Ok(())) => {
                tracing::info!(job = number, system, tag, uid, seconds, "pull is ready");
                return;
            }
            Ok(Err(error)) => sentence(&error),
            Err(error) if error.is_cancelled() => return,
            Err(_) => "the pull ended by an internal error; the gateway's log says more".to_owned(),
        };
        tracing::warn!(job = number, system, tag, uid, seconds, why, "pull failed");
        if let Err(error) = self.catalog.set_status(number, JobStatus::Failure, &why).await {
            tracing::error!(job = number, error = sentence(&error), "noting a failed pull failed");
        }
    }

    /// Takes up the jobs that the last process left: those without credentials at once, the others
    /// when their callers poll; who does not poll in time has failed.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), CatalogError> {
        self.catalog.forget_ends_before(now() - FORGET_AFTER).await?;
        let mut orphans = Vec::new();
        for job in self.catalog.unfinished(None).await? {
            let message = if job.with_credentials {
                orphans.push(job.number);
                "The gateway was restarted; waiting for the caller to ask again"
            } else {
                "The gateway was restarted; starting again"
            };
            self.catalog.set_status(job.number, JobStatus::Pending, message).await?;
            if !job.with_credentials {
                self.start(job, None);
            }
        }
        if orphans.is_empty() {
            return Ok(());
        }
        let jobs = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(ORPHAN_PATIENCE).await;
            let Some(jobs) = jobs.upgrade() else { return };
            for number in orphans {
                if jobs.running().contains_key(&number) {
                    continue;
                }
                let why = "the gateway was restarted and does not store registry credentials; pull again";
                if let Err(error) = jobs.catalog.set_status(number, JobStatus::Failure, why).await {
                    tracing::error!(
                        job = number,
                        error = sentence(&error),
                        "giving up an orphaned pull failed"
                    );
                }
            }
        });
        Ok(())
    }

    /// Stops all work; the catalog keeps the jobs for the next start.
    pub(crate) fn stop(&self) {
        for running in self.running().values() {
            running.task.abort();
        }
    }
}

/// Ends the inner task with the outer one.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
