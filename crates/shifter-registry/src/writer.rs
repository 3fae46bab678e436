//! The disk side of a download: writes, hashes, verifies and publishes one blob on a thread of its own.
//!
//! The network side sends blocks over a bounded channel, so memory stays small and neither waits for the other
//! needlessly. A name under `DIR/sha256/` without a dot exists only for bytes that were verified and flushed. What a
//! broken or cancelled transfer brought (the channel closes without `Finish`) stays for the next attempt; what turned
//! out wrong, or could not be written, is removed.

use crate::collect::SMALLEST_PARTIAL;
use crate::error::RegistryError;
use crate::hash::Hasher;
use crate::lock::Lock;
use crate::manifest::LayerDescriptor;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;

/// What the network side says.
pub(crate) enum Message {
    /// The next bytes.
    Block(Vec<u8>),
    /// Forget everything: the registry cannot resume.
    Restart,
    /// All bytes were sent.
    Finish,
}

/// One state of one file: if it is the same later, the file was not changed in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Identity {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The part of a blob that has come, on disk and digested; in a file that only the holder of the blob's lock opens.
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    written: u64,
    /// Whether it is worth keeping when it is dropped.
    fate: Fate,
}

#[derive(PartialEq, Eq)]
enum Fate {
    /// As far as is known these are the first bytes of the blob.
    Resumable,
    /// These are not.
    Useless,
    /// It has its final name.
    Published,
}

impl Partial {
    /// Takes up what an earlier attempt left at `path`, or begins anew where that is nothing, is more than the blob,
    /// or `afresh` says so. Reads what is there.
    pub(crate) fn open(path: &Path, layer: &LayerDescriptor, afresh: bool) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if afresh || !metadata.is_file() || metadata.len() > layer.size => {
                std::fs::remove_file(path)?;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut hasher = Hasher::new(layer.digest.algorithm());
        let written = hasher.read_all(&mut file)?;
        Ok(Self { file, path: path.to_owned(), hasher, written, fate: Fate::Resumable })
    }

    /// Bytes that are there.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let keep = self.fate == Fate::Resumable && self.written >= SMALLEST_PARTIAL;
        if !keep && self.fate != Fate::Published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Adds what comes over `receiver` to `partial`, verifies it against `layer` and renames it to `target` in the same
/// directory. Holds `lock` until the end. `None`: cancelled by the other side.
pub(crate) fn write(
    receiver: Receiver<Message>,
    lock: Arc<Lock>,
    mut partial: Partial,
    target: &Path,
    layer: &LayerDescriptor,
    operation: &str,
) -> Result<Option<Identity>, RegistryError> {
    let outcome = receive(receiver, &mut partial, target, layer, operation);
    if outcome.is_err() && partial.fate == Fate::Resumable {
        partial.fate = Fate::Useless;
    }
    // In this order: the file is nobody else's as long as the lock is held.
    drop(partial);
    drop(lock);
    outcome
}

fn receive(
    mut receiver: Receiver<Message>,
    partial: &mut Partial,
    target: &Path,
    layer: &LayerDescriptor,
    operation: &str,
) -> Result<Option<Identity>, RegistryError> {
    let fail =
        |source: io::Error| RegistryError::Cache { operation: "write blob", path: target.to_owned(), source };
    let afresh = || Hasher::new(layer.digest.algorithm());
    loop {
        match receiver.blocking_recv() {
            Some(Message::Block(block)) => {
                partial.file.write_all(&block).map_err(fail)?;
                partial.hasher.update(&block);
                partial.written += block.len() as u64;
            }
            Some(Message::Restart) => {
                partial.file.set_len(0).map_err(fail)?;
                partial.file.rewind().map_err(fail)?;
                partial.hasher = afresh();
                partial.written = 0;
            }
            Some(Message::Finish) => break,
            None => return Ok(None),
        }
    }
    if partial.written != layer.size {
        let (operation, actual) = (operation.to_owned(), partial.written);
        return Err(RegistryError::SizeMismatch { operation, expected: layer.size, actual });
    }
    let expected = layer.digest.to_string();
    let actual = std::mem::replace(&mut partial.hasher, afresh()).finish();
    if expected != actual {
        return Err(RegistryError::DigestMismatch { operation: operation.to_owned(), expected, actual });
    }
    partial.file.sync_all().map_err(fail)?;
    std::fs::rename(&partial.path, target).map_err(fail)?;
    partial.fate = Fate::Published;
    if let Some(directory) = target.parent() {
        File::open(directory).and_then(|d| d.sync_all()).map_err(fail)?;
    }
    // After the rename, which changes ctime.
    Ok(Some(Identity::of(&partial.file.metadata().map_err(fail)?)))
}
