//! Registry credentials of unfinished jobs: in this process's memory, and sealed in the catalog where the site has a key
//! for workers apart.

use std::sync::Arc;
use std::time::Instant;

use shifter_registry::Credentials;

use super::{Jobs, locked};
use crate::catalog::Change;
use crate::model::{Job, JobStatus, now};
use crate::seal;

/// What a caller brought here for a job.
pub(super) struct Brought {
    credentials: Credentials,
    pub(super) at: Instant,
    /// When they were sealed last, if they were.
    sealed: Option<Instant>,
}

impl Jobs {
    /// Takes in what a caller brought for a job, and has the queue looked at.
    pub(crate) fn start(self: &Arc<Self>, number: i64, credentials: Option<Credentials>) {
        if let Some(credentials) = credentials {
            let now = Instant::now();
            let mut brought = locked(&self.brought);
            let sealed = brought.get(&number).and_then(|known| known.sealed);
            let is_sealed = sealed
                .is_some_and(|at| now.saturating_duration_since(at).as_secs_f64() < seal::LIFETIME / 2.0);
            let sealed = if is_sealed { sealed } else { Some(now) };
            let known = brought.insert(number, Brought { credentials: credentials.clone(), at: now, sealed });
            drop(brought);
            // Clients ask often; where nothing is new, there is nothing to look for.
            let is_new = known.is_none();
            if !is_sealed {
                let jobs = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = jobs.hand_on(number, &credentials).await {
                        tracing::warn!(
                            job = number,
                            error = format!("{error:#}"),
                            "sealing credentials failed"
                        );
                        if let Some(brought) = locked(&jobs.brought).get_mut(&number) {
                            brought.sealed = None;
                        }
                    }
                });
            }
            if !is_new {
                return;
            }
        }
        if self.threads() > 0 {
            self.news.notify_one();
        }
    }

    /// Makes credentials available to workers apart, or says that this cannot be.
    async fn hand_on(&self, number: i64, credentials: &Credentials) -> anyhow::Result<()> {
        if let Some(key) = &self.seal {
            let sealed = key.seal(number, now() + seal::LIFETIME, credentials)?;
            self.catalog.seal(number, &sealed).await?;
        } else if self.threads() == 0 {
            let why = "this gateway's workers run apart and SealKeyFile is not configured, so they cannot be given \
                       registry credentials; ask the administrators to set it";
            let status = Some((JobStatus::Failure, why));
            let change = Change { if_free_at: Some(now()), status, ..Change::default() };
            self.catalog.change_job(number, &change).await?;
        }
        Ok(())
    }

    /// What this process can learn of a job's credentials.
    pub(super) fn credentials(&self, job: &Job) -> Option<Credentials> {
        if !job.with_credentials {
            return None;
        }
        let brought = locked(&self.brought).get(&job.number).map(|brought| brought.credentials.clone());
        brought.or_else(|| self.seal.as_ref()?.open(job.number, &job.sealed, now()))
    }
}
