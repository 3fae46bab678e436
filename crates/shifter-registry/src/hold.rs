//! Who uses a blob: as long as somebody does, it is not collected.
//!
//! Each blob has a small file beside the blobs, `DIR/used/ALGORITHM-HEX`. Who uses the blob holds a shared flock(2)
//! on it; who wants to remove the blob needs an exclusive one. The kernel releases both however their holder dies,
//! and both work between processes. The file's time of modification says when the blob was last taken.

use crate::lock::Lock;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A use of one blob, which need not exist yet.
#[derive(Debug)]
pub(crate) struct Hold {
    file: File,
    path: PathBuf,
    blob: PathBuf,
}

impl Hold {
    /// Takes a hold of `blob` by `path`; `None` if it is being removed just now.
    pub(crate) fn try_take(path: &Path, blob: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Who removes a blob removes this file, too: what was locked must still have the name.
        let locked = file.metadata()?;
        match std::fs::symlink_metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        file.set_modified(SystemTime::now())?;
        Ok(Some(Self { file, path: path.to_owned(), blob: blob.to_owned() }))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.blob).is_err() {
            // There is no blob after all, so nothing that the file could speak of, unless others wait for it.
            let _ = self.file.unlock();
            drop(Lock::try_take(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_in_use_cannot_be_removed_and_what_is_being_removed_not_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let (path, blob) = (dir.path().join("used"), dir.path().join("blob"));
        std::fs::write(&blob, "x").unwrap();
        let one = Hold::try_take(&path, &blob).unwrap();
        let two = Hold::try_take(&path, &blob).unwrap();
        assert!(one.is_some() && two.is_some());
        drop(one);
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(two);
        assert!(path.exists());
        let removing = Lock::try_take(&path).unwrap();
        assert!(removing.is_some() && Hold::try_take(&path, &blob).unwrap().is_none());
        drop(removing);
        assert!(!path.exists());
    }

    #[test]
    fn a_hold_of_nothing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, blob) = (dir.path().join("used"), dir.path().join("blob"));
        let (one, two) = (Hold::try_take(&path, &blob).unwrap(), Hold::try_take(&path, &blob).unwrap());
        drop(one);
        assert!(path.exists());
        drop(two);
        assert!(!path.exists());
    }
}
