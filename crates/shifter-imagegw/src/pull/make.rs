//! The making of an image that is not published yet: resolve, download, convert, publish.
//!
//! Runs with the flight of its digest held, so once at a time; enters nothing into the catalog.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt};
use shifter_core::digest::Digest;
use shifter_registry::{Blob, BlobCache, Client, Compression, RegistryError, Resolved};
use tokio::sync::OwnedMutexGuard;

use super::{DOWNLOADS, FORMAT, Progress, PullError, Puller, blocking};
use crate::catalog::patiently;
use crate::config::Platform;
use crate::convert::{ConvertJob, ConvertLayer};
use crate::model::{Image, Job, JobStatus, RunConfig};
use crate::publish::{NewImage, Scratch};
use crate::target::Target;

/// The making of an image that is not there yet.
pub(super) struct Making<'a> {
    pub(super) puller: &'a Puller,
    pub(super) job: &'a Job,
    pub(super) platform: &'a Platform,
    pub(super) target: &'a Target,
    pub(super) client: &'a Client,
    pub(super) progress: &'a Progress,
}

impl Making<'_> {
    /// Downloads, converts and publishes; returns the image with its lock, not yet in the catalog.
    pub(super) async fn make(&self, digest: &Digest) -> Result<(Image, OwnedMutexGuard<()>), PullError> {
        let puller = self.puller;
        self.progress.set("Waiting for a free worker".to_owned());
        let _turn = puller.workers.acquire().await.map_err(|_| PullError::Stopping)?;
        let resolved = self.resolve(digest).await?;
        // Old gateways name images by the top-level digest. An index means another image on each
        // architecture, so on others than the common one the platform's manifest names it.
        let id = match self.platform.architecture.as_str() {
            "amd64" => &resolved.top_digest,
            _ => &resolved.manifest_digest,
        };
        let id = id.hex().to_owned();
        let system = self.job.key.system.clone();
        let guard = puller.images.lock(format!("{system} {id}")).await;
        if let Some(known) = patiently(|| puller.catalog.record(&system, &id)).await?
            && puller.is_published(self.platform, &known.image).await
        {
            return Ok((known.image, guard));
        }
        let layers = match self.download(&resolved).await {
            // The cache's directories were removed under a running gateway: made again, once.
            Err(PullError::Registry(RegistryError::Cache { source, .. }))
                if source.kind() == ErrorKind::NotFound =>
            {
                let directory = puller.config.cache_directory.clone();
                blocking(move || Ok(BlobCache::open(&directory).map(drop))).await??;
                self.download(&resolved).await?
            }
            result => result?,
        };
        puller.move_on(self.job, JobStatus::Conversion, "Converting image", self.progress).await?;
        let (expand, directory) = (puller.config.expand_directory.clone(), self.platform.image_dir.clone());
        let new_id = id.clone();
        let (scratch, part) = blocking(move || {
            Ok((Scratch::create(&expand, &new_id)?, NewImage::create(&directory, &new_id, FORMAT)?))
        })
        .await?;
        let job = ConvertJob {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layers: convert_layers(&resolved, &layers),
            output: part.path().to_owned(),
            scratch: scratch.path().to_owned(),
            converter: self.platform.converters.clone(),
        };
        let of = job.layers.len();
        let progress = |begun: usize, bytes: u64| {
            let begun = begun.min(of);
            self.progress.set(format!("Converting layer {begun} of {of}, {} MB", megabytes(bytes)));
        };
        puller.converter.run(&job, &progress).await?;
        // Held until here, so that nobody collects what is being read.
        drop(layers);
        puller.move_on(self.job, JobStatus::Transfer, "Transferring image", self.progress).await?;
        let published = blocking(move || {
            drop(scratch);
            part.publish()
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

    /// The image that the digest names. A registry that does not know what it just stated is asked by
    /// the reference once more: either it then says what is wrong, or the tag has moved.
    async fn resolve(&self, digest: &Digest) -> Result<Resolved, PullError> {
        let wanted = shifter_registry::Platform::linux(&self.platform.architecture);
        let (client, repository) = (self.client, &self.target.repository);
        let resolved = match client.resolve(repository, &digest.to_string(), &wanted).await {
            Err(error) if error.is_not_found() => {
                client.resolve(repository, &self.target.reference, &wanted).await?
            }
            result => result?,
        };
        if resolved.top_digest != *digest {
            return Err(PullError::Moved);
        }
        Ok(resolved)
    }

    /// Fetches all layers, some at a time, oldest first in the result.
    async fn download(&self, resolved: &Resolved) -> Result<Vec<Blob>, PullError> {
        let total: u64 = resolved.layers.iter().map(|layer| layer.size).sum();
        let received: Vec<AtomicU64> = resolved.layers.iter().map(|_| AtomicU64::new(0)).collect();
        let count = resolved.layers.len();
        let show = || {
            let got: u64 = received.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum();
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

fn megabytes(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10)
}

fn convert_layers(resolved: &Resolved, blobs: &[Blob]) -> Vec<ConvertLayer> {
    let mut diff_ids = resolved.config.diff_ids.iter();
    let layers = resolved.layers.iter().zip(blobs);
    layers
        .map(|(layer, blob)| ConvertLayer {
            path: blob.path().to_owned(),
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
