//! Temporaries without a name: what is kept aside until it is known whether the image needs it. All of a
//! writer's together stay under one limit. Nothing here is flushed to disk.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::WriteError;
use super::image::{Append, Image};

/// A directory for unlinked temporaries, and how many bytes they may have together.
#[derive(Clone, Debug)]
pub struct SpoolDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    limit: u64,
    used: AtomicU64,
    names: AtomicU64,
}

impl SpoolDir {
    /// The directory must exist and be writable by us alone; `limit` is in bytes.
    pub fn new(path: impl AsRef<Path>, limit: u64) -> Self {
        let path = path.as_ref().to_owned();
        Self(Arc::new(Inner { path, limit, used: AtomicU64::new(0), names: AtomicU64::new(0) }))
    }

    /// Bytes that temporaries hold now.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    fn error(&self, operation: &'static str) -> impl FnOnce(std::io::Error) -> WriteError {
        let directory = self.0.path.clone();
        move |source| WriteError::Spool { operation, directory, source }
    }

    fn take(&self, bytes: u64) -> Result<(), WriteError> {
        let full = || WriteError::SpoolFull { directory: self.0.path.clone(), limit: self.0.limit };
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.0.limit);
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map(|_| ()).map_err(|_| full())
    }

    fn give_back(&self, bytes: u64) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn open(&self) -> Result<File, WriteError> {
        loop {
            let number = self.0.names.fetch_add(1, Ordering::Relaxed);
            let path = self.0.path.join(format!(".squashfs-{}-{number}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    std::fs::remove_file(&path).map_err(self.error("unlink"))?;
                    return Ok(file);
                }
                // Left by a process of the same number that was killed between the two calls.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(self.error("create")(error)),
            }
        }
    }
}

/// One temporary, appended to and read anywhere.
pub(super) struct SpoolFile {
    directory: SpoolDir,
    file: File,
    length: u64,
    charged: u64,
}

impl SpoolFile {
    pub(super) fn create(directory: &SpoolDir) -> Result<Self, WriteError> {
        Ok(Self { directory: directory.clone(), file: directory.open()?, length: 0, charged: 0 })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Appends zeros that take no space.
    pub(super) fn append_hole(&mut self, bytes: u64) {
        self.length += bytes;
    }

    /// Reads what was appended, holes as zeros.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), WriteError> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                // Beyond the last byte written there can only be a hole.
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.directory.error("read")(error)),
            }
        }
        Ok(())
    }

    /// Appends everything to the image.
    pub(super) fn copy_to(&mut self, image: &mut Image) -> Result<(), WriteError> {
        self.file.seek(SeekFrom::Start(0)).map_err(self.directory.error("rewind"))?;
        image.copy_from(&self.file, self.length)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) -> Result<(), WriteError> {
        self.file.set_len(0).map_err(self.directory.error("empty"))?;
        self.directory.give_back(self.charged);
        (self.length, self.charged) = (0, 0);
        Ok(())
    }
}

impl Append for SpoolFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.directory.take(bytes.len() as u64)?;
        self.charged += bytes.len() as u64;
        self.file.write_all_at(bytes, self.length).map_err(self.directory.error("write"))?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.directory.give_back(self.charged);
    }
}

/// Stored blocks of a file that may turn out to be in the image already: in memory while they are few.
pub(super) struct Hold {
    directory: SpoolDir,
    memory: Vec<u8>,
    spilled: Option<SpoolFile>,
}

/// Bytes of a file kept in memory before a temporary is made.
const HOLD_IN_MEMORY: usize = 1 << 20;

impl Hold {
    pub(super) fn new(directory: &SpoolDir) -> Self {
        Self { directory: directory.clone(), memory: Vec::new(), spilled: None }
    }

    /// Copies everything into the image, and forgets it.
    pub(super) fn keep(&mut self, image: &mut Image) -> Result<(), WriteError> {
        if let Some(file) = &mut self.spilled {
            file.copy_to(image)?;
        }
        image.append(&self.memory)?;
        self.forget()
    }

    pub(super) fn forget(&mut self) -> Result<(), WriteError> {
        self.memory.clear();
        self.spilled.as_mut().map_or(Ok(()), SpoolFile::clear)
    }
}

impl Append for Hold {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if self.memory.len() + bytes.len() > HOLD_IN_MEMORY {
            let file = match &mut self.spilled {
                Some(file) => file,
                None => self.spilled.insert(SpoolFile::create(&self.directory)?),
            };
            file.append(&self.memory)?;
            self.memory.clear();
        }
        self.memory.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn temporaries_have_no_name_and_one_limit() {
        let place = tempfile::tempdir().unwrap();
        let directory = SpoolDir::new(place.path(), 100);
        let mut one = SpoolFile::create(&directory).unwrap();
        let mut two = SpoolFile::create(&directory).unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        one.append(&[7; 60]).unwrap();
        two.append(&[8; 40]).unwrap();
        let refused = two.append(&[9; 1]).unwrap_err().to_string();
        assert!(refused.contains("would need more than 100 bytes"), "{refused}");
        one.clear().unwrap();
        two.append(&[9; 60]).unwrap();
        drop(two);
        assert_eq!(directory.used(), 0);
    }

    #[test]
    fn holes_read_as_zeros_and_cost_nothing() {
        let place = tempfile::tempdir().unwrap();
        let directory = SpoolDir::new(place.path(), 10);
        let mut file = SpoolFile::create(&directory).unwrap();
        file.append(b"ab").unwrap();
        file.append_hole(1 << 40);
        file.append(b"cd").unwrap();
        file.append_hole(100);
        let mut bytes = [1; 8];
        file.read_at(&mut bytes, (1 << 40) - 2).unwrap();
        assert_eq!(bytes, *b"\0\0\0\0cd\0\0");
        assert_eq!((file.length(), directory.used()), ((1 << 40) + 104, 4));
    }
}
