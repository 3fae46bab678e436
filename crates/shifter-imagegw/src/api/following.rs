//! A pull after it was asked for: how it stands, waiting for it, its end, and ending it.

use std::time::Duration;

use shifter_core::image_type::ImageType;

use super::{Api, Refusal};
use crate::auth::Caller;
use crate::model::{Grant, Image, Job, JobStatus, TagKey};
use crate::waiting::{Pulled, Wait};

/// What a puller is told who named nobody to share a private image with.
fn alone(itype: &str) -> String {
    let again = if itype == ImageType::Custom.as_str() { "import" } else { "pull" };
    format!(
        "Image is ready; it is private and yours alone: {again} it again with --user or --group to share it"
    )
}

/// What a pull that was ended by `cancel` says of itself.
const CANCELED: &str = "canceled by its user";

/// Shortest time between two looks for a waiting client.
const BREATH: Duration = Duration::from_millis(50);

impl Api {
    /// `GET job`: how the caller's own pull stands, or stood at its end.
    pub(crate) async fn job(
        &self,
        system: &str,
        itype: &str,
        tag: &str,
        caller: &Caller,
    ) -> Result<Pulled, Refusal> {
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            if let Some(job) = self.catalog.job_of(&key, caller.uid).await? {
                return match job.status.is_over() {
                    true => self.told(job, caller).await,
                    false => Ok(self.going(job)),
                };
            }
        }
        Err(Refusal::NoJob)
    }

    /// Asks again until there is something that the client has not seen, or its time is over.
    pub(crate) async fn wait<F>(&self, wait: &Wait, once: impl Fn() -> F) -> Result<Pulled, Refusal>
    where
        F: Future<Output = Result<Pulled, Refusal>>,
    {
        let until = tokio::time::Instant::now() + wait.longest;
        let mut place = None;
        loop {
            let mut pulled = once().await?;
            let state = pulled.seen();
            let is_news = state != wait.seen || tokio::time::Instant::now() >= until;
            let job = match pulled.job.take() {
                Some(job) if !is_news => job,
                _ => {
                    pulled.state = Some(state);
                    return Ok(pulled);
                }
            };
            if place.is_none() {
                place = Some(self.elsewhere.place().ok_or(Refusal::Busy)?);
            }
            let stage = pulled.standing.map(|standing| standing.stage).unwrap_or_default();
            let moved = async {
                match self.jobs.watch(job.number) {
                    // Closed: the pull is over, or another process's.
                    Some(mut watched) => drop(watched.wait_for(|now| now.stage != stage).await),
                    None => {
                        if self.elsewhere.is_watched(job.number) {
                            self.jobs.several(job.number);
                        }
                        self.elsewhere.changed(&job).await;
                    }
                }
            };
            // Time that is over is noticed at the next round.
            let _ = tokio::time::timeout_at(until, moved).await;
            // Stages that follow each other fast are told as one, and nothing can make this loop spin.
            tokio::time::sleep(BREATH).await;
        }
    }

    /// `DELETE pull`: ends the caller's unfinished pull. Others who pull the same are not concerned.
    pub(crate) async fn cancel(
        &self,
        system: &str,
        itype: &str,
        tag: &str,
        caller: &Caller,
    ) -> Result<(), Refusal> {
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            if let Some(job) = self.catalog.job_of(&key, caller.uid).await?
                && self.jobs.cancel(job.number, CANCELED).await?
            {
                return Ok(());
            }
        }
        Err(Refusal::NoJob)
    }

    /// Who begins anew need not hear that they ended the one before; who waited for that one follows the new one.
    pub(crate) async fn forget_cancellation(
        &self,
        system: &str,
        itype: &str,
        tag: &str,
        caller: &Caller,
    ) -> Result<(), Refusal> {
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            if let Some(job) = self.catalog.job_of(&key, caller.uid).await?
                && job.status.is_over()
                && job.message == CANCELED
            {
                self.catalog.forget_end(job.number).await?;
            }
        }
        Ok(())
    }

    /// An unfinished pull.
    pub(super) fn going(&self, mut job: Job) -> Pulled {
        let standing = self.jobs.standing(job.number);
        if let Some(standing) = &standing {
            job.message.clone_from(&standing.line);
        }
        Pulled::unfinished(job.to_wire(false), job, standing)
    }

    /// The end of a pull, told once.
    pub(super) async fn told(&self, job: Job, caller: &Caller) -> Result<Pulled, Refusal> {
        if job.status == JobStatus::Ready
            && let Some((image, grants)) = self.usable(&job.key, caller).await?
        {
            return Ok(self.ready(&image, &job.key, &grants, caller));
        }
        Ok(Pulled::over(job.to_wire(false)))
    }

    /// An image as its puller is told of it: with a hint, where it is theirs alone.
    pub(super) fn ready(&self, image: &Image, key: &TagKey, grants: &[Grant], caller: &Caller) -> Pulled {
        // Whoever made it, here or elsewhere: the puller's next lookup finds this one.
        self.catalog.doubt(Some(key));
        let mut shown = self.show(image, &key.itype, vec![key.tag.clone()], grants);
        if shown.user_acl.as_deref() == Some(&[caller.uid]) && shown.group_acl.as_deref() == Some(&[]) {
            shown.status_message = Some(alone(&key.itype));
        }
        Pulled::over(shown)
    }
}
