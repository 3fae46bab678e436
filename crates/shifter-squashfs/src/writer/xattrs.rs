//! Extended attributes: each different set of them is written once; inodes hold its number.

use std::collections::HashMap;

use super::duplicates::{Digest, content_digest};
use super::encoder::Encoder;
use super::error::WriteError;
use super::image::Image;
use super::inode::ABSENT;
use super::metadata::{MetadataWriter, append_table};
use super::spool::{SpoolDir, SpoolFile};

/// Prefixes that squashfs has a number for: the number is the place.
const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// XATTR_NAME_MAX and XATTR_SIZE_MAX of linux/limits.h.
const LONGEST_NAME: usize = 255;
const LARGEST_VALUE: usize = 65_536;

/// The sets so far.
#[derive(Default)]
pub(super) struct Xattrs {
    pairs: Option<MetadataWriter<SpoolFile>>,
    /// A set's place, its number of attributes and its bytes.
    sets: Vec<(u64, u32, u32)>,
    known: HashMap<Digest, u32>,
}

impl Xattrs {
    /// The number of a set, [`ABSENT`] for none.
    pub(super) fn number(
        &mut self,
        xattrs: &[(&[u8], &[u8])],
        encoder: &Encoder,
        spool: &SpoolDir,
    ) -> Result<u32, WriteError> {
        if xattrs.is_empty() {
            return Ok(ABSENT);
        }
        let mut pairs = Vec::new();
        for (name, value) in xattrs {
            put_pair(&mut pairs, name, value)?;
        }
        let digest = content_digest(&pairs);
        if let Some(number) = self.known.get(&digest) {
            return Ok(*number);
        }
        let limit = |_| WriteError::Limit { what: "extended attributes", limit: u64::from(u32::MAX) };
        let number = u32::try_from(self.sets.len()).map_err(limit)?;
        let count = u32::try_from(xattrs.len()).map_err(limit)?;
        let size = u32::try_from(pairs.len()).map_err(limit)?;
        let table = match &mut self.pairs {
            Some(table) => table,
            None => self.pairs.insert(MetadataWriter::new(SpoolFile::create(spool)?, encoder)?),
        };
        let place = table.place();
        table.write(&pairs)?;
        self.sets.push((place.block << 16 | u64::from(place.offset), count, size));
        self.known.insert(digest, number);
        Ok(number)
    }

    /// Appends the tables. Where the superblock points to, if there are any.
    pub(super) fn finish(
        self,
        mut image: Image,
        encoder: &Encoder,
    ) -> Result<(Image, Option<u64>), WriteError> {
        let Some(pairs) = self.pairs else { return Ok((image, None)) };
        let start = image.position();
        let (mut spool, _) = pairs.finish()?;
        spool.copy_to(&mut image)?;
        let mut entries = Vec::with_capacity(self.sets.len() * 16);
        for (place, count, size) in &self.sets {
            entries.extend_from_slice(&place.to_le_bytes());
            entries.extend_from_slice(&count.to_le_bytes());
            entries.extend_from_slice(&size.to_le_bytes());
        }
        let mut header = start.to_le_bytes().to_vec();
        header.extend_from_slice(&(self.sets.len() as u64).to_le_bytes());
        let (image, table) = append_table(image, encoder, &entries, &header)?;
        Ok((image, Some(table)))
    }
}

fn put_pair(pairs: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), WriteError> {
    let error = |reason| WriteError::Xattr { name: name.to_owned(), reason };
    let found = (0_u16..).zip(PREFIXES).find_map(|(kind, prefix)| Some((kind, name.strip_prefix(prefix)?)));
    let (kind, rest) = found.ok_or_else(|| error("squashfs has user., trusted. and security. only"))?;
    if rest.is_empty() || name.len() > LONGEST_NAME || name.contains(&0) {
        return Err(error("names have 1 to 255 bytes and no zero bytes"));
    }
    if value.len() > LARGEST_VALUE {
        return Err(error("values have up to 65536 bytes"));
    }
    pairs.extend_from_slice(&kind.to_le_bytes());
    pairs.extend_from_slice(&u16::try_from(rest.len()).unwrap_or(u16::MAX).to_le_bytes());
    pairs.extend_from_slice(rest);
    pairs.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    pairs.extend_from_slice(value);
    Ok(())
}
