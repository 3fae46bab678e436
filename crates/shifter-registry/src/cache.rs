//! The blob cache: a directory of verified layers, `DIR/sha256/HEX`, shared by all pulls and processes.
//!
//! Rules: a file has its final name only after its size and digest were verified and it was flushed to disk. A
//! file found there is trusted without reading only if this process verified it and it has not changed since
//! (device, inode, size, ctime); otherwise its digest is computed again, once per process, which costs a
//! sequential read and is cheap beside the conversion that follows. One blob is fetched once at a time: within a
//! process the later caller waits for the earlier, between processes an flock decides. If the earlier one fails,
//! the later one tries with its own credentials. What broke off is taken up where it ended, by whoever comes next;
//! if the whole then has the wrong digest, it is fetched once more from its first byte. What lies where, and what goes
//! when it becomes too much, is in `collect`; who uses a blob in `hold`.

use crate::client::Client;
use crate::collect::{Collected, Contents, Layout};
use crate::download::{Download, Stop};
use crate::error::RegistryError;
use crate::hash::Hasher;
use crate::hold::Hold;
use crate::lock::Lock;
use crate::manifest::LayerDescriptor;
use crate::writer::{self, Identity, Partial};
use shifter_core::digest::{Algorithm, Digest};
use std::collections::HashMap;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Pause between looks at a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(100);
/// Pause while a blob is being removed.
const HOLD_POLL: Duration = Duration::from_millis(5);
/// Blocks on their way from network to disk; with 256 KiB each, the memory of one download.
const QUEUE: usize = 8;

/// A directory of verified blobs. Shared by reference among any number of tasks.
#[derive(Debug)]
pub struct BlobCache {
    dir: PathBuf,
    layout: Layout,
    limit: Option<u64>,
    /// Bytes that downloads under way will have in the end.
    reserved: Arc<AtomicU64>,
    verified: Arc<Mutex<HashMap<Digest, Identity>>>,
    turns: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// A verified blob in the cache, which is not collected as long as this exists.
#[derive(Debug)]
pub struct Blob {
    path: PathBuf,
    _hold: Hold,
}

impl Blob {
    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// How far the fetch of one blob has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes received so far, by earlier attempts, too; falls to zero where a registry cannot resume.
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

/// A download as asked for, with the lock that makes it the only one of its blob.
struct Job<'a> {
    client: &'a Client,
    repository: &'a str,
    layer: &'a LayerDescriptor,
    operation: &'a str,
    progress: &'a (dyn Fn(Progress) + Sync),
    lock: Arc<Lock>,
}

/// Whose bytes may be part of a download.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// Those of earlier attempts, mirrors and the registry.
    Anywhere,
    /// The registry's alone.
    Origin,
}

/// Bytes that a download will need; given back when it ended.
struct Reservation {
    size: u64,
    total: Arc<AtomicU64>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.total.fetch_sub(self.size, Ordering::SeqCst);
    }
}

impl BlobCache {
    /// Opens or creates the cache in `dir`, readable by its owner alone, and tidies up after killed processes:
    /// afterwards there are verified blobs and unfinished downloads worth taking up, a bounded number of them.
    pub fn open(dir: &Path) -> Result<Self, RegistryError> {
        let layout = Layout::new(dir);
        for path in [layout.blobs(Algorithm::Sha256), layout.blobs(Algorithm::Sha512), layout.uses()] {
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
        }
        layout.sweep().map_err(|source| RegistryError::Cache {
            operation: "tidy blob cache",
            path: dir.to_owned(),
            source,
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            layout,
            limit: None,
            reserved: Arc::default(),
            verified: Arc::default(),
            turns: Mutex::default(),
        })
    }

    /// Keeps the cache at `bytes` at most, by removing what was not used for the longest time before something new
    /// is downloaded. What jobs hold stays, also where that alone is more.
    pub fn limited_to(self, bytes: u64) -> Self {
        Self { limit: Some(bytes), ..self }
    }

    /// Where the blob `digest` lies once it was fetched.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.layout.blob(digest)
    }

    /// All blobs and unfinished downloads, the longest unused first.
    pub async fn contents(&self) -> Result<Contents, RegistryError> {
        self.look("list blob cache", Layout::contents).await
    }

    /// Removes what was unused for the longest time until at most `limit` bytes are left, or only what jobs hold.
    pub async fn collect(&self, limit: u64) -> Result<Collected, RegistryError> {
        let collected = self.look("collect blob cache", move |layout| layout.collect(limit)).await?;
        let mut verified = self.verified();
        collected.removed.iter().for_each(|digest| {
            verified.remove(digest);
        });
        Ok(collected)
    }

    /// The verified file of `layer`: downloaded from `repository`, or from the cache, where the registry has to agree if
    /// it knows who may have what: a manifest can name a layer that its author may not read. `progress` is called often
    /// and must not block. The blob is not collected as long as what is returned exists. Dropping the future ends
    /// the download; what came of it is taken up again by the next.
    pub async fn fetch(
        &self,
        client: &Client,
        repository: &str,
        layer: &LayerDescriptor,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Blob, RegistryError> {
        let (blob, was_here) = self.obtain(client, repository, layer, progress).await?;
        if was_here {
            client.may_have(repository, layer).await?;
            progress(Progress { received: layer.size, total: layer.size, cached: true });
        }
        Ok(blob)
    }

    /// The file of `layer`, and whether all of it lay here already.
    async fn obtain(
        &self,
        client: &Client,
        repository: &str,
        layer: &LayerDescriptor,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(Blob, bool), RegistryError> {
        let operation = client.operation("fetch layer", repository, &layer.digest.to_string());
        let hold = self.hold(&layer.digest).await?;
        let turn = self.turn(&layer.digest);
        let _turn = turn.lock().await;
        let blob = Blob { path: self.path(&layer.digest), _hold: hold };
        if self.known(&layer.digest, layer.size) {
            return Ok((blob, true));
        }
        let lock = Arc::new(self.lock(&layer.digest).await?);
        if let Found::Good(size) = self.examine(&layer.digest).await? {
            if size != layer.size {
                return Err(RegistryError::SizeMismatch { operation, expected: layer.size, actual: size });
            }
            return Ok((blob, true));
        }
        let _reserved = self.make_room(layer.size).await;
        let job = Job { client, repository, layer, operation: &operation, progress, lock };
        let identity = match self.download(&job, From::Anywhere).await {
            // Some of it came from an earlier attempt or from a mirror: what the registry sends itself may be right.
            Err((error, true)) if error.is_mismatch() => {
                tracing::warn!(%error, "downloading it again from the registry itself");
                self.download(&job, From::Origin).await
            }
            outcome => outcome,
        };
        let (identity, asked) = identity.map_err(|(error, _)| error)?;
        self.verified().insert(layer.digest.clone(), identity);
        Ok((blob, !asked))
    }

    /// One download from the first byte that is missing, and whether there was any. An error says whether bytes of
    /// others were involved.
    async fn download(&self, job: &Job<'_>, from: From) -> Result<(Identity, bool), (RegistryError, bool)> {
        let (layer, digest) = (job.layer.clone(), &job.layer.digest);
        let (path, target) = (self.layout.partial(digest), self.path(digest));
        let afresh = from == From::Origin;
        let tries = match from {
            From::Anywhere => job.client.tries(job.repository),
            From::Origin => job.client.tries_without_mirrors(job.repository),
        };
        let tries = tries.map_err(|error| (error, false))?;
        let partial = self.look("open blob", move |_| Partial::open(&path, &layer, afresh)).await;
        let partial = partial.map_err(|error| (error, false))?;
        let start = partial.written();
        let tainted = !afresh && (start > 0 || job.client.has_mirrors());
        (job.progress)(Progress { received: start, total: job.layer.size, cached: false });
        let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
        let disk = {
            let (target, layer, operation) = (target.clone(), job.layer.clone(), job.operation.to_owned());
            let lock = Arc::clone(&job.lock);
            tokio::task::spawn_blocking(move || {
                writer::write(receiver, lock, partial, &target, &layer, &operation)
            })
        };
        let settings = job.client.settings();
        let network =
            Download::new(tries, settings, job.layer, job.operation, sender, job.progress, start).run().await;
        // The channel is closed now, so the disk side ends before we return.
        let disk = disk.await.unwrap_or_else(|e| Err(self.broken_task(&target, e)));
        if let Err(Stop::Failed(error)) = network {
            return Err((error, tainted));
        }
        match disk {
            Ok(Some(identity)) => Ok((identity, start < job.layer.size || start == 0)),
            Ok(None) => Err((self.broken_task(&target, "the download was given up"), false)),
            Err(error) => Err((error, tainted)),
        }
    }

    /// Makes room for `size` more bytes, as far as the limit and jobs demand and allow.
    async fn make_room(&self, size: u64) -> Reservation {
        let reservation = Reservation { size, total: Arc::clone(&self.reserved) };
        let reserved = self.reserved.fetch_add(size, Ordering::SeqCst).saturating_add(size);
        if let Some(limit) = self.limit {
            // Without room the download fails by itself, and says so; with too little of it, it may still succeed.
            match self.collect(limit.saturating_sub(reserved)).await {
                Ok(collected) if collected.freed > 0 => {
                    tracing::info!(freed = collected.freed, left = collected.left, "blob cache collected");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the blob cache is not collected"),
            }
        }
        reservation
    }

    /// Says that the blob is used; waits while it is being removed.
    async fn hold(&self, digest: &Digest) -> Result<Hold, RegistryError> {
        let (path, blob) = (self.layout.used(digest), self.path(digest));
        loop {
            let taken = Hold::try_take(&path, &blob);
            let fail = |source| RegistryError::Cache { operation: "hold blob", path: path.clone(), source };
            if let Some(hold) = taken.map_err(fail)? {
                return Ok(hold);
            }
            tokio::time::sleep(HOLD_POLL).await;
        }
    }

    /// Does `work` on the directory, away from the threads that serve requests.
    async fn look<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Layout) -> io::Result<T> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let layout = self.layout.clone();
        let task = tokio::task::spawn_blocking(move || work(&layout));
        let outcome = task.await.unwrap_or_else(|e| Err(io::Error::other(e.to_string())));
        outcome.map_err(|source| RegistryError::Cache { operation, path: self.dir.clone(), source })
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
        let path = self.layout.lock(digest);
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
                let mut hasher = Hasher::new(wanted.algorithm());
                hasher.read_all(&mut file)?;
                if hasher.finish() == wanted.to_string() {
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

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Identity>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken_task(&self, path: &Path, cause: impl std::fmt::Display) -> RegistryError {
        let source = io::Error::other(cause.to_string());
        RegistryError::Cache { operation: "write blob", path: path.to_owned(), source }
    }
}
