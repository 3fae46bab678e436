//! One pull, from the caller's question to the registry to a published image with a grant.
//!
//! The registry is asked with this caller's credentials, always, and before anything else: one HEAD
//! decides both which digest the tag means now and whether the caller may have it. What is already
//! published under that digest is only granted; else one caller at a time downloads, converts and
//! publishes it while the others with the same digest wait for the outcome.

pub(crate) mod import;
mod make;
mod reuse;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shifter_core::digest::Algorithm;
use shifter_registry::{BlobCache, Client, Credentials, RegistryError, Settings};
use tokio::sync::Semaphore;

use self::make::Making;
use self::reuse::LayerIndexes;

use crate::acl;
use crate::audit;
use crate::catalog::{Catalog, CatalogError, Record, Tag, patiently};
use crate::config::{Access, Config, Platform};
use crate::convert::{ConvertError, Converter};
use crate::erofs::ErofsError;
use crate::examine::ExamineError;
use crate::locks::Locks;
use crate::model::{Grant, Image, Job, JobStatus, now};
use crate::progress::Progress;
use crate::publish::{self, PublishError};
use crate::target::{Target, TargetError};

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
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Sharing(#[from] acl::TooManyIds),
    #[error("the image is named by a {} digest; image ids are sha256 digests", .0.name())]
    Algorithm(Algorithm),
    #[error("the tag moved while it was pulled; pull again")]
    Moved,
    #[error("system {0} is not configured for publishing on this host's file systems")]
    System(String),
    /// Another caller's attempt at the same digest failed while this one waited for it.
    #[error("{0}")]
    Shared(String),
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
            | PullError::Publish(_) => true,
            _ => false,
        }
    }
}

/// What all pulls share.
pub(crate) struct Puller {
    config: Arc<Config>,
    catalog: Arc<dyn Catalog>,
    cache: BlobCache,
    indexes: LayerIndexes,
    registries: Mutex<HashMap<String, Registry>>,
    converter: Converter,
    /// Turns for conversion.
    workers: Semaphore,
    flights: Locks<Option<Failure>>,
    images: Locks<()>,
    gateway_uid: u32,
}

/// One location. The client has no credentials; the callers' are made from it and share its connections
/// and certificates, nothing else. A changed CA file counts after a restart. Turns are counted per
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
        config: Arc<Config>,
        catalog: Arc<dyn Catalog>,
        converter: Converter,
        gateway_uid: u32,
    ) -> Result<Puller, RegistryError> {
        let indexes = LayerIndexes::new(&config);
        indexes.tidy();
        Ok(Puller {
            cache: open_cache(&config)?,
            indexes,
            registries: Mutex::default(),
            workers: Semaphore::new(config.worker_threads),
            flights: Locks::default(),
            images: Locks::default(),
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

    /// Carries one job to READY, or says why not.
    pub(crate) async fn pull(
        &self,
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
        let mut flight = self.flights.lock(format!("{} {}", job.key.system, head.digest)).await;
        let digest = head.digest.to_string();
        let found = patiently(|| self.catalog.image_of_digest(&job.key.system, &digest)).await?;
        let made = match found {
            Some(image) if self.is_published(platform, &image).await => {
                let guard = self.images.lock(format!("{} {}", image.system, image.id)).await;
                Ok((image, guard))
            }
            _ => match flight.as_ref().filter(|failure| failure.at > waiting_since) {
                Some(failure) => Err(PullError::Shared(failure.why.clone())),
                None => {
                    let (target, client, turns) = (&target, &client, &registry.pulls);
                    let making = Making { puller: self, job, platform, target, client, turns, progress };
                    making.make(&head.digest).await
                }
            },
        };
        match made {
            Ok((mut image, _guard)) => {
                *flight = None;
                image.last_pull = now();
                image.expiration = image.last_pull + self.config.image_expiration.as_secs_f64();
                progress.set("Transferring metadata");
                let earned = Earned { digest, asked, public: !head.private };
                self.grant(job, platform, &image, &earned).await
            }
            Err(error) => {
                if error.is_everybodys() {
                    *flight = Some(Failure { at: now(), why: crate::convert::sentence(&error) });
                }
                Err(error)
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
        self.config
            .platforms
            .get(system)
            .filter(|platform| platform.access == Access::Local)
            .ok_or_else(|| PullError::System(system.to_owned()))
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
    pub(crate) async fn is_published(&self, platform: &Platform, image: &Image) -> bool {
        let (directory, id) = (platform.image_dir.clone(), image.id.clone());
        let (format, size) = (image.format.clone(), image.size);
        tokio::task::spawn_blocking(move || publish::is_published(&directory, &id, &format, size))
            .await
            .unwrap_or(false)
    }

    /// Gives the caller what the registry agreed to: `.meta` first, which the nodes check, then the
    /// catalog, then the job's end. Runs under the image's lock, so that in this process no other grant
    /// comes between; another process's makes the record's revision stale, and this one looks again.
    async fn grant(
        &self,
        job: &Job,
        platform: &Platform,
        image: &Image,
        earned: &Earned,
    ) -> Result<(), PullError> {
        // Who changes an access list faster than it is carried out gets one of them.
        const ROUNDS: usize = 3;
        let (catalog, lease) = (&self.catalog, job.lease());
        let mut rounds = 0;
        loop {
            // A lease in hand, renewed just now, is worth the few steps that follow. The caller may
            // have changed the access list meanwhile.
            self.held(patiently(|| catalog.heartbeat(lease)).await?)?;
            let job = patiently(|| catalog.job(lease.number)).await?.ok_or(PullError::Lost)?;
            let (key, id, puller) = (job.key.clone(), image.id.clone(), job.uid);
            let public = earned.public || (self.config.private_is_public && job.acl.is_public());
            let acl = if public { Default::default() } else { acl::of_grant(&job.acl, job.uid) };
            let grant = Grant { key, id, puller, public, acl, checked: earned.asked };
            let known = patiently(|| catalog.record(&image.system, &image.id)).await?;
            let mut record = known.unwrap_or_else(|| Record::new(image.clone()));
            record.image = image.clone();
            record.grants = acl::merged(record.grants.iter().chain([&grant]));
            record.add_digest(earned.digest.clone());
            record.add_tag(Tag { itype: job.key.itype, tag: job.key.tag, asked: earned.asked });
            let acl = acl::for_meta(&record.grants, self.gateway_uid)?;
            let acl = if self.config.environment.no_acl_in_meta { Default::default() } else { acl };
            let meta = image.to_meta(acl).render();
            let (directory, id) = (platform.image_dir.clone(), image.id.clone());
            blocking(move || publish::publish_meta(&directory, &id, &meta)).await?;
            if !patiently(|| catalog.store(&record)).await? {
                continue;
            }
            rounds += 1;
            let if_acl = (!earned.public && rounds < ROUNDS).then_some(&job.acl);
            if patiently(|| catalog.finish(lease, if_acl)).await? {
                audit::granted(&grant);
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
    /// Whether it would have said so to anybody.
    public: bool,
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
