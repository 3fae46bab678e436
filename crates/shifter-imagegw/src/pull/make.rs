//! The making of an image that is not published yet: resolve, download, convert, publish. Conversion begins with the
//! newest layer, which is fetched first, and goes on as older ones arrive.
//!
//! Runs with the flight of its digest held, so once at a time; enters nothing into the catalog.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt};
use shifter_api::wire::LayerProgress;
use shifter_core::digest::Digest;
use shifter_registry::{Blob, BlobCache, Client, Compression, ImageConfig, RegistryError, Resolved};
use tokio::sync::{Semaphore, SemaphorePermit, SetOnce};

use super::files::Held;
use super::import::ImportError;
use super::layers::{self, There};
use super::lines::{converting_line, pulling_line, transferring_line};
use super::reuse::Offer;
use super::{DOWNLOADS, PullError, Puller, blocking};
use crate::acl;
use crate::catalog::{State, patiently};
use crate::config::{Access, Platform};
use crate::confine::Reach;
use crate::convert::{self, ConvertError, ConvertJob, ConvertLayer, Format, Supply};
use crate::erofs;
use crate::model::{Image, Job, JobStatus, RunConfig};
use crate::progress::Progress;
use crate::prometheus::METRICS;
use crate::publish::{self, NewImage, Scratch};
use crate::target::Target;

/// Conversions with remembered layers before one is done without.
const MOST_ATTEMPTS: u32 = 3;

/// An image that is not published yet.
struct Made<'a> {
    converted: Converted<'a>,
    layers: Vec<ConvertLayer>,
    offers: Vec<Option<Offer>>,
}

/// What a conversion made.
struct Converted<'a> {
    /// Kept to the end: publishing is work, too.
    _turn: Option<SemaphorePermit<'a>>,
    part: NewImage,
    scratch: Scratch,
    /// What is to be remembered of it.
    records: Option<Scratch>,
}

/// How far one attempt at an image has come.
#[derive(Default)]
struct Stage {
    /// There is a child.
    begun: SetOnce<()>,
    /// All layers are there; from now on the caller hears of the conversion.
    fetched: AtomicBool,
}

/// The making of an image that is not there yet.
pub(super) struct Making<'a> {
    pub(super) puller: &'a Puller,
    pub(super) job: &'a Job,
    pub(super) platform: &'a Platform,
    pub(super) target: &'a Target,
    pub(super) client: &'a Client,
    /// Turns of pulls from this registry, so that one that is slow holds up nobody else's users.
    pub(super) turns: &'a Semaphore,
    pub(super) progress: &'a Progress,
}

impl Puller {
    /// Has the site's examiner look at the image, where there is one.
    pub(super) async fn examine(
        &self,
        job: &Job,
        image: &Path,
        id: &str,
        progress: &Progress,
    ) -> Result<(), PullError> {
        let Some(examiner) = &self.config.examiner else { return Ok(()) };
        self.move_on(job, JobStatus::Examination, "Unpacking image for examination", progress).await?;
        let unpacked = || progress.set("Examining image");
        Ok(examiner.examine(&self.converter, image, id, &self.config.expand_directory, &unpacked).await?)
    }

    /// Makes what is published of what our writer wrote, where that is another format.
    pub(super) async fn make_format(
        &self,
        job: &Job,
        platform: &Platform,
        (format, written, part): (Format, &Path, &Path),
        id: &str,
        progress: &Progress,
    ) -> Result<(), PullError> {
        if format == Format::Squashfs {
            return Ok(());
        }
        self.move_on(job, JobStatus::Conversion, "Making EROFS image", progress).await?;
        let (expand, options) = (&self.config.expand_directory, &platform.converters.erofs);
        Ok(erofs::make(&self.converter, written, part, (expand, id), options).await?)
    }
}

impl<'a> Making<'a> {
    /// Downloads, converts and publishes; returns the image with its lock, not yet in the catalog.
    pub(super) async fn make(&self, digest: &Digest) -> Result<(Image, Held), PullError> {
        let puller = self.puller;
        self.progress.set("Waiting for a free worker");
        let _turn = self.turns.acquire().await.map_err(|_| PullError::Stopping)?;
        let resolved = self.resolve(digest).await?;
        // Old gateways name images by the top-level digest. An index means another image on each
        // architecture, so on others than the common one, and on variants of it, the platform's manifest names it.
        let id = match self.platform.architecture.as_str() {
            "amd64" => &resolved.top_digest,
            _ => &resolved.manifest_digest,
        };
        let id = id.hex().to_owned();
        let system = self.job.key.system.clone();
        let guard = puller.hold(self.platform, &id).await;
        let sharing = puller.sharing(self.platform, &id).await?;
        if sharing.iter().any(|known| known.image.config.source.is_some()) {
            return Err(ImportError::Taken(id).into());
        }
        if let Some(known) = sharing.into_iter().find(|known| known.image.system == system)
            && puller.find_published(&known.image).await?
        {
            return Ok((known.image, guard));
        }
        if puller.state_after_removal(&system, &id).await? == Some(State::Expiring) {
            return Err(PullError::Removed);
        }
        let layers = convert_layers(&resolved);
        let store = puller.store(&system)?;
        // Layers are taken from images that this machine can read.
        let key = convert::key(&self.platform.converters).filter(|_| store.is_local());
        let offers = match &key {
            Some(key) => self.find(key, &layers).await?,
            None => vec![None; layers.len()],
        };
        let made = self.make_image(&resolved, &id, layers, offers, key.is_some()).await?;
        self.progress.of_layers(Vec::clear);
        let format = self.platform.converters.format;
        let written = written(format, &made.converted.part, &made.converted.scratch);
        puller.examine(self.job, &written, &id, self.progress).await?;
        let part = made.converted.part.path();
        puller.make_format(self.job, self.platform, (format, &written, part), &id, self.progress).await?;
        puller.move_on(self.job, JobStatus::Transfer, "Transferring image", self.progress).await?;
        let indexes = puller.indexes.clone();
        let image_path = publish::image_path(&self.platform.image_dir, &id, format.name());
        let Converted { part, scratch, records, .. } = made.converted;
        let whole = blocking(move || part.complete()).await?;
        drop(scratch);
        // Reading it may have taken longer than the lease: who lost it gives no name to anything.
        let lease = self.job.lease();
        puller.held(patiently(|| puller.catalog.heartbeat(lease)).await?)?;
        let sent = |bytes: u64, hosts: usize| self.progress.set(transferring_line(bytes, hosts));
        let published = store.publish(whole, &id, format.name(), &sent).await?;
        blocking(move || {
            if let (Some(records), Some(key)) = (records, key) {
                indexes.install(&records, &key, &made.layers, &made.offers, &image_path);
                drop(records);
                indexes.collect();
            }
            Ok(())
        })
        .await?;
        let image = Image {
            system,
            id,
            format: format.name().to_owned(),
            config: run_config(&resolved.config, &resolved.platform),
            size: published.size,
            sha256: published.sha256,
            last_pull: 0.0,
            expiration: 0.0,
        };
        Ok((image, guard))
    }

    /// What is remembered of the layers, in images that the caller may read: the registry is not asked for layers that
    /// are not fetched, and the child that reads the caller's image can read all of those.
    async fn find(&self, key: &str, layers: &[ConvertLayer]) -> Result<Vec<Option<Offer>>, PullError> {
        let (indexes, key, layers) = (self.puller.indexes.clone(), key.to_owned(), layers.to_vec());
        let mut offers = blocking(move || Ok(indexes.find(&key, &layers))).await?;
        let mut readable: HashMap<PathBuf, bool> = HashMap::new();
        for place in &mut offers {
            let Some(image) = place.as_ref().map(|offer| offer.image.clone()) else { continue };
            let is_readable = match readable.get(&image) {
                Some(known) => *known,
                None => self.is_open_to_caller(&image).await?,
            };
            readable.insert(image, is_readable);
            if !is_readable {
                *place = None;
            }
        }
        Ok(offers)
    }

    /// Whether the caller has a grant on a published image, under any tag of any system that has it.
    async fn is_open_to_caller(&self, image: &Path) -> Result<bool, PullError> {
        let (Some(directory), Some(id)) = (image.parent(), image.file_stem().and_then(|id| id.to_str()))
        else {
            return Ok(false);
        };
        for (system, _) in self
            .puller
            .config
            .platforms
            .iter()
            .filter(|(_, p)| p.access == Access::Local && p.image_dir == directory)
        {
            let record = patiently(|| self.puller.catalog.record(system, id)).await?;
            if record.is_some_and(|record| acl::opens_to(&record.grants, self.job.uid)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes the image of what is remembered and of what is fetched. Whatever goes wrong with what is remembered, the
    /// image is made without: first without that of the one layer that is needed after all, then without any.
    async fn make_image(
        &self,
        resolved: &Resolved,
        id: &str,
        mut layers: Vec<ConvertLayer>,
        mut offers: Vec<Option<Offer>>,
        remember: bool,
    ) -> Result<Made<'a>, PullError> {
        let blobs: Vec<SetOnce<Blob>> = layers.iter().map(|_| SetOnce::new()).collect();
        let mut attempts = 0;
        loop {
            attempts += 1;
            for (layer, offer) in layers.iter_mut().zip(&offers) {
                (layer.path, layer.kept) =
                    offer.as_ref().map(|offer| (offer.index.clone(), offer.image.clone())).unzip();
            }
            self.progress.of_layers(|all| *all = standing(resolved, &offers, &blobs));
            let stage = Stage::default();
            let converting = self.convert(id, resolved, &layers, &blobs, remember, &stage);
            // Whichever fails first ends the other: a child whose layers will not come, downloads that nobody wants.
            let error = match tokio::try_join!(converting, self.provide(resolved, &offers, &blobs, &stage)) {
                Ok((converted, ())) => return Ok(Made { converted, layers, offers }),
                Err(PullError::Convert(error)) if offers.iter().any(Option::is_some) => error,
                Err(error) => return Err(error),
            };
            tracing::info!(%error, attempts, "an image is made again, with fewer layers taken from others");
            match error {
                ConvertError::Needs(layer) if attempts < MOST_ATTEMPTS => match offers.get_mut(layer) {
                    Some(offer) if offer.is_some() => *offer = None,
                    _ => offers.fill(None),
                },
                _ => offers.fill(None),
            }
        }
    }

    /// Fetches what is not offered, and says so when it is done.
    async fn provide(
        &self,
        resolved: &Resolved,
        offers: &[Option<Offer>],
        blobs: &[SetOnce<Blob>],
        stage: &Stage,
    ) -> Result<(), PullError> {
        self.fetch(resolved, offers, blobs).await?;
        if stage.begun.get().is_none() {
            self.progress.set("Waiting for a free worker");
            stage.begun.wait().await;
        }
        self.puller.move_on(self.job, JobStatus::Conversion, "Converting image", self.progress).await?;
        stage.fetched.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the image of layers as they come; those that come are the ones without a path.
    async fn convert(
        &self,
        id: &str,
        resolved: &Resolved,
        layers: &[ConvertLayer],
        blobs: &[SetOnce<Blob>],
        remember: bool,
        stage: &Stage,
    ) -> Result<Converted<'a>, PullError> {
        let puller = self.puller;
        let due: Vec<bool> = layers.iter().map(|layer| layer.path.is_none()).collect();
        let files = due.contains(&true);
        let mut supply = Supply::begin(blobs, due, &puller.workers).await?;
        // Set once: an attempt has one conversion.
        let _is_first = stage.begun.set(());
        let (expand, store) = (puller.config.expand_directory.clone(), puller.store(&self.job.key.system)?);
        let format = self.platform.converters.format;
        let (new_id, indexes) = (id.to_owned(), puller.indexes.clone());
        let (scratch, part, records) = blocking(move || {
            let scratch = Scratch::create(&expand, &new_id)?;
            let part = store.new_image(&expand, &new_id, format.name())?;
            Ok((scratch, part, if remember { indexes.scratch(&new_id) } else { None }))
        })
        .await?;
        let output = written(format, &part, &scratch);
        let reach = Reach {
            read: layers
                .iter()
                .flat_map(|layer| [layer.path.clone(), layer.kept.clone()])
                .flatten()
                .collect(),
            write: if format == Format::Squashfs { vec![output.clone()] } else { Vec::new() },
            make: [Some(&scratch), records.as_ref()]
                .into_iter()
                .flatten()
                .map(|s| s.path().to_owned())
                .collect(),
            files,
            ..Reach::default()
        };
        let job = ConvertJob {
            layers: layers.to_vec(),
            output,
            scratch: scratch.path().to_owned(),
            converter: self.platform.converters.clone(),
            reach,
            records: records.as_ref().map(|records| records.path().to_owned()),
            image: publish::image_path(&self.platform.image_dir, id, format.name()),
        };
        let read = layers.iter().zip(&resolved.layers).filter(|(layer, _)| layer.kept.is_none());
        let total = read.map(|(_, layer)| layer.size).sum();
        let progress = |begun: usize, read: u64| {
            self.progress.of_layers(|all| layers::converted(all, begun, read));
            if !stage.fetched.load(Ordering::Relaxed) {
                return;
            }
            let (of, begun) = (layers.len(), begun.min(layers.len()));
            // They begin with the newest.
            let layer = of.checked_sub(begun).and_then(|number| layers.get(number));
            let is_kept = layer.is_some_and(|layer| layer.kept.is_some());
            let line = converting_line(is_kept, begun, of, read, total);
            self.progress.set_bytes("Converting image", line, read.min(total), total);
        };
        puller.converter.run(&job, &mut supply, &progress).await?;
        Ok(Converted { _turn: supply.into_turn(), part, scratch, records })
    }

    /// Fetches the layers of which nothing is remembered.
    async fn fetch(
        &self,
        resolved: &Resolved,
        offers: &[Option<Offer>],
        blobs: &[SetOnce<Blob>],
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

    /// Fetches the layers that are neither offered nor there, newest first, some at a time.
    async fn download(
        &self,
        resolved: &Resolved,
        offers: &[Option<Offer>],
        blobs: &[SetOnce<Blob>],
    ) -> Result<(), PullError> {
        let places = resolved.layers.iter().zip(offers).zip(blobs).enumerate().rev();
        let places = places.filter(|(_, ((_, offer), blob))| offer.is_none() && blob.get().is_none());
        let (layers, places): (Vec<_>, Vec<_>) =
            places.map(|(number, ((layer, _), blob))| (layer, (number, blob))).unzip();
        METRICS.layers_kept(resolved.layers.len() - layers.len());
        if layers.is_empty() {
            return Ok(());
        }
        let received: Vec<AtomicU64> = layers.iter().map(|_| AtomicU64::new(0)).collect();
        let kept = resolved.layers.len() - layers.len();
        let show = || {
            let layers = layers.iter().zip(&received);
            let layers = layers.map(|(layer, bytes)| (bytes.load(Ordering::Relaxed), layer.size));
            let (done, total) = layers.clone().fold((0, 0), |(done, total), (received, size): (u64, u64)| {
                (done + received.min(size), total + size)
            });
            self.progress.set_bytes("Pulling layers", pulling_line(kept, layers), done, total);
        };
        show();
        let fetches = layers.iter().zip(places).zip(&received).map(|((layer, (number, place)), bytes)| {
            let report = move |progress: shifter_registry::Progress| {
                bytes.store(progress.received, Ordering::Relaxed);
                self.progress.of_layers(|all| layers::received(all, number, progress.received));
                show();
            };
            async move {
                let repository = &self.target.repository;
                let blob = self.puller.cache.fetch(self.client, repository, layer, &report).await?;
                METRICS.layer_fetched(layer.size);
                self.progress.of_layers(|all| layers::fetched(all, number));
                // Empty until now, and nobody else fetches it.
                let _is_first = place.set(blob);
                Ok::<(), PullError>(())
            }
        });
        // Collected first: over a lazy iterator the compiler cannot prove the whole to be Send.
        let fetches: Vec<_> = fetches.collect();
        futures_util::stream::iter(fetches).buffer_unordered(DOWNLOADS).try_collect().await
    }
}

/// Where our writer writes: what is published, or what that is made of.
pub(super) fn written(format: Format, part: &NewImage, scratch: &Scratch) -> PathBuf {
    match format {
        Format::Squashfs => part.path().to_owned(),
        Format::Erofs => scratch.path().join("squashfs"),
    }
}

/// What clients are told of the layers at first.
fn standing(resolved: &Resolved, offers: &[Option<Offer>], blobs: &[SetOnce<Blob>]) -> Vec<LayerProgress> {
    let there = |(offer, blob): (&Option<Offer>, &SetOnce<Blob>)| match (offer, blob.get()) {
        (Some(_), _) => There::Converted,
        (None, Some(_)) => There::Blob,
        (None, None) => There::Nothing,
    };
    let there = offers.iter().zip(blobs).map(there);
    let layers = resolved.layers.iter().zip(there);
    layers.map(|(layer, there)| layers::new(layer.digest.to_string(), layer.size, there)).collect()
}

/// The layers, still without the files to read.
fn convert_layers(resolved: &Resolved) -> Vec<ConvertLayer> {
    let mut diff_ids = resolved.config.diff_ids.iter();
    let layers = resolved.layers.iter();
    layers
        .map(|layer| ConvertLayer {
            path: None,
            kept: None,
            digest: layer.digest.to_string(),
            diff_id: diff_ids.next().map(Digest::to_string),
            compression: compression_name(layer.compression).to_owned(),
        })
        .collect()
}

/// As the child is told.
pub(super) fn compression_name(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
        Compression::None => "none",
    }
}

/// What the image says, for the catalog and `.meta`.
pub(super) fn run_config(config: &ImageConfig, platform: &shifter_registry::Platform) -> RunConfig {
    RunConfig {
        entry: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        workdir: config.workdir.clone(),
        env: config.env.clone(),
        labels: config.labels.clone(),
        user: config.user.clone().unwrap_or_default(),
        volumes: config.volumes.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        architecture: platform.processor(),
        source: None,
    }
}
