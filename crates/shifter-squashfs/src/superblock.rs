//! The superblock of a squashfs 4.0 image (Documentation/filesystems/squashfs.rst in the Linux source;
//! fs/squashfs/squashfs_fs.h): enough to tell a complete image from anything else. Not a validator for
//! foreign images.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::SuperblockError;

const MAGIC: u32 = 0x7371_7368;
const SUPERBLOCK_BYTES: usize = 96;

/// The fields that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Inodes in the image; a file with several names counts once.
    pub inodes: u32,
    /// Bytes of a data block.
    pub block_size: u32,
    /// The compressor's number: 1 gzip, 4 xz, 5 lz4, 6 zstd.
    pub compressor: u16,
    /// Bytes of the image without padding.
    pub bytes_used: u64,
}

impl Superblock {
    /// Reads the superblock of an open image and checks magic, version and that the file is long enough.
    pub fn read(image: &File) -> Result<Self, SuperblockError> {
        let present = image.metadata()?.len();
        let mut bytes = [0; SUPERBLOCK_BYTES];
        if present < SUPERBLOCK_BYTES as u64 {
            return Err(SuperblockError::Truncated { needed: SUPERBLOCK_BYTES as u64, present });
        }
        image.read_exact_at(&mut bytes, 0)?;
        if u32::from_le_bytes(array(&bytes, 0)) != MAGIC {
            return Err(SuperblockError::Magic);
        }
        let version = (u16::from_le_bytes(array(&bytes, 28)), u16::from_le_bytes(array(&bytes, 30)));
        if version != (4, 0) {
            return Err(SuperblockError::Version(version.0, version.1));
        }
        let needed = u64::from_le_bytes(array(&bytes, 40));
        if needed > present {
            return Err(SuperblockError::Truncated { needed, present });
        }
        Ok(Self {
            inodes: u32::from_le_bytes(array(&bytes, 4)),
            block_size: u32::from_le_bytes(array(&bytes, 12)),
            compressor: u16::from_le_bytes(array(&bytes, 20)),
            bytes_used: needed,
        })
    }
}

fn array<const N: usize>(bytes: &[u8; SUPERBLOCK_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|offset| bytes.get(at + offset).copied().unwrap_or(0))
}
