//! What the routes do, once a caller is proven: list, lookup, pull, cancel and queue. Answers are wire types
//! or a `Refusal`; HTTP itself is next door.
//!
//! Images that a caller may not use do not exist for that caller: the same questions are asked and the same
//! answer is given. A pull answers with the caller's own
//! job or with an image they may use, so nobody sees another one's failure, access list or private name.

mod following;
mod importing;
mod inspect;
pub(crate) mod manage;
mod uploads;

use std::sync::Arc;

use shifter_api::wire::{self, ImageList, PullRequest, Queue, QueueEntry};
use shifter_core::image_type::ImageType;
use shifter_registry::RegistryError;

pub(crate) use self::manage::Managing;
pub(crate) use self::uploads::Room;
use self::uploads::Uploads;
use crate::acl::{self, Groups, Member};
use crate::auth::Caller;
use crate::catalog::{Catalog, CatalogError, NewJob, Submitted, Tag, submit};
use crate::convert::sentence;
use crate::filter::Filter;
use crate::jobs::Jobs;
use crate::listed::Listed;
use crate::live::Live;
use crate::login::Logins;
use crate::model::{Grant, Image, Job, JobStatus, TagKey, now};
use crate::prometheus::METRICS;
use crate::pull::PullError;
use crate::target::{Target, TargetError, parse_reference};
use crate::waiting::{Elsewhere, Pulled};

/// Everything the handlers need.
pub(crate) struct Api {
    pub(crate) config: Live,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) groups: Groups,
    pub(crate) logins: Logins,
    pub(crate) elsewhere: Arc<Elsewhere>,
    pub(crate) managing: Managing,
    listed: Listed,
    uploads: Uploads,
}

/// What a tag means for a caller.
enum Found {
    /// With the grants that let them in.
    Usable(Box<Image>, Vec<Grant>),
    /// Something, of this id.
    Denied(String),
    Nothing,
}

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("image not found")]
    NoImage,
    /// There is one, of this id, and not for the caller, who is told the same as of none.
    #[error("image not found")]
    Denied(String),
    #[error("you have no unfinished pull of this image")]
    NoJob,
    #[error("you asked too often; try again in a minute")]
    TooOften,
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
    #[error(
        "there is no room for this file among those that others sent; try again later, or bring it where the gateway \
         can read it"
    )]
    NoRoom,
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Api {
    /// The handlers' common ground.
    pub(crate) fn new(config: Live, catalog: Arc<dyn Catalog>, jobs: Arc<Jobs>) -> Api {
        let (groups, logins) = (Groups::default(), Logins::default());
        let elsewhere = Elsewhere::new(catalog.clone());
        let managing = Managing::new(&config, &catalog, &jobs);
        let uploads = Uploads::default();
        let listed = Listed::new(catalog.clone());
        catalog.remember();
        Api { config, catalog, jobs, groups, logins, elsewhere, managing, listed, uploads }
    }

    /// `GET list`: what the caller may use, one record per image and type. Who is nobody sees what is public.
    pub(crate) async fn list<'a>(
        &self,
        system: &str,
        caller: impl Into<Option<&'a Caller>>,
        filter: &Filter,
    ) -> Result<ImageList, Refusal> {
        let caller = caller.into();
        let records = self.listed.of(system).await?;
        let member = self.member(caller, records.iter().any(|record| name_groups(&record.grants))).await;
        let mut list = Vec::new();
        for record in records.iter().filter(|record| filter.has_labels(&record.image.config.labels)) {
            let is_own = |grant: &&Grant| caller.is_some_and(|caller| caller.uid == grant.puller);
            let is_wanted = |tag: &Tag| {
                filter.has_name(&tag.tag) && (!filter.mine || record.grants_of(tag).any(|g| is_own(&g)))
            };
            let mut by_type: std::collections::BTreeMap<&str, (Vec<String>, Vec<&Grant>)> =
                Default::default();
            for tag in record.tags.iter().filter(|tag| is_wanted(tag)) {
                let open: Vec<&Grant> =
                    record.grants_of(tag).filter(|grant| acl::allows(grant, &member)).collect();
                if !open.is_empty() {
                    let (tags, of_tags) = by_type.entry(&tag.itype).or_default();
                    tags.push(tag.tag.clone());
                    of_tags.extend(open);
                }
            }
            for (itype, (tags, grants)) in by_type {
                list.push(self.show(&record.image, itype, tags, grants));
            }
        }
        Ok(ImageList { list })
    }

    /// `GET lookup`: one tag; not found and not allowed are one answer.
    pub(crate) async fn lookup<'a>(
        &self,
        system: &str,
        itype: &str,
        tag: &str,
        caller: impl Into<Option<&'a Caller>>,
    ) -> Result<wire::Image, Refusal> {
        let caller = caller.into();
        let mut refusal = Refusal::NoImage;
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            let found = match self.recall(&key, caller).await {
                Some(found) => found,
                None => self.find(&key, caller).await?,
            };
            match found {
                Found::Usable(image, grants) => {
                    // A catalog that cannot be written at the moment still answers.
                    match self.keep_alive(&image).await {
                        Ok(false) => {}
                        Ok(true) => self.catalog.doubt(Some(&key)),
                        Err(error) => {
                            tracing::warn!(error = sentence(&error), "a lookup could not move an expiration");
                        }
                    }
                    if let Some(caller) = caller {
                        self.managing.note_use(caller.uid, &key, &image.id);
                    }
                    return Ok(self.show(&image, itype, vec![key.tag], &grants));
                }
                Found::Denied(id) => refusal = Refusal::Denied(id),
                Found::Nothing => {}
            }
        }
        Err(refusal)
    }

    /// `POST pull`: starts a pull, or tells how the caller's earlier one stands. Answers at once; `wait` does not.
    pub(crate) async fn pull(
        &self,
        system: &str,
        itype: &str,
        tag: &str,
        body: &[u8],
        caller: &Caller,
    ) -> Result<Pulled, Refusal> {
        let request = PullRequest::parse(body).map_err(|error| match error {
            wire::PullRequestError::Json(_) => Refusal::BadRequest(sentence(&error)),
            wire::PullRequestError::Ids { .. } => Refusal::Unprocessable(sentence(&error)),
        })?;
        if itype != ImageType::Docker.as_str() {
            let why =
                format!("images of type \"{}\" cannot be pulled, only docker images", itype.escape_default());
            return Err(Refusal::Unprocessable(why));
        }
        let target = self.target(tag)?;
        let credentials = target.credentials(&self.config, &caller.payload);
        let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag: target.tag };
        let acl = acl::with_author(&request.allowed_uids, &request.allowed_gids, caller.uid, caller.gid)
            .map_err(|error| Refusal::Unprocessable(sentence(&error)))?;
        let (uid, gid, with_credentials) = (caller.uid, caller.gid, credentials.is_some());
        let new = NewJob { key, uid, gid, acl, with_credentials, source: String::new() };
        let usable = self.usable(&new.key, caller).await?;
        let fresh = match &usable {
            Some((image, grants)) => {
                self.is_fresh(&new, grants)
                    && self.jobs.puller().is_published(image).await
                    && !self.is_moving(&new.key).await?
            }
            None => false,
        };
        let telling = self.config.pull_update.as_secs_f64();
        let is_shared = |number| self.jobs.is_end_shared(number);
        match submit(&*self.catalog, &new, fresh, telling, &is_shared).await? {
            Submitted::Started(job) => {
                let image = job.to_wire(true);
                self.jobs.start(job.number, credentials);
                Ok(Pulled::unfinished(image, job, None))
            }
            Submitted::Going(job) => {
                let pulled = self.going(job);
                // It runs, here or elsewhere, unless its process died and it waits for its credentials.
                if let Some(job) = pulled.job.as_ref().filter(|job| self.jobs.may_take(job)) {
                    self.jobs.start(job.number, credentials);
                }
                Ok(pulled)
            }
            Submitted::Over(job) => self.told(job, caller).await,
            Submitted::Fresh => match usable {
                Some((image, grants)) => Ok(self.ready(&image, &new.key, &grants, caller)),
                None => Err(Refusal::NoImage),
            },
            Submitted::TooMany => Err(Refusal::Busy),
        }
    }

    /// `GET queue`: the caller's unfinished pulls, and others' where the registry gives the tag to all.
    pub(crate) async fn queue(&self, system: &str, caller: &Caller) -> Result<Queue, Refusal> {
        let jobs = self.catalog.unfinished(Some(system)).await?;
        // Who sees no pull any more is to find its image.
        self.catalog.doubt(None);
        let visible = jobs.into_iter().filter(|job| job.uid == caller.uid || job.public);
        let entry = |job: Job| QueueEntry { status: job.status.as_str().to_owned(), image: job.key.tag };
        Ok(Queue { list: visible.map(entry).collect() })
    }

    /// A record with the access list of the given grants, which are those that let its reader in: whom others
    /// share the same image with is not theirs to know.
    fn show<'g>(
        &self,
        image: &Image,
        itype: &str,
        tags: Vec<String>,
        grants: impl IntoIterator<Item = &'g Grant>,
    ) -> wire::Image {
        let mut shown = image.to_wire(itype, tags, acl::union(grants).unwrap_or_default());
        if !self.config.environment.show_labels {
            shown.labels = None;
        }
        shown
    }

    /// The image of a tag with those of the tag's own grants that let the caller in, if any does.
    pub(crate) async fn usable<'a>(
        &self,
        key: &TagKey,
        caller: impl Into<Option<&'a Caller>>,
    ) -> Result<Option<(Image, Vec<Grant>)>, CatalogError> {
        Ok(match self.find(key, caller.into()).await? {
            Found::Usable(image, grants) => Some((*image, grants)),
            Found::Denied(_) | Found::Nothing => None,
        })
    }

    /// What is kept of a tag, if that lets the caller in. Nobody is refused from memory: where a refusal is faster than
    /// finding nothing, there is something private.
    async fn recall(&self, key: &TagKey, caller: Option<&Caller>) -> Option<Found> {
        let kept = self.catalog.recall(key)?;
        let (image, grants) = &*kept;
        let member = self.member(caller, name_groups(grants)).await;
        let open: Vec<Grant> = grants.iter().filter(|grant| acl::allows(grant, &member)).cloned().collect();
        if open.is_empty() {
            return None;
        }
        METRICS.lookup_remembered();
        Some(Found::Usable(Box::new(image.clone()), open))
    }

    /// What of the caller decides on grants. Where there are none, their groups are asked as if there were, so that nobody
    /// can tell one from the other by the time it takes.
    async fn member_for(&self, caller: Option<&Caller>, grants: &[Grant]) -> Option<Member> {
        let member = self.member(caller, false).await;
        if grants.iter().any(|grant| acl::allows(grant, &member)) && !name_groups(grants) {
            return member;
        }
        self.member(caller, true).await
    }

    async fn find(&self, key: &TagKey, caller: Option<&Caller>) -> Result<Found, CatalogError> {
        let found = self.catalog.lookup(key).await?;
        let grants = found.as_ref().map_or(&[][..], |(_, grants)| grants);
        let member = self.member_for(caller, grants).await;
        Ok(match found {
            None => Found::Nothing,
            Some((image, mut grants)) => {
                grants.retain(|grant| acl::allows(grant, &member));
                if grants.is_empty() {
                    Found::Denied(image.id)
                } else {
                    Found::Usable(Box::new(image), grants)
                }
            }
        })
    }

    fn target(&self, tag: &str) -> Result<Target, Refusal> {
        Target::parse(&self.config, tag).map_err(|error| match &error {
            TargetError::Refused(RegistryError::Policy { .. }) => Refusal::Forbidden(sentence(&error)),
            _ => Refusal::Unprocessable(sentence(&error)),
        })
    }

    /// Whether the registry need not be asked: somebody else was accepted for the tag within
    /// `PullUpdateTimeout`, in one of these grants, which let the caller in. Who pulls a second time wants to
    /// know whether the tag has moved, and who gives an access list wants it taken up: both are asked for anew.
    fn is_fresh(&self, new: &NewJob, grants: &[Grant]) -> bool {
        let oldest = now() - self.config.pull_update.as_secs_f64();
        let asks_nothing = new.acl.is_public();
        !grants.iter().any(|grant| grant.puller == new.uid)
            && grants.iter().filter(|grant| grant.checked > oldest).any(|grant| grant.public || asks_nothing)
    }

    /// Whether somebody's pull is about to end with the tag, of which other gateways' lookups need not know yet.
    async fn is_moving(&self, key: &TagKey) -> Result<bool, Refusal> {
        if self.catalog.lateness().is_none() {
            return Ok(false);
        }
        let unfinished = self.catalog.unfinished(Some(&key.system)).await?;
        Ok(unfinished.iter().any(|job| job.key == *key && job.status == JobStatus::Transfer))
    }

    /// The caller; with all groups only where they can matter, since asking for them costs a process.
    async fn member(&self, caller: Option<&Caller>, needs_groups: bool) -> Option<Member> {
        let caller = caller?;
        let groups = if needs_groups { self.groups.of(caller.uid).await } else { Vec::new() };
        Some(Member { uid: caller.uid, gid: caller.gid, groups })
    }

    /// A lookup moves the expiration; the write is spared while it would move by little. Whether it moved.
    async fn keep_alive(&self, image: &Image) -> Result<bool, CatalogError> {
        let lifetime = self.config.image_expiration.as_secs_f64();
        let expiration = now() + lifetime;
        let moves = expiration - image.expiration > (lifetime / 100.0).min(3600.0);
        if moves {
            self.catalog.set_expiration(&image.system, &image.id, expiration).await?;
        }
        Ok(moves)
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
