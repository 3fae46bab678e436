//! Which images stay: removal, restore, pins, expiry, and limits of size.
//!
//! An image leaves in one step of the catalog, in which nobody finds it any more; only then its files go,
//! `.meta` first. Who dies in between leaves an expiring record, and the next run of any gateway finishes it.
//! The record stays, with tags and grants, for as long again as images live unused (`ImageExpirationTimeout`);
//! until then it can be restored, its files by the next pull. Nothing is removed that somebody pulls at the
//! moment, and pinned images are removed by nobody.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::audit;
use crate::catalog::{Catalog, CatalogError, LEASE, Record, State, Turn};
use crate::config::Platform;
use crate::convert::sentence;
use crate::jobs::Jobs;
use crate::live::Live;
use crate::model::{Grant, Image, TagKey, now};
use crate::pull::PullError;
use crate::uses::{KEPT, Uses};

/// Time between looks at what is left to do.
const PERIOD: Duration = Duration::from_secs(60);

/// Looks between two expiries, where the site wants them.
const EXPIRY: u64 = 60;

/// What became of a request about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// There is no such image, or nothing of the caller's.
    None,
    Pinned,
    /// Somebody pulls it at the moment.
    Busy,
}

/// Why an image is to go.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Why {
    Asked,
    /// Only if its expiration is not later than this by now.
    UnusedSince(f64),
    /// Likewise, as its directory holds too much.
    NoRoom(f64),
}

impl Why {
    /// The expiration that an image may have at most.
    fn if_expired_by(self) -> Option<f64> {
        match self {
            Why::Asked => None,
            Why::UnusedSince(time) | Why::NoRoom(time) => Some(time),
        }
    }

    /// Tells the audit log of what nobody asked for by name.
    fn note(self, image: &Image) {
        let why = match self {
            Why::Asked => return,
            Why::UnusedSince(_) => "nobody used it for ImageExpirationTimeout",
            Why::NoRoom(_) => "the longest unused one, and the images are more than ImageDirSizeLimit allows",
        };
        audit::expired(&image.system, &image.id, why);
    }
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Files(#[from] PullError),
}

/// Keeps the image directories in order.
pub(crate) struct Keeper {
    config: Live,
    catalog: Arc<dyn Catalog>,
    jobs: Arc<Jobs>,
}

impl Keeper {
    pub(crate) fn new(config: Live, catalog: Arc<dyn Catalog>, jobs: Arc<Jobs>) -> Keeper {
        Keeper { config, catalog, jobs }
    }

    /// Removes an image, all its tags and whoever's they are.
    pub(crate) async fn remove(self: &Arc<Self>, system: &str, id: &str) -> Result<Outcome, KeepError> {
        let (system, id) = (system.to_owned(), id.to_owned());
        self.whole(|keeper| async move {
            let wanted = keeper.wanted(&system).await?;
            keeper.retire(&system, &id, Why::Asked, &wanted).await
        })
        .await
    }

    /// Does something to its end, whoever hangs up meanwhile.
    async fn whole<T, F, W>(self: &Arc<Self>, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(Arc<Keeper>) -> W,
        W: Future<Output = T> + Send + 'static,
    {
        self.jobs.puller().whole().run(work(self.clone())).await
    }

    /// Takes back what a caller earned for an image under a tag; the last grant takes the image with it.
    pub(crate) async fn give_up(
        self: &Arc<Self>,
        key: &TagKey,
        id: &str,
        uid: u32,
    ) -> Result<Outcome, KeepError> {
        let (key, id) = (key.clone(), id.to_owned());
        self.whole(|keeper| async move { keeper.give_up_now(&key, &id, uid).await }).await
    }

    async fn give_up_now(&self, key: &TagKey, id: &str, uid: u32) -> Result<Outcome, KeepError> {
        let Some(platform) = self.config.platforms.get(&key.system) else { return Ok(Outcome::None) };
        let puller = self.jobs.puller();
        loop {
            let Some(_guard) = puller.try_hold(platform, id) else { return Ok(Outcome::Busy) };
            let Some(mut record) = self.catalog.record(&key.system, id).await? else {
                return Ok(Outcome::None);
            };
            let is_others = |grant: &Grant| grant.key != *key || grant.puller != uid;
            if record.grants.iter().all(is_others) {
                return Ok(Outcome::None);
            }
            if !record.pinned && !record.grants.iter().any(is_others) {
                if is_wanted(&record, &self.wanted(&key.system).await?) {
                    return Ok(Outcome::Busy);
                }
                // The grant stays in what is kept of the image; who is granted something now prevents this.
                if self.begin_removal(&record, None).await? {
                    self.finish_removal(platform, &key.system, id).await?;
                    return Ok(Outcome::Done);
                }
                continue;
            }
            record.grants.retain(is_others);
            puller.write_meta(platform, &record).await?;
            let is_stored = self.catalog.store(&record).await;
            // Whatever became of it, `.meta` says in the end what is stored.
            puller.settle_meta(platform, id).await?;
            if is_stored? {
                return Ok(Outcome::Done);
            }
        }
    }

    /// Brings an image back with its tags and grants, and whether its file is there, too.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        system: &str,
        id: &str,
    ) -> Result<(Outcome, bool), KeepError> {
        let (system, id) = (system.to_owned(), id.to_owned());
        self.whole(|keeper| async move { keeper.restore_now(&system, &id).await }).await
    }

    async fn restore_now(&self, system: &str, id: &str) -> Result<(Outcome, bool), KeepError> {
        let Some(platform) = self.config.platforms.get(system) else { return Ok((Outcome::None, false)) };
        let puller = self.jobs.puller();
        let Some(_guard) = puller.try_hold(platform, id) else { return Ok((Outcome::Busy, false)) };
        loop {
            if let Some(record) = self.catalog.record(system, id).await? {
                puller.settle_meta(platform, id).await?;
                return Ok((Outcome::Done, puller.has_file(&record.image).await?));
            }
            let Some(record) = self.catalog.retired(Some(system), Some(id)).await?.pop() else {
                return Ok((Outcome::None, false));
            };
            let back = Turn { to: State::Ready, expiration: self.next_expiration(), if_expired_by: None };
            self.catalog.turn(&record, &back).await?;
        }
    }

    /// Pins an image, or lets it go like others again; whether there is one.
    pub(crate) async fn pin(&self, system: &str, id: &str, is_pinned: bool) -> Result<bool, KeepError> {
        loop {
            let Some(record) = self.catalog.record(system, id).await? else { return Ok(false) };
            if record.pinned == is_pinned
                || self.catalog.store(&Record { pinned: is_pinned, ..record }).await?
            {
                return Ok(true);
            }
        }
    }

    /// Removes a system's images that nobody used for too long, and the longest unused ones of those that are
    /// too many for its directory; their ids. A dry run tells which these are and changes nothing.
    pub(crate) async fn expire(
        self: &Arc<Self>,
        system: &str,
        is_dry_run: bool,
    ) -> Result<Vec<String>, KeepError> {
        let system = system.to_owned();
        self.whole(|keeper| async move { keeper.expire_now(&system, is_dry_run).await }).await
    }

    async fn expire_now(&self, system: &str, is_dry_run: bool) -> Result<Vec<String>, KeepError> {
        if !is_dry_run {
            self.finish_removals(system).await?;
            self.forget_expired(system).await?;
        }
        let wanted = self.wanted(system).await?;
        let now = now();
        let mut ids = Vec::new();
        let mut kept = Vec::new();
        for record in self.catalog.list(Some(system)).await? {
            // An original gateway sets none before the first lookup: its time begins now.
            if record.image.expiration <= 0.0 {
                if !is_dry_run {
                    let next = self.next_expiration();
                    self.catalog.set_expiration(system, &record.image.id, next).await?;
                }
                kept.push(record);
            } else if record.image.expiration > now
                || !self.goes(&record, Why::UnusedSince(now), &wanted, is_dry_run).await?
            {
                kept.push(record);
            } else {
                ids.push(record.image.id);
            }
        }
        ids.extend(self.make_room(system, kept, &wanted, is_dry_run).await?);
        Ok(ids)
    }

    /// Removes the longest unused images until the rest fits the system's limit; their ids.
    async fn make_room(
        &self,
        system: &str,
        mut records: Vec<Record>,
        wanted: &HashSet<TagKey>,
        is_dry_run: bool,
    ) -> Result<Vec<String>, KeepError> {
        let limit = self.config.platforms.get(system).and_then(|platform| platform.size_limit);
        let Some(limit) = limit else { return Ok(Vec::new()) };
        let mut total: u64 = records.iter().map(|record| record.image.size).sum();
        // All live equally long unused, so the one that expires first was used first.
        let age = |record: &Record| (record.image.expiration, record.image.last_pull);
        records.sort_by(|a, b| age(a).0.total_cmp(&age(b).0).then(age(a).1.total_cmp(&age(b).1)));
        let mut ids = Vec::new();
        for record in records {
            if total <= limit {
                break;
            }
            let why = Why::NoRoom(record.image.expiration);
            if self.goes(&record, why, wanted, is_dry_run).await? {
                total -= record.image.size;
                ids.push(record.image.id);
            }
        }
        if total > limit {
            tracing::warn!(
                system,
                bytes = total,
                limit,
                "the images that may not be removed are more than ImageDirSizeLimit allows"
            );
        }
        Ok(ids)
    }

    /// Removes an image, or tells whether it would be.
    async fn goes(
        &self,
        record: &Record,
        why: Why,
        wanted: &HashSet<TagKey>,
        is_dry_run: bool,
    ) -> Result<bool, KeepError> {
        if is_dry_run {
            return Ok(!record.pinned && !is_wanted(record, wanted));
        }
        Ok(self.retire(&record.image.system, &record.image.id, why, wanted).await? == Outcome::Done)
    }

    async fn retire(
        &self,
        system: &str,
        id: &str,
        why: Why,
        wanted: &HashSet<TagKey>,
    ) -> Result<Outcome, KeepError> {
        let Some(platform) = self.config.platforms.get(system) else { return Ok(Outcome::None) };
        let Some(_guard) = self.jobs.puller().try_hold(platform, id) else { return Ok(Outcome::Busy) };
        loop {
            let Some(record) = self.catalog.record(system, id).await? else { return Ok(Outcome::None) };
            if record.pinned {
                return Ok(Outcome::Pinned);
            }
            if is_wanted(&record, wanted) {
                return Ok(Outcome::Busy);
            }
            let if_expired_by = why.if_expired_by();
            if self.begin_removal(&record, if_expired_by).await? {
                why.note(&record.image);
                self.finish_removal(platform, system, id).await?;
                return Ok(Outcome::Done);
            }
            if record.revision > 0 && if_expired_by.is_some() {
                // Somebody used or was granted it just now.
                return Ok(Outcome::Busy);
            }
        }
    }

    /// The step in which an image, as it was read, is no longer found; whether it was done. One that only an
    /// original gateway knew becomes ours first, and is to be read again.
    async fn begin_removal(&self, record: &Record, if_expired_by: Option<f64>) -> Result<bool, KeepError> {
        let Record { image, tags, grants, revision, .. } = record;
        if *revision == 0 {
            self.catalog.store(record).await?;
            return Ok(false);
        }
        let turn = Turn { to: State::Expiring, expiration: now(), if_expired_by };
        let is_done = self.catalog.turn(record, &turn).await?;
        if is_done {
            let (tags, grants) = (tags.len(), grants.len());
            tracing::info!(system = image.system, id = image.id, tags, grants, "image expires");
        }
        Ok(is_done)
    }

    /// Removes the files of an image that is expiring. Under the image's lock.
    async fn finish_removal(&self, platform: &Platform, system: &str, id: &str) -> Result<(), KeepError> {
        let puller = self.jobs.puller();
        let Some(record) = self.catalog.retired(Some(system), Some(id)).await?.pop() else { return Ok(()) };
        if record.state != State::Expiring {
            return Ok(());
        }
        if puller.sharing(platform, id).await?.is_empty() {
            let removed = puller.store(system)?.remove(id, &record.image.format).await;
            removed.map_err(PullError::from)?;
        } else {
            // Another system still has it, in the same directory.
            puller.settle_meta(platform, id).await?;
        }
        let (to, expiration) = (State::Expired, record.image.expiration);
        self.catalog.turn(&record, &Turn { to, expiration, if_expired_by: None }).await?;
        Ok(())
    }

    /// Finishes what dead processes began: not what another one may be doing just now.
    async fn finish_removals(&self, system: &str) -> Result<(), KeepError> {
        let Some(platform) = self.config.platforms.get(system) else { return Ok(()) };
        let begun = now() - 2.0 * LEASE.as_secs_f64();
        for record in self.catalog.retired(Some(system), None).await? {
            let id = &record.image.id;
            if record.state != State::Expiring || record.image.expiration > begun {
                continue;
            }
            if let Some(_guard) = self.jobs.puller().try_hold(platform, id) {
                tracing::info!(system, id, "finishing the removal of an image");
                self.finish_removal(platform, system, id).await?;
            }
        }
        Ok(())
    }

    /// Forgets images that expired so long ago that nobody restores them any more.
    async fn forget_expired(&self, system: &str) -> Result<(), KeepError> {
        let before = now() - self.config.image_expiration.as_secs_f64();
        for record in self.catalog.retired(Some(system), None).await? {
            if record.state == State::Expired && record.image.expiration < before {
                self.catalog.forget(&record).await?;
            }
        }
        Ok(())
    }

    /// The tags that somebody is pulling at the moment, here or elsewhere.
    async fn wanted(&self, system: &str) -> Result<HashSet<TagKey>, KeepError> {
        Ok(self.catalog.unfinished(Some(system)).await?.into_iter().map(|job| job.key).collect())
    }

    fn next_expiration(&self) -> f64 {
        now() + self.config.image_expiration.as_secs_f64()
    }

    /// Keeps order from now on, unasked: removals that were begun, limits of size and, where the site wants
    /// it, expiry and the number of lookups that are noted.
    pub(crate) fn start(self: &Arc<Self>, uses: &Arc<Uses>) {
        let (keeper, uses) = (Arc::downgrade(self), uses.clone());
        tokio::spawn(async move {
            for round in 0_u64.. {
                tokio::time::sleep(PERIOD).await;
                let Some(keeper) = keeper.upgrade() else { return };
                for system in keeper.config.platforms.keys() {
                    if let Err(error) = keeper.tend(system, round).await {
                        tracing::warn!(
                            system,
                            error = sentence(&error),
                            "keeping the image directory failed"
                        );
                    }
                }
                if round % EXPIRY == 0
                    && uses.are_wanted()
                    && let Err(error) = keeper.catalog.trim_uses(KEPT).await
                {
                    tracing::warn!(error = sentence(&error), "forgetting old lookups failed");
                }
            }
        });
    }

    async fn tend(&self, system: &str, round: u64) -> Result<(), KeepError> {
        if self.config.auto_expire && round.is_multiple_of(EXPIRY) {
            return self.expire_now(system, false).await.map(drop);
        }
        self.finish_removals(system).await?;
        if self.config.platforms.get(system).is_some_and(|platform| platform.size_limit.is_some()) {
            let records = self.catalog.list(Some(system)).await?;
            let wanted = self.wanted(system).await?;
            self.make_room(system, records, &wanted, false).await?;
        }
        Ok(())
    }
}

fn is_wanted(record: &Record, wanted: &HashSet<TagKey>) -> bool {
    let system = &record.image.system;
    record.tags.iter().any(|tag| {
        let (system, itype, tag) = (system.clone(), tag.itype.clone(), tag.tag.clone());
        wanted.contains(&TagKey { system, itype, tag })
    })
}
