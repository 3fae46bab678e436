//! The blob cache: a directory of verified layers, `DIR/sha256/HEX`, shared by all pulls and processes.
//!
//! Rules: a file has its final name only after its size and digest were verified and it was flushed to disk. A
//! file found there is trusted without reading only if this process verified it and it has not changed since
//! (device, inode, size, ctime); otherwise its digest is computed again, once per process, which costs a
//! sequential read and is cheap beside the conversion that follows. One blob is fetched once at a time: within a
//! process the later caller waits for the earlier, between processes an flock decides. If the earlier one fails,
//! the later one tries with its own credentials. What is not here: size limits and collection of old blobs, which
//! the gateway does by removing files; an open file survives that.

use crate::client::Client;
use crate::download::{Download, Stop};
use crate::error::RegistryError;
use crate::hash::Hasher;
use crate::lock::Lock;
use crate::manifest::LayerDescriptor;
use crate::writer::{self, Identity};
use shifter_core::digest::{Algorithm, Digest};
use std::collections::HashMap;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Pause between looks at a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(100);
/// Blocks on their way from network to disk; with 256 KiB each, the memory of one download.
const QUEUE: usize = 8;

/// A directory of verified blobs. Shared by reference among any number of tasks.
#[derive(Debug)]
pub struct BlobCache {
    dir: PathBuf,
    verified: Arc<Mutex<HashMap<Digest, Identity>>>,
    turns: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// How far the fetch of one blob has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes received so far; falls to zero where a registry cannot resume.
    pub received: u64,
    /// Bytes in all.
    pub total: u64,
    /// Whether the blob lay in the cache already.
    pub cached: bool,
}

/// What lies under a blob's name.
enum Found {
    Nothing,
    /// Verified, with its size.
    Good(u64),
}

impl BlobCache {
    /// Opens or creates the cache in `dir`, readable by its owner alone, and removes what killed downloads left.
    pub fn open(dir: &Path) -> Result<Self, RegistryError> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let path = dir.join(algorithm.name());
            let fail =
                |source| RegistryError::Cache { operation: "open blob cache", path: path.clone(), source };
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fail)?;
            let metadata = std::fs::symlink_metadata(&path).map_err(fail)?;
            if !metadata.is_dir() {
                return Err(fail(io::ErrorKind::NotADirectory.into()));
            }
            // Who can write here could exchange a blob after its verification.
            if metadata.permissions().mode() & 0o022 != 0 {
                let mode = metadata.permissions().mode() & 0o755;
                std::fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(fail)?;
            }
            sweep(&path).map_err(fail)?;
        }
        Ok(Self { dir: dir.to_owned(), verified: Arc::default(), turns: Mutex::default() })
    }

    /// Where the blob `digest` lies once it was fetched.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.algorithm().name()).join(digest.hex())
    }

    /// The verified file of `layer`: from the cache, or downloaded from `repository`. `progress` is called often
    /// and must not block. Dropping the future ends the download and leaves nothing behind.
    pub async fn fetch(
        &self,
        client: &Client,
        repository: &str,
        layer: &LayerDescriptor,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<PathBuf, RegistryError> {
        let name = client.transport.base.repository(repository)?;
        let operation = client.operation("fetch layer", repository, &layer.digest.to_string());
        let target = self.path(&layer.digest);
        let turn = self.turn(&layer.digest);
        let _turn = turn.lock().await;
        if self.known(&layer.digest, layer.size) {
            progress(Progress { received: layer.size, total: layer.size, cached: true });
            return Ok(target);
        }
        let lock = self.lock(&layer.digest).await?;
        if let Found::Good(size) = self.examine(&layer.digest).await? {
            if size != layer.size {
                return Err(RegistryError::SizeMismatch { operation, expected: layer.size, actual: size });
            }
            progress(Progress { received: layer.size, total: layer.size, cached: true });
            return Ok(target);
        }
        progress(Progress { received: 0, total: layer.size, cached: false });
        let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
        let temporary = self.beside(&layer.digest, "partial");
        let disk = {
            let (target, layer, operation) = (target.clone(), layer.clone(), operation.clone());
            tokio::task::spawn_blocking(move || {
                writer::write(receiver, lock, temporary, &target, &layer, &operation)
            })
        };
        let network = Download::new(client, &name, layer, &operation, sender, progress).run().await;
        // The channel is closed now, so the disk side ends, and its temporary is gone before we return.
        let disk = disk.await.unwrap_or_else(|e| Err(self.broken_task(&target, e)));
        if let Err(Stop::Failed(error)) = network {
            return Err(error);
        }
        match disk? {
            Some(identity) => {
                self.verified().insert(layer.digest.clone(), identity);
                Ok(target)
            }
            None => Err(self.broken_task(&target, "the download was given up")),
        }
    }

    /// The in-process turn for one blob.
    fn turn(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(digest.clone(), Arc::downgrade(&turn));
        turn
    }

    /// Waits until no other process fetches this blob.
    async fn lock(&self, digest: &Digest) -> Result<Lock, RegistryError> {
        let path = self.beside(digest, "lock");
        loop {
            let taken = Lock::try_take(&path);
            let fail = |source| RegistryError::Cache { operation: "lock blob", path: path.clone(), source };
            if let Some(lock) = taken.map_err(fail)? {
                return Ok(lock);
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    /// Whether this process verified the file, and it is unchanged and of the size wanted.
    fn known(&self, digest: &Digest, size: u64) -> bool {
        let Ok(metadata) = std::fs::symlink_metadata(self.path(digest)) else { return false };
        metadata.is_file()
            && metadata.len() == size
            && self.verified().get(digest) == Some(&Identity::of(&metadata))
    }

    /// Verifies what lies under the blob's name; removes it if it is not that blob. Call with the lock held.
    async fn examine(&self, digest: &Digest) -> Result<Found, RegistryError> {
        let (path, wanted, verified) = (self.path(digest), digest.clone(), Arc::clone(&self.verified));
        let task = tokio::task::spawn_blocking(move || {
            let metadata = match std::fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
                Err(e) => return Err(e),
            };
            if metadata.is_file() {
                let mut file = File::open(&path)?;
                let identity = Identity::of(&file.metadata()?);
                if hash(&mut file, wanted.algorithm())? == wanted.to_string() {
                    verified.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted, identity);
                    return Ok(Found::Good(metadata.len()));
                }
            }
            tracing::warn!(path = %path.display(), "removing a damaged blob from the cache");
            std::fs::remove_file(&path)?;
            Ok(Found::Nothing)
        });
        let path = self.path(digest);
        let outcome = task.await.map_err(|e| self.broken_task(&path, e))?;
        outcome.map_err(|source| RegistryError::Cache { operation: "verify blob", path, source })
    }

    fn beside(&self, digest: &Digest, suffix: &str) -> PathBuf {
        self.dir.join(digest.algorithm().name()).join(format!(".{}.{suffix}", digest.hex()))
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Identity>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken_task(&self, path: &Path, cause: impl std::fmt::Display) -> RegistryError {
        let source = io::Error::other(cause.to_string());
        RegistryError::Cache { operation: "write blob", path: path.to_owned(), source }
    }
}

fn hash(file: &mut File, algorithm: Algorithm) -> io::Result<String> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        match buffer.get(..count) {
            Some([]) | None => return Ok(hasher.finish()),
            Some(bytes) => hasher.update(bytes),
        }
    }
}

/// Removes temporaries whose writers are gone: those whose lock is free.
fn sweep(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(stem) = name.to_str().and_then(|n| n.strip_prefix('.')) else { continue };
        let Some(hex) = stem.strip_suffix(".partial").or(stem.strip_suffix(".lock")) else { continue };
        if let Some(_lock) = Lock::try_take(&dir.join(format!(".{hex}.lock")))? {
            match std::fs::remove_file(dir.join(format!(".{hex}.partial"))) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}
