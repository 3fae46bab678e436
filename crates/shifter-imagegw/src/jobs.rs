//! Running pulls: one task per job, its progress, its end, and what becomes of jobs at a restart.
//!
//! The catalog remembers jobs, this file runs them. Registry credentials exist only in the tasks'
//! memory; a job that had some and lost them to a restart goes on when its caller polls again, since
//! every poll brings the credentials along.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shifter_registry::Credentials;
use tokio::task::AbortHandle;

use crate::catalog::{Catalog, CatalogError};
use crate::convert::sentence;
use crate::model::{Job, JobStatus, now};
use crate::pull::{Progress, Puller};

/// How long a job that lost its credentials waits for its caller after a restart.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(600);

/// Ends of pulls nobody asked about are forgotten after this many seconds.
const FORGET_AFTER: f64 = 86_400.0;

/// The running jobs.
pub(crate) struct Jobs {
    catalog: Arc<Catalog>,
    puller: Arc<Puller>,
    running: Mutex<HashMap<i64, Running>>,
}

struct Running {
    progress: Arc<Progress>,
    task: AbortHandle,
}

impl Jobs {
    pub(crate) fn new(catalog: Arc<Catalog>, puller: Arc<Puller>) -> Arc<Jobs> {
        Arc::new(Jobs { catalog, puller, running: Mutex::default() })
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

    /// The progress line of a running job.
    pub(crate) fn progress(&self, number: i64) -> Option<String> {
        self.running().get(&number).map(|running| running.progress.get()).filter(|line| !line.is_empty())
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
            jobs.running().remove(&number);
        });
        running.insert(number, Running { progress, task: task.abort_handle() });
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
