//! What the routes do, once a caller is proven: list, lookup, pull and queue. Answers are wire types
//! or a `Refusal`; HTTP itself is next door.
//!
//! Images that a caller may not use do not exist for that caller. A pull answers with the caller's own
//! job or with an image they may use, so nobody sees another one's failure, access list or private name.

mod inspect;
mod manage;

use std::sync::Arc;

use shifter_api::wire::{self, ImageList, PullRequest, Queue, QueueEntry};
use shifter_core::image_type::ImageType;

pub(crate) use self::manage::Managing;
use crate::acl::{self, Groups, Member};
use crate::auth::Caller;
use crate::catalog::{Catalog, CatalogError, NewJob, Submitted, submit};
use crate::config::{Access, Config, Platform};
use crate::convert::sentence;
use crate::jobs::Jobs;
use crate::model::{Grant, Image, Job, JobStatus, TagKey, now};
use crate::pull::PullError;
use crate::target::{Target, parse_reference};

/// Everything the handlers need.
pub(crate) struct Api {
    pub(crate) config: Arc<Config>,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) groups: Groups,
    pub(crate) managing: Managing,
}

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("image not found")]
    NoImage,
    #[error("{0}")]
    Unprocessable(String),
    /// Not now, or not as long as something else stands in the way.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Forbidden(String),
    #[error(transparent)]
    Files(PullError),
    #[error("there are too many unfinished pulls, of all callers or of yours; try again in a minute")]
    Busy,
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Api {
    /// `GET list`: what the caller may use, one record per image and type.
    pub(crate) async fn list(&self, system: &str, caller: &Caller) -> Result<ImageList, Refusal> {
        let records = self.catalog.list(Some(system)).await?;
        let member = self.member(caller, records.iter().any(|record| name_groups(&record.grants))).await;
        let mut list = Vec::new();
        for record in &records {
            let visible =
                record.tags.iter().filter(|tag| record.grants_of(tag).any(|g| acl::allows(g, &member)));
            let mut by_type: std::collections::BTreeMap<&str, (Vec<String>, Vec<&Grant>)> =
                Default::default();
            for tag in visible {
                let (tags, of_tags) = by_type.entry(&tag.itype).or_default();
                tags.push(tag.tag.clone());
                of_tags.extend(record.grants_of(tag));
            }
            for (itype, (tags, grants)) in by_type {
                list.push(record.image.to_wire(itype, tags, acl::union(grants).unwrap_or_default()));
            }
        }
        Ok(ImageList { list })
    }

    /// `GET lookup`: one tag; not found and not allowed are one answer.
    pub(crate) async fn lookup(
        &self,
        system: &str,
        itype: &str,
        tag: &str,
        caller: &Caller,
    ) -> Result<wire::Image, Refusal> {
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            if let Some((image, grants)) = self.usable(&key, caller).await? {
                // A catalog that cannot be written at the moment still answers.
                if let Err(error) = self.keep_alive(&image).await {
                    tracing::warn!(error = sentence(&error), "a lookup could not move an expiration");
                }
                self.managing.note_use(caller.uid, &key, &image.id);
                return Ok(image.to_wire(itype, vec![key.tag], acl::union(&grants).unwrap_or_default()));
            }
        }
        Err(Refusal::NoImage)
    }

    /// `POST pull`: starts a pull, or tells how the caller's earlier one stands. Answers at once.
    pub(crate) async fn pull(
        &self,
        system: &str,
        platform: &Platform,
        itype: &str,
        tag: &str,
        body: &[u8],
        caller: &Caller,
    ) -> Result<wire::Image, Refusal> {
        let request = PullRequest::parse(body).map_err(|error| match error {
            wire::PullRequestError::Json(_) => Refusal::BadRequest(sentence(&error)),
            wire::PullRequestError::Ids { .. } => Refusal::Unprocessable(sentence(&error)),
        })?;
        if itype != ImageType::Docker.as_str() {
            let why =
                format!("images of type \"{}\" cannot be pulled, only docker images", itype.escape_default());
            return Err(Refusal::Unprocessable(why));
        }
        if platform.access == Access::Remote {
            let why = format!(
                "system {system} is configured for remote transfer, which this version does not do yet"
            );
            return Err(Refusal::Unprocessable(why));
        }
        let target =
            Target::parse(&self.config, tag).map_err(|error| Refusal::Unprocessable(sentence(&error)))?;
        let credentials = target.credentials(&self.config, &caller.payload);
        let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag: target.tag };
        let acl = acl::with_author(&request.allowed_uids, &request.allowed_gids, caller.uid, caller.gid)
            .map_err(|error| Refusal::Unprocessable(sentence(&error)))?;
        let new =
            NewJob { key, uid: caller.uid, gid: caller.gid, acl, with_credentials: credentials.is_some() };
        let usable = self.usable(&new.key, caller).await?;
        let fresh = match &usable {
            Some((image, grants)) => {
                self.is_fresh(&new, grants) && self.jobs.puller().is_published(platform, image).await
            }
            None => false,
        };
        let telling = self.config.pull_update.as_secs_f64();
        let is_shared = |number| self.jobs.is_end_shared(number);
        match submit(&*self.catalog, &new, fresh, telling, &is_shared).await? {
            Submitted::Started(job) => {
                let reply = job.to_wire(true);
                self.jobs.start(job.number, credentials);
                Ok(reply)
            }
            Submitted::Going(mut job) => {
                if let Some(line) = self.jobs.poll(job.number) {
                    job.message = line;
                }
                let reply = job.to_wire(false);
                // It runs, here or elsewhere, unless its process died and it waits for its credentials.
                if self.jobs.may_take(&job) {
                    self.jobs.start(job.number, credentials);
                }
                Ok(reply)
            }
            Submitted::Over(job) => self.told(job, caller).await,
            Submitted::Fresh => match usable {
                Some((image, grants)) => {
                    let acl = acl::union(&grants).unwrap_or_default();
                    Ok(image.to_wire(itype, vec![new.key.tag], acl))
                }
                None => Err(Refusal::NoImage),
            },
            Submitted::TooMany => Err(Refusal::Busy),
        }
    }

    /// `GET queue`: the caller's unfinished pulls, and others' where the registry gives the tag to all.
    pub(crate) async fn queue(&self, system: &str, caller: &Caller) -> Result<Queue, Refusal> {
        let jobs = self.catalog.unfinished(Some(system)).await?;
        let visible = jobs.into_iter().filter(|job| job.uid == caller.uid || job.public);
        let entry = |job: Job| QueueEntry { status: job.status.as_str().to_owned(), image: job.key.tag };
        Ok(Queue { list: visible.map(entry).collect() })
    }

    /// The end of a pull, told once.
    async fn told(&self, job: Job, caller: &Caller) -> Result<wire::Image, Refusal> {
        if job.status == JobStatus::Ready
            && let Some((image, grants)) = self.usable(&job.key, caller).await?
        {
            let acl = acl::union(&grants).unwrap_or_default();
            return Ok(image.to_wire(&job.key.itype, vec![job.key.tag], acl));
        }
        Ok(job.to_wire(false))
    }

    /// The image of a tag with the tag's own grants, if one of them lets the caller in.
    async fn usable(
        &self,
        key: &TagKey,
        caller: &Caller,
    ) -> Result<Option<(Image, Vec<Grant>)>, CatalogError> {
        let Some((image, grants)) = self.catalog.lookup(key).await? else { return Ok(None) };
        let member = self.member(caller, name_groups(&grants)).await;
        Ok(grants.iter().any(|grant| acl::allows(grant, &member)).then_some((image, grants)))
    }

    /// Whether the registry need not be asked: somebody else was accepted for the tag within
    /// `PullUpdateTimeout` and it is open to this caller. Who pulls a second time wants to know whether
    /// the tag has moved, and who gives an access list wants it taken up: both are asked for anew.
    fn is_fresh(&self, new: &NewJob, grants: &[Grant]) -> bool {
        let oldest = now() - self.config.pull_update.as_secs_f64();
        let asks_nothing = new.acl.is_public();
        !grants.iter().any(|grant| grant.puller == new.uid)
            && grants
                .iter()
                .filter(|grant| grant.checked > oldest)
                .any(|grant| grant.public || (asks_nothing && grant.acl.uids.contains(&new.uid)))
    }

    /// The caller; with all groups only where they can matter, since asking for them costs a process.
    async fn member(&self, caller: &Caller, needs_groups: bool) -> Member {
        let groups = if needs_groups { self.groups.of(caller.uid).await } else { Vec::new() };
        Member { uid: caller.uid, gid: caller.gid, groups }
    }

    /// A lookup moves the expiration; the write is spared while it would move by little.
    async fn keep_alive(&self, image: &Image) -> Result<(), CatalogError> {
        let lifetime = self.config.image_expiration.as_secs_f64();
        let expiration = now() + lifetime;
        if expiration - image.expiration > (lifetime / 100.0).min(3600.0) {
            self.catalog.set_expiration(&image.system, &image.id, expiration).await?;
        }
        Ok(())
    }

    /// How a tag may stand in the catalog. `:latest` is implied for docker images; for custom ones it
    /// may have been written or not when they were imported.
    fn spellings(&self, itype: &str, tag: &str) -> Vec<String> {
        match ImageType::parse(itype) {
            Some(ImageType::Docker) => {
                parse_reference(&self.config, tag).map(|image| image.to_string()).into_iter().collect()
            }
            Some(ImageType::Custom) if !tag.contains(':') => vec![tag.to_owned(), format!("{tag}:latest")],
            _ => vec![tag.to_owned()],
        }
    }
}

fn name_groups(grants: &[Grant]) -> bool {
    grants.iter().any(|grant| !grant.public && !grant.acl.gids.is_empty())
}
