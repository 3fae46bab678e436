//! The making of an image that is not published yet: resolve, download, convert, publish.
//!
//! Runs with the flight of its digest held, so once at a time; enters nothing into the catalog.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt};
use shifter_core::digest::Digest;
use shifter_registry::{Blob, BlobCache, Client, Compression, RegistryError, Resolved};
use tokio::sync::OwnedMutexGuard;

use super::reuse::Offer;
use super::{DOWNLOADS, FORMAT, Progress, PullError, Puller, blocking};
use crate::config::Platform;
use crate::convert::{ConvertError, ConvertJob, ConvertLayer};
use crate::model::{Image, Job, JobStatus, RunConfig};
use crate::publish::{self, NewImage, Scratch};
use crate::target::Target;

/// Conversions with remembered layers before one is done without.
const MOST_ATTEMPTS: u32 = 3;

/// An image that is not published yet.
struct Made {
    part: NewImage,
    scratch: Scratch,
    /// What is to be remembered of it.
    records: Option<Scratch>,
    layers: Vec<ConvertLayer>,
    offers: Vec<Option<Offer>>,
}

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
        if let Some(image) = puller.catalog.image(&system, &id).await?
            && puller.is_published(self.platform, &image).await
        {
            return Ok((image, guard));
        }
        let layers = convert_layers(&resolved);
        let offers = self.find(&layers).await?;
        let made = self.make_image(&resolved, &id, layers, offers).await?;
        puller.move_on(self.job, JobStatus::Transfer, "Transferring image", self.progress).await?;
        let (indexes, key) = (puller.indexes.clone(), crate::convert::key(&self.platform.converters));
        let published = blocking(move || {
            drop(made.scratch);
            let published = made.part.publish()?;
            if let (Some(records), Some(key)) = (made.records, key) {
                indexes.install(&records, &key, &made.layers, &made.offers);
                drop(records);
                indexes.collect();
            }
            Ok(published)
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

    /// What is remembered of the layers.
    async fn find(&self, layers: &[ConvertLayer]) -> Result<Vec<Option<Offer>>, PullError> {
        let (indexes, platform) = (self.puller.indexes.clone(), self.platform.clone());
        let layers = layers.to_vec();
        blocking(move || Ok(indexes.find(&platform, &layers))).await
    }

    /// Makes the image of what is remembered and of what is fetched. Whatever goes wrong with what is remembered, the
    /// image is made without: first without that of the one layer that is needed after all, then without any.
    async fn make_image(
        &self,
        resolved: &Resolved,
        id: &str,
        mut layers: Vec<ConvertLayer>,
        mut offers: Vec<Option<Offer>>,
    ) -> Result<Made, PullError> {
        let mut blobs: Vec<Option<Blob>> = layers.iter().map(|_| None).collect();
        let mut attempts = 0;
        loop {
            attempts += 1;
            self.fetch(resolved, &offers, &mut blobs).await?;
            for ((layer, blob), offer) in layers.iter_mut().zip(&blobs).zip(&offers) {
                (layer.path, layer.kept) = match (offer, blob) {
                    (Some(offer), _) => (offer.index.clone(), Some(offer.image.clone())),
                    (None, Some(blob)) => (blob.path().to_owned(), None),
                    (None, None) => continue,
                };
            }
            let error = match self.convert(id, &layers).await {
                Ok((part, scratch, records)) => return Ok(Made { part, scratch, records, layers, offers }),
                Err(error) if offers.iter().all(Option::is_none) => return Err(error),
                Err(error) => error,
            };
            tracing::info!(%error, attempts, "an image is made again, with fewer layers taken from others");
            match error {
                PullError::Convert(ConvertError::Needs(layer)) if attempts < MOST_ATTEMPTS => {
                    match offers.get_mut(layer) {
                        Some(offer) if offer.is_some() => *offer = None,
                        _ => offers.fill(None),
                    }
                }
                _ => offers.fill(None),
            }
        }
    }

    /// One attempt at an image.
    async fn convert(
        &self,
        id: &str,
        layers: &[ConvertLayer],
    ) -> Result<(NewImage, Scratch, Option<Scratch>), PullError> {
        let puller = self.puller;
        puller.move_on(self.job, JobStatus::Conversion, "Converting image", self.progress).await?;
        let (expand, directory) = (puller.config.expand_directory.clone(), self.platform.image_dir.clone());
        let (new_id, indexes) = (id.to_owned(), puller.indexes.clone());
        let has_key = crate::convert::key(&self.platform.converters).is_some();
        let (scratch, part, records) = blocking(move || {
            let scratch = Scratch::create(&expand, &new_id)?;
            let part = NewImage::create(&directory, &new_id, FORMAT)?;
            Ok((scratch, part, if has_key { indexes.scratch(&new_id) } else { None }))
        })
        .await?;
        let job = ConvertJob {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layers: layers.to_vec(),
            output: part.path().to_owned(),
            scratch: scratch.path().to_owned(),
            converter: self.platform.converters.clone(),
            records: records.as_ref().map(|records| records.path().to_owned()),
            image: publish::image_path(&self.platform.image_dir, id, FORMAT),
        };
        let of = job.layers.len();
        let progress = |begun: usize, bytes: u64| {
            let begun = begun.min(of);
            // They begin with the newest.
            let is_kept = of.checked_sub(begun).and_then(|number| job.layers.get(number));
            let doing = if is_kept.is_some_and(|l| l.kept.is_some()) { "Reusing" } else { "Converting" };
            self.progress.set(format!("{doing} layer {begun} of {of}, {} MB", megabytes(bytes)));
        };
        puller.converter.run(&job, &progress).await?;
        Ok((part, scratch, records))
    }

    /// Fetches the layers of which nothing is remembered.
    async fn fetch(
        &self,
        resolved: &Resolved,
        offers: &[Option<Offer>],
        blobs: &mut [Option<Blob>],
    ) -> Result<(), PullError> {
        match self.download(resolved, offers, blobs).await {
            // The cache's directories were removed under a running gateway: made again, once.
            Err(PullError::Registry(RegistryError::Cache { source, .. }))
                if source.kind() == ErrorKind::NotFound =>
            {
                let directory = self.puller.config.cache_directory.clone();
                blocking(move || Ok(BlobCache::open(&directory).map(drop))).await??;
                self.download(resolved, offers, blobs).await
            }
            result => result,
        }
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

    /// Fetches the layers that are neither offered nor there, some at a time.
    async fn download(
        &self,
        resolved: &Resolved,
        offers: &[Option<Offer>],
        blobs: &mut [Option<Blob>],
    ) -> Result<(), PullError> {
        let places = resolved.layers.iter().zip(offers).zip(blobs);
        let places = places.filter(|((_, offer), blob)| offer.is_none() && blob.is_none());
        let (layers, places): (Vec<_>, Vec<_>) = places.map(|((layer, _), blob)| (layer, blob)).unzip();
        if layers.is_empty() {
            return Ok(());
        }
        let total: u64 = layers.iter().map(|layer| layer.size).sum();
        let received: Vec<AtomicU64> = layers.iter().map(|_| AtomicU64::new(0)).collect();
        let (count, of) = (layers.len(), resolved.layers.len());
        let what = match of - count {
            0 => format!("{count} layers"),
            _ => format!("{count} of {of} layers"),
        };
        let show = || {
            let got: u64 = received.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum();
            let line = format!("Pulling {what}, {} of {} MB", megabytes(got), megabytes(total));
            self.progress.set(line);
        };
        show();
        let fetches = layers.iter().zip(&received).map(|(layer, bytes)| {
            let report = |progress: shifter_registry::Progress| {
                bytes.store(progress.received, Ordering::Relaxed);
                show();
            };
            async move { self.puller.cache.fetch(self.client, &self.target.repository, layer, &report).await }
        });
        // Collected first: over a lazy iterator the compiler cannot prove the whole to be Send.
        let fetches: Vec<_> = fetches.collect();
        let fetched: Vec<Blob> =
            futures_util::stream::iter(fetches).buffered(DOWNLOADS).try_collect().await?;
        places.into_iter().zip(fetched).for_each(|(place, blob)| *place = Some(blob));
        Ok(())
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10)
}

/// The layers, still without the files to read.
fn convert_layers(resolved: &Resolved) -> Vec<ConvertLayer> {
    let mut diff_ids = resolved.config.diff_ids.iter();
    let layers = resolved.layers.iter();
    layers
        .map(|layer| ConvertLayer {
            path: PathBuf::new(),
            kept: None,
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
