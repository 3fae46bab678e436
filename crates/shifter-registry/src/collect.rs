//! What lies in a cache directory, and which of it goes first when it becomes too much.
//!
//! Unfinished downloads go before blobs, and among either kind what was not used for the longest time. What a job
//! holds, and what is being downloaded, stays, also where that is more than the limit: a job that started can end.
//! Files with other names than ours are not counted and not touched.

use crate::lock::Lock;
use shifter_core::digest::{Algorithm, Digest};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Unfinished downloads older than this are not taken up again.
pub(crate) const OLDEST_PARTIAL: Duration = Duration::from_secs(7 * 86_400);
/// Most unfinished downloads that are kept.
pub(crate) const MOST_PARTIALS: usize = 64;

/// Less than this is not worth taking up again, bytes.
pub(crate) const SMALLEST_PARTIAL: u64 = 1 << 20;

/// One blob, or the part of one that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of the whole blob.
    pub digest: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// When it was last used; of a partial: written.
    pub used: SystemTime,
}

/// All of a cache, the longest unused first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Whole blobs.
    pub blobs: Vec<Entry>,
    /// Downloads that broke off or are under way; they are taken up again where they end.
    pub partials: Vec<Entry>,
}

impl Contents {
    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.blobs.iter().chain(&self.partials).map(|entry| entry.size).sum()
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub removed: Vec<Digest>,
    /// Bytes freed, those of unfinished downloads included.
    pub freed: u64,
    /// Bytes left.
    pub left: u64,
}

/// The files of the cache in `dir`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Directory of all blobs of an algorithm.
    pub(crate) fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.dir.join(algorithm.name())
    }

    /// Directory of the files that say who uses what.
    pub(crate) fn uses(&self) -> PathBuf {
        self.dir.join("used")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(format!(".{}.partial", digest.hex()))
    }

    /// Locked while the blob is downloaded or verified.
    pub(crate) fn lock(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(format!(".{}.lock", digest.hex()))
    }

    /// Locked while the blob is used.
    pub(crate) fn used(&self, digest: &Digest) -> PathBuf {
        self.uses().join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// What is there.
    pub(crate) fn contents(&self) -> io::Result<Contents> {
        let mut contents = Contents::default();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for entry in std::fs::read_dir(self.blobs(algorithm))? {
                let entry = entry?;
                let name = entry.file_name();
                let Some(name) = name.to_str() else { continue };
                let partial = name.strip_prefix('.').and_then(|n| n.strip_suffix(".partial"));
                let hex = partial.unwrap_or(name);
                let Ok(digest) = Digest::parse(&format!("{}:{hex}", algorithm.name())) else { continue };
                let metadata = match entry.metadata() {
                    Ok(metadata) if metadata.is_file() => metadata,
                    Ok(_) => continue,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                };
                let written = modified(&metadata);
                if partial.is_some() {
                    contents.partials.push(Entry { digest, size: metadata.len(), used: written });
                } else {
                    let stamp = std::fs::symlink_metadata(self.used(&digest));
                    let used = stamp.map_or(written, |stamp| modified(&stamp));
                    contents.blobs.push(Entry { digest, size: metadata.len(), used });
                }
            }
        }
        contents.blobs.sort_by_key(|entry| entry.used);
        contents.partials.sort_by_key(|entry| entry.used);
        Ok(contents)
    }

    /// Removes what killed processes left and nobody can use: locks, stamps without a blob, partials that are too
    /// old, too small or too many.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for entry in std::fs::read_dir(self.blobs(algorithm))? {
                let entry = entry?;
                let name = entry.file_name();
                let hex = name.to_str().and_then(|n| n.strip_prefix('.')?.strip_suffix(".lock"));
                if hex.is_some_and(|hex| Digest::parse(&format!("{}:{hex}", algorithm.name())).is_ok()) {
                    // Dropping a lock removes its file; one that is held stays.
                    drop(Lock::try_take(&entry.path())?);
                }
            }
        }
        let contents = self.contents()?;
        let surplus = contents.partials.len().saturating_sub(MOST_PARTIALS);
        for (number, partial) in contents.partials.iter().enumerate() {
            let is_old = partial.used.elapsed().is_ok_and(|age| age > OLDEST_PARTIAL);
            if number < surplus || is_old || partial.size < SMALLEST_PARTIAL {
                self.remove_partial(&partial.digest)?;
            }
        }
        for entry in std::fs::read_dir(self.uses())? {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|n| Digest::parse(&n.replacen('-', ":", 1)).ok());
            if digest.is_some_and(|digest| std::fs::symlink_metadata(self.blob(&digest)).is_err()) {
                drop(Lock::try_take(&entry.path())?);
            }
        }
        Ok(())
    }

    /// Removes what was unused for the longest time until no more than `limit` bytes are left.
    pub(crate) fn collect(&self, limit: u64) -> io::Result<Collected> {
        let contents = self.contents()?;
        let mut collected = Collected { left: contents.size(), ..Collected::default() };
        let freed = |collected: &mut Collected, entry: &Entry| {
            collected.freed += entry.size;
            collected.left -= entry.size;
        };
        for partial in &contents.partials {
            if collected.left > limit && self.remove_partial(&partial.digest)? {
                freed(&mut collected, partial);
            }
        }
        for blob in &contents.blobs {
            if collected.left > limit && self.remove_blob(&blob.digest)? {
                freed(&mut collected, blob);
                collected.removed.push(blob.digest.clone());
            }
        }
        Ok(collected)
    }

    fn remove_partial(&self, digest: &Digest) -> io::Result<bool> {
        let Some(_lock) = Lock::try_take(&self.lock(digest))? else { return Ok(false) };
        remove(&self.partial(digest)).map(|()| true)
    }

    fn remove_blob(&self, digest: &Digest) -> io::Result<bool> {
        let Some(_unused) = Lock::try_take(&self.used(digest))? else { return Ok(false) };
        remove(&self.blob(digest)).map(|()| true)
    }
}

fn modified(metadata: &Metadata) -> SystemTime {
    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
