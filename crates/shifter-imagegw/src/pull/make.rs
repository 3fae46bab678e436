//! The making of an image that is not published yet: resolve, download, convert, publish.
//!
//! Runs with the flight of its digest held, so once at a time; enters nothing into the catalog.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt};
use shifter_core::digest::Digest;
use shifter_registry::{Blob, BlobCache, Client, Compression, RegistryError, Resolved};
use tokio::sync::{OwnedMutexGuard, Semaphore};

use super::{DOWNLOADS, FORMAT, Progress, PullError, Puller, blocking};
use crate::catalog::patiently;
use crate::config::Platform;
use crate::confine::Reach;
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
    /// Turns of pulls from this registry, so that one that is slow holds up nobody else's users.
    pub(super) turns: &'a Semaphore,
    pub(super) progress: &'a Progress,
}

impl Making<'_> {
    /// Downloads, converts and publishes; returns the image with its lock, not yet in the catalog.
    pub(super) async fn make(&self, digest: &Digest) -> Result<(Image, OwnedMutexGuard<()>), PullError> {
        let puller = self.puller;
        self.progress.set("Waiting for a free worker".to_owned());
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
        self.progress.set("Waiting for a free worker".to_owned());
        let _worker = puller.workers.acquire().await.map_err(|_| PullError::Stopping)?;
        puller.move_on(self.job, JobStatus::Conversion, "Converting image", self.progress).await?;
        let (expand, directory) = (puller.config.expand_directory.clone(), self.platform.image_dir.clone());
        let new_id = id.clone();
        let (scratch, part) = blocking(move || {
            Ok((Scratch::create(&expand, &new_id)?, NewImage::create(&directory, &new_id, FORMAT)?))
        })
        .await?;
        let reach = Reach {
            read: layers.iter().map(|layer| layer.path().to_owned()).collect(),
            write: vec![part.path().to_owned()],
            make: vec![scratch.path().to_owned()],
            ..Reach::default()
        };
        let job = ConvertJob {
            layers: convert_layers(&resolved, &layers),
            output: part.path().to_owned(),
            scratch: scratch.path().to_owned(),
            converter: self.platform.converters.clone(),
            reach,
        };
        let (of, total) = (job.layers.len(), resolved.layers.iter().map(|layer| layer.size).sum());
        let progress =
            |begun: usize, read: u64| self.progress.set(converting_line(begun.min(of), of, read, total));
        puller.converter.run(&job, &progress).await?;
        // Held until here, so that nobody collects what is being read.
        drop(layers);
        let expand = &puller.config.expand_directory;
        if let Some(examiner) = &puller.config.examiner {
            let begin = "Unpacking image for examination";
            puller.move_on(self.job, JobStatus::Examination, begin, self.progress).await?;
            let unpacked = || self.progress.set("Examining image".to_owned());
            examiner.examine(&puller.converter, part.path(), &id, expand, &unpacked).await?;
        }
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
            config: run_config(&resolved),
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
        let received: Vec<AtomicU64> = resolved.layers.iter().map(|_| AtomicU64::new(0)).collect();
        let show = || {
            let layers = resolved.layers.iter().zip(&received);
            let layers = layers.map(|(layer, bytes)| (bytes.load(Ordering::Relaxed), layer.size));
            self.progress.set(pulling_line(layers));
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

/// Of each layer: bytes received, and in all.
fn pulling_line(layers: impl Iterator<Item = (u64, u64)>) -> String {
    let (mut count, mut done, mut got, mut total) = (0, 0, 0, 0);
    for (received, size) in layers {
        count += 1;
        done += u32::from(received >= size);
        got += received.min(size);
        total += size;
    }
    format!("Pulling layers, {done} of {count} complete, {} of {} MB", megabytes(got), megabytes(total))
}

fn converting_line(begun: usize, of: usize, read: u64, total: u64) -> String {
    format!("Converting layer {begun} of {of}, {} of {} MB", megabytes(read.min(total)), megabytes(total))
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

fn run_config(resolved: &Resolved) -> RunConfig {
    let config = &resolved.config;
    RunConfig {
        entry: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        workdir: config.workdir.clone(),
        env: config.env.clone(),
        labels: config.labels.clone(),
        user: config.user.clone().unwrap_or_default(),
        volumes: config.volumes.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        architecture: resolved.platform.processor(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_all_layers_at_once() {
        let line = |layers: &[(u64, u64)]| pulling_line(layers.iter().copied());
        assert_eq!(line(&[]), "Pulling layers, 0 of 0 complete, 0.0 of 0.0 MB");
        let some = [(1_000_000, 1_000_000), (250_000, 2_000_000), (0, 500_000)];
        assert_eq!(line(&some), "Pulling layers, 1 of 3 complete, 1.2 of 3.5 MB");
        // A registry that sends more than it promised is refused elsewhere; here it must not look absurd.
        assert_eq!(line(&[(9_000_000, 1_000_000)]), "Pulling layers, 1 of 1 complete, 1.0 of 1.0 MB");
        assert_eq!(converting_line(2, 3, 4_560_000, 12_000_000), "Converting layer 2 of 3, 4.5 of 12.0 MB");
    }
}
