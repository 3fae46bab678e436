//! One pull, from the caller's question to the registry to a published image with a grant.
//!
//! The registry is asked with this caller's credentials, always, and before anything else: one HEAD
//! decides both which digest the tag means now and whether the caller may have it. What is already
//! published under that digest is only granted; else one caller at a time downloads, converts and
//! publishes it while the others with the same digest wait for the outcome.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt};
use shifter_core::digest::{Algorithm, Digest};
use shifter_registry::{BlobCache, Client, Compression, Credentials, RegistryError, Resolved, Settings};
use tokio::sync::{OwnedMutexGuard, Semaphore};

use crate::acl;
use crate::catalog::{Catalog, CatalogError};
use crate::config::{Access, Config, Platform};
use crate::convert::{ConvertError, ConvertJob, ConvertLayer, Converter, output_in};
use crate::locks::Locks;
use crate::model::{Grant, Image, Job, JobStatus, RunConfig, now};
use crate::publish::{self, PublishError, Scratch};
use crate::target::{Target, TargetError};

/// The one format that is made.
const FORMAT: &str = "squashfs";

/// Layers of one image that are downloaded at the same time.
const DOWNLOADS: usize = 4;

/// Questions to registries (not downloads) at the same time.
const QUESTIONS: usize = 16;

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
}

impl PullError {
    /// Whether another caller would fail in the same way: not where credentials were the matter.
    fn is_everybodys(&self) -> bool {
        match self {
            PullError::Registry(error) => !error.is_auth() && !error.is_not_found(),
            PullError::Catalog(_) | PullError::Convert(_) | PullError::Publish(_) => true,
            _ => false,
        }
    }
}

/// What all pulls share.
pub(crate) struct Puller {
    config: Arc<Config>,
    catalog: Arc<Catalog>,
    cache: BlobCache,
    /// One client without credentials per location, from which the callers' are made: they share its
    /// connections and certificates and nothing else. A changed CA file counts after a restart.
    registries: Mutex<HashMap<String, Client>>,
    converter: Converter,
    workers: Semaphore,
    questions: Semaphore,
    flights: Locks<Option<Failure>>,
    images: Locks<()>,
    gateway_uid: u32,
}

/// The last failure of a flight, with its time, so that those who waited for it need not repeat it.
#[derive(Clone, Debug)]
struct Failure {
    at: f64,
    why: String,
}

/// A line for impatient callers, overwritten as the pull goes on.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<String>);

impl Progress {
    pub(crate) fn get(&self) -> String {
        self.0.lock().map(|line| line.clone()).unwrap_or_default()
    }

    fn set(&self, line: String) {
        if let Ok(mut held) = self.0.lock() {
            *held = line;
        }
    }
}

impl Puller {
    pub(crate) fn new(
        config: Arc<Config>,
        catalog: Arc<Catalog>,
        converter: Converter,
        gateway_uid: u32,
    ) -> Result<Puller, RegistryError> {
        Ok(Puller {
            cache: BlobCache::open(&config.cache_directory)?,
            registries: Mutex::default(),
            workers: Semaphore::new(config.worker_threads),
            questions: Semaphore::new(QUESTIONS),
            flights: Locks::default(),
            images: Locks::default(),
            config,
            catalog,
            converter,
            gateway_uid,
        })
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
        let turn = match self.questions.try_acquire() {
            Ok(turn) => turn,
            Err(_) => {
                self.move_on(job, JobStatus::Pending, "Waiting for its turn", progress).await?;
                self.questions.acquire().await.map_err(|_| PullError::Stopping)?
            }
        };
        self.move_on(job, JobStatus::Pulling, "Getting manifest", progress).await?;
        let client = self.client(&target, credentials)?;
        let head = client.head(&target.repository, &target.reference).await?;
        drop(turn);
        if head.digest.algorithm() != Algorithm::Sha256 {
            return Err(PullError::Algorithm(head.digest.algorithm()));
        }
        if !head.private {
            self.catalog.set_public(job.number).await?;
        }
        let waiting_since = now();
        let mut flight = self.flights.lock(format!("{} {}", job.key.system, head.digest)).await;
        let found = self.catalog.image_of_digest(&job.key.system, &head.digest.to_string()).await?;
        let made = match found {
            Some(image) if self.is_published(platform, &image).await => {
                let guard = self.images.lock(format!("{} {}", image.system, image.id)).await;
                Ok((image, guard))
            }
            _ => match flight.as_ref().filter(|failure| failure.at > waiting_since) {
                Some(failure) => Err(PullError::Shared(failure.why.clone())),
                None => {
                    let making =
                        Making { puller: self, job, platform, target: &target, client: &client, progress };
                    making.make(&head.digest).await
                }
            },
        };
        match made {
            Ok((mut image, _guard)) => {
                *flight = None;
                image.last_pull = now();
                image.expiration = image.last_pull + self.config.image_expiration.as_secs_f64();
                progress.set("Transferring metadata".to_owned());
                self.grant(job, platform, &head.digest, &image, !head.private).await
            }
            Err(error) => {
                if error.is_everybodys() {
                    *flight = Some(Failure { at: now(), why: crate::convert::sentence(&error) });
                }
                Err(error)
            }
        }
    }

    fn client(&self, target: &Target, credentials: Option<Credentials>) -> Result<Client, RegistryError> {
        let mut registries = self.registries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = registries.get(&target.location) {
            return Ok(client.for_caller(credentials));
        }
        let client = Client::new(target.registry_location(&self.config), None, Settings::default())?;
        let own = client.for_caller(credentials);
        registries.insert(target.location.clone(), client);
        Ok(own)
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
    ) -> Result<(), CatalogError> {
        progress.set(message.to_owned());
        self.catalog.set_status(job.number, status, message).await
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
    /// catalog. Runs under the image's lock, so that no other grant comes between.
    async fn grant(
        &self,
        job: &Job,
        platform: &Platform,
        digest: &Digest,
        image: &Image,
        public: bool,
    ) -> Result<(), PullError> {
        loop {
            // The caller may have changed the access list meanwhile.
            let Some(job) = self.catalog.job(job.number).await?.filter(|job| !job.status.is_over()) else {
                return Ok(());
            };
            let acl = if public { Default::default() } else { acl::of_grant(&job.acl, job.uid) };
            let (key, id, puller) = (job.key.clone(), image.id.clone(), job.uid);
            let grant = Grant { key, id, puller, public, acl, checked: now() };
            let grants = acl::after(&self.catalog.grants(&image.system, &image.id).await?, &grant);
            let meta = image.to_meta(acl::for_meta(&grants, self.gateway_uid)?).render();
            let (directory, id) = (platform.image_dir.clone(), image.id.clone());
            blocking(move || publish::publish_meta(&directory, &id, &meta)).await?;
            if self.catalog.complete(&job, &digest.to_string(), image, &grants).await? {
                return Ok(());
            }
        }
    }
}

/// The making of an image that is not there yet.
struct Making<'a> {
    puller: &'a Puller,
    job: &'a Job,
    platform: &'a Platform,
    target: &'a Target,
    client: &'a Client,
    progress: &'a Progress,
}

impl Making<'_> {
    /// Downloads, converts and publishes; returns the image with its lock, not yet in the catalog.
    async fn make(&self, digest: &Digest) -> Result<(Image, OwnedMutexGuard<()>), PullError> {
        let puller = self.puller;
        self.progress.set("Waiting for a free worker".to_owned());
        let _turn = puller.workers.acquire().await.map_err(|_| PullError::Stopping)?;
        let wanted = shifter_registry::Platform::linux(&self.platform.architecture);
        let resolved = self.client.resolve(&self.target.repository, &digest.to_string(), &wanted).await?;
        if resolved.top_digest != *digest {
            return Err(PullError::Moved);
        }
        // Old gateways name images by the top-level digest. An index means another image on each
        // architecture, so on others than the common one the platform's manifest names it.
        let id = match self.platform.architecture.as_str() {
            "amd64" => &resolved.top_digest,
            _ => &resolved.manifest_digest,
        };
        let id = id.hex().to_owned();
        let system = self.job.key.system.clone();
        let guard = puller.images.lock(format!("{system} {id}")).await;
        if let Some(image) = puller.catalog.image(&system, &id).await?
            && puller.is_published(self.platform, &image).await
        {
            return Ok((image, guard));
        }
        let layers = self.download(&resolved).await?;
        puller.move_on(self.job, JobStatus::Conversion, "Converting image", self.progress).await?;
        let expand = puller.config.expand_directory.clone();
        let scratch_id = id.clone();
        let scratch = blocking(move || Scratch::create(&expand, &scratch_id)).await?;
        let job = ConvertJob {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layers: convert_layers(&resolved, layers),
            output: output_in(scratch.path()),
            converter_options: puller.config.converter_options.clone(),
        };
        puller.converter.run(&job).await?;
        puller.move_on(self.job, JobStatus::Transfer, "Transferring image", self.progress).await?;
        let (directory, file_id) = (self.platform.image_dir.clone(), id.clone());
        let published = blocking(move || {
            let published = publish::publish_image(&directory, &file_id, FORMAT, &job.output);
            drop(scratch);
            published
        })
        .await?;
        let image = Image {
            system,
            id,
            format: FORMAT.to_owned(),
            config: run_config(&resolved, &self.platform.architecture),
            size: published.size,
            sha256: published.sha256,
            last_pull: 0.0,
            expiration: 0.0,
        };
        Ok((image, guard))
    }

    /// Fetches all layers, some at a time, oldest first in the result.
    async fn download(&self, resolved: &Resolved) -> Result<Vec<PathBuf>, PullError> {
        let total: u64 = resolved.layers.iter().map(|layer| layer.size).sum();
        let received: Vec<AtomicU64> = resolved.layers.iter().map(|_| AtomicU64::new(0)).collect();
        let count = resolved.layers.len();
        let show = || {
            let got: u64 = received.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum();
            let megabytes = |bytes: u64| format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10);
            let line = format!("Pulling {count} layers, {} of {} MB", megabytes(got), megabytes(total));
            self.progress.set(line);
        };
        show();
        let fetches = resolved.layers.iter().zip(&received).map(|(layer, bytes)| {
            let report = |progress: shifter_registry::Progress| {
                bytes.store(progress.received, Ordering::Relaxed);
                show();
            };
            async move { self.puller.cache.fetch(self.client, &self.target.repository, layer, &report).await }
        });
        // Collected first: over a lazy iterator the compiler cannot prove the whole to be Send.
        let fetches: Vec<_> = fetches.collect();
        Ok(futures_util::stream::iter(fetches).buffered(DOWNLOADS).try_collect().await?)
    }
}

fn convert_layers(resolved: &Resolved, paths: Vec<PathBuf>) -> Vec<ConvertLayer> {
    let mut diff_ids = resolved.config.diff_ids.iter();
    let layers = resolved.layers.iter().zip(paths);
    layers
        .map(|(layer, path)| ConvertLayer {
            path,
            digest: layer.digest.to_string(),
            diff_id: diff_ids.next().map(Digest::to_string),
            compression: match layer.compression {
                Compression::Gzip => "gzip",
                Compression::Zstd => "zstd",
                Compression::None => "none",
            }
            .to_owned(),
        })
        .collect()
}

fn run_config(resolved: &Resolved, architecture: &str) -> RunConfig {
    let config = &resolved.config;
    RunConfig {
        entry: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        workdir: config.workdir.clone(),
        env: config.env.clone(),
        labels: config.labels.clone(),
        user: config.user.clone().unwrap_or_default(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        architecture: match config.architecture.as_str() {
            "" => architecture.to_owned(),
            named => named.to_owned(),
        },
    }
}

/// Runs file work where it does not hold up others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, PullError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| PullError::Stopping)??)
}
