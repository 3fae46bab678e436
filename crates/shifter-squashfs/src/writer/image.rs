//! The image file: appended to from front to back, the superblock put in front at the very end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use super::error::WriteError;

/// Bytes of the superblock.
pub(super) const SUPERBLOCK_BYTES: usize = 96;
/// Images end at a multiple of this, so that loop devices see all of them.
const PADDING: u64 = 4096;

/// Something that grows at its end.
pub(super) trait Append {
    /// Adds the bytes at the end.
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError>;
}

/// The image being written.
pub(super) struct Image {
    file: File,
    position: u64,
}

impl Image {
    /// Takes over an empty file and leaves room for the superblock.
    pub(super) fn new(file: File) -> Result<Self, WriteError> {
        let length = file.metadata().map_err(WriteError::image("look at"))?.len();
        if length != 0 {
            return Err(WriteError::NotEmpty(length));
        }
        let mut image = Self { file, position: 0 };
        image.append(&[0; SUPERBLOCK_BYTES])?;
        Ok(image)
    }

    /// Bytes so far, which is where the next ones will be.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Appends the next `length` bytes of a file, by `copy_file_range(2)` where the system can.
    pub(super) fn copy_from(&mut self, source: &File, length: u64) -> Result<(), WriteError> {
        let copied = std::io::copy(&mut source.take(length), &mut self.file);
        let copied = copied.map_err(WriteError::image("copy into"))?;
        if copied != length {
            let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(WriteError::image("copy into")(short));
        }
        self.position += length;
        Ok(())
    }

    /// Pads, puts the superblock in front and waits until all is on disk.
    pub(super) fn finish(self, superblock: &[u8; SUPERBLOCK_BYTES]) -> Result<(), WriteError> {
        let padded = self.position.next_multiple_of(PADDING);
        self.file.set_len(padded).map_err(WriteError::image("pad"))?;
        self.file.write_all_at(superblock, 0).map_err(WriteError::image("write the superblock of"))?;
        self.file.sync_all().map_err(WriteError::image("flush"))
    }
}

impl Append for Image {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.file.write_all(bytes).map_err(WriteError::image("write"))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
