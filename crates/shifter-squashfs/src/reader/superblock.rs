//! The first 96 bytes: what the image says of itself, each field checked as far as it can be alone.

use super::codec::Codec;
use super::error::{Part, Place, Problem, ReadError};
use super::limits::Limits;
use super::source::Source;

/// Bytes of the superblock.
pub(super) const SUPERBLOCK_BYTES: u64 = BYTES as u64;
const BYTES: usize = 96;
const MAGIC: u32 = 0x7371_7368;
/// A table that is not there.
const NO_TABLE: u64 = u64::MAX;

/// The superblock's fields that are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    pub(super) inodes: u32,
    pub(super) modified: u32,
    pub(super) block_size: u32,
    pub(super) fragments: u32,
    pub(super) codec: Codec,
    pub(super) ids: u16,
    pub(super) root: u64,
    pub(super) length: u64,
    pub(super) id_table: u64,
    pub(super) xattr_table: Option<u64>,
    pub(super) inode_table: u64,
    pub(super) directory_table: u64,
    pub(super) fragment_table: u64,
    pub(super) export_table: Option<u64>,
}

/// An error about the superblock's field at this byte.
pub(super) fn refuse(byte: u64, problem: Problem) -> ReadError {
    ReadError::new(Place::at(Part::Superblock, byte), problem)
}

fn field(byte: u64, field: &'static str, found: u64, rule: &'static str) -> ReadError {
    refuse(byte, Problem::Field { field, found, rule })
}

impl Superblock {
    pub(super) fn read<S: Source>(source: &S, limits: &Limits) -> Result<Self, ReadError> {
        let unreadable = |source| refuse(0, Problem::Read(source));
        let present = source.length().map_err(unreadable)?;
        if present < SUPERBLOCK_BYTES {
            let what = "the superblock";
            return Err(refuse(0, Problem::Truncated { what, end: SUPERBLOCK_BYTES, present }));
        }
        let mut bytes = [0; BYTES];
        source.read_exact_at(&mut bytes, 0).map_err(unreadable)?;
        let superblock = Self::parse(&bytes, limits)?;
        if superblock.length > present {
            let what = "the image";
            return Err(refuse(40, Problem::Truncated { what, end: superblock.length, present }));
        }
        Ok(superblock)
    }

    fn parse(bytes: &[u8; BYTES], limits: &Limits) -> Result<Self, ReadError> {
        let (u16, u32, u64) = (
            |at| u16::from_le_bytes(array(bytes, at)),
            |at| u32::from_le_bytes(array(bytes, at)),
            |at| u64::from_le_bytes(array(bytes, at)),
        );
        if u32(0) != MAGIC {
            return Err(refuse(0, Problem::Magic));
        }
        if (u16(28), u16(30)) != (4, 0) {
            return Err(refuse(28, Problem::Version(u16(28), u16(30))));
        }
        let inodes = u32(4);
        if inodes == 0 {
            return Err(field(4, "the number of inodes", 0, "there is at least the root"));
        }
        let fragments = u32(16);
        for (byte, what, found) in [
            (4, "inodes that the superblock counts", inodes),
            (16, "fragments that the superblock counts", fragments),
        ] {
            let found = u64::from(found);
            if found > limits.entries {
                return Err(refuse(byte, Problem::Limit { what, found, limit: limits.entries }));
            }
        }
        let block_size = u32(12);
        if !block_size.is_power_of_two() || !(4096..=1 << 20).contains(&block_size) {
            let rule = "it must be a power of two from 4096 to 1048576";
            return Err(field(12, "the block size", u64::from(block_size), rule));
        }
        if u32::from(u16(22)) != block_size.trailing_zeros() {
            let (field, other) = ("the block size's logarithm", "that of the block size itself");
            let (found, expected) = (u64::from(u16(22)), u64::from(block_size.trailing_zeros()));
            return Err(refuse(22, Problem::Disagrees { field, found, other, expected }));
        }
        let codec = Codec::from_number(u16(20)).map_err(|name| match name {
            Some(name) => refuse(20, Problem::Compressor(name)),
            None => field(20, "the compressor", u64::from(u16(20)), "squashfs 4.0 knows 1 to 6"),
        })?;
        let ids = u16(26);
        if ids == 0 {
            return Err(field(26, "the number of ids", 0, "there is at least the root's owner"));
        }
        let length = u64(40);
        if length < SUPERBLOCK_BYTES {
            return Err(field(40, "the image's length", length, "the superblock alone has 96 bytes"));
        }
        Ok(Self {
            inodes,
            modified: u32(8),
            block_size,
            fragments,
            codec,
            ids,
            root: u64(32),
            length,
            id_table: u64(48),
            xattr_table: Some(u64(56)).filter(|start| *start != NO_TABLE),
            inode_table: u64(64),
            directory_table: u64(72),
            fragment_table: u64(80),
            export_table: Some(u64(88)).filter(|start| *start != NO_TABLE),
        })
    }
}

/// Little-endian bytes; `at` is a constant offset within the superblock.
fn array<const N: usize>(bytes: &[u8; BYTES], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
