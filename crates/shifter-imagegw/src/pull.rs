//! One pull, from the caller's question to the registry to a published image with a grant.
//!
//! The registry is asked with this caller's credentials, always, and before anything else: one HEAD
//! decides both which digest the tag means now and whether the caller may have it. What is already
//! published under that digest is only granted; else one caller at a time downloads, converts and
//! publishes it while the others with the same digest wait for the outcome.

mod files;
pub(crate) mod import;
mod layers;
mod lines;
mod make;
mod reuse;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shifter_core::digest::Algorithm;
use shifter_registry::{BlobCache, Client, Credentials, RegistryError, Settings};
use tokio::sync::Semaphore;

pub(crate) use self::files::Held;
use self::make::Making;
use self::reuse::LayerIndexes;

use crate::acl;
use crate::audit;
use crate::catalog::{Catalog, CatalogError, Record, Tag, patiently};
use crate::config::{Config, Platform};
use crate::convert::{ConvertError, Converter};
use crate::erofs::ErofsError;
use crate::examine::ExamineError;
use crate::live::Live;
use crate::locks::Locks;
use crate::model::{Grant, Image, Job, JobStatus, now};
use crate::progress::{Phase, Progress};
use crate::publish::{self, PublishError};
use crate::target::{Target, TargetError};
use crate::transfer::{Store, TransferError};
use crate::whole::Whole;

/// Layers of one image that are downloaded at the same time.
const DOWNLOADS: usize = 4;

/// Questions (not downloads) to one registry at the same time.
const QUESTIONS: usize = 32;

/// Registries that are remembered with their connections.
const MOST_REGISTRIES: usize = 64;

/// Why a pull failed; each is what the caller is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error(transparent)]
    Examine(#[from] ExamineError),
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    #[error(transparent)]
    Unpack(#[from] crate::unpack::UnpackError),
    #[error(transparent)]
    Import(#[from] import::ImportError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Sharing(#[from] acl::TooManyIds),
    #[error("the image is named by a {} digest; image ids are sha256 digests", .0.name())]
    Algorithm(Algorithm),
    #[error("the tag moved while it was pulled; pull again")]
    Moved,
    #[error("system {0} is not configured")]
    System(String),
    /// Another caller's attempt at the same digest failed while this one waited for it.
    #[error("{0}")]
    Shared(String),
    /// Expired by another process after this one found it.
    #[error("the image was removed while it was pulled; pull again")]
    Removed,
    #[error("the gateway is shutting down")]
    Stopping,
    /// Cancelled, or taken over by another process after this one was silent for too long.
    #[error("the pull is no longer this process's")]
    Lost,
}

impl PullError {
    /// Whether the registry refused this caller.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, PullError::Registry(error) if error.is_auth())
    }

    /// Whether it may be over in a moment: a database or a host that cannot be reached now.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            PullError::Catalog(error) => error.is_passing(),
            PullError::Transfer(TransferError::Host { .. } | TransferError::Stopping) => true,
            PullError::Stopping => true,
            _ => false,
        }
    }

    /// Whether another caller would fail in the same way: not where credentials were the matter.
    fn is_everybodys(&self) -> bool {
        match self {
            // Registries count requests per account.
            PullError::Registry(RegistryError::RateLimited { .. }) => false,
            PullError::Registry(error) => !error.is_auth() && !error.is_not_found(),
            PullError::Catalog(_)
            | PullError::Convert(_)
            | PullError::Examine(_)
            | PullError::Erofs(_)
            | PullError::Publish(_)
            | PullError::Transfer(_) => true,
            _ => false,
        }
    }
}

/// What all pulls share.
pub(crate) struct Puller {
    config: Live,
    catalog: Arc<dyn Catalog>,
    cache: BlobCache,
    indexes: LayerIndexes,
    /// Of each system.
    stores: Mutex<HashMap<String, Arc<Store>>>,
    registries: Mutex<HashMap<String, Registry>>,
    converter: Converter,
    /// Turns for conversion.
    workers: Arc<Semaphore>,
    flights: Locks<Option<Failure>>,
    images: Locks<()>,
    /// Changes of files and catalog.
    whole: Whole,
    gateway_uid: u32,
}

/// One location. The client has no credentials; the callers' are made from it and share its connections
/// and certificates, nothing else. A changed CA file counts after a reload. Turns are counted per
/// location, so that a registry that does not answer holds up nobody else's users.
#[derive(Clone)]
struct Registry {
    client: Arc<Client>,
    questions: Arc<Semaphore>,
    /// Turns of pulls from here, from the manifest to the published image.
    pulls: Arc<Semaphore>,
}

/// The last failure of a flight, with its time, so that those who waited for it need not repeat it.
#[derive(Clone, Debug)]
struct Failure {
    at: f64,
    why: String,
}

impl Puller {
    pub(crate) fn new(
        config: Live,
        catalog: Arc<dyn Catalog>,
        converter: Converter,
        gateway_uid: u32,
    ) -> Result<Puller, RegistryError> {
        let indexes = LayerIndexes::new(&config);
        indexes.tidy();
        Ok(Puller {
            cache: open_cache(&config)?,
            indexes,
            stores: Mutex::new(stores(&config)),
            registries: Mutex::default(),
            workers: Arc::new(Semaphore::new(config.worker_threads)),
            flights: Locks::default(),
            images: Locks::default(),
            whole: Whole::default(),
            config,
            catalog,
            converter,
            gateway_uid,
        })
    }

    /// Says in the log what the cache holds; unfinished downloads one by one.
    pub(crate) async fn tell_cache(&self) -> Result<(), RegistryError> {
        let contents = self.cache.contents().await?;
        for partial in &contents.partials {
            tracing::info!(digest = %partial.digest, bytes = partial.size, "a download that broke off is kept");
        }
        tracing::info!(blobs = contents.blobs.len(), bytes = contents.size(), "blob cache opened");
        Ok(())
    }

    /// Blobs in the cache, and bytes of them.
    pub(crate) async fn cache_size(&self) -> Option<(usize, u64)> {
        let contents = self.cache.contents().await.ok()?;
        Some((contents.blobs.len(), contents.size()))
    }

    /// Follows a changed configuration: registries are connected to anew, and with changed certificates; turns for
    /// conversion become more at once, or fewer as they come back.
    pub(crate) fn reconfigured(&self, old: &Config) {
        self.registries.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        *self.stores.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = stores(&self.config);
        let (before, after) = (old.worker_threads, self.config.worker_threads);
        self.workers.add_permits(after.saturating_sub(before));
        if let Ok(fewer @ 1..) = u32::try_from(before.saturating_sub(after)) {
            let workers = self.workers.clone();
            tokio::spawn(async move {
                if let Ok(permits) = workers.acquire_many_owned(fewer).await {
                    permits.forget();
                }
            });
        }
    }

    /// Carries one job to READY, or says why not.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        job: &Job,
        credentials: Option<Credentials>,
        progress: &Progress,
    ) -> Result<(), PullError> {
        let platform = self.platform(&job.key.system)?;
        let target = Target::parse(&self.config, &job.key.tag)?;
        let registry = self.registry(&target)?;
        let turn = match registry.questions.try_acquire() {
            Ok(turn) => turn,
            Err(_) => {
                self.move_on(job, JobStatus::Pending, "Waiting for its turn", progress).await?;
                registry.questions.acquire().await.map_err(|_| PullError::Stopping)?
            }
        };
        self.move_on(job, JobStatus::Pulling, "Getting manifest", progress).await?;
        let client = registry.client.for_caller(credentials);
        let asked = now();
        let head = client.head(&target.repository, &target.reference).await?;
        drop(turn);
        if head.digest.algorithm() != Algorithm::Sha256 {
            return Err(PullError::Algorithm(head.digest.algorithm()));
        }
        if !head.private {
            self.held(patiently(|| self.catalog.set_public(job.lease())).await?)?;
        }
        let waiting_since = now();
        progress.set("Waiting for another pull of the same image");
        progress.enter(Phase::Following);
        // First among this process's pulls, then among all.
        let mut flight = self.flights.lock(format!("{} {}", job.key.system, head.digest)).await;
        let digest = head.digest.to_string();
        self.fly(job, &digest).await?;
        let found = patiently(|| self.catalog.image_of_digest(&job.key.system, &digest)).await?;
        let found = match found {
            Some(image) => {
                let guard = self.hold(platform, &image.id).await;
                self.find_published(&image).await?.then_some((image, guard))
            }
            None => None,
        };
        let made = match found {
            Some(found) => Ok(found),
            None => match flight.as_ref().filter(|failure| failure.at > waiting_since) {
                Some(failure) => Err(PullError::Shared(failure.why.clone())),
                None => {
                    progress.enter(Phase::Making);
                    let (target, client, turns) = (&target, &client, &registry.pulls);
                    let making = Making { puller: self, job, platform, target, client, turns, progress };
                    making.make(&head.digest).await
                }
            },
        };
        match made {
            Ok((mut image, guard)) => {
                *flight = None;
                image.last_pull = now();
                image.expiration = image.last_pull + self.config.image_expiration.as_secs_f64();
                progress.set("Transferring metadata");
                let earned = Earned { digest, asked, public: Public::Is(!head.private) };
                self.grant(job, image, earned, guard).await
            }
            Err(error) => {
                if error.is_everybodys() {
                    *flight = Some(Failure { at: now(), why: crate::convert::sentence(&error) });
                }
                Err(error)
            }
        }
    }

    /// Waits until this job alone works on the digest, here or in any process.
    async fn fly(&self, job: &Job, digest: &str) -> Result<(), PullError> {
        const LONGEST: Duration = Duration::from_secs(1);
        let mut pause = Duration::from_millis(20);
        while !patiently(|| self.catalog.fly(job.lease(), digest)).await? {
            // Whoever lost the job learns of that by the heartbeat, which ends this.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST);
        }
        Ok(())
    }

    /// What must not end half-way, and is waited for before the process ends.
    pub(crate) fn whole(&self) -> &Whole {
        &self.whole
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The registry that a tag comes from; empty where it makes no sense.
    pub(crate) fn location(&self, tag: &str) -> String {
        Target::parse(&self.config, tag).map(|target| target.location.name).unwrap_or_default()
    }

    /// Removes what dead writers of this host left where a system's images are made.
    pub(crate) async fn tidy(&self, system: &str) {
        let Ok(platform) = self.platform(system) else { return };
        for directory in [self.config.expand_directory.clone(), platform.image_dir.clone()] {
            let cleared = tokio::task::spawn_blocking(move || publish::remove_leftovers(&directory)).await;
            if let Ok(Err(error)) = cleared {
                tracing::warn!(system, %error, "looking for leftovers failed");
            }
        }
    }

    fn registry(&self, target: &Target) -> Result<Registry, RegistryError> {
        let mut registries = self.registries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(registry) = registries.get(&target.location.name) {
            return Ok(registry.clone());
        }
        if target.location.named_by_user && registries.len() >= MOST_REGISTRIES {
            // Users can name any number of them; those of the configuration are made again when needed.
            registries.clear();
        }
        let client = Client::new(target.location.clone(), None, Settings::default())?;
        let registry = Registry {
            client: Arc::new(client),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            pulls: Arc::new(Semaphore::new(self.config.worker_threads)),
        };
        registries.insert(target.location.name.clone(), registry.clone());
        Ok(registry)
    }

    fn platform(&self, system: &str) -> Result<&Platform, PullError> {
        self.config.platforms.get(system).ok_or_else(|| PullError::System(system.to_owned()))
    }

    /// Where a system's images are.
    pub(crate) fn store(&self, system: &str) -> Result<Arc<Store>, PullError> {
        let stores = self.stores.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stores.get(system).cloned().ok_or_else(|| PullError::System(system.to_owned()))
    }

    /// Says in the log which systems' images could not be published now. No reason not to serve the others.
    pub(crate) async fn try_out_stores(self: Arc<Self>) {
        let stores = self.stores.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for (system, store) in stores {
            if let Err(error) = store.try_out().await {
                tracing::warn!(system, %error, "no image can be published for this system now");
            }
        }
    }

    async fn move_on(
        &self,
        job: &Job,
        status: JobStatus,
        message: &str,
        progress: &Progress,
    ) -> Result<(), PullError> {
        // The catalog first: who is woken by the next stage finds the next status.
        let is_held = patiently(|| self.catalog.set_status(job.lease(), status, message)).await?;
        progress.set(message);
        self.held(is_held)
    }

    /// What a step under a job's lease says about the lease.
    fn held(&self, is_held: bool) -> Result<(), PullError> {
        if is_held { Ok(()) } else { Err(PullError::Lost) }
    }

    /// Whether the catalog's image is really there; a lost file is made again.
    async fn find_published(&self, image: &Image) -> Result<bool, PullError> {
        let store = self.store(&image.system)?;
        Ok(store.is_published(&image.id, &image.format, image.size).await?)
    }

    /// The same within a moment; a pull finds out what this cannot.
    pub(crate) async fn is_published(&self, image: &Image) -> bool {
        const MOMENT: Duration = Duration::from_secs(2);
        let found = tokio::time::timeout(MOMENT, self.find_published(image)).await;
        matches!(found, Ok(Ok(true)))
    }

    /// Gives the caller what was earned, with these locks held, and to its end even where the job is cancelled.
    async fn grant(
        self: &Arc<Self>,
        job: &Job,
        image: Image,
        earned: Earned,
        locks: impl Send + 'static,
    ) -> Result<(), PullError> {
        let (puller, job) = (self.clone(), job.clone());
        let granted = async move {
            let granted = puller.grant_now(&job, &image, &earned).await;
            drop(locks);
            granted
        };
        self.whole.run(granted).await
    }

    /// Gives the caller what the registry agreed to: `.meta` first, which the nodes check, then the
    /// catalog, then `.meta` once more if somebody else wrote it meanwhile, then the job's end. Runs under the
    /// image's lock, so that in this process no other grant comes between; another process's makes the
    /// record's revision stale, and this one looks again.
    async fn grant_now(&self, job: &Job, image: &Image, earned: &Earned) -> Result<(), PullError> {
        let platform = self.platform(&job.key.system)?;
        // Who changes an access list faster than it is carried out gets one of them.
        const ROUNDS: usize = 3;
        let (catalog, lease) = (&self.catalog, job.lease());
        let mut rounds = 0;
        let (mut is_contested, mut is_moving) = (false, false);
        let mut on_record = None;
        loop {
            // A lease in hand, renewed just now, is worth the few steps that follow. The caller may
            // have changed the access list meanwhile.
            self.held(patiently(|| catalog.heartbeat(lease)).await?)?;
            let job = patiently(|| catalog.job(lease.number)).await?.ok_or(PullError::Lost)?;
            let (key, id, puller) = (job.key.clone(), image.id.clone(), job.uid);
            let public = match earned.public {
                Public::Is(true) => true,
                Public::Is(false) => self.config.private_is_public && job.acl.is_public(),
                Public::AsListed => job.acl.is_public(),
            };
            let acl = if public { Default::default() } else { acl::of_grant(&job.acl, job.uid) };
            let grant = Grant { key, id, puller, public, acl, checked: earned.asked };
            let sharing = self.sharing(platform, &image.id).await?;
            // What it was granted to others for, also on another system that has these files, is another content.
            if sharing.iter().any(|known| known.image.config.source != image.config.source) {
                return Err(import::ImportError::Taken(image.id.clone()).into());
            }
            let known = sharing.into_iter().find(|known| known.image.system == image.system);
            if known.is_none() && !self.find_published(image).await? {
                return Err(PullError::Removed);
            }
            let mut record = known.unwrap_or_else(|| Record::new(image.clone()));
            // Where another process replaced the record meanwhile, what it published stands.
            if !is_contested || !self.is_published(&record.image).await {
                record.image = image.clone();
            }
            (record.image.last_pull, record.image.expiration) = (image.last_pull, image.expiration);
            record.grants = acl::merged(record.grants.iter().chain([&grant]));
            record.add_digest(earned.digest.clone());
            record.add_tag(Tag { itype: job.key.itype, tag: job.key.tag, asked: earned.asked });
            let oldest = now() - self.config.image_expiration.as_secs_f64();
            record.grants = acl::pruned(record.grants, &record.tags, oldest);
            // Whom a job's end is told finds the image by every gateway, also where lookups remember what a tag meant.
            if catalog.lateness().is_some() && !is_moving {
                let meaning = patiently(|| catalog.lookup(&grant.key)).await?;
                is_moving = meaning.is_some_and(|(before, _)| before.id != image.id);
                if is_moving {
                    let (status, message) = (JobStatus::Transfer, "Transferring metadata");
                    self.held(patiently(|| catalog.set_status(lease, status, message)).await?)?;
                }
            }
            self.write_meta(platform, &record).await?;
            let is_stored = patiently(|| catalog.store(&record)).await;
            // Also where it failed: then what was just written is not what the catalog grants.
            let is_settled = self.settle_meta(platform, &image.id).await;
            if !is_stored? {
                is_contested = true;
                match self.state_after_removal(&image.system, &image.id).await? {
                    Some(_) => return Err(PullError::Removed),
                    None => continue,
                }
            }
            // From here on it lets people in, also where the job is cancelled before its end.
            if on_record.as_ref() != Some(&grant) {
                audit::granted(&grant);
                on_record = Some(grant);
            }
            is_settled?;
            if let Some(late) = catalog.lateness().filter(|_| std::mem::take(&mut is_moving)) {
                tokio::time::sleep(late).await;
            }
            rounds += 1;
            let if_acl = (!matches!(earned.public, Public::Is(true)) && rounds < ROUNDS).then_some(&job.acl);
            if patiently(|| catalog.finish(lease, if_acl)).await? {
                return Ok(());
            }
        }
    }
}

/// What the registry said to a caller's question.
struct Earned {
    /// As `sha256:HEX`.
    digest: String,
    /// When it was asked.
    asked: f64,
    public: Public,
}

/// Whether what was earned is everybody's.
#[derive(Clone, Copy)]
enum Public {
    /// Whether the registry would have said so to anybody.
    Is(bool),
    /// No registry was asked: it is unless the job names users, whose list may change until its end.
    AsListed,
}

fn stores(config: &Config) -> HashMap<String, Arc<Store>> {
    let store =
        |(name, platform): (&String, &Platform)| (name.clone(), Arc::new(Store::new(config, platform)));
    config.platforms.iter().map(store).collect()
}

fn open_cache(config: &Config) -> Result<BlobCache, RegistryError> {
    let cache = BlobCache::open(&config.cache_directory)?;
    Ok(match config.cache_limit {
        Some(bytes) => cache.limited_to(bytes),
        None => cache,
    })
}

/// Runs file work where it does not hold up others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, PullError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| PullError::Stopping)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_account_s_rate_limit_fails_nobody_else() {
        let limited = RegistryError::RateLimited { operation: "x".into(), wait: None };
        assert!(!PullError::Registry(limited).is_everybodys());
    }
}
