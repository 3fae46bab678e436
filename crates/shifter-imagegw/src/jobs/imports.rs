//! Imports: their files are in this process's hands, so their jobs are, too, from the beginning and not first when
//! their turn comes. No other process can take them or another file for them, or wonder whether they are forgotten.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::queue::{QUEUED, is_stranded};
use super::{Given, Jobs, locked};
use crate::catalog::{CatalogError, Lease};
use crate::model::{Job, now};
use crate::progress::Progress;
use crate::pull::import::Source;

impl Jobs {
    /// Whether an import's file is nowhere, as after a restart.
    pub(crate) fn lacks_file(&self, job: &Job) -> bool {
        self.may_take(job)
            && !locked(&self.running).contains_key(&job.number)
            && locked(&self.sight).is_abandoned(job, Instant::now())
    }

    /// Whether an import's file will not come any more.
    pub(crate) fn lost_file(&self, job: &Job) -> bool {
        job.fence > 0 || is_stranded(job, now())
    }

    /// Takes an import in hand that lacks its file, and has the queue looked at. `job` names the file that is given. False
    /// if another one came first.
    pub(crate) async fn start_import(
        self: &Arc<Self>,
        job: &Job,
        source: Source,
    ) -> Result<bool, CatalogError> {
        let (jobs, job) = (self.clone(), job.clone());
        // To its end, also where the client hangs up: a job that is taken has its file.
        let started = tokio::spawn(async move {
            match jobs.catalog.take(&job, &jobs.holder, QUEUED).await? {
                Some(job) => jobs.run_in_task(job, Given::File(Box::new(source))),
                None => return Ok(false),
            }
            jobs.news.notify_one();
            Ok(true)
        });
        started.await.unwrap_or(Ok(false))
    }

    /// Whether a job waits here for its turn.
    pub(super) fn waits_here(&self, job: &Job) -> bool {
        let running = locked(&self.running);
        running.get(&job.number).is_some_and(|held| held.lease == job.lease() && held.turn.is_some())
    }

    /// Gives a job its turn if it waits here for that.
    pub(super) fn begin(&self, job: &Job) -> bool {
        let mut running = locked(&self.running);
        let held = running.get_mut(&job.number).filter(|held| held.lease == job.lease());
        let turn = held.and_then(|held| held.turn.take());
        drop(running);
        turn.is_some_and(|turn| turn.send(job.clone()).is_ok())
    }

    /// Waits for a job's turn, with its lease kept alive. None if it is lost; else the job as it is by then.
    pub(super) async fn turn(
        &self,
        lease: Lease,
        turn: oneshot::Receiver<Job>,
        progress: &Progress,
    ) -> Option<Job> {
        progress.set(QUEUED);
        tokio::select! {
            job = turn => job.ok(),
            () = self.lose(lease, progress) => {
                tracing::info!(job = lease.number, "an import was ended before its turn");
                None
            }
        }
    }
}
