//! The disk side of a download: writes, hashes, verifies and publishes one blob on a thread of its own.
//!
//! The network side sends blocks over a bounded channel, so memory stays small and neither waits for the other
//! needlessly. Whatever goes wrong, cancellation included (the channel closes without `Finish`), the temporary is
//! removed; a name under `DIR/sha256/` exists only for bytes that were verified and flushed.

use crate::error::RegistryError;
use crate::hash::Hasher;
use crate::lock::Lock;
use crate::manifest::LayerDescriptor;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
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

/// A temporary that is removed unless it was published.
struct Temporary {
    path: PathBuf,
    published: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes what comes over `receiver` to `temporary`, verifies it against `layer` and renames it to `target` in
/// the same directory. Holds `lock` until the end. `None`: cancelled by the other side.
pub(crate) fn write(
    mut receiver: Receiver<Message>,
    lock: Lock,
    temporary: PathBuf,
    target: &Path,
    layer: &LayerDescriptor,
    operation: &str,
) -> Result<Option<Identity>, RegistryError> {
    let fail =
        |source: io::Error| RegistryError::Cache { operation: "write blob", path: target.to_owned(), source };
    // Ours by the lock: what a killed process left under this name is overwritten.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let mut file = file.map_err(fail)?;
    let mut temporary = Temporary { path: temporary, published: false };
    let mut hasher = Hasher::new(layer.digest.algorithm());
    let mut written = 0u64;
    loop {
        match receiver.blocking_recv() {
            Some(Message::Block(block)) => {
                file.write_all(&block).map_err(fail)?;
                hasher.update(&block);
                written += block.len() as u64;
            }
            Some(Message::Restart) => {
                file.set_len(0).map_err(fail)?;
                file.rewind().map_err(fail)?;
                hasher = Hasher::new(layer.digest.algorithm());
                written = 0;
            }
            Some(Message::Finish) => break,
            None => return Ok(None),
        }
    }
    if written != layer.size {
        let operation = operation.to_owned();
        return Err(RegistryError::SizeMismatch { operation, expected: layer.size, actual: written });
    }
    let (expected, actual) = (layer.digest.to_string(), hasher.finish());
    if expected != actual {
        return Err(RegistryError::DigestMismatch { operation: operation.to_owned(), expected, actual });
    }
    file.sync_all().map_err(fail)?;
    std::fs::rename(&temporary.path, target).map_err(fail)?;
    temporary.published = true;
    if let Some(directory) = target.parent() {
        File::open(directory).and_then(|d| d.sync_all()).map_err(fail)?;
    }
    // After the rename, which changes ctime.
    let identity = Identity::of(&file.metadata().map_err(fail)?);
    drop(lock);
    Ok(Some(identity))
}
