//! The gateway's side of layers that need not be fetched again: what is remembered of them lies in
//! `CacheDirectory/index/ALGORITHM-HEX.KEY`, one file for each layer and way of making images, and is given to the next
//! conversion as long as the image that has the layer's data is there.
//!
//! Whether what is remembered is whole, and whether the image still has the bytes, the child finds out; this side only
//! decides what is tried, kept and removed. Nothing here can fail a pull: without these files layers are fetched and
//! read, and the image is the same.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::{Access, Config};
use crate::convert::{About, ConvertLayer};
use crate::publish::{self, Scratch};

/// Most files, and most bytes of all together; of `CacheSizeLimit`, where there is one, at most a quarter.
const MOST_FILES: usize = 4096;
const MOST_BYTES: u64 = 4 << 30;

/// What is remembered of layers.
#[derive(Clone, Debug)]
pub(crate) struct LayerIndexes {
    directory: PathBuf,
    most_files: usize,
    most_bytes: u64,
    /// Where images can be; what lies elsewhere is not opened.
    image_directories: Vec<PathBuf>,
}

/// What is remembered of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) index: PathBuf,
    /// The published image that has the data.
    pub(crate) image: PathBuf,
}

impl LayerIndexes {
    /// Those of a gateway's cache; nothing is created or read yet.
    pub(crate) fn new(config: &Config) -> Self {
        let platforms = config.platforms.values().filter(|platform| platform.access == Access::Local);
        LayerIndexes {
            directory: config.cache_directory.join("index"),
            most_files: MOST_FILES,
            most_bytes: config.cache_limit.map_or(MOST_BYTES, |limit| MOST_BYTES.min(limit / 4)),
            image_directories: platforms.map(|platform| platform.image_dir.clone()).collect(),
        }
    }

    /// What is remembered of each of these layers, if it can be of use.
    pub(crate) fn find(&self, key: &str, layers: &[ConvertLayer]) -> Vec<Option<Offer>> {
        layers.iter().map(|layer| self.find_one(key, layer)).collect()
    }

    fn find_one(&self, key: &str, layer: &ConvertLayer) -> Option<Offer> {
        let index = self.path(key, layer);
        let about = About::read(&index).ok()?;
        let diff_id = layer.diff_id.as_deref();
        let wanted = About::new(key, &layer.digest, &layer.compression, diff_id, &about.image);
        if !about.fits(&wanted) || !self.is_image(&about.image) {
            return None;
        }
        // When it was last used. Where this fails, it only goes the sooner.
        let _ = File::open(&index).and_then(|file| file.set_modified(SystemTime::now()));
        Some(Offer { index, image: about.image })
    }

    /// A directory for what a conversion will remember; it leaves with its value.
    pub(crate) fn scratch(&self, id: &str) -> Option<Scratch> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.ok().and_then(|()| Scratch::create(&self.directory, id).ok())
    }

    /// Takes over what a conversion remembered of the layers that it read, now that its `image` is published. What was
    /// offered and served stays as it is, and what speaks of anything else is not ours: the child wrote it.
    pub(crate) fn install(
        &self,
        scratch: &Scratch,
        key: &str,
        layers: &[ConvertLayer],
        offers: &[Option<Offer>],
        image: &Path,
    ) {
        // A layer may be there twice; the lower one lacks what the upper one has.
        let mut best: BTreeMap<PathBuf, (u64, PathBuf)> = BTreeMap::new();
        let read = layers.iter().enumerate().zip(offers).filter(|(_, offer)| offer.is_none());
        for ((number, layer), _) in read {
            let new = scratch.path().join(number.to_string());
            let Ok(about) = About::read(&new) else { continue };
            let wanted = About::new(key, &layer.digest, &layer.compression, layer.diff_id.as_deref(), image);
            let place = self.path(key, layer);
            let is_best = best.get(&place).is_none_or(|(least, _)| about.left_out < *least);
            if about.fits(&wanted) && about.image == image && is_best {
                best.insert(place, (about.left_out, new));
            }
        }
        for (place, (_, new)) in best {
            if let Err(error) = std::fs::rename(&new, &place) {
                tracing::warn!(path = %place.display(), %error, "what a layer became is not remembered");
            }
        }
    }

    /// At the start: removes what dead processes left, and what is of no use.
    pub(crate) fn tidy(&self) {
        if self.directory.is_dir()
            && let Err(error) = publish::remove_leftovers(&self.directory)
        {
            tracing::warn!(path = %self.directory.display(), %error, "layer indexes not tidied");
        }
        self.collect();
    }

    /// Removes what speaks of images that are gone, and of the rest what was unused for the longest time until the
    /// bounds hold.
    pub(crate) fn collect(&self) {
        let collected = if self.directory.is_dir() { self.try_collect() } else { Ok(0) };
        match collected {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed what was remembered of layers"),
            Err(error) => {
                tracing::warn!(path = %self.directory.display(), %error, "layer indexes not tidied")
            }
        }
    }

    fn try_collect(&self) -> io::Result<usize> {
        let mut found = Vec::new();
        let mut removed = 0;
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            if !metadata.is_file() || !entry.file_name().to_str().is_some_and(is_index_name) {
                continue;
            }
            match About::read(&path) {
                Ok(about) if self.is_image(&about.image) => {
                    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((used, metadata.len(), path));
                }
                _ => {
                    std::fs::remove_file(&path)?;
                    removed += 1;
                }
            }
        }
        found.sort();
        let (mut files, mut bytes) = (found.len(), found.iter().map(|(_, bytes, _)| bytes).sum::<u64>());
        for (_, length, path) in found {
            if files <= self.most_files && bytes <= self.most_bytes {
                break;
            }
            std::fs::remove_file(&path)?;
            removed += 1;
            files -= 1;
            bytes -= length;
        }
        Ok(removed)
    }

    /// Whether a published image is there.
    fn is_image(&self, path: &Path) -> bool {
        let is_ours = path.parent().is_some_and(|parent| self.image_directories.iter().any(|d| d == parent));
        is_ours && std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
    }

    fn path(&self, key: &str, layer: &ConvertLayer) -> PathBuf {
        self.directory.join(format!("{}.{key}", layer.digest.replace(':', "-")))
    }
}

/// `ALGORITHM-HEX.KEY`; whatever else lies there is not ours.
fn is_index_name(name: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    name.split_once('.')
        .and_then(|(digest, _)| digest.split_once('-'))
        .is_some_and(|(algorithm, digest)| matches!(algorithm, "sha256" | "sha512") && hex(digest))
}
